package sandbox

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// What a part of an app that looks at strangers' data, such as an image loader,
// may still open: the system's files to read and execute, and a few devices to
// read and write.
var (
	loaderReads  = []string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/proc", "/sys", "/var/cache/fontconfig"}
	loaderWrites = []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"}
)

// ConfineLoader keeps the calling thread, and what it executes, from the files
// of the app and the person, from making sockets, and from the app's other
// processes, for ever. The caller has locked the goroutine to its thread and
// executes the loader. It is a sandbox in the app's sandbox: where the kernel
// has no Landlock the latter alone keeps the files.
func ConfineLoader() error {
	if abi := landlockABI(); abi > 0 {
		if err := restrictFiles(abi); err != nil {
			return err
		}
	}
	return forbidSockets()
}

// restrictFiles enforces a ruleset with every right that the kernel's version of
// Landlock knows (landlock(7)).
func restrictFiles(abi int) error {
	const (
		firstVersion = 1<<13 - 1
		refer        = 1 << 13 // version 2
		truncate     = 1 << 14 // version 3
		ioctlDevice  = 1 << 15 // version 5
		bindConnect  = 1<<0 | 1<<1
	)
	attr := rulesetAttr{fs: firstVersion}
	size := unsafe.Sizeof(attr.fs)
	if abi >= 2 {
		attr.fs |= refer
	}
	if abi >= 3 {
		attr.fs |= truncate
	}
	if abi >= 4 {
		attr.net = bindConnect
		size += unsafe.Sizeof(attr.net)
	}
	if abi >= 5 {
		attr.fs |= ioctlDevice
	}
	if abi >= landlockScopeABI {
		attr.scoped = scopeAbstractUnixSocket | scopeSignal
		size += unsafe.Sizeof(attr.scoped)
	}
	return restrictThread(&attr, size, allowLoader)
}

// allowLoader adds what a loader may open to a ruleset.
func allowLoader(ruleset int) error {
	const execute, write, read, readDir = 1 << 0, 1 << 1, 1 << 2, 1 << 3
	allow := func(path string, rights uint64) error {
		beneath, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EACCES) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		defer unix.Close(beneath)
		// struct landlock_path_beneath_attr is packed.
		rule := binary.NativeEndian.AppendUint64(nil, rights)
		rule = binary.NativeEndian.AppendUint32(rule, uint32(beneath))
		const pathBeneath = 1
		if _, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(ruleset), pathBeneath, uintptr(unsafe.Pointer(&rule[0])), 0, 0, 0); errno != 0 {
			return fmt.Errorf("landlock_add_rule %s: %w", path, errno)
		}
		return nil
	}
	for _, path := range loaderReads {
		if err := allow(path, execute|read|readDir); err != nil {
			return err
		}
	}
	for _, path := range loaderWrites {
		if err := allow(path, read|write); err != nil {
			return err
		}
	}
	return nil
}

// forbidSockets adds a filter in which sockets cannot be made; those that are
// handed over work. Calls of another architecture do not exist.
func forbidSockets() error {
	arch, ok := architectures[runtime.GOARCH]
	if !ok {
		return fmt.Errorf("no system call filter for %s", runtime.GOARCH)
	}
	filter, err := assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: offsetArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: arch.audit, SkipTrue: 1},
		errnoOf(unix.ENOSYS),
		bpf.LoadAbsolute{Off: offsetNumber, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.SYS_SOCKET, SkipTrue: 1},
		errnoOf(unix.EACCES),
		bpf.RetConstant{Val: retAllow},
	})
	if err != nil {
		return err
	}
	if err := noNewPrivileges(); err != nil {
		return err
	}
	fprog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	const setModeFilter = 1
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, setModeFilter, 0, uintptr(unsafe.Pointer(&fprog))); errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	return nil
}
