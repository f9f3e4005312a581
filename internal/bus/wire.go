package bus

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Limits of the D-Bus specification ("Message Format", "Valid Signatures").
const (
	maxMessage  = 128 << 20 // bytes of a whole message
	maxArray    = 64 << 20  // bytes of an array
	maxDepth    = 64        // containers in containers, variants counted
	maxPassedFD = 253       // descriptors of one message (SCM_MAX_FD of Linux)
)

var errShort = errors.New("the message body ends early")

// decoder walks marshalled data. Its data begins at an offset of the message
// that is a multiple of 8, so that alignment is relative to it.
type decoder struct {
	order binary.ByteOrder
	data  []byte
	pos   int
}

func (d *decoder) align(n int) error {
	p := (d.pos + n - 1) &^ (n - 1)
	if p > len(d.data) {
		return errShort
	}
	d.pos = p
	return nil
}

func (d *decoder) take(n int) ([]byte, error) {
	if n > len(d.data)-d.pos {
		return nil, errShort
	}
	b := d.data[d.pos : d.pos+n]
	d.pos += n
	return b, nil
}

func (d *decoder) uint32() (uint32, error) {
	if err := d.align(4); err != nil {
		return 0, err
	}
	b, err := d.take(4)
	if err != nil {
		return 0, err
	}
	return d.order.Uint32(b), nil
}

func (d *decoder) bool() (bool, error) {
	u, err := d.uint32()
	if err == nil && u > 1 {
		err = fmt.Errorf("boolean %d", u)
	}
	return u == 1, err
}

func (d *decoder) byte() (byte, error) {
	b, err := d.take(1)
	if err != nil {
		return 0, err
	}
	return b[0], nil
}

// text reads the bytes of a string of length n and its NUL.
func (d *decoder) text(n uint32) ([]byte, error) {
	if n >= maxMessage {
		return nil, errShort
	}
	b, err := d.take(int(n) + 1)
	if err != nil {
		return nil, err
	}
	if b[n] != 0 {
		return nil, errors.New("a string does not end with NUL")
	}
	return b[:n], nil
}

// rawString reads a string or object path, both checked.
func (d *decoder) rawString(path bool) ([]byte, error) {
	n, err := d.uint32()
	if err != nil {
		return nil, err
	}
	b, err := d.text(n)
	if err != nil {
		return nil, err
	}
	if path {
		if !validPath(string(b)) {
			return nil, errors.New("not an object path")
		}
		return b, nil
	}
	return b, checkText(b)
}

func checkText(b []byte) error {
	if !utf8.Valid(b) {
		return errors.New("a string is not UTF-8")
	}
	for _, c := range b {
		if c == 0 {
			return errors.New("a string contains NUL")
		}
	}
	return nil
}

func (d *decoder) string() (string, error) {
	b, err := d.rawString(false)
	return string(b), err
}

func (d *decoder) signature() (string, error) {
	n, err := d.byte()
	if err != nil {
		return "", err
	}
	b, err := d.text(uint32(n))
	if err != nil {
		return "", err
	}
	return string(b), checkSignature(string(b))
}

// array reads the head of an array whose elements begin with the type c, and
// returns the offset of its end.
func (d *decoder) array(c byte) (end int, err error) {
	n, err := d.uint32()
	if err != nil {
		return 0, err
	}
	if n > maxArray {
		return 0, errors.New("an array is longer than 64 MiB")
	}
	if err := d.align(alignment(c)); err != nil {
		return 0, err
	}
	if int(n) > len(d.data)-d.pos {
		return 0, errShort
	}
	return d.pos + int(n), nil
}

// each calls fn for each element of an array whose elements begin with the
// type c. fn must read one element.
func (d *decoder) each(c byte, fn func() error) error {
	end, err := d.array(c)
	if err != nil {
		return err
	}
	// An element that reaches past the array's end must not read what follows.
	whole := d.data
	d.data = whole[:end]
	for d.pos < end && err == nil {
		if err = d.align(alignment(c)); err == nil {
			err = fn()
		}
	}
	d.data = whole
	return err
}

// encoder writes marshalled data in the host-independent form that Value has:
// little-endian, padding zero.
type encoder struct{ buf []byte }

var zeros [8]byte

