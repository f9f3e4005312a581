package fuse

import (
	"context"
	"log/slog"
	"sync"
	"syscall"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"docportal/internal/appid"
)

// hostPathAttr is the extended attribute that tells readers of a document
// where it is on the host.
const hostPathAttr = "user.document-portal.host-path"

// filesystem answers the kernel's requests. Timeouts are 0, so that the kernel asks
// for every name of a path, and for attributes, each time; but for the attributes of
// a file with a lease (readings), by-app and the app ids in it, which are always
// there and always the same, and the names of documents until their permissions
// change.
type filesystem struct {
	gofuse.RawFileSystem // answers what is not implemented here

	docs    Documents
	log     *slog.Logger
	verbose bool // decisions are logged
	nodes   *table
	cache   cache
	handles handleTable
	lost    lostHandles
	temps   tempFiles
	locks   lockTable
	calls   callTable
	// dropInode makes the kernel write the pages of a node and forget them; it
	// reports whether it has.
	dropInode func(node uint64) bool
	readings  readings
	uid       uint32
	gid       uint32
	umask     uint32 // the process's, which the kernel applies to what is created
	started   time.Time
	// indexTurn is after how long nobody joins who uses an index of a log.
	indexTurn time.Duration
	host      *opener // knows of the mount before the first request
	receiving receiving
}

func newFilesystem(docs Documents, log *slog.Logger, uid, gid, umask uint32, st *state) *filesystem {
	epoch, started := uint64(1), time.Now()
	if st != nil {
		epoch, started = st.epoch(), time.Unix(int64(st.get(wordStarted)), 0)
	}
	fs := &filesystem{
		RawFileSystem: gofuse.NewDefaultRawFileSystem(),
		docs:          docs,
		log:           log,
		verbose:       log.Enabled(context.Background(), slog.LevelDebug),
		nodes:         newTable(epoch, st),
		uid:           uid,
		gid:           gid,
		umask:         umask,
		started:       started,
	}
	fs.host = newOpener(fs.calls.isLocal)
	fs.readings.forget = func(uint64) {}
	fs.dropInode = func(uint64) bool { return true }
	fs.handles.byID = make(map[uint64]*handle)
	fs.handles.next = epoch << 40
	fs.handles.limit, fs.handles.total = handleLimits()
	fs.temps.grace = tempGrace
	fs.indexTurn = indexTurn
	return fs
}

func (fs *filesystem) String() string { return "portal" }

func status(e syscall.Errno) gofuse.Status { return gofuse.Status(e) }

// visible returns the state of a node's document for a request that comes by
// a descriptor or working directory, where what may not be seen is EACCES.
func (fs *filesystem) visible(n *node) (*docState, syscall.Errno) {
	s := n.view.state()
	if !s.visible {
		fs.refused(n.view.app, n.view.id, "it may not see the document any more")
		return nil, syscall.EACCES
	}
	return s, 0
}

// writable is visible for requests that change something.
func (fs *filesystem) writable(n *node) (*docState, syscall.Errno) {
	if n.view == nil {
		return nil, syscall.EACCES
	}
	s := n.view.state()
	if !s.visible || !s.access.Write {
		fs.refused(n.view.app, n.view.id, "it may not write to the document")
		return nil, syscall.EACCES
	}
	return s, 0
}

// refused logs a decision.
func (fs *filesystem) refused(app, document, reason string) {
	if fs.verbose {
		fs.log.Debug("refused", "app", app, "document", document, "reason", reason)
	}
}

// descriptor returns a descriptor of what n stands for, which the caller puts
// back: one that was opened for the look-up that led here, one that is open
// anyway, or else what is at its place, if that is still the same file.
func (fs *filesystem) descriptor(n *node, s *docState) (*descriptor, syscall.Errno) {
	if n.kind != kindDoc {
		if d := fs.cache.get(n); d != nil {
			return d, 0
		}
		if d := fs.nodes.open(n); d != nil {
			return d, 0
		}
	}
	return fs.resolve(n, s)
}

// base is openBase, and notes what kind of file system that is.
func (fs *filesystem) base(s *docState, st *unix.Statx_t) (*descriptor, syscall.Errno) {
	d, errno := fs.host.openBase(s.doc, &s.base, st)
	if errno == 0 {
		fs.calls.learn(d.fd, st)
	}
	return d, errno
}

