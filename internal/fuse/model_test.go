package fuse

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// long reports whether the tests may take their time.
func long() bool { return os.Getenv("DOCPORTAL_LONG") != "" }

// streams is how many processes work at the same time.
const streams = 4

// TestRandomOperationsAreAsOnTheHost gives the same stream of operations to a
// directory document and to a directory of the host, from several processes,
// and wants the same of each operation: its errno, what it reads, what is there.
func TestRandomOperationsAreAsOnTheHost(t *testing.T) {
	r := newRig(t)
	tree := r.dirDoc("d1")
	total := 8_000
	if long() {
		total = 1_000_000
	}
	var jobs []modelJob
	for i := range streams {
		name := fmt.Sprint("stream", i)
		must(t, os.Mkdir(filepath.Join(tree, name), 0o755))
		jobs = append(jobs, modelJob{
			native: r.dir("native/" + name),
			seen:   r.in(testApp, "d1", "tree", name),
			host:   filepath.Join(tree, name),
			seed:   uint64(i),
			ops:    total / streams,
		})
	}
	runModels(t, jobs)
	nothingIsLeft(t, r, "d1")
}

// TestRandomOperationsFollowTheTempFileRules does so with file documents. What
// a flat directory of the host does is the model of what the view shows; on
// the host there are the main file and a hidden one for each of the others.
func TestRandomOperationsFollowTheTempFileRules(t *testing.T) {
	r := newRig(t)
	total := 4_000
	if long() {
		total = 1_000_000
	}
	var jobs []modelJob
	var ids []string
	for i := range streams {
		id := fmt.Sprint("f", i)
		host := r.fileDoc(id, "")
		native := r.dir("native/" + id)
		must(t, os.WriteFile(filepath.Join(native, "file.txt"), nil, 0o644))
		jobs = append(jobs, modelJob{
			native: native,
			seen:   r.in(testApp, id),
			host:   filepath.Dir(host),
			seed:   uint64(i),
			ops:    total / streams,
			flat:   true,
		})
		ids = append(ids, id)
	}
	runModels(t, jobs)
	nothingIsLeft(t, r, ids...)
}

// nothingIsLeft checks that there is nothing of the documents in the server
// when they are gone and nobody uses them.
func nothingIsLeft(t *testing.T, r *rig, ids ...string) {
	t.Helper()
	fs := r.view.fs
	eventually(t, "handles are closed", func() bool {
		fs.handles.mu.Lock()
		defer fs.handles.mu.Unlock()
		return len(fs.handles.byID) == 0
	})
	eventually(t, "descriptors are closed", func() bool { return openBelow(t, r.host) == 0 })
	for _, v := range fs.nodes.withTemps() {
		v.dropAll()
	}
	for _, id := range ids {
		r.docs.remove(id)
		r.view.Invalidate(id)
	}
	eventually(t, "nodes are forgotten", func() bool {
		fs.nodes.mu.Lock()
		defer fs.nodes.mu.Unlock()
		for _, n := range fs.nodes.byID {
			if n.view != nil {
				return false
			}
		}
		return len(fs.nodes.byKey) == 0 && len(fs.nodes.views) == 0
	})
	fs.locks.mu.Lock()
	waiting := len(fs.locks.waiting)
	fs.locks.mu.Unlock()
	if waiting != 0 {
		t.Errorf("%d apps wait for locks", waiting)
	}
	fs.calls.mu.Lock()
	defer fs.calls.mu.Unlock()
	if len(fs.calls.docs) != 0 || len(fs.calls.devs) != 0 {
		t.Error("calls are counted that have ended")
	}
}

// openBelow is how many descriptors this process has in a directory.
func openBelow(t testing.TB, dir string) int {
	t.Helper()
	b, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	n := 0
	for _, e := range b {
		if to, _ := os.Readlink("/proc/self/fd/" + e.Name()); strings.HasPrefix(to, dir) {
			n++
		}
	}
	return n
}

// modelJob is one stream of operations.
type modelJob struct {
	native, seen, host string
	seed               uint64
	ops                int
	flat               bool // a file document
}

