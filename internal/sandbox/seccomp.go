package sandbox

import (
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
	Packet    bool // sockets of the family PACKET: frames as they are on the wire
	QIPCRTR   bool // sockets of the family QIPCRTR: modems in phones
	ALG       bool // sockets of the family ALG: the kernel's ciphers
}

func filterOf(p *Profile) Filter {
	return Filter{
		Userns:    has(p.Features, "userns"),
		Devel:     has(p.Features, "devel"),
		Multiarch: has(p.Features, "multiarch"),
		Bluetooth: has(p.Features, "bluetooth"),
		CAN:       has(p.Features, "canbus"),
		Packet:    p.Daemon.family("packet"),
		QIPCRTR:   p.Daemon.family("qipcrtr"),
		ALG:       p.Daemon.family("alg"),
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

// setDelegation is fcntl's F_SETDELEG, a lease on a directory (linux/fcntl.h).
const setDelegation = 1024 + 16

// x32Bit marks the numbers of the x32 ABI, which has amd64's architecture.
const x32Bit = 0x40000000

// architecture is what the kernel calls an architecture, and the one whose
// programs its kernels run as well.
type architecture struct {
	index  int // into systemCall.numbers
	audit  uint32
	second string
}

var architectures = map[string]architecture{
	"amd64":   {archAMD64, unix.AUDIT_ARCH_X86_64, "386"},
	"386":     {arch386, unix.AUDIT_ARCH_I386, ""},
	"arm64":   {archARM64, unix.AUDIT_ARCH_AARCH64, "arm"},
	"arm":     {archARM, unix.AUDIT_ARCH_ARM, ""},
	"riscv64": {archRISCV64, unix.AUDIT_ARCH_RISCV64, ""},
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
	if f.Packet {
		list = append(list, unix.AF_PACKET)
	}
	if f.QIPCRTR {
		list = append(list, unix.AF_QIPCRTR)
	}
	if f.ALG {
		list = append(list, unix.AF_ALG)
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
	arch := architectures[goarch].index
	var program []bpf.Instruction
	for _, c := range systemCalls {
		nr := c.numbers[arch]
		if nr == absent || c.unless != nil && c.unless(f) {
			continue
		}
		then := []bpf.Instruction{errnoOf(c.errno)}
		if c.errno == 0 {
			then = f.arguments(c.name)
		}
		program = append(program, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: nr, SkipTrue: uint8(len(then))})
		program = append(program, then...)
	}
	return append(program, bpf.RetConstant{Val: retAllow})
}

// arguments decides about a call by its arguments. The kernel takes those that
// count as int: only their low half matters, whatever the high half holds.
func (f Filter) arguments(name string) []bpf.Instruction {
	low := func(n uint32) bpf.Instruction { return bpf.LoadAbsolute{Off: offsetArgs + 8*n, Size: 4} }
	allow := bpf.RetConstant{Val: retAllow}
	switch name {
	case "clone":
		return []bpf.Instruction{
			low(0),
			bpf.JumpIf{Cond: bpf.JumpBitsNotSet, Val: unix.CLONE_NEWUSER, SkipTrue: 1},
			errnoOf(unix.EPERM),
			allow,
		}
	case "ioctl":
		return []bpf.Instruction{
			low(1),
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.TIOCSTI, SkipTrue: 1},
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.TIOCLINUX, SkipTrue: 1},
			errnoOf(unix.EPERM),
			allow,
		}
	case "fcntl", "fcntl64":
		// Who opens a file under a lease waits for its holder, for 45 seconds as
		// a rule: portals that read about the app, and the person's programs.
		return []bpf.Instruction{
			low(1),
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.F_SETLEASE, SkipTrue: 1},
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: setDelegation, SkipTrue: 1},
			errnoOf(unix.EPERM),
			allow,
		}
	case "socket", "socketpair":
		families := f.families()
		check := []bpf.Instruction{low(0)}
		for i, family := range families {
			check = append(check, bpf.JumpIf{Cond: bpf.JumpEqual, Val: family, SkipTrue: uint8(len(families) - i)})
		}
		return append(check, errnoOf(unix.EAFNOSUPPORT), allow)
	}
	return []bpf.Instruction{errnoOf(unix.EPERM)}
}

// compile makes the bytes that bwrap's --seccomp reads, for this machine:
// an array of struct sock_filter.
func (f Filter) compile() ([]byte, error) {
	program, err := f.Program(runtime.GOARCH)
	if err != nil {
		return nil, err
	}
	filter, err := assemble(program)
	if err != nil {
		return nil, err
	}
	return binary.Append(nil, binary.NativeEndian, filter)
}

// assemble makes a filter as the kernel reads it.
func assemble(program []bpf.Instruction) ([]unix.SockFilter, error) {
	raw, err := bpf.Assemble(program)
	if err != nil {
		return nil, fmt.Errorf("system call filter: %w", err)
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, in := range raw {
		filter[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	return filter, nil
}

// Denied lists the system calls that always fail under the filter, sorted.
func (f Filter) Denied() []string {
	var names []string
	for _, c := range systemCalls {
		if c.errno != 0 && (c.unless == nil || !c.unless(f)) {
			names = append(names, c.name)
		}
	}
	slices.Sort(names)
	return names
}
