package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"docportal/internal/sandbox"
)

// Sbx-run is two processes, each of which ends what the other leaves when it is
// killed: there are moments in which a process of bwrap's is bound to nobody's
// life. The keeper is the one that was called. It starts the other with its own
// arguments, tells it of signals, and passes its exit status on. The worker
// learns of the keeper's end by the end of the pipe between them. Orphans of
// either come to the other, since both are subreapers.

// keptMark is the worker's first argument.
const keptMark = "--kept-by="

// keep is the keeper. It returns the exit status.
func keep() int {
	becomeSubreaper()
	restore := saveTerminal()
	defer restore()
	r, w, err := os.Pipe()
	if err != nil {
		fmt.Fprintf(os.Stderr, "sbx-run: %v\n", err)
		return exitFailed
	}
	defer w.Close()
	signals := make(chan os.Signal, 8)
	for _, sig := range sandbox.Forwarded {
		if !signal.Ignored(sig) { // as nohup(1) has it, also for the app
			signal.Notify(signals, sig)
		}
	}
	// Not by a path: the file could have been exchanged for a newer one.
	pid, err := syscall.ForkExec("/proc/self/exe", append([]string{os.Args[0], keptMark + "3"}, os.Args[1:]...), &syscall.ProcAttr{
		Env: os.Environ(), Files: []uintptr{0, 1, 2, r.Fd()},
	})
	r.Close()
	if err != nil {
		fmt.Fprintf(os.Stderr, "sbx-run: %v\n", err)
		return exitFailed
	}
	var status syscall.WaitStatus
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			if _, err := syscall.Wait4(pid, &status, 0, nil); err != syscall.EINTR {
				return
			}
		}
	}()
	shrink := time.After(sandbox.ShrinkDelay)
	for {
		select {
		case sig := <-signals:
			w.Write([]byte{byte(sig.(syscall.Signal))}) // fails when the worker has ended
		case <-shrink:
			sandbox.Shrink()
		case <-ended:
			sandbox.EndChildren()
			if status.Signaled() {
				return 128 + int(status.Signal())
			}
			return status.ExitStatus()
		}
	}
}

func isKept(args []string) bool { return len(args) > 0 && args[0] == keptMark+"3" }

// kept reports whether this process is a worker, and takes the mark off its
// arguments. Pipe is where the keeper tells of signals; it ends with the
// keeper.
func kept(args []string) (rest []string, pipe *os.File, ok bool) {
	if !isKept(args) {
		return args, nil, false
	}
	unix.SetNonblock(3, true)
	return args[1:], os.NewFile(3, "keeper"), true
}

// errKeeperEnded ends a worker.
var errKeeperEnded = errors.New("killed")

// hear reads what the keeper tells until it ends, and calls end then.
func hear(pipe *os.File, signals chan<- os.Signal, end func()) {
	defer end()
	buf := make([]byte, 16)
	for {
		n, err := pipe.Read(buf)
		for _, b := range buf[:n] {
			select {
			case signals <- syscall.Signal(b):
			default: // as many are waiting already
			}
		}
		if err != nil {
			return
		}
	}
}

// ignoreTerminal has this process and bwrap ignore the signals that a terminal
// sends to all of its foreground: they are the app's. It returns those that
// the app must not ignore.
func ignoreTerminal() (defaults []syscall.Signal) {
	for _, sig := range []syscall.Signal{unix.SIGINT, unix.SIGQUIT} {
		if !signal.Ignored(sig) {
			signal.Ignore(sig)
			defaults = append(defaults, sig)
		}
	}
	return defaults
}

func becomeSubreaper() {
	unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) // cannot fail
}

// saveTerminal returns a function that puts the terminal's modes back, which a
// program that was killed may have changed, and whether reads and writes wait
// for it, which who shares the terminal with the program takes for granted; not
// if it is another's by then.
func saveTerminal() (restore func()) {
	before, err := unix.IoctlGetTermios(0, unix.TCGETS)
	if err != nil {
		return func() {}
	}
	var flags [3]int
	for fd := range flags {
		flags[fd] = terminalFlags(fd)
	}
	return func() {
		group, err := unix.IoctlGetInt(0, unix.TIOCGPGRP)
		if err != nil || group != unix.Getpgrp() && unix.Kill(-group, 0) != unix.ESRCH {
			return
		}
		for fd, had := range flags {
			if now := terminalFlags(fd); had >= 0 && now >= 0 && now != had {
				unix.FcntlInt(uintptr(fd), unix.F_SETFL, had)
			}
		}
		after, err := unix.IoctlGetTermios(0, unix.TCGETS)
		if err != nil || *after == *before {
			return
		}
		signal.Ignore(unix.SIGTTOU)
		unix.IoctlSetTermios(0, unix.TCSETSW, before)
	}
}

// terminalFlags are the flags of a descriptor of a terminal, -1 if it is none.
func terminalFlags(fd int) int {
	if _, err := unix.IoctlGetTermios(fd, unix.TCGETS); err != nil {
		return -1
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return -1
	}
	return flags
}
