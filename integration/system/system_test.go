// Package system tests daemons of the system in sandboxes, as sbx-run --system
// starts them: ModemManager, avahi-daemon, dnsmasq, geoclue and wpa_supplicant
// as Debian packages them, on a system bus of the tests' own.
//
// Daemons are root's. The tests are root in a user namespace of an ordinary
// user, with a network, processes and a /run that are nobody else's, so that
// they need no root and change nothing on the machine. All of the user's
// subordinate ids (subuid(5)) are mapped, as daemons have users of their own.
package system

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"docportal/integration/session"
	"docportal/integration/session/sessiontest"
)

// insideVariable is set in the copy of the test that is root in its namespaces.
const insideVariable = "DOCPORTAL_TEST_INSIDE"

func TestMain(m *testing.M) {
	if os.Getenv(insideVariable) != "" {
		if err := prepare(); err != nil {
			fmt.Fprintln(os.Stderr, "preparing the namespaces:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	os.Exit(sessiontest.Main("../..", inside))
}

// inside runs this program again as root of namespaces of its own.
func inside() int {
	self, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	cmd := exec.Command("unshare", append([]string{"--user", "--map-root-user", "--map-auto", "--mount", "--net", "--pid",
		"--fork", "--kill-child", "--mount-proc", "--",
		// The first process of the namespace has to wait for orphans.
		"sh", "-c", `"$0" "$@"; exit $?`, self}, os.Args[1:]...)...)
	cmd.Env = append(os.Environ(), insideVariable+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() > 0 {
			return exit.ExitCode()
		}
		fmt.Fprintln(os.Stderr, "unshare:", err)
		return 1
	}
	return 0
}

// secret is what root alone may read, and no daemon in a sandbox.
const secret = "the password of everybody"

// prepare makes what a machine has: a network, /run, and things worth hiding.
func prepare() error {
	syscall.Umask(0o022)
	for _, dir := range []string{"/run", "/root", "/home", "/var/lib/misc"} {
		if err := unix.Mount("none", dir, "tmpfs", 0, "mode=0755"); err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
	}
	for _, file := range []string{"/run/shadow", "/root/secret", "/home/secret", "/run/secret"} {
		if err := os.WriteFile(file, []byte(secret), 0o600); err != nil {
			return err
		}
	}
	if err := unix.Mount("/run/shadow", "/etc/shadow", "", unix.MS_BIND, ""); err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING | unix.IFF_MULTICAST) // for mDNS
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// bus is the machine's system bus, with the rules that packages installed.
func bus(t *testing.T) {
	t.Helper()
	must(t, os.MkdirAll("/run/dbus", 0o755))
	config := filepath.Join(t.TempDir(), "system.conf")
	must(t, os.WriteFile(config, []byte(`<busconfig><type>system</type>
<listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth>
<policy context="default">
 <allow user="*"/><deny own="*"/><deny send_type="method_call"/><allow send_type="signal"/>
 <allow send_requested_reply="true" send_type="method_return"/><allow send_requested_reply="true" send_type="error"/>
 <allow receive_type="method_call"/><allow receive_type="method_return"/><allow receive_type="error"/><allow receive_type="signal"/>
 <allow send_destination="org.freedesktop.DBus"/>
 <allow send_destination="org.example.Other"/>
</policy>
<policy user="root"><allow own="org.example.Other"/></policy>
<includedir>/usr/share/dbus-1/system.d</includedir><includedir>/etc/dbus-1/system.d</includedir>
</busconfig>`), 0o644))
	start(t, "dbus-daemon", "--nofork", "--nopidfile", "--config-file="+config)
	await(t, "the bus", func() bool {
		c, err := net.Dial("unix", "/run/dbus/system_bus_socket")
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// process is a program in the background.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	said string // the file that it writes to
	done chan struct{}
}

func start(t *testing.T, program string, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(program, args...), done: make(chan struct{})}
	log, err := os.Create(filepath.Join(t.TempDir(), "said"))
	must(t, err)
	defer log.Close()
	p.said = log.Name()
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LANG=C.UTF-8"}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(t, p.cmd.Start())
	go func() {
		p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.end(syscall.SIGKILL)
		if b, err := os.ReadFile(p.said); t.Failed() {
			t.Logf("%s %v said (%v):\n%s", program, args, err, b)
		}
	})
	return p
}

func (p *process) end(sig syscall.Signal) {
	p.cmd.Process.Signal(sig)
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		p.t.Errorf("%v does not end", p.cmd.Args)
		p.cmd.Process.Kill()
		<-p.done
	}
}

func sbxRun() string { return filepath.Join(os.Getenv("DOCPORTAL_STAGE"), "bin", "sbx-run") }

// profile is the path of a profile that is installed.
func profile(name string) string {
	return filepath.Join(os.Getenv("DOCPORTAL_STAGE"), "share/sbx/system", name+".profile")
}

// daemon starts a daemon in its sandbox and returns its process id.
func daemon(t *testing.T, program, profile string, args ...string) (p *process, pid int) {
	t.Helper()
	p = start(t, sbxRun(), append([]string{"--system", profile, "--"}, args...)...)
	await(t, program, func() bool {
		select {
		case <-p.done:
			t.Fatalf("%s ended", program)
		default:
		}
		all, _ := filepath.Glob("/proc/[0-9]*/exe")
		for _, exe := range all {
			if to, _ := os.Readlink(exe); filepath.Base(to) == program {
				fmt.Sscanf(exe, "/proc/%d/", &pid)
				return true
			}
		}
		return false
	})
	return p, pid
}

// await polls: that a daemon serves is no event for others.
func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	if err := session.Await(20*time.Second, func() (bool, error) { return done(), nil }); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// run runs a client to its end.
func run(t *testing.T, program string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return output(t, exec.CommandContext(ctx, program, args...))
}

// output runs a command and returns what it said; what it leaves running may
// hold its output open.
func output(t *testing.T, cmd *exec.Cmd) (string, error) {
	t.Helper()
	said, err := os.CreateTemp(t.TempDir(), "output")
	must(t, err)
	defer said.Close()
	cmd.Stdout, cmd.Stderr = said, said
	failed := cmd.Run()
	b, err := os.ReadFile(said.Name())
	must(t, err)
	return string(b), failed
}

// answers runs a client until it says what it should.
func answers(t *testing.T, want, program string, args ...string) {
	t.Helper()
	var out string
	var err error
	await(t, program, func() bool {
		out, err = run(t, program, args...)
		return err == nil && regexp.MustCompile(want).MatchString(out)
	})
}

// who reads what the kernel says of a process.
func who(t *testing.T, pid int, field string) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, field+":"); ok {
			return strings.Join(strings.Fields(v), " ")
		}
	}
	t.Fatalf("no %s in %s", field, b)
	return ""
}

