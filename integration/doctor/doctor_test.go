// Package doctor tests "docportal doctor" and "sbx-run --doctor": a session
// that works, broken in one way after the other. What is broken is really so,
// in the session or, where it is the machine, in a mount namespace of the
// command's own.
package doctor

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	"docportal/internal/testsession"
)

// TestMain installs everything where an ordinary user can reach it, if that
// was not done by who called, and goes on as that user.
func TestMain(m *testing.M) {
	os.Exit(sessiontest.Main("../..", func() int {
		code := m.Run()
		if err := complete(); err != nil && code == 0 {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
		return code
	}))
}

func start(t *testing.T, o session.Options) *session.Session {
	t.Helper()
	s := sessiontest.Start(t, o)
	// What is right: the person's file dialogs, and no old programs.
	_, err := s.StartBackend("/dev/null")
	must(t, err)
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// examine runs a command and returns its lines and exit status.
func examine(t *testing.T, cmd *exec.Cmd) (out string, status int) {
	t.Helper()
	var b bytes.Buffer
	cmd.Stdout = &b
	if exit := (*exec.ExitError)(nil); errors.As(run(cmd), &exit) {
		status = exit.ExitCode()
	} else if cmd.ProcessState == nil {
		t.Fatal("it did not run: ", cmd)
	}
	record(b.String())
	return b.String(), status
}

func run(cmd *exec.Cmd) error {
	late := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	defer late.Stop()
	return cmd.Run()
}

// set changes variables of a command; "NAME" alone unsets one.
func set(cmd *exec.Cmd, env ...string) *exec.Cmd {
	for _, kv := range env {
		name, _, value := strings.Cut(kv, "=")
		kept := cmd.Env[:0]
		for _, had := range cmd.Env {
			if !strings.HasPrefix(had, name+"=") {
				kept = append(kept, had)
			}
		}
		if cmd.Env = kept; value {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	return cmd
}

// finds fails the test unless a line says what, and mends it with mend.
func finds(t *testing.T, out string, status int, word, what, mend string) {
	t.Helper()
	line := regexp.MustCompile(`(?m)^` + word + `: .*` + what + `.*; mend it: .*` + mend + `.*$`)
	if mend == "" {
		line = regexp.MustCompile(`(?m)^` + word + `: .*` + what)
	}
	if !line.MatchString(out) {
		t.Errorf("no line %q in:\n%s", line, out)
	}
	if want := map[string]int{"broken": 1, "warning": 0}[word]; status != want && word == "broken" {
		t.Errorf("exit status %d, want %d:\n%s", status, want, out)
	}
}

// tools is a PATH with just the programs that the commands need, but for some.
func tools(t *testing.T, but ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"bwrap", "xdg-dbus-proxy", "fusermount3", "sh"} {
		path, err := exec.LookPath(name)
		must(t, err)
		if !strings.Contains(strings.Join(but, " "), name) {
			must(t, os.Symlink(path, filepath.Join(dir, name)))
		}
	}
	return dir
}

// script makes a program.
func script(t *testing.T, dir, name, text string) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755))
}

// TestNothingIsWrong: in a session that works both commands say so, warn at
// most of old programs and of apps without a desktop entry, and change nothing.
func TestNothingIsWrong(t *testing.T) {
	s := start(t, session.Options{})
	for _, cmd := range []*exec.Cmd{s.Command("docportal", "doctor"), s.Command("sbx-run", "--doctor")} {
		out, status := examine(t, cmd)
		for line := range strings.Lines(out) {
			if !regexp.MustCompile(`^(warning: .*(known holes|no desktop entry).*|nothing is wrong|broken: 0, )`).MatchString(line) {
				t.Errorf("%v: %s", cmd.Args, line)
			}
		}
		if status != 0 {
			t.Errorf("exit status %d", status)
		}
	}
	out, status := examine(t, s.Command("docportal", "doctor", "--json"))
	var list []map[string]any
	if err := json.Unmarshal([]byte(out), &list); err != nil || status != 0 {
		t.Errorf("%v, %d: %s", err, status, out)
	}
}

