package fuse

import (
	"syscall"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"github.com/hanwen/go-fuse/v2/splice"
	"golang.org/x/sys/unix"
)

func changes(flags uint32) bool {
	return flags&unix.O_ACCMODE != unix.O_RDONLY || flags&unix.O_TRUNC != 0
}

// Open opens a regular file. The kernel opens pipes, sockets and devices
// itself.
func (fs *filesystem) Open(cancel <-chan struct{}, in *gofuse.OpenIn, out *gofuse.OpenOut) gofuse.Status {
	n := fs.nodes.get(in.NodeId)
	if n == nil {
		return status(syscall.ESTALE)
	}
	if n.view == nil || n.key.typ != unix.S_IFREG {
		return status(syscall.EACCES)
	}
	s, errno := fs.visible(n)
	if errno == 0 && changes(in.Flags) {
		s, errno = fs.writable(n)
	}
	if errno != 0 {
		return status(errno)
	}
	d, errno := fs.descriptor(n, s)
	if errno != 0 {
		return status(errno)
	}
	defer d.put()
	fd, errno := reopen(d.fd, int(in.Flags)&openFlags)
	if errno != 0 {
		return status(errno)
	}
	return status(fs.opened(n, fd, in.Flags, out))
}

// access says what an open is for.
func access(flags uint32) string {
	if changes(flags) {
		return "write"
	}
	return "read"
}

// opened makes a handle of the regular file fd, which it takes over.
func (fs *filesystem) opened(n *node, fd int, flags uint32, out *gofuse.OpenOut) syscall.Errno {
	st, errno := statFD(fd)
	if errno != 0 {
		unix.Close(fd)
		return errno
	}
	if fs.verbose {
		fs.log.Debug("allowed", "app", n.view.app, "document", n.view.id, "to", access(flags))
	}
	h := &handle{n: n, d: newDescriptor(fd), flags: int(flags)}
	if changes(flags) {
		fs.receiving.expectData()
	}
	switch same := fs.nodes.unchanged(n, st); {
	case fs.database(h, st):
		h.direct = true
		out.OpenFlags |= gofuse.FOPEN_DIRECT_IO
	case same && !h.index:
		out.OpenFlags |= gofuse.FOPEN_KEEP_CACHE
	}
	out.Fh, errno = fs.enroll(h)
	return errno
}

// Create makes and opens a file, or opens the one that is there after all:
// the kernel sends it when a look-up found nothing, and what the look-up did
// not show may well be a link that the app has put there.
func (fs *filesystem) Create(cancel <-chan struct{}, in *gofuse.CreateIn, name string, out *gofuse.CreateOut) gofuse.Status {
	n := fs.nodes.get(in.NodeId)
	if n == nil {
		return status(syscall.ESTALE)
	}
	s, errno := fs.writable(n)
	if errno != 0 {
		return status(errno)
	}
	if errno := newName(name); errno != 0 {
		return status(errno)
	}
	if n.kind == kindDoc {
		if s.doc.Directory {
			return status(syscall.EACCES)
		}
		return status(fs.createInDocument(n, s, in, name, out))
	}
	if fs.temps.hides(name) {
		return status(syscall.EACCES)
	}
	dir, errno := fs.descriptor(n, s)
	if errno != 0 {
		return status(errno)
	}
	defer dir.put()
	return status(fs.createIn(n, s, dir.fd, name, in, name, syscall.ESTALE, out))
}

// newName checks a name that something is to get.
func newName(name string) syscall.Errno {
	switch {
	case len(name) > unix.NAME_MAX:
		return syscall.ENAMETOOLONG
	case !component(name):
		return syscall.EINVAL
	}
	return 0
}

