package permstore

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// many puts n entries of several tables into a store, in several transactions
// so that the file has stale pages too.
func many(t testing.TB, s *Store, n int) map[string]Entry {
	t.Helper()
	all := map[string]Entry{}
	for i := range n {
		id := fmt.Sprintf("%08x", uint32(i)*0x9e3779b1)
		e := Entry{Data: nothing, Permissions: map[string][]string{
			fmt.Sprint("org.example.A", i%5): {"read"}, fmt.Sprint("org.example.B", i%3): {"read", "write"},
		}}
		all[id] = e
	}
	var batch []string
	write := func(perms bool) {
		change(t, s, func(tx *Tx) error {
			for _, id := range batch {
				e := all[id]
				if !perms {
					e.Permissions = nil
				}
				if err := tx.Put("documents", id, e); err != nil {
					return err
				}
			}
			return nil
		})
		batch = nil
	}
	for id := range all {
		if batch = append(batch, id); len(batch) == 97 {
			write(len(all)%2 == 0)
		}
	}
	write(true)
	for id := range all {
		if batch = append(batch, id); len(batch) == 101 {
			write(true)
		}
	}
	write(true)
	return all
}

// opened compares a store with what was put in: nothing may be wrong, and at
// least some must be there. It returns how many are missing.
func missing(t *testing.T, s *Store, all map[string]Entry) (n int) {
	t.Helper()
	got := ids(t, s, "documents")
	for _, id := range got {
		e, ok := get(t, s, "documents", id)
		if want, was := all[id]; !ok || !was || !reflect.DeepEqual(e.Permissions, want.Permissions) || !reflect.DeepEqual(e.Data, want.Data) {
			t.Fatalf("entry %s is wrong: %v", id, e)
		}
	}
	return len(all) - len(got)
}

