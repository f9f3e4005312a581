package documents

import (
	"slices"
	"strings"
)

// kept is a transient document as it is kept: an app may have a hundred
// thousand of them in memory. It is never changed: a change makes another.
type kept struct {
	id   string
	rec  record
	apps []keptApp // sorted by app
}

// keptApp is what an app may do with a document, in the words that were given.
type keptApp struct {
	app   string
	words []string
}

// keep makes a document small.
func keep(d *document) *kept {
	k := &kept{id: d.id, rec: d.rec, apps: make([]keptApp, 0, len(d.words))}
	for app, words := range d.words {
		k.apps = append(k.apps, keptApp{app, usualWords(words)})
	}
	slices.SortFunc(k.apps, func(a, b keptApp) int { return strings.Compare(a.app, b.app) })
	return k
}

// document is the document again.
func (k *kept) document() *document {
	if k == nil {
		return nil
	}
	return newDocument(k.id, k.rec, k.words())
}

// words are its permissions, app id to words.
func (k *kept) words() map[string][]string {
	words := make(map[string][]string, len(k.apps))
	for _, a := range k.apps {
		words[a.app] = a.words
	}
	return words
}

// can is what a sandboxed app may do with it.
func (k *kept) can(app string) perm {
	for _, a := range k.apps {
		if a.app == app {
			return storedPerms(a.words)
		}
	}
	return 0
}

// share is the part that each of its apps has in it.
func (k *kept) share() share {
	s := share{1, k.rec.size()}
	for _, a := range k.apps {
		s.bytes += appBytes(a.app)
	}
	return s
}

// usual are the words of each set of permissions in the usual order; those of
// documents are never changed, so that all can have the same.
var usual = func() (all [permAll + 1][]string) {
	for p := range all {
		all[p] = slices.Clip(perm(p).words())
	}
	return all
}()

func usualWords(words []string) []string {
	if u := usual[storedPerms(words)]; slices.Equal(u, words) {
		return u
	}
	return slices.Clip(words)
}
