package gvdb

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"

	"docportal/internal/bus"
)

// Encode makes a permission database. It fails if an entry's names or words
// are not text, its id is longer than 65535 bytes, its data is not as
// bus.Value.Check wants it or nested deeper than 64 levels, or all of it needs
// 4 GiB. The same entries always make the same bytes.
func Encode(entries map[string]Entry) ([]byte, error) {
	return encode(entries, false)
}

// Placeholder makes an empty database, for programs that find the tables by
// the names of their files. Parse tells it from one that a user's programs
// made, even if that one is empty. A program that changes the file writes it
// anew, and then it is a placeholder no longer.
func Placeholder() []byte {
	b, err := encode(nil, true)
	if err != nil {
		panic(err) // it has no input to fail on
	}
	return b
}

func encode(entries map[string]Entry, mark bool) ([]byte, error) {
	ids := slices.Sorted(maps.Keys(entries))
	var main, apps []node
	index := make(map[string][]string)
	for _, id := range ids {
		e := entries[id]
		if !isText(id) {
			return nil, fmt.Errorf("%q: the id is not text", brief(id))
		}
		main = append(main, node{key: id, kind: 'v', write: func(b []byte) ([]byte, error) {
			b, err := appendEntry(b, e)
			if err != nil {
				return b, fmt.Errorf("%q: %w", brief(id), err)
			}
			return b, nil
		}})
		for app, words := range e.Permissions {
			// The index finds the entries that permit an app something.
			if len(words) > 0 {
				index[app] = append(index[app], id)
			}
		}
	}
	for app, ids := range index {
		apps = append(apps, node{key: app, kind: 'v', write: func(b []byte) ([]byte, error) {
			b, err := appendStrings(b, ids)
			return append(b, "\x00as"...), err
		}})
	}
	root := []node{
		{key: mainTable, kind: 'H', write: func(b []byte) ([]byte, error) { return appendTable(b, main) }},
		{key: appsTable, kind: 'H', write: func(b []byte) ([]byte, error) { return appendTable(b, apps) }},
	}
	if mark {
		root = append(root, node{key: placeholder, kind: 'v', write: func(b []byte) ([]byte, error) {
			return append(b, "\x01\x00b"...), nil
		}})
	}
	b := append(make([]byte, 0, 4096), magic...)
	b = append(b, make([]byte, headerSize-len(magic))...)
	binary.LittleEndian.PutUint32(b[16:], headerSize)
	binary.LittleEndian.PutUint32(b[20:], uint32(headerSize+tableSize(len(root))))
	b, err := appendTable(b, root)
	if err != nil {
		return nil, err
	}
	return b, nil
}

// node is an item of a table that is being written.
type node struct {
	key   string
	kind  byte
	write func(b []byte) ([]byte, error) // appends the value to a file so far
}

// tableSize is the size in bytes of a table without its keys and values.
func tableSize(items int) int { return 8 + items*(4+itemSize) }

// appendTable appends a table: the head, then key and value of each item. Of a
// nested table, as of all tables, only the head counts as its extent.
func appendTable(b []byte, nodes []node) ([]byte, error) {
	n := uint32(len(nodes))
	hashes := make(map[string]uint32, n)
	for _, nd := range nodes {
		if len(nd.key) > maxKey {
			return b, fmt.Errorf("%q: a name of %d bytes", brief(nd.key), len(nd.key))
		}
		hashes[nd.key] = hash([]byte(nd.key))
	}
	bucket := func(nd node) uint32 { return hashes[nd.key] % n }
	slices.SortFunc(nodes, func(x, y node) int {
		return cmp.Or(cmp.Compare(bucket(x), bucket(y)), cmp.Compare(x.key, y.key))
	})
	b = binary.LittleEndian.AppendUint32(b, bloomWord)
	b = binary.LittleEndian.AppendUint32(b, n)
	first := uint32(0)
	for i := range n {
		for first < n && bucket(nodes[first]) < i {
			first++
		}
		b = binary.LittleEndian.AppendUint32(b, first)
	}
	items := len(b)
	b = append(b, make([]byte, len(nodes)*itemSize)...)
	for i, nd := range nodes {
		keyStart := len(b)
		b = append(b, nd.key...)
		b = pad(b, map[byte]int{'v': 8, 'H': 4}[nd.kind])
		start := len(b)
		var err error
		if b, err = nd.write(b); err != nil {
			return b, err
		}
		end := len(b)
		if nd.kind == 'H' {
			nested := binary.LittleEndian.Uint32(b[start+4:])
			end = start + tableSize(int(nested))
		}
		if uint64(len(b)) > math.MaxUint32 {
			return b, errors.New("larger than 4 GiB")
		}
		it := b[items+i*itemSize:]
		binary.LittleEndian.PutUint32(it, hashes[nd.key])
		binary.LittleEndian.PutUint32(it[4:], noParent)
		binary.LittleEndian.PutUint32(it[8:], uint32(keyStart))
		binary.LittleEndian.PutUint16(it[12:], uint16(len(nd.key)))
		it[14] = nd.kind
		binary.LittleEndian.PutUint32(it[16:], uint32(start))
		binary.LittleEndian.PutUint32(it[20:], uint32(end))
	}
	return b, nil
}

// appendEntry appends a variant that holds (va{sas}), the apps sorted by their
// bytes: readers search them.
func appendEntry(b []byte, e Entry) ([]byte, error) {
	start := len(b)
	b, err := appendVariant(b, e.Data)
	if err != nil {
		return b, err
	}
	dataEnd, apps := len(b), len(b)
	var ends []int
	for _, app := range slices.Sorted(maps.Keys(e.Permissions)) {
		entry := len(b)
		if b, err = appendText(b, app); err != nil {
			return b, err
		}
		key := len(b)
		if b, err = appendStrings(b, e.Permissions[app]); err != nil {
			return b, err
		}
		b = frame(b, entry, []int{key})
		ends = append(ends, len(b))
	}
	b = frame(b, apps, ends)
	b = frame(b, start, []int{dataEnd})
	return append(append(b, 0), entrySignature...), nil
}

// appendStrings appends an as.
func appendStrings(b []byte, list []string) ([]byte, error) {
	start := len(b)
	ends := make([]int, 0, len(list))
	var err error
	for _, s := range list {
		if b, err = appendText(b, s); err != nil {
			return b, err
		}
		ends = append(ends, len(b))
	}
	return frame(b, start, ends), nil
}

// Signatures of the data of the table of documents: path with NUL, st_dev,
// st_ino, flags, and in the newer form the bytes of the file handle.
const (
	documentSignature       = "(ayttuay)"
	legacyDocumentSignature = "(ayttu)"
)

// LegacyDocument returns the data of a document without its file handle, as
// readers need it that know only the older form and end at the newer one.
// Other data comes back as it is: the caller applies it to every entry of the
// table of documents and to no other table.
func LegacyDocument(data bus.Value) (bus.Value, error) {
	if data.Signature != documentSignature {
		return data, nil
	}
	if err := data.Check(); err != nil {
		return bus.Value{}, err
	}
	path := int(binary.LittleEndian.Uint32(data.Data))
	end := alignUp(4+path, 8) + 8 + 8 + 4
	return bus.Value{Signature: legacyDocumentSignature, Data: slices.Clone(data.Data[:end])}, nil
}
