package fuse

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestMain runs the tests as an ordinary user: that is whom the view is for,
// and root may do too much for some rules to show. Root becomes nobody, or
// whom DOCPORTAL_TEST_USER names.
func TestMain(m *testing.M) {
	if os.Getenv("DOCPORTAL_TEST_SERVE") != "" {
		os.Exit(serveUntilKilled())
	}
	if p := os.Getenv(survivorVariable); p != "" {
		os.Exit(surviving(p))
	}
	if os.Getenv("DOCPORTAL_TEST_LOCK") != "" {
		os.Exit(lockServant())
	}
	if p := os.Getenv("DOCPORTAL_TEST_CROWD"); p != "" {
		os.Exit(lockCrowd(p))
	}
	if p := os.Getenv("DOCPORTAL_TEST_READS"); p != "" {
		os.Exit(readCrowd(p))
	}
	if p := os.Getenv(victimVariable); p != "" {
		os.Exit(victim(p))
	}
	if p := os.Getenv(unusualVariable); p != "" {
		os.Exit(useUnusually(p))
	}
	if p := os.Getenv("DOCPORTAL_TEST_MODEL"); p != "" {
		os.Exit(runModel(p))
	}
	if os.Getuid() == 0 {
		// The go command's fuzzing keeps its files as whoever started it; only
		// the processes that run the target must be an ordinary user.
		switch {
		case hasFlag("-test.fuzzworker"):
			if err := becomeUser(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		case !hasFlag("-test.fuzz="):
			os.Exit(asUser())
		}
	}
	os.Exit(m.Run())
}

func hasFlag(prefix string) bool {
	return slices.ContainsFunc(os.Args[1:], func(a string) bool { return strings.HasPrefix(a, prefix) })
}

// ordinaryUser is whom the tests run as.
func ordinaryUser() (uid, gid int, err error) {
	name := os.Getenv("DOCPORTAL_TEST_USER")
	if name == "" {
		name = "nobody"
	}
	u, err := user.Lookup(name)
	if err != nil {
		return 0, 0, fmt.Errorf("no ordinary user to test as: %w", err)
	}
	uid, _ = strconv.Atoi(u.Uid)
	gid, _ = strconv.Atoi(u.Gid)
	return uid, gid, nil
}

// becomeUser makes this process an ordinary user's.
func becomeUser() error {
	uid, gid, err := ordinaryUser()
	if err == nil {
		err = syscall.Setgroups([]int{gid})
	}
	if err == nil {
		err = syscall.Setgid(gid)
	}
	if err == nil {
		err = syscall.Setuid(uid)
	}
	return err
}

// sourceVariable is where the source of the tests is, if that is not the
// working directory.
const sourceVariable = "DOCPORTAL_TEST_SOURCE"

func asUser() int {
	uid, gid, err := ordinaryUser()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	tmp, err := os.MkdirTemp("", "docportal-fuse-test")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(tmp)
	// Tests that were killed leave their mounts.
	defer func() {
		b, _ := os.ReadFile("/proc/self/mountinfo")
		for line := range strings.Lines(string(b)) {
			if m, ok := parseMountInfo(line); ok && strings.HasPrefix(m.point, tmp+"/") {
				unix.Unmount(m.point, unix.MNT_DETACH)
			}
		}
	}()
	if err := os.Chown(tmp, uid, gid); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	cmd := exec.Command("/proc/self/exe", slices.DeleteFunc(slices.Clone(os.Args[1:]), func(a string) bool {
		return strings.HasPrefix(a, "-test.testlogfile=") // the go command wants it from root
	})...)
	cmd.Dir = tmp
	source, _ := os.Getwd()
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp, "HOME="+tmp, sourceVariable+"="+source)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)},
		Pdeathsig:  syscall.SIGKILL,
	}
	runtime.LockOSThread() // whose death counts
	if err := cmd.Run(); err != nil {
		if e, ok := err.(*exec.ExitError); ok && e.ExitCode() > 0 {
			return e.ExitCode()
		}
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// fakeDocuments is Documents in memory.
type fakeDocuments struct {
	mu     sync.Mutex
	gen    atomic.Uint64
	docs   map[string]*Document
	access map[[2]string]Access // by app and document
	apps   []string
}

func newDocuments() *fakeDocuments {
	return &fakeDocuments{docs: make(map[string]*Document), access: make(map[[2]string]Access)}
}

func (f *fakeDocuments) Generation() uint64 { return f.gen.Load() }

func (f *fakeDocuments) Document(app, id string) (*Document, Access, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	d, ok := f.docs[id]
	if !ok {
		return nil, Access{}, false
	}
	if app == "" {
		return d, Access{Read: true, Write: true}, true
	}
	return d, f.access[[2]string{app, id}], true
}

func (f *fakeDocuments) List(app string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var ids []string
	for id := range f.docs {
		if app == "" || f.access[[2]string{app, id}].Read {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

func (f *fakeDocuments) Apps() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.apps
}

func (f *fakeDocuments) grant(app, id string, a Access) {
	f.mu.Lock()
	f.access[[2]string{app, id}] = a
	f.mu.Unlock()
	f.gen.Add(1)
}

func (f *fakeDocuments) remove(id string) {
	f.mu.Lock()
	delete(f.docs, id)
	f.mu.Unlock()
	f.gen.Add(1)
}

// add makes a document of the file or directory at path.
func (f *fakeDocuments) add(t testing.TB, id, path string) {
	t.Helper()
	d := &Document{ID: id, Dir: filepath.Dir(path), Name: filepath.Base(path)}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		d.Dir, d.Directory = path, true
	}
	var st unix.Stat_t
	if err := unix.Stat(d.Dir, &st); err != nil {
		t.Fatal(err)
	}
	d.DirID = FileID{Dev: st.Dev, Ino: st.Ino}
	f.mu.Lock()
	f.docs[id] = d
	f.mu.Unlock()
	f.gen.Add(1)
}

const (
	testApp  = "org.example.App"
	otherApp = "org.example.Other"
)

// rig is a mounted view over a directory of the host.
type rig struct {
	testing.TB
	docs *fakeDocuments
	host string // a directory of the host
	mnt  string
	view *View
	opts Options
}

func newRig(t testing.TB) *rig {
	t.Helper()
	unix.Umask(0o022)
	r := &rig{TB: t, docs: newDocuments(), host: t.TempDir(), mnt: filepath.Join(t.TempDir(), "doc")}
	level := slog.LevelInfo
	if os.Getenv("DOCPORTAL_TEST_VERBOSE") != "" {
		level = slog.LevelDebug
	}
	r.opts.Log = slog.New(slog.NewTextHandler(testLog{t}, &slog.HandlerOptions{Level: level}))
	r.opts.openat2 = testOpenat2()
	r.mount()
	return r
}

// testLog writes log lines to the test's log.
type testLog struct{ t testing.TB }

func (l testLog) Write(b []byte) (int, error) {
	if !strings.Contains(string(b), "panic=") {
		return len(b), nil
	}
	l.t.Errorf("%s", b)
	return len(b), nil
}

func (r *rig) mount() {
	r.Helper()
	v, err := Mount(r.mnt, r.docs, r.opts)
	if err != nil {
		r.Fatal(err)
	}
	r.view = v
	r.Cleanup(func() {
		v.Unmount()
		select {
		case <-v.served:
		case <-time.After(20 * time.Second):
			r.Error("something still uses the mount")
			abort(v.dev)
		}
	})
}

// file makes a file of the host and returns its path.
func (r *rig) file(name, content string) string {
	r.Helper()
	p := filepath.Join(r.host, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		r.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
		r.Fatal(err)
	}
	return p
}

func (r *rig) dir(name string) string {
	r.Helper()
	p := filepath.Join(r.host, name)
	if err := os.MkdirAll(p, 0o755); err != nil {
		r.Fatal(err)
	}
	return p
}

// fileDoc makes a file document id of a new file with the content, which
// testApp may read and write.
func (r *rig) fileDoc(id, content string) (host string) {
	r.Helper()
	host = r.file(id+".d/file.txt", content)
	r.docs.add(r, id, host)
	r.docs.grant(testApp, id, Access{Read: true, Write: true})
	return host
}

// dirDoc makes a directory document.
func (r *rig) dirDoc(id string) (host string) {
	r.Helper()
	host = r.dir(id + ".d/tree")
	r.docs.add(r, id, host)
	r.docs.grant(testApp, id, Access{Read: true, Write: true})
	return host
}

// in is a path in the view of an app.
func (r *rig) in(app string, elem ...string) string {
	if app == "" {
		return filepath.Join(append([]string{r.mnt}, elem...)...)
	}
	return filepath.Join(append([]string{r.mnt, "by-app", app}, elem...)...)
}

func wantErr(t testing.TB, what string, err error, want syscall.Errno) {
	t.Helper()
	var got syscall.Errno
	switch e := err.(type) {
	case nil:
	case *os.PathError:
		got, _ = e.Err.(syscall.Errno)
	case *os.LinkError:
		got, _ = e.Err.(syscall.Errno)
	case *os.SyscallError:
		got, _ = e.Err.(syscall.Errno)
	case syscall.Errno:
		got = e
	default:
		t.Errorf("%s: %v, want %v", what, err, want)
		return
	}
	if got != want || err != nil && got == 0 {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func wantContent(t testing.TB, path, want string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
	} else if string(b) != want {
		t.Errorf("%s contains %.40q, want %.40q", path, b, want)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func names(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Error(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

func (f *fakeDocuments) setApps(apps ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.apps = apps
}

// eventually waits for a condition that no event announces.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// referTo opens p, O_PATH, until the end of the test.
func referTo(t testing.TB, p string) (fd int, st *unix.Statx_t) {
	t.Helper()
	fd, err := unix.Open(p, unix.O_PATH, 0)
	must(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	st, errno := statFD(fd)
	if errno != 0 {
		t.Fatal(errno)
	}
	return fd, st
}

// mincore says which pages of b are in memory.
func mincore(b, vec []byte) error {
	_, _, e := syscall.Syscall(syscall.SYS_MINCORE, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), uintptr(unsafe.Pointer(&vec[0])))
	if e != 0 {
		return e
	}
	return nil
}

func ptr(b []byte) unsafe.Pointer { return unsafe.Pointer(&b[0]) }