// TestPrograms: what is missing or old in PATH.
func TestPrograms(t *testing.T) {
	s := start(t, session.Options{})
	doctor := func(path string) (string, int) {
		return examine(t, set(s.Command("docportal", "doctor"), "PATH="+path))
	}
	out, status := doctor(tools(t, "bwrap"))
	finds(t, out, status, "broken", "bwrap is not installed", "bubblewrap")
	out, status = doctor(tools(t, "xdg-dbus-proxy"))
	finds(t, out, status, "broken", "xdg-dbus-proxy is not installed", "xdg-dbus-proxy")
	out, status = doctor(tools(t, "fusermount3"))
	finds(t, out, status, "broken", "fusermount3 is not installed", "fuse3")

	dir := tools(t, "fusermount3")
	script(t, dir, "fusermount3", "exit 1")
	out, status = doctor(dir)
	finds(t, out, status, "broken", "fusermount3 is not set-user-id root", "chmod 4755 "+dir+"/fusermount3")

	real, err := exec.LookPath("bwrap")
	must(t, err)
	dir = tools(t, "bwrap", "xdg-dbus-proxy")
	script(t, dir, "bwrap", `[ "$1" != --version ] || { echo bubblewrap 0.8.0; exit; }; exec `+real+` "$@"`)
	script(t, dir, "xdg-dbus-proxy", `echo xdg-dbus-proxy 0.1.4`)
	out, status = doctor(dir)
	finds(t, out, status, "warning", "bwrap 0.8.0 has known holes", "bubblewrap")
	finds(t, out, status, "warning", "xdg-dbus-proxy 0.1.4 has known holes", "xdg-dbus-proxy")
	if status != 0 {
		t.Errorf("a warning ends with status %d", status)
	}
	script(t, dir, "bwrap", `[ "$1" != --version ] || { echo bubblewrap 99.0; exit; }; exec `+real+` "$@"`)
	script(t, dir, "xdg-dbus-proxy", `echo xdg-dbus-proxy 99.0`)
	if out, _ := doctor(dir); strings.Contains(out, "holes") {
		t.Error("new programs count as old: ", out)
	}
	script(t, dir, "xdg-dbus-proxy", "exit 1")
	out, status = doctor(dir)
	finds(t, out, status, "broken", "xdg-dbus-proxy cannot be run", "")
	script(t, dir, "bwrap", `[ "$1" != --version ] || { echo bubblewrap 99.0; exit; }; echo no room in here >&2; exit 1`)
	out, status = doctor(dir)
	finds(t, out, status, "broken", "bubblewrap makes no sandbox: no room in here", "")
}

