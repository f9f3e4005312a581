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

// testOpenat2 is what openat2Variable puts in the place of openat2(2), or nil.
func testOpenat2() func(int, string, *unix.OpenHow) (int, error) {
	if e, err := strconv.Atoi(os.Getenv(openat2Variable)); err == nil {
		return func(int, string, *unix.OpenHow) (int, error) { return -1, syscall.Errno(e) }
	}
	return nil
}

// testOpener is an opener without a view.
func testOpener() *opener {
	o := newOpener(nil)
	o.instead = testOpenat2()
	return o
}

// TestAttacksWithoutOpenat2 makes the attacks on the fallback that are made on
// openat2, and has the other rules that depend on it kept.
func TestAttacksWithoutOpenat2(t *testing.T) {
	tests := []string{
		"NamesThatAreNotRegularFilesAreENOENT", "Attackers", "NothingOfTheMountIsInADocument", "LinksAreTextOnly",
		"ADocumentThatLeadsIntoTheView", "LinksOnTheWayToADocumentAreFollowed", "ReplacedParentIsENOENT", "OldOpensLeadNowhereElse",
		"OnlyTheLogOfADatabaseIsBeside", "NothingAsksTheViewItself", "ViewsMountedInDocuments",
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
			"openat2": newOpener(nil).openChild,
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

// TestWalkMountsWhatMountsItself: an automount point is mounted when it is opened
// as a directory, not when it is only found (openat(2)). Mounting one needs root,
// so this is about how each step opens.
func TestWalkMountsWhatMountsItself(t *testing.T) {
	const variable = "DOCPORTAL_TEST_WALK"
	if p := os.Getenv(variable); p != "" {
		fd, errno := testOpener().walk(p)
		if errno != 0 {
			t.Fatal(errno)
		}
		unix.Close(fd)
		return
	}
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "upper", "lower"), 0o755))
	must(t, os.Symlink("upper", filepath.Join(dir, "link")))
	trace := filepath.Join(dir, "trace")
	exe, err := os.Open("/proc/self/exe") // which only its owner need reach by its path
	must(t, err)
	defer exe.Close()
	cmd := exec.Command("strace", "-f", "-qq", "-e", "trace=openat", "-o", trace, "/proc/self/fd/3", "-test.run=^"+t.Name()+"$")
	cmd.ExtraFiles = []*os.File{exe}
	cmd.Env = append(os.Environ(), variable+"="+dir+"/link/lower")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b, err := os.ReadFile(trace)
	must(t, err)
	for _, name := range []string{"upper", "lower"} {
		var how []string
		for line := range strings.Lines(string(b)) {
			if strings.Contains(line, `, "`+name+`", `) {
				how = append(how, line)
			}
		}
		if len(how) != 1 || !strings.Contains(how[0], "O_PATH") || !strings.Contains(how[0], "O_DIRECTORY") {
			t.Errorf("%s is opened by %q", name, how)
		}
	}
}

// TestWhatIsOpenedStaysBeneath makes the call that opens a name with paths that
// openChild would not take: neither check is the only one.
func TestWhatIsOpenedStaysBeneath(t *testing.T) {
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "in", "sub"), 0o755))
	for _, f := range []string{"secret", "in/file", "in/sub/file"} {
		must(t, os.WriteFile(filepath.Join(dir, f), nil, 0o644))
	}
	must(t, os.Symlink("sub", filepath.Join(dir, "in", "inner")))
	at, err := unix.Open(filepath.Join(dir, "in"), unix.O_PATH|unix.O_DIRECTORY, 0)
	must(t, err)
	defer unix.Close(at)
	var how unix.OpenHow
	o := newOpener(nil)
	o.instead = func(_ int, _ string, h *unix.OpenHow) (int, error) {
		how = *h
		return -1, unix.ENOENT
	}
	o.openChild(at, "file", unix.O_RDONLY, 0)
	for path, want := range map[string]error{
		"file": nil, "sub/file": nil, "../secret": unix.EXDEV, "..": unix.EXDEV, filepath.Join(dir, "secret"): unix.EXDEV,
		"inner": unix.ELOOP, "inner/file": unix.ELOOP,
	} {
		fd, err := unix.Openat2(at, path, &how)
		if err != want {
			t.Errorf("%q: %v, want %v", path, err, want)
		}
		if err == nil {
			unix.Close(fd)
		}
	}
}