// confined checks what holds for each daemon, with the sandbox of its profile
// and a shell in its place: what root reads out here it does not reach in there.
func confined(t *testing.T, name, user string) {
	t.Helper()
	text, err := os.ReadFile(profile(name))
	must(t, err)
	var kept []string
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "[Application]") && !strings.HasPrefix(line, "command=") && !strings.HasPrefix(line, "arguments=") {
			kept = append(kept, line)
		}
	}
	probe := filepath.Join(t.TempDir(), name+".profile")
	must(t, os.WriteFile(probe, []byte(strings.Join(kept, "")+"[Application]\ncommand=sh\n"), 0o644))
	inside := func(command string) (string, error) {
		return run(t, sbxRun(), "--system", probe, "--", "-c", command)
	}
	if out, err := inside("id -un"); err != nil || strings.TrimSpace(out) != user {
		t.Fatalf("%s runs as %q, %v", name, out, err)
	}
	for _, command := range []string{
		"cat /etc/shadow", "cat /root/secret", "cat /home/secret", "cat /run/secret", // files
		"grep " + `"` + secret + `"` + " /proc/[0-9]*/root/run/secret", // through others
		"touch /usr/x && rm /usr/x || test -w /run/secret",             // writing
		"mount -t tmpfs none /mnt", "unshare --user true",              // the kernel
		"grep dbus-daemon /proc/[0-9]*/comm", // other processes
		"ls /home/ /root/", "test -e /sys/fs/cgroup", "dmesg >/dev/null",
	} {
		if out, err := inside(command); err == nil {
			t.Errorf("%s reaches: %s: %s", name, command, out)
		}
	}
	for _, command := range []string{"cat /etc/shadow", "cat /root/secret", "cat /run/secret", "grep dbus-daemon /proc/[0-9]*/comm", "mount -t tmpfs none /mnt"} {
		if out, err := run(t, "sh", "-c", command); err != nil {
			t.Errorf("so could not root outside: %s: %s", command, out)
		}
	}
	must(t, unix.Unmount("/mnt", unix.MNT_DETACH))
}

