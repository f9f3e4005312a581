package system

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"docportal/integration/session"
)

// services is where "make install" put the services.
func services(path string) string { return filepath.Join(os.Getenv("DOCPORTAL_STAGE"), path) }

// openRC makes a machine on which OpenRC runs services, ours alone.
func openRC(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	for _, at := range []string{"/etc/init.d", "/etc/runlevels"} {
		if _, err := os.Stat(at); err != nil {
			t.Fatalf("%v: is openrc installed?", err)
		}
		to := filepath.Join(dir, filepath.Base(at))
		must(t, os.MkdirAll(filepath.Join(to, "default"), 0o755))
		must(t, unix.Mount(to, at, "", unix.MS_BIND, ""))
		t.Cleanup(func() { unix.Unmount(at, unix.MNT_DETACH) })
	}
	for _, dir := range strings.Fields("starting started stopping inactive wasinactive failed hotplugged daemons options exclusive scheduled tmp") {
		must(t, os.MkdirAll(filepath.Join("/run/openrc", dir), 0o755))
	}
	must(t, os.WriteFile("/run/openrc/softlevel", []byte("default"), 0o644))
	t.Cleanup(func() { os.RemoveAll("/run/openrc") })
}

func service(t *testing.T, from, name string) string {
	t.Helper()
	text, err := os.ReadFile(services(from))
	must(t, err)
	to := filepath.Join("/etc/init.d", name)
	must(t, os.WriteFile(to, text, 0o755))
	return to
}

// TestOpenRCDaemon: the system service starts a daemon in its sandbox, starts
// it again when it dies, and takes all of it away.
func TestOpenRCDaemon(t *testing.T) {
	bus(t)
	openRC(t)
	// As root installs it: the profile is found by its name.
	must(t, os.MkdirAll("/run/etc-sbx/system", 0o755))
	text, err := os.ReadFile(profile("dnsmasq"))
	must(t, err)
	must(t, os.WriteFile("/run/etc-sbx/system/dnsmasq.profile", text, 0o644))
	script := service(t, "etc/init.d/sbx", "sbx")
	template, err := os.ReadFile(script)
	must(t, err)
	named := strings.Replace(string(template), "--system $daemon", "--system /run/etc-sbx/system/$daemon.profile", 1)
	named = strings.Replace(named, `--system "$daemon"`, `--system "/run/etc-sbx/system/$daemon.profile"`, 1)
	// Debian has no /etc/conf.d.
	named = strings.Replace(named, "\nsupervisor=", "\nsbx_args='--conf-file=/dev/null --no-resolv --address=/example.test/192.0.2.9'\nsupervisor=", 1)
	must(t, os.WriteFile(script, []byte(named), 0o755))
	must(t, os.Symlink("sbx", "/etc/init.d/sbx.dnsmasq"))
	must(t, os.Symlink("sbx", "/etc/init.d/sbx.nothing"))

	if out, err := run(t, "openrc-run", "/etc/init.d/sbx", "start"); err == nil || !strings.Contains(out, "template") {
		t.Errorf("the template starts: %v, %s", err, out)
	}
	if out, err := run(t, "openrc-run", "/etc/init.d/sbx.nothing", "start"); err == nil {
		t.Errorf("a daemon without a profile starts: %s", out)
	}
	out, err := run(t, "openrc-run", "/etc/init.d/sbx.dnsmasq", "start")
	if err != nil {
		t.Fatalf("start: %v\n%s", err, out)
	}
	dig := []string{"+short", "+time=2", "+tries=1", "@127.0.0.1", "www.example.test"}
	answers(t, `^192\.0\.2\.9\n$`, "dig", dig...)
	if out, err := run(t, "openrc-run", "/etc/init.d/sbx.dnsmasq", "status"); err != nil || !strings.Contains(out, "started") {
		t.Errorf("status: %v, %s", err, out)
	}
	must(t, exec.Command("pkill", "-KILL", "-x", "dnsmasq").Run())
	answers(t, `^192\.0\.2\.9\n$`, "dig", dig...)
	if out, err := run(t, "openrc-run", "/etc/init.d/sbx.dnsmasq", "stop"); err != nil {
		t.Errorf("stop: %v, %s", err, out)
	}
	gone(t)
}

