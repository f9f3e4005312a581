package permstore

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"sort"
)

// A salvage reads what can still be read of a damaged file. It trusts nothing
// of it: pages are walked here, not by bbolt, each reference is checked, and a
// record counts only with its checksum.
//
// What is lost is known as ranges of keys: where a page of the tree is not
// readable, its parent says which keys it had. Only in these ranges are
// entries taken from elsewhere (pages that no readable page refers to, then
// the last copy): what was deleted before must not come back with a repair.
type salvage struct {
	f        io.ReaderAt
	size     int64
	pageSize int
	visited  map[uint64]bool
	entries  map[string]found
	known    map[string]bool // keys that the index names
	holes    []keyRange
	badRecs  int
	ioError  error // of the disk, not of the contents
}

type found struct {
	record []byte
	txid   uint64
}

// keyRange are the keys from lo on and below hi; a nil hi is the end.
type keyRange struct{ lo, hi []byte }

func (r keyRange) contains(k []byte) bool {
	return bytes.Compare(k, r.lo) >= 0 && (r.hi == nil || bytes.Compare(k, r.hi) < 0)
}

// bbolt's page types and element size (file format 2).
const (
	pageBranch   = 0x01
	pageLeaf     = 0x02
	pageFreelist = 0x10
	pageHeader   = 16
	elementSize  = 16
	bucketFlag   = 1
	maxDepth     = 64
)

// page is a readable page with its overflow.
type page struct {
	flags, count int
	data         []byte // with the header
}

func (v *salvage) readAt(b []byte, off int64) bool {
	_, err := v.f.ReadAt(b, off)
	if err != nil && err != io.EOF && v.ioError == nil {
		v.ioError = err
	}
	return err == nil
}

// page reads a page; ok is false if there is none of that number.
func (v *salvage) page(id uint64) (p page, ok bool) {
	if id < 2 || id >= uint64(v.size)/uint64(v.pageSize) {
		return p, false
	}
	b := make([]byte, v.pageSize)
	off := int64(id) * int64(v.pageSize)
	if !v.readAt(b, off) || binary.NativeEndian.Uint64(b) != id {
		return p, false
	}
	p.flags = int(binary.NativeEndian.Uint16(b[8:]))
	p.count = int(binary.NativeEndian.Uint16(b[10:]))
	overflow := int64(binary.NativeEndian.Uint32(b[12:]))
	if overflow > (v.size-off)/int64(v.pageSize) {
		return p, false
	}
	if overflow > 0 {
		b = append(b, make([]byte, overflow*int64(v.pageSize))...)
		if !v.readAt(b[v.pageSize:], off+int64(v.pageSize)) {
			return p, false
		}
	}
	p.data = b
	return p, true
}

// element returns a leaf's element; ok is false if it does not lie in the page.
func (p page) element(i int) (flags uint32, key, value []byte, ok bool) {
	at := pageHeader + i*elementSize
	if at+elementSize > len(p.data) {
		return 0, nil, nil, false
	}
	e := p.data[at:]
	ne := binary.NativeEndian
	flags = ne.Uint32(e)
	pos, k, val := uint64(ne.Uint32(e[4:])), uint64(ne.Uint32(e[8:])), uint64(ne.Uint32(e[12:]))
	if pos < elementSize || pos+k+val > uint64(len(e)) || k == 0 {
		return 0, nil, nil, false
	}
	return flags, e[pos : pos+k], e[pos+k : pos+k+val], true
}

// child returns a branch's element.
func (p page) child(i int) (key []byte, id uint64, ok bool) {
	at := pageHeader + i*elementSize
	if at+elementSize > len(p.data) {
		return nil, 0, false
	}
	e := p.data[at:]
	ne := binary.NativeEndian
	pos, k := uint64(ne.Uint32(e)), uint64(ne.Uint32(e[4:]))
	if pos < elementSize || pos+k > uint64(len(e)) {
		return nil, 0, false
	}
	return e[pos : pos+k], ne.Uint64(e[8:]), true
}

