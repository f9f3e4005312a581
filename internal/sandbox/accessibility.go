package sandbox

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"time"
)

// Assistive technologies, a screen reader for one, have a message bus of their
// own: apps register there and are asked what they show. It carries every
// keystroke and every text of every app, so an app reaches no more of it than
// the registry it needs to be found.

// accessibilityWait is how long the accessibility bus may take to say where it
// is, which starts it if it does not run.
const accessibilityWait = 2 * time.Second

// accessibilitySocket is the accessibility bus in the sandbox.
const accessibilitySocket = "/run/flatpak/at-spi-bus"

// accessibilityVariable is where programs look first.
const accessibilityVariable = "AT_SPI_BUS_ADDRESS"

// accessible decides whether the app can show anything that would have to be
// read out. A session, or a profile, that wants no accessibility says
// NO_AT_BRIDGE=1, as programs know it.
func (pl *Plan) accessible() bool {
	shows := pl.compositor != nil || pl.Env["DISPLAY"] != ""
	return shows && pl.Env["NO_AT_BRIDGE"] != "1" && pl.Host.Env["NO_AT_BRIDGE"] != "1"
}

// accessibilityRules are xdg-dbus-proxy's options for the accessibility bus.
// Missing are, on purpose, listening to keys, making key presses, and every
// other app.
func accessibilityRules() []string {
	const registry = "=org.a11y.atspi."
	rules := []string{"--filter", "--sloppy-names"} // names of those who listen are unique ones
	for _, call := range []string{
		"Socket.Embed@/org/a11y/atspi/accessible/root",
		"Socket.Unembed@/org/a11y/atspi/accessible/root",
		"Registry.GetRegisteredEvents@/org/a11y/atspi/registry",
		"DeviceEventController.GetKeystrokeListeners@/org/a11y/atspi/registry/deviceeventcontroller",
		"DeviceEventController.GetDeviceEventListeners@/org/a11y/atspi/registry/deviceeventcontroller",
		"DeviceEventController.NotifyListenersSync@/org/a11y/atspi/registry/deviceeventcontroller",
		"DeviceEventController.NotifyListenersAsync@/org/a11y/atspi/registry/deviceeventcontroller",
	} {
		rules = append(rules, "--call=org.a11y.atspi.Registry"+registry+call)
	}
	for _, signal := range []string{"EventListenerRegistered", "EventListenerDeregistered"} {
		rules = append(rules, "--broadcast=org.a11y.atspi.Registry"+registry+"Registry."+signal+"@/org/a11y/atspi/registry")
	}
	return rules
}

// accessibility finds out where the accessibility bus is. Its address is empty
// where there is none. If the app is not to have it, all that matters is whether
// one that runs can be kept from it with that ABI of Landlock.
func (s *Starter) accessibility(ctx context.Context, pl *Plan, abi int) (BusAddress, error) {
	wanted := pl.Accessible
	if s.Accessibility == nil || !wanted && (!pl.Network || abi >= landlockScopeABI) {
		return BusAddress{}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, accessibilityWait)
	defer cancel()
	asked := async(func() (string, error) { return s.Accessibility(ctx, wanted) })
	select {
	case r := <-asked:
		if r.err != nil || r.value == "" {
			return BusAddress{}, r.err
		}
		return ParseAddress(r.value, pl.Host.RuntimeDir)
	case <-ctx.Done():
		return BusAddress{}, errors.New("it does not answer")
	}
}

// setAccessibility gives the app the accessibility bus that was found.
func (pl *Plan) setAccessibility(a BusAddress) {
	if !pl.Accessible || a.Address == "" {
		pl.Accessible = false
		return
	}
	pl.accessibilityBus = a
	socket := filepath.Join(pl.Host.instances(), pl.Instance, "proxy", accessibilityName)
	pl.add(Mount{Kind: ROBind, Source: socket, Dest: accessibilitySocket})
	if !slices.ContainsFunc(pl.Profile.Env, func(e EnvVar) bool { return e.Name == accessibilityVariable }) {
		pl.Env[accessibilityVariable] = "unix:path=" + accessibilitySocket
	}
}

// accessibilityName is the name of the proxy's socket.
const accessibilityName = "accessibility"
