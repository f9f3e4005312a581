package documents

import (
	"cmp"
	"maps"
	"slices"

	"docportal/internal/appid"
	"docportal/internal/fuse"
	"docportal/internal/permstore"
)

// Leave is called before the store is closed while the file view stays for another
// server: what the view cannot be told any more that one is asked again, when
// this process has gone.
func (s *Service) Leave() { s.left.Store(true) }

// orLeft is for who could not read the store. It does not return if that is
// because another server has it.
func (s *Service) orLeft() {
	if s.left.Load() {
		select {} // ends with the process
	}
}

// Generation implements fuse.Documents.
func (s *Service) Generation() uint64 { return s.generation.Load() }

// Document implements fuse.Documents.
func (s *Service) Document(app, id string) (*fuse.Document, fuse.Access, bool) {
	d, err := s.get(id)
	if err != nil {
		s.orLeft()
		// Who cannot be shown to have access has none.
		s.log.Warn("store cannot be read", "document", id, "reason", err)
		return nil, fuse.Access{}, false
	}
	if d == nil {
		return nil, fuse.Access{}, false
	}
	if app == "" {
		return d.view, fuse.Access{Read: true, Write: true}, true
	}
	p := d.can(app)
	if !p.has(permRead) {
		return nil, fuse.Access{}, false
	}
	return d.view, fuse.Access{Read: true, Write: p.has(permWrite)}, true
}

// List implements fuse.Documents.
func (s *Service) List(app string) []string {
	var ids []string
	err := s.each(app, func(id string, load func() *document) {
		// The host sees them all: to look at each is not needed, and there may
		// be many. An entry that is no document is not found when looked up.
		if app == "" {
			ids = append(ids, id)
		} else if d := load(); d != nil && d.can(app).has(permRead) {
			ids = append(ids, id)
		}
	})
	if err != nil {
		s.orLeft()
		s.log.Warn("store cannot be read", "reason", err)
	}
	slices.Sort(ids)
	return ids
}

// each calls yield for the id of each document, all or those whose permissions
// name app, in no order. load gives the document, nil if it is none.
func (s *Service) each(app string, yield func(id string, load func() *document)) error {
	var docs []*kept
	s.mu.RLock()
	if app == "" {
		docs = slices.AppendSeq(docs, maps.Values(s.transient))
	} else {
		for id := range s.byApp[app] {
			docs = append(docs, s.transient[id])
		}
	}
	s.mu.RUnlock()
	for _, d := range docs {
		yield(d.id, d.document)
	}
	store, err := s.o.Store()
	if err != nil {
		return err
	}
	return store.View(func(tx *permstore.Tx) error {
		var failed error
		visit := func(id string) bool {
			if validID(id) {
				yield(id, func() *document {
					d, err := load(tx, id)
					if err != nil {
						failed = err
					}
					return d
				})
			}
			return failed == nil
		}
		if app == "" {
			err = tx.IDs(table, visit)
		} else {
			err = tx.Find(table, indexApp, []byte(app), visit)
		}
		return cmp.Or(failed, err)
	})
}

// Apps implements fuse.Documents: the apps that may read some document and
// those that run now.
func (s *Service) Apps() []string {
	found := make(map[string]struct{})
	s.mu.RLock()
	for app, ids := range s.byApp {
		for id := range ids {
			if s.transient[id].can(app).has(permRead) {
				found[app] = struct{}{}
				break
			}
		}
	}
	s.mu.RUnlock()
	store, err := s.o.Store()
	if err == nil {
		err = store.View(func(tx *permstore.Tx) error {
			var apps []string
			if err := tx.Keys(table, indexApp, func(key []byte) bool {
				apps = append(apps, string(key))
				return true
			}); err != nil {
				return err
			}
			for _, app := range apps {
				if _, ok := found[app]; ok {
					continue
				}
				var err error
				if e := tx.Find(table, indexApp, []byte(app), func(id string) bool {
					var d *document
					d, err = load(tx, id)
					if d != nil && d.can(app).has(permRead) {
						found[app] = struct{}{}
						return false
					}
					return err == nil
				}); e != nil {
					return e
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err != nil {
		s.orLeft()
		s.log.Warn("store cannot be read", "reason", err)
	}
	for _, app := range s.runningApps() {
		found[app] = struct{}{}
	}
	maps.DeleteFunc(found, func(app string, _ struct{}) bool { return !appid.Valid(app) })
	return slices.Sorted(maps.Keys(found))
}
