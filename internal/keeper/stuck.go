package keeper

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A server that is killed can be unable to end: a thread of it waits, for good,
// for an answer on the file view, which nobody gives any more because the next
// server is started only when this one has let go of what it had. Then the keeper
// itself answers, with an error, until the process has ended.
//
// What shows it is a thread of the server, the witness, that does nothing: it
// has a table of descriptors of its own, with one end of a pipe and nothing
// else. The pipe ends with this thread, whatever becomes of the others.

const (
	// stuckTime is how long a process may take to end after its witness.
	stuckTime = time.Second
	// slowTime is how long one may that waits for a disk, and for no file system
	// that may be its own. A slow disk with much to do is no failure.
	slowTime = 20 * time.Second
)

// waitsForFUSE reports whether a thread of a process waits for the answer of a FUSE
// file system, or may: nothing is told where the kernel does not (proc(5), wchan).
func waitsForFUSE(pid int) bool {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/wchan", pid))
	elsewhere := false
	for _, task := range tasks {
		text, _ := os.ReadFile(task)
		switch where := string(text); {
		case where == "request_wait_answer", strings.Contains(where, "fuse"):
			return true
		case where != "" && where != "0": // 0: it runs, or has ended
			elsewhere = true
		}
	}
	return !elsewhere
}

// witness makes a thread that holds fd, and takes fd from all others.
func witness(fd int) {
	ready := make(chan struct{})
	var stand func()
	stand = func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// /proc/self is about the first thread: not this one. It is locked
			// while another is found.
			go stand()
			<-ready
			runtime.UnlockOSThread()
			return
		}
		if unix.Unshare(unix.CLONE_FILES) == nil {
			if fd > 0 {
				unix.CloseRange(0, uint(fd-1), 0)
			}
			unix.CloseRange(uint(fd+1), math.MaxUint32, 0)
		}
		// From here on it is the runtime's no more: not even to end.
		close(ready)
		for {
			unix.Poll(nil, -1)
		}
	}
	go stand() // ends with the process
	<-ready
	unix.Close(fd)
}

// Parts of the FUSE protocol (linux/fuse.h).
const (
	fuseForget      = 2
	fuseInterrupt   = 36
	fuseBatchForget = 42
	fuseResend      = 7
	// fuseBuffer holds the largest request.
	fuseBuffer = 1<<20 + 64<<10
)

// refuse answers every request on a FUSE connection with EIO, those first that
// a server has received and not answered, until done is closed.
func refuse(device int, done func() bool) {
	message := func(code int32, unique uint64) {
		b := binary.NativeEndian.AppendUint32(nil, 16)
		b = binary.NativeEndian.AppendUint32(b, uint32(code))
		unix.Write(device, binary.NativeEndian.AppendUint64(b, unique))
	}
	b := make([]byte, fuseBuffer)
	for !done() {
		message(fuseResend, 0)
		for !done() {
			fds := []unix.PollFd{{Fd: int32(device), Events: unix.POLLIN}}
			if n, err := unix.Poll(fds, 20); err == unix.EINTR {
				continue
			} else if n <= 0 || fds[0].Revents&unix.POLLIN == 0 {
				break
			}
			n, err := unix.Read(device, b)
			if err == unix.ENODEV {
				return
			}
			if err != nil || n < 16 {
				continue
			}
			switch binary.NativeEndian.Uint32(b[4:]) {
			case fuseForget, fuseBatchForget, fuseInterrupt: // want no answer
			default:
				message(-int32(unix.EIO), binary.NativeEndian.Uint64(b[8:]))
			}
		}
	}
}
