package integration

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"docportal/integration/session"
)

// handed runs a shell in appA's sandbox with files handed to it.
func handed(t *testing.T, s *session.Session, script string, args ...string) (out, message string, err error) {
	t.Helper()
	profile, err := s.Profile(appA, "app")
	if err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	cmd := s.Command("sbx-run", append([]string{"--command=sh", profile, "-c", script, "sh"}, args...)...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = 2 * time.Second
	if err := s.Start(cmd); err != nil {
		t.Fatal(err)
	}
	stuck := time.AfterFunc(20*time.Second, func() { cmd.Process.Kill() })
	defer stuck.Stop()
	err = cmd.Wait()
	return stdout.String(), stderr.String(), err
}

func TestFilesNamedOnTheCommandLineReachTheApp(t *testing.T) {
	s := start(t)
	letter := filepath.Join(s.Home, "a letter.txt")
	writeFile(t, letter, "Dear all,\n")
	writeFile(t, filepath.Join(s.Home, "other.txt"), "not for the app\n")
	folder := filepath.Join(s.Home, "folder")
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(folder, "inside.txt"), "in the folder\n")

	out, message, err := handed(t, s, `echo "$1"; cat "$1"; echo more >> "$1"; ls "${1%/*}"/../*`, "@@", letter, "@@")
	path, rest, _ := strings.Cut(out, "\n")
	// Its own documents are all that it sees.
	if err != nil || rest != "Dear all,\na letter.txt\n" {
		t.Fatalf("the app printed %q (%v: %s)", out, err, message)
	}
	if !strings.HasPrefix(path, filepath.Join(s.Runtime, "doc")+"/") || filepath.Base(path) != "a letter.txt" {
		t.Errorf("the app got the path %s", path)
	}
	wantFile(t, letter, "Dear all,\nmore\n")

	uri := "file://" + strings.ReplaceAll(letter, " ", "%20")
	if out, message, err = handed(t, s, `echo "$2 ${1##*/}"`, "@@u", uri, "https://example.org/x", "@@"); err != nil || out != "https://example.org/x a%20letter.txt\n" {
		t.Errorf("URIs: %q (%v: %s)", out, err, message)
	}
	if out, message, err = handed(t, s, `cat "$1/inside.txt"`, "@@", folder, "@@"); err != nil || out != "in the folder\n" {
		t.Errorf("a directory: %q (%v: %s)", out, err, message)
	}
	// A file that its owner may only read is no more to the app.
	if err := os.Chmod(letter, 0o444); err != nil {
		t.Fatal(err)
	}
	writable := os.Getuid() == 0
	if out, _, _ = handed(t, s, `cat "$1"; echo never >> "$1"`, "@@", letter, "@@"); !strings.HasPrefix(out, "Dear all,\n") {
		t.Errorf("a read-only file: %q", out)
	} else if !writable {
		wantFile(t, letter, "Dear all,\nmore\n")
	}
}

func TestAFileThatIsMissingEndsTheStart(t *testing.T) {
	s := start(t)
	out, message, err := handed(t, s, "echo ran", "@@", filepath.Join(s.Home, "missing.txt"), "@@")
	exit, ok := err.(*exec.ExitError)
	if out != "" || !ok || exit.ExitCode() != 125 || !strings.Contains(message, "missing.txt: no such file") {
		t.Errorf("got %q, %v: %s", out, err, message)
	}
	if names, err := s.Instances(); err != nil || len(names) != 0 {
		t.Errorf("instances: %v (%v), want none", names, err)
	}
}
