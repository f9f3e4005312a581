package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

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
		// Nobody on the bus knows where we are; the person is asked before.
		{portal: "Location", calls: []string{dialog}, error: "answered with 2"},
		{portal: "NetworkMonitor", data: "true"},
		{portal: "Notification", calls: []string{"Notification.AddNotification"}},
		{portal: "OpenURI", calls: []string{"AppChooser.ChooseApplication"}, error: "cancelled", r: wire.Request{Data: "docportaltest:x"}},
		{portal: "Print", calls: []string{"Print.PreparePrint"}, data: "token"},
		{portal: "ProxyResolver", data: "direct://"},
		{portal: "ScreenCast", calls: []string{"ScreenCast.CreateSession"}, data: "session_handle"},
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
