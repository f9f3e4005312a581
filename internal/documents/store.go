package documents

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"path"
	"slices"

	"docportal/internal/bus"
	"docportal/internal/fuse"
	"docportal/internal/permstore"
)

// table is the table of the permission store that holds the documents.
const table = "documents"

// Secondary indexes of the table.
const (
	indexPath     = "path"     // host path
	indexIdentity = "identity" // device, inode number, name in it ("" for a directory)
	indexApp      = "app"      // the store's own
)

// Indexes are the secondary indexes that the store must keep for documents.
func Indexes() []permstore.Index {
	return []permstore.Index{
		{Table: table, Name: indexPath, Keys: func(_ string, e permstore.Entry) [][]byte {
			r, err := decode(e.Data)
			if err != nil {
				return nil
			}
			return [][]byte{pathKey(r.path)}
		}},
		{Table: table, Name: indexIdentity, Keys: func(_ string, e permstore.Entry) [][]byte {
			r, err := decode(e.Data)
			if err != nil {
				return nil
			}
			return [][]byte{r.identityKey()}
		}},
		{Table: table, Name: indexTransient, Keys: func(_ string, e permstore.Entry) [][]byte {
			r, err := decode(e.Data)
			if err != nil || r.flags&flagTransient == 0 {
				return nil
			}
			return [][]byte{nil}
		}},
	}
}

func pathKey(p string) []byte { return []byte(p) }

func (r *record) identityKey() []byte {
	b := binary.BigEndian.AppendUint64(nil, r.dev)
	b = binary.BigEndian.AppendUint64(b, r.ino)
	if !r.directory() {
		b = append(b, path.Base(r.path)...)
	}
	return b
}

// document is a live document. It is never changed: a change makes another.
type document struct {
	id    string
	rec   record
	words map[string][]string // app id to permissions, as stored
	perms map[string]perm     // the same, as understood
	view  *fuse.Document
}

func newDocument(id string, rec record, words map[string][]string) *document {
	d := &document{id: id, rec: rec, words: words, perms: make(map[string]perm, len(words)), view: rec.view(id)}
	for app, w := range words {
		d.perms[app] = storedPerms(w)
	}
	return d
}

// can is what a sandboxed app may do with the document.
func (d *document) can(app string) perm { return d.perms[app] }

// cacheSize bounds the persistent documents that are kept decoded.
const cacheSize = 4096

// newID makes a document id: 128 random bits in hexadecimal, so that it can be
// a file name and is never used again.
func newID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// get returns a live document, nil if there is none. The error is that of a
// store that cannot be read.
func (s *Service) get(id string) (*document, error) {
	s.mu.RLock()
	d := s.transient[id]
	if d == nil {
		d = s.cache[id]
	}
	s.mu.RUnlock()
	if d != nil {
		return d, nil
	}
	gen := s.generation.Load()
	store, err := s.o.Store()
	if err != nil {
		return nil, err
	}
	err = store.View(func(tx *permstore.Tx) error {
		d, err = load(tx, id)
		return err
	})
	if err != nil || d == nil {
		return nil, err
	}
	s.remember(d, gen)
	return d, nil
}

// remember keeps a persistent document that was read after generation gen was
// seen, unless something has changed since: then it may be older than a change
// that was announced meanwhile.
func (s *Service) remember(d *document, gen uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.generation.Load() != gen {
		return
	}
	if len(s.cache) >= cacheSize {
		n := 0
		for id := range s.cache { // any quarter: the order of a map is random
			if delete(s.cache, id); n >= cacheSize/4 {
				break
			}
			n++
		}
	}
	s.cache[d.id] = d
}

// load reads a persistent document; an entry that is no document is none.
func load(tx *permstore.Tx, id string) (*document, error) {
	if !validID(id) {
		return nil, nil
	}
	e, ok, err := tx.Get(table, id)
	if err != nil || !ok {
		return nil, err
	}
	rec, err := decode(e.Data)
	if err != nil {
		return nil, nil
	}
	return newDocument(id, rec, e.Permissions), nil
}

// validID reports whether id can be a directory's name in the view.
func validID(id string) bool {
	if id == "" || len(id) > 255 || id == "." || id == ".." || id == "by-app" {
		return false
	}
	for i := range len(id) {
		if id[i] == '/' || id[i] == 0 {
			return false
		}
	}
	return true
}

// permission is one entry of a document's permissions to be set.
type permission struct {
	app string
	p   perm
}

