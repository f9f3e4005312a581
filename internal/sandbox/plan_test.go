package sandbox

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"docportal/internal/reserved"
)

// testHost is a session whose directories are all temporary.
func testHost(t *testing.T) *Host {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	h := &Host{Home: dir + "/home", RuntimeDir: dir + "/run", Env: map[string]string{}}
	for _, d := range []string{h.Home, h.RuntimeDir} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if h.SessionBus, err = ParseAddress("unix:path="+dir+"/dbus-x", h.RuntimeDir); err != nil {
		t.Fatal(err)
	}
	if h.SystemBus, err = ParseAddress("unix:path="+dir+"/system-bus", h.RuntimeDir); err != nil {
		t.Fatal(err)
	}
	return h
}

func plan(t *testing.T, h *Host, text string) (*Plan, error) {
	t.Helper()
	p := parseProfile(t, "[Application]\nname=org.example.App\ncommand=sh\n"+text)
	pl, err := NewPlan(p, h, "sbx-00000001", Request{Args: []string{"-c", "true"}})
	if err == nil {
		t.Cleanup(pl.Close)
	}
	return pl, err
}

func mustPlan(t *testing.T, h *Host, text string) *Plan {
	t.Helper()
	pl, err := plan(t, h, text)
	if err != nil {
		t.Fatal(err)
	}
	return pl
}

// shows says what is at a path in the sandbox: the last mount that covers it.
func (pl *Plan) shows(path string) Mount {
	var last Mount
	for _, m := range pl.Mounts {
		if within(path, m.Dest) {
			last = m
		}
	}
	return last
}

// everyReserved lists paths that no profile may reach, relative to the home
// and the runtime directory.
var reservedInHome = []string{
	".local/share/docportal", ".local/share/flatpak", ".local/share/applications", ".local/share/dbus-1", ".local/share/systemd",
	".config/sbx", ".config/autostart", ".config/systemd", ".var/app", ".var/app/org.example.Other",
}
var reservedInRuntimeDir = []string{"", ".flatpak", ".flatpak/sbx-00000002", "doc", "doc/by-app", "bus", "at-spi", "at-spi/bus", "systemd", "systemd/private", "pipewire-0"}

func TestReservedPathsAreErrorsWithFileAndLine(t *testing.T) {
	h := testHost(t)
	var paths []string
	for _, p := range reservedInHome {
		paths = append(paths, "~/"+p, filepath.Join(h.Home, p))
	}
	for _, p := range reservedInRuntimeDir {
		paths = append(paths, filepath.Join(h.RuntimeDir, p))
		if p != "" {
			paths = append(paths, "xdg-run/"+p)
		}
	}
	paths = append(paths, "xdg-config/autostart", "xdg-data/flatpak/db", h.SessionBus.Sockets[0],
		"/tmp/.X11-unix", "/tmp/.X11-unix/X0", "/run/dbus", "/run/dbus/system_bus_socket", "/run/systemd/private", "/run/user",
		"/", "/run", "/var", "/usr", "/usr/share/x", "/etc/shadow", "/proc/1", "/sys", "/dev/shm")
	for _, path := range paths {
		for _, exists := range []bool{false, true} {
			if exists && within(path, h.Home) {
				if err := os.MkdirAll(path, 0o700); err != nil {
					t.Fatal(err)
				}
			}
			for _, mode := range []string{"", ":ro", ":create"} {
				_, err := plan(t, h, "[Context]\nfilesystems="+path+mode+"\n")
				if err == nil || !strings.HasPrefix(err.Error(), "a:5: filesystems: "+path+mode+": ") {
					t.Errorf("%s%s: %v", path, mode, err)
				}
			}
		}
	}
}

func TestLinksToReservedPathsAreErrors(t *testing.T) {
	h := testHost(t)
	outside := filepath.Dir(h.Home)
	targets := []string{h.Home, "/", filepath.Dir(h.Home)}
	for _, p := range reservedInHome {
		targets = append(targets, filepath.Join(h.Home, p))
	}
	for _, p := range reservedInRuntimeDir {
		targets = append(targets, filepath.Join(h.RuntimeDir, p))
	}
	for _, target := range targets {
		for _, dir := range []string{h.Home, outside} {
			link := filepath.Join(dir, "link")
			if err := os.Symlink(target, link); err != nil {
				t.Fatal(err)
			}
			for _, path := range []string{link, link + "/x"} {
				if pl, err := plan(t, h, "[Context]\nfilesystems="+path+":ro\n"); err == nil {
					t.Errorf("%s -> %s: planned %+v", path, target, pl.shows(path))
				}
			}
			os.Remove(link)
		}
	}
}

