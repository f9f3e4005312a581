package fuse

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The rules of POSIX and Linux for each system call that takes names, asked of a
// directory document and of a directory of the host: the same call must have the
// same errno, and leave the same behind. What these cannot show, since it needs
// privileges or other users, is the sticky bit, chown to others, devices, and
// immutable files. The bits that the view takes away are left out of the
// comparison, as are attributes beside user.*.

// ruleNames are names of every kind, relative to the directory.
var (
	longest = strings.Repeat("n", 255)
	tooLong = strings.Repeat("n", 256)
	tooDeep = strings.Repeat("d/../", 820) + "f"

	ruleNames = []string{
		"", ".", "d/.", "d/..", "f", "f/", "f/x", "closed", "d", "d/", "full", "full/x", "full/sub", "new", "new/", "missing/x",
		"l", "l/", "ld", "ld/", "ld/x", "dangling", "loop", "loop/x", "fifo", "sock", "ro", "ro/x", "ro/new", "noexec/x",
		"noread", longest, tooLong, "d/" + tooLong, tooDeep,
	}
	rulePairs = []string{
		"", "d/.", "f", "g", "f/x", "d", "e", "d/x", "full", "full/sub", "full/sub/x", "new", "new/", "missing/x", "l", "ld", "dangling", "fifo",
		"ro/x", "ro/new", "noexec/x", "closed", longest, tooLong,
	}
)

// makeRules makes what the names name. Times are 1e9, so that a change shows.
func makeRules(t *testing.T, dir string) {
	t.Helper()
	unmakeRules(dir)
	must(t, os.Mkdir(dir, 0o755))
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, d := range []string{"d", "e", "full", "full/sub", "ro", "noexec", "noread"} {
		must(t, os.Mkdir(at(d), 0o755))
	}
	for _, f := range []string{"f", "g", "closed", "full/x", "ro/x", "noexec/x"} {
		must(t, os.WriteFile(at(f), []byte("text of "+f), 0o644))
	}
	for l, to := range map[string]string{"l": "f", "ld": "d", "dangling": "target", "loop": "loop"} {
		must(t, os.Symlink(to, at(l)))
	}
	must(t, unix.Mkfifo(at("fifo"), 0o644))
	must(t, unix.Mknod(at("sock"), unix.S_IFSOCK|0o644, 0))
	must(t, unix.Setxattr(at("f"), "user.there", []byte("value"), 0))
	for name, mode := range map[string]uint32{"closed": 0, "ro": 0o555, "noexec": 0o666, "noread": 0o333} {
		must(t, unix.Chmod(at(name), mode))
	}
	ts := []unix.Timespec{{Sec: 1e9}, {Sec: 1e9}}
	for _, name := range []string{"f", "g", "closed", "full/x", "ro/x", "full/sub", "d", "e", "full", "ro", "noexec", "noread", "l", "ld", "dangling", "loop", "fifo", "sock", "."} {
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, at(name), ts, unix.AT_SYMLINK_NOFOLLOW))
	}
}

func unmakeRules(dir string) {
	filepath.WalkDir(dir, func(p string, e os.DirEntry, err error) error {
		if e != nil && e.IsDir() {
			unix.Chmod(p, 0o755)
		}
		return nil
	})
	os.RemoveAll(dir)
}

// state is what is in a directory: of each name its kind, mode, links, size,
// contents, and whether its times have changed.
func ruleState(dir string, ctimes map[string]unix.Timespec) []string {
	var all []string
	filepath.WalkDir(dir, func(p string, e os.DirEntry, err error) error {
		var st unix.Stat_t
		if e := unix.Lstat(p, &st); e != nil {
			return nil
		}
		rel, _ := filepath.Rel(dir, p)
		line := fmt.Sprintf("%.20s %o %d", rel, st.Mode&^0o7000, st.Nlink)
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			line += fmt.Sprint(" ", st.Size)
		}
		if st.Mtim.Sec != 1e9 {
			line += " mtime"
			if st.Mtim.Sec < 1e9 {
				line += fmt.Sprint(st.Mtim)
			}
		}
		if was, ok := ctimes[rel]; ok && was != st.Ctim {
			line += " ctime"
		}
		ctimes[rel] = st.Ctim
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFLNK:
			to, _ := os.Readlink(p)
			line += " -> " + to
		case unix.S_IFREG:
			fd, err := unix.Open(p, unix.O_RDONLY|unix.O_NOATIME, 0)
			if err == nil {
				b := make([]byte, 64)
				n, _ := unix.Read(fd, b)
				unix.Close(fd)
				line += fmt.Sprintf(" %q", b[:max(n, 0)])
			}
			b := make([]byte, 64)
			if n, err := unix.Getxattr(p, "user.new", b); err == nil {
				line += fmt.Sprintf(" user.new=%q", b[:n])
			}
		}
		all = append(all, line)
		return nil
	})
	return all
}

