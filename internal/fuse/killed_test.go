package fuse

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long a test waits for what comes at once, or never: that is to
// tell what hangs from what is slow because the machine has much else to do.
const patience = 20 * time.Second

const victimVariable = "DOCPORTAL_TEST_VICTIM"

// operations are what clients are killed in: each is prepared below dir, a
// directory document, and file, one file of another document, and then made. Of
// dir are there "file", of two pages, "other", "link" and the directories "sub"
// and "full".
var operations = map[string]func(dir, file string) (func() error, error){
	"lookup":    byPath(func(dir, _ string) error { return missing(unix.Lstat(dir+"/none", new(unix.Stat_t))) }),
	"access":    byPath(func(dir, _ string) error { return unix.Access(dir+"/file", unix.R_OK) }),
	"statfs":    byPath(func(dir, _ string) error { return unix.Statfs(dir, new(unix.Statfs_t)) }),
	"readlink":  byPath(func(dir, _ string) error { _, err := os.Readlink(dir + "/link"); return err }),
	"mknod":     byPath(func(dir, _ string) error { return unix.Mknod(dir+"/fifo", unix.S_IFIFO|0o600, 0) }),
	"mkdir":     byPath(func(dir, _ string) error { return unix.Mkdir(dir+"/new", 0o700) }),
	"symlink":   byPath(func(dir, _ string) error { return unix.Symlink("text", dir+"/new") }),
	"link":      byPath(func(dir, _ string) error { return unix.Link(dir+"/file", dir+"/new") }),
	"unlink":    byPath(func(dir, _ string) error { return unix.Unlink(dir + "/file") }),
	"rmdir":     byPath(func(dir, _ string) error { return unix.Rmdir(dir + "/sub") }),
	"rename":    byPath(func(dir, _ string) error { return unix.Rename(dir+"/file", dir+"/new") }),
	"replace":   byPath(func(dir, _ string) error { return unix.Rename(dir+"/file", dir+"/full/other") }),
	"exchange":  byPath(func(dir, _ string) error { return exchange(dir+"/file", dir+"/full") }),
	"chmod":     byPath(func(dir, _ string) error { return unix.Chmod(dir+"/file", 0o600) }),
	"utimes":    byPath(func(dir, _ string) error { return unix.Utimes(dir+"/file", make([]unix.Timeval, 2)) }),
	"truncate":  byPath(func(dir, _ string) error { return unix.Truncate(dir+"/file", 1) }),
	"getxattr":  byPath(func(dir, _ string) error { return attribute(unix.Getxattr(dir+"/file", "user.x", make([]byte, 9))) }),
	"listxattr": byPath(func(dir, _ string) error { _, err := unix.Listxattr(dir+"/file", make([]byte, 99)); return err }),
	"setxattr":  byPath(func(dir, _ string) error { return unix.Setxattr(dir+"/file", "user.x", []byte("x"), 0) }),
	"unsetxattr": byPath(func(dir, _ string) error {
		return attribute(0, unix.Removexattr(dir+"/file", "user.x"))
	}),
	"open": byPath(func(dir, _ string) error { _, err := unix.Open(dir+"/file", unix.O_RDWR, 0); return err }),
	"opendir": byPath(func(dir, _ string) error {
		_, err := unix.Open(dir+"/full", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		return err
	}),
	"create": byPath(func(dir, _ string) error {
		_, err := unix.Open(dir+"/new", unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o600)
		return err
	}),
	"tmpfile": byPath(func(dir, _ string) error { _, err := unix.Open(dir, unix.O_RDWR|unix.O_TMPFILE, 0o600); return err }),

	"getattr": byFile(func(f *os.File, _ string) error {
		return unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_STATX_FORCE_SYNC, 0, new(unix.Statx_t))
	}),
	"read":      byFile(func(f *os.File, _ string) error { _, err := f.ReadAt(make([]byte, 10), 4096); return err }),
	"write":     byFile(func(f *os.File, _ string) error { _, err := f.WriteAt([]byte("x"), 4096); return err }),
	"fsync":     byFile(func(f *os.File, _ string) error { return f.Sync() }),
	"flush":     byFile(func(f *os.File, _ string) error { return f.Close() }),
	"fallocate": byFile(func(f *os.File, _ string) error { return unix.Fallocate(int(f.Fd()), 0, 0, 1<<20) }),
	"lseek":     byFile(func(f *os.File, _ string) error { _, err := unix.Seek(int(f.Fd()), 0, unix.SEEK_HOLE); return err }),
	"getlk": byFile(func(f *os.File, _ string) error {
		return unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &unix.Flock_t{Type: unix.F_WRLCK})
	}),
	"setlk": byFile(func(f *os.File, _ string) error {
		return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
	}),
	"setlkw": byFile(func(f *os.File, _ string) error {
		return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLKW, &unix.Flock_t{Type: unix.F_WRLCK})
	}),
	"posix": byFile(func(f *os.File, _ string) error {
		return unix.FcntlFlock(f.Fd(), unix.F_SETLKW, &unix.Flock_t{Type: unix.F_WRLCK})
	}),
	"flock": byFile(func(f *os.File, _ string) error { return unix.Flock(int(f.Fd()), unix.LOCK_EX) }),
	"copy": byFile(func(f *os.File, dir string) error {
		to, err := os.Create(dir + "/copy")
		if err == nil {
			_, err = unix.CopyFileRange(int(f.Fd()), nil, int(to.Fd()), nil, 8192, 0)
		}
		return err
	}),
	"map":       byFile(func(f *os.File, _ string) error { return mapped(f, unix.PROT_READ) }),
	"map write": byFile(func(f *os.File, _ string) error { return mapped(f, unix.PROT_READ|unix.PROT_WRITE) }),
	"readdir": func(dir, _ string) (func() error, error) {
		f, err := os.Open(dir)
		return func() error { _, err := f.Readdirnames(-1); return err }, err
	},
	"fsyncdir": func(dir, _ string) (func() error, error) {
		f, err := os.Open(dir)
		return func() error { return f.Sync() }, err
	},

	"read again": again(byFile(func(f *os.File, _ string) error {
		_, err := io.Copy(io.Discard, io.NewSectionReader(f, 0, 1<<20))
		return err
	})),
	"stream again": again(func(dir, _ string) (func() error, error) { // under a lease
		f, err := os.Open(dir + "/stream")
		return func() error { _, err := io.Copy(io.Discard, io.NewSectionReader(f, 0, 1<<20)); return err }, err
	}),
	"write again": again(byFile(func(f *os.File, _ string) error { _, err := f.WriteAt(make([]byte, 1<<16), 4096); return err })),
	"list again":  again(byPath(func(dir, _ string) error { _, err := os.ReadDir(dir); return err })),
	"save again": again(byPath(func(_, file string) error {
		_ = os.WriteFile(file+".tmp", nil, 0o600)
		return os.Rename(file+".tmp", file)
	})),
	"map again": again(byFile(func(f *os.File, _ string) error { return mapped(f, unix.PROT_READ|unix.PROT_WRITE) })),

	// A file document: what is beside it are temporary files.
	"save": byPath(func(_, file string) error {
		if err := os.WriteFile(file+".tmp", []byte("text"), 0o600); err != nil {
			return err
		}
		return os.Rename(file+".tmp", file)
	}),
	"append": byPath(func(_, file string) error {
		f, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND, 0)
		if err == nil {
			_, err = f.WriteString("text")
		}
		return err
	}),
	"temporary": byPath(func(_, file string) error {
		f, err := os.Create(file + ".tmp")
		if err == nil {
			err = os.Remove(f.Name())
		}
		return err
	}),
}