// resolve is descriptor by way of the place alone.
func (fs *filesystem) resolve(n *node, s *docState) (*descriptor, syscall.Errno) {
	var d *descriptor
	var key identity
	var st unix.Statx_t
	switch n.kind {
	case kindDoc:
		return fs.base(s, &st)
	case kindTop:
		base, errno := fs.base(s, &st)
		if errno != 0 {
			return nil, errno
		}
		d, key = base, identify(base.fd, &st)
	case kindFile, kindTree:
		parent, name := fs.nodes.place(n)
		if parent == nil {
			return nil, syscall.ESTALE
		}
		dir, errno := fs.descriptor(parent, s)
		if errno != 0 {
			return nil, errno
		}
		defer dir.put()
		if n.kind == kindFile {
			name = n.view.backing(s.doc, name)
		}
		if d, key, errno = fs.host.openPath(dir.fd, name, &st); errno != 0 {
			if errno == syscall.ENOENT {
				errno = syscall.ESTALE
			}
			return nil, errno
		}
	default:
		return nil, syscall.ESTALE
	}
	if key != n.key || fs.host.shows(key.dev) {
		d.put()
		return nil, syscall.ESTALE
	}
	if n.kind != kindTop {
		fs.cache.add(n, d)
	}
	return d, 0
}

// Lookup finds a name in a directory.
func (fs *filesystem) Lookup(cancel <-chan struct{}, h *gofuse.InHeader, name string, out *gofuse.EntryOut) gofuse.Status {
	n := fs.nodes.get(h.NodeId)
	if n == nil {
		return status(syscall.ESTALE)
	}
	if !component(name) {
		return status(syscall.ENOENT)
	}
	switch n.kind {
	case kindRoot, kindApp:
		if n.kind == kindRoot && name == "by-app" {
			fs.virtualEntry(fs.nodes.byApp, 0o500, out)
			always(out)
			return gofuse.OK
		}
		return status(fs.lookupDocument(n, name, out))
	case kindByApp:
		if !appid.Valid(name) {
			return status(syscall.ENOENT)
		}
		fs.virtualEntry(fs.nodes.lookApp(name), 0o500, out)
		always(out)
		return gofuse.OK
	}
	s, errno := fs.visible(n)
	if errno != 0 {
		// A path through here does not exist any more.
		return status(syscall.ENOENT)
	}
	return status(fs.lookupFile(n, s, name, out))
}

// keepTime is for how long the kernel may keep names that the view makes up
// itself. That of a document is dropped when its permissions change, before their
// author is told.
const keepTime = 24 * time.Hour

// always lets the kernel remember an entry.
func always(out *gofuse.EntryOut) {
	out.SetEntryTimeout(keepTime)
	out.SetAttrTimeout(keepTime)
}

func (fs *filesystem) lookupDocument(parent *node, id string, out *gofuse.EntryOut) syscall.Errno {
	doc, a, ok := fs.docs.Document(parent.app, id)
	if !ok || !a.Read {
		fs.refused(parent.app, id, "it may not see such a document")
		return syscall.ENOENT
	}
	n := fs.nodes.lookDoc(parent, id, fs)
	fs.virtualEntry(n, documentMode(doc, a), out)
	out.SetEntryTimeout(keepTime)
	return 0
}

func documentMode(doc *Document, a Access) uint32 {
	if doc.Directory || !a.Write {
		return 0o500
	}
	return 0o700
}

// lookupFile finds name in a directory inside a document. The document's
// directory is opened and verified anew each time, so that a walk through it
// is never about another one.
func (fs *filesystem) lookupFile(n *node, s *docState, name string, out *gofuse.EntryOut) syscall.Errno {
	var st unix.Statx_t
	switch {
	case n.kind == kindDoc && s.doc.Directory:
		if name != s.doc.Name {
			return syscall.ENOENT
		}
		base, errno := fs.base(s, &st)
		if errno != 0 {
			return errno
		}
		return fs.found(n, s, kindTop, name, base, &st, identify(base.fd, &st), out)
	case n.kind == kindDoc:
		hidden := n.view.backing(s.doc, name)
		if hidden == "" {
			return syscall.ENOENT
		}
		base, errno := fs.base(s, &st)
		if errno != 0 {
			return errno
		}
		defer base.put()
		d, key, errno := fs.host.openPath(base.fd, hidden, &st)
		if errno != 0 {
			return errno
		}
		return fs.found(n, s, kindFile, name, d, &st, key, out)
	case n.kind == kindTop || n.kind == kindTree:
		if fs.temps.hides(name) {
			return syscall.ENOENT
		}
		dir, errno := fs.descriptor(n, s)
		if errno != 0 {
			return errno
		}
		defer dir.put()
		return fs.foundIn(n, s, dir.fd, name, out)
	}
	return syscall.ENOTDIR
}

