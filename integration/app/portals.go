package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"

	"docportal/integration/wire"
)

// patience is how long the person may take to answer.
const patience = 2 * time.Minute

const (
	portalName = "org.freedesktop.portal.Desktop"
	portalPath = "/org/freedesktop/portal/desktop"
)

// vars are the options of a call, or its results.
type vars = map[string]dbus.Variant

// request calls a method of the desktop portal, INTERFACE.METHOD, whose answer
// comes by a signal, and waits for that. The options are its last argument.
func request(conn *dbus.Conn, method string, options vars, args ...any) (vars, error) {
	// The answer may come before the call's reply: its place is known before,
	// and listened to before the call is made.
	// Each request has a connection of its own.
	token := fmt.Sprintf("app%d", os.Getpid())
	sender := strings.ReplaceAll(strings.TrimPrefix(conn.Names()[0], ":"), ".", "_")
	handle := dbus.ObjectPath("/org/freedesktop/portal/desktop/request/" + sender + "/" + token)
	if err := conn.AddMatchSignal(
		dbus.WithMatchObjectPath(handle),
		dbus.WithMatchInterface("org.freedesktop.portal.Request"),
		dbus.WithMatchMember("Response"),
	); err != nil {
		return nil, err
	}
	signals := make(chan *dbus.Signal, 8)
	conn.Signal(signals)

	if options == nil {
		options = vars{}
	}
	options["handle_token"] = dbus.MakeVariant(token)
	var got dbus.ObjectPath
	if err := conn.Object(portalName, portalPath).Call("org.freedesktop.portal."+method, 0, append(args, options)...).Store(&got); err != nil {
		return nil, fmt.Errorf("%s: %w", method, err)
	}
	if got != handle {
		return nil, fmt.Errorf("%s: the request is at %s, not at %s", method, got, handle)
	}

	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		select {
		case s, ok := <-signals:
			if !ok {
				return nil, errors.New("the bus closed the connection")
			}
			if s.Path != handle || s.Name != "org.freedesktop.portal.Request.Response" {
				continue
			}
			var code uint32
			var results vars
			if err := dbus.Store(s.Body, &code, &results); err != nil {
				return nil, err
			}
			if code != 0 {
				return nil, fmt.Errorf("the request was answered with %d (1: cancelled, 2: failed)", code)
			}
			return results, nil
		case <-timeout.C:
			return nil, errors.New("nobody answered")
		}
	}
}

// portal calls one portal in an ordinary way. Data of the answer is what came
// of it.
func portal(r wire.Request, a *wire.Answer) error {
	conn, err := dbus.ConnectSessionBus()
	if err != nil {
		return err
	}
	defer conn.Close()
	simple := func(method string, args ...any) error {
		c := conn.Object(portalName, portalPath).Call("org.freedesktop.portal."+method, 0, args...)
		a.Data = fmt.Sprint(c.Body...)
		return c.Err
	}
	ask := func(method string, options vars, args ...any) error {
		results, err := request(conn, method, options, args...)
		a.Data = fmt.Sprint(results)
		return err
	}
	opened := func(method string) error {
		f, err := os.OpenFile(r.Path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		return simple(method, dbus.UnixFD(f.Fd()))
	}
	yes := dbus.MakeVariant(true)
	switch r.Name {
	case "Account":
		return ask("Account.GetUserInformation", nil, "")
	case "Background":
		return ask("Background.RequestBackground", vars{"autostart": yes, "commandline": dbus.MakeVariant([]string{"app", "--hidden"})}, "")
	case "Camera":
		return ask("Camera.AccessCamera", nil)
	case "Email":
		return ask("Email.ComposeEmail", vars{"address": dbus.MakeVariant("a@example.org")}, "")
	case "Inhibit":
		return ask("Inhibit.Inhibit", nil, "", uint32(8)) // idling
	case "Location":
		session := dbus.ObjectPath("")
		if err := conn.Object(portalName, portalPath).Call("org.freedesktop.portal.Location.CreateSession", 0, vars{"session_handle_token": dbus.MakeVariant("s")}).Store(&session); err != nil {
			return err
		}
		if err := conn.AddMatchSignal(dbus.WithMatchInterface("org.freedesktop.portal.Location")); err != nil {
			return err
		}
		moved := make(chan *dbus.Signal, 8)
		conn.Signal(moved)
		if _, err := request(conn, "Location.Start", nil, session, ""); err != nil {
			return err
		}
		late := time.After(patience)
		for {
			select {
			case s := <-moved:
				if s != nil && s.Name == "org.freedesktop.portal.Location.LocationUpdated" {
					a.Data = fmt.Sprint(s.Body...)
					return nil
				}
			case <-late:
				return errors.New("no location came")
			}
		}
	case "NetworkMonitor":
		return simple("NetworkMonitor.GetAvailable")
	case "Notification":
		return simple("Notification.AddNotification", "one", vars{"title": dbus.MakeVariant("Hello")})
	case "OpenURI":
		return ask("OpenURI.OpenURI", vars{"ask": yes}, "", r.Data)
	case "Print":
		results, err := request(conn, "Print.PreparePrint", nil, "", "Paper", vars{}, vars{})
		if err != nil {
			return err
		}
		page, out, err := os.Pipe()
		if err != nil {
			return err
		}
		defer page.Close()
		out.WriteString(r.Data)
		out.Close()
		return ask("Print.Print", vars{"token": results["token"]}, "", "Paper", dbus.UnixFD(page.Fd()))
	case "ProxyResolver":
		return simple("ProxyResolver.Lookup", "https://example.org/")
	case "ScreenCast":
		results, err := request(conn, "ScreenCast.CreateSession", vars{"session_handle_token": dbus.MakeVariant("s")})
		if err != nil {
			return err
		}
		handle, _ := results["session_handle"].Value().(string)
		session := dbus.ObjectPath(handle)
		if _, err := request(conn, "ScreenCast.SelectSources", nil, session); err != nil {
			return err
		}
		return ask("ScreenCast.Start", nil, session, "")
	case "Screenshot":
		return ask("Screenshot.Screenshot", nil, "")
	case "Secret":
		in, out, err := os.Pipe()
		if err != nil {
			return err
		}
		defer in.Close()
		err = ask("Secret.RetrieveSecret", nil, dbus.UnixFD(out.Fd()))
		out.Close()
		if err != nil {
			return err
		}
		b, err := io.ReadAll(in)
		a.Data = string(b)
		return err
	case "Settings":
		return simple("Settings.Read", "org.freedesktop.appearance", "color-scheme")
	case "Trash":
		return opened("Trash.TrashFile")
	case "Wallpaper":
		f, err := os.Open(r.Path)
		if err != nil {
			return err
		}
		defer f.Close()
		return ask("Wallpaper.SetWallpaperFile", nil, "", dbus.UnixFD(f.Fd()))
	}
	return fmt.Errorf("no such portal: %q", r.Name)
}
