package main

import (
	"errors"

	"docportal/internal/bus"
)

// Exit statuses of the commands, for scripts. docportal(1) lists them.
const (
	exitDone     = 0
	exitFailed   = 1 // something is wrong, or was left out
	exitUsage    = 2 // the command line is wrong
	exitNotFound = 3 // no such document
	exitRefused  = 4 // the document portal refused
	exitNobody   = 5 // no session bus, or no document portal on it
)

// failure is an error with the exit status that it means.
type failure struct {
	status int
	error
}

func (f failure) Unwrap() error { return f.error }

// exitStatus is what an error means for a script.
func exitStatus(err error) int {
	var f failure
	var e *bus.Error
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &f):
		return f.status
	case errors.As(err, &e):
		switch e.Name {
		case "org.freedesktop.portal.Error.NotFound":
			return exitNotFound
		case "org.freedesktop.portal.Error.NotAllowed", "org.freedesktop.DBus.Error.AccessDenied":
			return exitRefused
		case "org.freedesktop.portal.Error.InvalidArgument", "org.freedesktop.DBus.Error.InvalidArgs":
			return exitUsage
		case "org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner",
			"org.freedesktop.DBus.Error.NoReply", "org.freedesktop.DBus.Error.Disconnected",
			"org.freedesktop.DBus.Error.TimedOut":
			return exitNobody
		}
		if len(e.Name) > len(spawnErrors) && e.Name[:len(spawnErrors)] == spawnErrors {
			return exitNobody
		}
	case errors.Is(err, bus.ErrClosed):
		return exitNobody
	}
	return exitFailed
}

// spawnErrors begins the names of what keeps the bus from starting a service.
const spawnErrors = "org.freedesktop.DBus.Error.Spawn."
