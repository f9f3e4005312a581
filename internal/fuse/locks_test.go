package fuse

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"docportal/internal/testsession"
)

// lockServant obeys the lines "NAME COMMAND TYPE START LEN" on its input: it
// is a process of its own, as POSIX locks need.
func lockServant() int {
	files := make(map[string]*os.File)
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var path, cmd, typ string
		var start, size int64
		fmt.Sscan(in.Text(), &path, &cmd, &typ, &start, &size)
		f := files[path]
		if f == nil {
			var err error
			if f, err = os.OpenFile(path, os.O_RDWR, 0); err != nil {
				fmt.Println(err)
				continue
			}
			files[path] = f
		}
		if cmd == "close" || cmd == "reopen" {
			if cmd == "reopen" { // another descriptor, closed again
				f, _ = os.Open(path)
			} else {
				delete(files, path)
			}
			f.Close()
			fmt.Println("ok")
			continue
		}
		if err := lockFile(f, cmd, typ, start, size); err != nil {
			fmt.Println(err)
		} else {
			fmt.Println("ok")
		}
	}
	return 0
}

func lockFile(f *os.File, cmd, typ string, start, size int64) error {
	fl := unix.Flock_t{
		Type:  map[string]int16{"r": unix.F_RDLCK, "w": unix.F_WRLCK, "u": unix.F_UNLCK}[typ],
		Start: start, Len: size,
	}
	var err error
	switch cmd {
	case "posix":
		err = unix.FcntlFlock(f.Fd(), unix.F_SETLK, &fl)
	case "posix-wait":
		err = unix.FcntlFlock(f.Fd(), unix.F_SETLKW, &fl)
	case "ofd":
		err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &fl)
	case "ofd-wait":
		err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLKW, &fl)
	case "flock", "flock-wait":
		how := map[string]int{"r": unix.LOCK_SH, "w": unix.LOCK_EX, "u": unix.LOCK_UN}[typ]
		if cmd == "flock" {
			how |= unix.LOCK_NB
		}
		err = unix.Flock(int(f.Fd()), how)
	default:
		return syscall.EINVAL
	}
	return err
}

type servant struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

func newServant(t *testing.T) *servant {
	t.Helper()
	s := &servant{t: t, cmd: exec.Command("/proc/self/exe")}
	s.cmd.Env = append(os.Environ(), "DOCPORTAL_TEST_LOCK=1")
	var err error
	s.in, err = s.cmd.StdinPipe()
	must(t, err)
	out, err := s.cmd.StdoutPipe()
	must(t, err)
	s.out = bufio.NewScanner(out)
	must(t, s.cmd.Start())
	t.Cleanup(s.kill)
	return s
}

func (s *servant) kill() {
	s.cmd.Process.Kill()
	s.cmd.Wait()
}

func (s *servant) tell(path, cmd string, args ...any) {
	line := path + " " + cmd
	for _, a := range args {
		line += fmt.Sprint(" ", a)
	}
	io.WriteString(s.in, line+"\n")
}

func (s *servant) answer() string {
	s.out.Scan()
	return s.out.Text()
}

const (
	granted = "ok"
	refused = "resource temporarily unavailable"
)

func (s *servant) want(answer, path, cmd string, args ...any) {
	s.t.Helper()
	s.tell(path, cmd, args...)
	if got := s.answer(); got != answer {
		s.t.Errorf("%s %v of %s: %s, want %s", cmd, args, filepath.Base(path), got, answer)
	}
}

