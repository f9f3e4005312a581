package permstore

import (
	"encoding/binary"
	"hash/crc32"
	"sort"
	"strings"
	"unicode/utf8"

	"docportal/internal/bus"
)

// Limits of an entry and of its names, in bytes unless said otherwise.
const (
	MaxName    = 255     // a table or an app
	MaxID      = 4 << 10 // an id
	MaxData    = 64 << 10
	MaxApps    = 8192    // apps of one entry
	MaxNesting = 64      // containers inside each other in an entry's data
	maxEntry   = 4 << 20 // a whole entry: bounds the words
	maxKey     = 8 << 10 // one key of a secondary index
)

// CheckTable says whether a table name is valid; the error is an InvalidError.
func CheckTable(table string) error {
	if table == "" {
		return invalid("the table name is empty")
	}
	return checkName("table", table)
}

// CheckApp says whether an app's name is valid. The empty app is.
func CheckApp(app string) error { return checkName("app", app) }

func checkName(what, name string) error {
	switch {
	case len(name) > MaxName:
		return invalid("the %s name is longer than %d bytes", what, MaxName)
	case name == "." || name == "..":
		return invalid("%q is no %s name", name, what)
	case strings.ContainsAny(name, "/\x00"):
		return invalid("the %s name has a slash or a NUL in it", what)
	case !utf8.ValidString(name):
		return invalid("the %s name is not UTF-8", what)
	}
	return nil
}

// CheckID says whether an id is valid.
func CheckID(id string) error {
	switch {
	case id == "":
		return invalid("the id is empty")
	case len(id) > MaxID:
		return invalid("the id is longer than %d bytes", MaxID)
	case strings.IndexByte(id, 0) >= 0:
		return invalid("the id has a NUL in it")
	case !utf8.ValidString(id):
		return invalid("the id is not UTF-8")
	}
	return nil
}

// checkEntry says whether an entry keeps the limits.
func checkEntry(e Entry) error {
	if len(e.Data.Data) > MaxData {
		return invalid("the data is larger than %d bytes", MaxData)
	}
	depth, err := nesting(e.Data)
	if err != nil {
		return err
	}
	if depth > MaxNesting {
		return invalid("the data is nested deeper than %d", MaxNesting)
	}
	if len(e.Permissions) > MaxApps {
		return invalid("the entry has more than %d apps", MaxApps)
	}
	size := len(e.Data.Data)
	for app, words := range e.Permissions {
		if err := CheckApp(app); err != nil {
			return err
		}
		size += len(app) + 4*len(words)
		for _, w := range words {
			if !utf8.ValidString(w) || strings.IndexByte(w, 0) >= 0 {
				return invalid("a permission is not text")
			}
			size += len(w)
		}
		if size > maxEntry {
			return invalid("the entry is larger than %d bytes", maxEntry)
		}
	}
	return nil
}

// clone copies what the caller could change later.
func (e Entry) clone() *Entry {
	c := &Entry{Data: bus.Value{Signature: e.Data.Signature, Data: append([]byte(nil), e.Data.Data...)}}
	c.Permissions = make(map[string][]string, len(e.Permissions))
	for app, words := range e.Permissions {
		c.Permissions[app] = append(make([]string, 0, len(words)), words...)
	}
	return c
}

// An entry's record is
//
//	u32 CRC-32C of the key and of all that follows, little-endian
//	uvarint number of the transaction that wrote it
//	string signature, string data
//	uvarint number of apps, then for each, sorted by bytes:
//	string app, uvarint number of words, string word...
//
// where a string is its length as uvarint and its bytes. The checksum covers
// the key so that a record is never taken for another id's; the transaction
// number says which of several stale records is the newest when a file has to
// be salvaged without its tree.

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(key, body []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, body)
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// encode makes the record of an entry that is stored under key.
func encode(key []byte, txid uint64, e *Entry) []byte {
	b := make([]byte, 4, 64+len(e.Data.Data)+32*len(e.Permissions))
	b = binary.AppendUvarint(b, txid)
	b = appendString(b, e.Data.Signature)
	b = binary.AppendUvarint(b, uint64(len(e.Data.Data)))
	b = append(b, e.Data.Data...)
	apps := make([]string, 0, len(e.Permissions))
	for app := range e.Permissions {
		apps = append(apps, app)
	}
	sort.Strings(apps)
	b = binary.AppendUvarint(b, uint64(len(apps)))
	for _, app := range apps {
		b = appendString(b, app)
		words := e.Permissions[app]
		b = binary.AppendUvarint(b, uint64(len(words)))
		for _, w := range words {
			b = appendString(b, w)
		}
	}
	binary.LittleEndian.PutUint32(b, checksum(key, b[4:]))
	return b
}

// sameEntry reports whether two records hold the same entry, whatever
// transactions wrote them.
func sameEntry(a, b []byte) bool {
	return string(body(a)) == string(body(b))
}

// body is a record without its checksum and transaction number.
func body(record []byte) []byte {
	if len(record) < 5 {
		return nil
	}
	_, n := binary.Uvarint(record[4:])
	if n <= 0 {
		return nil
	}
	return record[4+n:]
}

// decode reads a record; the entry shares nothing with it.
func decode(key, record []byte) (e *Entry, txid uint64, err error) {
	if len(record) < 4 {
		return nil, 0, damaged("record of %q too short", key)
	}
	if binary.LittleEndian.Uint32(record) != checksum(key, record[4:]) {
		return nil, 0, damaged("checksum of %q", key)
	}
	d := decoder{b: record[4:]}
	txid = d.uvarint()
	e = &Entry{}
	e.Data.Signature = d.string()
	e.Data.Data = []byte(d.bytes())
	n := d.count(2)
	e.Permissions = make(map[string][]string, n)
	for range n {
		app := d.string()
		m := d.count(1)
		words := make([]string, 0, m)
		for range m {
			words = append(words, d.string())
		}
		e.Permissions[app] = words
	}
	if d.bad || len(d.b) != 0 {
		return nil, 0, damaged("record of %q", key)
	}
	return e, txid, nil
}

type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

// count reads a number of things of at least size bytes each.
func (d *decoder) count(size int) int {
	n := d.uvarint()
	if n > uint64(len(d.b)/size) {
		d.bad, d.b = true, nil
		return 0
	}
	return int(n)
}

func (d *decoder) bytes() []byte {
	n := d.count(1)
	v := d.b[:n:n]
	d.b = d.b[n:]
	return append([]byte(nil), v...)
}

func (d *decoder) string() string {
	n := d.count(1)
	v := string(d.b[:n])
	d.b = d.b[n:]
	return v
}
