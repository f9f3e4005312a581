package fuse

import (
	"os"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// there is how many bytes at the beginning of b have pages.
func there(t *testing.T, b []byte) int {
	t.Helper()
	page := unix.Getpagesize()
	// It need not begin with a page; the rest of that page is its own as well.
	before := int(uintptr(unsafe.Pointer(&b[0])) % uintptr(page))
	whole := unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(&b[0]), -before)), before+len(b))
	pages := make([]byte, (len(whole)+page-1)/page)
	must(t, mincore(whole, pages))
	for n, p := range pages {
		if p&1 == 0 {
			return n*page - before
		}
	}
	return len(b)
}

// unused makes b as if it had not been used: without pages.
func unused(t *testing.T, b []byte) {
	t.Helper()
	page := unix.Getpagesize()
	from := page - int(uintptr(unsafe.Pointer(&b[0]))%uintptr(page))
	must(t, unix.Madvise(b[from:from+(len(b)-from)/page*page], unix.MADV_DONTNEED))
}

// all are the buffers in use.
func (r *receiving) all() (all [][]byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for n := range r.made {
		if p := r.made[n].Value(); p != nil {
			all = append(all, unsafe.Slice(p, r.size))
		}
	}
	return all
}

// TestRequestsArriveInMemoryThatIsThere: what the server reads to has pages for
// what may come, before it comes.
func TestRequestsArriveInMemoryThatIsThere(t *testing.T) {
	r := newRig(t)
	r.fileDoc("f1", "text")
	path := r.in(testApp, "f1", "file.txt")
	wantContent(t, path, "text")
	for _, b := range r.view.fs.receiving.all() {
		if got := there(t, b); got < valueSize {
			t.Errorf("nobody writes: %d bytes of %d", got, len(b))
		}
		unused(t, b) // nobody asks for anything now
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(t, err)
	defer f.Close()
	used := r.view.fs.receiving.all()
	for _, b := range used {
		if got := there(t, b); got < len(b) {
			t.Errorf("somebody may write: %d bytes of %d", got, len(b))
		}
	}
	if len(used) == 0 {
		t.Error("the server receives in other memory")
	}
}

// TestACrowdOfRequestsTakesLittleMemory: those that are more than usual.
func TestACrowdOfRequestsTakesLittleMemory(t *testing.T) {
	r := receiving{fresh: func() any {
		b := make([]byte, maxWrite+8<<10)
		unused(t, b)
		return b
	}}
	var kept [][]byte
	wantFrom := func(from, to, least, most int) {
		t.Helper()
		for n, b := range kept[from:to] {
			if got := there(t, b); got < least || got > most {
				t.Errorf("buffer %d: %d bytes, not %d to %d", from+n, got, least, most)
			}
		}
	}
	const size, rounded = maxWrite + 8<<10, 8 << 10
	for range maxReceiving / 2 {
		kept = append(kept, r.make().([]byte))
	}
	wantFrom(0, maxReceiving/2, valueSize, valueSize+rounded)
	r.expectData()
	for range maxReceiving {
		kept = append(kept, r.make().([]byte))
	}
	wantFrom(0, maxReceiving, size, size)
	wantFrom(maxReceiving, len(kept), nameSize, nameSize+rounded)
	// Who has gone makes room.
	kept = nil
	runtime.GC()
	kept = append(kept, r.make().([]byte))
	wantFrom(0, 1, size, size)
}
