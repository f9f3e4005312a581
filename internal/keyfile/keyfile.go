// Package keyfile reads and writes the key file syntax of GLib (desktop entry
// specification, "Basic format of the file"; GLib's GKeyFile documentation).
// It keeps one rule: what it cannot read is an error with its line, never a
// silently different meaning, because identities and permissions are read
// through it.
package keyfile

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// File is the parsed content of a key file: groups in order of appearance.
// A group or key that appears again merges with the earlier one and the later
// value wins, as GKeyFile has it.
type File struct {
	groups []*Group
}

// Group is one [Name] section of a key file.
type Group struct {
	Name string
	Line int // line number of its header, from 1; 0 if made by Set
	keys []Entry
}

// Entry is one key=value line.
type Entry struct {
	Key   string
	Value string // raw, escapes not yet resolved
	Line  int    // line number from 1; 0 if made by Set
}

// SyntaxError says which line of a key file cannot be read, and why.
type SyntaxError struct {
	Line   int // from 1
	Reason string
}

// Error implements error.
func (e *SyntaxError) Error() string { return fmt.Sprintf("line %d: %s", e.Line, e.Reason) }

// space is what is white space within a line, as g_ascii_isspace has it.
const space = " \t\r\f"

// Parse reads a whole key file. Any error is a *SyntaxError. Unlike GKeyFile
// it also refuses, anywhere in the file, NUL bytes, text that is not UTF-8, and
// carriage returns before the one of a line's end: a value cannot end in one.
func Parse(data []byte) (*File, error) {
	f := new(File)
	var group *Group
	n := 0
	for text := range strings.SplitSeq(string(data), "\n") {
		n++
		text = strings.TrimSuffix(text, "\r")
		if !utf8.ValidString(text) {
			return nil, &SyntaxError{n, "not UTF-8 text"}
		}
		if strings.IndexByte(text, 0) >= 0 {
			return nil, &SyntaxError{n, "contains a NUL byte"}
		}
		if strings.HasSuffix(text, "\r") {
			return nil, &SyntaxError{n, "ends in more than one carriage return"}
		}
		line := strings.TrimLeft(text, space)
		switch {
		case line == "" || line[0] == '#':
			continue
		case line[0] == '[':
			name, rest, ok := strings.Cut(line[1:], "]")
			if !ok || strings.TrimSpace(rest) != "" || !validGroup(name) {
				return nil, &SyntaxError{n, fmt.Sprintf("not a group header: %q", line)}
			}
			group = f.group(name, n)
		default:
			key, value, ok := strings.Cut(line, "=")
			key = strings.TrimRight(key, space)
			if !ok || key == "" {
				return nil, &SyntaxError{n, fmt.Sprintf("neither a group, a comment nor key=value: %q", line)}
			}
			if group == nil {
				return nil, &SyntaxError{n, "a key before the first group"}
			}
			group.set(key, strings.TrimLeft(value, space), n)
		}
	}
	return f, nil
}

func validGroup(name string) bool {
	if name == "" {
		return false
	}
	for i := 0; i < len(name); i++ {
		if c := name[i]; c == '[' || c < ' ' || c == 0x7f {
			return false
		}
	}
	return true
}

func (f *File) group(name string, line int) *Group {
	if g := f.Group(name); g != nil {
		return g
	}
	g := &Group{Name: name, Line: line}
	f.groups = append(f.groups, g)
	return g
}

func (g *Group) set(key, value string, line int) {
	for i := range g.keys {
		if g.keys[i].Key == key {
			g.keys[i].Value, g.keys[i].Line = value, line
			return
		}
	}
	g.keys = append(g.keys, Entry{key, value, line})
}

// Groups returns the groups in order of first appearance. The slice is the
// file's own.
func (f *File) Groups() []*Group { return f.groups }

// Group returns the named group, or nil.
func (f *File) Group(name string) *Group {
	for _, g := range f.groups {
		if g.Name == name {
			return g
		}
	}
	return nil
}

