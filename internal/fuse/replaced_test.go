package fuse

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"docportal/internal/testdisk"
)

// nested makes a directory document with a file in each of the directories a/b
// and c/b; the files say where they are.
func (r *rig) nested() (host, view string) {
	r.Helper()
	host, view = r.dirDoc("d1"), r.in(testApp, "d1", "tree")
	for _, d := range []string{"a", "c"} {
		must(r, os.MkdirAll(filepath.Join(host, d, "b"), 0o755))
		must(r, os.WriteFile(filepath.Join(host, d, "b", "f"), []byte(d), 0o600))
	}
	return host, view
}

// TestMovedDirectoriesAreSeenAtOnce: the host moves directories, and then the
// app uses their names. It has used them just before.
func TestMovedDirectoriesAreSeenAtOnce(t *testing.T) {
	r := newRig(t)
	host, view := r.nested()
	outside := r.dir("outside/b")
	must(t, os.WriteFile(filepath.Join(outside, "f"), []byte("outside"), 0o600))
	at := func(p string) string { return filepath.Join(host, p) }
	warm := func() {
		for _, p := range []string{"a/b/f", "c/b/f"} {
			if _, err := os.ReadFile(filepath.Join(view, p)); err != nil {
				t.Fatal(err)
			}
		}
	}
	gone := func(p string) {
		t.Helper()
		for what, err := range map[string]error{
			"stat":   unix.Stat(p, new(unix.Stat_t)),
			"access": unix.Access(p, unix.R_OK),
			"open":   openAndClose(p),
			"create": os.WriteFile(p+".new", nil, 0o600),
			"mkdir":  os.Mkdir(p+".dir", 0o700),
			"rename": os.Rename(p, p+"2"),
			"unlink": unix.Unlink(p),
			"chmod":  os.Chmod(p, 0o600),
		} {
			wantErr(t, what+" "+p, err, syscall.ENOENT)
		}
	}
	rounds := 200
	if testing.Short() {
		rounds = 40
	}
	for i := range rounds {
		// Away, and back.
		warm()
		must(t, os.Rename(at("a"), at("z")))
		gone(filepath.Join(view, "a/b/f"))
		wantContent(t, filepath.Join(view, "z/b/f"), "a")
		must(t, os.Rename(at("z"), at("a")))
		wantContent(t, filepath.Join(view, "a/b/f"), "a")

		// Another in its place.
		warm()
		must(t, unix.Renameat2(unix.AT_FDCWD, at("a"), unix.AT_FDCWD, at("c"), unix.RENAME_EXCHANGE))
		wantContent(t, filepath.Join(view, "a/b/f"), "c")
		wantContent(t, filepath.Join(view, "c/b/f"), "a")
		must(t, unix.Renameat2(unix.AT_FDCWD, at("a"), unix.AT_FDCWD, at("c"), unix.RENAME_EXCHANGE))
		wantContent(t, filepath.Join(view, "c/b/f"), "c")

		// A directory further up.
		warm()
		must(t, os.Rename(at("a/b"), at("a/z")))
		gone(filepath.Join(view, "a/b/f"))
		must(t, os.Mkdir(at("a/b"), 0o700))
		if _, err := os.Stat(filepath.Join(view, "a/b/f")); !os.IsNotExist(err) {
			t.Errorf("stat in a new directory: %v", err)
		}
		must(t, os.Remove(at("a/b")))
		must(t, os.Rename(at("a/z"), at("a/b")))

		// A link out of the document.
		warm()
		must(t, os.Rename(at("a"), at("z")))
		must(t, os.Symlink(filepath.Dir(outside), at("a")))
		if _, err := os.Lstat(filepath.Join(view, "a/b/.")); err != nil {
			t.Error(err) // the link is the app's to follow
		}
		must(t, os.Remove(at("a")))
		must(t, os.Symlink("missing", at("a")))
		gone(filepath.Join(view, "a/b/f"))
		must(t, os.Remove(at("a")))
		must(t, os.Rename(at("z"), at("a")))

		// The document's own directory.
		warm()
		must(t, os.Rename(host, host+"2"))
		gone(filepath.Join(view, "a/b/f"))
		must(t, os.MkdirAll(at("a/b"), 0o700))
		must(t, os.WriteFile(at("a/b/f"), []byte("another"), 0o600))
		gone(filepath.Join(view, "a/b/f"))
		must(t, os.RemoveAll(host))
		must(t, os.Rename(host+"2", host))
		if t.Failed() {
			t.Fatal("round", i)
		}
	}
}

