package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// inside is the program that the scripts run in the sandbox. It prints what it
// sees and is allowed to do.
func inside() {
	args := os.Args[2:]
	switch os.Args[1] {
	case "connect":
		for _, address := range args {
			report(address, tryConnect(address))
		}
	case "nested-connect":
		// The same from namespaces of its own, where it could look different.
		cmd := exec.Command("/proc/self/exe", append([]string{"connect"}, args...)...)
		cmd.Args[0] = "inside"
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		}
		if err := cmd.Run(); err != nil {
			fatal(err)
		}
	case "hold":
		// Become another program that inherits descriptor 50.
		fatalIf(unix.Dup3(0, 50, 0))
		path, err := exec.LookPath(args[0])
		fatalIf(err)
		fatalIf(unix.Exec(path, args, os.Environ()))
	case "names":
		names()
	case "own":
		for _, name := range args {
			own(name)
		}
	case "call":
		callService(args[0], args[1], args[2], args[3])
	case "calls":
		calls()
	case "fds":
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			fatal(err)
		}
		for _, e := range entries {
			if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && !strings.Contains(to, "eventpoll") && !strings.Contains(to, "eventfd") {
				fmt.Println("fd", e.Name())
			}
		}
	default:
		fatal(fmt.Errorf("inside %s?", os.Args[1]))
	}
}

func fatalIf(err error) {
	if err != nil {
		fatal(err)
	}
}

func report(what string, err error) {
	if err == nil {
		fmt.Println(what, "ok")
		return
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		fmt.Println(what, unix.ErrnoName(errno))
		return
	}
	fmt.Println(what, err)
}

func tryConnect(address string) error {
	c, err := net.DialTimeout("unix", address, time.Second)
	if err == nil {
		c.Close()
	}
	return err
}

// dial uses godbus itself: package bus sends its handshake in one go, which
// xdg-dbus-proxy before 0.1.6 does not understand.
func dial() *dbus.Conn {
	c, err := dbus.ConnectSessionBus()
	if err != nil {
		fatal(err)
	}
	return c
}

func names() {
	var list []string
	if err := dial().BusObject().Call("org.freedesktop.DBus.ListNames", 0).Store(&list); err != nil {
		fatal(err)
	}
	slices.Sort(list)
	for _, n := range list {
		if !strings.HasPrefix(n, ":") {
			fmt.Println("name", n)
		}
	}
}

func own(name string) {
	reply, err := dial().RequestName(name, dbus.NameFlagDoNotQueue)
	var e dbus.Error
	switch {
	case errors.As(err, &e):
		fmt.Println("own", name, e.Name)
	case err != nil:
		fatal(err)
	default:
		fmt.Println("own", name, reply == dbus.RequestNameReplyPrimaryOwner)
	}
}

func callService(dest, path, iface, member string) {
	err := dial().Object(dest, dbus.ObjectPath(path)).Call(iface+"."+member, 0).Err
	var e dbus.Error
	switch {
	case errors.As(err, &e):
		fmt.Println("call", dest, e.Name)
	case err != nil:
		fatal(err)
	default:
		fmt.Println("call", dest, "ok")
	}
}

