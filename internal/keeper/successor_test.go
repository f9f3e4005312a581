package keeper

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestAwait: what is handed over is had when nothing of the old server is left,
// and not before.
func TestAwait(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	pair := func() (*Predecessor, *os.File) {
		t.Helper()
		p, remote, err := NewPredecessor()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.Close(); remote.Close() })
		for _, name := range []string{"a", "b", "a"} { // what comes later counts
			if err := send(int(remote.Fd()), wordKept+" "+name+" a note", []int{int(f.Fd())}); err != nil {
				t.Fatal(err)
			}
		}
		return p, remote
	}
	held := func() (n int) {
		all, _ := filepath.Glob("/proc/self/fd/*")
		for _, fd := range all {
			if to, err := os.Readlink(fd); err == nil && to == f.Name() {
				n++
			}
		}
		return n
	}

	p, _ := pair()
	if got, err := p.Await(50 * time.Millisecond); err == nil {
		t.Errorf("had %v while the old server lives", got)
	}
	if n := held(); n != 1 {
		t.Errorf("%d descriptors are left", n-1)
	}

	p, remote := pair()
	first := make(chan error, 1)
	go func() {
		got, err := p.Await(time.Minute)
		if err == nil && (len(got) != 2 || got["a"] == nil || len(got["a"].Files) != 1 || got["a"].Note != "a note") {
			err = errors.New("something else")
		}
		for _, k := range got {
			k.Close()
		}
		first <- err
	}()
	remote.Close()
	if err := <-first; err != nil {
		t.Error(err)
	}
	if n := held(); n != 1 {
		t.Errorf("%d descriptors are left", n-1)
	}

	// Whoever takes nothing does not hold the old server up.
	_, remote = pair()
	if err := unix.SetNonblock(int(remote.Fd()), true); err != nil {
		t.Fatal(err)
	}
	for err = nil; err == nil; {
		err = send(int(remote.Fd()), wordKept+" c", nil)
	}
	if !errors.Is(err, unix.EAGAIN) {
		t.Error(err)
	}
}
