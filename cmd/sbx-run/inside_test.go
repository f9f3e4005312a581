package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"docportal/internal/wayland/waylandtest"
)

// inside is the program that the scripts run in the sandbox. It prints what it
// sees and is allowed to do.
func inside() {
	// At once, not as a program with the race detector does: its environment
	// is not ours to set.
	defer unix.Exit(0)
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
	case "wayland":
		path := os.Getenv("WAYLAND_DISPLAY")
		if !filepath.IsAbs(path) {
			path = filepath.Join(os.Getenv("XDG_RUNTIME_DIR"), path)
		}
		globals, err := waylandtest.Globals(path, 5*time.Second)
		fatalIf(err)
		for _, g := range globals {
			fmt.Println("global", g)
		}
	case "eavesdrop":
		eavesdrop()
	case "accessible":
		accessible(args[0])
	case "reader":
		reader(args[0])
	case "exchange":
		// One line to a socket, one from it.
		c, err := net.DialTimeout("unix", args[0], 5*time.Second)
		fatalIf(err)
		c.SetDeadline(time.Now().Add(5 * time.Second))
		_, err = fmt.Fprintf(c, "%s\r\n\r\n", args[1])
		fatalIf(err)
		line, err := bufio.NewReader(c).ReadString('\n')
		fatalIf(err)
		fmt.Println(strings.TrimSpace(line))
	case "x11":
		x11()
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

// eavesdrop tries to hear what is not for it, and to change what the bus does
// for others.
func eavesdrop() {
	conn := dial()
	ask := func(what, method string, args ...any) {
		err := conn.BusObject().Call(method, 0, args...).Err
		var e dbus.Error
		switch {
		case errors.As(err, &e):
			fmt.Println(what, strings.TrimPrefix(e.Name, "org.freedesktop.DBus.Error."))
		case err != nil:
			fatal(err)
		default:
			fmt.Println(what, "ok")
		}
	}
	const bus = "org.freedesktop.DBus."
	for _, rule := range []string{
		"eavesdrop=true", "eavesdrop='true'", " eavesdrop = 'true'", "type='method_call', eavesdrop ='true'", "eavesdrop=\\true",
		"eavesdrop='t''rue'", "type='signal',\teavesdrop='true'", "eavesdrop='true' ,type='signal'", "type='method_call',eavesdrop='true',eavesdrop='false'",
	} {
		ask(fmt.Sprintf("match %q", rule), bus+"AddMatch", rule)
	}
	ask("monitor", bus+"Monitoring.BecomeMonitor", []string{}, uint32(0))
	ask("environment", bus+"UpdateActivationEnvironment", map[string]string{"LD_PRELOAD": "/x"})
	ask("start", bus+"StartServiceByName", "org.other.Name", uint32(0))
	ask("reload", bus+"ReloadConfig")
	ask("stats", bus+"Debug.Stats.GetStats")
	ask("credentials", bus+"GetConnectionCredentials", ":1.0")
	ask("process", bus+"GetConnectionUnixProcessID", ":1.0")
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
