package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/godbus/dbus/v5/prop"

	"docportal/integration/apps"
	"docportal/integration/session"
	"docportal/integration/wire"
)

// display starts an X server for the test and names it to the test's sessions.
func display(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	screen, err := apps.StartScreen(dir, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { screen.Close() })
	t.Setenv("DISPLAY", screen.Display)
	t.Setenv("XAUTHORITY", screen.Authority)
	t.Setenv("WAYLAND_DISPLAY", "")
}

// told is what the desktop's own services are told by the GTK backend.
type told chan string

// Notify is org.freedesktop.Notifications.Notify.
func (c told) Notify(name string, _ uint32, _, title, _ string, _ []string, hints map[string]dbus.Variant, _ int32) (uint32, *dbus.Error) {
	c <- fmt.Sprint("notification ", title, " ", hints["desktop-entry"].Value())
	return 1, nil
}

// GetCapabilities is org.freedesktop.Notifications.GetCapabilities.
func (c told) GetCapabilities() ([]string, *dbus.Error) { return nil, nil }

// AddNotification is org.gtk.Notifications.AddNotification.
func (c told) AddNotification(app, _ string, content map[string]dbus.Variant) *dbus.Error {
	c <- fmt.Sprint("notification ", content["title"].Value(), " ", app)
	return nil
}

// Inhibit is org.freedesktop.ScreenSaver.Inhibit.
func (c told) Inhibit(app, _ string) (uint32, *dbus.Error) {
	c <- "inhibit " + app
	return 1, nil
}

// UnInhibit is org.freedesktop.ScreenSaver.UnInhibit.
func (c told) UnInhibit(uint32) *dbus.Error { return nil }

// serve gives the session's buses the services of a desktop, of which c is told.
func (c told) serve(t *testing.T, s *session.Session) {
	t.Helper()
	conn := connect(t, s)
	for path, iface := range map[dbus.ObjectPath]string{
		"/org/freedesktop/Notifications": "org.freedesktop.Notifications",
		"/org/gtk/Notifications":         "org.gtk.Notifications",
		"/org/freedesktop/ScreenSaver":   "org.freedesktop.ScreenSaver",
	} {
		if err := conn.Export(c, path, iface); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.RequestName(iface, dbus.NameFlagDoNotQueue); err != nil {
			t.Fatal(err)
		}
	}
	if s.System == "" {
		return
	}
	system, err := dbus.Connect(s.System)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { system.Close() })
	const accounts = "org.freedesktop.Accounts"
	user := dbus.ObjectPath(fmt.Sprintf("/org/freedesktop/Accounts/User%d", os.Getuid()))
	if _, err := prop.Export(system, user, prop.Map{accounts + ".User": {
		"UserName": {Value: "ruth"}, "RealName": {Value: "Ruth Example"}, "IconFile": {Value: ""},
	}}); err != nil {
		t.Fatal(err)
	}
	if _, err := system.RequestName(accounts, dbus.NameFlagDoNotQueue); err != nil {
		t.Fatal(err)
	}
}

// The GTK backend passes what apps ask for on to the desktop, whose services the
// test stands in for, with the app's id.
func TestTheGTKBackendKnowsTheApp(t *testing.T) {
	display(t)
	s := startWith(t, session.Options{Display: true})
	writeFile(t, s.Home+"/.local/share/applications/"+appA+".desktop", "[Desktop Entry]\nType=Application\nName=Test\nExec=true\n")
	c := make(told, 8)
	c.serve(t, s)
	a := startApp(t, s, appA)
	for _, p := range []struct{ portal, want string }{
		{"Notification", "notification Hello " + appA},
		{"Inhibit", "inhibit " + appA},
	} {
		if answer := try(t, a, wire.Request{Op: "portal", Name: p.portal}); answer.Err != "" {
			t.Errorf("%s: %s", p.portal, answer.Err)
			continue
		}
		select {
		case got := <-c:
			if got != p.want {
				t.Errorf("%s: the desktop was told %q, want %q", p.portal, got, p.want)
			}
		case <-time.After(answerLimit):
			t.Errorf("%s: the desktop was told nothing", p.portal)
		}
	}
	if answer := try(t, a, wire.Request{Op: "call", Dest: "org.freedesktop.portal.Desktop", Path: "/org/freedesktop/portal/desktop", Method: "org.freedesktop.portal.Settings.Read", Args: []string{"org.gnome.desktop.interface", "font-name"}}); answer.Err != "" || answer.Data == "" {
		t.Errorf("Settings: %+v", answer)
	}
}

