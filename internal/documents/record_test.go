package documents

import (
	"encoding/binary"
	"path"
	"strings"
	"testing"

	"docportal/internal/bus"
	"docportal/internal/permstore"
)

func TestRecordComesBack(t *testing.T) {
	for _, r := range []record{
		{path: "/a", dev: 1, ino: 2, flags: flagUnique},
		{path: "/home/user/Documents/f", dev: 1 << 40, ino: 1 << 50, flags: flagTransient | flagDirectory, handle: "\x01\x00\x00\x00abcdefgh", fsid: 1<<63 + 5},
		{path: "/x/" + strings.Repeat("y", 255), dev: 3, ino: 4, handle: "\x81\x00\x00\x00z", fsid: 7},
		{path: "/not utf-8 \xff", dev: 3, ino: 4},
	} {
		got, err := decode(r.encode())
		if err != nil || got != r {
			t.Errorf("%+v came back as %+v, %v", r, got, err)
		}
	}
}

// TestOldRecords: entries written by the usual portal, in both its forms.
func TestOldRecords(t *testing.T) {
	want := record{path: "/home/user/f", dev: 0xfe00, ino: 0x9aa923, flags: flagUnique}
	v := want.encode()
	old := bus.Value{Signature: "(ayttu)", Data: v.Data[:len(v.Data)-4]}
	if got, err := decode(old); err != nil || got != want {
		t.Errorf("five members: %+v, %v", got, err)
	}
	raw := append(old.Data[:len(old.Data):len(old.Data)], 8, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8)
	if got, err := decode(bus.Value{Signature: "(ayttuay)", Data: raw}); err != nil || got != want {
		t.Errorf("a handle without its type is none: %+v, %v", got, err)
	}
}

func TestBadRecords(t *testing.T) {
	text := func(p string) bus.Value {
		b := binary.LittleEndian.AppendUint32(nil, uint32(len(p)))
		b = append(b, p...)
		for len(b)%8 != 0 {
			b = append(b, 0)
		}
		return bus.Value{Signature: "(ayttu)", Data: append(b, make([]byte, 20)...)}
	}
	for name, v := range map[string]bus.Value{
		"no path":          text(""),
		"only NUL":         text("\x00"),
		"relative":         text("a/b\x00"),
		"the root":         text("/\x00"),
		"not clean":        text("/a/../b\x00"),
		"a slash at end":   text("/a/\x00"),
		"NUL inside":       text("/a\x00b\x00"),
		"another type":     {Signature: "y", Data: []byte{0}},
		"empty":            {Signature: "(ayttuay)"},
		"too long an ay":   {Signature: "(ayttu)", Data: []byte{0xff, 0xff, 0xff, 0xff, 'a'}},
		"no handle at all": {Signature: "(ayttuay)", Data: text("/a\x00").Data},
	} {
		if r, err := decode(v); err == nil {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if _, err := decode(text("/a/b\x00")); err != nil {
		t.Error("the good one: ", err)
	}
}

// TestWhereADocumentCanBe tries all short names.
func TestWhereADocumentCanBe(t *testing.T) {
	all := []string{""}
	for len(all[0]) < 7 {
		var longer []string
		for _, p := range all {
			want := strings.HasPrefix(p, "/") && p != "/" && path.Clean(p) == p && !strings.Contains(p, "\x00")
			if isPlace([]byte(p)) != want {
				t.Errorf("%q: %v", p, !want)
			}
			for _, c := range []string{"/", ".", "a", "\x00"} {
				longer = append(longer, p+c)
			}
		}
		all = longer
	}
}

func FuzzDecode(f *testing.F) {
	f.Add("(ayttuay)", (&record{path: "/a/b", handle: "\x01\x00\x00\x00abc", fsid: 9}).encode().Data)
	f.Add("(ayttu)", []byte{3, 0, 0, 0, '/', 'a', 0})
	f.Fuzz(func(t *testing.T, signature string, data []byte) {
		r, err := decode(bus.Value{Signature: signature, Data: data})
		if p, ok := pathOf([]byte(signature), data); ok != (err == nil) || ok && string(p) != r.path {
			t.Fatalf("the path is %q, %v; of %+v, %v", p, ok, r, err)
		}
		if err != nil {
			return
		}
		if path.Clean(r.path) != r.path || r.path[0] != '/' || r.path == "/" || strings.Contains(r.path, "\x00") {
			t.Fatalf("the path %q", r.path)
		}
		again, err := decode(r.encode())
		if err != nil || again != r {
			t.Fatalf("%+v came back as %+v, %v", r, again, err)
		}
		for _, i := range Indexes() {
			place := i.Name == indexPath || i.Name == indexIdentity
			if place && len(i.Keys("id", permstore.Entry{Data: r.encode()})) != 1 {
				t.Fatal("a document without a key in the index ", i.Name)
			}
		}
	})
}

// TestSamePlace: which documents adding a file again finds.
func TestSamePlace(t *testing.T) {
	full := record{path: "/a", dev: 1, ino: 2, handle: "\x01\x00\x00\x00h", fsid: 3}
	with := func(change func(*record)) record { r := full; change(&r); return r }
	for name, c := range map[string]struct {
		a, b record
		want bool
	}{
		"itself":                                 {full, full, true},
		"another path":                           {full, with(func(r *record) { r.path = "/b" }), false},
		"other flags":                            {full, with(func(r *record) { r.flags = flagUnique }), false},
		"renumbered, same handle":                {full, with(func(r *record) { r.dev, r.ino = 5, 6 }), true},
		"another handle":                         {full, with(func(r *record) { r.handle = "\x01\x00\x00\x00i" }), false},
		"another type of handle":                 {full, with(func(r *record) { r.handle = "\x02\x00\x00\x00h" }), false},
		"another file system":                    {full, with(func(r *record) { r.fsid = 4 }), false},
		"imported without handle, renumbered":    {full, with(func(r *record) { r.dev, r.handle, r.fsid = 9, "", 0 }), true},
		"imported without handle, another inode": {full, with(func(r *record) { r.ino, r.handle, r.fsid = 9, "", 0 }), false},
		"no handles":                             {record{path: "/a", dev: 1, ino: 2}, record{path: "/a", dev: 1, ino: 2}, true},
		"no handles, another device":             {record{path: "/a", dev: 1, ino: 2}, record{path: "/a", dev: 3, ino: 2}, false},
	} {
		if got := c.a.same(&c.b); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
		if got := c.b.same(&c.a); got != c.want {
			t.Errorf("%s, the other way round: %v", name, got)
		}
	}
}
