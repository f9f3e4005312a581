package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
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

// roleVariable makes the test binary docportal itself.
const roleVariable = "DOCPORTAL_TEST_ROLE"

func TestMain(m *testing.M) {
	if os.Getenv(roleVariable) == "docportal" {
		main()
	}
	os.Exit(testsession.Run(m))
}

// deadline is for everything that waits.
const deadline = 20 * time.Second

// session is a user's session: directories and a bus that can start docportal.
type session struct {
	t                        *testing.T
	dir, home, runtime, data string
	bus                      *testsession.Bus
	conn                     *bus.Conn
}

func newSession(t *testing.T) *session {
	t.Helper()
	dir := t.TempDir()
	s := &session{t: t, dir: dir, home: dir, runtime: filepath.Join(dir, "run"), data: filepath.Join(dir, "data")}
	services := filepath.Join(dir, "share/dbus-1/services")
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Mkdir(s.runtime, 0o700), os.Mkdir(s.data, 0o700), os.MkdirAll(services, 0o700)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{documents.Name, permstore.Name} {
		text := fmt.Sprintf("[D-BUS Service]\nName=%s\nExec=%s\n", name, program)
		if err := os.WriteFile(filepath.Join(services, name+".service"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.bus = s.newBus(dir)
	s.conn = s.dial(s.bus)
	return s
}

func (s *session) newBus(dir string) *testsession.Bus {
	s.t.Helper()
	return testsession.StartBus(s.t, dir, s.environment("XDG_DATA_DIRS="+filepath.Join(s.dir, "share"))...)
}

func (s *session) environment(more ...string) []string {
	return append([]string{
		"XDG_RUNTIME_DIR=" + s.runtime, "XDG_DATA_HOME=" + s.data, "HOME=" + s.home,
		roleVariable + "=docportal", "GORACE=atexit_sleep_ms=0",
	}, more...)
}

func (s *session) dial(b *testsession.Bus) *bus.Conn {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	c, err := bus.Dial(ctx, b.Address, bus.Options{})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	return c
}

// process is docportal as a process.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	log  logFile
	done chan struct{}
}

// logFile is the path of what a process says. A pipe would be waited for until
// nothing of the process is left.
type logFile string

func (l logFile) String() string {
	text, _ := os.ReadFile(string(l))
	return string(text)
}

// start starts docportal on a bus.
func (s *session) start(b *testsession.Bus, args ...string) *process {
	s.t.Helper()
	return s.startWith(b, &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}, args...)
}

func (s *session) startWith(b *testsession.Bus, attributes *syscall.SysProcAttr, args ...string) *process {
	s.t.Helper()
	log, err := os.CreateTemp(s.t.TempDir(), "log")
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	p := &process{t: s.t, log: logFile(log.Name()), done: make(chan struct{})}
	p.cmd = exec.Command("/proc/self/exe", args...)
	p.cmd.Env = append(os.Environ(), s.environment("DBUS_SESSION_BUS_ADDRESS="+b.Address)...)
	p.cmd.Stderr, p.cmd.Stdout = log, log
	p.cmd.SysProcAttr = attributes
	if err := p.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() {
		p.cmd.Wait()
		close(p.done)
	}()
	s.t.Cleanup(func() {
		select {
		case <-p.done:
		default:
			p.cmd.Process.Signal(syscall.SIGTERM)
			p.end()
		}
		if s.t.Failed() {
			s.t.Logf("docportal %v:\n%s", args, p.log.String())
		}
	})
	return p
}

// end waits for the end and returns the exit status.
func (p *process) end() int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(deadline):
		p.cmd.Process.Kill()
		<-p.done
		p.t.Error("docportal does not end")
	}
	return p.cmd.ProcessState.ExitCode()
}

// owner waits until a name has an owner other than not, and returns its
// process id.
func (s *session) owner(c *bus.Conn, name string, not int) int {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	changes, err := c.Subscribe(ctx, bus.Match{Member: "NameOwnerChanged"})
	if err != nil {
		s.t.Fatal(err)
	}
	defer changes.Close(ctx)
	for {
		if pid := s.pid(c, name); pid != 0 && pid != not {
			return pid
		}
		select {
		case <-changes.C:
		case <-ctx.Done():
			s.t.Fatal("nobody takes the name ", name)
		}
	}
}

