package bus

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"unicode/utf8"
)

// decodeBody decodes a whole message body of a valid signature into the types
// that Method lists.
func decodeBody(order binary.ByteOrder, sig string, body []byte) ([]any, error) {
	d := decoder{order: order, data: body}
	var args []any
	for sig != "" {
		var first string
		first, sig = nextType(sig)
		arg, err := decodeArg(&d, first)
		if err != nil {
			return nil, err
		}
		args = append(args, arg)
	}
	if d.pos != len(body) {
		return nil, errors.New("bytes after the last argument")
	}
	return args, nil
}

// decodeArg decodes one argument. A type that Method does not list becomes a
// Value of that very type.
func decodeArg(d *decoder, typ string) (any, error) {
	switch typ {
	case "y":
		return d.byte()
	case "b":
		return d.bool()
	case "u":
		return d.uint32()
	case "h":
		u, err := d.uint32()
		return FD(u), err
	case "s":
		return d.string()
	case "o":
		b, err := d.rawString(true)
		return string(b), err
	case "ay":
		return d.bytes()
	case "as":
		return d.strings()
	case "ah":
		end, err := d.array('h')
		if err != nil {
			return nil, err
		}
		fds := make([]FD, 0, min((end-d.pos)/4, maxPassedFD))
		for d.pos < end {
			u, err := d.uint32()
			if err != nil {
				return nil, err
			}
			fds = append(fds, FD(u))
		}
		if d.pos != end {
			return nil, errShort
		}
		return fds, nil
	case "v":
		return d.variant(1)
	case "a{sas}":
		return decodeDict(d, maxEntries, d.strings)
	case "a{say}": // no argument, but the answer to a List
		return decodeDict(d, math.MaxInt, d.bytes)
	case "a{sv}":
		return decodeDict(d, maxEntries, func() (Value, error) { return d.variant(3) })
	}
	return d.value(typ, 0)
}

func (d *decoder) bytes() ([]byte, error) {
	end, err := d.array('y')
	if err != nil {
		return nil, err
	}
	b, err := d.take(end - d.pos)
	return slices.Clone(b), err
}

func (d *decoder) strings() ([]string, error) {
	var list []string
	err := d.each('s', func() error {
		s, err := d.string()
		if list = append(list, s); len(list) > maxStrings {
			return fmt.Errorf("an array of more than %d strings", maxStrings)
		}
		return err
	})
	return list, err
}

// variant reads a variant's content, whose depth in the message is given.
func (d *decoder) variant(depth int) (Value, error) {
	sig, err := d.signature()
	if err != nil {
		return Value{}, err
	}
	if err := checkSingle(sig); err != nil {
		return Value{}, err
	}
	return d.value(sig, depth)
}

func (d *decoder) value(typ string, depth int) (Value, error) {
	var e encoder
	err := copyType(&e, d, typ, depth)
	return Value{typ, e.buf}, err
}

// maxEntries and maxStrings bound arguments of which there is no use for more:
// what takes a few bytes in a message takes ten times as many when it is
// decoded.
const (
	maxEntries = 1 << 16 // of a dictionary
	maxStrings = 1 << 19 // of an array
)

func decodeDict[T any](d *decoder, limit int, value func() (T, error)) (map[string]T, error) {
	m := make(map[string]T)
	err := d.each('{', func() error {
		if len(m) >= limit {
			return fmt.Errorf("a dictionary of more than %d entries", limit)
		}
		k, err := d.string()
		if err != nil {
			return err
		}
		// Which of two counts is anybody's guess, and permissions are at stake.
		if _, twice := m[k]; twice {
			return fmt.Errorf("a dictionary has the key %q twice", k)
		}
		m[k], err = value()
		return err
	})
	return m, err
}

// encodeBody encodes arguments by a valid signature.
func encodeBody(sig string, args []any) ([]byte, error) {
	var e encoder
	for i, arg := range args {
		if sig == "" {
			return nil, fmt.Errorf("%d arguments are too many", len(args))
		}
		var first string
		first, sig = nextType(sig)
		if err := encodeArg(&e, first, arg); err != nil {
			return nil, fmt.Errorf("argument %d: %w", i, err)
		}
	}
	if sig != "" {
		return nil, fmt.Errorf("no argument for %q", sig)
	}
	return e.buf, nil
}

