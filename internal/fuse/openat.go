package fuse

import (
	"bytes"
	"encoding/binary"
	"hash/fnv"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// This file holds every open that the server makes on the host's behalf, and
// fallback.go what stands in for openat2(2); nothing else opens anything. There
// are three kinds, and each is safe whatever somebody does to names meanwhile:
//
//   - openBase opens a document's directory by its stored path, but never
//     through the view itself, and compares what it got with the stored
//     identity;
//   - openChild opens one name, never a path, in a directory descriptor,
//     beneath it and without following any link;
//   - reopen opens again, by /proc/self/fd, what a descriptor already refers to.

// descriptor is an open file description that several requests may use at
// once. It is closed when the last of them puts it back.
type descriptor struct {
	fd   int
	refs atomic.Int32
	// mount is the number of the mount by which openPath opened it, otherwise 0.
	// No other mount has it while this is open.
	mount uint64
}

// newDescriptor takes over fd, with one reference.
func newDescriptor(fd int) *descriptor {
	d := &descriptor{fd: fd}
	d.refs.Store(1)
	return d
}

func (d *descriptor) get() *descriptor {
	d.refs.Add(1)
	return d
}

func (d *descriptor) put() {
	if d != nil && d.refs.Add(-1) == 0 {
		unix.Close(d.fd)
	}
}

// path is a name for what d refers to that nobody can redirect.
func (d *descriptor) path() string { return procPath(d.fd) }

func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// errnoOf turns the error of a system call into the errno of a reply. ENOSYS
// becomes EOPNOTSUPP: to the kernel ENOSYS means "never ask again", for every
// file of the mount.
func errnoOf(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	e, ok := err.(syscall.Errno)
	switch {
	case !ok:
		return syscall.EIO
	case e == syscall.ENOSYS:
		return syscall.EOPNOTSUPP
	}
	return e
}

// component reports whether name may be looked up: one path component that
// is not a way out of its directory.
func component(name string) bool {
	if name == "" || name == "." || name == ".." {
		return false
	}
	for i := 0; i < len(name); i++ {
		if name[i] == '/' || name[i] == 0 {
			return false
		}
	}
	return true
}

// opener opens the host's files. It knows where this process shows its view,
// of which it asks nothing: the process would wait for an answer that only
// itself gives, perhaps to the very look-up that it is made for, and if it is
// killed in that wait it cannot end.
type opener struct {
	dir string // where the view is, without links; "" if there is no mount
	dev uint64 // its st_dev
	// elsewhere: the view, or a part of it, is mounted at another place too.
	elsewhere atomic.Bool
	// instead of openat2(2) in tests, or nil.
	instead func(dir int, path string, how *unix.OpenHow) (int, error)
	// isLocal reports whether the kernel knows all of the file system with this
	// st_dev without asking anybody.
	isLocal func(dev uint64) bool
}

// newOpener is for a process that shows no view yet. isLocal may be nil.
func newOpener(isLocal func(dev uint64) bool) *opener {
	if isLocal == nil {
		isLocal = func(uint64) bool { return false }
	}
	return &opener{isLocal: isLocal}
}

// openat2 is the system call. It is no variable that tests set: how would be on the heap.
func (o *opener) openat2(dir int, path string, how *unix.OpenHow) (int, error) {
	if o.instead != nil {
		h := *how
		return o.instead(dir, path, &h)
	}
	return unix.Openat2(dir, path, how)
}

// shows reports whether the st_dev is that of the view.
func (o *opener) shows(dev uint64) bool { return o.dir != "" && dev == o.dev }

// stat puts the status of what fd refers to, to which a name or a path has led,
// in st: that may be the view, which is ENOENT. Who looks without having the file
// system bring its knowledge up to date (AT_STATX_DONT_SYNC) sees at least the
// device right; where the file system is local that is as good as any other look.
//
// Here and below st is the caller's, who may have it on its stack.
func (o *opener) stat(fd int, st *unix.Statx_t) syscall.Errno {
	errno := statx(fd, unix.AT_STATX_DONT_SYNC, st)
	switch {
	case errno != 0:
		return errno
	case o.shows(deviceOf(st)):
		return syscall.ENOENT
	case o.isLocal(deviceOf(st)):
		return 0
	}
	return statx(fd, 0, st)
}

// openChild opens the one component name in the directory dir with flags, to
// which O_CLOEXEC and O_NOFOLLOW are added. With O_PATH a link is opened
// itself; without, a link is ELOOP. Flags that open what exists without
// O_PATH are not for here: the type is checked first (openFile).
func (o *opener) openChild(dir int, name string, flags int, mode uint32) (int, syscall.Errno) {
	if !component(name) {
		return -1, syscall.ENOENT
	}
	flags |= unix.O_CLOEXEC | unix.O_NOFOLLOW
	how := unix.OpenHow{
		Flags:   uint64(flags),
		Mode:    uint64(mode),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	for {
		fd, err := o.openat2(dir, name, &how)
		switch err {
		case nil:
			return fd, 0
		case unix.EINTR, unix.EAGAIN:
			// EAGAIN: something was renamed during the walk; for
			// one component the next attempt is a new answer.
			continue
		case unix.ENOSYS, unix.EOPNOTSUPP:
			return openChildOld(dir, name, flags, mode)
		}
		return -1, errnoOf(err)
	}
}

// reopen opens what fd refers to again, with flags. The caller has verified
// its type: opening a device or a pipe has effects. It is EAGAIN while somebody
// has a lease on the file that the flags break.
func reopen(fd, flags int) (int, syscall.Errno) {
	flags &^= unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW
	for {
		n, err := unix.Open(procPath(fd), flags|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return -1, errnoOf(err)
		}
		return n, 0
	}
}

// openDirectory opens the directory at the host path. It is only for openBase,
// which verifies what it got. The path was one without links when it became a
// document's; where one is in the way now, or the view may be, it is followed
// step by step.
func (o *opener) openDirectory(path string) (int, syscall.Errno) {
	if o.dir != "" && (path == o.dir || strings.HasPrefix(path, o.dir+"/")) {
		return -1, syscall.ENOENT
	}
	if o.elsewhere.Load() {
		return o.walk(path)
	}
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_SYMLINKS,
	}
	for {
		fd, err := o.openat2(unix.AT_FDCWD, path, &how)
		switch err {
		case nil:
			return fd, 0
		case unix.EINTR, unix.EAGAIN:
			continue
		case unix.ELOOP, unix.ENOSYS, unix.EOPNOTSUPP:
			return o.walk(path)
		}
		return -1, errnoOf(err)
	}
}

// seenBase is a directory that was found to be a document's.
type seenBase struct{ at atomic.Pointer[mountedFile] }

// mountedFile is a file of a mount that no other mount has had the number of.
type mountedFile struct {
	id    identity
	mount uint64
}

// statxMountUnique asks statx(2) for such a number (STATX_MNT_ID_UNIQUE, Linux
// 6.8).
const statxMountUnique = 0x4000

// statxAll is what a status has.
const statxAll = unix.STATX_BASIC_STATS | unix.STATX_BTIME | statxMountUnique

// mounted returns which file of which mount st is of, if st says it.
func mounted(st *unix.Statx_t) (mountedFile, bool) {
	id, ok := bornIdentity(st)
	return mountedFile{id, st.Mnt_id}, ok && st.Mask&statxMountUnique != 0
}

// openBase opens the directory that doc stands on, O_PATH, and puts its status in
// st. Another directory at its path is ENOENT. What was seen to be it before, on
// the same mount, need not be compared again; seen may be nil.
func (o *opener) openBase(doc *Document, seen *seenBase, st *unix.Statx_t) (*descriptor, syscall.Errno) {
	fd, errno := o.openDirectory(doc.Dir)
	if errno != 0 {
		if errno == syscall.ENOTDIR || errno == syscall.ELOOP {
			errno = syscall.ENOENT
		}
		return nil, errno
	}
	d := newDescriptor(fd)
	errno = o.stat(fd, st)
	if errno == 0 {
		at, sure := mounted(st)
		var old *mountedFile
		if seen != nil && sure {
			old = seen.at.Load()
		}
		if old == nil || *old != at {
			if !isDirectory(fd, st, doc.DirID) {
				errno = syscall.ENOENT
			} else if seen != nil && sure {
				kept := at // a copy, so that at is on the stack
				seen.at.Store(&kept)
			}
		}
	}
	if errno != 0 {
		d.put()
		return nil, errno
	}
	return d, 0
}

// isDirectory reports whether fd, of which st is the status, is the one that
// id identifies.
func isDirectory(fd int, st *unix.Statx_t, id FileID) bool {
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return false
	}
	if len(id.Handle) == 0 {
		return deviceOf(st) == id.Dev && st.Ino == id.Ino
	}
	h, ok := handleOf(fd)
	if !ok || !bytes.Equal(h, id.Handle) {
		return false
	}
	var sfs unix.Statfs_t
	if err := unix.Fstatfs(fd, &sfs); err != nil {
		return false
	}
	return uint64(uint32(sfs.Fsid.Val[0]))|uint64(uint32(sfs.Fsid.Val[1]))<<32 == id.FSID
}

