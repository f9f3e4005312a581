package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"docportal/internal/documents"
	"docportal/internal/permstore"
	"docportal/internal/testdisk"
	"docportal/internal/testsession"
)

// soon is when what is to come within a second or two comes, on a machine that has
// much else to do.
const soon = 10 * time.Second

// app is a program that uses the file view.
type app struct {
	cmd  *exec.Cmd
	in   io.Writer
	said *bufio.Scanner
	done chan struct{} // closed when it has ended
}

// newApp starts a shell that does what a script says, and returns when that has
// said that it is ready.
func newApp(t *testing.T, script string, args ...string) *app {
	t.Helper()
	a := &app{cmd: exec.Command("/bin/sh", append([]string{"-c", script}, args...)...), done: make(chan struct{})}
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := a.cmd.StdinPipe()
	must(t, err)
	out, err := a.cmd.StdoutPipe()
	must(t, err)
	must(t, a.cmd.Start())
	a.in, a.said = in, bufio.NewScanner(out)
	if a.said.Scan(); a.said.Text() != "ready" {
		t.Fatalf("%q says %q", script, a.said.Text())
	}
	go func() { // ends with the process
		a.cmd.Wait()
		close(a.done)
	}()
	t.Cleanup(func() {
		a.cmd.Process.Kill()
		<-a.done
	})
	return a
}

func (a *app) begin() { io.WriteString(a.in, "go\n") }

// endsInTime has docportal end, and checks that it does so in time, and takes
// its mount with it.
func (s *session) endsInTime(p *process, end func()) {
	s.t.Helper()
	start := time.Now()
	end()
	if status := p.end(); status != 0 {
		s.t.Errorf("exit status %d", status)
	}
	took := time.Since(start)
	s.t.Log("it took ", took)
	if took > testsession.Limit(2*time.Second) {
		s.t.Errorf("it took %v", took)
	}
	if s.mounted() {
		s.t.Error("still mounted")
	}
}

// waits reports whether something is left of a process beside what its parent is to
// collect.
func waits(pid int) bool {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	return len(tasks) > 1
}

// TestEndWhileADiskStandsStill, which apps and so the server wait for, and nothing
// can end their waiting but the disk: docportal ends all the same, its mount is
// gone, and apps wait no longer.
func TestEndWhileADiskStandsStill(t *testing.T) {
	for name, end := range map[string]func(*session, *process){
		"SIGTERM": func(_ *session, p *process) { p.cmd.Process.Signal(syscall.SIGTERM) },
		"the bus": func(s *session, _ *process) { s.bus.Stop() },
		"killed": func(s *session, p *process) {
			syscall.Kill(serverOf(p.cmd.Process.Pid), syscall.SIGKILL)
			s.await("requests fail", func() bool { return strings.Contains(p.log.String(), "requests for files fail") })
			p.cmd.Process.Signal(syscall.SIGTERM)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSession(t)
			disk, p, doc := s.onADisk()
			var waiting []*app
			for _, script := range []string{
				`exec 3<"$0"; echo ready; read go; exec cat <&3 >/dev/null`,
				`exec 3>>"$0"; echo ready; read go; echo text >&3`,
				`echo ready; read go; exec cat "$0" >/dev/null`,
				`echo ready; read go; exec ls -l "$0"`,
			} {
				waiting = append(waiting, newApp(t, script, doc))
			}
			newApp(t, `exec 3<"$0"; echo ready; read go`, doc) // and has it open
			disk.Stop()
			for _, a := range waiting {
				a.begin()
			}
			s.await("the server waits for the disk", func() bool { return disk.Waiting() >= len(waiting) })
			server := serverOf(p.cmd.Process.Pid)
			s.endsInTime(p, func() { end(s, p) })
			for _, a := range waiting {
				select {
				case <-a.done:
				case <-time.After(soon):
					t.Errorf("%q still waits", a.cmd.Args)
				}
			}
			if name == "SIGTERM" { // and others may begin
				s.start(s.bus)
				s.owner(s.conn, documents.Name, 0)
				if _, err := os.ReadDir(s.mustMount(s.conn)); err != nil {
					t.Error(err)
				}
			}
			if disk.Waiting() == 0 {
				t.Error("the disk has answered; this shows nothing")
			}
			disk.Go()
			s.await("the end of the server", func() bool { return !waits(server) })
		})
	}
}

