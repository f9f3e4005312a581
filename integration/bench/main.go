// Bench prints how docportal and sbx-run compare with what does the same job:
// medians of interleaved runs, each side in a session of its own.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"docportal/integration/session"
)

// rounds is the number of interleaved runs.
const rounds = 20

// parts are the comparisons; the arguments name some, none is all.
var parts = []struct {
	name string
	run  func() error
}{
	{"start", startOfAnApp},
	{"readiness", readiness},
	{"store", permissionStores},
	{"documents", manyDocuments},
	{"cost", callCosts},
	{"large", largeStore},
	{"view", fileViews},
}

func main() {
	status := 0
	for _, part := range parts {
		if len(os.Args) > 1 && !slices.Contains(os.Args[1:], part.name) {
			continue
		}
		if err := part.run(); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			status = 1
		}
	}
	os.Exit(status)
}

// in runs f in a new session, which a signal ends.
func in(o session.Options, f func(*session.Session) error) (err error) {
	s, err := session.Start(o)
	if err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		for range stop {
			s.Interrupt()
		}
	}()
	defer func() {
		signal.Stop(stop)
		close(stop)
		if cerr := s.Close(); err == nil {
			err = cerr
		}
	}()
	return f(s)
}

// now is the monotonic clock, which the programs started here see as well.
func now() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		panic(err) // there is no Linux without it
	}
	return time.Duration(t.Nano())
}

// column is what was measured of one side.
type column struct {
	name  string
	times []time.Duration
	note  string // why there are no times
}

func (c *column) add(d time.Duration) { c.times = append(c.times, d) }

// median is 0 where nothing was measured.
func (c *column) median() time.Duration {
	if len(c.times) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(c.times))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

// tableRow is a row of a table: a name and three figures.
const tableRow = "  %-42s %10s %8s %8s\n"

// printTimes prints one row for each column: what, median, least and most.
func printTimes(title string, columns ...*column) {
	fmt.Printf("\n%s\n", title)
	fmt.Printf(tableRow, "", "median ms", "least", "most")
	for _, c := range columns {
		if len(c.times) == 0 {
			fmt.Printf(tableRow, c.name, "-", "-", "-  ("+c.note+")")
			continue
		}
		fmt.Printf(tableRow, c.name, ms(c.median()), ms(slices.Min(c.times)), ms(slices.Max(c.times)))
	}
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f", float64(d)/float64(time.Millisecond)) }

// verdict prints whether a bound held.
func verdict(what string, held bool) {
	word := "holds"
	if !held {
		word = "DOES NOT HOLD"
	}
	fmt.Printf("%s: %s\n", what, word)
}