// handleOf returns the file handle of what fd refers to as FileID has it.
func handleOf(fd int) ([]byte, bool) {
	h, _, err := unix.NameToHandleAt(fd, "", unix.AT_EMPTY_PATH)
	if err != nil {
		return nil, false
	}
	b := binary.LittleEndian.AppendUint32(nil, uint32(h.Type()))
	return append(b, h.Bytes()...), true
}

// statFD returns the status of what fd refers to, with the birth time where
// the file system has one. It is for what is known not to be of the view;
// opener.stat is for the rest. It is small, so that who needs the status for the
// moment only needs no memory of the heap for it; so is glance.
func statFD(fd int) (*unix.Statx_t, syscall.Errno) {
	st := new(unix.Statx_t)
	return st, statx(fd, 0, st)
}

// statx is statFD with flags of statx(2).
func statx(fd, flags int, st *unix.Statx_t) syscall.Errno {
	return errnoOf(unix.Statx(fd, "", unix.AT_EMPTY_PATH|flags, statxAll, st))
}

// statxGlance is the part of a status that never changes.
const statxGlance = unix.STATX_TYPE | unix.STATX_INO | unix.STATX_BTIME

// statAt puts what mask says of the status of what is at name in dir in st, as far
// as the kernel has it without asking anybody.
func statAt(dir int, name string, mask int, st *unix.Statx_t) error {
	if !component(name) {
		return unix.ENOENT
	}
	return unix.Statx(dir, name, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT|unix.AT_STATX_DONT_SYNC, mask, st)
}