// createIn makes or opens backing in the directory dir, for the name that the
// view shows in n.
func (fs *filesystem) createIn(n *node, s *docState, dir int, backing string, in *gofuse.CreateIn, name string, notRegular syscall.Errno, out *gofuse.CreateOut) syscall.Errno {
	mode := in.Mode & 0o777
	fd, created, errno := fs.host.createFile(dir, backing, int(in.Flags), mode, notRegular)
	if errno != 0 {
		return errno
	}
	if created && fs.masked(dir, mode) {
		unix.Fchmod(fd, mode)
	}
	st, errno := statFD(fd)
	if errno != 0 {
		unix.Close(fd)
		return errno
	}
	key := identify(fd, st)
	if fs.host.shows(key.dev) {
		unix.Close(fd)
		return syscall.ENOENT
	}
	k := kindTree
	if n.kind == kindDoc {
		k = kindFile
	}
	child := fs.nodes.look(n.view, k, n, name, key)
	if errno := fs.opened(child, fd, in.Flags, &out.OpenOut); errno != 0 {
		fs.nodes.forget(child.id, 1)
		return errno
	}
	fs.entry(child, st, s, &out.EntryOut)
	return 0
}

// Tmpfile makes a file with no name.
func (fs *filesystem) Tmpfile(cancel <-chan struct{}, in *gofuse.CreateIn, out *gofuse.CreateOut) gofuse.Status {
	n := fs.nodes.get(in.NodeId)
	if n == nil {
		return status(syscall.ESTALE)
	}
	s, errno := fs.writable(n)
	if errno != 0 {
		return status(errno)
	}
	if n.kind != kindTop && n.kind != kindTree {
		return status(syscall.EOPNOTSUPP)
	}
	dir, errno := fs.descriptor(n, s)
	if errno != 0 {
		return status(errno)
	}
	defer dir.put()
	mode := in.Mode & 0o777
	flags := int(in.Flags)&(openFlags|unix.O_EXCL) | unix.O_TMPFILE | unix.O_CLOEXEC
	fd, err := unix.Open(dir.path(), flags, mode)
	if err != nil {
		return status(errnoOf(err))
	}
	if fs.masked(dir.fd, mode) {
		unix.Fchmod(fd, mode)
	}
	st, errno := statFD(fd)
	if errno != 0 {
		unix.Close(fd)
		return status(errno)
	}
	child := fs.nodes.look(n.view, kindTree, nil, "", identify(fd, st))
	if errno := fs.opened(child, fd, in.Flags, &out.OpenOut); errno != 0 {
		fs.nodes.forget(child.id, 1)
		return status(errno)
	}
	fs.entry(child, st, s, &out.EntryOut)
	return gofuse.OK
}

// file returns the open handle fh of a file, if the document still gives what
// the request needs. The caller puts back its descriptor.
func (fs *filesystem) file(fh uint64, write bool) (*handle, syscall.Errno) {
	h := fs.handles.use(fh)
	if h == nil {
		return nil, syscall.ESTALE
	}
	s := h.n.view.state()
	if !s.visible || write && !s.access.Write {
		h.d.put()
		return nil, syscall.EACCES
	}
	return h, 0
}

// spliceSize is from how many bytes on a read goes through a pipe, which
// saves copying it through this process.
const spliceSize = 64 << 10

// Read reads from an open file.
func (fs *filesystem) Read(cancel <-chan struct{}, in *gofuse.ReadIn, buf []byte) (gofuse.ReadResult, gofuse.Status) {
	h, errno := fs.file(in.Fh, false)
	if errno != 0 {
		return nil, status(errno)
	}
	defer h.d.put()
	// In a pipe data takes a slot for each page that it touches; only
	// whole pages are sure to fit into the one that sends the reply.
	page := unix.Getpagesize()
	if len(buf) >= spliceSize && !h.index && in.Offset%uint64(page) == 0 && len(buf)%page == 0 {
		if r := readPipe(h.d.fd, buf, int64(in.Offset), page); r != nil {
			return r, gofuse.OK
		}
	}
	n, errno := readAt(h.d.fd, buf, int64(in.Offset))
	if errno != 0 && n == 0 {
		return nil, status(errno)
	}
	if h.index {
		fs.readIndex(h, buf[:n], in.Offset)
	}
	return gofuse.ReadResultData(buf[:n]), gofuse.OK
}

