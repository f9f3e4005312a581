package documents

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"docportal/internal/identity"

	"golang.org/x/sys/unix"
)

// places is a user's session of directories, for what needs no bus.
type places struct {
	t                        *testing.T
	home, run, system, etc   string
	user, profiles, snapFile string
	s                        *Service
}

func newPlaces(t *testing.T) *places {
	t.Helper()
	dir := t.TempDir()
	p := &places{t: t, home: filepath.Join(dir, "home"), run: filepath.Join(dir, "run"), system: filepath.Join(dir, "system"), etc: filepath.Join(dir, "etc")}
	p.user = filepath.Join(p.home, ".local/share/flatpak")
	p.profiles = filepath.Join(p.home, ".config/sbx/profiles")
	p.snapFile = filepath.Join(dir, "snap")
	for _, d := range []string{p.home, p.run, p.system, p.etc} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	p.s = New(Options{
		Home: p.home, RuntimeDir: p.run, Snap: p.snapFile,
		ProfileDirs: []string{p.etc, p.profiles},
		Env:         func(name string) string { return map[string]string{"FLATPAK_SYSTEM_DIR": p.system}[name] },
	})
	return p
}

func (p *places) write(name, text string) string {
	p.t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o700); err != nil {
		p.t.Fatal(err)
	}
	return name
}

func (p *places) fs(name, words string) {
	p.t.Helper()
	p.write(name, "[Application]\nname="+appA+"\n[Context]\nfilesystems="+words+"\n")
}

// reach asks what appA reaches, the way a call does.
func (p *places) reach(app, file string) reach {
	p.t.Helper()
	for _, r := range []struct {
		perms perm
		reach reach
	}{{permRead | permWrite, readWriteReach}, {permRead, readOnlyReach}} {
		n := p.s.asNeeded(context.Background(), addition{flags: addAsNeeded, target: app, perms: r.perms})
		ok := n.reaches(&record{path: file})
		n.close()
		if ok {
			return r.reach
		}
	}
	return hidden
}

const flatpakMetadata = "app/" + appA + "/current/active/metadata"

