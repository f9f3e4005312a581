package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"docportal/internal/bus"
	"docportal/internal/documents"
	"docportal/internal/fuse"
	"docportal/internal/keeper"
	"docportal/internal/permstore"
)

// noteUsed is noted with a bus connection of which something was received. With
// a fresh one it is its unique name.
const noteUsed = "used"

// dial connects to the bus, or goes on with the connection that the bus has
// given the names of the server before. It is the keeper that connects: the
// names then belong to a process that stays.
func (d *daemon) dial(ctx context.Context, o bus.Options) (*bus.Conn, error) {
	o = d.connecting(o)
	k := d.keeper.Take(keeper.Bus)
	if k == nil {
		return bus.Dial(ctx, "", o)
	}
	defer k.Close()
	d.inherited = true
	if name, ok := strings.CutPrefix(k.Note, keeper.Fresh); ok && len(k.Files) == 1 {
		// The next one first: until then this one stays fresh, and calls are
		// safe in it.
		d.queue(ctx)
		err := d.keeper.Keep(keeper.Bus, noteUsed, k.Files[0])
		if err == nil {
			var conn *bus.Conn
			if conn, err = bus.Resume(ctx, k.Files[0], name, o); err == nil {
				return conn, nil
			}
		}
		d.log.Warn("the connection that waited for the names is of no use", "reason", err)
	}
	// The keeper holds the old one, and with it the names, until this one has
	// them.
	return bus.Dial(ctx, "", o)
}

func (d *daemon) connecting(o bus.Options) bus.Options {
	if d.keeper != nil {
		o.Connect = d.keeper.Connect
	}
	return o
}

// queue has a connection wait for the names, for the server after this one.
func (d *daemon) queue(ctx context.Context) {
	d.keeper.Take(keeper.Standby).Close() // from a server that had not begun
	conn, err := bus.Queue(ctx, "", d.connecting(bus.Options{Log: d.log}), documents.Name, permstore.Name)
	if err == nil {
		d.standby = conn
		err = d.keeper.Keep(keeper.Standby, keeper.Fresh+conn.Name, conn.File)
	}
	if err != nil {
		d.log.Warn("calls will fail for a moment if this server dies", "reason", err)
	}
}

// leave takes the waiting connection back: there is to be no server after this
// one.
func (d *daemon) leave(ctx context.Context) {
	d.preparing.Wait()
	if d.standby != nil {
		d.standby.Leave(ctx, documents.Name, permstore.Name)
		d.keeper.Drop(keeper.Standby)
	}
}

// have has the names' connection kept, and another one wait for them.
func (d *daemon) have(ctx context.Context) {
	if d.keeper == nil || d.standby != nil {
		return
	}
	if f, err := d.conn.Dup(); err == nil {
		if err := d.keeper.Keep(keeper.Bus, noteUsed, f); err != nil {
			d.log.Warn("the bus connection is not kept", "reason", err)
		}
		f.Close()
	}
	d.queue(ctx)
}

// keptTransient is the keeper's name of what transient documents are noted in.
const keptTransient = "transient"

// remember takes back the transient documents of a server before, nil for none,
// and has those of now kept.
func (d *daemon) remember(k *keeper.Kept) {
	if d.keeper == nil {
		return
	}
	var f *os.File
	if k != nil && len(k.Files) == 1 {
		f = k.Files[0]
	}
	n, err := d.docs.Remember(f, func(f *os.File) error { return d.keeper.Keep(keptTransient, "", f) })
	if n > 0 {
		d.log.Info("transient documents are taken over", "documents", n)
	}
	if err != nil {
		d.log.Warn("transient documents are lost when their server dies", "reason", err)
	}
}

// mountView mounts the file view, or goes on with the one of the server before.
func (d *daemon) mountView(dir string, docs fuse.Documents) (documents.View, error) {
	o := fuse.Options{
		Log:      d.log,
		Replace:  d.args.Replace,
		Journal:  filepath.Join(storeDir(), "temporary-files"),
		Poisoned: d.keeper.Crashes() >= poisonedAfter,
		Low:      d.low,
	}
	if d.keeper != nil {
		o.Keep = func(where string, device, memory *os.File) error {
			return d.keeper.Keep(keeper.Device, where, device, memory)
		}
		o.Detach = d.keeper.Detach
	}
	d.takeOver()
	select {
	case <-d.lost:
		return nil, errLost
	default:
	}
	if k := d.keeper.Take(keeper.Device); k != nil {
		if len(k.Files) == 2 {
			o.Resume = &fuse.Connection{Device: k.Files[0], Memory: k.Files[1], GiveUp: func() { d.keeper.Drop(keeper.Device) }}
		} else {
			k.Close()
		}
	}
	// There are as many readers of requests as the runtime has processors. One that
	// waits keeps its processor, unless no other is idle: then the runtime takes it
	// away, and starts a thread for it, mostly in vain. So from here on there is one
	// for each reader, for what is answered meanwhile, and to spare.
	runtime.GOMAXPROCS(d.processors)
	v, err := fuse.Mount(dir, docs, o)
	runtime.GOMAXPROCS(2*d.processors + 2)
	if err != nil {
		return nil, err
	}
	select {
	case d.mounts <- dir:
	default: // it is looked for already
	}
	return v, nil
}

// unseen reports whether the bus, and with it what it starts, surely does not
// see the view that is mounted on dir.
func (d *daemon) unseen(dir string) bool {
	pid := d.busProcess()
	if pid == 0 {
		return false
	}
	seen, err := fuse.Visible(pid, dir)
	return err == nil && !seen
}

// blind reports whether the processes of the session surely cannot be looked at,
// so that nobody is identified: that is so in a user namespace of our own.
func (d *daemon) blind() bool {
	proc := fmt.Sprintf("/proc/%d", d.busProcess())
	var st unix.Stat_t
	if err := unix.Stat(proc, &st); err != nil || st.Uid != uint32(os.Getuid()) {
		return false
	}
	_, err := os.Readlink(proc + "/root")
	return errors.Is(err, os.ErrPermission)
}

// busProcess is the process of the bus, 0 if that is not known: older buses do
// not tell.
func (d *daemon) busProcess() int {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	var pid uint32
	if err := d.conn.Call(ctx, busName, "/org/freedesktop/DBus", busName, "GetConnectionUnixProcessID", "s", []any{busName}, &pid); err != nil {
		return 0
	}
	return int(pid)
}

// poisonedAfter is after how many servers that died by themselves, a short
// while ago, what they have not answered is not tried again.
const poisonedAfter = 3
