// Package permstore keeps tables of permissions: table, id, data and, for each
// app, a list of words. It knows nothing of what they mean. It keeps one rule:
// what was acknowledged is on disk, and what was not has left no trace.
package permstore

import (
	"context"
	"log/slog"

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
	Old, New  *Entry // nil: absent before or after
}

// Options are the settings of a store.
type Options struct {
	Log *slog.Logger
	// Indexes are the secondary indexes, kept in the same transaction as the
	// entries. Changing this set needs a new schema version.
	Indexes []Index
	// Committed is called after the transaction is on disk and before the
	// writers that caused the changes are told, in the order of the changes,
	// one call at a time. It must not call Update.
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
type Store struct{}

// Open opens the store in a directory, which it makes (0700) if need be; the
// file is permissions.db (0600). Where the directory cannot be made or written
// the store lives in memory only, after one warning. A file that another
// process holds is ErrInUse at once.
func Open(dir string, o Options) (*Store, error) { panic("not implemented") }

// Close waits for the changes under way and closes the file.
func (s *Store) Close() error { panic("not implemented") }

// Update runs fn in a transaction of its own and returns when its changes are
// on disk. Waiting updates are grouped into one disk transaction; each sees
// the changes of those before it. If fn returns an error, its changes alone
// are dropped and Update returns that error.
func (s *Store) Update(ctx context.Context, fn func(*Tx) error) error { panic("not implemented") }

// View runs fn on the last committed state; it never waits for a writer.
func (s *Store) View(fn func(*Tx) error) error { panic("not implemented") }

// Tx is a transaction, valid until the function that got it returns.
type Tx struct{}

// Get returns an entry.
func (tx *Tx) Get(table, id string) (Entry, bool, error) { panic("not implemented") }

// Put sets an entry; only in Update.
func (tx *Tx) Put(table, id string, e Entry) error { panic("not implemented") }

// Delete removes an entry and reports whether it was there; only in Update.
func (tx *Tx) Delete(table, id string) (bool, error) { panic("not implemented") }

// IDs calls yield for each id of a table, sorted by bytes, until it returns false.
func (tx *Tx) IDs(table string, yield func(id string) bool) error { panic("not implemented") }

// Find calls yield for each id that an index has under key, sorted by bytes,
// until it returns false. The index "app" is there for every table.
func (tx *Tx) Find(table, index string, key []byte, yield func(id string) bool) error {
	panic("not implemented")
}

// Keys calls yield for each distinct key of an index, sorted by bytes, until it returns false.
func (tx *Tx) Keys(table, index string, yield func(key []byte) bool) error {
	panic("not implemented")
}

// Name and Path are where the permission store is on the bus.
const (
	Name = "org.freedesktop.impl.portal.PermissionStore"
	Path = "/org/freedesktop/impl/portal/PermissionStore"
)

// Interface returns the D-Bus interface org.freedesktop.impl.portal.PermissionStore
// of a store. emit sends a signal of that interface to all
// (bus.Conn.Emit bound to Path and Name).
func Interface(s *Store, emit func(member, signature string, args ...any) error) *bus.Interface {
	panic("not implemented")
}
