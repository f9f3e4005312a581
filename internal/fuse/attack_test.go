package fuse

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"docportal/internal/testsession"
)

// named is every operation on a file document that takes a name: on path, and
// with other, a second name there.
var named = map[string]func(path, other string) error{
	"stat":               func(p, _ string) error { _, err := os.Lstat(p); return err },
	"open":               func(p, _ string) error { return openClose(p, os.O_RDONLY) },
	"open to write":      func(p, _ string) error { return openClose(p, os.O_WRONLY) },
	"open to truncate":   func(p, _ string) error { return openClose(p, os.O_RDWR|os.O_TRUNC) },
	"create":             func(p, _ string) error { return openClose(p, os.O_RDWR|os.O_CREATE) },
	"create to truncate": func(p, _ string) error { return openClose(p, os.O_WRONLY|os.O_CREATE|os.O_TRUNC) },
	"create to append":   func(p, _ string) error { return openClose(p, os.O_WRONLY|os.O_CREATE|os.O_APPEND) },
	"create to read":     func(p, _ string) error { return openClose(p, os.O_RDONLY|os.O_CREATE) },
	"create O_EXCL":      func(p, _ string) error { return openClose(p, os.O_WRONLY|os.O_CREATE|os.O_EXCL) },
	"mknod":              func(p, _ string) error { return unix.Mknod(p, unix.S_IFREG|0o600, 0) },
	"truncate":           func(p, _ string) error { return os.Truncate(p, 0) },
	"chmod":              func(p, _ string) error { return os.Chmod(p, 0o777) },
	"utimes":             func(p, _ string) error { return os.Chtimes(p, time.Unix(1, 0), time.Unix(1, 0)) },
	"access":             func(p, _ string) error { return unix.Access(p, unix.R_OK) },
	"getxattr":           func(p, _ string) error { _, err := unix.Getxattr(p, "user.secret", make([]byte, 64)); return err },
	"setxattr":           func(p, _ string) error { return unix.Setxattr(p, "user.x", []byte("y"), 0) },
	"removexattr":        func(p, _ string) error { return unix.Removexattr(p, "user.secret") },
	"unlink":             func(p, _ string) error { return unix.Unlink(p) },
	"rename":             func(p, o string) error { return os.Rename(p, o) },
	"exchange": func(p, o string) error {
		return unix.Renameat2(unix.AT_FDCWD, p, unix.AT_FDCWD, o, unix.RENAME_EXCHANGE)
	},
	"link":    func(p, o string) error { return os.Link(p, o) },
	"symlink": func(p, _ string) error { return os.Symlink("x", p) },
	"mkdir":   func(p, _ string) error { return os.Mkdir(p, 0o700) },
	"rmdir":   func(p, _ string) error { return unix.Rmdir(p) },
	"readlink": func(p, _ string) error {
		_, err := os.Readlink(p)
		return err
	},
}

func openClose(p string, flags int) error {
	f, err := os.OpenFile(p, flags, 0o666)
	if err == nil {
		f.WriteString("written by the app")
		f.Close()
	}
	return err
}

// prey is what an attacker wants to reach on the host.
type prey struct {
	dir                         string
	readable, writable, missing string
	before                      map[string]syscall.Stat_t
}

func newPrey(r *rig) *prey {
	p := &prey{dir: r.dir("prey"), before: make(map[string]syscall.Stat_t)}
	p.readable = r.file("prey/readable", "secret")
	p.writable = r.file("prey/writable", "secret")
	p.missing = filepath.Join(p.dir, "missing")
	for _, f := range []string{p.readable, p.writable} {
		unix.Setxattr(f, "user.secret", []byte("secret"), 0)
	}
	must(r, os.Chmod(p.readable, 0o444))
	must(r, os.Chmod(p.writable, 0o666))
	for _, f := range []string{p.readable, p.writable} {
		var st syscall.Stat_t
		must(r, syscall.Stat(f, &st))
		p.before[f] = st
	}
	return p
}

// untouched fails the test if somebody got at the prey.
func (p *prey) untouched(t testing.TB, what string) {
	t.Helper()
	for f, want := range p.before {
		var st syscall.Stat_t
		if err := syscall.Stat(f, &st); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if st.Mode != want.Mode || st.Size != want.Size || st.Mtim != want.Mtim || st.Ctim != want.Ctim || st.Nlink != want.Nlink {
			t.Fatalf("%s: %s was changed", what, f)
		}
	}
	if got := names(t, p.dir); len(got) != 2 {
		t.Fatalf("%s: created something: %q", what, got)
	}
}

