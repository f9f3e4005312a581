package permstore

import (
	"bytes"
	"encoding/binary"
	"slices"

	bolt "go.etcd.io/bbolt"
)

// Tx is a transaction, valid until the function that got it returns, and only
// on its goroutine.
type Tx struct {
	s        *Store
	f        *file // in a view
	b        *bolt.Tx
	entries  *bolt.Bucket
	index    *bolt.Bucket
	writable bool
	ended    bool
	touched  bool  // something beside entries was changed
	damage   error // met while changing: the whole group is lost
	log      []step
	// rowsLater keeps the index rows of new entries for putRows: for many
	// entries they are put much faster in their own order.
	rowsLater bool
	rows      [][]byte
}

// step is one change with what is needed to take it back.
type step struct {
	change   Change
	old, new []byte // records, nil if absent
}

func (tx *Tx) buckets(err error) error {
	if err != nil {
		return err
	}
	tx.entries, tx.index = tx.b.Bucket(bucketEntries), tx.b.Bucket(bucketIndex)
	if tx.entries == nil || tx.index == nil {
		return damaged("no buckets")
	}
	return nil
}

func (tx *Tx) usable() error {
	if tx.ended {
		return ErrClosed
	}
	return tx.damage
}

// guard is guard, and has the file repaired if it is damaged.
func (tx *Tx) guard(f func() error) error {
	err := guard(f)
	if isDamage(err) {
		tx.s.suspect()
	}
	return err
}

// Get returns an entry. One that cannot be read is a DamageError.
func (tx *Tx) Get(table, id string) (Entry, bool, error) {
	if err := tx.usable(); err != nil {
		return Entry{}, false, err
	}
	var e *Entry
	err := tx.guard(func() (err error) {
		key := entryKey(table, id)
		if record := tx.entries.Get(key); record != nil {
			e, _, err = decode(key, record)
		}
		return err
	})
	if err != nil || e == nil {
		return Entry{}, false, err
	}
	return *e, true, nil
}

// Put sets an entry; only in Update. What is past the limits is an InvalidError.
func (tx *Tx) Put(table, id string, e Entry) error {
	if err := CheckTable(table); err != nil {
		return err
	}
	if err := CheckID(id); err != nil {
		return err
	}
	if err := checkEntry(e); err != nil {
		return err
	}
	_, err := tx.change(table, id, e.clone())
	return err
}

// Delete removes an entry and reports whether it was there; only in Update.
func (tx *Tx) Delete(table, id string) (bool, error) { return tx.change(table, id, nil) }

// change puts an entry in place of what is there, nil to remove it, and
// reports whether there was one.
func (tx *Tx) change(table, id string, e *Entry) (was bool, err error) {
	if err := tx.usable(); err != nil {
		return false, err
	}
	if !tx.writable {
		return false, ErrReadOnly
	}
	key := entryKey(table, id)
	st := step{change: Change{Table: table, ID: id, New: e}}
	err = tx.guard(func() (err error) {
		if record := tx.entries.Get(key); record != nil {
			st.old = append([]byte(nil), record...)
			st.change.Old, _, err = decode(key, record)
		}
		return err
	})
	if err != nil {
		return false, err
	}
	if e == nil && st.old == nil {
		return false, nil
	}
	if e != nil {
		st.new = encode(key, uint64(tx.b.ID()), e)
		if st.old != nil && sameEntry(st.old, st.new) {
			st.new = st.old
		}
	}
	if err := tx.replace(st.change.Table, st.change.ID, st.change.Old, st.change.New, st.old, st.new); err != nil {
		return false, err
	}
	tx.log = append(tx.log, st)
	return st.old != nil, nil
}

// replace writes a record in place of another, and the index rows with it.
func (tx *Tx) replace(table, id string, old, new *Entry, oldRecord, newRecord []byte) error {
	if bytes.Equal(oldRecord, newRecord) && oldRecord != nil {
		return nil
	}
	gone, err := tx.s.rows(table, id, old)
	if err != nil {
		return err
	}
	come, err := tx.s.rows(table, id, new)
	if err != nil {
		return err
	}
	err = tx.guard(func() error {
		key := entryKey(table, id)
		if newRecord == nil {
			err = tx.entries.Delete(key)
		} else {
			err = tx.entries.Put(key, newRecord)
		}
		if tx.rowsLater && old == nil {
			tx.rows, come = append(tx.rows, come...), nil
		}
		// Both are sorted: what is only in one of them changes.
		for err == nil && (len(gone) > 0 || len(come) > 0) {
			c := 0
			switch {
			case len(gone) == 0:
				c = 1
			case len(come) == 0:
				c = -1
			default:
				c = bytes.Compare(gone[0], come[0])
			}
			if c < 0 {
				err = tx.index.Delete(gone[0])
			} else if c > 0 {
				err = tx.index.Put(come[0], nil)
			}
			if c <= 0 {
				gone = gone[1:]
			}
			if c >= 0 {
				come = come[1:]
			}
		}
		return err
	})
	if err != nil {
		tx.damage = err // it is half done; only dropping the whole transaction helps
	}
	return err
}