// runModels runs each job in a process of its own.
func runModels(t *testing.T, jobs []modelJob) {
	t.Helper()
	type running struct {
		cmd *exec.Cmd
		out *bytes.Buffer
	}
	var all []running
	for _, j := range jobs {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), "DOCPORTAL_TEST_MODEL="+strings.Join([]string{
			j.native, j.seen, j.host, fmt.Sprint(j.seed), fmt.Sprint(j.ops), strconv.FormatBool(j.flat)}, ":"))
		out := new(bytes.Buffer)
		cmd.Stdout, cmd.Stderr = out, out
		must(t, cmd.Start())
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
		all = append(all, running{cmd, out})
	}
	for i, p := range all {
		if err := p.cmd.Wait(); err != nil {
			t.Errorf("stream %d: %v\n%s", i, err, p.out)
		}
	}
	if t.Failed() {
		t.FailNow()
	}
}

// streamLength is how many operations are made before all starts anew.
const streamLength = 250

// runModel is the process of a job. Where the two sides differ, rapid looks for
// the shortest stream with which they do.
func runModel(s string) int {
	f := strings.Split(s, ":")
	j := modelJob{native: f[0], seen: f[1], host: f[2]}
	j.seed, _ = strconv.ParseUint(f[3], 10, 64)
	j.ops, _ = strconv.Atoi(f[4])
	j.flat, _ = strconv.ParseBool(f[5])
	unix.Umask(0o022)
	flag.Parse()
	flag.Set("rapid.checks", strconv.Itoa(max(1, j.ops/streamLength)))
	flag.Set("rapid.seed", strconv.FormatUint(j.seed+1, 10))
	flag.Set("rapid.nofailfile", "true")
	out := new(processTB)
	defer func() {
		if v := recover(); v != nil && v != out {
			panic(v)
		}
		if out.failed {
			os.Exit(1)
		}
	}()
	n := 0
	rapid.Check(out, func(t *rapid.T) {
		n++
		m := newModel(j, n, t)
		defer m.reset()
		for i := range streamLength {
			if m.step(); m.err == nil && i == streamLength-1 {
				m.compare()
			}
			if m.err != nil {
				var there []string
				for _, dir := range []string{m.native, m.seen, m.host} {
					l, err := listTree(dir)
					there = append(there, fmt.Sprint(l, err))
				}
				t.Fatalf("operation %d: %v\nthere is %s\nafter\n  %s", i, m.err,
					strings.Join(there, "\n  and    "), strings.Join(m.log[max(0, len(m.log)-60):], "\n  "))
			}
		}
	})
	return 0
}

// processTB is a test that is a process.
type processTB struct{ failed bool }

func (*processTB) Helper()                     {}
func (*processTB) Name() string                { return "stream" }
func (p *processTB) Log(args ...any)           { p.Logf("%s", fmt.Sprintln(args...)) }
func (p *processTB) Skipf(f string, a ...any)  { p.Fatalf(f, a...) }
func (p *processTB) Skip(args ...any)          { p.Fatal(args...) }
func (p *processTB) SkipNow()                  { p.FailNow() }
func (p *processTB) Errorf(f string, a ...any) { p.Logf(f, a...); p.Fail() }
func (p *processTB) Error(args ...any)         { p.Log(args...); p.Fail() }
func (p *processTB) Fatalf(f string, a ...any) { p.Logf(f, a...); p.FailNow() }
func (p *processTB) Fatal(args ...any)         { p.Log(args...); p.FailNow() }
func (p *processTB) FailNow()                  { p.Fail(); panic(p) }
func (p *processTB) Fail()                     { p.failed = true }
func (p *processTB) Failed() bool              { return p.failed }

func (*processTB) Logf(f string, args ...any) {
	// What was drawn is in the log of the operations.
	if s := fmt.Sprintf(f, args...); !strings.HasPrefix(s, "[rapid] draw") {
		fmt.Println(s)
	}
}

// chooser decides what a stream does.
type chooser struct{ t *rapid.T }

// IntN is a number from 0 to n-1.
func (c chooser) IntN(n int) int { return rapid.IntRange(0, n-1).Draw(c.t, "") }

func (c chooser) Uint32() uint32 { return rapid.Uint32().Draw(c.t, "") }

// model runs operations on both sides.
type model struct {
	modelJob
	rnd  chooser
	open [][2]int
	// unwritten: there may be space that was allocated but not written to, which
	// the file system of the host calls data as soon as somebody has read it.
	unwritten bool
	log       []string
	err       error
}

