package fuse

import (
	"encoding/binary"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The kernel asks for the attributes of a file before each read(2) from it, so
// that it never gives pages that the host has changed since. For a program that
// reads a large file in small pieces that is all the work. So the file that is
// read like that gets a read lease (fcntl(2), F_SETLEASE), and while that lasts
// the kernel may use what it was told for a moment.
//
// A lease is given only while nobody has the file open for writing, and who opens
// it for that, or truncates it, waits until this process gives the lease back. It
// does so after the kernel has been told to ask again; hence no byte and no size
// is ever older than what native files show. The names of the file are not
// affected, since they are looked up each time.
//
// Changes of what is not data do not end a lease: owner, mode, times and number
// of links, as fstat(2) shows them, may be as much behind as one answer may be
// used, unless a watch (inotify(7)) on the file is faster.

const (
	// readingAsks is how many questions for the attributes, one after the
	// other by reads from one open file and within readingTime, make it one
	// that is read as a stream.
	readingAsks = 8
	readingTime = 100 * time.Millisecond
	// leaseIdle is after how long without a question a lease is given back.
	leaseIdle = 50 * time.Millisecond
	// leaseAgain is for how long a file gets no lease after it could not have
	// one or had to give it back: it is being written.
	leaseAgain = time.Second
	// maxLeases is how many files are read as streams at the same time.
	maxLeases = 16
	// leaseTimeout is for how long the kernel may use an answer: the kernel
	// counts in ticks of its clock, and this is one, of 1 to 10 ms.
	leaseTimeout = time.Nanosecond
	// leaseChanges is what may become of a file without ending a lease on it.
	leaseChanges = unix.IN_ATTRIB | unix.IN_MOVE_SELF | unix.IN_DELETE_SELF
)

// readings holds the leases on the files that apps read as streams.
type readings struct {
	// forget makes the kernel ask for the attributes of a node again. It
	// waits for no lock that a request could hold: it is about attributes
	// only, not pages.
	forget func(node uint64)

	mu      sync.Mutex
	leases  map[*node]*lease
	running chan struct{} // closed when run has ended; nil before it began
	stop    chan struct{} // closed to end run
	wake    chan struct{} // something is to be given back
	watch   *os.File      // inotify(7); nil if there is none
	watchFD int           // its descriptor: asking the file for it would make it block
	closed  bool
}

// lease is a lease that this process has on a file.
type lease struct {
	n     *node
	h     *handle // by which it is read
	d     *descriptor
	watch int32 // the inotify watch; negative if there is none
	last  time.Time
	ended bool // it is to be given back
}

// asks counts the questions of an open file. readings.mu guards it.
type asks struct {
	since time.Time
	n     int
	never time.Time // no lease before that
}

// asked notes that h, whose descriptor is in use, is being read from, and
// reports whether the kernel may use the attributes that it is told, which are
// read after this.
func (r *readings) asked(h *handle) bool {
	if h.flags&unix.O_ACCMODE != unix.O_RDONLY {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if l := r.leases[h.n]; l != nil {
		if l.ended {
			return false
		}
		l.last = now
		return true
	}
	a := &h.asks
	if now.Sub(a.since) > readingTime {
		a.since, a.n = now, 0
	}
	if a.n++; a.n < readingAsks {
		return false
	}
	a.n = 0
	if r.closed || now.Before(a.never) || len(r.leases) >= maxLeases {
		return false
	}
	if !r.take(h, now) {
		a.never = now.Add(leaseAgain)
		return false
	}
	return true
}

// take takes a lease on the file of h. r.mu is held.
func (r *readings) take(h *handle, now time.Time) bool {
	if r.running == nil {
		r.start()
	}
	fd := h.d.fd
	// Signals go to the process: the thread that this runs on may end.
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETOWN, os.Getpid()); err != nil {
		return false
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_RDLCK); err != nil {
		return false // somebody writes, it is another user's, or no file system for it
	}
	l := &lease{n: h.n, h: h, d: h.d.get(), watch: -1, last: now}
	if r.watch != nil {
		if wd, err := unix.InotifyAddWatch(r.watchFD, h.d.path(), leaseChanges); err == nil {
			l.watch = int32(wd)
		}
	}
	r.leases[h.n] = l
	if len(r.leases) == 1 {
		r.poke()
	}
	return true
}

// closing gives the lease back that is held by way of h, if there is one.
func (r *readings) closing(h *handle) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if l := r.leases[h.n]; l != nil && l.h == h {
		l.ended = true
		r.poke()
	}
}

