package documents

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"docportal/internal/bus"
	"docportal/internal/permstore"
)

// recordOf is the record of a file or directory as it is added.
func recordOf(t *testing.T, p string, flags uint32) record {
	t.Helper()
	dir := p
	if flags&flagDirectory == 0 {
		dir = filepath.Dir(p)
	}
	fd, err := openDir(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	r, _, err := dirRecord(fd)
	if err != nil {
		t.Fatal(err)
	}
	if r.handle == "" {
		t.Fatalf("%s: the file system has no handles", p)
	}
	r.path, r.flags = p, flags
	return r
}

// other is the record of the same place on another file system, as what is
// found where a volume is not mounted any more.
func (r record) other() record {
	r.fsid++
	r.dev++
	return r
}

// Below the home directory are top/dir/f and top/else. dir is the document, or
// f in it.
func TestWhatIsGoneForGood(t *testing.T) {
	remove := func(p string) func(home string) error {
		return func(home string) error { return os.RemoveAll(filepath.Join(home, p)) }
	}
	replace := func(p, with string) func(home string) error {
		return func(home string) error {
			old := filepath.Join(home, p)
			return errors.Join(os.Rename(old, old+".old"), os.MkdirAll(filepath.Join(old, with), 0o700))
		}
	}
	hide := func(p string, then func(home string) error) func(home string) error {
		return func(home string) error {
			return errors.Join(then(home), os.Chmod(filepath.Join(home, p), 0))
		}
	}
	touch := func(home string) error { return os.WriteFile(filepath.Join(home, "top/dir/f"), nil, 0o600) }
	for _, c := range []struct {
		what       string
		change     func(home string) error
		file, dir  bool // gone
		withoutIDs bool // the same holds of records without handles
	}{
		{what: "all is there", change: touch, withoutIDs: true},
		{what: "the file was removed", change: remove("top/dir/f"), file: true, withoutIDs: true},
		{what: "the file was replaced", change: func(h string) error { return errors.Join(remove("top/dir/f")(h), touch(h)) }, withoutIDs: true},
		{what: "the directory was removed", change: remove("top/dir"), file: true, dir: true, withoutIDs: true},
		{what: "the directory is a file now", change: func(h string) error {
			return errors.Join(remove("top/dir")(h), os.WriteFile(filepath.Join(h, "top/dir"), nil, 0o600))
		}, file: true, dir: true, withoutIDs: true},
		{what: "all above was removed", change: remove("top"), file: true, dir: true, withoutIDs: true},
		{what: "another directory is in its place", change: replace("top/dir", "x"), file: true, dir: true, withoutIDs: true},
		{what: "an empty directory is in its place, as a mountpoint is", change: replace("top/dir", ""), withoutIDs: true},
		{what: "an empty directory is above it, as a mountpoint is", change: replace("top", ""), withoutIDs: true},
		{what: "nobody may look", change: hide("top/dir", remove("top/dir/f")), withoutIDs: true},
		{what: "nobody may look above", change: hide("top", remove("top/dir")), withoutIDs: true},
	} {
		t.Run(c.what, func(t *testing.T) {
			home := t.TempDir()
			t.Cleanup(func() { // so that it can be removed
				os.Chmod(filepath.Join(home, "top"), 0o700)
				os.Chmod(filepath.Join(home, "top/dir"), 0o700)
			})
			for _, d := range []string{"top/dir", "top/else"} {
				if err := os.MkdirAll(filepath.Join(home, d), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			// So that home itself never looks like a mountpoint.
			if err := errors.Join(touch(home), os.WriteFile(filepath.Join(home, "more"), nil, 0o600)); err != nil {
				t.Fatal(err)
			}
			file := recordOf(t, filepath.Join(home, "top/dir/f"), 0)
			dir := recordOf(t, filepath.Join(home, "top/dir"), flagDirectory)
			if err := c.change(home); err != nil {
				t.Fatal(err)
			}
			p := newPruner(home)
			check := func(kind string, r record, want bool) {
				t.Helper()
				if why := p.gone(&r); (why != "") != want {
					t.Errorf("%s: gone %v (%q), want %v", kind, why != "", why, want)
				}
			}
			check("file", file, c.file)
			check("directory", dir, c.dir)
			check("file of another volume", file.other(), false)
			check("directory of another volume", dir.other(), false)
			if c.withoutIDs {
				for _, r := range []*record{&file, &dir} {
					r.handle, r.fsid = "", 0
				}
				check("imported file", file, c.file)
				check("imported directory", dir, c.dir)
				// Not in the home directory there is no telling a volume by
				// a device number.
				p.home = "/nowhere"
				if c.what == "all above was removed" {
					check("imported file elsewhere", file, false)
				}
			}
		})
	}
}

// A file system without an identity of its own may be another medium.
func TestAMediumWithoutIdentityIsLeftAlone(t *testing.T) {
	home := t.TempDir()
	f := filepath.Join(home, "f")
	r := recordOf(t, f, 0)
	p := newPruner(home)
	if p.gone(&r) == "" {
		t.Fatal("a missing file is not gone")
	}
	p.always = nil
	p.hasIdentity = func(*record) bool { return false }
	if why := p.gone(&r); why != "" {
		t.Error(why)
	}
}

// textValue is a value that is no document's.
func textValue() bus.Value {
	return bus.Value{Signature: "s", Data: []byte("\x04\x00\x00\x00text\x00")}
}

func TestPrune(t *testing.T) {
	home := t.TempDir()
	store, err := permstore.Open(filepath.Join(t.TempDir(), "store"), permstore.Options{Indexes: Indexes()})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	ctx := context.Background()
	put := func(id string, e permstore.Entry) {
		t.Helper()
		if err := store.Update(ctx, func(tx *permstore.Tx) error { return tx.Put(table, id, e) }); err != nil {
			t.Fatal(err)
		}
	}
	ids := func() (s string) {
		store.View(func(tx *permstore.Tx) error {
			return tx.IDs(table, func(id string) bool { s += id + " "; return true })
		})
		return s
	}
	there := filepath.Join(home, "there")
	if err := os.WriteFile(there, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	kept, lost := recordOf(t, there, 0), recordOf(t, filepath.Join(home, "lost"), 0)
	put("kept", permstore.Entry{Data: kept.encode()})
	put("lost", permstore.Entry{Data: lost.encode()})
	put("left", permstore.Entry{Data: (&record{path: there, flags: flagTransient}).encode()})
	put("other", permstore.Entry{Data: textValue()})
	for dry := range 2 {
		gone, err := Prune(ctx, store, home, dry == 0)
		if err != nil || len(gone) != 1 || gone[0].ID != "lost" || gone[0].Path != lost.path || gone[0].Why == "" {
			t.Errorf("%+v, %v", gone, err)
		}
		if got, want := ids(), []string{"kept left lost other ", "kept left other "}[dry]; got != want {
			t.Errorf("ids %q, want %q", got, want)
		}
	}
	for n := 1; n >= 0; n-- {
		if got, err := PruneTransient(ctx, store); got != n || err != nil {
			t.Errorf("removed %d, want %d: %v", got, n, err)
		}
	}
	if got := ids(); got != "kept other " {
		t.Errorf("ids %q", got)
	}
}

// An export has the handle in the form that the usual portal compares.
func TestPeerData(t *testing.T) {
	r := recordOf(t, filepath.Join(t.TempDir(), "f"), 0)
	data, err := PeerData(r.encode())
	if err != nil {
		t.Fatal(err)
	}
	if err := data.Check(); err != nil {
		t.Fatal(err)
	}
	handle := r.handle[4:]
	if got := string(data.Data[len(data.Data)-len(handle):]); got != handle {
		t.Errorf("handle %x, want %x", got, handle)
	}
	back, err := decode(data)
	if err != nil {
		t.Fatal(err)
	}
	r.handle, r.fsid = "", 0
	if back != r {
		t.Errorf("read %+v, want %+v", back, r)
	}
	// What is in that form already, or no document, stays as it is.
	for _, v := range []struct{ sig, data string }{{data.Signature, string(data.Data)}, {"s", string(textValue().Data)}} {
		in := data
		in.Signature, in.Data = v.sig, []byte(v.data)
		if out, err := PeerData(in); err != nil || out.Signature != v.sig || string(out.Data) != v.data {
			t.Errorf("%q became %q, %v", v.data, out.Data, err)
		}
	}
}
