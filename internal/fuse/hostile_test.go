package fuse

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"docportal/internal/testsession"
)

// outside runs a program in a process of its own, as clients of the view are,
// which is ended after five seconds with all that it has started.
func outside(t *testing.T, name string, args ...string) (out string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = time.Second // for what cannot be killed and has its output open
	b, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		t.Fatalf("%s %q hangs", name, args)
	}
	return string(b), err
}

// TestADocumentThatLeadsIntoTheView puts links into the view where documents
// were: whoever follows them here waits for himself.
func TestADocumentThatLeadsIntoTheView(t *testing.T) {
	r := newRig(t)
	tree := r.dirDoc("d1")
	deep := r.dir("x/y/z")
	r.docs.add(t, "d2", deep)
	host := r.fileDoc("f1", "text")
	r.fileDoc("well", "well")
	for _, id := range []string{"d2", "well"} {
		r.docs.grant(testApp, id, Access{Read: true, Write: true})
	}
	loop := filepath.Join(r.host, "loop")
	must(t, os.Symlink(loop, loop))
	for what, plant := range map[string]func(to string){
		"the directory itself": func(to string) { must(t, os.RemoveAll(tree)); must(t, os.Symlink(to, tree)) },
		"one above it": func(to string) {
			must(t, os.RemoveAll(r.host+"/x/y"))
			must(t, os.Symlink(to, r.host+"/x/y"))
		},
		"a file's": func(to string) {
			must(t, os.RemoveAll(filepath.Dir(host)))
			must(t, os.Symlink(to, filepath.Dir(host)))
		},
	} {
		for _, to := range []string{
			r.mnt, r.in("", "d1", "tree"), r.in(testApp, "d1"), r.in(testApp, "d2", "z"), r.in(testApp, "f1"),
			strings.Repeat("../", 20) + r.mnt + "/d1/tree", loop, "/proc/self/cwd", "/proc/self/root" + r.mnt,
		} {
			plant(to)
			for _, p := range []string{r.in(testApp, "d1", "tree"), r.in(testApp, "d2", "z"), r.in(testApp, "f1", "file.txt")} {
				out, err := outside(t, "/bin/sh", "-c", `ls -R "$0" "$0/.." ; echo x >"$0/new"; echo x >"$0"; mkdir "$0/d"; mv "$0" "$0.2"; df "$0"`, p)
				if strings.Contains(out, "by-app\n") {
					t.Errorf("%s to %s, %s: %s %v", what, to, p, out, err)
				}
			}
		}
	}
	if out, err := outside(t, "cat", r.in(testApp, "well", "file.txt")); out != "well" {
		t.Errorf("%s %v", out, err)
	}
}

// TestLinksOnTheWayToADocumentAreFollowed: they may have been put there by who
// moved his files to another disk.
func TestLinksOnTheWayToADocumentAreFollowed(t *testing.T) {
	r := newRig(t)
	deep := r.dir("a/b/c/tree")
	r.docs.add(t, "d1", deep)
	must(t, os.WriteFile(filepath.Join(deep, "f"), []byte("text"), 0o600))
	a, b := filepath.Join(r.host, "a"), filepath.Join(r.host, "a/b")
	must(t, os.Rename(b, a+"/moved"))
	must(t, os.Symlink("./../a//moved/", b))
	must(t, os.Rename(a, a+"2"))
	must(t, os.Symlink(a+"2", a+"3"))
	must(t, os.Symlink("a3", a))
	wantContent(t, r.in("", "d1", "tree", "f"), "text")
	many := r.host + "/many"
	must(t, os.Symlink(deep, many+"0"))
	for i := range 50 {
		must(t, os.Symlink(fmt.Sprint("many", i), fmt.Sprint(many, i+1)))
	}
	for i, want := range map[int]syscall.Errno{30: 0, 45: syscall.ELOOP} {
		fd, errno := testOpener().openDirectory(fmt.Sprint(many, i))
		if errno != want {
			t.Errorf("%d links: %v, want %v", i, errno, want)
		} else if errno == 0 {
			unix.Close(fd)
		}
	}
	before := openBelow(t, r.host)
	for _, p := range []string{"/many45", "/many0/f", "/many0/f/x", "/many0/none", "/a/b/c/tree/f/x"} {
		if fd, errno := testOpener().openDirectory(r.host + p); errno == 0 {
			t.Errorf("%s is a directory", p)
			unix.Close(fd)
		}
	}
	if after := openBelow(t, r.host); after > before { // others may be closed meanwhile
		t.Errorf("%d descriptors, there were %d", after, before)
	}
}

// TestALeaseHoldsUpNobodyElse has a program that will not give up its lease on
// the file of a document, and others that open it.
func TestALeaseHoldsUpNobodyElse(t *testing.T) {
	r := newRig(t)
	host := r.fileDoc("f1", "text")
	tree := r.dirDoc("d1")
	leased := r.file("d1.d/tree/leased", "text")
	must(t, os.WriteFile(filepath.Join(tree, "other"), []byte("other"), 0o600))
	var fds []int
	for _, p := range []string{host, leased} {
		fd, err := unix.Open(p, unix.O_RDWR|unix.O_CLOEXEC, 0)
		must(t, err)
		defer unix.Close(fd)
		_, err = unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_WRLCK)
		must(t, err)
		fds = append(fds, fd)
	}
	f, d := r.in(testApp, "f1", "file.txt"), r.in(testApp, "d1", "tree", "leased")
	const many = 40
	script := fmt.Sprintf(`i=0; while [ $i -lt %d ]; do cat "$0" & cat "$1" & echo x >>"$1" & truncate -s 3 "$0" & i=$((i+1)); done; wait`, many)
	crowd := exec.Command("/bin/sh", "-c", script, f, d)
	crowd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	must(t, crowd.Start())
	defer func() { unix.Kill(-crowd.Process.Pid, unix.SIGKILL); crowd.Wait() }()
	waiting := func() int {
		r.view.fs.locks.mu.Lock()
		defer r.view.fs.locks.mu.Unlock()
		return r.view.fs.locks.waiting[testApp]
	}
	eventually(t, "all wait", func() bool { return waiting() == 4*many })
	if n := threads(t); n > 100 {
		t.Errorf("%d threads", n)
	}
	start := time.Now()
	if out, err := outside(t, "cat", r.in(testApp, "d1", "tree", "other")); out != "other" {
		t.Errorf("%q %v", out, err)
	}
	if took := time.Since(start); took > testsession.Limit(time.Second) {
		t.Errorf("the file beside it took %v", took)
	}
	// Interrupted, it ends.
	start = time.Now()
	unix.Kill(-crowd.Process.Pid, unix.SIGKILL)
	crowd.Wait()
	eventually(t, "nobody waits", func() bool { return waiting() == 0 })
	if took := time.Since(start); took > testsession.Limit(2*time.Second) {
		t.Errorf("they took %v to die", took)
	}
	// And given up, it lets them go on.
	go func() {
		for waiting() == 0 {
			time.Sleep(time.Millisecond)
		}
		unix.FcntlInt(uintptr(fds[0]), unix.F_SETLEASE, unix.F_UNLCK)
	}()
	if out, err := outside(t, "cat", f); out != "text" {
		t.Errorf("%q %v", out, err)
	}
}
