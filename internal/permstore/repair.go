package permstore

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// copyName is the last copy: the database as it was at the last orderly end
// with changes. Only a salvage reads it.
const copyName = fileName + ".copy"

// salvage reads the damaged file and the last copy, and says in the log what
// came of it.
func (s *Store) salvage(base *os.File, why error) (outcome, error) {
	v, err := salvageFile(base)
	if err != nil {
		return outcome{}, err
	}
	var last *salvage
	if f, err := os.Open(filepath.Join(s.dir, copyName)); err == nil {
		last, err = salvageFile(f)
		if err != nil {
			s.log.Warn("the last copy of the permission store cannot be read", "error", err)
		}
		f.Close()
	}
	if v.ioError != nil {
		s.log.Error("the disk cannot read the permission store", "error", v.ioError)
	}
	o := v.finish(last)
	s.log.Error("the permission store is damaged; what can be read of it is kept",
		"reason", why, "recovered", o.recovered, "from copy", o.fromCopy, "lost", o.lost)
	return o, v.ioError
}

// restore makes a new file of what can be read of a damaged one, which is
// moved aside.
func (s *Store) restore(base *os.File, why error) (*file, outcome, error) {
	o, _ := s.salvage(base, why)
	f, err := s.create(o.fill)
	return f, o, err
}

// quarantine gives the damaged file a second name, so that renaming the new
// one over it is one step.
func (s *Store) quarantine(path string) error {
	aside := path + ".corrupt-" + time.Now().UTC().Format("20060102T150405Z")
	name := aside
	for i := 1; ; i++ {
		err := os.Link(path, name)
		if errors.Is(err, os.ErrExist) {
			name = fmt.Sprintf("%s-%d", aside, i)
			continue
		}
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil { // a file system without links
			err = os.Rename(path, name)
		}
		if err == nil {
			s.log.Warn("the damaged permission store was moved aside", "file", name)
		}
		return err
	}
}

// suspect has the writer repair the file: something in it could not be read.
func (s *Store) suspect() {
	s.mu.Lock()
	s.suspected = true
	s.mu.Unlock()
	s.wakeWriter()
}

// repair replaces a file that was found to be damaged while it is in use, at
// most once in the life of a store: damage that comes back is not the file's.
func (s *Store) repair() {
	s.mu.Lock()
	due := s.suspected && !s.repaired
	s.repaired = s.repaired || due
	s.mu.Unlock()
	if !due {
		return
	}
	old := s.file
	o, ioErr := s.salvage(old.base, errors.New("found while in use"))
	if ioErr != nil {
		// What a disk cannot read now it may read later: keep the file.
		return
	}
	var next *file
	var err error
	if s.memory {
		next, err = s.createMemory(o.fill)
	} else {
		next, err = s.create(o.fill)
	}
	if err != nil {
		s.log.Error("the permission store could not be repaired", "error", err)
		return
	}
	next.changed = true
	s.swap(next)
	if err := old.closeDB(); err != nil {
		s.log.Debug("closing the damaged permission store", "error", err)
	}
	old.base.Close()
	// What came from the copy was not to be seen before.
	var changes []Change
	for _, key := range o.copied {
		if e, _, err := decode([]byte(key), o.entries[key].record); err == nil {
			table, id, _ := splitKey([]byte(key))
			changes = append(changes, Change{Table: table, ID: id, New: e})
		}
	}
	s.publish(changes)
}

// saveCopy replaces the last copy by the state of now.
func (s *Store) saveCopy(f *file) (err error) {
	path := filepath.Join(s.dir, copyName)
	temp := path + ".new"
	out, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(temp)
		}
	}()
	b, err := f.begin(false)
	if err == nil {
		err = guard(func() error {
			defer b.Rollback()
			// A copy of damage must not replace a good one.
			c := b.Bucket(bucketEntries).Cursor()
			for k, v := c.First(); k != nil; k, v = c.Next() {
				if _, _, err := decode(k, v); err != nil {
					return err
				}
			}
			_, err := b.WriteTo(out)
			return err
		})
	}
	if err == nil {
		err = out.Sync()
	}
	if e := out.Close(); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	return os.Rename(temp, path)
}

// endedWell reports whether the store was closed in good order after its last
// transaction.
func (s *Store) endedWell(f *file) bool {
	said := make([]byte, 64)
	n, _ := s.lock.ReadAt(said, 0)
	return bytes.Equal(said[:n], endMark(f))
}

// endMark is what the lock file says of an orderly end.
func endMark(f *file) []byte {
	m, _, _, _ := findMeta(f.base)
	return fmt.Appendf(nil, "closed after transaction %d\n", m.txid)
}

// sayEnded records an orderly end. It needs no sync: a mark that does not
// reach the disk costs a check, no more.
func (s *Store) sayEnded(f *file) {
	mark := endMark(f)
	if err := s.lock.Truncate(int64(len(mark))); err == nil {
		s.lock.WriteAt(mark, 0)
	}
}

// checkAfterCrash reads the whole file once, while it is in use.
func (s *Store) checkAfterCrash() {
	defer close(s.checked)
	var r *Report
	err := s.View(func(tx *Tx) (err error) {
		if err := s.checkPages(tx); err != nil {
			return err
		}
		r, err = tx.verify(s.ending)
		tx.f.unmapPages()
		return err
	})
	switch {
	case errors.Is(err, ErrClosed), err == nil && len(r.Problems) == 0:
		return
	case err == nil:
		err = errors.New(r.Problems[0])
	}
	s.log.Warn("the permission store is not as it should be after a crash", "error", err)
	s.suspect()
}

// checkPages checks the pages of a transaction's state. While it lasts none of
// them is used for something else.
func (s *Store) checkPages(tx *Tx) error {
	base := tx.f.base
	info, err := base.Stat()
	if err != nil {
		return err
	}
	m, _, _, err := findMeta(base)
	if err != nil || m.txid != uint64(tx.b.ID()) {
		return err // written to meanwhile: the meta page is that of a later state
	}
	return checkPages(base, info.Size(), m)
}

func (s *Store) ending() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closing
}
