package identity

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"docportal/internal/appid"

	"golang.org/x/sys/unix"
)

func infoOf(id string) string {
	return "[Application]\nname=org.example.App\n[Instance]\ninstance-id=" + id + "\n"
}

// addInstance makes an instance directory and returns it and its lock, held by
// an open file description of its own as another process's would be.
func addInstance(t *testing.T, runtimeDir, id string) (dir string, lock *os.File) {
	t.Helper()
	dir = filepath.Join(runtimeDir, ".flatpak", id)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{".ref": "", "info": infoOf(id), "binds": "rw\x00/home/u/x\x00/home/u/x\x00"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	lock, err := os.Open(filepath.Join(dir, ".ref"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lock.Close() })
	if err := unix.FcntlFlock(lock.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_RDLCK}); err != nil {
		t.Fatal(err)
	}
	return dir, lock
}

func TestRecordedMountsAreBelievedOnlyIfEverythingFits(t *testing.T) {
	const id = "sbx-0123abcd"
	for _, test := range []struct {
		name   string
		id     string
		change func(t *testing.T, dir string, lock *os.File) error
		ok     bool
	}{
		{"all fits", id, func(*testing.T, string, *os.File) error { return nil }, true},
		{"not locked", id, func(_ *testing.T, _ string, lock *os.File) error { return lock.Close() }, false},
		{"no .ref", id, func(_ *testing.T, dir string, _ *os.File) error { return os.Remove(dir + "/.ref") }, false},
		{".ref is a link", id, func(_ *testing.T, dir string, _ *os.File) error {
			if err := os.Rename(dir+"/.ref", dir+"/ref"); err != nil {
				return err
			}
			return os.Symlink("ref", dir+"/.ref")
		}, false},
		{"info differs", id, func(_ *testing.T, dir string, _ *os.File) error {
			return os.WriteFile(dir+"/info", []byte(infoOf(id)+"#\n"), 0o644)
		}, false},
		{"no info", id, func(_ *testing.T, dir string, _ *os.File) error { return os.Remove(dir + "/info") }, false},
		{"info is a link", id, func(_ *testing.T, dir string, _ *os.File) error {
			if err := os.Rename(dir+"/info", dir+"/other"); err != nil {
				return err
			}
			return os.Symlink("other", dir+"/info")
		}, false},
		{"no binds", id, func(_ *testing.T, dir string, _ *os.File) error { return os.Remove(dir + "/binds") }, false},
		{"broken binds", id, func(_ *testing.T, dir string, _ *os.File) error {
			return os.WriteFile(dir+"/binds", []byte("rw\x00/a"), 0o644)
		}, false},
		{"binds is a link", id, func(_ *testing.T, dir string, _ *os.File) error {
			if err := os.Rename(dir+"/binds", dir+"/other"); err != nil {
				return err
			}
			return os.Symlink("other", dir+"/binds")
		}, false},
		{"the directory is a link", id, func(_ *testing.T, dir string, _ *os.File) error {
			if err := os.Rename(dir, dir+"-real"); err != nil {
				return err
			}
			return os.Symlink(dir+"-real", dir)
		}, false},
		{"the directory is a file", id, func(_ *testing.T, dir string, _ *os.File) error {
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
			return os.WriteFile(dir, nil, 0o644)
		}, false},
		{"gone", id, func(_ *testing.T, dir string, _ *os.File) error { return os.RemoveAll(dir) }, false},
		{"flatpak's instance", "4711", func(*testing.T, string, *os.File) error { return nil }, false},
		{"upper case", "sbx-0123ABCD", func(*testing.T, string, *os.File) error { return nil }, false},
		{"too short", "sbx-0123abc", func(*testing.T, string, *os.File) error { return nil }, false},
		{"too long", "sbx-0123abcd0", func(*testing.T, string, *os.File) error { return nil }, false},
	} {
		runtimeDir := t.TempDir()
		dir, lock := addInstance(t, runtimeDir, test.id)
		if err := test.change(t, dir, lock); err != nil {
			t.Fatal(err)
		}
		binds, err := TrustedBinds(runtimeDir, test.id, []byte(infoOf(test.id)))
		if (err == nil) != test.ok {
			t.Errorf("%s: %v, %v", test.name, binds, err)
		}
		if want := []Bind{{false, "/home/u/x", "/home/u/x"}}; test.ok && !slices.Equal(binds, want) {
			t.Errorf("%s: %v, want %v", test.name, binds, want)
		}
	}
	if _, err := TrustedBinds("", id, []byte(infoOf(id))); err == nil {
		t.Error("believed without a runtime directory")
	}
}

