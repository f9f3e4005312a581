package desktop

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"docportal/internal/keyfile"
)

// host is a session with a home and a system of its own.
type host struct {
	*testing.T
	Dirs
	root string
}

func newHost(t *testing.T) *host {
	root := t.TempDir()
	return &host{t, Dirs{
		filepath.Join(root, "home/.local/share"), filepath.Join(root, "home/.config"),
		[]string{filepath.Join(root, "local"), filepath.Join(root, "usr")}, []string{filepath.Join(root, "xdg")},
	}, root}
}

func (h *host) write(name, text string) {
	h.Helper()
	path := filepath.Join(h.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		h.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		h.Fatal(err)
	}
}

// tree is every file below the home, with its text.
func (h *host) tree() map[string]string {
	h.Helper()
	all := map[string]string{}
	dir := filepath.Join(h.root, "home")
	filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		rel, _ := filepath.Rel(dir, path)
		data, _ := os.ReadFile(path)
		all[rel] = string(data)
		return nil
	})
	return all
}

func (h *host) install(a *App) *Changes {
	h.Helper()
	c, err := a.Install(h.Dirs)
	if err != nil {
		h.Fatal(err)
	}
	if err := UpdateCache(h.Dirs); err != nil {
		h.Fatal(err)
	}
	return c
}

// wantFiles are the names of the files that were made, and nothing else.
func (h *host) wantFiles(names ...string) {
	h.Helper()
	var have []string
	for name, text := range h.tree() {
		if strings.HasPrefix(text, markStart) {
			have = append(have, name)
		}
	}
	slices.Sort(have)
	slices.Sort(names)
	if !slices.Equal(have, names) {
		h.Errorf("files\n%s\nwant\n%s", strings.Join(have, "\n"), strings.Join(names, "\n"))
	}
}

// want is one value of a file in the home; "" says that the key is not there.
func (h *host) want(name, group, key, value string) {
	h.Helper()
	f, err := read(filepath.Join(h.root, "home", name))
	if err != nil {
		h.Error(err)
		return
	}
	got, err := f.String(group, key)
	if err != nil || got != value || f.Has(group, key) != (value != "") {
		h.Errorf("%s: [%s] %s=%q (%v), want %q", name, group, key, got, err, value)
	}
}

func app(id string, commands ...string) *App {
	return &App{ID: id, Commands: commands, Launcher: "/usr/bin/sbx-run", Owns: func(name string) bool {
		return name == id || strings.HasPrefix(name, id+".")
	}}
}

const apps = ".local/share/applications/"

// As Debian has it: an entry of another name, which people have chosen as
// their browser.
func TestAnEntryOfAnotherName(t *testing.T) {
	h := newHost(t)
	h.write("usr/applications/firefox-esr.desktop", `[Desktop Entry]
Type=Application
Name=Firefox
Name[de]=Feuerfuchs
Exec=/usr/lib/firefox-esr/firefox-esr %u
TryExec=/usr/lib/firefox-esr/firefox-esr
Icon=firefox-esr
MimeType=text/html;x-scheme-handler/https;
StartupWMClass=firefox-esr
Actions=new;gone;private;
DBusActivatable=true

[Desktop Action new]
Name=New Window
Exec=/usr/lib/firefox-esr/firefox-esr --new-window %u

[Desktop Action gone]
Name=Only by the bus

[Desktop Action private]
Name=Private
Exec=/usr/bin/firefox-helper "a b" 100%% %i
`)
	h.write("usr/applications/other.desktop", "[Desktop Entry]\nType=Application\nName=Other\nExec=other\nMimeType=text/html;\n")
	a := app("org.mozilla.firefox", "firefox", "firefox-esr")
	if c := h.install(a); len(c.Written) != 2 || len(c.Kept) != 0 {
		t.Errorf("%+v", c)
	}
	h.wantFiles(apps+"org.mozilla.firefox.desktop", apps+"firefox-esr.desktop")
	own, other := apps+"org.mozilla.firefox.desktop", apps+"firefox-esr.desktop"
	for key, value := range map[string]string{
		"Name": "Firefox", "Name[de]": "Feuerfuchs", "Icon": "firefox-esr", "StartupWMClass": "firefox-esr",
		"MimeType": "text/html;x-scheme-handler/https;", "Actions": "new;private;",
		"Exec":      "/usr/bin/sbx-run --file-forwarding org.mozilla.firefox @@u %u @@",
		"X-Flatpak": "org.mozilla.firefox", "TryExec": "", "DBusActivatable": "", "NoDisplay": "",
	} {
		h.want(own, groupEntry, key, value)
	}
	h.want(own, groupAction+"new", "Exec", "/usr/bin/sbx-run --file-forwarding org.mozilla.firefox --new-window @@u %u @@")
	h.want(own, groupAction+"new", "Name", "New Window")
	h.want(own, groupAction+"private", "Exec", `/usr/bin/sbx-run --file-forwarding --command=/usr/bin/firefox-helper org.mozilla.firefox "a b" 100%% %i`)
	// What names the old entry starts the app in its sandbox, too.
	h.want(other, groupEntry, "Exec", "/usr/bin/sbx-run --file-forwarding org.mozilla.firefox @@u %u @@")
	h.want(other, groupEntry, "NoDisplay", "true")
	h.want(other, groupEntry, "MimeType", "")
	h.want(other, groupEntry, "X-Flatpak", "")
	h.want(apps+cacheName, "MIME Cache", "text/html", "org.mozilla.firefox.desktop;")
	// Once more changes nothing.
	before := h.tree()
	if c := h.install(a); c.Any() || len(c.Same) != 2 {
		t.Errorf("again: %+v", c)
	}
	if !maps.Equal(before, h.tree()) {
		t.Error("the second time changed something")
	}
}

