package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"docportal/internal/bus"
	"docportal/internal/documents"
	"docportal/internal/permstore"
)

// busName is the bus itself.
const busName = "org.freedesktop.DBus"

// takeNames takes the two names on the bus and reports which it has got.
//
// The bus starts an instance for each name that is asked for, so two may begin
// at the same moment. Whoever gets the name of the documents serves both; the
// other one leaves when both names have an owner, and not before: the callers
// who made the bus start it are still waiting. If it has to wait too long, the
// names belong to somebody of another kind, and what is free is served.
func (d *daemon) takeNames(ctx context.Context) (docs, perms bool, err error) {
	flags := bus.AllowReplacement | bus.DoNotQueue
	if d.args.Replace {
		flags |= bus.ReplaceExisting
	}
	if d.inherited {
		// The owner may still be the server before, which is dead. To refuse to
		// wait would mean to leave the queue in which this connection is.
		flags = bus.AllowReplacement | bus.ReplaceExisting
	}
	// A question that is on its way is waited for even if the end comes: the
	// bus may have given the name already, and sent calls for it.
	end := ctx
	ctx, cancel := lingering(ctx, d.timeouts.calls)
	defer cancel()
	var changes *bus.Subscription // once there is something to wait for
	defer func() {
		if changes != nil {
			changes.Close(ctx)
		}
	}()
	deadline := time.NewTimer(d.timeouts.names)
	defer deadline.Stop()
	for late := false; ; {
		docs, err := d.conn.RequestName(ctx, documents.Name, flags)
		if err != nil {
			return false, false, d.nameError(ctx, documents.Name, err)
		}
		if docs || late {
			perms, err := d.conn.RequestName(ctx, permstore.Name, flags)
			if err != nil {
				return docs, false, d.nameError(ctx, permstore.Name, err)
			}
			for _, n := range []struct {
				name  string
				owned bool
			}{{documents.Name, docs}, {permstore.Name, perms}} {
				if !n.owned {
					d.log.Warn("somebody else has the name", "name", n.name)
				}
			}
			return docs, perms, nil
		}
		if d.args.Replace {
			return false, false, errors.New("the instance that is running does not let itself be replaced")
		}
		if changes == nil {
			changes, err = d.conn.Subscribe(ctx, bus.Match{Sender: busName, Interface: busName, Member: "NameOwnerChanged"})
			if err != nil {
				return false, false, fmt.Errorf("cannot watch the bus: %w", err)
			}
			continue // what changed before that
		}
		owned, err := d.owned(ctx, permstore.Name)
		if err != nil {
			return false, false, d.nameError(ctx, permstore.Name, err)
		}
		if owned {
			d.log.Info("another instance serves already")
			return false, false, nil
		}
		select {
		case <-changes.C:
		case <-deadline.C:
			late = true
		case <-end.Done():
			return false, false, nil
		case <-d.conn.Done():
			return false, false, nil
		}
	}
}

// lingering returns a context that ends some time after another one.
func lingering(ctx context.Context, after time.Duration) (context.Context, context.CancelFunc) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		time.AfterFunc(after, cancel)
	})
	return longer, func() {
		stop()
		cancel()
	}
}

// nameError says that a name could not be asked for; a bus that goes, or a
// signal, is no error.
func (d *daemon) nameError(ctx context.Context, name string, err error) error {
	select {
	case <-d.conn.Done():
		return nil
	default:
	}
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("cannot take the name %s: %w", name, err)
}

func (d *daemon) owned(ctx context.Context, name string) (bool, error) {
	var owned bool
	err := d.conn.Call(ctx, busName, "/org/freedesktop/DBus", busName, "NameHasOwner", "s", []any{name}, &owned)
	return owned, err
}