// TestADirectoryInUseGoesOn: who has a directory open uses it wherever the host
// moves it.
func TestADirectoryInUseGoesOn(t *testing.T) {
	r := newRig(t)
	host, view := r.nested()
	round := func(i int) {
		wantContent(t, filepath.Join(view, "a/b/f"), "a")
		d, err := unix.Open(filepath.Join(view, "a/b"), unix.O_RDONLY|unix.O_DIRECTORY, 0)
		must(t, err)
		defer unix.Close(d)
		must(t, os.Rename(filepath.Join(host, "a"), filepath.Join(host, "z")))
		if i%2 == 0 {
			if _, err := os.Stat(filepath.Join(view, "a/b/f")); !os.IsNotExist(err) {
				t.Fatalf("round %d: an old name below it: %v", i, err)
			}
		}
		fd, err := unix.Openat(d, "f", unix.O_RDONLY, 0)
		if err != nil {
			t.Fatalf("round %d: open in it: %v", i, err)
		}
		unix.Close(fd)
		var st unix.Stat_t
		if err := unix.Fstatat(d, "f", &st, 0); err != nil {
			t.Fatalf("round %d: stat in it: %v", i, err)
		}
		if _, err := os.Stat(filepath.Join(view, "a/b")); !os.IsNotExist(err) {
			t.Fatalf("round %d: its old name: %v", i, err)
		}
		made, err := unix.Openat(d, "new", unix.O_WRONLY|unix.O_CREAT, 0o600)
		if err != nil {
			t.Fatalf("round %d: create in it: %v", i, err)
		}
		unix.Close(made)
		must(t, unix.Unlinkat(d, "new", 0))
		must(t, os.Rename(filepath.Join(host, "z"), filepath.Join(host, "a")))
	}
	for i := range 50 {
		round(i)
	}
}

// TestReplacedDirectoriesAreSeenWithoutErrors: the host exchanges two
// directories without pause.
func TestReplacedDirectoriesAreSeenWithoutErrors(t *testing.T) {
	r := newRig(t)
	host, view := r.nested()
	race(t, 700*time.Millisecond, func(int) {
		unix.Renameat2(unix.AT_FDCWD, filepath.Join(host, "a"), unix.AT_FDCWD, filepath.Join(host, "c"), unix.RENAME_EXCHANGE)
	}, func(i int) {
		p := filepath.Join(view, "a/b/f")
		if b, err := os.ReadFile(p); err != nil || string(b) != "a" && string(b) != "c" {
			t.Errorf("read: %q %v", b, err)
		}
		if _, err := os.Stat(p); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(filepath.Dir(p)); err != nil {
			t.Error(err)
		}
		q := fmt.Sprint(p, i)
		if err := os.WriteFile(q, nil, 0o600); err != nil {
			t.Error(err)
		}
	})
}