// pid is the process that owns a name, 0 if nobody does.
func (s *session) pid(c *bus.Conn, name string) int {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	var pid uint32
	err := c.Call(ctx, busName, "/org/freedesktop/DBus", busName, "GetConnectionUnixProcessID", "s", []any{name}, &pid)
	// A dead process has its names for a moment, in which newer buses cannot say
	// who it was.
	for e := (*bus.Error)(nil); errors.As(err, &e) && e.Name == "org.freedesktop.DBus.Error.UnixProcessIdUnknown"; {
		time.Sleep(time.Millisecond)
		err = c.Call(ctx, busName, "/org/freedesktop/DBus", busName, "GetConnectionUnixProcessID", "s", []any{name}, &pid)
	}
	if err != nil {
		return 0
	}
	return int(pid)
}

func call(c *bus.Conn, name, path, iface, method, signature string, args []any, out ...any) error {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	return c.Call(ctx, name, path, iface, method, signature, args, out...)
}

func mountPoint(c *bus.Conn) (string, error) {
	var p []byte
	err := call(c, documents.Name, documents.Path, documents.Name, "GetMountPoint", "", nil, &p)
	return strings.TrimSuffix(string(p), "\x00"), err
}

func listTable(c *bus.Conn) ([]string, error) {
	var ids []string
	err := call(c, permstore.Name, permstore.Path, permstore.Name, "List", "s", []any{"documents"}, &ids)
	return ids, err
}

func (s *session) mustMount(c *bus.Conn) string {
	s.t.Helper()
	p, err := mountPoint(c)
	if err != nil {
		s.t.Fatal(err)
	}
	return p
}

// add makes a persistent document with all permissions for an app.
func (s *session) add(c *bus.Conn, p string) string {
	s.t.Helper()
	return s.addFull(c, p, 3)
}

func (s *session) addFull(c *bus.Conn, p string, flags uint32) string {
	s.t.Helper()
	f, err := os.Open(p)
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	var ids []string
	var extra map[string]bus.Value
	if _, err := c.CallFiles(ctx, documents.Name, documents.Path, documents.Name, "AddFull", "ahusas",
		[]any{[]bus.FD{0}, flags, "org.example.A", []string{"read", "write"}}, []*os.File{f}, &ids, &extra); err != nil {
		s.t.Fatal(err)
	}
	return ids[0]
}

// mounted reports whether something is mounted on the session's doc.
func (s *session) mounted() bool {
	s.t.Helper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.Contains(string(text), " "+filepath.Join(s.runtime, "doc")+" ")
}

func TestVersion(t *testing.T) {
	cmd := exec.Command("/proc/self/exe", "--version")
	cmd.Env = append(os.Environ(), roleVariable+"=docportal")
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != version+"\n" {
		t.Errorf("%q, %v", out, err)
	}
}

func TestBadEnvironment(t *testing.T) {
	for want, env := range map[string]string{
		"XDG_RUNTIME_DIR is not set":        "XDG_RUNTIME_DIR=",
		"cannot connect to the session bus": "DBUS_SESSION_BUS_ADDRESS=unix:path=/nowhere/bus",
	} {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+t.TempDir(), roleVariable+"=docportal", env)
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), want) {
			t.Errorf("%s: %v, %q", env, err, out)
		}
	}
}

// TestEnd: a signal, or the end of the bus, ends the daemon within 2 s, the
// mount with it, whatever somebody holds open on it.
func TestEnd(t *testing.T) {
	for name, end := range map[string]func(*session, *process){
		"SIGTERM": func(_ *session, p *process) { p.cmd.Process.Signal(syscall.SIGTERM) },
		"SIGINT":  func(_ *session, p *process) { p.cmd.Process.Signal(syscall.SIGINT) },
		"SIGHUP":  func(_ *session, p *process) { p.cmd.Process.Signal(syscall.SIGHUP) },
		"the bus": func(s *session, _ *process) { s.bus.Stop() },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSession(t)
			p := s.start(s.bus)
			s.owner(s.conn, documents.Name, 0)
			doc := s.mustMount(s.conn)
			f := filepath.Join(s.dir, "f")
			os.WriteFile(f, []byte("text"), 0o600)
			open, err := os.Open(filepath.Join(doc, s.add(s.conn, f), "f"))
			if err != nil {
				t.Fatal(err)
			}
			defer open.Close()
			dir, err := os.Open(doc)
			if err != nil {
				t.Fatal(err)
			}
			defer dir.Close()
			start := time.Now()
			end(s, p)
			if status := p.end(); status != 0 {
				t.Errorf("exit status %d", status)
			}
			if took := time.Since(start); took > testsession.Limit(2*time.Second) {
				t.Errorf("it took %v", took)
			}
			if s.mounted() {
				t.Error("still mounted")
			}
		})
	}
}

