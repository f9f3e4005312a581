package fuse

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// outcomes is what each well-formed request comes to, in order.
func outcomes(k *kernel) []string {
	var all []string
	for _, r := range wellFormed() {
		out, errno := k.request(r)
		all = append(all, fmt.Sprintf("%d %d %v", r[4], len(out), errno))
	}
	return all
}

// withoutOpenat2 has the kernel answer openat2 with an error, for this process and
// for good.
func withoutOpenat2(errno syscall.Errno) error {
	program, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 0, Size: 4}, // struct seccomp_data: nr
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.SYS_OPENAT2, SkipFalse: 1},
		bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(errno)},
		bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW},
	})
	if err != nil {
		return err
	}
	filter := make([]unix.SockFilter, len(program))
	for i, p := range program {
		filter[i] = unix.SockFilter{Code: p.Op, Jt: p.Jt, Jf: p.Jf, K: p.K}
	}
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	fprog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, e := syscall.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&fprog)))
	if e != 0 {
		return e
	}
	if _, err := unix.Openat2(unix.AT_FDCWD, "/", &unix.OpenHow{}); !errors.Is(err, errno) {
		return fmt.Errorf("openat2 says %w", err)
	}
	return nil
}

// TestWithoutOpenat2: kernels before 5.6 say ENOSYS, and so do some sandboxes;
// EOPNOTSUPP is some file systems'.
func TestWithoutOpenat2(t *testing.T) {
	const variable = "DOCPORTAL_TEST_OPENAT2"
	if e, err := strconv.Atoi(os.Getenv(variable)); err == nil {
		must(t, withoutOpenat2(syscall.Errno(e)))
		k := newKernel(t)
		for _, o := range outcomes(k) {
			fmt.Println("outcome:", o)
		}
		k.end()
		return
	}
	k := newKernel(t)
	want := outcomes(k)
	k.end()
	for _, errno := range []syscall.Errno{unix.ENOSYS, unix.EOPNOTSUPP} {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestWithoutOpenat2$")
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", variable, errno))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%v: %v\n%s", errno, err, out)
		}
		var got []string
		for l := range strings.Lines(string(out)) {
			if o, ok := strings.CutPrefix(strings.TrimSuffix(l, "\n"), "outcome: "); ok {
				got = append(got, o)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%v: %q\nwant %q", errno, got, want)
		}
	}
}

// openat2Variable makes the tests run as where openat2 says this.
const openat2Variable = "DOCPORTAL_TEST_NO_OPENAT2"

// takeOpenat2 takes openat2 away if openat2Variable says so.
func takeOpenat2() {
	if e, err := strconv.Atoi(os.Getenv(openat2Variable)); err == nil {
		openat2 = func(int, string, *unix.OpenHow) (int, error) { return -1, syscall.Errno(e) }
	}
}

// TestAttacksWithoutOpenat2 makes the attacks on the fallback that are made on
// openat2, and has the other rules that depend on it kept.
func TestAttacksWithoutOpenat2(t *testing.T) {
	tests := []string{
		"NamesThatAreNotRegularFilesAreENOENT", "Attackers", "NothingOfTheMountIsInADocument", "LinksAreTextOnly",
		"ADocumentThatLeadsIntoTheView", "LinksOnTheWayToADocumentAreFollowed", "ReplacedParentIsENOENT", "OldOpensLeadNowhereElse",
		"OnlyTheLogOfADatabaseIsBeside",
	}
	for _, errno := range []syscall.Errno{unix.ENOSYS, unix.EOPNOTSUPP} {
		cmd := exec.Command("/proc/self/exe", "-test.v", "-test.run=^Test("+strings.Join(tests, "|")+")$")
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", openat2Variable, errno))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%v: %v\n%s", errno, err, out)
		}
		if passed := strings.Count(string(out), "\n--- PASS: "); passed != len(tests) {
			t.Errorf("%v: %d tests of %d\n%s", errno, passed, len(tests), out)
		}
	}
}

// TestOldOpensLeadNowhereElse asks the fallback itself.
func TestOldOpensLeadNowhereElse(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "in"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "secret"), nil, 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "in", "file"), nil, 0o644))
	for l, to := range map[string]string{"link": "../secret", "absolute": filepath.Join(dir, "secret"), "magic": "/proc/self/root", "up": ".."} {
		must(t, os.Symlink(to, filepath.Join(dir, "in", l)))
	}
	at, err := unix.Open(filepath.Join(dir, "in"), unix.O_PATH|unix.O_DIRECTORY, 0)
	must(t, err)
	defer unix.Close(at)
	for name, want := range map[string]syscall.Errno{
		"file": 0, "none": syscall.ENOENT, "link": syscall.ELOOP, "absolute": syscall.ELOOP, "magic": syscall.ELOOP, "up": syscall.ELOOP,
		"..": syscall.ENOENT, ".": syscall.ENOENT, "": syscall.ENOENT, "up/secret": syscall.ENOENT, "../secret": syscall.ENOENT,
		filepath.Join(dir, "secret"): syscall.ENOENT, "file\x00": syscall.ENOENT,
	} {
		for how, open := range map[string]func(int, string, int, uint32) (int, syscall.Errno){
			"openat2": openChild,
			"openat":  openChildOld,
		} {
			fd, errno := open(at, name, unix.O_RDONLY, 0)
			if errno != want {
				t.Errorf("%s of %q: %v, want %v", how, name, errno, want)
			}
			if errno == 0 {
				unix.Close(fd)
			}
		}
	}
}
