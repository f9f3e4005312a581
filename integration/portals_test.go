package integration

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
	"github.com/godbus/dbus/v5/prop"

	"docportal/integration/session"
	"docportal/integration/wire"
)

// Each portal of the installed xdg-desktop-portal, called from inside, reaches
// its backend with the app id of the profile. Those without a backend do their
// work, as far as they do it for sandboxed apps.
func TestPortalsKnowTheApp(t *testing.T) {
	s := startWith(t, session.Options{Portals: true})
	shared := filepath.Join(s.Home, "shared")
	for _, name := range []string{"picture.png", "rubbish"} {
		writeFile(t, filepath.Join(shared, name), "x")
	}
	// Names and icons of dialogs come from the app's desktop entry; a scheme
	// that has a handler is one that can be opened.
	for _, id := range []string{appA, "org.docportal.Handler"} {
		writeFile(t, filepath.Join(s.Home, ".local/share/applications", id+".desktop"),
			"[Desktop Entry]\nType=Application\nName=Test\nExec=true %u\nMimeType=x-scheme-handler/docportaltest;\n")
	}
	writeFile(t, filepath.Join(s.Home, ".config/mimeapps.list"), "[Added Associations]\nx-scheme-handler/docportaltest=org.docportal.Handler.desktop;\n")
	b, err := s.StartBackend(filepath.Join(shared, "picture.png"))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	geoclue(t, s)
	a, err := s.StartAppWith(appA, "--share=network", "--filesystem=~/shared")
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	const dialog = "Access.AccessDialog"
	for _, c := range []struct {
		portal string
		calls  []string // of backends, in their order
		data   string   // in what the app gets
		error  string   // what the app may get instead
		r      wire.Request
	}{
		{portal: "Account", calls: []string{"Account.GetUserInformation"}, data: "Me"},
		{portal: "Background", calls: []string{"Background.EnableAutostart"}, data: "autostart"},
		{portal: "Camera", calls: []string{dialog}},
		{portal: "Email", calls: []string{"Email.ComposeEmail"}},
		{portal: "Inhibit", calls: []string{"Inhibit.Inhibit"}},
		{portal: "Location", calls: []string{dialog}, data: "52.5"},
		{portal: "NetworkMonitor", data: "true"},
		{portal: "Notification", calls: []string{"Notification.AddNotification"}},
		{portal: "OpenURI", calls: []string{"AppChooser.ChooseApplication"}, error: "cancelled", r: wire.Request{Data: "docportaltest:x"}},
		{portal: "Print", calls: []string{"Print.PreparePrint", "Print.Print"}},
		{portal: "ProxyResolver", data: "direct://"},
		{portal: "ScreenCast", calls: []string{"ScreenCast.CreateSession", "ScreenCast.SelectSources", "ScreenCast.Start"}, data: "streams"},
		{portal: "Screenshot", calls: []string{dialog, "Screenshot.Screenshot"}, data: "uri"},
		{portal: "Secret", calls: []string{"Secret.RetrieveSecret"}, data: "secret of " + appA},
		{portal: "Settings", data: "1"},
		{portal: "Trash", data: "1", r: wire.Request{Path: filepath.Join(shared, "rubbish")}},
		{portal: "Wallpaper", calls: []string{dialog, "Wallpaper.SetWallpaperURI"}, r: wire.Request{Path: filepath.Join(shared, "picture.png")}},
	} {
		c.r.Op, c.r.Name = "portal", c.portal
		answer := try(t, a, c.r)
		if answer.Err != "" && (c.error == "" || !strings.Contains(answer.Err, c.error)) {
			t.Errorf("%s: %s", c.portal, answer.Err)
		}
		if !strings.Contains(answer.Data, c.data) {
			t.Errorf("%s: the app got %q, want %q in it", c.portal, answer.Data, c.data)
		}
		// xdg-desktop-portal before 1.20 has its backend write this.
		if text, err := os.ReadFile(filepath.Join(s.Home, ".config/autostart", appA+".desktop")); c.portal == "Background" && err == nil {
			if !strings.Contains(string(text), "Exec=flatpak run --command=app "+appA) {
				t.Errorf("autostart would run %q", text)
			}
			continue
		}
		for _, call := range c.calls {
			var d session.Dialog
			for { // settings are read in between, for nobody
				if d, err = b.Next(); err != nil {
					t.Fatal(err)
				}
				if !strings.HasPrefix(d.Method, "Settings.") {
					break
				}
			}
			if d.Method != call || d.AppID != appA {
				t.Errorf("%s: the backend was asked %+v, want %s of %s", c.portal, d, call, appA)
			}
			if call == "Background.EnableAutostart" && !strings.Contains(d.Title, "flatpak run --command=app "+appA) {
				t.Errorf("autostart would run %q", d.Title)
			}
		}
	}
	if _, err := os.Stat(filepath.Join(shared, "rubbish")); !os.IsNotExist(err) {
		t.Errorf("the file for the trash: %v", err)
	}
}

