package permstore

import (
	"bytes"
	"fmt"
	"sync/atomic"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// maxGroup bounds how many updates share a transaction, so that one that fails
// for want of room does not fail too many others.
const maxGroup = 256

// update is a waiting Update.
type update struct {
	fn       func(*Tx) error
	begun    atomic.Bool // taken by the writer, or withdrawn
	done     chan struct{}
	err      error
	panicked any // what fn panicked with
}

func (u *update) finish(err error) {
	u.err = err
	close(u.done)
}

func (s *Store) wakeWriter() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// write is the one writer. Whatever comes while a transaction is being written
// waits and shares the next one.
func (s *Store) write() {
	defer close(s.done)
	for range s.wake {
		for {
			s.repair()
			s.doChores()
			group, closing := s.take()
			if len(group) == 0 {
				if closing {
					return
				}
				break
			}
			s.commit(group)
		}
	}
}

// take returns the updates to do next.
func (s *Store) take() (group []*update, closing bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := min(len(s.waiting), maxGroup)
	for _, u := range s.waiting[:n] {
		if u.begun.CompareAndSwap(false, true) {
			group = append(group, u)
		}
	}
	s.waiting = s.waiting[n:]
	if len(s.waiting) == 0 {
		s.waiting = nil
	} else if len(group) == 0 {
		s.wakeWriter() // all of these were withdrawn
	}
	if s.chores != nil {
		s.wakeWriter()
	}
	return group, s.closing && s.waiting == nil && s.chores == nil
}

// commit runs a group of updates in one transaction of the file.
func (s *Store) commit(group []*update) {
	f := s.file // only the writer replaces it
	if f.stale {
		if err := s.reopen(); err != nil {
			for _, u := range group {
				u.finish(storageError(err))
			}
			return
		}
		f = s.file
	}
	if err := s.removed(f); err != nil {
		s.log.Error("a change was not stored", "error", err, "updates", len(group))
		for _, u := range group {
			u.finish(storageError(err))
		}
		return
	}
	var b *bolt.Tx
	first := &Tx{}
	err := guard(func() (err error) {
		b, err = f.begin(true)
		first.b = b
		return first.buckets(err)
	})
	if isDamage(err) {
		s.suspect()
	}
	var changes []Change
	var kept []*update // those whose changes are in the transaction
	dirty := false
	for _, u := range group {
		if err != nil {
			u.finish(storageError(err))
			continue
		}
		tx := &Tx{s: s, b: b, entries: first.entries, index: first.index, writable: true}
		fnErr := u.run(tx)
		if fnErr != nil || u.panicked != nil {
			tx.undo()
		}
		tx.ended = true
		if tx.damage != nil {
			// The transaction is of no use any more, for nobody in it.
			err = tx.damage
			kept = append(kept, u)
			continue
		}
		if fnErr != nil || u.panicked != nil {
			u.finish(fnErr)
			continue
		}
		kept = append(kept, u)
		dirty = dirty || tx.touched
		for _, st := range tx.log {
			changes = append(changes, st.change)
			dirty = dirty || (st.old == nil) != (st.new == nil) || !bytes.Equal(st.old, st.new)
		}
	}
	if err == nil && dirty {
		s.unsettled.Store(true)
		defer s.unsettled.Store(false)
		err = s.flush(f, b)
	} else if b != nil {
		if g := guard(b.Rollback); g != nil {
			s.abandon(f)
		}
	}
	if err != nil {
		s.log.Error("a change was not stored", "error", err, "updates", len(kept))
		changes = nil
	}
	s.publish(changes)
	for _, u := range kept {
		if err != nil {
			u.finish(storageError(err))
		} else {
			u.finish(nil)
		}
	}
}

// removed returns an error if the file has no name any more: what is written to
// it then is nobody's once it is closed. One that was moved, with its directory
// or the whole home, is as good as before.
func (s *Store) removed(f *file) error {
	if s.lock == nil {
		return nil // it never had one
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.base.Fd()), &st); err != nil {
		return err
	}
	if st.Nlink == 0 {
		return fmt.Errorf("%s was removed or replaced; docportal --replace starts anew", f.path)
	}
	return nil
}

// publish tells the subscribers of changes.
func (s *Store) publish(changes []Change) {
	if len(changes) == 0 {
		return
	}
	s.mu.Lock()
	subscribers := s.subscribers
	s.mu.Unlock()
	for _, f := range subscribers {
		f(changes)
	}
}

// run runs fn. A panic is the caller's to meet, not the writer's.
func (u *update) run(tx *Tx) (err error) {
	defer func() {
		if r := recover(); r != nil {
			u.panicked = r
		}
	}()
	return u.fn(tx)
}

// flush commits b. If that fails nothing of it stays: the file is opened again
// at the state before.
func (s *Store) flush(f *file, b *bolt.Tx) error {
	id := uint64(b.ID())
	err := guard(b.Commit)
	if err == nil {
		f.changed = true
		return nil
	}
	if isDamage(err) {
		s.abandon(f) // a panic left bbolt's locks as they were
	}
	// The new meta page may have been written and only its sync have failed.
	// Readers would see what is about to be refused: take it back.
	if e := f.revoke(id); e != nil {
		s.log.Error("a refused change could not be taken back", "error", e)
	}
	f.stale = true
	if e := s.reopen(); e != nil {
		s.log.Error("opening the permission store again", "error", e)
	}
	if isDamage(err) {
		s.suspect()
	}
	return err
}

// abandon says that bbolt's handle must not be closed: it may hold its own lock.
func (s *Store) abandon(f *file) { f.abandoned, f.stale = true, true }