// other owns a name on the system bus, which no profile names.
func other(t *testing.T) {
	t.Helper()
	start(t, "python3", "-c", `
import gi
from gi.repository import Gio, GLib
loop = GLib.MainLoop()
Gio.bus_own_name(Gio.BusType.SYSTEM, 'org.example.Other', 0, None, None, None)
loop.run()`)
	answers(t, "true", "gdbus", "call", "--system", "--dest", "org.freedesktop.DBus", "--object-path", "/org/freedesktop/DBus",
		"--method", "org.freedesktop.DBus.NameHasOwner", "org.example.Other")
}

const ping = "gdbus call --system --timeout 5 --dest org.example.Other --object-path / --method org.freedesktop.DBus.Peer.Ping"

func TestModemManager(t *testing.T) {
	bus(t)
	p, pid := daemon(t, "ModemManager", profile("ModemManager"))
	answers(t, "No modems were found", "mmcli", "--list-modems")
	hasOnly(t, pid, "0000000000001000", "net_admin alone")
	for field, want := range map[string]string{"CapBnd": "0000000000001000", "NoNewPrivs": "1", "Seccomp": "2", "Uid": "0 0 0 0"} {
		if got := who(t, pid, field); got != want {
			t.Errorf("%s %s, want %s", field, got, want)
		}
	}
	confined(t, "ModemManager", "root")

	// The bus: names that are not its own, and not named in its profile.
	other(t)
	if out, err := run(t, "sh", "-c", ping); err != nil {
		t.Fatalf("from outside: %s", out)
	}
	shell := filepath.Join(t.TempDir(), "mm.profile")
	must(t, os.WriteFile(shell, []byte("[Application]\ncommand=sh\n[Sandbox]\n[System Bus Policy]\norg.freedesktop.ModemManager1=own\norg.freedesktop.PolicyKit1=talk\n"), 0o644))
	if out, err := run(t, sbxRun(), "--system", shell, "--", "-c", ping); err == nil || !strings.Contains(out, "ServiceUnknown") {
		t.Errorf("a name that the profile does not name: %v, %s", err, out)
	}
	// Without shared=network there is none.
	if out, err := run(t, sbxRun(), "--system", shell, "--", "-c", "grep -c : /proc/net/dev"); err != nil || strings.TrimSpace(out) != "1" {
		t.Errorf("interfaces without network: %s, %v", out, err)
	}

	p.end(syscall.SIGTERM)
	gone(t)
}

// hasOnly fails the test if a process has other capabilities than these, which are
// called so.
func hasOnly(t *testing.T, pid int, caps, called string) {
	t.Helper()
	if has := who(t, pid, "CapEff"); has != caps {
		t.Errorf("capabilities %s, want %s", has, called)
	}
}

