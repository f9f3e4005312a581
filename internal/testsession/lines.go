package testsession

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// EveryLineHasATest says which line of a specification names a test that is not
// there. Lines maps each line to its tests, with spaces between them: Name for
// the functions TestName and Name (a fuzz target), name.txt for the script in
// testdata; of the package in the directory source, or of another one,
// DIRECTORY:Name.
func EveryLineHasATest(t *testing.T, source string, lines map[string]string) {
	t.Helper()
	for line, tests := range lines {
		names := strings.Fields(tests)
		if len(names) == 0 {
			t.Errorf("%s: no test", line)
		}
		for _, name := range names {
			dir, test, ok := strings.Cut(name, ":")
			if !ok {
				dir, test = ".", name
			}
			if !hasTest(t, filepath.Join(source, dir), test) {
				t.Errorf("%s: no test %s in %s", line, test, dir)
			}
		}
	}
}

func hasTest(t *testing.T, dir, name string) bool {
	t.Helper()
	if strings.HasSuffix(name, ".txt") {
		_, err := os.Stat(filepath.Join(dir, "testdata", name))
		return err == nil
	}
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil || len(files) == 0 {
		t.Fatal(dir, " has no tests: ", err)
	}
	want := regexp.MustCompile(`(?m)^func (Test)?` + name + `\(`)
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && want.Match(b) {
			return true
		}
	}
	return false
}
