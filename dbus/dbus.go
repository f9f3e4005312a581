// Package dbus holds what docportal looks like from the bus: its interfaces in
// the D-Bus introspection format and its activation files. It keeps one rule:
// this is the only place where an interface is written down, and the method
// tables of the code are tested against it.
package dbus

import (
	_ "embed"
	"fmt"
	"strings"
)

// The names of the interfaces.
const (
	Documents       = "org.freedesktop.portal.Documents"
	FileTransfer    = "org.freedesktop.portal.FileTransfer"
	PermissionStore = "org.freedesktop.impl.portal.PermissionStore"
	Manager         = "docportal.Manager1"
)

var (
	//go:embed org.freedesktop.portal.Documents.xml
	documents string
	//go:embed org.freedesktop.portal.FileTransfer.xml
	fileTransfer string
	//go:embed org.freedesktop.impl.portal.PermissionStore.xml
	permissionStore string
	//go:embed docportal.Manager1.xml
	manager string

	//go:embed org.freedesktop.portal.Documents.service.in
	documentsService string
	//go:embed org.freedesktop.impl.portal.PermissionStore.service.in
	permissionStoreService string
)

// Interface returns the <interface> element of one of the interfaces named
// above, comments included. It panics for any other name.
func Interface(name string) string {
	xml := ""
	switch name {
	case Documents:
		xml = documents
	case FileTransfer:
		xml = fileTransfer
	case PermissionStore:
		xml = permissionStore
	case Manager:
		xml = manager
	default:
		panic(fmt.Sprintf("dbus: no interface %q", name))
	}
	const end = "</interface>"
	return xml[strings.Index(xml, "<interface ") : strings.LastIndex(xml, end)+len(end)]
}

// Service returns the activation file of a bus name, Documents or
// PermissionStore, for a docportal that is installed in bindir. It panics for
// any other name.
func Service(name, bindir string) string {
	template := ""
	switch name {
	case Documents:
		template = documentsService
	case PermissionStore:
		template = permissionStoreService
	default:
		panic(fmt.Sprintf("dbus: no bus name %q", name))
	}
	return strings.ReplaceAll(template, "@bindir@", bindir)
}

// Signature is the type of a method: the signatures of its arguments and of
// its results.
type Signature struct{ In, Out string }

// Methods returns the signatures of an interface's methods by name, and
// Signals those of its signals. They read the elements that Interface returns,
// not XML in general, and are here for the tests of the method tables.
func Methods(element string) map[string]Signature {
	all := make(map[string]Signature)
	for name, body := range elements(element, "method") {
		var s Signature
		for _, arg := range strings.Split(body, "<arg ")[1:] {
			if attribute(arg, "direction") == "out" {
				s.Out += attribute(arg, "type")
			} else {
				s.In += attribute(arg, "type")
			}
		}
		all[name] = s
	}
	return all
}

// Signals returns the signatures of an interface's signals by name.
func Signals(element string) map[string]string {
	all := make(map[string]string)
	for name, body := range elements(element, "signal") {
		sig := ""
		for _, arg := range strings.Split(body, "<arg ")[1:] {
			sig += attribute(arg, "type")
		}
		all[name] = sig
	}
	return all
}

// elements returns what is between the tags of each element of a kind, by its
// name.
func elements(xml, kind string) map[string]string {
	all := make(map[string]string)
	for _, part := range strings.Split(xml, "<"+kind+" ")[1:] {
		body, _, _ := strings.Cut(part, "</"+kind+">")
		tag, rest, _ := strings.Cut(body, ">")
		if strings.HasSuffix(tag, "/") {
			rest = ""
		}
		all[attribute(tag, "name")] = rest
	}
	return all
}

// attribute returns an attribute of the tag that text begins with.
func attribute(text, name string) string {
	tag, _, _ := strings.Cut(text, ">")
	_, value, _ := strings.Cut(tag, name+`="`)
	value, _, _ = strings.Cut(value, `"`)
	return value
}
