package fuse

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestReplacedParentIsENOENT(t *testing.T) {
	r := newRig(t)
	host := r.fileDoc("f1", "text")
	r.docs.add(t, "d1", r.dir("d1.d/tree"))
	p := r.in("", "f1", "file.txt")
	wantContent(t, p, "text")
	parent := filepath.Dir(host)
	must(t, os.Rename(parent, parent+".old"))
	_, err := os.ReadFile(p)
	wantErr(t, "parent gone", err, syscall.ENOENT)
	r.file("f1.d/file.txt", "another file")
	_, err = os.ReadFile(p)
	wantErr(t, "another parent", err, syscall.ENOENT)
	_, err = os.OpenFile(p, os.O_CREATE|os.O_WRONLY, 0o600)
	wantErr(t, "create in another parent", err, syscall.ENOENT)
	wantContent(t, host, "another file")
	must(t, os.RemoveAll(parent))
	must(t, os.Symlink(parent+".old", parent))
	wantContent(t, p, "text") // a link that leads to the same directory

	tree := filepath.Join(r.host, "d1.d", "tree")
	_, err = os.Stat(r.in("", "d1", "tree"))
	must(t, err)
	must(t, os.Rename(tree, tree+".old"))
	must(t, os.Mkdir(tree, 0o755))
	_, err = os.Stat(r.in("", "d1", "tree"))
	wantErr(t, "another directory", err, syscall.ENOENT)
}

func TestParentIsKnownByItsHandle(t *testing.T) {
	r := newRig(t)
	host := r.fileDoc("f1", "text")
	dir, errno := testOpener().openDirectory(filepath.Dir(host))
	if errno != 0 {
		t.Fatal(errno)
	}
	defer unix.Close(dir)
	h, ok := handleOf(dir)
	if !ok {
		t.Fatal("this file system has no handles")
	}
	var sfs unix.Statfs_t
	must(t, unix.Fstatfs(dir, &sfs))
	fsid := uint64(uint32(sfs.Fsid.Val[0])) | uint64(uint32(sfs.Fsid.Val[1]))<<32
	set := func(id FileID) {
		d := *r.docs.docs["f1"]
		d.DirID = id
		r.docs.mu.Lock()
		r.docs.docs["f1"] = &d
		r.docs.mu.Unlock()
		r.docs.gen.Add(1)
	}
	p := r.in("", "f1", "file.txt")
	set(FileID{Dev: 1, Ino: 1, Handle: h, FSID: fsid}) // media came back under another number
	wantContent(t, p, "text")
	set(FileID{Dev: 1, Ino: 1, Handle: h, FSID: fsid + 1})
	_, err := os.ReadFile(p)
	wantErr(t, "another file system", err, syscall.ENOENT)
	set(FileID{Handle: append(slices.Clone(h[:len(h)-1]), h[len(h)-1]+1), FSID: fsid})
	_, err = os.ReadFile(p)
	wantErr(t, "another handle", err, syscall.ENOENT)
}

func TestReplacedFileIsTheDocument(t *testing.T) {
	r := newRig(t)
	host := r.fileDoc("f1", "text")
	p := r.in(testApp, "f1", "file.txt")
	old, err := os.Open(p)
	must(t, err)
	defer old.Close()
	must(t, os.Rename(r.file("f1.d/new", "new text"), host))
	wantContent(t, p, "new text")
	b := make([]byte, 10)
	n, _ := old.Read(b)
	if string(b[:n]) != "text" {
		t.Errorf("the file that was open reads %q", b[:n])
	}
	info, err := old.Stat()
	must(t, err)
	if info.Size() != 4 {
		t.Errorf("the file that was open has size %d", info.Size())
	}
	must(t, os.Remove(host))
	_, err = os.Stat(p)
	wantErr(t, "removed", err, syscall.ENOENT)
	if got := names(t, r.in(testApp, "f1")); got != nil {
		t.Errorf("lists %q", got)
	}
}

func hidden(t *testing.T, dir string) (all []string) {
	for _, name := range names(t, dir) {
		if strings.HasPrefix(name, hiddenPrefix) {
			all = append(all, name)
		}
	}
	return all
}

