package sandbox

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// The architectures that filters are made for.
var goarchs = []string{"amd64", "arm64", "arm", "riscv64"}

func errno(e unix.Errno) uint32 { return retErrno | uint32(e) }

// call runs a filter on one system call. bpf.VM loads big-endian words where
// the kernel loads native ones, so each word is written big-endian, the low
// half of an argument first as on little-endian machines.
func call(t *testing.T, vm *bpf.VM, audit, nr uint32, args ...uint64) uint32 {
	t.Helper()
	data := make([]byte, 64)
	binary.BigEndian.PutUint32(data[0:], nr)
	binary.BigEndian.PutUint32(data[4:], audit)
	for i, a := range args {
		binary.BigEndian.PutUint32(data[16+8*i:], uint32(a))
		binary.BigEndian.PutUint32(data[20+8*i:], uint32(a>>32))
	}
	got, err := vm.Run(data)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(got)
}

func machine(t *testing.T, f Filter, goarch string) *bpf.VM {
	t.Helper()
	program, err := f.Program(goarch)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bpf.Assemble(program); err != nil { // jumps fit the kernel's form
		t.Fatal(err)
	}
	vm, err := bpf.NewVM(program)
	if err != nil {
		t.Fatal(err)
	}
	return vm
}

// oldCalls are those that newer architectures lack.
var oldCalls = []string{"umount", "uselib", "fcntl64"}

func number(t *testing.T, goarch, name string) uint32 {
	t.Helper()
	for _, c := range systemCalls {
		if c.name == name {
			return c.numbers[architectures[goarch].index]
		}
	}
	t.Fatalf("the filter does not know %s", name)
	return absent
}

