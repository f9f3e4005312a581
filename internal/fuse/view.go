// Package fuse shows documents as files: a host view of all documents and a
// view for each app with just what it was given. It keeps one rule: nothing
// outside a document is ever reached through it, whatever the app or the host
// does to names and links meanwhile.
package fuse

import (
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Document is what the view needs to know of a document. It is immutable.
type Document struct {
	ID string
	// Dir is the host path of the directory that the document stands on: the
	// parent of a file, or the directory itself.
	Dir string
	// Name is the name shown: the file's base name, or the directory's.
	Name      string
	Directory bool
	// DirID identifies Dir: a directory at that path that is another one is
	// not the document's.
	DirID FileID
}

// FileID identifies a file or directory of the host.
type FileID struct {
	Dev, Ino uint64
	// Handle is the type (int32, little-endian) and bytes of
	// name_to_handle_at(2), empty where the filesystem has none; FSID is
	// statfs(2)'s f_fsid for it. If set it counts instead of Dev and Ino,
	// which removable media change.
	Handle []byte
	FSID   uint64
}

// Access is what a view may do with a document.
type Access struct {
	Read, Write bool
}

// Documents answers the view's questions. Its methods are called from request
// handlers: they wait for nothing but a map look-up or a read of the store's
// memory map. app "" is the host view, which may do everything.
type Documents interface {
	// Generation changes, before the change is acknowledged, whenever an
	// answer of Document may have changed.
	Generation() uint64
	// Document returns a live document and what app may do with it; ok is
	// false if there is none.
	Document(app, id string) (d *Document, a Access, ok bool)
	// List returns the ids of the documents that app may read, sorted.
	List(app string) []string
	// Apps returns the app ids to list in by-app, sorted.
	Apps() []string
}

// Location is a place in the view.
type Location struct {
	App      string // "" for the host view
	Document string // document id, "" above the documents
	// Rel is the path below the document's directory, "" for that directory
	// itself: the file of a file document has its name as Rel; inside a
	// directory document Rel is relative to the directory of the document.
	Rel string
}

// Options are the settings of a mount.
type Options struct {
	Log *slog.Logger
	// Replace takes a mount of another living daemon away instead of
	// failing with ErrMounted.
	Replace bool
	// Journal is the path of a file, in a directory that outlives a reboot,
	// in which the view notes the temporary files that it makes on the
	// host; Mount removes those that a crash has left. Only one process
	// may use it at a time. With "" nothing is noted.
	Journal string
	// Keep is given the FUSE connection and the memory that a server needs to
	// go on with it, both the caller's of Mount, before anybody else sees the
	// mount, and where that is, for Detach and Abort. nil keeps nothing.
	Keep func(where string, device, memory *os.File) error
	// Detach is called to take the mount away; nil has it done here. To start the
	// program that does so closes every file that is open, which may wait for a
	// disk that does not answer: who has none open had better do it.
	Detach func() error
	// Resume is a connection that was kept, which Mount goes on with, and
	// owns. If that cannot be, it mounts afresh.
	Resume *Connection
	// Poisoned refuses what an earlier server has not answered: servers have
	// died of it.
	Poisoned bool

	// Low is what Reserve has returned; nil if that was not called.
	Low *Low

	noResend bool // for tests: as on a kernel before 6.9
	// openat2, for tests, is instead of the system call.
	openat2 func(dir int, path string, how *unix.OpenHow) (int, error)
	// between, for tests, comes between the kernel and the view.
	between func(gofuse.RawFileSystem) gofuse.RawFileSystem
}

// Connection is what Options.Keep has kept.
type Connection struct {
	Device, Memory *os.File
	// GiveUp is called when it is of no use: nobody is to keep it any more.
	GiveUp func()
}

// View is a mounted file view.
type View struct {
	dir     string
	fs      *filesystem
	server  *gofuse.Server
	dev     uint64
	mount   mountInfo
	notices notices
	heralds *heralds
	served  chan struct{} // closed when the kernel has ended the connection
	detach  func() error

	mu      sync.Mutex
	done    chan struct{} // closed when the mount is gone
	ended   bool          // done is closed
	watch   *os.File      // mountinfo; nil if nobody watches
	unmount sync.Once
	err     error
}

// Mount mounts the view on dir with fusermount3 (or fusermount), the way
// file-view's "Life of the mount" says, and returns when it answers. The error
// is ErrMounted if another living daemon has its view there.
func Mount(dir string, docs Documents, o Options) (*View, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	// mountinfo shows the path without links.
	if parent, err := filepath.EvalSymlinks(filepath.Dir(dir)); err == nil {
		dir = filepath.Join(parent, filepath.Base(dir))
	}
	if o.Resume != nil {
		v, err := resume(dir, docs, o)
		if err == nil {
			return v, nil
		}
		o.Log.Warn("the file view is mounted afresh; who uses it now has lost it", "reason", err)
		if o.Resume.GiveUp != nil {
			o.Resume.GiveUp()
		}
	}
	if err := prepare(dir, o.Replace, o.Log); err != nil {
		return nil, err
	}
	device, err := mountDevice(dir)
	if err != nil {
		return nil, err
	}
	v, err := begin(device, dir, docs, o)
	device.Close()
	if err != nil {
		detach(dir)
		return nil, err
	}
	return v, nil
}

// begin answers for the new mount on dir.
func begin(device *os.File, dir string, docs Documents, o Options) (*View, error) {
	dev, err := deviceAt(dir)
	if err != nil {
		return nil, err
	}
	var st *state
	if o.Keep != nil {
		if st, err = newState(); err != nil {
			return nil, err
		}
		st.set(wordDevice, dev)
		if err := o.Keep(whereabouts(dir, dev), device, st.file); err != nil {
			return nil, fmt.Errorf("the connection to the kernel cannot be kept: %w", err)
		}
	}
	v, err := serve(device, st, dir, dev, docs, o)
	if err != nil {
		return nil, err
	}
	v.finish(o.Log)
	return v, nil
}

// resume goes on with a connection that an earlier server had.
func resume(dir string, docs Documents, o Options) (*View, error) {
	device := o.Resume.Device
	defer device.Close()
	st, err := openState(o.Resume.Memory)
	if err != nil {
		o.Resume.Memory.Close()
		return nil, err
	}
	dev := st.get(wordDevice)
	v, err := serve(device, st, dir, dev, docs, o)
	if err != nil {
		return nil, err
	}
	if _, ok := mountOf(dir, dev); !ok {
		v.end() // it was unmounted meanwhile; who uses it still is served
		return v, nil
	}
	v.finish(o.Log)
	return v, nil
}

// deviceAt is the st_dev of a mount, of which the kernel asks nobody.
func deviceAt(dir string) (uint64, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, dir, unix.AT_STATX_DONT_SYNC, 0, &st); err != nil {
		return 0, os.NewSyscallError("statx", err)
	}
	return deviceOf(&st), nil
}