// change changes a live document: fn sees it as it is when the change is made
// and returns its new permissions, or remove. errNone is returned for an
// unknown id, fn's error otherwise.
func (s *Service) change(ctx context.Context, id string, fn func(d *document) (words map[string][]string, remove bool, err error)) error {
	s.mu.Lock()
	d := s.transient[id]
	if d == nil {
		s.mu.Unlock()
		return s.changeStored(ctx, id, fn)
	}
	words, remove, err := fn(d)
	if err != nil {
		s.mu.Unlock()
		return err
	}
	if remove {
		s.dropTransient(d)
	} else {
		s.putTransient(newDocument(id, d.rec, words))
	}
	view := s.changed()
	s.mu.Unlock()
	invalidate(view, id)
	return nil
}

var errNone = fmt.Errorf("no such document")

func (s *Service) changeStored(ctx context.Context, id string, fn func(d *document) (map[string][]string, bool, error)) error {
	store, err := s.o.Store()
	if err != nil {
		return err
	}
	return store.Update(ctx, func(tx *permstore.Tx) error {
		d, err := load(tx, id)
		if err != nil {
			return err
		}
		if d == nil {
			return errNone
		}
		words, remove, err := fn(d)
		if err != nil {
			return err
		}
		if remove {
			_, err := tx.Delete(table, id)
			return err
		}
		// The data stays as it is: it may be of an older form.
		e, _, err := tx.Get(table, id)
		if err != nil {
			return err
		}
		return tx.Put(table, id, permstore.Entry{Data: e.Data, Permissions: words})
	})
}

// Committed is to be the store's Options.Committed: a change of the table,
// whoever made it, holds at once, before its author is told.
func (s *Service) Committed(changes []permstore.Change) {
	var ids []string
	s.mu.Lock()
	for _, c := range changes {
		if c.Table != table {
			continue
		}
		ids = append(ids, c.ID)
		delete(s.cache, c.ID)
		if c.Old != nil {
			s.count(c.Old.Permissions, -1)
		}
		if c.New != nil {
			s.count(c.New.Permissions, +1)
		}
	}
	if len(ids) == 0 {
		s.mu.Unlock()
		return
	}
	view := s.changed()
	s.mu.Unlock()
	invalidate(view, ids...)
}

// changed announces a change of documents; s.mu is held. The caller
// invalidates the ids in the view that is returned, without the lock.
func (s *Service) changed() View {
	s.generation.Add(1)
	if s.mounted == nil {
		return nil
	}
	return s.mounted.view
}

func invalidate(v View, ids ...string) {
	if v == nil {
		return
	}
	for _, id := range ids {
		v.Invalidate(id)
	}
}

// putTransient and dropTransient keep the transient documents and their
// indexes; s.mu is held.
func (s *Service) putTransient(d *document) {
	if old := s.transient[d.id]; old != nil {
		s.dropTransient(old)
	}
	s.transient[d.id] = d
	s.byPath[d.rec.path] = append(s.byPath[d.rec.path], d.id)
	for app := range d.words {
		if s.byApp[app] == nil {
			s.byApp[app] = make(map[string]struct{})
		}
		s.byApp[app][d.id] = struct{}{}
	}
	s.count(d.words, +1)
}

func (s *Service) dropTransient(d *document) {
	delete(s.transient, d.id)
	ids := slices.DeleteFunc(s.byPath[d.rec.path], func(id string) bool { return id == d.id })
	if s.byPath[d.rec.path] = ids; len(ids) == 0 {
		delete(s.byPath, d.rec.path)
	}
	for app := range d.words {
		if delete(s.byApp[app], d.id); len(s.byApp[app]) == 0 {
			delete(s.byApp, app)
		}
	}
	s.count(d.words, -1)
}

// MaxDocuments is how many live documents a sandboxed app may have a part in
// before it can add no more: those whose permissions name it, whoever added
// them and however few it has left.
const MaxDocuments = 100000

// count keeps the number of live documents of the apps that have added any;
// s.mu is held.
func (s *Service) count(words map[string][]string, n int) {
	for app := range words {
		if _, ok := s.counts[app]; ok {
			s.counts[app] += n
		}
	}
}

