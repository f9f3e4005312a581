package main

import (
	"fmt"
	"os"
	"time"

	"github.com/godbus/dbus/v5"
)

const (
	registryName = "org.a11y.atspi.Registry"
	registryPath = "/org/a11y/atspi/registry"
	rootPath     = "/org/a11y/atspi/accessible/root"
)

// shown is what an app says of itself to a screen reader.
type shown struct{ asked chan struct{} }

// GetLocalizedRoleName is org.a11y.atspi.Accessible.GetLocalizedRoleName.
func (s shown) GetLocalizedRoleName() (string, *dbus.Error) {
	close(s.asked)
	return "window of " + os.Getenv("FLATPAK_ID"), nil
}

// accessible is an app that registers with the accessibility bus, tries what
// it must not do there, and, as "read", waits to be read by a screen reader.
func accessible(how string) {
	own, err := dbus.Connect(os.Getenv("AT_SPI_BUS_ADDRESS"))
	fatalIf(err)
	app := shown{make(chan struct{})}
	fatalIf(own.Export(app, rootPath, "org.a11y.atspi.Accessible"))
	// What is answered to the registry goes out between calls, and not always in
	// the order of its serials, which the proxy insists on: calls have a
	// connection of their own.
	conn, err := dbus.Connect(os.Getenv("AT_SPI_BUS_ADDRESS"))
	fatalIf(err)
	root, registry := conn.Object(registryName, rootPath), conn.Object(registryName, registryPath)
	keys := conn.Object(registryName, registryPath+"/deviceeventcontroller")
	type reference struct {
		Name string
		Path dbus.ObjectPath
	}
	me := reference{own.Names()[0], rootPath}
	var names []string
	fatalIf(conn.BusObject().Call("org.freedesktop.DBus.ListNames", 0).Store(&names))
	for _, n := range names {
		if n[0] != ':' {
			fmt.Println("name", n)
		}
	}
	say := func(what string, c *dbus.Call) {
		if e, ok := c.Err.(dbus.Error); ok {
			fmt.Println(what, e.Name)
		} else if c.Err != nil {
			fatal(c.Err)
		} else {
			fmt.Println(what, "ok")
		}
	}
	say("embed", own.Object(registryName, rootPath).Call("org.a11y.atspi.Socket.Embed", 0, me))
	say("events", registry.Call("org.a11y.atspi.Registry.GetRegisteredEvents", 0))
	say("listeners", keys.Call("org.a11y.atspi.DeviceEventController.GetKeystrokeListeners", 0))
	say("register", registry.Call("org.a11y.atspi.Registry.RegisterEvent", 0, "object:text-changed"))
	say("keystrokes", keys.Call("org.a11y.atspi.DeviceEventController.RegisterKeystrokeListener", 0))
	say("press", keys.Call("org.a11y.atspi.DeviceEventController.GenerateKeyboardEvent", 0, int32(38), "", uint32(0)))
	say("children", root.Call("org.a11y.atspi.Accessible.GetChildren", 0))
	if len(os.Args) > 3 { // the unique name of somebody else
		say("others", conn.Object(os.Args[3], rootPath).Call("org.a11y.atspi.Accessible.GetLocalizedRoleName", 0))
	}
	say("eavesdrop", conn.BusObject().Call("org.freedesktop.DBus.AddMatch", 0, "eavesdrop=true"))
	say("monitor", conn.BusObject().Call("org.freedesktop.DBus.Monitoring.BecomeMonitor", 0, []string{}, uint32(0)))
	if how == "read" {
		fatalIf(os.WriteFile(os.Getenv("XDG_DATA_HOME")+"/ready", []byte(me.Name), 0o600))
		select {
		case <-app.asked:
			fmt.Println("read")
			time.Sleep(100 * time.Millisecond) // the reply is written by then
		case <-time.After(10 * time.Second):
			fatal(fmt.Errorf("nobody read"))
		}
	}
}

// reader is a screen reader outside: it reads the app whose name on the
// accessibility bus is in the file.
func reader(file string) {
	session := dial()
	var address string
	fatalIf(session.Object("org.a11y.Bus", "/org/a11y/bus").Call("org.a11y.Bus.GetAddress", 0).Store(&address))
	conn, err := dbus.Connect(address)
	fatalIf(err)
	name, err := os.ReadFile(file)
	fatalIf(err)
	var text string
	fatalIf(conn.Object(string(name), rootPath).Call("org.a11y.atspi.Accessible.GetLocalizedRoleName", 0).Store(&text))
	fmt.Println(text)
}
