package fuse

import (
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"docportal/internal/testsession"
)

func TestMountIsADocumentPortals(t *testing.T) {
	r := newRig(t)
	b, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	for line := range strings.Lines(string(b)) {
		if !strings.Contains(line, " "+r.mnt+" ") {
			continue
		}
		for _, want := range []string{" - fuse.portal portal ", "nosuid", "nodev"} {
			if !strings.Contains(line, want) {
				t.Errorf("no %q in %s", want, line)
			}
		}
		var st unix.Stat_t
		must(t, unix.Stat(r.mnt, &st))
		if st.Dev != r.view.Dev() {
			t.Errorf("Dev is %d, want %d", r.view.Dev(), st.Dev)
		}
		return
	}
	t.Error("not mounted")
}

func TestMountIsQuick(t *testing.T) {
	r := newRig(t)
	best := time.Hour
	for range 5 {
		must(t, r.view.Unmount())
		<-r.view.served
		start := time.Now()
		v, err := Mount(r.mnt, r.docs, r.opts)
		must(t, err)
		best = min(best, time.Since(start))
		r.view = v
	}
	must(t, r.view.Unmount())
	t.Log("best of 5:", best)
	if best > 50*time.Millisecond {
		t.Errorf("mounting takes %v", best)
	}
}

// TestMain runs this with DOCPORTAL_TEST_SERVE: a daemon that can be killed.
func serveUntilKilled() int {
	docs := newDocuments()
	_, err := Mount(os.Getenv("DOCPORTAL_TEST_SERVE"), docs, Options{})
	if err != nil {
		os.Stdout.WriteString(err.Error() + "\n")
		return 1
	}
	os.Stdout.WriteString("mounted\n")
	io.Copy(io.Discard, os.Stdin)
	return 0
}

// daemon mounts a view on dir in a process of its own.
func daemon(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "DOCPORTAL_TEST_SERVE="+dir)
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		in.Close()
		cmd.Process.Kill()
		cmd.Wait()
		detach(dir)
	})
	b := make([]byte, 1000)
	n, err := out.Read(b)
	if string(b[:n]) != "mounted\n" {
		t.Fatalf("%s %v", b[:n], err)
	}
	return cmd
}

func TestStaleMountIsReplaced(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "doc")
	d := daemon(t, dir)
	must(t, d.Process.Kill())
	d.Wait()
	_, err := os.Stat(dir)
	wantErr(t, "a dead daemon's mount", err, syscall.ENOTCONN)
	v, err := Mount(dir, newDocuments(), Options{})
	must(t, err)
	if got := names(t, dir); len(got) != 1 || got[0] != "by-app" {
		t.Errorf("lists %q", got)
	}
	must(t, v.Unmount())
	if _, ok := topMount(dir); ok {
		t.Error("something is still mounted")
	}
}

func TestLiveMountIsKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "doc")
	daemon(t, dir)
	_, err := Mount(dir, newDocuments(), Options{})
	if !errors.Is(err, ErrMounted) {
		t.Errorf("error %v, want ErrMounted", err)
	}
	if got := names(t, dir); len(got) != 1 {
		t.Errorf("lists %q", got)
	}
	v, err := Mount(dir, newDocuments(), Options{Replace: true})
	must(t, err)
	must(t, v.Unmount())
	if _, ok := topMount(dir); ok {
		t.Error("the daemon that was replaced is still mounted")
	}
}

func TestMountDirectory(t *testing.T) {
	var log strings.Builder
	opts := Options{Log: slog.New(slog.NewTextHandler(&log, nil))}
	for _, c := range []struct {
		name    string
		prepare func(dir string) error
		fails   bool
		log     string
	}{
		{"missing", func(string) error { return nil }, false, ""},
		{"not writable", func(dir string) error { return os.Mkdir(dir, 0o500) }, false, ""},
		{"with an odd name", func(dir string) error { return os.Mkdir(dir, 0o700) }, false, ""},
		{"not empty", func(dir string) error { return os.MkdirAll(filepath.Join(dir, "x"), 0o700) }, false, "not empty"},
		{"a file", func(dir string) error { return os.WriteFile(dir, nil, 0o600) }, true, ""},
		{"in nothing", func(dir string) error { return os.Remove(filepath.Dir(dir)) }, true, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			log.Reset()
			dir := filepath.Join(t.TempDir(), "a b\\\tä,c", "doc")
			must(t, os.Mkdir(filepath.Dir(dir), 0o700))
			must(t, c.prepare(dir))
			v, err := Mount(dir, newDocuments(), opts)
			if (err != nil) != c.fails {
				t.Fatalf("error %v", err)
			}
			if c.fails {
				return
			}
			var st unix.Stat_t
			must(t, unix.Stat(dir, &st))
			if st.Dev != v.Dev() {
				t.Error("it is not the view")
			}
			must(t, v.Unmount())
			must(t, unix.Stat(dir, &st))
			if st.Mode&0o777 != 0o700 {
				t.Errorf("mode %o while nothing is mounted", st.Mode)
			}
			if !strings.Contains(log.String(), c.log) || c.log == "" && log.Len() > 0 {
				t.Errorf("log: %s", log.String())
			}
		})
	}
}