// TestAsNeededFromFlatpakMetadataAndOverrides is the table of flatpak's words,
// in metadata and in each of the four overrides.
func TestAsNeededFromFlatpakMetadataAndOverrides(t *testing.T) {
	no, ro, rw := hidden, readOnlyReach, readWriteReach
	const userDirsFile = "XDG_DOWNLOAD_DIR=\"$HOME/Loads\"\nXDG_MUSIC_DIR=\"$HOME/\"\nXDG_VIDEOS_DIR=\"$HOME/V \\\"x\\\"\"\n"
	for _, c := range []struct {
		metadata, sysGlobal, sys, userGlobal, user string // filesystems
		file                                       string // ~ is the home directory, $ the runtime directory
		want                                       reach
	}{
		{"", "", "", "", "", "~/f", no},
		{"host;", "", "", "", "", "~/f", rw},
		{"host:ro;", "", "", "", "", "~/f", ro},
		{"host;", "", "", "", "", "/srv/f", rw},
		{"host;", "", "", "", "", "/usr/share/f", no},
		{"host;", "", "", "", "", "/etc/f", no},
		{"host;", "", "", "", "", "/run/f", no},
		{"host;", "", "", "", "", "/var/lib/f", no},
		{"host;", "", "", "", "", "$/f", no},
		{"host-os;host-etc;", "", "", "", "", "/usr/share/f", no},
		{"home;", "", "", "", "", "~/d/f", rw},
		{"home;", "", "", "", "", "/srv/f", no},
		{"~;", "", "", "", "", "~/d/f", rw},
		{"home:ro;", "", "", "", "", "~/d/f", ro},
		{"home:rw;", "", "", "", "", "~/d/f", rw},
		{"home:create;", "", "", "", "", "~/d/f", rw},
		{"home:strange;", "", "", "", "", "~/d/f", no},
		{"home/d;", "", "", "", "", "~/d/f", rw},
		{"~/d;", "", "", "", "", "~/d/f", rw},
		{"~/d;", "", "", "", "", "~/dd/f", no},
		{"~/d;", "", "", "", "", "~/f", no},
		{"~/not-there;", "", "", "", "", "~/not-there/f", no},
		{"~/link;", "", "", "", "", "~/d/f", rw}, // link leads to d
		{"home;~/d:ro;", "", "", "", "", "~/d/f", ro},
		{"home:ro;~/d;", "", "", "", "", "~/d/f", rw},
		{"home;!~/d;", "", "", "", "", "~/d/f", no},
		{"home;!~/link;", "", "", "", "", "~/d/f", no},
		{"/srv;", "", "", "", "", "/srv/f", rw},
		{"/srv/:ro;", "", "", "", "", "/srv/f", ro},
		{"/usr;/;/etc;", "", "", "", "", "/usr/f", no},
		{"xdg-download;", "", "", "", "", "~/Loads/f", rw},
		{"xdg-download:ro;", "", "", "", "", "~/Loads/f", ro},
		{"xdg-download/sub;", "", "", "", "", "~/Loads/sub/f", rw},
		{"xdg-download/sub;", "", "", "", "", "~/Loads/f", no},
		{"xdg-videos;", "", "", "", "", `~/V "x"/f`, rw},
		{"xdg-music;", "", "", "", "", "~/f", no}, // not set up: never the home
		{"xdg-pictures;", "", "", "", "", "~/f", no},
		{"xdg-config/thing;", "", "", "", "", "~/.config/thing/f", rw},
		{"xdg-data/thing:ro;", "", "", "", "", "~/.local/share/thing/f", ro},
		{"xdg-cache;", "", "", "", "", "~/.cache/f", rw},
		{"xdg-run/thing;", "", "", "", "", "$/thing/f", rw},
		{"xdg-run;", "", "", "", "", "$/thing/f", no},
		{"nonsense;no/thing;!;", "", "", "", "", "~/f", no},
		// Other apps' data and what no sandbox has.
		{"home;", "", "", "", "", "~/.var/app/" + appA + "/data/f", rw},
		{"", "", "", "", "", "~/.var/app/" + appA + "/data/f", rw},
		{"home;", "", "", "", "", "~/.var/app/" + appB + "/data/f", no},
		{"home;", "", "", "", "", "~/.local/share/flatpak/f", no},
		{"xdg-run/doc;", "", "", "", "", "$/doc/f", no},
		// Overrides, each over the ones before it.
		{"", "home;", "", "", "", "~/f", rw},
		{"", "", "home;", "", "", "~/f", rw},
		{"", "", "", "home;", "", "~/f", rw},
		{"", "", "", "", "home;", "~/f", rw},
		{"home;", "home:ro;", "", "", "", "~/f", ro},
		{"home;", "!home;", "", "", "", "~/f", no},
		{"home;", "!home;", "home:ro;", "", "", "~/f", ro},
		{"", "", "home;", "!home;", "", "~/f", no},
		{"", "", "", "!home;", "home;", "~/f", rw},
		{"home;~/d;", "", "", "", "!home;", "~/d/f", rw},
		{"home;~/d;", "", "", "", "!home;", "~/f", no},
		{"host;~/d;", "", "", "", "!host;", "~/d/f", rw},
		{"home;~/d;", "", "", "", "!host:reset;", "~/d/f", no},
		{"home;", "", "!host:reset;~/d;", "", "", "~/d/f", rw},
		{`~/a\:b;`, "", "", "", "", "~/a:b/f", no}, // a bad escape: nothing is known
		{`~/a\\:b;`, "", "", "", "", "~/a:b/f", rw},
	} {
		p := newPlaces(t)
		for _, d := range []string{"d", "dd", "Loads/sub", `V "x"`, ".config/thing", ".local/share/thing", ".cache", "a:b", ".var/app/" + appA + "/data"} {
			os.MkdirAll(filepath.Join(p.home, d), 0o700)
		}
		os.MkdirAll(filepath.Join(p.run, "thing"), 0o700)
		os.Symlink("d", filepath.Join(p.home, "link"))
		p.write(filepath.Join(p.home, ".config/user-dirs.dirs"), userDirsFile)
		p.fs(filepath.Join(p.system, flatpakMetadata), c.metadata)
		for _, o := range []struct{ file, words string }{
			{filepath.Join(p.system, "overrides/global"), c.sysGlobal},
			{filepath.Join(p.system, "overrides", appA), c.sys},
			{filepath.Join(p.user, "overrides/global"), c.userGlobal},
			{filepath.Join(p.user, "overrides", appA), c.user},
		} {
			if o.words != "" {
				p.fs(o.file, o.words)
			}
		}
		file := c.file
		if rest, ok := strings.CutPrefix(file, "~"); ok {
			file = p.home + rest
		} else if rest, ok := strings.CutPrefix(file, "$"); ok {
			file = p.run + rest
		}
		if got := p.reach(appA, file); got != c.want {
			t.Errorf("%q %q %q %q %q: %s is reached %d, want %d", c.metadata, c.sysGlobal, c.sys, c.userGlobal, c.user, c.file, got, c.want)
		}
		if got := p.reach(appB, file); got != hidden {
			t.Errorf("an app that is not installed reaches %s", c.file)
		}
	}
}