// readAt fills buf from off, as far as there is anything: the kernel takes a
// short answer for the end of the file.
func readAt(fd int, buf []byte, off int64) (n int, errno syscall.Errno) {
	for n < len(buf) {
		m, err := unix.Pread(fd, buf[n:], off+int64(n))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return n, errnoOf(err)
		}
		if m == 0 {
			break
		}
		n += m
	}
	return n, 0
}

// readPipe is readAt into a pipe. It returns nil if that did not work out.
func readPipe(fd int, buf []byte, off int64, page int) gofuse.ReadResult {
	pair, err := splice.Get()
	if err != nil {
		return nil
	}
	if err := pair.Grow(len(buf) + page); err != nil {
		splice.Done(pair)
		return nil
	}
	total := 0
	for total < len(buf) {
		pos := off + int64(total)
		n, err := unix.Splice(fd, &pos, int(pair.WriteFd()), nil, len(buf)-total, unix.SPLICE_F_NONBLOCK)
		if err == unix.EINTR {
			continue
		}
		if err == nil && n == 0 {
			break
		}
		if n > 0 {
			total += int(n)
		}
		if err != nil || total < len(buf) && total%page != 0 && !atEnd(fd, off+int64(total)) {
			splice.Drop(pair)
			return nil
		}
	}
	if total == 0 {
		splice.Done(pair)
		return gofuse.ReadResultData(nil)
	}
	return gofuse.ReadResultPipe(pair, total)
}

func atEnd(fd int, off int64) bool {
	var b [1]byte
	n, err := unix.Pread(fd, b[:], off)
	return n == 0 && err == nil
}

// Write writes to an open file.
func (fs *filesystem) Write(cancel <-chan struct{}, in *gofuse.WriteIn, data []byte) (uint32, gofuse.Status) {
	h, errno := fs.file(in.Fh, true)
	if errno != 0 {
		return 0, status(errno)
	}
	defer h.d.put()
	// An app's append goes to the end of the file as it is now: the kernel's
	// idea of it may be older than what the host has written. Pages of a
	// memory map go where they belong, and the kernel sends them by
	// whichever open file it likes, so the file itself is not in that mode.
	if h.index && in.Flags&unix.O_APPEND == 0 {
		if errno := fs.writeIndex(h, data, in.Offset); errno != 0 {
			return 0, status(errno)
		}
		return uint32(len(data)), gofuse.OK
	}
	flags := 0
	if in.Flags&unix.O_APPEND != 0 && in.WriteFlags&gofuse.WRITE_CACHE == 0 {
		flags = unix.RWF_APPEND
	}
	for {
		n, err := writeAt(h.d.fd, data, int64(in.Offset), flags)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, status(errnoOf(err))
		}
		return uint32(n), gofuse.OK
	}
}

// writeAll writes all of data at off.
func writeAll(fd int, data []byte, off int64) syscall.Errno {
	for len(data) > 0 {
		n, err := unix.Pwrite(fd, data, off)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return errnoOf(err)
		case n == 0:
			return syscall.EIO
		}
		data, off = data[n:], off+int64(n)
	}
	return 0
}

func writeAt(fd int, data []byte, off int64, flags int) (int, error) {
	if flags == 0 {
		return unix.Pwrite(fd, data, off)
	}
	return unix.Pwritev2(fd, [][]byte{data}, off, flags)
}

// Writev is not offered: requests come in one piece.
func (fs *filesystem) Writev(cancel <-chan struct{}, in *gofuse.WriteIn, data [][]byte) (uint32, gofuse.Status) {
	return 0, gofuse.ENOSYS
}

