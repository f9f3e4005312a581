package fuse

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"golang.org/x/sys/unix"
)

// What the view shows is the file system's below it.

// TestClosingSaysWhatTheFileSystemBelowSays: a quota or a full disk may show
// only when a file is closed.
func TestClosingSaysWhatTheFileSystemBelowSays(t *testing.T) {
	disk := filepath.Join(t.TempDir(), "disk")
	must(t, os.Mkdir(disk, 0o700))
	files := t.TempDir()
	var failing atomic.Int32
	//lint:ignore SA1019 what came instead hands over nodes that are made, and they cannot be copied
	root := &fs.LoopbackRoot{Path: files, NewNode: func(data *fs.LoopbackRoot, _ *fs.Inode, _ string, _ *syscall.Stat_t) fs.InodeEmbedder {
		return &failingNode{LoopbackNode: fs.LoopbackNode{RootData: data}, failing: &failing}
	}}
	server, err := fs.Mount(disk, &failingNode{LoopbackNode: fs.LoopbackNode{RootData: root}, failing: &failing}, &fs.Options{RootStableAttr: &fs.StableAttr{Ino: 1}})
	must(t, err)
	r := newRig(t)
	t.Cleanup(func() { // after the view's
		if err := server.Unmount(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { r.view.Unmount() })
	must(t, os.WriteFile(filepath.Join(disk, "file.txt"), nil, 0o600))
	must(t, os.Mkdir(filepath.Join(disk, "sub"), 0o700))
	r.docs.add(t, "f1", filepath.Join(disk, "file.txt"))
	r.docs.add(t, "d1", filepath.Join(disk, "sub"))
	for _, p := range []string{r.in("", "f1", "file.txt"), r.in("", "d1", "sub", "new")} {
		for _, want := range []syscall.Errno{0, syscall.ENOSPC, syscall.EDQUOT, syscall.EIO, 0} {
			fd, err := unix.Open(p, unix.O_CREAT|unix.O_WRONLY, 0o600)
			must(t, err)
			_, err = unix.Write(fd, []byte("x"))
			must(t, err)
			failing.Store(int32(want))
			wantErr(t, "close", unix.Close(fd), want)
			failing.Store(0)
		}
	}
}

type failingNode struct {
	fs.LoopbackNode
	failing *atomic.Int32
}

var _ fs.NodeFlusher = (*failingNode)(nil)

func (n *failingNode) Flush(context.Context, fs.FileHandle) syscall.Errno {
	return syscall.Errno(n.failing.Load())
}

// directory reads a directory with its cookies.
func directory(t *testing.T, dir string, from int64) (names []string, cookies []int64) {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	must(t, err)
	defer unix.Close(fd)
	_, err = unix.Seek(fd, from, unix.SEEK_SET)
	must(t, err)
	buf := make([]byte, 1000) // many pieces
	for {
		n, err := unix.Getdents(fd, buf)
		must(t, err)
		if n == 0 {
			return names, cookies
		}
		for b := buf[:n]; len(b) > 0; {
			e := (*unix.Dirent)(ptr(b))
			names = append(names, unix.ByteSliceToString(b[19:e.Reclen]))
			cookies = append(cookies, e.Off)
			b = b[e.Reclen:]
		}
	}
}

func TestCookiesAndSpaceAreThoseBelow(t *testing.T) {
	r := newRig(t)
	tree := r.dirDoc("d1")
	for i := range 300 {
		must(t, os.WriteFile(filepath.Join(tree, string(rune('a'+i%26))+string(rune('a'+i/26))), nil, 0o600))
	}
	seen := r.in(testApp, "d1", "tree")
	wantNames, want := directory(t, tree, 0)
	gotNames, got := directory(t, seen, 0)
	if !slices.Equal(wantNames, gotNames) || !slices.Equal(want, got) {
		t.Errorf("the view reads %q at %d, below there are %q at %d", gotNames, got, wantNames, want)
	}
	for i := 0; i < len(want)-1; i += 29 {
		if rest, _ := directory(t, seen, want[i]); !slices.Equal(rest, wantNames[i+1:]) {
			t.Errorf("from cookie %d of the host the view reads %q", want[i], rest)
		}
	}
	var a, b unix.Statfs_t
	must(t, unix.Statfs(tree, &a))
	must(t, unix.Statfs(seen, &b))
	if a.Blocks != b.Blocks || a.Bsize != b.Bsize || a.Files != b.Files || a.Namelen != b.Namelen || b.Bfree == 0 {
		t.Errorf("statfs: %+v, below %+v", b, a)
	}
	for _, p := range []string{seen, r.in(testApp, "d1"), r.in(testApp)} {
		fd, err := unix.Open(p, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		must(t, err)
		must(t, unix.Fsync(fd))
		unix.Close(fd)
	}
}

// TestStuckCallsAreBounded: 16 of a document and 64 of a file system, whatever
// they are calls on.
func TestStuckCallsAreBounded(t *testing.T) {
	var c callTable
	long := time.Now().Add(-2 * stuckTime)
	begin := func(doc string, dev uint64) syscall.Errno {
		_, errno := c.begin(nil, doc, dev)
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, t := range []*calls{c.docs[doc], c.devs[dev]} {
			if t != nil {
				for i := range t.started {
					t.started[i] = long
				}
			}
		}
		return errno
	}
	for doc, want := range map[string]int{"a": maxDocumentCalls} {
		n := 0
		for ; n < 100 && begin(doc, 1) == 0; n++ {
		}
		if n != want {
			t.Errorf("%d calls on %s, want %d", n, doc, want)
		}
	}
	n := maxDocumentCalls
	for i := range 100 {
		if begin(string(rune('b'+i)), 1) == 0 {
			n++
		}
	}
	if n != maxDeviceCalls {
		t.Errorf("%d calls on a file system, want %d", n, maxDeviceCalls)
	}
	if errno := begin("a", 1); errno != syscall.EIO {
		t.Errorf("one more: %v", errno)
	}
	if errno := begin("other", 2); errno != 0 {
		t.Errorf("on another file system: %v", errno)
	}
}
