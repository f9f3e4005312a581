package gvdb

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// maxProblems is how many left-out entries are described; the rest is counted.
const maxProblems = 100

// File is the content of a permission database.
type File struct {
	Entries map[string]Entry // by id; never nil
	// Problems says what was left out and why: one error for each entry, and
	// one with the number of further ones if there are very many.
	Problems []error
	// Placeholder reports that Placeholder made the file: it is there for its
	// name only and holds nothing that was ever a user's.
	Placeholder bool
}

// Parse reads a permission database. It fails if there is no telling what
// entries it has; an entry that is malformed is left out and reported in
// Problems. The reverse index (apps) is not read: the entries say it all.
//
// data may be hostile: time is proportional to its length, memory is bounded
// by a small multiple of it. Nothing of it is kept. Limits of the permission
// store (lengths of names, sizes) are not checked here.
func Parse(data []byte) (*File, error) {
	if len(data) < headerSize || string(data[:len(magic)]) != magic {
		if len(data) >= len(magic) && string(data[:len(magic)]) == "raVGtnai" {
			return nil, errors.New("a big-endian GVDB file is not supported")
		}
		return nil, errors.New("not a GVDB file")
	}
	if v := binary.LittleEndian.Uint32(data[8:]); v != 0 {
		return nil, fmt.Errorf("GVDB version %d is not known", v)
	}
	root, err := readTable(data, data[16:], headerSize)
	if err != nil {
		return nil, fmt.Errorf("the root table: %w", err)
	}
	f := &File{Entries: make(map[string]Entry)}
	var entries *table
	for i := range root.len() {
		it := root.item(i)
		key, err := it.key()
		if err != nil {
			continue // another item may still be the one that is needed
		}
		switch {
		case string(key) == mainTable && entries == nil && it.kind() == 'H':
			t, err := readTable(data, it.extent(), headerSize)
			if err != nil {
				return nil, fmt.Errorf("the table of entries: %w", err)
			}
			entries = &t
		case string(key) == placeholder && it.kind() == 'v':
			f.Placeholder = true
		}
	}
	if entries == nil {
		return nil, errors.New("there is no table of entries")
	}
	f.read(entries)
	return f, nil
}

// read fills in the entries. In a file as it is written, keys and values are
// apart from each other; where the items share them a few bytes could stand
// for any number of large entries, so all together may be as large as the file
// and no larger.
func (f *File) read(t *table) {
	budget := len(t.file)
	skipped := 0
	for i := range t.len() {
		it := t.item(i)
		id, e, cost, err := it.entry(budget)
		budget -= cost
		if err == nil {
			if _, twice := f.Entries[id]; twice {
				err = fmt.Errorf("%q: a second entry of this id", brief(id))
			}
		}
		if err == nil {
			f.Entries[id] = e
		} else if skipped++; skipped <= maxProblems {
			f.Problems = append(f.Problems, err)
		}
	}
	if skipped > maxProblems {
		f.Problems = append(f.Problems, fmt.Errorf("%d more entries", skipped-maxProblems))
	}
}

// brief shortens a name for a message.
func brief(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}

// table is a hash table inside a file. Only its items are of interest: they
// are looked through, not looked up.
type table struct {
	file  []byte
	items []byte
}

// readTable finds the table whose start and end are the words of extent.
func readTable(file, extent []byte, least int) (table, error) {
	b, err := slice(file, extent, 4)
	if err != nil {
		return table{}, err
	}
	if binary.LittleEndian.Uint32(extent) < uint32(least) || len(b) < 8 {
		return table{}, errors.New("out of place or too small")
	}
	bloom := uint64(binary.LittleEndian.Uint32(b) & bloomMask)
	buckets := uint64(binary.LittleEndian.Uint32(b[4:]))
	b = b[8:]
	// Both are below 2³², their sum cannot overflow.
	if (bloom+buckets)*4 > uint64(len(b)) {
		return table{}, errors.New("more buckets than there is room for")
	}
	b = b[(bloom+buckets)*4:]
	if len(b)%itemSize != 0 {
		return table{}, errors.New("the items are not whole")
	}
	return table{file, b}, nil
}

