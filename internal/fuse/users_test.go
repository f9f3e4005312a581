package fuse

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestTempFilesGoWithTheirLastUser(t *testing.T) {
	r := newRig(t)
	host := r.fileDoc("f1", "text")
	fs := r.view.fs
	fs.temps.mu.Lock()
	fs.temps.grace = 20 * time.Millisecond
	fs.temps.mu.Unlock()
	used, idle := r.in(testApp, "f1", "used"), r.in(testApp, "f1", "idle")
	must(t, os.WriteFile(idle, nil, 0o600))
	f, err := os.Create(used)
	must(t, err)
	defer f.Close()
	if n := len(hidden(t, filepath.Dir(host))); n != 2 {
		t.Fatalf("%d temp files", n)
	}
	// The kernel lets go of what nobody has open.
	r.view.Invalidate("f1")
	eventually(t, "the one without a user goes", func() bool { return len(hidden(t, filepath.Dir(host))) == 1 })
	_, err = os.Stat(idle)
	wantErr(t, "gone", err, syscall.ENOENT)
	_, err = f.WriteString("still here")
	must(t, err)
	wantContent(t, used, "still here")
	f.Close()
	r.view.Invalidate("f1")
	eventually(t, "the other goes too", func() bool { return hidden(t, filepath.Dir(host)) == nil })
	wantContent(t, host, "text")
}

func TestOneAppCannotUseUpTheDescriptors(t *testing.T) {
	r := newRig(t)
	r.fileDoc("f1", "text")
	tree := r.dirDoc("d1")
	must(t, os.WriteFile(filepath.Join(tree, "f"), nil, 0o600))
	h := &r.view.fs.handles
	h.mu.Lock()
	h.limit = 3
	h.mu.Unlock()
	open := func(p string) int {
		fd, err := unix.Open(p, unix.O_RDONLY, 0)
		must(t, err)
		return fd
	}
	fds := []int{open(r.in(testApp, "f1", "file.txt")), open(r.in(testApp, "d1", "tree")), open(r.in(testApp, "d1", "tree", "f"))}
	for _, p := range []string{r.in(testApp, "f1", "file.txt"), r.in(testApp, "d1", "tree"), r.in(testApp)} {
		_, err := unix.Open(p, unix.O_RDONLY, 0)
		wantErr(t, "one more", err, syscall.ENFILE)
	}
	_, err := unix.Open(r.in(testApp, "d1", "tree", "new"), unix.O_CREAT|unix.O_WRONLY, 0o600)
	wantErr(t, "one more created", err, syscall.ENFILE)
	unix.Close(open(r.in("", "f1", "file.txt")))
	for _, fd := range fds {
		unix.Close(fd)
	}
	eventually(t, "they are given back", func() bool {
		fd, err := unix.Open(r.in(testApp, "f1", "file.txt"), unix.O_RDONLY, 0)
		if err != nil {
			return false
		}
		unix.Close(fd)
		return true
	})
}
