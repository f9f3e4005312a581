package apps

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"docportal/integration/session"
)

// sound starts a sound server with a speaker that nobody hears. It ends with
// the session.
func (d *desktop) sound() {
	d.Helper()
	cmd := d.Command("pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no", "--disable-shm=yes",
		"-L", "module-native-protocol-unix", "-L", "module-null-sink sink_name=speaker")
	d.serve(cmd)
	d.must(session.Await(startLimit, func() (bool, error) {
		_, err := d.output("pactl", "info")
		return err == nil, nil
	}))
}

// keyring starts a keyring that is open. It ends with the session.
func (d *desktop) keyring() {
	d.Helper()
	cmd := d.Command("gnome-keyring-daemon", "--foreground", "--unlock", "--components=secrets")
	cmd.Stdin = strings.NewReader("a password")
	d.serve(cmd)
	d.must(session.Await(startLimit, func() (bool, error) {
		pid, err := d.Owner("org.freedesktop.secrets")
		return err == nil && pid == cmd.Process.Pid, nil
	}))
}

// serve starts a program that runs as long as the session.
func (d *desktop) serve(cmd *exec.Cmd) {
	d.Helper()
	d.must(d.Start(cmd))
	d.Cleanup(func() { terminate(cmd, startLimit) })
}

// camera starts the media server with a camera that shows a test picture, which
// the desktop portal lends to who may use it. It ends with the session.
func (d *desktop) camera() {
	d.Helper()
	config := filepath.Join(d.Home, ".session/camera.conf")
	d.must(os.WriteFile(config, []byte(`context.properties = { core.daemon = true core.name = pipewire-0 }
context.spa-libs = { support.* = support/libspa-support videotestsrc = videotestsrc/libspa-videotestsrc }
context.modules = [
	{ name = libpipewire-module-protocol-native }
	{ name = libpipewire-module-spa-node-factory }
	{ name = libpipewire-module-client-node }
	{ name = libpipewire-module-access }
]
context.objects = [
	{ factory = spa-node-factory args = {
		factory.name = videotestsrc node.name = camera node.description = Camera
		media.class = Video/Source media.role = Camera } }
]
`), 0o600))
	d.serve(d.Command("pipewire", "-c", config))
	d.must(session.Await(startLimit, func() (bool, error) {
		s, _ := d.output("pw-cli", "ls", "Node")
		return strings.Contains(s, `"camera"`), nil
	}))
}

// output is what a program of the session prints.
func (d *desktop) output(name string, args ...string) (string, error) {
	cmd := d.Command(name, args...)
	cmd.Stderr = nil
	b, err := cmd.Output()
	return string(b), err
}

// heard waits until somebody plays sound.
func (d *desktop) heard() {
	d.Helper()
	err := session.Await(shortLimit, func() (bool, error) {
		s, err := d.output("pactl", "list", "short", "sink-inputs")
		return strings.TrimSpace(s) != "", err
	})
	if err != nil {
		d.shot("silent")
		d.Fatalf("nothing plays: %v", err)
	}
}

// calls records the calls of an interface on the session bus until the test
// ends, and returns them by and by.
func (d *desktop) calls(iface string) <-chan string {
	d.Helper()
	conn, err := d.Connect()
	d.must(err)
	d.Cleanup(func() { conn.Close() })
	d.must(conn.BusObject().Call("org.freedesktop.DBus.Monitoring.BecomeMonitor", 0,
		[]string{"type='method_call',interface='" + iface + "'"}, uint32(0)).Err)
	messages := make(chan *dbus.Message, 64)
	conn.Eavesdrop(messages)
	names := make(chan string, 64)
	go func() {
		for m := range messages { // closed with the connection
			member, _ := m.Headers[dbus.FieldMember].Value().(string)
			select {
			case names <- member:
			default:
			}
		}
	}()
	return names
}

// called waits for a call.
func (d *desktop) called(names <-chan string, want string) {
	d.Helper()
	late := time.After(shortLimit)
	for {
		select {
		case name := <-names:
			if name == want {
				return
			}
		case <-late:
			d.shot("not-called")
			d.Fatalf("nobody called %s", want)
		}
	}
}