func byPath(f func(dir, file string) error) func(dir, file string) (func() error, error) {
	return func(dir, file string) (func() error, error) { return func() error { return f(dir, file) }, nil }
}

func byFile(do func(f *os.File, dir string) error) func(dir, file string) (func() error, error) {
	return func(dir, _ string) (func() error, error) {
		f, err := os.OpenFile(dir+"/file", os.O_RDWR, 0)
		return func() error { return do(f, dir) }, err
	}
}

// again is an operation that is made until it fails.
func again(prepare func(dir, file string) (func() error, error)) func(dir, file string) (func() error, error) {
	return func(dir, file string) (func() error, error) {
		do, err := prepare(dir, file)
		return func() error {
			for {
				if err := do(); err != nil && !errors.Is(err, syscall.EINTR) {
					return err
				}
			}
		}, err
	}
}

func exchange(a, b string) error {
	return unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
}

// attribute is the error of a call on an extended attribute, which may not be
// there.
func attribute(_ int, err error) error {
	if err == unix.ENODATA {
		return nil
	}
	return err
}

func mapped(f *os.File, prot int) error {
	b, err := unix.Mmap(int(f.Fd()), 0, 8192, prot, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	if prot&unix.PROT_WRITE == 0 {
		_ = string(b)
		return nil
	}
	b[4096] = 'x'
	return unix.Msync(b, unix.MS_SYNC)
}

// victim is TestMain's for a client: it prepares an operation, says so, waits
// to be told, makes it, and says what came of it.
func victim(text string) int {
	words := strings.Split(text, "\n")
	do, err := operations[words[0]](words[1], words[2])
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("ready")
	bufio.NewReader(os.Stdin).ReadString('\n')
	for err = do(); err == syscall.EINTR; err = do() { // the runtime's signals
	}
	fmt.Println("done", err)
	return 0
}

// attempt is a process that makes an operation.
type attempt struct {
	cmd  *exec.Cmd
	in   io.Writer
	said chan string   // what came of it
	dead chan struct{} // closed when it has ended
}

// newAttempt starts one, which is prepared when this returns.
func newAttempt(t *testing.T, op, dir, file string) *attempt {
	t.Helper()
	c := &attempt{cmd: exec.Command("/proc/self/exe"), said: make(chan string, 1), dead: make(chan struct{})}
	// Without the signals that Go's runtime sends its own threads: after any
	// signal the kernel waits for the answer in state D, as far as proc(5) tells,
	// although a deadly one still ends that.
	c.cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0", "GODEBUG=asyncpreemptoff=1", victimVariable+"="+strings.Join([]string{op, dir, file}, "\n"))
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := c.cmd.StdinPipe()
	must(t, err)
	out, err := c.cmd.StdoutPipe()
	must(t, err)
	must(t, c.cmd.Start())
	ready := make(chan string)
	go func() { // ends with the process
		lines := bufio.NewScanner(out)
		lines.Scan()
		ready <- lines.Text()
		if lines.Scan() {
			c.said <- lines.Text()
		}
		c.cmd.Wait()
		close(c.dead)
	}()
	c.in = in
	t.Cleanup(func() {
		c.cmd.Process.Kill()
		<-c.dead
	})
	if text := <-ready; text != "ready" {
		t.Fatalf("%s: %q", op, text)
	}
	return c
}

func (c *attempt) begin() { io.WriteString(c.in, "go\n") }

// where is what its main thread waits for in the kernel.
func (c *attempt) where() string {
	where, _ := os.ReadFile(fmt.Sprintf("/proc/%d/wchan", c.cmd.Process.Pid))
	return string(where)
}

// waits reports whether a thread of it waits for an answer of the view, and the
// states of its threads (proc(5)).
func (c *attempt) waits() (waits bool, states string) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", c.cmd.Process.Pid))
	for _, task := range tasks {
		where, _ := os.ReadFile(task + "/wchan")
		waits = waits || string(where) == "request_wait_answer"
		text, _ := os.ReadFile(task + "/stat")
		if _, state, ok := strings.Cut(string(text), ") "); ok {
			states += state[:1]
		}
	}
	return waits, states
}