// TestKernel: a machine without FUSE or without user namespaces.
func TestKernel(t *testing.T) {
	s := start(t, session.Options{})
	doctor, err := filepath.Abs(filepath.Join(s.Stage(), "bin", "docportal"))
	must(t, err)
	in := func(program string, args ...string) (string, int) {
		return examine(t, s.Command(program, args...))
	}
	out, status := in("bwrap", "--bind", "/", "/", "--dev", "/dev", "--", doctor, "doctor")
	finds(t, out, status, "broken", "there is no /dev/fuse", "modprobe fuse")

	closed := filepath.Join(s.Home, "closed")
	must(t, os.WriteFile(closed, nil, 0))
	out, status = in("bwrap", "--dev-bind", "/", "/", "--bind", closed, "/dev/fuse", "--", doctor, "doctor")
	finds(t, out, status, "broken", "/dev/fuse is not open to you", "chmod 666 /dev/fuse")

	// A node that nobody drives, as a socket is.
	nobody, err := net.Listen("unix", filepath.Join(s.Runtime, "nobody"))
	must(t, err)
	defer nobody.Close()
	out, status = in("bwrap", "--dev-bind", "/", "/", "--bind", nobody.Addr().String(), "/dev/fuse", "--", doctor, "doctor")
	finds(t, out, status, "broken", "open /dev/fuse: no such device or address", "modprobe fuse")

	// In a user namespace everything is mounted nosuid.
	out, status = in("bwrap", "--dev-bind", "/", "/", "--", doctor, "doctor")
	finds(t, out, status, "broken", "fusermount3 lies on a file system that is mounted nosuid",
		`mount -o remount,suid "\$\(df -P /.*fusermount3 \| awk 'END { print \$6 }'\)"`)

	out, status = in("unshare", "--user", "--map-root-user", "sh", "-c", `echo 0 >/proc/sys/user/max_user_namespaces && exec "$0" doctor`, doctor)
	finds(t, out, status, "broken", "you cannot make user namespaces", "sysctl -w user.max_user_namespaces=15000")

	// Such a kernel does not know this file, and refuses as this one does then.
	out, status = in("bwrap", "--dev-bind", "/", "/", "--unshare-pid", "--as-pid-1", "--proc", "/proc", "--tmpfs", "/proc/1/ns",
		"--unshare-user", "--disable-userns", "--", doctor, "doctor")
	finds(t, out, status, "broken", `you cannot make user namespaces: no app can be sandboxed; this kernel was built without them \(CONFIG_USER_NS\)`, "")

	for name, want := range map[string]string{
		"unprivileged_userns_clone=0":             "sysctl -w kernel.unprivileged_userns_clone=1",
		"apparmor_restrict_unprivileged_userns=1": "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
	} {
		name, value, _ := strings.Cut(name, "=")
		sys := filepath.Join(s.Home, "sys-"+name, "kernel")
		must(t, os.MkdirAll(sys, 0o700))
		must(t, os.WriteFile(filepath.Join(sys, name), []byte(value+"\n"), 0o600))
		out, status = in("bwrap", "--dev-bind", "/", "/", "--ro-bind", filepath.Dir(sys), "/proc/sys",
			"--unshare-user", "--disable-userns", "--", doctor, "doctor")
		finds(t, out, status, "broken", "you cannot make user namespaces", want)
	}
}

// TestRuntimeDirectory: XDG_RUNTIME_DIR as some logins leave it.
func TestRuntimeDirectory(t *testing.T) {
	s := start(t, session.Options{})
	open := filepath.Join(s.Home, "open")
	must(t, os.Mkdir(open, 0o700))
	must(t, os.Chmod(open, 0o777))
	for dir, want := range map[string][2]string{
		"XDG_RUNTIME_DIR":                   {"XDG_RUNTIME_DIR is not set", "export XDG_RUNTIME_DIR="},
		"XDG_RUNTIME_DIR=" + s.Home + "/no": {"no such file", "export XDG_RUNTIME_DIR="},
		"XDG_RUNTIME_DIR=/usr":              {"/usr is no directory of your own", "export XDG_RUNTIME_DIR="},
		"XDG_RUNTIME_DIR=" + open:           {"can be written by others", "chmod 700 " + open},
	} {
		out, status := examine(t, set(s.Command("docportal", "doctor"), dir))
		finds(t, out, status, "broken", want[0], want[1])
	}
}

// TestBus: no bus, a second one, one without portals.
func TestBus(t *testing.T) {
	s := start(t, session.Options{})
	out, status := examine(t, set(s.Command("docportal", "doctor"), "DBUS_SESSION_BUS_ADDRESS=unix:path="+s.Home+"/nobody"))
	finds(t, out, status, "broken", "the session bus cannot be reached", "dbus-run-session")

	// The session's own document portal has the documents.
	if out, status := examine(t, s.Command("docportal", "doctor")); status != 0 {
		t.Fatal(out)
	}
	dir := t.TempDir()
	second := testsession.StartBus(t, dir, s.Command("true").Env...)
	out, status = examine(t, set(s.Command("docportal", "doctor"), "DBUS_SESSION_BUS_ADDRESS="+second.Address))
	second.Stop()
	finds(t, out, status, "broken", "there is a second session bus at "+s.Runtime+"/bus", "export DBUS_SESSION_BUS_ADDRESS=unix:path="+s.Runtime+"/bus")
	finds(t, out, status, "broken", "served on another session bus", "docportal --replace")

	// One that can start nothing.
	config := filepath.Join(dir, "bus.conf")
	must(t, os.WriteFile(config, []byte(`<busconfig><type>session</type><listen>unix:path=`+dir+`/bare</listen>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>`), 0o600))
	bare := s.Command("dbus-daemon", "--config-file="+config, "--nofork", "--nopidfile", "--print-address")
	address, err := bare.StdoutPipe()
	must(t, err)
	must(t, s.Start(bare))
	line, err := bufio.NewReader(address).ReadString('\n')
	must(t, err)
	out, status = examine(t, set(s.Command("sbx-run", "--doctor"), "DBUS_SESSION_BUS_ADDRESS="+strings.TrimSpace(line), "XDG_RUNTIME_DIR="+s.Home+"/.session"))
	must(t, bare.Process.Kill())
	bare.Wait()
	finds(t, out, status, "broken", "no document portal is installed", "XDG_DATA_DIRS")
	finds(t, out, status, "broken", "xdg-desktop-portal is not installed", "xdg-desktop-portal")
}

