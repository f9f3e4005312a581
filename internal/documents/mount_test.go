package documents

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"docportal/internal/fuse"
)

// The tests of this file are on a real mount.

// see is what a caller finds at a path: its text, or the errno's name.
func see(c caller, p string) string {
	r := c.do(request{Method: "read", Args: []any{p}})
	if r.Error != "" {
		return r.Error
	}
	return r.Body[0].(string)
}

func TestFirstWholePath(t *testing.T) {
	s := newSession(t, options{})
	a := s.sandboxed(appA, s.withDocuments(appA)...)
	b := s.sandboxed(appB, s.withDocuments(appB)...)
	f := filepath.Join(s.secret, "f")
	if err := os.WriteFile(f, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	write := func(c caller, p, text string) string {
		return c.do(request{Method: "write", Args: []any{p, text}}).Error
	}
	for _, flags := range []uint32{all, addReuse} {
		id := s.addFull(s.host, flags, appA, []string{"read"}, open{Path: f})[0]
		p := filepath.Join(a.doc, id, "f")
		if got := see(a, f); got != "ENOENT" {
			t.Error("the file itself is in the sandbox: ", got)
		}
		if got := see(a, p); got != "text" {
			t.Error("read: ", got)
		}
		if got := write(a, p, "x"); got != "EACCES" {
			t.Error("write without the permission: ", got)
		}
		if got := see(b, p); got != "ENOENT" {
			t.Error("another app: ", got)
		}
		if got := see(s.host, p); got != "text" {
			t.Error("the host's view: ", got)
		}
		s.must(s.host, "GrantPermissions", nil, id, appA, []string{"write"})
		if got := write(a, p, "new"); got != "" {
			t.Error("write with the permission: ", got)
		}
		if got, _ := os.ReadFile(f); string(got) != "new" {
			t.Errorf("written through the view: %q", got)
		}
		s.must(s.host, "RevokePermissions", nil, id, appA, []string{"write"})
		if got := write(a, p, "x"); got != "EACCES" {
			t.Error("write after it was taken away: ", got)
		}
		s.must(s.host, "Delete", nil, id)
		if got := see(a, p); got != "ENOENT" {
			t.Error("after Delete: ", got)
		}
		os.WriteFile(f, []byte("text"), 0o600)
	}
}

// TestOnMount is rule 5: descriptors of the portal's own files.
func TestOnMount(t *testing.T) {
	s := newSession(t, options{})
	a := s.sandboxed(appA, s.withDocuments(appA)...)
	doc := s.mountPoint()
	for _, flags := range []uint32{all, addReuse} {
		id := s.addFull(s.host, flags, "", nil, open{Path: s.file("f", "text")})[0]
		host, app := open{Path: filepath.Join(doc, id, "f")}, open{Path: filepath.Join(a.doc, id, "f")}
		path := filepath.Join(a.doc, id, "f")
		add := func(want, target string, perms []string, f open, more uint32) {
			t.Helper()
			r := s.addOnMount(a, more, target, perms, f)
			if want != r.Error {
				t.Errorf("error %q (%s), want %q", r.Error, r.Text, want)
			} else if want == "" && r.Body[0].([]string)[0] != id {
				t.Errorf("%v, want the same id", r.Body)
			}
		}
		if got := s.addFull(s.host, addReuse, appA, []string{"read"}, host)[0]; got != id {
			t.Error("the host: another id")
		}
		if _, err := os.Stat(host.Path); err != nil {
			t.Fatal(err)
		}
		s.addRefused(s.host, invalidArgument, addPersistent, "", nil, host) // not reuse
		s.wantPermissions(id, map[string][]string{appA: {"read"}})

		add("", "", nil, app, addReuse)
		add("", "", nil, open{path, readOnly}, addReuse)
		add(invalidArgument, "", nil, app, 0)
		s.wantPermissions(id, map[string][]string{appA: {"read"}})
		add(notAllowed, appB, []string{"read"}, app, addReuse)  // no grant-permissions
		add(notAllowed, appA, []string{"write"}, app, addReuse) // read-only stays it
		s.must(s.host, "GrantPermissions", nil, id, appA, []string{"grant-permissions"})
		add(notAllowed, appB, []string{"read", "write"}, app, addReuse)
		add(notAllowed, appA, []string{"write"}, app, addReuse)
		add(notAllowed, appB, []string{"delete"}, app, addReuse)
		add("", appB, []string{"read"}, app, addReuse)
		s.wantPermissions(id, map[string][]string{appA: {"read", "grant-permissions"}, appB: {"read"}})
		s.must(s.host, "GrantPermissions", nil, id, appA, []string{"write"})
		add(notAllowed, appB, []string{"write"}, open{path, readOnly}, addReuse)
		add("", appB, []string{"write"}, open{path, unix.O_RDWR}, addReuse)
		s.wantPermissions(id, map[string][]string{appA: {"read", "grant-permissions", "write"}, appB: {"read", "write"}})

		if got := s.must(s.host, "Lookup", nil, []byte(host.Path))[0]; got != id {
			t.Errorf("Lookup on the mount: %v", got)
		}
		if got := s.must(s.host, "Lookup", nil, []byte(doc))[0]; got != "" {
			t.Errorf("Lookup of the mount: %v", got)
		}
		// A document that is gone is none, though its file is still open.
		fd, err := unix.Open(host.Path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		s.must(s.host, "Delete", nil, id)
		s.addFDRefused(fd)
		unix.Close(fd)
	}
}

// TestBorrowedDescriptor: an app that got hold of another's descriptor gets
// nothing by it.
func TestBorrowedDescriptor(t *testing.T) {
	s := newSession(t, options{})
	id := s.addFull(s.host, all, appA, everything, open{Path: s.file("f", "")})[0]
	doc := filepath.Join(s.runtime, "doc")
	b := s.sandboxed(appB, "--bind", filepath.Join(doc, "by-app", appA), doc)
	f := open{filepath.Join(doc, id, "f"), unix.O_RDWR}
	if r := s.addOnMount(b, addReuse, "", nil, f); r.Error != invalidArgument {
		t.Error("without any permission: ", r)
	}
	dir := s.addFull(s.host, all|addDirectory, appA, everything, open{Path: s.home})[0]
	if r := s.addOnMount(b, addReuse, "", nil, open{filepath.Join(doc, dir, "home", "f"), readOnly}); r.Error != invalidArgument {
		t.Error("a file in a directory, without any permission: ", r)
	}
	s.must(s.host, "GrantPermissions", nil, id, appB, []string{"read", "grant-permissions"})
	if r := s.addOnMount(b, addReuse, appB, []string{"write"}, f); r.Error != notAllowed {
		t.Error("more than it has itself: ", r)
	}
	if r := s.addOnMount(b, addReuse, "", nil, f); r.Error != "" || r.Body[0].([]string)[0] != id {
		t.Error(r)
	}
	s.wantPermissions(id, map[string][]string{appA: everything, appB: {"read", "grant-permissions"}})
}

// TestAtTheSameTime: the same file added by many at once is one document, and
// all of them get what they asked for.
func TestAtTheSameTime(t *testing.T) {
	s := newSession(t, unmounted(newFakeView()))
	for _, flags := range []uint32{addReuse, all} {
		f := open{Path: s.file(fmt.Sprint("f", flags), "")}
		ids := make([]string, 20)
		var wg sync.WaitGroup
		for i := range ids {
			wg.Go(func() {
				r := s.addOnMount(s.host, flags, fmt.Sprintf("org.example.N%d", i), []string{"read"}, f)
				if r.Error != "" {
					t.Error(r)
					return
				}
				ids[i] = r.Body[0].([]string)[0]
			})
		}
		wg.Wait()
		for _, id := range ids {
			if id != ids[0] {
				t.Fatal("several documents of one file: ", ids)
			}
		}
		if n := len(s.permissions(ids[0])); n != len(ids) {
			t.Errorf("%d of %d apps were granted", n, len(ids))
		}
	}
}

func (s *session) addOnMount(c caller, flags uint32, target string, perms []string, f open) response {
	if perms == nil {
		perms = []string{}
	}
	return c.do(request{Method: qualified("AddFull"), Files: []open{f}, Args: []any{fdList{0}, flags, target, perms}})
}

// TestInsideDirectoryDocument: a file there becomes a document of its real
// path, with no more than the app has there.
func TestInsideDirectoryDocument(t *testing.T) {
	s := newSession(t, options{})
	a := s.sandboxed(appA, s.withDocuments(appA)...)
	f := filepath.Join(s.secret, "d", "sub", "f")
	if err := os.MkdirAll(filepath.Dir(f), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	id := s.addFull(s.host, all|addDirectory, appA, []string{"read"}, open{Path: filepath.Join(s.secret, "d")})[0]
	doc := filepath.Join(a.doc, id, "d")

	if got := s.addFull(a, all|addDirectory, "", nil, open{Path: doc})[0]; got != id {
		t.Error("the directory itself: another id")
	}
	if got := s.addOnMount(a, all|addDirectory, "", nil, open{Path: filepath.Join(a.doc, id)}); got.Error == "" && got.Body[0].([]string)[0] != id {
		t.Error("the directory above it: ", got)
	}
	inner := s.addFull(a, all, "", nil, open{Path: filepath.Join(doc, "sub", "f")})[0]
	if got := s.hostPath(inner); got != f+"\x00" {
		t.Errorf("%q", got)
	}
	s.wantPermissions(inner, map[string][]string{appA: {"read"}})
	if got := see(a, filepath.Join(a.doc, inner, "f")); got != "" {
		t.Error(got)
	}
	r := s.addOnMount(a, all, appB, []string{"read"}, open{Path: filepath.Join(doc, "sub", "f")})
	if r.Error != notAllowed {
		t.Error("passed on without grant-permissions: ", r)
	}
	s.must(s.host, "GrantPermissions", nil, id, appA, []string{"write", "grant-permissions"})
	sub := s.addFull(a, all|addDirectory, appB, []string{"read", "write"}, open{Path: filepath.Join(doc, "sub")})[0]
	if got := s.hostPath(sub); got != filepath.Dir(f)+"\x00" {
		t.Errorf("%q", got)
	}
	s.wantPermissions(sub, map[string][]string{appA: {"read", "write", "grant-permissions"}, appB: {"read", "write"}})
	if host := s.addFull(s.host, all, "", nil, open{Path: filepath.Join(doc, "sub", "f")})[0]; host != inner {
		t.Error("the host: another id")
	}
}

// TestNeverThePortal is rule 6.
func TestNeverThePortal(t *testing.T) {
	s := newSession(t, options{})
	doc := s.mountPoint()
	id := s.addFull(s.host, all, appA, []string{"read"}, open{Path: s.file("f", "")})[0]
	link := filepath.Join(s.home, "link")
	if err := os.Symlink(s.dir, link); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{
		doc, s.runtime, s.dir, filepath.Dir(s.dir), "/", link,
		filepath.Join(doc, "by-app"), filepath.Join(doc, "by-app", appA), filepath.Join(doc, id),
	} {
		s.addRefused(s.host, invalidArgument, all|addDirectory, "", nil, open{Path: p})
	}
	for _, p := range []string{doc, filepath.Join(doc, id), filepath.Join(doc, "by-app")} {
		s.refused(s.host, invalidArgument, "AddNamed", []open{{Path: p}}, fdIndex(0), []byte("x"), true, true)
	}
	// Beside it is allowed.
	s.addFull(s.host, all|addDirectory, "", nil, open{Path: s.home})
	s.must(s.host, "AddNamed", []open{{Path: s.runtime}}, fdIndex(0), []byte("x"), true, true)
}

// TestOneMount: calls at the same time share one attempt to mount, and the
// permission store needs none.
func TestOneMount(t *testing.T) {
	var mounts atomic.Int32
	s := newSession(t, options{mount: func(s *session, dir string, docs fuse.Documents) (View, error) {
		mounts.Add(1)
		return fuse.Mount(dir, docs, fuse.Options{Log: s.docs.log})
	}})
	s.count()
	if n := mounts.Load(); n != 0 {
		t.Errorf("%d mounts for List", n)
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			r := s.host.do(request{Method: qualified("GetMountPoint")})
			if r.Error != "" {
				t.Error(r)
				return
			}
			if _, err := os.ReadDir(strings.TrimSuffix(string(r.Body[0].([]byte)), "\x00")); err != nil {
				t.Error("answered before the mount: ", err)
			}
		})
	}
	wg.Wait()
	if n := mounts.Load(); n != 1 {
		t.Errorf("%d mounts, want 1", n)
	}
}

// TestUnmountedBySomebodyElse: it is there again, in place.
func TestUnmountedBySomebodyElse(t *testing.T) {
	mounts := make(chan View, 10)
	s := newSession(t, options{mount: func(s *session, dir string, docs fuse.Documents) (View, error) {
		v, err := fuse.Mount(dir, docs, fuse.Options{Log: s.docs.log})
		if err == nil {
			mounts <- v
		}
		return v, err
	}})
	doc := s.mountPoint()
	<-mounts
	id := s.addFull(s.host, addReuse, "", nil, open{Path: s.file("f", "text")})[0]
	run(t, "fusermount3", "-u", "-z", doc)
	select {
	case <-mounts:
	case <-time.After(deadline):
		t.Fatal("not mounted again")
	}
	if got := see(s.host, filepath.Join(doc, id, "f")); got != "text" {
		t.Error(got)
	}
	if got := s.mountPoint(); got != doc {
		t.Error(got)
	}
}

// TestNoRemount: it stays away, if so wished, until the next call.
func TestNoRemount(t *testing.T) {
	mounts := make(chan View, 10)
	o := options{mount: func(s *session, dir string, docs fuse.Documents) (View, error) {
		v := newFakeView()
		mounts <- v
		return v, nil
	}}
	o.tune = func(s *Service) { s.o.NoRemount = true }
	s := newSession(t, o)
	s.mountPoint()
	v := <-mounts
	v.Unmount()
	s.count()
	select {
	case <-mounts:
		t.Error("mounted again")
	case <-time.After(100 * time.Millisecond):
	}
	s.mountPoint()
	if len(mounts) != 1 {
		t.Error("not mounted by the next call")
	}
}

// TestByAppListsWhoHasADocumentOrRuns: and knows every other app that is asked
// for.
func TestByAppListsWhoHasADocumentOrRuns(t *testing.T) {
	s := newSession(t, options{})
	byApp := filepath.Join(s.mountPoint(), "by-app")
	want := func(what string, apps ...string) {
		t.Helper()
		var got []string
		entries, err := os.ReadDir(byApp)
		for _, e := range entries {
			got = append(got, e.Name())
		}
		if err != nil || !slices.Equal(got, apps) {
			t.Errorf("%s: %q %v, want %q", what, got, err, apps)
		}
	}
	want("at first")
	id := s.addFull(s.host, all, appA, []string{"read"}, open{Path: s.file("f", "")})[0]
	s.must(s.host, "GrantPermissions", nil, id, "org.example.C", []string{"write"})
	want("with a document that may be read", appA)
	i := s.instance(appB, nil)
	want("and an instance", appA, appB)
	// Its lock is let go, but nobody has tidied up.
	if err := os.Rename(filepath.Join(s.runtime, ".flatpak", "sbx-0123abcd"), filepath.Join(s.runtime, ".flatpak", "kept")); err != nil {
		t.Fatal(err)
	}
	i.end()
	if err := os.Rename(filepath.Join(s.runtime, ".flatpak", "kept"), filepath.Join(s.runtime, ".flatpak", "sbx-0123abcd")); err != nil {
		t.Fatal(err)
	}
	want("without its lock", appA)
	s.must(s.host, "RevokePermissions", nil, id, appA, []string{"read"})
	want("after it was taken away")
	for name, there := range map[string]bool{appB: true, "org.example.Never": true, "nodots": false, "a..b": false, "x y.z": false} {
		if _, err := os.Stat(filepath.Join(byApp, name)); (err == nil) != there {
			t.Errorf("by-app/%s: %v", name, err)
		}
	}
	want("after the look-ups")
}