// Entries returns the group's entries in order of first appearance; none for a
// nil group. The slice is the group's own.
func (g *Group) Entries() []Entry {
	if g == nil {
		return nil
	}
	return g.keys
}

// Lookup returns the raw entry of a key. It may be called on a nil group.
func (g *Group) Lookup(key string) (Entry, bool) {
	for _, e := range g.Entries() {
		if e.Key == key {
			return e, true
		}
	}
	return Entry{}, false
}

// String returns the value of a key with its escapes resolved, "" when the
// key is absent. A bad escape is an error.
func (f *File) String(group, key string) (string, error) {
	e, ok := f.Group(group).Lookup(key)
	if !ok {
		return "", nil
	}
	return e.String()
}

// Has reports whether the key is present.
func (f *File) Has(group, key string) bool {
	_, ok := f.Group(group).Lookup(key)
	return ok
}

// List returns the ;-separated values of a key, nil when the key is absent.
func (f *File) List(group, key string) ([]string, error) {
	e, ok := f.Group(group).Lookup(key)
	if !ok {
		return nil, nil
	}
	return e.List()
}

// String resolves the escapes \s \n \t \r \\ of a value; any other escape is
// a *SyntaxError.
func (e Entry) String() (string, error) {
	l, err := e.split(false)
	if err != nil {
		return "", err
	}
	return l[0], nil
}

// List splits a value at ";", which "\;" escapes, and resolves the escapes of
// each element. A trailing ";" ends the last element and adds none.
func (e Entry) List() ([]string, error) {
	l, err := e.split(true)
	if err != nil {
		return nil, err
	}
	if l[len(l)-1] == "" {
		l = l[:len(l)-1]
	}
	return l, nil
}

func (e Entry) split(list bool) ([]string, error) {
	var all []string
	var b strings.Builder
	v := e.Value
	for i := 0; i < len(v); i++ {
		c := v[i]
		if list && c == ';' {
			all = append(all, b.String())
			b.Reset()
			continue
		}
		if c != '\\' {
			b.WriteByte(c)
			continue
		}
		i++
		if i == len(v) {
			return nil, &SyntaxError{e.Line, fmt.Sprintf("%s: a backslash at the end of the value", e.Key)}
		}
		switch c = v[i]; {
		case c == 's':
			b.WriteByte(' ')
		case c == 'n':
			b.WriteByte('\n')
		case c == 't':
			b.WriteByte('\t')
		case c == 'r':
			b.WriteByte('\r')
		case c == '\\':
			b.WriteByte('\\')
		case c == ';' && list:
			b.WriteByte(';')
		default:
			return nil, &SyntaxError{e.Line, fmt.Sprintf("%s: unknown escape \\%c", e.Key, c)}
		}
	}
	return append(all, b.String()), nil
}

// Set sets a key to a string, escaped so that String gives it back.
func (f *File) Set(group, key, value string) {
	f.group(group, 0).set(key, escape(value, false), 0)
}

// SetRaw sets a key to a value as it stands in a file: an Entry's Value.
func (f *File) SetRaw(group, key, value string) {
	f.group(group, 0).set(key, value, 0)
}

// SetList sets a key to a list, escaped so that List gives it back.
func (f *File) SetList(group, key string, values []string) {
	var b strings.Builder
	for _, v := range values {
		b.WriteString(escape(v, true))
		b.WriteByte(';')
	}
	f.group(group, 0).set(key, b.String(), 0)
}

func escape(s string, list bool) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == ' ' && i == 0:
			b.WriteString(`\s`)
		case c == '\n':
			b.WriteString(`\n`)
		case c == '\t':
			b.WriteString(`\t`)
		case c == '\r':
			b.WriteString(`\r`)
		case c == '\\':
			b.WriteString(`\\`)
		case c == ';' && list:
			b.WriteString(`\;`)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// Bytes returns the file's text.
func (f *File) Bytes() []byte {
	var b strings.Builder
	for i, g := range f.groups {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "[%s]\n", g.Name)
		for _, e := range g.keys {
			fmt.Fprintf(&b, "%s=%s\n", e.Key, e.Value)
		}
	}
	return []byte(b.String())
}
