package documents

import (
	"encoding/binary"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"docportal/internal/bus"
	"docportal/internal/identity"
)

// errInvalidFD is the answer to every descriptor that does not pass, whatever
// the reason: it must tell nothing about the host's files.
func errInvalidFD() error { return bus.InvalidArgument("Invalid fd passed") }

// fileKind is the type of file that a call adds.
type fileKind uint32

const (
	regularFile fileKind = unix.S_IFREG
	directory   fileKind = unix.S_IFDIR
)

// verified is a descriptor that passed.
type verified struct {
	rec record // its flags are only flagDirectory
	// writable: the caller can write the file itself.
	writable bool
	// id is set if the descriptor is on our own mount and is that document.
	id string
	// limit bounds what a sandboxed caller may hold or pass on if the file was
	// reached through another document; permAll otherwise.
	limit perm
}

// fileID is what identifies a file while it is held open.
type fileID struct {
	dev, ino uint64
	mode     uint32
}

// statFD identifies an open descriptor. The kernel answers from what it knows:
// a server of a network or FUSE filesystem, ourselves among them, is not asked.
func statFD(fd int) (fileID, error) {
	return statAt(fd, "", unix.AT_EMPTY_PATH)
}

func statAt(fd int, name string, flags int) (fileID, error) {
	var st unix.Statx_t
	err := ignoringEINTR(func() error {
		return unix.Statx(fd, name, flags|unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT|unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE|unix.STATX_INO, &st)
	})
	if err != nil {
		return fileID{}, err
	}
	return fileID{unix.Mkdev(st.Dev_major, st.Dev_minor), st.Ino, uint32(st.Mode)}, nil
}

func ignoringEINTR(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}

func openAt(fd int, name string, flags int) (int, error) {
	for {
		n, err := unix.Openat(fd, name, flags|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return n, err
		}
	}
}

func (f fileID) is(kind fileKind) bool { return f.mode&unix.S_IFMT == uint32(kind) }

func (f fileID) same(o fileID) bool {
	return f.dev == o.dev && f.ino == o.ino && f.mode&unix.S_IFMT == o.mode&unix.S_IFMT
}

// verify applies the rules of "Adding files" to one descriptor of a caller: is
// it a file or directory that the caller could open, and where is it? It opens
// and asks the filesystems that it is led to, so it runs without any lock.
// Every error is errInvalidFD.
func (s *Service) verify(m *mounted, c *identity.Caller, fd int, kind fileKind, reuse bool) (*verified, error) {
	v, err := s.check(m, c, fd, kind, reuse)
	if err != nil {
		s.log.Debug("descriptor refused", "caller", c.Name, "app", c.App, "reason", err)
		return nil, errInvalidFD()
	}
	return v, nil
}

func (s *Service) check(m *mounted, c *identity.Caller, fd int, kind fileKind, reuse bool) (*verified, error) {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return nil, fmt.Errorf("F_GETFL: %w", err)
	}
	byPath := flags&unix.O_PATH != 0
	switch mode := flags & unix.O_ACCMODE; {
	case byPath && flags&unix.O_NOFOLLOW != 0:
		return nil, fmt.Errorf("O_PATH with O_NOFOLLOW")
	case !byPath && mode != unix.O_RDONLY && mode != unix.O_RDWR:
		return nil, fmt.Errorf("write-only")
	}
	id, err := statFD(fd)
	if err != nil {
		return nil, fmt.Errorf("stat: %w", err)
	}
	if !id.is(kind) {
		return nil, fmt.Errorf("file type %o, want %o", id.mode&unix.S_IFMT, kind)
	}

	v := &verified{limit: permAll}
	readOnly := false // a part of it is, for this caller
	if id.dev == m.view.Dev() {
		if !reuse {
			return nil, fmt.Errorf("on the portal's own mount without reuse")
		}
		if err := s.checkOnMount(m, c, id, kind, v); err != nil {
			return nil, err
		}
	} else {
		rec, ro, err := s.locate(m, c, fd, id, kind)
		if err != nil {
			return nil, err
		}
		v.rec, readOnly = rec, ro
	}

	// Through the descriptor, so that the mount it was opened on counts: a
	// read-only bind in the sandbox is not writable.
	self := fmt.Sprintf("/proc/self/fd/%d", fd)
	need := uint32(unix.R_OK)
	if kind == directory {
		need |= unix.X_OK
	}
	if err := access(self, need); err != nil {
		return nil, fmt.Errorf("not readable: %w", err)
	}
	switch {
	case c.IsHost():
		v.writable = true
	case byPath:
		v.writable = access(self, unix.W_OK) == nil
	default:
		v.writable = flags&unix.O_ACCMODE == unix.O_RDWR
	}
	v.writable = v.writable && !readOnly
	return v, nil
}

func access(name string, mode uint32) error {
	return ignoringEINTR(func() error { return unix.Faccessat(unix.AT_FDCWD, name, mode, 0) })
}

