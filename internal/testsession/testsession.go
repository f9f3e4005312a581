// Package testsession is what tests of session services need: an ordinary user
// to run as and a session bus of their own. It keeps one rule: when the test
// process ends, however it ends, nothing of it is left running.
package testsession

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Run runs the tests and returns the exit status for TestMain. Root runs them
// again as nobody, or whom DOCPORTAL_TEST_USER names: root may read and write
// everything, and no session is root's.
func Run(m *testing.M) int {
	if os.Geteuid() != 0 || Fuzzing() {
		return m.Run()
	}
	status, err := asOrdinaryUser()
	if err != nil {
		fmt.Fprintln(os.Stderr, "cannot run as an ordinary user:", err)
		return 1
	}
	return status
}

// Fuzzing reports whether the process fuzzes. It then talks to its workers and
// writes to the caller's cache; fuzz targets are functions of their input and
// do not care who they are.
func Fuzzing() bool {
	for _, a := range os.Args[1:] {
		if strings.HasPrefix(a, "-test.fuzz=") || strings.HasPrefix(a, "-test.fuzzworker") {
			return true
		}
	}
	return false
}

func asOrdinaryUser() (status int, err error) {
	name := os.Getenv("DOCPORTAL_TEST_USER")
	if name == "" {
		name = "nobody"
	}
	u, err := user.Lookup(name)
	if err != nil {
		return 0, err
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return 0, err
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return 0, err
	}
	if uid == 0 {
		return 0, fmt.Errorf("%s is root", name)
	}
	dir, err := os.MkdirTemp("", "docportal-test-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	// The go command builds where only root can look.
	program, tmp := filepath.Join(dir, "test"), filepath.Join(dir, "tmp")
	text, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return 0, err
	}
	for _, step := range []func() error{
		func() error { return os.Chmod(dir, 0o755) },
		func() error { return os.WriteFile(program, text, 0o755) },
		func() error { return os.Mkdir(tmp, 0o700) },
		func() error { return os.Chown(tmp, uid, gid) },
	} {
		if err := step(); err != nil {
			return 0, err
		}
	}
	cmd := exec.Command(program)
	for _, a := range os.Args[1:] {
		// Files that the go command wants from root stay root's.
		if !strings.HasPrefix(a, "-test.testlogfile=") && !strings.HasPrefix(a, "-test.gocoverdir=") {
			cmd.Args = append(cmd.Args, a)
		}
	}
	cmd.Dir = tmp
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + tmp, "HOME=" + tmp}
	if source, err := os.Getwd(); err == nil {
		cmd.Env = append(cmd.Env, SourceVariable+"="+source)
	}
	for _, kv := range os.Environ() {
		if strings.HasPrefix(kv, "DOCPORTAL_") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid), Groups: []uint32{uint32(gid)}},
		Pdeathsig:  syscall.SIGKILL,
	}
	if err := cmd.Run(); err != nil {
		if s := cmd.ProcessState; s != nil && s.ExitCode() > 0 {
			return s.ExitCode(), nil
		}
		return 0, err
	}
	return 0, nil
}

// SourceVariable names the environment variable with the directory that the
// tests were started in, their package's, where they run in another one.
const SourceVariable = "DOCPORTAL_SOURCE"

// Bus is a dbus-daemon.
type Bus struct {
	Address string
	Socket  string // its path
	cmd     *exec.Cmd
	cancel  context.CancelFunc
}

// StartBus starts a session bus whose socket is "bus" in dir, and ends it with
// the test. The environment is that of the services which it starts; they are
// looked for in $XDG_DATA_DIRS/dbus-1/services.
func StartBus(t testing.TB, dir string, environment ...string) *Bus {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	b := &Bus{Socket: filepath.Join(dir, "bus"), cancel: cancel}
	b.cmd = exec.CommandContext(ctx, "dbus-daemon", "--session", "--nofork", "--nopidfile", "--print-address", "--address=unix:path="+b.Socket)
	b.cmd.Env = append(os.Environ(), environment...)
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if os.Getenv("DOCPORTAL_TEST_LOG") != "" {
		b.cmd.Stderr = os.Stderr // its own words, and those of what it starts
	}
	out, err := b.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Stop)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal("dbus-daemon says no address: ", err)
	}
	b.Address = strings.TrimSpace(line)
	return b
}

// Stop ends the bus. It may be called again.
func (b *Bus) Stop() {
	b.cancel()
	b.cmd.Wait()
}

// Limit is how long something may take for which there is a time: that time in the
// long tests, which have a machine for themselves, and else what tells what hangs
// from what is slow because the machine has much else to do.
func Limit(exact time.Duration) time.Duration {
	if os.Getenv("DOCPORTAL_LONG") != "" {
		return exact
	}
	return 20 * time.Second
}
