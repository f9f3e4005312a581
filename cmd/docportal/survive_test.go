package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"docportal/internal/bus"
	"docportal/internal/documents"
	"docportal/internal/permstore"
	"docportal/internal/testsession"
)

// serverOf is the server of a docportal, 0 while there is none.
func serverOf(keeper int) int {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", keeper))
	for _, task := range tasks {
		text, _ := os.ReadFile(task)
		for field := range strings.FieldsSeq(string(text)) {
			if pid, err := strconv.Atoi(field); err == nil && runs(pid) {
				return pid
			}
		}
	}
	return 0
}

// runs reports whether a process runs: what is dead may wait to be collected.
func runs(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, state, _ := strings.Cut(string(text), ") ")
	return err == nil && !strings.HasPrefix(state, "Z") && !strings.HasPrefix(state, "X")
}

// killServer kills the server of a docportal, with a signal, and waits until
// there is another one.
func (s *session) killServer(keeper int, sig syscall.Signal) {
	s.t.Helper()
	server := serverOf(keeper)
	if server == 0 {
		return // it is being started
	}
	syscall.Kill(server, sig)
	s.await("another server", func() bool { pid := serverOf(keeper); return pid != 0 && pid != server })
}

// await waits for what no event announces.
func (s *session) await(what string, ok func() bool) {
	s.t.Helper()
	for end := time.Now().Add(deadline); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatal("not in time: ", what)
		}
	}
}

// withAFileOpen is a session in which the bus has started docportal, and a file of
// four bytes is open by its path in the view.
func withAFileOpen(t *testing.T) (s *session, keeper int, path string, open *os.File) {
	t.Helper()
	s = newSession(t)
	doc := s.mustMount(s.conn)
	keeper = s.owner(s.conn, permstore.Name, 0)
	f := filepath.Join(s.dir, "f")
	must(t, os.WriteFile(f, []byte("text"), 0o600))
	path = filepath.Join(doc, s.add(s.conn, f), "f")
	open, err := os.Open(path)
	must(t, err)
	t.Cleanup(func() { open.Close() })
	return s, keeper, path, open
}

func kills() int {
	if os.Getenv("DOCPORTAL_LONG") != "" {
		return 200
	}
	return 30
}

// TestCallsOutliveTheServer: the server is killed again and again while a
// client calls without pause. A call that the dead one had is lost, and says
// so; no other one fails, none waits, and nobody else is started.
func TestCallsOutliveTheServer(t *testing.T) {
	s := newSession(t)
	// A server that dies while the disk is slow to write waits for that.
	var err error
	s.data, err = os.MkdirTemp("/dev/shm", "docportal-test")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(s.data) })
	s.start(s.bus)
	keeper := s.owner(s.conn, permstore.Name, 0)
	s.mustMount(s.conn)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	lost, calls := 0, 0
	var longest time.Duration
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			start := time.Now()
			_, err := mountPoint(s.conn)
			if took := time.Since(start); took > longest {
				longest = took
				t.Log(start, took)
			}
			calls++
			var e *bus.Error
			if errors.As(err, &e) && e.Name == "org.freedesktop.DBus.Error.NoReply" && strings.Contains(e.Message, "disconnected") {
				lost++
			} else if err != nil {
				t.Error(err)
			}
		}
	})
	c := s.dial(s.bus)
	for range kills() {
		time.Sleep(100 * time.Millisecond) // the distance of kills
		s.killServer(keeper, syscall.SIGKILL)
		if pid := s.pid(c, documents.Name); pid != keeper {
			t.Errorf("the name belongs to %d, not %d", pid, keeper)
		}
	}
	close(stop)
	wg.Wait()
	t.Logf("%d calls, %d lost, the longest took %v", calls, lost, longest)
	if longest > testsession.Limit(time.Second) {
		t.Errorf("a call took %v", longest)
	}
	if lost > kills() {
		t.Errorf("%d calls were lost by %d kills", lost, kills())
	}
	s.terminate()
}

// TestServerKilledAfterAWhile: one that has served for longer than a start may
// take. Who has the view open does not notice.
func TestServerKilledAfterAWhile(t *testing.T) {
	s, keeper, _, open := withAFileOpen(t)
	time.Sleep(11 * time.Second) // the while
	s.killServer(keeper, syscall.SIGKILL)
	b := make([]byte, 10)
	if n, err := open.ReadAt(b, 0); n != 4 {
		t.Errorf("read %d bytes: %v", n, err)
	}
	s.terminate()
}

// TestServerKilledInAnyPhaseOfTheStart: the names come, and the view.
func TestServerKilledInAnyPhaseOfTheStart(t *testing.T) {
	s := newSession(t)
	f := filepath.Join(s.dir, "f")
	os.WriteFile(f, []byte("text"), 0o600)
	for n := range 40 {
		p := s.start(s.bus)
		s.await("a server", func() bool { return serverOf(p.cmd.Process.Pid) != 0 })
		time.Sleep(time.Duration(n) * time.Millisecond) // the moment
		s.killServer(p.cmd.Process.Pid, syscall.SIGKILL)
		start := time.Now()
		s.owner(s.conn, permstore.Name, 0)
		// The server may have died with the name and the call in its hands.
		doc, err := mountPoint(s.conn)
		if err != nil {
			doc = s.mustMount(s.conn)
		}
		if took := time.Since(start); took > testsession.Limit(2*time.Second) {
			t.Errorf("killed after %d ms: it took %v", n, took)
		}
		if pid := s.pid(s.conn, documents.Name); pid != p.cmd.Process.Pid {
			t.Errorf("killed after %d ms: the name belongs to %d, not %d", n, pid, p.cmd.Process.Pid)
		}
		id := s.add(s.conn, f)
		if text, err := os.ReadFile(filepath.Join(doc, id, "f")); err != nil || string(text) != "text" {
			t.Errorf("killed after %d ms: %q, %v", n, text, err)
		}
		p.cmd.Process.Signal(syscall.SIGTERM)
		if status := p.end(); status != 0 {
			t.Errorf("killed after %d ms: exit status %d", n, status)
		}
		if s.mounted() {
			t.Fatalf("killed after %d ms: still mounted", n)
		}
	}
}

