package sandbox

import (
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Bwrap's first process in a sandbox, with which all others end, is bound to
// nobody's life for a while: it waits for bwrap's word, holds both ends of what
// the word comes through, and asks the kernel to end it with its parent only as
// the last thing before it runs something. A bwrap that is killed meanwhile
// leaves it waiting for ever. So the thread that starts bwrap traces that
// process from its first moment to this last one: the kernel kills what is traced
// with who traces it (PTRACE_O_EXITKILL). Nothing else is done with it.

// traceable reports whether bwrap is the same when it is traced: a program with
// privileges of its own loses them.
func traceable(bwrap string) bool {
	info, err := os.Stat(bwrap)
	if err != nil || info.Mode()&(os.ModeSetuid|os.ModeSetgid) != 0 {
		return false
	}
	_, err = unix.Getxattr(bwrap, "security.capability", nil)
	return err != nil
}

// firstOf lets a bwrap go on until it has made the first process of its sandbox
// and returns that process, which is stopped and traced; 0 if there is none. The
// calling thread has started bwrap with SysProcAttr.Ptrace, so bwrap is bound to
// the thread already. Bwrap itself is not traced any more then; before that no
// other thread may wait for it: each wait takes the stops of what is traced, too.
func firstOf(bwrap int) int {
	if _, ok := stopOf(bwrap, 0); !ok {
		return 0
	}
	defer unix.PtraceDetach(bwrap)
	if unix.PtraceSetOptions(bwrap, unix.PTRACE_O_EXITKILL|unix.PTRACE_O_TRACEEXEC|
		unix.PTRACE_O_TRACEFORK|unix.PTRACE_O_TRACEVFORK|unix.PTRACE_O_TRACECLONE) != nil {
		return 0
	}
	for { // what is called bwrap can be a script around it
		event, child, ok := next(bwrap, 0)
		if !ok {
			return 0
		}
		if event == unix.PTRACE_EVENT_EXEC {
			continue
		}
		if !begun(child, unix.WEXITED) {
			continue
		}
		if isFirst(child) {
			return child
		}
		unix.PtraceDetach(child)
	}
}

// attend keeps the first process of a sandbox traced until it is the proxy, or
// has made the gate.
func attend(first int) {
	event, child, ok := next(first, unix.WEXITED)
	if !ok {
		return
	}
	defer unix.PtraceDetach(first)
	if event == unix.PTRACE_EVENT_EXEC {
		return
	}
	if begun(child, 0) {
		unix.PtraceDetach(child)
	}
}

// begun waits until a process that was made by a traced one is stopped, as it is
// before it does anything. Signals that come before that one are passed on: left
// alone with it, the process would stay stopped.
func begun(pid, reap int) bool {
	for {
		status, ok := stopOf(pid, reap)
		if !ok || status == int(unix.SIGSTOP) {
			return ok
		}
		if unix.PtraceCont(pid, status&0x7f) != nil {
			return false
		}
	}
}

// isFirst reports whether a process is the first one of a namespace.
func isFirst(pid int) bool {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, rest, _ := strings.Cut(string(status), "\nNSpid:")
	line, _, _ := strings.Cut(rest, "\n")
	return strings.HasSuffix(line, "\t1")
}

// next lets a traced process go on until it makes another one, whose id it
// returns, or executes a program; it is stopped then, and so is the other. ok is
// false when it ends. About reap see stopOf.
func next(pid, reap int) (event, child int, ok bool) {
	sig := 0
	for {
		if unix.PtraceCont(pid, sig) != nil {
			return 0, 0, false
		}
		status, ok := stopOf(pid, reap)
		if !ok {
			return 0, 0, false
		}
		switch event := status >> 8; event {
		case unix.PTRACE_EVENT_EXEC:
			return event, 0, true
		case unix.PTRACE_EVENT_FORK, unix.PTRACE_EVENT_VFORK, unix.PTRACE_EVENT_CLONE:
			message, err := unix.PtraceGetEventMsg(pid)
			return event, int(message), err == nil
		case 0: // a signal, which is passed on
			sig = status
			if sig == int(unix.SIGSTOP) || sig == int(unix.SIGTSTP) {
				sig = 0 // it would stop without us
			}
		default:
			sig = 0
		}
	}
}

// stopOf waits until a process that the calling thread traces stops, and
// returns the signal with the event above its low byte. ok is false when it has
// ended. Reap is WEXITED for a process whose parent learns of its end only from
// its tracer, and 0 for one whose end another thread of ours waits for.
func stopOf(pid, reap int) (status int, ok bool) {
	for {
		// Look first: what stops can be killed before it is taken, and the end
		// is not ours to take.
		var info childInfo
		if !waitFor(pid, &info, unix.WSTOPPED|unix.WEXITED|unix.WNOWAIT) {
			return 0, false
		}
		if code := info.Code; code != cldTrapped && code != cldStopped {
			if reap != 0 {
				waitFor(pid, &info, unix.WEXITED)
			}
			return 0, false
		}
		info = childInfo{}
		if waitFor(pid, &info, unix.WSTOPPED|unix.WNOHANG) && info.pid != 0 {
			return int(info.status), true
		}
	}
}

// Codes of a child's news (sigaction(2)).
const (
	cldTrapped = 4
	cldStopped = 5
)

// childInfo is siginfo_t as waitid(2) fills it in. The union begins where a
// pointer could.
type childInfo struct {
	Signo, Errno, Code int32
	_                  [unsafe.Sizeof(uintptr(0))/4 - 1]int32
	pid                int32
	uid                uint32
	status             int32
	_                  [128 - 24 - 4*(unsafe.Sizeof(uintptr(0))/4-1)]byte
}

// waitFor is waitid(2) for one process, of whatever kind.
func waitFor(pid int, info *childInfo, options int) bool {
	for {
		err := unix.Waitid(unix.P_PID, pid, (*unix.Siginfo)(unsafe.Pointer(info)), options|unix.WALL, nil)
		if err != unix.EINTR {
			return err == nil
		}
	}
}
