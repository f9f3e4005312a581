package session

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/godbus/dbus/v5"

	"docportal/integration/bwrapargs"
	"docportal/integration/wire"
)

// patience is how long a program of the session may take for an answer. Only
// a person who chooses a file takes that long.
const patience = 2 * time.Minute

// App is the program integration/app, sandboxed by sbx-run.
type App struct {
	Cmd *exec.Cmd // sbx-run
	in  io.WriteCloser
	out *bufio.Scanner
	end sync.Once
	err error
}

// Profile writes a profile file for the app with that id, whose program is one
// of the tests' (Libexec), and returns its path.
func (s *Session) Profile(id, program string) (string, error) {
	to := filepath.Join(s.Home, "program", program)
	if err := copyProgram(s.Libexec(program), to); err != nil {
		return "", err
	}
	path := filepath.Join(s.Home, ".session", id+"."+program)
	return path, write(path, fmt.Appendf(nil, `[Application]
name=%s
command=%s
[Context]
filesystems=~/program:ro;
`, id, to))
}

func copyProgram(from, to string) error {
	if _, err := os.Stat(to); err == nil {
		return nil
	}
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := write(to, b); err != nil {
		return err
	}
	return os.Chmod(to, 0o755)
}

// StartApp starts integration/app with that app id in a sandbox. pathFirst, if
// any, come first in sbx-run's PATH.
func (s *Session) StartApp(id string, pathFirst ...string) (*App, error) {
	return s.startApp(id, pathFirst, nil)
}

// StartAppWith is StartApp with options for sbx-run.
func (s *Session) StartAppWith(id string, options ...string) (*App, error) {
	return s.startApp(id, nil, options)
}

func (s *Session) startApp(id string, pathFirst, options []string) (_ *App, err error) {
	profile, err := s.Profile(id, "app")
	if err != nil {
		return nil, err
	}
	a := &App{Cmd: s.Command("sbx-run", append(options, profile)...)}
	for _, dir := range pathFirst {
		PathFirst(a.Cmd, dir)
	}
	if a.in, err = a.Cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := a.Cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	a.out = bufio.NewScanner(out)
	a.out.Buffer(nil, 16<<20)
	if err := s.Start(a.Cmd); err != nil {
		return nil, fmt.Errorf("sbx-run: %w", err)
	}
	s.onClose(func() error { a.Kill(); return nil })
	return a, nil
}

// Do has the program do something and returns what came of it. An error is one
// of the sandbox; what the program itself could not do stands in the answer.
func (a *App) Do(r wire.Request) (wire.Answer, error) { return a.DoFor(0, r) }

// DoFor is Do for what is to take some time.
func (a *App) DoFor(some time.Duration, r wire.Request) (wire.Answer, error) {
	var answer wire.Answer
	b, err := json.Marshal(r)
	if err != nil {
		return answer, err
	}
	// A program that hangs is ended, which ends the reading.
	t := time.AfterFunc(some+patience, func() { a.Cmd.Process.Kill() })
	defer t.Stop()
	if _, err := a.in.Write(append(b, '\n')); err != nil {
		return answer, fmt.Errorf("the sandboxed program is gone: %w", err)
	}
	if !a.out.Scan() {
		return answer, errors.Join(errors.New("the sandboxed program ended without an answer"), a.out.Err())
	}
	return answer, json.Unmarshal(a.out.Bytes(), &answer)
}

// Close lets the program end by itself and returns sbx-run's exit status as
// exec.Cmd does.
func (a *App) Close() error {
	a.end.Do(func() {
		a.in.Close()
		t := time.AfterFunc(graceful, func() { a.Cmd.Process.Kill() })
		defer t.Stop()
		a.err = a.Cmd.Wait()
	})
	return a.err
}

// Kill ends sbx-run with SIGKILL, if it has not ended yet.
func (a *App) Kill() {
	a.end.Do(func() {
		a.Cmd.Process.Signal(syscall.SIGKILL)
		a.in.Close()
		a.err = a.Cmd.Wait()
	})
}

// Backend is the program integration/backend, which answers file dialogs.
type Backend struct {
	cmd *exec.Cmd
	out *bufio.Scanner
	end sync.Once
}

// Dialog is a file dialog that the desktop portal asked the backend for.
type Dialog struct {
	Method string `json:"method"`
	AppID  string `json:"app_id"`
	Title  string `json:"title"`
}

