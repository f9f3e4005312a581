// Package store has the tests of the permission store as a client on the bus
// sees it: docportal as it is installed, its commands, and beside it the
// system's own xdg-permission-store, xdg-document-portal and flatpak on the
// same data. Nothing is played.
package store

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"docportal/integration/session/sessiontest"
	"docportal/internal/bus"
	"docportal/internal/documents"
	"docportal/internal/gvdb"
	"docportal/internal/gvdb/testdata"
	"docportal/internal/permstore"
	"docportal/internal/testsession"
)

// TestMain installs everything where an ordinary user can reach it, if that
// was not done by who called, and goes on as that user.
func TestMain(m *testing.M) {
	os.Exit(sessiontest.Main("../..", m.Run))
}

// long reports whether the tests may take their time.
func long() bool { return os.Getenv("DOCPORTAL_LONG") != "" }

// deadline is for everything that waits.
const deadline = 30 * time.Second

// The programs that serve a permission store, or documents.
const (
	peerStore  = "/usr/libexec/xdg-permission-store"
	peerPortal = "/usr/libexec/xdg-document-portal"
)

func docportal() string { return filepath.Join(os.Getenv("DOCPORTAL_STAGE"), "bin", "docportal") }

// home is a user's home with a session bus.
type home struct {
	t    testing.TB
	dir  string
	env  []string
	bus  *testsession.Bus
	conn *bus.Conn
}

func newHome(t testing.TB) *home {
	t.Helper()
	h := &home{t: t, dir: t.TempDir()}
	for _, d := range []string{"run", "data", "home", "share"} {
		must(t, os.Mkdir(filepath.Join(h.dir, d), 0o700))
	}
	// The bus also knows the system's own services: none is started by itself.
	for _, name := range []string{permstore.Name, documents.Name} {
		file := filepath.Join(h.dir, "share", "dbus-1", "services", name+".service")
		must(t, os.MkdirAll(filepath.Dir(file), 0o700))
		must(t, os.WriteFile(file, []byte("[D-BUS Service]\nName="+name+"\nExec=/bin/false\n"), 0o600))
	}
	h.env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + h.home(), "XDG_DATA_HOME=" + h.data(), "XDG_RUNTIME_DIR=" + filepath.Join(h.dir, "run"),
		"XDG_DATA_DIRS=" + filepath.Join(h.dir, "share"),
		"GSETTINGS_BACKEND=memory", "GIO_USE_VFS=local", "LANG=C.UTF-8",
	}
	h.bus = testsession.StartBus(t, h.dir, h.env...)
	h.env = append(h.env, "DBUS_SESSION_BUS_ADDRESS="+h.bus.Address)
	h.conn = h.dial()
	return h
}

func (h *home) home() string    { return filepath.Join(h.dir, "home") }
func (h *home) data() string    { return filepath.Join(h.dir, "data") }
func (h *home) flatpak() string { return filepath.Join(h.data(), "flatpak", "db") }
func (h *home) store() string   { return filepath.Join(h.data(), "docportal") }

func (h *home) dial() *bus.Conn {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	c, err := bus.Dial(ctx, h.bus.Address, bus.Options{})
	must(h.t, err)
	h.t.Cleanup(func() { c.Close() })
	return c
}

// process is a program that was started.
type process struct {
	t    testing.TB
	cmd  *exec.Cmd
	log  bytes.Buffer // what it said; to be read when it has ended
	done chan struct{}
}

// start starts a program and waits until it has a name.
func (h *home) start(name, program string, args ...string) *process {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	changes, err := h.conn.Subscribe(ctx, bus.Match{Member: "NameOwnerChanged"})
	must(h.t, err)
	defer changes.Close(ctx)
	p := &process{t: h.t, done: make(chan struct{})}
	p.cmd = exec.Command(program, args...)
	p.cmd.Env = h.env
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(h.t, p.cmd.Start())
	go func() {
		p.cmd.Wait()
		close(p.done)
	}()
	h.t.Cleanup(func() {
		if program == docportal() {
			p.stop(syscall.SIGTERM)
		} else { // how it ends is its own business
			p.stop(syscall.SIGKILL)
			exec.Command("fusermount3", "-u", "-z", "-q", filepath.Join(h.dir, "run/doc")).Run()
		}
		if h.t.Failed() {
			h.t.Logf("%s %v:\n%s", filepath.Base(program), args, &p.log)
		}
	})
	for !h.owned(name) {
		select {
		case <-changes.C:
		case <-p.done:
			h.t.Fatalf("%s ended:\n%s", program, &p.log)
		case <-ctx.Done():
			h.t.Fatal("nobody takes the name ", name)
		}
	}
	return p
}

func (h *home) daemon(args ...string) *process {
	h.t.Helper()
	return h.start(permstore.Name, docportal(), args...)
}

func (h *home) owned(name string) (owned bool) {
	h.t.Helper()
	const itself = "org.freedesktop.DBus"
	must(h.t, call(h.conn, itself, "/org/freedesktop/DBus", itself, "NameHasOwner", "s", []any{name}, &owned))
	return owned
}

