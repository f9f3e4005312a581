package sandbox

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// scopeAbstractUnixSocket keeps a process from connecting to abstract UNIX
// sockets that were made outside its own domain (Linux 6.12, landlock(7)).
const scopeAbstractUnixSocket = 1 << 0

// landlockScopeABI is the first ABI of Landlock with scopes.
const landlockScopeABI = 6

// errNoScopes says that the kernel cannot keep abstract sockets out.
var errNoScopes = errors.New("this kernel's Landlock cannot keep abstract sockets out (it needs Linux 6.12)")

// landlockABI asks the kernel for its version of Landlock, 0 if it has none.
func landlockABI() int {
	const createRulesetVersion = 1
	n, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, createRulesetVersion)
	if errno != 0 {
		return 0
	}
	return int(n)
}

// scopeThread keeps the calling thread and all its children from abstract
// sockets of others, for ever. The caller has locked the goroutine to its
// thread and never gives it back. The ruleset handles no file access: bwrap
// must still mount.
func scopeThread() error {
	attr := struct{ fs, net, scoped uint64 }{scoped: scopeAbstractUnixSocket}
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		return fmt.Errorf("landlock_create_ruleset: %w", errno)
	}
	defer unix.Close(int(fd))
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0); errno != 0 {
		return fmt.Errorf("landlock_restrict_self: %w", errno)
	}
	return nil
}

// checkAbstract decides whether the app's bwrap needs the scope, and refuses
// the start where it needs it and cannot have it: abstract sockets belong to
// the network namespace, so an app with the host's network could speak to an
// abstract bus past the proxy, as the host.
func checkAbstract(network bool, buses []BusAddress, abi int) (scope bool, err error) {
	if !network {
		return false, nil
	}
	if abi >= landlockScopeABI {
		return true, nil
	}
	for _, b := range buses {
		if b.Abstract {
			return false, fmt.Errorf("refused: the app shares the network and the bus %s is an abstract socket, so it could go around the filter: %w; start the bus at a path, or take network away", b.Address, errNoScopes)
		}
	}
	return false, nil
}
