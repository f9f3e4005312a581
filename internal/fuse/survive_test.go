package fuse

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"docportal/internal/keeper"
	"docportal/internal/testsession"
)

// survivor is a view whose server can be killed: it runs in a process of its
// own, below a keeper that starts it again.
type survivor struct {
	*testing.T
	settings survivorSettings
	cmd      *exec.Cmd
	log      bytes.Buffer // to be read after the end
	once     sync.Once
	older    bool // this kernel cannot send again, though the test did not ask for that
}

// end ends it.
func (s *survivor) end() {
	s.once.Do(func() {
		s.cmd.Process.Signal(syscall.SIGTERM)
		s.cmd.Wait()
	})
}

type survivorSettings struct {
	Mount, Journal string
	NoResend       bool
	AskItself      bool              // the server uses its own mount
	Invalidate     string            // a document of which the kernel is told to forget all, at SIGUSR2
	Files          map[string]string // document id to host path; all for testApp, to write
}

const survivorVariable = "DOCPORTAL_TEST_SURVIVOR"

// surviving is TestMain's for the keeper and the server.
func surviving(text string) int {
	var s survivorSettings
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		fmt.Println(err)
		return 1
	}
	server, err := keeper.Attach()
	if err != nil {
		fmt.Println(err)
		return 1
	}
	if server == nil {
		return keeper.Run(keeper.Options{Args: os.Args, Log: os.Stdout})
	}
	docs := newDocuments()
	for id, path := range s.Files {
		d := &Document{ID: id, Dir: filepath.Dir(path), Name: filepath.Base(path)}
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			d.Dir, d.Directory = path, true
		}
		var st unix.Stat_t
		if err := unix.Stat(d.Dir, &st); err != nil {
			fmt.Println(err)
			return 1
		}
		d.DirID = FileID{Dev: st.Dev, Ino: st.Ino}
		docs.docs[id] = d
		docs.access[[2]string{testApp, id}] = Access{Read: true, Write: true}
	}
	o := Options{
		Log:     slog.New(slog.NewTextHandler(os.Stdout, nil)),
		Journal: s.Journal,
		Keep: func(where string, device, memory *os.File) error {
			return server.Keep(keeper.Device, where, device, memory)
		},
		Poisoned: server.Crashes() >= 3,
		noResend: s.NoResend,
		Low:      Reserve(),
	}
	if k := server.Take(keeper.Device); k != nil {
		o.Resume = &Connection{Device: k.Files[0], Memory: k.Files[1], GiveUp: func() { server.Drop(keeper.Device) }}
	}
	v, err := Mount(s.Mount, docs, o)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	server.Ready(true)
	if s.AskItself {
		for range 4 {
			go func() {
				var st unix.Stat_t
				for {
					unix.Stat(s.Mount, &st)
				}
			}()
		}
	}
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGUSR2)
	go func() { // ends with the process
		for range told {
			v.Invalidate(s.Invalidate)
		}
	}()
	<-server.Ended()
	v.Unmount()
	return 0
}

func newSurvivor(t *testing.T, settings survivorSettings) *survivor {
	t.Helper()
	dir := t.TempDir()
	settings.Mount, settings.Journal = filepath.Join(dir, "doc"), filepath.Join(dir, "journal")
	s := &survivor{T: t, settings: settings, older: !settings.NoResend && !resends()}
	text, err := json.Marshal(settings)
	must(t, err)
	s.cmd = exec.Command("/proc/self/exe")
	s.cmd.Env = append(os.Environ(), survivorVariable+"="+string(text))
	s.cmd.Stdout, s.cmd.Stderr = &s.log, &s.log
	s.cmd.WaitDelay = time.Second // a thread that cannot end has its output open
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(t, s.cmd.Start())
	t.Cleanup(func() {
		s.end()
		if t.Failed() {
			t.Logf("the server said:\n%s", s.log.String())
		}
		if _, ok := topMount(settings.Mount); ok {
			t.Error("still mounted")
			detach(settings.Mount)
		}
	})
	eventually(t, "mounted", func() bool {
		_, err := os.Stat(s.in())
		return err == nil
	})
	return s
}

func (s *survivor) in(elem ...string) string {
	return filepath.Join(append([]string{s.settings.Mount, "by-app", testApp}, elem...)...)
}