// reserve takes n places for documents that app is about to add; done gives
// back what is not counted otherwise by then.
func (s *Service) reserve(app string, n int) (done func(), err error) {
	for try := 0; ; try++ {
		s.mu.Lock()
		have, ok := s.counts[app]
		if ok {
			if have+s.pending[app]+n > s.maxDocuments {
				s.mu.Unlock()
				return nil, bus.Failed("%s already has part in %d documents, and the limit is %d", app, have, s.maxDocuments)
			}
			s.pending[app] += n
			s.mu.Unlock()
			return func() {
				s.mu.Lock()
				if s.pending[app] -= n; s.pending[app] == 0 {
					delete(s.pending, app)
				}
				s.mu.Unlock()
			}, nil
		}
		s.mu.Unlock()
		gen := s.generation.Load()
		have, err = s.countStored(app)
		if err != nil {
			return nil, err
		}
		s.mu.Lock()
		// A change between the two makes the number wrong by a few: try again,
		// but not for ever against somebody who changes all the time.
		if s.generation.Load() == gen || try >= 3 {
			if len(s.counts) >= maxCounts {
				clear(s.counts)
			}
			s.counts[app] = have + len(s.byApp[app])
		}
		s.mu.Unlock()
	}
}

// maxCounts bounds the apps whose documents are counted at a time.
const maxCounts = 1024

func (s *Service) countStored(app string) (n int, err error) {
	store, err := s.o.Store()
	if err != nil {
		return 0, err
	}
	err = store.View(func(tx *permstore.Tx) error {
		return tx.Find(table, indexApp, []byte(app), func(string) bool { n++; return true })
	})
	return n, err
}

// placed is a document to be made, or found and extended, in one step with
// others.
type placed struct {
	rec   record // with all flags
	id    string // an existing document whose permissions are extended, or ""
	reuse bool
	// grants are OR-ed into a document that exists, or are a new one's.
	// check, if not nil, is asked first when the document exists.
	grants []permission
	check  func(d *document) error
}

