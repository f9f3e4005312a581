package bus

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/godbus/dbus/v5"
)

// Error names of the D-Bus specification and its reference implementation.
const (
	errAccessDenied     = "org.freedesktop.DBus.Error.AccessDenied"
	errInvalidArgs      = "org.freedesktop.DBus.Error.InvalidArgs"
	errLimitsExceeded   = "org.freedesktop.DBus.Error.LimitsExceeded"
	errUnknownObject    = "org.freedesktop.DBus.Error.UnknownObject"
	errUnknownInterface = "org.freedesktop.DBus.Error.UnknownInterface"
	errUnknownMethod    = "org.freedesktop.DBus.Error.UnknownMethod"
	errUnknownProperty  = "org.freedesktop.DBus.Error.UnknownProperty"
	errPropertyReadOnly = "org.freedesktop.DBus.Error.PropertyReadOnly"
)

// maxField is the greatest length in bytes of a header field that is kept. No
// object here has a longer path, and all other fields are limited to 255.
const maxField = 4096

// header is the header of a message.
type header struct {
	order    binary.ByteOrder
	typ      dbus.Type
	flags    dbus.Flags
	body     int // length of the body in bytes
	serial   uint32
	overlong bool // a path longer than maxField was left out

	path, iface, member, errName, dest, sender, sig string

	replySerial uint32
	files       int // descriptors that belong to the message
}

// outgoing is a marshalled message, in pieces that are not empty, and the
// descriptors to pass with it, which the message owns.
type outgoing struct {
	data   [][]byte
	files  []int
	lent   []*piece // of data, for the pool when it is sent
	passed bool     // the descriptors have been sent
}

func (m outgoing) size() int {
	n := 0
	for _, b := range m.data {
		n += len(b)
	}
	return n
}

// together is the greatest body that is copied to be sent with its header.
const together = 4096

