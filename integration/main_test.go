// Package integration has the tests of the whole: docportal, sbx-run and the
// system's own message bus, desktop portal, bubblewrap and D-Bus proxy, in
// sessions of their own (package session). Only the person who chooses a file
// is played.
package integration

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"docportal/integration/session"
	"docportal/integration/session/sessiontest"
)

// TestMain installs everything where an ordinary user can reach it, if that
// was not done by who called, and goes on as that user.
func TestMain(m *testing.M) {
	os.Exit(sessiontest.Main("..", m.Run))
}

// start starts a session that ends with the test, which fails if the session
// leaves anything behind.
func start(t *testing.T) *session.Session {
	t.Helper()
	return startWith(t, session.Options{})
}

func startWith(t *testing.T, o session.Options) *session.Session {
	t.Helper()
	return sessiontest.Start(t, o)
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
