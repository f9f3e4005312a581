package permstore

import (
	"bytes"
	"sort"
)

// The file is one bbolt database with three buckets:
//
//	meta     "schema" → u32, little-endian; "indexes" → the names of the
//	         secondary indexes that are kept, NUL-separated; "imported" → 1
//	         once the import of the first start is over
//	entries  table NUL id → record (entry.go)
//	index    table NUL index NUL escaped key 00 01 id → nothing
//
// In an escaped key each 00 is 00 ff, so that rows sort as their keys do.

const schema = 1

var (
	bucketMeta    = []byte("meta")
	bucketEntries = []byte("entries")
	bucketIndex   = []byte("index")
	keySchema     = []byte("schema")
	keyIndexes    = []byte("indexes")
	keyImported   = []byte("imported")
)

// appIndex is the index that every table has.
const appIndex = "app"

func entryKey(table, id string) []byte {
	k := make([]byte, 0, len(table)+1+len(id))
	k = append(k, table...)
	k = append(k, 0)
	return append(k, id...)
}

// splitKey takes an entry's key apart.
func splitKey(k []byte) (table, id string, ok bool) {
	t, i, ok := bytes.Cut(k, []byte{0})
	return string(t), string(i), ok
}

// indexPrefix begins the rows of an index.
func indexPrefix(table, index string) []byte {
	k := make([]byte, 0, len(table)+len(index)+64)
	k = append(k, table...)
	k = append(k, 0)
	k = append(k, index...)
	return append(k, 0)
}

// appendKey appends an escaped key with its end.
func appendKey(b, key []byte) []byte {
	for _, c := range key {
		b = append(b, c)
		if c == 0 {
			b = append(b, 0xff)
		}
	}
	return append(b, 0, 1)
}

// cutKey reads an escaped key; rest is the id.
func cutKey(b []byte) (key, rest []byte, ok bool) {
	for i := 0; i < len(b); i++ {
		if b[i] != 0 {
			key = append(key, b[i])
			continue
		}
		if i++; i == len(b) {
			break
		}
		switch b[i] {
		case 1:
			return key, b[i+1:], true
		case 0xff:
			key = append(key, 0)
		default:
			return nil, nil, false
		}
	}
	return nil, nil, false
}

// rows returns the index rows of an entry, sorted, each once; none for nil.
func (s *Store) rows(table, id string, e *Entry) ([][]byte, error) {
	if e == nil {
		return nil, nil
	}
	var rows [][]byte
	prefix := indexPrefix(table, appIndex)
	for app := range e.Permissions {
		rows = append(rows, append(appendKey(prefix[:len(prefix):len(prefix)], []byte(app)), id...))
	}
	for _, x := range s.indexes {
		if x.Table != table {
			continue
		}
		prefix := indexPrefix(table, x.Name)
		for _, key := range x.Keys(id, *e) {
			if len(key) > maxKey {
				return nil, invalid("a key of index %q is longer than %d bytes", x.Name, maxKey)
			}
			rows = append(rows, append(appendKey(prefix[:len(prefix):len(prefix)], key), id...))
		}
	}
	sort.Slice(rows, func(i, j int) bool { return bytes.Compare(rows[i], rows[j]) < 0 })
	n := 0
	for i, r := range rows {
		if i == 0 || !bytes.Equal(r, rows[i-1]) {
			rows[n] = r
			n++
		}
	}
	return rows[:n], nil
}
