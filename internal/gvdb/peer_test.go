package gvdb

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"docportal/internal/bus"

	"pgregory.net/rapid"
)

// peerProgram is the usual permission store (Debian: xdg-desktop-portal).
const peerProgram = "/usr/libexec/xdg-permission-store"

// peer is the usual permission store on a bus of its own.
type peer struct {
	t    *testing.T
	dir  string // of the tables
	conn *bus.Conn
	ctx  context.Context
}

const peerName = "org.freedesktop.impl.portal.PermissionStore"

// startPeer starts the usual permission store on tables that are there before
// it.
func startPeer(t *testing.T, tables map[string][]byte) *peer {
	for _, program := range []string{peerProgram, "dbus-daemon"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatal(err, " (scripts/setup test installs it)")
		}
	}
	home := t.TempDir()
	p := &peer{t: t, dir: filepath.Join(home, "flatpak", "db")}
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, b := range tables {
		if err := os.WriteFile(filepath.Join(p.dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	services := filepath.Join(home, "dbus-1", "services")
	if err := os.MkdirAll(services, 0o700); err != nil {
		t.Fatal(err)
	}
	service := "[D-BUS Service]\nName=" + peerName + "\nExec=" + peerProgram + "\n"
	if err := os.WriteFile(filepath.Join(services, peerName+".service"), []byte(service), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	p.ctx = ctx
	daemon := exec.CommandContext(ctx, "dbus-daemon", "--session", "--nofork", "--nopidfile", "--print-address",
		"--address=unix:path="+filepath.Join(home, "bus"))
	// The store keeps to its files and to the bus: no settings of the user's.
	daemon.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "XDG_DATA_HOME=" + home,
		"XDG_RUNTIME_DIR=" + home, "GSETTINGS_BACKEND=memory", "GIO_USE_VFS=local"}
	daemon.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := daemon.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // the store ends with its bus
		daemon.Process.Kill()
		daemon.Wait()
	})
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	if p.conn, err = bus.Dial(ctx, strings.TrimSpace(address), bus.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.conn.Close() })
	return p
}

func (p *peer) call(member, signature string, args []any, out ...any) error {
	return p.conn.Call(p.ctx, peerName, "/org/freedesktop/impl/portal/PermissionStore", peerName, member, signature, args, out...)
}

// compare fails the test unless the peer serves exactly these entries.
func (p *peer) compare(table string, want map[string]Entry) {
	p.t.Helper()
	var ids []string
	if err := p.call("List", "s", []any{table}, &ids); err != nil {
		p.t.Fatal(err)
	}
	slices.Sort(ids)
	if len(ids) != len(want) || len(slices.Compact(ids)) != len(want) {
		p.t.Errorf("%s: the peer lists %d ids, want %d", table, len(ids), len(want))
	}
	for id, e := range want {
		var got Entry
		if err := p.call("Lookup", "ss", []any{table, id}, &got.Permissions, &got.Data); err != nil {
			p.t.Errorf("%s %q: %v", table, id, err)
			continue
		}
		if got.Data.Signature != e.Data.Signature || !bytes.Equal(got.Data.Data, e.Data.Data) || !samePermissions(got.Permissions, e.Permissions) {
			p.t.Errorf("%s %q: the peer says %q %x %v\nwant %q %x %v", table, id, got.Data.Signature, got.Data.Data, got.Permissions,
				e.Data.Signature, e.Data.Data, e.Permissions)
		}
	}
}

// samePermissions compares what the peer says with what it should say: it
// keeps apps without words in its file but does not mention them.
func samePermissions(got, want map[string][]string) bool {
	want = maps.Clone(want)
	maps.DeleteFunc(want, func(_ string, words []string) bool { return len(words) == 0 })
	return maps.EqualFunc(got, want, slices.Equal)
}

// drawnTables are tables of all kinds of values, the same ones each time.
func drawnTables(n int) []map[string]Entry {
	gen := rapid.Custom(func(t *rapid.T) map[string]Entry { return drawnTable(t, 12) })
	var list []map[string]Entry
	for i := range n {
		m := gen.Example(i)
		for id, e := range m {
			// A descriptor's number means nothing without the descriptor; deep
			// values are refused by the peer's library on their way, not by
			// its file format.
			if e.Data.HasFD() {
				delete(m, id)
			}
		}
		list = append(list, m)
	}
	return list
}