// stop ends a process with a signal and returns its exit status, -1 if it was
// killed by it.
func (p *process) stop(s syscall.Signal) int {
	p.t.Helper()
	p.cmd.Process.Signal(s)
	select {
	case <-p.done:
	case <-time.After(deadline):
		p.t.Errorf("%s does not end", p.cmd.Path)
		p.cmd.Process.Kill()
		<-p.done
	}
	return p.cmd.ProcessState.ExitCode()
}

// run runs one of docportal's commands to its end.
func (h *home) run(args ...string) (stdout, stderr string, status int) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*deadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, docportal(), args...)
	cmd.Env, cmd.Dir = h.env, h.dir
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		h.t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// mustRun runs a command that has to end well.
func (h *home) mustRun(args ...string) string {
	h.t.Helper()
	out, errs, status := h.run(args...)
	if status != 0 || errs != "" {
		h.t.Fatalf("docportal %v: exit status %d\n%s%s", args, status, out, errs)
	}
	return out
}

func call(c *bus.Conn, name, path, iface, member, signature string, args []any, out ...any) error {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	return c.Call(ctx, name, path, iface, member, signature, args, out...)
}

// perm calls the permission store.
func perm(c *bus.Conn, member, signature string, args []any, out ...any) error {
	return call(c, permstore.Name, permstore.Path, permstore.Name, member, signature, args, out...)
}

// doc calls the document portal.
func doc(c *bus.Conn, member, signature string, args []any, out ...any) error {
	return call(c, documents.Name, documents.Path, documents.Name, member, signature, args, out...)
}

// errorName is the name of an error reply, "" for none.
func errorName(err error) string {
	var e *bus.Error
	if errors.As(err, &e) {
		return strings.TrimPrefix(e.Name, "org.freedesktop.portal.Error.")
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// entry and tables are what a store holds.
type (
	entry  = gvdb.Entry
	tables map[string]map[string]entry
)

func sameEntry(a, b entry) bool {
	return a.Data.Signature == b.Data.Signature && bytes.Equal(a.Data.Data, b.Data.Data) &&
		maps.EqualFunc(a.Permissions, b.Permissions, slices.Equal)
}

// write makes the files of tables.
func (m tables) write(t testing.TB, dir string) {
	t.Helper()
	must(t, os.MkdirAll(dir, 0o700))
	for table, entries := range m {
		b, err := gvdb.Encode(entries)
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, table), b, 0o600))
	}
}

// fixture is a database that the usual implementation wrote.
func fixture(t testing.TB, name string) []byte {
	t.Helper()
	b, err := testdata.Files.ReadFile(name)
	must(t, err)
	return b
}

// compare fails the test unless the store on the bus has exactly these tables,
// as List and Lookup say. Each entry is passed through want before.
func compare(t testing.TB, c *bus.Conn, m tables, want func(entry) entry) {
	t.Helper()
	for table, entries := range m {
		var ids []string
		must(t, perm(c, "List", "s", []any{table}, &ids))
		slices.Sort(ids)
		if due := slices.Sorted(maps.Keys(entries)); !slices.Equal(ids, due) {
			t.Errorf("table %s: %d ids, want %d", table, len(ids), len(due))
		}
		for id, e := range entries {
			var got entry
			if err := perm(c, "Lookup", "ss", []any{table, id}, &got.Permissions, &got.Data); err != nil {
				t.Errorf("table %s: %q: %v", table, id, err)
				continue
			}
			if want != nil {
				e = want(e)
			}
			if !sameEntry(got, e) {
				t.Errorf("table %s: %q: %v\nwant %v", table, id, got, e)
			}
		}
	}
}

// files is what a directory holds: names, types, contents.
func files(t testing.TB, dir string) map[string]string {
	t.Helper()
	m := make(map[string]string)
	must(t, filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		m[p] = d.Type().String()
		if d.Type().IsRegular() {
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			m[p] += string(b)
		}
		return nil
	}))
	return m
}

// addFiles makes or finds documents and returns their ids.
func addFiles(t testing.TB, c *bus.Conn, app string, words []string, paths ...string) []string {
	t.Helper()
	var list []*os.File
	var fds []bus.FD
	for i, p := range paths {
		f, err := os.Open(p)
		must(t, err)
		defer f.Close()
		list, fds = append(list, f), append(fds, bus.FD(i))
	}
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	const reuse, persistent = 1, 2
	var ids []string
	var extra map[string]bus.Value
	_, err := c.CallFiles(ctx, documents.Name, documents.Path, documents.Name, "AddFull", "ahusas",
		[]any{fds, uint32(reuse | persistent), app, words}, list, &ids, &extra)
	must(t, err)
	return ids
}

func mountPoint(t testing.TB, c *bus.Conn) string {
	t.Helper()
	var p []byte
	must(t, doc(c, "GetMountPoint", "", nil, &p))
	return strings.TrimSuffix(string(p), "\x00")
}
