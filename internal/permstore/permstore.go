// Package permstore keeps tables of permissions: table, id, data and, for each
// app, a list of words. It knows nothing of what they mean. It keeps one rule:
// what was acknowledged is on disk, and what was not has left no trace.
package permstore

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"

	"docportal/internal/bus"
)

// Entry is what a table holds under an id. Entries that the store hands out
// are shared: they must not be changed.
type Entry struct {
	Data        bus.Value
	Permissions map[string][]string // app id to permissions
}

// Change is one committed change of an entry.
type Change struct {
	Table, ID string
	Old, New  *Entry // nil: absent before or after; equal if the entry was set to what it was
}

// Options are the settings of a store.
type Options struct {
	Log *slog.Logger
	// Indexes are the secondary indexes, kept in the same transaction as the
	// entries. Changing this set needs a new schema version.
	Indexes []Index
	// Committed is called after the transaction is on disk and before the
	// writers that caused the changes are told, in the order of the changes,
	// one call at a time. It must not call Update. Subscribe adds more.
	Committed func([]Change)
}

// Index is a secondary index of one table. Every table also has the index "app"
// (app id to ids) by itself.
type Index struct {
	Table, Name string
	// Keys returns the keys under which an entry is found, none for an entry
	// that the index does not cover. It must depend on its arguments alone.
	Keys func(id string, e Entry) [][]byte
}

// Store is an open permission store.
type Store struct {
	log     *slog.Logger
	dir     string
	indexes []Index
	lock    *os.File // holds the directory for this process; nil in memory
	memory  bool     // nothing outlives the process

	wake    chan struct{} // tells the writer that something waits
	done    chan struct{} // closed when the writer has ended
	checked chan struct{} // closed when the check after a crash has ended

	mu          sync.Mutex
	file        *file // what View reads
	waiting     []*update
	chores      []func() // for the writer, beside the updates
	closing     bool
	suspected   bool // something in the file could not be read
	repaired    bool // and the attempt to mend it was made
	subscribers []func([]Change)

	unsettled atomic.Bool // a change is being written, or is not announced yet
}

// Open opens the store in a directory, which it makes (0700) if need be; the
// file is permissions.db (0600). Where the directory cannot be made or written
// the store lives in memory only, after one warning, and begins with what can
// be read there. A file that another process holds is ErrInUse at once; one of
// a newer version is ErrNewerSchema and is left as it is.
func Open(dir string, o Options) (*Store, error) {
	s := &Store{
		log:     o.Log,
		dir:     dir,
		indexes: o.Indexes,
		wake:    make(chan struct{}, 1),
		done:    make(chan struct{}),
		checked: make(chan struct{}),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if o.Committed != nil {
		s.subscribers = append(s.subscribers, o.Committed)
	}
	if err := s.open(); err != nil {
		return nil, err
	}
	go s.write()
	if s.lock != nil && !s.endedWell(s.file) {
		go s.checkAfterCrash()
	} else {
		close(s.checked)
	}
	return s, nil
}

// Subscribe has f called with the changes of each commit, as Options.Committed
// is, after those who subscribed earlier.
func (s *Store) Subscribe(f func([]Change)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.subscribers = append(s.subscribers[:len(s.subscribers):len(s.subscribers)], f)
}

// Close waits for the changes under way, and for the views, and closes the file.
func (s *Store) Close() error {
	s.mu.Lock()
	first := !s.closing
	s.closing = true
	s.mu.Unlock()
	if first {
		s.wakeWriter()
	}
	<-s.done
	if !first {
		return nil
	}
	return s.close()
}

// InMemory reports whether the store lives in memory only.
func (s *Store) InMemory() bool { return s.memory }

// Update runs fn in a transaction of its own and returns when its changes are
// on disk. Waiting updates are grouped into one disk transaction; each sees
// the changes of those before it. If fn returns an error, its changes alone
// are dropped and Update returns that error. fn runs at most once, not on the
// caller's goroutine, and must not call Update. A context that ends before fn
// has begun withdraws the update; later it has no effect. If the changes
// cannot be written the error is a StorageError.
func (s *Store) Update(ctx context.Context, fn func(*Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	u := &update{fn: fn, done: make(chan struct{})}
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		return ErrClosed
	}
	s.waiting = append(s.waiting, u)
	s.mu.Unlock()
	s.wakeWriter()
	select {
	case <-u.done:
	case <-ctx.Done():
		if u.begun.CompareAndSwap(false, true) {
			return ctx.Err()
		}
		<-u.done
	}
	if u.panicked != nil {
		panic(u.panicked)
	}
	return u.err
}

// View runs fn on the last committed state; it never waits for a writer. fn
// must not call Update.
func (s *Store) View(fn func(*Tx) error) error {
	f, err := s.acquire()
	if err != nil {
		return err
	}
	defer s.release(f)
	tx := &Tx{s: s, f: f}
	if err := guard(func() (err error) { tx.b, err = f.begin(false); return tx.buckets(err) }); err != nil {
		if tx.b != nil {
			tx.b.Rollback()
		}
		if isDamage(err) {
			s.suspect()
		}
		return err
	}
	defer tx.b.Rollback()
	defer func() { tx.ended = true }()
	return fn(tx)
}

// Settled reports whether all that tx sees is on the disk and announced; only
// in View. A change is seen there a moment before: when it is written and its
// author not told yet, as it can still fail. Who promises more than "it is so
// now" because of what was seen asks for an Update instead.
func (tx *Tx) Settled() bool { return !tx.s.unsettled.Load() }
