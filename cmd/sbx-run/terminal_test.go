package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// talk is talk STATUS SCRIPT PROGRAM [ARG…]: runs the program on a terminal of
// its own, as a shell runs it, and talks to it. Each line of the script is
// "> TEXT" to type a line, "^C" or another control character to type that, or
// "< TEXT" to wait for the text; "! TEXT" fails if the text was said before.
func talk(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	script := ts.ReadFile(args[1])
	terminal, name, err := openTerminal()
	ts.Check(err)
	defer terminal.Close()
	tty, err := os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY, 0)
	ts.Check(err)
	program := args[2]
	if own, err := exec.LookPath(ts.Getenv("BIN") + "/" + program); err == nil {
		program = own
	}
	cmd := exec.Command(program, args[3:]...)
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = []string{"TERM=dumb"}
	for _, name := range []string{"HOME", "PATH", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "TESTSCRIPT_COMMAND"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	err = cmd.Start()
	tty.Close()
	ts.Check(err)
	ended := false
	stuck := time.AfterFunc(time.Minute, func() { cmd.Process.Kill(); terminal.Close() })
	defer stuck.Stop()
	defer func() {
		if !ended {
			cmd.Process.Kill()
			cmd.Wait()
		}
	}()
	var said []byte // not yet waited for
	var before []byte
	buf := make([]byte, 4096)
	for line := range strings.Lines(script) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case line == "" || line[0] == '#':
		case len(line) == 2 && line[0] == '^':
			_, err := terminal.Write([]byte{line[1] & 0x1f})
			ts.Check(err)
		case strings.HasPrefix(line, "> "), line == ">":
			_, err := terminal.WriteString(strings.TrimPrefix(line[1:], " ") + "\n")
			ts.Check(err)
		case strings.HasPrefix(line, "! "):
			if bytes.Contains(before, []byte(line[2:])) || bytes.Contains(said, []byte(line[2:])) {
				ts.Fatalf("the terminal shows %q: %q", line[2:], append(before, said...))
			}
		case strings.HasPrefix(line, "< "):
			for {
				if i := bytes.Index(said, []byte(line[2:])); i >= 0 {
					i += len(line) - 2
					before, said = append(before, said[:i]...), said[i:]
					break
				}
				n, err := terminal.Read(buf)
				said = append(said, buf[:n]...)
				if err != nil && !bytes.Contains(said, []byte(line[2:])) {
					ts.Fatalf("the terminal shows %q, and not %q", append(before, said...), line[2:])
				}
			}
		default:
			ts.Fatalf("%s: what is %q?", args[1], line)
		}
	}
	for { // until nobody has the terminal any more
		n, err := terminal.Read(buf)
		said = append(said, buf[:n]...)
		if err != nil {
			break
		}
	}
	err = cmd.Wait()
	ended = true
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		ts.Fatalf("%v", err)
	}
	if got := cmd.ProcessState.ExitCode(); got != want {
		ts.Fatalf("exit status %d, want %d; the terminal shows %q", got, want, append(before, said...))
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
