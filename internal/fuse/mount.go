package fuse

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrMounted is returned by Mount for a directory on which another living
// daemon has mounted its view.
var ErrMounted = errors.New("another document portal is mounted there")

// maxWrite is the size of the largest read or write request.
const maxWrite = 1 << 20

// mountOptions make a mount that is recognised as the document portal's
// (fuse.portal) and from which nothing gains privileges.
var mountOptions = strings.Join([]string{
	"nosuid", "nodev", "fsname=portal", "subtype=portal", "max_read=" + strconv.Itoa(maxWrite),
}, ",")

// helper finds the set-user-id program that mounts for ordinary users.
func helper() (string, error) { return findHelper([]string{"/usr/bin", "/bin"}) }

// findHelper looks in PATH and then in dirs: PATH may be empty.
func findHelper(dirs []string) (string, error) {
	for _, name := range []string{"fusermount3", "fusermount"} {
		if p, err := exec.LookPath(name); err == nil {
			return p, nil
		}
		for _, dir := range dirs {
			if p, err := exec.LookPath(dir + "/" + name); err == nil {
				return p, nil
			}
		}
	}
	return "", errors.New("cannot mount: fusermount3 is not installed")
}

// mountDevice mounts on dir and returns the FUSE device of the mount, which
// is the caller's to close: the mount lives as long as somebody has it open.
// Nobody answers yet: no name below dir may be used before a server does.
func mountDevice(dir string) (*os.File, error) {
	if _, err := os.Stat("/dev/fuse"); err != nil {
		return nil, fmt.Errorf("cannot mount: FUSE is not available: %w", err)
	}
	bin, err := helper()
	if err != nil {
		return nil, err
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	defer unix.Close(fds[0])
	remote := os.NewFile(uintptr(fds[1]), "fusermount")
	defer remote.Close()

	var stderr bytes.Buffer
	cmd := exec.Command(bin, "-o", mountOptions, "--", dir)
	cmd.Env = append(os.Environ(), "_FUSE_COMMFD=3", "LC_ALL=C")
	cmd.ExtraFiles = []*os.File{remote}
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("cannot mount on %s: %s: %w: %s", dir, bin, err, bytes.TrimSpace(stderr.Bytes()))
	}
	// The helper has sent it before it ended, or never will.
	buf, oob := make([]byte, 4), make([]byte, unix.CmsgSpace(4))
	_, oobn, _, _, err := unix.Recvmsg(fds[0], buf, oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	if err != nil {
		return nil, fmt.Errorf("cannot mount on %s: %s gave no device: %w", dir, bin, err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err == nil && len(messages) == 1 {
		if rights, err := unix.ParseUnixRights(&messages[0]); err == nil && len(rights) == 1 {
			return os.NewFile(uintptr(rights[0]), "/dev/fuse"), nil
		}
	}
	return nil, fmt.Errorf("cannot mount on %s: %s gave no device", dir, bin)
}

// detach takes the topmost mount on dir away, whatever is open on it.
func detach(dir string) error {
	bin, err := helper()
	if err != nil {
		return err
	}
	var stderr bytes.Buffer
	cmd := exec.Command(bin, "-u", "-z", "-q", "--", dir)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("cannot unmount %s: %w: %s", dir, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return nil
}

// whereabouts say which mount is ours, whoever has mounted on dir since, and which
// connection, whoever has its number since.
func whereabouts(dir string, dev uint64) string {
	return fmt.Sprintf("%d %d %s", dev, connected(dev), dir)
}

// parseWhereabouts is what whereabouts has made its text of.
func parseWhereabouts(text string) (dir string, dev uint64, since int64) {
	number, rest, _ := strings.Cut(text, " ")
	time, dir, _ := strings.Cut(rest, " ")
	dev, _ = strconv.ParseUint(number, 10, 64)
	since, _ = strconv.ParseInt(time, 10, 64)
	return dir, dev, since
}

// connection is where the kernel lists a mount's connection, if fusectl is mounted
// (Documentation/filesystems/fuse.rst). It goes with the mount's last user.
func connection(dev uint64) string {
	return fmt.Sprintf("/sys/fs/fuse/connections/%d", unix.Minor(dev))
}

// connected is when a mount's connection began, in nanoseconds since 1970, or 0
// where that is not known.
func connected(dev uint64) int64 {
	var st unix.Stat_t
	if err := unix.Stat(connection(dev), &st); err != nil {
		return 0
	}
	return st.Mtim.Nano()
}

// Detach takes away a mount by its whereabouts (Options.Keep), whatever is open on it, if
// it is there.
func Detach(where string) error {
	dir, dev, _ := parseWhereabouts(where)
	if _, ok := mountOf(dir, dev); !ok {
		return nil
	}
	return detach(dir)
}

// Abort ends the connection of a mount, by its whereabouts, whoever has it: what is
// asked fails. Where no fusectl is mounted it does nothing.
func Abort(where string) {
	if _, dev, since := parseWhereabouts(where); since != 0 && since == connected(dev) {
		abort(dev)
	}
}

func abort(dev uint64) { os.WriteFile(connection(dev)+"/abort", []byte("1"), 0) }

// prepare makes dir ready to be mounted on: a mount whose daemon is dead is
// taken away, one that lives is ErrMounted, or taken away if replace is set.
func prepare(dir string, replace bool, log *slog.Logger) error {
	// A directory can carry many mounts; each round removes one.
	for range 16 {
		state, err := look(dir)
		switch state {
		case mountNone:
			return makeReady(dir, err, log)
		case mountLive:
			if !replace {
				return fmt.Errorf("%s: %w", dir, ErrMounted)
			}
			log.Info("replacing a mounted document portal", "directory", dir)
		case mountDead:
			log.Info("removing the mount of a dead document portal", "directory", dir)
		}
		if err := detach(dir); err != nil {
			return err
		}
	}
	return fmt.Errorf("%s: too many mounts", dir)
}

type mountState int

const (
	mountNone mountState = iota // none that is a document portal's
	mountDead                   // its daemon has gone
	mountLive
)

// lookTime is how long a daemon may take to answer for its mount before it
// counts as one that lives but hangs.
const lookTime = time.Second

// look says what is mounted on dir. With mountNone err is that of stat(dir).
func look(dir string) (mountState, error) {
	m, ok := topMount(dir)
	if ok && m.typ != "fuse.portal" {
		ok = false
	}
	if !ok {
		_, err := os.Stat(dir)
		if errors.Is(err, syscall.ENOTCONN) {
			// Mounted in a way that mountinfo does not show as such.
			return mountDead, err
		}
		return mountNone, err
	}
	// stat(2) waits for the daemon; if that is stuck, so is the thread,
	// which cannot be helped and ends with this process or the mount.
	answer := make(chan error, 1)
	go func() {
		var st unix.Stat_t
		answer <- unix.Stat(dir, &st)
	}()
	t := time.NewTimer(lookTime)
	defer t.Stop()
	select {
	case err := <-answer:
		if err == syscall.ENOTCONN || err == syscall.ECONNABORTED {
			return mountDead, err
		}
	case <-t.C:
	}
	return mountLive, nil
}

// makeReady creates dir or makes it writable to its owner, without which
// fusermount refuses it. err is that of stat(dir).
func makeReady(dir string, err error, log *slog.Logger) error {
	if errors.Is(err, os.ErrNotExist) {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		return nil
	}
	if err != nil {
		return err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return &os.PathError{Op: "mount", Path: dir, Err: syscall.ENOTDIR}
	}
	if info.Mode().Perm() != 0o700 {
		if err := os.Chmod(dir, 0o700); err != nil {
			return err
		}
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if names, _ := f.Readdirnames(1); len(names) > 0 {
		log.Warn("the mount directory is not empty; its files are out of reach while it is mounted on", "directory", dir)
	}
	return nil
}

// mountInfo is a line of /proc/self/mountinfo (proc(5)).
type mountInfo struct {
	id    string // unique among the mounts that are
	dev   string // major:minor
	point string
	typ   string
}

func parseMountInfo(line string) (mountInfo, bool) {
	before, after, ok := strings.Cut(line, " - ")
	f, g := strings.Fields(before), strings.Fields(after)
	if !ok || len(f) < 6 || len(g) < 2 {
		return mountInfo{}, false
	}
	return mountInfo{id: f[0], dev: f[2], point: unescape(f[4]), typ: g[0]}, true
}

// unescape undoes the kernel's \ooo for bytes that would end a field.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// topMount returns the last mount made on dir, an absolute path without links.
func topMount(dir string) (top mountInfo, ok bool) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return top, false
	}
	return topMountIn(b, dir)
}

// topMountIn is topMount for the text of mountinfo.
func topMountIn(b []byte, dir string) (top mountInfo, ok bool) {
	for line := range strings.Lines(string(b)) {
		if m, good := parseMountInfo(strings.TrimSuffix(line, "\n")); good && m.point == dir {
			top, ok = m, true
		}
	}
	return top, ok
}

// Visible reports whether a process sees a view mounted on dir. The error is that
// of asking.
func Visible(pid int, dir string) (bool, error) {
	if parent, err := filepath.EvalSymlinks(filepath.Dir(dir)); err == nil {
		dir = filepath.Join(parent, filepath.Base(dir))
	}
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/mountinfo")
	if err != nil {
		return false, err
	}
	m, ok := topMountIn(b, dir)
	return ok && m.typ == "fuse.portal", nil
}

// mountsOf returns the mounts of the device dev.
func mountsOf(dev uint64) (all []mountInfo) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	return mountsIn(b, dev)
}

// mountsIn is mountsOf for the text of mountinfo.
func mountsIn(b []byte, dev uint64) (all []mountInfo) {
	want := fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev))
	for line := range strings.Lines(string(b)) {
		if m, ok := parseMountInfo(strings.TrimSuffix(line, "\n")); ok && m.dev == want {
			all = append(all, m)
		}
	}
	return all
}

// mountOf returns the mount of the device dev on dir.
func mountOf(dir string, dev uint64) (mountInfo, bool) {
	for _, m := range mountsOf(dev) {
		if m.point == dir {
			return m, true
		}
	}
	return mountInfo{}, false
}