// finish watches the mount. Nothing is asked of one that is kept: a process
// that is killed while it waits for itself cannot end as long as somebody else
// keeps the connection.
func (v *View) finish(log *slog.Logger) {
	if v.fs.nodes.state == nil {
		v.poll()
	}
	v.mount, _ = mountOf(v.dir, v.dev)
	if err := v.watchMount(); err != nil {
		log.Warn("an unmount by somebody else will not be noticed", "error", err)
	}
}

// serve answers for a connection. If it is another server's, everything is as
// that one has left it before the first request is received.
func serve(device *os.File, st *state, dir string, dev uint64, docs Documents, o Options) (*View, error) {
	fs := newFilesystem(docs, o.Log, uint32(os.Getuid()), uint32(os.Getgid()), umask(), st)
	resumed := o.Resume != nil && st != nil && st.epoch() > 1
	fs.host.dir, fs.host.dev = dir, dev
	if o.openat2 != nil {
		fs.host.instead = o.openat2
	}
	if o.Journal != "" {
		j, left, err := openJournal(o.Journal, resumed, fs.host, o.Log.Warn)
		if err != nil {
			o.Log.Warn("temporary files will not be noted", "error", err)
		}
		fs.temps.journal = j
		fs.restoreTemps(left)
	}
	var raw gofuse.RawFileSystem = limited{fs}
	var t *tracked
	if st != nil {
		t = newTracked(fs, st, o.Poisoned)
		raw = t
	}
	if resumed {
		if err := fs.restore(); err != nil {
			return nil, err
		}
	}
	if o.between != nil {
		raw = o.between(raw)
	}
	fd, err := unix.FcntlInt(device.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	server, err := negotiate(fd, raw, serverOptions(o.Log), st)
	if err != nil {
		return nil, fmt.Errorf("cannot serve the mount on %s: %w", dir, err)
	}
	if err := fs.receiving.attach(server); err != nil {
		o.Log.Warn("requests may fail when the server is killed", "reason", err)
	}
	if fs.lost.written() {
		fs.receiving.expectData()
	}
	if t != nil {
		t.resends = kernelResends(server.KernelSettings()) && !o.noResend
	}
	if resumed {
		if err := takeOver(int(device.Fd()), st, t.resends); err != nil {
			return nil, err
		}
	}
	v := &View{
		dir:    dir,
		fs:     fs,
		dev:    dev,
		server: server,
		served: make(chan struct{}),
		done:   make(chan struct{}),
		detach: o.Detach,
	}
	if v.detach == nil {
		v.detach = func() error { return detach(dir) }
	}
	v.notices.view = v
	own, err := cloneDevice(device)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	v.heralds = newHeralds(own, o.Low)
	// Without an offset this is about attributes only.
	fs.readings.forget = func(node uint64) { v.heralds.inode(node, -1) }
	fs.dropInode = func(node uint64) bool { return v.heralds.inode(node, 0) }
	go func() {
		server.Serve()
		v.heralds.close()
		close(v.served)
		v.end()
	}()
	if resumed {
		v.dropLost()
	}
	return v, nil
}

// serverOptions are what is agreed with the kernel.
func serverOptions(log *slog.Logger) *gofuse.MountOptions {
	return &gofuse.MountOptions{
		FsName:               "portal",
		Name:                 "portal",
		MaxBackground:        maxBackground,
		MaxWrite:             maxWrite,
		DisableReadDirPlus:   true,
		EnableLocks:          true,
		ExtraCapabilities:    gofuse.CAP_HANDLE_KILLPRIV_V2 | gofuse.CAP_ATOMIC_O_TRUNC,
		DisabledCapabilities: gofuse.CAP_PASSTHROUGH | gofuse.CAP_NO_OPEN_SUPPORT,
		Logger:               slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		PanicHandler: func(v any) gofuse.Status {
			log.Error("a file request made the server panic", "panic", v, "stack", string(debug.Stack()))
			return gofuse.EIO
		},
	}
}

// maxBackground is how many requests the kernel sends for which no program
// waits, such as reading ahead. Those on a file system that hangs count too,
// so it must be more than can hang.
const maxBackground = 4096

// poll asks the kernel to poll a file of the mount. The runtime polls what this
// process opens, also on its own mount, from where it cannot answer; after one
// such question, from here, the kernel knows that there is nothing to ask.
func (v *View) poll() {
	if fd, err := unix.Open(filepath.Join(v.dir, pollName), unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
		unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		unix.Close(fd)
	}
}

// pollName is a name that go-fuse answers for itself in the root.
const pollName = ".go-fuse-epoll-hack"

// umask is the process's file mode creation mask. umask(2) cannot read it
// without changing it for every thread.
func umask() uint32 {
	b, err := os.ReadFile("/proc/self/status")
	if err == nil {
		for line := range strings.Lines(string(b)) {
			if s, ok := strings.CutPrefix(line, "Umask:"); ok {
				if n, err := strconv.ParseUint(strings.TrimSpace(s), 8, 32); err == nil {
					return uint32(n)
				}
			}
		}
	}
	return 0o777 // as if it took everything away: set each mode
}

// watchMount ends v when its mount is taken from its place, and notes whether it
// is at another one. The kernel tells
// the server only when nothing uses the mount any more, but sandboxes do.
func (v *View) watchMount() error {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	conn, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.ended {
		return f.Close()
	}
	v.watch = f
	go func() {
		// Each change of the mount table wakes this. It is read by the descriptor
		// that there is: another one might not be had, and that is no unmount.
		err := conn.Read(func(fd uintptr) bool {
			b, err := readAgain(int(fd))
			if err != nil {
				return false
			}
			v.fs.host.elsewhere.Store(slices.ContainsFunc(mountsIn(b, v.dev), func(m mountInfo) bool { return m.point != v.dir }))
			m, ok := topMountIn(b, v.dir)
			return !ok || m.id != v.mount.id && !strings.Contains("\n"+string(b), "\n"+v.mount.id+" ") // perhaps below another
		})
		if err == nil {
			v.end()
		}
	}()
	return nil
}

// readAgain reads a file from its beginning to its end.
func readAgain(fd int) ([]byte, error) {
	if _, err := unix.Seek(fd, 0, io.SeekStart); err != nil {
		return nil, err
	}
	b := make([]byte, 0, 16<<10)
	for {
		n, err := unix.Read(fd, b[len(b):cap(b)])
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return b, err
		}
		b = b[:len(b)+n]
		b = slices.Grow(b, 4096)
	}
}

