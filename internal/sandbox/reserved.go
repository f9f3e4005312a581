package sandbox

import "docportal/internal/reserved"

// reservedPlaces lists what no profile can grant.
func reservedPlaces(h *Host) []reserved.Place {
	s := reserved.Session{Home: h.Home, RuntimeDir: h.RuntimeDir, Env: h.Getenv}
	for _, bus := range []BusAddress{h.SessionBus, h.SystemBus} {
		s.Buses = append(s.Buses, bus.Sockets...)
	}
	return s.Places()
}

// systemDirs are bound read-only as a whole, or made anew, in every sandbox:
// nothing in them can be granted in another way.
var systemDirs = []string{"/usr", "/etc", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/sys", "/dev"}
