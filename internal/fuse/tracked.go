package fuse

import (
	"bytes"
	"sync/atomic"
	"syscall"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// tracked is the filesystem for a kernel whose connection outlives the server:
// it opens again what an earlier server had open, notes changes, and does not
// make those twice that an earlier one has made.
type tracked struct {
	limited
	state *state
	// resends: the kernel sends again what an earlier server has not answered.
	// Where it cannot, the numbers of requests are noted, so that they can be
	// failed.
	resends bool
	// poisoned: servers have died in a row of what they were asked, so what is
	// sent again is not done.
	poisoned bool
	last     *atomic.Uint64
	waits    *waitTable
}

// What is made now may look somewhat older than the clock, which dates files in
// steps, and on another machine's disk somewhat newer; in ns.
const (
	clockGrain = int64(20 * time.Millisecond)
	clockAhead = int64(2 * time.Second)
)

// begin is called for each request.
func (t *tracked) begin(h *gofuse.InHeader) gofuse.Status {
	if h.Unique&resentBit != 0 && t.poisoned {
		return gofuse.EIO
	}
	if !t.resends {
		for {
			last := t.last.Load()
			if h.Unique <= last {
				break
			}
			if t.last.CompareAndSwap(last, h.Unique) {
				t.state.set(wordLast, h.Unique)
				break
			}
		}
	}
	return gofuse.OK
}

// once makes a change, if no earlier server has made it. again is for the
// others: it is given what the change comes to if it is made now, or OK if it
// was made, and says what to answer and whether that is an answer at all.
func (t *tracked) once(h *gofuse.InHeader, run func() gofuse.Status, again func(c *change, now gofuse.Status) (gofuse.Status, bool)) gofuse.Status {
	return t.onceFrom(h, 0, run, again)
}

// onceFrom is once; before is noted with the change.
func (t *tracked) onceFrom(h *gofuse.InHeader, before uint64, run func() gofuse.Status, again func(c *change, now gofuse.Status) (gofuse.Status, bool)) gofuse.Status {
	if code := t.begin(h); code != gofuse.OK {
		return code
	}
	c := t.state.changes.take(h)
	switch {
	case c == nil:
		at := t.state.changes.begin(h, before)
		code := run()
		t.state.changes.end(at, code, 0)
		return code
	case c.done():
		code := c.status()
		if code == gofuse.OK {
			var ok bool
			if code, ok = again(c, code); !ok {
				code = run()
			}
		}
		return code
	}
	code := run()
	if code != gofuse.OK {
		if answer, ok := again(c, code); ok {
			code = answer
		}
	}
	t.state.changes.end(c.at, code, 0)
	return code
}

// made is again for what makes a name: fill gives the answer if what is there
// was made since the change began.
func made(fill func() (*unix.Statx_t, gofuse.Status)) func(c *change, now gofuse.Status) (gofuse.Status, bool) {
	return func(c *change, now gofuse.Status) (gofuse.Status, bool) {
		if now != gofuse.OK && now != gofuse.Status(syscall.EEXIST) {
			return now, true
		}
		st, code := fill()
		if code != gofuse.OK {
			return now, now != gofuse.OK
		}
		born := st.Ctime
		if st.Mask&unix.STATX_BTIME != 0 && st.Btime.Sec != 0 {
			born = st.Btime
		}
		if now != gofuse.OK && !c.mayHaveMade(born.Sec*1e9+int64(born.Nsec), present()) {
			return now, true
		}
		return gofuse.OK, true
	}
}

// entryFor looks name up for an answer, and returns its status on the host. If
// the answer is not used the look-up is taken back by the caller.
func (t *tracked) entryFor(cancel <-chan struct{}, h *gofuse.InHeader, name string, out *gofuse.EntryOut) (*unix.Statx_t, gofuse.Status) {
	if code := t.limited.Lookup(cancel, h, name, out); code != gofuse.OK {
		return nil, code
	}
	n := t.nodes.get(out.NodeId)
	if n == nil || n.view == nil {
		return new(unix.Statx_t), gofuse.OK
	}
	var st *unix.Statx_t
	s, errno := t.visible(n)
	if errno == 0 {
		var d *descriptor
		if d, errno = t.descriptor(n, s); errno == 0 {
			st, errno = statFD(d.fd)
			d.put()
		}
	}
	if errno != 0 {
		t.nodes.forget(out.NodeId, 1)
		*out = gofuse.EntryOut{} // so that the caller does not take the look-up back, too
		return nil, status(errno)
	}
	return st, gofuse.OK
}

func (t *tracked) makes(cancel <-chan struct{}, h *gofuse.InHeader, name string, out *gofuse.EntryOut, run func() gofuse.Status) gofuse.Status {
	return t.once(h, run, func(c *change, now gofuse.Status) (gofuse.Status, bool) {
		code, ok := made(func() (*unix.Statx_t, gofuse.Status) { return t.entryFor(cancel, h, name, out) })(c, now)
		if code != gofuse.OK && out.NodeId != 0 {
			t.nodes.forget(out.NodeId, 1)
			*out = gofuse.EntryOut{}
		}
		return code, ok
	})
}

func (t *tracked) Mknod(cancel <-chan struct{}, in *gofuse.MknodIn, name string, out *gofuse.EntryOut) gofuse.Status {
	return t.makes(cancel, &in.InHeader, name, out, func() gofuse.Status { return t.limited.Mknod(cancel, in, name, out) })
}

func (t *tracked) Mkdir(cancel <-chan struct{}, in *gofuse.MkdirIn, name string, out *gofuse.EntryOut) gofuse.Status {
	return t.makes(cancel, &in.InHeader, name, out, func() gofuse.Status { return t.limited.Mkdir(cancel, in, name, out) })
}

func (t *tracked) Symlink(cancel <-chan struct{}, h *gofuse.InHeader, text, name string, out *gofuse.EntryOut) gofuse.Status {
	return t.makes(cancel, h, name, out, func() gofuse.Status { return t.limited.Symlink(cancel, h, text, name, out) })
}

// Link makes a name of what is older than that: it is recognised by what it is.
func (t *tracked) Link(cancel <-chan struct{}, in *gofuse.LinkIn, name string, out *gofuse.EntryOut) gofuse.Status {
	return t.once(&in.InHeader, func() gofuse.Status {
		return t.limited.Link(cancel, in, name, out)
	}, func(c *change, now gofuse.Status) (gofuse.Status, bool) {
		if now != gofuse.OK && now != gofuse.Status(syscall.EEXIST) {
			return now, true
		}
		_, code := t.entryFor(cancel, &in.InHeader, name, out)
		if code == gofuse.OK && out.NodeId != in.Oldnodeid {
			t.nodes.forget(out.NodeId, 1)
			*out = gofuse.EntryOut{}
			code = gofuse.Status(syscall.EEXIST)
		}
		if code != gofuse.OK {
			return now, now != gofuse.OK
		}
		return gofuse.OK, true
	})
}

// gone is again for what removes a name: the kernel had seen it, and it is
// not there any more.
func gone(missing syscall.Errno) func(c *change, now gofuse.Status) (gofuse.Status, bool) {
	return func(_ *change, now gofuse.Status) (gofuse.Status, bool) {
		if now == gofuse.OK || now == status(missing) {
			return gofuse.OK, true
		}
		return now, true
	}
}

func (t *tracked) Unlink(cancel <-chan struct{}, h *gofuse.InHeader, name string) gofuse.Status {
	return t.once(h, func() gofuse.Status { return t.limited.Unlink(cancel, h, name) }, gone(syscall.ENOENT))
}

func (t *tracked) Rmdir(cancel <-chan struct{}, h *gofuse.InHeader, name string) gofuse.Status {
	return t.once(h, func() gofuse.Status { return t.limited.Rmdir(cancel, h, name) }, gone(syscall.ENOENT))
}

func (t *tracked) Rename(cancel <-chan struct{}, in *gofuse.RenameIn, oldName, newName string) gofuse.Status {
	var c *change
	var before uint64
	if in.Flags == unix.RENAME_EXCHANGE {
		c = t.state.changes.noted(&in.InHeader)
		if c == nil {
			before = t.inodeAt(in.NodeId, oldName)
		}
	}
	return t.onceFrom(&in.InHeader, before, func() gofuse.Status {
		if t.exchanged(c, in, oldName, newName) {
			return gofuse.OK
		}
		return t.limited.Rename(cancel, in, oldName, newName)
	}, func(_ *change, now gofuse.Status) (gofuse.Status, bool) {
		if now == gofuse.OK {
			return now, true
		}
		if now != gofuse.ENOENT || in.Flags == unix.RENAME_EXCHANGE {
			return now, true
		}
		// What was to be moved is not there. If it is where it was to go, it
		// was moved.
		var out gofuse.EntryOut
		to := in.InHeader
		to.NodeId = in.Newdir
		if t.limited.Lookup(cancel, &to, newName, &out) != gofuse.OK {
			return now, true
		}
		t.nodes.forget(out.NodeId, 1)
		return gofuse.OK, true
	})
}

// inodeAt is the inode number of what is at name in the directory of a directory
// document, 0 if that cannot be said.
func (t *tracked) inodeAt(id uint64, name string) uint64 {
	_, _, dir, errno := t.target(id, name)
	if errno != 0 || dir == nil {
		return 0
	}
	defer dir.put()
	return t.inodeIn(dir.fd, name)
}

func (t *tracked) inodeIn(dir int, name string) uint64 {
	id, _ := t.host.identityAt(dir, name)
	return id.ino
}

// exchanged reports whether two names were exchanged by an earlier server that
// did not come to note it: what was at the one when c was begun is at the other.
// Links to one and the same file may well be exchanged twice.
func (t *tracked) exchanged(c *change, in *gofuse.RenameIn, oldName, newName string) bool {
	if c == nil || c.size == 0 {
		return false
	}
	from, _, dir, errno := t.target(in.NodeId, oldName)
	if errno != 0 || dir == nil {
		return false
	}
	defer dir.put()
	to, _, newDir, errno := t.target(in.Newdir, newName)
	if errno != 0 || newDir == nil {
		return false
	}
	defer newDir.put()
	if t.inodeIn(newDir.fd, newName) != c.size || t.inodeIn(dir.fd, oldName) == c.size {
		return false
	}
	if n := t.nodeAt(from.view, newDir.fd, newName); n != nil {
		t.nodes.setPlace(n, to, newName)
	}
	if n := t.nodeAt(to.view, dir.fd, oldName); n != nil {
		t.nodes.setPlace(n, from, oldName)
	}
	return true
}

func (t *tracked) Create(cancel <-chan struct{}, in *gofuse.CreateIn, name string, out *gofuse.CreateOut) gofuse.Status {
	t.forgetOpened(in.Unique)
	code := t.once(&in.InHeader, func() gofuse.Status {
		return t.limited.Create(cancel, in, name, out)
	}, func(c *change, now gofuse.Status) (gofuse.Status, bool) {
		code, ok := made(func() (*unix.Statx_t, gofuse.Status) { return t.entryFor(cancel, &in.InHeader, name, &out.EntryOut) })(c, now)
		if code == gofuse.OK && ok {
			open := gofuse.OpenIn{InHeader: in.InHeader, Flags: in.Flags &^ (unix.O_CREAT | unix.O_EXCL | unix.O_TRUNC)}
			open.NodeId = out.NodeId
			code = t.limited.Open(cancel, &open, &out.OpenOut)
		}
		if code != gofuse.OK && out.NodeId != 0 {
			t.nodes.forget(out.NodeId, 1)
			*out = gofuse.CreateOut{}
		}
		return code, ok
	})
	t.noteOpened(code, out.Fh, in.Unique)
	return code
}

func (t *tracked) Tmpfile(cancel <-chan struct{}, in *gofuse.CreateIn, out *gofuse.CreateOut) gofuse.Status {
	if code := t.begin(&in.InHeader); code != gofuse.OK {
		return code
	}
	t.forgetOpened(in.Unique)
	code := t.limited.Tmpfile(cancel, in, out)
	t.noteOpened(code, out.Fh, in.Unique)
	return code
}

func (t *tracked) SetXAttr(cancel <-chan struct{}, in *gofuse.SetXAttrIn, name string, data []byte) gofuse.Status {
	return t.once(&in.InHeader, func() gofuse.Status {
		return t.limited.SetXAttr(cancel, in, name, data)
	}, func(_ *change, now gofuse.Status) (gofuse.Status, bool) {
		if now != gofuse.Status(syscall.EEXIST) {
			return now, true
		}
		b := make([]byte, len(data)+1)
		size, code := t.limited.GetXAttr(cancel, &in.InHeader, name, b)
		if code == gofuse.OK && bytes.Equal(b[:size], data) {
			return gofuse.OK, true
		}
		return now, true
	})
}

func (t *tracked) RemoveXAttr(cancel <-chan struct{}, h *gofuse.InHeader, name string) gofuse.Status {
	return t.once(h, func() gofuse.Status { return t.limited.RemoveXAttr(cancel, h, name) }, gone(syscall.ENODATA))
}

// Write appends at most once; what has an offset may be written again.
func (t *tracked) Write(cancel <-chan struct{}, in *gofuse.WriteIn, data []byte) (uint32, gofuse.Status) {
	if code := t.ready(cancel, &in.InHeader, in.Fh); code != gofuse.OK {
		return 0, code
	}
	if in.Flags&unix.O_APPEND == 0 || in.WriteFlags&gofuse.WRITE_CACHE != 0 {
		return t.limited.Write(cancel, in, data)
	}
	c := t.state.changes.take(&in.InHeader)
	if c != nil && c.done() {
		return c.result, c.status()
	}
	var at uint32
	if c != nil {
		if at = c.at; t.appended(in.Fh, c.size, data) {
			t.state.changes.end(at, gofuse.OK, uint32(len(data)))
			return uint32(len(data)), gofuse.OK
		}
	} else {
		at = t.state.changes.begin(&in.InHeader, t.sizeOf(in.Fh))
	}
	n, code := t.limited.Write(cancel, in, data)
	t.state.changes.end(at, code, n)
	return n, code
}

func (t *tracked) sizeOf(fh uint64) uint64 {
	h := t.handles.use(fh)
	if h == nil {
		return 0
	}
	defer h.d.put()
	st, errno := statFD(h.d.fd)
	if errno != 0 {
		return 0
	}
	return st.Size
}

// appended reports whether data is what follows the first size bytes of an
// open file.
func (t *tracked) appended(fh, size uint64, data []byte) bool {
	h := t.handles.use(fh)
	if h == nil {
		return false
	}
	defer h.d.put()
	// The handle may be one that cannot read.
	fd, errno := reopen(h.d.fd, unix.O_RDONLY)
	if errno != 0 {
		return false
	}
	defer unix.Close(fd)
	b := make([]byte, len(data))
	n, errno := readAt(fd, b, int64(size))
	return errno == 0 && n == len(b) && bytes.Equal(b, data)
}

func (t *tracked) CopyFileRange(cancel <-chan struct{}, in *gofuse.CopyFileRangeIn) (uint32, gofuse.Status) {
	if code := t.ready(cancel, &in.InHeader, in.FhIn); code != gofuse.OK {
		return 0, code
	}
	if code := t.limited.revive(cancel, in.FhOut); code != gofuse.OK {
		return 0, code
	}
	return t.limited.CopyFileRange(cancel, in)
}

func (t *tracked) Fallocate(cancel <-chan struct{}, in *gofuse.FallocateIn) gofuse.Status {
	if code := t.limited.revive(cancel, in.Fh); code != gofuse.OK {
		return code
	}
	return t.once(&in.InHeader, func() gofuse.Status { return t.limited.Fallocate(cancel, in) },
		func(_ *change, now gofuse.Status) (gofuse.Status, bool) { return now, true })
}

// ready is begin for requests with a handle.
func (t *tracked) ready(cancel <-chan struct{}, h *gofuse.InHeader, fh uint64) gofuse.Status {
	if code := t.begin(h); code != gofuse.OK {
		return code
	}
	return t.limited.revive(cancel, fh)
}

// forgetOpened closes what an earlier server has opened for a request that is
// sent again.
func (t *tracked) forgetOpened(unique uint64) {
	if unique&resentBit != 0 {
		t.forgetLost(t.lost.opened(unique))
	}
}

// noteOpened notes for which request a handle was opened.
func (t *tracked) noteOpened(code gofuse.Status, fh, unique uint64) {
	if code != gofuse.OK {
		return
	}
	if h := t.handles.get(fh); h != nil && h.saved != 0 {
		t.state.set(h.saved+handleUnique, unique&^resentBit)
	}
}

func (t *tracked) Open(cancel <-chan struct{}, in *gofuse.OpenIn, out *gofuse.OpenOut) gofuse.Status {
	if code := t.begin(&in.InHeader); code != gofuse.OK {
		return code
	}
	t.forgetOpened(in.Unique)
	code := t.limited.Open(cancel, in, out)
	t.noteOpened(code, out.Fh, in.Unique)
	return code
}

func (t *tracked) OpenDir(cancel <-chan struct{}, in *gofuse.OpenIn, out *gofuse.OpenOut) gofuse.Status {
	if code := t.begin(&in.InHeader); code != gofuse.OK {
		return code
	}
	t.forgetOpened(in.Unique)
	code := t.limited.OpenDir(cancel, in, out)
	t.noteOpened(code, out.Fh, in.Unique)
	return code
}

func (t *tracked) Release(cancel <-chan struct{}, in *gofuse.ReleaseIn) {
	t.begin(&in.InHeader)
	t.forgetLost(t.lost.get(in.Fh))
	t.limited.Release(cancel, in)
}

func (t *tracked) ReleaseDir(in *gofuse.ReleaseIn) {
	t.begin(&in.InHeader)
	t.forgetLost(t.lost.get(in.Fh))
	t.limited.ReleaseDir(in)
}

func (t *tracked) Read(cancel <-chan struct{}, in *gofuse.ReadIn, buf []byte) (gofuse.ReadResult, gofuse.Status) {
	if lost := t.lost.get(in.Fh); lost != nil && lost.kind&handleIndex != 0 {
		// A program that has it mapped would be killed. It finds no header, and
		// no lock that it could have to make one.
		if code := t.begin(&in.InHeader); code != gofuse.OK {
			return nil, code
		}
		clear(buf)
		return gofuse.ReadResultData(buf), gofuse.OK
	}
	if code := t.ready(cancel, &in.InHeader, in.Fh); code != gofuse.OK {
		return nil, code
	}
	return t.limited.Read(cancel, in, buf)
}

func (t *tracked) ReadDir(cancel <-chan struct{}, in *gofuse.ReadIn, out *gofuse.DirEntryList) gofuse.Status {
	if code := t.ready(cancel, &in.InHeader, in.Fh); code != gofuse.OK {
		return code
	}
	return t.limited.ReadDir(cancel, in, out)
}

func (t *tracked) Flush(cancel <-chan struct{}, in *gofuse.FlushIn) gofuse.Status {
	if code := t.ready(cancel, &in.InHeader, in.Fh); code != gofuse.OK {
		return code
	}
	return t.limited.Flush(cancel, in)
}

func (t *tracked) Fsync(cancel <-chan struct{}, in *gofuse.FsyncIn) gofuse.Status {
	if code := t.ready(cancel, &in.InHeader, in.Fh); code != gofuse.OK {
		return code
	}
	return t.limited.Fsync(cancel, in)
}

func (t *tracked) FsyncDir(cancel <-chan struct{}, in *gofuse.FsyncIn) gofuse.Status {
	if code := t.ready(cancel, &in.InHeader, in.Fh); code != gofuse.OK {
		return code
	}
	return t.limited.FsyncDir(cancel, in)
}

func (t *tracked) Lseek(cancel <-chan struct{}, in *gofuse.LseekIn, out *gofuse.LseekOut) gofuse.Status {
	if code := t.ready(cancel, &in.InHeader, in.Fh); code != gofuse.OK {
		return code
	}
	return t.limited.Lseek(cancel, in, out)
}

func (t *tracked) GetLk(cancel <-chan struct{}, in *gofuse.LkIn, out *gofuse.LkOut) gofuse.Status {
	if code := t.ready(cancel, &in.InHeader, in.Fh); code != gofuse.OK {
		return code
	}
	return t.limited.GetLk(cancel, in, out)
}

func (t *tracked) SetLk(cancel <-chan struct{}, in *gofuse.LkIn) gofuse.Status {
	if code := t.ready(cancel, &in.InHeader, in.Fh); code != gofuse.OK {
		return code
	}
	code := t.limited.SetLk(cancel, in)
	t.noteLock(code, in)
	return code
}

func (t *tracked) SetLkw(cancel <-chan struct{}, in *gofuse.LkIn) gofuse.Status {
	if code := t.ready(cancel, &in.InHeader, in.Fh); code != gofuse.OK {
		return code
	}
	if !t.resends {
		defer t.waits.add(in.Unique)()
	}
	code := t.limited.SetLkw(cancel, in)
	t.noteLock(code, in)
	return code
}

// noteLock notes that a lock was taken by a handle.
func (t *tracked) noteLock(code gofuse.Status, in *gofuse.LkIn) {
	if code != gofuse.OK || in.Lk.Typ == unix.F_UNLCK {
		return
	}
	if h := t.handles.get(in.Fh); h != nil && h.saved != 0 {
		t.state.set32(h.saved+handleKind, t.state.get32(h.saved+handleKind)|handleLocked)
	}
}

func (t *tracked) GetAttr(cancel <-chan struct{}, in *gofuse.GetAttrIn, out *gofuse.AttrOut) gofuse.Status {
	if code := t.begin(&in.InHeader); code != gofuse.OK {
		return code
	}
	if in.Flags()&gofuse.FUSE_GETATTR_FH != 0 {
		t.limited.revive(cancel, in.Fh()) // without it the place has an answer
	}
	return t.limited.GetAttr(cancel, in, out)
}

func (t *tracked) SetAttr(cancel <-chan struct{}, in *gofuse.SetAttrIn, out *gofuse.AttrOut) gofuse.Status {
	if code := t.begin(&in.InHeader); code != gofuse.OK {
		return code
	}
	if fh, ok := in.GetFh(); ok {
		t.limited.revive(cancel, fh)
	}
	return t.limited.SetAttr(cancel, in, out)
}

func (t *tracked) Lookup(cancel <-chan struct{}, h *gofuse.InHeader, name string, out *gofuse.EntryOut) gofuse.Status {
	if code := t.begin(h); code != gofuse.OK {
		return code
	}
	return t.limited.Lookup(cancel, h, name, out)
}

func (t *tracked) Access(cancel <-chan struct{}, in *gofuse.AccessIn) gofuse.Status {
	if code := t.begin(&in.InHeader); code != gofuse.OK {
		return code
	}
	return t.limited.Access(cancel, in)
}

func (t *tracked) StatFs(cancel <-chan struct{}, h *gofuse.InHeader, out *gofuse.StatfsOut) gofuse.Status {
	if code := t.begin(h); code != gofuse.OK {
		return code
	}
	return t.limited.StatFs(cancel, h, out)
}

func (t *tracked) Readlink(cancel <-chan struct{}, h *gofuse.InHeader) ([]byte, gofuse.Status) {
	if code := t.begin(h); code != gofuse.OK {
		return nil, code
	}
	return t.limited.Readlink(cancel, h)
}

func (t *tracked) GetXAttr(cancel <-chan struct{}, h *gofuse.InHeader, name string, dest []byte) (uint32, gofuse.Status) {
	if code := t.begin(h); code != gofuse.OK {
		return 0, code
	}
	return t.limited.GetXAttr(cancel, h, name, dest)
}

func (t *tracked) ListXAttr(cancel <-chan struct{}, h *gofuse.InHeader, dest []byte) (uint32, gofuse.Status) {
	if code := t.begin(h); code != gofuse.OK {
		return 0, code
	}
	return t.limited.ListXAttr(cancel, h, dest)
}
