package fuse

import (
	"bytes"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"docportal/internal/testsession"
)

// streamed opens p and reads from it until it has a lease.
func (r *rig) streamed(p string) *os.File {
	r.Helper()
	f, err := os.Open(p)
	must(r, err)
	r.Cleanup(func() { f.Close() })
	r.stream(f)
	return f
}

// stream reads from f until it has a lease.
func (r *rig) stream(f *os.File) {
	r.Helper()
	b := make([]byte, 4096)
	eventually(r, "a file that is read as a stream gets a lease", func() bool {
		for range 2 * readingAsks {
			_, err := f.ReadAt(b, 0)
			must(r, err)
		}
		return r.leases() > 0
	})
}

// leases is how many leases there are that can be used.
func (r *rig) leases() (n int) {
	l := &r.view.fs.readings
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, l := range l.leases {
		if !l.ended {
			n++
		}
	}
	return n
}

// TestAStreamIsReadWithFewQuestions is what leases are for.
func TestAStreamIsReadWithFewQuestions(t *testing.T) {
	r := newRig(t)
	const size = 4 << 20
	r.fileDoc("f1", string(make([]byte, size)))
	f := r.streamed(r.in(testApp, "f1", "file.txt"))
	l := &r.view.fs.readings
	asked := 0
	b := make([]byte, 4096)
	var last time.Time
	for off := int64(0); off < size; off += int64(len(b)) {
		_, err := f.ReadAt(b, off)
		must(t, err)
		l.mu.Lock()
		for _, l := range l.leases {
			if l.last != last {
				asked, last = asked+1, l.last
			}
		}
		l.mu.Unlock()
	}
	if asked > size/len(b)/4 {
		t.Errorf("the kernel asked %d times in %d reads", asked, size/len(b))
	}
}

// TestWhatTheHostWritesEndsALease: the host writes, and then the app reads
// from the file that it has open, and asks for its size.
func TestWhatTheHostWritesEndsALease(t *testing.T) {
	r := newRig(t)
	host := r.fileDoc("f1", string(make([]byte, 64<<10)))
	r.docs.grant(otherApp, "f1", Access{Read: true, Write: true})
	size := int64(64 << 10)
	f := r.streamed(r.in(testApp, "f1", "file.txt"))
	rounds := 300
	if testing.Short() {
		rounds = 50
	}
	for i := range rounds {
		// A lease is not taken again soon after it was given back.
		r.view.fs.handles.mu.Lock()
		for _, h := range r.view.fs.handles.byID {
			r.view.fs.readings.mu.Lock()
			h.asks.never = time.Time{}
			r.view.fs.readings.mu.Unlock()
		}
		r.view.fs.handles.mu.Unlock()
		r.stream(f)

		to := host
		if i%5 == 4 {
			to = r.in(otherApp, "f1", "file.txt")
		}
		text := bytes.Repeat([]byte{byte(i + 1)}, 16)
		start := time.Now()
		if i%3 == 2 {
			size += int64(i)
			must(t, os.Truncate(to, size))
		}
		w, err := os.OpenFile(to, os.O_WRONLY, 0)
		must(t, err)
		_, err = w.Write(text)
		must(t, err)
		if took := time.Since(start); took > testsession.Limit(time.Second) {
			t.Fatalf("round %d: the writer waited %v", i, took)
		}

		got := make([]byte, len(text))
		_, err = f.ReadAt(got, 0)
		must(t, err)
		if !bytes.Equal(got, text) {
			t.Fatalf("round %d: the app reads % x, the host wrote % x", i, got, text)
		}
		info, err := f.Stat()
		must(t, err)
		if info.Size() != size {
			t.Fatalf("round %d: the app sees a size of %d, the host made it %d", i, info.Size(), size)
		}
		must(t, w.Close())
	}
}

// TestRevocationEndsALease: the first read after the change is refused.
func TestRevocationEndsALease(t *testing.T) {
	r := newRig(t)
	r.fileDoc("f1", string(make([]byte, 1<<20)))
	f := r.streamed(r.in(testApp, "f1", "file.txt"))
	b := make([]byte, 4096)
	for i := range 100 {
		r.stream(f)
		r.docs.grant(testApp, "f1", Access{})
		r.view.Invalidate("f1")
		_, err := f.ReadAt(b, 0)
		wantErr(t, "the first read after it was revoked", err, syscall.EACCES)
		if t.Failed() {
			t.Fatal("round", i)
		}
		r.docs.grant(testApp, "f1", Access{Read: true})
		r.view.Invalidate("f1")
	}
}

// TestWhatIsNotDataIsSeenDuringALease: an open file's mode and links are no
// older than two ticks of the kernel's clock, and its names are never old.
func TestWhatIsNotDataIsSeenDuringALease(t *testing.T) {
	r := newRig(t)
	tree := r.dirDoc("d1")
	host, p := filepath.Join(tree, "f"), r.in(testApp, "d1", "tree", "f")
	must(t, os.WriteFile(host, make([]byte, 4096), 0o644))
	f := r.streamed(p)
	for i := range 100 {
		r.stream(f)
		mode := os.FileMode(0o600 + i%2*0o44)
		must(t, os.Chmod(host, mode))
		if info, err := os.Stat(p); err != nil || info.Mode() != mode {
			t.Fatalf("round %d: stat: %v %v", i, info, err)
		}
		r.stream(f)
		must(t, os.Chmod(host, 0o666))
		start := time.Now()
		eventually(t, "fstat sees the mode", func() bool {
			info, err := f.Stat()
			must(t, err)
			return info.Mode() == 0o666
		})
		if took := time.Since(start); took > testsession.Limit(2*time.Second) {
			t.Errorf("round %d: after %v", i, took)
		}
	}
	r.stream(f)
	must(t, os.Remove(host))
	_, err := os.Stat(p)
	wantErr(t, "stat of what was removed", err, syscall.ENOENT)
	eventually(t, "fstat sees that there is no link", func() bool {
		var st unix.Stat_t
		must(t, unix.Fstat(int(f.Fd()), &st))
		return st.Nlink == 0
	})
}

// TestLeasesEnd: with the reading, and with the file.
func TestLeasesEnd(t *testing.T) {
	r := newRig(t)
	host := r.fileDoc("f1", string(make([]byte, 1<<20)))
	leased := func() bool {
		l := &r.view.fs.readings
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.leases) > 0
	}
	f := r.streamed(r.in(testApp, "f1", "file.txt"))
	eventually(t, "it ends with the reading", func() bool { return !leased() })
	r.stream(f)
	f.Close()
	eventually(t, "it ends with the file", func() bool { return !leased() })
	r.streamed(r.in(testApp, "f1", "file.txt"))
	eventually(t, "one who does not wait can write soon", func() bool {
		fd, err := unix.Open(host, unix.O_WRONLY|unix.O_NONBLOCK, 0)
		if err == nil {
			unix.Close(fd)
		}
		return err == nil
	})
	// Whoever has a file open for writing keeps leases away.
	w, err := os.OpenFile(host, os.O_WRONLY, 0)
	must(t, err)
	defer w.Close()
	f, err = os.Open(r.in(testApp, "f1", "file.txt"))
	must(t, err)
	defer f.Close()
	for range 10 * readingAsks {
		_, err := f.ReadAt(make([]byte, 4096), 0)
		must(t, err)
	}
	if leased() {
		t.Error("there is a lease on a file that is open for writing")
	}
}