// foundIn is the reply for what is at name in the directory dir of a
// directory document.
func (fs *filesystem) foundIn(n *node, s *docState, dir int, name string, out *gofuse.EntryOut) syscall.Errno {
	var st unix.Statx_t
	d, key := fs.again(n, dir, name, &st)
	if d == nil {
		var errno syscall.Errno
		if d, key, errno = fs.host.openPath(dir, name, &st); errno != 0 {
			return errno
		}
	}
	return fs.found(n, s, kindTree, name, d, &st, key, out)
}

// again is openPath for the directory in n that was looked up last: who works in a
// directory asks for its name each time, and there mostly is a descriptor of it. It
// is nil if this is not that name, or another directory.
func (fs *filesystem) again(n *node, dir int, name string, st *unix.Statx_t) (*descriptor, identity) {
	last := fs.nodes.recentIn(n, name)
	if last == nil || !fs.calls.isLocal(last.key.dev) {
		return nil, identity{}
	}
	d := fs.cache.get(last)
	if d == nil {
		return nil, identity{}
	}
	if err := statAt(dir, name, statxAll, st); err == nil {
		// A directory that is mounted on itself is the same, and what is mounted
		// below it is not.
		if key, sure := bornIdentity(st); sure && key == last.key && d.mount != 0 && d.mount == st.Mnt_id {
			return d, key
		}
	}
	d.put()
	return nil, identity{}
}

// found is the reply for d, found at name in n. It takes d over.
func (fs *filesystem) found(n *node, s *docState, k kind, name string, d *descriptor, st *unix.Statx_t, key identity, out *gofuse.EntryOut) syscall.Errno {
	defer d.put()
	if fs.host.shows(key.dev) || k == kindFile && key.typ != unix.S_IFREG {
		return syscall.ENOENT
	}
	if n.key.dev != key.dev {
		fs.calls.learn(d.fd, st)
	}
	child := fs.nodes.look(n.view, k, n, name, key)
	fs.entry(child, st, s, out)
	fs.cache.add(child, d)
	return 0
}

// entry fills the reply to a look-up of n, which was counted.
func (fs *filesystem) entry(n *node, st *unix.Statx_t, s *docState, out *gofuse.EntryOut) {
	out.NodeId = n.id
	out.Generation = 1
	fs.attr(n, st, s, &out.Attr)
}

func (fs *filesystem) virtualEntry(n *node, mode uint32, out *gofuse.EntryOut) {
	out.NodeId = n.id
	out.Generation = 1
	fs.virtualAttr(n, mode, &out.Attr)
}

// attr shows the status of a backing file as the view has it: without the
// bits that mean something to execution, and without write permission where
// the view gives none.
func (fs *filesystem) attr(n *node, st *unix.Statx_t, s *docState, a *gofuse.Attr) {
	mode := uint32(st.Mode)
	if mode&unix.S_IFMT != unix.S_IFLNK {
		mode &^= 0o7000
		if !s.access.Write {
			mode &^= 0o222
		}
	}
	mtime := st.Mtime.Nsec
	if d := n.doubted.Load(); d != nil && d.mtime == st.Mtime {
		mtime ^= d.off
	}
	*a = gofuse.Attr{
		Ino:       n.ino,
		Size:      st.Size,
		Blocks:    st.Blocks,
		Atime:     uint64(st.Atime.Sec),
		Mtime:     uint64(st.Mtime.Sec),
		Ctime:     uint64(st.Ctime.Sec),
		Atimensec: st.Atime.Nsec,
		Mtimensec: mtime,
		Ctimensec: st.Ctime.Nsec,
		Mode:      mode,
		Nlink:     st.Nlink,
		Owner:     gofuse.Owner{Uid: st.Uid, Gid: st.Gid},
		Rdev:      uint32(unix.Mkdev(st.Rdev_major, st.Rdev_minor)),
		Blksize:   st.Blksize,
	}
}