// backendName is the bus name of integration/backend.
const backendName = "org.freedesktop.impl.portal.desktop.docportaltest"

// StartBackend starts the file dialogs' stand-in, which answers with the file
// that its arguments name, and returns when the desktop portal can call it.
// There is one at a time.
func (s *Session) StartBackend(args ...string) (*Backend, error) {
	b := &Backend{cmd: s.Command(s.Libexec("backend"), args...)}
	out, err := b.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	b.out = bufio.NewScanner(out)
	if err := s.Start(b.cmd); err != nil {
		return nil, err
	}
	s.onClose(func() error { b.Close(); return nil })
	return b, s.AwaitName(backendName)
}

// Next is the next dialog that the backend was asked for, in the order of
// their coming; it waits for one.
func (b *Backend) Next() (Dialog, error) {
	var d Dialog
	t := time.AfterFunc(patience, func() { b.cmd.Process.Kill() })
	defer t.Stop()
	if !b.out.Scan() {
		return d, errors.Join(errors.New("the backend ended"), b.out.Err())
	}
	return d, json.Unmarshal(b.out.Bytes(), &d)
}

// Close ends the backend.
func (b *Backend) Close() {
	b.end.Do(func() {
		b.cmd.Process.Signal(syscall.SIGTERM)
		b.cmd.Wait()
	})
}

// AwaitName waits until a bus name has an owner.
func (s *Session) AwaitName(name string) error {
	conn, err := s.Connect()
	if err != nil {
		return err
	}
	defer conn.Close()
	err = Await(graceful, func() (bool, error) {
		var has bool
		err := conn.BusObject().Call("org.freedesktop.DBus.NameHasOwner", 0, name).Store(&has)
		return has, err
	})
	if err != nil {
		return fmt.Errorf("bus name %s: %w", name, err)
	}
	return nil
}

// Owner is the process id of a bus name's owner, 0 if it has none.
func (s *Session) Owner(name string) (pid int, err error) {
	// A dead process has its names for a moment, in which newer buses cannot
	// say who it was.
	again := Await(5*time.Second, func() (bool, error) {
		pid, err = s.owner(name)
		var d dbus.Error
		return !errors.As(err, &d) || d.Name != "org.freedesktop.DBus.Error.UnixProcessIdUnknown", nil
	})
	return pid, errors.Join(err, again)
}

func (s *Session) owner(name string) (int, error) {
	conn, err := s.Connect()
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	var pid uint32
	err = conn.BusObject().Call("org.freedesktop.DBus.GetConnectionUnixProcessID", 0, name).Store(&pid)
	var d dbus.Error
	if errors.As(err, &d) && d.Name == "org.freedesktop.DBus.Error.NameHasNoOwner" {
		return 0, nil
	}
	return int(pid), err
}

// ServerOf is the process id of the server of the docportal whose keeper, which
// owns its names, is that process; 0 while there is none.
func ServerOf(keeper int) int {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", keeper))
	for _, task := range tasks {
		text, _ := os.ReadFile(task)
		for field := range strings.FieldsSeq(string(text)) {
			if pid, err := strconv.Atoi(field); err == nil {
				return pid
			}
		}
	}
	return 0
}

// StandIn puts a stand-in for bubblewrap (integration/bwrap) into a directory
// of its own and returns the directory, to come first in PATH.
func (s *Session) StandIn(c bwrapargs.Config) (string, error) {
	real, err := exec.LookPath("bwrap")
	if err != nil {
		return "", err
	}
	c.Real = real
	dir, err := os.MkdirTemp(filepath.Join(s.Home, ".session"), "bwrap-")
	if err != nil {
		return "", err
	}
	b, err := json.Marshal(c)
	if err != nil {
		return "", err
	}
	return dir, errors.Join(
		copyProgram(s.Libexec("bwrap"), filepath.Join(dir, "bwrap")),
		write(filepath.Join(dir, "bwrap.json"), b),
	)
}

// PathFirst puts a directory first in a command's PATH.
func PathFirst(cmd *exec.Cmd, dir string) {
	for i, kv := range cmd.Env {
		if len(kv) > 5 && kv[:5] == "PATH=" {
			cmd.Env[i] = "PATH=" + dir + ":" + kv[5:]
			return
		}
	}
}
