package fuse

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// said puts together what calls have answered.
type said struct{ strings.Builder }

func (s *said) add(what string, values ...any) {
	fmt.Fprint(s, what, ": ")
	fmt.Fprintln(s, values...)
}

// unusual are ways to use files that few programs have, in the working directory.
var unusual = map[string]func(s *said){
	"names": func(s *said) {
		for _, name := range []string{"\xff\xfe not UTF-8", strings.Repeat("n", 255), "line\nbreak\t\x01", " ", "-rf", "...", `\`, strings.Repeat("n", 256)} {
			s.add("create", os.WriteFile(name, []byte("x"), 0o600) == nil)
			l, err := os.ReadDir(".")
			s.add("list", len(l) == 1 && l[0].Name() == name, err)
			s.add("rename", unix.Rename(name, "o"), unix.Rename("o", name), unix.Unlink(name))
		}
	},
	"a path longer than PATH_MAX": func(s *said) {
		top, err := unix.Open(".", unix.O_RDONLY, 0)
		s.add("open", err)
		defer unix.Close(top)
		name := strings.Repeat("d", 200)
		for range 60 {
			s.add("", unix.Mkdir(name, 0o755), unix.Chdir(name))
		}
		s.add("write", os.WriteFile("f", []byte("deep"), 0o600))
		b, err := os.ReadFile("f")
		s.add("read", string(b), err)
		s.add("change", unix.Rename("f", "g"), unix.Chmod("g", 0o640), unix.Unlink("g"))
		for range 60 {
			s.add("", unix.Chdir(".."), unix.Rmdir(name))
		}
		s.add("back", unix.Fchdir(top))
	},
	"times": func(s *said) {
		for _, sec := range []int64{-5e9, -2147483648, -1, 0, 2147483648, 5e9, 15032385535, 15032385536, 1 << 40} {
			s.add("create", os.WriteFile("f", nil, 0o600))
			s.add("set", unix.UtimesNanoAt(unix.AT_FDCWD, "f", []unix.Timespec{{Sec: sec, Nsec: 1}, {Sec: sec, Nsec: 999999999}}, 0))
			var st unix.Stat_t
			s.add("stat", unix.Stat("f", &st), st.Atim, st.Mtim)
		}
		for _, a := range []unix.Timespec{{Sec: 5, Nsec: 6}, {Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_OMIT}} {
			for _, m := range []unix.Timespec{{Sec: 7, Nsec: 8}, {Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_OMIT}} {
				old := []unix.Timespec{{Sec: 1e9, Nsec: 1}, {Sec: 1e9, Nsec: 2}}
				s.add("set", unix.UtimesNanoAt(unix.AT_FDCWD, "f", old, 0), unix.UtimesNanoAt(unix.AT_FDCWD, "f", []unix.Timespec{a, m}, 0))
				var st unix.Stat_t
				s.add("stat", unix.Stat("f", &st))
				for _, t := range []unix.Timespec{st.Atim, st.Mtim} {
					if t.Sec > 1e9 {
						s.add("now")
					} else {
						s.add("", t)
					}
				}
			}
		}
		s.add("write", os.WriteFile("f", []byte("x"), 0o600))
		fd, err := unix.Open("f", unix.O_RDWR, 0)
		s.add("open", err)
		defer unix.Close(fd)
		_, err = unix.Write(fd, []byte("y"))
		s.add("write", err, unix.UtimesNanoAt(unix.AT_FDCWD, procPath(fd), []unix.Timespec{{Sec: 5}, {Sec: 6}}, 0))
		var st unix.Stat_t
		s.add("stat", unix.Fstat(fd, &st), st.Mtim)
	},
	"a file without a name": func(s *said) {
		for _, flags := range []int{0, unix.O_EXCL} {
			fd, err := unix.Open(".", unix.O_TMPFILE|unix.O_RDWR|flags, 0o640)
			s.add("open", err)
			n, err := unix.Write(fd, []byte("text"))
			s.add("write", n, err)
			s.add("link", unix.Linkat(unix.AT_FDCWD, procPath(fd), unix.AT_FDCWD, "f", unix.AT_SYMLINK_FOLLOW))
			s.add("link", unix.Linkat(fd, "", unix.AT_FDCWD, "f", unix.AT_EMPTY_PATH))
			b, err := os.ReadFile("f")
			s.add("read", string(b), err != nil, unix.Unlink("f"), unix.Close(fd))
		}
	},
	"a file that was removed": func(s *said) {
		s.add("write", os.WriteFile("f", []byte("text"), 0o600))
		fd, err := unix.Open("f", unix.O_RDWR, 0)
		s.add("open", err, unix.Unlink("f"))
		defer unix.Close(fd)
		var st unix.Stat_t
		s.add("stat", unix.Fstat(fd, &st), st.Nlink, st.Size)
		s.add("change", unix.Fchmod(fd, 0o644), unix.Ftruncate(fd, 2), unix.Fsetxattr(fd, "user.a", []byte("b"), 0))
		b, err := os.ReadFile(procPath(fd))
		s.add("read again", string(b), err)
		s.add("link", unix.Linkat(unix.AT_FDCWD, procPath(fd), unix.AT_FDCWD, "back", unix.AT_SYMLINK_FOLLOW))
		m, err := unix.Mmap(fd, 0, 2, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		s.add("map", string(m), err)
		if err == nil {
			m[0] = 'T'
			unix.Munmap(m)
		}
		n, err := unix.Pread(fd, b, 0)
		s.add("read", n, string(b), err, unix.Fstat(fd, &st), st.Mode, st.Size)
	},
	"a directory that was removed": func(s *said) {
		s.add("make", unix.Mkdir("d", 0o755))
		fd, err := unix.Open("d", unix.O_RDONLY, 0)
		s.add("open", err, unix.Rmdir("d"))
		defer unix.Close(fd)
		var st unix.Stat_t
		s.add("stat", unix.Fstat(fd, &st), st.Nlink)
		n, err := unix.Getdents(fd, make([]byte, 4096))
		s.add("list", n, err)
		_, err = unix.Openat(fd, "f", unix.O_CREAT|unix.O_WRONLY, 0o600)
		s.add("make in it", err, unix.Mkdirat(fd, "d", 0o755), unix.Symlinkat("x", fd, "l"))
		s.add("its parent", unix.Fstatat(fd, "..", &st, 0), st.Mode&unix.S_IFMT)
	},
	"a reference": func(s *said) {
		s.add("write", os.WriteFile("f", []byte("text"), 0o600), unix.Symlink("to", "l"))
		fd, err := unix.Open("f", unix.O_PATH, 0)
		s.add("open", err)
		defer unix.Close(fd)
		b, err := os.ReadFile(procPath(fd))
		s.add("read", string(b), err, unix.Chmod(procPath(fd), 0o640), unix.Faccessat(fd, "", unix.R_OK, unix.AT_EMPTY_PATH))
		_, err = unix.Read(fd, b)
		s.add("read of it", err)
		var st unix.Stat_t
		s.add("stat", unix.Fstatat(fd, "", &st, unix.AT_EMPTY_PATH), st.Mode, st.Size)
		l, err := unix.Open("l", unix.O_PATH|unix.O_NOFOLLOW, 0)
		s.add("open a link", err)
		defer unix.Close(l)
		n, err := unix.Readlinkat(l, "", b)
		s.add("read it", string(b[:max(n, 0)]), err)
		s.add("link it", unix.Linkat(unix.AT_FDCWD, "l", unix.AT_FDCWD, "l2", 0))
		_, _, err = unix.NameToHandleAt(unix.AT_FDCWD, "f", 0)
		s.add("handle", err)
	},
	"a large file with holes": func(s *said) {
		f, err := os.Create("f")
		s.add("create", err)
		defer f.Close()
		_, err = f.WriteAt([]byte("end"), 5<<30)
		s.add("write", err)
		var st unix.Stat_t
		s.add("stat", unix.Fstat(int(f.Fd()), &st), st.Size, st.Blocks < 100)
		b := make([]byte, 10)
		n, err := f.ReadAt(b, 5<<30-2)
		s.add("read", n, b, err)
		for _, from := range []int64{0, 1 << 20, 5 << 30, 6 << 30} {
			for _, whence := range []int{unix.SEEK_DATA, unix.SEEK_HOLE} {
				at, err := unix.Seek(int(f.Fd()), from, whence)
				s.add("seek", at, err)
			}
		}
		s.add("truncate", f.Truncate(7<<32), unix.Ftruncate(int(f.Fd()), 1<<62), unix.Fstat(int(f.Fd()), &st), st.Size)
	},
	"copies in the kernel": func(s *said) {
		want := make([]byte, 300_000)
		for i := range want {
			want[i] = byte(rand.Uint32())
		}
		s.add("write", os.WriteFile("f", want, 0o600))
		from, err := unix.Open("f", unix.O_RDONLY, 0)
		s.add("open", err)
		defer unix.Close(from)
		for name, copy := range map[string]func(to int, at int64) (int, error){
			"sendfile": func(to int, at int64) (int, error) { return unix.Sendfile(to, from, &at, len(want)) },
			"copy_file_range": func(to int, at int64) (int, error) {
				off := at
				return unix.CopyFileRange(from, &at, to, &off, len(want), 0)
			},
			"splice": func(to int, at int64) (int, error) {
				var p [2]int
				if err := unix.Pipe(p[:]); err != nil {
					return 0, err
				}
				defer unix.Close(p[0])
				defer unix.Close(p[1])
				n, err := unix.Splice(from, &at, p[1], nil, 4096, 0)
				if err != nil || n == 0 {
					return 0, err
				}
				m, err := unix.Splice(p[0], nil, to, nil, int(n), 0)
				return int(m), err
			},
		} {
			to, err := unix.Open("to", unix.O_RDWR|unix.O_CREAT|unix.O_TRUNC, 0o600)
			n := 0
			for err == nil && n < len(want) {
				var m int
				if m, err = copy(to, int64(n)); m == 0 {
					break
				}
				n += m
			}
			b, _ := os.ReadFile("to")
			if n != len(want) || !bytes.Equal(b, want) || err != nil {
				s.add(name, n, err)
			}
			unix.Close(to)
		}
		to, _ := unix.Open("to", unix.O_WRONLY|unix.O_APPEND, 0)
		_, err = unix.CopyFileRange(from, nil, to, nil, 10, 0)
		s.add("to the end", err, unix.Close(to))
	},
	"appends and modes of a descriptor": func(s *said) {
		fd, err := unix.Open("f", unix.O_RDWR|unix.O_CREAT|unix.O_APPEND, 0o600)
		s.add("open", err)
		defer unix.Close(fd)
		put := func(text string, at int64) {
			n, err := unix.Pwrite(fd, []byte(text), at)
			b, _ := os.ReadFile("f")
			s.add("write", n, err, string(b))
		}
		put("12345", 0)
		put("X", 0)
		_, err = unix.FcntlInt(uintptr(fd), unix.F_SETFL, 0)
		s.add("fcntl", err)
		put("Y", 0)
		_, err = unix.FcntlInt(uintptr(fd), unix.F_SETFL, unix.O_APPEND)
		s.add("fcntl", err)
		put("Z", 0)
		for _, mode := range []uint32{0, 0o200, 0o400} {
			fd, err := unix.Open("new", unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, mode)
			n, werr := unix.Write(fd, []byte("text"))
			s.add("made", err, n, werr, unix.Close(fd))
			for _, flags := range []int{unix.O_RDONLY, unix.O_WRONLY, unix.O_RDWR} {
				fd, err := unix.Open("new", flags, 0)
				s.add("open", err)
				unix.Close(fd)
			}
			s.add("remove", unix.Unlink("new"))
		}
	},
	"a directory that changes while it is listed": func(s *said) {
		s.add("make", unix.Mkdir("many", 0o755))
		for i := range 1000 {
			os.WriteFile(fmt.Sprintf("many/%0100d", i), nil, 0o600)
		}
		fd, err := unix.Open("many", unix.O_RDONLY, 0)
		s.add("open", err)
		defer unix.Close(fd)
		// Each name has the place that one goes on from after it.
		all := func(each func(name string, next int64)) (count int) {
			for buf := make([]byte, 5000); ; {
				n, err := unix.Getdents(fd, buf)
				if n <= 0 {
					s.add("end", n, err)
					return count
				}
				for b := buf[:n]; len(b) > 0; {
					e := (*unix.Dirent)(ptr(b))
					name, _, _ := strings.Cut(string(b[19:e.Reclen]), "\x00")
					each(name, e.Off)
					b = b[e.Reclen:]
					count++
				}
			}
		}
		var names []string
		var next []int64
		s.add("names", all(func(name string, off int64) { names, next = append(names, name), append(next, off) }))
		for _, i := range []int{0, 1, 500, 998, 7} {
			_, err := unix.Seek(fd, next[i], unix.SEEK_SET)
			var rest []string
			n := all(func(name string, _ int64) { rest = append(rest, name) })
			s.add("from there", err, n, slices.Equal(rest, names[i+1:]))
		}
		_, err = unix.Seek(fd, 0, unix.SEEK_SET)
		s.add("names", err, all(func(name string, _ int64) { unix.Unlink("many/" + name) }), unix.Rmdir("many"))
	},
}

// TestUnusualCallsAreAsOnTheHost uses a directory document and a directory of the
// host in the same way, each in a process of its own.
func TestUnusualCallsAreAsOnTheHost(t *testing.T) {
	r := newRig(t)
	r.dirDoc("d1")
	native, seen := r.dir("native"), r.in(testApp, "d1", "tree")
	for name := range unusual {
		var answers [2]string
		for i, dir := range []string{native, seen} {
			dir := filepath.Join(dir, name)
			must(t, os.Mkdir(dir, 0o755))
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), unusualVariable+"="+name+"="+dir)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("%s: %v\n%s", name, err, out)
			}
			answers[i] = string(out)
		}
		want, got := strings.Split(answers[0], "\n"), strings.Split(answers[1], "\n")
		for i := range max(len(want), len(got)) {
			if i >= len(want) || i >= len(got) || want[i] != got[i] {
				t.Errorf("%s, answer %d: %q, on the host %q", name, i, got[min(i, len(got)):min(i+1, len(got))], want[min(i, len(want)):min(i+1, len(want))])
				break
			}
		}
	}
}

const unusualVariable = "DOCPORTAL_TEST_UNUSUAL"

// useUnusually is the process that does so.
func useUnusually(what string) int {
	name, dir, _ := strings.Cut(what, "=")
	s := new(said)
	if err := os.Chdir(dir); err != nil {
		fmt.Println(err)
		return 1
	}
	unusual[name](s)
	fmt.Print(s)
	return 0
}
