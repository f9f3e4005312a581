package documents

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"docportal/internal/identity"

	"golang.org/x/sys/unix"
)

// adds is how many adds an attack goes on for, and how long at most.
func adds() (n int, limit time.Duration) {
	if os.Getenv("DOCPORTAL_LONG") != "" {
		return 1000000, 15 * time.Minute
	}
	return 1000000, 6 * time.Second
}

// TestNoDocumentNamesAFileThatTheCallerCouldNotHaveOpened: whoever swaps the
// file for a link, its directory for a link to one with another link of the
// same file, or for another directory, and renames the tree, at full speed
// while the file is being added, never makes a document at a place where the
// app has nothing. A million adds with DOCPORTAL_LONG=1.
func TestNoDocumentNamesAFileThatTheCallerCouldNotHaveOpened(t *testing.T) {
	s := newSession(t, options{})
	// The app can write all of home. What it is after is below secret, where
	// the user keeps another link of the app's file, which a program there
	// will replace by something else one day.
	f := s.file("tree/dir/f", "own")
	s.file("other/f", "other")
	dir, tree := filepath.Dir(f), filepath.Join(s.home, "tree")
	secret := filepath.Join(s.secret, "dir/f")
	if err := errors.Join(os.Mkdir(filepath.Dir(secret), 0o700), os.Link(f, secret), os.WriteFile(filepath.Join(s.secret, "f"), []byte("secret"), 0o600)); err != nil {
		t.Fatal(err)
	}
	own := make(map[uint64]bool) // directories that the app has
	for _, d := range []string{dir, filepath.Join(s.home, "other")} {
		id, err := statAt(unix.AT_FDCWD, d, 0)
		if err != nil {
			t.Fatal(err)
		}
		own[id.ino] = true
	}
	a := s.sandboxed(appA, s.withDocuments(appA)...)
	fd, err := unix.Open(f, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	swap := func(name, by string, rename bool) []func() error {
		put := func() error { return os.Symlink(by, name) }
		away := func() error { return os.Remove(name) }
		if rename {
			put = func() error { return os.Rename(by, name) }
			away = func() error { return os.Rename(name, by) }
		}
		return []func() error{
			func() error { return os.Rename(name, name+"-own") }, put,
			away, func() error { return os.Rename(name+"-own", name) },
		}
	}
	var steps []func() error
	steps = append(steps, swap(f, filepath.Join(s.secret, "f"), false)...)
	steps = append(steps, swap(dir, filepath.Dir(secret), false)...)
	steps = append(steps, swap(dir, filepath.Join(s.home, "other"), true)...)
	steps = append(steps, swap(tree, s.secret, false)...)
	stop := make(chan struct{})
	swaps := 0
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			for _, step := range steps {
				if err := step(); err != nil {
					t.Error(err)
					return
				}
				swaps++
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	// What a call does between its message and its answer, as often as it can.
	ctx := context.Background()
	m, err := s.docs.mount(ctx)
	if err != nil {
		t.Fatal(err)
	}
	caller := &identity.Caller{Kind: identity.Flatpak, App: appA}
	ask := addition{flags: addReuse}
	n, limit := adds()
	end := time.Now().Add(limit)
	added, refused := 0, 0
	for i := 0; i < n && (i%100 != 0 || time.Now().Before(end)); i++ {
		v, err := s.docs.check(m, caller, fd, regularFile, true)
		if err != nil {
			refused++
			continue
		}
		p, err := s.docs.placement(caller, v, ask)
		if err != nil {
			t.Fatal(err)
		}
		ids, err := s.docs.placeFor(ctx, caller, []placed{p})
		if err != nil {
			t.Fatal(err)
		}
		d, err := s.docs.get(ids[0])
		if err != nil {
			t.Fatal(err)
		}
		if !own[d.rec.ino] || within(d.rec.path, s.secret) {
			t.Fatalf("a document of %s (%+v)", d.rec.path, d.rec)
		}
		added++
	}
	// And all the way, from a real sandbox that opens what is there.
	shown := 0
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
		r := a.do(request{Method: qualified("AddFull"), Files: []open{{f, 0}}, Args: []any{fdList{0}, uint32(addReuse), "", []string{}}})
		switch r.Error {
		case "":
			shown++
			if got := see(a, filepath.Join(a.doc, r.Body[0].([]string)[0], "f")); got == "secret" {
				t.Fatal("the document shows a file that the app cannot open")
			}
		case invalidArgument, "ENOENT", "ELOOP": // or the app itself met the gap
		default:
			t.Fatal(r)
		}
	}
	close(stop)
	wg.Wait()
	t.Logf("%d swaps, %d added, %d refused, %d shown", swaps, added, refused, shown)
	if added == 0 || refused == 0 || shown == 0 {
		t.Error("the race was not met from both sides")
	}
}

// TestAnotherLinkOfTheFileIsNoWayToItsDirectory is the same trick without the
// race: the parent is a link when the portal looks.
func TestAnotherLinkOfTheFileIsNoWayToItsDirectory(t *testing.T) {
	s := newSession(t, unmounted(newFakeView()))
	f := s.file("dir/sub/f", "own")
	dir := filepath.Join(s.home, "dir")
	secret := filepath.Join(s.secret, "sub/f")
	if err := errors.Join(os.Mkdir(filepath.Dir(secret), 0o700), os.Link(f, secret), os.Rename(dir, dir+"-own"), os.Symlink(s.secret, dir)); err != nil {
		t.Fatal(err)
	}
	id, err := statAt(unix.AT_FDCWD, secret, 0)
	if err != nil {
		t.Fatal(err)
	}
	m, err := s.docs.mount(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if rec, err := s.docs.verifyPath(m, f, id, regularFile); err == nil {
		t.Errorf("%s became %s", f, rec.path)
	}
	if _, err := s.docs.verifyPath(m, filepath.Join(dir+"-own", "sub/f"), id, regularFile); err != nil {
		t.Error(err)
	}
	// Nor is the host's file of the name that a mount of the sandbox has.
	elsewhere := &identity.Caller{Kind: identity.Flatpak, App: appA, Binds: []identity.Bind{{Host: s.home, Sandbox: s.secret}}}
	fd, err := unix.Open(secret, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := s.docs.check(m, elsewhere, fd, regularFile, true); err == nil {
		t.Error("a file that the sandbox's mounts hide")
	}
}

// TestAHomeWithLinksInItsName: the home directory may be reached through a
// link, as where /home is one.
func TestAHomeWithLinksInItsName(t *testing.T) {
	o := unmounted(newFakeView())
	o.tune = func(s *Service) {
		link := s.o.Home + "-link"
		if err := os.Symlink(s.o.Home, link); err != nil {
			t.Fatal(err)
		}
		s.o.Home = link
	}
	s := newSession(t, o)
	f := s.file(".var/app/"+appA+"/data/f", "")
	g := s.file("g", "")
	a := s.sandboxed(appA, "--bind", filepath.Dir(f), "/var/data")
	if got := s.hostPath(s.addFull(a, all, "", nil, open{Path: "/var/data/f"})[0]); got != f+"\x00" {
		t.Errorf("%q", got)
	}
	s.addFull(a, all, "", nil, open{Path: g})
	i := s.instance(appB, []identity.Bind{{Host: s.home + "-link", Sandbox: "/mnt"}})
	defer i.end()
	b := s.sandboxedAs(i.info, "--bind", s.home, "/mnt")
	if got := s.hostPath(s.addFull(b, all, "", nil, open{Path: "/mnt/g"})[0]); got != g+"\x00" {
		t.Errorf("%q", got)
	}
}
