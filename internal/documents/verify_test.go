package documents

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"docportal/internal/bus"
	"docportal/internal/fuse"
	"docportal/internal/identity"
)

// TestDescriptors is the table of descriptors that do not pass, for a host
// caller and an app: one and the same answer for all.
func TestDescriptors(t *testing.T) {
	s := newSession(t, unmounted(newFakeView()))
	a := s.sandboxed(appA)
	f := s.file("f", "")
	link := filepath.Join(s.home, "link")
	fifo := filepath.Join(s.home, "fifo")
	unreadable := s.file("unreadable", "")
	closed := filepath.Join(s.home, "closed")
	if err := errors.Join(
		os.Symlink(f, link), unix.Mkfifo(fifo, 0o600), os.Chmod(unreadable, 0),
		os.Mkdir(closed, 0), os.WriteFile(filepath.Join(s.secret, "secret"), nil, 0o600),
	); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		open open
		dir  bool
	}{
		"write-only":                     {open{f, unix.O_WRONLY}, false},
		"O_PATH with O_NOFOLLOW":         {open{f, unix.O_PATH | unix.O_NOFOLLOW}, false},
		"a link itself":                  {open{link, unix.O_PATH | unix.O_NOFOLLOW}, false},
		"a fifo":                         {open{fifo, unix.O_RDWR}, false},
		"a device":                       {open{"/dev/null", unix.O_RDWR}, false},
		"a directory as a file":          {open{s.home, 0}, false},
		"a file as a directory":          {open{f, 0}, true},
		"not readable":                   {open{unreadable, 0}, false},
		"a directory that is not usable": {open{closed, 0}, true},
		"the root directory":             {open{"/", 0}, true},
	} {
		flags := uint32(all)
		if c.dir {
			flags |= addDirectory
		}
		for who, by := range map[string]caller{"host": s.host, "app": a} {
			r := by.do(request{Method: qualified("AddFull"), Files: []open{c.open}, Args: []any{fdList{0}, flags, "", []string{}}})
			if r.Error != invalidArgument || r.Text != "Invalid fd passed" {
				t.Errorf("%s, %s: %v", name, who, r)
			}
		}
	}
	// Its own root's files are not the host's, whatever their names.
	for _, p := range []string{"/client", "/.flatpak-info"} {
		s.addRefused(a, invalidArgument, all, "", nil, open{p, readOnly})
	}
	if n := s.count(); n != 0 {
		t.Errorf("%d documents", n)
	}
	// One that passes, so that the table means something.
	s.addFull(a, all, "", nil, open{f, unix.O_RDWR})
	s.addFull(s.host, all, "", nil, open{link, 0})
}

// TestDeletedNames: a name that ends like the kernel's remark is judged by
// what it is.
func TestDeletedNames(t *testing.T) {
	s := newSession(t, unmounted(newFakeView()))
	odd := s.file("f (deleted)", "odd")
	if got := s.hostPath(s.addFull(s.host, all, "", nil, open{odd, readOnly})[0]); got != odd+"\x00" {
		t.Errorf("%q", got)
	}
	// A file that is gone, whose path the kernel spells as the other's name.
	gone := s.file("f", "gone")
	fd, err := unix.Open(gone, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := os.Remove(gone); err != nil {
		t.Fatal(err)
	}
	s.addFDRefused(fd)
	if err := os.Remove(odd); err != nil {
		t.Fatal(err)
	}
	s.addFDRefused(fd)
	os.WriteFile(gone, nil, 0o600) // another file of that name does not help
	s.addFDRefused(fd)
	dir := filepath.Join(s.home, "d (deleted)")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if got := s.hostPath(s.addFull(s.host, all|addDirectory, "", nil, open{Path: dir})[0]); got != dir+"\x00" {
		t.Errorf("%q", got)
	}
}

// raw is a client that can send any index.
func (s *session) raw() *bus.Conn {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	c, err := bus.Dial(ctx, s.address, bus.Options{})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	return c
}

// addRaw calls AddFull with the test's own descriptors and the indexes.
func (s *session) addRaw(c *bus.Conn, flags uint32, fds []int, indexes ...bus.FD) ([]string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	var files []*os.File
	for _, fd := range fds {
		n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			s.t.Fatal(err)
		}
		f := os.NewFile(uintptr(n), "")
		defer f.Close()
		files = append(files, f)
	}
	var ids []string
	var extra map[string]bus.Value
	_, err := c.CallFiles(ctx, Name, Path, strings.TrimSuffix(documentsInterface, "."), "AddFull", "ahusas",
		[]any{indexes, flags, "", []string{}}, files, &ids, &extra)
	return ids, err
}

