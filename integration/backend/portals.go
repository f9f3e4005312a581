package main

import (
	"os"

	"github.com/godbus/dbus/v5"
	"github.com/godbus/dbus/v5/prop"
)

// vars are the options of a call, or its results.
type vars = map[string]dbus.Variant

// stream is what an app gets of a screen.
type stream struct {
	Node       uint32
	Properties vars
}

// agreed is what a person answers who is asked by a dialog.
const agreed = uint32(0)

// interfaces are the methods of all backends of the desktop portal but the file
// chooser's. Each agrees and is recorded with the app id that it was given.
func (c *chooser) interfaces() map[string]map[string]any {
	seen := func(method, app string) { c.record(Call{Method: method, AppID: app}) }
	type path = dbus.ObjectPath
	return map[string]map[string]any{
		"Access": {
			"AccessDialog": func(_ path, app, _, title, _, _ string, _ vars) (uint32, vars, *dbus.Error) {
				c.record(Call{"Access.AccessDialog", app, title})
				return agreed, vars{}, nil
			},
		},
		"Account": {
			"GetUserInformation": func(_ path, app, _ string, _ vars) (uint32, vars, *dbus.Error) {
				seen("Account.GetUserInformation", app)
				return agreed, vars{"id": dbus.MakeVariant("me"), "name": dbus.MakeVariant("Me"), "image": dbus.MakeVariant("file://" + c.file)}, nil
			},
		},
		"AppChooser": {
			"ChooseApplication": func(_ path, app, _ string, choices []string, _ vars) (uint32, vars, *dbus.Error) {
				seen("AppChooser.ChooseApplication", app)
				return 1, vars{}, nil // nothing is to be started
			},
			"UpdateChoices": func(path, []string) *dbus.Error { return nil },
		},
		"Background": {
			"GetAppState": func() (vars, *dbus.Error) { return vars{}, nil },
			"NotifyBackground": func(_ path, app, _ string) (uint32, vars, *dbus.Error) {
				seen("Background.NotifyBackground", app)
				return agreed, vars{}, nil
			},
			"EnableAutostart": func(app string, enable bool, command []string, _ uint32) (bool, *dbus.Error) {
				title := ""
				for _, word := range command {
					title += word + " "
				}
				c.record(Call{"Background.EnableAutostart", app, title})
				return enable, nil
			},
		},
		"Email": {
			"ComposeEmail": func(_ path, app, _ string, _ vars) (uint32, vars, *dbus.Error) {
				seen("Email.ComposeEmail", app)
				return agreed, vars{}, nil
			},
		},
		"Inhibit": {
			"Inhibit": func(_ path, app, _ string, _ uint32, _ vars) *dbus.Error {
				seen("Inhibit.Inhibit", app)
				return nil
			},
			"CreateMonitor": func(_, _ path, app, _ string) (uint32, *dbus.Error) {
				seen("Inhibit.CreateMonitor", app)
				return agreed, nil
			},
			"QueryEndResponse": func(path) *dbus.Error { return nil },
		},
		"Notification": {
			"AddNotification": func(app, _ string, _ vars) *dbus.Error {
				seen("Notification.AddNotification", app)
				return nil
			},
			"RemoveNotification": func(app, _ string) *dbus.Error {
				seen("Notification.RemoveNotification", app)
				return nil
			},
		},
		"Print": {
			"PreparePrint": func(_ path, app, _, title string, _, _, _ vars) (uint32, vars, *dbus.Error) {
				c.record(Call{"Print.PreparePrint", app, title})
				return agreed, vars{"token": dbus.MakeVariant(uint32(1)), "settings": dbus.MakeVariant(vars{}), "page-setup": dbus.MakeVariant(vars{})}, nil
			},
			"Print": func(_ path, app, _, title string, fd dbus.UnixFD, _ vars) (uint32, vars, *dbus.Error) {
				c.record(Call{"Print.Print", app, title})
				return agreed, vars{}, close(fd)
			},
		},
		"ScreenCast": {
			"CreateSession": func(_, _ path, app string, _ vars) (uint32, vars, *dbus.Error) {
				seen("ScreenCast.CreateSession", app)
				return agreed, vars{}, nil
			},
			"SelectSources": func(_, _ path, app string, _ vars) (uint32, vars, *dbus.Error) {
				seen("ScreenCast.SelectSources", app)
				return agreed, vars{}, nil
			},
			"Start": func(_, _ path, app, _ string, _ vars) (uint32, vars, *dbus.Error) {
				seen("ScreenCast.Start", app)
				// As if there were a screen, in PipeWire's node 1.
				return agreed, vars{"streams": dbus.MakeVariant([]stream{{1, vars{}}})}, nil
			},
		},
		"Screenshot": {
			"Screenshot": func(_ path, app, _ string, _ vars) (uint32, vars, *dbus.Error) {
				seen("Screenshot.Screenshot", app)
				return agreed, vars{"uri": dbus.MakeVariant("file://" + c.file)}, nil
			},
			"PickColor": func(_ path, app, _ string, _ vars) (uint32, vars, *dbus.Error) {
				seen("Screenshot.PickColor", app)
				return agreed, vars{}, nil
			},
		},
		"Secret": {
			"RetrieveSecret": func(_ path, app string, fd dbus.UnixFD, _ vars) (uint32, vars, *dbus.Error) {
				seen("Secret.RetrieveSecret", app)
				f := os.NewFile(uintptr(fd), "secret")
				f.WriteString("secret of " + app)
				f.Close()
				return agreed, vars{}, nil
			},
		},
		"Settings": {
			"ReadAll": func(_ []string) (map[string]vars, *dbus.Error) {
				seen("Settings.ReadAll", "")
				return map[string]vars{"org.freedesktop.appearance": {"color-scheme": dbus.MakeVariant(uint32(1))}}, nil
			},
			"Read": func(_, _ string) (dbus.Variant, *dbus.Error) {
				seen("Settings.Read", "")
				return dbus.MakeVariant(uint32(1)), nil
			},
		},
		"Wallpaper": {
			"SetWallpaperURI": func(_ path, app, _, _ string, _ vars) (uint32, *dbus.Error) {
				seen("Wallpaper.SetWallpaperURI", app)
				return agreed, nil
			},
		},
		"Lockdown": {},
	}
}

// properties of the backends that the desktop portal looks at.
var properties = prop.Map{
	"org.freedesktop.impl.portal.ScreenCast": {
		"AvailableSourceTypes": {Value: uint32(1)},
		"AvailableCursorModes": {Value: uint32(1)},
		"version":              {Value: uint32(4)},
	},
	"org.freedesktop.impl.portal.Secret":     {"version": {Value: uint32(1)}},
	"org.freedesktop.impl.portal.Screenshot": {"version": {Value: uint32(2)}},
	"org.freedesktop.impl.portal.Inhibit":    {"version": {Value: uint32(3)}},
}

func close(fd dbus.UnixFD) *dbus.Error {
	if err := os.NewFile(uintptr(fd), "file").Close(); err != nil {
		return dbus.MakeFailedError(err)
	}
	return nil
}
