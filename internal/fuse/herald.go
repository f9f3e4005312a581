package fuse

import (
	"encoding/binary"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A notice to the kernel may have to wait until requests for the same file are
// answered, and nothing ends that wait, not even the end of the process: who is
// killed in it stays until his successor has answered. So notices are written by
// threads that share no descriptors with the others, and have the FUSE
// connection, and what the runtime needs, alone: everything else that the process
// had is free when it dies, the store and the bus too, and the successor can begin.

// heralds are the threads that write notices. There are as many as notices
// wait at a time.
type heralds struct {
	device int   // owned
	low    *Low  // that device is in; nil if it is not
	shared []int // what a thread needs that runs Go code, sorted

	mu     sync.Mutex
	idle   []chan notice
	closed bool
}

// notice is a message for the kernel.
type notice struct {
	message []byte
	written chan bool // told when it was, and whether the connection lives
}

// newHeralds takes over device.
func newHeralds(device int, low *Low) *heralds {
	pollerIsThere()
	h := &heralds{device: device, shared: runtimeFiles()}
	if n, ok := low.take(device); ok {
		h.device, h.low = n, low
	}
	return h
}

// pollerIsThere returns when the runtime's poller is: timers need it.
func pollerIsThere() { time.AfterFunc(time.Hour, func() {}).Stop() }

// Low has the low numbers of descriptors. A table of a thread's own begins as a
// copy, and what is closed in a copy is closed as far as its file system knows
// (FUSE_FLUSH), which waits for one that does not answer: then nobody would be told
// of anything. But the numbers from lowNumbers on can be left out of a copy, so what
// a file system may be asked of is to have these.
type Low struct {
	null int
	mu   sync.Mutex
	free []int
}

// lowNumbers is how many descriptors the kernel copies at least.
const lowNumbers = 64

// Reserve takes all numbers below lowNumbers that are free, until the end of the
// process. Who calls it has no file open yet. It returns nil where descriptors are
// too few for that.
func Reserve() *Low {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil || limit.Cur < 4*lowNumbers {
		return nil
	}
	pollerIsThere()
	null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	l := &Low{null: null}
	for {
		fd, err := unix.FcntlInt(uintptr(null), unix.F_DUPFD_CLOEXEC, 3)
		if err == nil && fd < lowNumbers {
			l.free = append(l.free, fd)
			continue
		}
		if err == nil {
			unix.Close(fd)
		}
		return l
	}
}

// take gives fd one of the numbers, and closes fd.
func (l *Low) take(fd int) (n int, ok bool) {
	if l == nil {
		return 0, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	last := len(l.free) - 1
	if last < 0 || unix.Dup3(fd, l.free[last], unix.O_CLOEXEC) != nil {
		return 0, false
	}
	n, l.free = l.free[last], l.free[:last]
	unix.Close(fd)
	return n, true
}

// put takes a number back, and closes what has it.
func (l *Low) put(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if unix.Dup3(l.null, n, unix.O_CLOEXEC) == nil {
		l.free = append(l.free, n)
	}
}

// runtimeFiles are the descriptors that any thread may use that runs Go code: the
// runtime's poller and what wakes it, without which it ends the process, and
// standard error, to which it says why.
func runtimeFiles() []int {
	shared := []int{2}
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		switch to, _ := os.Readlink("/proc/self/fd/" + e.Name()); to {
		case "anon_inode:[eventpoll]", "anon_inode:[eventfd]":
			shared = append(shared, fd)
		}
	}
	slices.Sort(shared)
	return shared
}

// maxIdleHeralds is how many threads stay for the next notices.
const maxIdleHeralds = 2

// write writes a message and returns when the kernel has done what it says, and
// whether the connection lives after that. Errors are of no interest: what is to
// be forgotten may be gone.
func (h *heralds) write(message []byte) bool {
	n := notice{message, make(chan bool, 1)}
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return false
	}
	var to chan notice
	if last := len(h.idle) - 1; last >= 0 {
		to, h.idle = h.idle[last], h.idle[:last]
	} else {
		to = make(chan notice, 1)
		// A descriptor for this thread: who closes h does not wait for it.
		device, err := unix.FcntlInt(uintptr(h.device), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			h.mu.Unlock()
			return false
		}
		started := make(chan bool, 1)
		go h.stand(device, to, started)
		if apart := <-started; apart {
			unix.Close(device) // it has its own
		}
	}
	h.mu.Unlock()
	to <- n
	return <-n.written
}

