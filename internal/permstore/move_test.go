package permstore

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"docportal/internal/gvdb"

	"pgregory.net/rapid"
)

// all is everything that a store has: table, id, entry.
func all(t testing.TB, s *Store) map[string]map[string]Entry {
	t.Helper()
	m := make(map[string]map[string]Entry)
	must(t, s.View(func(tx *Tx) error {
		return tx.Tables(func(table string) bool {
			m[table] = make(map[string]Entry)
			must(t, tx.IDs(table, func(id string) bool {
				e, _, err := tx.Get(table, id)
				must(t, err)
				m[table][id] = e
				return true
			}))
			return true
		})
	}))
	return m
}

func same(a, b map[string]map[string]Entry) bool {
	return maps.EqualFunc(a, b, func(a, b map[string]Entry) bool {
		return maps.EqualFunc(a, b, func(a, b Entry) bool {
			return a.Data.Signature == b.Data.Signature && string(a.Data.Data) == string(b.Data.Data) &&
				maps.EqualFunc(a.Permissions, b.Permissions, slices.Equal)
		})
	})
}

// tables writes tables as files of their names.
func tables(t testing.TB, dir string, m map[string]map[string]gvdb.Entry) {
	t.Helper()
	for table, entries := range m {
		b, err := gvdb.Encode(entries)
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, table), b, 0o600))
	}
}

func moved(t testing.TB, m *Moved, err error, tables, added, extended, same, problems int) {
	t.Helper()
	must(t, err)
	if m.Tables != tables || m.Added != added || m.Extended != extended || m.Same != same || len(m.Problems) != problems {
		t.Errorf("%+v, want %d tables, %d added, %d extended, %d same, %d problems", m, tables, added, extended, same, problems)
	}
}

const fixtureDir = "../gvdb/testdata"

// The fixtures import to what they hold, entry by entry; what that is, is
// compared with their description where they are parsed (internal/gvdb).
func TestFixturesAreImported(t *testing.T) {
	dir := t.TempDir()
	want := make(map[string]map[string]Entry)
	n := 0
	for table, name := range map[string]string{"one": "one-yes.gvdb", "documents": "documents-1.22.1.gvdb", "mixed": "documents-500-mixed.gvdb"} {
		b, err := os.ReadFile(filepath.Join(fixtureDir, name))
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, table), b, 0o600))
		f, err := gvdb.Parse(b)
		must(t, err)
		want[table] = make(map[string]Entry)
		for id, e := range f.Entries {
			want[table][id] = Entry{Data: e.Data, Permissions: e.Permissions}
			n++
		}
	}
	s := open(t, t.TempDir(), Options{})
	m, err := s.Import(context.Background(), dir)
	moved(t, m, err, 3, 502, 0, 0, 0)
	if !same(all(t, s), want) {
		t.Error("the store has something else than the fixtures")
	}
	if n != 502 || len(want["mixed"]) != 500 {
		t.Errorf("%d entries", n)
	}
	// What comes next says nothing new.
	m, err = s.Import(context.Background(), dir)
	moved(t, m, err, 3, 0, 0, 502, 0)
}