// place makes or extends documents, all or none, and returns their ids in
// order. Persistent ones are on disk when it returns.
func (s *Service) place(ctx context.Context, all []placed) ([]string, error) {
	ids := make([]string, len(all))
	var stored, unstored []int
	s.mu.RLock()
	for i, p := range all {
		if p.id != "" && s.transient[p.id] != nil || p.id == "" && p.rec.flags&flagTransient != 0 {
			unstored = append(unstored, i)
		} else {
			stored = append(stored, i)
		}
	}
	s.mu.RUnlock()
	if len(stored) > 0 && len(unstored) > 0 {
		// Both kinds in one call happens only with documents that exist, named
		// by descriptors on the mount. What would refuse them does so before
		// the others are made.
		s.mu.Lock()
		_, err := s.placeTransients(all, unstored, nil)
		s.mu.Unlock()
		if err != nil {
			return nil, err
		}
	}
	if len(stored) > 0 {
		store, err := s.o.Store()
		if err != nil {
			return nil, err
		}
		err = store.Update(ctx, func(tx *permstore.Tx) error {
			for _, i := range stored {
				id, err := placeStored(tx, &all[i])
				if err != nil {
					return err
				}
				ids[i] = id
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	if len(unstored) > 0 {
		s.mu.Lock()
		made, err := s.placeTransients(all, unstored, ids)
		if err != nil && len(stored) == 0 {
			s.mu.Unlock()
			return nil, err
		}
		// Otherwise somebody deleted one, or took a permission away, since it
		// was asked above: the same as if that came right after this call.
		for _, d := range made {
			s.putTransient(d)
		}
		view := s.changed()
		s.mu.Unlock()
		invalidate(view, slices.Collect(maps.Keys(made))...)
	}
	return ids, nil
}

// placeTransients computes what the transient documents of a call become and
// stores their ids, if ids is not nil. s.mu is held.
func (s *Service) placeTransients(all []placed, which []int, ids []string) (map[string]*document, error) {
	made := make(map[string]*document, len(which))
	var first error
	for _, i := range which {
		if ids != nil {
			ids[i] = all[i].id
		}
		d, err := s.placeTransient(&all[i], made)
		if err != nil {
			first = err
			continue
		}
		made[d.id] = d
		if ids != nil {
			ids[i] = d.id
		}
	}
	return made, first
}

// placeStored makes or extends one persistent document.
func placeStored(tx *permstore.Tx, p *placed) (string, error) {
	id := p.id
	if id == "" && p.reuse {
		found, err := findStored(tx, &p.rec)
		if err != nil {
			return "", err
		}
		id = found
	}
	if id == "" {
		id = newID()
		return id, tx.Put(table, id, permstore.Entry{Data: p.rec.encode(), Permissions: granted(nil, p.grants)})
	}
	d, err := load(tx, id)
	if err != nil {
		return "", err
	}
	if d == nil {
		return "", errNone
	}
	if p.check != nil {
		if err := p.check(d); err != nil {
			return "", err
		}
	}
	e, _, err := tx.Get(table, id)
	if err != nil {
		return "", err
	}
	words := granted(e.Permissions, p.grants)
	data := e.Data
	if p.id == "" {
		data = p.rec.encode() // refreshed
	}
	if data.Signature == e.Data.Signature && string(data.Data) == string(e.Data.Data) && sameWords(words, e.Permissions) {
		return id, nil // nothing to write: adding a file again costs no disk
	}
	return id, tx.Put(table, id, permstore.Entry{Data: data, Permissions: words})
}

func sameWords(a, b map[string][]string) bool {
	return maps.EqualFunc(a, b, func(x, y []string) bool { return slices.Equal(x, y) })
}

// findStored finds the persistent document of the same place, "" if none.
func findStored(tx *permstore.Tx, rec *record) (id string, err error) {
	var ids []string
	if err := tx.Find(table, indexPath, pathKey(rec.path), func(id string) bool {
		ids = append(ids, id)
		return true
	}); err != nil {
		return "", err
	}
	for _, i := range ids {
		d, err := load(tx, i)
		if err != nil {
			return "", err
		}
		if d != nil && d.rec.same(rec) {
			return i, nil
		}
	}
	return "", nil
}

// placeTransient computes what a transient document becomes; made holds those
// of the same call. s.mu is held.
func (s *Service) placeTransient(p *placed, made map[string]*document) (*document, error) {
	var old *document
	now := func(id string) *document {
		if d := made[id]; d != nil {
			return d
		}
		return s.transient[id]
	}
	switch {
	case p.id != "":
		if old = now(p.id); old == nil {
			return nil, errNone
		}
	case p.reuse:
		for _, id := range s.byPath[p.rec.path] {
			if d := now(id); d.rec.same(&p.rec) {
				old = d
				break
			}
		}
		for _, d := range made {
			if d.rec.same(&p.rec) {
				old = d
				break
			}
		}
	}
	if old == nil {
		return newDocument(newID(), p.rec, granted(nil, p.grants)), nil
	}
	if p.check != nil {
		if err := p.check(old); err != nil {
			return nil, err
		}
	}
	rec := p.rec
	if p.id != "" {
		rec = old.rec
	}
	return newDocument(old.id, rec, granted(old.words, p.grants)), nil
}

// granted returns words with the grants OR-ed in; words itself is not changed.
func granted(words map[string][]string, grants []permission) map[string][]string {
	out := maps.Clone(words)
	if out == nil {
		out = make(map[string][]string, len(grants))
	}
	for _, g := range grants {
		out[g.app] = addWords(out[g.app], g.p)
	}
	return out
}

// find returns the id of a document of the same path, or of the same name in
// the same directory by another path, "" if there is none: one that calls with
// reuse find before a unique one, a persistent one before a transient one.
func (s *Service) find(rec *record) (string, error) {
	best, rank := "", -1
	consider := func(d *document) {
		if d == nil || d.rec.directory() != rec.directory() {
			return
		}
		if here := d.rec.path == rec.path; here && !d.rec.sameThere(rec) || !here && !d.rec.sameDirectory(rec) {
			return
		}
		r := 0
		if !d.rec.unique() {
			r += 4
		}
		if d.rec.path == rec.path {
			r += 2
		}
		if d.rec.flags&flagTransient == 0 {
			r++
		}
		if r > rank || r == rank && d.id < best {
			best, rank = d.id, r
		}
	}
	s.mu.RLock()
	for _, id := range s.byPath[rec.path] {
		consider(s.transient[id])
	}
	s.mu.RUnlock()
	store, err := s.o.Store()
	if err != nil {
		return "", err
	}
	err = store.View(func(tx *permstore.Tx) error {
		var ids []string
		collect := func(id string) bool { ids = append(ids, id); return true }
		if err := tx.Find(table, indexPath, pathKey(rec.path), collect); err != nil {
			return err
		}
		if err := tx.Find(table, indexIdentity, rec.identityKey(), collect); err != nil {
			return err
		}
		for _, id := range ids {
			d, err := load(tx, id)
			if err != nil {
				return err
			}
			consider(d)
		}
		return nil
	})
	return best, err
}