// What is written is served by the usual permission store, value by value.
func TestPeerServesWhatIsWritten(t *testing.T) {
	want := map[string]map[string]Entry{"empty": {}, "placeholder": {}}
	for name, b := range fixtures(t) {
		want[strings.TrimSuffix(name, ".gvdb")] = parse(t, b).Entries
	}
	for i, m := range drawnTables(20) {
		want["drawn"+string(rune('a'+i))] = m
	}
	tables := make(map[string][]byte)
	for name, m := range want {
		tables[name] = mustEncode(t, m)
	}
	tables["placeholder"] = Placeholder()
	p := startPeer(t, tables)
	n := 0
	for name, m := range want {
		p.compare(name, m)
		n += len(m)
	}
	t.Logf("compared %d entries of %d tables", n, len(want))
	// It can go on with the files, too: it looks ids up and writes them anew.
	for _, name := range []string{"placeholder", "empty", "drawna"} {
		if err := p.call("SetPermission", "sbssas", []any{name, true, "new", "org.a.A", []string{"yes"}}); err != nil {
			t.Fatal(err)
		}
		want[name]["new"] = Entry{Data: y(), Permissions: map[string][]string{"org.a.A": {"yes"}}}
		p.compare(name, want[name])
		f := parse(t, p.written(name, func(f *File) bool { return len(f.Entries) == len(want[name]) }))
		if f.Placeholder || !reflect.DeepEqual(f.Entries, want[name]) {
			t.Errorf("%s: the peer wrote %+v, want %v", name, f, want[name])
		}
	}
}

// What the usual permission store writes is read, value by value.
func TestWhatThePeerWritesIsRead(t *testing.T) {
	p := startPeer(t, nil)
	n := 0
	for i, want := range drawnTables(20) {
		table := "drawn" + string(rune('a'+i))
		for id, e := range want {
			permissions := e.Permissions
			if permissions == nil {
				permissions = map[string][]string{}
			}
			if err := p.call("Set", "sbsa{sas}v", []any{table, true, id, permissions, e.Data}); err != nil {
				t.Fatalf("%q: %v", e.Data.Signature, err)
			}
			// What it has is what it says, however the call reached it.
			if err := p.call("Lookup", "ss", []any{table, id}, new(map[string][]string), &e.Data); err != nil {
				t.Fatal(err)
			}
			want[id] = e
		}
		n += len(want)
		b := p.written(table, func(f *File) bool { return len(f.Entries) == len(want) })
		f := parse(t, b)
		ours := mustEncode(t, want)
		for id, e := range want {
			if got := f.Entries[id]; !reflect.DeepEqual(got, e) {
				t.Errorf("%s %q: read %q %x %v\nwant %q %x %v", table, id, got.Data.Signature, got.Data.Data, got.Permissions,
					e.Data.Signature, e.Data.Data, e.Permissions)
			}
			if got, want := value(t, ours, id), value(t, b, id); !bytes.Equal(got, want) {
				t.Errorf("%s %q: wrote %x, the peer %x", table, id, got, want)
			}
		}
		if got, want := reverseIndex(t, ours), reverseIndex(t, b); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: the index is %v, want %v", table, got, want)
		}
	}
	t.Logf("compared %d entries", n)
}

// value is the serialized form of an entry.
func value(t *testing.T, file []byte, id string) []byte {
	t.Helper()
	for _, it := range items(t, file, mainTable) {
		if key, err := it.key(); err == nil && string(key) == id {
			b, err := slice(file, it.extent(), 8)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
	}
	t.Fatalf("no entry %q", id)
	return nil
}

// written waits until the peer's file of a table is as wanted: it replies
// first and writes behind.
func (p *peer) written(table string, done func(*File) bool) []byte {
	p.t.Helper()
	var err error
	for p.ctx.Err() == nil {
		var b []byte
		var f *File
		if b, err = os.ReadFile(filepath.Join(p.dir, table)); err == nil {
			if f, err = Parse(b); err == nil && done(f) {
				return b
			}
		}
		if err == nil {
			err = errors.New("not all entries are there")
		}
		// Any reply shows that its main loop went on; there is no event.
		if err := p.call("List", "s", []any{table}, new([]string)); err != nil {
			p.t.Fatal(err)
		}
	}
	p.t.Fatalf("%s: %v", table, err)
	return nil
}
