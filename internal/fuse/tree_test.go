package fuse

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestTreeHasItsModes(t *testing.T) {
	r := newRig(t)
	r.fileDoc("f1", "text")
	r.dirDoc("d1")
	r.docs.grant(otherApp, "f1", Access{Read: true})
	r.docs.grant(otherApp, "d1", Access{Read: true})
	r.docs.setApps(testApp)
	for _, c := range []struct {
		path []string
		app  string
		mode os.FileMode
	}{
		{nil, "", os.ModeDir | 0o500},
		{[]string{"by-app"}, "", os.ModeDir | 0o500},
		{nil, testApp, os.ModeDir | 0o500},
		{[]string{"f1"}, "", os.ModeDir | 0o700},
		{[]string{"f1"}, testApp, os.ModeDir | 0o700},
		{[]string{"f1"}, otherApp, os.ModeDir | 0o500},
		{[]string{"d1"}, "", os.ModeDir | 0o500},
		{[]string{"d1"}, testApp, os.ModeDir | 0o500},
		{[]string{"f1", "file.txt"}, testApp, 0o644},
		{[]string{"f1", "file.txt"}, otherApp, 0o444},
		{[]string{"d1", "tree"}, testApp, os.ModeDir | 0o755},
		{[]string{"d1", "tree"}, otherApp, os.ModeDir | 0o555},
	} {
		p := r.in(c.app, c.path...)
		info, err := os.Stat(p)
		if err != nil {
			t.Error(err)
		} else if info.Mode() != c.mode {
			t.Errorf("%s: mode %v, want %v", p, info.Mode(), c.mode)
		}
	}
	for _, c := range []struct {
		dir  string
		want []string
	}{
		{r.in(""), []string{"by-app", "d1", "f1"}},
		{r.in("", "by-app"), []string{testApp}},
		{r.in(testApp), []string{"d1", "f1"}},
		{r.in("org.example.Nothing"), nil},
		{r.in("", "f1"), []string{"file.txt"}},
		{r.in("", "d1"), []string{"tree"}},
	} {
		if got := names(t, c.dir); !slices.Equal(got, c.want) {
			t.Errorf("%s lists %q, want %q", c.dir, got, c.want)
		}
	}
	for _, name := range []string{"", "nodots", "a..b", "a.b-c.d", ".a.b", "a.b/"} {
		if _, err := os.Stat(r.in("", "by-app") + "/" + name + "x y"); !os.IsNotExist(err) {
			t.Errorf("by-app/%q: %v, want ENOENT", name, err)
		}
	}
	_, err := os.Stat(r.in("", "nothing"))
	wantErr(t, "unknown document", err, syscall.ENOENT)
}

func TestReadAndWriteBothWays(t *testing.T) {
	r := newRig(t)
	host := r.fileDoc("f1", "text")
	tree := r.dirDoc("d1")
	wantContent(t, r.in(testApp, "f1", "file.txt"), "text")
	must(t, os.WriteFile(r.in(testApp, "f1", "file.txt"), []byte("from the app"), 0o600))
	wantContent(t, host, "from the app")
	must(t, os.WriteFile(host, []byte("from the host"), 0o600))
	wantContent(t, r.in(testApp, "f1", "file.txt"), "from the host")

	p := r.in(testApp, "d1", "tree", "a", "b")
	must(t, os.MkdirAll(p, 0o755))
	must(t, os.WriteFile(filepath.Join(p, "c"), []byte("deep"), 0o600))
	wantContent(t, filepath.Join(tree, "a", "b", "c"), "deep")
	must(t, os.Rename(filepath.Join(p, "c"), r.in(testApp, "d1", "tree", "d")))
	wantContent(t, filepath.Join(tree, "d"), "deep")
	must(t, os.Rename(filepath.Join(tree, "d"), filepath.Join(tree, "e")))
	wantContent(t, r.in(testApp, "d1", "tree", "e"), "deep")
	_, err := os.Stat(r.in(testApp, "d1", "tree", "d"))
	wantErr(t, "renamed on the host", err, syscall.ENOENT)
}

