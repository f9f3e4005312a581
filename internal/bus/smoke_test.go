package bus

import (
	"bufio"
	"context"
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"

	"docportal/internal/identity"
)

// startBus starts a dbus-daemon on a socket of its own.
func startBus(t testing.TB) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	cmd := exec.CommandContext(ctx, "dbus-daemon", "--session", "--nofork", "--print-address", "--address=unix:dir="+t.TempDir())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		cmd.Wait()
	})
	r := bufio.NewReader(out)
	line, err := r.ReadString('\n')
	if err != nil {
		t.Fatal("dbus-daemon says no address: ", err)
	}
	go io.Copy(io.Discard, r)
	return strings.TrimSpace(line)
}

func dial(t testing.TB, address string, o Options) *Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c, err := Dial(ctx, address, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func asHost(_ context.Context, name string) (*identity.Caller, error) {
	return &identity.Caller{Name: name}, nil
}

func TestSmoke(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	address := startBus(t)
	server := dial(t, address, Options{Identify: asHost})
	server.Export("/a/b", &Interface{Name: "a.b.C", Methods: []Method{{Name: "Echo", In: "sas", Out: "ass", Handle: func(_ context.Context, c *Call) ([]any, error) {
		var s string
		var l []string
		c.Scan(&s, &l)
		return []any{l, s}, nil
	}}}})
	if ok, err := server.RequestName(ctx, "a.b.C", DoNotQueue); !ok || err != nil {
		t.Fatal(ok, err)
	}
	client := dial(t, address, Options{})
	var l []string
	var s string
	if err := client.Call(ctx, "a.b.C", "/a/b", "a.b.C", "Echo", "sas", []any{"x", []string{"y", "z"}}, &l, &s); err != nil {
		t.Fatal(err)
	}
	if s != "x" || len(l) != 2 || l[1] != "z" {
		t.Fatal(l, s)
	}
	if err := client.Call(ctx, "a.b.C", "/a/b", "", "Introspect", "", nil, &s); err != nil {
		t.Fatal(err)
	}
	t.Log(s)
	creds, err := client.Credentials(ctx, server.UniqueName())
	t.Log(creds, err)
	err = client.Call(ctx, "a.b.C", "/a/b", "a.b.C", "Echo", "s", []any{"x"})
	t.Log(err)
	if err := client.Call(ctx, "a.b.C", "/x", "org.freedesktop.DBus.Peer", "Ping", "", nil); err != nil {
		t.Fatal(err)
	}
}
