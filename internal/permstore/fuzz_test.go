package permstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"docportal/internal/bus"

	"golang.org/x/sys/unix"
)

// FuzzRecord reads any bytes as a record, with a checksum that fits: what is
// accepted is an entry that comes back from its own record.
func FuzzRecord(f *testing.F) {
	key := entryKey("t", "id")
	for _, e := range []*Entry{
		{Data: bus.Value{Signature: "s", Data: []byte("\x01\x00\x00\x00x\x00")}, Permissions: map[string][]string{"a.b": {"yes", ""}, "": nil}},
		{},
	} {
		f.Add(encode(key, 7, e)[4:])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		record := append(binary.LittleEndian.AppendUint32(nil, checksum(key, body)), body...)
		e, txid, err := decode(key, record)
		if err != nil {
			return
		}
		again, other, err := decode(key, encode(key, txid, e))
		if err != nil || other != txid || !reflect.DeepEqual(e, again) {
			t.Fatalf("%+v (%d) came back as %+v (%d), %v", e, txid, again, other, err)
		}
		sameEntry(record, encode(key, txid+1, e))
	})
}

// FuzzRow takes any bytes for the rest of an index row: what is accepted is
// spelt in no other way, and every key comes back.
func FuzzRow(f *testing.F) {
	f.Add([]byte("key\x00\x01id"))
	f.Add([]byte("k\x00\xffey\x00\x01"))
	f.Fuzz(func(t *testing.T, row []byte) {
		if key, id, ok := cutKey(row); ok && !bytes.Equal(append(appendKey(nil, key), id...), row) {
			t.Fatalf("%q is %q and %q", row, key, id)
		}
		if key, id, ok := cutKey(append(appendKey(nil, row), "id"...)); !ok || !bytes.Equal(key, row) || string(id) != "id" {
			t.Fatalf("%q came back as %q and %q, %v", row, key, id, ok)
		}
		splitKey(row)
	})
}

// FuzzNesting: whatever is no value is an error, and no value is malformed.
func FuzzNesting(f *testing.F) {
	f.Add("a{sv}", []byte("\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01y\x00"))
	f.Add("(a(v)a{yas})", make([]byte, 16))
	f.Add("vv", []byte("\x01v\x00\x01y\x00\x07"))
	f.Fuzz(func(t *testing.T, signature string, data []byte) {
		v := bus.Value{Signature: signature, Data: data}
		_, err := nesting(v)
		if v.Check() != nil {
			return
		}
		if err != nil {
			t.Fatalf("%q % x: %v", signature, data, err)
		}
		checkData(v)
	})
}

// FuzzSalvage damages a file anywhere: reading what is left of it ends, and
// finds nothing that was never written.
func FuzzSalvage(f *testing.F) {
	dir := f.TempDir()
	s, err := Open(dir, Options{})
	if err != nil {
		f.Fatal(err)
	}
	for group := range 4 {
		if err := s.Update(context.Background(), func(tx *Tx) error {
			for n := range 40 {
				e := Entry{Data: bus.Value{Signature: "u", Data: []byte{byte(n), byte(group), 0, 0}}, Permissions: map[string][]string{"org.example.App": {"yes"}}}
				if err := tx.Put("table", fmt.Sprint(n), e); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			f.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		f.Fatal(err)
	}
	image, err := os.ReadFile(filepath.Join(dir, fileName))
	if err != nil {
		f.Fatal(err)
	}
	page := os.Getpagesize()
	for n := range len(image) / page {
		f.Add(uint32(n*page+8), []byte{1, 0, 255, 255, 255, 0, 0, 0}, uint32(0), uint32(0))
		f.Add(uint32(n*page+16), []byte{16, 0, 0, 0, 0, 0, 0, 0, 3}, uint32(n*page), uint32(page/2))
	}
	f.Fuzz(func(t *testing.T, at uint32, by []byte, zeroFrom, cut uint32) {
		damaged := bytes.Clone(image)
		copy(damaged[int(at)%len(damaged):], by)
		if zeroFrom > 0 {
			from := int(zeroFrom) % len(damaged)
			clear(damaged[from:min(from+page, len(damaged))])
		}
		damaged = damaged[:len(damaged)-int(cut)%len(damaged)]
		fd, err := unix.MemfdCreate("store", unix.MFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		file := os.NewFile(uintptr(fd), "store")
		defer file.Close()
		if _, err := file.Write(damaged); err != nil {
			t.Fatal(err)
		}
		v, err := salvageFile(file)
		if err != nil {
			return
		}
		for key, found := range v.entries {
			e, _, err := decode([]byte(key), found.record)
			if err != nil || e.Data.Signature != "u" || len(e.Permissions) != 1 {
				t.Fatalf("%q is %+v, %v", key, e, err)
			}
		}
		if m, ok, _, err := findMeta(file); err == nil && ok {
			checkPages(file, int64(len(damaged)), m)
		}
	})
}