func TestFilterOnEachArchitecture(t *testing.T) {
	const allow = uint32(retAllow)
	eperm, enosys, noFamily := errno(unix.EPERM), errno(unix.ENOSYS), errno(unix.EAFNOSUPPORT)
	high := uint64(0xdeadbeef) << 32
	for _, c := range []struct {
		name   string
		args   []uint64
		filter Filter
		want   uint32
	}{
		{"mount", nil, Filter{}, eperm},
		{"mount", nil, Filter{Userns: true, Devel: true, Multiarch: true}, eperm},
		{"umount", nil, Filter{}, eperm},
		{"umount2", nil, Filter{}, eperm},
		{"pivot_root", nil, Filter{}, eperm},
		{"setns", nil, Filter{Userns: true}, eperm},
		{"unshare", []uint64{unix.CLONE_FS}, Filter{}, eperm},
		{"unshare", []uint64{unix.CLONE_NEWUSER}, Filter{Userns: true}, allow},
		{"chroot", nil, Filter{}, eperm},
		{"chroot", nil, Filter{Userns: true}, allow},
		{"clone", []uint64{unix.CLONE_VM | unix.CLONE_THREAD}, Filter{}, allow},
		{"clone", []uint64{unix.CLONE_NEWUSER}, Filter{}, eperm},
		{"clone", []uint64{unix.CLONE_NEWUSER | unix.CLONE_NEWNET | 17}, Filter{}, eperm},
		{"clone", []uint64{unix.CLONE_NEWUSER | high}, Filter{}, eperm},
		{"clone", []uint64{unix.CLONE_NEWUSER << 32}, Filter{}, allow},
		{"clone", []uint64{unix.CLONE_NEWUSER}, Filter{Userns: true}, allow},
		{"clone3", nil, Filter{Userns: true}, enosys},
		{"add_key", nil, Filter{}, eperm},
		{"keyctl", nil, Filter{}, eperm},
		{"request_key", nil, Filter{}, eperm},
		{"quotactl", nil, Filter{}, eperm},
		{"quotactl_fd", nil, Filter{}, eperm},
		{"acct", nil, Filter{}, eperm},
		{"syslog", nil, Filter{}, eperm},
		{"uselib", nil, Filter{}, eperm},
		{"mbind", nil, Filter{}, eperm},
		{"get_mempolicy", nil, Filter{}, eperm},
		{"set_mempolicy", nil, Filter{}, eperm},
		{"set_mempolicy_home_node", nil, Filter{}, eperm},
		{"migrate_pages", nil, Filter{}, eperm},
		{"move_pages", nil, Filter{}, eperm},
		{"ptrace", nil, Filter{}, eperm},
		{"ptrace", nil, Filter{Devel: true}, allow},
		{"perf_event_open", nil, Filter{}, eperm},
		{"perf_event_open", nil, Filter{Devel: true}, allow},
		{"open_tree", nil, Filter{}, enosys},
		{"open_tree_attr", nil, Filter{}, enosys},
		{"move_mount", nil, Filter{}, enosys},
		{"fsopen", nil, Filter{}, enosys},
		{"fsconfig", nil, Filter{}, enosys},
		{"fsmount", nil, Filter{}, enosys},
		{"fspick", nil, Filter{}, enosys},
		{"mount_setattr", nil, Filter{}, enosys},
		{"io_uring_setup", nil, Filter{}, enosys},
		{"io_uring_enter", nil, Filter{}, enosys},
		{"io_uring_register", nil, Filter{}, enosys},
		{"ioctl", []uint64{0, unix.TIOCSTI}, Filter{Devel: true}, eperm},
		{"ioctl", []uint64{0, unix.TIOCSTI | high}, Filter{}, eperm},
		{"ioctl", []uint64{0, unix.TIOCLINUX}, Filter{}, eperm},
		{"ioctl", []uint64{0, unix.TIOCLINUX | high}, Filter{}, eperm},
		{"ioctl", []uint64{0, unix.TIOCGWINSZ}, Filter{}, allow},
		{"ioctl", []uint64{unix.TIOCSTI, unix.TIOCGWINSZ}, Filter{}, allow},
		{"fcntl", []uint64{0, unix.F_SETLEASE, unix.F_WRLCK}, Filter{Devel: true, Userns: true}, eperm},
		{"fcntl", []uint64{0, unix.F_SETLEASE | high}, Filter{}, eperm},
		{"fcntl", []uint64{0, setDelegation}, Filter{}, eperm},
		{"fcntl", []uint64{unix.F_SETLEASE, unix.F_SETLK}, Filter{}, allow},
		{"fcntl", []uint64{0, unix.F_GETFL, unix.F_SETLEASE}, Filter{}, allow},
		{"fcntl64", []uint64{0, unix.F_SETLEASE | high}, Filter{}, eperm},
		{"fcntl64", []uint64{0, unix.F_OFD_SETLK}, Filter{}, allow},
		{"socket", []uint64{unix.AF_UNIX}, Filter{}, allow},
		{"socket", []uint64{unix.AF_INET}, Filter{}, allow},
		{"socket", []uint64{unix.AF_INET6}, Filter{}, allow},
		{"socket", []uint64{unix.AF_NETLINK}, Filter{}, allow},
		{"socket", []uint64{unix.AF_UNIX | high}, Filter{}, allow},
		{"socket", []uint64{unix.AF_VSOCK}, Filter{}, noFamily},
		{"socket", []uint64{unix.AF_VSOCK | high}, Filter{}, noFamily},
		{"socket", []uint64{unix.AF_PACKET}, Filter{}, noFamily},
		{"socket", []uint64{0}, Filter{}, noFamily},
		{"socket", []uint64{unix.AF_BLUETOOTH}, Filter{}, noFamily},
		{"socket", []uint64{unix.AF_BLUETOOTH}, Filter{Bluetooth: true}, allow},
		{"socket", []uint64{unix.AF_CAN}, Filter{Bluetooth: true}, noFamily},
		{"socket", []uint64{unix.AF_CAN}, Filter{CAN: true}, allow},
		{"socketpair", []uint64{unix.AF_UNIX}, Filter{}, allow},
		{"socketpair", []uint64{unix.AF_TIPC}, Filter{}, noFamily},
	} {
		for _, goarch := range goarchs {
			nr := number(t, goarch, c.name)
			if nr == absent && slices.Contains(oldCalls, c.name) {
				continue
			}
			if got := call(t, machine(t, c.filter, goarch), architectures[goarch].audit, nr, c.args...); got != c.want {
				t.Errorf("%s %s%x with %+v: %#x, want %#x", goarch, c.name, c.args, c.filter, got, c.want)
			}
		}
	}
}

func TestUnknownCallsAreAllowed(t *testing.T) {
	for _, goarch := range goarchs {
		for _, nr := range []uint32{0, 1, 63, 10000} {
			if got := call(t, machine(t, Filter{}, goarch), architectures[goarch].audit, nr); got != retAllow {
				t.Errorf("%s %d: %#x", goarch, nr, got)
			}
		}
	}
}

