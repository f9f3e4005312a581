package documents

import (
	"slices"

	"docportal/internal/bus"
)

// perm is a set of permissions on a document.
type perm uint8

// The permissions.
const (
	permRead perm = 1 << iota
	permWrite
	permGrant
	permDelete
	permAll = permRead | permWrite | permGrant | permDelete
)

// permWords are the spellings, in the order in which they are stored.
var permWords = [...]string{"read", "write", "grant-permissions", "delete"}

// parsePerms reads the permissions of an argument: any unknown word refuses
// them all.
func parsePerms(words []string) (perm, error) {
	var p perm
	for _, w := range words {
		i := slices.Index(permWords[:], w)
		if i < 0 {
			return 0, bus.InvalidArgument("no such permission: %q", w)
		}
		p |= 1 << i
	}
	return p, nil
}

// storedPerms reads what the store holds, where others may have put words that
// mean nothing here.
func storedPerms(words []string) perm {
	var p perm
	for _, w := range words {
		if i := slices.Index(permWords[:], w); i >= 0 {
			p |= 1 << i
		}
	}
	return p
}

// words spells p.
func (p perm) words() []string {
	var l []string
	for i, w := range permWords {
		if p&(1<<i) != 0 {
			l = append(l, w)
		}
	}
	return l
}

// has reports whether p holds all of q.
func (p perm) has(q perm) bool { return p&q == q }

// addWords returns words with those of p added; words itself is not changed.
func addWords(words []string, p perm) []string {
	out := slices.Clone(words)
	for _, w := range p.words() {
		if !slices.Contains(out, w) {
			out = append(out, w)
		}
	}
	return out
}

// removeWords returns words without those of p; words itself is not changed.
func removeWords(words []string, p perm) []string {
	return slices.DeleteFunc(slices.Clone(words), func(w string) bool {
		i := slices.Index(permWords[:], w)
		return i >= 0 && p&(1<<i) != 0
	})
}
