// Package complete says what can come next on a command line. It keeps one
// rule: what it offers is read from the command line's own definition, so that
// the shells' files (completions) never name an option or a command.
//
// A field of the definition says with the tag "complete" what its values are,
// such as "app"; the program knows them.
package complete

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// Candidate is a word that can come next.
type Candidate struct {
	Word string
	Help string // a few words about it, or ""
}

// Values returns the values of a kind; before are the positional words that
// stand in front.
type Values func(kind string, before []string) []Candidate

// Print prints what can come instead of the last word, one line for each: the
// word and, after a tab, its description. It reports whether there is anything.
func Print(w io.Writer, app *kong.Application, words []string, values Values) bool {
	found := Candidates(app, words, values)
	for _, c := range found {
		if strings.ContainsAny(c.Word, "\t\n") {
			continue // no shell could be told
		}
		help, _, _ := strings.Cut(c.Help, "\n")
		fmt.Fprintf(w, "%s\t%s\n", c.Word, strings.ReplaceAll(help, "\t", " "))
	}
	return len(found) > 0
}

// Candidates is what can come instead of the last word, which may be empty.
func Candidates(app *kong.Application, words []string, values Values) []Candidate {
	if len(words) == 0 {
		words = []string{""}
	}
	last := words[len(words)-1]
	s := state{node: app.Node}
	for _, w := range words[:len(words)-1] {
		s.take(w)
	}
	if last == "=" { // bash makes a word of it
		s.take(last)
		last = ""
	}
	var found []Candidate
	prefix := ""
	switch {
	case s.waiting != nil:
		found = of(s.waiting, values, s.before)
	case s.through:
		return nil
	case !s.wordsOnly && strings.HasPrefix(last, "--") && strings.Contains(last, "="):
		name, value, _ := strings.Cut(last, "=")
		prefix, last = name+"=", value
		if f := s.flag(name); f != nil {
			found = of(f.Value, values, s.before)
		}
	case !s.wordsOnly && strings.HasPrefix(last, "-"):
		for _, f := range s.flags() {
			if !f.Hidden {
				found = append(found, Candidate{"--" + f.Name, f.Help})
			}
		}
	default:
		if len(s.before) == 0 {
			for _, n := range s.node.Children {
				if !n.Hidden {
					found = append(found, Candidate{n.Name, n.Help})
				}
			}
		}
		if p := s.positional(); p != nil {
			found = append(found, of(p, values, s.before)...)
		}
	}
	found = slices.DeleteFunc(found, func(c Candidate) bool { return !strings.HasPrefix(c.Word, last) })
	for i := range found {
		found[i].Word = prefix + found[i].Word
	}
	return found
}

// state is what the words so far have led to.
type state struct {
	node      *kong.Node
	before    []string    // positional words of node
	waiting   *kong.Value // a flag whose value comes next
	last      *kong.Value // the flag before this word
	wordsOnly bool        // after "--"
	through   bool        // the rest belongs to somebody else
}

func (s *state) take(w string) {
	last := s.last
	s.last = nil
	switch {
	case w == "=" && (s.waiting != nil || last != nil):
		if s.waiting == nil {
			s.waiting = last
		}
	case s.waiting != nil:
		s.waiting = nil
	case s.through:
	case !s.wordsOnly && w == "--":
		s.wordsOnly = true
	case !s.wordsOnly && strings.HasPrefix(w, "-") && w != "-":
		if f := s.flag(w); f != nil && !strings.Contains(w, "=") {
			if f.IsBool() || f.IsCounter() {
				s.last = f.Value
			} else {
				s.waiting = f.Value
			}
		}
	default:
		if len(s.before) == 0 {
			for _, n := range s.node.Children {
				if n.Name == w || slices.Contains(n.Aliases, w) {
					s.node = n
					return
				}
			}
		}
		p := s.positional()
		s.through = p != nil && p.PassthroughMode != kong.PassThroughModeNone
		s.before = append(s.before, w)
	}
}

// flags lists the flags of the node and of those above it.
func (s *state) flags() []*kong.Flag {
	var all []*kong.Flag
	for n := s.node; n != nil; n = n.Parent {
		all = append(all, n.Flags...)
	}
	return all
}

func (s *state) flag(word string) *kong.Flag {
	name, _, _ := strings.Cut(strings.TrimPrefix(word, "--"), "=")
	for _, f := range s.flags() {
		if f.Name == name || slices.Contains(f.Aliases, name) || f.Short != 0 && word == "-"+string(f.Short) {
			return f
		}
	}
	return nil
}

// positional is the argument that comes next, nil if none does.
func (s *state) positional() *kong.Value {
	p, n := s.node.Positional, len(s.before)
	switch {
	case n < len(p):
		return p[n]
	case len(p) > 0 && p[len(p)-1].IsCumulative():
		return p[len(p)-1]
	}
	return nil
}

// of lists the values of a flag or an argument.
func of(v *kong.Value, values Values, before []string) []Candidate {
	if kind := v.Tag.Get("complete"); kind != "" {
		if list, ok := strings.CutPrefix(kind, "="); ok {
			var found []Candidate
			for _, w := range strings.Split(list, "|") {
				found = append(found, Candidate{Word: w})
			}
			return found
		}
		return values(kind, before)
	}
	return nil
}
