package fuse

import (
	"bytes"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// A system call on a file system that is not local can take for ever, and
// with it a thread that nothing can stop. limited hands such calls to
// goroutines of their own, so that an interrupt is answered although the call
// is not back, and bounds how many there are.
//
// A local file system always answers in the end, but it may be slow, or a link
// on the way to it may lead to one that does not answer. There a call runs
// where it is, one of a bounded number; the others wait in parked goroutines.

const (
	maxDocumentCalls = 16
	maxDeviceCalls   = 64
	// stuckTime is after how long a call counts as stuck. Until then others
	// queue for its place, since a slow file system is not a dead one; from
	// then on they are EIO at once.
	stuckTime = time.Second
	// interruptTime is how long a call may go on when it is interrupted: on
	// a working file system programs need not see EINTR.
	interruptTime = 100 * time.Millisecond

	// How many calls on local file systems run at once.
	maxViewCalls = 64  // of a document in a view
	maxAppCalls  = 256 // of an app
)

// places are those for the calls on local file systems of a view, which is in
// one of its own and in one of its app's.
type places struct{ view, app chan struct{} }

func (t *callTable) places(app string) places {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.apps == nil {
		t.apps = make(map[string]chan struct{})
	}
	if t.apps[app] == nil {
		t.apps[app] = make(chan struct{}, maxAppCalls)
	}
	return places{make(chan struct{}, maxViewCalls), t.apps[app]}
}

// enter waits for a place; false if the request was given up before.
func (p places) enter(cancel <-chan struct{}) bool {
	if !enter(p.view, cancel) {
		return false
	}
	if !enter(p.app, cancel) {
		<-p.view
		return false
	}
	return true
}

func enter(place chan<- struct{}, cancel <-chan struct{}) bool {
	select {
	case place <- struct{}{}:
		return true
	default:
	}
	select {
	case place <- struct{}{}:
		return true
	case <-cancel:
	}
	t := time.NewTimer(interruptTime)
	defer t.Stop()
	select {
	case place <- struct{}{}:
		return true
	case <-t.C:
		return false
	}
}

func (p places) leave() {
	<-p.app
	<-p.view
}

// calls are the calls in progress on one document or device.
type calls struct {
	max     int
	started []time.Time
	queue   []chan struct{}
}

// callTable holds the calls in progress on file systems that are not local.
type callTable struct {
	mu    sync.Mutex
	docs  map[string]*calls
	devs  map[uint64]*calls
	apps  map[string]chan struct{} // places of each app that has looked up a document
	local sync.Map                 // st_dev → locality
}

// full reports whether a call must wait, and whether there is no point in
// that. The table's mutex is held.
func (c *calls) full(now time.Time) (wait, stuck bool) {
	if c == nil || len(c.started) < c.max {
		return false, false
	}
	for _, t := range c.started {
		if now.Sub(t) < stuckTime {
			return true, false
		}
	}
	return true, true
}

// begin counts a call, when there is room for it.
func (t *callTable) begin(cancel <-chan struct{}, doc string, dev uint64) (time.Time, syscall.Errno) {
	var timer *time.Timer
	for {
		t.mu.Lock()
		now := time.Now()
		waitDoc, stuckDoc := t.docs[doc].full(now)
		waitDev, stuckDev := t.devs[dev].full(now)
		if stuckDoc || stuckDev {
			t.mu.Unlock()
			return now, syscall.EIO
		}
		if !waitDoc && !waitDev {
			if t.docs == nil {
				t.docs, t.devs = make(map[string]*calls), make(map[uint64]*calls)
			}
			if t.docs[doc] == nil {
				t.docs[doc] = &calls{max: maxDocumentCalls}
			}
			if t.devs[dev] == nil {
				t.devs[dev] = &calls{max: maxDeviceCalls}
			}
			t.docs[doc].started = append(t.docs[doc].started, now)
			t.devs[dev].started = append(t.devs[dev].started, now)
			t.mu.Unlock()
			return now, 0
		}
		room := make(chan struct{}, 1)
		c := t.devs[dev]
		if waitDoc {
			c = t.docs[doc]
		}
		c.queue = append(c.queue, room)
		t.mu.Unlock()
		if timer == nil {
			timer = time.NewTimer(stuckTime)
			defer timer.Stop()
		}
		select {
		case <-room:
			continue
		case <-timer.C:
		case <-cancel:
		}
		t.mu.Lock()
		for i, q := range c.queue {
			if q == room {
				c.queue = append(c.queue[:i], c.queue[i+1:]...)
				break
			}
		}
		select {
		case <-room: // it was our turn: let it be another's
			c.next()
		default:
		}
		t.mu.Unlock()
		select {
		case <-cancel:
			return now, syscall.EINTR
		default:
			return now, syscall.EIO
		}
	}
}

// end takes back what begin counted at the time.
func (t *callTable) end(doc string, dev uint64, started time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.docs[doc].done(started) {
		delete(t.docs, doc)
	}
	if t.devs[dev].done(started) {
		delete(t.devs, dev)
	}
}

// done removes a call and reports whether that was the last trace of any.
func (c *calls) done(started time.Time) bool {
	for i, t := range c.started {
		if t == started {
			c.started = append(c.started[:i], c.started[i+1:]...)
			break
		}
	}
	c.next()
	return len(c.started) == 0 && len(c.queue) == 0
}

// next lets the first in the queue try.
func (c *calls) next() {
	if len(c.queue) > 0 {
		c.queue[0] <- struct{}{}
		c.queue = c.queue[1:]
	}
}

// localTypes are the file systems on which a call does not wait for somebody
// else's machine or process (statfs(2), f_type).
var localTypes = [...]int64{
	unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.TMPFS_MAGIC,
	unix.RAMFS_MAGIC, unix.F2FS_SUPER_MAGIC, unix.OVERLAYFS_SUPER_MAGIC, unix.MSDOS_SUPER_MAGIC,
	unix.EXFAT_SUPER_MAGIC, unix.SQUASHFS_MAGIC, unix.EROFS_SUPER_MAGIC_V1, unix.ISOFS_SUPER_MAGIC,
	unix.UDF_SUPER_MAGIC, 0x2fc12fc1 /* zfs */, 0xca451a4e, /* bcachefs */
}

// locality is what is known of a device. When its file system is unmounted another
// one may get its number. That has another mount, whose number says so if the kernel
// gives no number twice (statxMountUnique).
type locality struct {
	local bool
	mount uint64
}

// learn notes whether the file system that fd, of which st is the status, is on is
// local.
func (t *callTable) learn(fd int, st *unix.Statx_t) {
	dev, mount := deviceOf(st), st.Mnt_id
	if is, ok := t.local.Load(dev); ok {
		if is.(locality).mount == mount {
			return
		}
		t.local.Delete(dev) // it does not count as local while fstatfs waits
	}
	var sfs unix.Statfs_t
	if err := ignoringEINTR(func() error { return unix.Fstatfs(fd, &sfs) }); err != nil {
		return
	}
	is := false
	for _, typ := range localTypes {
		is = is || uint32(sfs.Type) == uint32(typ)
	}
	t.local.Store(dev, locality{is, mount})
}

func (t *callTable) isLocal(dev uint64) bool {
	is, ok := t.local.Load(dev)
	return ok && is.(locality).local
}

// limited is the filesystem for the kernel.
type limited struct {
	*filesystem
}

// device is that of n, as far as it is known.
func (fs *filesystem) device(n *node) uint64 {
	if n.key != (identity{}) {
		return n.key.dev
	}
	if s := n.view.state(); s.doc != nil {
		return s.doc.DirID.Dev
	}
	return 0
}

// do runs f, which fills its argument, and copies that to out. If the request
// is given up before f is back, undo is called with what f brings after all.
func do[T any](fs *filesystem, cancel <-chan struct{}, n *node, out *T, f func(out *T) gofuse.Status, undo func(out *T)) gofuse.Status {
	if n == nil || n.view == nil {
		return f(out)
	}
	dev := fs.device(n)
	if fs.calls.isLocal(dev) {
		if !n.view.places.enter(cancel) {
			return gofuse.EINTR
		}
		defer n.view.places.leave()
		return f(out)
	}
	started, errno := fs.calls.begin(cancel, n.view.id, dev)
	if errno != 0 {
		return status(errno)
	}
	type result struct {
		out  *T
		code gofuse.Status
	}
	back := make(chan result) // unbuffered: it is taken, or f's goroutine sees that it is not
	left := make(chan struct{})
	go func() {
		defer fs.calls.end(n.view.id, dev, started)
		r := result{out: new(T), code: gofuse.EIO}
		defer func() {
			if v := recover(); v != nil {
				fs.log.Error("a file request made the server panic", "panic", v)
				r.code = gofuse.EIO
			}
			select {
			case back <- r:
			case <-left:
				if r.code == gofuse.OK && undo != nil {
					undo(r.out)
				}
			}
		}()
		*r.out = *out
		r.code = f(r.out)
	}()
	return await(cancel, started, back, left, func(r result) gofuse.Status {
		*out = *r.out
		return r.code
	})
}

func await[R any](cancel <-chan struct{}, started time.Time, back <-chan R, left chan<- struct{}, take func(R) gofuse.Status) gofuse.Status {
	select {
	case r := <-back:
		return take(r)
	case <-cancel:
	}
	t := time.NewTimer(interruptTime - time.Since(started))
	defer t.Stop()
	select {
	case r := <-back:
		return take(r)
	case <-t.C:
		close(left)
		return gofuse.EINTR
	}
}

// ended is cancel for what processes ask at their end, when they close files and
// give locks back: they wait for the answer and cannot be interrupted any more,
// nor does anybody read it. So it counts as interrupted, and is done all the same.
func (l limited) ended(cancel <-chan struct{}, n *node, who *gofuse.InHeader) <-chan struct{} {
	if n == nil || n.view == nil || l.local(n) || !exiting(who.Pid) {
		return cancel
	}
	interrupted := make(chan struct{})
	close(interrupted)
	return interrupted
}

// exiting reports whether a thread is in its exit: it has given its memory up,
// which comes before its files (proc(5), statm). Other files of /proc wait for a
// thread that is just executing a program, and closes files for it.
func exiting(thread uint32) bool {
	text, err := os.ReadFile("/proc/" + strconv.FormatUint(uint64(thread), 10) + "/statm")
	return err == nil && bytes.HasPrefix(text, []byte("0 "))
}

// nothing is the out of requests that have none.
type nothing struct{}

func (l limited) node(id uint64) *node { return l.nodes.get(id) }

func (l limited) handleNode(fh uint64) *node {
	if h := l.handles.get(fh); h != nil {
		return h.n
	}
	return nil
}

// local reports whether requests about n run where they are.
func (l limited) local(n *node) bool {
	return n != nil && n.view != nil && l.calls.isLocal(l.device(n))
}

func (l limited) forgetEntry(out *gofuse.EntryOut) { l.nodes.forget(out.NodeId, 1) }

func (l limited) closeOpen(out *gofuse.OpenOut) { l.unregister(out.Fh) }

func (l limited) closeCreated(out *gofuse.CreateOut) {
	l.unregister(out.Fh)
	l.nodes.forget(out.NodeId, 1)
}

// Each of the following hands copies of the request on: its memory is used
// again when it was answered.

func (l limited) Lookup(cancel <-chan struct{}, h *gofuse.InHeader, name string, out *gofuse.EntryOut) gofuse.Status {
	n := l.node(h.NodeId)
	if l.local(n) { // as do does, but without the memory that it takes
		if !n.view.places.enter(cancel) {
			return gofuse.EINTR
		}
		defer n.view.places.leave()
		return l.filesystem.Lookup(cancel, h, name, out)
	}
	in := *h
	return do(l.filesystem, cancel, n, out, func(out *gofuse.EntryOut) gofuse.Status {
		return l.filesystem.Lookup(cancel, &in, name, out)
	}, l.forgetEntry)
}

func (l limited) GetAttr(cancel <-chan struct{}, input *gofuse.GetAttrIn, out *gofuse.AttrOut) gofuse.Status {
	n := l.node(input.NodeId)
	if l.local(n) { // as in Lookup
		if !n.view.places.enter(cancel) {
			return gofuse.EINTR
		}
		defer n.view.places.leave()
		return l.filesystem.GetAttr(cancel, input, out)
	}
	in := *input
	return do(l.filesystem, cancel, n, out, func(out *gofuse.AttrOut) gofuse.Status {
		return l.filesystem.GetAttr(cancel, &in, out)
	}, nil)
}

func (l limited) SetAttr(cancel <-chan struct{}, input *gofuse.SetAttrIn, out *gofuse.AttrOut) gofuse.Status {
	in, n := *input, l.node(input.NodeId)
	return l.patiently(cancel, n, func() gofuse.Status {
		return do(l.filesystem, cancel, n, out, func(out *gofuse.AttrOut) gofuse.Status {
			return l.filesystem.SetAttr(cancel, &in, out)
		}, nil)
	})
}

func (l limited) Access(cancel <-chan struct{}, input *gofuse.AccessIn) gofuse.Status {
	in := *input
	return do(l.filesystem, cancel, l.node(in.NodeId), &nothing{}, func(*nothing) gofuse.Status {
		return l.filesystem.Access(cancel, &in)
	}, nil)
}

func (l limited) StatFs(cancel <-chan struct{}, h *gofuse.InHeader, out *gofuse.StatfsOut) gofuse.Status {
	in := *h
	return do(l.filesystem, cancel, l.node(in.NodeId), out, func(out *gofuse.StatfsOut) gofuse.Status {
		return l.filesystem.StatFs(cancel, &in, out)
	}, nil)
}

func (l limited) Readlink(cancel <-chan struct{}, h *gofuse.InHeader) ([]byte, gofuse.Status) {
	in := *h
	var text []byte
	code := do(l.filesystem, cancel, l.node(in.NodeId), &text, func(text *[]byte) (code gofuse.Status) {
		*text, code = l.filesystem.Readlink(cancel, &in)
		return code
	}, nil)
	return text, code
}

func (l limited) Mknod(cancel <-chan struct{}, input *gofuse.MknodIn, name string, out *gofuse.EntryOut) gofuse.Status {
	in := *input
	return do(l.filesystem, cancel, l.node(in.NodeId), out, func(out *gofuse.EntryOut) gofuse.Status {
		return l.filesystem.Mknod(cancel, &in, name, out)
	}, l.forgetEntry)
}

func (l limited) Mkdir(cancel <-chan struct{}, input *gofuse.MkdirIn, name string, out *gofuse.EntryOut) gofuse.Status {
	in := *input
	return do(l.filesystem, cancel, l.node(in.NodeId), out, func(out *gofuse.EntryOut) gofuse.Status {
		return l.filesystem.Mkdir(cancel, &in, name, out)
	}, l.forgetEntry)
}

func (l limited) Symlink(cancel <-chan struct{}, h *gofuse.InHeader, text, name string, out *gofuse.EntryOut) gofuse.Status {
	in := *h
	return do(l.filesystem, cancel, l.node(in.NodeId), out, func(out *gofuse.EntryOut) gofuse.Status {
		return l.filesystem.Symlink(cancel, &in, text, name, out)
	}, l.forgetEntry)
}

func (l limited) Link(cancel <-chan struct{}, input *gofuse.LinkIn, name string, out *gofuse.EntryOut) gofuse.Status {
	in := *input
	return do(l.filesystem, cancel, l.node(in.NodeId), out, func(out *gofuse.EntryOut) gofuse.Status {
		return l.filesystem.Link(cancel, &in, name, out)
	}, l.forgetEntry)
}

func (l limited) Unlink(cancel <-chan struct{}, h *gofuse.InHeader, name string) gofuse.Status {
	in := *h
	return do(l.filesystem, cancel, l.node(in.NodeId), &nothing{}, func(*nothing) gofuse.Status {
		return l.filesystem.Unlink(cancel, &in, name)
	}, nil)
}

func (l limited) Rmdir(cancel <-chan struct{}, h *gofuse.InHeader, name string) gofuse.Status {
	in := *h
	return do(l.filesystem, cancel, l.node(in.NodeId), &nothing{}, func(*nothing) gofuse.Status {
		return l.filesystem.Rmdir(cancel, &in, name)
	}, nil)
}

func (l limited) Rename(cancel <-chan struct{}, input *gofuse.RenameIn, oldName, newName string) gofuse.Status {
	in := *input
	return do(l.filesystem, cancel, l.node(in.NodeId), &nothing{}, func(*nothing) gofuse.Status {
		return l.filesystem.Rename(cancel, &in, oldName, newName)
	}, nil)
}

func (l limited) GetXAttr(cancel <-chan struct{}, h *gofuse.InHeader, name string, dest []byte) (uint32, gofuse.Status) {
	in := *h
	return l.value(cancel, in.NodeId, dest, func(dest []byte) (uint32, gofuse.Status) {
		return l.filesystem.GetXAttr(cancel, &in, name, dest)
	})
}

func (l limited) ListXAttr(cancel <-chan struct{}, h *gofuse.InHeader, dest []byte) (uint32, gofuse.Status) {
	in := *h
	return l.value(cancel, in.NodeId, dest, func(dest []byte) (uint32, gofuse.Status) {
		return l.filesystem.ListXAttr(cancel, &in, dest)
	})
}

// value is do for requests that fill a buffer and return a size with errors
// too.
func (l limited) value(cancel <-chan struct{}, id uint64, dest []byte, f func(dest []byte) (uint32, gofuse.Status)) (uint32, gofuse.Status) {
	type out struct {
		buf  []byte
		size uint32
	}
	var o out
	n, length := l.node(id), len(dest)
	code := do(l.filesystem, cancel, n, &o, func(o *out) (code gofuse.Status) {
		o.buf = make([]byte, length)
		o.size, code = f(o.buf)
		return code
	}, nil)
	copy(dest, o.buf)
	return o.size, code
}

func (l limited) SetXAttr(cancel <-chan struct{}, input *gofuse.SetXAttrIn, name string, data []byte) gofuse.Status {
	in, data := *input, bytes.Clone(data)
	return do(l.filesystem, cancel, l.node(in.NodeId), &nothing{}, func(*nothing) gofuse.Status {
		return l.filesystem.SetXAttr(cancel, &in, name, data)
	}, nil)
}

func (l limited) RemoveXAttr(cancel <-chan struct{}, h *gofuse.InHeader, name string) gofuse.Status {
	in := *h
	return do(l.filesystem, cancel, l.node(in.NodeId), &nothing{}, func(*nothing) gofuse.Status {
		return l.filesystem.RemoveXAttr(cancel, &in, name)
	}, nil)
}

func (l limited) Create(cancel <-chan struct{}, input *gofuse.CreateIn, name string, out *gofuse.CreateOut) gofuse.Status {
	in, n := *input, l.node(input.NodeId)
	return l.patiently(cancel, n, func() gofuse.Status {
		return do(l.filesystem, cancel, n, out, func(out *gofuse.CreateOut) gofuse.Status {
			return l.filesystem.Create(cancel, &in, name, out)
		}, l.closeCreated)
	})
}

func (l limited) Tmpfile(cancel <-chan struct{}, input *gofuse.CreateIn, out *gofuse.CreateOut) gofuse.Status {
	in := *input
	return do(l.filesystem, cancel, l.node(in.NodeId), out, func(out *gofuse.CreateOut) gofuse.Status {
		return l.filesystem.Tmpfile(cancel, &in, out)
	}, l.closeCreated)
}

func (l limited) Open(cancel <-chan struct{}, input *gofuse.OpenIn, out *gofuse.OpenOut) gofuse.Status {
	in, n := *input, l.node(input.NodeId)
	return l.patiently(cancel, n, func() gofuse.Status {
		return do(l.filesystem, cancel, n, out, func(out *gofuse.OpenOut) gofuse.Status {
			return l.filesystem.Open(cancel, &in, out)
		}, l.closeOpen)
	})
}

func (l limited) OpenDir(cancel <-chan struct{}, input *gofuse.OpenIn, out *gofuse.OpenOut) gofuse.Status {
	in := *input
	return do(l.filesystem, cancel, l.node(in.NodeId), out, func(out *gofuse.OpenOut) gofuse.Status {
		return l.filesystem.OpenDir(cancel, &in, out)
	}, l.closeOpen)
}

func (l limited) Read(cancel <-chan struct{}, input *gofuse.ReadIn, buf []byte) (gofuse.ReadResult, gofuse.Status) {
	n := l.handleNode(input.Fh)
	if n == nil || n.view == nil {
		return nil, status(syscall.ESTALE)
	}
	if l.local(n) {
		if !n.view.places.enter(cancel) {
			return nil, gofuse.EINTR
		}
		defer n.view.places.leave()
		return l.filesystem.Read(cancel, input, buf)
	}
	in, length := *input, len(buf)
	var out gofuse.ReadResult
	code := do(l.filesystem, cancel, n, &out, func(out *gofuse.ReadResult) (code gofuse.Status) {
		*out, code = l.filesystem.Read(cancel, &in, make([]byte, length))
		return code
	}, func(out *gofuse.ReadResult) { (*out).Done() })
	return out, code
}

func (l limited) Write(cancel <-chan struct{}, input *gofuse.WriteIn, data []byte) (uint32, gofuse.Status) {
	size, code := l.write(cancel, input, data)
	if h := l.handles.get(input.Fh); code != gofuse.OK && h != nil && h.index {
		l.indexFailed(h)
	}
	return size, code
}

func (l limited) write(cancel <-chan struct{}, input *gofuse.WriteIn, data []byte) (uint32, gofuse.Status) {
	n := l.handleNode(input.Fh)
	if n == nil || n.view == nil {
		return 0, status(syscall.ESTALE)
	}
	if l.local(n) {
		if !n.view.places.enter(cancel) {
			return 0, gofuse.EINTR
		}
		defer n.view.places.leave()
		return l.filesystem.Write(cancel, input, data)
	}
	in, data := *input, bytes.Clone(data)
	var size uint32
	code := do(l.filesystem, cancel, n, &size, func(size *uint32) (code gofuse.Status) {
		*size, code = l.filesystem.Write(cancel, &in, data)
		return code
	}, nil)
	return size, code
}

func (l limited) Lseek(cancel <-chan struct{}, input *gofuse.LseekIn, out *gofuse.LseekOut) gofuse.Status {
	in := *input
	return do(l.filesystem, cancel, l.handleNode(in.Fh), out, func(out *gofuse.LseekOut) gofuse.Status {
		return l.filesystem.Lseek(cancel, &in, out)
	}, nil)
}

func (l limited) CopyFileRange(cancel <-chan struct{}, input *gofuse.CopyFileRangeIn) (uint32, gofuse.Status) {
	in := *input
	n := l.handleNode(in.FhIn)
	if l.local(n) {
		n = l.handleNode(in.FhOut)
	}
	var size uint32
	code := do(l.filesystem, cancel, n, &size, func(size *uint32) (code gofuse.Status) {
		*size, code = l.filesystem.CopyFileRange(cancel, &in)
		return code
	}, nil)
	return size, code
}

func (l limited) Flush(cancel <-chan struct{}, input *gofuse.FlushIn) gofuse.Status {
	in, n := *input, l.handleNode(input.Fh)
	// What it waits for may need the places that it would take.
	if h := l.handles.get(in.Fh); h != nil && h.index {
		l.flushLocks(h, in.LockOwner)
	}
	return do(l.filesystem, l.ended(cancel, n, &in.InHeader), n, &nothing{}, func(*nothing) gofuse.Status {
		return l.filesystem.Flush(cancel, &in)
	}, nil)
}

func (l limited) Fsync(cancel <-chan struct{}, input *gofuse.FsyncIn) gofuse.Status {
	in := *input
	return do(l.filesystem, cancel, l.handleNode(in.Fh), &nothing{}, func(*nothing) gofuse.Status {
		return l.filesystem.Fsync(cancel, &in)
	}, nil)
}

func (l limited) FsyncDir(cancel <-chan struct{}, input *gofuse.FsyncIn) gofuse.Status {
	in := *input
	return do(l.filesystem, cancel, l.handleNode(in.Fh), &nothing{}, func(*nothing) gofuse.Status {
		return l.filesystem.FsyncDir(cancel, &in)
	}, nil)
}

func (l limited) Fallocate(cancel <-chan struct{}, input *gofuse.FallocateIn) gofuse.Status {
	in := *input
	return do(l.filesystem, cancel, l.handleNode(in.Fh), &nothing{}, func(*nothing) gofuse.Status {
		return l.filesystem.Fallocate(cancel, &in)
	}, nil)
}

func (l limited) GetLk(cancel <-chan struct{}, input *gofuse.LkIn, out *gofuse.LkOut) gofuse.Status {
	in := *input
	return do(l.filesystem, cancel, l.handleNode(in.Fh), out, func(out *gofuse.LkOut) gofuse.Status {
		return l.filesystem.GetLk(cancel, &in, out)
	}, nil)
}

func (l limited) SetLk(cancel <-chan struct{}, input *gofuse.LkIn) gofuse.Status {
	in, n := *input, l.handleNode(input.Fh)
	if h := l.handles.get(in.Fh); h != nil && h.index {
		return l.filesystem.SetLk(cancel, &in) // it may wait
	}
	return do(l.filesystem, l.ended(cancel, n, &in.InHeader), n, &nothing{}, func(*nothing) gofuse.Status {
		return l.locked(n, &in, func() gofuse.Status { return l.filesystem.SetLk(cancel, &in) })
	}, nil)
}

func (l limited) SetLkw(cancel <-chan struct{}, input *gofuse.LkIn) gofuse.Status {
	in, n := *input, l.handleNode(input.Fh)
	if h := l.handles.get(in.Fh); n != nil && n.view != nil && !h.index && !l.local(n) {
		// Asking the file system for a lock may take for ever, too.
		return l.patiently(cancel, n, func() gofuse.Status { return l.SetLk(cancel, &in) })
	}
	return l.locked(n, &in, func() gofuse.Status { return l.filesystem.SetLkw(cancel, &in) })
}

// Closing may wait as well, and nobody waits for it.

func (l limited) Release(cancel <-chan struct{}, in *gofuse.ReleaseIn) { l.release(in.Fh) }

func (l limited) ReleaseDir(in *gofuse.ReleaseIn) { l.release(in.Fh) }

func (l limited) release(fh uint64) {
	n := l.handleNode(fh)
	if n == nil || n.view == nil || l.local(n) {
		l.unregister(fh)
		return
	}
	go l.unregister(fh) // ends with close(2)
}

// ReadDir lists into memory of its own.
func (l limited) ReadDir(cancel <-chan struct{}, input *gofuse.ReadIn, out *gofuse.DirEntryList) gofuse.Status {
	n := l.handleNode(input.Fh)
	if n == nil || n.view == nil {
		return l.filesystem.ReadDir(cancel, input, out)
	}
	if l.local(n) {
		if !n.view.places.enter(cancel) {
			return gofuse.EINTR
		}
		defer n.view.places.leave()
		return l.filesystem.ReadDir(cancel, input, out)
	}
	in := *input
	var b []byte
	code := do(l.filesystem, cancel, n, &b, func(b *[]byte) gofuse.Status {
		list := gofuse.NewDirEntryList(make([]byte, in.Size), in.Offset)
		code := l.filesystem.ReadDir(cancel, &in, list)
		*b = list.Bytes()
		return code
	}, nil)
	if code != gofuse.OK {
		return code
	}
	entries, err := gofuse.ParseDirEntries(b)
	if err != nil {
		return gofuse.EIO
	}
	for _, e := range entries {
		out.AddDirEntry(e)
	}
	return gofuse.OK
}
