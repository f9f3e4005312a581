package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"docportal/internal/wayland"
)

// waylandWait is how long a compositor may take to attach a security context.
const waylandWait = 2 * time.Second

// waylandEngine is the sandbox engine that compositors are told: they know the
// app ids and the metadata of this one.
const waylandEngine = "org.flatpak"

// wayland plans the compositor's socket, if one answers at it. What the app
// gets in the end is decided at the start (restrictWayland).
func (pl *Plan) wayland() bool {
	name := pl.Host.Env["WAYLAND_DISPLAY"]
	if name == "" {
		name = "wayland-0"
	}
	path, dest := name, "wayland-0"
	if !filepath.IsAbs(name) {
		if strings.Contains(name, "/") {
			return false
		}
		path, dest = filepath.Join(pl.Host.RuntimeDir, name), name
	}
	dest = filepath.Join(pl.Host.RuntimeDir, dest)
	if !pl.socket(path, dest) {
		return false
	}
	at := len(pl.Mounts) - 1
	conn, err := dialFile(pl.Mounts[at].file)
	if err != nil { // left over from a session that has ended
		pl.Mounts[at].file.Close()
		pl.Mounts = pl.Mounts[:at]
		pl.Warnings = append(pl.Warnings, fmt.Sprintf("Wayland: %s: %v", path, err))
		return false
	}
	pl.compositor, pl.waylandDest = conn, dest
	pl.Env["WAYLAND_DISPLAY"] = filepath.Base(dest)
	return true
}

// dialFile connects to the socket that f (O_PATH) is, whatever is at its path
// by now.
func dialFile(f *os.File) (*net.UnixConn, error) {
	return net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: fmt.Sprintf("/proc/self/fd/%d", f.Fd())})
}

// waylandContext is a socket that the compositor serves for the app alone.
type waylandContext struct {
	socket *os.File // O_PATH
	keep   *os.File // the compositor serves it until this is closed
}

func (w *waylandContext) close() {
	if w.socket != nil {
		w.socket.Close()
	}
	w.keep.Close()
}

// restrictWayland has the compositor serve a socket in the instance's directory
// that is known to it as the app's. The result is nil where the compositor has
// no security contexts: then its own socket is as good as any.
func restrictWayland(ctx context.Context, pl *Plan, in *Instance) (w *waylandContext, err error) {
	ctx, cancel := context.WithTimeout(ctx, waylandWait)
	defer cancel()
	listen, err := listenAt(in.Dir, waylandSocket)
	if err != nil {
		return nil, err
	}
	defer listen.Close()
	ended, keep, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer ended.Close()
	w = &waylandContext{keep: keep}
	defer func() {
		if err != nil || w == nil {
			os.Remove(filepath.Join(in.Dir, waylandSocket))
			keep.Close()
		}
	}()
	id := wayland.Identity{Engine: waylandEngine, App: pl.Profile.Name, Instance: pl.Instance}
	if err := wayland.Attach(ctx, pl.compositor, listen, ended, id); errors.Is(err, wayland.ErrNotSupported) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	w.socket, err = openBeneath(in.Dir, waylandSocket, unix.O_PATH)
	return w, err
}

// waylandSocket is the name of the app's own Wayland socket in the directory of
// its instance.
const waylandSocket = "wayland"

// listenAt makes a socket that listens. Its path may be longer than the 107
// bytes of an address.
func listenAt(dir, name string) (*os.File, error) {
	at, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(at)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	if err = unix.Bind(fd, &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/%s", at, name)}); err == nil {
		err = unix.Listen(fd, unix.SOMAXCONN)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("socket %s: %w", filepath.Join(dir, name), err)
	}
	return f, nil
}

// setWayland gives the app what restrictWayland came to: its own socket, the
// compositor's, or, after an error, none.
func (pl *Plan) setWayland(w *waylandContext, in *Instance, err error) {
	if w == nil && err == nil {
		return
	}
	i := len(pl.Mounts) - 1
	for pl.Mounts[i].Dest != pl.waylandDest {
		i--
	}
	switch {
	case err != nil:
		pl.Mounts[i].file.Close()
		pl.Mounts = slices.Delete(pl.Mounts, i, i+1)
		delete(pl.Env, "WAYLAND_DISPLAY")
	default:
		pl.Mounts[i].file.Close()
		pl.Mounts[i].Source, pl.Mounts[i].file = filepath.Join(in.Dir, waylandSocket), w.socket
		w.socket = nil // the plan's now
	}
}