func TestNamesThatAreNotRegularFilesAreENOENT(t *testing.T) {
	r := newRig(t)
	host := r.fileDoc("f1", "text")
	path, other := r.in(testApp, "f1", "file.txt"), r.in(testApp, "f1", "other")
	p := newPrey(r)
	plant := map[string]func() error{
		"link to a readable file": func() error { return os.Symlink(p.readable, host) },
		"link to a writable file": func() error { return os.Symlink(p.writable, host) },
		"link to a missing file":  func() error { return os.Symlink(p.missing, host) },
		"link to a directory":     func() error { return os.Symlink(p.dir, host) },
		"relative link":           func() error { return os.Symlink("../prey/writable", host) },
		"link to a descriptor":    func() error { return os.Symlink("/proc/self/fd/0", host) },
		"pipe":                    func() error { return unix.Mkfifo(host, 0o666) },
		"directory":               func() error { return os.Mkdir(host, 0o777) },
		"socket":                  func() error { return unix.Mknod(host, unix.S_IFSOCK|0o666, 0) },
	}
	for what, plant := range plant {
		for op, do := range named {
			os.RemoveAll(host)
			must(t, plant())
			want, err := os.Lstat(host)
			must(t, err)
			err = do(path, other)
			switch op {
			case "create O_EXCL", "mknod":
				if !errors.Is(err, syscall.EEXIST) {
					t.Errorf("%s of a %s: %v, want EEXIST", op, what, err)
				}
			case "symlink", "mkdir":
				if !errors.Is(err, syscall.EPERM) {
					t.Errorf("%s of a %s: %v, want EPERM", op, what, err)
				}
			default:
				if !errors.Is(err, syscall.ENOENT) {
					t.Errorf("%s of a %s: %v, want ENOENT", op, what, err)
				}
			}
			if got, err := os.Lstat(host); err != nil || !os.SameFile(got, want) {
				t.Errorf("%s of a %s: it is gone", op, what)
			}
			p.untouched(t, op+" of a "+what)
		}
		if got := names(t, filepath.Dir(host)); len(got) != 1 {
			t.Errorf("%s: left behind %q", what, got)
		}
		if got := names(t, r.in(testApp, "f1")); got != nil {
			t.Errorf("%s: lists %q", what, got)
		}
	}
}

// TestAttackers swaps what an app owns for links while the view works with it.
func TestAttackers(t *testing.T) {
	during := 1500 * time.Millisecond
	if long() {
		during = 5 * time.Minute
	}
	t.Run("file document", func(t *testing.T) {
		t.Parallel()
		r := newRig(t)
		host := r.fileDoc("f1", "")
		p := newPrey(r)
		good, link, swap := host+".good", host+".link", host+".swap"
		must(t, os.WriteFile(good, nil, 0o666))
		targets := []string{p.readable, p.writable, p.missing}
		race(t, during, func(i int) {
			os.Remove(link)
			os.Symlink(targets[i%len(targets)], link)
			os.Remove(swap)
			os.Link(good, swap)
			os.Rename(swap, host) // a file
			os.Rename(link, host) // a link
			os.Remove(host)       // nothing
		}, func(i int) {
			path, other := r.in(testApp, "f1", "file.txt"), r.in(testApp, "f1", "other")
			for op, do := range named {
				do(path, other)
				if b, err := os.ReadFile(path); err == nil && string(b) == "secret" {
					t.Errorf("read the prey after %s", op)
				}
			}
			os.Remove(other)
		})
		p.untouched(t, "swapping")
	})
	t.Run("directory document", func(t *testing.T) {
		t.Parallel()
		r := newRig(t)
		tree := r.dirDoc("d1")
		p := newPrey(r)
		sub, side := filepath.Join(tree, "sub"), filepath.Join(tree, "side")
		link := filepath.Join(tree, "link")
		must(t, os.Mkdir(sub, 0o777))
		must(t, os.Symlink("../../prey", link))
		for _, name := range []string{"readable", "writable", "missing"} {
			must(t, os.WriteFile(filepath.Join(sub, name), nil, 0o666))
		}
		race(t, during, func(int) {
			os.Rename(sub, side)
			os.Rename(link, sub)
			os.Rename(sub, link)
			os.Rename(side, sub)
		}, func(i int) {
			// What the kernel resolves as a link it resolves in the
			// app's own view; here that is the host's, so go by
			// descriptors and O_NOFOLLOW.
			dir, err := unix.Open(r.in(testApp, "d1", "tree", "sub"), unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
			if err != nil {
				return
			}
			defer unix.Close(dir)
			at := procPath(dir) + "/"
			for _, name := range []string{"readable", "writable", "missing"} {
				for op, do := range named {
					do(at+name, at+"other")
					if b, err := os.ReadFile(at + name); err == nil && string(b) == "secret" {
						t.Errorf("read the prey after %s", op)
					}
				}
			}
		})
		p.untouched(t, "swapping")
	})
}

// race runs both for a time, on two goroutines each.
func race(t *testing.T, during time.Duration, attack, work func(i int)) {
	t.Helper()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for _, f := range []func(int){attack, attack, work, work} {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
					f(i)
				}
			}
		})
	}
	time.AfterFunc(during, func() { close(stop) })
	wg.Wait()
}

