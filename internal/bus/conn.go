package bus

import (
	"context"
	"log/slog"

	"docportal/internal/identity"
)

// Conn is a connection to a message bus.
type Conn struct{}

// Options are the settings of a connection.
type Options struct {
	Log *slog.Logger
	// Identify says who is behind a unique name. A nil func refuses every
	// caller. Its errors are answered as AccessDenied without their text.
	Identify func(ctx context.Context, name string) (*identity.Caller, error)
	// PeerGone is called when a unique name that called before leaves the bus.
	PeerGone func(name string)
	// NameLost is called when the bus takes a well-known name away.
	NameLost func(name string)
}

// Dial connects to the bus at a D-Bus address (D-Bus specification, "Server
// Addresses"), authenticates and says hello. An empty address is the session
// bus: $DBUS_SESSION_BUS_ADDRESS, else $XDG_RUNTIME_DIR/bus. ctx bounds the
// connecting only.
func Dial(ctx context.Context, address string, o Options) (*Conn, error) {
	panic("not implemented")
}

// UniqueName is the connection's own unique name.
func (c *Conn) UniqueName() string { panic("not implemented") }

// Done is closed when the connection has ended, by Close or by the bus.
func (c *Conn) Done() <-chan struct{} { panic("not implemented") }

// Close ends the connection; calls in flight are dropped.
func (c *Conn) Close() error { panic("not implemented") }

// Call calls a method of a peer and waits for the reply, whose arguments it
// stores in out, pointers as for Call.Scan. An error reply is an *Error.
func (c *Conn) Call(ctx context.Context, dest, path, iface, member, signature string, args []any, out ...any) error {
	panic("not implemented")
}

// Credentials implements identity.Bus.
func (c *Conn) Credentials(ctx context.Context, name string) (identity.Credentials, error) {
	panic("not implemented")
}

// NameFlags are the flags of RequestName (D-Bus specification).
type NameFlags uint32

// Flags of RequestName.
const (
	AllowReplacement NameFlags = 1
	ReplaceExisting  NameFlags = 2
	DoNotQueue       NameFlags = 4
)

// RequestName asks for a well-known name; owner reports whether this
// connection has it now (otherwise it waits in the queue, unless DoNotQueue).
func (c *Conn) RequestName(ctx context.Context, name string, flags NameFlags) (owner bool, err error) {
	panic("not implemented")
}

// ReleaseName gives a well-known name back.
func (c *Conn) ReleaseName(ctx context.Context, name string) error { panic("not implemented") }

// Export adds interfaces to an object. Peer, Introspectable and Properties are
// there by themselves. Export everything before the first RequestName.
func (c *Conn) Export(path string, interfaces ...*Interface) { panic("not implemented") }

// Emit sends a signal, to one peer if dest is its unique name, else to all.
// It does not wait.
func (c *Conn) Emit(dest, path, iface, member, signature string, args ...any) error {
	panic("not implemented")
}
