package permstore

import (
	"context"
	"errors"

	"docportal/dbus"
	"docportal/internal/bus"
)

// Name and Path are where the permission store is on the bus.
const (
	Name = "org.freedesktop.impl.portal.PermissionStore"
	Path = "/org/freedesktop/impl/portal/PermissionStore"
)

// Version is the version of the interface.
const Version = 2

// changedSignature is the type of the signal Changed.
const changedSignature = "ssbva{sas}"

// Interface returns the D-Bus interface org.freedesktop.impl.portal.PermissionStore
// of a store. emit sends a signal of that interface to all
// (bus.Conn.Emit bound to Path and Name). It subscribes to the store, so what
// must know of a change before its signal is sent subscribes first.
func Interface(s *Store, emit func(member, signature string, args ...any) error) *bus.Interface {
	s.Subscribe(func(changes []Change) {
		for _, c := range changes {
			e, deleted := c.New, false
			if e == nil {
				// The data is the last there was, the permissions are none.
				e, deleted = &Entry{Data: c.Old.Data}, true
			}
			permissions := e.Permissions
			if permissions == nil {
				permissions = map[string][]string{}
			}
			if err := emit("Changed", changedSignature, c.Table, c.ID, deleted, e.Data, permissions); err != nil {
				s.log.Error("cannot announce a changed permission", "table", c.Table, "id", c.ID, "error", err)
			}
		}
	})
	o := object{s}
	method := func(name, in, out string, h bus.Handler) bus.Method {
		return bus.Method{Name: name, In: in, Out: out, Handle: hostOnly(h)}
	}
	return &bus.Interface{
		Name: Name,
		Methods: []bus.Method{
			method("Lookup", "ss", "a{sas}v", o.lookup),
			method("Set", "sbsa{sas}v", "", o.set),
			method("Delete", "ss", "", o.delete),
			method("SetValue", "sbsv", "", o.setValue),
			method("SetPermission", "sbssas", "", o.setPermission),
			method("DeletePermission", "sss", "", o.deletePermission),
			method("GetPermission", "sss", "as", o.getPermission),
			method("List", "s", "as", o.list),
		},
		Properties:    map[string]bus.Value{"version": {Signature: "u", Data: []byte{Version, 0, 0, 0}}},
		Introspection: dbus.Interface(dbus.PermissionStore),
		// A client that sends two changes without waiting means them in that order.
		Serial: true,
	}
}

// hostOnly refuses callers that are sandboxed apps: they could give themselves
// any permission.
func hostOnly(h bus.Handler) bus.Handler {
	return func(ctx context.Context, c *bus.Call) ([]any, error) {
		if c.Caller == nil || !c.Caller.IsHost() {
			return nil, bus.NotAllowed("the permission store is not for sandboxed apps")
		}
		out, err := h(ctx, c)
		return out, busError(err)
	}
}

// busError is the border where errors of the store become those of D-Bus.
func busError(err error) error {
	var (
		reply   *bus.Error
		limit   *InvalidError
		storage *StorageError
		damage  *DamageError
	)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &reply):
		return reply
	case errors.As(err, &limit):
		return bus.InvalidArgument("%s", limit.Reason)
	case errors.As(err, &storage):
		return bus.Failed("%s", storage.Error())
	case errors.As(err, &damage), errors.Is(err, ErrClosed):
		return bus.Failed("%s", err.Error())
	}
	return err
}

// object answers the methods.
type object struct{ s *Store }

func notFound(table, id string) error {
	return bus.NotFound("no entry %q in table %q", id, table)
}

// names checks a table and, where the method has one, an id.
func names(table, id string) error {
	if err := CheckTable(table); err != nil {
		return err
	}
	return CheckID(id)
}