// An import adds what is missing, whole entries and apps, and leaves the rest.
func TestAnImportMergesAndDeletesNothing(t *testing.T) {
	dir := t.TempDir()
	tables(t, dir, map[string]map[string]gvdb.Entry{"t": {
		"both": {Data: bytesOf(3), Permissions: map[string][]string{"a": {"old"}, "b": {"b"}}},
		"same": {Data: bytesOf(3), Permissions: map[string][]string{"a": {"old"}}},
		"new":  {Data: bytesOf(4), Permissions: map[string][]string{"n": {}}},
	}})
	s := open(t, t.TempDir(), Options{})
	put(t, s, "t", "both", Entry{Data: bytesOf(1), Permissions: map[string][]string{"a": {"now"}, "c": {"c"}}})
	put(t, s, "t", "same", Entry{Data: bytesOf(1), Permissions: map[string][]string{"a": {}}})
	put(t, s, "t", "only here", Entry{Data: bytesOf(1)})
	put(t, s, "u", "u", Entry{Data: bytesOf(1)})
	want := map[string]map[string]Entry{
		"t": {
			"both":      {Data: bytesOf(1), Permissions: map[string][]string{"a": {"now"}, "b": {"b"}, "c": {"c"}}},
			"same":      {Data: bytesOf(1), Permissions: map[string][]string{"a": {}}},
			"new":       {Data: bytesOf(4), Permissions: map[string][]string{"n": {}}},
			"only here": {Data: bytesOf(1)},
		},
		"u": {"u": {Data: bytesOf(1)}},
	}
	for round := range 3 {
		m, err := s.Import(context.Background(), dir)
		if round == 0 {
			moved(t, m, err, 1, 1, 1, 1, 0)
		} else {
			moved(t, m, err, 1, 0, 0, 3, 0)
		}
		if got := all(t, s); !same(got, want) {
			t.Fatalf("round %d: %v\nwant %v", round, got, want)
		}
	}
}

// Files that are no tables, or damaged, or past the limits, keep nothing else out.
func TestAnImportTakesWhatIsGood(t *testing.T) {
	dir := t.TempDir()
	good := gvdb.Entry{Data: bytesOf(1), Permissions: map[string][]string{"a": {"x"}}}
	tables(t, dir, map[string]map[string]gvdb.Entry{
		"good":    {"1": good},
		".hidden": {"1": good},
		"limits": {"1": good, "large": {Data: bytesOf(MaxData + 1)}, strings.Repeat("x", MaxID+1): good,
			"app": {Data: bytesOf(1), Permissions: map[string][]string{"a/b": {}}}},
	})
	must(t, os.WriteFile(filepath.Join(dir, "empty"), nil, 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "damaged"), []byte("GVariant and then nothing of the kind"), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "held"), gvdb.Placeholder(), 0o600))
	must(t, os.Mkdir(filepath.Join(dir, "directory"), 0o700))
	must(t, syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	must(t, os.Symlink("good", filepath.Join(dir, "link")))
	before := files(t, dir)
	s := open(t, t.TempDir(), Options{})
	m, err := s.Import(context.Background(), dir)
	moved(t, m, err, 3, 3, 0, 0, 7)
	if got := slices.Sorted(maps.Keys(all(t, s))); strings.Join(got, " ") != "good limits link" {
		t.Errorf("tables %v", got)
	}
	if after := files(t, dir); !maps.Equal(before, after) {
		t.Error("the originals are changed")
	}
}

// files is what a directory holds: names, and contents of files.
func files(t testing.TB, dir string) map[string]string {
	t.Helper()
	m := make(map[string]string)
	list, err := os.ReadDir(dir)
	must(t, err)
	for _, d := range list {
		m[d.Name()] = d.Type().String()
		if d.Type().IsRegular() {
			b, err := os.ReadFile(filepath.Join(dir, d.Name()))
			must(t, err)
			m[d.Name()] += string(b)
		}
	}
	return m
}

