package sandbox

import (
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ShrinkDelay is when to Shrink after a start: the app is busy then, too.
const ShrinkDelay = time.Second

// Shrink gives back the memory that only the start needed: what remains is to
// wait for as long as the app runs. The program's own code is dropped, too; the
// kernel reads back the few pages that waiting needs. Failing is harmless.
func Shrink() {
	debug.SetGCPercent(100) // the start goes without
	debug.FreeOSMemory()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return
	}
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	for line := range strings.SplitSeq(string(maps), "\n") {
		// Only what cannot have been written: the rest would be lost.
		fields := strings.Fields(line)
		if len(fields) < 6 || fields[5] != exe || strings.Contains(fields[1], "w") {
			continue
		}
		from, to, _ := strings.Cut(fields[0], "-")
		start, err1 := strconv.ParseUint(from, 16, 64)
		end, err2 := strconv.ParseUint(to, 16, 64)
		if err1 == nil && err2 == nil && end > start {
			unix.Syscall(unix.SYS_MADVISE, uintptr(start), uintptr(end-start), unix.MADV_DONTNEED)
		}
	}
}
