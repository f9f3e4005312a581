package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/godbus/dbus/v5"

	"docportal/integration/wire"
)

// forgedMark is the first argument of the program that pretends.
const forgedMark = "forged"

// forge has a copy of this program, in a user namespace and a root directory of
// its own with the metadata of another app in it, call the Notification portal
// on a connection to the bus.
func forge(r wire.Request, a *wire.Answer) error {
	root, err := os.MkdirTemp("", "root-")
	if err != nil {
		return err
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	if err := errors.Join(
		os.WriteFile(filepath.Join(root, "app"), self, 0o755),
		os.WriteFile(filepath.Join(root, ".flatpak-info"), []byte(r.Data), 0o644),
	); err != nil {
		return err
	}
	path, ok := strings.CutPrefix(os.Getenv("DBUS_SESSION_BUS_ADDRESS"), "unix:path=")
	if !ok {
		return errors.New("no address of the bus")
	}
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path})
	if err != nil {
		return err
	}
	defer conn.Close()
	f, err := conn.File()
	if err != nil {
		return err
	}
	defer f.Close()
	var out bytes.Buffer
	cmd := exec.Command("/app", forgedMark)
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{f}
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}},
		Chroot:      root,
	}
	err = cmd.Run()
	a.Data = out.String()
	return err
}

// forged is the program that pretends.
func forged() error {
	info, err := os.ReadFile("/.flatpak-info")
	if err != nil {
		return err
	}
	f := os.NewFile(3, "bus")
	c, err := net.FileConn(f)
	if err != nil {
		return err
	}
	conn, err := dbus.NewConn(c)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := errors.Join(conn.Auth(nil), conn.Hello()); err != nil {
		return err
	}
	if err := conn.Object(portalName, portalPath).Call("org.freedesktop.portal.Notification.AddNotification", 0, "forged", vars{"title": dbus.MakeVariant("Hello")}).Err; err != nil {
		return err
	}
	fmt.Printf("pretended %s", info)
	return nil
}