// virtualAttr is attr for directories that exist in the view only.
func (fs *filesystem) virtualAttr(n *node, mode uint32, a *gofuse.Attr) {
	t := uint64(fs.started.Unix())
	*a = gofuse.Attr{
		Ino:   n.ino,
		Mode:  unix.S_IFDIR | mode,
		Nlink: 2,
		Owner: gofuse.Owner{Uid: fs.uid, Gid: fs.gid},
		Atime: t, Mtime: t, Ctime: t,
		Blksize: 4096,
	}
}

// Forget takes back look-ups. Node ids of another life of the server are no
// error.
func (fs *filesystem) Forget(nodeid, nlookup uint64) { fs.nodes.forget(nodeid, nlookup) }

// GetAttr is stat(2). A request with a handle, or on a file that somebody
// has open, is about that open file, whatever became of its name.
func (fs *filesystem) GetAttr(cancel <-chan struct{}, in *gofuse.GetAttrIn, out *gofuse.AttrOut) gofuse.Status {
	n := fs.nodes.get(in.NodeId)
	if n == nil {
		return status(syscall.ESTALE)
	}
	if n.view == nil {
		fs.virtualAttr(n, 0o500, &out.Attr)
		return gofuse.OK
	}
	s, errno := fs.visible(n)
	if errno != 0 {
		return status(errno)
	}
	if n.kind == kindDoc {
		fs.virtualAttr(n, documentMode(s.doc, s.access), &out.Attr)
		return gofuse.OK
	}
	var d *descriptor
	keep := false
	if in.Flags()&gofuse.FUSE_GETATTR_FH != 0 {
		// The kernel names an open file when it is about to read from it.
		if h := fs.handles.use(in.Fh()); h != nil && h.n == n {
			d = h.d
			keep = h.dir == nil && fs.calls.isLocal(n.key.dev) && fs.readings.asked(h)
		} else if h != nil {
			h.d.put()
		}
	}
	if d == nil {
		if d, errno = fs.descriptor(n, s); errno != 0 {
			return status(errno)
		}
	}
	defer d.put()
	st, errno := statFD(d.fd)
	if errno != 0 {
		return status(errno)
	}
	fs.attr(n, st, s, &out.Attr)
	// Permissions that have changed since are not the lease's to know: who
	// changed them finds the lease, or they are found to have changed here.
	if keep && n.view.state() == s {
		out.SetTimeout(leaseTimeout)
	}
	return gofuse.OK
}

// SetAttr is chmod, chown, truncate and utimensat. Any of its parts may be
// absent, the handle too.
func (fs *filesystem) SetAttr(cancel <-chan struct{}, in *gofuse.SetAttrIn, out *gofuse.AttrOut) gofuse.Status {
	n := fs.nodes.get(in.NodeId)
	if n == nil {
		return status(syscall.ESTALE)
	}
	s, errno := fs.writable(n)
	if errno != 0 {
		return status(errno)
	}
	if n.kind == kindDoc {
		return status(syscall.EACCES)
	}
	var d *descriptor
	writes := false // d may be written to
	if fh, ok := in.GetFh(); ok {
		if h := fs.handles.use(fh); h != nil && h.n == n {
			d, writes = h.d, h.flags&unix.O_ACCMODE != unix.O_RDONLY
		} else if h != nil {
			h.d.put()
		}
	}
	if d == nil {
		if d, errno = fs.descriptor(n, s); errno != 0 {
			return status(errno)
		}
	}
	defer d.put()
	if errno := setAttributes(d, n.key.typ, writes, in); errno != 0 {
		return status(errno)
	}
	st, errno := statFD(d.fd)
	if errno != 0 {
		return status(errno)
	}
	fs.attr(n, st, s, &out.Attr)
	return gofuse.OK
}

