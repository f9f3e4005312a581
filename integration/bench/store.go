package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"docportal/integration/session"
	"docportal/internal/bus"
	"docportal/internal/gvdb"
)

// The tables that are compared, by the number of their ids, and the clients
// that call at the same time.
var (
	tableSizes  = []int{10, 1000, 10000, 100000}
	clientCount = []int{1, 32}
)

const (
	// storeRun is how long one run of calls lasts at least.
	storeRun = 100 * time.Millisecond
	// storeRounds is the number of interleaved runs; of what takes longer than
	// slowCall a call there is one.
	storeRounds = 5
	slowCall    = 20 * time.Millisecond
	// leastFactor is how many times as many changes docportal makes, at 10 000
	// ids and 32 clients; mostGrowth is how much the fastest run may cost
	// more at 100 000 ids than at 10: noise.
	leastFactor = 5
	mostGrowth  = 2
)

// kilobyte is 1 k of data.
var kilobyte = must(bus.ValueOf("ay", make([]byte, 1024)))

func must(v bus.Value, err error) bus.Value {
	if err != nil {
		panic(err) // a mistake here
	}
	return v
}

// storeSide is one of the two stores.
type storeSide struct {
	name    string
	clients []*bus.Conn
}

// storeOp is a method that is measured. make calls it the i-th time by a
// client; prepare, if not nil, does before, unmeasured, what it needs.
type storeOp struct {
	name    string
	changes bool
	grows   bool // its answer does with the table
	prepare func(s *storeSide, client, i int, table string) error
	make    func(s *storeSide, client, i, size int, table string) error
}

func (s *storeSide) call(client int, member, signature string, args []any, out ...any) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return s.clients[client].Call(ctx, storeName, string(storePath), storeName, member, signature, args, out...)
}

// existing is an id that the table has, another one at each call.
func existing(client, i, size int) string { return fmt.Sprintf("id%06d", (client*7919+i*104729)%size) }

var storeOps = []storeOp{
	{name: "SetPermission", changes: true, make: func(s *storeSide, client, i, size int, table string) error {
		return s.call(client, "SetPermission", "sbssas", []any{table, true, existing(client, i, size), "org.bench.App", []string{fmt.Sprint(client, i)}})
	}},
	{name: "Set, 1 k of data", changes: true, make: func(s *storeSide, client, i, size int, table string) error {
		return s.call(client, "Set", "sbsa{sas}v", []any{table, true, existing(client, i, size), map[string][]string{"org.bench.App": {fmt.Sprint(client, i)}}, kilobyte})
	}},
	{name: "Delete", changes: true, prepare: func(s *storeSide, client, i int, table string) error {
		return s.call(client, "SetPermission", "sbssas", []any{table, true, fmt.Sprint("new ", client, " ", i), "org.bench.App", []string{"yes"}})
	}, make: func(s *storeSide, client, i, size int, table string) error {
		return s.call(client, "Delete", "ss", []any{table, fmt.Sprint("new ", client, " ", i)})
	}},
	{name: "Lookup", make: func(s *storeSide, client, i, size int, table string) error {
		return s.call(client, "Lookup", "ss", []any{table, existing(client, i, size)}, new(map[string][]string), new(bus.Value))
	}},
	{name: "GetPermission", make: func(s *storeSide, client, i, size int, table string) error {
		return s.call(client, "GetPermission", "sss", []any{table, existing(client, i, size), "org.bench.App"}, new([]string))
	}},
	{name: "List", grows: true, make: func(s *storeSide, client, i, size int, table string) error {
		return s.call(client, "List", "s", []any{table}, new([]string))
	}},
}

// run makes calls by some clients for a while and returns the time of one:
// elapsed by calls. Calls that need something prepared are so many as fit when
// one takes about estimate.
func (s *storeSide) run(op *storeOp, clients, size int, estimate time.Duration, from int) (perCall time.Duration, calls int, err error) {
	table := fmt.Sprint("bench", size)
	each := 0
	if op.prepare != nil {
		each = max(1, min(500, int(storeRun/max(estimate, time.Microsecond))/clients))
	}
	errs := make([]error, clients)
	counts := make([]int, clients)
	var wg sync.WaitGroup
	if op.prepare != nil {
		for c := range clients {
			wg.Go(func() {
				for i := range each {
					if errs[c] == nil {
						errs[c] = op.prepare(s, c, from+i, table)
					}
				}
			})
		}
		wg.Wait()
	}
	start := now()
	for c := range clients {
		wg.Go(func() {
			for i := 0; errs[c] == nil && (each == 0 && (i == 0 || now()-start < storeRun) || i < each); i++ {
				errs[c] = op.make(s, c, from+i, size, table)
				counts[c]++
			}
		})
	}
	wg.Wait()
	took := now() - start
	for c := range clients {
		if errs[c] != nil {
			return 0, 0, fmt.Errorf("%s, %s, %d ids: %w", s.name, op.name, size, errs[c])
		}
		calls += counts[c]
	}
	return took / time.Duration(calls), calls, nil
}