func (e *encoder) align(n int) {
	e.buf = append(e.buf, zeros[:-len(e.buf)&(n-1)]...)
}

func (e *encoder) byte(b byte) { e.buf = append(e.buf, b) }

func (e *encoder) uint32(u uint32) {
	e.align(4)
	e.buf = binary.LittleEndian.AppendUint32(e.buf, u)
}

func (e *encoder) bool(b bool) {
	if b {
		e.uint32(1)
	} else {
		e.uint32(0)
	}
}

// text writes a string without looking at it.
func (e *encoder) text(s string) {
	e.uint32(uint32(len(s)))
	e.buf = append(e.buf, s...)
	e.buf = append(e.buf, 0)
}

func (e *encoder) string(s string) error {
	if !utf8.ValidString(s) || strings.IndexByte(s, 0) >= 0 {
		return fmt.Errorf("%q is not text that D-Bus can carry", s)
	}
	e.text(s)
	return nil
}

func (e *encoder) signature(s string) {
	e.buf = append(e.buf, byte(len(s)))
	e.buf = append(e.buf, s...)
	e.buf = append(e.buf, 0)
}

// array writes an array whose elements begin with the type c; fn writes the
// elements.
func (e *encoder) array(c byte, fn func() error) error {
	e.uint32(0)
	at := len(e.buf) - 4
	e.align(alignment(c))
	start := len(e.buf)
	if err := fn(); err != nil {
		return err
	}
	n := len(e.buf) - start
	if n > maxArray {
		return fmt.Errorf("an array of %d bytes; D-Bus carries 64 MiB", n)
	}
	binary.LittleEndian.PutUint32(e.buf[at:], uint32(n))
	return nil
}

// copyType copies one value of a valid complete type from d to e, checks all
// of it, and brings it into e's form.
func copyType(e *encoder, d *decoder, typ string, depth int) error {
	if depth > maxDepth {
		return errors.New("nested deeper than 64 levels")
	}
	if err := d.align(alignment(typ[0])); err != nil {
		return err
	}
	e.align(alignment(typ[0]))
	switch c := typ[0]; c {
	case 'b':
		b, err := d.bool()
		if err != nil {
			return err
		}
		e.bool(b)
	case 'y', 'n', 'q', 'i', 'u', 'h', 'x', 't', 'd':
		return copyFixed(e, d, c, fixedSize(c))
	case 's', 'o':
		b, err := d.rawString(c == 'o')
		if err != nil {
			return err
		}
		e.uint32(uint32(len(b)))
		e.buf = append(append(e.buf, b...), 0)
	case 'g':
		s, err := d.signature()
		if err != nil {
			return err
		}
		e.signature(s)
	case 'v':
		s, err := d.signature()
		if err != nil {
			return err
		}
		if err := checkSingle(s); err != nil {
			return err
		}
		e.signature(s)
		return copyType(e, d, s, depth+1)
	case 'a':
		elem := typ[1:]
		if n := fixedSize(elem[0]); n != 0 && elem[0] != 'b' {
			return copyFixedArray(e, d, elem[0], n)
		}
		return e.array(elem[0], func() error {
			return d.each(elem[0], func() error { return copyType(e, d, elem, depth+1) })
		})
	case '(', '{':
		members := typ[1 : len(typ)-1]
		for members != "" {
			var first string
			first, members = nextType(members)
			if err := copyType(e, d, first, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// copyFixed copies n bytes of values of the fixed-size type c, both sides
// being aligned.
func copyFixed(e *encoder, d *decoder, c byte, n int) error {
	b, err := d.take(n)
	if err != nil {
		return err
	}
	size := fixedSize(c)
	if size == 1 || d.order == binary.LittleEndian {
		e.buf = append(e.buf, b...)
		return nil
	}
	for i := 0; i < n; i += size {
		for j := size - 1; j >= 0; j-- {
			e.buf = append(e.buf, b[i+j])
		}
	}
	return nil
}

func copyFixedArray(e *encoder, d *decoder, c byte, size int) error {
	end, err := d.array(c)
	if err != nil {
		return err
	}
	n := end - d.pos
	if n%size != 0 {
		return errors.New("the length of an array is not a multiple of its element")
	}
	return e.array(c, func() error { return copyFixed(e, d, c, n) })
}