// The first start imports, the later ones do not: what was deleted since does
// not come back. An import that was broken off is begun again.
func TestTheFirstStartImportsOnce(t *testing.T) {
	dir, from := t.TempDir(), t.TempDir()
	const n = 1000
	entries := make(map[string]gvdb.Entry)
	for i := range n {
		entries[fmt.Sprint(i)] = gvdb.Entry{Data: bytesOf(1)}
	}
	tables(t, from, map[string]map[string]gvdb.Entry{"t": entries, "u": entries})
	s := open(t, dir, Options{})
	ctx, cancel := context.WithCancel(context.Background())
	s.Subscribe(func([]Change) { cancel() }) // after the first table
	if _, err := s.ImportOnce(ctx, from); err == nil {
		t.Error("not broken off")
	}
	if a, b := len(ids(t, s, "t")), len(ids(t, s, "u")); a+b != n {
		t.Fatalf("%d and %d entries", a, b)
	}
	m, err := s.ImportOnce(context.Background(), from)
	moved(t, m, err, 2, n, 0, n, 0)
	must(t, s.Update(context.Background(), func(tx *Tx) error { _, err := tx.Delete("t", "7"); return err }))
	for range 2 {
		if m, err := s.ImportOnce(context.Background(), from); m != nil || err != nil {
			t.Errorf("again: %v, %v", m, err)
		}
		must(t, s.Close())
		s = open(t, dir, Options{})
	}
	// By hand it is asked for.
	m, err = s.Import(context.Background(), from)
	moved(t, m, err, 2, 1, 0, 2*n-1, 0)
}

func TestTheFirstStartWithoutADatabase(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	from := filepath.Join(t.TempDir(), "none")
	m, err := s.ImportOnce(context.Background(), from)
	moved(t, m, err, 0, 0, 0, 0, 0)
	must(t, os.Mkdir(from, 0o700))
	tables(t, from, map[string]map[string]gvdb.Entry{"t": {"1": {Data: bytesOf(1)}}})
	if m, err := s.ImportOnce(context.Background(), from); m != nil || err != nil {
		t.Errorf("a second first start: %v, %v", m, err)
	}
	if _, err := s.Import(context.Background(), from+"x"); err == nil {
		t.Error("an import from nowhere")
	}
}

// A file that had to be replaced does not count as new.
func TestASalvagedStoreIsNotImportedAgain(t *testing.T) {
	dir, from := t.TempDir(), t.TempDir()
	tables(t, from, map[string]map[string]gvdb.Entry{"t": {"1": {Data: bytesOf(1)}}})
	s := open(t, dir, Options{})
	_, err := s.ImportOnce(context.Background(), from)
	must(t, err)
	must(t, s.Update(context.Background(), func(tx *Tx) error { _, err := tx.Delete("t", "1"); return err }))
	put(t, s, "t", "2", Entry{Data: bytesOf(1)})
	must(t, s.Close())
	must(t, os.Truncate(filepath.Join(dir, fileName), 20_000))
	s = open(t, dir, Options{})
	if len(asideFiles(t, dir)) != 1 {
		t.Error("not salvaged")
	}
	if m, err := s.ImportOnce(context.Background(), from); m != nil || err != nil {
		t.Errorf("%v, %v", m, err)
	}
}

// Import, export, import: nothing is lost or added on the way.
func TestARoundTripIsTheIdentity(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		a := open(t, "", Options{}) // in memory: the disk has no part in this
		defer a.Close()
		must(t, a.Update(context.Background(), func(tx *Tx) error {
			for range rapid.IntRange(0, 30).Draw(rt, "entries") {
				e := Entry{Data: arbitrary(rt), Permissions: map[string][]string{}}
				for range rapid.IntRange(0, 4).Draw(rt, "apps") {
					app := rapid.StringMatching(`[a-c]?(\.é)?`).Draw(rt, "app")
					e.Permissions[app] = rapid.SliceOfN(rapid.StringMatching(`\PC{0,3}`), 0, 3).Draw(rt, "words")
				}
				table := rapid.SampledFrom([]string{"t", "u.x", "é", strings.Repeat("t", MaxName-2)}).Draw(rt, "table")
				if err := tx.Put(table, rapid.StringMatching(`[a-d/.]{1,3}`).Draw(rt, "id"), e); err != nil {
					return err
				}
			}
			return nil
		}))
		dir := t.TempDir()
		out, err := a.Export(dir, nil)
		must(t, err)
		b := open(t, "", Options{})
		defer b.Close()
		in, err := b.Import(context.Background(), dir)
		must(t, err)
		if len(out.Problems)+len(in.Problems) > 0 || out.Added != in.Added || out.Tables != in.Tables {
			rt.Fatalf("out %+v, in %+v", out, in)
		}
		if x, y := all(t, a), all(t, b); !same(x, y) {
			rt.Fatalf("%v\nbecame %v", x, y)
		}
		again := t.TempDir()
		_, err = b.Export(again, nil)
		must(t, err)
		if !maps.Equal(files(t, dir), files(t, again)) {
			rt.Fatal("the files differ")
		}
	})
}

