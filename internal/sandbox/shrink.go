package sandbox

import (
	"runtime/debug"
	"time"

	"docportal/internal/memory"
)

// ShrinkDelay is when to Shrink after a start: the app is busy then, too.
const ShrinkDelay = time.Second

// Shrink gives back the memory that only the start needed: what remains is to
// wait for as long as the app runs.
func Shrink() {
	debug.SetGCPercent(100) // the start goes without
	memory.GiveBack("")
}
