package fuse

import (
	"bytes"
	"encoding/binary"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Programs that use a SQLite database with a write-ahead log share the index of
// that log by mapping a file, NAME-shm, and say with locks on some bytes of it
// who may change what (https://sqlite.org/walformat.html). Those in one view see
// the same pages. The host, and every other view, have pages of their own, and
// nothing tells which bytes of a page are the newer ones.
//
// So one view at a time has the index, or the host. While any program in a view
// holds one of the locks of a transaction, the view has the index: on the
// backing file the server holds all of these locks, so that nobody on the host
// has one. Before the first of them is granted the kernel drops the view's pages
// of the index, and when the last is gone it writes them back, before the locks
// of the backing file are. Each transaction thus begins with what everybody
// before it has left. What is read without a lock may be out of date: SQLite
// compares it again when it has the lock.
//
// What a program was told to be committed is in the log, which is not cached.
// If the server dies while a view has the index, or some of its pages cannot be
// written, the index may lack it, and who begins a transaction then would
// overwrite the log. So the header of the index is taken out of the backing file
// for as long as a view has it: who finds none makes the index anew from the log.

// The bytes of the index that are locked.
const (
	indexSuffix  = "-shm"
	indexFirst   = 120 // for writing, the first of those of transactions
	indexRecover = 122 // for making the index anew, the last that lets one write
	indexLast    = 127 // the last of five for reading
	indexInUse   = 128 // held while the file is open: whoever is first empties it
)

// indexHeader is the size of the header, which is there twice. Either is believed
// only if both are the same.
const indexHeader = 2 * 48

// indexPiece is how much of the file SQLite maps at a time.
const indexPiece = 32 << 10

const (
	// indexPatience is how long a request for a lock that must not wait waits
	// for the index all the same: SQLite expects these locks to be held for
	// moments. After that it is told that somebody else has them, and tries
	// again by itself for ten seconds.
	indexPatience = 100 * time.Millisecond
	// indexTurn is after how long nobody joins in if others want the index.
	indexTurn = 50 * time.Millisecond
	// indexLinger is how long a view keeps the index for a program that is in the
	// middle of beginning a transaction.
	indexLinger = 5 * time.Millisecond
	// The host, which may have the file open, cannot ask for the index: views
	// leave it alone for about as long as they had it.
	indexMinRest = 500 * time.Microsecond
	indexMaxRest = 10 * time.Millisecond
	// maxIndexPoll is the longest pause between attempts against the host.
	maxIndexPoll = 4 * time.Millisecond
	// maxIndexSeen is of how many views it is known what they have seen.
	maxIndexSeen = 64
)

// walIndex says who has an index. The mutex of its fileLocks guards it.
type walIndex struct {
	view   *node // whose locks count; nil if no view has it
	ready  bool  // it has it; otherwise it is taking it, or
	giving bool  // giving it back
	since  time.Time
	wrote  bool // locks were held that are not only for reading
	// again says that who has got a lock will find that the index has changed
	// since he looked at it, and take it a second time.
	again bool
	seen  map[*node][indexHeader]byte // the header when a view gave it back
	host  bool                        // a program of the host has the file open
	// found is what the backing file has in place of its header, and header
	// what the view sees. Both are nil if the file cannot be written.
	found, header []byte
	size          uint64        // of the file when the view took it
	failed        bool          // pages of the view did not arrive
	given         chan struct{} // closed when the view has given it back
	timer         *time.Timer   // ends the lingering

	rest    time.Time // no view takes it before that
	blocked time.Time // since when the host has been in the way; zero if it is not
	queue   []*indexWaiter
}

// indexWaiter is a request that waits for an index.
type indexWaiter struct {
	view *node
	wake chan struct{}
}

// isIndex reports whether a name is that of an index.
func isIndex(name string) bool { return strings.HasSuffix(name, indexSuffix) }

// transaction reports whether l is one of the locks of a transaction.
func (l lock) transaction() bool { return l.overlaps(indexFirst, indexLast) }

// active reports whether locks of a transaction are held; of owner, if that is
// not 0. f.mu is held.
func (f *fileLocks) active(owner uint64) bool {
	for _, l := range f.held {
		if l.transaction() && (owner == 0 || l.owner == owner) {
			return true
		}
	}
	return false
}

// wanted reports whether others may wait for the index. f.mu is held.
func (x *walIndex) wanted() bool {
	for _, w := range x.queue {
		if w.view != x.view {
			return true
		}
	}
	return x.host
}

// wakeAll lets every waiter look again. f.mu is held.
func (x *walIndex) wakeAll() {
	for _, w := range x.queue {
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// reserved are the locks that the server holds on the backing file for the view
// that has the index. Who finds no header and cannot get the lock for making one
// is told that somebody does just that; that it can share this lock makes SQLite
// try again instead. f.mu is held.
func (x *walIndex) reserved() []lock {
	if x == nil || x.view == nil {
		return nil
	}
	return []lock{
		{start: indexFirst, end: indexRecover - 1, write: true, reserved: true},
		{start: indexRecover, end: indexRecover, reserved: true},
		{start: indexRecover + 1, end: indexLast, write: true, reserved: true},
	}
}

// enterIndex waits until the view of h has the index, for a lock of owner. With
// wait it waits as long as it takes. f.mu is held when it returns, whatever it
// returns.
func (fs *filesystem) enterIndex(cancel <-chan struct{}, f *fileLocks, k lockKey, h *handle, owner uint64, wait bool) syscall.Errno {
	f.mu.Lock()
	if f.index == nil {
		f.index = new(walIndex)
	}
	x, start, pause := f.index, time.Now(), minLockPoll/4
	var w *indexWaiter
	defer func() {
		for i, o := range x.queue {
			if o == w {
				x.queue = append(x.queue[:i], x.queue[i+1:]...)
				x.wakeAll()
				break
			}
		}
	}()
	for {
		now := time.Now()
		sleep := indexPatience
		long := x.view != nil && x.ready && now.Sub(x.since) > indexPatience
		switch {
		case x.view == h.n && x.ready && (f.active(owner) || now.Sub(x.since) < fs.indexTurn || !x.wanted()):
			return 0
		case x.view != nil:
		case now.Before(x.rest):
			sleep = x.rest.Sub(now)
		case len(x.queue) > 0 && x.queue[0].view != h.n:
		default:
			errno := fs.takeIndex(f, k, h)
			if errno != 0 && errno != syscall.EAGAIN {
				return errno
			}
			if errno != 0 {
				if x.blocked.IsZero() {
					x.blocked = now
				}
				sleep, pause = pause, min(2*pause, maxIndexPoll)
			}
			long = !x.blocked.IsZero() && now.Sub(x.blocked) > indexPatience
		}
		if !wait && (long || now.Sub(start) >= indexPatience) {
			return syscall.EAGAIN
		}
		if w == nil {
			w = &indexWaiter{h.n, make(chan struct{}, 1)}
			x.queue = append(x.queue, w)
		}
		f.mu.Unlock()
		timer := time.NewTimer(sleep)
		interrupted := false
		select {
		case <-w.wake:
		case <-timer.C:
		case <-cancel:
			interrupted = true
		}
		timer.Stop()
		f.mu.Lock()
		if interrupted {
			return syscall.EINTR
		}
	}
}

// takeIndex begins to take the index for the view of h, which is told when it has
// it. It is EAGAIN if a program of the host holds one of the locks. f.mu is held.
func (fs *filesystem) takeIndex(f *fileLocks, k lockKey, h *handle) syscall.Errno {
	x := f.index
	// Who may only read it needs no more than to keep others from writing.
	if errno := f.carry(h, true); errno != 0 && f.carrier == nil {
		return errno
	}
	x.view = h.n
	if errno := f.sync(indexFirst, indexLast); errno != 0 {
		x.view = nil
		f.sync(indexFirst, indexLast) // only gives back
		return errno
	}
	x.ready, x.giving, x.wrote, x.failed = false, false, false, false
	x.blocked, x.since, x.given = time.Time{}, time.Now(), make(chan struct{})
	fs.locks.use(k)
	go fs.beginIndex(f, k, f.carrier.get(), f.writable) // ends when its pages are dropped
	return 0
}

// beginIndex lets the view have the index, of which it takes d over.
func (fs *filesystem) beginIndex(f *fileLocks, k lockKey, d *descriptor, writable bool) {
	x := f.index
	defer d.put()
	var found, header []byte
	var size uint64
	if st, errno := statFD(d.fd); errno == 0 {
		size = st.Size
	}
	if writable {
		b := make([]byte, indexHeader)
		if _, errno := readAt(d.fd, b, 0); errno == 0 {
			found, header = b, bytes.Clone(b)
			if believed(b) {
				zero := make([]byte, indexHeader)
				if n, err := writeAt(d.fd, zero, 0, 0); err == nil && n == len(zero) {
					found = zero
				}
			}
		}
	}
	f.mu.Lock()
	x.found, x.header, x.size = found, header, size
	n := x.view
	seen, ok := x.seen[n]
	x.again = !ok || !bytes.Equal(seen[:], header)
	f.mu.Unlock()
	fs.dropPages(n)
	fs.dropPages(fs.nodes.database(n))
	f.mu.Lock()
	defer f.mu.Unlock()
	x.ready, x.since, x.host = true, time.Now(), f.openOutside()
	x.wakeAll()
	f.linger(fs, k) // for whoever does not come for it after all
}

// openOutside reports whether a program of the host has the index open. f.mu is
// held.
func (f *fileLocks) openOutside() bool {
	fl := flockT(unix.F_WRLCK, indexInUse, indexInUse)
	err := unix.FcntlFlock(uintptr(f.carrier.fd), unix.F_OFD_GETLK, &fl)
	return err == nil && fl.Type != unix.F_UNLCK
}

// leaveIndex is called when locks of the view n were released. With now the index
// does not linger. begins says that a reader has made his mark, which he is about
// to lock. It returns what to wait for, f.mu no more being held, before the
// release is over; nil for nothing. f.mu is held.
func (f *fileLocks) leaveIndex(fs *filesystem, k lockKey, n *node, now, begins bool) <-chan struct{} {
	x := f.index
	switch {
	case x == nil || x.view != n || f.active(0):
		return nil
	case x.giving:
		return x.given
	case !x.ready: // it is being taken for somebody else
		return nil
	case now || x.wrote || !begins && !x.again || x.wanted() && time.Since(x.since) >= fs.indexTurn:
		f.giveIndex(fs, k)
		return x.given
	}
	x.again = x.again && begins
	f.linger(fs, k)
	return nil
}

// linger has the view give the index back if it is not used soon. f.mu is held.
func (f *fileLocks) linger(fs *filesystem, k lockKey) {
	x := f.index
	if x.timer != nil {
		x.timer.Stop()
	}
	var t *time.Timer
	t = time.AfterFunc(indexLinger, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if x.timer == t && x.ready && !f.active(0) {
			f.giveIndex(fs, k)
		}
	})
	x.timer = t
}

// giveIndex begins to give the index back. f.mu is held.
func (f *fileLocks) giveIndex(fs *filesystem, k lockKey) {
	x := f.index
	if x.timer != nil {
		x.timer.Stop()
		x.timer = nil
	}
	x.ready, x.giving = false, true
	go fs.endIndex(f, k, f.carrier.get()) // ends when the pages of the view are written
}

// endIndex gives the index back.
func (fs *filesystem) endIndex(f *fileLocks, k lockKey, d *descriptor) {
	x := f.index
	arrived := fs.dropPages(x.view)
	f.mu.Lock()
	found, header, size, failed := x.found, x.header, max(x.size, indexPiece), x.failed
	f.mu.Unlock()
	if arrived && !failed && !bytes.Equal(found, header) {
		// Nobody else has a use for this header: who was the first to open the
		// file meanwhile has emptied it.
		b := make([]byte, indexHeader)
		st, errno := statFD(d.fd)
		if errno == 0 && st.Size >= size {
			_, errno = readAt(d.fd, b, 0)
		} else {
			errno = syscall.EIO
		}
		if errno == 0 && bytes.Equal(b, found) {
			writeAt(d.fd, header, 0, 0)
		}
	}
	d.put()
	f.mu.Lock()
	if x.seen == nil || len(x.seen) >= maxIndexSeen {
		x.seen = make(map[*node][indexHeader]byte)
	}
	if len(header) == indexHeader {
		x.seen[x.view] = [indexHeader]byte(header)
	}
	x.view, x.found, x.header = nil, nil, nil
	f.sync(indexFirst, indexLast) // only gives back
	if now := time.Now(); x.host {
		x.rest = now.Add(min(max(now.Sub(x.since), indexMinRest), indexMaxRest))
	}
	close(x.given)
	x.wakeAll()
	f.grant()
	f.mu.Unlock()
	fs.locks.unuse(k, f)
}

// dropPages makes the kernel write the pages of n back and drop them. It reports
// whether it has; n may be nil.
func (fs *filesystem) dropPages(n *node) bool { return n == nil || fs.dropInode(n.id) }

// database returns the node of the database of which n is the index, if the
// kernel has pages of it: one that was not yet a database when it was opened.
func (t *table) database(n *node) *node {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n.view == nil || n.parent == nil {
		return nil
	}
	o := n.view.cached[place{n.parent, strings.TrimSuffix(n.name, indexSuffix)}]
	if o == nil || o.gone || o.parent != n.parent || o.name+indexSuffix != n.name {
		return nil
	}
	return o
}

// place is that of a node.
type place struct {
	parent *node
	name   string
}

// believed reports whether SQLite takes b for the header of an index.
func believed(b []byte) bool {
	one, two := b[:indexHeader/2], b[indexHeader/2:indexHeader]
	if !bytes.Equal(one, two) || one[12] == 0 {
		return false
	}
	var s1, s2 uint32
	for at := 0; at < 40; at += 8 {
		s1 += binary.NativeEndian.Uint32(one[at:]) + s2
		s2 += binary.NativeEndian.Uint32(one[at+4:]) + s1
	}
	return s1 == binary.NativeEndian.Uint32(one[40:]) && s2 == binary.NativeEndian.Uint32(one[44:])
}

// withIndex calls use with what is known of the index that h has open, f.mu being
// held; not at all if nothing is.
func (fs *filesystem) withIndex(h *handle, use func(x *walIndex)) {
	k := lockKey{file: h.n.key}
	f := fs.locks.existing(k)
	if f == nil {
		return
	}
	defer fs.locks.unuse(k, f)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.index != nil {
		use(f.index)
	}
}

// readIndex completes what was read of an index at off by its header.
func (fs *filesystem) readIndex(h *handle, b []byte, off uint64) {
	if off >= indexHeader {
		return
	}
	fs.withIndex(h, func(x *walIndex) {
		if x.header != nil {
			copy(b, x.header[off:])
		}
	})
}

// writeIndex is a write to an index: what of it is the header stays here while a
// view has the index. Pages of another view are out of date.
func (fs *filesystem) writeIndex(h *handle, data []byte, off uint64) (errno syscall.Errno) {
	fs.withIndex(h, func(x *walIndex) {
		switch {
		case x.view == nil:
		case x.view != h.n:
			errno = syscall.EAGAIN
		case x.header != nil && off < indexHeader:
			n := copy(x.header[off:], data)
			data, off = data[n:], off+uint64(n)
		}
	})
	if errno != 0 {
		return errno
	}
	return writeAll(h.d.fd, data, int64(off))
}

// indexFailed notes that a write to an index did not arrive.
func (fs *filesystem) indexFailed(h *handle) {
	fs.withIndex(h, func(x *walIndex) {
		if x.view == h.n {
			x.failed = true
		}
	})
}
