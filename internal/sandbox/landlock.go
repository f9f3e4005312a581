package sandbox

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What a process can be kept from (Linux 6.12, landlock(7)): connecting to
// abstract UNIX sockets that were made outside its own domain, and signalling
// processes outside it.
const (
	scopeAbstractUnixSocket = 1 << 0
	scopeSignal             = 1 << 1
)

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

// scopes decides what the app's bwrap is kept from. A sandbox is in the process
// group of who called, so that the terminal's keys reach it, and kill(2) with 0
// reaches all of that group, in any namespace. A setuid bwrap could not gain its
// privileges any more and is left alone, unless abstract sockets are in reach:
// then nothing starts.
func scopes(network bool, abi int, bwrap string) uint64 {
	if abi < landlockScopeABI {
		return 0
	}
	if network {
		return scopeAbstractUnixSocket | scopeSignal
	}
	if info, err := os.Stat(bwrap); err != nil || info.Mode()&os.ModeSetuid != 0 {
		return 0
	}
	return scopeSignal
}

// scopeThread keeps the calling thread and all its children from what scopes
// says, for ever. The caller has locked the goroutine to its thread and never
// gives it back. The ruleset handles no file access: bwrap must still mount.
func scopeThread(scopes uint64) error {
	attr := rulesetAttr{scoped: scopes}
	return restrictThread(&attr, unsafe.Sizeof(attr), nil)
}

// rulesetAttr is struct landlock_ruleset_attr: what a ruleset forbids.
type rulesetAttr struct{ fs, net, scoped uint64 }

// restrictThread enforces a ruleset, of whose attr the kernel knows the first size
// bytes, on the calling thread, which gains no privileges any more. Allow, if not
// nil, adds the exceptions to it.
func restrictThread(attr *rulesetAttr, size uintptr, allow func(ruleset int) error) error {
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(attr)), size, 0)
	if errno != 0 {
		return fmt.Errorf("landlock_create_ruleset: %w", errno)
	}
	defer unix.Close(int(fd))
	if allow != nil {
		if err := allow(int(fd)); err != nil {
			return err
		}
	}
	if err := noNewPrivileges(); err != nil {
		return err
	}
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0); errno != 0 {
		return fmt.Errorf("landlock_restrict_self: %w", errno)
	}
	return nil
}

// noNewPrivileges keeps the calling thread from gaining any, for ever: a filter or
// ruleset of who has none wants that.
func noNewPrivileges() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	return nil
}

// checkAbstract refuses the start where abstract sockets cannot be kept from an
// app that must not reach one: they belong to the network namespace, so an app
// with the host's network could speak to an abstract bus past the proxy, as the
// host.
func checkAbstract(network bool, buses []BusAddress, abi int) error {
	if !network || abi >= landlockScopeABI {
		return nil
	}
	for _, b := range buses {
		if b.Abstract {
			return fmt.Errorf("refused: the app shares the network and the bus %s is an abstract socket, so it could go around the filter: %w; start the bus at a path, or take network away", b.Address, errNoScopes)
		}
	}
	return nil
}
