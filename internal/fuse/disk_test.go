package fuse

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"docportal/internal/testdisk"
)

// writes are what an app does to files, and what it needs of the disk.
func writes(dir, file string) map[string]func() error {
	open := func(path string, do func(f *os.File) error) error {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		err = do(f)
		if e := f.Close(); err == nil {
			err = e
		}
		return err
	}
	big := make([]byte, 1<<20)
	write := func(f *os.File) error { _, err := f.WriteAt(big, 4<<20); return err }
	return map[string]func() error{
		"write":              func() error { return open(dir+"/old", write) },
		"write to the file":  func() error { return open(file, write) },
		"write a new file":   func() error { return os.WriteFile(dir+"/new", big, 0o600) },
		"write a copy of it": func() error { return os.WriteFile(file+".tmp", big, 0o600) },
		"make room": func() error {
			return open(dir+"/old", func(f *os.File) error { return unix.Fallocate(int(f.Fd()), 0, 0, 8<<20) })
		},
		"copy": func() error {
			return open(dir+"/full", func(from *os.File) error {
				return open(dir+"/old", func(to *os.File) error {
					off := int64(4 << 20)
					for off < 5<<20 { // what fits is copied
						if _, err := unix.CopyFileRange(int(from.Fd()), nil, int(to.Fd()), &off, 5<<20-int(off), 0); err != nil {
							return err
						}
					}
					return nil
				})
			})
		},
	}
}

// TestAFullDiskBelowADocument: the app is told, in the disk's own words; what was
// there stays, other documents are written, and when there is room so is this.
func TestAFullDiskBelowADocument(t *testing.T) {
	if !testdisk.MayMount(t) {
		return
	}
	r := newRig(t)
	disk := r.dir("disk")
	must(t, unix.Mount("tmpfs", disk, "tmpfs", 0, "size=3m,mode=0700"))
	defer unix.Unmount(disk, unix.MNT_DETACH)
	must(t, os.Mkdir(disk+"/tree", 0o700))
	must(t, os.WriteFile(disk+"/tree/old", []byte("old"), 0o600))
	must(t, os.WriteFile(disk+"/file", []byte("file"), 0o600))
	must(t, os.WriteFile(disk+"/tree/full", make([]byte, 3<<20-3*4096), 0o600))
	r.docs.add(t, "d1", disk+"/tree")
	r.docs.add(t, "f1", disk+"/file")
	r.docs.grant(testApp, "d1", Access{Read: true, Write: true})
	r.docs.grant(testApp, "f1", Access{Read: true, Write: true})
	r.fileDoc("well", "well")
	all := writes(r.in(testApp, "d1", "tree"), r.in(testApp, "f1", "file"))
	for what, do := range all {
		wantErr(t, what, do(), syscall.ENOSPC)
		os.Remove(r.in(testApp, "d1", "tree", "new"))
		os.Remove(r.in(testApp, "f1", "file.tmp"))
		must(t, os.Truncate(disk+"/tree/old", 3)) // what of it was written
		must(t, os.Truncate(disk+"/file", 4))
		must(t, os.WriteFile(r.in(testApp, "well", "file.txt"), []byte(what), 0o600))
		wantContent(t, r.in(testApp, "well", "file.txt"), what)
		wantContent(t, r.in(testApp, "d1", "tree", "old"), "old")
		wantContent(t, r.in(testApp, "f1", "file"), "file")
	}
	must(t, unix.Mount("", disk, "", unix.MS_REMOUNT, "size=30m"))
	for what, do := range all {
		if err := do(); err != nil {
			t.Errorf("with room: %s: %v", what, err)
		}
	}
}

