package gvdb

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"docportal/internal/bus"
)

// long reports whether the tests that try everything may take their time.
func long() bool { return os.Getenv("DOCPORTAL_LONG") == "1" }

func fixture(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func fixtures(t testing.TB) map[string][]byte {
	t.Helper()
	m := make(map[string][]byte)
	for _, n := range []string{"one-yes.gvdb", "documents-1.22.1.gvdb", "documents-500-mixed.gvdb"} {
		m[n] = fixture(t, n)
	}
	return m
}

func parse(t testing.TB, b []byte) *File {
	t.Helper()
	f, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Problems) != 0 {
		t.Fatalf("left out: %v", f.Problems)
	}
	return f
}

func mustEncode(t testing.TB, entries map[string]Entry) []byte {
	t.Helper()
	b, err := Encode(entries)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestFixtureOneYes(t *testing.T) {
	want := map[string]Entry{"x": {
		Data:        bus.Value{Signature: "y", Data: []byte{0}},
		Permissions: map[string][]string{"org.a.A": {"yes"}},
	}}
	b := fixture(t, "one-yes.gvdb")
	if got := parse(t, b).Entries; !reflect.DeepEqual(got, want) {
		t.Errorf("read %v, want %v", got, want)
	}
	if got := mustEncode(t, want); !bytes.Equal(got, b) {
		t.Errorf("wrote\n%x, the usual implementation\n%x", got, b)
	}
}

func TestFixtureOneDocument(t *testing.T) {
	b := fixture(t, "documents-1.22.1.gvdb")
	f := parse(t, b)
	e, ok := f.Entries["jD9GUJTnLOsizl3IGta1tw"]
	if !ok || len(f.Entries) != 1 {
		t.Fatalf("entries %v", f.Entries)
	}
	d := document(t, e.Data)
	if d.path != "/home/user/Documents/xxxxxx/f" || d.dev != 0xfe00 || d.ino != 0x9aa923 || d.flags != 0 ||
		fmt.Sprintf("%x", d.handle) != "23a99a000d4ff9c7" {
		t.Errorf("document %+v", d)
	}
	if want := map[string][]string{"org.a.A": {}}; !reflect.DeepEqual(e.Permissions, want) {
		t.Errorf("permissions %v, want %v", e.Permissions, want)
	}
	if got := mustEncode(t, f.Entries); !bytes.Equal(got, b) {
		t.Errorf("wrote\n%x, the usual implementation\n%x", got, b)
	}
}

type doc struct {
	path     string
	dev, ino uint64
	flags    uint32
	handle   []byte
}

// document decodes the data of a document without this package's help.
func document(t testing.TB, v bus.Value) (d doc) {
	t.Helper()
	if err := v.Check(); err != nil {
		t.Fatal(err)
	}
	b := v.Data
	n := int(binary.LittleEndian.Uint32(b))
	path, nul := strings.CutSuffix(string(b[4:4+n]), "\x00")
	if !nul {
		t.Fatalf("the path %q has no NUL", path)
	}
	d.path = path
	b = b[(4+n+7)/8*8:]
	d.dev, d.ino = binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])
	d.flags = binary.LittleEndian.Uint32(b[16:])
	switch v.Signature {
	case "(ayttu)":
		if len(b) != 20 {
			t.Fatalf("%d bytes after the path", len(b))
		}
	case "(ayttuay)":
		if n := int(binary.LittleEndian.Uint32(b[20:])); n != len(b)-24 {
			t.Fatalf("a handle of %d bytes in %d", n, len(b)-24)
		}
		d.handle = b[24:]
	default:
		t.Fatalf("signature %q", v.Signature)
	}
	return d
}

