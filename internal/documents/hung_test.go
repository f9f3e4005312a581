package documents

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// hanging is a file on a disk that does not answer from some moment on.
type hanging struct {
	fs.Inode
	hangs  atomic.Bool
	answer chan struct{}
}

func (h *hanging) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	if h.hangs.Load() {
		<-h.answer
	}
	out.Mode, out.Size, out.Uid = 0o644, 4, uint32(os.Getuid())
	return 0
}

func (h *hanging) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if h.hangs.Load() {
		<-h.answer
	}
	return nil, 0, 0
}

func (h *hanging) Read(context.Context, fs.FileHandle, []byte, int64) (fuse.ReadResult, syscall.Errno) {
	return fuse.ReadResultData([]byte("text")), 0
}

// TestAHungDocumentDelaysNoCall: nor another document, nor the end.
func TestAHungDocumentDelaysNoCall(t *testing.T) {
	file := &hanging{answer: make(chan struct{})}
	dir := filepath.Join(t.TempDir(), "disk")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	root := new(fs.Inode)
	number := &fs.StableAttr{Mode: syscall.S_IFDIR, Ino: 1}
	disk, err := fs.Mount(dir, root, &fs.Options{RootStableAttr: number, MountOptions: fuse.MountOptions{FsName: "disk", MaxBackground: 1000}})
	if err != nil {
		t.Fatal(err)
	}
	root.AddChild("f", root.NewPersistentInode(context.Background(), file, fs.StableAttr{Mode: syscall.S_IFREG, Ino: 2}), true)
	t.Cleanup(func() {
		if err := disk.Unmount(); err != nil {
			t.Error(err)
		}
	})
	s := newSession(t, options{})
	a := s.sandboxed(appA, s.withDocuments(appA)...)
	doc := s.mountPoint()
	hung := s.addFull(s.host, all, appA, []string{"read"}, open{Path: filepath.Join(dir, "f")})[0]
	well := s.addFull(s.host, all, appA, []string{"read"}, open{Path: s.file("well", "well")})[0]
	p := filepath.Join(a.doc, well, "well")
	if got := see(a, p); got != "well" {
		t.Fatal(got)
	}
	if got := see(s.host, filepath.Join(doc, hung, "f")); got != "text" {
		t.Fatal(got)
	}
	file.hangs.Store(true)
	defer close(file.answer)
	crowd := exec.Command("/bin/sh", "-c", `i=0; while [ $i -lt 60 ]; do head -c 10 "$0" & i=$((i+1)); done; wait`, filepath.Join(doc, hung, "f"))
	crowd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := crowd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Kill(-crowd.Process.Pid, syscall.SIGKILL); crowd.Wait() })
	// One more is told so when all that may be stuck are.
	for told := false; !told; {
		out, _ := exec.Command("timeout", "-s", "KILL", "2", "head", "-c", "10", filepath.Join(doc, hung, "f")).CombinedOutput()
		told = strings.Contains(string(out), "Input/output error")
	}
	var took []time.Duration
	quick := func(what string, f func()) {
		start := time.Now()
		f()
		d := time.Since(start)
		if took = append(took, d); d > time.Second {
			t.Errorf("%s took %v", what, d)
		}
	}
	for range 10 {
		quick("a read of another document", func() {
			if got := see(a, p); got != "well" {
				t.Error(got)
			}
		})
		quick("Info", func() { s.must(s.host, "Info", nil, well) })
		quick("Info of the hung one", func() { s.must(s.host, "Info", nil, hung) })
		quick("List", func() { s.must(s.host, "List", nil, appA) })
		quick("GrantPermissions", func() { s.must(s.host, "GrantPermissions", nil, hung, appB, []string{"read"}) })
		quick("RevokePermissions", func() { s.must(s.host, "RevokePermissions", nil, hung, appB, []string{"read"}) })
		quick("AddFull", func() { s.addFull(s.host, all, appA, []string{"read"}, open{Path: filepath.Join(s.home, "well")}) })
	}
	quick("Delete of the hung one", func() { s.must(s.host, "Delete", nil, hung) })
	slices.Sort(took)
	t.Log("median", took[len(took)/2], "longest", took[len(took)-1])
	if m := took[len(took)/2]; m > 50*time.Millisecond {
		t.Errorf("calls took %v", m)
	}
	start := time.Now()
	s.stopPortal()
	if d := time.Since(start); d > 2*time.Second {
		t.Errorf("the end took %v", d)
	}
}
