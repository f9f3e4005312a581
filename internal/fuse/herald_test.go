package fuse

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestNoticesWhileMemoryIsCollected, without pause, and while clients read and write
// the files that the kernel is told to forget, whose pages are locked for that: each
// change of permissions is told, and nothing waits for what waits for it.
func TestNoticesWhileMemoryIsCollected(t *testing.T) {
	r := newRig(t)
	tree := r.dirDoc("d1")
	must(t, os.WriteFile(tree+"/file", make([]byte, 1<<20), 0o600))
	must(t, os.WriteFile(tree+"/stream", make([]byte, 1<<20), 0o600))
	r.fileDoc("f1", strings.Repeat("x", 1<<20))
	p := r.in(testApp, "f1", "file.txt")

	defer debug.SetGCPercent(debug.SetGCPercent(1))
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(16 << 20))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(stop)
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				runtime.GC()
			}
		}
	})
	var all []*attempt
	for _, op := range []string{"read again", "stream again", "write again", "map again"} {
		c := newAttempt(t, op, r.in(testApp, "d1", "tree"), p)
		c.begin()
		all = append(all, c)
	}
	hangs := abortHung(t, r.view.Dev())
	var longest time.Duration
	for range 40 {
		hangs.Reset(2 * patience)
		r.docs.grant(testApp, "f1", Access{Read: true})
		r.view.Invalidate("f1")
		f, err := os.Open(p)
		must(t, err)
		// It is only looked at from here: who waits for a page cannot be stopped for
		// a collection, and this is the process that brings it.
		m, err := unix.Mmap(int(f.Fd()), 0, 1<<20, unix.PROT_READ, unix.MAP_SHARED)
		must(t, err)
		var page [256]byte
		has := func() bool { return mincore(m, page[:]) == nil && page[0]&1 != 0 }
		eventually(t, "the kernel has it", func() bool {
			if out, err := exec.Command("cat", p).Output(); err != nil || len(out) != 1<<20 {
				t.Fatal(len(out), err)
			}
			return has()
		})
		r.docs.grant(testApp, "f1", Access{})
		start := time.Now()
		r.view.Invalidate("d1")
		r.view.Invalidate("f1")
		eventually(t, "it has it no more", func() bool { return !has() })
		longest = max(longest, time.Since(start))
		must(t, unix.Munmap(m))
		must(t, f.Close())
	}
	t.Log("the longest took", longest)
	for _, c := range all {
		select {
		case text := <-c.said:
			t.Error(text)
		default:
		}
	}
}

// abortHung ends a connection when the timer ends that it returns, or what waits for
// it stays as long as the machine.
func abortHung(t *testing.T, dev uint64) *time.Timer {
	hangs := time.AfterFunc(2*patience, func() {
		t.Error("something hangs")
		abort(dev)
	})
	t.Cleanup(func() { hangs.Stop() })
	return hangs
}

// TestNoticesOutliveTheServer: it is killed while the kernel is told to forget files
// that are being read, so that a notice waits for pages which the dead server was to
// bring. The next one brings them; then nothing of the dead one is left, and clients
// go on.
func TestNoticesOutliveTheServer(t *testing.T) {
	tree := filepath.Join(t.TempDir(), "tree")
	must(t, os.Mkdir(tree, 0o700))
	must(t, os.WriteFile(filepath.Join(tree, "file"), make([]byte, 1<<20), 0o600))
	must(t, os.WriteFile(filepath.Join(tree, "stream"), make([]byte, 1<<20), 0o600))
	s := newSurvivor(t, survivorSettings{Invalidate: "d1", Files: map[string]string{"d1": tree}})
	var all []*attempt
	for _, op := range []string{"read again", "stream again", "map again"} {
		c := newAttempt(t, op, s.in("d1", "tree"), "")
		c.begin()
		all = append(all, c)
	}
	dev, err := deviceAt(s.settings.Mount)
	must(t, err)
	hangs := abortHung(t, dev)
	waited := 0
	for round := range 30 {
		hangs.Reset(2 * patience)
		eventually(t, "a server", func() bool { _, err := os.ReadFile(s.in("d1", "tree", "file")); return err == nil })
		before := s.server()
		for range 20 {
			unix.Kill(before, unix.SIGUSR2)
			time.Sleep(time.Duration(round%5) * 100 * time.Microsecond) // the moment
		}
		unix.Kill(before, unix.SIGKILL)
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", before))
		for _, task := range tasks {
			if where, _ := os.ReadFile(task + "/wchan"); strings.Contains(string(where), "folio") {
				waited++
			}
		}
		start := time.Now()
		eventually(t, "another server", func() bool { pid := s.server(); return pid != 0 && pid != before })
		eventually(t, "nothing is left of the dead one", func() bool {
			tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", before))
			return len(tasks) <= 1
		})
		if took := time.Since(start); took > time.Second {
			t.Log("round", round, "took", took)
		}
	}
	t.Log(waited, "notices waited")
	for _, c := range all {
		select {
		case text := <-c.said:
			if !s.older || !strings.Contains(text, unix.ESTALE.Error()) {
				t.Error(text)
			}
		default:
		}
	}
}
