package sandbox

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestNothingIsOpenedThroughALink(t *testing.T) {
	root := t.TempDir()
	secret := t.TempDir()
	for _, dir := range []string{"a/b", "up"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{
		"last": secret, "a/middle": secret, "dangling": "/nowhere", "up/rel": "../a", "self": "self", "dot": ".",
	} {
		if err := os.Symlink(to, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		rel  string
		link bool
		err  error
	}{
		{"", false, nil}, {"a", false, nil}, {"a/b", false, nil}, {"a/./b", false, nil},
		{"none", false, unix.ENOENT}, {"a/b/../../..", false, unix.EXDEV}, {"/etc", false, unix.EXDEV},
		{"last", true, nil}, {"a/middle/x", true, nil}, {"dangling", true, nil}, {"up/rel/b", true, nil}, {"self", true, nil}, {"dot/a", true, nil},
	} {
		f, err := openBeneath(root, c.rel, unix.O_PATH)
		if err == nil {
			f.Close()
		}
		var link *linkError
		if errors.As(err, &link) != c.link || c.err != nil && !errors.Is(err, c.err) || !c.link && c.err == nil && err != nil {
			t.Errorf("open %q: %v", c.rel, err)
		}
	}
	for _, rel := range []string{"last/new", "a/middle/new", "dangling", "up/rel/new"} {
		f, err := mkdirBeneath(root, rel)
		var link *linkError
		if !errors.As(err, &link) {
			t.Errorf("mkdir %q: %v", rel, err)
			f.Close()
		}
	}
	if entries, _ := os.ReadDir(secret); len(entries) != 0 {
		t.Errorf("made %v behind a link", entries)
	}
	f, err := mkdirBeneath(root, "x/y/z")
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if st, err := os.Stat(filepath.Join(root, "x/y/z")); err != nil || st.Mode().Perm()&0o077 != 0 {
		t.Errorf("%v %v", st, err)
	}
}

func TestWithin(t *testing.T) {
	for _, c := range []struct {
		path, dir string
		want      bool
	}{{"/a", "/a", true}, {"/a/b", "/a", true}, {"/ab", "/a", false}, {"/", "/a", false}, {"/a", "/", true}} {
		if within(c.path, c.dir) != c.want {
			t.Errorf("within(%q, %q) is not %v", c.path, c.dir, c.want)
		}
	}
}

func TestLinksOfOthersThanRoot(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/there/file", "x")
	for _, l := range [][2]string{{"there/file", "to-file"}, {"there", "to-dir"}, {dir + "/to-dir", "chain"}, {"loop", "loop"}} {
		if err := errors.Join(os.Symlink(l[0], filepath.Join(dir, l[1])), os.Lchown(filepath.Join(dir, l[1]), nobody(), -1)); err != nil {
			t.Fatal(err)
		}
	}
	var link *linkError
	for _, c := range []struct {
		path string
		ok   bool
	}{
		{dir + "/there/file", true},
		{dir + "/to-file", false}, {dir + "/to-dir/file", false}, {dir + "/chain/file", false}, {dir + "/loop", false},
		{"/proc/mounts", true}, // links of root's
	} {
		f, err := openByRoot(c.path, unix.O_PATH)
		if c.ok != (err == nil) || err != nil && !errors.As(err, &link) {
			t.Errorf("%s: %v", c.path, err)
		}
		if err == nil {
			f.Close()
		}
	}
	if _, err := openByRoot(dir+"/none", unix.O_PATH); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what is not there: %v", err)
	}
}

// nobody is a user who is not root: this one, or any if this one is.
func nobody() int {
	if os.Getuid() == 0 {
		return 65534
	}
	return os.Getuid()
}
