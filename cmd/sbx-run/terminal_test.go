package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// interruptedOn is interrupted TEXT PROGRAM [ARG…]: on a terminal of its own the program prints
// "ready", ^C is typed, and then an empty line; what it prints ends with the
// text.
func interruptedOn(ts *testscript.TestScript, neg bool, args []string) {
	terminal, name, err := openTerminal()
	ts.Check(err)
	defer terminal.Close()
	tty, err := os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY, 0)
	ts.Check(err)
	path, err := exec.LookPath(ts.Getenv("BIN") + "/" + args[1])
	ts.Check(err)
	cmd := exec.Command(path, args[2:]...)
	cmd.Dir = ts.MkAbs(".")
	for _, name := range []string{"HOME", "PATH", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "TESTSCRIPT_COMMAND"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	err = cmd.Start()
	tty.Close()
	ts.Check(err)
	stuck := time.AfterFunc(20*time.Second, func() { cmd.Process.Kill() })
	defer stuck.Stop()
	var all []byte
	buf := make([]byte, 4096)
	typed := 0
	for {
		n, err := terminal.Read(buf)
		all = append(all, buf[:n]...)
		if typed == 0 && bytes.Contains(all, []byte("ready")) {
			_, werr := terminal.Write([]byte{3})
			ts.Check(werr)
			typed++
		}
		if typed == 1 && bytes.Contains(all, []byte("got")) {
			_, werr := terminal.Write([]byte{'\n'})
			ts.Check(werr)
			typed++
		}
		if err != nil { // EIO: nobody has the terminal any more
			break
		}
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		ts.Fatalf("%v", err)
	}
	said := strings.Join(strings.Fields(string(all)), " ")
	if got := fmt.Sprintf("%s %d", said, cmd.ProcessState.ExitCode()); !strings.HasSuffix(got, args[0]) {
		ts.Fatalf("the terminal shows %q, want %q at its end", got, args[0])
	}
}

// openTerminal makes a pseudo terminal.
func openTerminal() (*os.File, string, error) {
	f, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, "", err
	}
	n, err := unix.IoctlGetInt(int(f.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(f.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		f.Close()
		return nil, "", err
	}
	return f, fmt.Sprintf("/dev/pts/%d", n), nil
}
