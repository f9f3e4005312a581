// Calls tries every system call that the filter knows, and some that must go
// through, from inside a sandbox. It prints a line for each: its name, and "ok"
// or the error. The arguments do no harm where a call is allowed. It is also
// built for the machine's second architecture.
package main

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// try is one call to be tried.
type try struct {
	name string
	nr   uintptr
	args [3]uintptr
}

func main() {
	for _, c := range append(common(), own()...) {
		_, _, errno := unix.RawSyscall6(c.nr, c.args[0], c.args[1], c.args[2], 0, 0, 0)
		report(c.name, errno)
	}
	foreign()
}

func report(name string, errno unix.Errno) {
	if errno == 0 {
		fmt.Println(name, "ok")
	} else {
		fmt.Println(name, unix.ErrnoName(errno))
	}
}

// common are the calls that every architecture has. What ends in -high has bits
// set that the kernel does not look at, where there are such.
func common() []try {
	none, bad := uintptr(0), ^uintptr(0)
	high := uintptr(0xdead)
	high = high << 16 << 16 // 0 where words have 32 bits
	top := ^(bad >> 1)
	return []try{
		{"mount", unix.SYS_MOUNT, [3]uintptr{none, none, none}},
		{"umount2", unix.SYS_UMOUNT2, [3]uintptr{none, none, none}},
		{"pivot_root", unix.SYS_PIVOT_ROOT, [3]uintptr{none, none, none}},
		{"setns", unix.SYS_SETNS, [3]uintptr{bad, none, none}},
		{"unshare", unix.SYS_UNSHARE, [3]uintptr{unix.CLONE_FS, none, none}},
		{"unshare-user", unix.SYS_UNSHARE, [3]uintptr{top, none, none}},
		{"chroot", unix.SYS_CHROOT, [3]uintptr{none, none, none}},
		{"clone-newuser", unix.SYS_CLONE, [3]uintptr{unix.CLONE_NEWUSER | unix.CLONE_FS, none, none}},
		{"clone-newuser-high", unix.SYS_CLONE, [3]uintptr{unix.CLONE_NEWUSER | unix.CLONE_FS | high, none, none}},
		{"clone3", unix.SYS_CLONE3, [3]uintptr{none, none, none}},
		{"add_key", unix.SYS_ADD_KEY, [3]uintptr{none, none, none}},
		{"keyctl", unix.SYS_KEYCTL, [3]uintptr{bad, none, none}},
		{"request_key", unix.SYS_REQUEST_KEY, [3]uintptr{none, none, none}},
		{"quotactl", unix.SYS_QUOTACTL, [3]uintptr{bad, none, none}},
		{"quotactl_fd", unix.SYS_QUOTACTL_FD, [3]uintptr{bad, none, none}},
		{"acct", unix.SYS_ACCT, [3]uintptr{bad, none, none}},
		{"syslog", unix.SYS_SYSLOG, [3]uintptr{10, none, none}},
		{"mbind", unix.SYS_MBIND, [3]uintptr{bad, none, none}},
		{"get_mempolicy", unix.SYS_GET_MEMPOLICY, [3]uintptr{none, none, none}},
		{"set_mempolicy", unix.SYS_SET_MEMPOLICY, [3]uintptr{bad, none, none}},
		{"set_mempolicy_home_node", unix.SYS_SET_MEMPOLICY_HOME_NODE, [3]uintptr{bad, none, none}},
		{"migrate_pages", unix.SYS_MIGRATE_PAGES, [3]uintptr{bad, none, none}},
		{"move_pages", unix.SYS_MOVE_PAGES, [3]uintptr{bad, none, none}},
		{"ptrace", unix.SYS_PTRACE, [3]uintptr{bad, none, none}},
		{"perf_event_open", unix.SYS_PERF_EVENT_OPEN, [3]uintptr{none, none, none}},
		{"open_tree", unix.SYS_OPEN_TREE, [3]uintptr{bad, none, none}},
		{"move_mount", unix.SYS_MOVE_MOUNT, [3]uintptr{bad, none, none}},
		{"fsopen", unix.SYS_FSOPEN, [3]uintptr{none, none, none}},
		{"fsconfig", unix.SYS_FSCONFIG, [3]uintptr{bad, none, none}},
		{"fsmount", unix.SYS_FSMOUNT, [3]uintptr{bad, none, none}},
		{"fspick", unix.SYS_FSPICK, [3]uintptr{bad, none, none}},
		{"mount_setattr", unix.SYS_MOUNT_SETATTR, [3]uintptr{bad, none, none}},
		{"open_tree_attr", unix.SYS_OPEN_TREE_ATTR, [3]uintptr{bad, none, none}},
		{"io_uring_setup", unix.SYS_IO_URING_SETUP, [3]uintptr{none, none, none}},
		{"io_uring_enter", unix.SYS_IO_URING_ENTER, [3]uintptr{bad, none, none}},
		{"io_uring_register", unix.SYS_IO_URING_REGISTER, [3]uintptr{bad, none, none}},
		{"tiocsti", unix.SYS_IOCTL, [3]uintptr{bad, unix.TIOCSTI, none}},
		{"tiocsti-high", unix.SYS_IOCTL, [3]uintptr{bad, unix.TIOCSTI | high, none}},
		{"tioclinux", unix.SYS_IOCTL, [3]uintptr{bad, unix.TIOCLINUX, none}},
		{"tiocgwinsz", unix.SYS_IOCTL, [3]uintptr{bad, unix.TIOCGWINSZ, none}},
		{"setlease", unix.SYS_FCNTL, [3]uintptr{bad, unix.F_SETLEASE, unix.F_WRLCK}},
		{"setlease-high", unix.SYS_FCNTL, [3]uintptr{bad, unix.F_SETLEASE | high, unix.F_WRLCK}},
		{"setdelegation", unix.SYS_FCNTL, [3]uintptr{bad, 1024 + 16, none}}, // F_SETDELEG
		{"getfl", unix.SYS_FCNTL, [3]uintptr{bad, unix.F_GETFL, none}},
		{"vsock", unix.SYS_SOCKET, [3]uintptr{unix.AF_VSOCK, unix.SOCK_STREAM, none}},
		{"vsock-high", unix.SYS_SOCKET, [3]uintptr{unix.AF_VSOCK | high, unix.SOCK_STREAM, none}},
		{"socketpair-tipc", unix.SYS_SOCKETPAIR, [3]uintptr{unix.AF_TIPC, unix.SOCK_STREAM, none}},
		{"bluetooth", unix.SYS_SOCKET, [3]uintptr{unix.AF_BLUETOOTH, unix.SOCK_RAW, none}},
		{"can", unix.SYS_SOCKET, [3]uintptr{unix.AF_CAN, unix.SOCK_RAW, none}},
		{"packet", unix.SYS_SOCKET, [3]uintptr{unix.AF_PACKET, unix.SOCK_RAW, none}},
		{"alg", unix.SYS_SOCKET, [3]uintptr{unix.AF_ALG, unix.SOCK_SEQPACKET, none}},
		{"inet", unix.SYS_SOCKET, [3]uintptr{unix.AF_INET, unix.SOCK_STREAM, none}},
		{"netlink", unix.SYS_SOCKET, [3]uintptr{unix.AF_NETLINK, unix.SOCK_RAW, none}},
	}
}
