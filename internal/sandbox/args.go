package sandbox

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Features is what the installed bwrap can do, found out by asking it: what
// distributions patch in does not show in its version.
type Features struct {
	BindFD       bool // --bind-fd and --ro-bind-fd
	DisableUsers bool // --disable-userns
}

// probe asks bwrap for its options.
func probe(ctx context.Context, bwrap string) (Features, error) {
	out, err := exec.CommandContext(ctx, bwrap, "--help").CombinedOutput()
	if err != nil {
		return Features{}, fmt.Errorf("%s --help: %w", bwrap, err)
	}
	has := func(option string) bool { return bytes.Contains(out, []byte(" "+option+" ")) }
	for _, needed := range []string{"--args", "--lock-file", "--info-fd", "--block-fd", "--perms", "--ro-bind-data", "--seccomp"} {
		if !has(needed) {
			return Features{}, fmt.Errorf("%s is too old: it has no %s", bwrap, needed)
		}
	}
	return Features{has("--bind-fd") && has("--ro-bind-fd"), has("--disable-userns")}, nil
}

// files are the descriptors that a child inherits. Their numbers in the child
// are known when the command line is made.
type files struct {
	list  []*os.File // the child's descriptors from 3 on
	owned []*os.File // those of list that were made for the child alone
	dry   bool       // nothing is made, the numbers are all that counts
	id    string     // the instance, which the files in memory are named after
	err   error
}

// add passes a descriptor on, which stays the caller's, and returns its number
// in the child.
func (fs *files) add(f *os.File) string {
	fs.list = append(fs.list, f)
	return strconv.Itoa(2 + len(fs.list))
}

// data passes a sealed file in memory on.
func (fs *files) data(name string, data []byte) string {
	if fs.dry {
		return fs.add(nil)
	}
	f, err := memfd(name+memfdMark+fs.id, data)
	if err != nil {
		if fs.err == nil {
			fs.err = err
		}
		return "-1"
	}
	fs.owned = append(fs.owned, f)
	return fs.add(f)
}

func (fs *files) close() {
	for _, f := range fs.owned {
		f.Close()
	}
	fs.owned = nil
}

// memfd makes a file in memory that nobody can change any more.
func memfd(name string, data []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err = f.WriteAt(data, 0); err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("memfd %s: %w", name, err)
	}
	return f, nil
}

// mountArgs are bwrap's options for the mounts.
func mountArgs(mounts []Mount, ft Features, fs *files) []string {
	var args []string
	var seal []string
	for i, m := range mounts {
		if m.Perms != 0 && m.Kind != Bind && m.Kind != ROBind && m.Kind != DevBind {
			args = append(args, "--perms", fmt.Sprintf("%04o", m.Perms))
		}
		switch m.Kind {
		case Bind, ROBind:
			option := "--bind"
			if m.Kind == ROBind {
				option = "--ro-bind"
			}
			if m.file != nil && ft.BindFD {
				args = append(args, option+"-fd", fs.add(m.file), m.Dest)
			} else {
				args = append(args, option, m.Source, m.Dest)
			}
		case DevBind:
			args = append(args, "--dev-bind", m.Source, m.Dest)
		case Tmpfs:
			args = append(args, "--tmpfs", m.Dest)
		case Mask:
			args = append(args, "--tmpfs", m.Dest)
			if !covered(mounts[i+1:], m.Dest) {
				seal = append(seal, "--remount-ro", m.Dest)
			}
		case Blank:
			args = append(args, "--ro-bind", "/dev/null", m.Dest)
		case Dir:
			args = append(args, "--dir", m.Dest)
		case Symlink:
			args = append(args, "--symlink", m.Source, m.Dest)
		case Proc:
			args = append(args, "--proc", m.Dest)
		case Dev:
			args = append(args, "--dev", m.Dest)
		case File:
			args = append(args, "--file", fs.data(filepath.Base(m.Dest), m.Data), m.Dest)
		case ROData:
			args = append(args, "--ro-bind-data", fs.data(filepath.Base(m.Dest), m.Data), m.Dest)
		}
	}
	// At the end: until then mount points are made in them.
	return append(append(args, seal...), "--remount-ro", "/")
}

// infoMounts put the metadata into a sandbox, twice: when a process dies its
// mounts go first, and the file below must still tell the truth then.
func infoMounts(metadata []byte) []Mount {
	return []Mount{
		{Kind: File, Dest: "/.flatpak-info", Data: metadata, Perms: 0o600},
		{Kind: ROData, Dest: "/.flatpak-info", Data: metadata},
	}
}

// proxyDir is where the proxy sees the directory for its sockets. The path of a
// socket has at most 107 bytes; that of the instance directory may have more.
const proxyDir = "/run/proxy"

// proxyMounts is the whole file system of the proxy: programs, the buses, and
// the directory for its own sockets.
func (pl *Plan) proxyMounts() []Mount {
	all := programMounts()
	all = append(all, Mount{Kind: Tmpfs, Dest: "/tmp"}, Mount{Kind: Tmpfs, Dest: "/run"})
	sockets := slices.Clone(pl.Host.SessionBus.Sockets)
	if pl.SystemBus {
		sockets = append(sockets, pl.Host.SystemBus.Sockets...)
	}
	sockets = append(sockets, pl.accessibilityBus.Sockets...)
	for _, path := range sockets {
		if _, err := os.Stat(path); err == nil { // of several addresses one will do
			all = append(all, Mount{Kind: ROBind, Source: path, Dest: path})
		}
	}
	dir := filepath.Join(pl.Host.instances(), pl.Instance, "proxy")
	all = append(all, Mount{Kind: Bind, Source: dir, Dest: proxyDir})
	return append(all, infoMounts(pl.Metadata)...)
}