// onADisk starts docportal with a document of 1 MiB on a disk of its own, and
// returns the document's path.
func (s *session) onADisk() (*testdisk.Disk, *process, string) {
	s.t.Helper()
	disk, place := s.mountDisk("disk")
	f := filepath.Join(place, "dir/f")
	must(s.t, os.Mkdir(filepath.Dir(f), 0o700))
	must(s.t, os.WriteFile(f, make([]byte, 1<<20), 0o600))
	p := s.start(s.bus)
	s.t.Cleanup(disk.Go)
	s.owner(s.conn, documents.Name, 0)
	return disk, p, filepath.Join(s.mustMount(s.conn), s.add(s.conn, f), "f")
}

// TestReloadWhileADiskStandsStill: the next server begins although the one before
// cannot end, and who waits for the disk goes on with it.
func TestReloadWhileADiskStandsStill(t *testing.T) {
	s := newSession(t)
	disk, p, doc := s.onADisk()
	a := newApp(t, `exec 3<"$0"; echo ready; read go; head -c 1000 <&3 | wc -c`, doc)
	disk.Stop()
	a.begin()
	s.await("the server waits for the disk", func() bool { return disk.Waiting() > 0 })
	server := serverOf(p.cmd.Process.Pid)
	p.cmd.Process.Signal(syscall.SIGUSR1)
	s.await("a call is answered by another server", func() bool {
		_, err := listTable(s.conn)
		return err == nil && serverOf(p.cmd.Process.Pid) != server
	})
	if !waits(server) {
		t.Error("the server has ended; this shows nothing")
	}
	if _, err := os.ReadDir(s.mustMount(s.conn)); err != nil {
		t.Error(err)
	}
	disk.Go()
	if a.said.Scan(); a.said.Text() != "1000" {
		t.Errorf("who has waited says %q", a.said.Text())
	}
	s.await("the end of the server", func() bool { return !waits(server) })
}

// mountDisk mounts a disk in the session's directory.
func (s *session) mountDisk(name string) (disk *testdisk.Disk, place string) {
	s.t.Helper()
	place = filepath.Join(s.dir, name)
	must(s.t, os.Mkdir(place, 0o700))
	return testdisk.Mount(s.t, place, filepath.Join(s.dir, "below")), place
}

// atHomeOnADisk has the person's home, and so docportal's store, on a disk of its
// own, with a file f in it.
func (s *session) atHomeOnADisk() (disk *testdisk.Disk, f string) {
	s.t.Helper()
	disk, s.home = s.mountDisk("home")
	s.data = filepath.Join(s.home, "data")
	f = filepath.Join(s.home, "f")
	must(s.t, os.WriteFile(f, []byte("text"), 0o600))
	return disk, f
}