// TestPortal: xdg-desktop-portal and its backend.
func TestPortal(t *testing.T) {
	s := start(t, session.Options{})
	doctor := func(env ...string) (string, int) {
		return examine(t, set(s.Command("docportal", "doctor", "--wait=2s"), env...))
	}
	empty := t.TempDir()
	out, status := doctor("XDG_DESKTOP_PORTAL_DIR=" + empty)
	finds(t, out, status, "broken", "no portal backend with a file chooser is installed", "xdg-desktop-portal-gtk")
	out, status = doctor("XDG_DESKTOP_PORTAL_DIR="+empty, "XDG_CURRENT_DESKTOP=KDE")
	finds(t, out, status, "broken", "no portal backend with a file chooser is installed", "xdg-desktop-portal-kde")
	out, status = doctor("XDG_CURRENT_DESKTOP=nosuch")
	finds(t, out, status, "broken", "no portal backend with a file chooser is there for XDG_CURRENT_DESKTOP=nosuch", "nosuch-portals.conf")
	out, status = doctor("XDG_CURRENT_DESKTOP")
	finds(t, out, status, "warning", "XDG_CURRENT_DESKTOP is not set", "dbus-update-activation-environment")

	// The portal was started without this.
	out, status = doctor("WAYLAND_DISPLAY=wayland-9", "DISPLAY=:99")
	finds(t, out, status, "broken", "xdg-desktop-portal .process [0-9]+. was started before WAYLAND_DISPLAY and DISPLAY", "dbus-update-activation-environment .*&& kill [0-9]+")
	finds(t, out, status, "broken", "the portal backend "+session.Desktop+" .process [0-9]+. was started before", "kill")

	pid, err := s.Owner("org.freedesktop.portal.Desktop")
	must(t, err)
	must(t, unix.Kill(pid, unix.SIGSTOP))
	out, status = doctor()
	must(t, unix.Kill(pid, unix.SIGCONT))
	finds(t, out, status, "broken", "xdg-desktop-portal does not answer: no answer in time", "--replace")
}

// TestBackendGone: a backend that is configured, and that nobody can start.
func TestBackendGone(t *testing.T) {
	s := start(t, session.Options{})
	portals := filepath.Join(s.Home, "portals")
	must(t, os.MkdirAll(portals, 0o700))
	must(t, os.WriteFile(filepath.Join(portals, "other.portal"),
		[]byte("[portal]\nDBusName=org.example.nobody\nInterfaces=org.freedesktop.impl.portal.FileChooser;\nUseIn=docportaltest\n"), 0o600))
	out, status := examine(t, set(s.Command("docportal", "doctor"), "XDG_DESKTOP_PORTAL_DIR="+portals, "XDG_CONFIG_HOME="+portals))
	finds(t, out, status, "broken", "the portal backend other does not run and the session bus cannot start it", "")
}

