package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func app(name string) string { return "[Application]\nname=" + name + "\n" }

func TestProfileIsFoundByIDShortNameOrPath(t *testing.T) {
	dir := t.TempDir()
	one, two := filepath.Join(dir, "1"), filepath.Join(dir, "2")
	write(t, one+"/org.mozilla.firefox.profile", app("org.mozilla.firefox"))
	write(t, one+"/org.a.Player.profile", app("org.a.Player")+"command=/opt/a/play-music\n")
	write(t, two+"/org.b.player.profile", app("org.b.player"))
	write(t, two+"/org.b.Wrong.profile", app("org.b.Other"))
	write(t, two+"/org.b.Nameless.profile", "[Context]\n")
	write(t, two+"/org.mozilla.firefox.profile", "[Context]\nshared=network\n")
	write(t, dir+"/any", app("org.c.Any"))
	dirs := []string{one, filepath.Join(dir, "none"), two}
	for _, c := range []struct{ app, id, err string }{
		{"org.mozilla.firefox", "org.mozilla.firefox", ""},
		{"firefox", "org.mozilla.firefox", ""},
		{"Firefox", "org.mozilla.firefox", ""},
		{"player", "", `"player" is short for more than one app: org.a.Player, org.b.player`},
		{"org.a.Player", "org.a.Player", ""},
		{"mozilla", "org.mozilla.firefox", ""}, // as in org.telegram.desktop
		{"org", "", `no profile for "org"`},
		{"b", "", `"b" is short for more than one app`},
		{"play-music", "org.a.Player", ""}, // its program
		{"", "", `no profile for ""`},
		{dir + "/any", "org.c.Any", ""},
		{"firefx", "", `no profile for "firefx"; did you mean firefox?`},
		{"org.b.Wrong", "", two + `/org.b.Wrong.profile:2: name: "org.b.Other" in a file named org.b.Wrong.profile`},
		{"org.b.Nameless", "", two + "/org.b.Nameless.profile:1: name: missing"},
		{dir + "/nowhere", "", "open " + dir + "/nowhere: no such file"},
		{one + "/", "", one + "/: not a file"},
	} {
		p, err := Load(c.app, dirs)
		switch {
		case c.err != "" && (err == nil || !strings.HasPrefix(err.Error(), c.err)):
			t.Errorf("%s: got error %v, want %s", c.app, err, c.err)
		case c.err == "" && err != nil:
			t.Errorf("%s: %v", c.app, err)
		case c.err == "" && p.Name != c.id:
			t.Errorf("%s: got %s, want %s", c.app, p.Name, c.id)
		}
	}
	p, err := Load("firefox", dirs)
	if err != nil || !has(p.Shared, "network") || len(p.Files) != 2 {
		t.Errorf("layers: %v %v", p, err)
	}
	if _, err := Load("nothing-like-this", dirs); !errors.Is(err, ErrNoProfile) {
		t.Errorf("got %v", err)
	}
}

func TestProfileDirsOfOthersAreNotSystemDirs(t *testing.T) {
	dir := t.TempDir()
	mine := filepath.Join(dir, "share/sbx/profiles")
	if err := os.MkdirAll(mine, 0o777); err != nil {
		t.Fatal(err)
	}
	os.Chmod(mine, 0o777)
	env := map[string]string{"HOME": "/home/x", "XDG_DATA_DIRS": dir + "/share:relative::/"}
	got := ProfileDirs(func(k string) string { return env[k] }, "/usr/bin/sbx-run")
	want := []string{"/usr/share/sbx/profiles", "/usr/local/share/sbx/profiles", "/etc/sbx/profiles", "/home/x/.config/sbx/profiles"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	env["XDG_CONFIG_HOME"] = "/cfg"
	if got := ProfileDirs(func(k string) string { return env[k] }, ""); got[len(got)-1] != "/cfg/sbx/profiles" {
		t.Errorf("got %v", got)
	}
}
