// Package appid knows the grammar of application ids, and is the only place
// that does: an id is trusted as a file name, a bus name and a permission key
// only after it went through here.
package appid

import "strings"

// MaxLength is the greatest length of an app id in bytes (the limit of a
// D-Bus name, D-Bus specification, "Valid Names").
const MaxLength = 255

// Valid reports whether id is a well-formed application id: 1 to 255 bytes,
// at least two elements joined by dots, none of them empty, made of
// [A-Za-z0-9_], with "-" in the last element only.
func Valid(id string) bool {
	if len(id) == 0 || len(id) > MaxLength {
		return false
	}
	last := strings.LastIndexByte(id, '.')
	if last < 0 {
		return false
	}
	start := true // at the first byte of an element
	for i := 0; i < len(id); i++ {
		c := id[i]
		switch {
		case c == '.':
			if start {
				return false
			}
			start = true
			continue
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_':
		case c == '-' && i > last:
		default:
			return false
		}
		start = false
	}
	return !start
}

// Foreign reports whether id names an app of another kind of sandbox: "snap."
// ids come from snapd alone and are refused in metadata files.
func Foreign(id string) bool { return strings.HasPrefix(id, "snap.") }

// Launchable reports whether a launcher may start an app under id: it is
// Valid, not Foreign, and not in org.freedesktop., whose names belong to
// services.
func Launchable(id string) bool {
	return Valid(id) && !Foreign(id) && !strings.HasPrefix(id, "org.freedesktop.")
}
