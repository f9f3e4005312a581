package documents

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// proxied starts a client as an app behind a real xdg-dbus-proxy, which lives
// in a bwrap of its own with the app's metadata, as sandboxes have it: the
// portal sees the proxy, and the client sees nothing of the bus itself.
func (s *session) proxied(app string, more ...string) *sandbox {
	t := s.t
	t.Helper()
	metadata := "[Application]\nname=" + app + "\n\n[Instance]\ninstance-id=5678\nsession-bus-proxy=true\n"
	info, err := os.CreateTemp(s.dir, "info")
	if err != nil {
		t.Fatal(err)
	}
	defer info.Close()
	info.WriteString(metadata)
	info.Seek(0, io.SeekStart)
	dir, err := os.MkdirTemp(s.dir, "proxy")
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	bus := filepath.Join(s.dir, "bus")
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "bwrap",
		"--unshare-user", "--die-with-parent", "--new-session",
		"--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64",
		"--proc", "/proc", "--dev", "/dev", "--bind", bus, bus, "--bind", dir, dir, "--ro-bind-data", "3", "/.flatpak-info",
		"--", "xdg-dbus-proxy", "--fd=4", s.address, filepath.Join(dir, "bus"), "--filter",
		"--call="+Name+"=*", "--broadcast="+Name+"=@/org/freedesktop/portal/*")
	cmd.ExtraFiles = []*os.File{info, w}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err = cmd.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.Close() // it ends with its other end
		kill := time.AfterFunc(deadline, cancel)
		cmd.Wait()
		kill.Stop()
		cancel()
	})
	if _, err := r.Read(make([]byte, 1)); err != nil {
		t.Fatal("the proxy does not start: ", err)
	}
	return s.sandboxedAs(metadata, append([]string{
		"--ro-bind", "/dev/null", bus, "--bind", filepath.Join(dir, "bus"), "/proxy",
		"--setenv", "DBUS_SESSION_BUS_ADDRESS", "unix:path=/proxy"}, more...)...)
}