// stand is a thread. It ends when it is not needed, with its thread.
// started is told whether it has a table of descriptors of its own.
func (h *heralds) stand(device int, notices chan notice, started chan bool) {
	runtime.LockOSThread() // and never unlocked: nobody else can use it
	if unix.Gettid() == unix.Getpid() {
		// /proc/self is about the first thread: not this one.
		another := make(chan bool, 1)
		go h.stand(device, notices, another)
		started <- <-another
		runtime.UnlockOSThread()
		return
	}
	apart := h.low != nil && unix.CloseRange(lowNumbers, math.MaxUint32, unix.CLOSE_RANGE_UNSHARE) == nil
	from := 0
	if apart {
		device, from = h.device, 3 // a program's output may be on any disk
	} else {
		apart = unix.Unshare(unix.CLONE_FILES) == nil
	}
	if apart {
		keep := append(slices.Clone(h.shared), device)
		slices.Sort(keep)
		for _, fd := range keep {
			if fd > from {
				unix.CloseRange(uint(from), uint(fd-1), 0)
			}
			from = max(from, fd+1)
		}
		unix.CloseRange(uint(from), math.MaxUint32, 0)
	}
	started <- apart
	for n := range notices {
		ignoringEINTR(func() error {
			_, err := unix.Write(device, n.message)
			return err
		})
		// Of a connection that was ended the kernel takes notices, and does
		// nothing.
		p := []unix.PollFd{{Fd: int32(device)}}
		err := ignoringEINTR(func() error {
			_, err := unix.Poll(p, 0)
			return err
		})
		lives := err == nil && p[0].Revents&(unix.POLLERR|unix.POLLNVAL) == 0
		h.mu.Lock()
		more := !h.closed && len(h.idle) < maxIdleHeralds
		if more {
			h.idle = append(h.idle, notices)
		}
		h.mu.Unlock()
		n.written <- lives
		if !more {
			break
		}
	}
	if !apart {
		unix.Close(device)
	}
}

// close lets no more notices begin.
func (h *heralds) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return
	}
	h.closed = true
	for _, to := range h.idle {
		close(to)
	}
	h.idle = nil
	if h.low != nil {
		h.low.put(h.device)
	} else {
		unix.Close(h.device)
	}
}

// Notices (linux/fuse.h).
const (
	notifyInvalInode = 2
	notifyInvalEntry = 3
)

// header is that of a notice of size bytes.
func noticeHeader(code uint32, size int) []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(16+size))
	b = binary.NativeEndian.AppendUint32(b, code)
	return append(b, make([]byte, 8)...)
}

// inode drops what the kernel has of a node: its attributes, and its pages from
// the offset on unless that is negative. It reports whether the connection lives.
func (h *heralds) inode(node uint64, offset int64) bool {
	b := noticeHeader(notifyInvalInode, 24)
	b = binary.NativeEndian.AppendUint64(b, node)
	b = binary.NativeEndian.AppendUint64(b, uint64(offset))
	return h.write(append(b, make([]byte, 8)...)) // length 0: to the end
}

// entry drops a name.
func (h *heralds) entry(parent uint64, name string) {
	b := noticeHeader(notifyInvalEntry, 16+len(name)+1)
	b = binary.NativeEndian.AppendUint64(b, parent)
	b = binary.NativeEndian.AppendUint32(b, uint32(len(name)))
	b = binary.NativeEndian.AppendUint32(b, 0)
	h.write(append(append(b, name...), 0))
}

// cloneDevice opens the connection once more (FUSE_DEV_IOC_CLONE, linux/fuse.h).
// The kernel keeps what was received by one such device apart from the others:
// when nobody has that one any more, what was not answered fails, although a
// thread that waits in a notice has the connection still. So the thread goes on and
// can end. Where the device cannot be opened it is the same one.
func cloneDevice(device *os.File) (int, error) {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return unix.FcntlInt(device.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	}
	if unix.IoctlSetPointerInt(fd, fuseClone, int(device.Fd())) != nil {
		unix.Close(fd)
		return unix.FcntlInt(device.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	}
	return fd, nil
}

// fuseClone is FUSE_DEV_IOC_CLONE, _IOR(229, 0, uint32_t), but on machines where
// these numbers are made in another way and are refused.
const fuseClone = 0x8004e500
