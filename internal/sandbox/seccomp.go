package sandbox

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Filter is what the system call filter depends on.
type Filter struct {
	Userns    bool // the app may make user namespaces, and chroot in them
	Devel     bool // the app may trace and profile its own processes
	Multiarch bool // programs of the machine's second architecture may run
	Bluetooth bool // sockets of the family BLUETOOTH
	CAN       bool // sockets of the family CAN
}

func filterOf(p *Profile) Filter {
	return Filter{
		Userns:    has(p.Features, "userns"),
		Devel:     has(p.Features, "devel"),
		Multiarch: has(p.Features, "multiarch"),
		Bluetooth: has(p.Features, "bluetooth"),
		CAN:       has(p.Features, "canbus"),
	}
}

// The layout of struct seccomp_data (linux/seccomp.h).
const (
	offsetNumber = 0
	offsetArch   = 4
	offsetArgs   = 16 // six of 8 bytes
)

// What a filter answers (linux/seccomp.h).
const (
	retAllow = 0x7fff0000
	retErrno = 0x00050000
)

// x32Bit marks the numbers of the x32 ABI, which has amd64's architecture.
const x32Bit = 0x40000000

// architecture is what the kernel calls an architecture, and the one whose
// programs its kernels run as well.
type architecture struct {
	audit  uint32
	second string
}

var architectures = map[string]architecture{
	"amd64":   {unix.AUDIT_ARCH_X86_64, "386"},
	"386":     {unix.AUDIT_ARCH_I386, ""},
	"arm64":   {unix.AUDIT_ARCH_AARCH64, "arm"},
	"arm":     {unix.AUDIT_ARCH_ARM, ""},
	"riscv64": {unix.AUDIT_ARCH_RISCV64, ""},
}

// deniedCalls fail in every sandbox. Interfaces that programs use only with
// privileges say EPERM; newer ones, for which programs have a fallback, and
// whose arguments a filter cannot see, say ENOSYS.
var deniedCalls = []struct {
	name   string
	errno  unix.Errno
	unless func(Filter) bool
}{
	{"mount", unix.EPERM, nil},
	{"umount", unix.EPERM, nil},
	{"umount2", unix.EPERM, nil},
	{"pivot_root", unix.EPERM, nil},
	{"setns", unix.EPERM, nil},
	{"unshare", unix.EPERM, func(f Filter) bool { return f.Userns }},
	{"chroot", unix.EPERM, func(f Filter) bool { return f.Userns }},
	{"add_key", unix.EPERM, nil},
	{"keyctl", unix.EPERM, nil},
	{"request_key", unix.EPERM, nil},
	{"quotactl", unix.EPERM, nil},
	{"quotactl_fd", unix.EPERM, nil},
	{"acct", unix.EPERM, nil},
	{"syslog", unix.EPERM, nil},
	{"uselib", unix.EPERM, nil},
	{"mbind", unix.EPERM, nil},
	{"get_mempolicy", unix.EPERM, nil},
	{"set_mempolicy", unix.EPERM, nil},
	{"set_mempolicy_home_node", unix.EPERM, nil},
	{"migrate_pages", unix.EPERM, nil},
	{"move_pages", unix.EPERM, nil},
	{"ptrace", unix.EPERM, func(f Filter) bool { return f.Devel }},
	{"perf_event_open", unix.EPERM, func(f Filter) bool { return f.Devel }},
	{"clone3", unix.ENOSYS, nil},
	{"open_tree", unix.ENOSYS, nil},
	{"open_tree_attr", unix.ENOSYS, nil},
	{"move_mount", unix.ENOSYS, nil},
	{"fsopen", unix.ENOSYS, nil},
	{"fsconfig", unix.ENOSYS, nil},
	{"fsmount", unix.ENOSYS, nil},
	{"fspick", unix.ENOSYS, nil},
	{"mount_setattr", unix.ENOSYS, nil},
	// An io_uring makes sockets of any family without a system call.
	{"io_uring_setup", unix.ENOSYS, nil},
	{"io_uring_enter", unix.ENOSYS, nil},
	{"io_uring_register", unix.ENOSYS, nil},
}

// families are the kinds of sockets that the app may make.
func (f Filter) families() []uint32 {
	list := []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK}
	if f.Bluetooth {
		list = append(list, unix.AF_BLUETOOTH)
	}
	if f.CAN {
		list = append(list, unix.AF_CAN)
	}
	return list
}

func errnoOf(e unix.Errno) bpf.RetConstant { return bpf.RetConstant{Val: retErrno | uint32(e)} }