// slice returns the bytes between the two words of extent.
func slice(file, extent []byte, align uint32) ([]byte, error) {
	start, end := binary.LittleEndian.Uint32(extent), binary.LittleEndian.Uint32(extent[4:])
	if start > end || uint64(end) > uint64(len(file)) || start%align != 0 {
		return nil, fmt.Errorf("bytes %d to %d of %d are out of place", start, end, len(file))
	}
	return file[start:end], nil
}

func (t *table) len() int { return len(t.items) / itemSize }

func (t *table) item(i int) item { return item{t.file, t.items[i*itemSize:][:itemSize]} }

// item is an item of a table: hash, parent, key_start, key_size (16 bits),
// type, an unused byte, value_start, value_end.
type item struct{ file, b []byte }

func (it item) kind() byte     { return it.b[14] }
func (it item) extent() []byte { return it.b[16:24] }

// key is the item's name, which was found to have the item's hash.
func (it item) key() ([]byte, error) {
	start := binary.LittleEndian.Uint32(it.b[8:])
	size := binary.LittleEndian.Uint16(it.b[12:])
	if uint64(start)+uint64(size) > uint64(len(it.file)) {
		return nil, errors.New("an entry whose name is out of bounds")
	}
	key := it.file[start:][:size]
	if hash(key) != binary.LittleEndian.Uint32(it.b) {
		return nil, fmt.Errorf("%q: the name's hash is wrong", brief(string(key)))
	}
	return key, nil
}

// entry reads the item as one of the table of entries. cost is what it took
// of the budget.
func (it item) entry(budget int) (id string, e Entry, cost int, err error) {
	// Before the key is hashed: hashing overlapping keys costs time.
	if cost = int(binary.LittleEndian.Uint16(it.b[12:])); cost > budget {
		return "", e, 0, errors.New("an entry that shares its bytes with others")
	}
	key, err := it.key()
	if err != nil {
		return "", e, cost, err
	}
	fail := func(err error) (string, Entry, int, error) {
		return "", Entry{}, cost, fmt.Errorf("%q: %w", brief(string(key)), err)
	}
	if id = string(key); !isText(id) {
		return fail(errors.New("the name is not text"))
	}
	if binary.LittleEndian.Uint32(it.b[4:]) != noParent || it.kind() != 'v' {
		return fail(errors.New("not a plain value"))
	}
	value, err := slice(it.file, it.extent(), 8)
	if err != nil {
		return fail(err)
	}
	if len(value) > budget-cost {
		return fail(errors.New("shares its bytes with other entries"))
	}
	cost += len(value)
	if e, err = parseEntry(value); err != nil {
		return fail(err)
	}
	return id, e, cost, nil
}

func parseEntry(b []byte) (Entry, error) {
	sig, b, t, err := openVariant(b)
	if err != nil {
		return Entry{}, err
	}
	if sig != entrySignature {
		return Entry{}, fmt.Errorf("type %q is not %q", sig, entrySignature)
	}
	var e Entry
	err = members(t, b, func(m *typ, b []byte) (err error) {
		if m.kind == 'v' {
			e.Data, err = fromVariant(b)
		} else {
			e.Permissions, err = parsePermissions(m, b)
		}
		return err
	})
	return e, err
}

// parsePermissions reads an a{sas}.
func parsePermissions(t *typ, b []byte) (map[string][]string, error) {
	var apps map[string][]string
	err := elements(t, b, func(b []byte) error {
		var app string
		var words []string
		err := members(t.elems[0], b, func(m *typ, b []byte) (err error) {
			if m.kind == 's' {
				app, err = checkedText(b)
			} else {
				words, err = parseWords(m, b)
			}
			return err
		})
		if err != nil {
			return err
		}
		if _, twice := apps[app]; twice {
			return fmt.Errorf("the app %q twice", brief(app))
		}
		if apps == nil {
			apps = make(map[string][]string)
		}
		apps[app] = words
		return nil
	})
	return apps, err
}

// parseWords reads an as.
func parseWords(t *typ, b []byte) ([]string, error) {
	n, err := count(b)
	if err != nil {
		return nil, err
	}
	words := make([]string, 0, n)
	err = elements(t, b, func(b []byte) error {
		w, err := checkedText(b)
		words = append(words, w)
		return err
	})
	return words, err
}
