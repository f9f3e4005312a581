package fuse

import (
	"syscall"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// target returns the directory node id for a request that is to make or
// remove name in it. In the directory of a file document dir is nil.
func (fs *filesystem) target(id uint64, name string) (n *node, s *docState, dir *descriptor, errno syscall.Errno) {
	n = fs.nodes.get(id)
	if n == nil {
		return nil, nil, nil, syscall.ESTALE
	}
	if s, errno = fs.writable(n); errno != 0 {
		return nil, nil, nil, errno
	}
	if errno = newName(name); errno != 0 {
		return nil, nil, nil, errno
	}
	switch {
	case n.kind == kindDoc && s.doc.Directory:
		return nil, nil, nil, syscall.EACCES
	case n.kind == kindDoc:
		return n, s, nil, 0
	case n.kind != kindTop && n.kind != kindTree:
		return nil, nil, nil, syscall.ENOTDIR
	case fs.temps.hides(name):
		return nil, nil, nil, syscall.EACCES
	}
	dir, errno = fs.descriptor(n, s)
	return n, s, dir, errno
}

// Mkdir makes a directory.
func (fs *filesystem) Mkdir(cancel <-chan struct{}, in *gofuse.MkdirIn, name string, out *gofuse.EntryOut) gofuse.Status {
	n, s, dir, errno := fs.target(in.NodeId, name)
	if errno != 0 {
		return status(errno)
	}
	if dir == nil {
		return status(syscall.EPERM)
	}
	defer dir.put()
	mode := in.Mode & 0o777
	if err := unix.Mkdirat(dir.fd, name, mode); err != nil {
		return status(errnoOf(err))
	}
	fs.unmask(dir.fd, name, mode, unix.S_IFDIR)
	return status(fs.foundIn(n, s, dir.fd, name, out))
}

// unmask gives what was just made the mode that it was asked for, if this
// process's umask took something away. What it has from its directory stays.
func (fs *filesystem) unmask(dir int, name string, mode, typ uint32) {
	if !fs.masked(dir, mode) {
		return
	}
	st := new(unix.Statx_t)
	d, key, errno := fs.host.openPath(dir, name, st)
	if errno != 0 {
		return
	}
	defer d.put()
	if key.typ != typ {
		return
	}
	if typ == unix.S_IFDIR {
		mode |= uint32(st.Mode) & unix.S_ISGID
	}
	unix.Chmod(d.path(), mode)
}

// masked reports whether what was just made in dir lacks a part of its mode because
// of this process's umask: not where the directory says who may do what with all
// that is made in it. The app's own umask is in mode already.
func (fs *filesystem) masked(dir int, mode uint32) bool {
	if mode&fs.umask == 0 {
		return false
	}
	_, err := unix.Getxattr(procPath(dir), "system.posix_acl_default", nil)
	return err != nil
}

// Mknod makes a file, a pipe or a socket.
func (fs *filesystem) Mknod(cancel <-chan struct{}, in *gofuse.MknodIn, name string, out *gofuse.EntryOut) gofuse.Status {
	n, s, dir, errno := fs.target(in.NodeId, name)
	if errno != 0 {
		return status(errno)
	}
	typ, mode := in.Mode&unix.S_IFMT, in.Mode&0o777
	if dir == nil {
		if typ != unix.S_IFREG {
			return status(syscall.EPERM)
		}
		return status(fs.mknodInDocument(n, s, mode, name, out))
	}
	defer dir.put()
	if typ == unix.S_IFCHR || typ == unix.S_IFBLK {
		return status(syscall.EPERM)
	}
	if err := unix.Mknodat(dir.fd, name, typ|mode, 0); err != nil {
		return status(errnoOf(err))
	}
	fs.unmask(dir.fd, name, mode, typ)
	return status(fs.foundIn(n, s, dir.fd, name, out))
}

// Symlink makes a link with any text; nobody here follows it.
func (fs *filesystem) Symlink(cancel <-chan struct{}, h *gofuse.InHeader, text, name string, out *gofuse.EntryOut) gofuse.Status {
	n, s, dir, errno := fs.target(h.NodeId, name)
	if errno != 0 {
		return status(errno)
	}
	if dir == nil {
		return status(syscall.EPERM)
	}
	defer dir.put()
	if err := unix.Symlinkat(text, dir.fd, name); err != nil {
		return status(errnoOf(err))
	}
	return status(fs.foundIn(n, s, dir.fd, name, out))
}

// Link gives a file another name in its document.
func (fs *filesystem) Link(cancel <-chan struct{}, in *gofuse.LinkIn, name string, out *gofuse.EntryOut) gofuse.Status {
	n, s, dir, errno := fs.target(in.NodeId, name)
	if errno != 0 {
		return status(errno)
	}
	if dir == nil {
		return status(syscall.EPERM)
	}
	defer dir.put()
	old := fs.nodes.get(in.Oldnodeid)
	if old == nil {
		return status(syscall.ESTALE)
	}
	if old.view != n.view {
		return status(syscall.EXDEV)
	}
	d, errno := fs.descriptor(old, s)
	if errno != 0 {
		return status(errno)
	}
	defer d.put()
	// The magic link of a descriptor leads to its file and no further, so
	// a symbolic link is linked itself.
	if err := unix.Linkat(unix.AT_FDCWD, d.path(), dir.fd, name, unix.AT_SYMLINK_FOLLOW); err != nil {
		return status(errnoOf(err))
	}
	return status(fs.foundIn(n, s, dir.fd, name, out))
}

// Unlink removes a name of a file.
func (fs *filesystem) Unlink(cancel <-chan struct{}, h *gofuse.InHeader, name string) gofuse.Status {
	n, s, dir, errno := fs.target(h.NodeId, name)
	if errno != 0 {
		return status(errno)
	}
	if dir == nil {
		return status(fs.unlinkInDocument(n, s, name))
	}
	defer dir.put()
	return status(errnoOf(unix.Unlinkat(dir.fd, name, 0)))
}

// Rmdir removes an empty directory.
func (fs *filesystem) Rmdir(cancel <-chan struct{}, h *gofuse.InHeader, name string) gofuse.Status {
	_, _, dir, errno := fs.target(h.NodeId, name)
	if errno != 0 {
		return status(errno)
	}
	if dir == nil {
		return status(syscall.ENOTDIR)
	}
	defer dir.put()
	return status(errnoOf(unix.Unlinkat(dir.fd, name, unix.AT_REMOVEDIR)))
}

// Rename moves a name within a document.
func (fs *filesystem) Rename(cancel <-chan struct{}, in *gofuse.RenameIn, oldName, newName string) gofuse.Status {
	from, s, dir, errno := fs.target(in.NodeId, oldName)
	if errno != 0 {
		return status(errno)
	}
	if dir != nil {
		defer dir.put()
	}
	// Out of a document there is another file system, whatever may be done
	// there: who gets EXDEV copies instead.
	if to := fs.nodes.get(in.Newdir); to != nil && to.view != from.view {
		return status(syscall.EXDEV)
	}
	to, _, newDir, errno := fs.target(in.Newdir, newName)
	if errno != 0 {
		return status(errno)
	}
	if newDir != nil {
		defer newDir.put()
	}
	switch in.Flags {
	case 0, unix.RENAME_NOREPLACE, unix.RENAME_EXCHANGE:
	default:
		return status(syscall.EINVAL)
	}
	if dir == nil || newDir == nil {
		return status(fs.renameInDocument(from, s, oldName, newName, in.Flags))
	}
	moved := fs.nodeAt(from.view, dir.fd, oldName)
	var other *node
	if in.Flags == unix.RENAME_EXCHANGE {
		other = fs.nodeAt(to.view, newDir.fd, newName)
	}
	if errno := renameAt(dir.fd, oldName, newDir.fd, newName, in.Flags); errno != 0 {
		return status(errno)
	}
	if moved != nil {
		fs.nodes.setPlace(moved, to, newName)
	}
	if other != nil {
		fs.nodes.setPlace(other, from, oldName)
	}
	return gofuse.OK
}

func renameAt(dir int, oldName string, newDir int, newName string, flags uint32) syscall.Errno {
	if flags == 0 {
		return errnoOf(unix.Renameat(dir, oldName, newDir, newName))
	}
	err := unix.Renameat2(dir, oldName, newDir, newName, uint(flags))
	if err == unix.ENOSYS {
		err = unix.EINVAL // what rename(2) says where a flag is not known
	}
	return errnoOf(err)
}

// nodeAt returns the node of what is at name in dir, if the kernel knows it.
func (fs *filesystem) nodeAt(v *docView, dir int, name string) *node {
	d, key, errno := fs.host.openPath(dir, name, new(unix.Statx_t))
	if errno != 0 {
		return nil
	}
	d.put()
	return fs.nodes.find(v, key)
}
