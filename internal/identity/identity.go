// Package identity answers one question: given a unique bus name, is it the
// host or a sandboxed app, and which one? It keeps one rule: whoever is not
// surely identified is refused, never taken for the host.
package identity

import (
	"context"
	"os"
)

// Kind is the kind of sandbox that a caller lives in.
type Kind int

// The kinds of callers.
const (
	Host    Kind = iota // not sandboxed: an ordinary program of the user
	Flatpak             // /.flatpak-info in its root: flatpak and sbx-run
	Snap                // snapd's cgroup
	Linyaps             // /.linyaps in its root
)

// Caller is an identified peer. It is immutable once resolved.
type Caller struct {
	Name       string // unique bus name
	PID        int    // process id in the daemon's pid namespace
	Kind       Kind
	App        string // app id, "" for the host
	InstanceID string // [Instance] instance-id, "" if the kind has none
	Network    bool   // [Context] shared has network
	Binds      []Bind // the mounts that sbx-run recorded, only if they are to be believed
	// AppPath and RuntimePath are [Instance] app-path and runtime-path of
	// flatpak's metadata, "" when absent.
	AppPath, RuntimePath string
}

// IsHost reports whether the caller is not sandboxed. Anything that holds all
// permissions asks this.
func (c *Caller) IsHost() bool { return c.Kind == Host }

// Credentials is what the bus says about a connection
// (org.freedesktop.DBus.GetConnectionCredentials).
type Credentials struct {
	UID uint32
	PID int
	// PidFD is a pidfd of the process (ProcessFD, dbus 1.16 and later), nil if
	// the bus gives none. The receiver owns it.
	PidFD *os.File
}

// Bus is what identity needs of a bus connection.
type Bus interface {
	// Credentials asks the bus who owns a unique name. An error means that the
	// bus did not answer or that the name has no owner.
	Credentials(ctx context.Context, name string) (Credentials, error)
}
