package fuse

import (
	"cmp"
	"math"
	"slices"
	"sync"
	"syscall"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Locks of every sandbox and of the host's view meet in one table, by the
// backing file, and exclude each other there. Against everybody else the
// server holds the union of them on the backing file, in one open file
// description: fcntl(2) F_OFD_SETLK for POSIX and OFD locks, which FUSE does
// not tell apart, and flock(2) for the others.
//
// A waiting lock is a parked goroutine. It is granted by whoever releases what
// it waits for; only what a program outside the view holds is asked for again
// and again.

const (
	maxWaiters  = 1024 // for each app
	maxLocks    = 8192 // for each file
	minLockPoll = time.Millisecond
	maxLockPoll = 50 * time.Millisecond
)

type lockTable struct {
	mu      sync.Mutex
	files   map[lockKey]*fileLocks
	waiting map[string]int // by app
}

type lockKey struct {
	file  identity
	flock bool
}

// fileLocks are the locks of one kind on one backing file.
type fileLocks struct {
	users int // requests that use it, and 1 if any lock is held; lockTable.mu guards it
	flock bool

	mu      sync.Mutex
	held    []lock // in no order; those of one owner do not overlap
	waiters []*lockWaiter
	index   *walIndex // nil but of a file that is one
	// carrier is the open file description that has the union on the
	// backing file. It is the one of a handle where that will do.
	carrier  *descriptor
	writable bool // carrier can carry write locks
	counted  bool // users counts held
}

type lock struct {
	owner, fh  uint64
	start, end uint64 // inclusive
	write      bool
	pid        uint32
	// reserved is not anybody's: it is for reading if the carrier cannot have
	// it for writing.
	reserved bool
}

func (l lock) overlaps(start, end uint64) bool { return l.start <= end && l.end >= start }

type lockWaiter struct {
	want  lock
	h     *handle
	again chan struct{} // buffered: try again yourself
	done  chan syscall.Errno
}

// use returns the locks of a file; unuse gives them back.
func (t *lockTable) use(k lockKey) *fileLocks {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.files[k]
	if f == nil {
		if t.files == nil {
			t.files = make(map[lockKey]*fileLocks)
		}
		f = &fileLocks{flock: k.flock}
		t.files[k] = f
	}
	f.users++
	return f
}

func (t *lockTable) unuse(k lockKey, f *fileLocks) {
	f.mu.Lock()
	held := len(f.held) > 0 || f.index != nil && f.index.view != nil
	change := 0
	if held != f.counted {
		f.counted = held
		if change = -1; held {
			change = 1
		}
	}
	if !held && f.carrier != nil {
		f.carrier.put()
		f.carrier = nil
	}
	f.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	f.users += change - 1
	if f.users == 0 && t.files[k] == f {
		delete(t.files, k)
	}
}

// existing is use for a file that may have no locks, which is nil.
func (t *lockTable) existing(k lockKey) *fileLocks {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.files[k]
	if f != nil {
		f.users++
	}
	return f
}

// wait counts a waiter of app; false if it has too many.
func (t *lockTable) wait(app string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.waiting == nil {
		t.waiting = make(map[string]int)
	}
	if t.waiting[app] >= maxWaiters {
		return false
	}
	t.waiting[app]++
	return true
}

func (t *lockTable) waited(app string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.waiting[app]--; t.waiting[app] == 0 {
		delete(t.waiting, app)
	}
}

// conflict returns a lock of another owner that excludes l. f.mu is held.
func (f *fileLocks) conflict(l lock) (lock, bool) {
	for _, o := range f.held {
		if o.owner != l.owner && (o.write || l.write) && o.overlaps(l.start, l.end) {
			return o, true
		}
	}
	return lock{}, false
}

// without is held after owner has released [start, end].
func without(held []lock, owner, start, end uint64) []lock {
	rest := make([]lock, 0, len(held)+2)
	for _, o := range held {
		if o.owner != owner || !o.overlaps(start, end) {
			rest = append(rest, o)
			continue
		}
		if o.start < start {
			left := o
			left.end = start - 1
			rest = append(rest, left)
		}
		if o.end > end {
			right := o
			right.start = end + 1
			rest = append(rest, right)
		}
	}
	return rest
}

// with is held after l was granted. Locks of one owner and kind that touch
// become one, as they do in the kernel.
func with(held []lock, l lock) []lock {
	held = without(held, l.owner, l.start, l.end)
	rest := held[:0]
	for _, o := range held {
		if o.owner == l.owner && o.fh == l.fh && o.write == l.write &&
			(o.end+1 == l.start || l.end+1 == o.start) {
			l.start, l.end = min(o.start, l.start), max(o.end, l.end)
			continue
		}
		rest = append(rest, o)
	}
	return append(rest, l)
}

// errBlocked is what tryLock returns while another lock of the view is in the
// way; EAGAIN means one of somebody else.
const errBlocked = syscall.EBUSY

// tryLock grants l, on behalf of the handle h, if nothing is in the way. f.mu
// is held.
func (f *fileLocks) tryLock(h *handle, l lock) syscall.Errno {
	transaction := f.index != nil && l.transaction()
	if transaction && (f.index.view != h.n || !f.index.ready) {
		return syscall.EAGAIN
	}
	if _, ok := f.conflict(l); ok {
		return errBlocked
	}
	if len(f.held) >= maxLocks {
		return syscall.ENOLCK
	}
	if errno := f.carry(h, l.write); errno != 0 {
		return errno
	}
	old := f.held
	f.held = with(old, l)
	if errno := f.sync(l.start, l.end); errno != 0 {
		f.held = old
		f.sync(l.start, l.end) // only gives back, which does not fail
		return errno
	}
	if transaction && l.start <= indexRecover {
		f.index.wrote = true
	}
	return 0
}

// release takes locks of owner, or those made through the handle fh if that is
// not 0, away and grants what waited for them. f.mu is held.
func (f *fileLocks) release(owner, fh, start, end uint64) {
	if fh != 0 {
		for _, o := range slices.Clone(f.held) {
			if o.fh == fh && o.overlaps(start, end) {
				f.held = without(f.held, o.owner, max(o.start, start), min(o.end, end))
			}
		}
	} else {
		f.held = without(f.held, owner, start, end)
	}
	f.sync(start, end)
	f.grant()
}

// grant gives waiters, in their order, what is free now. f.mu is held.
func (f *fileLocks) grant() {
	rest := f.waiters[:0]
	for _, w := range f.waiters {
		switch errno := f.tryLock(w.h, w.want); errno {
		case errBlocked:
			rest = append(rest, w)
		case syscall.EAGAIN:
			// Somebody outside has it: that is for the waiter to watch.
			w.again <- struct{}{}
		default:
			w.done <- errno
		}
	}
	clear(f.waiters[len(rest):])
	f.waiters = rest
}

// carry sees to it that the carrier can have a lock of the kind. f.mu is held.
func (f *fileLocks) carry(h *handle, write bool) syscall.Errno {
	if f.carrier != nil && (f.flock || !write || f.writable) {
		return 0
	}
	var next *descriptor
	mode := h.flags & unix.O_ACCMODE
	writable := mode != unix.O_RDONLY
	switch {
	case f.flock, mode == unix.O_RDWR, mode == unix.O_RDONLY && !write:
		next = h.d.get()
	default:
		fd, errno := reopen(h.d.fd, unix.O_RDWR)
		if errno == 0 {
			next, writable = newDescriptor(fd), true
		} else if f.carrier == nil {
			next = h.d.get() // nobody can read it, so nobody locks it for reading
		} else {
			return syscall.ENOLCK
		}
	}
	old := f.carrier
	f.carrier, f.writable = next, writable
	if old == nil {
		return 0
	}
	// What is held is for reading, so both can have it for a moment.
	for _, l := range f.held {
		if errno := f.sync(l.start, l.end); errno != 0 {
			f.carrier, f.writable = old, false
			next.put()
			return errno
		}
	}
	old.put()
	return 0
}

// sync makes the carrier hold the union of the held locks in [start, end].
// f.mu is held.
func (f *fileLocks) sync(start, end uint64) syscall.Errno {
	if f.carrier == nil {
		return 0
	}
	if f.flock {
		return f.syncFlock()
	}
	// The union changes only where a lock begins or ends.
	cuts := []uint64{start}
	held := f.held
	if reserved := f.index.reserved(); reserved != nil {
		held = append(reserved, held...)
	}
	for _, l := range held {
		if l.overlaps(start, end) {
			if l.start > start {
				cuts = append(cuts, l.start)
			}
			if l.end < end {
				cuts = append(cuts, l.end+1)
			}
		}
	}
	slices.SortFunc(cuts, cmp.Compare[uint64])
	cuts = slices.Compact(cuts)
	for i, from := range cuts {
		to := end
		if i+1 < len(cuts) {
			to = cuts[i+1] - 1
		}
		typ := int16(unix.F_UNLCK)
		for _, l := range held {
			if l.overlaps(from, to) {
				if typ == unix.F_UNLCK {
					typ = unix.F_RDLCK
				}
				if l.write && (f.writable || !l.reserved) {
					typ = unix.F_WRLCK
				}
			}
		}
		fl := flockT(typ, from, to)
		err := ignoringEINTR(func() error {
			return unix.FcntlFlock(uintptr(f.carrier.fd), unix.F_OFD_SETLK, &fl)
		})
		if errno := lockErrno(err); errno != 0 {
			return errno
		}
	}
	return 0
}

// lockErrno tells a lock of somebody else from a file system that has no
// locks, where those of the view still exclude each other.
func lockErrno(err error) syscall.Errno {
	switch err {
	case nil, unix.ENOSYS, unix.EOPNOTSUPP, unix.EINVAL:
		return 0
	case unix.EACCES, unix.EAGAIN:
		return syscall.EAGAIN
	}
	return errnoOf(err)
}

func flockT(typ int16, start, end uint64) unix.Flock_t {
	fl := unix.Flock_t{Type: typ, Whence: unix.SEEK_SET, Start: int64(start)}
	if end < math.MaxInt64 {
		fl.Len = int64(end - start + 1)
	}
	return fl
}

func (f *fileLocks) syncFlock() syscall.Errno {
	how := unix.LOCK_UN
	for _, l := range f.held {
		if l.write {
			how = unix.LOCK_EX
			break
		}
		how = unix.LOCK_SH
	}
	return lockErrno(ignoringEINTR(func() error { return unix.Flock(f.carrier.fd, how|unix.LOCK_NB) }))
}

// lockRequest checks a lock request and returns its handle, whose descriptor
// the caller puts back, and what it is about.
func (fs *filesystem) lockRequest(in *gofuse.LkIn) (h *handle, k lockKey, l lock, errno syscall.Errno) {
	h = fs.handles.use(in.Fh)
	if h == nil {
		return nil, k, l, syscall.ESTALE
	}
	if !h.n.view.state().visible && in.Lk.Typ != unix.F_UNLCK {
		h.d.put()
		return nil, k, l, syscall.EACCES
	}
	k = lockKey{h.n.key, in.LkFlags&gofuse.LK_FLOCK != 0}
	l = lock{
		owner: in.Owner, fh: in.Fh, pid: in.Lk.Pid,
		start: in.Lk.Start, end: min(in.Lk.End, math.MaxInt64),
		write: in.Lk.Typ == unix.F_WRLCK,
	}
	if k.flock {
		l.start, l.end = 0, math.MaxInt64
	}
	if l.start > l.end {
		h.d.put()
		return nil, k, l, syscall.EINVAL
	}
	return h, k, l, 0
}

// GetLk is fcntl(2) F_GETLK.
func (fs *filesystem) GetLk(cancel <-chan struct{}, in *gofuse.LkIn, out *gofuse.LkOut) gofuse.Status {
	h, k, l, errno := fs.lockRequest(in)
	if errno != 0 {
		return status(errno)
	}
	defer h.d.put()
	f := fs.locks.use(k)
	defer fs.locks.unuse(k, f)
	f.mu.Lock()
	defer f.mu.Unlock()
	out.Lk = gofuse.FileLock{Typ: unix.F_UNLCK}
	if o, ok := f.conflict(l); ok {
		out.Lk = gofuse.FileLock{Start: o.start, End: o.end, Typ: unix.F_RDLCK, Pid: o.pid}
		if o.write {
			out.Lk.Typ = unix.F_WRLCK
		}
		return gofuse.OK
	}
	d := f.carrier
	if d == nil {
		d = h.d
	}
	typ := int16(unix.F_RDLCK)
	if l.write {
		typ = unix.F_WRLCK
	}
	fl := flockT(typ, l.start, l.end)
	if err := unix.FcntlFlock(uintptr(d.fd), unix.F_OFD_GETLK, &fl); err != nil || fl.Type == unix.F_UNLCK {
		return status(lockErrno(err))
	}
	out.Lk = gofuse.FileLock{Start: uint64(fl.Start), End: math.MaxInt64, Typ: uint32(fl.Type), Pid: uint32(max(fl.Pid, 0))}
	if fl.Len > 0 {
		out.Lk.End = uint64(fl.Start + fl.Len - 1)
	}
	return gofuse.OK
}

// SetLk is fcntl(2) F_SETLK and F_OFD_SETLK, and flock(2) with LOCK_NB.
func (fs *filesystem) SetLk(cancel <-chan struct{}, in *gofuse.LkIn) gofuse.Status {
	return status(fs.setLock(cancel, in, false))
}

// SetLkw is SetLk that waits.
func (fs *filesystem) SetLkw(cancel <-chan struct{}, in *gofuse.LkIn) gofuse.Status {
	return status(fs.setLock(cancel, in, true))
}

func (fs *filesystem) setLock(cancel <-chan struct{}, in *gofuse.LkIn, wait bool) syscall.Errno {
	h, k, l, errno := fs.lockRequest(in)
	if errno != 0 {
		return errno
	}
	defer h.d.put()
	f := fs.locks.use(k)
	defer fs.locks.unuse(k, f)
	if in.Lk.Typ == unix.F_UNLCK {
		fs.releaseFrom(f, k, h, l.owner, 0, l.start, l.end)
		return 0
	}
	// try leaves f.mu held.
	try := func() (errno syscall.Errno) {
		if !k.flock && h.index && l.transaction() {
			errno = fs.enterIndex(cancel, f, k, h, l.owner, wait)
		} else {
			f.mu.Lock()
		}
		if errno == 0 {
			errno = f.tryLock(h, l)
		}
		if errno == 0 && fs.handles.get(in.Fh) != h {
			f.release(0, in.Fh, l.start, l.end) // it was closed meanwhile
			errno = syscall.ESTALE
		}
		if errno == 0 {
			// A lock for reading in place of one for writing frees others.
			f.grant()
		}
		return errno
	}
	errno = try()
	if errno != errBlocked && errno != syscall.EAGAIN {
		f.mu.Unlock()
		return errno
	}
	if !wait {
		f.mu.Unlock()
		return syscall.EAGAIN
	}
	if !fs.locks.wait(h.n.app) {
		f.mu.Unlock()
		return syscall.ENOLCK
	}
	defer fs.locks.waited(h.n.app)
	pause := minLockPoll
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	w := &lockWaiter{want: l, h: h, again: make(chan struct{}, 1), done: make(chan syscall.Errno, 1)}
	for {
		// f.mu is held, and errno says who is in the way.
		if errno == errBlocked {
			f.waiters = append(f.waiters, w)
			f.mu.Unlock()
			select {
			case errno = <-w.done:
				return errno
			case <-w.again:
			case <-cancel:
				f.mu.Lock()
				defer f.mu.Unlock()
				if i := slices.Index(f.waiters, w); i >= 0 {
					f.waiters = slices.Delete(f.waiters, i, i+1)
					return syscall.EINTR
				}
				select {
				case errno = <-w.done: // granted at the same time
					return errno
				default:
					return syscall.EINTR
				}
			}
		} else {
			f.mu.Unlock()
			timer.Reset(pause)
			pause = min(2*pause, maxLockPoll)
			select {
			case <-timer.C:
			case <-cancel:
				return syscall.EINTR
			}
		}
		if errno = try(); errno != errBlocked && errno != syscall.EAGAIN {
			f.mu.Unlock()
			return errno
		}
	}
}

// flushLocks releases the POSIX locks of a process that closes a descriptor of
// the file: all it has on it, as fcntl(2) says.
func (fs *filesystem) flushLocks(h *handle, owner uint64) {
	fs.releaseLocks(h, lockKey{h.n.key, false}, owner, 0)
}

// closeLocks releases the locks that belong to the open file h itself: OFD
// locks and flock.
func (fs *filesystem) closeLocks(h *handle) {
	fs.releaseLocks(h, lockKey{h.n.key, false}, 0, h.id)
	fs.releaseLocks(h, lockKey{h.n.key, true}, 0, h.id)
}

func (fs *filesystem) releaseLocks(h *handle, k lockKey, owner, fh uint64) {
	f := fs.locks.existing(k)
	if f == nil {
		return
	}
	defer fs.locks.unuse(k, f)
	fs.releaseFrom(f, k, h, owner, fh, 0, math.MaxInt64)
}

// releaseFrom is release on behalf of h. It returns when others can have what
// was released.
func (fs *filesystem) releaseFrom(f *fileLocks, k lockKey, h *handle, owner, fh, start, end uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.index == nil {
		f.release(owner, fh, start, end)
		return
	}
	// Who has the file in use no more must have given it back: the next may be
	// the first, who empties it.
	leaves := start <= indexInUse && end >= indexInUse
	begins := false
	if start <= indexLast && end >= indexFirst {
		for _, l := range f.held {
			begins = begins || l.owner == owner && l.write && l.transaction() && l.overlaps(start, end)
		}
		f.release(owner, fh, max(start, indexFirst), min(end, indexLast))
	}
	if given := f.leaveIndex(fs, k, h.n, leaves, begins); given != nil {
		f.mu.Unlock()
		<-given
		f.mu.Lock()
	}
	f.release(owner, fh, start, end)
}