// TestServerEndsWithItsKeeper, at once, and the next call mounts afresh.
func TestServerEndsWithItsKeeper(t *testing.T) {
	s := newSession(t)
	for range 3 {
		doc := s.mustMount(s.conn)
		keeper := s.owner(s.conn, documents.Name, 0)
		server := serverOf(keeper)
		syscall.Kill(keeper, syscall.SIGKILL)
		end := time.Now().Add(testsession.Limit(time.Second))
		for runs(server) {
			if time.Now().After(end) {
				t.Fatal("the server goes on")
			}
			time.Sleep(time.Millisecond)
		}
		s.gone(keeper)
		if s.mustMount(s.conn) != doc {
			t.Error("another place")
		}
		if _, err := os.ReadDir(doc); err != nil {
			t.Error(err)
		}
	}
	s.terminate()
}

// TestReload: another server, of the program as it is now, goes on with
// everything; no call fails.
func TestReload(t *testing.T) {
	s, keeper, _, open := withAFileOpen(t)
	for range 5 {
		server := serverOf(keeper)
		syscall.Kill(keeper, syscall.SIGUSR1)
		for serverOf(keeper) == server {
			if _, err := mountPoint(s.conn); err != nil {
				t.Error(err)
			}
		}
		b := make([]byte, 10)
		if n, err := open.ReadAt(b, 0); n != 4 {
			t.Errorf("read %d bytes: %v", n, err)
		}
	}
	s.terminate()
}

// TestServerThatCrashes: one that dies of itself again and again gives the view
// up, so that nobody waits for it, and mounts afresh.
func TestServerThatCrashes(t *testing.T) {
	s, keeper, p, open := withAFileOpen(t)
	b := make([]byte, 10)
	for n := range 5 {
		if _, err := open.ReadAt(b[:4], 0); err != nil {
			t.Errorf("after %d crashes: %v", n, err)
		}
		s.killServer(keeper, syscall.SIGSEGV)
		mountPoint(s.conn) // the call that it has is lost
	}
	s.await("the end of the connection", func() bool {
		_, err := open.ReadAt(b[:4], 0)
		return errors.Is(err, syscall.ENOTCONN) || errors.Is(err, syscall.ECONNABORTED)
	})
	s.mustMount(s.conn)
	if text, err := os.ReadFile(p); err != nil || string(text) != "text" {
		t.Errorf("mounted afresh: %q, %v", text, err)
	}
	if pid := s.pid(s.conn, documents.Name); pid != keeper {
		t.Errorf("the name belongs to %d, not %d", pid, keeper)
	}
	s.terminate()
}

// TestAnotherVersion: one that does not agree with the kernel as the server before
// it did, or does not know what that one has left, gives the view up, so that
// nobody waits for it, and mounts afresh. What is changed here is what is left.
func TestAnotherVersion(t *testing.T) {
	for _, c := range []struct {
		name string
		at   int64 // where the memory is changed
	}{
		{"form", 0},
		{"answer", 2048 + 16 + 20}, // max_write (linux/fuse.h)
		{"size", 56},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSession(t)
			doc := s.mustMount(s.conn)
			keeper := s.owner(s.conn, permstore.Name, 0)
			f := filepath.Join(s.dir, "f")
			os.WriteFile(f, []byte("text"), 0o600)
			p := filepath.Join(doc, s.add(s.conn, f), "f")
			open, err := os.Open(p)
			if err != nil {
				t.Fatal(err)
			}
			defer open.Close()
			memory := keptView(t, keeper)
			b := make([]byte, 1)
			memory.ReadAt(b, c.at)
			b[0]++
			if _, err := memory.WriteAt(b, c.at); err != nil {
				t.Fatal(err)
			}
			memory.Close()
			server := serverOf(keeper)
			syscall.Kill(keeper, syscall.SIGUSR1)
			s.await("another server", func() bool { pid := serverOf(keeper); return pid != 0 && pid != server })
			s.await("the end of the connection", func() bool {
				_, err := open.ReadAt(make([]byte, 4), 0)
				return errors.Is(err, syscall.ENOTCONN) || errors.Is(err, syscall.ECONNABORTED)
			})
			s.mustMount(s.conn)
			if text, err := os.ReadFile(p); err != nil || string(text) != "text" {
				t.Errorf("mounted afresh: %q, %v", text, err)
			}
			if pid := s.pid(s.conn, documents.Name); pid != keeper {
				t.Errorf("the name belongs to %d, not %d", pid, keeper)
			}
			// The next one agrees again.
			s.killServer(keeper, syscall.SIGKILL)
			if text, err := os.ReadFile(p); err != nil || string(text) != "text" {
				t.Errorf("the server after it: %q, %v", text, err)
			}
			s.terminate()
		})
	}
}

// keptView is the memory of the file view that a keeper has for the next server.
func keptView(t *testing.T, keeper int) *os.File {
	t.Helper()
	all, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", keeper))
	for _, fd := range all {
		if to, _ := os.Readlink(fd); strings.HasPrefix(to, "/memfd:docportal-view ") {
			f, err := os.OpenFile(fd, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			return f
		}
	}
	t.Fatal("the keeper has no view")
	return nil
}
