package integration

import (
	"bytes"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"docportal/integration/session"
)

//go:embed testdata/portal.py
var portalProgram string

// person answers the desktop portal's questions about autostart and launchers,
// and does with an autostart entry what GNOME's backend does with it.
type person struct {
	home   string
	choice string // the app that shall open files

	mu    sync.Mutex
	asked []string
}

func (p *person) say(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = append(p.asked, what)
}

// wantAsked compares all that the person was asked.
func (p *person) wantAsked(t *testing.T, want ...string) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if !slices.Equal(p.asked, want) {
		t.Errorf("the person was asked\n%q\nwant\n%q", p.asked, want)
	}
}

func (p *person) EnableAutostart(app string, enable bool, command []string, flags uint32) (bool, *dbus.Error) {
	p.say(fmt.Sprintf("EnableAutostart %s %v %q %d", app, enable, command, flags))
	var quoted []string
	for _, w := range command {
		quoted = append(quoted, `"`+strings.NewReplacer(`\`, `\\\\`, `"`, `\\"`, `$`, `\\$`, "`", "\\\\`").Replace(w)+`"`)
	}
	entry := "[Desktop Entry]\nType=Application\nName=" + app + "\nExec=" + strings.Join(quoted, " ") + "\nX-Flatpak=" + app + "\n"
	dir := filepath.Join(p.home, ".config/autostart")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return false, dbus.MakeFailedError(err)
	}
	if err := os.WriteFile(filepath.Join(dir, app+".desktop"), []byte(entry), 0o600); err != nil {
		return false, dbus.MakeFailedError(err)
	}
	return enable, nil
}

func (p *person) GetAppState() (map[string]dbus.Variant, *dbus.Error) {
	return map[string]dbus.Variant{}, nil
}

func (p *person) NotifyBackground(_ dbus.ObjectPath, app, _ string) (uint32, map[string]dbus.Variant, *dbus.Error) {
	return 0, map[string]dbus.Variant{"result": dbus.MakeVariant(uint32(1))}, nil
}

// AccessDialog belongs to org.freedesktop.impl.portal.Access, without which
// there is no Background.
func (p *person) AccessDialog(_ dbus.ObjectPath, app, _, title, _, _ string, _ map[string]dbus.Variant) (uint32, map[string]dbus.Variant, *dbus.Error) {
	p.say("AccessDialog " + app + " " + title)
	return 0, map[string]dbus.Variant{}, nil
}

func (p *person) PrepareInstall(_ dbus.ObjectPath, app, _, name string, icon dbus.Variant, _ map[string]dbus.Variant) (uint32, map[string]dbus.Variant, *dbus.Error) {
	p.say("PrepareInstall " + app + " " + name)
	var picture struct { // a GBytesIcon
		Kind string
		Data dbus.Variant
	}
	if err := dbus.Store([]any{icon.Value()}, &picture); err != nil {
		return 2, nil, dbus.MakeFailedError(err)
	}
	return 0, map[string]dbus.Variant{"name": dbus.MakeVariant(name), "icon": dbus.MakeVariant(dbus.MakeVariant(picture))}, nil
}

func (p *person) RequestInstallToken(app string, _ map[string]dbus.Variant) (uint32, *dbus.Error) {
	return 2, nil
}

func (p *person) ChooseApplication(_ dbus.ObjectPath, app, _ string, choices []string, _ map[string]dbus.Variant) (uint32, map[string]dbus.Variant, *dbus.Error) {
	p.say(fmt.Sprintf("ChooseApplication %s %v", app, slices.Contains(choices, p.choice)))
	return 0, map[string]dbus.Variant{"choice": dbus.MakeVariant(p.choice)}, nil
}

// startPerson puts a person in the place of the portal's backend, who opens
// files with the chosen app.
func startPerson(t *testing.T, s *session.Session, choice string) *person {
	t.Helper()
	p := &person{home: s.Home, choice: choice}
	conn := connect(t, s)
	for _, name := range []string{"Access", "AppChooser", "Background", "DynamicLauncher"} {
		if err := conn.Export(p, "/org/freedesktop/portal/desktop", "org.freedesktop.impl.portal."+name); err != nil {
			t.Fatal(err)
		}
	}
	name := "org.freedesktop.impl.portal.desktop." + session.Desktop
	writeFile(t, filepath.Join(s.Home, ".session/portals", session.Desktop+".portal"), `[portal]
DBusName=`+name+`
Interfaces=org.freedesktop.impl.portal.Access;org.freedesktop.impl.portal.AppChooser;org.freedesktop.impl.portal.Background;org.freedesktop.impl.portal.DynamicLauncher;
UseIn=`+session.Desktop+"\n")
	if _, err := conn.RequestName(name, dbus.NameFlagDoNotQueue); err != nil {
		t.Fatal(err)
	}
	return p
}

// standIn is a PATH in which flatpak is sbx-run, and where there is nothing
// else but what a start needs.
func standIn(t *testing.T, s *session.Session) string {
	t.Helper()
	dir := filepath.Join(s.Home, ".session/stand-in")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{
		"flatpak": filepath.Join(s.Stage(), "bin/sbx-run"), "bwrap": "/usr/bin/bwrap", "xdg-dbus-proxy": "/usr/bin/xdg-dbus-proxy",
	} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// installProfile writes the profile of a shell, which any test can start.
func installProfile(t *testing.T, s *session.Session, id string) {
	t.Helper()
	dir := filepath.Join(s.Home, ".config/sbx/profiles")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, id+".profile"), "[Application]\nname="+id+"\ncommand=sh\n")
}

