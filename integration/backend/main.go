// Backend is a backend of the desktop portal that stands in for the person: it
// answers every file dialog at once with the file named on its command line, and
// agrees to everything else. It is the one thing in the tests that is not real.
// It prints a line of JSON (Call) for each thing that it was asked for.
//
//	backend [-writable] [-cancel] FILE
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/godbus/dbus/v5"
	"github.com/godbus/dbus/v5/prop"
)

// busName is the name that our portal file gives to xdg-desktop-portal.
const busName = "org.freedesktop.impl.portal.desktop.docportaltest"

// Call is a dialog that was asked for.
type Call struct {
	Method string `json:"method"`
	AppID  string `json:"app_id"`
	Title  string `json:"title"`
}

type chooser struct {
	writable, cancel bool
	file             string

	mu  sync.Mutex // the calls come in goroutines of their own
	out *json.Encoder
}

func (c *chooser) answer(method, appID, title string) (uint32, map[string]dbus.Variant, *dbus.Error) {
	c.record(Call{method, appID, title})
	if c.cancel {
		return 1, map[string]dbus.Variant{}, nil
	}
	uri := url.URL{Scheme: "file", Path: c.file}
	results := map[string]dbus.Variant{"uris": dbus.MakeVariant([]string{uri.String()})}
	if method == "OpenFile" {
		results["writable"] = dbus.MakeVariant(c.writable)
	}
	return 0, results, nil
}

// record prints a call. Nobody is there to be told of an error.
func (c *chooser) record(call Call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out.Encode(call)
}

// OpenFile is org.freedesktop.impl.portal.FileChooser.OpenFile.
func (c *chooser) OpenFile(_ dbus.ObjectPath, appID, _, title string, _ map[string]dbus.Variant) (uint32, map[string]dbus.Variant, *dbus.Error) {
	return c.answer("OpenFile", appID, title)
}

// SaveFile is org.freedesktop.impl.portal.FileChooser.SaveFile.
func (c *chooser) SaveFile(_ dbus.ObjectPath, appID, _, title string, _ map[string]dbus.Variant) (uint32, map[string]dbus.Variant, *dbus.Error) {
	return c.answer("SaveFile", appID, title)
}

func main() {
	c := &chooser{out: json.NewEncoder(os.Stdout)}
	flag.BoolVar(&c.writable, "writable", false, "give the file for writing too")
	flag.BoolVar(&c.cancel, "cancel", false, "answer as if the person closed the dialog")
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	c.file = flag.Arg(0)
	if err := serve(c); err != nil {
		fmt.Fprintln(os.Stderr, "backend:", err)
		os.Exit(1)
	}
}

func serve(c *chooser) error {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	conn, err := dbus.ConnectSessionBus()
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.Export(c, "/org/freedesktop/portal/desktop", "org.freedesktop.impl.portal.FileChooser"); err != nil {
		return err
	}
	for name, methods := range c.interfaces() {
		if err := conn.ExportMethodTable(methods, "/org/freedesktop/portal/desktop", "org.freedesktop.impl.portal."+name); err != nil {
			return err
		}
	}
	if _, err := prop.Export(conn, "/org/freedesktop/portal/desktop", properties); err != nil {
		return err
	}
	reply, err := conn.RequestName(busName, dbus.NameFlagDoNotQueue)
	if err != nil {
		return err
	}
	if reply != dbus.RequestNameReplyPrimaryOwner {
		return fmt.Errorf("%s has another owner", busName)
	}
	select {
	case <-stop:
	case <-conn.Context().Done():
	}
	return nil
}