// TestDocuments: what can be wrong with the document portal and its mount.
func TestDocuments(t *testing.T) {
	s := start(t, session.Options{})
	blocked := filepath.Join(s.Runtime, "doc")
	must(t, os.WriteFile(blocked, nil, 0o600))
	out, status := examine(t, s.Command("docportal", "doctor"))
	finds(t, out, status, "broken", "the document portal does not work: cannot mount", "docportal --replace --verbose")
	must(t, os.Remove(blocked))
	if out, status := examine(t, s.Command("docportal", "doctor")); status != 0 {
		t.Fatal(out)
	}

	// A server that hangs.
	pids := portals(t, s)
	for _, pid := range pids {
		must(t, unix.Kill(pid, unix.SIGSTOP))
	}
	out, status = examine(t, s.Command("docportal", "doctor", "--wait=1s"))
	finds(t, out, status, "broken", "the document portal does not work: no answer in time", "docportal --replace")
	finds(t, out, status, "broken", "doc is mounted, but who serves it does not answer", "fusermount3 -u -z "+blocked)

	// One that is gone, and nobody who starts another.
	for _, pid := range pids {
		must(t, unix.Kill(pid, unix.SIGKILL))
	}
	must(t, session.Await(10*time.Second, func() (bool, error) { return len(portals(t, s)) == 0, nil }))
	out, status = examine(t, set(s.Command("docportal", "doctor"), "DBUS_SESSION_BUS_ADDRESS=unix:path="+s.Home+"/nobody"))
	finds(t, out, status, "broken", "doc is a stale mount", "fusermount3 -u -z "+blocked)
	must(t, run(s.Command("fusermount3", "-u", "-z", blocked)))
	out, _ = examine(t, set(s.Command("docportal", "doctor"), "DBUS_SESSION_BUS_ADDRESS=unix:path="+s.Home+"/nobody"))
	if strings.Contains(out, "stale") {
		t.Error("what mends a stale mount does not: ", out)
	}
}

// TestMountNamespaces: docportal and who looks for its mount are in two, and only
// one of them has it. (With --trust-userns the one that looks may be in a user
// namespace, too, as it has to be to make a mount namespace.)
func TestMountNamespaces(t *testing.T) {
	s := start(t, session.Options{})
	daemon := s.Command("docportal", "--trust-userns")
	must(t, daemon.Start())
	defer func() { daemon.Process.Signal(unix.SIGTERM); daemon.Wait() }()
	must(t, session.Await(10*time.Second, func() (bool, error) {
		return s.Command("docportal", "status").Run() == nil, nil
	}))
	if out, status := examine(t, s.Command("docportal", "doctor")); status != 0 {
		t.Fatal(out)
	}
	cmd := s.Command("bwrap", "--dev-bind", "/", "/", "--tmpfs", filepath.Join(s.Runtime, "doc"), s.Command("docportal").Path, "doctor")
	out, status := examine(t, cmd)
	finds(t, out, status, "broken", "apps cannot see .+: who serves it runs in a mount namespace of its own", "docportal --replace")
}

// portals lists docportal's processes.
func portals(t *testing.T, s *session.Session) (pids []int) {
	t.Helper()
	all, err := s.Processes()
	must(t, err)
	for _, p := range all {
		if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", p.PID)); err == nil && filepath.Base(exe) == "docportal" {
			pids = append(pids, p.PID)
		}
	}
	return pids
}

// TestAnotherDocumentPortal: it works, but is not ours.
func TestAnotherDocumentPortal(t *testing.T) {
	s := start(t, session.Options{SystemPortal: true})
	out, status := examine(t, s.Command("docportal", "doctor"))
	finds(t, out, status, "warning", "documents are served by xdg-document-portal .process [0-9]+., not by docportal", "docportal --replace")
	if status != 0 {
		t.Errorf("exit status %d: %s", status, out)
	}
}

