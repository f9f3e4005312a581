package integration

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"docportal/integration/session"
	"docportal/integration/wire"
)

// display starts an X server for the test and names it in DISPLAY.
func display(t *testing.T) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := exec.Command("Xvfb", "-displayfd", "3", "-nolisten", "tcp")
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err = cmd.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	number, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		t.Fatalf("Xvfb: %v", err)
	}
	t.Setenv("DISPLAY", ":"+strings.TrimSpace(number))
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

// The GTK backend passes what apps ask for on to the desktop, whose services the
// test stands in for, with the app's id.
func TestTheGTKBackendKnowsTheApp(t *testing.T) {
	display(t)
	s := startWith(t, session.Options{Display: true})
	writeFile(t, s.Home+"/.local/share/applications/"+appA+".desktop", "[Desktop Entry]\nType=Application\nName=Test\nExec=true\n")
	conn := connect(t, s)
	c := make(told, 8)
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