func TestTempFiles(t *testing.T) {
	r := newRig(t)
	host := r.fileDoc("f1", "text")
	r.docs.grant(otherApp, "f1", Access{Read: true, Write: true})
	parent := filepath.Dir(host)
	r.docs.add(t, "d1", parent)
	main, tmp := r.in(testApp, "f1", "file.txt"), r.in(testApp, "f1", ".file.txt.swp")

	must(t, os.WriteFile(tmp, []byte("temp"), 0o640))
	wantContent(t, tmp, "temp")
	if info, err := os.Stat(tmp); err != nil || info.Mode() != 0o640 {
		t.Errorf("stat: %v %v", info, err)
	}
	if got := names(t, r.in(testApp, "f1")); !slices.Equal(got, []string{".file.txt.swp", "file.txt"}) {
		t.Errorf("lists %q", got)
	}
	h := hidden(t, parent)
	if len(h) != 1 {
		t.Fatalf("on the host: %q", names(t, parent))
	}
	// Nowhere else to be seen.
	for _, p := range []string{
		r.in(otherApp, "f1", ".file.txt.swp"), r.in("", "f1", ".file.txt.swp"),
		r.in(testApp, "f1", h[0]), r.in("", "d1", filepath.Base(parent), h[0]),
	} {
		_, err := os.Stat(p)
		wantErr(t, p, err, syscall.ENOENT)
	}
	for _, d := range []string{r.in(otherApp, "f1"), r.in("", "f1"), r.in("", "d1", filepath.Base(parent))} {
		if got := names(t, d); !slices.Equal(got, []string{"file.txt"}) {
			t.Errorf("%s lists %q", d, got)
		}
	}
	// O_EXCL means it.
	_, err := os.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	wantErr(t, "O_EXCL", err, syscall.EEXIST)
	_, err = os.OpenFile(main, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	wantErr(t, "O_EXCL", err, syscall.EEXIST)

	// Replacing the main file.
	must(t, os.Rename(tmp, main))
	wantContent(t, main, "temp")
	wantContent(t, host, "temp")
	if got := hidden(t, parent); got != nil {
		t.Errorf("left behind: %q", got)
	}
	// Hiding it, and making a new one.
	must(t, os.Rename(main, main+"~"))
	_, err = os.Stat(host)
	wantErr(t, "hidden main file", err, syscall.ENOENT)
	wantContent(t, main+"~", "temp")
	must(t, os.WriteFile(main, []byte("new"), 0o600))
	wantContent(t, host, "new")
	// Between temp files only the view changes.
	before := hidden(t, parent)
	must(t, os.Rename(main+"~", main+".bak"))
	if after := hidden(t, parent); !slices.Equal(before, after) {
		t.Errorf("a rename in the view renamed %q to %q", before, after)
	}
	wantContent(t, main+".bak", "temp")
	must(t, os.WriteFile(main+".2", []byte("second"), 0o600))
	must(t, os.Rename(main+".2", main+".bak"))
	wantContent(t, main+".bak", "second")
	must(t, os.Remove(main+".bak"))
	if got := hidden(t, parent); got != nil {
		t.Errorf("left behind: %q", got)
	}
	// The longest name.
	long := r.in(testApp, "f1", strings.Repeat("ä", 127)+"x")
	must(t, os.WriteFile(long, []byte("long"), 0o600))
	wantContent(t, long, "long")
	must(t, os.Rename(long, main))
	wantContent(t, host, "long")
	_, err = os.Create(r.in(testApp, "f1", strings.Repeat("x", 256)))
	wantErr(t, "256 bytes", err, syscall.ENAMETOOLONG)

	for what, err := range map[string]error{
		"mkdir":   os.Mkdir(r.in(testApp, "f1", "d"), 0o700),
		"symlink": os.Symlink("x", r.in(testApp, "f1", "l")),
		"link":    os.Link(main, r.in(testApp, "f1", "l")),
		"mkfifo":  unix.Mkfifo(r.in(testApp, "f1", "p"), 0o600),
	} {
		want := syscall.EPERM
		if e, ok := err.(*os.LinkError); ok {
			err = e.Err
		}
		if e, ok := err.(*os.PathError); ok {
			err = e.Err
		}
		wantErr(t, what, err, want)
	}
}

func TestRenameFlagsInFileDocuments(t *testing.T) {
	r := newRig(t)
	host := r.fileDoc("f1", "main")
	main, a, b := r.in(testApp, "f1", "file.txt"), r.in(testApp, "f1", "a"), r.in(testApp, "f1", "b")
	rename := func(from, to string, flags uint) error {
		return unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, flags)
	}
	must(t, os.WriteFile(a, []byte("a"), 0o600))
	must(t, os.WriteFile(b, []byte("b"), 0o600))
	for _, c := range [][2]string{{a, b}, {a, main}, {main, a}} {
		wantErr(t, fmt.Sprint("NOREPLACE ", c), rename(c[0], c[1], unix.RENAME_NOREPLACE), syscall.EEXIST)
	}
	must(t, rename(a, b, unix.RENAME_EXCHANGE))
	wantContent(t, a, "b")
	wantContent(t, b, "a")
	must(t, rename(a, main, unix.RENAME_EXCHANGE))
	wantContent(t, a, "main")
	wantContent(t, host, "b")
	must(t, rename(main, b, unix.RENAME_EXCHANGE))
	wantContent(t, b, "b")
	wantContent(t, host, "a")
	wantErr(t, "EXCHANGE with nothing", rename(a, r.in(testApp, "f1", "c"), unix.RENAME_EXCHANGE), syscall.ENOENT)
	wantErr(t, "WHITEOUT", rename(a, b, unix.RENAME_WHITEOUT), syscall.EINVAL)
	must(t, rename(main, r.in(testApp, "f1", "c"), unix.RENAME_NOREPLACE))
	must(t, rename(a, main, unix.RENAME_NOREPLACE))
	wantContent(t, host, "main")
}