// calls tries every system call that the filter denies, with arguments that
// do no harm where it is allowed.
func calls() {
	none := uintptr(0)
	high := uintptr(0xdead) << 32
	bad := ^uintptr(0)
	for _, c := range []struct {
		name string
		nr   uintptr
		args [3]uintptr
	}{
		{"mount", unix.SYS_MOUNT, [3]uintptr{none, none, none}},
		{"umount2", unix.SYS_UMOUNT2, [3]uintptr{none, none, none}},
		{"pivot_root", unix.SYS_PIVOT_ROOT, [3]uintptr{none, none, none}},
		{"setns", unix.SYS_SETNS, [3]uintptr{bad, none, none}},
		{"unshare", unix.SYS_UNSHARE, [3]uintptr{unix.CLONE_FS, none, none}},
		{"unshare-user", unix.SYS_UNSHARE, [3]uintptr{1 << 63, none, none}},
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
		{"io_uring_setup", unix.SYS_IO_URING_SETUP, [3]uintptr{none, none, none}},
		{"tiocsti", unix.SYS_IOCTL, [3]uintptr{bad, unix.TIOCSTI, none}},
		{"tiocsti-high", unix.SYS_IOCTL, [3]uintptr{bad, unix.TIOCSTI | high, none}},
		{"tioclinux", unix.SYS_IOCTL, [3]uintptr{bad, unix.TIOCLINUX, none}},
		{"tiocgwinsz", unix.SYS_IOCTL, [3]uintptr{bad, unix.TIOCGWINSZ, none}},
		{"vsock", unix.SYS_SOCKET, [3]uintptr{unix.AF_VSOCK, unix.SOCK_STREAM, none}},
		{"vsock-high", unix.SYS_SOCKET, [3]uintptr{unix.AF_VSOCK | high, unix.SOCK_STREAM, none}},
		{"packet", unix.SYS_SOCKET, [3]uintptr{unix.AF_PACKET, unix.SOCK_RAW, none}},
		{"alg", unix.SYS_SOCKET, [3]uintptr{unix.AF_ALG, unix.SOCK_SEQPACKET, none}},
		{"inet", unix.SYS_SOCKET, [3]uintptr{unix.AF_INET, unix.SOCK_STREAM, none}},
		{"netlink", unix.SYS_SOCKET, [3]uintptr{unix.AF_NETLINK, unix.SOCK_RAW, none}},
	} {
		_, _, errno := unix.RawSyscall6(c.nr, c.args[0], c.args[1], c.args[2], 0, 0, 0)
		if errno == 0 {
			fmt.Println("call", c.name, "ok")
		} else {
			fmt.Println("call", c.name, unix.ErrnoName(errno))
		}
	}
	if runtime.GOARCH == "amd64" {
		// getpid and mount of i386, getpid of x32: each its own way in.
		for _, c := range []struct {
			name string
			nr   uint32
		}{{"int80-getpid", 20}, {"int80-mount", 21}, {"int80-ptrace", 26}} {
			if errno := int80(c.nr); errno == 0 {
				fmt.Println("call", c.name, "ok")
			} else {
				fmt.Println("call", c.name, unix.ErrnoName(errno))
			}
		}
		if _, _, errno := unix.RawSyscall(0x40000000|unix.SYS_GETPID, 0, 0, 0); errno != 0 {
			fmt.Println("call x32-getpid", unix.ErrnoName(errno))
		} else {
			fmt.Println("call x32-getpid ok")
		}
	}
}

// int80 makes a system call as an i386 program does. The assembler has no
// place in a test's package, so the few instructions are written by hand.
func int80(nr uint32) syscall.Errno {
	page, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		fatal(err)
	}
	const result = 2048 // offset of the word that the code stores eax in
	at := uint64(uintptr(unsafe.Pointer(&page[result])))
	code := []byte{0x53, 0xb8, byte(nr), byte(nr >> 8), byte(nr >> 16), byte(nr >> 24)} // push rbx; mov eax, nr
	code = append(code, 0x31, 0xdb, 0x31, 0xc9, 0x31, 0xd2)                             // xor ebx,ebx; ecx; edx
	code = append(code, 0xcd, 0x80)                                                     // int 0x80
	code = append(code, 0x48, 0xba)                                                     // mov rdx, at
	for i := range 8 {
		code = append(code, byte(at>>(8*i)))
	}
	code = append(code, 0x89, 0x02, 0x5b, 0xc3) // mov [rdx], eax; pop rbx; ret
	copy(page, code)
	entry := unsafe.Pointer(&page[0])
	closure := unsafe.Pointer(&entry) // a func value points at a pointer to code
	(*(*func())(unsafe.Pointer(&closure)))()
	eax := *(*int32)(unsafe.Pointer(&page[result]))
	if eax < 0 && eax > -4096 {
		return syscall.Errno(-eax)
	}
	return 0
}
