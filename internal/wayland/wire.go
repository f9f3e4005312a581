package wayland

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// headerSize is the length of a message's header: the object, then the length
// of the whole message and the number of the request or event.
const headerSize = 8

// Message is a request or an event: what happens to which object.
type Message struct {
	Object uint32
	Opcode uint16
	body   []byte // of a received one, what has not been read yet
}

// NewMessage begins a message, for Append.
func NewMessage(object uint32, opcode uint16) *Message {
	return &Message{Object: object, Opcode: opcode}
}

// Uint adds an integer, or an object's id.
func (m *Message) Uint(v uint32) *Message {
	m.body = binary.NativeEndian.AppendUint32(m.body, v)
	return m
}

// String adds a text, which has no NUL in it.
func (m *Message) String(s string) *Message {
	m.Uint(uint32(len(s) + 1))
	m.body = append(append(m.body, s...), 0)
	for len(m.body)%4 != 0 {
		m.body = append(m.body, 0)
	}
	return m
}

// Append adds the message as it is sent to b.
func (m *Message) Append(b []byte) []byte {
	b = binary.NativeEndian.AppendUint32(b, m.Object)
	b = binary.NativeEndian.AppendUint32(b, uint32(headerSize+len(m.body))<<16|uint32(m.Opcode))
	return append(b, m.body...)
}

// errBroken says that what came is no Wayland.
var errBroken = errors.New("a message that is none")

// ReadMessage reads one message.
func ReadMessage(r io.Reader) (*Message, error) {
	var header [headerSize]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return nil, err
	}
	word := binary.NativeEndian.Uint32(header[4:])
	size := int(word >> 16)
	if size < headerSize || size%4 != 0 {
		return nil, fmt.Errorf("%w: %d bytes", errBroken, size)
	}
	m := &Message{Object: binary.NativeEndian.Uint32(header[:]), Opcode: uint16(word), body: make([]byte, size-headerSize)}
	_, err := io.ReadFull(r, m.body)
	return m, err
}

// ReadUint takes the next argument, an integer.
func (m *Message) ReadUint() (uint32, error) {
	if len(m.body) < 4 {
		return 0, errBroken
	}
	v := binary.NativeEndian.Uint32(m.body)
	m.body = m.body[4:]
	return v, nil
}

// ReadString takes the next argument, a text.
func (m *Message) ReadString() (string, error) {
	n, err := m.ReadUint()
	if err != nil {
		return "", err
	}
	padded := (uint64(n) + 3) &^ 3
	if n == 0 || padded > uint64(len(m.body)) {
		return "", errBroken
	}
	s := string(m.body[:n])
	m.body = m.body[padded:]
	s, ok := strings.CutSuffix(s, "\x00")
	if !ok || strings.ContainsRune(s, 0) {
		return "", errBroken
	}
	return s, nil
}