// newModel is the n-th stream of a job. It starts with nothing but an empty
// main file, or in empty directories.
func newModel(j modelJob, n int, t *rapid.T) *model {
	m := &model{modelJob: j, rnd: chooser{t}}
	if j.flat {
		return m
	}
	for _, dir := range []*string{&m.native, &m.seen, &m.host} {
		*dir = filepath.Join(*dir, strconv.Itoa(n))
	}
	if err := os.Mkdir(m.native, 0o755); err != nil {
		m.err = err
	} else if err := os.Mkdir(m.seen, 0o755); err != nil {
		m.err = err
	}
	return m
}

// reset takes everything away again.
func (m *model) reset() {
	for _, h := range m.open {
		unix.Close(h[0])
		unix.Close(h[1])
	}
	if !m.flat {
		os.RemoveAll(m.native)
		os.RemoveAll(m.seen)
		return
	}
	for _, dir := range []string{m.native, m.seen} {
		l, _ := os.ReadDir(dir)
		for _, e := range l {
			unix.Unlink(filepath.Join(dir, e.Name()))
		}
		os.WriteFile(filepath.Join(dir, "file.txt"), nil, 0o644)
	}
}

// outcome is what came of an operation.
type outcome struct {
	what string
	err  error
}

func (o outcome) String() string { return fmt.Sprintf("%.200q %v", o.what, o.err) }

// both does an operation on each side.
func (m *model) both(what string, f func(dir string) outcome) bool {
	a, b := f(m.native), f(m.seen)
	m.log = append(m.log, what+": "+a.String())
	if a.what != b.what || !errors.Is(a.err, b.err) && a.err != b.err {
		m.err = fmt.Errorf("%s: the host says %v, the view %v", what, a, b)
	}
	return m.err == nil && a.err == nil
}

func (m *model) name() string {
	if m.flat {
		if m.rnd.IntN(3) == 0 {
			return "file.txt"
		}
		return string(rune('a' + m.rnd.IntN(4)))
	}
	p := string(rune('a' + m.rnd.IntN(5)))
	for m.rnd.IntN(2) == 0 && len(p) < 8 {
		p += "/" + string(rune('a'+m.rnd.IntN(5)))
	}
	return p
}

func statText(st *unix.Stat_t) string {
	// Directories have the size and links of their file system.
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return fmt.Sprintf("%o", st.Mode)
	}
	return fmt.Sprintf("%o %d %d", st.Mode, st.Size, st.Nlink)
}

// onHandle does an operation on a pair of open files.
func (m *model) onHandle(what string, f func(fd int) outcome) {
	if len(m.open) == 0 {
		return
	}
	h := m.open[m.rnd.IntN(len(m.open))]
	m.both(fmt.Sprint(what, " of ", h[0]), func(dir string) outcome {
		if dir == m.native {
			return f(h[0])
		}
		return f(h[1])
	})
}

func (m *model) data() []byte {
	b := make([]byte, 1+m.rnd.IntN(1<<uint(m.rnd.IntN(17))))
	c := byte(m.rnd.Uint32())
	for i := range b {
		b[i] = c + byte(i*7)
	}
	return b
}