// TestApps: profiles and desktop entries.
func TestApps(t *testing.T) {
	s := start(t, session.Options{})
	profiles := filepath.Join(s.Home, ".config/sbx/profiles")
	must(t, os.MkdirAll(profiles, 0o700))
	must(t, os.WriteFile(filepath.Join(profiles, "org.example.App.profile"), []byte("[Application]\nname=org.example.App\ncommand=sh\n"), 0o600))
	must(t, os.WriteFile(filepath.Join(profiles, "org.example.Bad.profile"), []byte("[Aplication]\n"), 0o600))
	out, status := examine(t, s.Command("sbx-run", "--doctor"))
	finds(t, out, status, "warning", "there is no desktop entry org.example.App.desktop", "sbx-run --install org.example.App")
	finds(t, out, status, "warning", "the profile of org.example.Bad is wrong: .*Bad.profile:1: ", "")
	if status != 0 {
		t.Errorf("exit status %d: %s", status, out)
	}
	out, status = examine(t, s.Command("sbx-run", "--doctor", "org.example.App"))
	finds(t, out, status, "broken", "there is no desktop entry org.example.App.desktop", "sbx-run --install org.example.App")
	doctor := filepath.Join(s.Stage(), "bin", "docportal")
	loaders := []string{"--dev-bind", "/", "/", "--tmpfs", "/usr/share", "--dir", "/usr/share/glycin-loaders", "--tmpfs", "/usr/bin"}
	out, status = examine(t, s.Command("bwrap", append(loaders, "--", doctor, "doctor")...))
	finds(t, out, status, "warning", "there is no /usr/bin/flatpak-spawn", `ln -s "\$\(command -v sbx-run\)" /usr/bin/flatpak-spawn`)
	out, _ = examine(t, s.Command("bwrap", append(loaders, "--symlink", doctor, "/usr/bin/flatpak-spawn", "--", doctor, "doctor")...))
	if strings.Contains(out, "flatpak-spawn") {
		t.Error("what mends it does not: ", out)
	}
	out, status = examine(t, s.Command("sbx-run", "--doctor", "noapp"))
	finds(t, out, status, "broken", `no profile for "noapp"`, "sbx-run --list")
	must(t, run(s.Command("sbx-run", "--install", "org.example.App")))
	if out, status = examine(t, s.Command("docportal", "doctor", "org.example.App")); status != 0 {
		t.Error("what mends it does not: ", out)
	}
}

// TestWritten: a portal has written down how an app is started.
func TestWritten(t *testing.T) {
	s := start(t, session.Options{})
	for name, text := range map[string]string{
		".config/sbx/profiles/org.example.App.profile":          "[Application]\nname=org.example.App\ncommand=sh\n",
		".config/autostart/org.example.App.desktop":             "[Desktop Entry]\nType=Application\nExec=flatpak run --command=sh org.example.App -c true\nX-Flatpak=org.example.App\n",
		".config/autostart/org.example.Flatpak.desktop":         "[Desktop Entry]\nType=Application\nExec=/usr/bin/flatpak run org.example.Flatpak\n",
		".config/autostart/other.desktop":                       "[Desktop Entry]\nType=Application\nExec=true\n",
		".local/share/applications/org.example.App.One.desktop": "[Desktop Entry]\nType=Application\nExec=/usr/bin/flatpak run org.example.App\n",
	} {
		path := filepath.Join(s.Home, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o700))
		must(t, os.WriteFile(path, []byte(text), 0o600))
	}
	out, status := examine(t, s.Command("sbx-run", "--doctor"))
	mend := regexp.MustCompile(`(?m)org.example.App by flatpak.*; mend it: (.*)$`).FindAllStringSubmatch(out, -1)
	if len(mend) != 2 || strings.Count(out, "by flatpak") != 2 {
		t.Fatal(out)
	}
	finds(t, out, status, "warning", "autostart/org.example.App.desktop starts org.example.App by flatpak", "sed")
	for _, m := range mend {
		must(t, run(s.Command("sh", "-c", m[1])))
	}
	if out, _ := examine(t, s.Command("sbx-run", "--doctor")); strings.Contains(out, "by flatpak") {
		t.Error("what mends it does not: ", out)
	}
	for _, name := range []string{".config/autostart/org.example.App.desktop", ".local/share/applications/org.example.App.One.desktop"} {
		b, err := os.ReadFile(filepath.Join(s.Home, name))
		must(t, err)
		if !strings.Contains(string(b), "\nExec=sbx-run --literal ") {
			t.Errorf("%s: %s", name, b)
		}
	}
	// The stand-in knows it.
	must(t, os.WriteFile(filepath.Join(s.Home, ".config/autostart/org.example.App.desktop"), []byte("[Desktop Entry]\nExec=flatpak run org.example.App\n"), 0o600))
	bin := filepath.Join(s.Home, "bin")
	must(t, os.Mkdir(bin, 0o700))
	must(t, os.Symlink(filepath.Join(s.Stage(), "bin/sbx-run"), filepath.Join(bin, "flatpak")))
	cmd := s.Command("sbx-run", "--doctor")
	session.PathFirst(cmd, bin)
	if out, _ := examine(t, cmd); strings.Contains(out, "by flatpak") {
		t.Error("with the stand-in: ", out)
	}
}