func setAttributes(d *descriptor, typ uint32, writes bool, in *gofuse.SetAttrIn) syscall.Errno {
	if mode, ok := in.GetMode(); ok {
		if typ == unix.S_IFLNK {
			return syscall.EOPNOTSUPP
		}
		if err := unix.Chmod(d.path(), mode&0o777); err != nil {
			return errnoOf(err)
		}
	}
	uid, uok := in.GetUID()
	gid, gok := in.GetGID()
	const rest = gofuse.FATTR_MODE | gofuse.FATTR_SIZE | gofuse.FATTR_ATIME | gofuse.FATTR_MTIME | gofuse.FATTR_ATIME_NOW | gofuse.FATTR_MTIME_NOW
	if uok || gok || in.Valid&rest == 0 { // chown(2) of nobody to nobody changes ctime
		u, g := -1, -1
		if uok {
			u = int(uid)
		}
		if gok {
			g = int(gid)
		}
		if err := unix.Fchownat(d.fd, "", u, g, unix.AT_EMPTY_PATH); err != nil {
			return errnoOf(err)
		}
	}
	if size, ok := in.GetSize(); ok {
		if typ != unix.S_IFREG {
			return syscall.EINVAL
		}
		fd := d.fd
		if !writes {
			var errno syscall.Errno
			if fd, errno = reopen(d.fd, unix.O_WRONLY); errno != 0 {
				return errno
			}
			defer unix.Close(fd)
		}
		if err := ignoringEINTR(func() error { return unix.Ftruncate(fd, int64(size)) }); err != nil {
			return errnoOf(err)
		}
	}
	if in.Valid&(gofuse.FATTR_ATIME|gofuse.FATTR_MTIME|gofuse.FATTR_ATIME_NOW|gofuse.FATTR_MTIME_NOW) != 0 {
		ts := []unix.Timespec{
			timeSpec(in.Valid, gofuse.FATTR_ATIME, gofuse.FATTR_ATIME_NOW, in.Atime, in.Atimensec),
			timeSpec(in.Valid, gofuse.FATTR_MTIME, gofuse.FATTR_MTIME_NOW, in.Mtime, in.Mtimensec),
		}
		var err error
		if typ == unix.S_IFLNK {
			err = unix.UtimesNanoAt(d.fd, "", ts, unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW)
		} else {
			err = unix.UtimesNanoAt(unix.AT_FDCWD, d.path(), ts, 0)
		}
		if err != nil {
			return errnoOf(err)
		}
	}
	return 0
}

// setNumber sets a number of struct timespec, which has 32 bits on some
// machines.
func setNumber[T int32 | int64](to *T, n uint64) { *to = T(n) }

func timeSpec(valid, set, now uint32, sec uint64, nsec uint32) unix.Timespec {
	switch {
	case valid&now != 0:
		return unix.Timespec{Nsec: unix.UTIME_NOW}
	case valid&set != 0:
		var t unix.Timespec
		setNumber(&t.Sec, sec)
		setNumber(&t.Nsec, uint64(nsec))
		return t
	}
	return unix.Timespec{Nsec: unix.UTIME_OMIT}
}

func ignoringEINTR(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}

// Access is access(2): what the view gives, and what the backing file's own
// permission bits give. Without an answer the kernel would say yes, also for
// what is gone.
func (fs *filesystem) Access(cancel <-chan struct{}, in *gofuse.AccessIn) gofuse.Status {
	n := fs.nodes.get(in.NodeId)
	if n == nil {
		return status(syscall.ESTALE)
	}
	if n.view == nil {
		return status(denyWrite(in.Mask))
	}
	s, errno := fs.visible(n)
	if errno != 0 {
		return status(errno)
	}
	if !s.access.Write || n.kind == kindDoc && s.doc.Directory {
		if errno := denyWrite(in.Mask); errno != 0 {
			return status(errno)
		}
	}
	if n.kind == kindDoc {
		return gofuse.OK
	}
	d, errno := fs.descriptor(n, s)
	if errno != 0 {
		return status(errno)
	}
	defer d.put()
	if n.key.typ == unix.S_IFLNK {
		return gofuse.OK
	}
	return status(errnoOf(unix.Faccessat(unix.AT_FDCWD, d.path(), in.Mask&7, 0)))
}

func denyWrite(mask uint32) syscall.Errno {
	if mask&gofuse.W_OK != 0 {
		return syscall.EACCES
	}
	return 0
}