// marshal encodes a message, little-endian. The caller has checked the names.
// What the pieces of the body hold must not change any more.
func (h *header) marshal(body ...[]byte) ([][]byte, error) {
	size := outgoing{data: body}.size()
	copied := 0
	if size <= together {
		copied = size
	}
	e := encoder{buf: make([]byte, 0, 192+copied)}
	e.byte('l')
	e.byte(byte(h.typ))
	e.byte(byte(h.flags))
	e.byte(1) // protocol version
	e.uint32(uint32(size))
	e.uint32(h.serial)
	err := e.array('(', func() error {
		for _, f := range []struct {
			code dbus.HeaderField
			typ  string
			text string
		}{
			{dbus.FieldPath, "o", h.path},
			{dbus.FieldInterface, "s", h.iface},
			{dbus.FieldMember, "s", h.member},
			{dbus.FieldErrorName, "s", h.errName},
			{dbus.FieldDestination, "s", h.dest},
			{dbus.FieldSender, "s", h.sender}, // only tests say who they are; a bus overwrites it
		} {
			if f.text != "" {
				e.align(8)
				e.byte(byte(f.code))
				e.signature(f.typ)
				e.text(f.text)
			}
		}
		if h.sig != "" {
			e.align(8)
			e.byte(byte(dbus.FieldSignature))
			e.signature("g")
			e.signature(h.sig)
		}
		for _, f := range []struct {
			code dbus.HeaderField
			n    uint32
		}{
			{dbus.FieldReplySerial, h.replySerial},
			{dbus.FieldUnixFDs, uint32(h.files)},
		} {
			if f.n != 0 {
				e.align(8)
				e.byte(byte(f.code))
				e.signature("u")
				e.uint32(f.n)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	e.align(8)
	// Half of what D-Bus allows: the bus disconnects whoever sends more, and
	// its own limit may be lower than the specification's.
	if n := len(e.buf) + size; n > maxMessage/2 {
		return nil, fmt.Errorf("a message of %d bytes is too large to send", n)
	}
	if copied == size {
		for _, b := range body {
			e.buf = append(e.buf, b...)
		}
		return [][]byte{e.buf}, nil
	}
	return append([][]byte{e.buf}, body...), nil
}

// readHeader reads the header of the next message and leaves the stream at its
// body. An error means that the other end does not speak D-Bus: nothing after
// it can be understood. However large the header is, little of it is kept.
func (s *stream) readHeader() (header, error) {
	s.begin()
	var h header
	b, err := s.take(16)
	if err != nil {
		return h, err
	}
	switch b[0] {
	case 'l':
		h.order = binary.LittleEndian
	case 'B':
		h.order = binary.BigEndian
	default:
		return h, errors.New("a message begins with neither l nor B")
	}
	if b[3] != 1 {
		return h, fmt.Errorf("a message of protocol version %d", b[3])
	}
	h.typ, h.flags = dbus.Type(b[1]), dbus.Flags(b[2])
	body, fields := h.order.Uint32(b[4:]), h.order.Uint32(b[12:])
	h.serial = h.order.Uint32(b[8:])
	if fields > maxArray || body > maxMessage || h.serial == 0 {
		return h, errors.New("a message header breaks the limits of D-Bus")
	}
	h.body = int(body)
	end := 16 + int64(fields)
	for s.pos() < end {
		if err := s.field(&h); err != nil {
			return h, err
		}
	}
	if s.pos() != end {
		return h, errors.New("the fields of a message header overrun")
	}
	return h, s.align(8)
}

// field reads one header field.
func (s *stream) field(h *header) error {
	if err := s.align(8); err != nil {
		return err
	}
	b, err := s.take(1)
	if err != nil {
		return err
	}
	code := dbus.HeaderField(b[0])
	typ, err := s.signature()
	if err != nil {
		return err
	}
	if err := checkSingle(typ); err != nil {
		return err
	}
	var text *string
	var number *uint32
	var files uint32
	want := "s"
	switch code {
	case dbus.FieldPath:
		text, want = &h.path, "o"
	case dbus.FieldInterface:
		text = &h.iface
	case dbus.FieldMember:
		text = &h.member
	case dbus.FieldErrorName:
		text = &h.errName
	case dbus.FieldDestination:
		text = &h.dest
	case dbus.FieldSender:
		text = &h.sender
	case dbus.FieldSignature:
		text, want = &h.sig, "g"
	case dbus.FieldReplySerial:
		number, want = &h.replySerial, "u"
	case dbus.FieldUnixFDs:
		number, want = &files, "u"
	default:
		return s.skip(h.order, typ, 0)
	}
	if typ != want {
		return fmt.Errorf("header field %d has the type %q", code, typ)
	}
	switch want {
	case "g":
		if *text, err = s.signature(); err == nil {
			err = checkSignature(*text)
		}
		return err
	case "u":
		*number, err = s.uint32(h.order)
		if files > maxPassedFD {
			return fmt.Errorf("a message with %d descriptors", files)
		}
		if code == dbus.FieldUnixFDs {
			h.files = int(files)
		}
		return err
	}
	n, err := s.uint32(h.order)
	if err != nil {
		return err
	}
	if n > maxField {
		h.overlong = true
		return s.discard(int64(n) + 1)
	}
	b, err = s.take(int(n) + 1)
	if err != nil {
		return err
	}
	*text = string(b[:n])
	return nil
}

// skip passes over one value of a valid type.
func (s *stream) skip(order binary.ByteOrder, typ string, depth int) error {
	if depth > maxDepth {
		return errors.New("a message header is nested too deeply")
	}
	if err := s.align(alignment(typ[0])); err != nil {
		return err
	}
	switch c := typ[0]; c {
	case 's', 'o':
		n, err := s.uint32(order)
		if err != nil {
			return err
		}
		return s.discard(int64(n) + 1)
	case 'g':
		_, err := s.signature()
		return err
	case 'v':
		sig, err := s.signature()
		if err != nil {
			return err
		}
		if err := checkSingle(sig); err != nil {
			return err
		}
		return s.skip(order, sig, depth+1)
	case 'a':
		n, err := s.uint32(order)
		if err != nil {
			return err
		}
		if err := s.align(alignment(typ[1])); err != nil {
			return err
		}
		return s.discard(int64(n))
	case '(', '{':
		for members := typ[1 : len(typ)-1]; members != ""; {
			var first string
			first, members = nextType(members)
			if err := s.skip(order, first, depth+1); err != nil {
				return err
			}
		}
		return nil
	default:
		return s.discard(int64(fixedSize(c)))
	}
}
