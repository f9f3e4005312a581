// Package memory gives back what a program that waits does not need. It keeps
// one rule: what it drops, the kernel can read again from the file.
package memory

import (
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// GiveBack gives back the heap's free memory, and the pages of the program and
// of files below dir, an absolute path with a slash at its end, that are only a
// view of the page cache (madvise(2), MADV_DONTNEED). "" is no directory.
// Those that are needed come back by themselves, without a read from the disk
// as a rule. Failing is harmless.
func GiveBack(dir string) {
	runtime.GC() // what a sync.Pool holds outlives one collection
	debug.FreeOSMemory()
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return
	}
	fixed := fixedAddress()
	type pages struct{ start, length uintptr }
	var all []pages
	for line := range strings.Lines(string(maps)) {
		if start, length, ok := droppable(strings.TrimSuffix(line, "\n"), exe, dir, fixed); ok {
			all = append(all, pages{start, length})
		}
	}
	// At last: what runs after it is there again.
	for _, p := range all {
		unix.Syscall(unix.SYS_MADVISE, p.start, p.length, unix.MADV_DONTNEED)
	}
}

// fixedAddress reports whether the program was linked for one address. In any
// other the loader has written to pages that look read-only afterwards.
func fixedAddress() bool {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return false
	}
	for _, s := range info.Settings {
		if s.Key == "-buildmode" {
			return s.Value == "exe"
		}
	}
	return false
}

// droppable reports whether a line of /proc/self/maps is a view of the program
// exe or of a file below dir that nobody writes through, nor has: a page that
// was written would be lost.
func droppable(line, exe, dir string, fixed bool) (start, length uintptr, ok bool) {
	// Address, permissions, offset, device, inode, and the path after spaces.
	fields := strings.SplitN(line, " ", 6)
	if len(fields) < 6 || strings.Contains(fields[1], "w") {
		return 0, 0, false
	}
	name := strings.TrimLeft(fields[5], " ")
	switch {
	case name == exe && (fixed || strings.Contains(fields[1], "x")):
	case dir != "" && strings.HasPrefix(name, dir):
	default:
		return 0, 0, false
	}
	from, to, _ := strings.Cut(fields[0], "-")
	a, err1 := strconv.ParseUint(from, 16, 64)
	b, err2 := strconv.ParseUint(to, 16, 64)
	if err1 != nil || err2 != nil || b <= a {
		return 0, 0, false
	}
	return uintptr(a), uintptr(b - a), true
}
