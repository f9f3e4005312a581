package gvdb

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"

	"docportal/internal/bus"
)

var (
	errSize    = errors.New("a value of the wrong size")
	errFraming = errors.New("framing offsets out of order or out of bounds")
	errEarly   = errors.New("marshalled data ends early")
)

// fromVariant returns the content of a serialized GVariant of type v. Padding
// is not looked at; else only the normal form is taken, so that nothing is
// ever guessed.
func fromVariant(b []byte) (bus.Value, error) {
	sig, child, t, err := openVariant(b)
	if err != nil {
		return bus.Value{}, err
	}
	if t.nesting > maxNesting {
		return bus.Value{}, errNesting
	}
	var m marshaller
	if err := m.value(t, child, 0); err != nil {
		return bus.Value{}, err
	}
	v := bus.Value{Signature: sig, Data: m.buf}
	// What strings, object paths and signatures may hold is bus's business.
	return v, v.Check()
}

// openVariant splits a variant: its child, a NUL, the child's type.
func openVariant(b []byte) (sig string, child []byte, t *typ, err error) {
	tail := b[max(0, len(b)-maxSignature-1):]
	i := bytes.LastIndexByte(tail, 0)
	if i < 0 {
		return "", nil, nil, errors.New("a variant without a type")
	}
	sig = string(tail[i+1:])
	t, err = compile(sig)
	return sig, b[:len(b)-len(sig)-1], t, err
}

// elements calls fn for each element of an array of t's element type.
func elements(t *typ, b []byte, fn func(b []byte) error) error {
	elem := t.elems[0]
	if elem.fixed != 0 {
		if len(b)%elem.fixed != 0 {
			return errSize
		}
		for ; len(b) != 0; b = b[elem.fixed:] {
			if err := fn(b[:elem.fixed]); err != nil {
				return err
			}
		}
		return nil
	}
	n, err := count(b)
	if err != nil {
		return err
	}
	w := offsetWidth(len(b))
	body := len(b) - n*w
	pos := 0
	for i := range n {
		start, end := alignUp(pos, elem.align), offset(b[body+i*w:][:w])
		if end < start || end > body {
			return errFraming
		}
		if err := fn(b[start:end]); err != nil {
			return err
		}
		pos = end
	}
	return nil
}

// count is the number of elements of an array of variable-sized ones. The last
// offset is where the elements end and the offsets begin.
func count(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	w := offsetWidth(len(b))
	if len(b) < w {
		return 0, errFraming
	}
	end := offset(b[len(b)-w:])
	if end < 0 || end > len(b)-w || (len(b)-end)%w != 0 {
		return 0, errFraming
	}
	return (len(b) - end) / w, nil
}

// members calls fn for each member of a tuple or dict entry of type t.
func members(t *typ, b []byte, fn func(m *typ, b []byte) error) error {
	if t.fixed != 0 && len(b) != t.fixed {
		return errSize
	}
	w := offsetWidth(len(b))
	body := len(b) - t.offsets*w
	if body < 0 {
		return errFraming
	}
	pos, next := 0, len(b)
	for i, m := range t.elems {
		start := alignUp(pos, m.align)
		end := body
		switch {
		case m.fixed != 0:
			end = start + m.fixed
		case i < len(t.elems)-1:
			end = offset(b[next-w : next])
			next -= w
		}
		if end < start || end > body {
			return errFraming
		}
		if err := fn(m, b[start:end]); err != nil {
			return err
		}
		pos = end
	}
	if t.fixed == 0 && pos != body {
		return errFraming
	}
	return nil
}

// text returns the bytes of a string without its NUL.
func text(b []byte) ([]byte, error) {
	if i := bytes.IndexByte(b, 0); i < 0 || i != len(b)-1 {
		return nil, errors.New("a string does not end with its only NUL")
	}
	return b[:len(b)-1], nil
}

// checkedText is text for what D-Bus calls a string.
func checkedText(b []byte) (string, error) {
	b, err := text(b)
	if err == nil && !utf8.Valid(b) {
		err = errors.New("a string is not UTF-8")
	}
	return string(b), err
}

