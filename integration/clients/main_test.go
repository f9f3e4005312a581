// Package clients has the tests with programs that others wrote: the flatpak
// command, gdbus, busctl, the installed tests of xdg-desktop-portal, GTK and
// libportal. They run as they are; what they print and what it did is compared
// with what docportal answers when asked on the bus.
package clients

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"docportal/integration/session"
	"docportal/integration/session/sessiontest"
)

// TestMain is the ordinary user's, or the stand-in for the document portal
// that the installed tests start (portal_test.go).
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == portalWord {
		os.Exit(portal())
	}
	os.Exit(sessiontest.Main("../..", m.Run))
}

const (
	appA = "org.docportal.TestA"
	appB = "org.docportal.TestB"

	documentsName = "org.freedesktop.portal.Documents"
	documentsPath = "/org/freedesktop/portal/documents"
	transferName  = "org.freedesktop.portal.FileTransfer"
	storeName     = "org.freedesktop.impl.portal.PermissionStore"
	storePath     = "/org/freedesktop/impl/portal/PermissionStore"
)

// answerLimit is the time in which a program must have done its work.
const answerLimit = time.Minute

// desktop is a session with a connection of its own.
type desktop struct {
	*testing.T
	*session.Session
	conn *dbus.Conn
	left []string // directories to remove when the session's processes have ended
}

// start starts a session that ends with the test, which fails if the session
// leaves anything behind.
func start(t *testing.T) *desktop {
	t.Helper()
	d := &desktop{T: t}
	t.Cleanup(func() {
		for _, dir := range d.left {
			if err := os.RemoveAll(dir); err != nil {
				t.Error(err)
			}
		}
	})
	s := sessiontest.Start(t, session.Options{})
	conn, err := s.Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	d.Session, d.conn = s, conn
	return d
}

// file makes a file in the home directory and returns its path.
func (d *desktop) file(name, text string) string {
	d.Helper()
	path := filepath.Join(d.Home, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		d.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		d.Fatal(err)
	}
	return path
}

// output is what a program printed, its error messages included.
type output struct {
	text string
	err  error
}

// try runs a program of the session to its end.
func (d *desktop) try(name string, args ...string) output {
	d.Helper()
	return d.end(d.Command(name, args...))
}

func (d *desktop) end(cmd *exec.Cmd) output {
	d.Helper()
	return d.endWithin(answerLimit, cmd)
}

func (d *desktop) endWithin(limit time.Duration, cmd *exec.Cmd) output {
	d.Helper()
	// A file, not a pipe: what the program leaves behind must not keep us
	// waiting for its output.
	out, err := os.CreateTemp(d.TempDir(), "output")
	if err != nil {
		d.Fatal(err)
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	if err := d.Start(cmd); err != nil {
		d.Fatal(err)
	}
	late := time.AfterFunc(limit, func() { cmd.Process.Kill() })
	defer late.Stop()
	err = cmd.Wait()
	text, readErr := os.ReadFile(out.Name())
	if readErr != nil {
		d.Fatal(readErr)
	}
	return output{strings.TrimRight(string(text), "\n"), err}
}

// run runs a program that succeeds and returns what it printed.
func (d *desktop) run(name string, args ...string) string {
	d.Helper()
	o := d.try(name, args...)
	if o.err != nil {
		d.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), o.err, o.text)
	}
	return o.text
}

// fails runs a program that fails with exit status 1 and a message.
func (d *desktop) fails(message, name string, args ...string) {
	d.Helper()
	o := d.try(name, args...)
	if o.err == nil || o.err.Error() != "exit status 1" || !strings.Contains(o.text, message) {
		d.Errorf("%s %s: %v\n%s\nwant exit status 1 and %q", name, strings.Join(args, " "), o.err, o.text, message)
	}
}

// call makes a call to one of the two services and stores the reply in out.
func (d *desktop) call(iface, method string, args []any, out ...any) error {
	name, path := documentsName, dbus.ObjectPath(documentsPath)
	if iface == storeName {
		name, path = storeName, storePath
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerLimit)
	defer cancel()
	c := d.conn.Object(name, path).CallWithContext(ctx, iface+"."+method, 0, args...)
	if c.Err != nil || len(out) == 0 {
		return c.Err
	}
	return c.Store(out...)
}

// ask makes a call that succeeds.
func (d *desktop) ask(iface, method string, args []any, out ...any) {
	d.Helper()
	if err := d.call(iface, method, args, out...); err != nil {
		d.Fatalf("%s%v: %v", method, args, err)
	}
}

// mount asks for the mount point.
func (d *desktop) mount() string {
	d.Helper()
	var path []byte
	d.ask(documentsName, "GetMountPoint", nil, &path)
	return host(path)
}

// host is a path as it comes over the bus.
func host(path []byte) string { return strings.TrimSuffix(string(path), "\x00") }

// info asks for the path of a document and for the apps' permissions on it.
func (d *desktop) info(id string) (string, map[string][]string) {
	d.Helper()
	var path []byte
	var apps map[string][]string
	d.ask(documentsName, "Info", []any{id}, &path, &apps)
	for _, words := range apps {
		slices.Sort(words)
	}
	return host(path), apps
}

// wantDocument checks what a document is and who has which permissions, the
// words of each app sorted.
func (d *desktop) wantDocument(id, path string, apps map[string][]string) {
	d.Helper()
	gotPath, got := d.info(id)
	if gotPath != path {
		d.Errorf("document %s is %s, want %s", id, gotPath, path)
	}
	if !maps.EqualFunc(got, apps, slices.Equal) {
		d.Errorf("the permissions on %s are %v, want %v", path, got, apps)
	}
}

// documents asks for all documents: id to host path.
func (d *desktop) documents(app string) map[string]string {
	d.Helper()
	var docs map[string][]byte
	d.ask(documentsName, "List", []any{app}, &docs)
	all := make(map[string]string)
	for id, path := range docs {
		all[id] = host(path)
	}
	return all
}

// add makes a document of a file, as a person's program, and returns its id.
func (d *desktop) add(file string, flags uint32, app string, permissions ...string) string {
	d.Helper()
	f, err := os.Open(file)
	if err != nil {
		d.Fatal(err)
	}
	defer f.Close()
	var ids []string
	var extra map[string]dbus.Variant
	d.ask(documentsName, "AddFull", []any{[]dbus.UnixFD{dbus.UnixFD(f.Fd())}, flags, app, permissions}, &ids, &extra)
	if len(ids) != 1 {
		d.Fatalf("AddFull gave %q, want one id", ids)
	}
	return ids[0]
}

// entry asks for an entry of the permission store; ok is false if there is none.
func (d *desktop) entry(table, id string) (apps map[string][]string, data dbus.Variant, ok bool) {
	d.Helper()
	err := d.call(storeName, "Lookup", []any{table, id}, &apps, &data)
	if e, is := err.(dbus.Error); is && e.Name == "org.freedesktop.portal.Error.NotFound" {
		return nil, data, false
	}
	if err != nil {
		d.Fatalf("Lookup %s %s: %v", table, id, err)
	}
	return apps, data, true
}

func wantEqual(t testing.TB, what string, got, want any) {
	t.Helper()
	if g, w := fmt.Sprintf("%q", got), fmt.Sprintf("%q", want); g != w {
		t.Errorf("%s:\n%s, want\n%s", what, g, w)
	}
}
