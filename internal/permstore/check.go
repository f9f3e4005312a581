package permstore

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// maxProblems bounds a report: a file that is damaged all over says so early.
const maxProblems = 100

// Report is the outcome of a check.
type Report struct {
	Entries  int
	Problems []string // at most 100
}

func (r *Report) add(format string, args ...any) (more bool) {
	if len(r.Problems) < maxProblems {
		r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
	}
	return len(r.Problems) < maxProblems
}

// verify compares entries and indexes. stop, asked now and then, ends it early.
func (tx *Tx) verify(stop func() bool) (*Report, error) {
	r := &Report{}
	due, steps := 0, 0
	goOn := func() bool { steps++; return steps%1000 != 0 || !stop() }
	err := tx.scan(tx.entries, []byte{}, func(key []byte) ([]byte, bool) {
		table, id, ok := splitKey(key)
		if !ok {
			return nil, r.add("entry %q has no table", key)
		}
		r.Entries++
		e, _, err := tx.Get(table, id)
		if err != nil {
			return nil, r.add("entry %q in table %q: %v", id, table, err)
		}
		if err := errors.Join(CheckTable(table), CheckID(id), checkEntry(e)); err != nil {
			return nil, r.add("entry %q in table %q: %v", id, table, err)
		}
		rows, err := tx.s.rows(table, id, &e)
		if err != nil {
			return nil, r.add("entry %q in table %q: %v", id, table, err)
		}
		due += len(rows)
		for _, row := range rows {
			if has, err := tx.hasRow(row); err != nil || !has {
				return nil, r.add("entry %q in table %q is not in its indexes (%v)", id, table, err)
			}
		}
		return nil, goOn()
	})
	if err == nil && stop() {
		err = ErrClosed
	}
	if err != nil {
		return r, err
	}
	n := 0
	err = tx.scan(tx.index, []byte{}, func(row []byte) ([]byte, bool) {
		n++
		return nil, goOn()
	})
	if err == nil && n > due {
		r.add("the indexes have %d rows for entries that are not so", n-due)
	}
	return r, err
}

func (tx *Tx) hasRow(row []byte) (has bool, err error) {
	err = tx.guard(func() error {
		k, _ := tx.index.Cursor().Seek(row)
		has = bytes.Equal(k, row)
		return nil
	})
	return has, err
}

// Check reads the whole of the store in dir, without changing it, and reports
// what is not as it should be: the pages, the records, the indexes. It fails
// with ErrInUse while another process has the store open, with ErrNewerSchema,
// or if there is no store.
func Check(dir string, indexes []Index) (*Report, error) {
	if lock, err := os.Open(filepath.Join(dir, lockName)); err == nil {
		defer lock.Close()
		if err := unix.Flock(int(lock.Fd()), unix.LOCK_SH|unix.LOCK_NB); err == unix.EWOULDBLOCK {
			return nil, ErrInUse
		}
	}
	path := filepath.Join(dir, fileName)
	base, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer base.Close()
	r := &Report{}
	if err := checkMeta(base); isDamage(err) {
		r.add("%v", err)
		return r, nil
	} else if err != nil {
		return nil, err
	}
	f := &file{}
	err = guard(func() (err error) {
		f.db, err = bolt.Open(path, 0, &bolt.Options{ReadOnly: true, Timeout: 1})
		return err
	})
	if isDamage(err) {
		r.add("%v", err)
		return r, nil
	} else if err != nil {
		return nil, err
	}
	defer f.closeDB()
	s := &Store{indexes: indexes, wake: make(chan struct{}, 1)}
	err = guard(func() error {
		return f.db.View(func(b *bolt.Tx) error {
			if v := schemaOf(b); v > schema {
				return ErrNewerSchema
			}
			for err := range b.Check() {
				r.add("%v", err)
			}
			tx := &Tx{s: s, b: b}
			if err := tx.buckets(nil); err != nil {
				return err
			}
			got, err := tx.verify(func() bool { return false })
			r.Entries = got.Entries
			r.Problems = append(r.Problems, got.Problems...)
			return err
		})
	})
	if isDamage(err) {
		r.add("%v", err)
		err = nil
	}
	return r, err
}

// Repair opens the store in dir, with what that mends by itself, and writes its
// indexes anew.
func Repair(dir string, o Options) error {
	s, err := Open(dir, o)
	if err != nil {
		return err
	}
	defer s.Close()
	if s.memory {
		return fmt.Errorf("%s cannot be written", dir)
	}
	return s.RepairIndexes()
}

// Check reads the whole store, while it is in use, and reports what is not as
// it should be: the pages, the records, the indexes.
func (s *Store) Check() (r *Report, err error) {
	err = s.View(func(tx *Tx) (err error) {
		pages := s.checkPages(tx)
		if pages != nil && !isDamage(pages) {
			return pages
		}
		r, err = tx.verify(s.ending)
		if pages != nil {
			r.add("%v", pages)
		}
		tx.f.unmapPages()
		return err
	})
	if isDamage(err) && r != nil {
		r.add("%v", err)
		err = nil
	}
	return r, err
}

// RepairIndexes writes the indexes anew, while the store is in use.
func (s *Store) RepairIndexes() error {
	return s.maintain(func() error {
		f := s.file
		f.changed = true
		err := s.rebuildIndexes(f)
		if isDamage(err) {
			s.abandon(f) // a panic left bbolt's locks as they were
			s.suspect()
		} else if err != nil {
			f.stale = true
		}
		return err
	})
}

// maintain runs fn on the writer's goroutine, outside of a transaction.
func (s *Store) maintain(fn func() error) error {
	done := make(chan error, 1)
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		return ErrClosed
	}
	s.chores = append(s.chores, func() { done <- fn() })
	s.mu.Unlock()
	s.wakeWriter()
	return <-done
}

// doChores does what waits for the writer beside updates.
func (s *Store) doChores() {
	s.mu.Lock()
	chores := s.chores
	s.chores = nil
	s.mu.Unlock()
	for _, c := range chores {
		c()
	}
}
