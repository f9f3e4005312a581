package sandbox

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The profiles that are shipped are short, and give away neither the system
// nor what apps share: files come through the portal.
func TestShippedProfiles(t *testing.T) {
	const dir, maxLines = "../../profiles", 12
	paths, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(paths) == 0 {
		t.Fatal("no profiles", err)
	}
	for _, path := range paths {
		id, ok := strings.CutSuffix(filepath.Base(path), profileSuffix)
		if !ok {
			t.Errorf("%s is no profile", path)
			continue
		}
		p, err := Load(id, []string{dir})
		if err != nil {
			t.Error(err)
			continue
		}
		if len(p.Command) == 0 {
			t.Errorf("%s: no command", id)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		lines := 0
		for line := range strings.SplitSeq(string(data), "\n") {
			if line != "" && !strings.HasPrefix(line, "#") {
				lines++
			}
		}
		if lines > maxLines {
			t.Errorf("%s: %d lines, at most %d", id, lines, maxLines)
		}
		for _, w := range slices.Concat(p.Filesystems, p.Command) {
			what, _ := cutMode(w.Text)
			if strings.HasPrefix(what, "/") || strings.HasPrefix(what, "xdg-") || what == "home" || what == "host" || what == "~" {
				t.Errorf("%s: %s: a path of the system or a shared directory", w.At, w.Text)
			}
		}
		for _, s := range texts(p.Sockets) {
			if s == "x11" {
				t.Errorf("%s: x11 where fallback-x11 will do", id)
			}
		}
	}
}
