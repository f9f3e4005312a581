package permstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"docportal/internal/gvdb"

	bolt "go.etcd.io/bbolt"
)

const (
	// importGroup is how many entries are imported in one transaction while
	// others may write, firstGroup while nobody waits for anything less than
	// all. Each writes most pages of the indexes anew, whose order is another
	// one.
	importGroup = 10000
	firstGroup  = 100000
	// importFill is how full pages are made: what comes in order leaves no
	// page behind that could take more.
	importFill = 0.9
	// maxTable bounds the file of a table, in bytes.
	maxTable = 512 << 20
)

// Moved is what an import or an export did.
type Moved struct {
	Tables   int
	Added    int // entries that were not there; of an export, all
	Extended int // imported: entries that were there and have more apps now
	Same     int // imported: entries that said nothing new
	// Problems says what was left out, and why; at most 100 and the number of
	// the others.
	Problems []string
	more     int
}

func (m *Moved) problem(format string, args ...any) {
	if len(m.Problems) < maxProblems {
		m.Problems = append(m.Problems, fmt.Sprintf(format, args...))
	} else {
		m.more++
	}
}

func (m *Moved) finish() *Moved {
	if m.more > 0 {
		m.Problems = append(m.Problems, fmt.Sprintf("and %d more", m.more))
	}
	return m
}

// Import adds what the GVDB files in dir have, one for each table, under the
// names of the files. It merges: an entry that is there keeps its data and
// what its apps have, and gets the apps that it has not. Nothing is deleted or
// overwritten, so importing again changes nothing. Files whose names begin
// with a dot are no tables, and those that Placeholder made hold nothing. What
// cannot be read or is past the limits is left out and reported. The files
// stay as they are.
func (s *Store) Import(ctx context.Context, dir string) (*Moved, error) {
	return s.importDir(ctx, dir, false)
}

// ImportOnce is Import for the first start: a store that has been through it
// is left alone, so that what was deleted since does not come back. A directory
// that is not there counts as empty. It returns nil if there was nothing to do.
func (s *Store) ImportOnce(ctx context.Context, dir string) (*Moved, error) {
	if done, err := s.Imported(); err != nil || done {
		return nil, err
	}
	return s.importDir(ctx, dir, true)
}

// Imported reports whether the import of the first start is over.
func (s *Store) Imported() (done bool, err error) {
	err = s.View(func(tx *Tx) error {
		return tx.guard(func() error {
			done = tx.b.Bucket(bucketMeta).Get(keyImported) != nil
			return nil
		})
	})
	return done, err
}

func (s *Store) importDir(ctx context.Context, dir string, first bool) (*Moved, error) {
	names, err := os.ReadDir(dir)
	if err != nil && !(first && errors.Is(err, os.ErrNotExist)) {
		return nil, err
	}
	group := importGroup
	if first {
		group = firstGroup
	}
	m := &Moved{}
	for _, d := range names {
		table := d.Name()
		if strings.HasPrefix(table, ".") {
			continue
		}
		if err := CheckTable(table); err != nil {
			m.problem("%s: %v", table, err)
			continue
		}
		f, err := readTable(filepath.Join(dir, table))
		if err != nil {
			m.problem("table %s: %v", table, err)
			continue
		}
		if f.Placeholder {
			continue
		}
		for _, p := range f.Problems {
			m.problem("table %s: entry %v", table, p)
		}
		m.Tables++
		for ids := range slices.Chunk(slices.Sorted(maps.Keys(f.Entries)), group) {
			if err := s.Update(ctx, func(tx *Tx) error { return tx.merge(table, ids, f.Entries, m) }); err != nil {
				return m.finish(), err
			}
		}
	}
	if first {
		if err := s.Update(ctx, (*Tx).setImported); err != nil {
			return m.finish(), err
		}
	}
	if m.Added+m.Extended > 0 && !s.memory {
		if err := s.maintain(func() error { return s.saveCopy(s.file) }); err != nil {
			s.log.Warn("the permission store was not copied", "error", err)
		}
	}
	s.Rest()
	return m.finish(), nil
}

// merge adds entries, or what they have more.
func (tx *Tx) merge(table string, ids []string, entries map[string]gvdb.Entry, m *Moved) error {
	tx.rowsLater = true
	for _, b := range []*bolt.Bucket{tx.entries, tx.index} {
		defer func(old float64) { b.FillPercent = old }(b.FillPercent)
		b.FillPercent = importFill
	}
	for _, id := range ids {
		from := entries[id]
		e, there, err := tx.Get(table, id)
		if err != nil {
			return err
		}
		if !there {
			e = Entry{Data: from.Data, Permissions: from.Permissions}
		}
		news := !there
		if there {
			for app, words := range from.Permissions {
				if _, has := e.Permissions[app]; !has {
					e.Permissions[app] = words // e is this transaction's own copy
					news = true
				}
			}
		}
		if !news {
			m.Same++
			continue
		}
		err = checkData(e.Data)
		if err == nil {
			err = tx.Put(table, id, e)
		}
		var limit *InvalidError
		switch {
		case errors.As(err, &limit):
			m.problem("table %s: entry %.64q: %s", table, id, limit.Reason)
		case err != nil:
			return err
		case there:
			m.Extended++
		default:
			m.Added++
		}
	}
	return tx.putRows()
}

// setImported notes that the first import is over. It has to be the last thing
// that an update does: undo knows nothing of it.
func (tx *Tx) setImported() error {
	tx.touched = true
	return tx.guard(func() error { return markImported(tx.b) })
}

func markImported(b *bolt.Tx) error {
	meta := b.Bucket(bucketMeta)
	if meta == nil {
		return damaged("no buckets")
	}
	return meta.Put(keyImported, []byte{1})
}

// readTable reads the file of a table.
func readTable(path string) (*gvdb.File, error) {
	// Not to wait for somebody at the other end of a FIFO.
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, errors.New("not a file")
	case info.Size() > maxTable:
		return nil, fmt.Errorf("larger than %d bytes", maxTable)
	}
	b := make([]byte, info.Size())
	n, err := io.ReadFull(file, b)
	if err != nil && err != io.ErrUnexpectedEOF && err != io.EOF {
		return nil, err
	}
	return gvdb.Parse(b[:n])
}