// revoke gives back the leases of a document, whose permissions have changed,
// and returns when the kernel will ask again.
func (r *readings) revoke(id string) {
	r.mu.Lock()
	var ended []*lease
	for _, l := range r.leases {
		if l.n.view.id == id {
			l.ended = true
			ended = append(ended, l)
		}
	}
	r.poke()
	r.mu.Unlock()
	for _, l := range ended {
		r.forget(l.n.id)
	}
}

// poke makes run look at what there is. r.mu is held.
func (r *readings) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// start begins to give leases back. r.mu is held.
func (r *readings) start() {
	r.leases = make(map[*node]*lease)
	r.running, r.stop, r.wake = make(chan struct{}), make(chan struct{}), make(chan struct{}, 1)
	if fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK); err == nil {
		r.watch, r.watchFD = os.NewFile(uintptr(fd), "inotify"), fd
		go r.watchChanges(r.watch)
	}
	// Each lease that has to be given back is announced by a signal.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGIO)
	go r.run(signals)
}

// run gives back the leases that somebody waits for, or that nobody needs.
func (r *readings) run(signals chan os.Signal) {
	defer close(r.running)
	defer signal.Stop(signals)
	timer := time.NewTimer(leaseIdle)
	defer timer.Stop()
	for {
		broken := false
		select {
		case <-signals:
			broken = true
		case <-timer.C:
		case <-r.wake:
		case <-r.stop:
			r.giveBack(true, true)
			return
		}
		if r.giveBack(broken, false) {
			timer.Reset(leaseIdle)
		} else {
			timer.Stop()
		}
	}
}

// giveBack gives back the leases that are at an end; broken says that others
// may wait for some. It reports whether there are any left.
func (r *readings) giveBack(broken, all bool) bool {
	var ended []*lease
	r.mu.Lock()
	now := time.Now()
	for _, l := range r.leases {
		if broken {
			// The type that it has to become.
			typ, err := unix.FcntlInt(uintptr(l.d.fd), unix.F_GETLEASE, 0)
			if err != nil || typ != unix.F_RDLCK {
				l.ended = true
				l.h.asks.never = now.Add(leaseAgain)
			}
		}
		if all || l.ended || now.Sub(l.last) >= leaseIdle {
			l.ended = true // no answer is to be used from here on
			ended = append(ended, l)
		}
	}
	r.mu.Unlock()
	for _, l := range ended {
		r.forget(l.n.id)
	}
	r.mu.Lock()
	for _, l := range ended {
		delete(r.leases, l.n)
		r.unwatch(l)
		unix.FcntlInt(uintptr(l.d.fd), unix.F_SETLEASE, unix.F_UNLCK)
	}
	left := len(r.leases) > 0
	r.mu.Unlock()
	for _, l := range ended {
		l.d.put()
	}
	return left
}

// unwatch ends the watch of l, which may be another view's as well. r.mu is held.
func (r *readings) unwatch(l *lease) {
	if l.watch < 0 {
		return
	}
	for _, o := range r.leases {
		if o.watch == l.watch {
			return
		}
	}
	unix.InotifyRmWatch(r.watchFD, uint32(l.watch))
}

// watchChanges makes the kernel ask again for what was changed without ending a
// lease. It ends with the watch.
func (r *readings) watchChanges(watch *os.File) {
	buf := make([]byte, 4096)
	for {
		n, err := watch.Read(buf)
		if err != nil {
			return
		}
		r.mu.Lock()
		var changed []uint64
		// struct inotify_event: s32 wd, u32 mask, u32 cookie, u32 len, a name.
		for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
			wd := int32(binary.NativeEndian.Uint32(b))
			size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
			for _, l := range r.leases {
				if l.watch == wd && !l.ended {
					l.ended = true
					changed = append(changed, l.n.id)
				}
			}
			b = b[min(size, len(b)):]
		}
		r.poke()
		r.mu.Unlock()
		for _, id := range changed {
			r.forget(id)
		}
	}
}

// close gives everything back; there are no leases from now on.
func (r *readings) close() {
	r.mu.Lock()
	running := r.running
	if !r.closed && running != nil {
		close(r.stop)
	}
	r.closed = true
	r.mu.Unlock()
	if running != nil {
		<-running
		if r.watch != nil {
			r.watch.Close()
		}
	}
}
