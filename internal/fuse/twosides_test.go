package fuse

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// TestTwoSidesTakeTurns: somebody on the host and an app change and look at the
// same few names of a directory document, one after the other, so that whatever
// the one has done is there for the other's next call. A directory of the host
// in which both do the same is the model: each call must say the same there. Few
// names and three levels make directories that become files, links and pipes and
// the reverse just after they were used.
func TestTwoSidesTakeTurns(t *testing.T) {
	r := newRig(t)
	tree, view, native := r.dirDoc("d1"), r.in(testApp, "d1", "tree"), r.dir("native")
	for name, value := range map[string]string{"rapid.nofailfile": "true", "rapid.shrinktime": "10s"} {
		old := flag.Lookup(name).Value.String()
		must(t, flag.Set(name, value))
		defer flag.Set(name, old)
	}
	numbers := make(map[uint64]uint64)
	n := 0
	rapid.Check(withoutDraws{t}, func(t *rapid.T) {
		n++
		s := &twoSides{rnd: chooser{t}, cache: &r.view.fs.cache, last: "a/b", numbers: numbers}
		for i, dir := range []string{native, tree, view} {
			s.dirs[i] = filepath.Join(dir, strconv.Itoa(n))
		}
		for _, dir := range s.dirs[:2] {
			for _, p := range []string{"a/a", "a/b", "b/a", "b/b"} {
				err := os.MkdirAll(filepath.Join(dir, p), 0o755)
				if err == nil {
					err = os.WriteFile(filepath.Join(dir, p, "c"), []byte("first in "+p), 0o644)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		defer s.end()
		for range 100 {
			if s.step(); s.err == nil && s.rnd.IntN(4) == 0 {
				s.compare()
			}
			if s.err != nil {
				break
			}
		}
		if s.err == nil {
			s.compare()
		}
		if s.err != nil {
			t.Fatalf("%v\nafter\n  %s", s.err, strings.Join(s.log, "\n  "))
		}
	})
	nothingIsLeft(t, r, "d1")
}

// withoutDraws is a test whose log has not what was drawn: that is in the log of
// the calls.
type withoutDraws struct{ *testing.T }

func (t withoutDraws) Logf(f string, args ...any) {
	t.Helper()
	if s := fmt.Sprintf(f, args...); !strings.HasPrefix(s, "[rapid] draw") {
		t.Log(s)
	}
}

// The directories of twoSides: the model's, and the document's as the host and
// as the app has it.
const (
	modelSide = iota
	hostSide
	appSide
)

type twoSides struct {
	dirs    [3]string
	rnd     chooser
	cache   *cache
	open    []openTwice
	last    string            // what was named last
	numbers map[uint64]uint64 // the view's inode number of each of the host's
	log     []string
	err     error
}

// openTwice is what one side has open, in the model and in the document.
type openTwice struct {
	side, id  int
	name      string // that it was opened by
	model, fd int
	dir       bool
}

// end closes and removes everything; the app has seen most of it.
func (s *twoSides) end() {
	for _, o := range s.open {
		unix.Close(o.model)
		unix.Close(o.fd)
	}
	os.RemoveAll(s.dirs[modelSide])
	os.RemoveAll(s.dirs[hostSide])
}

func (s *twoSides) failf(format string, args ...any) {
	if s.err == nil {
		s.err = fmt.Errorf(format, args...)
	}
}

// said compares what came of a call in the model and for a side.
func (s *twoSides) said(side int, what string, want, got outcome) bool {
	what = []string{hostSide: "host: ", appSide: "app: "}[side] + what
	s.log = append(s.log, what+": "+want.String())
	if want.what != got.what || !errors.Is(got.err, want.err) && got.err != want.err {
		s.failf("%s: %v, in the model %v", what, got, want)
	}
	return s.err == nil && want.err == nil
}

// call does the same by path in the model and as a side.
func (s *twoSides) call(side int, what string, f func(dir string) outcome) bool {
	return s.said(side, what, f(s.dirs[modelSide]+"/"), f(s.dirs[side]+"/"))
}

// name is a path. Half of them have to do with what has just been named: that is
// what the kernel and the server may still know.
func (s *twoSides) name() string {
	one := func() string { return string(rune('a' + s.rnd.IntN(3))) }
	p := one()
	switch s.rnd.IntN(6) {
	case 0, 1, 2:
		for range s.rnd.IntN(3) {
			p += "/" + one()
		}
	case 3:
		p = s.last
		if len(s.open) > 0 && s.rnd.IntN(2) == 0 {
			p = s.open[s.rnd.IntN(len(s.open))].name
		}
	case 4:
		p = filepath.Dir(s.last)
		if p == "." {
			p = s.last
		}
	case 5:
		p = s.last
		if strings.Count(p, "/") < 2 {
			p += "/" + p[len(p)-1:]
		}
	}
	s.last = p
	return p
}

var twoSidesFlags = []int{
	unix.O_RDONLY, unix.O_WRONLY, unix.O_RDWR, unix.O_RDONLY | unix.O_DIRECTORY, unix.O_RDONLY | unix.O_NOFOLLOW,
	unix.O_RDWR | unix.O_CREAT, unix.O_RDWR | unix.O_CREAT | unix.O_EXCL, unix.O_WRONLY | unix.O_CREAT | unix.O_TRUNC,
	unix.O_RDWR | unix.O_TRUNC, unix.O_WRONLY | unix.O_APPEND, unix.O_RDONLY | unix.O_CREAT, unix.O_RDONLY | unix.O_TRUNC,
	unix.O_WRONLY | unix.O_CREAT | unix.O_NOFOLLOW,
}

// step is one call of one side.
func (s *twoSides) step() {
	side := hostSide + s.rnd.IntN(2)
	p, o := s.name(), s.name()
	err := func(err error) outcome { return outcome{"", err} }
	switch s.rnd.IntN(30) {
	case 0, 1, 2, 3:
		s.openFile(side, p)
	case 4, 5:
		s.call(side, "mkdir "+p, func(d string) outcome { return err(unix.Mkdir(d+p, 0o755)) })
	case 6:
		text := []string{"a", "b/c", "../b", ".", "missing", "../a/b"}[s.rnd.IntN(6)]
		s.call(side, "symlink "+text+" "+p, func(d string) outcome { return err(unix.Symlink(text, d+p)) })
	case 7:
		s.call(side, "mkfifo "+p, func(d string) outcome { return err(unix.Mkfifo(d+p, 0o644)) })
	case 8, 9:
		s.call(side, "unlink "+p, func(d string) outcome { return err(unix.Unlink(d + p)) })
	case 10, 11:
		s.call(side, "rmdir "+p, func(d string) outcome { return err(unix.Rmdir(d + p)) })
	case 12, 13, 14, 15:
		flags := []uint{0, 0, unix.RENAME_EXCHANGE, unix.RENAME_NOREPLACE}[s.rnd.IntN(4)]
		s.call(side, fmt.Sprint("rename ", p, " ", o, " ", flags), func(d string) outcome {
			return err(unix.Renameat2(unix.AT_FDCWD, d+p, unix.AT_FDCWD, d+o, flags))
		})
	case 16:
		s.call(side, "link "+p+" "+o, func(d string) outcome { return err(unix.Link(d+p, d+o)) })
	case 17:
		s.call(side, "readlink "+p, func(d string) outcome {
			b := make([]byte, 100)
			n, e := unix.Readlink(d+p, b)
			return outcome{string(b[:max(n, 0)]), e}
		})
	case 18:
		size := int64(s.rnd.IntN(9000))
		s.call(side, fmt.Sprint("truncate ", p, " ", size), func(d string) outcome { return err(unix.Truncate(d+p, size)) })
	case 19:
		// Only of files: directories must be removed at the end, and whether
		// somebody may open a pipe the kernel decides without asking a server.
		mode := []uint32{0o600, 0o644, 0o400, 0}[s.rnd.IntN(4)]
		s.call(side, fmt.Sprintf("chmod %s %o", p, mode), func(d string) outcome {
			var st unix.Stat_t
			m := mode
			if unix.Stat(d+p, &st) == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
				m |= 0o700
			}
			return err(unix.Chmod(d+p, m))
		})
	case 20:
		ts := []unix.Timespec{unix.NsecToTimespec(int64(s.rnd.IntN(100))*1e9 + 5), unix.NsecToTimespec(int64(s.rnd.IntN(100))*1e9 + 7)}
		s.call(side, "utimes "+p, func(d string) outcome {
			if e := unix.UtimesNanoAt(unix.AT_FDCWD, d+p, ts, unix.AT_SYMLINK_NOFOLLOW); e != nil {
				return err(e)
			}
			var st unix.Stat_t
			e := unix.Lstat(d+p, &st)
			return outcome{fmt.Sprint(st.Mtim), e} // walking through a link changes its atime
		})
	case 21:
		s.call(side, "stat "+p, func(d string) outcome {
			var st unix.Stat_t
			if e := unix.Stat(d+p, &st); e != nil {
				return err(e)
			}
			return outcome{statText(&st), nil}
		})
	case 22:
		s.lstat(p)
	case 23:
		s.call(side, "list "+p, func(d string) outcome { return listing(d + p) })
	case 24:
		s.call(side, "access "+p, func(d string) outcome { return err(unix.Access(d+p, unix.R_OK|unix.W_OK)) })
	case 25, 26, 27, 28, 29:
		s.useOpen()
		if s.rnd.IntN(40) == 0 {
			s.cache.removeAll(func(*cached) bool { return true }, nil) // as if some time had passed
		}
	}
}

// lstat compares a name with the model, and what the view shows of it with what
// the host does.
func (s *twoSides) lstat(p string) {
	var there, seen unix.Stat_t
	if !s.call(appSide, "lstat "+p, func(d string) outcome {
		var st unix.Stat_t
		if err := unix.Lstat(d+p, &st); err != nil {
			return outcome{"", err}
		}
		seen = st // the app's is the last
		return outcome{statText(&st), nil}
	}) {
		return
	}
	if err := unix.Lstat(s.dirs[hostSide]+"/"+p, &there); err != nil {
		s.failf("lstat %s on the host: %v", p, err)
		return
	}
	if there.Mtim != seen.Mtim || there.Ctim != seen.Ctim {
		s.failf("lstat %s: times %v %v, on the host %v %v", p, seen.Mtim, seen.Ctim, there.Mtim, there.Ctim)
	}
	if was, ok := s.numbers[there.Ino]; ok && was != seen.Ino {
		s.failf("lstat %s: inode number %d, it was %d", p, seen.Ino, was)
	}
	s.numbers[there.Ino] = seen.Ino
}

func listing(dir string) outcome {
	l, err := os.ReadDir(dir)
	var all []string
	for _, e := range l {
		all = append(all, fmt.Sprint(e.Name(), " ", e.Type()))
	}
	var path *os.PathError
	if errors.As(err, &path) {
		err = path.Err
	}
	return outcome{fmt.Sprint(all), err}
}

// openFile opens a name, keeps it open for a while if it is a file or a directory,
// and says what is in it.
func (s *twoSides) openFile(side int, p string) {
	flags := twoSidesFlags[s.rnd.IntN(len(twoSidesFlags))]
	text := fmt.Sprint("text ", len(s.log), strings.Repeat("-", s.rnd.IntN(20)))
	var fds [2]int
	dir, keep := false, false
	i := 0
	if !s.call(side, fmt.Sprintf("open %s %#x", p, flags), func(d string) outcome {
		fd, err := unix.Open(d+p, flags|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o644)
		fds[i] = fd
		i++
		if err != nil {
			return outcome{"", err}
		}
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return outcome{"", err}
		}
		dir = st.Mode&unix.S_IFMT == unix.S_IFDIR
		if keep = dir || st.Mode&unix.S_IFMT == unix.S_IFREG; !keep {
			return outcome{"", nil} // each side has a pipe of its own
		}
		b := make([]byte, 100)
		n, e := unix.Pread(fd, b, 0)
		what := fmt.Sprint(statText(&st), " ", strconv.Quote(string(b[:max(n, 0)])), e)
		if flags&unix.O_ACCMODE != unix.O_RDONLY {
			n, e = unix.Write(fd, []byte(text))
			what += fmt.Sprint(" ", n, e)
		}
		return outcome{what, nil}
	}) {
		keep = false
	}
	if !keep {
		for _, fd := range fds {
			if fd >= 0 {
				unix.Close(fd)
			}
		}
		return
	}
	if s.open = append(s.open, openTwice{side, len(s.log), p, fds[0], fds[1], dir}); len(s.open) > 4 {
		i := s.rnd.IntN(len(s.open))
		o := s.open[i]
		s.said(o.side, fmt.Sprint("close ", o.id), outcome{"", unix.Close(o.model)}, outcome{"", unix.Close(o.fd)})
		s.open = slices.Delete(s.open, i, i+1)
	}
}

// useOpen uses what somebody has open, whatever has become of its name.
func (s *twoSides) useOpen() {
	if len(s.open) == 0 {
		return
	}
	o := s.open[s.rnd.IntN(len(s.open))]
	p, size := s.name(), int64(s.rnd.IntN(5000))
	op := s.rnd.IntN(5)
	call := func(what string, f func(fd int) outcome) {
		s.said(o.side, fmt.Sprint(what, " by ", o.id), f(o.model), f(o.fd))
	}
	err := func(err error) outcome { return outcome{"", err} }
	switch {
	case op == 0:
		call("fstat", func(fd int) outcome {
			var st unix.Stat_t
			e := unix.Fstat(fd, &st)
			return outcome{statText(&st), e}
		})
	case !o.dir && op < 3:
		call("pread", func(fd int) outcome {
			b := make([]byte, 8000)
			n, e := unix.Pread(fd, b, 0)
			return outcome{string(b[:max(n, 0)]), e}
		})
	case !o.dir && op == 3:
		text := fmt.Sprint("written ", len(s.log))
		call("pwrite", func(fd int) outcome {
			n, e := unix.Pwrite(fd, []byte(text), size)
			return outcome{fmt.Sprint(n), e}
		})
	case !o.dir:
		call("ftruncate", func(fd int) outcome { return err(unix.Ftruncate(fd, size)) })
	case op == 1:
		call("list", func(fd int) outcome {
			d, e := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if e != nil {
				return err(e)
			}
			defer unix.Close(d)
			return listing(procPath(d))
		})
	case op == 2:
		call("mkdir "+p, func(fd int) outcome { return err(unix.Mkdirat(fd, p, 0o755)) })
	case op == 3:
		call("unlink "+p, func(fd int) outcome { return err(unix.Unlinkat(fd, p, 0)) })
	default:
		call("create "+p, func(fd int) outcome {
			f, e := unix.Openat(fd, p, unix.O_RDWR|unix.O_CREAT|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o644)
			if e != nil {
				return err(e)
			}
			defer unix.Close(f)
			b := make([]byte, 100)
			n, e := unix.Pread(f, b, 0)
			if e == unix.ESPIPE || e == unix.EAGAIN {
				return outcome{"a pipe", nil}
			}
			return outcome{string(b[:max(n, 0)]), e}
		})
	}
}

// compare compares the trees of all three.
func (s *twoSides) compare() {
	want := treeText(s.dirs[modelSide])
	for _, side := range []int{hostSide, appSide} {
		if got := treeText(s.dirs[side]); !slices.Equal(want, got) {
			s.failf("the model has\n  %s\n%s has\n  %s", strings.Join(want, "\n  "),
				[]string{hostSide: "the host", appSide: "the view"}[side], strings.Join(got, "\n  "))
		}
	}
}

// treeText describes what is in a directory, also where it cannot be read.
func treeText(dir string) []string {
	var all []string
	filepath.WalkDir(dir, func(p string, e os.DirEntry, err error) error {
		rel, _ := filepath.Rel(dir, p)
		var st unix.Stat_t
		if e := unix.Lstat(p, &st); e != nil || err != nil {
			all = append(all, fmt.Sprint(rel, " ", e, err != nil))
			return nil
		}
		line := rel + " " + statText(&st)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFLNK:
			to, _ := os.Readlink(p)
			line += " -> " + to
		case unix.S_IFREG:
			b, err := os.ReadFile(p)
			line += fmt.Sprintf(" %q %v", b, errors.Is(err, os.ErrPermission))
		}
		all = append(all, line)
		return nil
	})
	return all
}