// server is the process id of the server, 0 if there is none.
func (s *survivor) server() int {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", s.cmd.Process.Pid))
	for _, task := range tasks {
		text, _ := os.ReadFile(task)
		for field := range strings.FieldsSeq(string(text)) {
			if pid, err := strconv.Atoi(field); err == nil {
				return pid
			}
		}
	}
	return 0
}

func (s *survivor) kill() {
	if pid := s.server(); pid != 0 {
		syscall.Kill(pid, syscall.SIGKILL)
	}
}

// kills kills the server again and again, every 100 ms if distance is that, while
// work goes on.
func (s *survivor) kills(work func() error, workers int, distance time.Duration) {
	s.Helper()
	kills := int(3 * time.Second / distance)
	if os.Getenv("DOCPORTAL_LONG") != "" {
		kills = 200
	}
	var stop atomic.Bool
	var wg sync.WaitGroup
	var rounds, errs atomic.Int64
	for range workers {
		wg.Go(func() {
			for !stop.Load() {
				rounds.Add(1)
				if err := work(); err != nil && !s.lost(err) {
					s.Error(err)
					if errs.Add(1) > 5 {
						return
					}
				}
			}
		})
	}
	for range kills {
		time.Sleep(distance)
		s.kill()
	}
	stop.Store(true)
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(2 * patience):
		s.Fatal("something hangs")
	}
	s.Logf("%d kills, %d rounds", kills, rounds.Load())
	least := int64(1)
	if long() {
		least = int64(kills / 4)
	}
	if rounds.Load() < least {
		s.Error("hardly anything was done")
	}
}

// lost reports whether that is what an operation may come to that was under way
// when the server died, where the kernel cannot send it again: it is refused, and
// if it was made all the same, it cannot be made again.
func (s *survivor) lost(err error) bool {
	return s.older &&
		(errors.Is(err, syscall.ESTALE) || errors.Is(err, syscall.EEXIST) ||
			errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ENODATA))
}

// resends reports whether this kernel sends again what was not answered.
func resends() bool {
	var u unix.Utsname
	var major, minor int
	if err := unix.Uname(&u); err != nil {
		return false
	}
	n, _ := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor)
	return n == 2 && (major > 6 || major == 6 && minor >= 9)
}