// TestOpenRCUser: the user service starts docportal on the session's bus, and
// elsewhere leaves it to the bus. OpenRC's user mode itself is newer than the
// one that Debian 12 packages; packaging/user-service tests it there.
func TestOpenRCUser(t *testing.T) {
	openRC(t)
	script := service(t, "etc/user/init.d/docportal", "docportal")
	runtime := filepath.Join(t.TempDir(), "r")
	must(t, os.Mkdir(runtime, 0o700))
	env := func(more ...string) []string {
		return append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "XDG_RUNTIME_DIR=" + runtime}, more...)
	}
	rc := func(env []string, verb string) (string, error) {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, "openrc-run", script, verb)
		cmd.Env = env
		return output(t, cmd)
	}
	// OpenRC hides the environment of the caller from services that it starts
	// for the system; a user's are told of the session.
	passes := func() {
		b, err := os.ReadFile(script)
		must(t, err)
		text := strings.Replace(string(b), "supervisor=", "export XDG_RUNTIME_DIR="+runtime+" HOME="+runtime+"\nsupervisor=", 1)
		must(t, os.WriteFile(script, []byte(text), 0o755))
	}
	passes()
	if out, err := rc(env(), "start"); !strings.Contains(out, "starts docportal itself") {
		t.Errorf("without a bus: %v, %s", err, out)
	}
	rc(env(), "zap")

	start(t, "dbus-daemon", "--session", "--nofork", "--nopidfile", "--address=unix:path="+runtime+"/bus")
	await(t, "the session bus", func() bool { _, err := os.Stat(runtime + "/bus"); return err == nil })
	second := filepath.Join(t.TempDir(), "s")
	start(t, "dbus-daemon", "--session", "--nofork", "--nopidfile", "--address=unix:path="+second)
	await(t, "the second bus", func() bool { _, err := os.Stat(second); return err == nil })

	out, err := rc(env(), "start")
	if err != nil {
		t.Fatalf("start: %v, %s", err, out)
	}
	owned := func() bool {
		out, _ := run(t, "dbus-send", "--bus=unix:path="+runtime+"/bus", "--dest=org.freedesktop.DBus", "--print-reply=literal",
			"/org/freedesktop/DBus", "org.freedesktop.DBus.NameHasOwner", "string:org.freedesktop.portal.Documents")
		return strings.Contains(out, "true")
	}
	must(t, session.Await(20*time.Second, func() (bool, error) { return owned(), nil }))
	if out, err := rc(env(), "stop"); err != nil {
		t.Errorf("stop: %v, %s", err, out)
	}
	must(t, session.Await(20*time.Second, func() (bool, error) { return !owned(), nil }))
	b, err := os.ReadFile(script)
	must(t, err)
	must(t, os.WriteFile(script, []byte(strings.Replace(string(b), "supervisor=", "export DBUS_SESSION_BUS_ADDRESS=unix:path="+second+"\nsupervisor=", 1)), 0o755))
	if out, err := rc(env(), "start"); !strings.Contains(out, "starts docportal itself") || owned() {
		t.Errorf("on a second bus: %v, %s", err, out)
	}
}

// TestUnits: systemd reads the units without a complaint.
func TestUnits(t *testing.T) {
	for _, c := range []struct{ mode, unit string }{
		{"--user", "lib/systemd/user/docportal.service"},
		{"--system", "lib/systemd/system/sbx@.service"},
	} {
		file := services(c.unit)
		if strings.Contains(file, "@") { // an instance
			to := filepath.Join(t.TempDir(), "sbx@dnsmasq.service")
			text, err := os.ReadFile(file)
			must(t, err)
			must(t, os.WriteFile(to, text, 0o644))
			file = to
		}
		cmd := exec.Command("systemd-analyze", "verify", "--man=no", c.mode, file)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/", "XDG_RUNTIME_DIR=" + t.TempDir()}
		out, err := cmd.CombinedOutput()
		if err != nil || strings.Contains(string(out), filepath.Base(file)) {
			t.Errorf("%s: %v\n%s", c.unit, err, out)
		}
	}
}
