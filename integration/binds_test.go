package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// What sbx-run records of a sandbox is what docportal goes by: where a file of
// the sandbox is on the host, and which files the app needs no document for.
func TestTheRecordedBindsSayWhatTheAppSees(t *testing.T) {
	const asNeeded = 4
	s := start(t)
	conn := connect(t, s)
	program, err := s.Profile(appA, "app") // shows ~/program for reading
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"shown/secret", "hidden", ".config/autostart"} {
		if err := os.MkdirAll(filepath.Join(s.Home, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	file := func(name string) string {
		path := filepath.Join(s.Home, name)
		writeFile(t, path, name)
		return path
	}
	options := []string{"--filesystem=~/shown", "--filesystem=~/shown/secret:ro", "--filesystem=~/.config", "--persist=kept"}
	hold(t, s, s.Command("sbx-run", append(options, program)...))

	for _, c := range []struct {
		file        string
		permissions []string
		needed      bool
	}{
		{file("shown/a"), []string{"read", "write"}, false},
		{file("shown/secret/a"), []string{"read"}, false},
		{file("shown/secret/b"), []string{"read", "write"}, true},
		{file("program/a"), []string{"read"}, false},
		{file("program/b"), []string{"write"}, true},
		{file("hidden/a"), []string{"read"}, true},
		{file(".config/a"), []string{"read", "write"}, false},
		{file(".config/autostart/a"), []string{"read"}, true},
		{filepath.Join(s.Home, ".var/app", appA, "data/a"), []string{"read", "write"}, false},
		{"/usr/bin/env", []string{"read"}, false},
	} {
		if !strings.HasPrefix(c.file, "/usr") {
			writeFile(t, c.file, "x")
		}
		if id := add(t, conn, c.file, appA, asNeeded, c.permissions...); (id != "") != c.needed {
			t.Errorf("%s for %v: document %q", c.file, c.permissions, id)
		}
	}

	// From inside: by paths of the sandbox.
	own := filepath.Join(s.Home, ".var/app", appA)
	for _, dir := range []string{"cache/tmp", "kept"} {
		if err := os.MkdirAll(filepath.Join(own, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	writeFile(t, filepath.Join(own, "cache/tmp/a"), "a")
	writeFile(t, filepath.Join(own, "kept/a"), "a")
	for inside, host := range map[string]string{
		"/var/tmp/a":                            filepath.Join(own, "cache/tmp/a"),
		filepath.Join(s.Home, "kept/a"):         filepath.Join(own, "kept/a"),
		filepath.Join(s.Home, "shown/a"):        filepath.Join(s.Home, "shown/a"),
		filepath.Join(s.Home, "shown/secret/a"): filepath.Join(s.Home, "shown/secret/a"),
	} {
		out := runs(t, s, s.Command("sbx-run", slices.Concat(options, []string{"--command=python3", program, "-c", portalProgram,
			"Documents.AddFull", fmt.Sprintf("([FILE(%s)], uint32 0, '', @as [])", inside)})...))
		id := regexp.MustCompile(`\['([0-9a-f]+)'\]`).FindStringSubmatch(out)
		if id == nil {
			t.Errorf("%s: %q", inside, out)
			continue
		}
		var paths map[string][]byte
		if err := call(conn, documentsName, "GetHostPaths", []any{[]string{id[1]}}, &paths); err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimRight(string(paths[id[1]]), "\x00"); got != host {
			t.Errorf("%s is %q on the host, want %q", inside, got, host)
		}
	}
}
