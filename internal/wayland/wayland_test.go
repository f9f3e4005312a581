package wayland_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"docportal/internal/wayland"
	"docportal/internal/wayland/waylandtest"
)

var id = wayland.Identity{Engine: "org.flatpak", App: "org.example.App", Instance: "sbx-00000001"}

// attach runs Attach against a compositor, with a socket of its own, and
// returns the path of the socket and what keeps it served.
func attach(t *testing.T, c *waylandtest.Compositor, id wayland.Identity) (path string, keep *os.File, err error) {
	t.Helper()
	// The names of tests make t.TempDir too long for a socket's path.
	dir, err := os.MkdirTemp("", "wayland")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	front, err := net.Listen("unix", filepath.Join(dir, "wayland-0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	go c.Serve(front)
	path = filepath.Join(dir, "app")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	listen, err := l.File()
	l.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer listen.Close()
	ended, keep, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { keep.Close() })
	defer ended.Close()
	conn, err := net.Dial("unix", front.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return path, keep, wayland.Attach(ctx, conn.(*net.UnixConn), listen, ended, id)
}

func TestClientsOfTheSocketAreTheApp(t *testing.T) {
	told := make(chan wayland.Identity, 1)
	c := &waylandtest.Compositor{
		Globals:  []string{"wl_compositor", wayland.ManagerInterface, "wl_shm"},
		Attached: func(id wayland.Identity) { told <- id },
	}
	path, keep, err := attach(t, c, id)
	if err != nil {
		t.Fatal(err)
	}
	if got := <-told; got != id {
		t.Errorf("the compositor was told %+v, want %+v", got, id)
	}
	globals, err := waylandtest.Globals(path, time.Second)
	if want := []string{"context org.flatpak org.example.App sbx-00000001"}; err != nil || !slices.Equal(globals, want) {
		t.Errorf("the app sees %q (%v), want %q", globals, err, want)
	}
	// It is served as long as the other end of the pipe is open.
	keep.Close()
	deadline := time.Now().Add(5 * time.Second)
	for {
		conn, err := net.Dial("unix", path)
		if err != nil {
			break
		}
		conn.Close()
		if time.Now().After(deadline) {
			t.Fatal("the socket is still served")
		}
		time.Sleep(time.Millisecond) // another process's listening has no event
	}
}

func TestACompositorWithoutSecurityContexts(t *testing.T) {
	for _, globals := range [][]string{nil, {"wl_compositor"}, {"wp_security_context_manager_v2", "wp_security_context_manager_v"}} {
		if _, _, err := attach(t, &waylandtest.Compositor{Globals: globals}, id); err != wayland.ErrNotSupported {
			t.Errorf("%q: %v, want ErrNotSupported", globals, err)
		}
	}
}

// Whatever else happens is an error, soon, and never "not supported".
func TestACompositorThatFails(t *testing.T) {
	message := func(object uint32, opcode uint16, body ...byte) []byte {
		b := wayland.NewMessage(object, opcode).Append(nil)
		b = append(b, body...)
		binary.NativeEndian.PutUint32(b[4:], uint32(len(b))<<16|uint32(opcode))
		return b
	}
	fatal := wayland.NewMessage(wayland.DisplayObject, wayland.DisplayError).Uint(4).Uint(1).String("nested").Append(nil)
	for _, c := range []struct {
		name string
		at   int // the sync that it answers wrongly
		with []byte
		want string
	}{
		{"hangs at once", 0, []byte{}, "does not answer"},
		{"hangs after the request", 1, []byte{}, "does not answer"},
		{"goes away at once", 0, nil, "ended the connection"},
		{"goes away after the request", 1, nil, "ended the connection"},
		{"refuses", 1, fatal, "nested"},
		{"refuses at once", 0, fatal, "nested"},
		{"an error with half a text", 1, message(1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 200, 0, 0, 0), "error 1"},
		{"a message shorter than its header", 0, []byte{1, 0, 0, 0, 0, 0, 4, 0}, "none"},
		{"a message of an odd length", 0, append([]byte{1, 0, 0, 0, 0, 0, 9, 0}, 0), "none"},
		{"an interface without a name", 0, message(2, 0, 1, 0, 0, 0), "none"},
		{"an interface of no length", 0, message(2, 0, 1, 0, 0, 0, 0, 0, 0, 0), "none"},
		{"an interface longer than its message", 0, message(2, 0, 1, 0, 0, 0, 255, 255, 255, 255, 'w', 0, 0, 0), "none"},
		{"an interface without its end", 0, message(2, 0, 1, 0, 0, 0, 4, 0, 0, 0, 'w', 'l', '_', 's'), "none"},
		{"never comes to an end", 0, bytes.Repeat(message(2, 1, 0, 0, 0, 0), 200_000), "the compositor: it "}, // ends, or its time is over
	} {
		t.Run(c.name, func(t *testing.T) {
			compositor := &waylandtest.Compositor{Globals: []string{wayland.ManagerInterface}}
			compositor.Answer = func(n int, right []byte) []byte {
				if n == c.at {
					return c.with
				}
				return right
			}
			before := time.Now()
			_, _, err := attach(t, compositor, id)
			if err == nil || errors.Is(err, wayland.ErrNotSupported) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if d := time.Since(before); d > 10*time.Second {
				t.Errorf("after %v", d)
			}
		})
	}
}

func TestIdentitiesThatCannotBeSaid(t *testing.T) {
	for _, bad := range []wayland.Identity{{}, {Engine: "e", App: "a"}, {Engine: "e", App: "a\x00b", Instance: "i"}} {
		if err := wayland.Attach(context.Background(), nil, nil, nil, bad); err == nil {
			t.Errorf("%+v was said", bad)
		}
	}
}

func FuzzReadMessage(f *testing.F) {
	f.Add(wayland.NewMessage(2, 0).Uint(1).String("wl_shm").Uint(1).Append(nil))
	f.Add([]byte{1, 0, 0, 0, 0, 0, 8, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		for {
			m, err := wayland.ReadMessage(r)
			if err != nil {
				return
			}
			m.ReadUint()
			if s, err := m.ReadString(); err == nil && strings.ContainsRune(s, 0) {
				t.Errorf("a NUL in %q", s)
			}
		}
	})
}
