package fuse

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// overhearing hears the requests that this process makes of its own view.
type overhearing struct {
	gofuse.RawFileSystem
	mu    sync.Mutex
	heard []string
}

func (o *overhearing) hear(what string, h *gofuse.InHeader) {
	// The kernel names the thread.
	if _, err := os.Stat(fmt.Sprint("/proc/self/task/", h.Pid)); err != nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.heard = append(o.heard, fmt.Sprint(what, " of ", h.NodeId))
}

// take returns what was heard since it was called last.
func (o *overhearing) take() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	heard := o.heard
	o.heard = nil
	return heard
}

func (o *overhearing) Lookup(cancel <-chan struct{}, h *gofuse.InHeader, name string, out *gofuse.EntryOut) gofuse.Status {
	o.hear("LOOKUP "+name, h)
	return o.RawFileSystem.Lookup(cancel, h, name, out)
}

func (o *overhearing) GetAttr(cancel <-chan struct{}, in *gofuse.GetAttrIn, out *gofuse.AttrOut) gofuse.Status {
	o.hear("GETATTR", &in.InHeader)
	return o.RawFileSystem.GetAttr(cancel, in, out)
}

func (o *overhearing) Statx(cancel <-chan struct{}, in *gofuse.StatxIn, out *gofuse.StatxOut) gofuse.Status {
	o.hear("STATX", &in.InHeader)
	return o.RawFileSystem.Statx(cancel, in, out)
}

func (o *overhearing) Access(cancel <-chan struct{}, in *gofuse.AccessIn) gofuse.Status {
	o.hear("ACCESS", &in.InHeader)
	return o.RawFileSystem.Access(cancel, in)
}

func (o *overhearing) StatFs(cancel <-chan struct{}, h *gofuse.InHeader, out *gofuse.StatfsOut) gofuse.Status {
	o.hear("STATFS", h)
	return o.RawFileSystem.StatFs(cancel, h, out)
}

func (o *overhearing) Open(cancel <-chan struct{}, in *gofuse.OpenIn, out *gofuse.OpenOut) gofuse.Status {
	o.hear("OPEN", &in.InHeader)
	return o.RawFileSystem.Open(cancel, in, out)
}

func (o *overhearing) OpenDir(cancel <-chan struct{}, in *gofuse.OpenIn, out *gofuse.OpenOut) gofuse.Status {
	o.hear("OPENDIR", &in.InHeader)
	return o.RawFileSystem.OpenDir(cancel, in, out)
}

func (o *overhearing) Readlink(cancel <-chan struct{}, h *gofuse.InHeader) ([]byte, gofuse.Status) {
	o.hear("READLINK", h)
	return o.RawFileSystem.Readlink(cancel, h)
}

func (o *overhearing) GetXAttr(cancel <-chan struct{}, h *gofuse.InHeader, name string, dest []byte) (uint32, gofuse.Status) {
	o.hear("GETXATTR", h)
	return o.RawFileSystem.GetXAttr(cancel, h, name, dest)
}

func (o *overhearing) Unlink(cancel <-chan struct{}, h *gofuse.InHeader, name string) gofuse.Status {
	o.hear("UNLINK", h)
	return o.RawFileSystem.Unlink(cancel, h, name)
}

func (o *overhearing) Create(cancel <-chan struct{}, in *gofuse.CreateIn, name string, out *gofuse.CreateOut) gofuse.Status {
	o.hear("CREATE", &in.InHeader)
	return o.RawFileSystem.Create(cancel, in, name, out)
}

// newOverheardRig is a rig with whoever hears what the process asks itself.
func newOverheardRig(t *testing.T) (*rig, *overhearing) {
	t.Helper()
	r := newRig(t)
	must(t, r.view.Unmount())
	o := new(overhearing)
	r.opts.between = func(raw gofuse.RawFileSystem) gofuse.RawFileSystem {
		o.RawFileSystem = raw
		return o
	}
	r.mount()
	o.take() // the question whether files can be polled
	return r, o
}

// meddle does what it can with a path of the view, which is ENOENT, and lists
// the directory that it is in. It returns what it comes to.
const meddle = `
import os, sys
f = sys.argv[1]
def creat(p): os.close(os.open(p, os.O_RDWR | os.O_CREAT, 0o600))
for name, call in {
        "stat": os.lstat, "open": lambda p: os.close(os.open(p, os.O_RDONLY)), "statfs": os.statvfs, "chmod": lambda p: os.chmod(p, 0o700),
        "truncate": lambda p: os.truncate(p, 0), "listxattr": os.listxattr, "list": os.listdir, "readlink": os.readlink,
        "below": lambda p: os.lstat(p + "/by-app"), "rename": lambda p: os.rename(p, p + "2"), "rename to": lambda p: os.rename(p + "3", p),
        "link": lambda p: os.link(p, p + "4"), "unlink": os.unlink, "rmdir": os.rmdir, "create": creat,
        "make": os.mkdir, "mknod": os.mknod, "symlink": lambda p: os.symlink("x", p)}.items():
    try:
        call(f)
        print(name, "works")
    except OSError as e:
        if not (e.errno == 2 or name in ("create", "make", "mknod", "symlink") and e.errno in (17, 1, 13)):
            print(name, e.strerror)
`

