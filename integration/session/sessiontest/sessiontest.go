// Package sessiontest is how tests get a session (package session): as an
// ordinary user, with everything installed, for as long as a test lasts. It
// keeps one rule: what a session leaves behind fails the test.
package sessiontest

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"docportal/integration/session"
)

// Main is TestMain's: it runs the tests and returns the exit status. If that was
// not done by who called, it installs everything of the source tree at top where
// an ordinary user can reach it first, and goes on as that user.
func Main(top string, run func() int) int {
	if os.Getuid() != 0 && os.Getenv("DOCPORTAL_STAGE") != "" {
		return run()
	}
	code, err := session.Staged(top)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return code
}

// Start starts a session that ends with the test, which fails if the session
// leaves anything behind. What its programs say is logged if the test fails.
func Start(t testing.TB, o session.Options) *session.Session {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	o.Log = log
	t.Cleanup(func() {
		log.Close()
		if said, err := os.ReadFile(log.Name()); t.Failed() {
			t.Logf("the session's programs said (%v):\n%s", err, said)
		}
	})
	s, err := session.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("after the session: %v", err)
		}
	})
	return s
}