// TestAsNeededFromTheUsersInstallationBeforeTheSystems: one metadata file
// counts, the user's.
func TestAsNeededFromTheUsersInstallationBeforeTheSystems(t *testing.T) {
	p := newPlaces(t)
	p.fs(filepath.Join(p.system, flatpakMetadata), "home;")
	p.fs(filepath.Join(p.user, flatpakMetadata), "home:ro;")
	if got := p.reach(appA, p.home+"/f"); got != readOnlyReach {
		t.Error(got)
	}
}

// TestAsNeededFromRunningSandboxesBeforeTheirMetadata: what runs decides.
func TestAsNeededFromRunningSandboxesBeforeTheirMetadata(t *testing.T) {
	p := newPlaces(t)
	p.fs(filepath.Join(p.system, flatpakMetadata), "home;")
	end := p.instance("4711", "[Application]\nname="+appA+"\n[Instance]\ninstance-id=4711\n[Context]\nfilesystems=home:ro;\n", nil)
	if got := p.reach(appA, p.home+"/f"); got != readOnlyReach {
		t.Error("flatpak's: ", got)
	}
	ours := p.instance("sbx-00000001", "[Application]\nname="+appA+"\n[Instance]\ninstance-id=sbx-00000001\n", []identity.Bind{{Host: p.home, Sandbox: p.home}})
	if got := p.reach(appA, p.home+"/f"); got != readOnlyReach {
		t.Error("both: ", got)
	}
	// Masked there, though a recorded mount covers it.
	if got := p.reach(appA, filepath.Join(p.home, ".config/sbx/f")); got != hidden {
		t.Error("the profiles: ", got)
	}
	end()
	if got := p.reach(appA, p.home+"/f"); got != readWriteReach {
		t.Error("ours: ", got)
	}
	if got := p.reach(appA, "/srv/f"); got != hidden {
		t.Error("elsewhere: ", got)
	}
	ours()
}