// TestADiskBelowADocumentFails: the app is told what the disk says, whatever
// that is, and nothing else changes.
func TestADiskBelowADocumentFails(t *testing.T) {
	r := newRig(t)
	disk := testdisk.Mount(t, r.dir("disk"), filepath.Join(r.host, "below"))
	disk.Direct.Store(true)
	at := filepath.Join(r.host, "disk")
	must(t, os.Mkdir(at+"/tree", 0o700))
	must(t, os.WriteFile(at+"/tree/old", []byte("old"), 0o600))
	must(t, os.WriteFile(at+"/file", []byte("file"), 0o600))
	r.docs.add(t, "d1", at+"/tree")
	r.docs.add(t, "f1", at+"/file")
	r.docs.grant(testApp, "d1", Access{Read: true, Write: true})
	r.docs.grant(testApp, "f1", Access{Read: true, Write: true})
	r.fileDoc("well", "well")
	tree, file := r.in(testApp, "d1", "tree"), r.in(testApp, "f1", "file")
	open := func(do func(f *os.File) error) func() error {
		return func() error {
			f, err := os.OpenFile(tree+"/old", os.O_RDWR, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			return do(f)
		}
	}
	faults := map[string]struct {
		fault *atomic.Int32
		do    func() error
	}{
		"read": {&disk.Reading, open(func(f *os.File) error {
			unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) // what the kernel has of it
			_, err := f.ReadAt(make([]byte, 3), 0)
			return err
		})},
		"write": {&disk.Writing, open(func(f *os.File) error { _, err := f.WriteAt([]byte("old"), 0); return err })},
		"fsync": {&disk.Syncing, open(func(f *os.File) error { return f.Sync() })},
		"make room": {&disk.Making, open(func(f *os.File) error {
			return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, 3)
		})},
		"make a directory":      {&disk.Making, func() error { return os.Mkdir(tree+"/dir", 0o700) }},
		"make a file":           {&disk.Making, func() error { return os.WriteFile(tree+"/new", nil, 0o600) }},
		"make a temporary file": {&disk.Making, func() error { return os.WriteFile(file+".tmp", nil, 0o600) }},
		"rename":                {&disk.Making, func() error { return os.Rename(tree+"/old", tree+"/other") }},
	}
	handles := func() int {
		r.view.fs.handles.mu.Lock()
		defer r.view.fs.handles.mu.Unlock()
		return len(r.view.fs.handles.byID)
	}
	for _, errno := range []syscall.Errno{syscall.EIO, syscall.EDQUOT, syscall.ENOSPC, syscall.EROFS, syscall.ENOMEM, syscall.EMFILE} {
		for what, it := range faults {
			it.fault.Store(int32(errno))
			wantErr(t, what, it.do(), errno)
			wantContent(t, r.in(testApp, "well", "file.txt"), "well")
			it.fault.Store(0)
			wantContent(t, tree+"/old", "old")
			wantContent(t, file, "file")
			if got := names(t, tree); len(got) != 1 {
				t.Errorf("%s: left are %q", what, got)
			}
			if got := names(t, r.in(testApp, "f1")); len(got) != 1 {
				t.Errorf("%s: left are %q", what, got)
			}
		}
	}
	eventually(t, "nothing is open", func() bool { return handles() == 0 })
	for what, it := range faults {
		if what != "rename" {
			if err := it.do(); err != nil {
				t.Errorf("mended: %s: %v", what, err)
			}
		}
	}
}

// TestNoDescriptorsAreLeft: where the process cannot open any more the app is
// told so, files that are open are read and written, and what is closed makes
// room.
func TestNoDescriptorsAreLeft(t *testing.T) {
	r := newRig(t)
	tree := r.dirDoc("d1")
	must(t, os.WriteFile(tree+"/file", []byte("text"), 0o600))
	p := r.in(testApp, "d1", "tree", "file")
	fd, err := unix.Open(p, unix.O_RDWR, 0)
	must(t, err)
	defer unix.Close(fd)
	wantContent(t, p, "text")
	other := newRig(t)
	unmount := exec.Command("sh", "-c", `read x; exec fusermount3 -u -z "$0"`, other.mnt)
	tell, err := unmount.StdinPipe()
	must(t, err)
	must(t, unmount.Start())
	var old unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &old))
	// This process is the server and the client. Whatever is closed meanwhile, no
	// number below the limit is free.
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1, Max: old.Max}))
	free := func() { unix.Setrlimit(unix.RLIMIT_NOFILE, &old) }
	defer free()
	b := make([]byte, 4)
	for n := range 20 {
		if err := unix.Mkdir(r.in(testApp, "d1", "tree", fmt.Sprint("new", n)), 0o700); err != unix.EMFILE {
			t.Errorf("what needs a descriptor: %v", err)
		}
		if n, err := unix.Pread(fd, b, 0); n != 4 || err != nil {
			t.Errorf("what is open: %d %v", n, err)
		}
		if n, err := unix.Pwrite(fd, []byte("text"), 0); n != 4 || err != nil {
			t.Errorf("what is open: %d %v", n, err)
		}
	}
	// The table of mounts changes meanwhile: the view is still there.
	tell.Write([]byte("\n"))
	must(t, unmount.Wait())
	select {
	case <-other.view.Done():
	case <-time.After(patience):
		t.Error("an unmount was not noticed")
	}
	select {
	case <-r.view.Done():
		t.Error("another's unmount was taken for one's own")
	default:
	}
	free()
	wantContent(t, p, "text")
	must(t, unix.Mkdir(r.in(testApp, "d1", "tree", "new"), 0o700))
}