// As LibreOffice has it: one program, an entry for each kind of document.
func TestSeveralEntries(t *testing.T) {
	h := newHost(t)
	for name, exec := range map[string]string{
		"startcenter": "libreoffice %U", "writer": "libreoffice --writer %U", "calc": "env A=b libreoffice --calc %F",
		"xsltfilter": "libreoffice %U\nNoDisplay=true", "hidden": "libreoffice\nHidden=true", "service": "libreoffice --service\nNoDisplay=true",
	} {
		mime := "MimeType=application/x-" + name + ";\n"
		if name == "service" {
			mime = ""
		}
		h.write("usr/applications/libreoffice-"+name+".desktop", "[Desktop Entry]\nType=Application\nName="+name+"\nExec="+exec+"\n"+mime)
	}
	// Programs of others that have a name in common.
	h.write("usr/applications/office.desktop", "[Desktop Entry]\nType=Application\nName=x\nExec=libreoffice --other\n")
	h.write("usr/applications/libreoffice-like.desktop", "[Desktop Entry]\nType=Application\nName=x\nExec=other\n")
	h.install(app("org.libreoffice.LibreOffice", "libreoffice", "soffice"))
	id := apps + "org.libreoffice.LibreOffice"
	h.wantFiles(id+".desktop", id+".writer.desktop", id+".calc.desktop", id+".xsltfilter.desktop",
		apps+"libreoffice-startcenter.desktop", apps+"libreoffice-writer.desktop", apps+"libreoffice-calc.desktop", apps+"libreoffice-xsltfilter.desktop")
	h.want(id+".desktop", groupEntry, "Name", "startcenter")
	h.want(id+".writer.desktop", groupEntry, "Exec", "/usr/bin/sbx-run --file-forwarding org.libreoffice.LibreOffice --writer @@u %U @@")
	h.want(id+".calc.desktop", groupEntry, "Exec", "/usr/bin/sbx-run --file-forwarding --env=A=b org.libreoffice.LibreOffice --calc @@ %F @@")
	h.want(id+".xsltfilter.desktop", groupEntry, "NoDisplay", "true")
}

// Of two entries of one name the more important directory's counts.
func TestTheFirstDirectoryCounts(t *testing.T) {
	h := newHost(t)
	for dir, text := range map[string]string{"usr": "Name=Distribution's\nExec=x %u", "local": "Name=Administrator's\nExec=x --local %u"} {
		h.write(dir+"/applications/org.example.X.desktop", "[Desktop Entry]\nType=Application\n"+text+"\n")
		h.write(dir+"/dbus-1/services/org.example.X.service", "[D-BUS Service]\nName=org.example.X\nExec=x --"+dir+"\n")
	}
	h.install(app("org.example.X", "x"))
	h.want(apps+"org.example.X.desktop", groupEntry, "Name", "Administrator's")
	h.want(".local/share/dbus-1/services/org.example.X.service", groupService, "Exec", "/usr/bin/sbx-run org.example.X --local")
	// Hidden there, it is gone.
	h.write("local/applications/org.example.X.desktop", "[Desktop Entry]\nType=Application\nHidden=true\n")
	h.install(app("org.example.X", "x"))
	h.want(apps+"org.example.X.desktop", groupEntry, "NoDisplay", "true")
}

