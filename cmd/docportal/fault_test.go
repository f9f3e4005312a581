package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"docportal/internal/bus"
	"docportal/internal/doctor"
	"docportal/internal/documents"
	"docportal/internal/permstore"
	"docportal/internal/testdisk"
	"docportal/internal/testsession"

	"golang.org/x/sys/unix"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// failedWith checks that an error is Failed and says why.
func failedWith(t *testing.T, err error, why string) {
	t.Helper()
	var e *bus.Error
	if !errors.As(err, &e) || e.Name != "org.freedesktop.portal.Error.Failed" || !strings.Contains(e.Message, why) {
		t.Errorf("%v, want Failed and %q", err, why)
	}
}

// ask runs a command against the session and returns what it printed.
func (s *session) ask(c asking) string {
	s.t.Helper()
	s.t.Setenv("DBUS_SESSION_BUS_ADDRESS", s.bus.Address)
	var out, errs bytes.Buffer
	if code := askPortal(context.Background(), c, &out, &errs); code != 0 {
		s.t.Errorf("exit status %d: %s", code, errs.String())
	}
	return out.String()
}

// TestStartWithoutFUSE: what the mount needs is missing or not permitted. The
// caller is told what, the permission store works, status says why, and the next
// call mounts when it is there.
func TestStartWithoutFUSE(t *testing.T) {
	if !testdisk.MayMount(t) {
		return
	}
	cover := func(what, with string) func() error {
		return func() error { return unix.Mount(with, what, "", unix.MS_BIND, "") }
	}
	plain := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(plain, nil, 0o600))
	for name, fault := range map[string]struct {
		place string
		make  func() error
		why   string
	}{
		"no fusermount3": {"/usr/bin/fusermount3", cover("/usr/bin/fusermount3", plain), "fusermount3 is not installed"},
		"/dev/fuse is not permitted": {"/dev/fuse", func() error {
			return errors.Join(cover("/dev/fuse", "/dev/fuse")(), unix.Mount("", "/dev/fuse", "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_NODEV, ""))
		}, "/dev/fuse"},
		"no /dev/fuse": {"/dev", func() error { return emptyDev(t) }, "FUSE is not available"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSession(t)
			must(t, fault.make())
			undone := false
			undo := func() {
				if !undone {
					undone = true
					must(t, unix.Unmount(fault.place, unix.MNT_DETACH))
				}
			}
			defer undo()
			p := s.start(s.bus)
			s.owner(s.conn, permstore.Name, 0)
			start := time.Now()
			_, err := mountPoint(s.conn)
			failedWith(t, err, fault.why)
			if took := time.Since(start); took > testsession.Limit(2*time.Second) {
				t.Errorf("it took %v", took)
			}
			if _, err := listTable(s.conn); err != nil {
				t.Error("the permission store: ", err)
			}
			if out := s.ask(&statusCommand{}); !strings.Contains(out, "not mounted") || !strings.Contains(out, fault.why) {
				t.Errorf("status says %s", out)
			}
			undo()
			if _, err := os.ReadDir(s.mustMount(s.conn)); err != nil {
				t.Error(err)
			}
			p.cmd.Process.Signal(syscall.SIGTERM)
			if status := p.end(); status != 0 {
				t.Errorf("exit status %d", status)
			}
		})
	}
}

// emptyDev puts a /dev in place that has hardly anything.
func emptyDev(t *testing.T) error {
	old := filepath.Join(t.TempDir(), "dev")
	err := errors.Join(os.Mkdir(old, 0o700), unix.Mount("/dev", old, "", unix.MS_BIND|unix.MS_REC, ""),
		unix.Mount("tmpfs", "/dev", "tmpfs", 0, "mode=0755"))
	for _, name := range []string{"null", "zero", "urandom"} {
		p := filepath.Join("/dev", name)
		err = errors.Join(err, os.WriteFile(p, nil, 0o600), unix.Mount(filepath.Join(old, name), p, "", unix.MS_BIND, ""))
	}
	return errors.Join(err, unix.Unmount(old, unix.MNT_DETACH))
}