// gone fails the test if something of a sandbox is left.
func gone(t *testing.T) {
	t.Helper()
	if left, _ := filepath.Glob("/run/sbx/.flatpak/*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	await(t, "the end of all sandboxes", func() bool {
		all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, file := range all {
			if b, _ := os.ReadFile(file); bytes.Contains(b, []byte("bwrap")) || bytes.Contains(b, []byte("xdg-dbus-proxy")) {
				return false
			}
		}
		return true
	})
}

func TestDnsmasq(t *testing.T) {
	bus(t)
	p, pid := daemon(t, "dnsmasq", profile("dnsmasq"), "--conf-file=/dev/null", "--no-resolv", "--address=/example.test/192.0.2.7")
	answers(t, `^192\.0\.2\.7\n$`, "dig", "+short", "+time=2", "+tries=1", "@127.0.0.1", "www.example.test") // port 53
	answers(t, `^\('2\.`, "gdbus", "call", "--system", "--dest", "uk.org.thekelleys.dnsmasq", "--object-path", "/uk/org/thekelleys/dnsmasq",
		"--method", "uk.org.thekelleys.dnsmasq.GetVersion")
	hasOnly(t, pid, "0000000000003400", "net_bind_service, net_admin, net_raw")
	if uid := who(t, pid, "Uid"); strings.HasPrefix(uid, "0 ") {
		t.Errorf("uid %s", uid)
	}
	if st, err := os.Stat("/run/dnsmasq"); err != nil || st.Mode().Perm() != 0o755 {
		t.Errorf("its directory: %v, %v", st, err)
	}
	confined(t, "dnsmasq", "dnsmasq")
	p.end(syscall.SIGTERM)
	gone(t)
}

func TestAvahi(t *testing.T) {
	bus(t)
	p, pid := daemon(t, "avahi-daemon", profile("avahi-daemon"))
	answers(t, "running|[0-9]", "gdbus", "call", "--system", "--dest", "org.freedesktop.Avahi", "--object-path", "/", "--method", "org.freedesktop.Avahi.Server.GetState")
	start(t, "avahi-publish", "-s", "thing", "_http._tcp", "8080")
	answers(t, `(?m)^=;lo;IPv4;thing;Web Site;local;.*;8080;`, "avahi-browse", "--all", "--terminate", "--parsable", "--resolve")
	hasOnly(t, pid, "0000000000000000", "none")
	confined(t, "avahi-daemon", "avahi")
	p.end(syscall.SIGTERM)
	gone(t)
}

func TestGeoclue(t *testing.T) {
	bus(t)
	p, pid := daemon(t, "geoclue", profile("geoclue"))
	answers(t, `^\(<false>,\)\n$`, "gdbus", "call", "--system", "--dest", "org.freedesktop.GeoClue2", "--object-path", "/org/freedesktop/GeoClue2/Manager",
		"--method", "org.freedesktop.DBus.Properties.Get", "org.freedesktop.GeoClue2.Manager", "InUse")
	hasOnly(t, pid, "0000000000000000", "none")
	confined(t, "geoclue", "geoclue")
	p.end(syscall.SIGTERM)
	gone(t)
}

func TestWpaSupplicant(t *testing.T) {
	bus(t)
	p, pid := daemon(t, "wpa_supplicant", profile("wpa_supplicant"))
	answers(t, `^\(<\[.*'ap'.*\]>,\)\n$`, "gdbus", "call", "--system", "--dest", "fi.w1.wpa_supplicant1", "--object-path", "/fi/w1/wpa_supplicant1",
		"--method", "org.freedesktop.DBus.Properties.Get", "fi.w1.wpa_supplicant1", "Capabilities")
	hasOnly(t, pid, "0000000000003000", "net_admin and net_raw")
	confined(t, "wpa_supplicant", "root")
	p.end(syscall.SIGTERM)
	gone(t)
}