// runs runs a program of the session to its end, which is soon.
func runs(t *testing.T, s *session.Session, cmd *exec.Cmd) string {
	t.Helper()
	var out, message bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &message
	cmd.WaitDelay = 2 * time.Second
	if err := s.Start(cmd); err != nil {
		t.Fatal(err)
	}
	stuck := time.AfterFunc(60*time.Second, func() { cmd.Process.Kill() })
	defer stuck.Stop()
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%q: %v\n%s%s", cmd.Args, err, out.String(), message.String())
	}
	return out.String()
}

// launched launches a desktop entry as a desktop does that has no flatpak, and
// returns what the app wrote.
func launched(t *testing.T, s *session.Session, entry string, uris ...string) string {
	t.Helper()
	path := filepath.Join(s.Home, ".var/app", appA, "data/launched")
	os.Remove(path)
	cmd := s.Command("/usr/bin/gio", append([]string{"launch", entry}, uris...)...)
	cmd.Env = append(slices.DeleteFunc(cmd.Env, func(v string) bool { return strings.HasPrefix(v, "PATH=") }), "PATH="+standInOf(s))
	runs(t, s, cmd)
	var data []byte
	if err := session.Await(10*time.Second, func() (bool, error) {
		data, _ = os.ReadFile(path)
		return bytes.HasSuffix(data, []byte("end\n")), nil
	}); err != nil {
		t.Fatalf("%s: %v: %q", entry, err, data)
	}
	return strings.TrimSuffix(string(data), "end\n")
}

func standInOf(s *session.Session) string { return filepath.Join(s.Home, ".session/stand-in") }

// tell is what the launched app does.
const tell = `{ echo "$FLATPAK_ID" "$@"; echo end; } > "$XDG_DATA_HOME/new"; mv "$XDG_DATA_HOME/new" "$XDG_DATA_HOME/launched"`

