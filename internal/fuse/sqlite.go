package fuse

import (
	"strings"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// What programs that lock files rely on, of which SQLite is the most common.

// locked is a lock request on n. Who has been granted a lock sees what others
// have written before: the kernel asks whether its pages of a file are right by
// the time of the last change alone, and two changes can have the same.
func (l limited) locked(n *node, in *gofuse.LkIn, request func() gofuse.Status) gofuse.Status {
	h := l.handles.use(in.Fh)
	if h == nil {
		return request()
	}
	defer h.d.put()
	code := request()
	if code.Ok() && in.Lk.Typ != unix.F_UNLCK && h.n == n {
		l.doubt(n, h.d.fd)
	}
	return code
}

// doubted is a time of the last change that says nothing of the pages that the
// kernel has. It is shown as another one that is some nanoseconds from it, so
// that the kernel asks for them again. (A notice to drop them would make it take
// no notice of the file's new size, if it is just being told of it.)
type doubted struct {
	mtime unix.StatxTimestamp
	off   uint32 // 1 to 3: another one each time
}

// doubt looks at a file, of which fd is open, and doubts the time of its last
// change, unless it is surely unchanged since this was asked last.
func (fs *filesystem) doubt(n *node, fd int) {
	st, errno := statFD(fd)
	if errno != 0 || fs.nodes.unchanged(n, st) {
		return
	}
	next := &doubted{mtime: st.Mtime, off: 1}
	if old := n.doubted.Load(); old != nil {
		next.off = old.off%3 + 1
	}
	n.doubted.Store(next)
}

// database reports whether fd, an open file of n, is a database of SQLite's or
// one of the files beside it. Several programs may work on them, on the host
// and in other views, and rely on it that who has a lock reads what was written
// before. The kernel's cache is not that exact: of two questions for the time of
// the last change that are asked at once it may take no notice of the later
// answer. So they are read and written without it.
//
// Such a file cannot be mapped and shared, and SQLite goes on without.
func (fs *filesystem) database(n *node, fd int, st *unix.Statx_t) bool {
	_, name := fs.nodes.place(n)
	if strings.HasSuffix(name, "-wal") || strings.HasSuffix(name, "-journal") {
		return true
	}
	const magic = "SQLite format 3\x00"
	if st.Size < 512 || st.Size%512 != 0 { // the smallest page, and every other
		return false
	}
	b := make([]byte, len(magic))
	// The app may have it open to write only.
	if _, err := unix.Pread(fd, b, 0); err != nil {
		return false
	}
	return string(b) == magic
}
