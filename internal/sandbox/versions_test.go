package sandbox

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestVersionsAreCompared(t *testing.T) {
	for _, c := range []struct {
		said string
		than []int
		old  bool
	}{
		{"bubblewrap 0.8.0\n", []int{0, 12}, true},
		{"bubblewrap 0.11.99\n", []int{0, 12}, true},
		{"bubblewrap 0.12.0\n", []int{0, 12}, false},
		{"bubblewrap 0.12\n", []int{0, 12}, false},
		{"bubblewrap 1.0\n", []int{0, 12}, false},
		{"xdg-dbus-proxy 0.1.4\n", []int{0, 1, 8}, true},
		{"xdg-dbus-proxy 0.1\n", []int{0, 1, 8}, true},
		{"xdg-dbus-proxy 0.1.8\n", []int{0, 1, 8}, false},
		{"xdg-dbus-proxy 0.1.10\n", []int{0, 1, 8}, false},
		{"bubblewrap from git\n", []int{0, 12}, false},
		{"", []int{0, 12}, false},
	} {
		if _, old := olderThan(c.said, c.than); old != c.old {
			t.Errorf("%q older than %v: %v", c.said, c.than, old)
		}
	}
}

// The programs are asked again when they were replaced, not at each start.
func TestOldProgramsAreToldOfOnceASession(t *testing.T) {
	h := testHost(t)
	dir := t.TempDir()
	program := func(name, says string) string {
		path := filepath.Join(dir, name)
		text := fmt.Sprintf("#!/bin/sh\necho %s >> %s/asked\necho %s\n", name, dir, says)
		write(t, path+".new", text)
		if err := os.Chmod(path+".new", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
		return path
	}
	var told []string
	s := &Starter{
		Bwrap: program("bwrap", "bubblewrap 0.8.0"), Proxy: program("proxy", "xdg-dbus-proxy 0.1.8"),
		Warn: func(format string, args ...any) { told = append(told, fmt.Sprintf(format, args...)) },
	}
	asked := func() int {
		b, _ := os.ReadFile(filepath.Join(dir, "asked"))
		return strings.Count(string(b), "\n")
	}
	for range 3 {
		s.warnOld(context.Background(), h)
	}
	if len(told) != 1 || asked() != 2 {
		t.Errorf("told %q, asked %d times", told, asked())
	}
	program("bwrap", "bubblewrap 0.12.0")
	told = nil
	s.warnOld(context.Background(), h)
	if len(told) != 0 || asked() != 4 {
		t.Errorf("after the update: told %q, asked %d times", told, asked())
	}
}