// locate finds the host's path of a descriptor and proves that it leads to the
// same file. readOnly says that the caller may not write everything in it.
func (s *Service) locate(m *mounted, c *identity.Caller, fd int, id fileID, kind fileKind) (rec record, readOnly bool, err error) {
	text, err := readFD(fd)
	if err != nil {
		return record{}, false, err
	}
	if !strings.HasPrefix(text, "/") {
		return record{}, false, fmt.Errorf("%q is no path", text) // a pipe, a socket, or out of reach
	}
	p := c.HostPath(text, identity.Dirs{Mount: m.real, Home: m.home})
	if kind == directory && !c.IsHost() {
		// A document shows a directory as the host has it. It must not show
		// an app what its sandbox covers.
		whole := false
		if whole, readOnly = c.Whole(text, p); !whole {
			return record{}, false, fmt.Errorf("the app does not see all of %q", p)
		}
	}
	// The home directory's own name may have links in it, no other place's.
	if home := s.o.Home; home != m.home && within(p, home) {
		p = path.Join(m.home, strings.TrimPrefix(p, home))
	}
	// A name that ends in " (deleted)" may be the kernel's remark or the
	// file's own name: the identity decides, as for every other.
	if rec, err = s.verifyPath(m, p, id, kind); err != nil {
		return record{}, false, err
	}
	if kind == directory && !c.IsHost() {
		if err := s.habitat(c.App).contains(rec.path); err != nil {
			return record{}, false, err
		}
	}
	return rec, readOnly, nil
}

func readFD(fd int) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd), buf)
	if err != nil {
		return "", fmt.Errorf("readlink: %w", err)
	}
	return string(buf[:n]), nil
}

// verifyPath opens what p names again and compares it with the descriptor's
// identity. What it returns is what was opened, and that is at p itself: who
// can put a link in the place of a directory could lead to another one, with
// another link of the same file in it, and would be shown what comes under that
// name later.
func (s *Service) verifyPath(m *mounted, p string, id fileID, kind fileKind) (record, error) {
	if !strings.HasPrefix(p, "/") || path.Clean(p) != p || p == "/" {
		return record{}, fmt.Errorf("%q is no path of a file", p)
	}
	if kind == directory {
		dir, err := openDir(p, unix.O_NOFOLLOW)
		if err != nil {
			return record{}, err
		}
		defer unix.Close(dir)
		rec, err := s.directoryRecord(m, dir, &id)
		return at(p, rec, err)
	}
	dir, err := openDir(path.Dir(p), unix.O_NOFOLLOW)
	if err != nil {
		return record{}, err
	}
	defer unix.Close(dir)
	rec, err := s.nameRecord(m, dir, path.Base(p), &id)
	return at(p, rec, err)
}

// at is the record if its place is p.
func at(p string, rec record, err error) (record, error) {
	if err == nil && rec.path != p {
		return record{}, fmt.Errorf("%q leads to %q", p, rec.path)
	}
	return rec, err
}

func openDir(p string, flags int) (int, error) {
	fd, err := openAt(unix.AT_FDCWD, p, unix.O_PATH|unix.O_DIRECTORY|flags)
	if err != nil {
		return -1, fmt.Errorf("open %q: %w", p, err)
	}
	return fd, nil
}

// directoryRecord makes the record of an open directory; want, if not nil, is
// the identity that it must have.
func (s *Service) directoryRecord(m *mounted, dir int, want *fileID) (record, error) {
	rec, got, err := dirRecord(dir)
	if err != nil {
		return record{}, err
	}
	if want != nil && !got.same(*want) {
		return record{}, fmt.Errorf("%q is another directory", rec.path)
	}
	if err := m.refuse(got, rec.path); err != nil {
		return record{}, err
	}
	if rec.path == "/" {
		return record{}, fmt.Errorf("the root directory")
	}
	rec.flags = flagDirectory
	return rec, nil
}

// nameRecord makes the record of a name in an open directory; want, if not
// nil, is the identity that the name must have there, and links are not
// followed; if it is nil the name need not exist.
func (s *Service) nameRecord(m *mounted, dir int, name string, want *fileID) (record, error) {
	rec, got, err := dirRecord(dir)
	if err != nil {
		return record{}, err
	}
	if got.dev == m.view.Dev() {
		return record{}, fmt.Errorf("%q is on the portal's own mount", rec.path)
	}
	if want != nil {
		f, err := statAt(dir, name, 0)
		if err != nil {
			return record{}, fmt.Errorf("%q in %q: %w", name, rec.path, err)
		}
		if !f.same(*want) {
			return record{}, fmt.Errorf("%q in %q is another file", name, rec.path)
		}
	}
	rec.path = path.Join(rec.path, name)
	return rec, nil
}

// dirRecord describes an open directory: where it is now and what identifies it.
func dirRecord(dir int) (record, fileID, error) {
	id, err := statFD(dir)
	if err != nil {
		return record{}, id, fmt.Errorf("stat: %w", err)
	}
	if !id.is(directory) {
		return record{}, id, fmt.Errorf("not a directory")
	}
	p, err := readFD(dir)
	if err != nil {
		return record{}, id, err
	}
	// The path is the host's own, so "(deleted)" and "(unreachable)" are seen
	// by asking it back.
	if !strings.HasPrefix(p, "/") {
		return record{}, id, fmt.Errorf("%q is no path", p)
	}
	back, err := statAt(unix.AT_FDCWD, p, 0)
	if err != nil || !back.same(id) {
		return record{}, id, fmt.Errorf("%q is not there any more", p)
	}
	rec := record{path: p, dev: id.dev, ino: id.ino}
	rec.handle, rec.fsid = handleOf(dir)
	return rec, id, nil
}