// What the bus or the start of the session would start outside.
func TestActivationAndAutostart(t *testing.T) {
	h := newHost(t)
	h.write("usr/applications/im.dino.Dino.desktop", "[Desktop Entry]\nType=Application\nName=Dino\nExec=dino-im %U\nDBusActivatable=true\n")
	service := func(name, exec string) {
		h.write("usr/dbus-1/services/"+name+".service", "[D-BUS Service]\nName="+name+"\nExec="+exec+"\nSystemdService=x.service\n")
	}
	service("im.dino.Dino", "dino-im")
	service("im.dino.Dino.SearchProvider", "/usr/libexec/dino-search '--a b'")
	service("org.example.Old", "/usr/bin/dino-im --old")
	service("org.example.Other", "/usr/bin/other")
	service("im.dino.DinoLike", "/usr/bin/other")
	service("im.dino.Dino.Flatpak", "/usr/bin/flatpak run im.dino.Dino")
	h.write("xdg/autostart/dino-daemon.desktop", "[Desktop Entry]\nType=Application\nName=Dino\nExec=dino-im --daemon\n")
	h.write("xdg/autostart/other.desktop", "[Desktop Entry]\nType=Application\nName=Other\nExec=other\n")
	if got := h.Activatable("im.dino.Dino"); !slices.Equal(got, []string{"im.dino.Dino.Flatpak", "im.dino.Dino.SearchProvider", "im.dino.Dino"}) {
		t.Errorf("activatable: %q", got)
	}
	h.install(app("im.dino.Dino", "dino-im", "dino"))
	if got := h.Activatable("im.dino.Dino"); !slices.Equal(got, []string{"im.dino.Dino.Flatpak"}) {
		t.Errorf("activatable after the installation: %q", got)
	}
	services := ".local/share/dbus-1/services/"
	h.wantFiles(apps+"im.dino.Dino.desktop", ".config/autostart/dino-daemon.desktop",
		services+"im.dino.Dino.service", services+"im.dino.Dino.SearchProvider.service", services+"org.example.Old.service")
	h.want(services+"im.dino.Dino.service", groupService, "Exec", "/usr/bin/sbx-run im.dino.Dino")
	h.want(services+"im.dino.Dino.service", groupService, "SystemdService", "")
	h.want(services+"im.dino.Dino.SearchProvider.service", groupService, "Exec", "/usr/bin/sbx-run --command=/usr/libexec/dino-search im.dino.Dino '--a b'")
	// A name that it cannot have in its sandbox would be waited for in vain.
	h.want(services+"org.example.Old.service", groupService, "Exec", "/bin/false")
	h.want(".config/autostart/dino-daemon.desktop", groupEntry, "Exec", "/usr/bin/sbx-run --file-forwarding im.dino.Dino --daemon")
}

// Programs that run the programs of many apps say nothing.
func TestInterpretersAreNobodys(t *testing.T) {
	h := newHost(t)
	h.write("usr/applications/sh-tool.desktop", "[Desktop Entry]\nType=Application\nName=x\nExec=sh -c tool\n")
	h.write("usr/dbus-1/services/org.example.Tool.service", "[D-BUS Service]\nName=org.example.Tool\nExec=/bin/sh -c tool\n")
	h.write("xdg/autostart/tool.desktop", "[Desktop Entry]\nType=Application\nName=x\nExec=python3.11 tool\n")
	h.install(app("org.example.App", "sh", "python3"))
	h.wantFiles(apps + "org.example.App.desktop")
	h.want(apps+"org.example.App.desktop", groupEntry, "NoDisplay", "true")
	h.want(apps+"org.example.App.desktop", groupEntry, "Name", "App")
}

