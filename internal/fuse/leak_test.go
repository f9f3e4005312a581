package fuse

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestAFewDescriptorsAreEnough has a tree that is larger than what may be open.
func TestAFewDescriptorsAreEnough(t *testing.T) {
	var old unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &old))
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1024, Max: old.Max}))
	t.Cleanup(func() { unix.Setrlimit(unix.RLIMIT_NOFILE, &old) })
	r := newRig(t)
	tree := r.dirDoc("d1")
	files := 2500
	if long() {
		files = 50_000
	}
	for i := range files {
		d := filepath.Join(tree, fmt.Sprint("d", i%200), fmt.Sprint("e", i%7))
		if i < 1400 {
			must(t, os.MkdirAll(d, 0o755))
		}
		must(t, os.WriteFile(filepath.Join(d, fmt.Sprint("f", i)), []byte("x"), 0o600))
	}
	seen := r.in(testApp, "d1", "tree")
	for range 2 {
		out, err := exec.Command("find", seen, "-type", "f", "-size", "1c").Output()
		if n := strings.Count(string(out), "\n"); n != files || err != nil {
			t.Fatalf("%d files, want %d: %v", n, files, err)
		}
		if n := openBelow(t, r.host); n > cacheSize {
			t.Errorf("%d descriptors of what nobody has open", n)
		}
	}
	out, err := exec.Command("/bin/sh", "-c", `tar -C "$0" -cf - . | tar -tf - | wc -l`, seen).Output()
	if want := fmt.Sprintln(files + 200 + 200*7 + 1); string(out) != want || err != nil {
		t.Errorf("tar has %s, want %s: %v", out, want, err)
	}
	eventually(t, "no descriptor is kept", func() bool { return openBelow(t, r.host) == 0 })
	r.docs.remove("d1")
	r.view.Invalidate("d1")
	eventually(t, "nodes are forgotten", func() bool {
		r.view.fs.nodes.mu.Lock()
		defer r.view.fs.nodes.mu.Unlock()
		return len(r.view.fs.nodes.byKey) == 0
	})
}

// TestNothingLeaks works at random, of which the other tests of random
// operations see to that it is right, and lets the kernel forget meanwhile.
func TestNothingLeaks(t *testing.T) {
	r := newRig(t)
	r.fileDoc("f1", "text")
	tree := r.dirDoc("d1")
	for i := range 20 {
		must(t, os.WriteFile(filepath.Join(tree, fmt.Sprint(i)), []byte("x"), 0o600))
	}
	fs := r.view.fs
	counts := func() (descriptors, goroutines, nodes int) {
		runtime.GC()
		b, err := os.ReadDir("/proc/self/fd")
		must(t, err)
		fs.nodes.mu.Lock()
		defer fs.nodes.mu.Unlock()
		return len(b), runtime.NumGoroutine(), len(fs.nodes.byID)
	}
	work := func(seed uint64, operations int) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		var open []*os.File
		for i := range operations {
			dir := r.in(testApp, "d1", "tree")
			if rnd.IntN(3) == 0 {
				dir = r.in(testApp, "f1")
			}
			p, o := filepath.Join(dir, fmt.Sprint(rnd.IntN(30))), filepath.Join(dir, fmt.Sprint(rnd.IntN(30)))
			switch rnd.IntN(12) {
			case 0, 1:
				if f, err := os.OpenFile(p, os.O_CREATE|os.O_RDWR, 0o600); err == nil {
					open = append(open, f)
				}
			case 2:
				os.Remove(p)
			case 3:
				os.Rename(p, o)
			case 4:
				unix.Renameat2(unix.AT_FDCWD, p, unix.AT_FDCWD, o, unix.RENAME_EXCHANGE)
			case 5:
				os.Link(p, o)
			case 6:
				os.Symlink("x", p)
			case 7:
				os.ReadDir(dir)
			case 8:
				if fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR, 0o600); err == nil {
					unix.Close(fd)
				}
			case 9:
				os.Mkdir(p, 0o755)
			case 10:
				if len(open) > 0 {
					f := open[rnd.IntN(len(open))]
					fl := unix.Flock_t{Type: int16(rnd.IntN(3)), Start: int64(rnd.IntN(9)), Len: 3}
					unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &fl)
					unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
					f.WriteString("x")
				}
			default:
				os.Lstat(p)
			}
			if len(open) > 8 {
				open[0].Close()
				open = open[1:]
			}
			if i%1000 == 0 {
				r.view.Invalidate("d1") // the kernel forgets
				r.view.Invalidate("f1")
			}
		}
		for _, f := range open {
			f.Close()
		}
	}
	operations := 4000
	if long() {
		operations = 1_000_000
	}
	work(0, 2000) // pools fill, goroutines of the server begin
	settle := func(what string, want [3]int) (got [3]int) {
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			for _, v := range fs.nodes.withTemps() {
				v.dropAll()
			}
			r.view.Invalidate("d1")
			r.view.Invalidate("f1")
			got[0], got[1], got[2] = counts()
			if got[0] <= want[0] && got[1] <= want[1] && got[2] <= want[2] {
				return got
			}
			if time.Now().After(deadline) {
				t.Errorf("%s: descriptors, goroutines and nodes are %v, were %v", what, got, want)
				return got
			}
		}
	}
	before := settle("at first", [3]int{200, 60, 40})
	work(1, operations)
	after := settle("afterwards", [3]int{before[0] + 8, before[1] + 8, before[2] + 4})
	t.Log(before, after)
	if fs.handles.total == 0 || len(fs.handles.byID) != 0 {
		t.Errorf("%d handles", len(fs.handles.byID))
	}
}

// TestMediaCanBeTakenAway: as soon as no app has a file open on them.
func TestMediaCanBeTakenAway(t *testing.T) {
	below := newRig(t)
	tree := below.dirDoc("disk")
	must(t, os.WriteFile(filepath.Join(tree, "file.txt"), []byte("text"), 0o600))
	must(t, os.Mkdir(filepath.Join(tree, "sub"), 0o755))
	must(t, os.WriteFile(filepath.Join(tree, "sub", "deep"), []byte("deep"), 0o600))
	r := newRig(t)
	r.docs.add(t, "f1", below.in("", "disk", "tree", "file.txt"))
	r.docs.add(t, "d1", below.in("", "disk", "tree"))
	for _, id := range []string{"f1", "d1"} {
		r.docs.grant(testApp, id, Access{Read: true, Write: true})
	}
	p := r.in(testApp, "f1", "file.txt")
	f, err := os.Open(p)
	must(t, err)
	wantContent(t, r.in(testApp, "d1", "tree", "sub", "deep"), "deep")
	fd, err := unix.Open(r.in(testApp, "d1", "tree", "sub"), unix.O_PATH, 0) // sits in it, without anything open
	must(t, err)
	defer unix.Close(fd)
	unmount := func() error {
		out, err := exec.Command("fusermount3", "-u", below.mnt).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	if unmount() == nil {
		t.Fatal("it was unmounted while a file was open")
	}
	f.Close()
	var last error
	eventually(t, "it can be unmounted", func() bool { last = unmount(); return last == nil })
	_, err = os.ReadFile(p)
	wantErr(t, "what was on it", err, syscall.ENOENT)
	_, err = unix.Openat(fd, "deep", unix.O_RDONLY, 0)
	if err == nil {
		t.Error("a file on it was opened")
	}
}
