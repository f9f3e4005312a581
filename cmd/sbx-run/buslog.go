package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"docportal/internal/bus"
	"docportal/internal/sandbox"
)

// namesWait is how long the system bus may take to list its names.
const namesWait = 2 * time.Second

// logBus has the starter tell what the proxy refuses. Done waits for the rest,
// once the proxy has ended, and says it again as lines of a profile.
func logBus(ctx context.Context, starter *sandbox.Starter, host *sandbox.Host) (done func(), err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	starter.ProxyLog = w
	system := systemNames(ctx, host)
	var all []sandbox.Refusal
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		sandbox.WatchProxy(r, func(name string) bool { return system[name] }, func(r sandbox.Refusal) {
			all = append(all, r)
			starter.Warn("refused: %s %s  %s", r.Group(), r.Line(), r.What)
		})
	}()
	return func() {
		w.Close()
		<-ended
		r.Close()
		if len(all) == 0 {
			starter.Warn("the bus proxy refused nothing")
			return
		}
		fmt.Fprintf(os.Stderr, "# What the bus proxy refused. Not all of it need be of use to the app.\n%s", sandbox.Summary(all))
	}, nil
}

// systemNames are the names that the system bus has or can start; none if it
// does not answer.
func systemNames(ctx context.Context, host *sandbox.Host) map[string]bool {
	ctx, cancel := context.WithTimeout(ctx, namesWait)
	defer cancel()
	names := map[string]bool{}
	conn, err := bus.Dial(ctx, host.SystemBus.Address, bus.Options{})
	if err != nil {
		return names
	}
	defer conn.Close()
	for _, member := range []string{"ListNames", "ListActivatableNames"} {
		var list []string
		if conn.Call(ctx, "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", member, "", nil, &list) == nil {
			for _, name := range list {
				names[name] = true
			}
		}
	}
	return names
}