// What an app asks the portals to write down starts the app again, where there
// is no flatpak, and cannot take a file of the person's along.
func TestAutostartAndLaunchersStartTheApp(t *testing.T) {
	s := start(t)
	p := startPerson(t, s, "")
	standIn(t, s)
	installProfile(t, s, appA)
	writeFile(t, filepath.Join(s.Home, "secret"), "secret\n")
	if err := os.MkdirAll(filepath.Join(s.Home, ".local/share/applications"), 0o700); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(s.Home, ".local/share/applications", appA+".desktop"), "[Desktop Entry]\nType=Application\nName=A\nExec=sh\n")
	quote := func(s string) string { return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'" }
	secret := filepath.Join(s.Home, "secret")
	background := fmt.Sprintf("('', {'handle_token': <'TOKEN'>, 'reason': <'r'>, 'autostart': <true>, 'commandline': <['sh', '-c', %s, 'sh', 'a b', '@@', %s, '@@', '$x']>})", quote(tell), quote(secret))
	prepare := "('', 'Launcher', PNG, {'handle_token': <'TOKEN'>})"
	entry := fmt.Sprintf("('GOT', '%s.One.desktop', %s, @a{sv} {})", appA,
		quote("[Desktop Entry]\nType=Application\nName=x\nExec=sh "+filepath.Join(s.Home, ".var/app", appA, "data/tell")+" 'a b' @@ "+secret+" @@\n"))
	if err := os.MkdirAll(filepath.Join(s.Home, ".var/app", appA, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(s.Home, ".var/app", appA, "data/tell"), tell)

	got := runs(t, s, s.Command("sbx-run", "--command=python3", appA, "-c", portalProgram,
		"?Background.RequestBackground", background,
		"?DynamicLauncher.PrepareInstall", prepare, "DynamicLauncher.Install", entry))
	t.Log(got)
	p.wantAsked(t,
		fmt.Sprintf(`EnableAutostart %s true ["flatpak" "run" "--command=sh" %q "-c" %q "sh" "a b" "@@" %q "@@" "$x"] 0`, appA, appA, tell, secret),
		"PrepareInstall "+appA+" Launcher",
	)

	said := appA + " a b @@ " + secret + " @@"
	if got := launched(t, s, filepath.Join(s.Home, ".config/autostart", appA+".desktop")); got != said+" $x\n" {
		t.Errorf("the autostart entry started %q", got)
	}
	launcher := filepath.Join(s.Home, ".local/share/applications", appA+".One.desktop")
	if text, err := os.ReadFile(launcher); err != nil || !strings.Contains(string(text), "Exec=flatpak run --command=sh ") {
		t.Fatalf("the launcher: %q %v", text, err)
	}
	if got := launched(t, s, launcher); got != said+"\n" {
		t.Errorf("the launcher started %q", got)
	}
}

// An installed app opens what the person, or another app by the portal, hands
// it, and gets just that.
func TestAnInstalledAppOpensFiles(t *testing.T) {
	s := start(t)
	p := startPerson(t, s, appB)
	system := filepath.Join(s.Home, ".session/system")
	if err := os.MkdirAll(filepath.Join(system, "applications"), 0o700); err != nil {
		t.Fatal(err)
	}
	got := filepath.Join(s.Home, ".var/app", appB, "data/got")
	writeFile(t, filepath.Join(system, "applications/viewer.desktop"), "[Desktop Entry]\nType=Application\nName=Viewer\nExec=/usr/bin/cp -v %F "+got+"\nMimeType=text/plain;\n")
	installProfile(t, s, appA)
	installProfile(t, s, appB)
	writeFile(t, filepath.Join(s.Home, ".config/sbx/profiles", appB+".profile"), "[Application]\nname="+appB+"\ncommand=cp\n")
	// The entry of the package is named after another program than the app.
	writeFile(t, filepath.Join(system, "applications", appB+".desktop"), "[Desktop Entry]\nType=Application\nName=Viewer\nExec=/usr/bin/cp -v %F "+got+"\nMimeType=text/plain;\n")
	cmd := s.Command("sbx-run", "--install", appB)
	cmd.Env = append(cmd.Env, "XDG_DATA_DIRS="+system)
	runs(t, s, cmd)

	opened := func(want string) {
		t.Helper()
		if err := session.Await(10*time.Second, func() (bool, error) {
			data, _ := os.ReadFile(got)
			return string(data) == want, nil
		}); err != nil {
			data, _ := os.ReadFile(got)
			t.Errorf("%v: the app got %q, want %q", err, data, want)
		}
		os.Remove(got)
	}
	// By the desktop.
	writeFile(t, filepath.Join(s.Home, "a letter.txt"), "Dear all\n")
	entry := filepath.Join(s.Home, ".local/share/applications", appB+".desktop")
	runs(t, s, s.Command("/usr/bin/gio", "launch", entry, filepath.Join(s.Home, "a letter.txt")))
	opened("Dear all\n")
	// As a path in the view of all documents, which is what portals hand out.
	conn := connect(t, s)
	id := add(t, conn, filepath.Join(s.Home, "a letter.txt"), "", 0)
	runs(t, s, s.Command("/usr/bin/gio", "launch", entry, filepath.Join(s.Runtime, "doc", id, "a letter.txt")))
	opened("Dear all\n")
	// By another app and the portal.
	data := filepath.Join(s.Home, ".var/app", appA, "data")
	if err := os.MkdirAll(data, 0o700); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(data, "note.txt"), "from app A\n")
	runs(t, s, s.Command("sbx-run", "--command=python3", appA, "-c", portalProgram,
		"?OpenURI.OpenFile", "('', FILE("+filepath.Join(data, "note.txt")+"), {'handle_token': <'TOKEN'>, 'ask': <true>})"))
	opened("from app A\n")
	p.wantAsked(t, "ChooseApplication "+appA+" true")
}