// end notes that the mount is gone.
func (v *View) end() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.ended {
		return
	}
	v.ended = true
	close(v.done)
	if v.watch != nil {
		v.watch.Close() // ends who waits for it
	}
}

// Dev is the st_dev of the mount.
func (v *View) Dev() uint64 { return v.dev }

// Resolve says what an inode number of the mount stands for, while somebody
// holds it open.
func (v *View) Resolve(ino uint64) (Location, bool) {
	t := v.fs.nodes
	t.mu.Lock()
	n := t.byIno[ino]
	t.mu.Unlock()
	if n == nil {
		return Location{}, false
	}
	var s *docState
	if n.view != nil {
		if s = n.view.state(); s.doc == nil {
			return Location{}, false
		}
	}
	return v.fs.location(n, s)
}

// Invalidate drops what the kernel caches of a document, in every view, after
// its permissions changed or it was deleted. When it returns, attributes and the
// names of the document itself are forgotten; pages and other names are soon
// after, since that may wait for requests.
func (v *View) Invalidate(id string) {
	v.fs.readings.revoke(id)
	v.dropNames(id)
	v.notices.add(id)
}

// Open is how many files and directories each app has open; "" is the host.
func (v *View) Open() map[string]int {
	t := &v.fs.handles
	t.mu.RLock()
	defer t.mu.RUnlock()
	return maps.Clone(t.byApp)
}

// Done is closed when the mount is gone, by Unmount or by somebody else. What
// still uses the mount then, as a running sandbox may, goes on being served.
func (v *View) Done() <-chan struct{} { return v.done }

// unmountTime is how long Unmount waits for each thing that may hang.
const unmountTime = 800 * time.Millisecond

// Unmount takes the mount away, whatever is held open on it, and removes
// temporary files. It returns within two seconds.
func (v *View) Unmount() error {
	v.unmount.Do(func() {
		select {
		case <-v.done:
		default:
			v.err = v.detach()
		}
		cleaned := make(chan struct{})
		go func() {
			v.fs.temps.close(v.fs)
			v.fs.cache.close()
			v.fs.readings.close()
			close(cleaned)
		}()
		t := time.NewTimer(unmountTime)
		defer t.Stop()
		select {
		case <-cleaned:
		case <-t.C: // a disk hangs; the journal has what is left
		}
		v.notices.close()
		v.end()
	})
	return v.err
}