// TestActivation: both names asked for at the same moment, by callers who make
// the bus start an instance for each: nobody gets an error and one is left.
func TestActivation(t *testing.T) {
	s := newSession(t)
	for round := range 6 {
		var wg sync.WaitGroup
		for range 3 {
			a, b := s.dial(s.bus), s.dial(s.bus)
			wg.Go(func() {
				if _, err := mountPoint(a); err != nil {
					t.Errorf("round %d: %v", round, err)
				}
			})
			wg.Go(func() {
				if _, err := listTable(b); err != nil {
					t.Errorf("round %d: %v", round, err)
				}
			})
		}
		wg.Wait()
		docs, perms := s.pid(s.conn, documents.Name), s.pid(s.conn, permstore.Name)
		if docs == 0 || docs != perms {
			t.Fatalf("round %d: the names belong to %d and %d", round, docs, perms)
		}
		syscall.Kill(docs, []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL}[round%2])
		s.gone(docs)
	}
	s.mustMount(s.conn)
	s.terminate()
}

// terminate ends the instance that the bus has started.
func (s *session) terminate() {
	s.t.Helper()
	syscall.Kill(s.owner(s.conn, documents.Name, 0), syscall.SIGTERM)
	s.awaitUnmounted()
}

// gone waits until a process has left the bus.
func (s *session) gone(pid int) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	changes, err := s.conn.Subscribe(ctx, bus.Match{Member: "NameOwnerChanged"})
	if err != nil {
		s.t.Fatal(err)
	}
	defer changes.Close(ctx)
	for s.pid(s.conn, documents.Name) == pid || s.pid(s.conn, permstore.Name) == pid {
		select {
		case <-changes.C:
		case <-ctx.Done():
			s.t.Fatal("a killed process has a name")
		}
	}
}

// awaitUnmounted waits until nothing is mounted: what is not our child says
// nothing when it ends.
func (s *session) awaitUnmounted() {
	s.t.Helper()
	for end := time.Now().Add(deadline); s.mounted(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatal("still mounted")
		}
	}
}

// TestGoing: calls while an instance ends are answered, by it or by the next.
func TestGoing(t *testing.T) {
	s := newSession(t)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	calls := 0
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := mountPoint(s.conn); err != nil {
				t.Error(err)
			}
			calls++
		}
	})
	c := s.dial(s.bus)
	pid := 0
	for range 5 {
		pid = s.owner(c, documents.Name, pid)
		syscall.Kill(pid, syscall.SIGTERM)
	}
	s.owner(c, documents.Name, pid)
	close(stop)
	wg.Wait()
	t.Logf("%d calls", calls)
	s.terminate()
}

// TestPermissionStoreAlone mounts nothing.
func TestPermissionStoreAlone(t *testing.T) {
	s := newSession(t)
	s.start(s.bus)
	s.owner(s.conn, permstore.Name, 0)
	if _, err := listTable(s.conn); err != nil {
		t.Fatal(err)
	}
	if s.mounted() {
		t.Error("mounted")
	}
}

func TestSecondInstance(t *testing.T) {
	s := newSession(t)
	first := s.start(s.bus)
	s.owner(s.conn, permstore.Name, 0)
	s.mustMount(s.conn)
	start := time.Now()
	if status := s.start(s.bus).end(); status != 0 {
		t.Errorf("exit status %d", status)
	}
	if took := time.Since(start); took > testsession.Limit(3*time.Second) {
		t.Errorf("it took %v", took)
	}
	if pid := s.pid(s.conn, documents.Name); pid != first.cmd.Process.Pid {
		t.Error("the first has lost the name")
	}
	if _, err := os.ReadDir(s.mustMount(s.conn)); err != nil {
		t.Error(err)
	}
}