// Program assembles the filter for a GOARCH. System calls of an architecture
// or ABI that it does not filter fail with ENOSYS.
func (f Filter) Program(goarch string) ([]bpf.Instruction, error) {
	arch, ok := architectures[goarch]
	if !ok || goarch == "386" {
		return nil, fmt.Errorf("no system call filter for %s", goarch)
	}
	native := f.calls(goarch)
	if goarch == "amd64" {
		native = append([]bpf.Instruction{
			bpf.JumpIf{Cond: bpf.JumpLessThan, Val: x32Bit, SkipTrue: 1},
			errnoOf(unix.ENOSYS),
		}, native...)
	}
	program := []bpf.Instruction{
		bpf.LoadAbsolute{Off: offsetArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: arch.audit, SkipTrue: 1},
		bpf.Jump{Skip: uint32(len(native) + 1)},
		bpf.LoadAbsolute{Off: offsetNumber, Size: 4},
	}
	program = append(program, native...)
	if f.Multiarch && arch.second != "" {
		second := f.calls(arch.second)
		program = append(program,
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: architectures[arch.second].audit, SkipTrue: 1},
			bpf.Jump{Skip: uint32(len(second) + 1)},
			bpf.LoadAbsolute{Off: offsetNumber, Size: 4},
		)
		program = append(program, second...)
	}
	return append(program, errnoOf(unix.ENOSYS)), nil
}

// calls is the filter for the calls of one architecture, with the number of
// the call loaded. It answers for all of them.
//
// Under 386 the call socketcall, which has its arguments in memory, can make
// sockets of any family: features=multiarch gives that away.
func (f Filter) calls(goarch string) []bpf.Instruction {
	numbers := syscallNumbers[goarch]
	var program []bpf.Instruction
	for _, d := range deniedCalls {
		nr, ok := numbers[d.name]
		if !ok || d.unless != nil && d.unless(f) {
			continue
		}
		program = append(program, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: nr, SkipTrue: 1}, errnoOf(d.errno))
	}
	// The kernel takes these arguments as int: only their low half counts,
	// whatever the high half holds.
	argument := func(name string, n uint32, then ...bpf.Instruction) {
		block := append([]bpf.Instruction{bpf.LoadAbsolute{Off: offsetArgs + 8*n, Size: 4}}, then...)
		program = append(program, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: numbers[name], SkipTrue: uint8(len(block))})
		program = append(program, block...)
	}
	if !f.Userns {
		argument("clone", 0,
			bpf.JumpIf{Cond: bpf.JumpBitsNotSet, Val: unix.CLONE_NEWUSER, SkipTrue: 1},
			errnoOf(unix.EPERM),
			bpf.RetConstant{Val: retAllow})
	}
	argument("ioctl", 1,
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.TIOCSTI, SkipTrue: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.TIOCLINUX, SkipTrue: 1},
		errnoOf(unix.EPERM),
		bpf.RetConstant{Val: retAllow})
	families := f.families()
	var check []bpf.Instruction
	for i, family := range families {
		check = append(check, bpf.JumpIf{Cond: bpf.JumpEqual, Val: family, SkipTrue: uint8(len(families) - i)})
	}
	check = append(check, errnoOf(unix.EAFNOSUPPORT), bpf.RetConstant{Val: retAllow})
	argument("socket", 0, check...)
	argument("socketpair", 0, check...)
	return append(program, bpf.RetConstant{Val: retAllow})
}

// compile makes the bytes that bwrap's --seccomp reads, for this machine:
// an array of struct sock_filter.
func (f Filter) compile() ([]byte, error) {
	program, err := f.Program(runtime.GOARCH)
	if err != nil {
		return nil, err
	}
	raw, err := bpf.Assemble(program)
	if err != nil {
		return nil, fmt.Errorf("system call filter: %w", err)
	}
	var b bytes.Buffer
	for _, i := range raw {
		b.Write(binary.NativeEndian.AppendUint16(nil, i.Op))
		b.Write([]byte{i.Jt, i.Jf})
		b.Write(binary.NativeEndian.AppendUint32(nil, i.K))
	}
	return b.Bytes(), nil
}

// Denied lists the system calls that always fail under the filter, sorted.
func (f Filter) Denied() []string {
	var names []string
	for _, d := range deniedCalls {
		if d.unless == nil || !d.unless(f) {
			names = append(names, d.name)
		}
	}
	slices.Sort(names)
	return names
}