func TestUnmountWhileInUse(t *testing.T) {
	r := newRig(t)
	r.fileDoc("f1", "text")
	f, err := os.Open(r.in(testApp, "f1", "file.txt"))
	must(t, err)
	defer f.Close()
	start := time.Now()
	must(t, r.view.Unmount())
	if took := time.Since(start); took > testsession.Limit(2*time.Second) {
		t.Errorf("took %v", took)
	}
	if _, ok := topMount(r.mnt); ok {
		t.Error("still mounted")
	}
	select {
	case <-r.view.Done():
	default:
		t.Error("not done")
	}
	must(t, r.view.Unmount())
}

func TestUnmountBySomebodyElseIsNoticed(t *testing.T) {
	for _, how := range []string{"unused", "in use"} {
		t.Run(how, func(t *testing.T) {
			r := newRig(t)
			r.fileDoc("f1", "text")
			if how == "in use" {
				f, err := os.Open(r.in(testApp, "f1", "file.txt"))
				must(t, err)
				defer f.Close()
			}
			select {
			case <-r.view.Done():
				t.Fatal("done before it was unmounted")
			default:
			}
			must(t, detach(r.mnt))
			select {
			case <-r.view.Done():
			case <-time.After(2 * time.Second):
				t.Fatal("not noticed")
			}
			r.mount()
			wantContent(t, r.in(testApp, "f1", "file.txt"), "text")
		})
	}
}

func TestAnotherMountIsNotOurs(t *testing.T) {
	r := newRig(t)
	v, err := Mount(filepath.Join(t.TempDir(), "other"), r.docs, r.opts)
	must(t, err)
	must(t, v.Unmount())
	select {
	case <-r.view.Done():
		t.Error("done when another mount went")
	default:
	}
}

func TestNoHelperIsAClearError(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := findHelper(nil)
	if err == nil || !strings.Contains(err.Error(), "fusermount3 is not installed") {
		t.Errorf("error %v", err)
	}
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "fusermount"), []byte("#!/bin/sh\n"), 0o755))
	if p, err := findHelper([]string{dir}); err != nil || p != filepath.Join(dir, "fusermount") {
		t.Errorf("with fusermount only: %q %v", p, err)
	}
}

func TestMountInfoLines(t *testing.T) {
	m, ok := parseMountInfo(`77 29 0:54 / /run/user/1000/a\040b\134 rw,nosuid shared:1 master:2 - fuse.portal portal rw`)
	if want := (mountInfo{"77", "0:54", `/run/user/1000/a b\`, "fuse.portal"}); !ok || m != want {
		t.Errorf("%+v %v, want %+v", m, ok, want)
	}
	for _, line := range []string{"", " - ", "77 29 0:54 / /x rw", "1 2 3 4 - 5", `1 2 3 4 \ 5 - 6 7`} {
		if m, ok := parseMountInfo(line); ok && m.point != `\` {
			t.Errorf("accepted %q as %+v", line, m)
		}
	}
}

// TestAServerThatDiesWhileItMounts has read the kernel's first question, which is
// asked once, and not answered it, or answered it to itself only. The next one
// does not wait for the question.
func TestAServerThatDiesWhileItMounts(t *testing.T) {
	for name, further := range map[string]bool{"with the question": false, "with the answer": true} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "doc")
			must(t, os.Mkdir(dir, 0o700))
			device, err := mountDevice(dir)
			must(t, err)
			dev, err := deviceAt(dir)
			must(t, err)
			st, err := newState()
			must(t, err)
			st.set(wordDevice, dev)
			question := make([]byte, 64<<10)
			n, err := device.Read(question)
			must(t, err)
			if further {
				pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
				must(t, err)
				defer unix.Close(pair[1])
				_, err = unix.Write(pair[1], question[:n])
				must(t, err)
				_, err = negotiate(pair[0], limited{newFilesystem(newDocuments(), slog.New(slog.DiscardHandler), 0, 0, 0, nil)}, serverOptions(slog.New(slog.DiscardHandler)), st)
				must(t, err)
			}
			fd, err := unix.FcntlInt(st.file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
			must(t, err)
			st.close()
			docs := newDocuments()
			f := filepath.Join(t.TempDir(), "f")
			must(t, os.WriteFile(f, []byte("text"), 0o600))
			docs.add(t, "f1", f)
			given := false
			type answer struct {
				v   *View
				err error
			}
			mounted := make(chan answer, 1)
			go func() {
				v, err := Mount(dir, docs, Options{
					Resume:   &Connection{Device: device, Memory: os.NewFile(uintptr(fd), "memory"), GiveUp: func() { given = true }},
					noResend: true, // the question is not sent again
				})
				mounted <- answer{v, err}
			}()
			select {
			case a := <-mounted:
				must(t, a.err)
				defer a.v.Unmount()
				a.v.poll() // the server of a view that is kept does not use it itself
				wantContent(t, filepath.Join(dir, "f1/f"), "text")
				if given == further {
					t.Errorf("the connection was given up: %v", given)
				}
			case <-time.After(patience):
				detach(dir)
				t.Fatal("it waits")
			}
		})
	}
}