// offsetWidth is the width in bytes of the framing offsets of a container of
// size bytes, them included.
func offsetWidth(size int) int {
	switch {
	case size <= 0xff:
		return 1
	case size <= 0xffff:
		return 2
	case uint64(size) <= 0xffffffff:
		return 4
	}
	return 8
}

// offset decodes a framing offset. One too large for an int comes out below 0.
func offset(b []byte) int {
	var word [8]byte
	copy(word[:], b)
	u := binary.LittleEndian.Uint64(word[:])
	if u > uint64(^uint(0)>>1) {
		return -1
	}
	return int(u)
}

// marshaller writes D-Bus's marshalling, little-endian, as if at the beginning
// of a message.
type marshaller struct{ buf []byte }

func (m *marshaller) align(n int) { m.buf = pad(m.buf, n) }

func (m *marshaller) uint32(u uint32) {
	m.align(4)
	m.buf = binary.LittleEndian.AppendUint32(m.buf, u)
}

// value appends a GVariant of type t that lies inside of depth containers.
func (m *marshaller) value(t *typ, b []byte, depth int) error {
	m.align(t.wire())
	switch t.kind {
	case 'b':
		if len(b) != 1 || b[0] > 1 {
			return errors.New("a boolean is not 0 or 1")
		}
		m.uint32(uint32(b[0]))
	case 's', 'o', 'g':
		s, err := text(b)
		switch {
		case err != nil:
			return err
		case t.kind != 'g':
			m.uint32(uint32(len(s)))
		case len(s) > maxSignature:
			return errSize
		default:
			m.buf = append(m.buf, byte(len(s)))
		}
		m.buf = append(append(m.buf, s...), 0)
	case 'v':
		sig, child, inner, err := openVariant(b)
		if err != nil {
			return err
		}
		if depth++; depth+inner.nesting > maxNesting {
			return errNesting
		}
		m.buf = append(m.buf, byte(len(sig)))
		m.buf = append(append(m.buf, sig...), 0)
		return m.value(inner, child, depth)
	case 'a':
		elem := t.elems[0]
		m.uint32(0)
		at := len(m.buf) - 4
		m.align(elem.wire())
		start := len(m.buf)
		if elem.same() {
			if len(b)%elem.fixed != 0 {
				return errSize
			}
			m.buf = append(m.buf, b...)
		} else if err := elements(t, b, func(b []byte) error { return m.value(elem, b, depth+1) }); err != nil {
			return err
		}
		binary.LittleEndian.PutUint32(m.buf[at:], uint32(len(m.buf)-start))
	case '(', '{':
		return members(t, b, func(member *typ, b []byte) error { return m.value(member, b, depth+1) })
	default:
		if len(b) != t.fixed {
			return errSize
		}
		m.buf = append(m.buf, b...)
	}
	return nil
}

// appendVariant appends v as a GVariant of type v. len(buf) is a multiple of 8.
func appendVariant(buf []byte, v bus.Value) ([]byte, error) {
	if err := v.Check(); err != nil {
		return buf, err
	}
	t, err := compile(v.Signature)
	if err != nil {
		return buf, err
	}
	if t.nesting > maxNesting {
		return buf, errNesting
	}
	s := serializer{buf: buf, data: v.Data}
	if err := s.value(t, 0); err != nil {
		return buf, err
	}
	return append(append(s.buf, 0), v.Signature...), nil
}

// serializer turns D-Bus's marshalling, which was checked, into GVariants.
// Containers begin at offsets of buf that are multiples of their alignment, so
// that padding relative to buf is padding relative to each of them.
type serializer struct {
	buf  []byte
	data []byte
	pos  int
}

// take returns the next n bytes of marshalled data after padding.
func (s *serializer) take(align, n int) ([]byte, error) {
	p := alignUp(s.pos, align)
	if p > len(s.data) || n < 0 || n > len(s.data)-p {
		return nil, errEarly
	}
	s.pos = p + n
	return s.data[p:s.pos], nil
}