// countFits reports whether the first key lies right after the elements, where
// bbolt writes it: a smaller count would hide elements.
func (p page) countFits() bool {
	at := pageHeader // of a branch's position
	if p.flags == pageLeaf {
		at += 4
	}
	return len(p.data) >= at+4 && int(binary.NativeEndian.Uint32(p.data[at:])) == p.count*elementSize
}

// treeVisitor gets the leaves of a tree; hole says that keys of a range are lost.
type treeVisitor struct {
	// element takes an element and reports whether it is good.
	element func(flags uint32, key, value []byte) bool
	hole    func(keyRange)
}

// visit notes that the page id is in use, with its overflow.
func (v *salvage) visit(id uint64, p page) {
	for i := range uint64(len(p.data) / v.pageSize) {
		v.visited[id+i] = true
	}
}

// walk visits the leaves below a page, whose keys lie in r.
func (v *salvage) walk(id uint64, r keyRange, depth int, t treeVisitor) {
	p, ok := v.page(id)
	if !ok || depth > maxDepth || v.visited[id] {
		t.hole(r)
		return
	}
	v.visit(id, p)
	switch p.flags {
	case pageLeaf:
		if p.count == 0 && depth > 0 {
			t.hole(r) // only the root of a tree may be empty
			return
		}
		v.leaf(p, r, t)
	case pageBranch:
		if p.count == 0 || !p.countFits() {
			t.hole(r)
		}
		lo := r.lo
		for i := range p.count {
			_, child, ok := p.child(i)
			hi := r.hi
			if i+1 < p.count {
				key, _, ok := p.child(i + 1)
				if !ok || bytes.Compare(key, lo) < 0 || !r.contains(key) {
					t.hole(keyRange{lo, r.hi})
					return
				}
				hi = bytes.Clone(key)
			}
			if ok {
				v.walk(child, keyRange{lo, hi}, depth+1, t)
			} else {
				t.hole(keyRange{lo, hi})
			}
			lo = hi
		}
	default:
		t.hole(r)
	}
}

// leaf visits the elements of a leaf page.
func (v *salvage) leaf(p page, r keyRange, t treeVisitor) {
	hole := p.count > 0 && !p.countFits()
	if p.count == 0 && len(bytes.Trim(p.data[min(len(p.data), pageHeader):], "\x00")) > 0 {
		hole = true
	}
	whole := hole
	last := r.lo
	for i := range p.count {
		flags, key, value, ok := p.element(i)
		if !ok || !r.contains(key) || bytes.Compare(key, last) < 0 || !t.element(flags, key, value) {
			hole = true
			continue
		}
		if hole {
			t.hole(keyRange{last, bytes.Clone(key)})
			hole = whole
		}
		last = append(bytes.Clone(key), 0)
	}
	if hole {
		t.hole(keyRange{last, r.hi})
	}
}

// bucket returns the root page of a bucket of the root tree, or its inline page.
func (v *salvage) bucket(root uint64, name []byte) (id uint64, inline *page, ok bool) {
	v.walk(root, keyRange{}, 0, treeVisitor{
		element: func(flags uint32, key, value []byte) bool {
			if flags&bucketFlag == 0 || !bytes.Equal(key, name) || len(value) < 16 {
				return true
			}
			ok = true
			id = binary.NativeEndian.Uint64(value)
			if id == 0 {
				var p page
				p, ok = inlinePage(value)
				inline = &p
			}
			return true
		},
		hole: func(keyRange) {},
	})
	delete(v.visited, root) // the root tree is walked once for each bucket
	return id, inline, ok
}

// tree visits a bucket.
func (v *salvage) tree(root uint64, name []byte, t treeVisitor) {
	id, inline, ok := v.bucket(root, name)
	switch {
	case !ok:
		t.hole(keyRange{})
	case inline != nil && inline.flags == pageLeaf:
		v.leaf(*inline, keyRange{}, t)
	case inline != nil:
		t.hole(keyRange{})
	default:
		v.walk(id, keyRange{}, 0, t)
	}
}

