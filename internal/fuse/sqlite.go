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
	if code.Ok() && in.Lk.Typ != unix.F_UNLCK && h.n == n && !h.index {
		l.doubt(n, h.d.fd)
		if in.Lk.Start >= lockedBytes && !h.direct {
			l.nodes.cachedDatabase(n)
		}
	}
	return code
}

// databaseMagic is what a database of SQLite's begins with.
const databaseMagic = "SQLite format 3\x00"

// lockedBytes is where the locks of a database of SQLite's begin (PENDING_BYTE).
const lockedBytes = 1 << 30

// cachedDatabase notes that n may be a database of which the kernel has pages.
func (t *table) cachedDatabase(n *node) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n.gone || n.parent == nil {
		return
	}
	v := n.view
	if v.cached == nil {
		v.cached = make(map[place]*node)
	}
	v.uncache(n)
	n.cachedAt = place{n.parent, n.name}
	v.cached[n.cachedAt] = n
}

// uncache takes back that n may be such a database. t.mu is held.
func (v *docView) uncache(n *node) {
	if v.cached[n.cachedAt] == n {
		delete(v.cached, n.cachedAt)
	}
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

// database reports whether h, an open file, is a database of SQLite's or one of
// the files beside it, but its index, and notes which. Several programs may work
// on them, on the host and in other views, and rely on it that who has a lock
// reads what was written before. The kernel's cache is not that exact: of two
// questions for the time of the last change that are asked at once it may take no
// notice of the later answer. So they are read and written without it.
//
// Such a file cannot be mapped and shared, and SQLite goes on without.
func (fs *filesystem) database(h *handle, st *unix.Statx_t) bool {
	_, name := fs.nodes.place(h.n)
	h.index = isIndex(name)
	h.stale = h.index
	if strings.HasSuffix(name, logSuffix) || strings.HasSuffix(name, "-journal") {
		h.stale = true
		return true
	}
	if st.Size < 512 || st.Size%512 != 0 { // the smallest page, and every other
		return false
	}
	b := make([]byte, len(databaseMagic))
	// The app may have it open to write only.
	if _, err := unix.Pread(h.d.fd, b, 0); err != nil {
		return false
	}
	return string(b) == databaseMagic
}