// The lock that bwrap takes is a POSIX lock of another process.
func TestAnInstanceOfARealSandbox(t *testing.T) {
	const id = "sbx-00c0ffee"
	runtimeDir := t.TempDir()
	dir, lock := addInstance(t, runtimeDir, id)
	lock.Close()
	// The directory is writable here for bwrap's mount points only.
	pid := sandbox(t, []string{infoOf(id)}, "--ro-bind-data", "3", "/.flatpak-info", "--ro-bind", dir, dir, "--lock-file", dir+"/.ref")
	c, err := resolve(t, busOf(pid, true), Options{RuntimeDir: runtimeDir})
	if err != nil || len(c.Binds) != 1 || c.InstanceID != id {
		t.Errorf("%+v, %v", c, err)
	}
	all, err := Instances(runtimeDir)
	if err != nil || len(all) != 1 || all[0].ID != id || all[0].App != "org.example.App" || len(all[0].Binds) != 1 || string(all[0].Info) != infoOf(id) {
		t.Errorf("instances: %+v, %v", all, err)
	}
	// Somebody else's metadata under this id brings nothing.
	other := sandbox(t, []string{infoOf(id) + "[Context]\n"}, "--ro-bind-data", "3", "/.flatpak-info")
	c, err = resolve(t, busOf(other, true), Options{RuntimeDir: runtimeDir})
	if err != nil || c.Binds != nil || c.App != "org.example.App" {
		t.Errorf("other metadata: %+v, %v", c, err)
	}
}