func TestWiderGrantsHaveReservedPathsMasked(t *testing.T) {
	for _, word := range []string{"home", "host", "~", "home:ro", "host:ro", "PARENT", "PARENT:ro"} {
		h := testHost(t)
		for _, p := range reservedInHome {
			if err := os.MkdirAll(filepath.Join(h.Home, p), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		for _, s := range h.SessionBus.Sockets {
			l, err := net.Listen("unix", s)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
		}
		pl := mustPlan(t, h, "[Context]\nfilesystems="+strings.Replace(word, "PARENT", filepath.Dir(h.Home), 1)+"\n")
		if m := pl.shows(filepath.Join(h.Home, "x")); m.Kind != Bind && m.Kind != ROBind {
			t.Errorf("%s: home shows %+v", word, m)
		}
		for _, p := range reservedInHome {
			if m := pl.shows(filepath.Join(h.Home, p)); m.Kind != Mask {
				t.Errorf("%s: ~/%s shows %+v", word, p, m)
			}
		}
		for _, p := range reservedInRuntimeDir {
			m := pl.shows(filepath.Join(h.RuntimeDir, p))
			own := p == "bus" && strings.HasSuffix(m.Source, "sbx-00000001/proxy/session")
			if m.Kind != Tmpfs && !own {
				t.Errorf("%s: runtime directory's %q shows %+v", word, p, m)
			}
		}
		if m := pl.shows(h.SessionBus.Sockets[0]); m.Kind != Tmpfs && m.Source != "/dev/null" {
			t.Errorf("%s: the bus shows %+v", word, m)
		}
		if m := pl.shows(filepath.Join(h.Home, ".var/app/org.example.App/x")); m.Kind != Bind {
			t.Errorf("%s: the app's own directory shows %+v", word, m)
		}
	}
}

func TestWhatTheAppCouldMakeIsMadeAndPinnedFirst(t *testing.T) {
	h := testHost(t)
	pl := mustPlan(t, h, "[Context]\nfilesystems=home\n")
	m := pl.shows(filepath.Join(h.Home, ".config/autostart"))
	if m.Kind != Mask || !m.create {
		t.Errorf("autostart: %+v", m)
	}
	if m := pl.shows(filepath.Join(h.Home, ".config/other")); m.Dest != filepath.Join(h.Home, ".config") || m.Kind != Bind {
		t.Errorf(".config is no mount point of its own: %+v", m)
	}
	if err := pl.makeDirs(); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(filepath.Join(h.Home, ".config/autostart")); err != nil || !st.IsDir() {
		t.Error(err)
	}
	// A read-only grant makes nothing.
	h = testHost(t)
	pl = mustPlan(t, h, "[Context]\nfilesystems=home:ro\n")
	if m := pl.shows(filepath.Join(h.Home, ".config/autostart")); m.Kind != ROBind {
		t.Errorf("autostart: %+v", m)
	}
}

func TestReadOnlyGrantsHoldInsideWritableOnes(t *testing.T) {
	h := testHost(t)
	for _, dir := range []string{"/open/mid/deep/ro", "/.config/app/ro"} {
		if err := os.MkdirAll(h.Home+dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	pl := mustPlan(t, h, "[Context]\nfilesystems=home;~/open/mid/deep/ro:ro;~/.config/app/ro:ro\n")
	// Each directory above is a mount point of its own: renamed, it would take
	// the grant along, and the next start would find nothing at the path.
	for _, dir := range []string{"/open", "/open/mid", "/open/mid/deep", "/.config", "/.config/app"} {
		if m := pl.shows(h.Home + dir + "/x"); m.Dest != h.Home+dir || m.Kind != Bind {
			t.Errorf("%s is no mount point: %+v", dir, m)
		}
	}
	for _, dir := range []string{"/open/mid/deep/ro", "/.config/app/ro"} {
		if m := pl.shows(h.Home + dir + "/x"); m.Kind != ROBind {
			t.Errorf("%s is not read-only: %+v", dir, m)
		}
	}
}

func TestReservedPathBehindALinkIsMaskedWhereItIs(t *testing.T) {
	h := testHost(t)
	if err := os.MkdirAll(filepath.Join(h.Home, "dotfiles/config"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("dotfiles/config", filepath.Join(h.Home, ".config")); err != nil {
		t.Fatal(err)
	}
	pl := mustPlan(t, h, "[Context]\nfilesystems=home\n")
	if m := pl.shows(filepath.Join(h.Home, "dotfiles/config/autostart")); m.Kind != Mask {
		t.Errorf("shows %+v", m)
	}
	for _, m := range pl.Mounts {
		if real := reserved.RealPath(m.Dest); within(m.Dest, h.Home) && real != m.Dest {
			t.Errorf("mounts onto a link: %s is %s", m.Dest, real)
		}
	}
	if _, err := plan(t, h, "[Context]\nfilesystems=~/dotfiles/config/autostart\n"); err == nil {
		t.Error("granted at its real path")
	}
}

func TestGrants(t *testing.T) {
	h := testHost(t)
	h.Env["XDG_CONFIG_HOME"] = h.Home + "/cfg"
	for _, d := range []string{"Music", "cfg/x", "Downloads", "deep/er"} {
		os.MkdirAll(filepath.Join(h.Home, d), 0o700)
	}
	write(t, filepath.Join(h.Home, "file"), "")
	write(t, h.Home+"/cfg/user-dirs.dirs", "# x\nXDG_MUSIC_DIR=\"$HOME/Music\"\nXDG_VIDEOS_DIR=\"$HOME\"\n")
	for _, c := range []struct {
		words, path string
		kind        Kind
		create      bool
	}{
		{"~/Music", "Music", Bind, false},
		{"~/Music:ro", "Music", ROBind, false},
		{"~/Music:rw", "Music", Bind, false},
		{"~/file:ro", "file", ROBind, false},
		{"~/none", "none", Tmpfs, false},
		{"~/none/below:create", "none/below", Bind, true},
		{"xdg-config/x:ro", "cfg/x", ROBind, false},
		{"xdg-music", "Music", Bind, false},
		{"xdg-videos", "", Tmpfs, false},
		{"~/deep;~/deep/er:ro", "deep/er", ROBind, false},
		{"~/deep/er:ro;~/deep", "deep/er", ROBind, false},
		{"~/Music;!~/Music", "Music", Tmpfs, false},
		{"", "Music", Tmpfs, false},
	} {
		pl := mustPlan(t, h, "[Context]\nfilesystems="+c.words+"\n")
		path := filepath.Join(h.Home, c.path)
		if m := pl.shows(path); m.Kind != c.kind || m.create != c.create {
			t.Errorf("%q: %s shows %+v", c.words, c.path, m)
		}
	}
}

func TestPlantedLinksInTheAppsOwnDirectoryAreRefused(t *testing.T) {
	h := testHost(t)
	own := filepath.Join(h.Home, ".var/app/org.example.App")
	os.MkdirAll(own, 0o700)
	if err := os.Symlink(h.Home, filepath.Join(own, "keep")); err != nil {
		t.Fatal(err)
	}
	_, err := plan(t, h, "[Context]\npersistent=keep\n")
	if err == nil || !strings.HasPrefix(err.Error(), "a:5: persistent: ") {
		t.Errorf("persistent: %v", err)
	}
	os.Symlink(h.Home, filepath.Join(own, "data"))
	pl := mustPlan(t, h, "")
	if err := pl.makeDirs(); err != nil {
		t.Errorf("a link in a directory of the app's own: %v", err)
	}
	os.RemoveAll(own)
	if err := os.Symlink(filepath.Join(h.Home), own); err != nil {
		t.Fatal(err)
	}
	if _, err := plan(t, h, ""); err == nil {
		t.Error("the app's own directory may be a link")
	}
}

func TestPersistentPathsAreKeptInTheAppsOwnDirectory(t *testing.T) {
	h := testHost(t)
	os.Mkdir(h.Home+"/Music", 0o700)
	own := h.Home + "/.var/app/org.example.App"
	for _, c := range []struct {
		context, path string
		link          bool
	}{
		{"persistent=.foo/bar\n", ".foo/bar", true},
		{"persistent=.foo/bar;.foo\n", ".foo", true},
		// Where something of the host is shown there cannot be a link.
		{"persistent=.foo\nfilesystems=home\n", ".foo", false},
		{"persistent=Music/new\nfilesystems=~/Music\n", "Music/new", false},
		{"persistent=Music\nfilesystems=~/Music/new:create\n", "Music", false},
	} {
		pl := mustPlan(t, h, "[Context]\n"+c.context)
		m := pl.shows(filepath.Join(h.Home, c.path))
		if m.Source != filepath.Join(own, c.path) || (m.Kind == Symlink) != c.link {
			t.Errorf("%q shows %+v", c.context, m)
		}
		if c.link {
			m = pl.shows(filepath.Join(own, c.path))
		}
		if m.Kind != Bind || m.Source != filepath.Join(own, c.path) || !m.create {
			t.Errorf("%q shows %+v", c.context, m)
		}
	}
	// What lies in a kept directory is kept with it.
	for _, m := range mustPlan(t, h, "[Context]\npersistent=.foo/bar;.foo\n").Mounts {
		if m.Dest == h.Home+"/.foo/bar" {
			t.Errorf("something is mounted through a link: %+v", m)
		}
	}
}

func TestMetadata(t *testing.T) {
	p := parseProfile(t, firefox)
	want := `[Application]
name=org.mozilla.firefox

[Instance]
instance-id=sbx-00000001
session-bus-proxy=true
flatpak-version=1.14.4

[Context]
shared=network;
sockets=wayland;fallback-x11;pulseaudio;
devices=dri;
filesystems=~/.mozilla:create;
features=userns;

[Session Bus Policy]
org.mpris.MediaPlayer2.firefox.*=own
`
	if got := string(metadata(p, "sbx-00000001")); got != want {
		t.Errorf("got\n%s", got)
	}
}

func TestProxyRules(t *testing.T) {
	p := parseProfile(t, firefox, "[Session Bus Policy]\norg.a.b=talk\norg.a.c=see\n[System Bus Policy]\norg.s.x=talk\n")
	want := []string{
		"--filter", "--own=org.mozilla.firefox.*", "--own=org.mpris.MediaPlayer2.org.mozilla.firefox.*",
		"--call=org.freedesktop.portal.Desktop=*", "--broadcast=org.freedesktop.portal.Desktop=@/org/freedesktop/portal/*",
		"--call=org.freedesktop.portal.Documents=*", "--broadcast=org.freedesktop.portal.Documents=@/org/freedesktop/portal/*",
		"--call=org.freedesktop.portal.IBus=*", "--broadcast=org.freedesktop.portal.IBus=@/org/freedesktop/portal/*",
		"--call=org.freedesktop.portal.Fcitx=*", "--broadcast=org.freedesktop.portal.Fcitx=@/org/freedesktop/portal/*",
		"--own=org.mpris.MediaPlayer2.firefox.*", "--talk=org.a.b", "--see=org.a.c",
	}
	if got := sessionRules(p); !slices.Equal(got, want) {
		t.Errorf("session\n got %q\nwant %q", got, want)
	}
	if got, want := systemRules(p), []string{"--filter", "--talk=org.s.x"}; !slices.Equal(got, want) {
		t.Errorf("system: got %q, want %q", got, want)
	}
}

func TestArguments(t *testing.T) {
	h := testHost(t)
	all := Features{BindFD: true, DisableUsers: true}
	for _, c := range []struct {
		name, text    string
		features      Features
		with, without []string
	}{
		{"bare", "", all, []string{"--unshare-user", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try", "--unshare-ipc", "--unshare-net", "--disable-userns", "--die-with-parent", "--block-fd", "--sync-fd", "--info-fd", "--seccomp"}, nil},
		{"network", "[Context]\nshared=network\n", all, nil, []string{"--unshare-net"}},
		{"ipc", "[Context]\nshared=ipc\n", all, []string{"--unshare-net"}, []string{"--unshare-ipc"}},
		{"userns", "[Context]\nfeatures=userns\n", all, []string{"--unshare-user"}, []string{"--disable-userns"}},
		{"old bwrap", "", Features{}, []string{"--unshare-user"}, []string{"--disable-userns", "--bind-fd", "--ro-bind-fd"}},
	} {
		args := mustPlan(t, h, c.text).appArgv(c.features)
		for _, a := range c.with {
			if !slices.Contains(args, a) {
				t.Errorf("%s: no %s in %q", c.name, a, args)
			}
		}
		for _, a := range c.without {
			if slices.Contains(args, a) {
				t.Errorf("%s: %s in %q", c.name, a, args)
			}
		}
		i := slices.Index(args, "--")
		if i < 0 || !IsGate(args[i+1:]) || !slices.Equal(args[len(args)-2:], []string{"-c", "true"}) {
			t.Errorf("%s: command %q", c.name, args)
		}
	}
}

func TestMetadataIsMountedTwiceInBothSandboxes(t *testing.T) {
	pl := mustPlan(t, testHost(t), "")
	for name, args := range map[string][]string{
		"app":   pl.appArgv(Features{}),
		"proxy": pl.proxyArgv("/usr/bin/xdg-dbus-proxy", Features{}),
	} {
		text := strings.Join(args, " ")
		file, data := strings.Index(text, "--perms 0600 --file "), strings.Index(text, "--ro-bind-data ")
		if file < 0 || data < file || strings.Count(text, " /.flatpak-info ") < 2 {
			t.Errorf("%s: %s", name, text)
		}
	}
}

func TestEnvironment(t *testing.T) {
	h := testHost(t)
	h.Env = map[string]string{
		"LANG": "de_DE", "LC_TIME": "C", "TERM": "xterm", "SECRET_TOKEN": "x", "LD_PRELOAD": "/x", "DISPLAY": ":0", "WAYLAND_DISPLAY": "w",
		"SSH_AUTH_SOCK": "/x", "https_proxy": "p", "HOME": "/elsewhere", "PATH": "/hostile", "DBUS_SESSION_BUS_ADDRESS": "unix:path=/real",
	}
	own := h.Home + "/.var/app/org.example.App"
	pl := mustPlan(t, h, "[Context]\nunset-environment=LC_TIME\n[Environment]\nFOO=bar\n")
	for name, want := range map[string]string{
		"LANG": "de_DE", "TERM": "xterm", "LC_TIME": "", "SECRET_TOKEN": "", "LD_PRELOAD": "", "DISPLAY": "", "WAYLAND_DISPLAY": "", "SSH_AUTH_SOCK": "", "https_proxy": "",
		"HOME": h.Home, "PATH": sandboxPath, "FOO": "bar", "FLATPAK_ID": "org.example.App", "container": "flatpak",
		"XDG_RUNTIME_DIR": h.RuntimeDir, "DBUS_SESSION_BUS_ADDRESS": "unix:path=" + h.RuntimeDir + "/bus", "DBUS_SYSTEM_BUS_ADDRESS": "",
		"XDG_DATA_HOME": own + "/data", "XDG_CONFIG_HOME": own + "/config", "XDG_CACHE_HOME": own + "/cache", "XDG_STATE_HOME": own + "/.local/state",
	} {
		if got := pl.Env[name]; got != want {
			t.Errorf("%s=%q, want %q", name, got, want)
		}
	}
	if got := mustPlan(t, h, "[Context]\nshared=network\n").Env["https_proxy"]; got != "p" {
		t.Errorf("https_proxy=%q with network", got)
	}
}

func TestSocketsAreGrantedByName(t *testing.T) {
	h := testHost(t)
	listen := func(path string) string {
		os.MkdirAll(filepath.Dir(path), 0o700)
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return path
	}
	h.Env["WAYLAND_DISPLAY"] = "wayland-7"
	wayland := listen(h.RuntimeDir + "/wayland-7")
	pulse := listen(h.RuntimeDir + "/pulse/native")
	h.Env["SSH_AUTH_SOCK"] = listen(h.RuntimeDir + "/ssh")
	write(t, h.RuntimeDir+"/wayland-8", "not a socket")
	for _, c := range []struct{ words, path, source, env, value string }{
		{"wayland", wayland, wayland, "WAYLAND_DISPLAY", "wayland-7"},
		{"", wayland, "", "WAYLAND_DISPLAY", ""},
		{"wayland;fallback-x11", wayland, wayland, "DISPLAY", ""},
		{"pulseaudio", pulse, pulse, "PULSE_SERVER", "unix:" + pulse},
		{"", pulse, "", "PULSE_SERVER", ""},
		{"ssh-auth", "/run/flatpak/ssh-auth", h.Env["SSH_AUTH_SOCK"], "SSH_AUTH_SOCK", "/run/flatpak/ssh-auth"},
		{"", h.Env["SSH_AUTH_SOCK"], "", "SSH_AUTH_SOCK", ""},
	} {
		pl := mustPlan(t, h, "[Context]\nsockets="+c.words+"\n")
		if m := pl.shows(c.path); m.Source != c.source {
			t.Errorf("%q: %s shows %+v", c.words, c.path, m)
		}
		if got := pl.Env[c.env]; got != c.value {
			t.Errorf("%q: %s=%q, want %q", c.words, c.env, got, c.value)
		}
	}
	h.Env["WAYLAND_DISPLAY"] = "wayland-8"
	if m := mustPlan(t, h, "[Context]\nsockets=wayland\n").shows(h.RuntimeDir + "/wayland-8"); m.Kind != Tmpfs {
		t.Errorf("a file passed for a socket: %+v", m)
	}
	h.Env["WAYLAND_DISPLAY"] = "../wayland-8"
	mustPlan(t, h, "[Context]\nsockets=wayland\n")
}

func TestProgramMustBeThereAndVisible(t *testing.T) {
	h := testHost(t)
	write(t, h.Home+"/bin/tool", "#!/bin/sh\n")
	os.Chmod(h.Home+"/bin/tool", 0o755)
	write(t, h.Home+"/bin/text", "")
	for _, c := range []struct {
		command, more, want string
		missing             bool
	}{
		{"no-such-program;nor-this", "", "org.example.App: not installed: no program no-such-program or nor-this", true},
		{h.Home + "/bin/tool", "", h.Home + "/bin/tool is not visible in the sandbox; --filesystem=" + h.Home + "/bin:ro would show it", false},
		{h.Home + "/bin/tool", "[Context]\nfilesystems=~/bin:ro\n", "", false},
		{h.Home + "/bin/none", "[Context]\nfilesystems=~/bin:ro\n", "org.example.App: not installed", true},
		{"no-such-program;sh", "", "", false},
		{h.Home + "/bin", "", "org.example.App: not installed", true},
		{"", "", "org.example.App: no command=", true},
	} {
		p := parseProfile(t, "[Application]\nname=org.example.App\ncommand="+c.command+"\n"+c.more)
		pl, err := NewPlan(p, h, "sbx-00000001", Request{})
		if err == nil {
			pl.Close()
		}
		unusable, _ := err.(*Unusable)
		if (err == nil) != (c.want == "") || err != nil && (!strings.HasPrefix(err.Error(), c.want) || unusable == nil || unusable.Missing != c.missing) {
			t.Errorf("%q: %v, want %q", c.command, err, c.want)
		}
	}
}

func TestPlanRefusesIDsThatWouldBeTheHost(t *testing.T) {
	for _, id := range []string{"", "firefox", "snap.a.b", "org.freedesktop.Foo", "a..b", "a/b.c"} {
		if pl, err := NewPlan(&Profile{Name: id, Command: []Word{{Text: "sh"}}}, testHost(t), "sbx-00000001", Request{}); err == nil {
			pl.Close()
			t.Errorf("%q was planned", id)
		}
	}
}

func TestBindsForDocportal(t *testing.T) {
	h := testHost(t)
	os.Mkdir(h.Home+"/Music", 0o700)
	binds := mustPlan(t, h, "[Context]\nfilesystems=~/Music:ro\npersistent=keep\n").Binds()
	own := h.Home + "/.var/app/org.example.App"
	for _, want := range []string{"true " + h.Home + "/Music " + h.Home + "/Music", "false " + own + " " + own, "false " + own + "/keep " + own + "/keep", "true /usr /usr"} {
		found := false
		for _, b := range binds {
			found = found || want == map[bool]string{true: "true ", false: "false "}[b.ReadOnly]+b.Host+" "+b.Sandbox
		}
		if !found {
			t.Errorf("no bind %q in %v", want, binds)
		}
	}
}

func TestBindsTellWhatIsCovered(t *testing.T) {
	h := testHost(t)
	binds := mustPlan(t, h, "[Context]\nfilesystems=home\n").Binds()
	for _, name := range reservedInHome[:len(reservedInHome)-1] {
		covered := false
		for _, b := range binds {
			if b.Sandbox == h.Home+"/"+name {
				covered = b.Host == "/dev/null" && b.ReadOnly
			}
		}
		if !covered {
			t.Errorf("%s is not listed as covered", name)
		}
	}
	for _, b := range mustPlan(t, h, "").Binds() {
		if b.Host == "/dev/null" {
			t.Errorf("%s covers nothing of the host", b.Sandbox)
		}
	}
}

func TestReservedPathUnderAnotherNameIsRefused(t *testing.T) {
	h := testHost(t)
	l, err := net.Listen("unix", h.SessionBus.Sockets[0])
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Link(h.SessionBus.Sockets[0], h.Home+"/innocent"); err != nil {
		t.Fatal(err)
	}
	if _, err := plan(t, h, "[Context]\nfilesystems=~/innocent\n"); err == nil || !strings.Contains(err.Error(), "never inside a sandbox: a message bus") {
		t.Errorf("got %v", err)
	}
}

// A directory that is granted in the runtime directory is there, also beside a
// grant that the whole runtime directory lies in.
func TestGrantsInTheRuntimeDirectory(t *testing.T) {
	h := testHost(t)
	dir := filepath.Join(h.RuntimeDir, "gvfsd")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, words := range []string{"xdg-run/gvfsd:ro", filepath.Dir(h.RuntimeDir) + ";xdg-run/gvfsd:ro"} {
		pl := mustPlan(t, h, "[Context]\nfilesystems="+words+"\n")
		if m := pl.shows(dir); m.Source != dir || m.Kind != ROBind {
			t.Errorf("%s: %s shows %+v", words, dir, m)
		}
		if m := pl.shows(filepath.Join(h.RuntimeDir, "other")); m.Kind != Tmpfs {
			t.Errorf("%s: the runtime directory shows %+v", words, m)
		}
	}
}

func TestWhatIsTheSameForEveryApp(t *testing.T) {
	pl := mustPlan(t, testHost(t), "")
	for path, want := range map[string]Kind{
		"/usr": ROBind, "/etc": ROBind, "/sys/devices": ROBind,
		"/proc": Proc, "/dev": Dev, "/tmp": Tmpfs, "/run": Tmpfs, "/var": Tmpfs, "/var/run": Symlink,
		// Without it the first question for a font takes half a second.
		"/var/cache/fontconfig": ROBind,
	} {
		if want == ROBind && !exists(path) {
			t.Fatalf("this machine has no %s", path)
		}
		if m := pl.shows(path); m.Kind != want || m.Dest != path || want == ROBind && m.Source != path {
			t.Errorf("%s shows %+v", path, m)
		}
	}
	for _, path := range []string{"/bin", "/sbin", "/lib"} {
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		m := pl.shows(path)
		if to, _ := os.Readlink(path); m.Dest != path || info.Mode()&os.ModeSymlink != 0 && (m.Kind != Symlink || m.Source != to) || info.IsDir() && m.Kind != ROBind {
			t.Errorf("%s shows %+v, and is %v", path, m, info.Mode())
		}
	}
	// Nothing else of the machine.
	for _, path := range []string{"/sys/kernel", "/sys/fs", "/sys/firmware", "/var/lib", "/var/log", "/root", "/boot", "/home"} {
		if m := pl.shows(path); m.Dest != "" && (m.Kind == Bind || m.Kind == ROBind) {
			t.Errorf("%s shows %+v", path, m)
		}
	}
}

// A resolv.conf that links out of /etc is found where it leads, and as a
// directory, since the file is replaced.
func TestResolverTargets(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"etc", "run/resolve"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, dir+"/run/resolve/stub.conf", "nameserver ::1\n")
	write(t, dir+"/etc/plain", "nameserver ::1\n")
	for name, to := range map[string]string{"absolute": dir + "/run/resolve/stub.conf", "relative": "../run/resolve/stub.conf", "twice": "relative", "dangling": "/run/none"} {
		if err := os.Symlink(to, filepath.Join(dir, "etc", name)); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string][]string{
		"absolute": {dir + "/run/resolve"}, "relative": {dir + "/run/resolve"},
		"twice": {dir + "/etc", dir + "/run/resolve"}, "dangling": nil, "plain": nil, "missing": nil,
	} {
		if got := resolverTargets(filepath.Join(dir, "etc", name)); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}