// take keeps a record if its checksum is right.
func (v *salvage) take(flags uint32, key, record []byte) bool {
	_, txid, err := decode(key, record)
	if flags != 0 || err != nil {
		return false
	}
	if old, ok := v.entries[string(key)]; !ok || txid > old.txid {
		v.entries[string(key)] = found{bytes.Clone(record), txid}
	}
	return true
}

func newSalvage(f io.ReaderAt, size int64) *salvage {
	return &salvage{
		f:        f,
		size:     size,
		pageSize: os.Getpagesize(),
		visited:  map[uint64]bool{0: true, 1: true},
		entries:  map[string]found{},
		known:    map[string]bool{},
	}
}

// checkPages looks whether each page of the state of m is either in use once
// or free. A page that is both would be overwritten.
func checkPages(f io.ReaderAt, size int64, m meta) error {
	v := newSalvage(f, size)
	v.pageSize = m.pageSize
	var holes []keyRange
	t := treeVisitor{
		element: func(uint32, []byte, []byte) bool { return true },
		hole:    func(r keyRange) { holes = append(holes, r) },
	}
	for _, name := range [][]byte{bucketMeta, bucketEntries, bucketIndex} {
		v.tree(m.root, name, t)
	}
	p, ok := v.page(m.root)
	if !ok || len(holes) > 0 {
		return damaged("pages of the tree are not readable")
	}
	v.visit(m.root, p)
	free := v.freelist(m)
	if free == nil {
		return damaged("the list of free pages is not readable")
	}
	for id := range m.highWater {
		if v.visited[id] == free[id] {
			return damaged("page %d is used=%v and free=%v", id, v.visited[id], free[id])
		}
	}
	return nil
}

// salvageFile reads a file.
func salvageFile(f *os.File) (v *salvage, err error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	m, ok, both, err := findMeta(f)
	if err != nil {
		return nil, err
	}
	v = newSalvage(f, info.Size())
	if !ok {
		v.holes = []keyRange{{}}
		v.orphans(nil, 0)
		return v, nil
	}
	if !both {
		// The meta page that cannot be read may be that of the last commit.
		if later, ok := laterMeta(f, m); ok {
			later.highWater = uint64(info.Size()) / uint64(m.pageSize)
			if v.readTree(later); len(v.holes) == 0 {
				return v, nil
			}
			v = newSalvage(f, info.Size())
		}
	}
	v.readTree(m)
	if len(v.holes) > 0 {
		v.orphans(v.freelist(m), 0)
	}
	if !both {
		// What was written after m belongs to the last commit. What that
		// deleted cannot be known.
		holes := v.holes
		v.holes = []keyRange{{}}
		v.orphans(nil, m.txid+1)
		v.holes = holes
	}
	return v, nil
}

// laterMeta reads the meta page beside m though its checksum is wrong, if it
// says that it is of the transaction after m's.
func laterMeta(f io.ReaderAt, m meta) (later meta, ok bool) {
	var b [metaSize]byte
	if _, err := f.ReadAt(b[:], int64(1-m.slot)*int64(m.pageSize)); err != nil {
		return later, false
	}
	later = parseMeta(b[:])
	later.slot, later.pageSize = 1-m.slot, m.pageSize
	return later, later.txid == m.txid+1
}

// readTree reads the entries of a state.
func (v *salvage) readTree(m meta) {
	v.pageSize = m.pageSize
	v.tree(m.root, bucketEntries, treeVisitor{
		element: func(flags uint32, key, value []byte) bool {
			ok := v.take(flags, key, value)
			if !ok {
				v.badRecs++
			}
			return ok
		},
		hole: func(r keyRange) { v.holes = append(v.holes, r) },
	})
	v.tree(m.root, bucketIndex, treeVisitor{
		element: func(_ uint32, row, _ []byte) bool {
			table, rest, ok := bytes.Cut(row, []byte{0})
			if !ok {
				return true
			}
			if _, rest, ok = bytes.Cut(rest, []byte{0}); !ok {
				return true
			}
			if _, id, ok := cutKey(rest); ok {
				v.known[string(entryKey(string(table), string(id)))] = true
			}
			return true
		},
		hole: func(keyRange) {},
	})
}