// hidden checks that what is at path in a document is not seen, and that the view
// is not asked for that. It was asked for something else there before.
func (o *overhearing) hidden(t *testing.T, path string) {
	t.Helper()
	out, err := outside(t, "/usr/bin/python3", "-c", meddle, path)
	if out != "" || err != nil {
		t.Errorf("%s:\n%s%v", path, out, err)
	}
	outside(t, "ls", "-la", filepath.Dir(path))
	if heard := o.take(); heard != nil {
		t.Errorf("%s: it asked itself: %q", path, heard)
	}
}

// TestNothingAsksTheViewItself has documents that the view is mounted in: a
// process that waits for itself and is killed meanwhile cannot end.
func TestNothingAsksTheViewItself(t *testing.T) {
	r, o := newOverheardRig(t)
	parent := filepath.Dir(r.mnt)
	must(t, os.MkdirAll(filepath.Join(parent, "well"), 0o755))
	r.docs.add(t, "d1", parent)
	r.docs.add(t, "d2", filepath.Dir(parent))
	for _, id := range []string{"d1", "d2"} {
		r.docs.grant(testApp, id, Access{Read: true, Write: true})
	}
	o.take()
	for _, p := range []string{
		r.in(testApp, "d1", filepath.Base(parent), "doc"),
		r.in(testApp, "d2", filepath.Base(filepath.Dir(parent)), filepath.Base(parent), "doc"),
	} {
		for range 2 { // the second time there are things that the server knows
			if out, err := outside(t, "ls", filepath.Join(filepath.Dir(p), "well")); err != nil {
				t.Error(out, err)
			}
			o.hidden(t, p)
		}
	}
}

// namespaceVariable is set for tests that may mount.
const namespaceVariable = "DOCPORTAL_TEST_NAMESPACE"

// mayMount runs the test t again where it may mount, and reports whether that is
// here.
func mayMount(t *testing.T) bool {
	t.Helper()
	if os.Getenv(namespaceVariable) != "" {
		return true
	}
	cmd := exec.Command("/proc/self/exe", "-test.v", "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), namespaceVariable+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}},
		AmbientCaps: []uintptr{unix.CAP_SYS_ADMIN},
	}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "\n--- PASS: "+t.Name()) {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

// bind has a mount of old at point, made by another process, until the test ends.
func bind(t *testing.T, old, point string) {
	t.Helper()
	out, err := outside(t, "/usr/bin/python3", "-c", `
import ctypes, os, sys
if ctypes.CDLL(None, use_errno=True).mount(sys.argv[1].encode(), sys.argv[2].encode(), None, 4096, None):
    sys.exit(os.strerror(ctypes.get_errno()))`, old, point)
	if err != nil {
		t.Fatalf("bind %s on %s: %s", old, point, out)
	}
	t.Cleanup(func() { unix.Unmount(point, unix.MNT_DETACH) })
}

// TestViewsMountedInDocuments has somebody mount the view, and parts of it, in
// documents under other names, on what was seen there before.
func TestViewsMountedInDocuments(t *testing.T) {
	if !mayMount(t) {
		return
	}
	r, o := newOverheardRig(t)
	tree := r.dirDoc("d1")
	host := r.fileDoc("f1", "text")
	r.fileDoc("f2", "text")
	r.fileDoc("f3", "text")
	covered := r.dir("x/covered")
	deep := r.dir("x/covered/deep")
	r.docs.add(t, "d2", deep)
	r.docs.grant(testApp, "d2", Access{Read: true, Write: true})
	for _, d := range []string{"view", "app", "document"} {
		must(t, os.MkdirAll(filepath.Join(tree, d), 0o755))
	}
	must(t, os.WriteFile(filepath.Join(tree, "file"), nil, 0o600))
	d1 := r.in(testApp, "d1", "tree")
	all := []string{filepath.Join(d1, "view"), filepath.Join(d1, "app"), filepath.Join(d1, "document"), filepath.Join(d1, "file"),
		r.in(testApp, "f1", "file.txt"), r.in(testApp, "f3", "file.txt"), r.in(testApp, "d2", "deep")}
	for _, p := range all {
		if out, err := outside(t, "ls", "-la", p); err != nil {
			t.Error(out, err)
		}
	}
	if heard := o.take(); heard != nil {
		t.Errorf("before anything is mounted: %q", heard)
	}
	bind(t, r.mnt, filepath.Join(tree, "view"))
	bind(t, r.in(testApp), filepath.Join(tree, "app"))
	bind(t, r.in(testApp, "f2"), filepath.Join(tree, "document"))
	bind(t, r.in(testApp, "f2", "file.txt"), filepath.Join(tree, "file"))
	bind(t, r.in(testApp, "f2", "file.txt"), host)
	bind(t, r.in(testApp, "f2"), filepath.Join(r.host, "f3.d"))
	bind(t, r.mnt, covered)
	eventually(t, "the mounts are known", r.view.fs.host.elsewhere.Load)
	for range 2 {
		for _, p := range all {
			o.hidden(t, p)
		}
	}
	// Who looks right after somebody has mounted may come before that is known.
	r.view.fs.host.elsewhere.Store(false)
	o.hidden(t, r.in(testApp, "f3", "file.txt"))
	wantContent(t, filepath.Join(r.host, "f2.d", "file.txt"), "text")
}