func TestUninstallLeavesNothing(t *testing.T) {
	for _, own := range []map[string]string{
		{},
		{
			apps + "mine.desktop":            "[Desktop Entry]\nType=Application\nName=Mine\nExec=mine\nMimeType=text/x;\n",
			apps + cacheName:                 "[MIME Cache]\ntext/x=mine.desktop;\n",
			".config/autostart/a.desktop":    "[Desktop Entry]\nType=Application\nName=A\nExec=a\n",
			".config/mimeapps.list":          "[Default Applications]\ntext/html=firefox.desktop\n",
			".local/share/dbus-1/services/x": "x",
		},
	} {
		h := newHost(t)
		h.write("home/.keep", "")
		h.write("home/.local/share/x", "")
		h.write("home/.config/x", "")
		for name, text := range own {
			h.write("home/"+name, text)
		}
		h.write("usr/applications/firefox.desktop", "[Desktop Entry]\nType=Application\nName=F\nExec=firefox\nMimeType=text/html;\n")
		h.write("usr/dbus-1/services/f.service", "[D-BUS Service]\nName=org.mozilla.firefox\nExec=firefox\n")
		h.write("xdg/autostart/f.desktop", "[Desktop Entry]\nType=Application\nName=F\nExec=firefox\n")
		before := h.tree()
		h.install(app("org.mozilla.firefox", "firefox"))
		h.install(app("org.example.Two", "two"))
		if c, err := Uninstall("org.mozilla.firefox", h.Dirs); err != nil || len(c.Removed) != 4 || len(c.Kept) != 0 {
			t.Errorf("%+v %v", c, err)
		}
		h.wantFiles(apps + "org.example.Two.desktop") // another app's stays
		if _, err := Uninstall("org.example.Two", h.Dirs); err != nil {
			t.Error(err)
		}
		if err := UpdateCache(h.Dirs); err != nil {
			t.Error(err)
		}
		if after := h.tree(); !maps.Equal(before, after) {
			t.Errorf("before\n%q\nafter\n%q", before, after)
		}
		if c, err := Uninstall("org.mozilla.firefox", h.Dirs); err != nil || c.Any() {
			t.Errorf("a second time: %+v %v", c, err)
		}
	}
}

// What is not ours, or was changed, is never touched.
func TestThePersonsOwnFiles(t *testing.T) {
	const theirs = "[Desktop Entry]\nType=Application\nName=My own\nExec=firefox -P work\n"
	h := newHost(t)
	h.write("usr/applications/firefox.desktop", "[Desktop Entry]\nType=Application\nName=F\nExec=firefox\nMimeType=text/html;\n")
	h.write("usr/dbus-1/services/f.service", "[D-BUS Service]\nName=org.mozilla.firefox\nExec=firefox\n")
	a := app("org.mozilla.firefox", "firefox")

	// In the way of the app's own entry: nothing is made.
	for _, prepare := range []func(path string) error{
		func(path string) error { return os.WriteFile(path, []byte(theirs), 0o600) },
		func(path string) error { return os.Symlink("/nowhere", path) },
		func(path string) error { return os.Mkdir(path, 0o700) },
		func(path string) error { return os.WriteFile(path, marked("org.example.Other", []byte(theirs)), 0o600) },
		func(path string) error {
			return os.WriteFile(path, append(marked(a.ID, []byte(theirs)), "# changed\n"...), 0o600)
		},
	} {
		path := filepath.Join(h.DataHome, "applications", "org.mozilla.firefox.desktop")
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := prepare(path); err != nil {
			t.Fatal(err)
		}
		before := h.tree()
		if _, err := a.Install(h.Dirs); err == nil || !strings.Contains(err.Error(), "is in the way") {
			t.Errorf("error %v", err)
		}
		if _, err := Uninstall(a.ID, h.Dirs); err != nil {
			t.Error(err)
		}
		if !maps.Equal(before, h.tree()) {
			t.Error("something was changed")
		}
		os.RemoveAll(path)
	}

	// In the way of another one: it stays, and is named.
	h.write("home/"+apps+"firefox.desktop", theirs)
	if c := h.install(a); len(c.Kept) != 1 || len(c.Written) != 2 {
		t.Errorf("%+v", c)
	}
	h.want(apps+"firefox.desktop", groupEntry, "Name", "My own")
	// Changed after it was made: it stays, now and at the end.
	service := ".local/share/dbus-1/services/org.mozilla.firefox.service"
	h.write("home/"+service, h.tree()[service]+"# mine\n")
	if c := h.install(a); len(c.Kept) != 2 || c.Any() {
		t.Errorf("%+v", c)
	}
	if c, err := Uninstall(a.ID, h.Dirs); err != nil || len(c.Kept) != 1 || len(c.Removed) != 1 {
		t.Errorf("%+v %v", c, err)
	}
	if _, ok := h.tree()[service]; !ok {
		t.Error("the changed file is gone")
	}
}