// rulePairOps are calls with two names.
var rulePairOps = map[string]func(p, o string) error{
	"link": unix.Link,
	"linkat with AT_SYMLINK_FOLLOW": func(p, o string) error {
		return unix.Linkat(unix.AT_FDCWD, p, unix.AT_FDCWD, o, unix.AT_SYMLINK_FOLLOW)
	},
	"rename": unix.Rename,
	"rename with NOREPLACE": func(p, o string) error {
		return unix.Renameat2(unix.AT_FDCWD, p, unix.AT_FDCWD, o, unix.RENAME_NOREPLACE)
	},
	"rename with EXCHANGE": func(p, o string) error {
		return unix.Renameat2(unix.AT_FDCWD, p, unix.AT_FDCWD, o, unix.RENAME_EXCHANGE)
	},
}

func rules() map[string]func(p string) (string, error) {
	ops := make(map[string]func(p string) (string, error))
	add := func(name string, f func(p string) error) {
		ops[name] = func(p string) (string, error) { return "", f(p) }
	}
	for name, flags := range map[string]int{
		"O_RDONLY": unix.O_RDONLY, "O_WRONLY": unix.O_WRONLY, "O_RDWR": unix.O_RDWR, "O_TRUNC": unix.O_WRONLY | unix.O_TRUNC,
		"O_RDONLY O_TRUNC": unix.O_RDONLY | unix.O_TRUNC, "O_APPEND": unix.O_WRONLY | unix.O_APPEND, "O_CREAT": unix.O_RDWR | unix.O_CREAT,
		"O_CREAT O_RDONLY": unix.O_CREAT, "O_CREAT O_EXCL": unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL, "O_CREAT O_TRUNC": unix.O_WRONLY | unix.O_CREAT | unix.O_TRUNC,
		"O_CREAT O_NOFOLLOW": unix.O_WRONLY | unix.O_CREAT | unix.O_NOFOLLOW, "O_CREAT O_DIRECTORY": unix.O_CREAT | unix.O_DIRECTORY,
		"O_DIRECTORY": unix.O_DIRECTORY, "O_NOFOLLOW": unix.O_NOFOLLOW, "O_PATH": unix.O_PATH, "O_PATH O_NOFOLLOW": unix.O_PATH | unix.O_NOFOLLOW,
		"O_TMPFILE": unix.O_TMPFILE | unix.O_RDWR, "O_TMPFILE O_RDONLY": unix.O_TMPFILE, "O_SYNC": unix.O_WRONLY | unix.O_SYNC, "O_DIRECT": unix.O_RDWR | unix.O_DIRECT,
		"O_NOATIME": unix.O_NOATIME,
	} {
		add("open with "+name, func(p string) error {
			fd, err := unix.Open(p, flags|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o640)
			if err == nil {
				if flags&unix.O_APPEND != 0 {
					_, err = unix.Write(fd, []byte("more"))
				}
				unix.Close(fd)
			}
			return err
		})
	}
	for mask := range uint32(8) {
		add(fmt.Sprint("access ", mask), func(p string) error { return unix.Access(p, mask) })
	}
	for _, mode := range []uint32{0, 0o644, 0o6755, 0o1777} {
		add(fmt.Sprintf("chmod %o", mode), func(p string) error { return unix.Chmod(p, mode) })
		add(fmt.Sprintf("mkdir %o", mode), func(p string) error { return unix.Mkdir(p, mode|0o700) })
	}
	add("chmod of a link", func(p string) error { return unix.Fchmodat(unix.AT_FDCWD, p, 0o600, unix.AT_SYMLINK_NOFOLLOW) })
	for _, id := range [][2]int{{-1, -1}, {os.Getuid(), os.Getgid()}, {0, -1}, {-1, 0}} {
		add(fmt.Sprint("chown ", id), func(p string) error { return unix.Chown(p, id[0], id[1]) })
		add(fmt.Sprint("lchown ", id), func(p string) error { return unix.Lchown(p, id[0], id[1]) })
	}
	for _, size := range []int64{0, 3, 100, -1, 1 << 62} {
		add(fmt.Sprint("truncate ", size), func(p string) error { return unix.Truncate(p, size) })
	}
	for name, ts := range map[string][]unix.Timespec{
		"now": nil, "both": {{Sec: 5, Nsec: 6}, {Sec: 7, Nsec: 8}}, "before 1970": {{Sec: -5}, {Sec: -7, Nsec: 8}}, "none": {{Nsec: unix.UTIME_OMIT}, {Nsec: unix.UTIME_OMIT}},
		"mtime": {{Nsec: unix.UTIME_OMIT}, {Sec: 9}}, "now and set": {{Nsec: unix.UTIME_NOW}, {Sec: 9}}, "bad": {{Nsec: 1e9}, {}},
	} {
		add("utimensat "+name, func(p string) error { return unix.UtimesNanoAt(unix.AT_FDCWD, p, ts, 0) })
		if ts != nil {
			add("utimensat of a link "+name, func(p string) error {
				return unix.UtimesNanoAt(unix.AT_FDCWD, p, ts, unix.AT_SYMLINK_NOFOLLOW)
			})
		}
	}
	add("rmdir", unix.Rmdir)
	add("unlink", unix.Unlink)
	add("symlink", func(p string) error { return unix.Symlink("text", p) })
	add("symlink of nothing", func(p string) error { return unix.Symlink("", p) })
	add("symlink too long", func(p string) error { return unix.Symlink(strings.Repeat("x", 4096), p) })
	add("symlink of 4095", func(p string) error { return unix.Symlink(strings.Repeat("x", 4095), p) })
	add("mkfifo", func(p string) error { return unix.Mkfifo(p, 0o640) })
	add("mknod of a socket", func(p string) error { return unix.Mknod(p, unix.S_IFSOCK|0o640, 0) })
	add("mknod of a file", func(p string) error { return unix.Mknod(p, unix.S_IFREG|0o640, 0) })
	add("mknod of a device", func(p string) error { return unix.Mknod(p, unix.S_IFCHR|0o640, int(unix.Mkdev(1, 3))) })
	add("mknod of a directory", func(p string) error { return unix.Mknod(p, unix.S_IFDIR|0o640, 0) })
	add("statfs", func(p string) error { return unix.Statfs(p, new(unix.Statfs_t)) })
	ops["stat"] = func(p string) (string, error) {
		var st unix.Stat_t
		err := unix.Stat(p, &st)
		return fmt.Sprintf("%o %d", st.Mode, st.Nlink), err
	}
	ops["readlink"] = func(p string) (string, error) {
		b := make([]byte, 3)
		n, err := unix.Readlink(p, b)
		return string(b[:max(n, 0)]), err
	}
	ops["list"] = func(p string) (string, error) {
		e, err := os.ReadDir(p)
		var all []string
		for _, e := range e {
			all = append(all, fmt.Sprintf("%.20s %v", e.Name(), e.Type()))
		}
		if e, ok := err.(*os.PathError); ok {
			err = e.Err
		}
		return fmt.Sprint(all), err
	}
	for name, v := range map[string][]byte{"": []byte("value"), " empty": nil, " of 64 KiB": make([]byte, 65536), " too large": make([]byte, 65537)} {
		add("setxattr"+name, func(p string) error { return unix.Setxattr(p, "user.new", v, 0) })
		add("lsetxattr"+name, func(p string) error { return unix.Lsetxattr(p, "user.new", v, 0) })
	}
	add("setxattr XATTR_CREATE", func(p string) error { return unix.Setxattr(p, "user.there", nil, unix.XATTR_CREATE) })
	add("setxattr XATTR_REPLACE", func(p string) error { return unix.Setxattr(p, "user.new", nil, unix.XATTR_REPLACE) })
	add("setxattr of both", func(p string) error { return unix.Setxattr(p, "user.new", nil, 3) })
	add("setxattr of a bad flag", func(p string) error { return unix.Setxattr(p, "user.new", nil, 4) })
	add("setxattr without a name", func(p string) error { return unix.Setxattr(p, "user.", nil, 0) })
	add("setxattr with a long name", func(p string) error { return unix.Setxattr(p, "user."+tooLong, nil, 0) })
	add("removexattr", func(p string) error { return unix.Removexattr(p, "user.there") })
	add("removexattr of none", func(p string) error { return unix.Removexattr(p, "user.none") })
	for _, size := range []int{0, 1, 100} {
		ops[fmt.Sprint("getxattr ", size)] = func(p string) (string, error) {
			b := make([]byte, size)
			n, err := unix.Getxattr(p, "user.there", b)
			return fmt.Sprint(n, string(b[:min(max(n, 0), size)])), err
		}
	}
	return ops
}