func TestFixtureFiveHundredMixed(t *testing.T) {
	f := parse(t, fixture(t, "documents-500-mixed.gvdb"))
	forms := map[string]int{}
	apps := map[string]int{}
	flags := map[uint32]int{}
	for id, e := range f.Entries {
		d := document(t, e.Data)
		forms[e.Data.Signature]++
		flags[d.flags]++
		for app := range e.Permissions {
			apps[app]++
		}
		n, err := strconv.Atoi(strings.TrimPrefix(id, "doc"))
		if err != nil || d.path != fmt.Sprintf("/home/user/Documents/%s/f%d", path.Base(path.Dir(d.path)), n) ||
			d.dev != 0xfe00 || d.ino != 10133545 {
			t.Errorf("%s: document %+v", id, d)
		}
		if want := map[bool]int{true: 60, false: 2 - n%2}[n == 7]; len(e.Permissions) != want {
			t.Errorf("%s: %d apps, want %d", id, len(e.Permissions), want)
		}
	}
	if want := map[string]int{"(ayttu)": 333, "(ayttuay)": 167}; !maps.Equal(forms, want) {
		t.Errorf("forms %v, want %v", forms, want)
	}
	if flags[0] != 500 {
		t.Errorf("flags %v", flags)
	}
	if len(apps) != 62 || apps["org.a.A"] != 499 || apps["org.b.B"] != 250 || apps["org.x.App59"] != 1 {
		t.Errorf("apps %v", apps)
	}
}

// The reverse index that is written is the one that the usual implementation
// keeps.
func TestReverseIndexIsRebuilt(t *testing.T) {
	for name, b := range fixtures(t) {
		again := mustEncode(t, parse(t, b).Entries)
		if got, want := reverseIndex(t, again), reverseIndex(t, b); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: index %v, want %v", name, got, want)
		}
	}
}

// reverseIndex reads the table apps.
func reverseIndex(t *testing.T, file []byte) map[string][]string {
	t.Helper()
	index := make(map[string][]string)
	for _, it := range items(t, file, appsTable) {
		value, err := slice(file, it.extent(), 8)
		if err != nil {
			t.Fatal(err)
		}
		sig, b, typ, err := openVariant(value)
		if err != nil || sig != "as" {
			t.Fatal(sig, err)
		}
		key, err := it.key()
		if err != nil {
			t.Fatal(err)
		}
		if index[string(key)], err = parseWords(typ, b); err != nil {
			t.Fatal(err)
		}
	}
	return index
}

// items are the items of one of the root table's tables.
func items(t testing.TB, file []byte, name string) []item {
	t.Helper()
	file = slices.Clip(file) // TestItemsLieInBucketOrder measures from its end
	root, err := readTable(file, file[16:], headerSize)
	if err != nil {
		t.Fatal(err)
	}
	for i := range root.len() {
		key, err := root.item(i).key()
		if err != nil {
			t.Fatal(err)
		}
		if string(key) != name {
			continue
		}
		tab, err := readTable(file, root.item(i).extent(), headerSize)
		if err != nil {
			t.Fatal(err)
		}
		list := []item{}
		for i := range tab.len() {
			list = append(list, tab.item(i))
		}
		return list
	}
	t.Fatalf("no table %q", name)
	return nil
}

func TestHash(t *testing.T) {
	for key, want := range map[string]uint32{
		"": 5381, "x": 0x2b61d, "main": 0x7c9a7f6a, "apps": 0x7c942b99, "org.a.A": 0x758ec4eb,
		"jD9GUJTnLOsizl3IGta1tw": 0x0764a5e5,
		"é":                      (5381*33+0xffffffc3)*33&0xffffffff + 0xffffffa9 - 1<<32, // bytes are signed
	} {
		if got := hash([]byte(key)); got != want {
			t.Errorf("hash of %q = %#x, want %#x", key, got, want)
		}
	}
}

// A reader that looks keys up goes through the buckets: item i is in its
// bucket, and each bucket begins where the array says.
func TestItemsLieInBucketOrder(t *testing.T) {
	files := fixtures(t)
	files["written"] = mustEncode(t, parse(t, files["documents-500-mixed.gvdb"]).Entries)
	for name, file := range files {
		for _, tab := range []string{mainTable, appsTable} {
			list := items(t, file, tab)
			n := uint32(len(list))
			if n == 0 {
				continue
			}
			// The buckets are just before the items.
			at := len(file) - cap(list[0].b) - int(n)*4
			first := uint32(0)
			for b := range n {
				if got := binary.LittleEndian.Uint32(file[at+int(b)*4:]); got != first {
					t.Fatalf("%s: bucket %d of %s begins at %d, want %d", name, b, tab, got, first)
				}
				for first < n && binary.LittleEndian.Uint32(list[first].b)%n == b {
					first++
				}
			}
			if first != n {
				t.Errorf("%s: item %d of %s is in no bucket", name, first, tab)
			}
		}
	}
}