// update runs fn on an entry, which it may change, and stores the outcome. An
// entry that is absent is made if create, else it is NotFound. The caller may
// have left meanwhile: what it asked for is done.
func (o object) update(table, id string, create bool, fn func(*Entry)) error {
	if err := names(table, id); err != nil {
		return err
	}
	return o.s.Update(context.Background(), func(tx *Tx) error {
		e, ok, err := tx.Get(table, id)
		if err != nil {
			return err
		}
		if !ok {
			if !create {
				return notFound(table, id)
			}
			e = Entry{
				Data:        bus.Value{Signature: "y", Data: []byte{0}},
				Permissions: map[string][]string{},
			}
		}
		fn(&e) // e is this transaction's own copy
		return tx.Put(table, id, e)
	})
}

// checkData refuses values that mean nothing outside of their message.
func checkData(data bus.Value) error {
	if len(data.Data) > MaxData {
		return invalid("the data is larger than %d bytes", MaxData)
	}
	if data.HasFD() {
		return invalid("file descriptors cannot be stored")
	}
	return nil
}

func (o object) entry(table, id string) (e Entry, err error) {
	if err := names(table, id); err != nil {
		return e, err
	}
	err = o.s.View(func(tx *Tx) error {
		var ok bool
		if e, ok, err = tx.Get(table, id); err == nil && !ok {
			err = notFound(table, id)
		}
		return err
	})
	return e, err
}

func (o object) lookup(_ context.Context, c *bus.Call) ([]any, error) {
	var table, id string
	c.Scan(&table, &id)
	e, err := o.entry(table, id)
	if err != nil {
		return nil, err
	}
	return []any{e.Permissions, e.Data}, nil
}

func (o object) set(_ context.Context, c *bus.Call) ([]any, error) {
	var (
		table, id   string
		create      bool
		permissions map[string][]string
		data        bus.Value
	)
	c.Scan(&table, &create, &id, &permissions, &data)
	if err := checkData(data); err != nil {
		return nil, err
	}
	return nil, o.update(table, id, create, func(e *Entry) {
		e.Permissions, e.Data = permissions, data
	})
}

func (o object) setValue(_ context.Context, c *bus.Call) ([]any, error) {
	var (
		table, id string
		create    bool
		data      bus.Value
	)
	c.Scan(&table, &create, &id, &data)
	if err := checkData(data); err != nil {
		return nil, err
	}
	return nil, o.update(table, id, create, func(e *Entry) { e.Data = data })
}

func (o object) setPermission(_ context.Context, c *bus.Call) ([]any, error) {
	var (
		table, id, app string
		create         bool
		words          []string
	)
	c.Scan(&table, &create, &id, &app, &words)
	if err := CheckApp(app); err != nil {
		return nil, err
	}
	return nil, o.update(table, id, create, func(e *Entry) { e.Permissions[app] = words })
}

func (o object) deletePermission(_ context.Context, c *bus.Call) ([]any, error) {
	var table, id, app string
	c.Scan(&table, &id, &app)
	if err := CheckApp(app); err != nil {
		return nil, err
	}
	return nil, o.update(table, id, false, func(e *Entry) { delete(e.Permissions, app) })
}

func (o object) getPermission(_ context.Context, c *bus.Call) ([]any, error) {
	var table, id, app string
	c.Scan(&table, &id, &app)
	if err := CheckApp(app); err != nil {
		return nil, err
	}
	e, err := o.entry(table, id)
	if err != nil {
		return nil, err
	}
	words := e.Permissions[app]
	if words == nil {
		words = []string{} // an app without an entry
	}
	return []any{words}, nil
}

func (o object) delete(_ context.Context, c *bus.Call) ([]any, error) {
	var table, id string
	c.Scan(&table, &id)
	if err := names(table, id); err != nil {
		return nil, err
	}
	return nil, o.s.Update(context.Background(), func(tx *Tx) error {
		was, err := tx.Delete(table, id)
		if err == nil && !was {
			err = notFound(table, id)
		}
		return err
	})
}

func (o object) list(_ context.Context, c *bus.Call) ([]any, error) {
	var table string
	c.Scan(&table)
	if err := CheckTable(table); err != nil {
		return nil, err
	}
	ids := []string{}
	err := o.s.View(func(tx *Tx) error {
		return tx.IDs(table, func(id string) bool { ids = append(ids, id); return true })
	})
	if err != nil {
		return nil, err
	}
	return []any{ids}, nil
}