// TestAsNeededFromProfiles: an app of sbx-run's that does not run now.
func TestAsNeededFromProfiles(t *testing.T) {
	p := newPlaces(t)
	os.MkdirAll(filepath.Join(p.home, "d"), 0o700)
	os.Symlink("d", filepath.Join(p.home, "link"))
	p.fs(filepath.Join(p.etc, appA+".profile"), "~/d;")
	if got := p.reach(appA, p.home+"/d/f"); got != readWriteReach {
		t.Error(got)
	}
	p.fs(filepath.Join(p.profiles, appA+".profile"), "~/d:ro;")
	if got := p.reach(appA, p.home+"/d/f"); got != readOnlyReach {
		t.Error("replaced: ", got)
	}
	p.fs(filepath.Join(p.profiles, appA+".profile"), "!~/d;")
	if got := p.reach(appA, p.home+"/d/f"); got != hidden {
		t.Error("taken away: ", got)
	}
	p.fs(filepath.Join(p.etc, appA+".profile"), "~/link;") // sbx-run binds no links
	p.fs(filepath.Join(p.profiles, appA+".profile"), "")
	if got := p.reach(appA, p.home+"/d/f"); got != hidden {
		t.Error("by a link: ", got)
	}
	// An id that is both reaches what both have.
	p.fs(filepath.Join(p.profiles, appA+".profile"), "home;")
	p.fs(filepath.Join(p.system, flatpakMetadata), "home:ro;")
	if got := p.reach(appA, p.home+"/d/f"); got != readOnlyReach {
		t.Error("both: ", got)
	}
	p.write(filepath.Join(p.profiles, appA+".profile"), "no key file")
	if got := p.reach(appA, p.home+"/d/f"); got != hidden {
		t.Error("unreadable: ", got)
	}
}

// TestAsNeededFromSnap: snapd is asked about the snap and the path.
func TestAsNeededFromSnap(t *testing.T) {
	for says, want := range map[string]reach{
		"read-only": readOnlyReach, "read-write": readWriteReach, "hidden": hidden, "": hidden, "read-write or so": hidden,
	} {
		p := newPlaces(t)
		p.write(p.snapFile, "#!/bin/sh\n[ \"$*\" = 'routine file-access name_1 /srv/f' ] || exit 1\necho "+says+"\n")
		if got := p.reach("snap.name_1", "/srv/f"); got != want {
			t.Errorf("%q: %d", says, got)
		}
		if got := p.reach("snap.other", "/srv/f"); got != hidden {
			t.Errorf("it failed: %d", got)
		}
	}
	p := newPlaces(t)
	if got := p.reach("snap.name", "/srv/f"); got != hidden {
		t.Error("no snap command: ", got)
	}
	p.write(p.snapFile, "#!/bin/sh\nyes read-write\n")
	if got := p.reach("snap.name", "/srv/f"); got != hidden {
		t.Error("too much output: ", got)
	}
}