// A table whose name would not be seen as one is reported.
func TestAnExportSaysWhatItLeavesOut(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	put(t, s, ".t", "1", Entry{Data: nothing})
	put(t, s, "t", "1", Entry{Data: nothing})
	dir := filepath.Join(t.TempDir(), "new")
	m, err := s.Export(dir, nil)
	moved(t, m, err, 1, 1, 0, 0, 1)
	if got := files(t, dir); len(got) != 1 {
		t.Errorf("files %v", got)
	}
}

// The flatpak command finds each table by a file; who has one keeps it.
func TestPlaceholders(t *testing.T) {
	home := t.TempDir()
	dir := filepath.Join(home, "flatpak", "db")
	s := open(t, t.TempDir(), Options{})
	put(t, s, "before", "1", Entry{Data: nothing})
	put(t, s, ".hidden", "1", Entry{Data: nothing})
	must(t, s.KeepPlaceholders(dir))
	for range 2 {
		put(t, s, "after", "1", Entry{Data: nothing})
	}
	want := map[string]string{"before": "----------" + string(gvdb.Placeholder()), "after": "----------" + string(gvdb.Placeholder())}
	if got := files(t, dir); !maps.Equal(got, want) {
		t.Errorf("files %q, want %q", got, want)
	}
	must(t, os.WriteFile(filepath.Join(dir, "theirs"), []byte("x"), 0o600))
	put(t, s, "theirs", "1", Entry{Data: nothing})
	if got := files(t, dir); len(got) != 3 || got["theirs"] != "----------x" {
		t.Errorf("files %q", got)
	}
	// They bring nothing into a store.
	must(t, os.Remove(filepath.Join(dir, "theirs")))
	other := open(t, t.TempDir(), Options{})
	m, err := other.ImportOnce(context.Background(), dir)
	moved(t, m, err, 0, 0, 0, 0, 0)
	// Without a place for them the store works.
	lost := open(t, t.TempDir(), Options{})
	must(t, lost.KeepPlaceholders("/proc/nowhere"))
	put(t, lost, "t", "1", Entry{Data: nothing})
}

// What is checked and mended while the store is in use.
func TestCheckAndRepairInUse(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{Indexes: crashIndexes()})
	for i := range 100 {
		put(t, s, "t", fmt.Sprint(i), toData(uint32(i)))
	}
	r, err := s.Check()
	must(t, err)
	if r.Entries != 100 || len(r.Problems) > 0 {
		t.Fatalf("%+v", r)
	}
	must(t, s.maintain(func() error {
		b, err := s.file.db.Begin(true)
		must(t, err)
		index := b.Bucket(bucketIndex)
		k, _ := index.Cursor().First()
		must(t, index.Delete(k))
		must(t, index.Put([]byte("t\x00app\x00nobody\x00\x01x"), nil))
		return b.Commit()
	}))
	if r, err = s.Check(); err != nil || len(r.Problems) == 0 {
		t.Fatalf("a broken index is not found: %+v, %v", r, err)
	}
	must(t, s.RepairIndexes())
	if r, err = s.Check(); err != nil || len(r.Problems) > 0 {
		t.Errorf("after the repair: %+v, %v", r, err)
	}
	put(t, s, "t", "more", toData(7))
	must(t, s.Close())
	if r, err := Check(dir, crashIndexes()); err != nil || len(r.Problems) > 0 || r.Entries != 101 {
		t.Errorf("%+v, %v", r, err)
	}
}