func TestInstancesAreThoseThatRun(t *testing.T) {
	runtimeDir := t.TempDir()
	if all, err := Instances(runtimeDir); err != nil || len(all) != 0 {
		t.Errorf("no directory: %v, %v", all, err)
	}
	addInstance(t, runtimeDir, "4711")
	addInstance(t, runtimeDir, "sbx-01234567")
	_, ended := addInstance(t, runtimeDir, "4712")
	ended.Close()
	addInstance(t, runtimeDir, ".new-sbx-01234567")
	addInstance(t, runtimeDir, "sbx-x")
	if dir, _ := addInstance(t, runtimeDir, "4713"); os.WriteFile(dir+"/info", []byte(infoOf("4714")), 0o644) != nil {
		t.Fatal("no info")
	}
	if dir, _ := addInstance(t, runtimeDir, "4715"); os.WriteFile(dir+"/info", []byte("broken"), 0o644) != nil {
		t.Fatal("no info")
	}
	if err := os.WriteFile(filepath.Join(runtimeDir, ".flatpak", "4716"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	all, err := Instances(runtimeDir)
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, i := range all {
		ids = append(ids, i.ID+" "+i.App)
	}
	if want := []string{"4711 org.example.App", "sbx-01234567 org.example.App"}; !slices.Equal(ids, want) {
		t.Errorf("%q, want %q", ids, want)
	}
}

func TestBindsRoundTrip(t *testing.T) {
	binds := []Bind{{true, "/usr", "/usr"}, {false, "/home/u/new\nline ü\xff", "/home/u/x"}, {true, "/", "/run/host"}}
	data, err := EncodeBinds(binds)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseBinds(data); err != nil || !slices.Equal(got, binds) {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := ParseBinds(nil); err != nil || len(got) != 0 {
		t.Errorf("none: %v, %v", got, err)
	}
	for _, b := range []Bind{{false, "a", "/b"}, {false, "/a", "b"}, {false, "/a/", "/b"}, {false, "/a/../c", "/b"}, {false, "/a\x00", "/b"}, {false, "", "/b"}} {
		if data, err := EncodeBinds([]Bind{b}); err == nil {
			t.Errorf("%+v became %q", b, data)
		}
	}
	for _, text := range []string{"rw", "rw\x00/a\x00/b", "rw\x00/a\x00", "xx\x00/a\x00/b\x00", "rw\x00a\x00/b\x00", "rw\x00/a\x00/b/..\x00", "\x00", "rw\x00/a\x00/b\x00ro\x00"} {
		if got, err := ParseBinds([]byte(text)); err == nil {
			t.Errorf("%q became %v", text, got)
		}
	}
}

func FuzzParseBinds(f *testing.F) {
	f.Add([]byte("rw\x00/a\x00/b\x00ro\x00/c\x00/d\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		binds, err := ParseBinds(data)
		if err != nil {
			return
		}
		if again, err := EncodeBinds(binds); err != nil || string(again) != string(data) {
			t.Fatalf("%q became %q, %v", data, again, err)
		}
	})
}

func FuzzMetadata(f *testing.F) {
	f.Add([]byte(goodInfo))
	f.Add([]byte(infoOf("1")))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parseFlatpak(data)
		if err == nil && (c.IsHost() || checkID(c.App) != nil || strings.ContainsAny(c.InstanceID, "/\x00")) {
			t.Fatalf("%q became %+v", data, c)
		}
	})
}

// FuzzCommand gives a process any name for its command: its start time is
// found all the same.
func FuzzCommand(f *testing.F) {
	f.Add("sh", "4711")
	f.Add(") R 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 (", "0")
	f.Fuzz(func(t *testing.T, command, rest string) {
		const before, after = " S 1 1 1 0 -1 4194560 1 1 0 0 0 0 0 0 20 0 1 0 ", " 1 1 18446744073709551615\n"
		if got, err := startOf([]byte("7 (" + command + ")" + before + "4711" + after)); err != nil || got != "4711" {
			t.Fatalf("%q: %q, %v", command, got, err)
		}
		startOf([]byte(rest))
	})
}

// FuzzSnap: whatever is taken for the answer of snapd names a snap.
func FuzzSnap(f *testing.F) {
	f.Add([]byte("[Snap Info]\nInstanceName=firefox\nHasNetworkStatus=true\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parseSnap(data)
		if err == nil && (c.Kind != Snap || !appid.Foreign(c.App) || !appid.Valid(c.App)) {
			t.Fatalf("%q became %+v", data, c)
		}
	})
}

func TestAPathOfTheSandboxIsOneOnTheHost(t *testing.T) {
	d := Dirs{Mount: "/run/user/1/doc", Home: "/home/u"}
	app := &Caller{Kind: Flatpak, App: "a.b.C"}
	full := &Caller{Kind: Flatpak, App: "a.b.C", AppPath: "/var/lib/app/files", RuntimePath: "/var/lib/rt/files"}
	bound := &Caller{Kind: Flatpak, App: "a.b.C", Binds: []Bind{
		{true, "/usr", "/usr"}, {false, "/home/u/.var/app/a.b.C", "/home/u"}, {false, "/home/u/Music", "/home/u/Music"},
		{false, "/srv/first", "/mnt"}, {false, "/srv/second", "/mnt"}, {true, "/", "/run/host"}, {true, "/host/root", "/"},
	}}
	for _, test := range []struct {
		name string
		c    *Caller
		path string
		want string
	}{
		{"the host's own", &Caller{}, "/newroot/x", "/newroot/x"},
		{"as it is", app, "/home/u/x", "/home/u/x"},
		{"bwrap's new root", app, "/newroot/home/u/x", "/home/u/x"},
		{"a name like it", app, "/newroots/x", "/newroots/x"},
		{"the documents", app, "/run/flatpak/doc/1234/x", "/run/user/1/doc/1234/x"},
		{"the documents themselves", app, "/run/flatpak/doc", "/run/user/1/doc"},
		{"a name like theirs", app, "/run/flatpak/documents", "/run/flatpak/documents"},
		{"the host's usr", app, "/run/host/usr/share/x", "/usr/share/x"},
		{"the host's etc", app, "/run/host/etc/x", "/etc/x"},
		{"the app without a path", app, "/app/x", "/app/x"},
		{"the runtime without a path", app, "/usr/x", "/usr/x"},
		{"the app", full, "/app/x", "/var/lib/app/files/x"},
		{"the runtime", full, "/usr/x", "/var/lib/rt/files/x"},
		{"new root and runtime", full, "/newroot/usr/x", "/var/lib/rt/files/x"},
		{"the app's configuration", app, "/var/config/x", "/home/u/.var/app/a.b.C/config/x"},
		{"the app's data", app, "/var/data/x", "/home/u/.var/app/a.b.C/data/x"},
		{"the rest of var", app, "/var/cache/x", "/var/cache/x"},
		{"longest bind first", bound, "/home/u/Music/x", "/home/u/Music/x"},
		{"a bind's own path", bound, "/home/u", "/home/u/.var/app/a.b.C"},
		{"the later of two equal binds", bound, "/mnt/x", "/srv/second/x"},
		{"a bind of the root", bound, "/run/host/opt/x", "/opt/x"},
	} {
		if got := test.c.HostPath(test.path, d); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}