// An update of the package or of the profile is followed.
func TestInstallAgainAfterAnUpdate(t *testing.T) {
	h := newHost(t)
	h.write("usr/applications/firefox.desktop", "[Desktop Entry]\nType=Application\nName=Old\nExec=firefox\nMimeType=text/html;\n")
	a := app("org.mozilla.firefox", "firefox")
	h.install(a)
	os.Remove(filepath.Join(h.root, "usr/applications/firefox.desktop"))
	h.write("local/applications/org.mozilla.firefox.desktop", "[Desktop Entry]\nType=Application\nName=New\nExec=firefox %u\n")
	if c := h.install(a); len(c.Written) != 1 || len(c.Removed) != 1 {
		t.Errorf("%+v", c)
	}
	h.wantFiles(apps + "org.mozilla.firefox.desktop")
	h.want(apps+"org.mozilla.firefox.desktop", groupEntry, "Name", "New")
	if _, ok := h.tree()[apps+cacheName]; ok {
		t.Error("the list of types is still there")
	}
}

func TestAFlatpakOfTheSameIdStays(t *testing.T) {
	for _, where := range []string{"usr/applications", "home/.local/share/flatpak/exports/share/applications"} {
		h := newHost(t)
		h.write(where+"/org.mozilla.firefox.desktop", "[Desktop Entry]\nType=Application\nName=F\nExec=/usr/bin/flatpak run org.mozilla.firefox\nX-Flatpak=org.mozilla.firefox\n")
		before := h.tree()
		if _, err := app("org.mozilla.firefox", "firefox").Install(h.Dirs); !errors.Is(err, ErrFlatpak) {
			t.Error(err)
		}
		if !maps.Equal(before, h.tree()) {
			t.Error("something was changed")
		}
	}
}

// Whatever an entry of the system says, what is made of it can be read, and
// starts the launcher.
func FuzzRewrite(f *testing.F) {
	f.Add("Exec=app %U\nName=x")
	f.Add("Exec=app \"a\\\\\"b\" '%u'\nActions=a;b;\n[Desktop Action a]\nExec=\"x y\" %f")
	f.Add("Exec=env A=B app\nPath=/x\nDBusActivatable=true")
	a := app("org.example.App", "app")
	f.Fuzz(func(t *testing.T, text string) {
		parsed, err := keyfile.Parse([]byte("[Desktop Entry]\nType=Application\n" + text))
		if err != nil {
			return
		}
		k := keyFile{"x.desktop", "app", parsed}
		c, err := parseCommand(k.value(groupEntry, "Exec"))
		if err != nil {
			return
		}
		out, err := a.rewrite(entry{k, c}, c.program)
		if err != nil {
			return
		}
		for _, f := range []*keyfile.File{out, alias(out)} {
			again, err := keyfile.Parse(f.Bytes())
			if err != nil {
				t.Fatalf("%q: %v", f.Bytes(), err)
			}
			for _, g := range again.Groups() {
				if g.Name != groupEntry && !strings.HasPrefix(g.Name, groupAction) {
					t.Fatalf("group %q", g.Name)
				}
				exec, err := again.String(g.Name, "Exec")
				if err != nil {
					t.Fatal(err)
				}
				args, err := splitCommand(exec)
				if err != nil || args[0] != "/usr/bin/sbx-run" || !slices.Contains(args, a.ID) {
					t.Fatalf("%q is %q (%v)", exec, args, err)
				}
			}
			for _, key := range []string{"DBusActivatable", "TryExec", "Hidden"} {
				if again.Has(groupEntry, key) {
					t.Fatal(key)
				}
			}
		}
	})
}