func clean(t *testing.T, dir string) {
	t.Helper()
	r, err := Check(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range r.Problems {
		t.Error(p)
	}
}

func asideFiles(t *testing.T, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, fileName+".corrupt-*"))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// pageTypes returns the number of a page of each type.
func pageTypes(t *testing.T, file []byte) map[string]int {
	m, _, _, err := findMeta(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	pages := map[string]int{"meta 0": 0, "meta 1": 1}
	v := newSalvage(bytes.NewReader(file), int64(len(file)))
	id, _, ok := v.bucket(m.root, bucketEntries)
	if !ok {
		t.Fatal("no entries")
	}
	pages["root"] = int(m.root)
	pages["freelist"] = int(m.freelist)
	p, _ := v.page(id)
	for p.flags == pageBranch {
		pages["branch"] = int(id)
		_, id, _ = p.child(p.count / 2)
		p, _ = v.page(id)
	}
	pages["leaf"] = int(id)
	id, _, _ = v.bucket(m.root, bucketIndex)
	p, _ = v.page(id)
	for p.flags == pageBranch {
		pages["index branch"] = int(id)
		_, id, _ = p.child(p.count / 2)
		p, _ = v.page(id)
	}
	pages["index leaf"] = int(id)
	return pages
}

// What is on a page that cannot be read comes from the last copy; what is on
// others is kept as it is, and the damaged file as well.
func TestADamagedPageIsSalvaged(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	all := many(t, s, 400)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	clean(t, dir)
	whole, err := os.ReadFile(filepath.Join(dir, fileName))
	if err != nil {
		t.Fatal(err)
	}
	last, err := os.ReadFile(filepath.Join(dir, copyName))
	if err != nil {
		t.Fatal(err)
	}
	size := os.Getpagesize()
	ways := map[string]func(page []byte){
		"overwritten": func(p []byte) {
			for i := range p {
				p[i] = 0xff
			}
		},
		"zeroed":        func(p []byte) { clear(p) },
		"other number":  func(p []byte) { p[0] ^= 0x40 },
		"other type":    func(p []byte) { p[8] ^= 0x40 },
		"smaller count": func(p []byte) { binary.NativeEndian.PutUint16(p[10:], 1) },
		"larger count":  func(p []byte) { binary.NativeEndian.PutUint16(p[10:], 5000) },
		"element":       func(p []byte) { p[20] ^= 0x20; p[70] ^= 0x80; p[80] ^= 1 },
		"half":          func(p []byte) { clear(p[len(p)/2:]) },
	}
	for kind, number := range pageTypes(t, whole) {
		entries := int(binary.NativeEndian.Uint16(whole[number*size+10:]))
		for way, spoil := range ways {
			for _, copied := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s/%s/copy=%v", kind, way, copied), func(t *testing.T) {
					dir := t.TempDir()
					file := bytes.Clone(whole)
					spoil(file[number*size : (number+1)*size])
					must(t, os.WriteFile(filepath.Join(dir, fileName), file, 0o600))
					if copied {
						must(t, os.WriteFile(filepath.Join(dir, copyName), last, 0o600))
					}
					var log bytes.Buffer
					o := Options{Log: slog.New(slog.NewTextHandler(&log, nil))}
					s := open(t, dir, o)
					<-s.checked // there was no orderly end: the whole file is read
					// The repair, if one is due, comes before the next change.
					put(t, s, "documents", "new", Entry{Data: nothing})
					change(t, s, func(tx *Tx) error { _, err := tx.Delete("documents", "new"); return err })
					lost := missing(t, s, all)
					switch {
					case copied && lost > 0:
						t.Errorf("%d entries lost in spite of the copy", lost)
					case kind == "leaf" && lost > entries:
						t.Errorf("%d entries lost; the page had %d", lost, entries)
					case kind != "leaf" && lost > 0:
						t.Errorf("%d entries lost", lost)
					}
					must(t, s.Close())
					clean(t, dir)
					if n := len(asideFiles(t, dir)); n > 1 || n == 1 != strings.Contains(log.String(), "moved aside") {
						t.Errorf("%d damaged files, log:\n%s", n, &log)
					}
				})
			}
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// What bbolt would believe is looked at each time, also after an orderly end.
func TestMetaPagesAndFreelistAreCheckedAtEachStart(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	all := many(t, s, 300)
	must(t, s.Close())
	path := filepath.Join(dir, fileName)
	file, err := os.ReadFile(path)
	must(t, err)
	mark, err := os.ReadFile(filepath.Join(dir, lockName))
	must(t, err)
	pages := pageTypes(t, file)
	size := os.Getpagesize()
	for _, c := range []struct {
		kind string
		at   int // in the page
	}{
		{"meta 0", 16}, {"meta 0", 40}, {"meta 1", 72}, {"freelist", 0}, {"freelist", 8}, {"freelist", 10}, {"freelist", 16}, {"freelist", 23},
	} {
		t.Run(fmt.Sprint(c.kind, " ", c.at), func(t *testing.T) {
			d := t.TempDir()
			bad := bytes.Clone(file)
			bad[pages[c.kind]*size+c.at] ^= 0x80
			must(t, os.WriteFile(filepath.Join(d, fileName), bad, 0o600))
			must(t, os.WriteFile(filepath.Join(d, lockName), mark, 0o600))
			s := open(t, d, Options{})
			if len(asideFiles(t, d)) != 1 {
				t.Error("the damage was not seen")
			}
			if lost := missing(t, s, all); lost > 0 {
				t.Errorf("%d entries lost", lost)
			}
			must(t, s.Close())
			clean(t, d)
		})
	}
}

// A file that was cut off is known at once by its length.
func TestATruncatedFileIsSalvaged(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	all := many(t, s, 1000)
	must(t, s.Close())
	file, err := os.ReadFile(filepath.Join(dir, fileName))
	must(t, err)
	m, _, _, err := findMeta(bytes.NewReader(file))
	must(t, err)
	for _, copied := range []bool{true, false} {
		for _, size := range []int64{0, 1, 100, 4096, 8192, 20000, int64(m.highWater) * 2048, int64(m.highWater)*4096 - 1} {
			t.Run(fmt.Sprintf("%d/copy=%v", size, copied), func(t *testing.T) {
				d := t.TempDir()
				must(t, os.WriteFile(filepath.Join(d, fileName), file[:size], 0o600))
				if copied {
					last, err := os.ReadFile(filepath.Join(dir, copyName))
					must(t, err)
					must(t, os.WriteFile(filepath.Join(d, copyName), last, 0o600))
				}
				s := open(t, d, Options{})
				if lost := missing(t, s, all); copied && lost > 0 {
					t.Errorf("%d entries lost in spite of the copy", lost)
				}
				must(t, s.Close())
				clean(t, d)
				if len(asideFiles(t, d)) != 1 {
					t.Error("the damaged file was not kept")
				}
			})
		}
	}
}

// A file that is cut off while it is in use is an error to who reads the lost
// part, and is mended.
func TestAFileTruncatedInUseIsAnErrorAndMended(t *testing.T) {
	for _, pages := range []int{0, 1, 2, 3, 20} {
		t.Run(fmt.Sprint(pages), func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir, Options{})
			all := many(t, s, 1000)
			must(t, s.Close())
			s = open(t, dir, Options{})
			must(t, os.Truncate(filepath.Join(dir, fileName), int64(pages*os.Getpagesize())))
			failed := 0
			for id := range all {
				err := s.View(func(tx *Tx) error { _, _, err := tx.Get("documents", id); return err })
				if isDamage(err) {
					failed++
					break
				} else if err != nil {
					t.Fatal(err)
				}
			}
			if failed == 0 {
				t.Error("no read failed")
			}
			must(t, s.maintain(func() error { return nil })) // the repair comes first
			put(t, s, "documents", "new", Entry{Data: nothing})
			change(t, s, func(tx *Tx) error { _, err := tx.Delete("documents", "new"); return err })
			if lost := missing(t, s, all); lost > 0 {
				t.Errorf("%d entries lost in spite of the copy", lost)
			}
			must(t, s.Close())
			clean(t, dir)
		})
	}
}

