package permstore

import (
	"encoding/binary"

	"docportal/internal/bus"
)

// nesting counts how many containers (arrays, structures, dictionary entries,
// variants) of a value lie inside each other. What a variant holds is known
// from the data alone, so it walks that too, and finds out by the way whether
// it is well-formed.
func nesting(v bus.Value) (int, error) {
	w := walker{data: v.Data}
	rest, ok := w.value(v.Signature, 0)
	if !ok || rest != "" || w.pos != len(v.Data) || v.Signature == "" {
		if w.deepest > MaxNesting {
			return w.deepest, nil
		}
		return 0, invalid("the data is malformed")
	}
	return w.deepest, nil
}

type walker struct {
	data    []byte
	pos     int
	deepest int
}

// value walks one value of the first complete type of sig and returns the
// rest of sig.
func (w *walker) value(sig string, depth int) (rest string, ok bool) {
	w.deepest = max(w.deepest, depth)
	if sig == "" || depth > MaxNesting {
		return "", false
	}
	c, rest := sig[0], sig[1:]
	switch c {
	case 'y', 'n', 'q', 'b', 'i', 'u', 'h', 'x', 't', 'd':
		return rest, w.skip(alignment(c), fixedSize(c))
	case 's', 'o':
		n, ok := w.length()
		return rest, ok && w.skip(1, n) && w.skip(1, 1)
	case 'g':
		_, ok := w.signature()
		return rest, ok
	case 'v':
		w.deepest = max(w.deepest, depth+1)
		inner, ok := w.signature()
		if !ok {
			return "", false
		}
		left, ok := w.value(inner, depth+1)
		return rest, ok && left == ""
	case '(', '{':
		if !w.skip(8, 0) {
			return "", false
		}
		w.deepest = max(w.deepest, depth+1)
		end := byte(')')
		if c == '{' {
			end = '}'
		}
		for {
			if rest == "" {
				return "", false
			}
			if rest[0] == end {
				return rest[1:], true
			}
			if rest, ok = w.value(rest, depth+1); !ok {
				return "", false
			}
		}
	case 'a':
		w.deepest = max(w.deepest, depth+1)
		if rest == "" {
			return "", false
		}
		n, ok := w.length()
		if !ok || !w.skip(alignment(rest[0]), 0) || n > len(w.data)-w.pos {
			return "", false
		}
		if size := fixedSize(rest[0]); size > 0 {
			return rest[1:], n%size == 0 && w.skip(1, n)
		}
		end := w.pos + n
		element := rest
		for w.pos < end {
			start := w.pos
			if rest, ok = w.value(element, depth+1); !ok || w.pos == start {
				return "", false
			}
		}
		if w.pos != end {
			return "", false
		}
		if n == 0 {
			if rest, ok = w.typ(element, depth+1); !ok {
				return "", false
			}
		}
		return rest, true
	}
	return "", false
}

// typ walks one complete type without a value: that of an empty array's elements.
func (w *walker) typ(sig string, depth int) (rest string, ok bool) {
	w.deepest = max(w.deepest, depth)
	if sig == "" || depth > MaxNesting {
		return "", false
	}
	c, rest := sig[0], sig[1:]
	switch c {
	case 'y', 'n', 'q', 'b', 'i', 'u', 'h', 'x', 't', 'd', 's', 'o', 'g', 'v':
		return rest, true
	case 'a':
		return w.typ(rest, depth+1)
	case '(', '{':
		end := byte(')')
		if c == '{' {
			end = '}'
		}
		for rest != "" && rest[0] != end {
			if rest, ok = w.typ(rest, depth+1); !ok {
				return "", false
			}
		}
		if rest == "" {
			return "", false
		}
		return rest[1:], true
	}
	return "", false
}

// alignment of a type by its first byte (D-Bus specification, "Summary of D-Bus marshalling").
func alignment(c byte) int {
	switch c {
	case 'n', 'q':
		return 2
	case 'b', 'i', 'u', 'h', 's', 'o', 'a':
		return 4
	case 'x', 't', 'd', '(', '{':
		return 8
	}
	return 1
}

// fixedSize is the size of a value of a basic type, 0 if that depends on the
// value, or it is a container.
func fixedSize(c byte) int {
	switch c {
	case 'y':
		return 1
	case 'n', 'q', 'b', 'i', 'u', 'h', 'x', 't', 'd':
		return alignment(c)
	}
	return 0
}

// skip pads to an alignment and goes n bytes on.
func (w *walker) skip(align, n int) bool {
	p := (w.pos + align - 1) / align * align
	if p > len(w.data) || n > len(w.data)-p {
		return false
	}
	w.pos = p + n
	return true
}

func (w *walker) length() (int, bool) {
	if !w.skip(4, 4) {
		return 0, false
	}
	n := binary.LittleEndian.Uint32(w.data[w.pos-4:])
	if uint64(n) > uint64(len(w.data)) {
		return 0, false
	}
	return int(n), true
}

func (w *walker) signature() (string, bool) {
	if !w.skip(1, 1) {
		return "", false
	}
	n := int(w.data[w.pos-1])
	start := w.pos
	if !w.skip(1, n+1) {
		return "", false
	}
	return string(w.data[start : start+n]), true
}
