package bus

import (
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// A message whose descriptors found no room must not be given those of the
// next, which may arrive before its own end.
func TestLostDescriptorsAreNotReplacedByTheNextMessages(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	here, there := os.NewFile(uintptr(fds[0]), "here"), os.NewFile(uintptr(fds[1]), "there")
	defer here.Close()
	defer there.Close()
	in, err := here.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	out, err := there.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	s := newStream(in)
	pass := pipes(t, 8)
	defer closeAll(pass)
	before := openFiles(t)

	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	low := old
	low.Cur = uint64(slices.Max(pass) + 3)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	s.begin()
	err = send(out, outgoing{data: [][]byte{make([]byte, 20)}, files: pass})
	if err == nil {
		_, err = s.take(20)
	}
	if lerr := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); lerr != nil {
		t.Fatal(lerr)
	}
	if err != nil {
		t.Fatal(err)
	}
	// The end of the first message and all of the second come together.
	if err := send(out, outgoing{data: [][]byte{make([]byte, 30)}, files: pass[:2]}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.take(10); err != nil {
		t.Fatal(err)
	}
	if files, err := s.claim(2); err == nil {
		closeAll(files)
		t.Errorf("the first message got %v", files)
	}
	s.begin()
	if _, err := s.take(20); err != nil {
		t.Fatal(err)
	}
	files, err := s.claim(2)
	if err != nil {
		t.Errorf("the second message: %v", err)
	}
	closeAll(files)
	s.begin()
	sameFiles(t, before)
}
