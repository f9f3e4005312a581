package keeper

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestEachFaultHasATest: what doc/reliability.md names is there.
func TestEachFaultHasATest(t *testing.T) {
	const top = "../.."
	text, err := os.ReadFile(filepath.Join(top, "doc/reliability.md"))
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile(`([a-z/]+):((?:Test|Fuzz)[A-Za-z0-9]+)`)
	rows := 0
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| Fault") {
			continue
		}
		rows++
		tests := named.FindAllStringSubmatch(line, -1)
		if len(tests) == 0 {
			t.Errorf("no test: %s", line)
		}
		for _, m := range tests {
			files, err := filepath.Glob(filepath.Join(top, m[1], "*_test.go"))
			if err != nil {
				t.Fatal(err)
			}
			found := false
			for _, file := range files {
				source, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				found = found || strings.Contains(string(source), "func "+m[2]+"(")
			}
			if !found {
				t.Errorf("%s has no %s", m[1], m[2])
			}
		}
	}
	if rows < 30 {
		t.Errorf("only %d faults", rows)
	}
}

// wallClock are the places where the code asks for the time that can be set, or
// compares with a file's date, how often, and why that decides nothing that a
// clock which jumps would make wrong. Everything else goes by the difference of
// two time.Now, which Go takes from a clock that nobody sets.
var wallClock = map[string]struct {
	times int
	why   string
}{
	"cmd/docportal/status.go: Format":        {2, "shown to the person"},
	"internal/fuse/state.go: Unix":           {1, "shown as the date of the view's own directories"},
	"internal/fuse/fs.go: Unix":              {2, "the same"},
	"internal/fuse/change.go: UnixNano":      {1, "beside the clock that nobody sets: either is looked at (mayHaveMade)"},
	"internal/fuse/node.go: Unix":            {1, "a date that looks young costs a page; dates are only kept if they are equal"},
	"internal/permstore/repair.go: UTC":      {1, "part of a name; one that is taken gets a number"},
	"internal/permstore/repair.go: Format":   {1, "the same"},
	"internal/bus/address.go: Unix":          {1, "a deadline that has passed, by any clock"},
	"internal/bus/standby.go: Unix":          {1, "the same"},
	"internal/sandbox/start.go: Unix":        {1, "the same"},
	"internal/wayland/wayland.go: Unix":      {1, "the same"},
	"internal/sandbox/instance.go: ModTime":  {1, "if the clock is set ahead in the moment of a start, that start fails and says so"},
	"internal/sandbox/versions.go: ModTime":  {1, "compared for being equal"},
	"internal/sandbox/versions.go: UnixNano": {1, "the same"},
}

// TestNoWallClockDecides looks for what asks a clock that may be set.
func TestNoWallClockDecides(t *testing.T) {
	const top = "../.."
	asks := regexp.MustCompile(`\.(Unix|UnixNano|UnixMilli|UnixMicro|UTC|Local|Format|AppendFormat|ModTime|Gettimeofday|Round|Date|Clock)\(|CLOCK_REALTIME|CLOCK_TAI|unix\.Time\(|syscall\.Time\(`)
	found := make(map[string]int)
	for _, dir := range []string{"cmd", "internal"} {
		err := filepath.WalkDir(filepath.Join(top, dir), func(path string, d os.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			name, _ := filepath.Rel(top, path)
			for _, m := range asks.FindAllStringSubmatch(string(text), -1) {
				word := m[1]
				if word == "" {
					word = m[0]
				}
				found[name+": "+word]++
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for place, n := range found {
		if wallClock[place].times != n {
			t.Errorf("%s: %d times, %d are explained", place, n, wallClock[place].times)
		}
	}
	for place, it := range wallClock {
		if found[place] != it.times {
			t.Errorf("%s: %d times, %d are explained", place, found[place], it.times)
		}
	}
}
