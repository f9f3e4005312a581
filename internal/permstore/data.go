package permstore

import (
	"bytes"
	"encoding/binary"
	"slices"
)

// dropAfter is how many reads of Data are followed by giving back the pages of
// the file that they have mapped: some MiB.
const dropAfter = 48

// Data calls yield with the id and the data of each entry of a table, sorted
// by id, until it returns false; only in View. It is for those who look at all
// of a large table: what they get is theirs until yield returns, nobody's
// permissions are read, and however large the table is, it needs little memory.
func (tx *Tx) Data(table string, yield func(id, signature, data []byte) bool) error {
	if err := tx.usable(); err != nil {
		return err
	}
	prefix := entryKey(table, "")
	next := prefix // where to go on
	// As much as the records of documents take, so that it is not made again.
	got := records{text: make([]byte, 0, 64<<10)}
	got.all = slices.Grow(got.all, maxAtOnce)
	for n := 1; next != nil; n++ {
		var err error
		got, next, err = tx.records(prefix, next, got)
		start := 0
		for _, r := range got.all {
			if !yield(got.text[start:r.id], got.text[r.id:r.signature], got.text[r.signature:r.data]) {
				return nil
			}
			start = r.data
		}
		if err != nil {
			return err
		}
		if n%dropAfter == 0 {
			tx.f.unmapPages()
		}
	}
	return nil
}

// records are copies of what was read at once: the map may be gone when
// somebody uses them.
type records struct {
	text []byte // ids, signatures and data
	all  []struct{ id, signature, data int }
}

// records reads at most maxAtOnce records from the key from on, into what
// reuse holds. next is where to go on, nil if there are no more.
func (tx *Tx) records(prefix, from []byte, reuse records) (got records, next []byte, err error) {
	err = tx.guard(func() error {
		// Local variables, kept at the end, also that of a panic.
		text, all := reuse.text[:0], reuse.all[:0]
		defer func() { got = records{text, all} }()
		c := tx.entries.Cursor()
		for k, record := c.Seek(from); k != nil && bytes.HasPrefix(k, prefix); k, record = c.Next() {
			if len(all) == maxAtOnce {
				next = bytes.Clone(k)
				return nil
			}
			if len(record) < 4 || binary.LittleEndian.Uint32(record) != checksum(k, record[4:]) {
				return damaged("record of %q", k)
			}
			d := decoder{b: record[4:]}
			d.uvarint()
			text = append(text, k[len(prefix):]...)
			id := len(text)
			text = append(text, d.raw()...)
			signature := len(text)
			text = append(text, d.raw()...)
			if d.bad {
				return damaged("record of %q", k)
			}
			all = append(all, struct{ id, signature, data int }{id, signature, len(text)})
		}
		return nil
	})
	return got, next, err
}

// raw is what bytes and string read, where it is.
func (d *decoder) raw() []byte {
	n := d.count(1)
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}
