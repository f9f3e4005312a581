package bus

import (
	"encoding/binary"
	"errors"
)

// ValueOf makes a Value of type signature from a Go value of the types that
// Method lists. It fails if the signature is not one complete type, if arg
// does not fit it, or if D-Bus cannot carry arg.
func ValueOf(signature string, arg any) (Value, error) {
	if err := checkSingle(signature); err != nil {
		return Value{}, err
	}
	var e encoder
	if err := encodeArg(&e, signature, arg); err != nil {
		return Value{}, err
	}
	return Value{signature, e.buf}, nil
}

// Scan stores the value in dst, a pointer to one of the types that Method
// lists. Unlike Call.Scan, it returns an error if dst does not fit the
// value's type: what a variant holds is the peer's choice.
func (v Value) Scan(dst any) error {
	if err := checkSingle(v.Signature); err != nil {
		return err
	}
	if !fits(v.Signature, dst) {
		return errors.New("a value of type " + v.Signature + " was not expected")
	}
	d := decoder{order: binary.LittleEndian, data: v.Data}
	arg, err := decodeArg(&d, v.Signature)
	if err != nil {
		return err
	}
	if d.pos != len(d.data) {
		return errors.New("bytes after the value")
	}
	store(dst, arg)
	return nil
}

// Check reports why v is not a value in the form that Value's comment
// describes; nil if it is. What comes from a peer is checked already; what
// comes from a file is not.
func (v Value) Check() error {
	if err := checkSingle(v.Signature); err != nil {
		return err
	}
	var e encoder
	d := decoder{order: binary.LittleEndian, data: v.Data}
	if err := copyType(&e, &d, v.Signature, 0); err != nil {
		return err
	}
	if string(e.buf) != string(v.Data) {
		return errors.New("not in canonical form")
	}
	return nil
}

// HasFD reports whether v refers to a descriptor anywhere, in variants too.
// Such a value means nothing outside of its message. v must be valid.
func (v Value) HasFD() bool {
	d := decoder{order: binary.LittleEndian, data: v.Data}
	found := false
	// Copying to nowhere is the one walk that knows all types; descriptors
	// are rare enough not to deserve a second one.
	w := fdFinder{&found}
	return w.walk(&d, v.Signature) == nil && found
}

type fdFinder struct{ found *bool }

func (f fdFinder) walk(d *decoder, typ string) error {
	if err := d.align(alignment(typ[0])); err != nil {
		return err
	}
	switch typ[0] {
	case 'h':
		*f.found = true
		_, err := d.take(4)
		return err
	case 'v':
		s, err := d.signature()
		if err != nil {
			return err
		}
		return f.walk(d, s)
	case 'a':
		return d.each(typ[1], func() error { return f.walk(d, typ[1:]) })
	case '(', '{':
		for members := typ[1 : len(typ)-1]; members != ""; {
			var first string
			first, members = nextType(members)
			if err := f.walk(d, first); err != nil {
				return err
			}
		}
		return nil
	}
	var e encoder
	return copyType(&e, d, typ, 0)
}
