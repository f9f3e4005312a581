package fuse

import (
	"bytes"
	"encoding/binary"
	"sync"
	"syscall"
	"unsafe"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// stream is the position of an open directory.
type stream struct {
	mu sync.Mutex
	// entries is the listing of a directory of the view, taken when it is
	// read from its start; a cookie is an index into it.
	entries []gofuse.DirEntry
	// buf holds what getdents64(2) returned, in the memory of piece, and the
	// kernel has not got yet; its first entry is the one at the cookie next.
	piece, buf []byte
	next       uint64
}

const direntBuffer = 32 << 10

// OpenDir opens a directory.
func (fs *filesystem) OpenDir(cancel <-chan struct{}, in *gofuse.OpenIn, out *gofuse.OpenOut) gofuse.Status {
	n := fs.nodes.get(in.NodeId)
	if n == nil {
		return status(syscall.ESTALE)
	}
	if n.view == nil {
		fh, errno := fs.register(n, nil, int(in.Flags), new(stream))
		out.Fh = fh
		return status(errno)
	}
	s, errno := fs.visible(n)
	if errno != 0 {
		return status(errno)
	}
	d, errno := fs.descriptor(n, s)
	if errno != 0 {
		return status(errno)
	}
	defer d.put()
	if n.kind == kindDoc && s.doc.Directory {
		out.Fh, errno = fs.register(n, nil, int(in.Flags), new(stream))
		return status(errno)
	}
	if n.kind == kindDoc {
		// The listing is the view's; the descriptor is for fsync.
		out.Fh, errno = fs.register(n, d.get(), int(in.Flags), new(stream))
		return status(errno)
	}
	fd, errno := reopen(d.fd, unix.O_RDONLY|unix.O_DIRECTORY)
	if errno != 0 {
		return status(errno)
	}
	out.Fh, errno = fs.register(n, newDescriptor(fd), int(in.Flags), new(stream))
	return status(errno)
}

// ReleaseDir closes a directory.
func (fs *filesystem) ReleaseDir(in *gofuse.ReleaseIn) { fs.unregister(in.Fh) }

// ReadDirPlus is not offered: with timeouts of 0 what it brings is asked for
// again at once.
func (fs *filesystem) ReadDirPlus(cancel <-chan struct{}, in *gofuse.ReadIn, out *gofuse.DirEntryList) gofuse.Status {
	return status(syscall.EOPNOTSUPP)
}

// ReadDir lists a directory from a cookie on.
func (fs *filesystem) ReadDir(cancel <-chan struct{}, in *gofuse.ReadIn, out *gofuse.DirEntryList) gofuse.Status {
	h := fs.handles.get(in.Fh)
	if h == nil || h.dir == nil {
		return status(syscall.ESTALE)
	}
	var s *docState
	if h.n.view != nil {
		var errno syscall.Errno
		if s, errno = fs.visible(h.n); errno != 0 {
			return status(errno)
		}
	}
	h.dir.mu.Lock()
	defer h.dir.mu.Unlock()
	if h.n.kind == kindTop || h.n.kind == kindTree {
		if fs.handles.use(in.Fh) == nil {
			return status(syscall.ESTALE)
		}
		defer h.d.put()
		return status(fs.readBacking(h, in.Offset, out))
	}
	// Without a listing it is one that another server has begun.
	if in.Offset == 0 || h.dir.entries == nil {
		entries, errno := fs.list(h.n, s)
		if errno != 0 {
			return status(errno)
		}
		h.dir.entries = entries
	}
	for i := in.Offset; i < uint64(len(h.dir.entries)); i++ {
		e := h.dir.entries[i]
		e.Off = i + 1
		if !out.AddDirEntry(e) {
			break
		}
	}
	return gofuse.OK
}

// list is the listing of a directory of the view.
func (fs *filesystem) list(n *node, s *docState) ([]gofuse.DirEntry, syscall.Errno) {
	parent := n
	if p, _ := fs.nodes.place(n); p != nil {
		parent = p
	}
	e := []gofuse.DirEntry{
		{Name: ".", Ino: n.ino, Mode: unix.S_IFDIR},
		{Name: "..", Ino: parent.ino, Mode: unix.S_IFDIR},
	}
	switch n.kind {
	case kindByApp:
		for _, app := range fs.docs.Apps() {
			e = append(e, gofuse.DirEntry{Name: app, Ino: appNodeID(app), Mode: unix.S_IFDIR})
		}
		return e, 0
	case kindRoot, kindApp:
		if n.kind == kindRoot {
			e = append(e, gofuse.DirEntry{Name: "by-app", Ino: byAppID, Mode: unix.S_IFDIR})
		}
		for _, id := range fs.docs.List(n.app) {
			e = append(e, gofuse.DirEntry{Name: id, Ino: inode(n.app, id, 0, 0), Mode: unix.S_IFDIR})
		}
		return e, 0
	}
	st := new(unix.Statx_t)
	base, errno := fs.base(s, st)
	if errno != 0 {
		return nil, errno
	}
	defer base.put()
	if s.doc.Directory {
		return append(e, gofuse.DirEntry{Name: s.doc.Name, Ino: n.view.inode(deviceOf(st), st.Ino), Mode: unix.S_IFDIR}), 0
	}
	for name, hidden := range n.view.names2(s.doc) {
		id, errno := fs.host.identityAt(base.fd, hidden)
		if errno != 0 || id.typ != unix.S_IFREG {
			continue
		}
		e = append(e, gofuse.DirEntry{Name: name, Ino: n.view.inode(id.dev, id.ino), Mode: unix.S_IFREG})
	}
	return e, 0
}

// readBacking lists a directory of the host. The cookies are its own.
func (fs *filesystem) readBacking(h *handle, off uint64, out *gofuse.DirEntryList) syscall.Errno {
	d := h.dir
	if off != d.next || off == 0 {
		d.buf = d.buf[:0]
		if _, err := unix.Seek(h.d.fd, int64(off), unix.SEEK_SET); err != nil {
			return errnoOf(err)
		}
		d.next = off
	}
	parentIno := h.n.ino
	if p, _ := fs.nodes.place(h.n); p != nil {
		parentIno = p.ino
	}
	numbers := inodesOf(h.n.view.app, h.n.view.id, h.n.key.dev)
	// A reply that is not full costs the app another request.
	for {
		if len(d.buf) == 0 {
			if d.piece == nil {
				d.piece = make([]byte, direntBuffer)
			}
			var size int
			err := ignoringEINTR(func() (err error) {
				size, err = unix.Getdents(h.d.fd, d.piece)
				return err
			})
			if err != nil || size <= 0 {
				d.piece = nil
				if len(out.Bytes()) > 0 {
					return 0 // what is wrong is said when there is nothing else
				}
				return errnoOf(err)
			}
			d.buf = d.piece[:size]
		}
		for len(d.buf) > 0 {
			// struct linux_dirent64: u64 ino, s64 off, u16 reclen,
			// u8 type, name with a NUL.
			if len(d.buf) < 19 {
				return syscall.EIO
			}
			ino := binary.NativeEndian.Uint64(d.buf)
			next := binary.NativeEndian.Uint64(d.buf[8:])
			size := int(binary.NativeEndian.Uint16(d.buf[16:]))
			if size < 20 || size > len(d.buf) {
				return syscall.EIO
			}
			text, _, _ := bytes.Cut(d.buf[19:size], []byte{0})
			// The entry is copied before this memory is used again.
			name := unsafe.String(unsafe.SliceData(text), len(text))
			e := gofuse.DirEntry{Name: name, Off: next, Mode: uint32(d.buf[18]) << 12}
			switch name {
			case ".":
				e.Ino = h.n.ino
			case "..":
				e.Ino = parentIno
			default:
				e.Ino = numbers.number(ino)
			}
			if !fs.temps.hides(name) && !out.AddDirEntry(e) {
				return 0
			}
			d.next = next
			d.buf = d.buf[size:]
		}
	}
}

// FsyncDir is fsync of an open directory.
func (fs *filesystem) FsyncDir(cancel <-chan struct{}, in *gofuse.FsyncIn) gofuse.Status {
	h := fs.handles.get(in.Fh)
	if h == nil {
		return status(syscall.ESTALE)
	}
	if h.n.view == nil {
		return gofuse.OK
	}
	if _, errno := fs.visible(h.n); errno != 0 {
		return status(errno)
	}
	if fs.handles.use(in.Fh) == nil {
		return gofuse.OK
	}
	defer h.d.put()
	fd := h.d.fd
	if h.n.kind == kindDoc {
		var errno syscall.Errno
		if fd, errno = reopen(h.d.fd, unix.O_RDONLY|unix.O_DIRECTORY); errno != 0 {
			return status(errno)
		}
		defer unix.Close(fd)
	}
	return status(sync1(fd, in.FsyncFlags))
}
