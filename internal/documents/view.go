package documents

import (
	"maps"
	"slices"

	"docportal/internal/appid"
	"docportal/internal/fuse"
	"docportal/internal/permstore"
)

// Generation implements fuse.Documents.
func (s *Service) Generation() uint64 { return s.generation.Load() }

// Document implements fuse.Documents.
func (s *Service) Document(app, id string) (*fuse.Document, fuse.Access, bool) {
	d, err := s.get(id)
	if err != nil {
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
	docs, err := s.list(app)
	if err != nil {
		s.log.Warn("store cannot be read", "reason", err)
	}
	var ids []string
	for _, d := range docs {
		if app == "" || d.can(app).has(permRead) {
			ids = append(ids, d.id)
		}
	}
	return ids
}

// list returns the live documents, all or those whose permissions name app,
// sorted by id.
func (s *Service) list(app string) ([]*document, error) {
	var docs []*document
	s.mu.RLock()
	if app == "" {
		docs = slices.AppendSeq(docs, maps.Values(s.transient))
	} else {
		for id := range s.byApp[app] {
			docs = append(docs, s.transient[id])
		}
	}
	s.mu.RUnlock()
	store, err := s.o.Store()
	if err == nil {
		err = store.View(func(tx *permstore.Tx) error {
			var err error
			add := func(id string) bool {
				var d *document
				if d, err = load(tx, id); d != nil {
					docs = append(docs, d)
				}
				return err == nil
			}
			var e error
			if app == "" {
				e = tx.IDs(table, add)
			} else {
				e = tx.Find(table, indexApp, []byte(app), add)
			}
			if e != nil {
				return e
			}
			return err
		})
	}
	slices.SortFunc(docs, func(a, b *document) int {
		if a.id < b.id {
			return -1
		}
		return 1
	})
	return docs, err
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
		s.log.Warn("store cannot be read", "reason", err)
	}
	for _, app := range s.runningApps() {
		found[app] = struct{}{}
	}
	maps.DeleteFunc(found, func(app string, _ struct{}) bool { return !appid.Valid(app) })
	return slices.Sorted(maps.Keys(found))
}
