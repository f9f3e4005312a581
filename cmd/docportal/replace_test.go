package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"docportal/dbus"
	"docportal/internal/bus"
	"docportal/internal/documents"
	"docportal/internal/fuse"
	"docportal/internal/permstore"
	"docportal/internal/testsession"
)

// replace starts an instance that takes over from another one, and waits until
// it has, and that one has ended.
func (s *session) replace(old *process) *process {
	s.t.Helper()
	next := s.start(s.bus, "--replace")
	if pid := s.owner(s.conn, permstore.Name, old.cmd.Process.Pid); pid != next.cmd.Process.Pid {
		s.t.Fatal("the new one has not got the name")
	}
	if status := old.end(); status != 0 {
		s.t.Errorf("the old one: exit status %d", status)
	}
	return next
}

// TestReplace: apps go on. Who calls, opens files by their paths, reads what is
// open, lists an open directory or writes to a mapped file notices nothing of an
// instance that takes over from another.
func TestReplace(t *testing.T) {
	s := newSession(t)
	f := filepath.Join(s.dir, "f")
	os.WriteFile(f, []byte("text"), 0o600)
	old := s.start(s.bus)
	s.owner(s.conn, permstore.Name, 0)
	doc := s.mustMount(s.conn)
	id := s.add(s.conn, f)
	p := filepath.Join(doc, "by-app/org.example.A", id, "f")
	open, err := os.OpenFile(p, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	dir, err := os.Open(filepath.Dir(p))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	mapped, err := syscall.Mmap(int(open.Fd()), 0, 4, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Munmap(mapped)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	without := func(what string, op func() error) {
		wg.Go(func() {
			var longest time.Duration
			n := 0
			for ; ; n++ {
				select {
				case <-stop:
					t.Logf("%s: %d times, the longest took %v", what, n, longest)
					if longest > testsession.Limit(2*time.Second) {
						t.Errorf("%s took %v", what, longest)
					}
					return
				default:
				}
				start := time.Now()
				if err := op(); err != nil {
					t.Errorf("%s: %v", what, err)
				}
				longest = max(longest, time.Since(start))
			}
		})
	}
	c := s.dial(s.bus)
	without("GetMountPoint", func() error {
		got, err := mountPoint(c)
		if err == nil && got != doc {
			err = errors.New(got)
		}
		return err
	})
	without("read by path", func() error {
		text, err := os.ReadFile(p)
		if err == nil && string(text) != "text" {
			err = errors.New(string(text))
		}
		return err
	})
	without("read what is open", func() error {
		b := make([]byte, 4)
		_, err := open.ReadAt(b, 0)
		if err == nil && string(b) != "text" {
			err = errors.New(string(b))
		}
		return err
	})
	without("list", func() error {
		if _, err := dir.Seek(0, io.SeekStart); err != nil {
			return err
		}
		names, err := dir.Readdirnames(-1)
		if err == nil && strings.Join(names, " ") != "f" {
			err = errors.New(strings.Join(names, " "))
		}
		return err
	})
	for range 4 {
		old = s.replace(old)
		if pid := s.pid(s.conn, documents.Name); pid != old.cmd.Process.Pid {
			t.Fatal("the new one has not got the name of the documents")
		}
	}
	close(stop)
	wg.Wait()
	copy(mapped, "TEXT")
	if err := open.Sync(); err != nil {
		t.Error(err)
	}
	if text, err := os.ReadFile(f); err != nil || string(text) != "TEXT" {
		t.Errorf("%q, %v", text, err)
	}
	// What was taken over is kept as what one has made: its server may die.
	s.killServer(old.cmd.Process.Pid, syscall.SIGKILL)
	b := make([]byte, 4)
	if _, err := open.ReadAt(b, 0); err != nil {
		t.Error(err)
	}
	old.cmd.Process.Signal(syscall.SIGTERM)
	if status := old.end(); status != 0 {
		t.Errorf("exit status %d", status)
	}
	if s.mounted() {
		t.Error("still mounted")
	}
}

// TestReplaceWhatHandsNothingOver: of a view of another document portal nothing
// is left, but the new one's is mounted.
func TestReplaceWhatHandsNothingOver(t *testing.T) {
	s := newSession(t)
	other := s.dial(s.bus)
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	for _, name := range []string{documents.Name, permstore.Name} {
		if ok, err := other.RequestName(ctx, name, bus.AllowReplacement|bus.DoNotQueue); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	view, err := fuse.Mount(filepath.Join(s.runtime, "doc"), nobody{}, fuse.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer view.Unmount()
	f := filepath.Join(s.dir, "f")
	os.WriteFile(f, []byte("text"), 0o600)
	next := s.start(s.bus, "--replace")
	s.owner(s.conn, permstore.Name, os.Getpid())
	doc := s.mustMount(s.conn)
	if text, err := os.ReadFile(filepath.Join(doc, s.add(s.conn, f), "f")); err != nil || string(text) != "text" {
		t.Errorf("%q, %v", text, err)
	}
	next.cmd.Process.Signal(syscall.SIGTERM)
	next.end()
	if s.mounted() {
		t.Error("still mounted")
	}
}

// nobody has no documents.
type nobody struct{}

func (nobody) Generation() uint64 { return 1 }

func (nobody) Document(app, id string) (*fuse.Document, fuse.Access, bool) {
	return nil, fuse.Access{}, false
}

func (nobody) List(app string) []string { return nil }

func (nobody) Apps() []string { return nil }

// TestSuccessorThatDies: who has asked to be the successor and does not take the
// names changes nothing, nor does what it sends in place of a socket; an instance
// that ends otherwise unmounts.
func TestSuccessorThatDies(t *testing.T) {
	s := newSession(t)
	p := s.start(s.bus)
	s.owner(s.conn, permstore.Name, 0)
	doc := s.mustMount(s.conn)
	odd := filepath.Join(s.dir, "odd")
	os.WriteFile(odd, nil, 0o600)
	ask := func(c *bus.Conn) error {
		f, err := os.Open(odd)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		ctx, cancel := context.WithTimeout(context.Background(), deadline)
		defer cancel()
		_, err = c.CallFiles(ctx, documents.Name, managerPath, dbus.Manager, "HandOver", "h", []any{bus.FD(0)}, []*os.File{f})
		return err
	}
	for range 3 * maxSuccessors {
		c := s.dial(s.bus)
		if err := ask(c); err != nil {
			t.Fatal(err)
		}
		if err := ask(c); err != nil { // again
			t.Fatal(err)
		}
		c.Close()
		s.await("the end of its connection", func() bool {
			held, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", serverOf(p.cmd.Process.Pid)))
			return err == nil && len(held) > 0 && !slices.ContainsFunc(held, func(fd string) bool {
				to, err := os.Readlink(fd)
				return err == nil && to == odd
			})
		})
	}
	// One that asks and then takes the name without being able to take anything.
	c := s.dial(s.bus)
	if err := ask(c); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	if ok, err := c.RequestName(ctx, documents.Name, bus.ReplaceExisting|bus.DoNotQueue); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if status := p.end(); status != 0 {
		t.Errorf("exit status %d", status)
	}
	if s.mounted() {
		t.Error("still mounted")
	}
	if entries, err := os.ReadDir(doc); err != nil || len(entries) != 0 {
		t.Error(entries, err)
	}
	if strings.Contains(p.log.String(), "cannot unmount") {
		t.Error("it could not unmount")
	}
}

// TestTransientDocumentsOutliveTheServer, with what they permit, whatever it ends
// by, but not the daemon.
func TestTransientDocumentsOutliveTheServer(t *testing.T) {
	s := newSession(t)
	f := filepath.Join(s.dir, "f")
	os.WriteFile(f, []byte("text"), 0o600)
	p := s.start(s.bus)
	s.owner(s.conn, permstore.Name, 0)
	doc := filepath.Join(s.mustMount(s.conn), "by-app/org.example.A")
	id, revoked, deleted := s.addFull(s.conn, f, 0), s.addFull(s.conn, f, 0), s.addFull(s.conn, f, 0)
	for method, args := range map[string][]any{"RevokePermissions": {revoked, "org.example.A", []string{"read", "write"}}, "Delete": {deleted}} {
		if err := call(s.conn, documents.Name, documents.Path, documents.Name, method, map[int]string{1: "s", 3: "ssas"}[len(args)], args); err != nil {
			t.Fatal(err)
		}
	}
	check := func(after string) {
		t.Helper()
		if text, err := os.ReadFile(filepath.Join(doc, id, "f")); err != nil || string(text) != "text" {
			t.Errorf("after %s: %q, %v", after, text, err)
		}
		if _, err := os.ReadFile(filepath.Join(doc, revoked, "f")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("after %s: what was taken away: %v", after, err)
		}
		var path []byte
		var apps map[string][]string
		info := func(id string) error {
			for {
				err := call(s.conn, documents.Name, documents.Path, documents.Name, "Info", "s", []any{id}, &path, &apps)
				// The server that dies may have the call in its hands.
				if e := (*bus.Error)(nil); !errors.As(err, &e) || e.Name != "org.freedesktop.DBus.Error.NoReply" {
					return err
				}
			}
		}
		if err := errors.Join(info(id), info(revoked)); err != nil {
			t.Errorf("after %s: %v", after, err)
		}
		if err := info(deleted); err == nil {
			t.Errorf("after %s: what was deleted is back", after)
		}
	}
	check("nothing")
	for range 3 {
		s.killServer(p.cmd.Process.Pid, syscall.SIGKILL)
		check("a kill")
		server := serverOf(p.cmd.Process.Pid)
		p.cmd.Process.Signal(syscall.SIGUSR1)
		s.await("another server", func() bool { now := serverOf(p.cmd.Process.Pid); return now != 0 && now != server })
		check("a reload")
		p = s.replace(p)
		check("a replacement")
	}
	p.cmd.Process.Signal(syscall.SIGTERM)
	p.end()
	s.start(s.bus)
	s.mustMount(s.conn)
	if _, err := os.ReadFile(filepath.Join(doc, id, "f")); !errors.Is(err, os.ErrNotExist) {
		t.Error("after the end: ", err)
	}
}