// encodeArg encodes one argument. Dictionaries are sorted by key so that equal
// values are equal bytes.
func encodeArg(e *encoder, typ string, arg any) error {
	e.align(alignment(typ[0]))
	if !fitsValue(typ, arg) {
		return fmt.Errorf("a %T cannot be sent as %q", arg, typ)
	}
	switch arg := arg.(type) {
	case byte:
		e.byte(arg)
	case bool:
		e.bool(arg)
	case uint32:
		e.uint32(arg)
	case FD:
		e.uint32(uint32(arg))
	case string:
		if typ == "o" && !validPath(arg) {
			return fmt.Errorf("%q is not an object path", arg)
		}
		return e.string(arg)
	case []byte:
		return e.bytes(arg)
	case []string:
		return e.strings(arg)
	case []FD:
		return e.array('h', func() error {
			for _, fd := range arg {
				e.uint32(uint32(fd))
			}
			return nil
		})
	case map[string][]string:
		return encodeDict(e, arg, e.strings)
	case map[string][]byte:
		return encodeDict(e, arg, e.bytes)
	case map[string]Value:
		return encodeDict(e, arg, e.variant)
	case Value:
		if typ == "v" {
			return e.variant(arg)
		}
		return e.value(arg)
	}
	return nil
}

// ByteDict is a result of type a{say} that is made entry by entry, for what is
// too large to be held twice; a method returns it by itself. Its keys are the
// maker's to keep apart. The zero ByteDict is empty and ready; one of Call.Dict
// costs less.
type ByteDict struct {
	full [][]byte // each a multiple of 8 bytes
	size int      // of those
	last encoder
	pool *sync.Pool // of pieces; nil: there is none
	lent []*piece   // from the pool
}

// piece is what lies together of a ByteDict: what grows is not moved, nor
// cleared by the kernel more than once.
type piece [64 << 10]byte

// maxLent is how many pieces of one answer are used again. The rest of a
// greater one is left to the collector as it is sent.
const maxLent = 32

// Add adds an entry; value gets the NUL of a path at its end.
func (d *ByteDict) Add(key, path []byte) error {
	if d.last.buf == nil {
		d.begin()
	}
	need := len(key) + len(path) + 32 // with lengths and padding
	if d.size+len(d.last.buf)+need > maxArray {
		return errors.New("a dictionary of more than 64 MiB; D-Bus carries no more")
	}
	if !utf8.Valid(key) || bytes.IndexByte(key, 0) >= 0 {
		return fmt.Errorf("%q is not text that D-Bus can carry", key)
	}
	e := encoder{d.last.buf} // written back once
	e.align(8)
	if n := len(e.buf); n+need > cap(e.buf) {
		d.full, d.size = append(d.full, e.buf), d.size+n
		e.buf = d.room(need)
	}
	e.uint32(uint32(len(key)))
	e.buf = append(append(e.buf, key...), 0)
	e.uint32(uint32(len(path) + 1))
	e.buf = append(append(e.buf, path...), 0)
	d.last.buf = e.buf
	return nil
}

// room is an empty buffer for at least need bytes.
func (d *ByteDict) room(need int) []byte {
	switch {
	case need > len(piece{}):
		return make([]byte, 0, need)
	case d.pool == nil || len(d.lent) >= maxLent:
		return make([]byte, 0, len(piece{}))
	}
	p, ok := d.pool.Get().(*piece)
	if !ok {
		p = new(piece)
	}
	d.lent = append(d.lent, p)
	return p[:0]
}

func (d *ByteDict) begin() {
	d.last.buf = make([]byte, 8, 4096) // its length, and padding
}

// pieces returns the marshalled dictionary, which is at an end then, and what of
// it goes back to the pool when it is sent.
func (d *ByteDict) pieces() ([][]byte, []*piece) {
	if d.last.buf == nil {
		d.begin()
	}
	all := append(d.full, d.last.buf)
	binary.LittleEndian.PutUint32(all[0], uint32(d.size+len(d.last.buf)-8))
	lent := d.lent
	*d = ByteDict{}
	return all, lent
}