// TestPrivateMountNamespace: docportal runs where nobody sees what it mounts. It
// says so itself, and so does who asks.
func TestPrivateMountNamespace(t *testing.T) {
	if !testdisk.MayMount(t) {
		return
	}
	s := newSession(t)
	p := s.startWith(s.bus, &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Unshareflags: syscall.CLONE_NEWNS})
	s.owner(s.conn, permstore.Name, 0)
	s.mustMount(s.conn)
	if s.mounted() {
		t.Fatal("it is mounted here; this shows nothing")
	}
	const says = "a mount namespace of its own"
	s.await("status says so, and repeats the warning", func() bool { return strings.Count(s.ask(&statusCommand{}), says) == 2 })
	diagnose := func() string {
		t.Setenv("XDG_RUNTIME_DIR", s.runtime)
		var out bytes.Buffer
		doctor.Main(context.Background(), doctor.Options{Wait: deadline}, false, &out, os.Stderr)
		return out.String()
	}
	if out := diagnose(); !strings.Contains(out, says) {
		t.Errorf("doctor says %s", out)
	}
	p.cmd.Process.Signal(syscall.SIGTERM)
	if status := p.end(); status != 0 {
		t.Errorf("exit status %d", status)
	}
	if !strings.Contains(p.log.String(), says) {
		t.Errorf("the log says %s", p.log.String())
	}
	// And in the usual case nobody says so.
	s.start(s.bus)
	s.owner(s.conn, permstore.Name, 0)
	s.mustMount(s.conn)
	if out := s.ask(&statusCommand{}); strings.Contains(out, says) {
		t.Errorf("status says %s", out)
	}
	if out := diagnose(); strings.Contains(out, says) {
		t.Errorf("doctor says %s", out)
	}
}

// TestUserNamespace: docportal runs in a user namespace of its own, where
// fusermount3 may do nothing.
func TestUserNamespace(t *testing.T) {
	s := newSession(t)
	uid, gid := os.Getuid(), os.Getgid()
	p := s.startWith(s.bus, &syscall.SysProcAttr{
		Pdeathsig:   syscall.SIGKILL,
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}},
	})
	s.owner(s.conn, permstore.Name, 0)
	start := time.Now()
	_, err := mountPoint(s.conn)
	if err == nil {
		t.Error("it can mount; this shows nothing")
	}
	p.cmd.Process.Signal(syscall.SIGTERM)
	p.end()
	if !strings.Contains(p.log.String(), "a user namespace of its own") {
		t.Errorf("%v, and the log says %s", err, p.log.String())
	}
	if took := time.Since(start); took > testsession.Limit(2*time.Second) {
		t.Errorf("it took %v", took)
	}
}

// TestRuntimeDirectories: XDG_RUNTIME_DIR can be anywhere and be called anything.
func TestRuntimeDirectories(t *testing.T) {
	long := strings.Repeat(strings.Repeat("x", 200)+"/", 15)
	for name, c := range map[string]struct {
		dir, why string // below the session's; why it is refused, or ""
		prepare  func(dir string) error
	}{
		"spaces":    {dir: " a  b ", prepare: mkdir},
		"odd":       {dir: "a\nb\tc,d=e\\f\"g'h\x1b", prepare: mkdir},
		"not UTF-8": {dir: "a\xff\xfeb", prepare: mkdir},
		"long":      {dir: long, prepare: mkdir},
		"a link":    {dir: "link", prepare: func(dir string) error { return errors.Join(mkdir(dir+".real"), os.Symlink(dir+".real", dir)) }},
		"missing":   {dir: "missing", why: "no such file", prepare: func(string) error { return nil }},
		"a file":    {dir: "file", why: "not a directory", prepare: func(dir string) error { return os.WriteFile(dir, nil, 0o600) }},
		"read-only": {dir: "locked", why: "permission denied", prepare: func(dir string) error { return os.Mkdir(dir, 0o500) }},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSession(t)
			s.runtime = filepath.Join(s.dir, c.dir)
			must(t, c.prepare(s.runtime))
			p := s.start(s.bus)
			s.owner(s.conn, permstore.Name, 0)
			doc, err := mountPoint(s.conn)
			if c.why != "" {
				failedWith(t, err, c.why)
				return
			}
			if err != nil || doc != filepath.Join(s.runtime, "doc") {
				t.Fatalf("%q, %v", doc, err)
			}
			f := filepath.Join(s.dir, "f")
			must(t, os.WriteFile(f, []byte("text"), 0o600))
			if text, err := os.ReadFile(filepath.Join(doc, s.add(s.conn, f), "f")); err != nil || string(text) != "text" {
				t.Errorf("%q, %v", text, err)
			}
			p.cmd.Process.Signal(syscall.SIGTERM)
			if status := p.end(); status != 0 {
				t.Errorf("exit status %d", status)
			}
			if list, err := os.ReadDir(doc); err != nil || len(list) != 0 {
				t.Errorf("left are %v, %v", list, err)
			}
		})
	}
	t.Run("relative", func(t *testing.T) {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR=run", roleVariable+"=docportal")
		if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "XDG_RUNTIME_DIR is not an absolute path") {
			t.Errorf("%v, %s", err, out)
		}
	})
}

func mkdir(dir string) error { return os.MkdirAll(dir, 0o700) }

