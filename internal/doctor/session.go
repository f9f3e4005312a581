package doctor

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"docportal/internal/bus"
)

// The bus itself.
const (
	busName = "org.freedesktop.DBus"
	busPath = "/org/freedesktop/DBus"
)

// runtimeDir looks after $XDG_RUNTIME_DIR.
func (x *examination) runtimeDir(context.Context) {
	const mend = `export XDG_RUNTIME_DIR="$(mktemp -d)"`
	dir := os.Getenv("XDG_RUNTIME_DIR")
	if dir == "" {
		x.broken(mend, "XDG_RUNTIME_DIR is not set: the session's sockets and documents have no place; elogind or pam_rundir sets it at login")
		return
	}
	info, err := os.Stat(dir)
	if err != nil {
		x.broken(mend, "XDG_RUNTIME_DIR: %v", err)
		return
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !filepath.IsAbs(dir) || !info.IsDir() || !ok || int(st.Uid) != os.Geteuid():
		x.broken(mend, "XDG_RUNTIME_DIR=%s is no directory of your own", dir)
	case info.Mode().Perm()&0o022 != 0:
		x.broken("chmod 700 "+quote(dir), "XDG_RUNTIME_DIR=%s can be written by others", dir)
		x.runtime = dir
	default:
		x.runtime = dir
	}
}

// sessionBus connects to the session bus, and looks for a second one.
func (x *examination) sessionBus(ctx context.Context) {
	conn, err := bus.Dial(ctx, "", bus.Options{})
	if err != nil {
		x.broken(`exec dbus-run-session -- "$SHELL"`, "the session bus cannot be reached: %s", reason(err))
		return
	}
	x.conn = conn
	usual := filepath.Join(x.runtime, "bus")
	if x.runtime == "" || !there(usual) {
		return
	}
	other, err := bus.Dial(ctx, "unix:path="+escape(usual), bus.Options{})
	if err != nil {
		return // what is left of one
	}
	defer other.Close()
	here, err1 := busID(ctx, conn)
	beside, err2 := busID(ctx, other)
	if err1 == nil && err2 == nil && here != beside {
		x.broken("export DBUS_SESSION_BUS_ADDRESS=unix:path="+quote(escape(usual)),
			"there is a second session bus at %s beside the one of DBUS_SESSION_BUS_ADDRESS: what runs on one is not seen on the other", usual)
	}
}

func busID(ctx context.Context, c *bus.Conn) (id string, err error) {
	err = c.Call(ctx, busName, busPath, busName, "GetId", "", nil, &id)
	return id, err
}

// escape writes a path into a bus address (D-Bus specification, "Server
// Addresses").
func escape(path string) string {
	const hex = "0123456789abcdef"
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		c := path[i]
		if c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || strings.IndexByte("-_/.\\", c) >= 0 {
			b.WriteByte(c)
		} else {
			b.WriteString("%" + hex[c>>4:c>>4+1] + hex[c&15:c&15+1])
		}
	}
	return b.String()
}

// quote writes a word for the shell.
func quote(word string) string {
	if word != "" && strings.IndexFunc(word, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && !strings.ContainsRune("-_/.:=,+@%", r)
	}) < 0 {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// owner is the process that owns a name, 0 if nobody does.
func (x *examination) owner(ctx context.Context, name string) int {
	var pid uint32
	if x.conn.Call(ctx, busName, busPath, busName, "GetConnectionUnixProcessID", "s", []any{name}, &pid) != nil {
		return 0
	}
	return int(pid)
}

// activatable reports whether the bus can start who owns a name.
func (x *examination) activatable(ctx context.Context, name string) bool {
	var names []string
	if x.conn.Call(ctx, busName, busPath, busName, "ListActivatableNames", "", nil, &names) != nil {
		return false
	}
	for _, n := range names {
		if n == name {
			return true
		}
	}
	return false
}

// nobody reports whether a call failed because there is nobody to call.
func nobody(err error) bool {
	var e *bus.Error
	return errors.As(err, &e) && (e.Name == "org.freedesktop.DBus.Error.ServiceUnknown" || e.Name == "org.freedesktop.DBus.Error.NameHasNoOwner")
}

// reason is an error's text for a person.
func reason(err error) string {
	var e *bus.Error
	if errors.As(err, &e) && e.Message != "" {
		return e.Message
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return "no answer in time"
	}
	return err.Error()
}

const (
	documentsName = "org.freedesktop.portal.Documents"
	documentsPath = "/org/freedesktop/portal/documents"
)

// documentPortal asks who serves documents, and looks at its mount.
func (x *examination) documentPortal(ctx context.Context) {
	dir := filepath.Join(x.runtime, "doc")
	if x.conn == nil {
		x.stale(dir)
		return
	}
	var path []byte
	err := x.conn.Call(ctx, documentsName, documentsPath, documentsName, "GetMountPoint", "", nil, &path)
	switch {
	case err == nil:
		if p := strings.TrimRight(string(path), "\x00"); filepath.IsAbs(p) {
			dir = p
		}
	case nobody(err):
		x.broken(`export XDG_DATA_DIRS="/usr/local/share:/usr/share"`, "no document portal is installed where the session bus looks (dbus-1/services of XDG_DATA_DIRS)")
	case strings.Contains(reason(err), "another session bus"):
		x.broken("docportal --replace", "your documents are served on another session bus; on this one apps get none")
	default:
		x.broken("docportal --replace --verbose", "the document portal does not work: %s", reason(err))
	}
	plain := x.stale(dir)
	if err != nil {
		return
	}
	if plain {
		x.broken("docportal --replace", "apps cannot see %s: who serves it runs in a mount namespace of its own", dir)
	}
	// docportal has this object; others do not.
	var xml string
	if x.conn.Call(ctx, documentsName, "/docportal/manager", "org.freedesktop.DBus.Introspectable", "Introspect", "", nil, &xml) != nil ||
		!strings.Contains(xml, "docportal.Manager1") {
		x.warn("docportal --replace", "documents are served by %s, not by docportal", processName(x.owner(ctx, documentsName)))
	}
}

// stale looks for a mount whose server is gone, without waiting for one that
// hangs. It reports whether nothing is mounted there that could be a file view.
func (x *examination) stale(dir string) (plain bool) {
	if x.runtime == "" {
		return false
	}
	ctx, cancel := context.WithTimeout(x.ctx, x.Wait)
	defer cancel()
	answer := make(chan error, 1)
	var fs unix.Statfs_t
	go func() {
		var st unix.Stat_t
		err := unix.Stat(dir, &st)
		if err == nil {
			err = unix.Statfs(dir, &fs)
		}
		answer <- err
	}()
	mend := "fusermount3 -u -z " + quote(dir)
	select {
	case err := <-answer:
		if errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ECONNABORTED) {
			x.broken(mend, "%s is a stale mount: who served it is gone", dir)
		}
		return err == nil && fs.Type != unix.FUSE_SUPER_MAGIC
	case <-ctx.Done():
		x.broken(mend, "%s is mounted, but who serves it does not answer", dir)
	}
	return false
}

// processName is what a process is called.
func processName(pid int) string {
	if pid == 0 {
		return "somebody unknown"
	}
	name := setting("/proc/" + itoa(pid) + "/comm")
	if exe, err := os.Readlink("/proc/" + itoa(pid) + "/exe"); err == nil {
		name = filepath.Base(exe)
	}
	return name + " (process " + itoa(pid) + ")"
}