// TestKill: what AddFull has answered is there after kill -9, and the mount
// that is left behind is no obstacle.
func TestKill(t *testing.T) {
	s := newSession(t)
	for i := range 5 {
		f := filepath.Join(s.dir, fmt.Sprint("f", i))
		os.WriteFile(f, []byte("text"), 0o600)
		p := s.start(s.bus)
		s.owner(s.conn, permstore.Name, 0)
		s.mustMount(s.conn)
		id := s.add(s.conn, f)
		p.cmd.Process.Kill()
		p.end()
		s.gone(p.cmd.Process.Pid) // the server, too, has the connection to the bus
		p = s.start(s.bus)
		s.owner(s.conn, permstore.Name, 0)
		doc := s.mustMount(s.conn)
		var path []byte
		var apps map[string][]string
		if err := call(s.conn, documents.Name, documents.Path, documents.Name, "Info", "s", []any{id}, &path, &apps); err != nil {
			t.Fatal(err)
		}
		if string(path) != f+"\x00" || strings.Join(apps["org.example.A"], " ") != "read write" {
			t.Errorf("%q, %v", path, apps)
		}
		if text, err := os.ReadFile(filepath.Join(doc, "by-app/org.example.A", id, filepath.Base(f))); err != nil || string(text) != "text" {
			t.Errorf("%q, %v", text, err)
		}
		p.cmd.Process.Signal(syscall.SIGTERM)
		p.end()
	}
}

// serve runs a daemon inside the test, with timeouts that a test can wait for.
func (s *session) serve(b *testsession.Bus, tune func(*daemon)) (d *daemon, done chan error) {
	s.t.Helper()
	for _, kv := range s.environment("DBUS_SESSION_BUS_ADDRESS=" + b.Address) {
		if k, v, _ := strings.Cut(kv, "="); k != roleVariable {
			s.t.Setenv(k, v)
		}
	}
	d = newDaemon(arguments{}, slog.New(slog.NewTextHandler(io.Discard, nil)), s.runtime, nil)
	tune(d)
	ctx, cancel := context.WithCancel(context.Background())
	done = make(chan error, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		err := d.serve(ctx)
		d.close()
		done <- err
	}()
	s.t.Cleanup(func() { cancel(); <-ended })
	return d, done
}

// TestSecondBus: another session bus of the same user does not get what the
// first one serves, is told so, and is left when nobody asks any more.
func TestSecondBus(t *testing.T) {
	s := newSession(t)
	s.start(s.bus)
	s.owner(s.conn, permstore.Name, 0)
	doc := s.mustMount(s.conn)
	dir := filepath.Join(s.dir, "other")
	os.Mkdir(dir, 0o700)
	other := s.newBus(dir)
	_, done := s.serve(other, func(d *daemon) { d.timeouts.store, d.timeouts.refused = 50*time.Millisecond, 300*time.Millisecond })
	c := s.dial(other)
	s.owner(c, permstore.Name, 0)
	var last time.Time
	for range 3 {
		_, err := mountPoint(c)
		var e *bus.Error
		if !errors.As(err, &e) || e.Name != "org.freedesktop.portal.Error.Failed" || !strings.Contains(e.Message, "another session bus") {
			t.Error(err)
		}
		last = time.Now()
		if _, err = listTable(c); !errors.As(err, &e) || !strings.Contains(e.Message, "another session bus") {
			t.Error(err)
		}
	}
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(deadline):
		t.Fatal("it does not leave")
	}
	if took := time.Since(last); took < 250*time.Millisecond {
		t.Errorf("it left %v after the last call", took)
	}
	if _, err := os.ReadDir(doc); err != nil {
		t.Error("the first one's mount: ", err)
	}
	if _, err := mountPoint(s.conn); err != nil {
		t.Error(err)
	}
}

// TestForeignOwner: where another program has the documents' name and nobody
// the permissions', those are served.
func TestForeignOwner(t *testing.T) {
	s := newSession(t)
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	if ok, err := s.conn.RequestName(ctx, documents.Name, bus.DoNotQueue); !ok || err != nil {
		t.Fatal(ok, err)
	}
	s.serve(s.bus, func(d *daemon) { d.timeouts.names = 100 * time.Millisecond })
	s.owner(s.conn, permstore.Name, 0)
	if _, err := listTable(s.conn); err != nil {
		t.Error(err)
	}
}
