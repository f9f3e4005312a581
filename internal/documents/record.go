package documents

import (
	"bytes"
	"encoding/binary"
	"errors"
	"path"
	"strings"

	"docportal/internal/bus"
	"docportal/internal/fuse"
)

// Flags of a stored document.
const (
	flagUnique    = 1 // made without reuse: no other call finds it
	flagTransient = 2 // lives in memory only
	flagDirectory = 4 // the document is a directory
)

// record is what is known of a document's place: what was verified when it was
// added. A file document is a name in a known directory, so the identity is
// the directory's; a directory document's identity is its own.
type record struct {
	path     string // host path of the file or directory, absolute and clean
	dev, ino uint64
	flags    uint32
	// handle is the type (int32, little-endian) and bytes of
	// name_to_handle_at(2), "" if unknown; fsid belongs to it.
	handle string
	fsid   uint64
}

func (r *record) directory() bool { return r.flags&flagDirectory != 0 }
func (r *record) unique() bool    { return r.flags&flagUnique != 0 }

// dir is the directory that the identity is of.
func (r *record) dir() string {
	if r.directory() {
		return r.path
	}
	return path.Dir(r.path)
}

// view is the record as the file view knows it.
func (r *record) view(id string) *fuse.Document {
	d := &fuse.Document{
		ID:        id,
		Dir:       r.dir(),
		Name:      path.Base(r.path),
		Directory: r.directory(),
		DirID:     fuse.FileID{Dev: r.dev, Ino: r.ino},
	}
	if r.handle != "" {
		d.DirID.Handle = []byte(r.handle)
		d.DirID.FSID = r.fsid
	}
	return d
}

// same reports whether two records stand for the same place under the same
// rules.
func (r *record) same(o *record) bool {
	return r.path == o.path && r.flags == o.flags && r.sameThere(o)
}

// sameThere reports whether two records of one path have the same directory
// there. A record that was imported without a handle may be from before a
// reboot, which renumbers devices: then the inode number alone decides.
func (r *record) sameThere(o *record) bool {
	if (r.handle == "") != (o.handle == "") {
		return r.ino == o.ino
	}
	return r.sameDirectory(o)
}

// sameDirectory reports whether two records have the same directory, by
// whatever path. Handles decide where both have one.
func (r *record) sameDirectory(o *record) bool {
	if r.handle != "" && o.handle != "" {
		return r.handle == o.handle && r.fsid == o.fsid
	}
	return r.dev == o.dev && r.ino == o.ino
}

// The data of an entry in the table is "(ayttuay)": path with a NUL, device and
// inode number, flags, handle; "(ayttu)" is the older form without a handle.
// The device and inode are those of the directory (dir).
//
// The handle is written as handleMagic, the handle's type (int32), f_fsid
// (uint64), both little-endian, and the handle's bytes. The usual document
// portal stores the bytes alone: without type and file system they identify
// nothing, so such a handle is read as none and the record is refreshed when
// the document is added again.
const (
	signature    = "(ayttuay)"
	oldSignature = "(ayttu)"
	handleMagic  = "\xffFH1"
)

var errData = errors.New("not a document's data")

// encode returns the record as the data of an entry.
func (r *record) encode() bus.Value {
	le := binary.LittleEndian
	b := make([]byte, 0, len(r.path)+len(r.handle)+64)
	b = le.AppendUint32(b, uint32(len(r.path)+1))
	b = append(b, r.path...)
	b = append(b, 0)
	for len(b)%8 != 0 {
		b = append(b, 0)
	}
	b = le.AppendUint64(b, r.dev)
	b = le.AppendUint64(b, r.ino)
	b = le.AppendUint32(b, r.flags)
	if len(r.handle) < 4 {
		return bus.Value{Signature: signature, Data: le.AppendUint32(b, 0)}
	}
	b = le.AppendUint32(b, uint32(len(handleMagic)+8+len(r.handle)))
	b = append(b, handleMagic...)
	b = append(b, r.handle[:4]...)
	b = le.AppendUint64(b, r.fsid)
	b = append(b, r.handle[4:]...)
	return bus.Value{Signature: signature, Data: b}
}

// decode reads the data of an entry, which may come from anywhere.
func decode(v bus.Value) (record, error) {
	p, numbers, h, ok := takeApart([]byte(v.Signature), v.Data)
	if !ok {
		return record{}, errData
	}
	le := binary.LittleEndian
	r := record{path: string(p), dev: le.Uint64(numbers), ino: le.Uint64(numbers[8:]), flags: le.Uint32(numbers[16:])}
	if h, ok := bytes.CutPrefix(h, []byte(handleMagic)); ok && len(h) > 12 {
		r.fsid = le.Uint64(h[4:])
		r.handle = string(h[:4]) + string(h[12:])
	}
	return r, nil
}

// pathOf is the path in the data of an entry, and whether decode would read it.
func pathOf(sig, data []byte) (p []byte, ok bool) {
	p, _, _, ok = takeApart(sig, data)
	return p, ok
}

// takeApart finds what the data of an entry is made of: the path without its
// NUL, device, inode and flags, and the handle, empty in the older form.
func takeApart(sig, data []byte) (p, numbers, handle []byte, ok bool) {
	older := string(sig) == oldSignature
	if !older && string(sig) != signature {
		return nil, nil, nil, false
	}
	p, rest, ok := bytesOf(data)
	if !ok {
		return nil, nil, nil, false
	}
	if pad := -(4 + len(p)) & 7; pad <= len(rest) {
		rest = rest[pad:]
	}
	if len(rest) < 20 {
		return nil, nil, nil, false
	}
	numbers, rest = rest[:20], rest[20:]
	if !older {
		if handle, _, ok = bytesOf(rest); !ok {
			return nil, nil, nil, false
		}
	}
	p = bytes.TrimSuffix(p, []byte{0})
	return p, numbers, handle, isPlace(p)
}

// isPlace reports whether a document can be at p: absolute, spelt as
// path.Clean does, not the root, without NUL.
func isPlace(p []byte) bool {
	if len(p) < 2 || p[0] != '/' || bytes.IndexByte(p, 0) >= 0 {
		return false
	}
	p = p[1:]
	for more := true; more; {
		var name []byte
		name, p, more = bytes.Cut(p, []byte{'/'})
		if len(name) == 0 || name[0] == '.' && (len(name) == 1 || len(name) == 2 && name[1] == '.') {
			return false
		}
	}
	return true
}

// bytesOf cuts an "ay" off the front of b.
func bytesOf(b []byte) (value, rest []byte, ok bool) {
	if len(b) < 4 {
		return nil, nil, false
	}
	n := uint64(binary.LittleEndian.Uint32(b))
	if n > uint64(len(b)-4) {
		return nil, nil, false
	}
	return b[4 : 4+n], b[4+n:], true
}

// Stored reads the data of an entry in the permission store's table of
// documents: whether it is a document's, and that of a directory.
func Stored(data bus.Value) (ok, directory bool) {
	r, err := decode(data)
	return err == nil, err == nil && r.directory()
}

// pathValue is how a path leaves on the bus: bytes with a trailing NUL.
func pathValue(p string) []byte { return append([]byte(p), 0) }

// pathArgument reads a path or name argument, whose trailing NUL is optional.
func pathArgument(b []byte) string { return strings.TrimSuffix(string(b), "\x00") }