// TestEveryMethodThroughARealProxy calls each method of both interfaces as an
// app in a real sandbox behind a real proxy, as a second app that has nothing,
// and as the host: one subtest for each row of the specification's tables.
func TestEveryMethodThroughARealProxy(t *testing.T) {
	s := newSession(t, options{})
	a, b := s.proxied(appA, s.withDocuments(appA)...), s.proxied(appB)
	f := s.file("f", "text")
	const transfer = "org.freedesktop.portal.FileTransfer."
	covered := make(map[string]bool)
	row := func(method string, test func(t *testing.T)) {
		covered[method[strings.LastIndexByte(method, '.')+1:]] = true
		t.Run(method, func(t *testing.T) {
			old := s.t
			s.t, a.t, b.t = t, t, t
			defer func() { s.t, a.t, b.t = old, old, old }()
			test(t)
		})
	}
	add := func(by caller) string {
		s.t.Helper()
		return s.must(by, "Add", []open{{f, unix.O_RDWR}}, fdIndex(0), false, true)[0].(string)
	}
	row("GetMountPoint", func(t *testing.T) {
		for _, by := range []caller{s.host, a, b} {
			if got := s.must(by, "GetMountPoint", nil)[0].([]byte); string(got) != filepath.Join(s.runtime, "doc")+"\x00" {
				t.Errorf("%q", got)
			}
		}
	})
	row("Add", func(t *testing.T) {
		id := add(a)
		s.wantPermissions(id, map[string][]string{appA: {"read", "write", "grant-permissions", "delete"}})
		if got := see(a, filepath.Join(a.doc, id, "f")); got != "text" {
			t.Errorf("the app sees %q", got)
		}
	})
	row("AddNamed", func(t *testing.T) {
		s.refused(a, notAllowed, "AddNamed", []open{{Path: s.home}}, fdIndex(0), []byte("f"), false, true)
		s.must(s.host, "AddNamed", []open{{Path: s.home}}, fdIndex(0), []byte("f"), false, true)
	})
	row("AddFull", func(t *testing.T) {
		files := []open{{f, unix.O_RDWR}, {Path: f}}
		got := s.must(a, "AddFull", files, fdList{0, 1}, uint32(addReuse|addPersistent), appB, []string{"read"})
		ids, extra := got[0].([]string), got[1].(map[string]string)
		if len(ids) != 2 || ids[0] != ids[1] || extra["mountpoint"] != filepath.Join(s.runtime, "doc")+"\x00" {
			t.Error(got)
		}
		s.wantPermissions(ids[0], map[string][]string{appA: {"read", "write", "grant-permissions"}, appB: {"read"}})
		// As many descriptors as the bus lets a message have.
		many := slices.Repeat(files[1:], 16)
		list := fdList{}
		for i := range many {
			list = append(list, int32(i))
		}
		if ids := s.must(a, "AddFull", many, list, uint32(addPersistent), "", []string{})[0].([]string); len(ids) != 16 {
			t.Error(ids)
		}
		s.refused(a, invalidArgument, "AddFull", files, fdList{0}, uint32(16), "", []string{})
	})
	row("AddNamedFull", func(t *testing.T) {
		s.refused(a, notAllowed, "AddNamedFull", []open{{Path: s.home}}, fdIndex(0), []byte("f"), uint32(0), "", []string{})
		s.must(s.host, "AddNamedFull", []open{{Path: s.home}}, fdIndex(0), []byte("f"), uint32(0), "", []string{})
	})
	row("GrantPermissions", func(t *testing.T) {
		id := add(a)
		s.refused(b, notAllowed, "GrantPermissions", nil, id, appB, []string{"read"})
		s.must(a, "GrantPermissions", nil, id, appB, []string{"read"})
		s.wantPermissions(id, map[string][]string{appA: {"read", "write", "grant-permissions", "delete"}, appB: {"read"}})
		s.refused(a, notFound, "GrantPermissions", nil, "0123456789", appB, []string{"read"})
	})
	row("RevokePermissions", func(t *testing.T) {
		id := add(a)
		s.must(a, "GrantPermissions", nil, id, appB, []string{"read", "write"})
		s.refused(b, notAllowed, "RevokePermissions", nil, id, appA, []string{"write"})
		s.must(b, "RevokePermissions", nil, id, appB, []string{"write"}) // its own
		s.must(a, "RevokePermissions", nil, id, appA, []string{"write"})
		s.wantPermissions(id, map[string][]string{appA: {"read", "grant-permissions", "delete"}, appB: {"read"}})
	})
	row("Delete", func(t *testing.T) {
		id := add(a)
		s.refused(b, notAllowed, "Delete", nil, id)
		s.must(a, "Delete", nil, id)
		s.refused(a, notFound, "Delete", nil, id)
		if _, err := os.Stat(f); err != nil {
			t.Error("the file: ", err)
		}
	})
	row("Lookup", func(t *testing.T) {
		s.refused(a, notAllowed, "Lookup", nil, []byte(f))
		if s.must(s.host, "Lookup", nil, []byte(f))[0] == "" {
			t.Error("not found")
		}
	})
	row("Info", func(t *testing.T) {
		id := add(a)
		s.refused(a, notAllowed, "Info", nil, id)
		if got := s.hostPath(id); got != f+"\x00" {
			t.Errorf("%q", got)
		}
		s.refused(s.host, invalidArgument, "Info", nil, "0123456789")
	})
	row("List", func(t *testing.T) {
		s.refused(a, notAllowed, "List", nil, "")
		got := s.must(s.host, "List", nil, appA)[0].(map[string][]byte)
		for id, p := range s.must(s.host, "List", nil, "")[0].(map[string][]byte) {
			if _, ok := got[id]; ok != (s.permissions(id)[appA] != nil) || string(p) != s.hostPath(id) {
				t.Errorf("%s: %q, with the app: %v", id, p, ok)
			}
		}
	})
	row("GetHostPaths", func(t *testing.T) {
		id := add(a)
		want := map[string][]byte{id: []byte(f + "\x00")}
		if got := s.must(a, "GetHostPaths", nil, []string{id, "unknown"})[0]; !reflect.DeepEqual(got, want) {
			t.Errorf("%q", got)
		}
		if got := s.must(b, "GetHostPaths", nil, []string{id})[0].(map[string][]byte); len(got) != 0 {
			t.Errorf("another app: %q", got)
		}
	})
	row("version", func(t *testing.T) {
		for iface, want := range map[string]uint32{"Documents": 5, "FileTransfer": 1} {
			r := a.do(request{Method: "org.freedesktop.DBus.Properties.Get", Args: []any{"org.freedesktop.portal." + iface, "version"}})
			if r.Error != "" || r.Body[0] != any(want) {
				t.Error(iface, r)
			}
		}
	})
	start := func(by caller) string {
		s.t.Helper()
		return s.must(by, transfer+"StartTransfer", nil, map[string]bool{"autostop": false})[0].(string)
	}
	row("FileTransfer.StartTransfer", func(t *testing.T) {
		if k := start(a); len(k) < 32 || k == start(a) {
			t.Error(k)
		}
	})
	row("FileTransfer.AddFiles", func(t *testing.T) {
		k := start(a)
		s.must(a, transfer+"AddFiles", []open{{Path: f}}, k, fdList{0}, map[string]bool{})
		s.refused(b, accessDenied, transfer+"AddFiles", []open{{Path: f}}, k, fdList{0}, map[string]bool{})
	})
	row("FileTransfer.RetrieveFiles", func(t *testing.T) {
		k := start(a)
		s.must(a, transfer+"AddFiles", []open{{Path: f}}, k, fdList{0}, map[string]bool{})
		got := s.must(b, transfer+"RetrieveFiles", nil, k, map[string]bool{})[0].([]string)
		if len(got) != 1 || filepath.Base(got[0]) != "f" || !within(got[0], filepath.Join(s.runtime, "doc")) {
			t.Error(got)
		}
		if got := s.must(s.host, transfer+"RetrieveFiles", nil, k, map[string]bool{})[0]; !reflect.DeepEqual(got, []string{f}) {
			t.Error("the host: ", got)
		}
	})
	row("FileTransfer.StopTransfer", func(t *testing.T) {
		k := start(a)
		s.refused(b, accessDenied, transfer+"StopTransfer", nil, k)
		s.must(a, transfer+"StopTransfer", nil, k)
		s.refused(a, accessDenied, transfer+"StopTransfer", nil, k)
	})
	for _, m := range slices.Concat(s.docs.Interface().Methods, s.docs.FileTransfer().Methods) {
		if !covered[m.Name] {
			t.Error("no row for ", m.Name)
		}
	}
}