// Revoking must outlive damage: only what the damage hides comes from the copy.
func TestTheCopyBringsNothingDeletedBack(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	all := many(t, s, 1500)
	must(t, s.Close())
	last, err := os.ReadFile(filepath.Join(dir, copyName))
	must(t, err)
	s = open(t, dir, Options{})
	gone := map[string]bool{}
	change(t, s, func(tx *Tx) error {
		for id := range all {
			if len(gone) == 700 {
				break
			}
			gone[id] = true
			if _, err := tx.Delete("documents", id); err != nil {
				return err
			}
		}
		return nil
	})
	must(t, s.Close())
	for id := range gone {
		delete(all, id)
	}
	path := filepath.Join(dir, fileName)
	file, err := os.ReadFile(path)
	must(t, err)
	for _, kind := range []string{"branch", "meta 0", "meta 1", "freelist", "index leaf", "root"} {
		t.Run(kind, func(t *testing.T) {
			n := pageTypes(t, file)[kind]
			bad := bytes.Clone(file)
			bad[n*4096+8] ^= 0x40 // no type that there is
			if strings.HasPrefix(kind, "meta") {
				bad[n*4096+60] ^= 0x40 // and no checksum that fits
			}
			d := t.TempDir()
			must(t, os.WriteFile(filepath.Join(d, fileName), bad, 0o600))
			must(t, os.WriteFile(filepath.Join(d, copyName), last, 0o600))
			s := open(t, d, Options{})
			<-s.checked
			put(t, s, "other", "1", Entry{Data: nothing})
			back := 0
			for _, id := range ids(t, s, "documents") {
				if gone[id] {
					back++
				}
			}
			// Where the damage hides all of the tree, deleted entries cannot be
			// told from lost ones.
			if kind != "branch" && kind != "root" && back > 0 {
				t.Errorf("%d deleted entries are back", back)
			}
			if left := len(ids(t, s, "documents")); left-back != len(all) {
				t.Errorf("%d entries of %d", left-back, len(all))
			}
		})
	}
}

// The last copy is taken at an orderly end with changes, of a whole file only.
func TestTheLastCopyIsGood(t *testing.T) {
	dir := t.TempDir()
	read := func() []byte {
		b, err := os.ReadFile(filepath.Join(dir, copyName))
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return b
	}
	s := open(t, dir, Options{})
	must(t, s.Close())
	if read() != nil {
		t.Error("a copy of nothing")
	}
	s = open(t, dir, Options{})
	put(t, s, "t", "1", Entry{Data: nothing})
	must(t, s.Close())
	first := read()
	if v, err := salvageFile(openFile(t, filepath.Join(dir, copyName))); err != nil || len(v.entries) != 1 || len(v.holes) > 0 {
		t.Errorf("the copy has %v, %v", v, err)
	}
	s = open(t, dir, Options{})
	put(t, s, "t", "2", Entry{Data: nothing})
	must(t, s.maintain(func() error {
		return s.file.db.Update(func(b *bolt.Tx) error {
			return b.Bucket(bucketEntries).Put(entryKey("t", "1"), []byte("no record"))
		})
	}))
	must(t, s.Close())
	if !bytes.Equal(read(), first) {
		t.Error("the good copy was replaced")
	}
}

func openFile(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}