func TestTheRulesOfEachCall(t *testing.T) {
	r := newRig(t)
	tree := r.dirDoc("d1")
	native, seen := filepath.Join(r.host, "native"), r.in(testApp, "d1", "tree", "seen")
	onHost := filepath.Join(tree, "seen")
	t.Cleanup(func() { unmakeRules(native); unmakeRules(onHost) })
	ctimes := []map[string]unix.Timespec{nil, nil}
	fresh := func() {
		makeRules(t, native)
		makeRules(t, onHost) // as an earlier program of the host
		for i, dir := range []string{native, seen} {
			ctimes[i] = make(map[string]unix.Timespec)
			ruleState(dir, ctimes[i])
		}
	}
	fresh()
	calls, failures, combinations := 0, 0, 0
	check := func(what string, call func(at func(name string) string) (string, error)) {
		if combinations++; combinations%8 != 0 && !long() {
			return // maps have no order, so it is another part each time
		}
		var said [2]string
		ok := false
		for i, dir := range []string{native, seen} {
			out, err := call(func(name string) string {
				if name == "" {
					return ""
				}
				return dir + "/" + name
			})
			said[i] = fmt.Sprint(out, " ", err)
			ok = ok || err == nil
		}
		calls++
		// Whether a name is a directory, or is there at all, the kernel finds
		// before it asks for permission to change what the name is in.
		if said[0] != said[1] && !(said[0] == " permission denied" && !ok && (strings.Contains(what, "ro/") || strings.Contains(what, "noexec/"))) {
			t.Errorf("%s: %s, on the host %s", what, said[1], said[0])
			failures++
		}
		if !ok {
			return
		}
		want, got := ruleState(native, ctimes[0]), ruleState(seen, ctimes[1])
		if !slices.Equal(want, got) {
			failures++
			for i := range max(len(want), len(got)) {
				if i >= len(want) || i >= len(got) || want[i] != got[i] {
					t.Errorf("%s leaves %q, on the host %q", what, got[min(i, len(got)):min(i+1, len(got))], want[min(i, len(want)):min(i+1, len(want))])
				}
			}
		}
		fresh()
	}
	for op, f := range rules() {
		for _, name := range ruleNames {
			check(fmt.Sprintf("%s of %.30q", op, name), func(at func(string) string) (string, error) { return f(at(name)) })
			if failures > 30 {
				t.FailNow()
			}
		}
	}
	for op, f := range rulePairOps {
		for _, p := range rulePairs {
			for _, o := range rulePairs {
				check(fmt.Sprintf("%s %.30q to %.30q", op, p, o), func(at func(string) string) (string, error) { return "", f(at(p), at(o)) })
				if failures > 30 {
					t.FailNow()
				}
			}
		}
	}
	t.Log(calls, "calls")
}
