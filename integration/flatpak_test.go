package integration

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"docportal/integration/session"
)

// realFlatpak is the id of a flatpak that the tests build: a runtime with
// nothing in it, and the tests' app.
const realFlatpak = "org.docportal.Real"

// flatpak is a command line of the session's flatpak. It wants to ask on the
// system bus what a child may install.
func flatpak(s *session.Session, args ...string) *exec.Cmd {
	cmd := s.Command("flatpak", args...)
	cmd.Env = append(cmd.Env, "DBUS_SYSTEM_BUS_ADDRESS="+s.Address)
	return cmd
}

// installFlatpak builds the flatpak and installs it.
func installFlatpak(t *testing.T, s *session.Session) {
	t.Helper()
	dir := filepath.Join(s.Home, ".session/flatpak")
	arch := strings.TrimSpace(runs(t, s, flatpak(s, "--default-arch")))
	platform := "org.docportal.Platform/" + arch + "/master"
	program, err := os.ReadFile(s.Libexec("app"))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"runtime/usr/bin", "runtime/files", "app/files/bin", "app/export"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	writeFile(t, filepath.Join(dir, "app/files/bin/app"), string(program))
	if err := os.Chmod(filepath.Join(dir, "app/files/bin/app"), 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "runtime/metadata"), "[Runtime]\nname=org.docportal.Platform\nruntime="+platform+"\nsdk="+platform+"\n")
	writeFile(t, filepath.Join(dir, "app/metadata"), "[Application]\nname="+realFlatpak+"\nruntime="+platform+"\nsdk="+platform+"\ncommand=app\n")
	repo := filepath.Join(dir, "repo")
	for _, args := range [][]string{
		{"build-export", "-r", repo, filepath.Join(dir, "runtime")},
		{"build-export", repo, filepath.Join(dir, "app")},
		{"--user", "remote-add", "--no-gpg-verify", "tests", repo},
		{"--user", "install", "--noninteractive", "tests", "org.docportal.Platform", realFlatpak},
	} {
		runs(t, s, flatpak(s, args...))
	}
}

// held is a program that runs as long as its standard input is open.
type held struct {
	cmd *exec.Cmd
	in  io.Closer
}

// hold starts a program of integration/app's kind and waits for its first
// answer.
func hold(t *testing.T, s *session.Session, cmd *exec.Cmd) *held {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(cmd); err != nil {
		t.Fatal(err)
	}
	h := &held{cmd, in}
	t.Cleanup(h.end)
	stuck := time.AfterFunc(30*time.Second, func() { cmd.Process.Kill() })
	defer stuck.Stop()
	fmt.Fprintln(in, `{"op":"getenv","name":"FLATPAK_ID"}`)
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("%q: %q %v", cmd.Args, line, err)
	}
	return h
}

func (h *held) end() {
	h.in.Close()
	h.cmd.Process.Kill()
	h.cmd.Wait()
}

// Flatpak's instances and ours lie in one directory. Each side lists and
// collects its own, whatever has become of the other's.
func TestFlatpaksAndOursLeaveEachOtherAlone(t *testing.T) {
	s := start(t)
	installFlatpak(t, s)
	profile, err := s.Profile(appA, "app")
	if err != nil {
		t.Fatal(err)
	}
	instances := func() (ours, theirs []string) {
		entries, err := os.ReadDir(filepath.Join(s.Runtime, ".flatpak"))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			switch name := e.Name(); {
			case strings.HasPrefix(name, "sbx-"):
				ours = append(ours, name)
			case strings.Trim(name, "0123456789") == "":
				theirs = append(theirs, name)
			}
		}
		return ours, theirs
	}
	ps := func(want ...string) {
		t.Helper()
		got := strings.Fields(runs(t, s, flatpak(s, "ps", "--columns=application")))
		if !slices.Equal(got, want) {
			t.Errorf("flatpak ps: %q, want %q", got, want)
		}
	}
	want := func(ours, theirs int) {
		t.Helper()
		if o, f := instances(); len(o) != ours || len(f) != theirs {
			t.Errorf("instances of ours %q and flatpak's %q, want %d and %d", o, f, ours, theirs)
		}
	}

	real := hold(t, s, flatpak(s, "run", realFlatpak))
	ours := hold(t, s, s.Command("sbx-run", profile))
	ps(realFlatpak)
	want(1, 1)
	runs(t, s, s.Command("sbx-run", "--command=true", profile)) // a start and an end collect
	want(1, 1)
	if list := runs(t, s, s.Command("sbx-run", "--list")); !strings.Contains(list, appA) || strings.Contains(list, realFlatpak) {
		t.Errorf("sbx-run --list: %q", list)
	}

	// What a killed one left is collected by its own side.
	for _, pid := range worker(t, ours.cmd.Process.Pid) {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	ours.end()
	want(1, 1)
	ps(realFlatpak)
	want(1, 1)
	runs(t, s, s.Command("sbx-run", "--command=true", profile))
	want(0, 1)

	old := hold(t, s, s.Command("sbx-run", profile))
	real.end()
	// Flatpak leaves alone what is younger than three seconds.
	_, theirs := instances()
	ref := filepath.Join(s.Runtime, ".flatpak", theirs[0], ".ref")
	past := time.Now().Add(-time.Minute)
	if err := os.Chtimes(ref, past, past); err != nil {
		t.Fatal(err)
	}
	runs(t, s, s.Command("sbx-run", "--command=true", profile))
	want(1, 1)
	if err := session.Await(10*time.Second, func() (bool, error) { // until its bwrap has ended
		ps()
		_, theirs := instances()
		return len(theirs) == 0, nil
	}); err != nil {
		t.Error(err)
	}
	want(1, 0)
	old.end()
	// Flatpak keeps a directory for each app.
	if err := os.RemoveAll(filepath.Join(s.Runtime, ".flatpak", realFlatpak)); err != nil {
		t.Error(err)
	}
}

// worker is the process that sbx-run started first.
func worker(t *testing.T, pid int) (pids []int) {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		data, err := os.ReadFile(task)
		if err != nil {
			t.Fatal(err)
		}
		for f := range strings.FieldsSeq(string(data)) {
			var n int
			fmt.Sscan(f, &n)
			pids = append(pids, n)
		}
	}
	return pids
}