// stepwise are documents on which, after some questions about one of them, the
// next one hangs.
type stepwise struct {
	*fakeDocuments
	mu    sync.Mutex
	gates map[string]*gate
}

type gate struct {
	left int           // how many questions are answered
	hit  chan struct{} // closed when one is not
	open chan struct{} // closed when they are again
}

func (s *stepwise) Generation() uint64 { return s.gen.Add(1) }

func (s *stepwise) Document(app, id string) (*Document, Access, bool) {
	s.mu.Lock()
	g := s.gates[id]
	if g != nil && g.left > 0 {
		g.left--
		g = nil
	}
	if g != nil {
		select {
		case <-g.hit:
		default:
			close(g.hit)
		}
	}
	s.mu.Unlock()
	if g != nil {
		<-g.open
	}
	return s.fakeDocuments.Document(app, id)
}

// shut lets n questions about id pass.
func (s *stepwise) shut(id string, n int) *gate {
	g := &gate{n, make(chan struct{}), make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gates[id] = g
	return g
}

// release lets all pass.
func (s *stepwise) release(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := s.gates[id]; g != nil {
		close(g.open)
	}
	delete(s.gates, id)
}

// TestClientsAreKilledInEachOperation, at each step of it: the file system of
// the document hangs there, so the kill comes while the server is in the middle.
// The client is gone at once, others go on meanwhile, and when the file system
// answers again nothing of the client is left: no handle, lock, call, wait,
// descriptor or goroutine.
func TestClientsAreKilledInEachOperation(t *testing.T) {
	below := newRig(t)
	must(t, below.view.Unmount())
	gates := &stepwise{fakeDocuments: below.docs, gates: make(map[string]*gate)}
	v, err := Mount(below.mnt, gates, below.opts)
	must(t, err)
	t.Cleanup(func() {
		v.Unmount()
		<-v.served
	})
	r := newRig(t)
	r.fileDoc("well", "well")
	well := r.in(testApp, "well", "file.txt")
	wantContent(t, well, "well")

	all := slices.DeleteFunc(slices.Sorted(maps.Keys(operations)), func(op string) bool { return strings.HasSuffix(op, " again") })
	fill := func(host string) {
		must(t, os.MkdirAll(host+"/full", 0o700))
		must(t, os.Mkdir(host+"/sub", 0o700))
		must(t, os.WriteFile(host+"/file", make([]byte, 8192), 0o600))
		must(t, os.WriteFile(host+"/full/other", nil, 0o600))
		must(t, os.Symlink("text", host+"/link"))
	}
	type state struct{ descriptors, goroutines, handles, locks, waiting, calls, temps int }
	now := func() (s state) {
		fs := r.view.fs
		list, err := os.ReadDir("/proc/self/fd")
		must(t, err)
		s.descriptors, s.goroutines = len(list), runtime.NumGoroutine()
		fs.handles.mu.Lock()
		s.handles = len(fs.handles.byID)
		fs.handles.mu.Unlock()
		fs.locks.mu.Lock()
		s.locks, s.waiting = len(fs.locks.files), len(fs.locks.waiting)
		fs.locks.mu.Unlock()
		fs.calls.mu.Lock()
		s.calls = len(fs.calls.docs) + len(fs.calls.devs)
		fs.calls.mu.Unlock()
		for _, v := range fs.nodes.withTemps() {
			s.temps += len(v.temps)
		}
		return s
	}
	steps := 4
	if long() {
		steps = 40
	}
	// A pair of documents for each operation: they do not wait for each other.
	hosts := make(map[string]string)
	for i, op := range all {
		id := fmt.Sprint("d", i)
		hosts[op] = below.dirDoc(id)
		must(t, os.WriteFile(hosts[op]+"/file", nil, 0o600))
		r.docs.add(t, id, below.in("", id, "tree"))
		r.docs.add(t, fmt.Sprint("f", i), below.in("", id, "tree", "file"))
		for _, id := range []string{id, fmt.Sprint("f", i)} {
			r.docs.grant(testApp, id, Access{Read: true, Write: true})
		}
	}
	// Pages that were written through a map are waited for by who ends, as those
	// of any file system are: the kernel sends them for nobody whom it could
	// interrupt. And two do not ask the file system below.
	waits, unasked := []string{"map write"}, []string{"flush", "getattr"}
	// kill runs an operation up to a step. It reports whether there was one.
	kill := func(t *testing.T, i int, step int) bool {
		op, id := all[i], fmt.Sprint("d", i)
		turn := fmt.Sprint("turn", step)
		fill(filepath.Join(hosts[op], turn))
		c := newAttempt(t, op, r.in(testApp, id, "tree", turn), r.in(testApp, fmt.Sprint("f", i), "file"))
		g := gates.shut(id, step)
		defer func() {
			gates.release(id)
			eventually(t, "its calls are back", func() bool {
				c := &r.view.fs.calls
				c.mu.Lock()
				defer c.mu.Unlock()
				return c.docs[id] == nil && c.docs[fmt.Sprint("f", i)] == nil
			})
		}()
		c.begin()
		select {
		case text := <-c.said:
			if text != "done <nil>" {
				t.Errorf("%s, step %d: %s", op, step, text)
			}
			return false
		case <-g.hit:
		case <-time.After(20 * time.Second):
			t.Errorf("%s, step %d: it hangs", op, step)
			return false
		}
		wantContent(t, well, "well")
		c.cmd.Process.Kill()
		if slices.Contains(waits, op) {
			gates.release(id)
		}
		select {
		case <-c.dead:
		case <-time.After(patience):
			t.Errorf("%s, step %d: it is not dead after %v, but in %s", op, step, patience, c.where())
		}
		return true
	}
	killed := make(map[string]int)
	var wg sync.WaitGroup
	for i := range all { // what is allocated once is
		wg.Go(func() { kill(t, i, 1<<30) })
	}
	wg.Wait()
	settled := func(what string, want state) (s state) {
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			for _, v := range r.view.fs.nodes.withTemps() {
				v.dropAll()
			}
			for i := range all {
				r.view.Invalidate(fmt.Sprint("d", i))
				r.view.Invalidate(fmt.Sprint("f", i))
			}
			s = now()
			if s.descriptors <= want.descriptors && s.goroutines <= want.goroutines && s.handles == 0 && s.locks == 0 && s.waiting == 0 && s.calls == 0 && s.temps == 0 {
				return s
			}
			if time.Now().After(end) {
				t.Errorf("%s there are %+v, there were %+v", what, s, want)
				return s
			}
		}
	}
	// One left by each client would be more than the server has in any case.
	const goroutines = 60
	before := settled("at first", state{descriptors: 400, goroutines: goroutines})
	var mu sync.Mutex
	for i, op := range all {
		wg.Go(func() {
			for step := range steps {
				if !kill(t, i, step) {
					break
				}
				mu.Lock()
				killed[op]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for _, op := range all {
		if killed[op] == 0 && !slices.Contains(unasked, op) {
			t.Errorf("%s was never in the server's hands", op)
		}
	}
	t.Log(killed)
	after := settled("afterwards", state{descriptors: before.descriptors + 8, goroutines: goroutines})
	t.Logf("%+v, then %+v", before, after)
	for i, op := range all { // and each works
		wg.Go(func() {
			if kill(t, i, 1<<29) {
				t.Errorf("%s hangs", op)
			}
		})
	}
	wg.Wait()
	for _, op := range all {
		for _, name := range names(t, hosts[op]) {
			if name != "file" && !strings.HasPrefix(name, "turn") {
				t.Errorf("%s has left %q", op, name)
			}
		}
	}
}

func missing(err error) error {
	if err == unix.ENOENT {
		return nil
	}
	return err
}

// TestAFrozenServer: its processes are stopped, as all are when a machine is
// about to be suspended, while clients wait for it. They wait in a way that a
// signal ends, not in state D; who is killed is gone, and the others go on with
// the server, as if nothing had been.
func TestAFrozenServer(t *testing.T) {
	host := t.TempDir()
	tree, file := filepath.Join(host, "tree"), filepath.Join(host, "file")
	must(t, os.Mkdir(tree, 0o700))
	must(t, os.WriteFile(file, nil, 0o600))
	s := newSurvivor(t, survivorSettings{Files: map[string]string{"d1": tree, "f1": file}})
	ops := []string{"lookup", "open", "create", "mkdir", "read", "write", "fsync", "setlkw", "statfs", "chmod"}
	// Each has a directory of its own: the kernel has who looks up a name, or
	// changes a directory, wait for who does so already, and that in state D.
	start := func(where string) (all []*attempt) {
		for _, op := range ops {
			must(t, os.MkdirAll(filepath.Join(tree, where, op), 0o700))
			must(t, os.WriteFile(filepath.Join(tree, where, op, "file"), make([]byte, 8192), 0o600))
			all = append(all, newAttempt(t, op, s.in("d1", "tree", where, op), s.in("f1", "file")))
		}
		return all
	}
	stay, leave := start("stay"), start("leave")
	server := s.server()
	must(t, syscall.Kill(server, syscall.SIGSTOP))
	defer syscall.Kill(server, syscall.SIGCONT)
	eventually(t, "the server is stopped", func() bool {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", server))
		for _, task := range tasks {
			if text, err := os.ReadFile(task); err == nil && !strings.Contains(string(text), ") T ") {
				return false
			}
		}
		return true
	})
	for i, op := range ops {
		for _, c := range []*attempt{stay[i], leave[i]} {
			c.begin()
			eventually(t, op+" waits", func() bool { waits, _ := c.waits(); return waits })
			if _, states := c.waits(); strings.Contains(states, "D") {
				t.Errorf("%s: its threads are in the states %s", op, states)
			}
		}
	}
	for i, op := range ops {
		switch op {
		case "read", "write", "fsync", "setlkw":
			continue // to close a file is a request, too, which the kernel lets nobody leave
		}
		leave[i].cmd.Process.Kill()
		select {
		case <-leave[i].dead:
		case <-time.After(patience):
			t.Errorf("%s: it is not dead after %v, but in %s", op, patience, leave[i].where())
		}
	}
	must(t, syscall.Kill(server, syscall.SIGCONT))
	for i, op := range ops {
		if text := <-stay[i].said; text != "done <nil>" {
			t.Errorf("%s: %s", op, text)
		}
	}
	if s.server() != server {
		t.Error("it is another server")
	}
}

// TestAStoppedClientHoldsUpNobody, wherever it was stopped, unless it has a lock.
func TestAStoppedClientHoldsUpNobody(t *testing.T) {
	r := newRig(t)
	tree := r.dirDoc("d1")
	r.docs.grant(otherApp, "d1", Access{Read: true, Write: true})
	must(t, os.WriteFile(tree+"/file", make([]byte, 1<<20), 0o600))
	must(t, os.WriteFile(tree+"/stream", make([]byte, 1<<20), 0o600))
	file := r.fileDoc("f1", "text")
	var all []*attempt
	for _, op := range []string{"read again", "stream again", "write again", "list again", "save again", "map again"} {
		c := newAttempt(t, op, r.in(testApp, "d1", "tree"), r.in(testApp, "f1", "file.txt"))
		c.begin()
		all = append(all, c)
	}
	for round := range 20 {
		time.Sleep(5 * time.Millisecond) // the moment
		for _, c := range all {
			syscall.Kill(c.cmd.Process.Pid, syscall.SIGSTOP)
		}
		start := time.Now()
		must(t, os.WriteFile(tree+"/file", make([]byte, 1<<20), 0o600))
		must(t, os.WriteFile(tree+"/stream", make([]byte, 1<<20), 0o600))
		must(t, os.WriteFile(r.in(otherApp, "d1", "tree", "file"), make([]byte, 1<<20), 0o600))
		must(t, os.WriteFile(r.in(testApp, "d1", "tree", fmt.Sprint("new", round)), nil, 0o600))
		names(t, r.in(otherApp, "d1", "tree"))
		if _, err := os.ReadFile(file); err != nil {
			t.Error(err)
		}
		r.view.Invalidate("d1")
		if took := time.Since(start); took > patience {
			t.Errorf("round %d: it took %v", round, took)
		}
		for _, c := range all {
			syscall.Kill(c.cmd.Process.Pid, syscall.SIGCONT)
		}
	}
	for _, c := range all {
		select {
		case text := <-c.said:
			t.Error(text)
		default:
		}
	}
}
