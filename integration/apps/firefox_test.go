//go:build apps

package apps

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"docportal/integration/session"
)

// TestMain installs everything where an ordinary user can reach it, if that
// was not done by who called, and goes on as that user.
func TestMain(m *testing.M) {
	if os.Getuid() != 0 && os.Getenv("DOCPORTAL_STAGE") != "" {
		os.Exit(m.Run())
	}
	code, err := session.Staged("../..")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

func TestStart(t *testing.T) {
	dir := t.TempDir()
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		b, _ := os.ReadFile(log.Name())
		t.Logf("%s", b)
	}()
	screen, err := StartScreen(dir, log)
	if err != nil {
		t.Fatal(err)
	}
	defer screen.Close()
	t.Setenv("DISPLAY", screen.Display)
	t.Setenv("XAUTHORITY", screen.Authority)
	t.Setenv("WAYLAND_DISPLAY", "")
	s, err := session.Start(session.Options{Log: log, Display: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := PrepareFirefox(s); err != nil {
		t.Fatal(err)
	}
	f, err := StartFirefox(s, log)
	if err != nil {
		screen.Shot("/tmp/shots/fail.png")
		t.Fatal(err)
	}
	defer f.Kill()
	t.Log(f.Navigate("data:text/html,<input type=file id=f><label for=f>here</label>"))
	t.Log(screen.Shot("/tmp/shots/1.png"))
	t.Log(f.Quit())
}