// encodeResults is encodeBody for the results of a method, in pieces; those that
// are lent go back to the pool of pieces when they are sent.
func encodeResults(sig string, results []any) (body [][]byte, lent []*piece, err error) {
	if len(results) == 1 && sig == "a{say}" {
		if d, ok := results[0].(*ByteDict); ok {
			body, lent = d.pieces()
			return body, lent, nil
		}
	}
	one, err := encodeBody(sig, results)
	return [][]byte{one}, nil, err
}

func (e *encoder) bytes(b []byte) error {
	if len(b) > maxArray {
		return fmt.Errorf("an array of %d bytes; D-Bus carries 64 MiB", len(b))
	}
	return e.array('y', func() error {
		e.buf = append(e.buf, b...)
		return nil
	})
}

func (e *encoder) strings(list []string) error {
	return e.array('s', func() error {
		for _, s := range list {
			if err := e.string(s); err != nil {
				return err
			}
		}
		return nil
	})
}

func (e *encoder) variant(v Value) error {
	if err := checkSingle(v.Signature); err != nil {
		return err
	}
	e.signature(v.Signature)
	return e.value(v)
}

func (e *encoder) value(v Value) error {
	d := decoder{order: binary.LittleEndian, data: v.Data}
	if err := copyType(e, &d, v.Signature, 0); err != nil {
		return err
	}
	if d.pos != len(d.data) {
		return errors.New("bytes after the value")
	}
	return nil
}

func encodeDict[T any](e *encoder, m map[string]T, value func(T) error) error {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return e.array('{', func() error {
		for _, k := range keys {
			e.align(8)
			if err := e.string(k); err != nil {
				return err
			}
			if err := value(m[k]); err != nil {
				return err
			}
		}
		return nil
	})
}

// fitsValue reports whether a Go value can be sent as the type typ.
func fitsValue(typ string, arg any) bool {
	switch arg := arg.(type) {
	case byte:
		return typ == "y"
	case bool:
		return typ == "b"
	case uint32:
		return typ == "u"
	case FD:
		return typ == "h"
	case string:
		return typ == "s" || typ == "o"
	case []byte:
		return typ == "ay"
	case []string:
		return typ == "as"
	case []FD:
		return typ == "ah"
	case map[string][]string:
		return typ == "a{sas}"
	case map[string][]byte:
		return typ == "a{say}"
	case map[string]Value:
		return typ == "a{sv}"
	case Value:
		return typ == "v" || typ == arg.Signature
	}
	return false
}

// fits reports whether what decodeArg makes of typ can be stored in dst.
func fits(typ string, dst any) bool {
	switch dst.(type) {
	case *byte:
		return typ == "y"
	case *bool:
		return typ == "b"
	case *uint32:
		return typ == "u"
	case *FD:
		return typ == "h"
	case *string:
		return typ == "s" || typ == "o"
	case *[]byte:
		return typ == "ay"
	case *[]string:
		return typ == "as"
	case *[]FD:
		return typ == "ah"
	case *map[string][]string:
		return typ == "a{sas}"
	case *map[string][]byte:
		return typ == "a{say}"
	case *map[string]Value:
		return typ == "a{sv}"
	case *Value:
		return typ == "v" || !listed(typ)
	}
	return false
}

// listed reports whether a type has a Go type of its own in Method's list.
func listed(typ string) bool {
	switch typ {
	case "y", "b", "u", "h", "s", "o", "ay", "as", "ah", "v", "a{sas}", "a{say}", "a{sv}":
		return true
	}
	return false
}

// store stores what decodeArg returned for a type that fits dst.
func store(dst, arg any) {
	switch dst := dst.(type) {
	case *byte:
		*dst = arg.(byte)
	case *bool:
		*dst = arg.(bool)
	case *uint32:
		*dst = arg.(uint32)
	case *FD:
		*dst = arg.(FD)
	case *string:
		*dst = arg.(string)
	case *[]byte:
		*dst = arg.([]byte)
	case *[]string:
		*dst = arg.([]string)
	case *[]FD:
		*dst = arg.([]FD)
	case *map[string][]string:
		*dst = arg.(map[string][]string)
	case *map[string][]byte:
		*dst = arg.(map[string][]byte)
	case *map[string]Value:
		*dst = arg.(map[string]Value)
	case *Value:
		*dst = arg.(Value)
	}
}