func TestLocksExclude(t *testing.T) {
	r := newRig(t)
	host := r.fileDoc("f1", "text")
	r.docs.grant(otherApp, "f1", Access{Read: true, Write: true})
	app, other := r.in(testApp, "f1", "file.txt"), r.in(otherApp, "f1", "file.txt")
	for _, where := range []struct{ name, a, b string }{
		{"within one sandbox", app, app},
		{"between sandboxes", app, other},
		{"a sandbox against the host", app, host},
		{"the host against a sandbox", host, app},
	} {
		for _, kind := range []string{"posix", "ofd", "flock"} {
			t.Run(where.name+", "+kind, func(t *testing.T) {
				a, b := newServant(t), newServant(t)
				a.want(granted, where.a, kind, "w", 0, 10)
				b.want(refused, where.b, kind, "w", 0, 10)
				b.want(refused, where.b, kind, "r", 0, 10)
				a.want(granted, where.a, kind, "r", 0, 10)
				b.want(granted, where.b, kind, "r", 0, 10)
				b.want(refused, where.b, kind, "w", 0, 10)
				b.want(granted, where.b, kind, "u", 0, 10)
				a.want(granted, where.a, kind, "w", 0, 10)
				// A waiter gets it when it is free, also from who dies.
				b.tell(where.b, kind+"-wait", "w", 0, 10)
				a.kill()
				if got := b.answer(); got != granted {
					t.Error(got)
				}
				c := newServant(t)
				c.want(refused, where.a, kind, "r", 0, 10)
				b.want(granted, where.b, "close")
				// The kernel tells of the last close a moment later.
				c.want(granted, where.a, kind+"-wait", "w", 0, 10)
				if kind != "flock" {
					// Ranges.
					d := newServant(t)
					d.want(granted, where.b, kind, "w", 10, 0)
					d.want(refused, where.b, kind, "w", 9, 1)
					c.want(granted, where.a, kind, "u", 3, 4)
					d.want(granted, where.b, kind, "w", 3, 4)
					d.want(refused, where.b, kind, "w", 2, 1)
					d.want(refused, where.b, kind, "w", 7, 1)
				}
			})
		}
	}
	eventually(t, "no file has locks when nobody has any", func() bool {
		r.view.fs.locks.mu.Lock()
		defer r.view.fs.locks.mu.Unlock()
		return len(r.view.fs.locks.files) == 0
	})
}

func TestClosingOneDescriptorReleasesAProcesssPOSIXLocks(t *testing.T) {
	r := newRig(t)
	r.fileDoc("f1", "text")
	p := r.in(testApp, "f1", "file.txt")
	a, b := newServant(t), newServant(t)
	a.want(granted, p, "posix", "w", 0, 0)
	b.want(refused, p, "posix", "r", 0, 0)
	a.want(granted, p, "reopen")
	b.want(granted, p, "posix", "w", 0, 0)

	c, d := newServant(t), newServant(t)
	b.want(granted, p, "close")
	c.want(granted, p, "ofd-wait", "w", 0, 0)
	c.want(granted, p, "reopen")
	d.want(refused, p, "ofd", "w", 0, 0)
}

