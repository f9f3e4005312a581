package gvdb

import (
	"errors"
	"fmt"
	"strings"
)

// Limits of types: those of the D-Bus specification ("Valid Signatures"), and
// how many containers of a value may lie inside each other, variants counted.
const (
	maxSignature = 255
	maxArrays    = 32
	maxStructs   = 32
	maxNesting   = 64
)

var errNesting = fmt.Errorf("nested deeper than %d levels", maxNesting)

// typ is a type that D-Bus and GVariant both have, with the properties that
// GVariant's layout follows from.
type typ struct {
	kind    byte   // first character of the type
	elems   []*typ // the element of an array; the members of a tuple or dict entry
	align   int    // GVariant's alignment in bytes
	fixed   int    // GVariant's size in bytes, 0 if it varies
	nesting int    // containers inside each other, variants' contents not counted
	offsets int    // framing offsets of a tuple or dict entry
}

// compile makes the type of a signature of one complete type. Maybe types, the
// unit type, indefinite types and dict entries outside of arrays are GVariant's
// alone and refused.
func compile(sig string) (*typ, error) {
	if len(sig) > maxSignature {
		return nil, fmt.Errorf("a type of %d bytes; D-Bus carries %d", len(sig), maxSignature)
	}
	t, rest, err := parseType(sig, 0, 0)
	if err == nil && rest != "" {
		err = errors.New("more than one type")
	}
	if err != nil {
		return nil, fmt.Errorf("type %q: %w", sig, err)
	}
	return t, nil
}

// parseType makes the type at the beginning of sig, which lies inside of that
// many arrays and structs.
func parseType(sig string, arrays, structs int) (t *typ, rest string, err error) {
	if sig == "" {
		return nil, "", errors.New("ends early")
	}
	t, rest = &typ{kind: sig[0], align: 1}, sig[1:]
	switch t.kind {
	case 'y', 'b':
		t.fixed = 1
	case 'n', 'q':
		t.align, t.fixed = 2, 2
	case 'i', 'u', 'h':
		t.align, t.fixed = 4, 4
	case 'x', 't', 'd':
		t.align, t.fixed = 8, 8
	case 's', 'o', 'g':
	case 'v':
		t.align, t.nesting = 8, 1
	case 'a':
		if arrays++; arrays > maxArrays {
			return nil, "", fmt.Errorf("more than %d arrays inside each other", maxArrays)
		}
		var elem *typ
		if strings.HasPrefix(rest, "{") {
			elem, rest, err = parseMembers(rest, '}', arrays, structs)
		} else {
			elem, rest, err = parseType(rest, arrays, structs)
		}
		if err != nil {
			return nil, "", err
		}
		t.elems, t.align, t.nesting = []*typ{elem}, elem.align, elem.nesting+1
	case '(':
		return parseMembers(sig, ')', arrays, structs)
	default:
		return nil, "", fmt.Errorf("D-Bus has no type %q here", t.kind)
	}
	return t, rest, nil
}

// parseMembers makes the tuple or dict entry at the beginning of sig.
func parseMembers(sig string, end byte, arrays, structs int) (t *typ, rest string, err error) {
	// Dict entries are limited by the arrays that they are in.
	if end == ')' {
		structs++
	}
	if structs > maxStructs {
		return nil, "", fmt.Errorf("more than %d structs inside each other", maxStructs)
	}
	t, rest = &typ{kind: sig[0], align: 1}, sig[1:]
	size, fixed := 0, true
	for !strings.HasPrefix(rest, string(end)) {
		var m *typ
		if m, rest, err = parseType(rest, arrays, structs); err != nil {
			return nil, "", err
		}
		t.elems = append(t.elems, m)
		t.align = max(t.align, m.align)
		t.nesting = max(t.nesting, m.nesting)
		size = alignUp(size, m.align) + m.fixed
		if m.fixed == 0 {
			fixed = false
			t.offsets++
		}
	}
	rest = rest[1:]
	t.nesting++
	switch {
	case len(t.elems) == 0:
		return nil, "", errors.New("D-Bus has no empty struct")
	case end == '}' && (len(t.elems) != 2 || strings.IndexByte("av({", t.elems[0].kind) >= 0):
		return nil, "", errors.New("a dict entry is not a basic type and another type")
	case fixed:
		t.fixed = alignUp(size, t.align)
	case t.elems[len(t.elems)-1].fixed == 0:
		t.offsets-- // the last member ends where the offsets begin
	}
	return t, rest, nil
}

// wire is the alignment in bytes of the type in D-Bus ("Summary of D-Bus
// marshalling").
func (t *typ) wire() int {
	switch t.kind {
	case 'n', 'q':
		return 2
	case 'b', 'i', 'u', 'h', 's', 'o', 'a':
		return 4
	case 'x', 't', 'd', '(', '{':
		return 8
	}
	return 1 // y g v
}

// same reports whether values of the type are the same bytes in both formats.
func (t *typ) same() bool { return strings.IndexByte("ynqiuhxtd", t.kind) >= 0 }

func alignUp(n, align int) int { return (n + align - 1) &^ (align - 1) }
