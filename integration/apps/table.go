package apps

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
)

// columns are what an application is tried with, in the order of the table.
var columns = []string{"starts", "open", "save", "drag", "print", "sound", "camera", "notifications"}

// Table is what applications were seen to do. Its methods may be called from
// any goroutine.
type Table struct {
	mu   sync.Mutex
	rows map[string]map[string]string
}

// Set says what came of trying something with an application.
func (t *Table) Set(app, column, word string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !slices.Contains(columns, column) {
		panic("no column " + column)
	}
	if t.rows == nil {
		t.rows = map[string]map[string]string{}
	}
	if t.rows[app] == nil {
		t.rows[app] = map[string]string{}
	}
	t.rows[app][column] = word
}

// Write writes the table, as Markdown.
func (t *Table) Write(file string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var apps []string
	for app := range t.rows {
		apps = append(apps, app)
	}
	slices.Sort(apps)
	var b strings.Builder
	fmt.Fprintf(&b, "| app | %s |\n|---%s|\n", strings.Join(columns, " | "), strings.Repeat("|---", len(columns)))
	for _, app := range apps {
		b.WriteString("| " + app)
		for _, c := range columns {
			word := t.rows[app][c]
			if word == "" {
				word = "–"
			}
			b.WriteString(" | " + word)
		}
		b.WriteString(" |\n")
	}
	return os.WriteFile(file, []byte(b.String()), 0o644)
}