// TestTheRuntimeDirectoryIsRemoved, and comes back.
func TestTheRuntimeDirectoryIsRemoved(t *testing.T) {
	s := newSession(t)
	s.start(s.bus)
	s.owner(s.conn, permstore.Name, 0)
	doc := s.mustMount(s.conn)
	f := filepath.Join(s.dir, "f")
	must(t, os.WriteFile(f, []byte("text"), 0o600))
	id := s.add(s.conn, f)
	moved := s.runtime + ".moved"
	must(t, os.Rename(s.runtime, moved)) // the mount goes with it
	must(t, exec.Command("fusermount3", "-u", "-z", moved+"/doc").Run())
	must(t, os.RemoveAll(moved))
	s.await("the mount point is refused", func() bool { _, err := mountPoint(s.conn); return err != nil })
	_, err := mountPoint(s.conn)
	failedWith(t, err, "no such file")
	if _, err := listTable(s.conn); err != nil {
		t.Error("the permission store: ", err)
	}
	must(t, os.Mkdir(s.runtime, 0o700))
	if again := s.mustMount(s.conn); again != doc {
		t.Errorf("it is %s now", again)
	}
	if text, err := os.ReadFile(filepath.Join(doc, id, "f")); err != nil || string(text) != "text" {
		t.Errorf("%q, %v", text, err)
	}
}

// TestTheHomeIsReplaced under the daemon: what it has stays with the home that
// was moved away, and is there again when that is. Files that are gone are not
// there; nothing hangs.
func TestTheHomeIsReplaced(t *testing.T) {
	s := newSession(t)
	home := filepath.Join(s.dir, "home")
	s.data = filepath.Join(home, ".local/share")
	must(t, os.MkdirAll(s.data, 0o700))
	f := filepath.Join(home, "f")
	must(t, os.WriteFile(f, []byte("text"), 0o600))
	p := s.start(s.bus)
	s.owner(s.conn, permstore.Name, 0)
	doc := s.mustMount(s.conn)
	id := s.add(s.conn, f)
	must(t, os.Rename(home, home+".old"))
	must(t, os.MkdirAll(s.data, 0o700))
	must(t, os.WriteFile(f, []byte("another home's"), 0o600))
	// The document is that file, not whatever has its name.
	if text, err := os.ReadFile(filepath.Join(doc, id, "f")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%q, %v", text, err)
	}
	set := func(id string) error {
		return call(s.conn, permstore.Name, permstore.Path, permstore.Name, "SetPermission", "sbssas", []any{"t", true, id, "org.example.A", []string{"yes"}})
	}
	must(t, set("while away"))
	next := s.add(s.conn, f)
	if text, err := os.ReadFile(filepath.Join(doc, next, "f")); err != nil || string(text) != "another home's" {
		t.Errorf("%q, %v", text, err)
	}
	must(t, os.RemoveAll(home))
	must(t, os.Rename(home+".old", home))
	if text, err := os.ReadFile(filepath.Join(doc, id, "f")); err != nil || string(text) != "text" {
		t.Errorf("%q, %v", text, err)
	}
	p.cmd.Process.Signal(syscall.SIGTERM)
	p.end()
	p = s.start(s.bus)
	s.owner(s.conn, permstore.Name, 0)
	if ids, err := listTable(s.conn); err != nil || len(ids) != 2 {
		t.Errorf("%q, %v", ids, err)
	}
	if err := call(s.conn, permstore.Name, permstore.Path, permstore.Name, "GetPermission", "sss", []any{"t", "while away", "org.example.A"}, new([]string)); err != nil {
		t.Error("what was set while the home was away: ", err)
	}

	// Its store is removed, or another put in its place: what would go nowhere
	// is refused, what is known is told.
	s.mustMount(s.conn)
	must(t, os.RemoveAll(filepath.Join(s.data, "docportal")))
	err := set("after")
	failedWith(t, err, "was removed or replaced")
	if ids, err := listTable(s.conn); err != nil || len(ids) != 2 {
		t.Errorf("%q, %v", ids, err)
	}
	if text, err := os.ReadFile(filepath.Join(doc, id, "f")); err != nil || string(text) != "text" {
		t.Errorf("%q, %v", text, err)
	}
	s.start(s.bus, "--replace")
	p.end()
	s.owner(s.conn, permstore.Name, 0)
	must(t, set("anew"))
}