func TestTempFilesGoWithTheMount(t *testing.T) {
	r := newRig(t)
	host := r.fileDoc("f1", "text")
	host2 := r.fileDoc("f2", "the only copy")
	must(t, os.WriteFile(r.in(testApp, "f1", "a"), nil, 0o600))
	must(t, os.Rename(r.in(testApp, "f2", "file.txt"), r.in(testApp, "f2", "backup")))
	must(t, r.view.Unmount())
	if got := names(t, filepath.Dir(host)); !slices.Equal(got, []string{"file.txt"}) {
		t.Errorf("left behind: %q", got)
	}
	wantContent(t, host2, "the only copy")
}

func TestTempFilesGoWithTheDocument(t *testing.T) {
	r := newRig(t)
	host := r.fileDoc("f1", "text")
	must(t, os.WriteFile(r.in(testApp, "f1", "a"), nil, 0o600))
	r.docs.remove("f1")
	r.view.Invalidate("f1")
	eventually(t, "the temp file goes", func() bool { return hidden(t, filepath.Dir(host)) == nil })
}

func TestTempFilesOfACrashGoAtTheNextStart(t *testing.T) {
	r := newRig(t)
	host := r.fileDoc("f1", "text")
	host2 := r.fileDoc("f2", "the only copy")
	must(t, r.view.Unmount())
	r.opts.Journal = filepath.Join(t.TempDir(), "journal")
	r.mount()
	must(t, os.WriteFile(r.in(testApp, "f1", "a"), nil, 0o600))
	must(t, os.WriteFile(r.in(testApp, "f1", "b"), nil, 0o600))
	must(t, os.Remove(r.in(testApp, "f1", "b")))
	must(t, os.Rename(r.in(testApp, "f2", "file.txt"), r.in(testApp, "f2", "backup")))
	if got := hidden(t, filepath.Dir(host)); len(got) != 1 {
		t.Fatalf("on the host: %q", got)
	}
	// What the journal says now is what a crash here leaves.
	b, err := os.ReadFile(r.opts.Journal)
	must(t, err)
	copied := filepath.Join(t.TempDir(), "journal")
	b = append(b, "+cut off in the midd"...)
	must(t, os.WriteFile(copied, b, 0o600))
	j, _, err := openJournal(copied, false, testOpener(), func(msg string, args ...any) { t.Error(msg, args) })
	must(t, err)
	j.close()
	if got := names(t, filepath.Dir(host)); !slices.Equal(got, []string{"file.txt"}) {
		t.Errorf("left behind: %q", got)
	}
	wantContent(t, host2, "the only copy")
	if b, _ := os.ReadFile(copied); len(b) != 0 {
		t.Errorf("the journal still says %q", b)
	}
}