// TestInside: from inside of a sandbox nothing can be said of the machine.
func TestInside(t *testing.T) {
	s := start(t, session.Options{})
	program, err := os.ReadFile(filepath.Join(s.Stage(), "bin", "docportal"))
	must(t, err)
	must(t, os.Mkdir(filepath.Join(s.Home, "program"), 0o700))
	must(t, os.WriteFile(filepath.Join(s.Home, "program", "docportal"), program, 0o755))
	must(t, os.WriteFile(filepath.Join(s.Home, "p.profile"), []byte("[Application]\nname=org.example.App\ncommand="+s.Home+"/program/docportal\n[Context]\nfilesystems=~/program:ro\n"), 0o600))
	out, status := examine(t, s.Command("sbx-run", "./p.profile", "doctor"))
	finds(t, out, status, "broken", "inside of a sandbox", "")
}

// TestProgress: on a terminal it says what it waits for, and clears the line;
// elsewhere it says nothing but what it finds. What others said keeps to its line.
func TestProgress(t *testing.T) {
	s := start(t, session.Options{})
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	defer master.Close()
	must(t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	must(t, err)
	terminal, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	cmd := s.Command("docportal", "doctor")
	cmd.Stderr = terminal
	var seen bytes.Buffer
	read := make(chan struct{})
	go func() {
		defer close(read)
		io.Copy(&seen, master)
	}()
	if out, status := examine(t, cmd); status != 0 {
		t.Error(out)
	}
	terminal.Close()
	<-read
	if said := seen.String(); !strings.Contains(said, "looking at the session bus") || !strings.HasSuffix(said, "\r\033[K") {
		t.Errorf("the terminal shows %q", said)
	}
	cmd = set(s.Command("docportal", "doctor"), "XDG_RUNTIME_DIR=/nowhere/\033[31m\nnext")
	var quiet bytes.Buffer
	cmd.Stderr = &quiet
	out, _ := examine(t, cmd)
	if strings.Contains(out, "\033") || strings.Contains(out, "\nnext") || quiet.Len() > 0 {
		t.Errorf("%q, and %q", out, &quiet)
	}
}

// TestInterrupted: ^C ends the wait.
func TestInterrupted(t *testing.T) {
	s := start(t, session.Options{})
	if out, status := examine(t, s.Command("docportal", "doctor")); status != 0 {
		t.Fatal(out)
	}
	pid, err := s.Owner("org.freedesktop.portal.Desktop")
	must(t, err)
	must(t, unix.Kill(pid, unix.SIGSTOP))
	defer unix.Kill(pid, unix.SIGCONT)
	cmd := s.Command("docportal", "doctor", "--wait=1m")
	var out bytes.Buffer
	cmd.Stdout = &out
	must(t, s.Start(cmd))
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	go func() {
		<-ctx.Done()
		cmd.Process.Kill()
	}()
	must(t, session.Await(20*time.Second, func() (bool, error) {
		fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", cmd.Process.Pid))
		for _, fd := range fds {
			if to, _ := os.Readlink(fd); strings.HasPrefix(to, "socket:") { // it talks to the bus
				return true, nil
			}
		}
		return false, err
	}))
	cmd.Process.Signal(syscall.SIGINT)
	cmd.Wait()
	if ctx.Err() != nil {
		t.Error("it waits on")
	}
	record(out.String())
	finds(t, out.String(), cmd.ProcessState.ExitCode(), "broken", "interrupted", "")
}