func TestNothingOfTheMountIsInADocument(t *testing.T) {
	r := newRig(t)
	parent := filepath.Dir(r.mnt)
	r.docs.add(t, "d1", parent)
	r.docs.add(t, "self", r.in("", "d1"))
	top := r.in("", "d1", filepath.Base(parent))
	_, err := os.Stat(filepath.Join(top, "doc"))
	wantErr(t, "the mount in a document", err, syscall.ENOENT)
	_, err = os.ReadFile(filepath.Join(top, "doc", "by-app"))
	wantErr(t, "below it", err, syscall.ENOENT)
	_, err = os.Stat(r.in("", "self", "d1"))
	wantErr(t, "a document of the mount", err, syscall.ENOENT)
}

func TestLinksAreTextOnly(t *testing.T) {
	r := newRig(t)
	tree := r.dirDoc("d1")
	d := r.in(testApp, "d1", "tree")
	for _, text := range []string{"x", "/etc/passwd", "../../..", "\xff\n", "/proc/self/fd/1"} {
		must(t, os.Symlink(text, filepath.Join(d, "l")))
		for _, p := range []string{filepath.Join(d, "l"), filepath.Join(tree, "l")} {
			if got, err := os.Readlink(p); err != nil || got != text {
				t.Errorf("readlink: %q %v, want %q", got, err, text)
			}
		}
		must(t, os.Remove(filepath.Join(d, "l")))
	}
}

func TestDangerousBitsAreHiddenAndStripped(t *testing.T) {
	r := newRig(t)
	tree := r.dirDoc("d1")
	d := r.in(testApp, "d1", "tree")
	f := r.file("d1.d/tree/f", "x")
	must(t, unix.Chmod(f, 0o7755))
	must(t, unix.Mkdir(filepath.Join(tree, "sub"), 0o755))
	must(t, unix.Chmod(filepath.Join(tree, "sub"), 0o3777))
	mode := func(p string) uint32 {
		var st unix.Stat_t
		must(t, unix.Lstat(p, &st))
		return st.Mode & 0o7777
	}
	if got := mode(filepath.Join(d, "f")); got != 0o755 {
		t.Errorf("shows %o", got)
	}
	if got := mode(filepath.Join(d, "sub")); got != 0o777 {
		t.Errorf("shows %o", got)
	}
	must(t, unix.Chmod(filepath.Join(d, "f"), 0o6711))
	fd, err := unix.Open(filepath.Join(d, "new"), unix.O_CREAT|unix.O_WRONLY, 0o6755)
	must(t, err)
	unix.Close(fd)
	must(t, unix.Mkdir(filepath.Join(d, "newdir"), 0o1777))
	must(t, unix.Mknod(filepath.Join(d, "node"), unix.S_IFREG|0o6755, 0))
	fd, err = unix.Open(d, unix.O_TMPFILE|unix.O_RDWR, 0o6755)
	must(t, err)
	must(t, unix.Linkat(unix.AT_FDCWD, procPath(fd), unix.AT_FDCWD, filepath.Join(d, "tmpfile"), unix.AT_SYMLINK_FOLLOW))
	unix.Close(fd)
	for name, want := range map[string]uint32{"f": 0o711, "new": 0o755, "newdir": 0o755, "node": 0o755, "tmpfile": 0o755} {
		if got := mode(filepath.Join(tree, name)); got != want {
			t.Errorf("%s has mode %o on the host, want %o", name, got, want)
		}
	}
}

