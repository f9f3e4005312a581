package doctor

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"docportal/internal/sandbox"
)

// programs looks after the programs that the sandbox and the file view run.
func (x *examination) programs(ctx context.Context) {
	if there("/.flatpak-info") {
		x.broken("", "this runs inside of a sandbox; what it sees is the sandbox, not the machine")
	}
	for _, p := range []struct{ name, pkg string }{{"bwrap", "bubblewrap"}, {"xdg-dbus-proxy", "xdg-dbus-proxy"}} {
		path := program(p.name)
		if path == "" {
			x.broken(x.packages.add(p.pkg), "%s is not installed: no app can be sandboxed", p.name)
			continue
		}
		version, fixed, old, err := sandbox.KnownHoles(ctx, p.name, path)
		switch {
		case err != nil:
			x.broken(x.packages.add(p.pkg), "%s cannot be run: %v", path, err)
		case old:
			x.warn(x.packages.renew(p.pkg), "%s %s has known holes, unless your distribution has mended them; version %s has not", p.name, version, fixed)
		}
	}
	x.fusermount()
}

// fusermount looks after the program that mounts for ordinary users.
func (x *examination) fusermount() {
	path := program("fusermount3")
	if path == "" {
		path = program("fusermount")
	}
	if path == "" {
		x.broken(x.packages.add("fuse3"), "fusermount3 is not installed: documents cannot be shown")
		return
	}
	if os.Geteuid() == 0 {
		return
	}
	var st unix.Stat_t
	var fs unix.Statfs_t
	if unix.Stat(path, &st) != nil || unix.Statfs(path, &fs) != nil {
		return
	}
	switch {
	// Looked at first: what chmod(1) sets there means nothing.
	case fs.Flags&unix.ST_NOSUID != 0:
		x.broken(asRoot("mount -o remount,suid ")+`"$(df -P `+quote(path)+` | awk 'END { print $6 }')"`,
			"%s lies on a file system that is mounted nosuid: documents cannot be shown", path)
	case st.Mode&unix.S_ISUID == 0 || st.Uid != 0:
		x.broken(asRoot("chown root "+path)+" && "+asRoot("chmod 4755 "+path), "%s is not set-user-id root: documents cannot be shown", path)
	}
}

// kernel looks after what the kernel must allow.
func (x *examination) kernel(ctx context.Context) {
	x.fuseDevice()
	x.userNamespaces(ctx)
}

func (x *examination) fuseDevice() {
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err == nil {
		f.Close()
		return
	}
	switch {
	case errors.Is(err, os.ErrNotExist):
		x.broken(asRoot("modprobe fuse"), "there is no /dev/fuse: documents cannot be shown")
	case errors.Is(err, os.ErrPermission):
		x.broken(asRoot("chmod 666 /dev/fuse"), "/dev/fuse is not open to you: documents cannot be shown")
	default:
		x.broken(asRoot("modprobe fuse"), "%v: documents cannot be shown", err)
	}
}

// userNamespaces tries what each start of a sandbox does.
func (x *examination) userNamespaces(ctx context.Context) {
	var said bytes.Buffer
	var err error
	if bwrap := program("bwrap"); bwrap != "" {
		cmd := exec.CommandContext(ctx, bwrap, "--unshare-user", "--unshare-pid", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--", "/bin/true")
		cmd.Env = []string{}
		cmd.Stderr = &said
		err = cmd.Run()
	} else {
		cmd := exec.CommandContext(ctx, "/bin/true")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER}
		err = cmd.Run()
	}
	if err == nil {
		return
	}
	const what = "you cannot make user namespaces: no app can be sandboxed"
	switch {
	case !there("/proc/self/ns/user"):
		x.broken("", "%s; this kernel was built without them (CONFIG_USER_NS)", what)
	case setting("/proc/sys/user/max_user_namespaces") == "0":
		x.broken(asRoot("sysctl -w user.max_user_namespaces=15000"), "%s", what)
	case setting("/proc/sys/kernel/unprivileged_userns_clone") == "0":
		x.broken(asRoot("sysctl -w kernel.unprivileged_userns_clone=1"), "%s", what)
	case setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
		x.broken(asRoot("sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"), "%s", what)
	default:
		reason := strings.TrimSpace(said.String())
		if reason == "" {
			reason = err.Error()
		}
		x.broken("", "bubblewrap makes no sandbox: %s", reason)
	}
}

// setting reads one line of /proc.
func setting(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
