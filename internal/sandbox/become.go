package sandbox

import (
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Secure bits (linux/securebits.h): root's number has no powers of its own.
const (
	secureNoRoot       = 1 << 0
	secureNoRootLocked = 1 << 1
)

// String is the identity as a gate's argument: uid:gid:groups:capabilities. A
// nil one is "", for a gate that stays who it is.
func (as *processIdentity) String() string {
	if as == nil {
		return ""
	}
	list := func(numbers []int) string {
		var all []string
		for _, n := range numbers {
			all = append(all, strconv.Itoa(n))
		}
		return strings.Join(all, ",")
	}
	return fmt.Sprintf("%d:%d:%s:%s", as.uid, as.gid, list(as.groups), list(as.capabilities))
}

func parseIdentity(text string) (*processIdentity, error) {
	parts := strings.Split(text, ":")
	if len(parts) != 4 {
		return nil, errors.New("no identity")
	}
	var lists [4][]int
	for i, part := range parts {
		for word := range strings.SplitSeq(part, ",") {
			if word == "" {
				continue
			}
			n, err := strconv.Atoi(word)
			if err != nil {
				return nil, err
			}
			lists[i] = append(lists[i], n)
		}
	}
	if len(lists[0]) != 1 || len(lists[1]) != 1 {
		return nil, errors.New("no identity")
	}
	return &processIdentity{lists[0][0], lists[1][0], lists[2], lists[3]}, nil
}

// become makes this process the identity for good: what is executed next has
// its user, its groups and just its capabilities. The goroutine stays on its
// thread, which is the one that executes.
func (as *processIdentity) become() error {
	runtime.LockOSThread()
	var bits [2]uint32
	keep := make(map[int]bool)
	for _, c := range as.capabilities {
		keep[c] = true
		bits[c/32] |= 1 << (c % 32)
	}
	for c := 0; c < 64; c++ {
		if err := unix.Prctl(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0); err == unix.EINVAL {
			break // the kernel has no more
		}
		if !keep[c] {
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil {
				return fmt.Errorf("capability %d stays: %w", c, err)
			}
		}
	}
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, secureNoRoot|secureNoRootLocked, 0, 0, 0); err != nil {
		return fmt.Errorf("secure bits: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
		return err
	}
	if err := syscall.Setgroups(as.groups); err != nil {
		return fmt.Errorf("groups: %w", err)
	}
	if err := syscall.Setresgid(as.gid, as.gid, as.gid); err != nil {
		return fmt.Errorf("group %d: %w", as.gid, err)
	}
	if err := syscall.Setresuid(as.uid, as.uid, as.uid); err != nil {
		return fmt.Errorf("user %d: %w", as.uid, err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	for i := range data {
		data[i] = unix.CapUserData{Effective: bits[i], Permitted: bits[i], Inheritable: bits[i]}
	}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("capabilities: %w", err)
	}
	for _, c := range as.capabilities {
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(c), 0, 0); err != nil {
			return fmt.Errorf("capability %d: %w", c, err)
		}
	}
	return nil
}
