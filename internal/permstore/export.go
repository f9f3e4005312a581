package permstore

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"docportal/internal/bus"
	"docportal/internal/gvdb"
)

// Export writes each table as a GVDB file of its name into dir, which it makes
// if need be, all of one state. A file of that name is replaced, others stay.
// convert, if not nil, is asked for the data to write for each entry. What the
// format cannot hold is left out and reported.
func (s *Store) Export(dir string, convert func(table string, data bus.Value) (bus.Value, error)) (*Moved, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	m := &Moved{}
	err := s.View(func(tx *Tx) error {
		var tables []string
		if err := tx.Tables(func(table string) bool { tables = append(tables, table); return true }); err != nil {
			return err
		}
		for _, table := range tables {
			if strings.HasPrefix(table, ".") {
				m.problem("table %s: files whose names begin with a dot are no tables", table)
				continue
			}
			entries, err := tx.exported(table, convert, m)
			if err != nil {
				return err
			}
			b, err := encodeTable(table, entries, m)
			if err != nil {
				return err
			}
			if err := writeTable(dir, table, b, os.Rename); err != nil {
				return err
			}
			m.Tables++
			m.Added += len(entries)
		}
		return nil
	})
	if err == nil {
		err = syncDir(dir)
	}
	return m.finish(), err
}

// exported reads the entries of a table.
func (tx *Tx) exported(table string, convert func(string, bus.Value) (bus.Value, error), m *Moved) (map[string]gvdb.Entry, error) {
	entries := make(map[string]gvdb.Entry)
	err := tx.IDs(table, func(id string) bool {
		e, ok, err := tx.Get(table, id)
		if err == nil && ok && convert != nil {
			e.Data, err = convert(table, e.Data)
		}
		if err != nil {
			m.problem("table %s: entry %.64q: %v", table, id, err)
		} else if ok {
			entries[id] = gvdb.Entry{Data: e.Data, Permissions: e.Permissions}
		}
		return true
	})
	return entries, err
}

// encodeTable encodes a table. It removes those entries that cannot be.
func encodeTable(table string, entries map[string]gvdb.Entry, m *Moved) ([]byte, error) {
	b, err := gvdb.Encode(entries)
	if err == nil {
		return b, nil
	}
	for id, e := range entries {
		if _, err := gvdb.Encode(map[string]gvdb.Entry{id: e}); err != nil {
			m.problem("table %s: entry %v", table, err)
			delete(entries, id)
		}
	}
	return gvdb.Encode(entries)
}

// writeTable puts a table's file where it belongs once it is whole and on disk.
func writeTable(dir, table string, b []byte, place func(temp, path string) error) error {
	f, err := os.CreateTemp(dir, ".docportal-")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = place(f.Name(), filepath.Join(dir, table))
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("table %s: %w", table, err)
	}
	return nil
}

// placeholders keeps a file of each table's name in a directory.
type placeholders struct {
	dir string
	log *slog.Logger

	mu    sync.Mutex
	known map[string]bool // tables that were seen to
}

// KeepPlaceholders keeps in dir, which it makes if need be, an empty database
// for each table that has no file there: the flatpak command finds the tables
// by the names of the files and asks for what is in them on the bus. A file
// that is there is left alone. A store in memory keeps none.
func (s *Store) KeepPlaceholders(dir string) error {
	if s.memory {
		return nil
	}
	p := &placeholders{dir: dir, log: s.log, known: make(map[string]bool)}
	// First, so that no table falls between the two.
	s.Subscribe(func(changes []Change) {
		for _, c := range changes {
			if c.New != nil {
				p.ensure(c.Table)
			}
		}
	})
	var tables []string
	err := s.View(func(tx *Tx) error {
		return tx.Tables(func(table string) bool { tables = append(tables, table); return true })
	})
	for _, table := range tables {
		p.ensure(table)
	}
	return err
}

func (p *placeholders) ensure(table string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known[table] || strings.HasPrefix(table, ".") {
		return
	}
	p.known[table] = true // one attempt: this runs before replies are sent
	_, err := os.Lstat(filepath.Join(p.dir, table))
	if errors.Is(err, fs.ErrNotExist) {
		err = os.MkdirAll(p.dir, 0o700)
		if err == nil {
			err = writeTable(p.dir, table, gvdb.Placeholder(), func(temp, path string) error {
				defer os.Remove(temp)
				if err := os.Link(temp, path); !errors.Is(err, fs.ErrExist) {
					return err
				}
				return nil // somebody else was faster: that one stays
			})
		}
	}
	if err != nil {
		p.log.Debug("flatpak will not list a table", "table", table, "error", err)
	}
}
