package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"unicode"
	"unicode/utf8"
)

// format is how a command says what it found.
type format struct {
	JSON bool `name:"json" help:"Print JSON."`
}

func (f format) asJSON() bool { return f.JSON }

// printJSON prints a value as JSON, indented, as the commands do with --json.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// printTable prints rows under a heading; nothing if there are none.
func printTable(w io.Writer, heading []string, rows [][]string) error {
	if len(rows) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, row := range append([][]string{heading}, rows...) {
		fmt.Fprintln(t, strings.Join(row, "\t"))
	}
	return t.Flush()
}

// shown is text of others, such as a path, as a terminal may get it: as it is,
// or in the form $'…' of the shell if it holds what a terminal or a table
// would take for something else.
func shown(text []byte) string {
	plain := len(text) > 0 && utf8.Valid(text)
	for i, r := range string(text) {
		switch {
		case r == ' ' && i > 0 && i < len(text)-1:
		case r == ' ' || !unicode.IsPrint(r):
			plain = false
		}
	}
	if plain && !strings.HasPrefix(string(text), "$'") {
		return string(text)
	}
	var b strings.Builder
	b.WriteString("$'")
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		switch {
		case r == utf8.RuneError && n == 1 || r < ' ' || r == 0x7f:
			switch text[0] {
			case '\n':
				b.WriteString(`\n`)
			case '\t':
				b.WriteString(`\t`)
			case '\r':
				b.WriteString(`\r`)
			default:
				fmt.Fprintf(&b, `\%03o`, text[0])
			}
		case r == '\'' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case unicode.IsPrint(r):
			b.WriteRune(r)
		default: // byte by byte: every shell knows octal
			for _, c := range text[:n] {
				fmt.Fprintf(&b, `\%03o`, c)
			}
		}
		text = text[n:]
	}
	b.WriteByte('\'')
	return b.String()
}

// jsonPath is a path in JSON, whose strings are text: a path that is no valid
// UTF-8 comes a second time as base64.
type jsonPath struct {
	Path   string `json:"path"`
	Base64 string `json:"path_base64,omitempty"`
}

func newJSONPath(path []byte) jsonPath {
	if utf8.Valid(path) {
		return jsonPath{Path: string(path)}
	}
	return jsonPath{strings.ToValidUTF8(string(path), "\uFFFD"), base64.StdEncoding.EncodeToString(path)}
}

// letters spells permissions briefly, as in tables with many apps.
func letters(words []string) string {
	var b strings.Builder
	for _, p := range []struct{ word, letter string }{
		{"read", "r"}, {"write", "w"}, {"grant-permissions", "g"}, {"delete", "d"},
	} {
		if slices.Contains(words, p.word) {
			b.WriteString(p.letter)
		}
	}
	if b.Len() == 0 {
		return "-"
	}
	return b.String()
}

// holders spells who may do what: "org.example.A:rw org.example.B:r".
func holders(apps map[string][]string) string {
	var all []string
	for _, app := range slices.Sorted(maps.Keys(apps)) {
		all = append(all, shown([]byte(app))+":"+letters(apps[app]))
	}
	if len(all) == 0 {
		return "-"
	}
	return strings.Join(all, " ")
}