func (s *session) addFDRefused(fd int) {
	s.t.Helper()
	if _, err := s.addRaw(s.raw(), all, []int{fd}, 0); !isInvalidFD(err) {
		s.t.Errorf("%v, want Invalid fd passed", err)
	}
}

func isInvalidFD(err error) bool {
	var e *bus.Error
	return errors.As(err, &e) && e.Name == invalidArgument
}

// TestBadIndex: an index without a descriptor is answered at once.
func TestBadIndex(t *testing.T) {
	s := newSession(t, unmounted(newFakeView()))
	c := s.raw()
	fd, err := unix.Open(s.file("f", ""), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	minusOne := bus.FD(0xffffffff)
	for _, x := range []struct {
		fds     []int
		indexes []bus.FD
	}{{nil, []bus.FD{0}}, {[]int{fd}, []bus.FD{1}}, {[]int{fd}, []bus.FD{minusOne}}, {[]int{fd}, []bus.FD{0, 7}}} {
		if ids, err := s.addRaw(c, all, x.fds, x.indexes...); !isInvalidFD(err) {
			t.Errorf("%v: %v, %v", x.indexes, ids, err)
		}
	}
	if n := s.count(); n != 0 {
		t.Errorf("%d documents", n)
	}
	if ids, err := s.addRaw(c, all, []int{fd}, 0, 0); err != nil || ids[0] != ids[1] {
		t.Error("the same descriptor twice: ", ids, err)
	}
	// Any number of times is too often.
	if ids, err := s.addRaw(c, all, []int{fd}, make([]bus.FD, maxFDs)...); err != nil || len(ids) != maxFDs || ids[0] != ids[maxFDs-1] {
		t.Error("the same descriptor many times: ", len(ids), err)
	}
	if ids, err := s.addRaw(c, 0, []int{fd}, make([]bus.FD, maxFDs+1)...); !isInvalidFD(err) {
		t.Error("the same descriptor too many times: ", len(ids), err)
	}
	if n := s.count(); n != 1 {
		t.Errorf("%d documents", n)
	}
}

// TestSlowDescriptor: a descriptor that takes for ever to verify delays no
// other call, not even its own caller's, and not the end.
func TestSlowDescriptor(t *testing.T) {
	stuck := &stuckView{newFakeView(), 0, make(chan struct{}, 1)}
	slow, err := os.CreateTemp("/dev/shm", "docportal-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(slow.Name())
	defer slow.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(slow.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	stuck.dev = st.Dev
	s := newSession(t, options{mount: func(*session, string, fuse.Documents) (View, error) { return stuck, nil }})
	answered := make(chan response, 1)
	go func() {
		answered <- s.host.do(request{Method: qualified("AddFull"), Files: []open{{Path: slow.Name()}}, Args: []any{fdList{0}, uint32(all), "", []string{}}})
	}()
	<-stuck.asked
	start := time.Now()
	for i, flags := range []uint32{all, addReuse, addPersistent, 0} {
		id := s.addFull(s.host, flags, appA, everything, open{Path: s.file(fmt.Sprint("f", i), "")})[0]
		s.must(s.host, "RevokePermissions", nil, id, appA, []string{"write"})
		s.docs.Document(appA, id)
		s.must(s.host, "Delete", nil, id)
	}
	s.count()
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("other calls took %v", took)
	}
	stuck.Unmount()
	if r := <-answered; r.Error != invalidArgument {
		t.Error(r)
	}
}

// TestAllOrNothing: one bad descriptor and none of the others is a document.
func TestAllOrNothing(t *testing.T) {
	s := newSession(t, unmounted(newFakeView()))
	good, bad := open{Path: s.file("f", "")}, open{Path: "/dev/null"}
	for _, files := range [][]open{{good, bad}, {bad, good}, {good, good, bad}} {
		for _, flags := range []uint32{all, addReuse, addPersistent, 0} {
			list := fdList{}
			for i := range files {
				list = append(list, int32(i))
			}
			s.refused(s.host, invalidArgument, "AddFull", files, list, flags, appA, []string{"read"})
		}
	}
	a := s.sandboxed(appA)
	s.refused(a, notAllowed, "AddFull", []open{{good.Path, unix.O_RDWR}, {good.Path, readOnly}}, fdList{0, 1}, uint32(0), appB, []string{"write"})
	if n := s.count(); n != 0 {
		t.Errorf("%d documents", n)
	}
}

// TestReadOnlyBind: what a sandbox has read-only is not writable, though the
// user could write it.
func TestReadOnlyBind(t *testing.T) {
	s := newSession(t, unmounted(newFakeView()))
	f := s.file("ro/f", "")
	dir := filepath.Dir(f)
	a := s.sandboxed(appA, "--ro-bind", dir, dir)
	s.addRefused(a, notAllowed, all, appB, []string{"write"}, open{Path: f})
	id := s.addFull(a, all, "", nil, open{Path: f})[0]
	s.wantPermissions(id, map[string][]string{appA: {"read", "grant-permissions"}})
	id = s.addFull(a, all|addDirectory, "", nil, open{Path: dir})[0]
	s.wantPermissions(id, map[string][]string{appA: {"read", "grant-permissions"}})
	rw := filepath.Dir(s.file("rw/f", ""))
	id = s.addFull(a, all|addDirectory, "", nil, open{Path: rw})[0]
	s.wantPermissions(id, map[string][]string{appA: {"read", "write", "grant-permissions"}})
}

// TestCoveredDirectory: a document shows a directory as the host has it, so an
// app gets none where its sandbox covers a part of the directory, and none for
// writing where a part of it is read-only for the app.
func TestCoveredDirectory(t *testing.T) {
	s := newSession(t, unmounted(newFakeView()))
	dir := filepath.Dir(s.file("dir/f", ""))
	sub := filepath.Dir(s.file("dir/deep/sub/f", ""))
	other := filepath.Dir(s.file("other/f", ""))
	for name, c := range map[string]struct {
		bind  identity.Bind
		perms []string // nil: refused
	}{
		"nothing special": {identity.Bind{Host: sub, Sandbox: sub}, []string{"read", "write", "grant-permissions"}},
		"read-only":       {identity.Bind{ReadOnly: true, Host: sub, Sandbox: sub}, []string{"read", "grant-permissions"}},
		"masked":          {identity.Bind{ReadOnly: true, Host: "/dev/null", Sandbox: sub}, nil},
		"something else":  {identity.Bind{Host: other, Sandbox: sub}, nil},
		"beside it":       {identity.Bind{Host: other, Sandbox: dir + "-beside"}, []string{"read", "write", "grant-permissions"}},
	} {
		id := s.instance(appA, []identity.Bind{{Host: s.home, Sandbox: s.home}, c.bind})
		a := s.sandboxedAs(id.info)
		if c.perms == nil {
			s.addRefused(a, invalidArgument, all|addDirectory, "", nil, open{Path: dir})
			r := addFiles(a, s.startTransfer(a, nil), open{Path: dir})
			if r.Error != invalidArgument {
				t.Errorf("%s: a transfer: %v", name, r)
			}
		} else {
			doc := s.addFull(a, all|addDirectory, "", nil, open{Path: dir})[0]
			s.wantPermissions(doc, map[string][]string{appA: c.perms})
			s.must(s.host, qualified("Delete"), nil, doc)
		}
		id.end()
	}
}

// TestReservedPlaces: no app makes a document of a directory in which lies what
// is in no sandbox, be it there or not: through it commands could be planted
// that start outside. The host may.
func TestReservedPlaces(t *testing.T) {
	s := newSession(t, unmounted(newFakeView()))
	for _, name := range []string{"", ".config", ".local", ".local/share", ".var"} {
		dir := filepath.Join(s.home, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		s.addRefused(s.sandboxed(appA), invalidArgument, all|addDirectory, "", nil, open{Path: dir})
		s.addFull(s.host, all|addDirectory, "", nil, open{Path: dir})
	}
	dir := filepath.Dir(s.file(".config/"+appA+"/f", ""))
	s.addFull(s.sandboxed(appA), all|addDirectory, "", nil, open{Path: dir})
}

// TestAnotherAtThatPath: what the host has at the path of a sandbox's file or
// directory is another one.
func TestAnotherAtThatPath(t *testing.T) {
	s := newSession(t, unmounted(newFakeView()))
	own, covered := filepath.Dir(s.file("own/f", "")), filepath.Dir(s.file("covered/f", ""))
	a := s.sandboxed(appA, "--bind", own, covered)
	s.addRefused(a, invalidArgument, all, "", nil, open{Path: filepath.Join(covered, "f")})
	s.addRefused(a, invalidArgument, all|addDirectory, "", nil, open{Path: covered})
	s.addFull(a, all, "", nil, open{Path: filepath.Join(own, "f")})
	s.addFull(a, all|addDirectory, "", nil, open{Path: own})
}

// TestMountReachedOtherwise: a directory that contains the mountpoint is
// refused by what it is, by whatever name it came.
func TestMountReachedOtherwise(t *testing.T) {
	dir := t.TempDir()
	id, err := statAt(unix.AT_FDCWD, dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	other, err := statAt(unix.AT_FDCWD, filepath.Dir(dir), 0)
	if err != nil {
		t.Fatal(err)
	}
	m := &mounted{view: newFakeView(), real: "/run/user/1000/doc", ancestors: []fileID{id}}
	if m.refuse(id, dir) == nil {
		t.Error("an ancestor by identity")
	}
	if m.refuse(other, "/run/user") == nil {
		t.Error("an ancestor by name")
	}
	if err := m.refuse(other, "/run/user/1000/documents"); err != nil {
		t.Error(err)
	}
}

// TestMovedBind: a directory that the sandbox has elsewhere is found by the
// mounts that its launcher recorded, and only by those that are true.
func TestMovedBind(t *testing.T) {
	s := newSession(t, unmounted(newFakeView()))
	f := s.file("data/f", "")
	s.file("decoy/f", "")
	inside := "/elsewhere"
	bind := func(host string) []identity.Bind { return []identity.Bind{{Host: host, Sandbox: inside}} }
	for name, c := range map[string]struct {
		binds []identity.Bind
		ok    bool
	}{
		"true":     {bind(filepath.Dir(f)), true},
		"false":    {bind(filepath.Join(s.home, "decoy")), false},
		"none":     {nil, false},
		"nonsense": {bind(filepath.Join(s.home, "not-there")), false},
	} {
		id := s.instance(appA, c.binds)
		a := s.sandboxedAs(id.info, "--bind", filepath.Dir(f), inside)
		r := a.do(request{Method: qualified("AddFull"), Files: []open{{inside + "/f", unix.O_RDWR}}, Args: []any{fdList{0}, uint32(all), "", []string{}}})
		if ok := r.Error == ""; ok != c.ok {
			t.Errorf("%s: %v", name, r)
		} else if ok && s.hostPath(r.Body[0].([]string)[0]) != f+"\x00" {
			t.Errorf("%s: %s", name, s.hostPath(r.Body[0].([]string)[0]))
		}
		id.end()
	}
}

// liveInstance is an instance directory as sbx-run makes it.
type liveInstance struct {
	info string // the metadata
	end  func()
}

// instance makes a live instance of an app.
func (s *session) instance(app string, binds []identity.Bind) liveInstance {
	t := s.t
	t.Helper()
	id := "sbx-0123abcd"
	dir := filepath.Join(s.runtime, ".flatpak", id)
	list, err := identity.EncodeBinds(binds)
	if err != nil {
		t.Fatal(err)
	}
	info := "[Application]\nname=" + app + "\n\n[Instance]\ninstance-id=" + id + "\n"
	if err := errors.Join(
		os.MkdirAll(dir, 0o755),
		os.WriteFile(filepath.Join(dir, "info"), []byte(info), 0o644),
		os.WriteFile(filepath.Join(dir, "binds"), list, 0o644),
	); err != nil {
		t.Fatal(err)
	}
	ref, err := os.OpenFile(filepath.Join(dir, ".ref"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	lock := unix.Flock_t{Type: unix.F_RDLCK}
	if err := unix.FcntlFlock(ref.Fd(), unix.F_OFD_SETLK, &lock); err != nil {
		t.Fatal(err)
	}
	return liveInstance{info, func() {
		ref.Close()
		os.RemoveAll(dir)
	}}
}

// TestAsNeeded: "" for what the target's running sandboxes have at its place.
func TestAsNeeded(t *testing.T) {
	s := newSession(t, unmounted(newFakeView()))
	ro, rw, moved, other := s.file("ro/f", ""), s.file("rw/f", ""), s.file("moved/f", ""), s.file("other/f", "")
	hidden := s.file("rw/hidden/f", "")
	needed := func(p string, target string, flags uint32, perms ...string) bool {
		t.Helper()
		return s.addFull(s.host, all|flags, target, perms, open{Path: p})[0] != ""
	}
	if !needed(rw, appA, addAsNeeded, "read") {
		t.Error("no sandbox runs")
	}
	i := s.instance(appA, []identity.Bind{
		{ReadOnly: true, Host: filepath.Dir(ro), Sandbox: filepath.Dir(ro)},
		{Host: filepath.Dir(rw), Sandbox: filepath.Dir(rw)},
		{Host: filepath.Dir(moved), Sandbox: "/moved"},
		{Host: filepath.Dir(other), Sandbox: filepath.Dir(hidden)},
	})
	defer i.end()
	for _, c := range []struct {
		path   string
		target string
		flags  uint32
		perms  []string
		want   bool
	}{
		{ro, appA, addAsNeeded, []string{"read"}, false},
		{ro, appA, addAsNeeded, []string{"read", "write"}, true},
		{rw, appA, addAsNeeded, []string{"read", "write"}, false},
		{rw, appA, 0, []string{"read"}, true},
		{rw, appB, addAsNeeded, []string{"read"}, true},
		{rw, "", addAsNeeded, nil, true},
		{moved, appA, addAsNeeded, []string{"read"}, true},
		{other, appA, addAsNeeded, []string{"read"}, true},
		{hidden, appA, addAsNeeded, []string{"read"}, true},
	} {
		if got := needed(c.path, c.target, c.flags, c.perms...); got != c.want {
			t.Errorf("%s for %q, flags %d, %v: a document %v, want %v", c.path, c.target, c.flags, c.perms, got, c.want)
		}
	}
	got := s.must(s.host, "AddNamedFull", []open{{Path: filepath.Dir(rw)}}, fdIndex(0), []byte("new"), uint32(all|addAsNeeded), appA, []string{"write"})
	if got[0] != "" {
		t.Error("AddNamedFull: ", got)
	}
	if apps := s.docs.Apps(); !slices.Contains(apps, appA) {
		t.Error("a running app is not listed: ", apps)
	}
}