// TestTheServerHasNoMemory: it dies of it, and the next one goes on; nothing
// that was acknowledged is lost, and who asks is answered.
func TestTheServerHasNoMemory(t *testing.T) {
	s := newSession(t)
	p := s.start(s.bus)
	s.owner(s.conn, permstore.Name, 0)
	doc := s.mustMount(s.conn)
	var ids, files []string
	add := func() {
		f := filepath.Join(s.dir, fmt.Sprint("f", len(ids)))
		must(t, os.WriteFile(f, []byte("text"), 0o600))
		ids, files = append(ids, s.add(s.conn, f)), append(files, filepath.Base(f))
	}
	add()
	open, err := os.Open(filepath.Join(doc, ids[0], files[0]))
	must(t, err)
	defer open.Close()
	for range 2 {
		server := serverOf(p.cmd.Process.Pid)
		// Not a byte more than it has.
		must(t, unix.Prlimit(server, unix.RLIMIT_AS, &unix.Rlimit{Cur: 1 << 20, Max: 1 << 30}, nil))
		value := bus.Value{Signature: "ay", Data: append([]byte{0, 0, 64, 0}, make([]byte, 4<<20)...)}
		set := func(id string) error {
			return call(s.conn, permstore.Name, permstore.Path, permstore.Name, "Set", "sbsa{sas}v", []any{"t", true, id, map[string][]string{}, value})
		}
		var kept []string
		for n := 0; serverOf(p.cmd.Process.Pid) == server; n++ {
			if id := fmt.Sprint("big", server, n); set(id) == nil {
				kept = append(kept, id)
			}
			if n > 300 {
				t.Fatal("it never wants memory; this shows nothing")
			}
		}
		s.await("another server", func() bool { pid := serverOf(p.cmd.Process.Pid); return pid != 0 && pid != server })
		s.await("an answer", func() bool { _, err := mountPoint(s.conn); return err == nil })
		for _, id := range kept {
			if err := call(s.conn, permstore.Name, permstore.Path, permstore.Name, "Lookup", "ss", []any{"t", id}, new(map[string][]string), new(bus.Value)); err != nil {
				t.Errorf("%s: %v", id, err)
			}
		}
		b := make([]byte, 4)
		if _, err := open.ReadAt(b, 0); err != nil || string(b) != "text" {
			t.Errorf("what is open: %q, %v", b, err)
		}
		add()
		for i, id := range ids {
			if text, err := os.ReadFile(filepath.Join(doc, id, files[i])); err != nil || string(text) != "text" {
				t.Errorf("%q, %v", text, err)
			}
		}
	}
	p.cmd.Process.Signal(syscall.SIGTERM)
	if status := p.end(); status != 0 {
		t.Errorf("exit status %d", status)
	}
}

// TestTheServerHasNoDescriptors: what needs one is refused with the reason, what
// needs none is done, and with more of them everything is.
func TestTheServerHasNoDescriptors(t *testing.T) {
	s := newSession(t)
	p := s.start(s.bus)
	s.owner(s.conn, permstore.Name, 0)
	doc := s.mustMount(s.conn)
	f := filepath.Join(s.dir, "f")
	must(t, os.WriteFile(f, []byte("text"), 0o600))
	id := s.add(s.conn, f)
	open, err := os.Open(filepath.Join(doc, id, "f"))
	must(t, err)
	defer open.Close()
	server := serverOf(p.cmd.Process.Pid)
	var old unix.Rlimit
	must(t, unix.Prlimit(server, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1, Max: 1 << 10}, &old))
	f2 := filepath.Join(s.dir, "f2")
	must(t, os.WriteFile(f2, []byte("text"), 0o600))
	for range 3 {
		g, err := os.Open(f2)
		must(t, err)
		ctx, cancel := context.WithTimeout(context.Background(), deadline)
		var added string
		_, err = s.conn.CallFiles(ctx, documents.Name, documents.Path, documents.Name, "Add", "hbb", []any{bus.FD(0), false, true}, []*os.File{g}, &added)
		cancel()
		g.Close()
		var e *bus.Error
		if !errors.As(err, &e) || e.Name == "org.freedesktop.DBus.Error.NoReply" {
			t.Errorf("Add: %v", err)
		}
		if got, err := mountPoint(s.conn); err != nil || got != doc {
			t.Errorf("%q, %v", got, err)
		}
		if ids, err := listTable(s.conn); err != nil || len(ids) != 1 {
			t.Errorf("%q, %v", ids, err)
		}
		if err := call(s.conn, permstore.Name, permstore.Path, permstore.Name, "SetPermission", "sbssas", []any{"t", true, "x", "org.example.A", []string{"yes"}}); err != nil {
			t.Error(err)
		}
		b := make([]byte, 4)
		if _, err := open.ReadAt(b, 0); err != nil || string(b) != "text" {
			t.Errorf("what is open: %q, %v", b, err)
		}
		if _, err := os.Open(filepath.Join(doc, "by-app/org.example.A", id, "f")); !errors.Is(err, syscall.EMFILE) {
			t.Errorf("open: %v", err)
		}
	}
	if serverOf(p.cmd.Process.Pid) != server {
		t.Error("it is another server")
	}
	must(t, unix.Prlimit(server, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1 << 10, Max: 1 << 10}, nil))
	if text, err := os.ReadFile(filepath.Join(doc, s.add(s.conn, f2), "f2")); err != nil || string(text) != "text" {
		t.Errorf("%q, %v", text, err)
	}
}
