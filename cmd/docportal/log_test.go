package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"docportal/dbus"
	"docportal/internal/bus"
	"docportal/internal/documents"
	"docportal/internal/permstore"
)

// TestTheLog: with --verbose each decision is in it, who asked for what, and
// why not; without, no name of a file of the person's is. The key of a transfer,
// the contents of files and the data of permissions are never.
func TestTheLog(t *testing.T) {
	const (
		name = "name-7c1e" // of files
		text = "text-99ab" // in them
		data = "data-51f0" // of permissions
	)
	for _, verbose := range []bool{false, true} {
		var args []string
		if verbose {
			args = append(args, "--verbose")
		}
		s := newSession(t)
		p := s.start(s.bus, args...)
		s.owner(s.conn, permstore.Name, 0)
		doc := s.mustMount(s.conn)
		file := func(suffix string) string {
			f := filepath.Join(s.dir, name+suffix)
			must(t, os.WriteFile(f, []byte(text), 0o600))
			return f
		}
		f := file(".txt")
		id := s.add(s.conn, f)
		ask := func(iface, member, signature string, args []any, out ...any) error {
			t.Helper()
			path := documents.Path
			if iface == permstore.Name {
				path = permstore.Path
			}
			n := documents.Name
			if iface == permstore.Name {
				n = permstore.Name
			}
			return call(s.conn, n, path, iface, member, signature, args, out...)
		}
		ok := func(err error) {
			t.Helper()
			if err != nil {
				t.Error(err)
			}
		}
		refused := func(err error) {
			t.Helper()
			if err == nil {
				t.Error("it was not refused")
			}
		}
		const app = "org.example.A"
		ok(ask(dbus.Documents, "GrantPermissions", "ssas", []any{id, "org.example.Reader", []string{"read"}}))
		refused(ask(dbus.Documents, "GrantPermissions", "ssas", []any{id, app, []string{"fly"}}))
		ok(ask(dbus.Documents, "RevokePermissions", "ssas", []any{id, app, []string{"write"}}))
		ok(ask(dbus.Documents, "Lookup", "ay", []any{[]byte(f + "\x00")}, new(string)))
		refused(ask(dbus.Documents, "Lookup", "ay", []any{[]byte(f + "-none\x00")}, new(string)))
		ok(ask(dbus.Documents, "Info", "s", []any{id}, new([]byte), new(map[string][]string)))
		refused(ask(dbus.Documents, "Info", "s", []any{"none"}, new([]byte), new(map[string][]string)))
		ok(ask(dbus.Documents, "List", "s", []any{""}, new(map[string][]byte)))
		ok(ask(dbus.Documents, "GetHostPaths", "as", []any{[]string{id}}, new(map[string][]byte)))
		if _, err := os.ReadFile(filepath.Join(doc, "by-app/org.example.Reader", id, name+".txt")); err != nil {
			t.Error(err)
		}
		if _, err := os.OpenFile(filepath.Join(doc, "by-app/org.example.Reader", id, name+".txt"), os.O_WRONLY, 0); !errors.Is(err, syscall.EACCES) {
			t.Error(err)
		}
		if _, err := os.Stat(filepath.Join(doc, "by-app/org.example.Nobody", id)); !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}

		value := bus.Value{Signature: "s", Data: append([]byte{byte(len(data)), 0, 0, 0}, data+"\x00"...)}
		ok(ask(permstore.Name, "Set", "sbsa{sas}v", []any{"t", true, "id", map[string][]string{}, value}))
		ok(ask(permstore.Name, "SetPermission", "sbssas", []any{"t", true, "id", app, []string{data}}))
		refused(ask(permstore.Name, "Lookup", "ss", []any{"t", "none"}, new(map[string][]string), new(bus.Value)))

		var key string
		ok(ask(dbus.FileTransfer, "StartTransfer", "a{sv}", []any{map[string]bus.Value{}}, &key))
		gone := file(".gone")
		for _, f := range []string{f, gone} {
			g, err := os.Open(f)
			must(t, err)
			ctx, cancel := context.WithTimeout(context.Background(), deadline)
			_, err = s.conn.CallFiles(ctx, documents.Name, documents.Path, dbus.FileTransfer, "AddFiles", "saha{sv}",
				[]any{key, []bus.FD{0}, map[string]bus.Value{}}, []*os.File{g})
			cancel()
			g.Close()
			ok(err)
		}
		must(t, os.Remove(gone))
		ok(ask(dbus.FileTransfer, "RetrieveFiles", "sa{sv}", []any{key, map[string]bus.Value{}}, new([]string)))
		refused(ask(dbus.FileTransfer, "RetrieveFiles", "sa{sv}", []any{key + "x", map[string]bus.Value{}}, new([]string)))
		refused(ask(dbus.FileTransfer, "StopTransfer", "s", []any{key}))
		ok(ask(dbus.Documents, "Delete", "s", []any{id}))
		shown := s.ask(&statusCommand{})
		p.cmd.Process.Signal(syscall.SIGTERM)
		p.end()
		log := p.log.String()

		for _, secret := range []string{key, text, data} {
			if secret == "" || strings.Contains(log+shown, secret) {
				t.Errorf("verbose %v: %q is in the log:\n%s", verbose, secret, log)
			}
		}
		if !verbose && strings.Contains(log+shown, name) {
			t.Errorf("a name is in the log:\n%s\n%s", log, shown)
		}
		if !strings.Contains(log, "left out") {
			t.Errorf("verbose %v: no warning", verbose)
		}
		if !verbose {
			continue
		}
		for _, line := range []string{
			`msg=allowed method=org.freedesktop.portal.Documents.AddFull caller=:`,
			`document=[` + id + `]`,
			`msg=allowed method=org.freedesktop.portal.Documents.GrantPermissions caller=: app="" of="[` + id + ` org.example.Reader]"`,
			`msg=refused method=org.freedesktop.portal.Documents.GrantPermissions caller=: app="" of="[` + id + ` org.example.A]" reason=`,
			`msg=allowed method=org.freedesktop.portal.Documents.RevokePermissions caller=:`,
			`msg=allowed method=org.freedesktop.portal.Documents.Lookup caller=:`,
			`msg=refused method=org.freedesktop.portal.Documents.Lookup caller=:`,
			`msg=allowed method=org.freedesktop.portal.Documents.Info caller=: app="" of=[` + id + `]`,
			`msg=refused method=org.freedesktop.portal.Documents.Info caller=: app="" of=[none]`,
			`msg=allowed method=org.freedesktop.portal.Documents.List caller=:`,
			`msg=allowed method=org.freedesktop.portal.Documents.GetHostPaths caller=:`,
			`msg=allowed method=org.freedesktop.portal.Documents.Delete caller=:`,
			`msg=allowed app=org.example.Reader document=` + id + ` to=read`,
			`msg=refused app=org.example.Reader document=` + id + ` reason="it may not write to the document"`,
			`msg=refused app=org.example.Nobody document=` + id + ` reason="it may not see such a document"`,
			`msg=allowed method=org.freedesktop.impl.portal.PermissionStore.Set caller=: app="" of="[t id]"`,
			`msg=allowed method=org.freedesktop.impl.portal.PermissionStore.SetPermission caller=: app="" of="[t id org.example.A]"`,
			`msg=refused method=org.freedesktop.impl.portal.PermissionStore.Lookup caller=: app="" of="[t none]" reason=`,
			`msg=allowed method=org.freedesktop.portal.FileTransfer.StartTransfer caller=:`,
			`msg=allowed method=org.freedesktop.portal.FileTransfer.AddFiles caller=:`,
			`msg=allowed method=org.freedesktop.portal.FileTransfer.RetrieveFiles caller=:`,
			`msg=refused method=org.freedesktop.portal.FileTransfer.RetrieveFiles caller=:`,
			`msg=refused method=org.freedesktop.portal.FileTransfer.StopTransfer caller=:`,
			name + `.gone`,
		} {
			if !hasLine(log, line) {
				t.Errorf("no line %s in\n%s", line, log)
			}
		}
	}
}

// hasLine looks for a part of a line, in which "caller=:" stands for any caller.
func hasLine(log, part string) bool {
	before, after, cut := strings.Cut(part, "caller=:")
	for line := range strings.Lines(log) {
		_, rest, ok := strings.Cut(line, before)
		if !ok {
			continue
		}
		if !cut {
			return true
		}
		rest, ok = strings.CutPrefix(rest, "caller=:")
		if _, rest, _ = strings.Cut(rest, " "); ok && strings.HasPrefix(rest, strings.TrimPrefix(after, " ")) {
			return true
		}
	}
	return false
}