func (m *model) step() {
	p, o := m.name(), m.name()
	at := func(dir, name string) string { return filepath.Join(dir, name) }
	off := int64(m.rnd.IntN(1 << uint(m.rnd.IntN(18))))
	size := 1 + m.rnd.IntN(1<<uint(m.rnd.IntN(18)))
	op := m.rnd.IntN(28)
	if m.flat && (op == 9 || op == 10 || op == 11 || op == 19) {
		m.refused(op, p, o)
		return
	}
	switch op {
	case 0, 1, 2:
		flags := []int{unix.O_RDONLY, unix.O_WRONLY, unix.O_RDWR}[m.rnd.IntN(3)]
		for _, f := range []int{unix.O_CREAT, unix.O_CREAT, unix.O_TRUNC, unix.O_APPEND, unix.O_EXCL} {
			if m.rnd.IntN(2) == 0 && (f != unix.O_EXCL || flags&unix.O_CREAT != 0) {
				flags |= f
			}
		}
		mode := uint32(0o600 | m.rnd.IntN(0o200))
		var h [2]int
		if m.both(fmt.Sprintf("open %s %#x", p, flags), func(dir string) outcome {
			fd, err := unix.Open(at(dir, p), flags|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, mode)
			if dir == m.native {
				h[0] = fd
			} else {
				h[1] = fd
			}
			return outcome{"", err}
		}) {
			m.log = append(m.log, fmt.Sprint("  as ", h[0]))
			m.open = append(m.open, h)
			if len(m.open) > 6 {
				i := m.rnd.IntN(len(m.open))
				unix.Close(m.open[i][0])
				unix.Close(m.open[i][1])
				m.open = slices.Delete(m.open, i, i+1)
			}
		}
	case 3, 4:
		b := m.data()
		m.onHandle(fmt.Sprintf("pwrite %d at %d", len(b), off), func(fd int) outcome {
			n, err := unix.Pwrite(fd, b, off)
			return outcome{fmt.Sprint(n), err}
		})
	case 5, 6:
		m.onHandle(fmt.Sprintf("pread %d at %d", size, off), func(fd int) outcome {
			b := make([]byte, size)
			n, err := unix.Pread(fd, b, off)
			return outcome{string(b[:max(n, 0)]), err}
		})
	case 7:
		m.onHandle(fmt.Sprintf("ftruncate %d", off), func(fd int) outcome {
			return outcome{"", unix.Ftruncate(fd, off)}
		})
	case 8:
		m.both(fmt.Sprintf("truncate %s %d", p, off), func(dir string) outcome {
			return outcome{"", unix.Truncate(at(dir, p), off)}
		})
	case 9:
		m.both("mkdir "+p, func(dir string) outcome { return outcome{"", unix.Mkdir(at(dir, p), 0o755)} })
	case 10:
		m.both("symlink "+p, func(dir string) outcome { return outcome{"", unix.Symlink("nowhere/"+o, at(dir, p))} })
		m.both("readlink "+p, func(dir string) outcome {
			b := make([]byte, 100)
			n, err := unix.Readlink(at(dir, p), b)
			return outcome{string(b[:max(n, 0)]), err}
		})
	case 11:
		m.both("link "+p+" "+o, func(dir string) outcome { return outcome{"", unix.Link(at(dir, p), at(dir, o))} })
	case 12:
		m.both("unlink "+p, func(dir string) outcome { return outcome{"", unix.Unlink(at(dir, p))} })
	case 13:
		m.both("rmdir "+p, func(dir string) outcome { return outcome{"", unix.Rmdir(at(dir, p))} })
	case 14, 15, 16:
		flags := []uint{0, 0, unix.RENAME_NOREPLACE, unix.RENAME_EXCHANGE}[m.rnd.IntN(4)]
		m.both(fmt.Sprintf("rename %s %s %d", p, o, flags), func(dir string) outcome {
			return outcome{"", unix.Renameat2(unix.AT_FDCWD, at(dir, p), unix.AT_FDCWD, at(dir, o), flags)}
		})
	case 17:
		mode := uint32(0o600 | m.rnd.IntN(0o200))
		m.both(fmt.Sprintf("chmod %s %o", p, mode), func(dir string) outcome {
			var st unix.Stat_t
			if unix.Lstat(at(dir, p), &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
				mode |= 0o700
			}
			return outcome{"", unix.Fchmodat(unix.AT_FDCWD, at(dir, p), mode, 0)}
		})
	case 18:
		ts := []unix.Timespec{unix.NsecToTimespec(off*1e9 + 5), unix.NsecToTimespec(off*3e9 + 7)}
		m.both("utimens "+p, func(dir string) outcome {
			if err := unix.UtimesNanoAt(unix.AT_FDCWD, at(dir, p), ts, unix.AT_SYMLINK_NOFOLLOW); err != nil {
				return outcome{"", err}
			}
			var st unix.Stat_t
			err := unix.Lstat(at(dir, p), &st)
			return outcome{fmt.Sprint(st.Atim, st.Mtim), err}
		})
	case 19:
		attr, b := "user."+string(rune('a'+m.rnd.IntN(3))), m.data()
		b = b[:min(len(b), 500)]
		flags := []int{0, unix.XATTR_CREATE, unix.XATTR_REPLACE}[m.rnd.IntN(3)]
		if m.rnd.IntN(4) == 0 {
			m.both("removexattr "+p, func(dir string) outcome { return outcome{"", unix.Lremovexattr(at(dir, p), attr)} })
		} else {
			m.both("setxattr "+p, func(dir string) outcome { return outcome{"", unix.Lsetxattr(at(dir, p), attr, b, flags)} })
		}
		m.both("getxattr "+p, func(dir string) outcome {
			b := make([]byte, 1000)
			n, err := unix.Lgetxattr(at(dir, p), attr, b)
			return outcome{string(b[:max(n, 0)]), err}
		})
	case 20:
		mode := []uint32{0, unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_KEEP_SIZE | unix.FALLOC_FL_PUNCH_HOLE, unix.FALLOC_FL_ZERO_RANGE}[m.rnd.IntN(4)]
		m.unwritten = m.unwritten || mode&unix.FALLOC_FL_PUNCH_HOLE == 0
		m.onHandle(fmt.Sprintf("fallocate %d %d %d", mode, off, size), func(fd int) outcome {
			return outcome{"", unix.Fallocate(fd, mode, off, int64(size))}
		})
	case 21:
		whence := []int{unix.SEEK_DATA, unix.SEEK_HOLE}[m.rnd.IntN(2)]
		m.onHandle(fmt.Sprintf("lseek %d %d", whence, off), func(fd int) outcome {
			// What a directory's holes are only its own file system knows.
			var st unix.Stat_t
			if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT == unix.S_IFDIR {
				return outcome{"", err}
			}
			// Where data is follows from where it was allocated, and so from
			// when it was written out.
			if err := unix.Fsync(fd); err != nil {
				return outcome{"", err}
			}
			_, err := unix.Seek(fd, off, whence)
			if m.unwritten && whence == unix.SEEK_DATA && off < st.Size && err == unix.ENXIO {
				err = nil
			}
			return outcome{"", err}
		})
	case 22:
		if len(m.open) > 1 {
			a, b := m.open[0], m.open[len(m.open)-1]
			m.both(fmt.Sprintf("copy_file_range %d %d", size, off), func(dir string) outcome {
				i := 1
				if dir == m.native {
					i = 0
				}
				total, in, out := 0, int64(0), off
				// The kernel copies no further than the size that it knows,
				// and asks for that only here.
				var st unix.Stat_t
				if err := unix.Fstat(a[i], &st); err != nil {
					return outcome{"", err}
				}
				for total < size {
					n, err := unix.CopyFileRange(a[i], &in, b[i], &out, size-total, 0)
					if err != nil {
						return outcome{fmt.Sprint(total), err}
					}
					if n == 0 {
						break
					}
					total += n
				}
				return outcome{fmt.Sprint(total), nil}
			})
		}
	case 23:
		c := byte(m.rnd.Uint32())
		m.onHandle("mmap", func(fd int) outcome {
			var st unix.Stat_t
			if err := unix.Fstat(fd, &st); err != nil || st.Size == 0 || st.Mode&unix.S_IFMT != unix.S_IFREG {
				return outcome{"", err}
			}
			b, err := unix.Mmap(fd, 0, int(st.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			if err != nil {
				return outcome{"", err}
			}
			defer unix.Munmap(b)
			before := string(b[:min(len(b), 64)])
			b[int(off)%len(b)] = c
			return outcome{before, unix.Msync(b, unix.MS_SYNC)}
		})
	case 24:
		m.onHandle("fstat", func(fd int) outcome {
			var st unix.Stat_t
			err := unix.Fstat(fd, &st)
			return outcome{statText(&st), err}
		})
	case 25:
		m.both("lstat "+p, func(dir string) outcome {
			var st unix.Stat_t
			if err := unix.Lstat(at(dir, p), &st); err != nil {
				return outcome{"", err}
			}
			return outcome{statText(&st), nil}
		})
	case 26:
		m.both("append "+p, func(dir string) outcome {
			fd, err := unix.Open(at(dir, p), unix.O_WRONLY|unix.O_APPEND|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
			if err != nil {
				return outcome{"", err}
			}
			defer unix.Close(fd)
			_, err = unix.Write(fd, []byte("appended\n"))
			return outcome{"", err}
		})
	case 27:
		if m.flat {
			m.hostWrites(off)
			return
		}
		m.both("O_TMPFILE "+p, func(dir string) outcome {
			fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR, 0o600)
			if err != nil {
				return outcome{"", err}
			}
			defer unix.Close(fd)
			unix.Write(fd, []byte("no name"))
			return outcome{"", unix.Linkat(unix.AT_FDCWD, procPath(fd), unix.AT_FDCWD, at(dir, p), unix.AT_SYMLINK_FOLLOW)}
		})
	}
}

// refused is what a file document has none of.
func (m *model) refused(op int, p, o string) {
	path := filepath.Join(m.seen, p)
	var err error
	switch op {
	case 9:
		err = unix.Mkdir(path, 0o700)
	case 10:
		err = unix.Symlink("x", path)
	case 11:
		err = unix.Link(path, filepath.Join(m.seen, o))
		if err == unix.ENOENT {
			err = unix.EPERM // nothing to link
		}
	case 19:
		err = unix.Setxattr(path, "user.x", nil, 0)
		if err == unix.ENOENT {
			err = unix.EPERM
		}
	}
	if err != unix.EPERM && err != unix.EEXIST {
		m.err = fmt.Errorf("refused operation %d of %s: %v", op, p, err)
	}
}

// hostWrites is somebody on the host who writes, replaces or removes the main
// file, which the view shows at once.
func (m *model) hostWrites(n int64) {
	var err error
	for _, dir := range []string{m.native, m.host} {
		main := filepath.Join(dir, "file.txt")
		switch n % 3 {
		case 0:
			err = os.WriteFile(main, []byte(fmt.Sprint("host ", n)), 0o644)
		case 1:
			side := filepath.Join(filepath.Dir(m.native), filepath.Base(m.native)+".side")
			if err = os.WriteFile(side, []byte(fmt.Sprint("replaced ", n)), 0o644); err == nil {
				err = os.Rename(side, main)
			}
		case 2:
			if err = os.Remove(main); errors.Is(err, syscall.ENOENT) {
				err = nil
			}
		}
		if err != nil {
			m.err = err
		}
	}
	m.log = append(m.log, fmt.Sprint("the host writes ", n%3))
}

// compare compares the trees, and with what the host has.
func (m *model) compare() {
	want, err := listTree(m.native)
	if err != nil {
		m.err = err
		return
	}
	got, err := listTree(m.seen)
	if err != nil || !slices.Equal(want, got) {
		m.err = fmt.Errorf("trees differ (%v):\n%s\n-- the view:\n%s", err, strings.Join(want, "\n"), strings.Join(got, "\n"))
		return
	}
	host, err := listTree(m.host)
	if !m.flat {
		if err != nil || !slices.Equal(want, host) {
			m.err = fmt.Errorf("the host has another tree (%v)", err)
		}
		return
	}
	var hiddenOnes, main []string
	for _, l := range host {
		if strings.HasPrefix(l, hiddenPrefix) {
			hiddenOnes = append(hiddenOnes, l)
		} else {
			main = append(main, l)
		}
	}
	var shown []string
	for _, l := range want {
		if strings.HasPrefix(l, "file.txt ") {
			shown = append(shown, l)
		}
	}
	if !slices.Equal(main, shown) || len(hiddenOnes) != len(want)-len(shown) {
		m.err = fmt.Errorf("the view shows %q, the host has %q", want, host)
	}
}

// listTree describes everything in a directory.
func listTree(dir string) ([]string, error) {
	var all []string
	err := filepath.WalkDir(dir, func(p string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		if rel == "." {
			return nil
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		line := rel + " " + statText(&st)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFLNK:
			to, err := os.Readlink(p)
			if err != nil {
				return err
			}
			line += " -> " + to
		case unix.S_IFREG:
			f, err := os.Open(p)
			if err != nil {
				return err
			}
			defer f.Close()
			h := sha256.New()
			if _, err := io.Copy(h, f); err != nil {
				return err
			}
			line += fmt.Sprintf(" %x", h.Sum(nil))
		}
		all = append(all, line)
		return nil
	})
	return all, err
}