// permissionStores compares docportal with the system's permission store.
func permissionStores() error {
	return in(session.Options{}, func(a *session.Session) error {
		return in(session.Options{SystemPortal: true}, func(b *session.Session) error {
			ours, err := newStoreSide("docportal", a)
			if err != nil {
				return err
			}
			defer ours.close()
			theirs, err := newStoreSide("xdg-permission-store", b)
			if err != nil {
				return err
			}
			defer theirs.close()
			fmt.Printf("\nPermission store: µs a call, medians of %d interleaved runs of %v (one, where a call takes more than %v)\n",
				storeRounds, storeRun, slowCall)
			held, grown := true, true
			for i := range storeOps {
				if err := compareOp(&storeOps[i], ours, theirs, &held, &grown); err != nil {
					return err
				}
			}
			fmt.Println("A change of docportal's is on disk when it is answered; the other store answers first and writes later.")
			verdict(fmt.Sprintf("at 10 000 ids and 32 clients docportal makes ≥ %d × as many changes", leastFactor), held)
			verdict(fmt.Sprintf("a call of docportal's at 100 000 ids costs ≤ %d × one at 10 (but for List, which answers them all)", mostGrowth), grown)
			return nil
		})
	})
}

func compareOp(op *storeOp, ours, theirs *storeSide, held, grown *bool) error {
	fmt.Printf("\n  %-34s", op.name)
	for _, size := range tableSizes {
		fmt.Printf(" %11s", fmt.Sprintf("%d ids", size))
	}
	fmt.Println()
	for _, clients := range clientCount {
		sides := []*storeSide{ours, theirs}
		medians := make([][]time.Duration, len(sides))
		var least []time.Duration // of ours
		for _, size := range tableSizes {
			times := make([][]time.Duration, len(sides))
			from := make([]int, len(sides))
			estimates := make([]time.Duration, len(sides))
			for round := range storeRounds {
				for n, s := range sides {
					if round > 0 && estimates[n] > slowCall {
						continue
					}
					if op.prepare != nil && round == 0 {
						// What the preparing costs tells how many fit.
						t, _, err := s.run(&storeOps[0], 1, size, 0, 0)
						if err != nil {
							return err
						}
						estimates[n] = t
					}
					t, calls, err := s.run(op, clients, size, estimates[n], from[n])
					if err != nil {
						return err
					}
					from[n] += calls
					if op.prepare == nil {
						// Of one client: what a call has to wait for.
						estimates[n] = t * time.Duration(min(clients, 2))
					}
					times[n] = append(times[n], t)
				}
			}
			least = append(least, slices.Min(times[0]))
			for n := range sides {
				slices.Sort(times[n])
				medians[n] = append(medians[n], times[n][len(times[n])/2])
			}
		}
		for n, s := range sides {
			fmt.Printf("    %2d clients  %-20s", clients, s.name)
			for _, t := range medians[n] {
				fmt.Printf(" %11.1f", float64(t)/float64(time.Microsecond))
			}
			fmt.Println()
		}
		fmt.Printf("    %-32s", "            theirs ÷ ours")
		for i := range tableSizes {
			ratio := float64(medians[1][i]) / float64(medians[0][i])
			fmt.Printf(" %11.1f", ratio)
			if op.changes && clients == 32 && tableSizes[i] == 10000 && ratio < leastFactor {
				*held = false
			}
		}
		fmt.Println()
		if last := len(tableSizes) - 1; !op.grows && least[last] > mostGrowth*least[0] {
			*grown = false
		}
	}
	return nil
}

// newStoreSide starts a store, by activation, on the tables that it finds in
// the home, and connects the clients.
func newStoreSide(name string, s *session.Session) (_ *storeSide, err error) {
	dir := filepath.Join(s.Home, ".local/share/flatpak/db")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	for _, size := range tableSizes {
		entries := make(map[string]gvdb.Entry, size)
		for i := range size {
			entries[fmt.Sprintf("id%06d", i)] = gvdb.Entry{
				Data:        bus.Value{Signature: "y", Data: []byte{0}},
				Permissions: map[string][]string{"org.bench.App": {"yes"}},
			}
		}
		b, err := gvdb.Encode(entries)
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("bench", size)), b, 0o600); err != nil {
			return nil, err
		}
	}
	side := &storeSide{name: name}
	defer func() {
		if err != nil {
			side.close()
		}
	}()
	for range slices.Max(clientCount) {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		c, err := bus.Dial(ctx, s.Address, bus.Options{})
		cancel()
		if err != nil {
			return nil, err
		}
		side.clients = append(side.clients, c)
	}
	for _, size := range tableSizes {
		var ids []string
		if err := side.call(0, "List", "s", []any{fmt.Sprint("bench", size)}, &ids); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if len(ids) != size {
			return nil, fmt.Errorf("%s has %d of %d ids", name, len(ids), size)
		}
	}
	return side, nil
}

func (s *storeSide) close() {
	for _, c := range s.clients {
		c.Close()
	}
}