// TestWhatIsMadeIsAsItsDirectorySays: a directory of the host gives what is made in
// it its group, and says who may do what with it. An app whose umask takes nothing
// away does not change that, nor does what the server's takes away.
func TestWhatIsMadeIsAsItsDirectorySays(t *testing.T) {
	r := newRig(t)
	tree, native, file := r.dirDoc("d1"), r.dir("native"), r.fileDoc("f1", "text")
	entry := func(tag, perm uint16) []byte {
		return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint16(binary.LittleEndian.AppendUint16(nil, tag), perm), ^uint32(0))
	}
	// The owner may do all, the group read, others nothing.
	acl := slices.Concat([]byte{2, 0, 0, 0}, entry(1, 7), entry(4, 5), entry(0x20, 0))
	for _, dir := range []string{tree, native} {
		must(t, os.Mkdir(filepath.Join(dir, "acl"), 0o755))
		must(t, unix.Setxattr(filepath.Join(dir, "acl"), "system.posix_acl_default", acl, 0))
		must(t, os.Mkdir(filepath.Join(dir, "group"), 0o755))
		must(t, unix.Chmod(filepath.Join(dir, "group"), 0o2777))
	}
	must(t, unix.Setxattr(filepath.Dir(file), "system.posix_acl_default", acl, 0))
	const script = `umask 0; for d in acl group; do cd $DIR/$d; echo >f; mkdir d; mkfifo p; mkdir d/e; echo >d/f; cd ..; done`
	r.run(testApp, "DIR=$DOC/d1/tree; "+script+"; echo new >$DOC/f1/t; mv $DOC/f1/t $DOC/f1/file.txt")
	r.run("", "DIR="+native+"; "+script)
	for _, d := range []string{"acl", "group"} {
		for _, name := range []string{"f", "d", "p", "d/e", "d/f"} {
			var want, got unix.Stat_t
			must(t, unix.Stat(filepath.Join(native, d, name), &want))
			must(t, unix.Stat(filepath.Join(tree, d, name), &got))
			if got.Mode != want.Mode || got.Gid != want.Gid {
				t.Errorf("%s/%s is %o of group %d, made on the host %o of group %d", d, name, got.Mode, got.Gid, want.Mode, want.Gid)
			}
		}
	}
	var st unix.Stat_t
	must(t, unix.Stat(file, &st))
	if st.Mode&0o777 != 0o640 {
		t.Errorf("a file document that was replaced is %o", st.Mode)
	}
}