func TestForeignArchitecturesAndABIsGetENOSYS(t *testing.T) {
	enosys := errno(unix.ENOSYS)
	for _, goarch := range goarchs {
		for _, multiarch := range []bool{false, true} {
			vm := machine(t, Filter{Multiarch: multiarch}, goarch)
			for foreign, a := range architectures {
				if foreign == goarch || multiarch && architectures[goarch].second == foreign {
					continue
				}
				for _, nr := range []uint32{0, 1, 20, 39, 4096} {
					if got := call(t, vm, a.audit, nr); got != enosys {
						t.Errorf("%s call %d under %s (multiarch %v): %#x, want ENOSYS", foreign, nr, goarch, multiarch, got)
					}
				}
			}
		}
	}
	for _, nr := range []uint32{0, 1, 39, 512, 547, 0x3fffffff} {
		if got := call(t, machine(t, Filter{Multiarch: true}, "amd64"), unix.AUDIT_ARCH_X86_64, x32Bit|nr); got != enosys {
			t.Errorf("x32 call %d: %#x, want ENOSYS", nr, got)
		}
	}
}

func TestMultiarchFiltersTheSecondArchitectureByItsOwnNumbers(t *testing.T) {
	for _, goarch := range []string{"amd64", "arm64"} {
		second := architectures[goarch].second
		vm := machine(t, Filter{Multiarch: true}, goarch)
		audit := architectures[second].audit
		for _, c := range []struct {
			name string
			args []uint64
			want uint32
		}{
			{"mount", nil, errno(unix.EPERM)},
			{"ptrace", nil, errno(unix.EPERM)},
			{"clone", []uint64{unix.CLONE_NEWUSER}, errno(unix.EPERM)},
			{"clone", []uint64{17}, retAllow},
			{"clone3", nil, errno(unix.ENOSYS)},
			{"socket", []uint64{unix.AF_VSOCK}, errno(unix.EAFNOSUPPORT)},
			{"socket", []uint64{unix.AF_INET}, retAllow},
			{"ioctl", []uint64{0, unix.TIOCSTI}, errno(unix.EPERM)},
		} {
			if got := call(t, vm, audit, number(t, second, c.name), c.args...); got != c.want {
				t.Errorf("%s under %s, %s%v: %#x, want %#x", second, goarch, c.name, c.args, got, c.want)
			}
		}
	}
}

func TestNoFilterForOtherArchitectures(t *testing.T) {
	for _, goarch := range []string{"386", "s390x", ""} {
		if _, err := (Filter{}).Program(goarch); err == nil {
			t.Errorf("%q has a filter", goarch)
		}
	}
}

// The numbers are the ones of x/sys/unix, whose files for all architectures
// are in the module cache.
func TestNumbersAreThoseOfSysUnix(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "golang.org/x/sys").Output()
	if err != nil { // the test runs where it was not built
		out = []byte(os.Getenv("GOMODCACHE"))
	}
	line := regexp.MustCompile(`(?m)^\s*SYS_(\w+)\s*=\s*(\d+)`)
	for _, goarch := range append(goarchs, "386") {
		src, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(out)), "unix", fmt.Sprintf("zsysnum_linux_%s.go", goarch)))
		if err != nil {
			src = nil
		}
		want := map[string]uint32{}
		for _, m := range line.FindAllStringSubmatch(string(src), -1) {
			n, _ := strconv.ParseUint(m[2], 10, 32)
			want[strings.ToLower(m[1])] = uint32(n)
		}
		for _, c := range systemCalls {
			nr := c.numbers[architectures[goarch].index]
			theirs, ok := want[c.name]
			switch {
			case src != nil && (ok != (nr != absent) || ok && theirs != nr):
				t.Errorf("%s %s: %d, want %d", goarch, c.name, nr, theirs)
			case nr == absent && !slices.Contains(oldCalls, c.name):
				// Without the sources at least what every architecture must have.
				t.Errorf("%s lacks %s", goarch, c.name)
			}
		}
	}
	if number(t, runtime.GOARCH, "mount") != unix.SYS_MOUNT || number(t, runtime.GOARCH, "clone3") != unix.SYS_CLONE3 {
		t.Error("the numbers of this machine are not this machine's")
	}
}