func TestJournalLinesOfOthersAreIgnored(t *testing.T) {
	for _, line := range []string{
		"", "\n", "+\n", "+x\n", "+.docportal-000000000000000000000000.tmp\n",
		`+../../../../../../../../../../etc/passwd.tmp "/" "x" false 1 1 0 ""` + "\n",
		`+.docportal-000000000000000000000000.tmp "relative" "x" false 1 1 0 ""` + "\n",
		`+.docportal-000000000000000000000000.tmp "/d" "../x" false 1 1 0 ""` + "\n",
		`+.docportal-000000000000000000000000.tmp "/d" "x" false 1 1 0 ""`,
		`+.docportal-000000000000000000000000.tmp "/d" "x" maybe 1 1 0 ""` + "\n",
		`+.docportal-000000000000000000000000.tmp "/d" "x" false 1 -1 0 ""` + "\n",
	} {
		if _, ok := parseTemp(line); ok {
			t.Errorf("accepted %q", line)
		}
	}
	want := &temp{hidden: hiddenPrefix + strings.Repeat("a", 24) + hiddenSuffix, only: true, doc: &Document{
		Dir: "/a b\n\"c\"\xff", Name: "ä\n", DirID: FileID{Dev: 1, Ino: 2, FSID: 3, Handle: []byte{4, 0, 255}},
	}}
	got, ok := parseTemp(formatTemp(want))
	if !ok || got.hidden != want.hidden || got.only != want.only || got.doc.Dir != want.doc.Dir ||
		got.doc.Name != want.doc.Name || fmt.Sprint(got.doc.DirID) != fmt.Sprint(want.doc.DirID) {
		t.Errorf("%+v %+v, want %+v %+v", got, got.doc, want, want.doc)
	}
}

func TestFileDocumentsHaveNoAttributesToSet(t *testing.T) {
	r := newRig(t)
	host := r.fileDoc("f1", "text")
	for _, name := range []string{"file.txt", "temp"} {
		p := r.in(testApp, "f1", name)
		h, err := os.OpenFile(p, os.O_CREATE|os.O_WRONLY, 0o600)
		must(t, err)
		h.Close()
		wantErr(t, "setxattr "+name, unix.Setxattr(p, "user.x", []byte("y"), 0), syscall.EPERM)
		wantErr(t, "removexattr "+name, unix.Removexattr(p, "user.x"), syscall.EPERM)
	}
	if n, err := unix.Listxattr(host, nil); err == nil && n != 0 {
		t.Errorf("the host's file has %d bytes of attribute names", n)
	}
}

func TestARenameOutOfADocumentIsEXDEV(t *testing.T) {
	r := newRig(t)
	host := r.fileDoc("f1", "text")
	r.fileDoc("f2", "other")
	r.dirDoc("d1")
	r.docs.grant(testApp, "d1", Access{Read: true})
	from := r.in(testApp, "f1", "file.txt")
	for what, to := range map[string]string{
		"the app's directory":          r.in(testApp, "file.txt"),
		"the list of apps":             r.in("", "by-app", "no-app"),
		"the root":                     r.in("", "file.txt"),
		"the same document, otherwise": r.in("", "f1", "other.txt"),
		"another document":             r.in(testApp, "f2", "file.txt"),
		"a directory document":         r.in(testApp, "d1", "tree", "new"),
		"beside a directory document":  r.in(testApp, "d1", "new"),
	} {
		wantErr(t, "to "+what, os.Rename(from, to), syscall.EXDEV)
	}
	wantContent(t, host, "text")
}
