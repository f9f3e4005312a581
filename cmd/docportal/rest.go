package main

import (
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// giveBack gives back the memory that is not needed while nobody calls: free
// memory of the heap, and the pages of our own program and of the store that
// are only a view of the page cache. The kernel maps those again that are
// needed; nothing is read from the disk for that. Failing is harmless.
func giveBack() {
	debug.FreeOSMemory()
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return
	}
	for line := range strings.Lines(string(maps)) {
		start, length, ok := droppable(strings.TrimSuffix(line, "\n"), exe, storeDir()+"/")
		if ok {
			unix.Syscall(unix.SYS_MADVISE, start, length, unix.MADV_DONTNEED)
		}
	}
}

// droppable reports whether a line of /proc/self/maps is a view of the program
// or of a file below dir that nobody writes through: a page that was written
// would be lost.
func droppable(line, exe, dir string) (start, length uintptr, ok bool) {
	// Address, permissions, offset, device, inode, and the path after spaces.
	fields := strings.SplitN(line, " ", 6)
	if len(fields) < 6 || strings.Contains(fields[1], "w") {
		return 0, 0, false
	}
	name := strings.TrimLeft(fields[5], " ")
	if name != exe && !strings.HasPrefix(name, dir) {
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