// Firefox has the sockets and devices that its profile names, and no others: a
// page plays sound through the session's server, and sees a camera only by the
// portal.
func TestDevices(t *testing.T) {
	d := start(t)
	d.sound()
	d.camera()
	d.must(PrepareFirefox(d.Session, d.log))
	// This version of Firefox asks the portal for cameras only if told to.
	user, err := os.OpenFile(filepath.Join(d.Home, ".mozilla/firefox", profileName, "user.js"), os.O_APPEND|os.O_WRONLY, 0)
	d.must(err)
	_, err = user.WriteString("user_pref(\"media.webrtc.camera.allow-pipewire\", true);\n")
	d.must(errors.Join(err, user.Close()))
	f := d.firefox()
	d.must(f.Navigate(d.server.URL + "devices"))

	t.Run("what it sees", func(t *testing.T) {
		d := d.in(t)
		root := d.root(FirefoxID)
		for _, name := range []string{"pulse/native", "bus", "doc"} {
			if _, err := os.Stat(filepath.Join(root, d.Runtime, name)); err != nil {
				d.Errorf("the sandbox lacks %v", err)
			}
		}
		for _, name := range []string{"pipewire-0", "doc/by-app", "systemd"} {
			if _, err := os.Lstat(filepath.Join(root, d.Runtime, name)); err == nil {
				d.Errorf("the sandbox has %s", name)
			}
		}
		_, host := os.Stat("/dev/dri")
		if _, err := os.Stat(filepath.Join(root, "dev/dri")); (err == nil) != (host == nil) {
			d.Errorf("/dev/dri: %v in the sandbox, %v outside", err, host)
		}
		devices, err := os.ReadDir(filepath.Join(root, "dev"))
		d.must(err)
		for _, e := range devices {
			if strings.HasPrefix(e.Name(), "video") || e.Name() == "input" || e.Name() == "snd" || e.Name() == "kvm" || e.Name() == "bus" {
				d.Errorf("the sandbox has /dev/%s", e.Name())
			}
		}
	})
	t.Run("sound", func(t *testing.T) {
		d := d.in(t)
		d.must(f.Click("#play"))
		d.heard()
		d.works(FirefoxID, "sound")
	})
	t.Run("a camera", func(t *testing.T) {
		d := d.in(t)
		calls := d.calls("org.freedesktop.portal.Camera")
		// The person has said yes to Firefox's own question already.
		d.must(f.ChromeScript(nil, `Services.perms.addFromPrincipal(gBrowser.contentPrincipal, "camera", Services.perms.ALLOW_ACTION)`))
		d.must(f.Click("#look"))
		d.called(calls, "AccessCamera")
		d.shot("camera")
		d.works(FirefoxID, "camera")
	})
	t.Run("a notification", func(t *testing.T) {
		d := d.in(t)
		d.must(f.ChromeScript(nil, `Services.perms.addFromPrincipal(gBrowser.contentPrincipal, "desktop-notification", Services.perms.ALLOW_ACTION)`))
		calls := d.calls("org.freedesktop.portal.Notification")
		d.must(f.Click("#tell"))
		d.called(calls, "AddNotification")
		d.works(FirefoxID, "notifications")
	})
	f.Kill()
}

// root is the root directory of an app's processes, as /proc shows it.
func (d *desktop) root(app string) string {
	d.Helper()
	all, err := d.Processes()
	d.must(err)
	for _, p := range all {
		root := fmt.Sprintf("/proc/%d/root", p.PID)
		b, err := os.ReadFile(filepath.Join(root, ".flatpak-info"))
		// The proxy has the same file, and no home.
		if _, home := os.Stat(filepath.Join(root, d.Home, ".var/app", app)); err == nil && home == nil && strings.Contains(string(b), "\nname="+app+"\n") {
			return root
		}
	}
	d.Fatalf("no process of %s: %+v", app, all)
	return ""
}