// StatFs is that of the file system below, which has the space.
func (fs *filesystem) StatFs(cancel <-chan struct{}, h *gofuse.InHeader, out *gofuse.StatfsOut) gofuse.Status {
	n := fs.nodes.get(h.NodeId)
	if n == nil {
		return status(syscall.ESTALE)
	}
	if n.view == nil {
		*out = gofuse.StatfsOut{Bsize: 4096, Frsize: 4096, NameLen: 255}
		return gofuse.OK
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
	var st syscall.Statfs_t
	if err := ignoringEINTR(func() error { return syscall.Fstatfs(d.fd, &st) }); err != nil {
		return status(errnoOf(err))
	}
	out.FromStatfsT(&st)
	return gofuse.OK
}

// Readlink gives the text of a link; nobody here follows it.
func (fs *filesystem) Readlink(cancel <-chan struct{}, h *gofuse.InHeader) ([]byte, gofuse.Status) {
	n := fs.nodes.get(h.NodeId)
	if n == nil {
		return nil, status(syscall.ESTALE)
	}
	if n.view == nil || n.key.typ != unix.S_IFLNK {
		return nil, status(syscall.EINVAL)
	}
	s, errno := fs.visible(n)
	if errno != 0 {
		return nil, status(errno)
	}
	d, errno := fs.descriptor(n, s)
	if errno != 0 {
		return nil, status(errno)
	}
	defer d.put()
	buf := make([]byte, unix.PathMax)
	size, err := unix.Readlinkat(d.fd, "", buf)
	if err != nil {
		return nil, status(errnoOf(err))
	}
	return buf[:size], gofuse.OK
}

// handle is an open file or directory.
type handle struct {
	id    uint64
	n     *node
	d     *descriptor // nil for directories that exist in the view only
	flags int         // of open(2)
	dir   *stream     // directories only
	asks  asks
	// index: it is SQLite's index of a log. stale: it cannot go on with another
	// server, which has not the locks that protect what it writes. direct: the
	// kernel has no pages of the file by it.
	index, stale, direct bool
	saved                uint32 // where state has it, 0 if it has not
}

// handleTable holds the open handles.
type handleTable struct {
	mu    sync.RWMutex
	byID  map[uint64]*handle
	next  uint64
	byApp map[string]int // how many
	limit int            // for each app
	total int            // for all of them
}

// handleLimits are how many files one app, and all apps, may have open: no app
// must use up the descriptors that the others need, nor they together those of
// the bus and the store.
func handleLimits() (app, all int) {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		l.Cur = 1024
	}
	all = int(min(l.Cur-l.Cur/4, 1<<20))
	return min(all, int(l.Cur/2)), all
}

func (t *handleTable) get(id uint64) *handle {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.byID[id]
}

// use returns the handle id with a reference to its descriptor, so that it
// stays open while it is used, or nil if there is none or it has none.
func (t *handleTable) use(id uint64) *handle {
	t.mu.RLock()
	defer t.mu.RUnlock()
	h := t.byID[id]
	if h == nil || h.d == nil {
		return nil
	}
	h.d.get()
	return h
}

// add enters h, unless its app has too many already.
func (t *handleTable) add(h *handle) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byApp == nil {
		t.byApp = make(map[string]int)
	}
	if t.byApp[h.n.app] >= t.limit || len(t.byID) >= t.total {
		return false
	}
	t.byApp[h.n.app]++
	t.next++
	h.id = t.next
	t.byID[h.id] = h
	return true
}

func (t *handleTable) remove(id uint64) *handle {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.byID[id]
	if h != nil {
		delete(t.byID, id)
		if t.byApp[h.n.app]--; t.byApp[h.n.app] == 0 {
			delete(t.byApp, h.n.app)
		}
	}
	return h
}

// register makes a handle that owns d and returns its id.
func (fs *filesystem) register(n *node, d *descriptor, flags int, dir *stream) (uint64, syscall.Errno) {
	return fs.enroll(&handle{n: n, d: d, flags: flags, dir: dir})
}

// enroll is register of a handle that is made.
func (fs *filesystem) enroll(h *handle) (uint64, syscall.Errno) {
	n, d := h.n, h.d
	// The node first: it stays for its handles.
	fs.nodes.addHandle(n, h)
	if !fs.handles.add(h) {
		fs.nodes.removeHandle(n, h)
		d.put()
		return 0, syscall.ENFILE
	}
	fs.nodes.state.saveHandle(h)
	return h.id, 0
}

// unregister closes the handle id.
func (fs *filesystem) unregister(id uint64) *handle {
	h := fs.handles.remove(id)
	if h == nil {
		return nil
	}
	fs.nodes.state.dropHandle(h)
	if h.dir == nil {
		fs.closeLocks(h)
		fs.readings.closing(h)
	}
	fs.nodes.removeHandle(h.n, h)
	h.d.put()
	return h
}