// within fails an operation that takes long.
func within(what string, start time.Time, err error) error {
	if took := time.Since(start); took > testsession.Limit(time.Second) {
		return fmt.Errorf("%s took %v (%v)", what, took, err)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// steps does one thing after the other, until one fails.
func steps(all ...func() error) error {
	for n, step := range all {
		start := time.Now()
		err := step()
		for errors.Is(err, syscall.EINTR) { // the runtime's signals
			err = step()
		}
		if err := within(fmt.Sprint("step ", n), start, err); err != nil {
			return err
		}
	}
	return nil
}

func hasContent(path, want string) error {
	b, err := os.ReadFile(path)
	if err == nil && string(b) != want {
		return fmt.Errorf("%s contains %.60q, want %.60q", path, b, want)
	}
	return err
}

// TestPathsOutliveTheServer: each operation by path, over and over, while the
// server is killed again and again. None fails, and none is done twice.
func TestPathsOutliveTheServer(t *testing.T) {
	host := t.TempDir()
	tree := filepath.Join(host, "tree")
	must(t, os.Mkdir(tree, 0o755))
	must(t, os.WriteFile(filepath.Join(host, "file.txt"), []byte("first"), 0o644))
	s := newSurvivor(t, survivorSettings{Files: map[string]string{"d1": tree, "f1": filepath.Join(host, "file.txt")}})
	var number atomic.Int64
	s.kills(func() error {
		n := strconv.FormatInt(number.Add(1), 10)
		dir := s.in("d1", "tree", "dir"+n)
		at := func(name string) string { return filepath.Join(dir, name) }
		temp := s.in("f1", "temp"+n)
		return steps(
			func() error { return os.Mkdir(dir, 0o755) },
			func() error {
				fd, err := unix.Open(at("new"), unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o644)
				unix.Close(fd)
				return err
			},
			func() error { return os.Symlink("text", at("symlink")) },
			func() error { return os.Link(at("new"), at("link")) },
			func() error { return unix.Mknod(at("fifo"), unix.S_IFIFO|0o600, 0) },
			func() error {
				return unix.Renameat2(unix.AT_FDCWD, at("link"), unix.AT_FDCWD, at("symlink"), unix.RENAME_EXCHANGE)
			},
			func() error {
				if text, err := os.Readlink(at("link")); err != nil || text != "text" {
					return fmt.Errorf("exchanged twice: %q, %w", text, err)
				}
				return nil
			},
			func() error {
				return unix.Renameat2(unix.AT_FDCWD, at("new"), unix.AT_FDCWD, at("moved"), unix.RENAME_NOREPLACE)
			},
			func() error { return os.Rename(at("moved"), at("fifo")) },
			func() error { return unix.Setxattr(at("fifo"), "user.x", []byte(n), unix.XATTR_CREATE) },
			func() error { return unix.Removexattr(at("fifo"), "user.x") },
			func() error { return os.Chmod(at("fifo"), 0o600) },
			func() error { return os.Truncate(at("fifo"), 5) },
			func() error {
				var st unix.Stat_t
				if err := unix.Stat(at("fifo"), &st); err != nil || st.Size != 5 || st.Mode != unix.S_IFREG|0o600 {
					return fmt.Errorf("size %d, mode %o, %w", st.Size, st.Mode, err)
				}
				return unix.Access(at("fifo"), unix.R_OK)
			},
			func() error {
				list, err := os.ReadDir(dir)
				if err == nil && len(list) != 3 {
					err = fmt.Errorf("lists %v", list)
				}
				return err
			},
			func() error { return os.WriteFile(temp, []byte(n), 0o600) },
			func() error { return hasContent(temp, n) },
			func() error { return os.Rename(temp, s.in("f1", "file.txt")) },
			func() error {
				for {
					// Another one may have taken its place since it was opened, and
					// again; to open it never fails.
					_, err := os.ReadFile(s.in("f1", "file.txt"))
					if e := (*os.PathError)(nil); !errors.Is(err, syscall.ESTALE) || !errors.As(err, &e) || e.Op != "read" {
						return err
					}
				}
			},
			func() error { return unix.Unlink(at("link")) },
			func() error { return unix.Unlink(at("symlink")) },
			func() error { return unix.Unlink(at("fifo")) },
			func() error { return unix.Rmdir(dir) },
		)
	}, 4, 100*time.Millisecond)
	if s.older {
		return // who was refused has left off in the middle
	}
	if left := names(t, tree); len(left) != 0 {
		t.Errorf("left in the tree: %q", left)
	}
	if left := names(t, host); !slices.Equal(left, []string{"file.txt", "tree"}) {
		t.Errorf("left beside the file: %q", left)
	}
}

// TestPathsOutliveTheServerOnOlderKernels: where what is under way cannot be
// sent again it fails, and nothing hangs; who only looks does not notice.
func TestPathsOutliveTheServerOnOlderKernels(t *testing.T) {
	host := t.TempDir()
	tree := filepath.Join(host, "tree")
	must(t, os.MkdirAll(filepath.Join(tree, "a/b/c"), 0o755))
	must(t, os.Symlink("text", filepath.Join(tree, "a/b/link")))
	must(t, os.WriteFile(filepath.Join(tree, "a/b/c/file"), []byte("text"), 0o644))
	s := newSurvivor(t, survivorSettings{NoResend: true, Files: map[string]string{"d1": tree}})
	at := func(name string) string { return s.in("d1", "tree", name) }
	// What works by a descriptor may be told that it is stale.
	byDescriptor := func(f func() error) error {
		err := f()
		if errors.Is(err, syscall.ESTALE) {
			err = f()
		}
		return err
	}
	s.kills(func() error {
		var st unix.Stat_t
		return steps(
			func() error { return unix.Stat(at("a/b/c/file"), &st) },
			func() error { return unix.Access(at("a/b/c/file"), unix.W_OK) },
			func() error { return byDescriptor(func() error { return hasContent(at("a/b/c/file"), "text") }) },
			func() error {
				if text, err := os.Readlink(at("a/b/link")); err != nil || text != "text" {
					return fmt.Errorf("%q, %w", text, err)
				}
				return nil
			},
			func() error {
				return byDescriptor(func() error {
					list, err := os.ReadDir(at("a/b"))
					if err == nil && len(list) != 2 {
						err = fmt.Errorf("lists %v", list)
					}
					return err
				})
			},
			func() error { return os.Chmod(at("a/b/c/file"), 0o600) },
		)
	}, 4, 300*time.Millisecond)
}

// TestDescriptorsOutliveTheServer: what was opened before a kill is read,
// written, listed and walked from after it; what is appended is appended once.
func TestDescriptorsOutliveTheServer(t *testing.T) {
	host := t.TempDir()
	tree := filepath.Join(host, "tree")
	must(t, os.Mkdir(tree, 0o755))
	for n := range 300 {
		must(t, os.WriteFile(filepath.Join(tree, fmt.Sprint("file", n)), []byte("text"), 0o644))
	}
	s := newSurvivor(t, survivorSettings{Files: map[string]string{"d1": tree}})
	log, err := os.OpenFile(s.in("d1", "tree", "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	must(t, err)
	defer log.Close()
	data, err := os.OpenFile(s.in("d1", "tree", "data"), os.O_CREATE|os.O_RDWR, 0o644)
	must(t, err)
	defer data.Close()
	must(t, data.Truncate(1<<20))
	large := bytes.Repeat([]byte("large"), maxWrite/5)
	mapped, err := unix.Mmap(int(data.Fd()), 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	defer unix.Munmap(mapped)
	dir, err := os.Open(s.in("d1", "tree"))
	must(t, err)
	defer dir.Close()
	top, err := os.Open(s.in())
	must(t, err)
	defer top.Close()
	var wrote strings.Builder
	round := 0
	s.kills(func() error {
		round++
		line := fmt.Sprintf("line %d\n", round)
		mapped[round%len(mapped)]++
		return steps(
			func() error {
				n, err := unix.Write(int(log.Fd()), []byte(line))
				if err == nil && n != len(line) {
					err = io.ErrShortWrite
				}
				if err == nil {
					wrote.WriteString(line)
				}
				return err
			},
			func() error {
				want := bytes.Repeat([]byte(line), 100)
				if _, err := data.WriteAt(want, 4096); err != nil {
					return err
				}
				got := make([]byte, len(want))
				if _, err := data.ReadAt(got, 4096); err != nil || !bytes.Equal(got, want) {
					return fmt.Errorf("reads other bytes than were written, %w", err)
				}
				return nil
			},
			func() error {
				_, err := data.WriteAt(large, 1<<20)
				return err
			},
			func() error { return unix.Msync(mapped, unix.MS_SYNC) },
			func() error { return data.Sync() },
			func() error {
				var st unix.Stat_t
				return unix.Fstat(int(log.Fd()), &st)
			},
			func() error {
				var st unix.Stat_t
				return unix.Fstatat(int(dir.Fd()), fmt.Sprint("file", round%300), &st, 0)
			},
			func() error {
				if _, err := dir.Seek(0, io.SeekStart); err != nil {
					return err
				}
				seen := make(map[string]int)
				for {
					list, err := dir.Readdirnames(20)
					for _, name := range list {
						seen[name]++
					}
					if err == io.EOF {
						break
					}
					if err != nil {
						return err
					}
				}
				if len(seen) != 302 {
					return fmt.Errorf("lists %d names", len(seen))
				}
				return nil
			},
			func() error {
				if _, err := top.Seek(0, io.SeekStart); err != nil {
					return err
				}
				list, err := top.Readdirnames(-1)
				if err == nil && !slices.Equal(list, []string{"d1"}) {
					err = fmt.Errorf("lists %q", list)
				}
				return err
			},
		)
	}, 1, 100*time.Millisecond)
	if !s.older { // what was refused may be there
		wantContent(t, filepath.Join(tree, "log"), wrote.String())
	}
}

// TestWritesOutliveTheServer: requests as large as there are. The kernel may be
// copying one to the server that is killed.
func TestWritesOutliveTheServer(t *testing.T) {
	tree := filepath.Join(t.TempDir(), "tree")
	must(t, os.Mkdir(tree, 0o755))
	s := newSurvivor(t, survivorSettings{Files: map[string]string{"d1": tree}})
	var number atomic.Int64
	s.kills(func() error {
		n := int(number.Add(1))
		path := s.in("d1", "tree", "file"+strconv.Itoa(n))
		data := bytes.Repeat([]byte{byte(n), byte(n >> 8), byte(n >> 16), 1}, maxWrite/4)
		return steps(
			func() error {
				f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
				if err != nil {
					return err
				}
				for range 4 {
					if _, err = f.Write(data); err != nil {
						break
					}
				}
				return errors.Join(err, f.Close())
			},
			func() error {
				b, err := os.ReadFile(path)
				if err == nil && !bytes.Equal(b, bytes.Repeat(data, 4)) {
					err = fmt.Errorf("%d other bytes", len(b))
				}
				return err
			},
			func() error { return unix.Unlink(path) },
		)
	}, 4, 100*time.Millisecond)
	if left := names(t, tree); len(left) != 0 && !s.older {
		t.Errorf("left: %q", left)
	}
}

// TestWhatDoesNotOutliveTheServerSaysSo: a lock, and a file without a name.
func TestWhatDoesNotOutliveTheServerSaysSo(t *testing.T) {
	host := t.TempDir()
	tree := filepath.Join(host, "tree")
	must(t, os.Mkdir(tree, 0o755))
	must(t, os.WriteFile(filepath.Join(tree, "a"), []byte("text"), 0o644))
	s := newSurvivor(t, survivorSettings{Files: map[string]string{"d1": tree}})
	open := func(name string) *os.File {
		f, err := os.OpenFile(s.in("d1", "tree", name), os.O_CREATE|os.O_RDWR, 0o644)
		must(t, err)
		t.Cleanup(func() { f.Close() })
		return f
	}
	locked, removed := open("a"), open("b")
	must(t, unix.Flock(int(locked.Fd()), unix.LOCK_EX))
	must(t, os.Remove(removed.Name()))
	before := s.server()
	s.kill()
	eventually(t, "another server", func() bool { pid := s.server(); return pid != 0 && pid != before })
	_, err := locked.WriteAt([]byte("x"), 0)
	wantErr(t, "write under a lock that is gone", err, syscall.ESTALE)
	_, err = removed.WriteAt([]byte("x"), 0)
	wantErr(t, "write to a file without a name", err, syscall.ESTALE)
	again := open("a")
	must(t, unix.Flock(int(again.Fd()), unix.LOCK_EX|unix.LOCK_NB))
	if _, err := again.WriteAt([]byte("x"), 0); err != nil {
		t.Error(err)
	}
}

// TestAWaitingLockOutlivesTheServer: who waits for a lock goes on waiting, and
// gets it.
func TestAWaitingLockOutlivesTheServer(t *testing.T) {
	host := t.TempDir()
	tree := filepath.Join(host, "tree")
	must(t, os.Mkdir(tree, 0o755))
	path := filepath.Join(tree, "a")
	must(t, os.WriteFile(path, []byte("text"), 0o644))
	s := newSurvivor(t, survivorSettings{Files: map[string]string{"d1": tree}})
	holder, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer holder.Close()
	must(t, unix.Flock(int(holder.Fd()), unix.LOCK_EX))
	waiter, err := os.OpenFile(s.in("d1", "tree", "a"), os.O_RDWR, 0)
	must(t, err)
	defer waiter.Close()
	got := make(chan error, 1)
	go func() {
		for {
			err := unix.Flock(int(waiter.Fd()), unix.LOCK_EX)
			if !errors.Is(err, syscall.EINTR) {
				got <- err
				return
			}
		}
	}()
	for range 4 {
		select {
		case err := <-got:
			if s.lost(err) {
				return
			}
			t.Fatalf("it does not wait any more: %v", err)
		case <-time.After(50 * time.Millisecond): // not a wait: it must not come
		}
		before := s.server()
		s.kill()
		eventually(t, "another server", func() bool { pid := s.server(); return pid != 0 && pid != before })
	}
	must(t, unix.Flock(int(holder.Fd()), unix.LOCK_UN))
	select {
	case err := <-got:
		if !s.lost(err) {
			must(t, err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("it does not get the lock")
	}
}

// TestAServerThatWaitsForItselfEnds: it is killed while a thread of it waits
// for an answer of its own.
func TestAServerThatWaitsForItselfEnds(t *testing.T) {
	host := t.TempDir()
	must(t, os.WriteFile(filepath.Join(host, "file.txt"), []byte("text"), 0o644))
	s := newSurvivor(t, survivorSettings{AskItself: true, Files: map[string]string{"f1": filepath.Join(host, "file.txt")}})
	for range 6 {
		time.Sleep(20 * time.Millisecond) // in the middle of it
		before := s.server()
		start := time.Now()
		s.kill()
		eventually(t, "another server", func() bool { pid := s.server(); return pid != 0 && pid != before })
		if took := time.Since(start); took > testsession.Limit(3*time.Second) {
			t.Errorf("it took %v", took)
		}
		// What is asked for while the dead one is still there fails.
		eventually(t, "the file is there", func() bool { return hasContent(s.in("f1", "file.txt"), "text") == nil })
	}
	s.end()
	if !strings.Contains(s.log.String(), "cannot end") {
		t.Error("it never did; this shows nothing")
	}
}

// TestNobodyIsLeftByKeeperAndServer: both are killed at once while a notice waits
// for a directory in which somebody looks for a name, an answer that nobody gives
// any more. Who looks gets an error, and the thread that waits can end: nothing is
// left that cannot be killed, and no mount that seems to live.
func TestNobodyIsLeftByKeeperAndServer(t *testing.T) {
	for range 10 {
		if nobodyIsLeft(t) || t.Failed() {
			return
		}
	}
	t.Error("no notice waited; this shows nothing")
}

// nobodyIsLeft is one attempt. It reports whether a notice came to wait.
func nobodyIsLeft(t *testing.T) bool {
	r, g := newHangingRig(t)
	d := r.docs.docs["hung"]
	s := newSurvivor(t, survivorSettings{Invalidate: "d1", Files: map[string]string{"d1": d.Dir}})
	dir := s.in("d1", "tree")
	dev, err := deviceAt(s.settings.Mount)
	must(t, err)
	t.Cleanup(func() {
		g.release()
		if t.Failed() {
			abort(dev) // or what went wrong stays as long as the machine
		}
	})
	open, err := os.Open(filepath.Join(dir, "file.txt")) // of which the kernel is told to forget the name
	must(t, err)
	defer open.Close()
	// It looks for a name in the directory that it is in, which it locks for that.
	reader := exec.Command("sh", "-c", "echo there; read go; exec cat other")
	reader.Dir = dir
	tell, err := reader.StdinPipe()
	must(t, err)
	out, err := reader.StdoutPipe()
	must(t, err)
	must(t, reader.Start())
	_, err = io.ReadFull(out, make([]byte, len("there\n")))
	must(t, err)
	g.close()
	io.WriteString(tell, "go\n")
	server := s.server()
	// A thread with a table of its own, of few descriptors.
	waits := func() bool {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", server))
		for _, task := range tasks {
			stat, _ := os.ReadFile(task + "/stat")
			fds, _ := os.ReadDir(task + "/fd")
			if _, state, _ := strings.Cut(string(stat), ") "); strings.HasPrefix(state, "D") && len(fds) > 0 && len(fds) < 7 {
				return true
			}
		}
		return false
	}
	eventually(t, "who reads waits", func() bool { return g.waiting.Load() > 0 })
	syscall.Kill(server, syscall.SIGUSR2)
	for end := time.Now().Add(time.Second); !waits(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			g.release()
			reader.Wait()
			return false
		}
	}
	s.cmd.Process.Kill()
	syscall.Kill(server, syscall.SIGKILL)
	s.once.Do(func() { s.cmd.Wait() })
	if !waits() {
		t.Fatal("no notice waits; this shows nothing")
	}
	g.release() // what the server itself waits for is another's
	ended := make(chan struct{})
	go func() { reader.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		reader.Process.Kill()
		t.Error("who reads still waits")
	}
	eventually(t, "the server has gone", func() bool {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", server))
		return len(tasks) <= 1 && !waits() // of who is dead one thread is left until that is noticed
	})
	if state, _ := look(s.settings.Mount); state != mountDead {
		t.Errorf("the mount is %v", state)
	}
	must(t, detach(s.settings.Mount)) // as the next instance does
	return true
}
