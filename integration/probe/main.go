// Probe prints the monotonic clock, in nanoseconds, at its first instruction.
package main

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

func main() {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		os.Exit(1)
	}
	os.Stdout.WriteString(strconv.FormatInt(t.Nano(), 10) + "\n")
}