// TestAsNeededIsNeverSlowerThanASecond: an answer that does not come makes a
// document, for all files of the call together within a second.
func TestAsNeededIsNeverSlowerThanASecond(t *testing.T) {
	p := newPlaces(t)
	p.write(p.snapFile, "#!/bin/sh\nexec sleep 60\n")
	fifo := filepath.Join(p.system, flatpakMetadata)
	if err := os.MkdirAll(filepath.Dir(fifo), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, app := range []string{"snap.name", appA} {
		n := p.s.asNeeded(context.Background(), addition{flags: addAsNeeded, target: app, perms: permRead})
		start := time.Now()
		for i := range 100 {
			if n.reaches(&record{path: fmt.Sprint("/srv/", i)}) {
				t.Error("reached")
			}
		}
		n.close()
		if took := time.Since(start); took > time.Second {
			t.Errorf("%s: %v", app, took)
		}
	}
	// Also when nobody answers and every place is taken.
	for range accessSlots {
		p.s.asking <- struct{}{}
	}
	start := time.Now()
	if p.reach(appA, "/srv/f") != hidden || time.Since(start) > 2*time.Second {
		t.Error("no place: ", time.Since(start))
	}
}

// TestAsNeededHoldsNoLock: while one call waits for an answer, others go on,
// its caller's too.
func TestAsNeededHoldsNoLock(t *testing.T) {
	started := filepath.Join(t.TempDir(), "started")
	snap := filepath.Join(t.TempDir(), "snap")
	if err := os.WriteFile(snap, []byte("#!/bin/sh\nread x <"+started+"\nexec sleep 60\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(started, 0o600); err != nil {
		t.Fatal(err)
	}
	o := unmounted(newFakeView())
	o.tune = func(s *Service) { s.o.Snap, s.accessTimeout = snap, 5*time.Second }
	s := newSession(t, o)
	f := s.file("f", "")
	answered := make(chan response, 1)
	go func() {
		answered <- s.host.do(request{Method: qualified("AddFull"), Files: []open{{Path: f}}, Args: []any{fdList{0}, uint32(all | addAsNeeded), "snap.name", []string{"read"}}})
	}()
	w, err := os.OpenFile(started, os.O_WRONLY, 0) // when the script has got so far
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(w, "go")
	w.Close()
	for i, flags := range []uint32{all, addReuse, addPersistent, 0} {
		id := s.addFull(s.host, flags, appA, everything, open{Path: s.file(fmt.Sprint("g", i), "")})[0]
		s.must(s.host, "Delete", nil, id)
	}
	select {
	case r := <-answered:
		t.Error("answered before: ", r)
	default:
	}
	if r := <-answered; r.Error != "" || r.Body[0].([]string)[0] == "" {
		t.Error(r)
	}
}

// instance makes a live instance directory.
func (p *places) instance(id, info string, binds []identity.Bind) (end func()) {
	p.t.Helper()
	dir := filepath.Join(p.run, ".flatpak", id)
	list, err := identity.EncodeBinds(binds)
	if err != nil {
		p.t.Fatal(err)
	}
	p.write(filepath.Join(dir, "info"), info)
	p.write(filepath.Join(dir, "binds"), string(list))
	ref, err := os.OpenFile(filepath.Join(dir, ".ref"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		p.t.Fatal(err)
	}
	lock := unix.Flock_t{Type: unix.F_RDLCK}
	if err := unix.FcntlFlock(ref.Fd(), unix.F_OFD_SETLK, &lock); err != nil {
		p.t.Fatal(err)
	}
	return func() {
		ref.Close()
		os.RemoveAll(dir)
	}
}

// FuzzGrants: whatever a metadata file says, its words are spelt in one way
// and lead to absolute, clean paths, never to the home as a whole by xdg-*.
func FuzzGrants(f *testing.F) {
	for _, w := range []string{"host;", "home:ro;!~/d;", "xdg-download/x:create;xdg-run/y;/srv//z/../a:rw;", "!host:reset;~/a\\\\:b;home/../..;"} {
		f.Add([]byte("[Context]\nfilesystems=" + w + "\n"))
	}
	h := &habitat{home: "/home/user", runtime: "/run/user/1000", env: func(string) string { return "" }, app: appA}
	f.Fuzz(func(t *testing.T, data []byte) {
		g := make(grants)
		if g.add(data) != nil {
			return
		}
		for word := range g {
			if again := canonicalWord(word); again != word {
				t.Fatalf("%q became %q", word, again)
			}
			if p := h.place(word); p != "" && (!filepath.IsAbs(p) || filepath.Clean(p) != p) {
				t.Fatalf("%q is %q", word, p)
			}
		}
	})
}

func FuzzUserDirs(f *testing.F) {
	f.Add([]byte("# comment\nXDG_MUSIC_DIR=\"$HOME/Music\"\nXDG_DESKTOP_DIR=\"/d \\\" e\"\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for name, dir := range parseUserDirs(data, "/home/user") {
			if !filepath.IsAbs(dir) || filepath.Clean(dir) != dir || strings.Contains(dir, "\x00") {
				t.Fatalf("%s is %q", name, dir)
			}
		}
	})
}
