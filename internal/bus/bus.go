// Package bus is the only place that touches godbus. It connects to a message
// bus, exports objects, says who is calling, and keeps one rule: every message
// of a peer, however malformed, is answered at once or refused, and no
// descriptor and no memory of it stays behind.
package bus

import (
	"context"
	"fmt"
	"sync"

	"docportal/internal/identity"
)

// Value is a D-Bus value kept exactly as it was sent: its signature and its
// marshalled form, little-endian, as if it began at offset 0 of a message
// body. What decodes to the same value has the same bytes.
type Value struct {
	Signature string // one single complete type
	Data      []byte
}

// FD is an index into the descriptors of a message (D-Bus type "h").
type FD uint32

// Handler answers a method call. The results are encoded by the method's Out
// signature. An error that is no *Error is logged and answered as Failed
// without its text. The context ends when the peer leaves the bus or the
// connection ends; the reply is dropped then.
type Handler func(ctx context.Context, c *Call) ([]any, error)

// Method is one method of an exported interface. Bodies whose signature is not
// In are answered with org.freedesktop.DBus.Error.InvalidArgs and never reach
// the handler.
//
// Arguments and results are these Go types: byte y, bool b, uint32 u,
// string s, []byte ay, []string as, []FD ah, FD h, Value v,
// map[string][]string a{sas}, map[string][]byte a{say}, map[string]Value a{sv}.
// An object path, o, is a string too; any other type is a Value of that type.
// A dictionary that has a key twice is malformed.
type Method struct {
	Name    string
	In, Out string // signatures
	Handle  Handler
	// Large says that answers may be of many MiB: one is made for each caller
	// at a time, few for all of them, and none before others have been sent.
	Large bool

	open bool // answered with nothing to everybody: Peer.Ping
}

// Interface is an exported interface of one object.
type Interface struct {
	Name    string
	Methods []Method
	// Properties are read-only and constant: name to value.
	Properties map[string]Value
	// Introspection is the XML of the <interface> element, from package dbus.
	Introspection string
	// Serial makes the calls of one sender to this interface run one after the
	// other, in the order of their arrival. Otherwise each runs by itself.
	Serial bool
}

// Call is a method call that is being handled.
type Call struct {
	Caller    *identity.Caller
	Sender    string // unique name of the caller
	Path      string
	Interface string
	Member    string

	body  []any
	files []int // owned, closed when the call is finished

	header  header
	data    []byte // the body until it is decoded
	peer    *peer
	iface   *exported
	method  *Method
	cost    limits
	account *account
	batch   *batch
	pool    *sync.Pool // of pieces
}

// Dict returns an empty ByteDict for the call's result.
func (c *Call) Dict() *ByteDict { return &ByteDict{pool: c.pool} }

// Scan stores the arguments in dst, pointers to the types that Method lists,
// in order. It panics if they do not fit the method's In signature: that is a
// programming error, as the signature was checked before.
func (c *Call) Scan(dst ...any) {
	if len(dst) != len(c.body) {
		panic(fmt.Sprintf("bus: %d arguments of %s.%s scanned into %d", len(c.body), c.Interface, c.Member, len(dst)))
	}
	if err := scan(c.method.In, c.body, dst); err != nil {
		panic(fmt.Sprintf("bus: %s.%s: %v", c.Interface, c.Member, err))
	}
}

// Words are the arguments of the type s, in their order.
func (c *Call) Words() (words []string) {
	for _, v := range c.body {
		if w, ok := v.(string); ok {
			words = append(words, w)
		}
	}
	return words
}

// File returns the descriptor that i refers to. It stays the call's own and is
// closed after the handler has returned; the handler duplicates it to keep it.
// ok is false if the message has no such descriptor.
func (c *Call) File(i FD) (fd int, ok bool) {
	if uint64(i) >= uint64(len(c.files)) {
		return -1, false
	}
	return c.files[i], true
}

// Error is a D-Bus error reply.
type Error struct {
	Name    string
	Message string
}

// Error implements error.
func (e *Error) Error() string { return e.Name + ": " + e.Message }

const portalError = "org.freedesktop.portal.Error."

// Failed makes the error org.freedesktop.portal.Error.Failed.
func Failed(format string, args ...any) *Error {
	return &Error{portalError + "Failed", fmt.Sprintf(format, args...)}
}

// InvalidArgument makes the error org.freedesktop.portal.Error.InvalidArgument.
func InvalidArgument(format string, args ...any) *Error {
	return &Error{portalError + "InvalidArgument", fmt.Sprintf(format, args...)}
}

// NotFound makes the error org.freedesktop.portal.Error.NotFound.
func NotFound(format string, args ...any) *Error {
	return &Error{portalError + "NotFound", fmt.Sprintf(format, args...)}
}

// Exists makes the error org.freedesktop.portal.Error.Exists.
func Exists(format string, args ...any) *Error {
	return &Error{portalError + "Exists", fmt.Sprintf(format, args...)}
}

// NotAllowed makes the error org.freedesktop.portal.Error.NotAllowed.
func NotAllowed(format string, args ...any) *Error {
	return &Error{portalError + "NotAllowed", fmt.Sprintf(format, args...)}
}

// AccessDenied makes the error org.freedesktop.DBus.Error.AccessDenied.
func AccessDenied(format string, args ...any) *Error {
	return &Error{"org.freedesktop.DBus.Error.AccessDenied", fmt.Sprintf(format, args...)}
}
