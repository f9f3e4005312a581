package fuse

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"docportal/internal/testdisk"
	"docportal/internal/testsession"
)

// gated are documents on which every question hangs while the gate is shut.
type gated struct {
	*fakeDocuments
	shut    atomic.Bool
	waiting atomic.Int32 // who asks
	mu      sync.Mutex
	open    chan struct{}
}

func (g *gated) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = make(chan struct{})
	g.shut.Store(true)
}

func (g *gated) release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut.Swap(false) {
		close(g.open)
	}
}

// Generation changes with each question, so that all of them are asked.
func (g *gated) Generation() uint64 { return g.gen.Add(1) }

func (g *gated) Document(app, id string) (*Document, Access, bool) {
	if g.shut.Load() {
		g.mu.Lock()
		open := g.open
		g.mu.Unlock()
		g.waiting.Add(1)
		defer g.waiting.Add(-1)
		<-open
	}
	return g.fakeDocuments.Document(app, id)
}

// newHangingRig is a view of a document "hung" that stands on a file system
// that answers or not, and of a document "well" that does not.
func newHangingRig(t *testing.T) (*rig, *gated) {
	t.Helper()
	below := newRig(t)
	must(t, below.view.Unmount())
	g := &gated{fakeDocuments: below.docs}
	v, err := Mount(below.mnt, g, below.opts)
	must(t, err)
	t.Cleanup(func() {
		g.release()
		v.Unmount()
		select {
		case <-v.served:
		case <-time.After(5 * time.Second):
			t.Error("something still uses the mount below")
		}
	})
	tree := below.dirDoc("disk")
	must(t, os.WriteFile(tree+"/file.txt", make([]byte, 20<<20), 0o600))
	r := newRig(t)
	r.docs.add(t, "hung", below.in("", "disk", "tree", "file.txt"))
	r.docs.grant(testApp, "hung", Access{Read: true, Write: true})
	r.fileDoc("well", "well")
	t.Cleanup(g.release)
	return r, g
}

// readCrowd reads the file at many places at once, when it is told to.
func readCrowd(path string) int {
	many := 2000
	if long() {
		many = 5000
	}
	f, err := os.Open(path)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("open")
	bufio.NewReader(os.Stdin).ReadString('\n')
	var wg sync.WaitGroup
	var failed atomic.Int64
	for i := range many {
		wg.Go(func() {
			if _, err := f.ReadAt(make([]byte, 1), int64(i)*4096); err != nil {
				failed.Add(1)
			}
		})
	}
	go func() {
		for failed.Load() < int64(many-1000) {
			time.Sleep(time.Millisecond)
		}
		fmt.Println("failed")
	}()
	wg.Wait()
	return 0
}

