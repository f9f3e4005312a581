package identity

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// oddRoot is a FUSE root that answers a look-up as it likes.
type oddRoot struct {
	fs.Inode
	lookup func() syscall.Errno
}

func (r *oddRoot) Lookup(context.Context, string, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, r.lookup()
}

// fuseProc is a process of another user namespace whose root is FUSE.
func fuseProc(t *testing.T, r *Resolver, pid int, lookup func() syscall.Errno) {
	t.Helper()
	mount := t.TempDir()
	server, err := fs.Mount(mount, &oddRoot{lookup: lookup}, &fs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Unmount(); err != nil {
			t.Error(err)
		}
	})
	fakeProc(t, r, pid, "0::/\n")
	dir := filepath.Join(r.proc, "7")
	for name, target := range map[string]string{"root": mount, "ns/user": os.DevNull} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAFuseRootThatHidesIsNoKindOfItsOwn(t *testing.T) {
	for _, trust := range []bool{false, true} {
		r := NewResolver(busOf(7, false), Options{TrustUserns: trust})
		fuseProc(t, r, 7, func() syscall.Errno { return syscall.EACCES })
		c, err := r.Resolve(context.Background(), ":1.5")
		if !trust && err == nil || trust && (err != nil || !c.IsHost()) {
			t.Errorf("trusting user namespaces %v: %+v, %v", trust, c, err)
		}
	}
	// Any other failure is a refusal, FUSE or not.
	r := NewResolver(busOf(7, false), Options{TrustUserns: true})
	fuseProc(t, r, 7, func() syscall.Errno { return syscall.EIO })
	if c, err := r.Resolve(context.Background(), ":1.5"); err == nil {
		t.Errorf("a root that fails: taken for %+v", c)
	}
}

func TestARootThatNeverAnswersHoldsNobodyUp(t *testing.T) {
	let, entered := make(chan struct{}), make(chan struct{}, 10)
	r := NewResolver(busOf(7, false), Options{TrustUserns: true})
	r.wait = 50 * time.Millisecond
	r.slots = make(chan struct{}, 2)
	fuseProc(t, r, 7, func() syscall.Errno {
		entered <- struct{}{}
		<-let
		return syscall.ENOENT
	})
	for n, want := range []string{"does not answer", "does not answer", "too many"} {
		c, err := r.Resolve(context.Background(), ":1.5")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("caller %d: %+v, %v, want a refusal: %s", n, c, err, want)
		}
	}
	<-entered
	// The host is served meanwhile.
	pid, _ := run(t, program[0], program[1:]...)
	host := NewResolver(busOf(pid, true), Options{})
	host.slots = r.slots
	if c, err := host.Resolve(context.Background(), ":1.6"); err != nil || !c.IsHost() {
		t.Errorf("the host: %+v, %v", c, err)
	}
	// When the root answers, its place is free again.
	close(let)
	r.wait = readTimeout
	if c, err := r.Resolve(context.Background(), ":1.5"); err != nil || !c.IsHost() {
		t.Errorf("afterwards: %+v, %v", c, err)
	}
}
