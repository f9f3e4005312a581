package permstore

import "docportal/internal/bus"

// Name and Path are where the permission store is on the bus.
const (
	Name = "org.freedesktop.impl.portal.PermissionStore"
	Path = "/org/freedesktop/impl/portal/PermissionStore"
)

// Interface returns the D-Bus interface org.freedesktop.impl.portal.PermissionStore
// of a store. emit sends a signal of that interface to all
// (bus.Conn.Emit bound to Path and Name).
func Interface(s *Store, emit func(member, signature string, args ...any) error) *bus.Interface {
	panic("not implemented")
}