// putRows puts the rows that were left for later.
func (tx *Tx) putRows() error {
	slices.SortFunc(tx.rows, bytes.Compare)
	err := tx.guard(func() error {
		for _, row := range tx.rows {
			if err := tx.index.Put(row, nil); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		tx.damage = err // as in replace
	}
	tx.rowsLater, tx.rows = false, nil
	return err
}

// undo takes all changes back.
func (tx *Tx) undo() {
	tx.rowsLater, tx.rows = false, nil
	for i := len(tx.log) - 1; i >= 0 && tx.damage == nil; i-- {
		st := &tx.log[i]
		if err := tx.replace(st.change.Table, st.change.ID, st.change.New, st.change.Old, st.new, st.old); err != nil {
			tx.damage = err
		}
	}
	tx.log = nil
}

// scan calls yield with each key of a bucket that has the prefix, from the key
// from on. yield returns the next key to look at, nil for the one that
// follows, and false to end. The key is yield's to keep.
func (tx *Tx) scan(b *bolt.Bucket, prefix []byte, yield func(key []byte) (next []byte, more bool)) error {
	if err := tx.usable(); err != nil {
		return err
	}
	var (
		c    *bolt.Cursor
		keys [][]byte
		seek = prefix
		want = 1 // keys to read at once: to guard each would cost more than to read it
	)
	for {
		if err := tx.usable(); err != nil {
			return err
		}
		keys = keys[:0]
		err := tx.guard(func() error {
			if c == nil {
				c = b.Cursor()
			}
			var copied []byte // the map may be gone when yield uses its key
			for len(keys) < want {
				var k []byte
				if seek == nil {
					k, _ = c.Next()
				} else {
					k, _ = c.Seek(seek)
					seek = nil
				}
				if k == nil || !bytes.HasPrefix(k, prefix) {
					break
				}
				n := len(copied)
				copied = append(copied, k...)
				keys = append(keys, copied[n:len(copied):len(copied)])
			}
			return nil
		})
		seek = nil
		for _, key := range keys {
			next, more := yield(key)
			if !more {
				return nil
			}
			if seek = next; seek != nil {
				break
			}
			if tx.writable {
				// yield may have changed the bucket: a cursor does not survive
				// that, so it is one key at a time.
				seek = append(key, 0)
			}
		}
		switch {
		case err != nil:
			return err
		case seek != nil:
			want = 1
		case len(keys) < want:
			return nil
		default:
			want = min(2*want, maxAtOnce)
		}
	}
}

// maxAtOnce bounds the keys that a scan reads at once.
const maxAtOnce = 256

// IDs calls yield for each id of a table, sorted by bytes, until it returns
// false. In Update, yield may change entries.
func (tx *Tx) IDs(table string, yield func(id string) bool) error {
	prefix := entryKey(table, "")
	return tx.scan(tx.entries, prefix, func(key []byte) ([]byte, bool) {
		return nil, yield(string(key[len(prefix):]))
	})
}

// Tables calls yield for each table that has entries, sorted by bytes, until
// it returns false.
func (tx *Tx) Tables(yield func(table string) bool) error {
	return tx.scan(tx.entries, []byte{}, func(key []byte) ([]byte, bool) {
		table, _, _ := splitKey(key)
		return append([]byte(table), 1), yield(table)
	})
}

// Find calls yield for each id that an index has under key, sorted by bytes,
// until it returns false. The index "app" is there for every table.
func (tx *Tx) Find(table, index string, key []byte, yield func(id string) bool) error {
	prefix := appendKey(indexPrefix(table, index), key)
	return tx.scan(tx.index, prefix, func(row []byte) ([]byte, bool) {
		return nil, yield(string(row[len(prefix):]))
	})
}

// Keys calls yield for each distinct key of an index, sorted by bytes, until it returns false.
func (tx *Tx) Keys(table, index string, yield func(key []byte) bool) error {
	prefix := indexPrefix(table, index)
	var bad error
	err := tx.scan(tx.index, prefix, func(row []byte) ([]byte, bool) {
		key, id, ok := cutKey(row[len(prefix):])
		if !ok {
			bad = damaged("row of index %q", index)
			return nil, false
		}
		next := bytes.Clone(row[:len(row)-len(id)])
		next[len(next)-1]++ // past all rows of this key
		return next, yield(key)
	})
	if err == nil {
		err = bad
	}
	return err
}

// schemaOf reads the schema version of a file, 0 if it has none.
func schemaOf(tx *bolt.Tx) uint32 {
	b := tx.Bucket(bucketMeta)
	if b == nil {
		return 0
	}
	v := b.Get(keySchema)
	if len(v) != 4 {
		return 0
	}
	return binary.LittleEndian.Uint32(v)
}