// freelist reads the free pages; nil if they are not known.
func (v *salvage) freelist(m meta) map[uint64]bool {
	p, ok := v.page(m.freelist)
	if !ok || p.flags != pageFreelist {
		return nil
	}
	v.visit(m.freelist, p)
	n, b := uint64(p.count), p.data[pageHeader:]
	if n == 0xffff {
		n, b = binary.NativeEndian.Uint64(b), b[8:]
	}
	if n > uint64(len(b)/8) {
		return nil
	}
	free := make(map[uint64]bool, n)
	last := uint64(1)
	for i := range n {
		id := binary.NativeEndian.Uint64(b[8*i:])
		if id <= last || id >= m.highWater { // bbolt writes them sorted
			return nil
		}
		free[id] = true
		last = id
	}
	return free
}

// orphans takes records in the holes from leaf pages that are neither free nor
// part of the readable tree, if they are of a transaction from the given one on.
func (v *salvage) orphans(free map[uint64]bool, from uint64) {
	for id := uint64(2); id < uint64(v.size)/uint64(v.pageSize); id++ {
		if from == 0 && v.visited[id] || free[id] {
			continue
		}
		p, ok := v.page(id)
		if !ok || p.flags != pageLeaf {
			continue
		}
		v.scavenge(p, from)
	}
}

// scavenge takes the records of a page that lie in the holes.
func (v *salvage) scavenge(p page, from uint64) {
	for i := range p.count {
		flags, key, value, ok := p.element(i)
		if !ok {
			continue
		}
		if flags&bucketFlag != 0 {
			if inner, ok := inlinePage(value); ok {
				v.scavenge(inner, from)
			}
			continue
		}
		if !v.missing(key) {
			continue
		}
		if _, txid, err := decode(key, value); err == nil && txid >= from {
			v.take(flags, key, value)
		}
	}
}

// inlinePage returns the page that a bucket's value has instead of the number
// of a root page, where the bucket is small.
func inlinePage(value []byte) (p page, ok bool) {
	if len(value) < 16+pageHeader || binary.NativeEndian.Uint64(value) != 0 {
		return p, false
	}
	b := value[16:]
	return page{
		flags: int(binary.NativeEndian.Uint16(b[8:])),
		count: int(binary.NativeEndian.Uint16(b[10:])),
		data:  b,
	}, true
}

// missing reports whether a key lies where the tree could not be read.
func (v *salvage) missing(key []byte) bool {
	for _, h := range v.holes {
		if h.contains(key) {
			return true
		}
	}
	return false
}

// outcome is what a salvage brought.
type outcome struct {
	recovered, fromCopy int
	// lost counts the entries that are known to have been there.
	lost    int
	copied  []string // the keys that come from the copy
	entries map[string]found
}

// finish fills the holes from the last copy, which may be nil.
func (v *salvage) finish(last *salvage) outcome {
	o := outcome{recovered: len(v.entries), entries: v.entries}
	if last != nil {
		for key, e := range last.entries {
			if _, ok := v.entries[key]; !ok && v.missing([]byte(key)) {
				o.copied = append(o.copied, key)
				v.entries[key] = e
			}
		}
	}
	o.fromCopy = len(o.copied)
	sort.Strings(o.copied)
	for key := range v.known {
		if _, ok := v.entries[key]; !ok && v.missing([]byte(key)) {
			o.lost++
		}
	}
	// Of entries without an app the index does not know.
	o.lost = max(o.lost, v.badRecs-o.fromCopy)
	return o
}

// fill puts the entries into a new file.
func (o outcome) fill(put func(table, id string, e *Entry) error) error {
	keys := make([]string, 0, len(o.entries))
	for key := range o.entries {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	for _, key := range keys {
		e, _, err := decode([]byte(key), o.entries[key].record)
		if err != nil {
			return err
		}
		table, id, _ := splitKey([]byte(key))
		if err := put(table, id, e); err != nil {
			return err
		}
	}
	return nil
}
