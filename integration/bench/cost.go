package main

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"docportal/integration/session"
)

// costSize is how many documents there are where processor time is measured,
// costTime how long it is measured for each row.
const (
	costSize = 10000
	costTime = time.Second
)

// cpuTime is what a process of this user has had of the processor so far, its
// own time and the kernel's for it (clock_getcpuclockid(3)).
func cpuTime(pid int) (time.Duration, error) {
	const sched = 2 // CPUCLOCK_SCHED of the kernel
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|sched), &t); err != nil {
		return 0, fmt.Errorf("processor time of process %d: %w", pid, err)
	}
	return time.Duration(t.Nano()), nil
}

// callCosts says who needs how much of the processor for a call. A loaded
// machine makes calls slower, and costs them little more.
func callCosts() error {
	return in(session.Options{}, func(a *session.Session) error {
		return in(session.Options{SystemPortal: true}, func(b *session.Session) error {
			var portals [2]*portal
			for i, s := range []*session.Session{a, b} {
				p, err := newPortal(s, costSize, i == 0)
				if err != nil {
					return err
				}
				defer p.close()
				portals[i] = p
			}
			fmt.Printf("\nProcessor time of a call with %d documents, ms\n", costSize)
			fmt.Printf("  %-36s %9s %9s   %9s %9s   %8s %8s\n", "", "docportal", "its bus", "xdg-d-p", "its bus", "ratio", "with bus")
			for _, op := range operations {
				if !op.theirs || op.waits {
					continue
				}
				var all [4]float64
				for i, p := range portals {
					one, bus, err := p.cost(op)
					if err != nil {
						return fmt.Errorf("%s: %w", op.name, err)
					}
					all[2*i], all[2*i+1] = one, bus
				}
				fmt.Printf("  %-36s %9.3f %9.3f   %9.3f %9.3f   %7.1f× %7.1f×\n", op.name, all[0], all[1], all[2], all[3],
					all[2]/all[0], (all[2]+all[3])/(all[0]+all[1]))
			}
			return nil
		})
	})
}

// cost is the processor time of one call, in ms: the portal's and its bus's.
func (p *portal) cost(op operation) (portal, bus float64, err error) {
	pid, err := p.s.Owner(documentsName)
	if err != nil {
		return 0, 0, err
	}
	if server := session.ServerOf(pid); p.ours && server != 0 {
		pid = server // of docportal's two processes the one that answers
	}
	pids := [2]int{pid, p.s.BusPID()}
	var used [2]time.Duration
	for i, pid := range pids {
		if used[i], err = cpuTime(pid); err != nil {
			return 0, 0, err
		}
	}
	calls := 0
	for start := now(); calls < 5 || calls < 1000 && now()-start < costTime; calls++ {
		if _, err := op.measure(p); err != nil {
			return 0, 0, err
		}
	}
	for i, pid := range pids {
		end, err := cpuTime(pid)
		if err != nil {
			return 0, 0, err
		}
		used[i] = end - used[i]
	}
	each := func(d time.Duration) float64 { return float64(d) / float64(calls) / float64(time.Millisecond) }
	return each(used[0]), each(used[1]), nil
}
