package main

import (
	"context"
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"docportal/dbus"
	"docportal/internal/bus"
	"docportal/internal/documents"
	"docportal/internal/keeper"
)

// An instance that is started with --replace asks the one that serves, before it
// takes its names, to be its successor. Who loses the names to a successor leaves
// the file view in its place and hands it over; to anybody else it leaves nothing.

// maxSuccessors is how many may ask: all but one ask in vain.
const maxSuccessors = 16

// successors are those that have asked, by their unique names, each with a
// socket of a pair with keeper.Predecessor.
type successors struct {
	mu      sync.Mutex
	sockets map[string]int
}

// handOverMethod is the manager's method.
func (d *daemon) handOverMethod() bus.Method {
	return bus.Method{Name: "HandOver", In: "h", Handle: func(ctx context.Context, c *bus.Call) ([]any, error) {
		if c.Caller == nil || !c.Caller.IsHost() {
			return nil, bus.NotAllowed("sandboxed apps do not replace the document portal")
		}
		if d.keeper == nil {
			return nil, bus.Failed("there is nothing to hand over")
		}
		var index bus.FD
		c.Scan(&index)
		fd, ok := c.File(index)
		if !ok {
			return nil, bus.InvalidArgument("there is no such descriptor")
		}
		return nil, d.successors.add(c.Sender, fd)
	}}
}

func (s *successors) add(name string, fd int) error {
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err == nil {
		err = unix.SetNonblock(own, true) // whoever has the other end
	}
	if err != nil {
		return bus.Failed("%s", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.sockets[name]; ok {
		unix.Close(old)
	} else if len(s.sockets) >= maxSuccessors {
		unix.Close(own)
		return bus.Failed("too many instances want to take over")
	}
	if s.sockets == nil {
		s.sockets = make(map[string]int)
	}
	s.sockets[name] = own
	return nil
}

// left forgets a successor that has left the bus.
func (s *successors) left(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if fd, ok := s.sockets[name]; ok {
		unix.Close(fd)
		delete(s.sockets, name)
	}
}

// handOver hands over to the successor that has got the names, and reports
// whether there is one and it has everything. Its socket stays open to the end
// of the process.
func (d *daemon) handOver(ctx context.Context) bool {
	select {
	case <-d.lost:
	default:
		return false
	}
	var owner string
	if err := d.conn.Call(ctx, busName, "/org/freedesktop/DBus", busName, "GetNameOwner", "s", []any{documents.Name}, &owner); err != nil {
		return false
	}
	d.successors.mu.Lock()
	defer d.successors.mu.Unlock()
	fd, ok := d.successors.sockets[owner]
	if !ok {
		return false
	}
	if err := d.keeper.HandOver(keptTransient, fd); err != nil {
		d.log.Warn("transient documents are not handed over", "reason", err)
	}
	if err := d.keeper.HandOver(keeper.Device, fd); err != nil {
		d.log.Info("the file view is not handed over", "reason", err)
		return false
	}
	d.keeper.Drop(keeper.Device) // whatever becomes of us, it is not ours to end
	return true
}

// askBefore asks the instance that serves now to hand over.
func (d *daemon) askBefore(ctx context.Context) {
	if !d.args.Replace || d.keeper == nil || d.inherited || d.keeper.Has(keeper.Device) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, d.timeouts.replace)
	defer cancel()
	var owner string
	err := d.conn.Call(ctx, busName, "/org/freedesktop/DBus", busName, "GetNameOwner", "s", []any{documents.Name}, &owner)
	if err != nil {
		return // there is none
	}
	before, remote, err := keeper.NewPredecessor()
	if err == nil {
		defer remote.Close()
		_, err = d.conn.CallFiles(ctx, owner, managerPath, dbus.Manager, "HandOver", "h", []any{bus.FD(0)}, []*os.File{remote})
		if err != nil {
			before.Close()
		} else {
			d.before = before
		}
	}
	if err != nil {
		d.log.Info("the document portal that runs hands nothing over", "reason", err)
	}
}

// takeOver waits, once, for the end of the instance before and takes what it
// hands over. Nothing may be mounted and no call answered before that.
func (d *daemon) takeOver() {
	if d.before == nil {
		return
	}
	d.takingOver.Do(func() {
		defer d.before.Close()
		d.takeFrom(d.before)
	})
}

func (d *daemon) takeFrom(before *keeper.Predecessor) {
	got, err := before.Await(d.timeouts.replace)
	if err != nil {
		d.log.Warn("nothing is taken over", "reason", err)
		return
	}
	d.remember(got[keptTransient])
	if device := got[keeper.Device]; device != nil {
		// From now on nobody else works on it, so a server after this one can.
		if err := d.keeper.Keep(keeper.Device, device.Note, device.Files...); err != nil {
			d.log.Warn("the file view is not kept", "reason", err)
		}
		d.keeper.Give(keeper.Device, device)
	}
}

// errLost says that another instance has the names, and so the file view.
var errLost = errors.New("another instance has taken over")