// The dialogs of the GTK backend name the app, and what the person answers comes
// to it. What its package does not have (gtk.portal lists what it has) belongs to
// a compositor or a keyring, Screenshot, ScreenCast, Wallpaper, Background and
// Secret: TestPortalsKnowTheApp has a backend for these. The file chooser is
// integration/apps'.
func TestTheGTKBackendAsksThePerson(t *testing.T) {
	display(t)
	s := startWith(t, session.Options{Display: true, Portals: true})
	make(told, 8).serve(t, s)
	const name = "The Program That Asks"
	handled := filepath.Join(s.Home, "handled")
	for id, rest := range map[string]string{
		appA: "Name=" + name + "\nExec=true\n",
		"org.docportal.Handler": "Name=The Handler\nExec=sh -c \"echo handled \\\\$1 >>" + handled + "\" sh %u\n" +
			"MimeType=x-scheme-handler/docportaltest;x-scheme-handler/mailto;\n",
	} {
		writeFile(t, filepath.Join(s.Home, ".local/share/applications", id+".desktop"), "[Desktop Entry]\nType=Application\n"+rest)
	}
	const handler = "org.docportal.Handler.desktop;\n"
	writeFile(t, filepath.Join(s.Home, ".config/mimeapps.list"),
		"[Added Associations]\nx-scheme-handler/docportaltest="+handler+"[Default Applications]\nx-scheme-handler/mailto="+handler)
	reader, err := apps.OpenReader(s)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	a := startApp(t, s, appA)
	const press, says, window = "push button", "label", "dialog"
	for _, c := range []struct {
		portal string
		role   string // of what the dialog shows of the app, and its name
		shows  string
		row    string // of a table, that has to be chosen first
		button string
		error  string // what the app gets instead
		data   string // in what the app gets
		file   string // what the host has then, and what is in it
		holds  string
		r      wire.Request
	}{
		{portal: "Account", role: says, shows: "with " + name, button: "Share", data: "Ruth Example"},
		{portal: "Account", role: says, shows: "with " + name, button: "Cancel", error: "answered with 1"},
		{portal: "Camera", role: says, shows: name + " wants to use your camera", button: "Deny Access", error: "answered with"},
		// The program that writes the letter is the one that asks.
		{portal: "Email", file: handled, holds: "handled mailto:a@example.org"},
		// What is opened is shown, not for whom.
		{portal: "OpenURI", role: says, shows: "docportaltest:x", button: "Open", file: handled, holds: "handled docportaltest:x", r: wire.Request{Data: "docportaltest:x"}},
		// The title is the app's; who prints goes to a file without a printer.
		{portal: "Print", role: window, shows: "^Paper$", row: "^Print to File$", button: "Print", file: filepath.Join(s.Home, "output.pdf"), holds: "what is printed", r: wire.Request{Data: "what is printed"}},
		{portal: "Print", role: window, shows: "^Paper$", button: "Cancel", error: "answered with 1"},
	} {
		c.r.Op, c.r.Name = "portal", c.portal
		answered := make(chan wire.Answer, 1)
		go func() { answered <- try(t, a, c.r) }()
		if c.button != "" {
			if _, err := reader.Await(backend, c.role, c.shows); err != nil {
				t.Fatalf("%s: %v", c.portal, err)
			}
			if c.row != "" {
				if err := chooseFirst(reader, c.row); err != nil {
					t.Fatalf("%s: %v", c.portal, err)
				}
			}
			button, err := reader.Await(backend, press, "^"+c.button+"$")
			if err != nil {
				t.Fatalf("%s: %v", c.portal, err)
			}
			if err := button.Press(); err != nil {
				t.Fatalf("%s: %v", c.portal, err)
			}
		}
		answer := <-answered
		if (c.error == "") != (answer.Err == "") || !strings.Contains(answer.Err, c.error) {
			t.Errorf("%s, %s: %q, want %q", c.portal, c.button, answer.Err, c.error)
		}
		if !strings.Contains(answer.Data, c.data) {
			t.Errorf("%s: the app got %q, want %q in it", c.portal, answer.Data, c.data)
		}
		if c.file == "" {
			continue
		}
		// The handler is a program of its own, and so is who prints.
		var b []byte
		err := session.Await(answerLimit, func() (bool, error) {
			b, _ = os.ReadFile(c.file)
			return strings.Contains(string(b), c.holds), nil
		})
		if err != nil {
			t.Errorf("%s: %s holds %q, want %q in it", c.portal, c.file, b, c.holds)
		}
	}
}

// chooseFirst chooses the first row of the backend's table, which has that name.
func chooseFirst(reader *apps.Reader, name string) error {
	if _, err := reader.Await(backend, "table cell", name); err != nil {
		return err
	}
	table, err := reader.Await(backend, "table", "")
	if err != nil {
		return err
	}
	return table.SelectRow(0)
}

// backend is the name of the GTK backend on the accessibility bus.
const backend = "xdg-desktop-portal-gtk"