func TestReadOnlyIsEACCESOnEveryChange(t *testing.T) {
	r := newRig(t)
	r.fileDoc("f1", "text")
	tree := r.dirDoc("d1")
	must(t, os.WriteFile(filepath.Join(tree, "file"), []byte("x"), 0o600))
	must(t, os.Mkdir(filepath.Join(tree, "sub"), 0o755))
	ro := Access{Read: true}
	r.docs.grant(testApp, "f1", ro)
	r.docs.grant(testApp, "d1", ro)
	f := r.in(testApp, "f1", "file.txt")
	g := r.in(testApp, "d1", "tree", "file")
	d := r.in(testApp, "d1", "tree")
	open := func(path string, flags int) func() error {
		return func() error {
			h, err := os.OpenFile(path, flags, 0o600)
			if err == nil {
				h.Close()
			}
			return err
		}
	}
	for name, change := range map[string]func() error{
		"open for writing":        open(f, os.O_WRONLY),
		"open for both":           open(f, os.O_RDWR),
		"open to truncate":        open(f, os.O_RDONLY|os.O_TRUNC),
		"create beside":           open(r.in(testApp, "f1", "new"), os.O_CREATE|os.O_RDONLY),
		"truncate":                func() error { return os.Truncate(f, 0) },
		"chmod":                   func() error { return os.Chmod(f, 0o600) },
		"chown":                   func() error { return os.Chown(f, os.Getuid(), -1) },
		"utimes":                  func() error { return unix.UtimesNanoAt(unix.AT_FDCWD, f, nil, 0) },
		"unlink":                  func() error { return unix.Unlink(f) },
		"rename":                  func() error { return os.Rename(f, r.in(testApp, "f1", "b")) },
		"setxattr":                func() error { return unix.Setxattr(f, "user.x", []byte("y"), 0) },
		"removexattr":             func() error { return unix.Removexattr(f, "user.x") },
		"access":                  func() error { return unix.Access(f, unix.W_OK) },
		"access to directory":     func() error { return unix.Access(r.in(testApp, "f1"), unix.W_OK) },
		"chmod directory":         func() error { return os.Chmod(r.in(testApp, "f1"), 0o700) },
		"tree: open for writing":  open(g, os.O_WRONLY),
		"tree: create":            open(filepath.Join(d, "new"), os.O_CREATE|os.O_WRONLY),
		"tree: mkdir":             func() error { return os.Mkdir(filepath.Join(d, "new"), 0o755) },
		"tree: rmdir":             func() error { return unix.Rmdir(filepath.Join(d, "sub")) },
		"tree: unlink":            func() error { return unix.Unlink(g) },
		"tree: symlink":           func() error { return os.Symlink("x", filepath.Join(d, "l")) },
		"tree: link":              func() error { return os.Link(g, filepath.Join(d, "l")) },
		"tree: mkfifo":            func() error { return unix.Mkfifo(filepath.Join(d, "p"), 0o600) },
		"tree: rename":            func() error { return os.Rename(g, filepath.Join(d, "h")) },
		"tree: chmod":             func() error { return os.Chmod(d, 0o700) },
		"tree: access":            func() error { return unix.Access(d, unix.W_OK) },
		"tree: O_TMPFILE":         open(d, unix.O_TMPFILE|os.O_RDWR),
		"document: create":        open(r.in(testApp, "d1", "new"), os.O_CREATE|os.O_WRONLY),
		"document: rename":        func() error { return os.Rename(d, r.in(testApp, "d1", "other")) },
		"view: mkdir":             func() error { return os.Mkdir(r.in(testApp, "new"), 0o755) },
		"view: rmdir":             func() error { return unix.Rmdir(r.in(testApp, "f1")) },
		"host's view: mkdir":      func() error { return os.Mkdir(r.in("", "new"), 0o755) },
		"host's document: create": open(r.in("", "d1", "new"), os.O_CREATE|os.O_WRONLY),
		"by-app: mkdir":           func() error { return os.Mkdir(r.in("", "by-app", "org.example.New"), 0o755) },
		"host's view: chmod":      func() error { return os.Chmod(r.in(""), 0o700) },
		"host's view: setxattr":   func() error { return unix.Setxattr(r.in(""), "user.x", nil, 0) },
		"host's document: rename": func() error { return os.Rename(r.in("", "d1", "tree"), r.in("", "d1", "t2")) },
		"host's document: rmdir":  func() error { return unix.Rmdir(r.in("", "d1", "tree")) },
	} {
		if name == "by-app: mkdir" {
			continue // the look-up says that it exists
		}
		wantErr(t, name, change(), syscall.EACCES)
	}
	wantContent(t, f, "text")
}

// TestAListingComesInFullReplies: each but the last is as long as the next entry
// allows, or an app asks more often than it has to.
func TestAListingComesInFullReplies(t *testing.T) {
	r := newRig(t)
	dir := filepath.Join(r.dirDoc("d1"), "many")
	must(t, os.Mkdir(dir, 0o700))
	const files = 3000
	for i := range files {
		must(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("file%05d", i)), nil, 0o600))
	}
	f, err := os.Open(r.in(testApp, "d1", "tree/many"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var sizes []int
	names := 0
	for b := make([]byte, 32<<10); ; {
		n, err := unix.Getdents(int(f.Fd()), b)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			break
		}
		sizes = append(sizes, n)
		_, count, _ := unix.ParseDirent(b[:n], -1, nil) // without . and ..
		names += count
	}
	if names != files {
		t.Errorf("%d names", names)
	}
	for i, n := range sizes[:len(sizes)-1] {
		if n < slices.Max(sizes)*9/10 {
			t.Errorf("the replies have %v bytes", sizes[i:])
			break
		}
	}
}

// TestTheWayToADeepDirectory takes no longer than a path that may be told, and one
// that is longer is no path.
func TestTheWayToADeepDirectory(t *testing.T) {
	tab := newTable(1, nil)
	fs := &filesystem{nodes: tab}
	v := &docView{fs: fs, id: "d1", nodes: make(map[*node]struct{})}
	s := &docState{doc: &Document{Directory: true}}
	top := &node{kind: kindTop, view: v, name: "tree"}
	at := top
	for i := range 200_000 {
		at = &node{kind: kindTree, view: v, parent: at, name: "directory"}
		if i == 2 {
			if l, ok := fs.location(at, s); !ok || l.Rel != "directory/directory/directory" {
				t.Errorf("the third is %q %v", l.Rel, ok)
			}
		}
	}
	done := make(chan bool)
	go func() {
		_, ok := fs.location(at, s)
		done <- ok
	}()
	select {
	case ok := <-done:
		if ok {
			t.Error("it has a path")
		}
	case <-time.After(patience):
		t.Fatal("it takes as long as the way is")
	}
}