func (s *serializer) uint32() (int, error) {
	b, err := s.take(4, 4)
	if err != nil {
		return 0, err
	}
	u := binary.LittleEndian.Uint32(b)
	if u > 1<<31-1 {
		return 0, errEarly
	}
	return int(u), nil
}

// signature reads a signature without its NUL.
func (s *serializer) signature() ([]byte, error) {
	n, err := s.take(1, 1)
	if err != nil {
		return nil, err
	}
	b, err := s.take(1, int(n[0])+1)
	if err != nil {
		return nil, err
	}
	return b[:n[0]], nil
}

// value appends the marshalled value of type t that lies inside of depth
// containers.
func (s *serializer) value(t *typ, depth int) error {
	s.buf = pad(s.buf, t.align)
	start := len(s.buf)
	switch t.kind {
	case 'b':
		u, err := s.uint32()
		if err != nil {
			return err
		}
		s.buf = append(s.buf, byte(u))
	case 's', 'o':
		n, err := s.uint32()
		if err != nil {
			return err
		}
		b, err := s.take(1, n+1)
		if err != nil {
			return err
		}
		s.buf = append(s.buf, b...)
	case 'g':
		b, err := s.signature()
		if err != nil {
			return err
		}
		s.buf = append(append(s.buf, b...), 0)
	case 'v':
		sig, err := s.signature()
		if err != nil {
			return err
		}
		inner, err := compile(string(sig))
		if err != nil {
			return err
		}
		if depth++; depth+inner.nesting > maxNesting {
			return errNesting
		}
		if err := s.value(inner, depth); err != nil {
			return err
		}
		s.buf = append(append(s.buf, 0), sig...)
	case 'a':
		return s.array(t.elems[0], depth)
	case '(', '{':
		if _, err := s.take(8, 0); err != nil {
			return err
		}
		var ends []int
		for i, m := range t.elems {
			if err := s.value(m, depth+1); err != nil {
				return err
			}
			if m.fixed == 0 && i < len(t.elems)-1 {
				ends = append(ends, len(s.buf))
			}
		}
		if t.fixed != 0 {
			s.buf = append(s.buf, make([]byte, start+t.fixed-len(s.buf))...)
		}
		slices.Reverse(ends)
		s.buf = frame(s.buf, start, ends)
	default:
		b, err := s.take(t.fixed, t.fixed)
		if err != nil {
			return err
		}
		s.buf = append(s.buf, b...)
	}
	return nil
}

func (s *serializer) array(elem *typ, depth int) error {
	start := len(s.buf)
	n, err := s.uint32()
	if err != nil {
		return err
	}
	if _, err := s.take(elem.wire(), 0); err != nil {
		return err
	}
	if n > len(s.data)-s.pos {
		return errEarly
	}
	if elem.same() {
		b, err := s.take(1, n)
		s.buf = append(s.buf, b...)
		return err
	}
	var ends []int
	for end := s.pos + n; s.pos < end; {
		if err := s.value(elem, depth+1); err != nil {
			return err
		}
		if elem.fixed == 0 {
			ends = append(ends, len(s.buf))
		}
	}
	s.buf = frame(s.buf, start, ends)
	return nil
}

// frame appends the framing offsets of the container that begins at start.
func frame(buf []byte, start int, ends []int) []byte {
	size := len(buf) - start
	w := 1
	for w < 8 && offsetWidth(size+w*len(ends)) > w {
		w *= 2
	}
	for _, end := range ends {
		var word [8]byte
		binary.LittleEndian.PutUint64(word[:], uint64(end-start))
		buf = append(buf, word[:w]...)
	}
	return buf
}

// appendText appends a GVariant of type s.
func appendText(buf []byte, s string) ([]byte, error) {
	if !isText(s) {
		return buf, fmt.Errorf("%q is not text that D-Bus can carry", s)
	}
	return append(append(buf, s...), 0), nil
}

// pad appends zeros up to a multiple of n.
func pad(buf []byte, n int) []byte {
	var zeros [8]byte
	return append(buf, zeros[:alignUp(len(buf), n)-len(buf)]...)
}
