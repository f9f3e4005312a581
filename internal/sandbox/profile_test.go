package sandbox

import (
	"slices"
	"strings"
	"testing"
)

const firefox = `[Application]
name=org.mozilla.firefox
command=firefox;firefox-esr
[Context]
shared=network;
sockets=wayland;fallback-x11;pulseaudio;
devices=dri;
filesystems=~/.mozilla:create;
features=userns;
[Session Bus Policy]
org.mpris.MediaPlayer2.firefox.*=own
`

func parseProfile(t *testing.T, texts ...string) *Profile {
	t.Helper()
	p := new(Profile)
	for i, text := range texts {
		if err := p.AddFile([]string{"a", "b", "c"}[i], []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func TestProfileIsRead(t *testing.T) {
	p := parseProfile(t, firefox)
	if p.Name != "org.mozilla.firefox" || p.NameAt != (Position{"a", 2}) {
		t.Errorf("name %q at %v", p.Name, p.NameAt)
	}
	for _, c := range []struct {
		what string
		got  []Word
		want string
		line int
	}{
		{"command", p.Command, "firefox firefox-esr", 3},
		{"shared", p.Shared, "network", 5},
		{"sockets", p.Sockets, "wayland fallback-x11 pulseaudio", 6},
		{"devices", p.Devices, "dri", 7},
		{"filesystems", p.Filesystems, "~/.mozilla:create", 8},
		{"features", p.Features, "userns", 9},
	} {
		if got := strings.Join(texts(c.got), " "); got != c.want || c.got[0].At.Line != c.line {
			t.Errorf("%s = %q at %v, want %q at line %d", c.what, got, c.got[0].At, c.want, c.line)
		}
	}
	if !slices.Equal(p.Session, []BusName{{"org.mpris.MediaPlayer2.firefox.*", Own, Position{"a", 11}}}) {
		t.Errorf("session %v", p.Session)
	}
}

func TestLaterLayersAddAndReplace(t *testing.T) {
	p := parseProfile(t, firefox, `[Application]
command=waterfox
[Context]
sockets=!pulseaudio;cups;
filesystems=~/.mozilla:ro;
shared=!network
[Session Bus Policy]
org.mpris.MediaPlayer2.firefox.*=none
org.a.b=talk
[Environment]
A=b c
`)
	for _, c := range []struct {
		got  []Word
		want string
	}{
		{p.Command, "waterfox"},
		{p.Sockets, "wayland fallback-x11 cups"},
		{p.Filesystems, "~/.mozilla:ro"},
		{p.Shared, ""},
	} {
		if got := strings.Join(texts(c.got), " "); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
	if len(p.Session) != 1 || p.Session[0].Name != "org.a.b" || p.Session[0].Policy != Talk {
		t.Errorf("session %v", p.Session)
	}
	if len(p.Env) != 1 || p.Env[0].Value != "b c" {
		t.Errorf("env %v", p.Env)
	}
}

func TestProfileErrorsNameFileLineKeyAndNearWord(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"[Application]\nname=firefox\n", `p:2: name: "firefox" is no app id: it needs a dot, as in org.example.firefox`},
		{"[Application]\nname=snap.x.y\n", `p:2: name: "snap.x.y" belongs to another kind of sandbox`},
		{"[Application]\nname=org.freedesktop.Foo\n", `p:2: name: "org.freedesktop.Foo": names in org.freedesktop. belong to services`},
		{"[Application]\nname=a-b.c\n", `p:2: name: "a-b.c" is no app id: elements`},
		{"[Application]\nname=\n", `p:2: name: "" is no app id`},
		{"[Application]\nnam=a.b\n", "p:2: nam: unknown key; did you mean name?"},
		{"[Application]\ncommand=bin/x\n", `p:2: command: "bin/x" is neither`},
		{"[Aplication]\nname=a.b\n", "p:1: unknown group [Aplication]; did you mean Application?"},
		{"[Nothing]\n", "p:1: unknown group [Nothing]; known are Application, Context"},
		{"[Context]\nshared=netwok;\n", `p:2: shared: unknown word "netwok"; did you mean network?`},
		{"[Context]\n\nsocket=x11\n", "p:3: socket: unknown key; did you mean sockets?"},
		{"[Context]\nsocket=\n", "p:2: socket: unknown key; did you mean sockets?"},
		{"[Context]\nsockets=session-bus\n", "p:2: sockets: session-bus is never handed out"},
		{"[Context]\nsockets=x12\n", `p:2: sockets: unknown word "x12"; did you mean x11?`},
		{"[Context]\ndevices=dry\n", `p:2: devices: unknown word "dry"; did you mean dri?`},
		{"[Context]\nfeatures=usernss\n", `p:2: features: unknown word "usernss"; did you mean userns?`},
		{"[Context]\nfilesystems=xdg-downloads\n", `p:2: filesystems: unknown directory "xdg-downloads"; did you mean xdg-download?`},
		{"[Context]\nfilesystems=hme\n", `p:2: filesystems: unknown directory "hme"; did you mean home?`},
		{"[Context]\nfilesystems=Music\n", `p:2: filesystems: "Music" is neither host`},
		{"[Context]\nfilesystems=~/x:rx\n", `p:2: filesystems: "~/x:rx": unknown mode "rx"; did you mean ro?`},
		{"[Context]\nfilesystems=~/a/../b\n", `p:2: filesystems: "~/a/../b": a path with ..`},
		{"[Context]\nfilesystems=xdg-run\n", "p:2: filesystems: xdg-run needs a path"},
		{"[Context]\npersistent=/x\n", `p:2: persistent: "/x" must be a path below`},
		{"[Context]\npersistent=../x\n", `p:2: persistent: "../x" must be a path below`},
		{"[Context]\npersistent=.\n", `p:2: persistent: "." must be a path below`},
		{"[Session Bus Policy]\norg.x.y=tlak\n", `p:2: org.x.y: unknown policy "tlak"; did you mean talk?`},
		{"[Session Bus Policy]\nx=talk\n", "p:2: x: not a bus name"},
		{"[Session Bus Policy]\norg.*=talk\n", "p:2: org.*: too wide"},
		{"[Session Bus Policy]\n*=talk\n", "p:2: *: not a bus name"},
		{"[Session Bus Policy]\norg.1x=talk\n", "p:2: org.1x: not a bus name"},
		{"[Session Bus Policy]\norg.freedesktop.DBus=talk\n", "p:2: org.freedesktop.DBus: the bus itself"},
		{"[Session Bus Policy]\norg.freedesktop.portal.Flatpak=talk\n", "p:2: org.freedesktop.portal.Flatpak: reaches org.freedesktop.portal.Flatpak"},
		{"[Session Bus Policy]\norg.freedesktop.portal.*=own\n", "p:2: org.freedesktop.portal.*: reaches org.freedesktop.portal.Flatpak"},
		{"[Session Bus Policy]\norg.freedesktop.*=talk\n", "p:2: org.freedesktop.*: reaches org.freedesktop.portal.Flatpak"},
		{"[Environment]\nHOME=/x\n", "p:2: HOME: the sandbox itself sets"},
		{"[Context]\nunset-environment=container\n", "p:2: container: the sandbox itself sets"},
		{"[Context]\nshared=a\\q\n", "p:2: shared: shared: unknown escape"},
		{"name=a.b\n", "p:1: a key before the first group"},
		{"[Application]\nwhat\n", "p:2: neither a group"},
	} {
		err := new(Profile).AddFile("p", []byte(c.text))
		if err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%q\n got %v\nwant %s", c.text, err, c.want)
		}
	}
}

func TestWordsOnTheCommandLineAreChecked(t *testing.T) {
	err := new(Profile).AddContext("shared", "netwrk", Position{})
	if want := `command line: shared: unknown word "netwrk"; did you mean network?`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func FuzzProfile(f *testing.F) {
	f.Add([]byte(firefox))
	f.Fuzz(func(t *testing.T, data []byte) {
		p := new(Profile)
		if p.AddFile("p", data) != nil || p.Name == "" {
			return
		}
		// What was accepted must come back whole from the metadata that
		// portals read.
		if app := appOf(metadata(p, "sbx-00000000")); app != p.Name {
			t.Errorf("metadata of %q names %q", p.Name, app)
		}
	})
}