// TestEndWhileTheStoreStandsStill: the disk of docportal's own home stands still,
// when all works, before the file view is mounted, or before it starts. It ends in
// time, and what was acknowledged is there when the disk is.
func TestEndWhileTheStoreStandsStill(t *testing.T) {
	for _, when := range []string{"serving", "not mounted", "starting"} {
		t.Run(when, func(t *testing.T) {
			s := newSession(t)
			disk, f := s.atHomeOnADisk()
			set := func(id string) error {
				return call(s.conn, permstore.Name, permstore.Path, permstore.Name, "SetPermission", "sbssas", []any{"t", true, id, "org.example.A", []string{"yes"}})
			}
			begin := func() (*process, int) {
				p := s.start(s.bus)
				t.Cleanup(disk.Go)
				s.owner(s.conn, permstore.Name, 0)
				return p, serverOf(p.cmd.Process.Pid)
			}
			p, server := begin()
			must(t, set("acknowledged"))
			calls := make(chan bool)
			wait := func(f func()) {
				go func() { f(); calls <- true }()
				s.await("the disk is waited for", func() bool { return disk.Waiting() > 0 })
			}
			switch when {
			case "serving":
				s.add(s.conn, f)
				s.mustMount(s.conn)
				disk.Stop()
				wait(func() { set("not acknowledged") })
			case "not mounted":
				disk.Stop()
				wait(func() { mountPoint(s.conn) })
			case "starting":
				p.cmd.Process.Signal(syscall.SIGTERM)
				p.end()
				disk.Stop()
				p, server = begin()
				wait(func() { mountPoint(s.conn) })
			}
			s.endsInTime(p, func() { p.cmd.Process.Signal(syscall.SIGTERM) })
			select {
			case <-calls:
			case <-time.After(soon):
				t.Error("who has called still waits")
				<-calls
			}
			if disk.Waiting() == 0 {
				t.Error("the disk has answered; this shows nothing")
			}
			disk.Go()
			s.await("the end of the server", func() bool { return !waits(server) })
			begin()
			var has []string
			if err := call(s.conn, permstore.Name, permstore.Path, permstore.Name, "GetPermission", "sss", []any{"t", "acknowledged", "org.example.A"}, &has); err != nil || strings.Join(has, " ") != "yes" {
				t.Errorf("what was acknowledged is %q, %v", has, err)
			}
			if _, err := os.ReadDir(s.mustMount(s.conn)); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestAServerStartsWhileADiskTakesNoChanges, after another one, and answers.
func TestAServerStartsWhileADiskTakesNoChanges(t *testing.T) {
	s := newSession(t)
	disk, f := s.atHomeOnADisk()
	s.start(s.bus)
	t.Cleanup(disk.Go)
	keeper := s.owner(s.conn, documents.Name, 0)
	view := s.mustMount(s.conn)
	doc := filepath.Join(view, s.add(s.conn, f), "f")
	for range 3 {
		disk.StopChanges()
		s.killServer(keeper, syscall.SIGKILL)
		within(t, "an app reads", func() {
			if text, err := os.ReadFile(doc); err != nil || string(text) != "text" {
				t.Errorf("%q, %v", text, err)
			}
		})
		within(t, "a call is answered", func() {
			if dir, err := mountPoint(s.conn); err != nil || dir != view {
				t.Errorf("%q, %v", dir, err)
			}
			if _, err := listTable(s.conn); err != nil {
				t.Error(err)
			}
		})
		disk.Go()
		s.mustMount(s.conn)
	}
	s.terminate()
}

// within fails the test if something takes long.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { // ends with the disk's standing still
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(soon):
		t.Fatal("not in time: ", what)
	}
}

// TestPermissionsWhileADiskStandsStill: what is taken away on another disk is gone,
// also what the kernel has of it, although files on the one that stands still are
// open, are read, and were taken away, too.
func TestPermissionsWhileADiskStandsStill(t *testing.T) {
	s := newSession(t)
	disk, _, doc := s.onADisk()
	view := filepath.Join(s.runtime, "doc/by-app/org.example.A")
	f := filepath.Join(s.dir, "f")
	must(t, os.WriteFile(f, make([]byte, 1<<20), 0o600))
	id := s.add(s.conn, f)
	open, err := os.Open(filepath.Join(view, id, "f"))
	must(t, err)
	defer open.Close()
	m, err := unix.Mmap(int(open.Fd()), 0, 1<<20, unix.PROT_READ, unix.MAP_SHARED)
	must(t, err)
	defer unix.Munmap(m)
	has := func() bool { // the kernel, of the file
		var page [1]byte
		_, _, e := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&m[0])), 1, uintptr(unsafe.Pointer(&page[0])))
		return e == 0 && page[0]&1 != 0
	}
	if m[0] != 0 || !has() {
		t.Fatal("nothing of it is kept; this shows nothing")
	}
	all := []*app{newApp(t, `exec 3>>"$0"; echo ready; read go; echo text >&3`, doc)}
	var slow []string
	for n := range 4 {
		f := filepath.Join(s.dir, "disk/dir", fmt.Sprint("f", n))
		must(t, os.WriteFile(f, make([]byte, 1<<20), 0o600))
		slow = append(slow, s.add(s.conn, f))
		all = append(all, newApp(t, `exec 3<"$0"; echo ready; read go; exec cat <&3 >/dev/null`, filepath.Join(view, slow[n], filepath.Base(f))))
	}
	disk.Stop()
	for _, a := range all {
		a.begin()
	}
	s.await("the server waits for the disk", func() bool { return disk.Waiting() >= len(all) })
	for _, id := range append(slow, id) {
		must(t, call(s.conn, documents.Name, documents.Path, documents.Name, "RevokePermissions", "ssas", []any{id, "org.example.A", []string{"read", "write"}}))
	}
	start := time.Now()
	s.await("it is not kept any more", func() bool { return !has() })
	t.Log("it is gone after ", time.Since(start))
	disk.Go()
	for _, a := range all {
		<-a.done
	}
}