// TestTheNameOfARevokedDocumentIsGoneAtOnce, while who has its directory open
// may not see it any more.
func TestTheNameOfARevokedDocumentIsGoneAtOnce(t *testing.T) {
	r := newRig(t)
	_, view := r.nested()
	id := filepath.Dir(view)
	r.fileDoc("f1", "text")
	for i := range 100 {
		wantContent(t, filepath.Join(view, "a/b/f"), "a")
		wantContent(t, r.in(testApp, "f1", "file.txt"), "text")
		d, err := unix.Open(view, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		must(t, err)
		for _, doc := range []string{"d1", "f1"} {
			r.docs.grant(testApp, doc, Access{})
			r.view.Invalidate(doc)
		}
		for _, p := range []string{id, view, filepath.Join(view, "a"), filepath.Join(view, "a/b/f"), r.in(testApp, "f1"), r.in(testApp, "f1", "file.txt")} {
			_, err := os.Lstat(p)
			wantErr(t, "stat "+p, err, syscall.ENOENT)
			_, err = os.ReadDir(p)
			wantErr(t, "list "+p, err, syscall.ENOENT)
		}
		wantErr(t, "fstat", unix.Fstat(d, new(unix.Stat_t)), syscall.EACCES)
		unix.Close(d)
		for _, doc := range []string{"d1", "f1"} {
			r.docs.grant(testApp, doc, Access{Read: true})
			r.view.Invalidate(doc)
		}
		if t.Failed() {
			t.Fatal("round", i)
		}
	}
}

// TestATreeRemovedOnTheHostIsMadeAgain in the view, with the inode numbers of
// the old one.
func TestATreeRemovedOnTheHostIsMadeAgain(t *testing.T) {
	r := newRig(t)
	host, view := r.dirDoc("d1"), r.in(testApp, "d1", "tree")
	for round := range 6 {
		for d := range 30 {
			dir := filepath.Join(view, "t", fmt.Sprint(d), "x", fmt.Sprint((d+round)%7))
			must(t, os.MkdirAll(dir, 0o700))
			for f := range 3 {
				p := filepath.Join(dir, fmt.Sprint(f))
				must(t, os.WriteFile(p+".new", []byte(p), 0o600))
				must(t, os.Rename(p+".new", p))
			}
		}
		files := 0
		must(t, filepath.WalkDir(filepath.Join(view, "t"), func(p string, e os.DirEntry, err error) error {
			if err == nil && e.Type().IsRegular() {
				files++
				wantContent(t, p, p)
			}
			return err
		}))
		if files != 90 || t.Failed() {
			t.Fatalf("round %d: %d files", round, files)
		}
		must(t, os.RemoveAll(filepath.Join(host, "t")))
		if _, err := os.Lstat(filepath.Join(view, "t")); !os.IsNotExist(err) {
			t.Fatalf("round %d: after it was removed: %v", round, err)
		}
	}
}

// TestWhatIsNoDirectoryAnyMore: an app has used the name of a directory, the host
// replaces that by something else, and the app uses the name in each way there is.
// All is as on the host.
func TestWhatIsNoDirectoryAnyMore(t *testing.T) {
	calls := rules()
	for what, f := range rulePairOps {
		calls[what] = func(p string) (string, error) { return "", f(p, p+".new") }
		calls[what+" over a file"] = func(p string) (string, error) { return "", f(p, p+".file") }
		calls[what+" of a file to it"] = func(p string) (string, error) { return "", f(p+".file", p) }
	}
	r := newRig(t)
	tree, view := r.dirDoc("d1"), r.in(testApp, "d1", "tree")
	native := r.dir("native")
	for i, now := range []string{"nothing", "a file", "a link to a file", "a pipe"} {
		for what, call := range calls {
			name := fmt.Sprint(i, " ", what)
			seen := filepath.Join(view, name)
			for _, dir := range []string{native, tree} {
				must(t, os.Mkdir(filepath.Join(dir, name), 0o755))
				must(t, os.WriteFile(filepath.Join(dir, name+".file"), []byte("other"), 0o644))
			}
			must(t, unix.Stat(filepath.Join(seen, "."), new(unix.Stat_t)))
			for _, dir := range []string{native, tree} {
				p := filepath.Join(dir, name)
				must(t, os.Remove(p))
				switch now {
				case "a file":
					must(t, os.WriteFile(p, []byte("file"), 0o644))
				case "a link to a file":
					must(t, os.Symlink(name+".file", p))
				case "a pipe":
					must(t, unix.Mkfifo(p, 0o644))
				}
			}
			said, err := call(filepath.Join(native, name))
			want := fmt.Sprint(said, " ", err)
			said, err = call(seen)
			if got := fmt.Sprint(said, " ", err); got != want {
				t.Errorf("%s of what is %s now: %s, on the host %s", what, now, got, want)
			}
		}
	}
}

// TestADirectoryThatIsOnlyReferredTo by O_PATH, of which a server is not told, is
// that one or ESTALE, and never another one.
func TestADirectoryThatIsOnlyReferredTo(t *testing.T) {
	r := newRig(t)
	host, view := r.nested()
	d, err := unix.Open(filepath.Join(view, "a", "b"), unix.O_PATH|unix.O_DIRECTORY, 0)
	must(t, err)
	defer unix.Close(d)
	var st, now unix.Stat_t
	must(t, unix.Fstat(d, &st))
	check := func(staleIsWrong bool) {
		t.Helper()
		if err := unix.Fstat(d, &now); err == nil && now.Ino != st.Ino {
			t.Fatalf("inode %d, it was %d", now.Ino, st.Ino)
		} else if err != nil && (staleIsWrong || err != syscall.ESTALE) {
			t.Fatalf("fstat: %v", err)
		}
		fd, err := unix.Openat(d, "f", unix.O_RDONLY, 0)
		if err != nil {
			if staleIsWrong || err != syscall.ESTALE {
				t.Fatalf("open in it: %v", err)
			}
			return
		}
		f := os.NewFile(uintptr(fd), "f")
		defer f.Close()
		if b, err := io.ReadAll(f); err != nil || string(b) != "a" {
			t.Fatalf("read in it: %q, %v", b, err)
		}
	}
	for i := range 20 {
		must(t, os.Rename(filepath.Join(host, "a"), filepath.Join(host, "z")))
		must(t, os.Rename(filepath.Join(host, "c"), filepath.Join(host, "a")))
		wantContent(t, filepath.Join(view, "a", "b", "f"), "c")
		if i%2 == 0 {
			// As if some time had passed.
			nodes := r.view.fs.nodes
			nodes.mu.Lock()
			v := nodes.views[viewKey{testApp, "d1"}]
			nodes.mu.Unlock()
			r.view.fs.cache.dropView(v)
		}
		check(false)
		must(t, os.Rename(filepath.Join(host, "a"), filepath.Join(host, "c")))
		must(t, os.Rename(filepath.Join(host, "z"), filepath.Join(host, "a")))
		check(true)
	}
}

// TestARenameOfWhatTheHostHasExchanged moves what is there now, not what the app saw
// there before.
func TestARenameOfWhatTheHostHasExchanged(t *testing.T) {
	for what, flags := range map[string]uint{"rename": 0, "exchange": unix.RENAME_EXCHANGE} {
		r := newRig(t)
		host, view := r.nested()
		if flags != 0 {
			must(t, os.MkdirAll(filepath.Join(host, "z", "b"), 0o755))
			must(t, os.WriteFile(filepath.Join(host, "z", "b", "f"), []byte("z"), 0o600))
		}
		for _, p := range names(t, view) {
			wantContent(t, filepath.Join(view, p, "b", "f"), p)
		}
		must(t, unix.Renameat2(unix.AT_FDCWD, filepath.Join(host, "a"), unix.AT_FDCWD, filepath.Join(host, "c"), unix.RENAME_EXCHANGE))
		must(t, unix.Renameat2(unix.AT_FDCWD, filepath.Join(view, "a"), unix.AT_FDCWD, filepath.Join(view, "z"), flags))
		for _, p := range names(t, host) {
			text, err := os.ReadFile(filepath.Join(host, p, "b", "f"))
			must(t, err)
			wantContent(t, filepath.Join(view, p, "b", "f"), string(text))
		}
		if t.Failed() {
			t.Fatal("after a", what)
		}
	}
}

// TestARemovalOfWhatTheHostHasExchanged removes what is there now, too.
func TestARemovalOfWhatTheHostHasExchanged(t *testing.T) {
	for what, remove := range map[string]func(dir string) error{
		"rmdir":  func(dir string) error { return unix.Rmdir(filepath.Join(dir, "a")) },
		"rename": func(dir string) error { return unix.Rename(filepath.Join(dir, "new"), filepath.Join(dir, "a")) },
	} {
		r := newRig(t)
		host, view := r.dirDoc("d1"), r.in(testApp, "d1", "tree")
		for _, p := range []string{"a", "c", "new"} {
			must(t, os.Mkdir(filepath.Join(host, p), 0o755))
			_, err := os.ReadDir(filepath.Join(view, p))
			must(t, err)
		}
		must(t, unix.Renameat2(unix.AT_FDCWD, filepath.Join(host, "a"), unix.AT_FDCWD, filepath.Join(host, "c"), unix.RENAME_EXCHANGE))
		must(t, remove(view))
		must(t, os.WriteFile(filepath.Join(host, "c", "there"), nil, 0o600))
		if _, err := os.Stat(filepath.Join(view, "c", "there")); err != nil {
			t.Errorf("after a %s: %v", what, err)
		}
		if got := names(t, filepath.Join(view, "c")); len(got) != 1 {
			t.Errorf("after a %s: %q", what, got)
		}
	}
}

// TestADirectoryThatIsMountedOnItself is the same one, and what is below it is not.
func TestADirectoryThatIsMountedOnItself(t *testing.T) {
	if !testdisk.MayMount(t) {
		return
	}
	r := newRig(t)
	tree, view := r.dirDoc("d1"), r.in(testApp, "d1", "tree")
	a := filepath.Join(tree, "a")
	must(t, os.MkdirAll(a+"/sub", 0o700))
	must(t, os.WriteFile(a+"/sub/f", []byte("below"), 0o600))
	wantContent(t, view+"/a/sub/f", "below")
	must(t, unix.Mount(a, a, "", unix.MS_BIND, ""))
	defer unix.Unmount(a, unix.MNT_DETACH)
	must(t, unix.Mount("tmpfs", a+"/sub", "tmpfs", 0, "mode=0700"))
	defer unix.Unmount(a+"/sub", unix.MNT_DETACH)
	must(t, os.WriteFile(a+"/sub/f", []byte("above"), 0o600))
	wantContent(t, view+"/a/sub/f", "above")
	must(t, unix.Mount("", a, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""))
	wantErr(t, "create where it is mounted read-only", os.WriteFile(view+"/a/new", nil, 0o600), syscall.EROFS)
}

// TestAppAndHostAtOnce: they change the same few names while permissions come and
// go. What comes of that is anybody's guess, but nothing is left of it.
func TestAppAndHostAtOnce(t *testing.T) {
	r := newRig(t)
	tree, view := r.dirDoc("d1"), r.in(testApp, "d1", "tree")
	parent, file := filepath.Dir(r.fileDoc("f1", "x")), r.in(testApp, "f1", "file.txt")
	name := func() string {
		p := fmt.Sprint(rand.IntN(3))
		for range rand.IntN(3) {
			p += "/" + fmt.Sprint(rand.IntN(3))
		}
		return p
	}
	one := func(root string) {
		p, q := filepath.Join(root, name()), filepath.Join(root, name())
		switch rand.IntN(9) {
		case 0, 1:
			unix.Mkdir(p, 0o755)
		case 2:
			os.WriteFile(p, []byte("text"), 0o644)
		case 3:
			unix.Renameat2(unix.AT_FDCWD, p, unix.AT_FDCWD, q, []uint{0, unix.RENAME_EXCHANGE}[rand.IntN(2)])
		case 4:
			os.Remove(p)
		case 5, 6:
			os.ReadFile(p)
			os.ReadDir(p)
		case 7:
			unix.Link(p, q)
		case 8:
			unix.Lstat(p, new(unix.Stat_t))
			unix.Truncate(p, 3)
		}
	}
	race(t, 2*time.Second, func(i int) {
		one(tree)
		os.WriteFile(filepath.Join(parent, "file.txt"), []byte("y"), 0o600)
		if i%50 == 0 {
			r.docs.grant(testApp, "d1", Access{Read: i%100 == 0, Write: true})
			r.view.Invalidate("d1")
			r.docs.grant(testApp, "d1", Access{Read: true, Write: true})
			r.view.Invalidate("d1")
		}
	}, func(i int) {
		one(view)
		temp := fmt.Sprint(file, i%3)
		os.WriteFile(temp, []byte("z"), 0o600)
		os.Rename(temp, file)
		os.Rename(file, file+"9")
	})
	nothingIsLeft(t, r, "d1", "f1")
}