func TestAHungDocumentHindersNoOther(t *testing.T) {
	r, g := newHangingRig(t)
	crowd := exec.Command("/proc/self/exe")
	crowd.Env = append(os.Environ(), "DOCPORTAL_TEST_READS="+r.in(testApp, "hung", "file.txt"))
	in, err := crowd.StdinPipe()
	must(t, err)
	out, err := crowd.StdoutPipe()
	must(t, err)
	must(t, crowd.Start())
	t.Cleanup(func() { crowd.Process.Kill(); crowd.Wait() })
	lines := bufio.NewScanner(out)
	if lines.Scan(); lines.Text() != "open" {
		t.Fatalf("%q", lines.Text())
	}
	// The first use of a working document is not what this is about.
	wantContent(t, r.in(testApp, "well", "file.txt"), "well")
	g.close()
	io.WriteString(in, "go\n")
	failed := make(chan bool)
	go func() { failed <- lines.Scan() && lines.Text() == "failed" }()
	var took []time.Duration
	for done := false; !done || len(took) < 20; {
		select {
		case ok := <-failed:
			failed = nil // it comes once
			if !ok {
				t.Errorf("the crowd says %q", lines.Text())
			}
			done = true
		default:
			start := time.Now()
			wantContent(t, r.in(testApp, "well", "file.txt"), "well")
			took = append(took, time.Since(start))
		}
	}
	slices.Sort(took)
	median := took[len(took)/2]
	t.Log("others took", median, "and at most", took[len(took)-1])
	if median > testsession.Limit(50*time.Millisecond) {
		t.Errorf("others wait %v", median)
	}
	if n := threads(t); n > 200 {
		t.Errorf("%d threads", n)
	}
	// What is stuck is known by now: no more waiting.
	start := time.Now()
	_, err = os.ReadFile(r.in(testApp, "hung", "file.txt"))
	wantErr(t, "one more", err, syscall.EIO)
	if took := time.Since(start); took > testsession.Limit(500*time.Millisecond) {
		t.Errorf("one more took %v", took)
	}
	// An interrupt is answered although the call is not back.
	start = time.Now()
	crowd.Process.Kill()
	crowd.Wait()
	if took := time.Since(start); took > testsession.Limit(2*time.Second) {
		t.Errorf("the crowd took %v to die", took)
	}
	start = time.Now()
	must(t, r.view.Unmount())
	if took := time.Since(start); took > testsession.Limit(2*time.Second) {
		t.Errorf("unmounting took %v", took)
	}
	g.release()
	eventually(t, "no call is left", func() bool {
		c := &r.view.fs.calls
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.docs) == 0 && len(c.devs) == 0
	})
}

func TestAFileSystemThatIsNotLocalWorks(t *testing.T) {
	r, _ := newHangingRig(t)
	p := r.in(testApp, "hung", "file.txt")
	must(t, os.WriteFile(p, []byte("through two"), 0o600))
	wantContent(t, p, "through two")
	must(t, os.WriteFile(p+".tmp", []byte("temp"), 0o600))
	must(t, os.Rename(p+".tmp", p))
	wantContent(t, p, "temp")
	if got := names(t, r.in(testApp, "hung")); len(got) != 1 {
		t.Errorf("lists %q", got)
	}
	a, b := newServant(t), newServant(t)
	a.want(granted, p, "posix", "w", 0, 0)
	b.want(refused, p, "posix", "w", 0, 0)
}

// TestADeviceNumberIsAnotherDisksLater, of one that is not local.
func TestADeviceNumberIsAnotherDisksLater(t *testing.T) {
	if !testdisk.MayMount(t) {
		return
	}
	r := newRig(t)
	disk, other := r.dir("disk"), r.dir("other")
	use := func(id, dir string) (dev uint64) {
		t.Helper()
		var st unix.Stat_t
		must(t, unix.Stat(dir, &st))
		must(t, os.Mkdir(dir+"/tree", 0o700))
		r.docs.add(t, id, dir+"/tree")
		r.docs.grant(testApp, id, Access{Read: true, Write: true})
		_, err := os.ReadDir(r.in(testApp, id, "tree"))
		must(t, err)
		return st.Dev
	}
	must(t, unix.Mount("tmpfs", disk, "tmpfs", 0, "mode=0700"))
	was := use("d1", disk)
	if !r.view.fs.calls.isLocal(was) {
		t.Fatal("a tmpfs does not count as local")
	}
	eventually(t, "the disk can be taken away", func() bool { return unix.Unmount(disk, 0) == nil })
	testdisk.Mount(t, other, filepath.Join(r.host, "below"))
	now := use("d2", other)
	if r.view.fs.calls.isLocal(now) {
		t.Errorf("a FUSE file system counts as local; its number is %#x, a tmpfs had %#x", now, was)
	}
	// Whatever number the kernel has given.
	fd, st := referTo(t, other)
	r.view.fs.calls.local.Store(now, locality{local: true, mount: st.Mnt_id + 1})
	r.view.fs.calls.learn(fd, st)
	if r.view.fs.calls.isLocal(now) {
		t.Error("a FUSE file system counts as local if the one before it did")
	}
	must(t, r.view.Unmount())
}