// TestKilled: a daemon and all of its sandbox go with sbx-run, however it goes.
func TestKilled(t *testing.T) {
	bus(t)
	p, pid := daemon(t, "ModemManager", profile("ModemManager"))
	p.end(syscall.SIGKILL)
	await(t, "the daemon's end", func() bool { return unix.Kill(pid, 0) == unix.ESRCH })
	// What is left goes with the next start.
	p, _ = daemon(t, "ModemManager", profile("ModemManager"))
	answers(t, "No modems were found", "mmcli", "--list-modems")
	p.end(syscall.SIGTERM)
	gone(t)
}

// TestRefused: what is wrong ends before anything is started.
func TestRefused(t *testing.T) {
	for text, want := range map[string]string{
		"[Sandbox]\ncapabilities=sys_module;\n":                         "more than a sandbox can hold",
		"[Sandbox]\ncapabilities=net_admn;\n":                           "did you mean net_admin",
		"[Sandbox]\nstate=/home/x;\n":                                   "is no directory in",
		"[Sandbox]\nstate=/var/lib/../../etc;\n":                        "is no directory in",
		"[Sandbox]\nreadonly=/;\n":                                      "no path that can be shown",
		"[Sandbox]\nuser=nobody-of-that-name\n":                         "unknown user",
		"[Sandbox]\nuzer=root\n":                                        "did you mean user",
		"[Context]\nshared=network;\n":                                  "no group [Sandbox]",
		"[Sandbox]\n[Context]\nsockets=wayland;\n":                      "a daemon has no session",
		"[Sandbox]\n[Application]\nname=org.example.A\n":                "no app id",
		"[Sandbox]\nbus=unfiltered\n[System Bus Policy]\norg.a.B=own\n": "at once",
		"[Sandbox]\nbus=open\n":                                         "unknown word",
		"[Sandbox]\n[Application]\ncommand=no-such-program\n":           "no program no-such-program",
	} {
		file := filepath.Join(t.TempDir(), "d.profile")
		must(t, os.WriteFile(file, []byte(text), 0o644))
		if out, err := run(t, sbxRun(), "--system", file); err == nil || !strings.Contains(out, want) {
			t.Errorf("%q: %v, %s", text, err, out)
		}
	}
	if out, err := run(t, sbxRun(), "--system", profile("dnsmasq"), "--share=network"); err == nil || !strings.Contains(out, "nothing else") {
		t.Errorf("an option for apps: %v, %s", err, out)
	}
	// An app's profile is no daemon's, and the other way round.
	if out, err := run(t, sbxRun(), profile("dnsmasq")); err == nil || !strings.Contains(out, "app id") && !strings.Contains(out, "daemons") {
		t.Errorf("a daemon as an app: %v, %s", err, out)
	}
	// A state directory that leads elsewhere.
	must(t, os.Symlink("/etc", "/var/lib/misc/elsewhere"))
	file := filepath.Join(t.TempDir(), "d.profile")
	must(t, os.WriteFile(file, []byte("[Sandbox]\nstate=/var/lib/misc/elsewhere;\n[Application]\ncommand=true\n"), 0o644))
	if out, err := run(t, sbxRun(), "--system", file); err == nil || !strings.Contains(out, "link") {
		t.Errorf("state through a link: %v, %s", err, out)
	}
}

// TestProfiles: each that is installed is short, and a dry run shows it; those
// of programs that are not installed say so.
func TestProfiles(t *testing.T) {
	all, err := filepath.Glob(profile("*"))
	if err != nil || len(all) < 6 {
		t.Fatal(all, err)
	}
	for _, file := range all {
		text, err := os.ReadFile(file)
		must(t, err)
		if n := strings.Count(string(text), "\n"); n > 12 {
			t.Errorf("%s has %d lines", file, n)
		}
		out, err := run(t, sbxRun(), "--dry-run", "--system", file)
		if err != nil && !strings.Contains(out, "not installed") && !strings.Contains(out, "unknown user") {
			t.Errorf("%s: %v, %s", file, err, out)
		}
	}
}
