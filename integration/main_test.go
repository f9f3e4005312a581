// Package integration has the tests of the whole: docportal, sbx-run and the
// system's own message bus, desktop portal, bubblewrap and D-Bus proxy, in
// sessions of their own (package session). Only the person who chooses a file
// is played.
package integration

import (
	"context"
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

// TestMain installs everything where an ordinary user can reach it, if that
// was not done by who called, and goes on as that user.
func TestMain(m *testing.M) {
	if os.Getuid() != 0 && os.Getenv("DOCPORTAL_STAGE") != "" {
		os.Exit(m.Run())
	}
	code, err := runStaged()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

func runStaged() (int, error) {
	dir, err := os.MkdirTemp("/tmp", "docportal-stage-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		return 1, err
	}
	stage := exec.Command("../scripts/stage", dir)
	stage.Stderr = os.Stderr
	if err := stage.Run(); err != nil {
		return 1, fmt.Errorf("scripts/stage: %w", err)
	}
	user, err := exec.Command("../scripts/test-user").Output()
	if err != nil {
		return 1, fmt.Errorf("scripts/test-user: %w", err)
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return 1, err
	}
	program := filepath.Join(dir, "integration.test")
	if err := os.WriteFile(program, self, 0o755); err != nil {
		return 1, err
	}
	args := append([]string{strings.TrimSpace(string(user)), program}, os.Args[1:]...)
	cmd := exec.Command(filepath.Join(dir, "libexec/asuser"), args...)
	cmd.Env = append(os.Environ(), "DOCPORTAL_STAGE="+dir)
	cmd.Dir = dir
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err = cmd.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return exit.ExitCode(), nil
	}
	if err != nil {
		return 1, err
	}
	return 0, nil
}

// start starts a session that ends with the test, which fails if the session
// leaves anything behind.
func start(t *testing.T) *session.Session {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	s, err := session.Start(session.Options{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("after the session: %v", err)
		}
		if said, err := os.ReadFile(log.Name()); t.Failed() {
			t.Logf("the session's programs said (%v):\n%s", err, said)
		}
	})
	return s
}

func connect(t *testing.T, s *session.Session) *dbus.Conn {
	t.Helper()
	conn, err := s.Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// Names and objects of the two services.
const (
	documentsName = "org.freedesktop.portal.Documents"
	documentsPath = "/org/freedesktop/portal/documents"
	storeName     = "org.freedesktop.impl.portal.PermissionStore"
	storePath     = "/org/freedesktop/impl/portal/PermissionStore"
)

// answerLimit is the time in which every call must be answered.
const answerLimit = 10 * time.Second

// call makes a call to one of the two services and stores the reply in out.
func call(conn *dbus.Conn, name, method string, args []any, out ...any) error {
	path := dbus.ObjectPath(documentsPath)
	if name == storeName {
		path = storePath
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerLimit)
	defer cancel()
	c := conn.Object(name, path).CallWithContext(ctx, name+"."+method, 0, args...)
	if c.Err != nil || len(out) == 0 {
		return c.Err
	}
	return c.Store(out...)
}

// mountPoint asks for the mount point, which starts the document portal.
func mountPoint(t *testing.T, conn *dbus.Conn) string {
	t.Helper()
	var path []byte
	if err := call(conn, documentsName, "GetMountPoint", nil, &path); err != nil {
		t.Fatalf("GetMountPoint: %v", err)
	}
	return strings.TrimSuffix(string(path), "\x00")
}

// errorName is the D-Bus name of an error, or its text.
func errorName(err error) string {
	var d dbus.Error
	if errors.As(err, &d) {
		return d.Name
	}
	if err == nil {
		return ""
	}
	return err.Error()
}

func writeFile(t *testing.T, path, data string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
		t.Fatal(err)
	}
}

func wantFile(t *testing.T, path, data string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
	} else if string(b) != data {
		t.Errorf("%s holds %q, want %q", path, b, data)
	}
}
