package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"testing"

	"docportal/dbus"
	"docportal/internal/bus"
	"docportal/internal/identity"
)

// The manager is as it is written down, and for the host alone.
func TestTheManagerIsForTheHost(t *testing.T) {
	d := newDaemon(arguments{}, slog.New(slog.NewTextHandler(io.Discard, nil)), t.TempDir(), nil)
	i := d.manager()
	got := make(map[string]dbus.Signature)
	for _, m := range i.Methods {
		got[m.Name] = dbus.Signature{In: m.In, Out: m.Out}
		for name, caller := range map[string]*identity.Caller{"nobody": nil, "an app": {Kind: identity.Flatpak, App: "org.a.A"}} {
			_, err := m.Handle(context.Background(), &bus.Call{Caller: caller, Sender: ":1.1"})
			var e *bus.Error
			if !errors.As(err, &e) || e.Name != "org.freedesktop.portal.Error.NotAllowed" {
				t.Errorf("%s by %s: %v", m.Name, name, err)
			}
		}
	}
	if want := dbus.Methods(dbus.Interface(dbus.Manager)); !maps.Equal(got, want) || i.Name != dbus.Manager {
		t.Errorf("%s has %v, want %v", i.Name, got, want)
	}
}