// TestRevocationFromAProgramThatGoesOn has a program map a file, keep it open
// and sit in its directory, while it loses its permissions.
func TestRevocationFromAProgramThatGoesOn(t *testing.T) {
	r := newRig(t)
	tree := r.dirDoc("d1")
	must(t, os.WriteFile(filepath.Join(tree, "file.txt"), make([]byte, 64<<10), 0o600))
	cmd := exec.Command("/usr/bin/python3", "-uc", `
import mmap, os, resource, sys
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
fd = os.open(sys.argv[1], os.O_RDWR)
m = mmap.mmap(fd, 0)
os.chdir(os.path.dirname(sys.argv[1]))
d = os.open(".", os.O_RDONLY)
new = 0
while True:
    what = sys.stdin.readline().strip()
    try:
        if what == "load": sum(m[i] for i in range(0, 65536, 4096))
        if what == "store": m[8192] = 1; m.flush()
        if what == "read": os.pread(fd, 65536, 0)
        if what == "write": os.pwrite(fd, b"x", 0)
        if what == "list": os.listdir(d)
        if what == "open": os.close(os.open("file.txt", os.O_RDONLY))
        if what == "create": new += 1; os.close(os.open("new%d" % new, os.O_CREAT | os.O_EXCL))
        print("ok")
    except OSError as e:
        print(e.errno)
`, r.in(testApp, "d1", "tree", "file.txt"))
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	answers := bufio.NewReader(out)
	want := func(what, want string) {
		t.Helper()
		io.WriteString(in, what+"\n")
		got, err := answers.ReadString('\n')
		if err != nil {
			got = cmd.Wait().Error() + "\n"
		}
		if got != want+"\n" {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	const eacces = "13"
	all := []string{"load", "store", "read", "write", "list", "open", "create"}
	for range 2 {
		for _, what := range all {
			want(what, "ok")
		}
		r.docs.grant(testApp, "d1", Access{Read: true})
		r.view.Invalidate("d1")
		for _, what := range []string{"write", "create"} {
			want(what, eacces)
		}
		for _, what := range []string{"load", "read", "list", "open"} {
			want(what, "ok")
		}
		r.docs.grant(testApp, "d1", Access{})
		want("read", eacces) // whether or not the kernel knows yet
		r.view.Invalidate("d1")
		for _, what := range []string{"write", "create", "list"} {
			want(what, eacces)
		}
		want("open", "2")
		r.docs.grant(testApp, "d1", Access{Read: true, Write: true})
		r.view.Invalidate("d1")
	}
	r.docs.remove("d1")
	r.view.Invalidate("d1")
	want("read", eacces)
	eventually(t, "its pages are dropped", func() bool {
		r.view.notices.mu.Lock()
		defer r.view.notices.mu.Unlock()
		return len(r.view.notices.active) == 0
	})
	want("load", "signal: bus error")
}

func TestRevocation(t *testing.T) {
	r := newRig(t)
	const size = 1 << 20
	host := r.fileDoc("f1", string(make([]byte, size)))
	tree := r.dirDoc("d1")
	must(t, os.WriteFile(filepath.Join(tree, "file"), []byte("x"), 0o600))
	p := r.in(testApp, "f1", "file.txt")
	f, err := os.OpenFile(p, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	if n, err := io.Copy(io.Discard, f); err != nil || n != size {
		t.Fatal(n, err)
	}
	m, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
	must(t, err)
	defer unix.Munmap(m)
	sum := m[0]
	var vec [1]byte
	if err := mincore(m[:1], vec[:]); err != nil || vec[0]&1 == 0 {
		t.Fatalf("nothing is mapped: %v %d", err, sum)
	}
	d, err := unix.Open(r.in(testApp, "d1", "tree"), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	must(t, err)
	defer unix.Close(d)
	b := make([]byte, 10)

	r.docs.grant(testApp, "f1", Access{Read: true})
	r.view.Invalidate("f1")
	_, err = f.WriteAt(b, 0)
	wantErr(t, "write after write was revoked", err, syscall.EACCES)
	_, err = f.ReadAt(b, 0)
	must(t, err)
	wantErr(t, "ftruncate", f.Truncate(0), syscall.EACCES)

	r.docs.grant(testApp, "f1", Access{})
	_, err = f.ReadAt(b, 0)
	wantErr(t, "the first pread after read was revoked", err, syscall.EACCES)
	r.view.Invalidate("f1")
	_, err = f.Stat()
	wantErr(t, "fstat", err, syscall.EACCES)
	_, err = os.Stat(p)
	wantErr(t, "stat", err, syscall.ENOENT)
	start := time.Now()
	eventually(t, "mapped pages go", func() bool {
		return mincore(m[:1], vec[:]) == nil && vec[0]&1 == 0
	})
	took := time.Since(start)
	t.Log("mapped pages went after", took)
	if took > testsession.Limit(100*time.Millisecond) {
		t.Error("that is late")
	}

	r.docs.remove("d1")
	r.view.Invalidate("d1")
	_, err = unix.Getdents(d, make([]byte, 4096))
	wantErr(t, "getdents of a deleted document", err, syscall.EACCES)
	_, err = unix.Openat(d, "file", unix.O_RDONLY, 0)
	wantErr(t, "openat in a deleted document", err, syscall.ENOENT)
	_, err = unix.Openat(d, "new", unix.O_CREAT|unix.O_WRONLY, 0o600)
	wantErr(t, "create in a deleted document", err, syscall.EACCES)
	_, err = os.Stat(r.in("", "d1"))
	wantErr(t, "a deleted document", err, syscall.ENOENT)

	r.docs.grant(testApp, "f1", Access{Read: true, Write: true})
	r.view.Invalidate("f1")
	_, err = f.ReadAt(b, 0)
	must(t, err)
	wantContent(t, host, string(make([]byte, size)))
}