func TestRoundTripOfFixtures(t *testing.T) {
	for name, b := range fixtures(t) {
		f := parse(t, b)
		again := parse(t, mustEncode(t, f.Entries))
		if !reflect.DeepEqual(f, again) {
			t.Errorf("%s: entries changed", name)
		}
	}
}

func TestEmptyDatabase(t *testing.T) {
	b := mustEncode(t, nil)
	f := parse(t, b)
	if len(f.Entries) != 0 || f.Placeholder {
		t.Errorf("read %+v", f)
	}
	// Header, root with two items, each an empty table of 8 bytes.
	if want := 24 + 8 + 2*28 + 4 + 8 + 4 + 8; len(b) != want {
		t.Errorf("%d bytes, want %d", len(b), want)
	}
}

func TestPlaceholderIsTold(t *testing.T) {
	if f := parse(t, Placeholder()); !f.Placeholder || len(f.Entries) != 0 {
		t.Errorf("read %+v", f)
	}
}

func TestEncodeRefuses(t *testing.T) {
	y := bus.Value{Signature: "y", Data: []byte{0}}
	deep := bus.Value{Signature: "y", Data: []byte{0}}
	for range maxNesting + 1 {
		deep = inVariant(deep)
	}
	for name, m := range map[string]map[string]Entry{
		"an id with NUL":        {"a\x00b": {Data: y}},
		"an id not UTF-8":       {"\xff": {Data: y}},
		"a long id":             {strings.Repeat("x", maxKey+1): {Data: y}},
		"an app not UTF-8":      {"a": {Data: y, Permissions: map[string][]string{"\xff": {}}}},
		"an app with NUL":       {"a": {Data: y, Permissions: map[string][]string{"a\x00": {"x"}}}},
		"a word with NUL":       {"a": {Data: y, Permissions: map[string][]string{"a": {"x\x00"}}}},
		"no data":               {"a": {}},
		"data that is short":    {"a": {Data: bus.Value{Signature: "u", Data: []byte{0}}}},
		"data not canonical":    {"a": {Data: bus.Value{Signature: "(yu)", Data: []byte{0, 1, 0, 0, 0, 0, 0, 0}}}},
		"two types":             {"a": {Data: bus.Value{Signature: "yy", Data: []byte{0, 0}}}},
		"data nested too deep":  {"a": {Data: deep}},
		"an app's name too big": {"a": {Data: y, Permissions: map[string][]string{strings.Repeat("x", maxKey+1): {"x"}}}},
	} {
		if _, err := Encode(m); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	ok := bus.Value{Signature: "y", Data: []byte{0}}
	for range maxNesting {
		ok = inVariant(ok)
	}
	m := map[string]Entry{"a": {Data: ok}}
	if got := parse(t, mustEncode(t, m)).Entries; !reflect.DeepEqual(got, m) {
		t.Errorf("64 levels: read %v", got)
	}
}

// inVariant is v as the content of a variant. It knows one-byte content only.
func inVariant(v bus.Value) bus.Value {
	data := append([]byte{byte(len(v.Signature))}, v.Signature...)
	return bus.Value{Signature: "v", Data: append(append(data, 0), v.Data...)}
}

func TestLegacyDocument(t *testing.T) {
	f := parse(t, fixture(t, "documents-500-mixed.gvdb"))
	for id, e := range f.Entries {
		v, err := LegacyDocument(e.Data)
		if err != nil {
			t.Fatal(err)
		}
		want := document(t, e.Data)
		want.handle = nil
		if got := document(t, v); v.Signature != "(ayttu)" || !reflect.DeepEqual(got, want) {
			t.Fatalf("%s: %+v became %+v", id, want, got)
		}
	}
	other := bus.Value{Signature: "s", Data: []byte{0, 0, 0, 0, 0}}
	if v, err := LegacyDocument(other); err != nil || !reflect.DeepEqual(v, other) {
		t.Errorf("other data: %v, %v", v, err)
	}
	for _, bad := range []string{"", "\xff\xff\xff\xff", "\x03\x00\x00\x00a"} {
		if _, err := LegacyDocument(bus.Value{Signature: "(ayttuay)", Data: []byte(bad)}); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

// three is a table whose middle entry tests break.
func three() map[string]Entry {
	m := make(map[string]Entry)
	for _, id := range []string{"a", "b", "c"} {
		m[id] = Entry{
			Data:        bus.Value{Signature: "s", Data: []byte("\x02\x00\x00\x00d" + id + "\x00")},
			Permissions: map[string][]string{"org.a.A": {"read", "write"}, "org.b.B": {}},
		}
	}
	return m
}

// A malformed entry is left out and named; the others come out.
func TestMalformedEntryIsLeftOut(t *testing.T) {
	put := binary.LittleEndian.PutUint32
	for _, c := range []struct {
		rule  string
		spoil func(file []byte, it item)
	}{
		{"the hash is not the name's", func(_ []byte, it item) { it.b[0] ^= 1 }},
		{"the name changed", func(f []byte, it item) { f[binary.LittleEndian.Uint32(it.b[8:])] = 'z' }},
		{"a parent", func(_ []byte, it item) { put(it.b[4:], 0) }},
		{"the name begins past the end", func(f []byte, it item) { put(it.b[8:], uint32(len(f))) }},
		{"the name begins nowhere", func(_ []byte, it item) { put(it.b[8:], 0xffffffff) }},
		{"a table", func(_ []byte, it item) { it.b[14] = 'H' }},
		{"a list", func(_ []byte, it item) { it.b[14] = 'L' }},
		{"the value ends past the end", func(f []byte, it item) { put(it.b[20:], uint32(len(f)+1)) }},
		{"the value ends before its start", func(_ []byte, it item) { put(it.b[20:], 8) }},
		{"the value is not aligned", func(_ []byte, it item) { it.b[16]++ }},
		{"the value is empty", func(_ []byte, it item) { copy(it.b[20:24], it.b[16:20]) }},
		{"the value is of another type", func(f []byte, it item) { f[binary.LittleEndian.Uint32(it.b[20:])-2] = 'b' }},
		{"a framing offset is wrong", func(f []byte, it item) {
			f[int(binary.LittleEndian.Uint32(it.b[20:]))-len(entrySignature)-2] = 0xff
		}},
		{"the data has no type", func(f []byte, it item) {
			b := f[binary.LittleEndian.Uint32(it.b[16:]):]
			copy(b[bytes.IndexByte(b, 's'):], "?")
		}},
		{"an app is not text", func(f []byte, it item) {
			b := f[binary.LittleEndian.Uint32(it.b[16:]):]
			b[bytes.Index(b, []byte("org.a.A"))] = 0xff
		}},
		{"an app twice", func(f []byte, it item) {
			b := f[binary.LittleEndian.Uint32(it.b[16:]):]
			copy(b[bytes.Index(b, []byte("org.b.B")):], "org.a.A")
		}},
		{"a word without its NUL", func(f []byte, it item) {
			b := f[binary.LittleEndian.Uint32(it.b[16:]):]
			b[bytes.Index(b, []byte("read\x00"))+4] = 'x'
		}},
	} {
		t.Run(c.rule, func(t *testing.T) {
			file := mustEncode(t, three())
			for _, it := range items(t, file, mainTable) {
				if key, _ := it.key(); string(key) == "b" {
					c.spoil(file, it)
					break
				}
			}
			f, err := Parse(file)
			if err != nil {
				t.Fatal(err)
			}
			want := three()
			delete(want, "b")
			if !reflect.DeepEqual(f.Entries, want) {
				t.Errorf("entries %v", slices.Sorted(maps.Keys(f.Entries)))
			}
			if len(f.Problems) != 1 {
				t.Fatalf("problems %v", f.Problems)
			}
			t.Log(f.Problems[0])
		})
	}
}

func TestParseRefuses(t *testing.T) {
	put := binary.LittleEndian.PutUint32
	for _, c := range []struct {
		rule  string
		spoil func(file []byte) []byte
	}{
		{"an empty file", func(f []byte) []byte { return nil }},
		{"a header alone", func(f []byte) []byte { return f[:headerSize] }},
		{"another magic", func(f []byte) []byte { f[0]++; return f }},
		{"big-endian", func(f []byte) []byte { copy(f, "raVGtnai"); return f }},
		{"another version", func(f []byte) []byte { f[8] = 1; return f }},
		{"the root in the header", func(f []byte) []byte { put(f[16:], 0); return f }},
		{"the root past the end", func(f []byte) []byte { put(f[20:], uint32(len(f)+1)); return f }},
		{"the root not aligned", func(f []byte) []byte { put(f[16:], 25); return f }},
		{"2³² buckets", func(f []byte) []byte { put(f[28:], 0xffffffff); return f }},
		{"2²⁷ bloom words", func(f []byte) []byte { put(f[24:], 1<<27-1); return f }},
		{"no main", func(f []byte) []byte { f[0x58] = 'M'; return f }},
		{"main is a value", func(f []byte) []byte { f[0x28+14] = 'v'; return f }},
	} {
		if f, err := Parse(c.spoil(fixture(t, "one-yes.gvdb"))); err == nil {
			t.Errorf("%s: read %+v", c.rule, f)
		}
	}
}

// A file's items may share bytes, or nest tables in themselves: what comes out
// is bounded all the same.
func TestMemoryIsBounded(t *testing.T) {
	const size = 1 << 20
	files := map[string][]byte{
		"items that share one value": hostileItems(size, largeEntry(t, size/2)),
		"empty arrays":               hostileEntry(t, size),
		"main is the root":           selfRoot(t),
		"fixture":                    fixture(t, "documents-500-mixed.gvdb"),
		"very many problems":         hostileItems(size, nil),
		"many empty strings":         mustEncode(t, map[string]Entry{"a": {Data: y(), Permissions: map[string][]string{"": make([]string, size/4)}}}),
		"many apps of no use":        manyApps(t, size/32),
	}
	for name, b := range files {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		f, err := Parse(b)
		runtime.GC()
		runtime.ReadMemStats(&after)
		live := int64(after.HeapAlloc) - int64(before.HeapAlloc)
		t.Logf("%s: %d bytes, err %v, %d kept, %d in all", name, len(b), err, live, after.TotalAlloc-before.TotalAlloc)
		if live > 40*int64(len(b))+64<<10 || after.TotalAlloc-before.TotalAlloc > 120*uint64(len(b))+256<<10 {
			t.Errorf("%s: %d bytes in, %d kept, %d allocated", name, len(b), live, after.TotalAlloc-before.TotalAlloc)
		}
		runtime.KeepAlive(f)
		runtime.KeepAlive(b)
	}
}

func y() bus.Value { return bus.Value{Signature: "y", Data: []byte{0}} }

func manyApps(t *testing.T, n int) []byte {
	p := make(map[string][]string)
	for i := range n {
		p[fmt.Sprint(i)] = nil
	}
	return mustEncode(t, map[string]Entry{"a": {Data: y(), Permissions: p}})
}

// hostileEntry is a table with one entry whose data is an array of as many
// smallest elements as the size has room for.
func hostileEntry(t *testing.T, size int) []byte {
	// An element of a(asas) is one framing offset, 0, of one byte; the array's
	// own offsets are four bytes each: 1, 2, 3...
	const sig = "a(asas)"
	n := size / 5
	value := make([]byte, n)
	for i := range n {
		value = binary.LittleEndian.AppendUint32(value, uint32(i+1))
	}
	value = append(append(value, 0), sig...)
	if _, err := fromVariant(value); err != nil {
		t.Fatal(err)
	}
	value = frame(value, 0, []int{len(value)})
	return oneTable(t, append(append(value, 0), entrySignature...))
}

// oneTable is a file whose only entry has this serialized value.
func oneTable(t testing.TB, value []byte) []byte {
	main := []node{{key: "a", kind: 'v', write: func(b []byte) ([]byte, error) { return append(b, value...), nil }}}
	root := []node{{key: mainTable, kind: 'H', write: func(b []byte) ([]byte, error) { return appendTable(b, main) }}}
	b := append([]byte(magic), make([]byte, 16)...)
	binary.LittleEndian.PutUint32(b[16:], headerSize)
	binary.LittleEndian.PutUint32(b[20:], uint32(headerSize+tableSize(1)))
	b, err := appendTable(b, root)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// largeEntry is the serialized form of a well-formed entry.
func largeEntry(t *testing.T, size int) []byte {
	data := binary.LittleEndian.AppendUint32(nil, uint32(size))
	b, err := appendEntry(nil, Entry{Data: bus.Value{Signature: "ay", Data: append(data, make([]byte, size)...)}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// hostileItems is a file of many items that all have the same key and value.
func hostileItems(size int, v []byte) []byte {
	b := append([]byte(magic), make([]byte, 16)...)
	word := binary.LittleEndian.AppendUint32
	item := func(key string, keyStart int, kind byte, start, end int) {
		b = word(word(word(b, hash([]byte(key))), noParent), uint32(keyStart))
		b = append(b, byte(len(key)), byte(len(key)>>8), kind, 0)
		b = word(word(b, uint32(start)), uint32(end))
	}
	binary.LittleEndian.PutUint32(b[16:], 24)
	binary.LittleEndian.PutUint32(b[20:], 56)
	b = word(word(b, 0), 0)
	const body = 64
	n := size / 2 / 24
	table := body
	end := table + 8 + n*24
	item("main", 56, 'H', table, end)
	b = append(b, "main\x00\x00\x00\x00"...)
	b = word(word(b, 0), 0)
	at := alignUp(end, 8)
	for range n {
		item("main", 56, 'v', at, at+len(v))
	}
	return append(pad(b, 8), v...)
}

// selfRoot is a file whose table of entries is the root table.
func selfRoot(t *testing.T) []byte {
	b := fixture(t, "one-yes.gvdb")
	copy(b[0x28+16:], b[16:24])
	return b
}

// each calls fn for 0 ≤ i < n, for one in so many, on all processors.
func each(n, oneIn int, fn func(i int)) {
	var wg sync.WaitGroup
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		wg.Go(func() {
			for i := w * oneIn; i < n; i += workers * oneIn {
				fn(i)
			}
		})
	}
	wg.Wait()
}

// oneIn is how many of the cases of a file are tried: all, but of a large file
// one in so many unless time does not matter.
func oneIn(n int, file []byte) int {
	if len(file) <= 4096 || long() {
		return 1
	}
	return n
}

// parts says what of a file is read for what: the entry whose item, name or
// value a byte is part of, all for the bytes that all depend on, none for those
// that Parse does not look at.
func parts(t *testing.T, file []byte) (of []int) {
	t.Helper()
	file = slices.Clip(file)
	of = make([]int, len(file))
	mark := func(from, to uint32, what int) {
		for i := from; i < to; i++ {
			of[i] = what
		}
	}
	le := binary.LittleEndian
	mark(0, headerSize, all)
	root := [2]uint32{le.Uint32(file[16:]), le.Uint32(file[20:])}
	mark(root[0], root[1], all)
	for i, it := range items(t, file, mainTable) {
		at := uint32(cap(file) - cap(it.b)) // it.b is a part of file
		if i == 0 {
			// The names of the root's items, the head of the table, its buckets.
			mark(root[1], at, all)
		}
		mark(at, at+itemSize, i+1)
		key := le.Uint32(it.b[8:])
		mark(key, key+uint32(le.Uint16(it.b[12:])), i+1)
		mark(le.Uint32(it.b[16:]), le.Uint32(it.b[20:]), i+1)
	}
	// The name of the other table decides, too, that it is not this one.
	for _, it := range rootItems(t, file) {
		key := le.Uint32(it.b[8:])
		mark(key, key+uint32(le.Uint16(it.b[12:])), all)
	}
	return of
}

const all = -1

// rootItems are the items of the root table.
func rootItems(t *testing.T, file []byte) (list []item) {
	t.Helper()
	root, err := readTable(file, file[16:], headerSize)
	if err != nil {
		t.Fatal(err)
	}
	for i := range root.len() {
		list = append(list, root.item(i))
	}
	return list
}

// mainItem is the i-th item of the table of entries, found as Parse finds it
// in a file whose tables are in order; ok is false in another one.
func mainItem(t *testing.T, file []byte, i int) (_ item, ok bool) {
	for _, it := range rootItems(t, file) {
		if key, err := it.key(); err == nil && string(key) == mainTable {
			if entries, err := readTable(file, it.extent(), headerSize); err == nil {
				return entries.item(i), true
			}
		}
	}
	return item{}, false
}

func TestEveryTruncationIsSurvived(t *testing.T) {
	for name, b := range fixtures(t) {
		whole := parse(t, b).Entries
		of := parts(t, b)
		n := len(whole)
		check := func(size int) {
			// The capacity ends with the data: no byte past it is in reach.
			f, err := Parse(b[:size:size])
			if err != nil {
				return
			}
			for id, e := range f.Entries {
				if !sameEntry(e, whole[id]) {
					t.Errorf("%s, %d bytes: entry %q is %v", name, size, id, e)
				}
			}
			if len(f.Entries)+len(f.Problems) < min(n, maxProblems) {
				t.Errorf("%s, %d bytes: %d entries, %d problems of %d", name, size, len(f.Entries), len(f.Problems), n)
			}
		}
		each(len(b), oneIn(13, b), func(size int) {
			// To read all the entries each time takes hours. An entry that
			// ends before the cut is read from the same bytes as before; so
			// of a large file only the one is read that the cut goes through,
			// and every hundredth time all.
			if i := of[size]; len(b) <= 4096 || i == all || size%101 == 0 {
				check(size)
			} else if i > 0 {
				it, ok := mainItem(t, b[:size:size], i-1)
				if !ok {
					check(size) // the table itself is cut
				} else if id, e, _, err := it.entry(size); err == nil && !sameEntry(e, whole[id]) {
					t.Errorf("%s, %d bytes: entry %q is %v", name, size, id, e)
				}
			}
		})
	}
}

// A flipped bit reaches one entry at most, unless it hits what all depend on.
func TestEveryBitFlipIsSurvived(t *testing.T) {
	for name, b := range fixtures(t) {
		whole := parse(t, b).Entries
		of := parts(t, b)
		read := func(bit int, id string, e Entry) (changed bool) {
			if w, ok := whole[id]; ok && sameEntry(e, w) {
				return false
			}
			if _, err := Encode(map[string]Entry{id: e}); err != nil {
				t.Errorf("%s, bit %d: what was read cannot be written: %v", name, bit, err)
			}
			return true
		}
		check := func(bit int, spoilt []byte) {
			f, err := Parse(spoilt)
			if err != nil {
				return
			}
			changed := 0
			for id, e := range f.Entries {
				if read(bit, id, e) {
					changed++
				}
			}
			// Only an entry whose name changed goes without a word.
			missing := len(whole) - len(f.Entries)
			if changed > 1 || missing > 1 && len(f.Problems) == 0 {
				t.Errorf("%s, bit %d: %d changed, %d missing, %v", name, bit, changed, missing, f.Problems)
			}
		}
		copies := sync.Pool{New: func() any { c := bytes.Clone(b); return &c }}
		each(len(b)*8, oneIn(101, b), func(bit int) {
			c := copies.Get().(*[]byte)
			defer copies.Put(c)
			spoilt := *c
			spoilt[bit/8] ^= 1 << (bit % 8)
			defer func() { spoilt[bit/8] ^= 1 << (bit % 8) }()
			// As above: of a large file the one entry is read that the bit is
			// part of, and every thousandth time all. The other entries' bytes
			// are as they were.
			i := of[bit/8]
			if len(b) <= 4096 || i == all || bit%1009 == 0 {
				check(bit, spoilt)
			} else if i > 0 {
				if it, ok := mainItem(t, spoilt, i-1); !ok {
					t.Errorf("%s, bit %d: no table of entries", name, bit)
				} else if id, e, _, err := it.entry(len(spoilt)); err == nil {
					read(bit, id, e)
				}
			}
		})
	}
}

func sameEntry(a, b Entry) bool {
	return a.Data.Signature == b.Data.Signature && bytes.Equal(a.Data.Data, b.Data.Data) &&
		maps.EqualFunc(a.Permissions, b.Permissions, slices.Equal)
}

func FuzzParse(f *testing.F) {
	for _, b := range fixtures(f) {
		f.Add(b)
	}
	f.Add(Placeholder())
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := Parse(b)
		if err != nil {
			return
		}
		for id, e := range file.Entries {
			if err := e.Data.Check(); err != nil {
				t.Fatalf("%q: %v", id, err)
			}
		}
		again := parse(t, mustEncode(t, file.Entries))
		if !reflect.DeepEqual(again.Entries, file.Entries) {
			t.Fatal("what was read and written reads otherwise")
		}
	})
}

func BenchmarkParse(b *testing.B) {
	data := fixture(b, "documents-500-mixed.gvdb")
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		parse(b, data)
	}
}