// proxyBwrap is the command line of the proxy's bwrap, without bwrap. info is
// where bwrap reports the proxy's pid, sync is what the proxy writes its ready
// byte to, and ends with.
func (pl *Plan) proxyBwrap(proxy string, ft Features, fs *files, info, sync *os.File) []string {
	args := pl.proxyOptions(ft, fs, info)
	rules := pl.proxyRules(fs, sync)
	return []string{"--args", fs.data("bwrap-args", join(args)), "--", proxy, "--args=" + fs.data("proxy-args", join(rules))}
}

// proxyArgv is the proxy's command line with nothing in files, for people.
func (pl *Plan) proxyArgv(proxy string, ft Features) []string {
	fs := &files{dry: true}
	args := append(pl.proxyOptions(ft, fs, nil), "--", proxy)
	return append(args, pl.proxyRules(fs, nil)...)
}

func (pl *Plan) proxyOptions(ft Features, fs *files, info *os.File) []string {
	args := []string{
		"--unshare-user", "--unshare-pid", "--as-pid-1", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try",
		"--die-with-parent", "--new-session",
		"--info-fd", fs.add(info),
	}
	return append(args, mountArgs(pl.proxyMounts(), ft, fs)...)
}

// proxyRules are the proxy's own arguments.
func (pl *Plan) proxyRules(fs *files, sync *os.File) []string {
	rules := []string{"--fd=" + fs.add(sync)}
	if pl.as == nil {
		rules = append(rules, pl.Host.SessionBus.Address, proxyDir+"/session")
		rules = append(rules, pl.Session...)
	}
	if pl.SystemBus {
		rules = append(rules, pl.Host.SystemBus.Address, proxyDir+"/system")
		rules = append(rules, pl.System...)
	}
	if pl.accessibilityBus.Address != "" {
		rules = append(rules, pl.accessibilityBus.Address, proxyDir+"/"+accessibilityName)
		rules = append(rules, accessibilityRules()...)
	}
	return rules
}

// appFiles are what of a start the app's bwrap gets.
type appFiles struct {
	info, block, sync *os.File
	gate              *gate
	defaults          []syscall.Signal
}

// appBwrap is the command line of the app's bwrap, without bwrap.
func (pl *Plan) appBwrap(ft Features, fs *files, a appFiles) []string {
	args := []string{"--args", fs.data("bwrap-args", join(pl.appOptions(ft, fs, a))), "--"}
	g := a.gate
	return append(args, gateCommand(fs.add(g.exe), fs.add(g.innerOpen), fs.add(g.innerHello), a.defaults, pl.as, pl.Command)...)
}

// appArgv is the app's command line with nothing in files, for people.
func (pl *Plan) appArgv(ft Features) []string {
	fs := &files{dry: true}
	args := append(pl.appOptions(ft, fs, appFiles{}), "--")
	return append(args, gateCommand(fs.add(nil), fs.add(nil), fs.add(nil), nil, pl.as, pl.Command)...)
}

// appOptions are the options of the app's bwrap.
func (pl *Plan) appOptions(ft Features, fs *files, a appFiles) []string {
	args := []string{"--unshare-user"}
	if pl.as != nil {
		// A daemon's capabilities are worth something in the machine's own
		// namespace only, and the gate becomes its user.
		args = pl.as.capabilityOptions()
	}
	args = append(args, "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try")
	if !pl.IPC {
		args = append(args, "--unshare-ipc")
	}
	if !pl.Network {
		args = append(args, "--unshare-net")
	}
	if pl.as == nil && ft.DisableUsers && !has(pl.Profile.Features, "userns") {
		args = append(args, "--disable-userns")
	}
	args = append(args, "--die-with-parent",
		"--info-fd", fs.add(a.info), "--block-fd", fs.add(a.block))
	if pl.as == nil || pl.SystemBus {
		args = append(args, "--sync-fd", fs.add(a.sync))
	}
	args = append(args, mountArgs(slices.Concat(pl.Mounts, infoMounts(pl.Metadata)), ft, fs)...)
	args = append(args, "--seccomp", fs.data("seccomp", pl.seccomp))
	args = append(args, "--lock-file", filepath.Join(pl.Host.instances(), pl.Instance, ".ref"))
	for _, name := range slices.Sorted(maps.Keys(pl.Env)) {
		args = append(args, "--setenv", name, pl.Env[name])
	}
	return append(args, "--chdir", pl.Cwd)
}

// join makes the NUL-separated form of arguments that --args reads. No
// argument has a NUL in it: profiles with one are refused, and command lines,
// variables and paths cannot hold any.
func join(args []string) []byte {
	var b strings.Builder
	for _, a := range args {
		b.WriteString(a)
		b.WriteByte(0)
	}
	return []byte(b.String())
}
