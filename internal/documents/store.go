package documents

import (
	"cmp"
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
	"docportal/internal/identity"
	"docportal/internal/permstore"
)

// table is the table of the permission store that holds the documents.
const table = "documents"

// Secondary indexes of the table.
const (
	indexPath     = "place" // host path
	indexIdentity = "inode" // device, inode number, name in it ("" for a directory)
	indexApp      = "app"   // the store's own
)

// Indexes are the secondary indexes that the store must keep for documents.
func Indexes() []permstore.Index {
	keys := func(of func(r *record) []byte) func(string, permstore.Entry) [][]byte {
		return func(_ string, e permstore.Entry) [][]byte {
			r, err := decode(e.Data)
			if err != nil {
				return nil
			}
			return [][]byte{of(&r)}
		}
	}
	return []permstore.Index{
		{Table: table, Name: indexPath, Keys: keys(func(r *record) []byte { return apart(pathKey(r.path), r) })},
		{Table: table, Name: indexIdentity, Keys: keys(func(r *record) []byte { return apart(r.identityKey(), r) })},
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

// apart is a key, which ends with no NUL, or that of unique documents. They lie
// apart, because there may be any number of one file, and no add has to find
// any of them.
func apart(key []byte, r *record) []byte {
	if r.unique() {
		return append(key, 0)
	}
	return key
}

// maxAlike is how many documents of one path or identity are looked at: who
// makes more of them, by moving directories about, makes them for himself.
const maxAlike = 256

// alike returns the ids that an index has under a key, at most maxAlike.
func alike(tx *permstore.Tx, index string, key []byte) (ids []string, err error) {
	err = tx.Find(table, index, key, func(id string) bool {
		ids = append(ids, id)
		return len(ids) < maxAlike
	})
	return ids, err
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

// cacheSize bounds the documents that are kept decoded.
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
	gen := s.generation.Load()
	s.mu.RLock()
	d, k := s.cache[id], s.transient[id]
	s.mu.RUnlock()
	if d != nil {
		return d, nil
	}
	if k != nil {
		d = k.document()
		s.remember(d, gen)
		return d, nil
	}
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

// remember keeps a decoded document that was read after generation gen was
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
	d, _, err := loadEntry(tx, id)
	return d, err
}

// loadEntry is load, with the entry as it is stored.
func loadEntry(tx *permstore.Tx, id string) (*document, permstore.Entry, error) {
	if !validID(id) {
		return nil, permstore.Entry{}, nil
	}
	e, ok, err := tx.Get(table, id)
	if err != nil || !ok {
		return nil, e, err
	}
	rec, err := decode(e.Data)
	if err != nil {
		return nil, e, nil
	}
	return newDocument(id, rec, e.Permissions), e, nil
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
	k := s.transient[id]
	if k == nil {
		s.mu.Unlock()
		return s.changeStored(ctx, id, fn)
	}
	d := k.document()
	words, remove, err := fn(d)
	if err == nil {
		err = tooManyApps(words)
	}
	if err != nil {
		s.mu.Unlock()
		return err
	}
	if remove {
		s.dropTransient(k)
		s.memo.note(id, nil)
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
		d, e, err := loadEntry(tx, id)
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
			s.count(c.Old.Permissions, len(c.Old.Data.Data), -1)
		}
		if c.New != nil {
			s.count(c.New.Permissions, len(c.New.Data.Data), +1)
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

// changed notes and announces a change of documents; s.mu is held. The caller
// invalidates the ids in the view that is returned, without the lock.
func (s *Service) changed() View {
	s.memo.flush()
	s.renew()
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

// putTransient, putKept and dropTransient keep the transient documents and their
// indexes; s.mu is held.
func (s *Service) putTransient(d *document) { s.putKept(keep(d)) }

func (s *Service) putKept(k *kept) {
	if old := s.transient[k.id]; old != nil {
		s.dropTransient(old)
	}
	s.transient[k.id] = k
	s.memo.note(k.id, k)
	of := s.byPath
	if k.rec.unique() {
		of = s.uniqueByPath
	}
	of[k.rec.path] = append(of[k.rec.path], k.id)
	for _, a := range k.apps {
		if s.byApp[a.app] == nil {
			s.byApp[a.app] = make(map[string]struct{})
		}
		s.byApp[a.app][k.id] = struct{}{}
	}
	if len(s.shares) > 0 {
		s.count(k.words(), k.rec.size(), +1)
	}
}

func (s *Service) dropTransient(d *kept) {
	delete(s.transient, d.id)
	delete(s.cache, d.id)
	of := s.byPath
	if d.rec.unique() {
		of = s.uniqueByPath
	}
	ids := of[d.rec.path]
	at, last := slices.Index(ids, d.id), len(ids)-1
	ids[at], ids[last] = ids[last], ""
	if of[d.rec.path] = ids[:last]; last == 0 {
		delete(of, d.rec.path)
	}
	for _, a := range d.apps {
		if delete(s.byApp[a.app], d.id); len(s.byApp[a.app]) == 0 {
			delete(s.byApp, a.app)
		}
	}
	s.count(d.words(), d.rec.size(), -1)
}

// MaxDocuments is how many live documents a sandboxed app may have a part in
// before it can add no more: those whose permissions name it, whoever added
// them and however few it has left. MaxBytes bounds what those are described
// by: their paths, and all the apps that they name.
const (
	MaxDocuments = 100000
	MaxBytes     = 32 << 20
)

// share is an app's part in documents.
type share struct{ documents, bytes int }

func (a share) plus(b share) share { return share{a.documents + b.documents, a.bytes + b.bytes} }

func (a share) times(n int) share { return share{a.documents * n, a.bytes * n} }

// appBytes is what a document's size grows by for an app that it names.
func appBytes(app string) int { return len(app) + 32 }

// size is about the length of the record's data.
func (r *record) size() int { return len(r.path) + len(r.handle) + 48 }

// shareIn is the part that each app has in a document that names these.
func shareIn(words map[string][]string, data int) share {
	for app := range words {
		data += appBytes(app)
	}
	return share{1, data}
}

// count keeps the shares of the apps that have added any documents; data is
// the length of the data of the one that came (n is 1) or went (-1). s.mu is
// held.
func (s *Service) count(words map[string][]string, data, n int) {
	if len(s.shares) == 0 {
		return
	}
	one := shareIn(words, data).times(n)
	for app := range words {
		if has, ok := s.shares[app]; ok {
			s.shares[app] = has.plus(one)
		}
	}
}

// reserve takes room for what is about to be added to an app's share, up to a
// limit; done gives back what is not counted otherwise by then.
func (s *Service) reserve(app string, more, limit share) (done func(), err error) {
	for try := 0; ; try++ {
		s.mu.Lock()
		have, ok := s.shares[app]
		if ok {
			switch sum := have.plus(s.pending[app]).plus(more); {
			case sum.documents > limit.documents:
				err = bus.Failed("%s already has part in %d documents, and the limit is %d", app, have.documents, limit.documents)
			case sum.bytes > limit.bytes:
				err = bus.Failed("the documents that %s has part in are described by %d bytes, and the limit is %d", app, have.bytes, limit.bytes)
			default:
				s.pending[app] = s.pending[app].plus(more)
			}
			s.mu.Unlock()
			if err != nil {
				return nil, err
			}
			return func() {
				s.mu.Lock()
				defer s.mu.Unlock()
				if s.pending[app] = s.pending[app].plus(more.times(-1)); s.pending[app] == (share{}) {
					delete(s.pending, app)
				}
			}, nil
		}
		s.mu.Unlock()
		gen := s.generation.Load()
		have, err = s.storedShare(app)
		if err != nil {
			return nil, err
		}
		s.mu.Lock()
		// A change between the two makes the number wrong by a few: try again,
		// but not for ever against somebody who changes all the time.
		if s.generation.Load() == gen || try >= 3 {
			if len(s.shares) >= maxShares {
				clear(s.shares)
			}
			for id := range s.byApp[app] {
				have = have.plus(s.transient[id].share())
			}
			s.shares[app] = have
		}
		s.mu.Unlock()
	}
}

// maxShares bounds the apps whose shares are known at a time.
const maxShares = 1024

// storedShare is the share that an app has in persistent documents.
func (s *Service) storedShare(app string) (has share, err error) {
	store, err := s.o.Store()
	if err != nil {
		return share{}, err
	}
	err = store.View(func(tx *permstore.Tx) error {
		var failed error
		err := tx.Find(table, indexApp, []byte(app), func(id string) bool {
			var e permstore.Entry
			if e, _, failed = tx.Get(table, id); failed == nil {
				has = has.plus(shareIn(e.Permissions, len(e.Data.Data)))
			}
			return failed == nil
		})
		return cmp.Or(failed, err)
	})
	return has, err
}

// room reserves what a sandboxed caller is about to add to shares: its own, and
// those of the apps that it gives to. Those keep a quarter of theirs for what
// they add themselves, or anybody could take all from them.
func (s *Service) room(c *identity.Caller, shares map[string]share) (done func(), err error) {
	var all []func()
	done = func() {
		for _, f := range all {
			f()
		}
	}
	for app, more := range shares {
		limit := share{s.maxDocuments, MaxBytes}
		if app != c.App {
			limit = share{limit.documents * 3 / 4, limit.bytes * 3 / 4}
		}
		one, err := s.reserve(app, more, limit)
		if err != nil {
			done()
			return nil, err
		}
		all = append(all, one)
	}
	return done, nil
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
	var persistent, transient []int
	s.mu.RLock()
	for i, p := range all {
		if p.id != "" && s.transient[p.id] != nil || p.id == "" && p.rec.flags&flagTransient != 0 {
			transient = append(transient, i)
		} else {
			persistent = append(persistent, i)
		}
	}
	s.mu.RUnlock()
	if len(persistent) > 0 && len(transient) > 0 {
		// Both kinds in one call happens only with documents that exist, named
		// by descriptors on the mount. What would refuse them does so before
		// the others are made.
		s.mu.Lock()
		_, err := s.placeTransients(all, transient, nil)
		s.mu.Unlock()
		if err != nil {
			return nil, err
		}
	}
	if len(persistent) > 0 {
		store, err := s.o.Store()
		if err != nil {
			return nil, err
		}
		if !allThere(store, all, persistent, ids) {
			err = store.Update(ctx, func(tx *permstore.Tx) error {
				for _, i := range persistent {
					if ids[i], err = placeStored(tx, &all[i]); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				return nil, err
			}
		}
	}
	if len(transient) > 0 {
		s.mu.Lock()
		made, err := s.placeTransients(all, transient, ids)
		if err != nil && len(persistent) == 0 {
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
	byPath := make(map[string][]string) // of those that are made, to be found again
	var first error
	for _, i := range which {
		if ids != nil {
			ids[i] = all[i].id
		}
		d, err := s.placeTransient(&all[i], made, byPath)
		if err != nil {
			first = err
			continue
		}
		if made[d.id] == nil && !d.rec.unique() {
			byPath[d.rec.path] = append(byPath[d.rec.path], d.id)
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
	id, entry, same, err := stored(tx, p)
	if err != nil || same {
		return id, err
	}
	return id, tx.Put(table, id, entry)
}

// stored is what a persistent document becomes: its id and entry, and whether
// there is nothing to write, because it is so already.
func stored(tx *permstore.Tx, p *placed) (id string, becomes permstore.Entry, same bool, err error) {
	id = p.id
	if id == "" && p.reuse {
		if id, err = findStored(tx, &p.rec); err != nil {
			return "", becomes, false, err
		}
	}
	if id == "" {
		return newID(), permstore.Entry{Data: p.rec.encode(), Permissions: granted(nil, p.grants)}, false, nil
	}
	d, e, err := loadEntry(tx, id)
	if err != nil {
		return "", becomes, false, err
	}
	if d == nil {
		return "", becomes, false, errNone
	}
	if p.check != nil {
		if err := p.check(d); err != nil {
			return "", becomes, false, err
		}
	}
	becomes = permstore.Entry{Data: e.Data, Permissions: granted(e.Permissions, p.grants)}
	if p.id == "" {
		becomes.Data = p.rec.encode() // refreshed
	}
	same = becomes.Data.Signature == e.Data.Signature && string(becomes.Data.Data) == string(e.Data.Data) && sameWords(becomes.Permissions, e.Permissions)
	return id, becomes, same, nil
}

// allThere finds documents that are already what they would become, as those of
// files that are added again are: that needs no change of the store, and waits
// for nobody else's. ok is false if there is any other, and the ids mean nothing
// then; what is wrong is left to the change to say.
func allThere(store *permstore.Store, all []placed, which []int, ids []string) (ok bool) {
	for _, i := range which {
		if all[i].id == "" && !all[i].reuse {
			return false
		}
	}
	err := store.View(func(tx *permstore.Tx) (err error) {
		ok = tx.Settled()
		for _, i := range which {
			if !ok || err != nil {
				break
			}
			ids[i], _, ok, err = stored(tx, &all[i])
		}
		return err
	})
	return err == nil && ok
}

func sameWords(a, b map[string][]string) bool {
	return maps.EqualFunc(a, b, func(x, y []string) bool { return slices.Equal(x, y) })
}

// findStored finds the persistent document of the same place, "" if none.
func findStored(tx *permstore.Tx, rec *record) (id string, err error) {
	ids, err := alike(tx, indexPath, pathKey(rec.path))
	if err != nil {
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

// placeTransient computes what a transient document becomes; made are those of
// the same call, byPath their ids. s.mu is held.
func (s *Service) placeTransient(p *placed, made map[string]*document, byPath map[string][]string) (*document, error) {
	var old *document
	now := func(id string) *document {
		if d := made[id]; d != nil {
			return d
		}
		return s.transient[id].document()
	}
	switch {
	case p.id != "":
		if old = now(p.id); old == nil {
			return nil, errNone
		}
	case p.reuse:
		for _, ids := range [][]string{s.byPath[p.rec.path], byPath[p.rec.path]} {
			for _, id := range first(ids, maxAlike) {
				if d := now(id); d.rec.same(&p.rec) {
					old = d
					break
				}
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
	words := granted(old.words, p.grants)
	return newDocument(old.id, rec, words), tooManyApps(words)
}

// tooManyApps is the store's limit for transient documents.
func tooManyApps(words map[string][]string) error {
	if len(words) > permstore.MaxApps {
		return bus.InvalidArgument("the document names more than %d apps", permstore.MaxApps)
	}
	return nil
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
	for _, ids := range [][]string{s.byPath[rec.path], s.uniqueByPath[rec.path]} {
		for _, id := range first(ids, maxAlike) {
			consider(s.transient[id].document())
		}
	}
	s.mu.RUnlock()
	store, err := s.o.Store()
	if err != nil {
		return "", err
	}
	err = store.View(func(tx *permstore.Tx) error {
		for _, key := range []struct {
			index string
			key   []byte
		}{
			{indexPath, pathKey(rec.path)},
			{indexIdentity, rec.identityKey()},
			{indexPath, append(pathKey(rec.path), 0)},
			{indexIdentity, append(rec.identityKey(), 0)},
		} {
			ids, err := alike(tx, key.index, key.key)
			if err != nil {
				return err
			}
			for _, id := range ids {
				d, err := load(tx, id)
				if err != nil {
					return err
				}
				consider(d)
			}
		}
		return nil
	})
	return best, err
}

func first(ids []string, n int) []string { return ids[:min(n, len(ids))] }