func deviceOf(st *unix.Statx_t) uint64 { return unix.Mkdev(st.Dev_major, st.Dev_minor) }

// identity tells a file of the host from every other one, also from a later
// one with the same inode number.
type identity struct {
	dev, ino uint64
	// born is the birth time in ns, or a hash of the file handle where the
	// file system has no birth time, or 0 where it has neither.
	born uint64
	typ  uint32 // S_IFMT bits
}

// identify returns the identity of what fd refers to; st is its status.
func identify(fd int, st *unix.Statx_t) identity {
	id, ok := bornIdentity(st)
	if ok {
		return id
	}
	if h, ok := handleOf(fd); ok {
		sum := fnv.New64a()
		sum.Write(h)
		id.born = sum.Sum64()
	}
	return id
}

// bornIdentity is identify as far as the status goes, and whether it has a birth
// time, without which that is not all.
func bornIdentity(st *unix.Statx_t) (identity, bool) {
	id := identity{dev: deviceOf(st), ino: st.Ino, typ: uint32(st.Mode) & unix.S_IFMT}
	if st.Mask&unix.STATX_BTIME == 0 || st.Btime.Sec == 0 && st.Btime.Nsec == 0 {
		return id, false
	}
	id.born = uint64(st.Btime.Sec)*1e9 + uint64(st.Btime.Nsec)
	return id, true
}