// handleOf returns what name_to_handle_at(2) says of an open directory, and
// f_fsid; "" where the filesystem has no handles or no id to tell it from
// another one.
func handleOf(fd int) (handle string, fsid uint64) {
	h, _, err := unix.NameToHandleAt(fd, "", unix.AT_EMPTY_PATH)
	if err != nil {
		return "", 0
	}
	var fs unix.Statfs_t
	if err := ignoringEINTR(func() error { return unix.Fstatfs(fd, &fs) }); err != nil {
		return "", 0
	}
	fsid = uint64(uint32(fs.Fsid.Val[0])) | uint64(uint32(fs.Fsid.Val[1]))<<32
	if fsid == 0 || h.Size() == 0 {
		return "", 0
	}
	b := binary.LittleEndian.AppendUint32(nil, uint32(h.Type()))
	return string(append(b, h.Bytes()...)), fsid
}

// checkOnMount applies rule 5: a descriptor on the portal's own mount is the
// document that it was opened in, or a file inside a directory document.
func (s *Service) checkOnMount(m *mounted, c *identity.Caller, id fileID, kind fileKind, v *verified) error {
	loc, ok := m.view.Resolve(id.ino)
	if !ok || loc.Document == "" {
		return fmt.Errorf("no document at inode %d of the mount", id.ino)
	}
	d, err := s.get(loc.Document)
	if err != nil {
		return err
	}
	if d == nil {
		return fmt.Errorf("document %s is gone", loc.Document)
	}
	if !c.IsHost() {
		// A descriptor that another app handed over gives its receiver nothing.
		v.limit = d.can(c.App)
		if !v.limit.has(permRead) {
			return fmt.Errorf("%s may not read document %s", c.App, d.id)
		}
		if loc.App != "" && !d.can(loc.App).has(permRead) {
			return fmt.Errorf("%s may not read document %s any more", loc.App, d.id)
		}
	}
	if !d.rec.directory() {
		if loc.Rel != path.Base(d.rec.path) {
			return fmt.Errorf("not the file of document %s", d.id)
		}
		v.id, v.rec = d.id, d.rec
		return nil
	}
	if loc.Rel == "" {
		v.id, v.rec = d.id, d.rec
		return nil
	}
	// Its real path, from the directory that the document stands on.
	dir, err := s.openDocumentDir(d)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	if kind == directory {
		sub, err := openBeneath(dir, loc.Rel)
		if err != nil {
			return err
		}
		defer unix.Close(sub)
		v.rec, err = s.directoryRecord(m, sub, nil)
		return err
	}
	parent := dir
	if p := path.Dir(loc.Rel); p != "." {
		if parent, err = openBeneath(dir, p); err != nil {
			return err
		}
		defer unix.Close(parent)
	}
	name := path.Base(loc.Rel)
	f, err := statAt(parent, name, 0)
	if err != nil || !f.is(regularFile) {
		return fmt.Errorf("%q in document %s: mode %o: %w", loc.Rel, d.id, f.mode, err)
	}
	v.rec, err = s.nameRecord(m, parent, name, &f)
	return err
}

// openDocumentDir opens the directory that a document stands on, if it is
// still the one that was verified. The caller closes it.
func (s *Service) openDocumentDir(d *document) (int, error) {
	dir, err := openDir(d.rec.dir(), 0)
	if err != nil {
		return -1, err
	}
	now, _, err := dirRecord(dir)
	if err == nil && !d.rec.sameDirectory(&now) {
		err = fmt.Errorf("%q is another directory now", d.rec.dir())
	}
	if err != nil {
		unix.Close(dir)
		return -1, err
	}
	return dir, nil
}

func openBeneath(dir int, rel string) (int, error) {
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	for {
		fd, err := unix.Openat2(dir, rel, &how)
		if err == unix.EINTR || err == unix.EAGAIN {
			continue
		}
		if err != nil {
			return -1, fmt.Errorf("open %q beneath: %w", rel, err)
		}
		return fd, nil
	}
}

// refuse applies rule 6: a document never contains the portal.
func (m *mounted) refuse(dir fileID, p string) error {
	if dir.dev == m.view.Dev() {
		return fmt.Errorf("%q is on the portal's own mount", p)
	}
	// By identity as well as by name: the mountpoint can be reached through
	// bind mounts.
	for _, a := range m.ancestors {
		if a.same(dir) {
			return fmt.Errorf("%q contains the portal's mount", p)
		}
	}
	if within(m.real, p) {
		return fmt.Errorf("%q contains the portal's mount", p)
	}
	return nil
}

// within reports whether p is dir or lies below it.
func within(p, dir string) bool {
	return p == dir || dir == "/" || strings.HasPrefix(p, dir+"/")
}
