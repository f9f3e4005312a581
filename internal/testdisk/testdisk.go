// Package testdisk is for tests that need disks which are full, fail or stand
// still: mounts for ordinary users, and a file system that fails on command.
package testdisk

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// namespaceVariable is set in the test that MayMount started.
const namespaceVariable = "DOCPORTAL_TEST_NAMESPACE"

// MayMount reports whether the caller, an ordinary user, may mount file
// systems. If not it runs the test again where that is so, in a user namespace
// with the same ids, and the caller has nothing more to do.
func MayMount(t *testing.T) bool {
	t.Helper()
	if os.Getenv(namespaceVariable) != "" {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		return true
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), namespaceVariable+"=1")
	uid, gid := os.Getuid(), os.Getgid()
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}},
		AmbientCaps: []uintptr{unix.CAP_SYS_ADMIN},
		Pdeathsig:   syscall.SIGKILL,
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	} else {
		t.Logf("%s", out)
	}
	return false
}

// Disk is a mounted file system and what it does wrong: an error number for each
// kind of call, 0 for none.
type Disk struct {
	Reading, Writing, Syncing, Making atomic.Int32 // Making: a name, or room for a file
	// Direct has every read asked for; files then cannot be mapped.
	Direct atomic.Bool

	mu      sync.Mutex
	listing <-chan struct{}
	still   chan struct{} // while it stands still, closed at the end of that
	reads   bool          // nevertheless
	waiting atomic.Int32
}

// Stop has the disk stand still: what it is asked from now on it takes and does
// not answer, until Go or the end of the test. The test itself must not use it.
func (d *Disk) Stop() { d.stop(false) }

// StopChanges is Stop for what changes something on the disk, as on one whose
// journal is being written.
func (d *Disk) StopChanges() { d.stop(true) }

func (d *Disk) stop(reads bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reads = reads
	if d.still == nil {
		d.still = make(chan struct{})
	}
}

// Go has the disk answer again.
func (d *Disk) Go() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.still != nil {
		close(d.still)
		d.still = nil
	}
}

// Waiting is how many requests the disk has taken and does not answer.
func (d *Disk) Waiting() int { return int(d.waiting.Load()) }

// pause waits while the disk stands still, if it does so for what changes
// something, or for all.
func (d *Disk) pause(changes bool) {
	d.mu.Lock()
	still, reads := d.still, d.reads
	d.mu.Unlock()
	if still != nil && (changes || !reads) {
		d.waiting.Add(1)
		<-still
		d.waiting.Add(-1)
	}
}

// Hold has those who list a directory called db wait for c.
func (d *Disk) Hold(c <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.listing = c
}

// Mount mounts a disk on dir, for the length of the test. What is on it is in
// below, which is made.
func Mount(t testing.TB, dir, below string) *Disk {
	t.Helper()
	if err := os.Mkdir(below, 0o700); err != nil {
		t.Fatal(err)
	}
	d := &Disk{}
	root := &fs.LoopbackRoot{Path: below}
	root.RootNode = &node{fs.LoopbackNode{RootData: root}, d}
	server, err := fs.Mount(dir, root.RootNode, &fs.Options{MountOptions: fuse.MountOptions{FsName: "faulty"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.Go()
		if err := server.Unmount(); err != nil {
			t.Error(err)
			exec.Command("fusermount3", "-u", "-z", dir).Run()
		}
	})
	return d
}

// node is a file or directory of another directory, with faults.
type node struct {
	fs.LoopbackNode
	d *Disk
}

// WrapChild gives what is below the same faults.
func (n *node) WrapChild(context.Context, fs.InodeEmbedder) fs.InodeEmbedder {
	return &node{fs.LoopbackNode{RootData: n.RootData}, n.d}
}

func (n *node) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	n.d.pause(false)
	h, how, errno := n.LoopbackNode.Open(ctx, flags)
	if n.d.Direct.Load() {
		how |= fuse.FOPEN_DIRECT_IO
	}
	return h, how, errno
}

func (n *node) Read(ctx context.Context, f fs.FileHandle, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	n.d.pause(false)
	if e := n.d.Reading.Load(); e != 0 {
		return nil, syscall.Errno(e)
	}
	return f.(fs.FileReader).Read(ctx, dest, off)
}

func (n *node) Write(ctx context.Context, f fs.FileHandle, data []byte, off int64) (uint32, syscall.Errno) {
	n.d.pause(true)
	if e := n.d.Writing.Load(); e != 0 {
		return 0, syscall.Errno(e)
	}
	return f.(fs.FileWriter).Write(ctx, data, off)
}

func (n *node) Fsync(ctx context.Context, f fs.FileHandle, flags uint32) syscall.Errno {
	n.d.pause(true)
	if e := n.d.Syncing.Load(); e != 0 {
		return syscall.Errno(e)
	}
	if s, ok := f.(fs.FileFsyncer); ok {
		return s.Fsync(ctx, flags)
	}
	return 0
}

func (n *node) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	n.d.pause(true)
	if e := n.d.Making.Load(); e != 0 {
		return nil, syscall.Errno(e)
	}
	return n.LoopbackNode.Mkdir(ctx, name, mode, out)
}

func (n *node) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	n.d.pause(true)
	if e := n.d.Making.Load(); e != 0 {
		return nil, nil, 0, syscall.Errno(e)
	}
	return n.LoopbackNode.Create(ctx, name, flags, mode, out)
}

func (n *node) Allocate(ctx context.Context, f fs.FileHandle, off, size uint64, mode uint32) syscall.Errno {
	n.d.pause(true)
	if e := n.d.Making.Load(); e != 0 {
		return syscall.Errno(e)
	}
	return f.(fs.FileAllocater).Allocate(ctx, off, size, mode)
}

func (n *node) Rename(ctx context.Context, name string, to fs.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	n.d.pause(true)
	if e := n.d.Making.Load(); e != 0 {
		return syscall.Errno(e)
	}
	return n.LoopbackNode.Rename(ctx, name, to, newName, flags)
}

func (n *node) OpendirHandle(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	n.d.pause(false)
	n.d.mu.Lock()
	wait := n.d.listing
	n.d.mu.Unlock()
	if wait != nil && filepath.Base(n.Path(n.Root())) == "db" {
		<-wait
	}
	return n.LoopbackNode.OpendirHandle(ctx, flags)
}

func (n *node) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	n.d.pause(false)
	return n.LoopbackNode.Lookup(ctx, name, out)
}

func (n *node) Getattr(ctx context.Context, f fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	n.d.pause(false)
	return n.LoopbackNode.Getattr(ctx, f, out)
}

func (n *node) Setattr(ctx context.Context, f fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	n.d.pause(true)
	return n.LoopbackNode.Setattr(ctx, f, in, out)
}

func (n *node) Statfs(ctx context.Context, out *fuse.StatfsOut) syscall.Errno {
	n.d.pause(false)
	return n.LoopbackNode.Statfs(ctx, out)
}

func (n *node) Unlink(ctx context.Context, name string) syscall.Errno {
	n.d.pause(true)
	return n.LoopbackNode.Unlink(ctx, name)
}

func (n *node) Flush(ctx context.Context, f fs.FileHandle) syscall.Errno {
	n.d.pause(false)
	return f.(fs.FileFlusher).Flush(ctx)
}