// geoclue stands in for the location service: its package has only root start
// it, and without a network it knows no place. Whose question it is it is not
// told: portals ask in their own name, after they have asked the person.
func geoclue(t *testing.T, s *session.Session) {
	t.Helper()
	conn, err := dbus.Connect(s.System)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	const name = "org.freedesktop.GeoClue2"
	const manager, client, location = "/org/freedesktop/GeoClue2/Manager", "/org/freedesktop/GeoClue2/Client/1", "/org/freedesktop/GeoClue2/Client/1/Location/0"
	get := func() (dbus.ObjectPath, *dbus.Error) { return client, nil }
	start := func() *dbus.Error {
		if err := conn.Emit(client, name+".Client.LocationUpdated", dbus.ObjectPath("/"), dbus.ObjectPath(location)); err != nil {
			t.Error(err)
		}
		return nil
	}
	stop := func() *dbus.Error { return nil }
	err = errors.Join(
		conn.ExportMethodTable(map[string]any{"GetClient": get, "CreateClient": get, "DeleteClient": func(dbus.ObjectPath) *dbus.Error { return nil }}, manager, name+".Manager"),
		conn.ExportMethodTable(map[string]any{"Start": start, "Stop": stop}, client, name+".Client"),
	)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := prop.Export(conn, client, prop.Map{name + ".Client": {
		"Location":               {Value: dbus.ObjectPath("/")},
		"DesktopId":              {Value: "", Writable: true},
		"DistanceThreshold":      {Value: uint32(0), Writable: true},
		"TimeThreshold":          {Value: uint32(0), Writable: true},
		"RequestedAccuracyLevel": {Value: uint32(0), Writable: true},
		"Active":                 {Value: false},
	}}); err != nil {
		t.Fatal(err)
	}
	if _, err := prop.Export(conn, location, prop.Map{name + ".Location": {
		"Latitude": {Value: 52.5}, "Longitude": {Value: 13.4}, "Accuracy": {Value: 1.0}, "Altitude": {Value: 0.0},
		"Speed": {Value: 0.0}, "Heading": {Value: 0.0}, "Description": {Value: ""},
		"Timestamp": {Value: struct{ S, U uint64 }{}},
	}}); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.RequestName(name, dbus.NameFlagDoNotQueue); err != nil {
		t.Fatal(err)
	}
}

// An app that makes namespaces and a root directory of its own, with the
// metadata of another app in it, is still itself to who it calls.
func TestAnAppCannotPretendToBeAnother(t *testing.T) {
	s := startWith(t, session.Options{Portals: true})
	b, err := s.StartBackend(filepath.Join(s.Home, "none"))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	a, err := s.StartAppWith(appA, "--allow=userns", "--share=network")
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	other := startApp(t, s, appB)
	metadata := do(t, other, wire.Request{Op: "read", Path: "/.flatpak-info"}).Data
	for _, info := range []string{metadata, "", "[Application]\nname=" + appB + "\n"} {
		answer := do(t, a, wire.Request{Op: "forge", Data: info})
		if answer.Data != "pretended "+info {
			t.Fatalf("the app could not pretend: %q", answer.Data)
		}
		d, err := b.Next()
		if err != nil {
			t.Fatal(err)
		}
		if d.Method != "Notification.AddNotification" || d.AppID != appA {
			t.Errorf("with %q the backend was asked %+v, want %s", info, d, appA)
		}
	}
	// The other's directories, in the instances and in its own data, are not there.
	failsWith(t, a, wire.Request{Op: "stat", Path: filepath.Join(s.Home, ".var/app", appB)}, "ENOENT")
	if names := do(t, a, wire.Request{Op: "list", Path: filepath.Join(s.Runtime, ".flatpak")}).Names; len(names) != 1 {
		t.Errorf("the app sees the instances %q, want its own", names)
	}
}

// What the profile does not grant the portal does not, either: it reads it in
// the app's metadata.
func TestPortalsReadWhatIsGranted(t *testing.T) {
	s := startWith(t, session.Options{Portals: true})
	b, err := s.StartBackend(filepath.Join(s.Home, "none"))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	a := startApp(t, s, appA)
	for _, portal := range []string{"NetworkMonitor", "ProxyResolver"} {
		answer := try(t, a, wire.Request{Op: "portal", Name: portal})
		if answer.Err == "" || strings.Contains(answer.Data, "true") || strings.Contains(answer.Data, "direct") {
			t.Errorf("%s without a network: %+v", portal, answer)
		}
	}
}
