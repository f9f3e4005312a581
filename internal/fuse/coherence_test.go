package fuse

import (
	"bytes"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestHostAndSandboxSeeEachOther(t *testing.T) {
	r := newRig(t)
	tree := r.dirDoc("d1")
	view := r.in(testApp, "d1", "tree")
	host := filepath.Join(tree, "f")
	seen := filepath.Join(view, "f")
	must(t, os.WriteFile(host, []byte("0"), 0o600))
	keep, err := os.Open(seen)
	must(t, err)
	defer keep.Close()
	for i := range 60 {
		want := fmt.Sprint(i, strings.Repeat("x", i%7))
		must(t, os.WriteFile(host, []byte(want), 0o600))
		if info, err := os.Stat(seen); err != nil || info.Size() != int64(len(want)) {
			t.Fatalf("round %d: stat: %v %v", i, info, err)
		}
		wantContent(t, seen, want)
		b := make([]byte, 100)
		if n, _ := keep.ReadAt(b, 0); string(b[:n]) != want {
			t.Fatalf("round %d: an open file reads %q, want %q", i, b[:n], want)
		}
		must(t, os.WriteFile(seen, []byte(want+"!"), 0o600))
		wantContent(t, host, want+"!")

		must(t, os.Rename(host, host+"2"))
		if _, err := os.Stat(seen); !os.IsNotExist(err) {
			t.Fatalf("round %d: stat of what was renamed: %v", i, err)
		}
		wantContent(t, seen+"2", want+"!")
		must(t, os.Rename(seen+"2", seen))
		if t.Failed() {
			t.Fatal("round", i)
		}
	}
}

// TestAnOpenFileIsAsTheHostLeavesIt: who has a file open, and has just looked at its
// name, sees what the host does to it then without a look at the name.
func TestAnOpenFileIsAsTheHostLeavesIt(t *testing.T) {
	r := newRig(t)
	tree, file := r.dirDoc("d1"), r.fileDoc("f1", "")
	for host, seen := range map[string]string{filepath.Join(tree, "f"): r.in(testApp, "d1", "tree", "f"), file: r.in(testApp, "f1", "file.txt")} {
		must(t, os.WriteFile(host, nil, 0o600))
		f, err := os.OpenFile(seen, os.O_RDWR|os.O_APPEND, 0)
		must(t, err)
		defer f.Close()
		info := func() os.FileInfo {
			i, err := f.Stat()
			must(t, err)
			return i
		}
		want := ""
		for i := range 40 {
			_, err := os.Stat(seen)
			must(t, err)
			line := fmt.Sprintln("line", i)
			h, err := os.OpenFile(host, os.O_APPEND|os.O_WRONLY, 0)
			must(t, err)
			_, err = h.WriteString(line)
			must(t, err)
			must(t, h.Close())
			want += line
			if got := info().Size(); got != int64(len(want)) {
				t.Fatalf("round %d: fstat: %d bytes, want %d", i, got, len(want))
			}
			_, err = f.WriteString("mine\n")
			must(t, err)
			want += "mine\n"
			wantContent(t, host, want)
			b := make([]byte, 4096)
			if n, _ := f.ReadAt(b, 0); string(b[:n]) != want {
				t.Fatalf("round %d: an open file reads %q, want %q", i, b[:n], want)
			}
			_, err = os.Stat(seen)
			must(t, err)
			mode, when := os.FileMode(0o600+i%2*0o44), time.Unix(int64(i), 5)
			must(t, os.Chmod(host, mode))
			must(t, os.Chtimes(host, when, when))
			if got := info(); got.Mode() != mode || !got.ModTime().Equal(when) {
				t.Fatalf("round %d: fstat: %v %v, want %v %v", i, got.Mode(), got.ModTime(), mode, when)
			}
			if i%10 == 9 {
				must(t, os.Truncate(host, 3))
				want = want[:3]
				if got := info().Size(); got != 3 {
					t.Fatalf("round %d: fstat: %d bytes after the host has cut it to 3", i, got)
				}
			}
		}
		must(t, os.Remove(host))
		if n := info().Sys().(*syscall.Stat_t).Nlink; n != 0 {
			t.Errorf("what the host removed has %d links", n)
		}
	}
}

func TestAnEditWithTheOldMtimeIsSeen(t *testing.T) {
	r := newRig(t)
	host := r.fileDoc("f1", "AAAA")
	p := r.in(testApp, "f1", "file.txt")
	info, err := os.Stat(host)
	must(t, err)
	for i := range 20 {
		want := strings.Repeat(string(rune('B'+i)), 4)
		// Two opens, the second of which may keep what is cached.
		wantContent(t, p, string(must2(os.ReadFile(host))))
		wantContent(t, p, string(must2(os.ReadFile(host))))
		must(t, os.WriteFile(host, []byte(want), 0o600))
		must(t, os.Chtimes(host, info.ModTime(), info.ModTime()))
		wantContent(t, p, want)
	}
}

func must2(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

func TestPagesAreKeptOnlyOfUnchangedFiles(t *testing.T) {
	r := newRig(t)
	host := r.fileDoc("f1", "text")
	v := r.view.fs.nodes
	n := &node{}
	stat := func() *unix.Statx_t {
		_, st := referTo(t, host)
		return st
	}
	if v.unchanged(n, stat()) {
		t.Error("kept at the first open")
	}
	if v.unchanged(n, stat()) {
		t.Error("kept although the last change is too young")
	}
	settled := *stat()
	settled.Ctime.Sec -= 10
	v.unchanged(n, &settled)
	if !v.unchanged(n, &settled) {
		t.Error("not kept although nothing has changed")
	}
	for name, change := range map[string]func(*unix.Statx_t){
		"mtime": func(s *unix.Statx_t) { s.Mtime.Nsec++ },
		"ctime": func(s *unix.Statx_t) { s.Ctime.Nsec++ },
		"size":  func(s *unix.Statx_t) { s.Size++ },
	} {
		v.unchanged(n, &settled)
		changed := settled
		change(&changed)
		if v.unchanged(n, &changed) {
			t.Errorf("kept with another %s", name)
		}
	}
}

func TestInodeNumbersAreStable(t *testing.T) {
	r := newRig(t)
	r.fileDoc("f1", "text")
	tree := r.dirDoc("d1")
	r.docs.grant(otherApp, "d1", Access{Read: true})
	must(t, os.WriteFile(filepath.Join(tree, "a"), nil, 0o600))
	ino := func(p string) uint64 {
		var st unix.Stat_t
		must(t, unix.Lstat(p, &st))
		return st.Ino
	}
	paths := []string{
		r.in(""), r.in("", "by-app"), r.in(testApp), r.in(otherApp),
		r.in(testApp, "f1"), r.in(testApp, "f1", "file.txt"), r.in("", "f1", "file.txt"),
		r.in(testApp, "d1"), r.in(testApp, "d1", "tree"), r.in(testApp, "d1", "tree", "a"), r.in(otherApp, "d1", "tree", "a"),
	}
	first := make(map[uint64]string)
	for _, p := range paths {
		if other, ok := first[ino(p)]; ok {
			t.Errorf("%s and %s have the same number", p, other)
		}
		first[ino(p)] = p
	}
	// Forgotten and looked up again, renamed, linked: the same.
	must(t, os.Rename(r.in(testApp, "d1", "tree", "a"), r.in(testApp, "d1", "tree", "b")))
	must(t, os.Link(r.in(testApp, "d1", "tree", "b"), r.in(testApp, "d1", "tree", "c")))
	for _, name := range []string{"b", "c"} {
		if first[ino(r.in(testApp, "d1", "tree", name))] != r.in(testApp, "d1", "tree", "a") {
			t.Errorf("%s has another number", name)
		}
	}
	r.view.Invalidate("d1")
	eventually(t, "the kernel forgets", func() bool {
		r.view.fs.nodes.mu.Lock()
		defer r.view.fs.nodes.mu.Unlock()
		return r.view.fs.nodes.views[viewKey{testApp, "d1"}] == nil
	})
	if first[ino(r.in(testApp, "d1", "tree", "b"))] != r.in(testApp, "d1", "tree", "a") {
		t.Error("another number after it was forgotten")
	}
	// getdents says the same as stat.
	d, err := os.Open(r.in(testApp, "d1", "tree"))
	must(t, err)
	defer d.Close()
	buf := make([]byte, 4096)
	n, err := unix.Getdents(int(d.Fd()), buf)
	must(t, err)
	var got []uint64
	for b := buf[:n]; len(b) > 0; {
		e := (*unix.Dirent)(ptr(b))
		got = append(got, e.Ino)
		b = b[e.Reclen:]
	}
	for _, p := range []string{"tree", "tree/b"} {
		if !slices.Contains(got, ino(r.in(testApp, "d1", p))) {
			t.Errorf("getdents does not have the number of %s", p)
		}
	}
}

// TestInodeNumbersAreFNV: what they are must not change while a server takes
// over from another one.
func TestInodeNumbersAreFNV(t *testing.T) {
	h := fnv.New64a()
	h.Write([]byte("org.example.App\x00d1\x03\x02\x01\x00\x00\x00\x00\x00\xff\x07\x00\x00\x00\x00\x00\x00"))
	if got := inode("org.example.App", "d1", 0x010203, 0x07ff); got != h.Sum64() {
		t.Errorf("%x, want %x", got, h.Sum64())
	}
}

func TestCollidingInodeNumbersAreToldApart(t *testing.T) {
	tab := newTable(1, nil)
	v := &docView{nodes: make(map[*node]struct{})}
	a := &node{id: 10, ino: 77, view: v, key: identity{ino: 1}}
	b := &node{id: 11, ino: 77, view: v, key: identity{ino: 2}}
	tab.insert(a)
	tab.insert(b)
	if a.ino != 77 || b.ino == 77 || tab.byIno[a.ino] != a || tab.byIno[b.ino] != b {
		t.Errorf("%d %d", a.ino, b.ino)
	}
}

func TestExtendedAttributes(t *testing.T) {
	r := newRig(t)
	host := r.fileDoc("f1", "text")
	tree := r.dirDoc("d1")
	must(t, os.MkdirAll(filepath.Join(tree, "a"), 0o755))
	must(t, os.WriteFile(filepath.Join(tree, "a", "b"), nil, 0o600))
	r.docs.grant(otherApp, "f1", Access{Read: true})
	get := func(p, name string) (string, error) {
		b := make([]byte, 4096)
		n, err := unix.Getxattr(p, name, b)
		if err != nil {
			return "", err
		}
		return string(b[:n]), nil
	}
	for _, c := range []struct{ p, want string }{
		{r.in(testApp, "f1"), filepath.Dir(host)},
		{r.in(testApp, "f1", "file.txt"), host},
		{r.in(otherApp, "f1", "file.txt"), host},
		{r.in("", "f1", "file.txt"), host},
		{r.in(testApp, "d1", "tree"), tree},
		{r.in(testApp, "d1", "tree", "a", "b"), filepath.Join(tree, "a", "b")},
	} {
		if got, err := get(c.p, hostPathAttr); got != c.want || err != nil {
			t.Errorf("host path of %s: %q %v, want %q", c.p, got, err, c.want)
		}
		b := make([]byte, 4096)
		n, err := unix.Listxattr(c.p, b)
		if err != nil || !bytes.Contains(b[:n], []byte(hostPathAttr+"\x00")) {
			t.Errorf("%s lists %q %v", c.p, b[:max(n, 0)], err)
		}
		size, err := unix.Getxattr(c.p, hostPathAttr, nil)
		if err != nil || size != len(c.want) {
			t.Errorf("size %d %v, want %d", size, err, len(c.want))
		}
		_, err = unix.Getxattr(c.p, hostPathAttr, make([]byte, 3))
		wantErr(t, "short buffer", err, syscall.ERANGE)
	}
	p := r.in(testApp, "f1", "file.txt")
	wantErr(t, "set the host path", unix.Setxattr(p, hostPathAttr, []byte("x"), 0), syscall.EPERM)
	must(t, unix.Removexattr(p, hostPathAttr))
	if got, err := get(p, hostPathAttr); got != host || err != nil {
		t.Errorf("host path after it was removed: %q %v", got, err)
	}
	wantErr(t, "remove the host path of what is read-only", unix.Removexattr(r.in(otherApp, "f1", "file.txt"), hostPathAttr), syscall.EACCES)
	_, err := get(r.in(testApp), hostPathAttr)
	wantErr(t, "host path of the view", err, syscall.ENODATA)
	must(t, os.WriteFile(p+".tmp", nil, 0o600))
	_, err = get(p+".tmp", hostPathAttr)
	wantErr(t, "host path of a temp file", err, syscall.ENODATA)

	p, host = r.in(testApp, "d1", "tree", "a", "b"), filepath.Join(tree, "a", "b")
	must(t, unix.Setxattr(p, "user.x", []byte("y"), unix.XATTR_CREATE))
	wantErr(t, "XATTR_CREATE again", unix.Setxattr(p, "user.x", []byte("y"), unix.XATTR_CREATE), syscall.EEXIST)
	if got, err := get(host, "user.x"); got != "y" || err != nil {
		t.Errorf("on the host: %q %v", got, err)
	}
	must(t, unix.Removexattr(p, "user.x"))
	_, err = get(host, "user.x")
	wantErr(t, "removed", err, syscall.ENODATA)
	for _, name := range []string{"security.capability", "system.posix_acl_access", "trusted.x"} {
		if err := unix.Setxattr(p, name, []byte("x"), 0); err == nil {
			t.Errorf("%s was set", name)
		}
	}
}

func TestTwoDocumentsAreTwoDevices(t *testing.T) {
	r := newRig(t)
	r.fileDoc("f1", "text")
	r.fileDoc("f2", "text")
	r.dirDoc("d1")
	r.dirDoc("d2")
	f, d := r.in(testApp, "f1", "file.txt"), r.in(testApp, "d1", "tree", "f")
	must(t, os.WriteFile(d, nil, 0o600))
	for _, to := range []string{r.in(testApp, "f2", "x"), r.in(testApp, "d1", "tree", "x"), r.in("", "f1", "x")} {
		wantErr(t, "rename to "+to, os.Rename(f, to), syscall.EXDEV)
	}
	for _, to := range []string{r.in(testApp, "f1", "x"), r.in(testApp, "d2", "tree", "x")} {
		wantErr(t, "rename to "+to, os.Rename(d, to), syscall.EXDEV)
	}
	wantErr(t, "link", os.Link(d, r.in(testApp, "d2", "tree", "x")), syscall.EXDEV)
	wantErr(t, "link", os.Link(f, r.in(testApp, "d2", "tree", "x")), syscall.EXDEV)
}

func TestResolve(t *testing.T) {
	r := newRig(t)
	r.fileDoc("f1", "text")
	tree := r.dirDoc("d1")
	must(t, os.MkdirAll(filepath.Join(tree, "a"), 0o755))
	must(t, os.WriteFile(filepath.Join(tree, "a", "b"), nil, 0o600))
	for _, c := range []struct {
		p    string
		want Location
	}{
		{r.in(""), Location{}},
		{r.in(testApp), Location{App: testApp}},
		{r.in(testApp, "f1"), Location{testApp, "f1", ""}},
		{r.in(testApp, "f1", "file.txt"), Location{testApp, "f1", "file.txt"}},
		{r.in("", "f1", "file.txt"), Location{"", "f1", "file.txt"}},
		{r.in(testApp, "d1"), Location{App: testApp}},
		{r.in(testApp, "d1", "tree"), Location{testApp, "d1", ""}},
		{r.in(testApp, "d1", "tree", "a", "b"), Location{testApp, "d1", "a/b"}},
	} {
		fd, err := unix.Open(c.p, unix.O_PATH, 0)
		must(t, err)
		var st unix.Stat_t
		must(t, unix.Fstat(fd, &st))
		if got, ok := r.view.Resolve(st.Ino); !ok || got != c.want {
			t.Errorf("%s: %+v %v, want %+v", c.p, got, ok, c.want)
		}
		unix.Close(fd)
	}
	if _, ok := r.view.Resolve(12345); ok {
		t.Error("a number of nothing was resolved")
	}
}

// TestNothingIsKeptWithoutAUser works at random and then lets go of
// everything.
func TestNothingIsKeptWithoutAUser(t *testing.T) {
	r := newRig(t)
	r.fileDoc("f1", "text")
	r.dirDoc("d1")
	rnd := rand.New(rand.NewPCG(1, 2))
	pick := func() string {
		name := string(rune('a' + rnd.IntN(6)))
		switch rnd.IntN(3) {
		case 0:
			return r.in(testApp, "f1", name)
		case 1:
			return r.in(testApp, "d1", "tree", name)
		}
		return r.in("", "d1", "tree", string(rune('a'+rnd.IntN(6))), name)
	}
	for range 1000 {
		p, o := pick(), pick()
		switch rnd.IntN(10) {
		case 0:
			os.Mkdir(p, 0o755)
		case 1:
			os.RemoveAll(p)
		case 2:
			os.Rename(p, o)
		case 3:
			os.Link(p, o)
		case 4:
			os.Symlink("x", p)
		case 5:
			os.ReadDir(filepath.Dir(p))
		case 6:
			os.ReadFile(p)
		case 7:
			unix.Renameat2(unix.AT_FDCWD, p, unix.AT_FDCWD, o, unix.RENAME_EXCHANGE)
		default:
			os.WriteFile(p, []byte("x"), 0o600)
		}
	}
	fs := r.view.fs
	eventually(t, "descriptors are closed", func() bool {
		b, err := os.ReadDir("/proc/self/fd")
		must(t, err)
		for _, e := range b {
			if to, _ := os.Readlink("/proc/self/fd/" + e.Name()); strings.HasPrefix(to, r.host) {
				return false
			}
		}
		return true
	})
	eventually(t, "handles are closed", func() bool {
		fs.handles.mu.Lock()
		defer fs.handles.mu.Unlock()
		return len(fs.handles.byID) == 0
	})
	r.docs.remove("f1")
	r.docs.remove("d1")
	r.view.Invalidate("f1")
	r.view.Invalidate("d1")
	eventually(t, "nodes are forgotten", func() bool {
		fs.nodes.mu.Lock()
		defer fs.nodes.mu.Unlock()
		for _, n := range fs.nodes.byID {
			if n.view != nil {
				return false
			}
		}
		return len(fs.nodes.byKey) == 0 && len(fs.nodes.views) == 0 && fs.nodes.root.children <= 2
	})
}

func TestLargeReadsAndWrites(t *testing.T) {
	r := newRig(t)
	host := r.fileDoc("f1", "")
	p := r.in(testApp, "f1", "file.txt")
	rnd := rand.New(rand.NewPCG(3, 4))
	want := make([]byte, 5<<20+123)
	for i := range want {
		want[i] = byte(rnd.Uint32())
	}
	must(t, os.WriteFile(p, want, 0o600))
	if got, err := os.ReadFile(host); err != nil || !bytes.Equal(got, want) {
		t.Fatal("the host reads something else", err)
	}
	f, err := os.Open(p)
	must(t, err)
	defer f.Close()
	for range 60 {
		off := rnd.IntN(len(want) + 100)
		b := make([]byte, rnd.IntN(3<<20))
		n, err := f.ReadAt(b, int64(off))
		rest := want[min(off, len(want)):]
		rest = rest[:min(len(rest), len(b))]
		if !bytes.Equal(b[:n], rest) || err != nil && err != io.EOF {
			t.Fatalf("read of %d at %d: %d bytes, %v", len(b), off, n, err)
		}
		if rnd.IntN(4) == 0 {
			unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
		}
	}
}

func TestReplaceStormIsSeenWithoutErrors(t *testing.T) {
	r := newRig(t)
	tree := r.dirDoc("d1")
	host, seen := filepath.Join(tree, "f"), r.in(testApp, "d1", "tree", "f")
	must(t, os.WriteFile(host, []byte("0"), 0o600))
	race(t, 700*time.Millisecond, func(i int) {
		tmp := fmt.Sprint(host, i%2, "-", time.Now().UnixNano())
		os.WriteFile(tmp, []byte("1"), 0o600)
		os.Rename(tmp, host)
	}, func(i int) {
		if i < 0 {
			return
		}
		_, err := os.ReadFile(seen)
		if err != nil {
			t.Log(err)
			t.Fail()
		}
		if _, err = os.Stat(seen); err != nil {
			t.Log(err)
			t.Fail()
		}
	})
}
