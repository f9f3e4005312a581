package main

import "golang.org/x/sys/unix"

// own are the calls of this architecture alone.
func own() []try {
	return []try{{"uselib", unix.SYS_USELIB, [3]uintptr{}}, {"umount", unix.SYS_UMOUNT, [3]uintptr{}},
		{"setlease64", unix.SYS_FCNTL64, [3]uintptr{^uintptr(0), unix.F_SETLEASE, unix.F_WRLCK}}}
}

// foreign tries nothing: from here there is no way into another ABI but by
// being amd64.
func foreign() {}