// Flush reports what close(2) of the backing file reports.
func (fs *filesystem) Flush(cancel <-chan struct{}, in *gofuse.FlushIn) gofuse.Status {
	h := fs.handles.use(in.Fh)
	if h == nil {
		return status(syscall.ESTALE)
	}
	defer h.d.put()
	fs.flushLocks(h, in.LockOwner)
	if h.flags&unix.O_ACCMODE == unix.O_RDONLY {
		return gofuse.OK // nothing was written
	}
	fd, err := unix.FcntlInt(uintptr(h.d.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return status(errnoOf(err))
	}
	// EINTR from close means closed on Linux.
	if err := unix.Close(fd); err != nil && err != unix.EINTR {
		return status(errnoOf(err))
	}
	return gofuse.OK
}

// Release closes a file.
func (fs *filesystem) Release(cancel <-chan struct{}, in *gofuse.ReleaseIn) { fs.unregister(in.Fh) }

// Fsync is fsync or fdatasync of an open file.
func (fs *filesystem) Fsync(cancel <-chan struct{}, in *gofuse.FsyncIn) gofuse.Status {
	h, errno := fs.file(in.Fh, false)
	if errno != 0 {
		return status(errno)
	}
	defer h.d.put()
	return status(sync1(h.d.fd, in.FsyncFlags))
}

func sync1(fd int, flags uint32) syscall.Errno {
	f := unix.Fsync
	if flags&1 != 0 {
		f = unix.Fdatasync
	}
	return errnoOf(ignoringEINTR(func() error { return f(fd) }))
}

// Fallocate is fallocate(2).
func (fs *filesystem) Fallocate(cancel <-chan struct{}, in *gofuse.FallocateIn) gofuse.Status {
	h, errno := fs.file(in.Fh, true)
	if errno != 0 {
		return status(errno)
	}
	defer h.d.put()
	return status(errnoOf(ignoringEINTR(func() error {
		return unix.Fallocate(h.d.fd, in.Mode, int64(in.Offset), int64(in.Length))
	})))
}

// Lseek finds data and holes; the kernel does the rest of lseek(2) itself.
func (fs *filesystem) Lseek(cancel <-chan struct{}, in *gofuse.LseekIn, out *gofuse.LseekOut) gofuse.Status {
	h, errno := fs.file(in.Fh, false)
	if errno != 0 {
		return status(errno)
	}
	defer h.d.put()
	if in.Whence != unix.SEEK_DATA && in.Whence != unix.SEEK_HOLE {
		return status(syscall.EINVAL)
	}
	off, err := unix.Seek(h.d.fd, int64(in.Offset), int(in.Whence))
	if err != nil {
		return status(errnoOf(err))
	}
	out.Offset = uint64(off)
	return gofuse.OK
}

// CopyFileRange is copy_file_range(2), between documents too.
func (fs *filesystem) CopyFileRange(cancel <-chan struct{}, in *gofuse.CopyFileRangeIn) (uint32, gofuse.Status) {
	from, errno := fs.file(in.FhIn, false)
	if errno != 0 {
		return 0, status(errno)
	}
	defer from.d.put()
	to, errno := fs.file(in.FhOut, true)
	if errno != 0 {
		return 0, status(errno)
	}
	defer to.d.put()
	if in.Flags != 0 {
		return 0, status(syscall.EINVAL)
	}
	offIn, offOut := int64(in.OffIn), int64(in.OffOut)
	for {
		n, err := unix.CopyFileRange(from.d.fd, &offIn, to.d.fd, &offOut, int(min(in.Len, 1<<30)), 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, status(errnoOf(err))
		}
		return uint32(n), gofuse.OK
	}
}

// Ioctl has none to offer; ENOSYS would end them for the mount, and ENOTTY is
// what a file without them says.
func (fs *filesystem) Ioctl(cancel <-chan struct{}, in *gofuse.IoctlIn, inbuf []byte, out *gofuse.IoctlOut, outbuf []byte) gofuse.Status {
	return status(syscall.ENOTTY)
}

// Statx is not offered: the kernel then asks with GETATTR.
func (fs *filesystem) Statx(cancel <-chan struct{}, in *gofuse.StatxIn, out *gofuse.StatxOut) gofuse.Status {
	return gofuse.ENOSYS
}
