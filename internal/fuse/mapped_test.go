package fuse

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMappedPagesAreNotAppended has a file open both for appending and mapped.
// The kernel sends mapped pages by any of a file's open descriptors.
func TestMappedPagesAreNotAppended(t *testing.T) {
	r := newRig(t)
	host := r.fileDoc("f1", strings.Repeat("x", 5000))
	p := r.in(testApp, "f1", "file.txt")
	f, err := os.OpenFile(p, os.O_RDWR|os.O_APPEND, 0)
	must(t, err)
	defer f.Close()
	// This process is the server: it must not wait for itself in a page fault,
	// which the Go runtime does not know of, but may in a system call.
	m, err := unix.Mmap(int(f.Fd()), 0, 5000, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	must(t, err)
	defer unix.Munmap(m)
	m[10] = 'y'
	must(t, unix.Msync(m, unix.MS_SYNC))
	want := strings.Repeat("x", 10) + "y" + strings.Repeat("x", 4989)
	wantContent(t, host, want)

	// What the host has appended meanwhile stays.
	h, err := os.OpenFile(host, os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	defer h.Close()
	for _, s := range []string{"host", "app", "host", "app"} {
		w := h
		if s == "app" {
			w = f
		}
		_, err := w.WriteString(s)
		must(t, err)
		want += s
		wantContent(t, host, want)
		wantContent(t, p, want)
	}
	// F_SETFL turns appending on and off.
	_, err = unix.FcntlInt(f.Fd(), unix.F_SETFL, 0)
	must(t, err)
	_, err = unix.Pwrite(int(f.Fd()), []byte("z"), 0)
	must(t, err)
	wantContent(t, host, "z"+want[1:])
}
