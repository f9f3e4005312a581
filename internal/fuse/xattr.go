package fuse

import (
	"path"
	"slices"
	"strings"
	"syscall"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// location says what a node stands for.
func (fs *filesystem) location(n *node, s *docState) (Location, bool) {
	l := Location{App: n.app}
	switch n.kind {
	case kindRoot, kindByApp, kindApp:
		return l, true
	case kindDoc:
		if !s.doc.Directory {
			l.Document = n.view.id
		}
		return l, true
	}
	l.Document = n.view.id
	names, ok := fs.nodes.wayTo(n)
	l.Rel = path.Join(names...)
	return l, ok
}

// maxPath is how long a path may be that somebody is told (XATTR_SIZE_MAX). An app
// can make far longer ones, step by step.
const maxPath = 64 << 10

// wayTo returns the names that lead to n in its document, and whether there is such
// a way that is not too long to be told. Everybody waits for the table meanwhile, so
// the names are joined by the caller.
func (t *table) wayTo(n *node) ([]string, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []string
	length := 0
	for p := n; p.kind != kindTop; p = p.parent {
		if length += len(p.name) + 1; p.parent == nil || length > maxPath {
			return nil, false
		}
		all = append(all, p.name)
		if p.kind == kindFile {
			break
		}
	}
	slices.Reverse(all)
	return all, true
}

// hostPath is where n is on the host. Temp files are nowhere.
func (fs *filesystem) hostPath(n *node, s *docState) (string, syscall.Errno) {
	if n.kind == kindFile {
		if _, name := fs.nodes.place(n); n.view.backing(s.doc, name) != name {
			return "", syscall.ENODATA
		}
	}
	l, ok := fs.location(n, s)
	if !ok {
		return "", syscall.ENODATA
	}
	return path.Join(s.doc.Dir, l.Rel), 0
}

// attributed returns the node for a request about extended attributes.
func (fs *filesystem) attributed(id uint64, change bool) (n *node, s *docState, errno syscall.Errno) {
	n = fs.nodes.get(id)
	if n == nil {
		return nil, nil, syscall.ESTALE
	}
	if n.view == nil {
		if change {
			return nil, nil, syscall.EACCES
		}
		return n, nil, 0
	}
	if change {
		s, errno = fs.writable(n)
	} else {
		s, errno = fs.visible(n)
	}
	return n, s, errno
}

// GetXAttr reads an attribute of the user namespace.
func (fs *filesystem) GetXAttr(cancel <-chan struct{}, h *gofuse.InHeader, name string, dest []byte) (uint32, gofuse.Status) {
	n, s, errno := fs.attributed(h.NodeId, false)
	if errno != 0 {
		return 0, status(errno)
	}
	if !strings.HasPrefix(name, "user.") {
		return 0, status(syscall.EOPNOTSUPP)
	}
	if n.view == nil {
		return 0, status(syscall.ENODATA)
	}
	if name == hostPathAttr {
		p, errno := fs.hostPath(n, s)
		if errno != 0 {
			return 0, status(errno)
		}
		return answer(dest, []byte(p))
	}
	if n.kind == kindDoc || n.key.typ == unix.S_IFLNK {
		return 0, status(syscall.ENODATA)
	}
	d, errno := fs.descriptor(n, s)
	if errno != 0 {
		return 0, status(errno)
	}
	defer d.put()
	size, err := unix.Getxattr(d.path(), name, dest)
	if err == unix.ERANGE && len(dest) > 0 {
		return 0, status(syscall.ERANGE)
	}
	if err != nil {
		return 0, status(errnoOf(err))
	}
	return uint32(size), gofuse.OK
}

// answer copies value to dest. An empty dest asks for the size.
func answer(dest, value []byte) (uint32, gofuse.Status) {
	if len(dest) < len(value) {
		return uint32(len(value)), status(syscall.ERANGE)
	}
	return uint32(copy(dest, value)), gofuse.OK
}

// ListXAttr lists the attributes of the user namespace, and the host path.
func (fs *filesystem) ListXAttr(cancel <-chan struct{}, h *gofuse.InHeader, dest []byte) (uint32, gofuse.Status) {
	n, s, errno := fs.attributed(h.NodeId, false)
	if errno != 0 {
		return 0, status(errno)
	}
	if n.view == nil {
		return 0, gofuse.OK
	}
	// Of links, pipes and sockets the kernel shows no attribute of this
	// namespace, whatever we say (xattr(7)).
	if n.kind != kindDoc && n.key.typ != unix.S_IFREG && n.key.typ != unix.S_IFDIR {
		return 0, gofuse.OK
	}
	var list []byte
	if _, errno := fs.hostPath(n, s); errno == 0 {
		list = append(list, hostPathAttr...)
		list = append(list, 0)
	}
	if n.kind != kindDoc {
		d, errno := fs.descriptor(n, s)
		if errno != 0 {
			return 0, status(errno)
		}
		defer d.put()
		buf := make([]byte, 64<<10) // XATTR_LIST_MAX
		size, err := unix.Listxattr(d.path(), buf)
		if err != nil && err != unix.EOPNOTSUPP {
			return 0, status(errnoOf(err))
		}
		for _, name := range strings.SplitAfter(string(buf[:max(size, 0)]), "\x00") {
			if strings.HasPrefix(name, "user.") && name != hostPathAttr+"\x00" {
				list = append(list, name...)
			}
		}
	}
	return answer(dest, list)
}

// SetXAttr sets an attribute of the user namespace.
func (fs *filesystem) SetXAttr(cancel <-chan struct{}, in *gofuse.SetXAttrIn, name string, data []byte) gofuse.Status {
	return status(fs.changeXAttr(&in.InHeader, name, func(path string) error {
		return unix.Setxattr(path, name, data[:min(int(in.Size), len(data))], int(in.Flags))
	}))
}

// RemoveXAttr removes an attribute of the user namespace. The host path stays,
// but it is no error to remove it: who copies attributes, as rsync -X does,
// takes away what the original has not.
func (fs *filesystem) RemoveXAttr(cancel <-chan struct{}, h *gofuse.InHeader, name string) gofuse.Status {
	if name == hostPathAttr {
		_, _, errno := fs.attributed(h.NodeId, true)
		return status(errno)
	}
	return status(fs.changeXAttr(h, name, func(path string) error {
		return unix.Removexattr(path, name)
	}))
}

func (fs *filesystem) changeXAttr(h *gofuse.InHeader, name string, change func(path string) error) syscall.Errno {
	n, s, errno := fs.attributed(h.NodeId, true)
	switch {
	case errno != 0:
		return errno
	case !strings.HasPrefix(name, "user."):
		return syscall.EOPNOTSUPP
	case name == hostPathAttr, n.kind == kindDoc, n.key.typ == unix.S_IFLNK:
		return syscall.EPERM
	case n.kind == kindFile:
		// A file document is the data of one file; attributes are a directory
		// document's, and clients expect to be refused.
		return syscall.EPERM
	}
	d, errno := fs.descriptor(n, s)
	if errno != 0 {
		return errno
	}
	defer d.put()
	return errnoOf(change(d.path()))
}
