package bus

import (
	"encoding/binary"
	"errors"
	"strings"
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
	if !strings.ContainsAny(v.Signature, "hv") {
		return false
	}
	d := decoder{order: binary.LittleEndian, data: v.Data}
	found, err := findFD(&d, v.Signature)
	return err == nil && found
}

func findFD(d *decoder, typ string) (found bool, err error) {
	if err := d.align(alignment(typ[0])); err != nil {
		return false, err
	}
	switch typ[0] {
	case 'h':
		_, err := d.take(4)
		return true, err
	case 'v':
		s, err := d.signature()
		if err != nil {
			return false, err
		}
		if err := checkSingle(s); err != nil {
			return false, err
		}
		return findFD(d, s)
	case 'a':
		err := d.each(typ[1], func() error {
			one, err := findFD(d, typ[1:])
			found = found || one
			return err
		})
		return found, err
	case '(', '{':
		for members := typ[1 : len(typ)-1]; members != ""; {
			var first string
			first, members = nextType(members)
			one, err := findFD(d, first)
			if err != nil {
				return false, err
			}
			found = found || one
		}
		return found, nil
	}
	var e encoder
	return false, copyType(&e, d, typ, 0)
}
