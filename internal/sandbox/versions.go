package sandbox

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// versionsFile remembers, as long as the session lasts, which programs the
// user was told about, so that no start asks them again.
const versionsFile = "sbx-run.versions"

// versionsWait is how long programs may take to say their version.
const versionsWait = 2 * time.Second

// fixedIn are the first versions without holes that are publicly known. A
// distribution may have mended earlier ones; versions do not show it.
var fixedIn = map[string][]int{
	"bwrap":          {0, 12},
	"xdg-dbus-proxy": {0, 1, 8},
}

// warnOld tells the user once a session of programs with known holes. Nothing
// depends on it: every rule of the sandbox holds with any version.
func (s *Starter) warnOld(ctx context.Context, h *Host) {
	path := filepath.Join(h.RuntimeDir, versionsFile)
	seen := programStamp(s.Bwrap) + programStamp(s.Proxy)
	if had, err := os.ReadFile(path); err == nil && string(had) == seen {
		return
	}
	for name, program := range map[string]string{"bwrap": s.Bwrap, "xdg-dbus-proxy": s.Proxy} {
		version, fixed, old, err := KnownHoles(ctx, name, program)
		if err != nil {
			return // asked again next time
		}
		if old {
			s.Warn("%s %s has known holes, unless your distribution has mended them; version %s has not", name, version, fixed)
		}
	}
	// Whole or not at all, and never through a link.
	tmp := fmt.Sprintf("%s.%d", path, os.Getpid())
	if os.WriteFile(tmp, []byte(seen), 0o600) != nil || os.Rename(tmp, path) != nil {
		os.Remove(tmp)
	}
}

// KnownHoles asks the program at path, bwrap or xdg-dbus-proxy by name, for its
// version, and reports whether it is older than the first one without publicly
// known holes, fixed.
func KnownHoles(ctx context.Context, name, path string) (version, fixed string, old bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, versionsWait)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return "", "", false, err
	}
	version, old = olderThan(string(out), fixedIn[name])
	return version, dotted(fixedIn[name]), old, nil
}

// programStamp changes when the program at path is replaced.
func programStamp(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return ""
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	return fmt.Sprintf("%s %d:%d %d %d\n", path, st.Dev, st.Ino, info.Size(), info.ModTime().UnixNano())
}

// olderThan reads a version off what a program says with --version, such as
// "bubblewrap 0.8.0", and compares it. What is no version is not old.
func olderThan(said string, than []int) (version string, old bool) {
	fields := strings.Fields(said)
	if len(fields) == 0 {
		return "", false
	}
	version = fields[len(fields)-1]
	parts := strings.Split(version, ".")
	for i, want := range than {
		have := 0
		if i < len(parts) {
			var err error
			if have, err = strconv.Atoi(parts[i]); err != nil {
				return version, false
			}
		}
		if have != want {
			return version, have < want
		}
	}
	return version, false
}

func dotted(version []int) string {
	var parts []string
	for _, n := range version {
		parts = append(parts, strconv.Itoa(n))
	}
	return strings.Join(parts, ".")
}