func TestGetLockSaysWhoIsInTheWay(t *testing.T) {
	r := newRig(t)
	host := r.fileDoc("f1", "text")
	p := r.in(testApp, "f1", "file.txt")
	f, err := os.OpenFile(p, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	for _, path := range []string{p, host} {
		a := newServant(t)
		a.want(granted, path, "posix", "w", 5, 10)
		fl := unix.Flock_t{Type: unix.F_RDLCK}
		must(t, unix.FcntlFlock(f.Fd(), unix.F_GETLK, &fl))
		if fl.Type != unix.F_WRLCK || fl.Start != 5 || fl.Len != 10 || int(fl.Pid) != a.cmd.Process.Pid {
			t.Errorf("%s: %+v", path, fl)
		}
		a.kill()
		eventually(t, "the lock goes", func() bool {
			fl = unix.Flock_t{Type: unix.F_WRLCK}
			return unix.FcntlFlock(f.Fd(), unix.F_GETLK, &fl) == nil && fl.Type == unix.F_UNLCK
		})
	}
}

func TestWaitingForALockIsInterrupted(t *testing.T) {
	r := newRig(t)
	host := r.fileDoc("f1", "text")
	p := r.in(testApp, "f1", "file.txt")
	for _, holder := range []string{p, host} {
		for _, kind := range []string{"posix", "flock"} {
			a, b := newServant(t), newServant(t)
			a.want(granted, holder, kind, "w", 0, 0)
			b.tell(p, kind+"-wait", "w", 0, 0)
			eventually(t, "it waits", func() bool {
				r.view.fs.locks.mu.Lock()
				defer r.view.fs.locks.mu.Unlock()
				return r.view.fs.locks.waiting[testApp] == 1
			})
			b.kill() // returns when it is dead
			eventually(t, "it waits no more", func() bool {
				r.view.fs.locks.mu.Lock()
				defer r.view.fs.locks.mu.Unlock()
				return len(r.view.fs.locks.waiting) == 0
			})
			a.kill()
		}
	}
}

// crowdSize is how many wait for a lock at once.
func crowdSize() int {
	if long() {
		return 20_000
	}
	return maxWaiters + 76
}

// lockCrowd waits for a lock on the file so many times at once.
func lockCrowd(path string) int {
	debug.SetMaxThreads(2 * crowdSize())
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	var wg sync.WaitGroup
	for range crowdSize() {
		wg.Go(func() {
			if err := lockFile(f, "posix-wait", "w", 0, 0); err != nil {
				fmt.Println(err)
			}
		})
	}
	wg.Wait()
	return 0
}

func TestACrowdOfWaitersIsNoHarm(t *testing.T) {
	r := newRig(t)
	r.fileDoc("f1", "text")
	r.fileDoc("f2", "text")
	p := r.in(testApp, "f1", "file.txt")
	a := newServant(t)
	a.want(granted, p, "ofd", "w", 0, 0)
	crowd := exec.Command("/proc/self/exe")
	crowd.Env = append(os.Environ(), "DOCPORTAL_TEST_CROWD="+p)
	out, err := crowd.StdoutPipe()
	must(t, err)
	must(t, crowd.Start())
	t.Cleanup(func() { crowd.Process.Kill(); crowd.Wait() })
	// Those who are too many are told so.
	lines := bufio.NewScanner(out)
	t0 := time.Now()
	for range crowdSize() - maxWaiters {
		if !lines.Scan() || lines.Text() != syscall.ENOLCK.Error() {
			t.Fatalf("%q", lines.Text())
		}
	}
	t.Log("blocked after", time.Since(t0))
	before := threads(t)
	if before > 200 {
		t.Errorf("%d threads", before)
	}
	start := time.Now()
	wantContent(t, r.in(testApp, "f2", "file.txt"), "text")
	b := newServant(t)
	b.want(granted, r.in(testApp, "f2", "file.txt"), "ofd", "w", 0, 0)
	if took := time.Since(start); took > testsession.Limit(time.Second) {
		t.Errorf("others wait %v", took)
	}
	must(t, crowd.Process.Kill())
	crowd.Wait()
	t.Log("dead after", time.Since(t0))
	eventually(t, "nobody waits", func() bool {
		r.view.fs.locks.mu.Lock()
		defer r.view.fs.locks.mu.Unlock()
		return len(r.view.fs.locks.waiting) == 0
	})
	a.want(granted, p, "close")
	b.want(granted, p, "ofd-wait", "w", 0, 0)
}

func threads(t *testing.T) int {
	b, err := os.ReadFile("/proc/self/status")
	must(t, err)
	_, rest, _ := strings.Cut(string(b), "Threads:")
	var n int
	fmt.Sscan(rest, &n)
	return n
}

// TestWhoHasALockSeesWhatOthersWrote: also where the kernel, which goes by the
// time of the last change, believes that its pages are right.
func TestWhoHasALockSeesWhatOthersWrote(t *testing.T) {
	r := newRig(t)
	host := r.fileDoc("f1", "0000")
	f, err := os.OpenFile(r.in(testApp, "f1", "file.txt"), os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	info, err := os.Stat(host)
	must(t, err)
	read := func() string {
		b := make([]byte, 4)
		f.ReadAt(b, 0)
		return string(b)
	}
	for i, kind := range []string{"posix", "ofd", "flock", "posix-wait", "ofd-wait", "flock-wait"} {
		read()
		want := fmt.Sprintf("%04d", i+1)
		h, err := os.OpenFile(host, os.O_WRONLY, 0)
		must(t, err)
		_, err = h.WriteString(want)
		must(t, err)
		h.Close()
		must(t, os.Chtimes(host, info.ModTime(), info.ModTime()))
		must(t, lockFile(f, kind, "r", 0, 4))
		if got := read(); got != want {
			t.Errorf("with a lock (%s): %s, want %s", kind, got, want)
		}
		must(t, lockFile(f, strings.TrimSuffix(kind, "-wait"), "u", 0, 4))
	}
}