// identityAt is the identity of what is at name in dir, as far as that can be
// told without opening it. What is of the view is ENOENT.
func (o *opener) identityAt(dir int, name string) (identity, syscall.Errno) {
	st, err := glance(dir, name)
	if err == nil && o.shows(deviceOf(st)) {
		err = unix.ENOENT
	}
	if err != nil {
		return identity{}, errnoOf(err)
	}
	id, _ := bornIdentity(st)
	return id, 0
}

// exists reports whether there is anything at name in dir.
func exists(dir int, name string) bool {
	_, err := glance(dir, name)
	return err == nil
}

// glance is the part of the status of what is at name in dir that never changes,
// so that the kernel need ask nobody for it.
func glance(dir int, name string) (*unix.Statx_t, error) {
	st := new(unix.Statx_t)
	return st, statAt(dir, name, statxGlance, st)
}

// openPath opens name in dir, O_PATH, puts its status in st and returns its
// identity. What is of the view is ENOENT.
func (o *opener) openPath(dir int, name string, st *unix.Statx_t) (*descriptor, identity, syscall.Errno) {
	fd, errno := o.openChild(dir, name, unix.O_PATH, 0)
	if errno != 0 {
		return nil, identity{}, errno
	}
	if errno = o.stat(fd, st); errno != 0 {
		unix.Close(fd)
		return nil, identity{}, errno
	}
	d := newDescriptor(fd)
	d.mount = st.Mnt_id
	return d, identify(fd, st), 0
}

// openFlags are the flags of open(2) that an app may choose for the backing
// file; the others are the kernel's or the server's. O_APPEND is for each write
// to say.
const openFlags = unix.O_ACCMODE | unix.O_TRUNC | unix.O_SYNC | unix.O_DSYNC | unix.O_NOATIME

// createFile makes and opens the regular file name in dir. Where something of
// that name exists it is opened instead (unless flags has O_EXCL), but only if
// it is a regular file: what is there is opened O_PATH, looked at, and then
// opened again, so that no link is followed and no device or pipe touched.
// notRegular is the error for those. It may be that somebody keeps replacing
// the name; after some rounds that is EIO.
func (o *opener) createFile(dir int, name string, flags int, mode uint32, notRegular syscall.Errno) (fd int, created bool, errno syscall.Errno) {
	for range 64 {
		fd, errno = o.openChild(dir, name, flags&openFlags|unix.O_CREAT|unix.O_EXCL, mode)
		if errno != syscall.EEXIST || flags&unix.O_EXCL != 0 {
			return fd, errno == 0, errno
		}
		fd, errno = o.openRegular(dir, name, flags, notRegular)
		if errno != syscall.ENOENT {
			return fd, false, errno
		}
		if st, err := glance(dir, name); err == nil && (notRegular == syscall.ENOENT || o.shows(deviceOf(st))) {
			return -1, false, errno
		}
	}
	return -1, false, syscall.EIO
}

// openRegular opens the regular file name in dir. Anything else is notRegular.
func (o *opener) openRegular(dir int, name string, flags int, notRegular syscall.Errno) (int, syscall.Errno) {
	var st unix.Statx_t
	d, _, errno := o.openPath(dir, name, &st)
	if errno != 0 {
		return -1, errno
	}
	defer d.put()
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return -1, notRegular
	}
	return reopen(d.fd, flags&openFlags)
}
