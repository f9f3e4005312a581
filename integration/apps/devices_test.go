package apps

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"docportal/integration/session"
)

// sound starts a sound server with a speaker that nobody hears. It ends with
// the session.
func (d *desktop) sound() {
	d.Helper()
	cmd := d.Command("pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no", "--disable-shm=yes",
		"-L", "module-native-protocol-unix", "-L", "module-null-sink sink_name=speaker")
	d.must(d.Start(cmd))
	d.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		kill := time.AfterFunc(startLimit, func() { cmd.Process.Kill() })
		defer kill.Stop()
		cmd.Wait()
	})
	d.must(session.Await(startLimit, func() (bool, error) {
		_, err := d.output("pactl", "info")
		return err == nil, nil
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

// Firefox has the sockets and devices that its profile names, and no others: a
// page plays sound through the session's server.
func TestDevices(t *testing.T) {
	d := start(t)
	d.sound()
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
