package permstore

import (
	"bytes"
	"encoding/binary"
)

// Data calls yield with the id and the data of each entry of a table, sorted
// by id, until it returns false; only in View. It is for those who look at all
// of a large table: what they get is theirs until yield returns, and nobody's
// permissions are read.
func (tx *Tx) Data(table string, yield func(id, signature, data []byte) bool) error {
	if err := tx.usable(); err != nil {
		return err
	}
	type found struct{ id, signature, data int } // where each ends in text
	var (
		prefix = entryKey(table, "")
		next   = prefix // where to go on
		text   []byte   // copied: the map may be gone when yield uses it
		all    []found
		done   = false
	)
	for !done {
		text, all = text[:0], all[:0]
		err := tx.guard(func() error {
			c := tx.entries.Cursor()
			for k, record := c.Seek(next); ; k, record = c.Next() {
				if k == nil || !bytes.HasPrefix(k, prefix) {
					done = true
					return nil
				}
				if len(all) == maxAtOnce {
					next = append(next[:0:0], k...)
					return nil
				}
				if len(record) < 4 || binary.LittleEndian.Uint32(record) != checksum(k, record[4:]) {
					return damaged("record of %q", k)
				}
				d := decoder{b: record[4:]}
				d.uvarint()
				var f found
				text = append(text, k[len(prefix):]...)
				f.id = len(text)
				text = append(text, d.raw()...)
				f.signature = len(text)
				text = append(text, d.raw()...)
				f.data = len(text)
				if d.bad {
					return damaged("record of %q", k)
				}
				all = append(all, f)
			}
		})
		start := 0
		for _, f := range all {
			if !yield(text[start:f.id], text[f.id:f.signature], text[f.signature:f.data]) {
				return nil
			}
			start = f.data
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// raw is what bytes and string read, where it is.
func (d *decoder) raw() []byte {
	n := d.count(1)
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}
