package documents

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	xml "docportal/dbus"
	"docportal/internal/bus"
	"docportal/internal/permstore"
)

const all = addReuse | addPersistent

var everything = []string{"read", "write", "grant-permissions", "delete"}

func TestVersions(t *testing.T) {
	s := newSession(t, unmounted(newFakeView()))
	for iface, want := range map[string]uint32{"org.freedesktop.portal.Documents": 5, "org.freedesktop.portal.FileTransfer": 1} {
		var v dbus.Variant
		err := s.host.conn.Object(Name, Path).Call("org.freedesktop.DBus.Properties.Get", 0, iface, "version").Store(&v)
		if err != nil || v.Value() != want {
			t.Errorf("%s: version %v, %v", iface, v, err)
		}
	}
}

// TestInterfaces: the method tables are what the interfaces' XML says.
func TestInterfaces(t *testing.T) {
	s := New(Options{})
	for _, i := range []*bus.Interface{s.Interface(), s.FileTransfer()} {
		got := map[string]xml.Signature{}
		for _, m := range i.Methods {
			got[m.Name] = xml.Signature{In: m.In, Out: m.Out}
		}
		if want := xml.Methods(xml.Interface(i.Name)); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, want %v", i.Name, got, want)
		}
	}
}

func TestMountPointIsBytesWithNUL(t *testing.T) {
	s := newSession(t, unmounted(newFakeView()))
	got := s.must(s.host, "GetMountPoint", nil)[0].([]byte)
	if want := filepath.Join(s.runtime, "doc") + "\x00"; string(got) != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestHostOnly: what tells of the host's files is not for apps.
func TestHostOnly(t *testing.T) {
	s := newSession(t, unmounted(newFakeView()))
	app := s.sandboxed(appA)
	f := s.file("f", "")
	dir := []open{{Path: s.home}}
	s.refused(app, notAllowed, "Lookup", nil, []byte(f))
	s.refused(app, notAllowed, "Info", nil, "x")
	s.refused(app, notAllowed, "List", nil, "")
	s.refused(app, notAllowed, "AddNamed", dir, fdIndex(0), []byte("f"), true, true)
	s.refused(app, notAllowed, "AddNamedFull", dir, fdIndex(0), []byte("f"), uint32(1), "", []string{})
}

// TestArguments: bad ones are InvalidArgument at once.
func TestArguments(t *testing.T) {
	s := newSession(t, unmounted(newFakeView()))
	app := s.sandboxed(appA)
	f := open{Path: s.file("f", "")}
	id := s.addFull(s.host, all, "", nil, f)[0]
	for _, c := range []caller{s.host, app} {
		for _, target := range []string{"nodots", "a..b", "../x.y", "a.b/c", strings.Repeat("a.", 128) + "b"} {
			s.addRefused(c, invalidArgument, all, target, nil, f)
			s.refused(c, invalidArgument, "GrantPermissions", nil, id, target, []string{"read"})
			s.refused(c, invalidArgument, "RevokePermissions", nil, id, target, []string{"read"})
		}
		s.refused(c, invalidArgument, "GrantPermissions", nil, id, "", []string{"read"})
		for _, flags := range []uint32{16, 1 << 31, 0xff} {
			s.addRefused(c, invalidArgument, flags, "", nil, f)
		}
		for _, perms := range [][]string{{"execute"}, {"read", ""}, {"Read"}} {
			s.addRefused(c, invalidArgument, all, appB, perms, f)
			s.refused(c, invalidArgument, "GrantPermissions", nil, id, appB, perms)
			s.refused(c, invalidArgument, "RevokePermissions", nil, id, appB, perms)
		}
		s.refused(c, invalidArgument, "AddFull", []open{f}, fdList{0}, uint32(8), "", []string{}) // no directory
		s.refused(c, invalidArgument, "AddFull", []open{{Path: s.home}}, fdList{0}, uint32(0), "", []string{})
	}
	s.refused(s.host, invalidArgument, "List", nil, "nodots")
	s.refused(s.host, invalidArgument, "Info", nil, "unknown")
	s.refused(s.host, invalidArgument, "Info", nil, "")
	for _, p := range []string{"", "relative", "/nul\x00in/it"} {
		s.refused(s.host, invalidArgument, "Lookup", nil, []byte(p))
	}
	if n := s.count(); n != 1 {
		t.Errorf("%d documents after refused calls, want 1", n)
	}
}

func TestUnknownDocument(t *testing.T) {
	s := newSession(t, unmounted(newFakeView()))
	app := s.sandboxed(appA)
	for _, c := range []caller{s.host, app} {
		for _, id := range []string{"unknown", "", "..", "by-app", strings.Repeat("x", 300)} {
			s.refused(c, notFound, "GrantPermissions", nil, id, appB, []string{"read"})
			s.refused(c, notFound, "RevokePermissions", nil, id, appB, []string{"read"})
			s.refused(c, notFound, "Delete", nil, id)
		}
		got := s.must(c, "GetHostPaths", nil, []string{"unknown", ""})[0]
		if len(got.(map[string][]byte)) != 0 {
			t.Error(got)
		}
	}
}

func TestAddNamed(t *testing.T) {
	s := newSession(t, unmounted(newFakeView()))
	dir := []open{{Path: s.home}}
	add := func(name string) string {
		return s.must(s.host, "AddNamed", dir, fdIndex(0), []byte(name), true, false)[0].(string)
	}
	id := add("not-there")
	if got, want := s.hostPath(id), s.home+"/not-there\x00"; got != want {
		t.Errorf("path %q, want %q", got, want)
	}
	if again := add("not-there\x00"); again != id {
		t.Error("a trailing NUL is no part of the name")
	}
	if len(id) < 24 || strings.Trim(id, "abcdefghijklmnopqrstuvwxyz0123456789") != "" {
		t.Errorf("id %q", id)
	}
	add(strings.Repeat("n", 255))
	for _, name := range []string{"", "\x00", ".", "..", "a/b", "/", "a\x00b", strings.Repeat("n", 256)} {
		s.refused(s.host, invalidArgument, "AddNamed", dir, fdIndex(0), []byte(name), true, false)
		s.refused(s.host, invalidArgument, "AddNamedFull", dir, fdIndex(0), []byte(name), uint32(1), "", []string{})
	}
	s.refused(s.host, invalidArgument, "AddNamedFull", dir, fdIndex(0), []byte("x"), uint32(8), "", []string{})
	s.refused(s.host, invalidArgument, "AddNamed", []open{{Path: s.file("f", "")}}, fdIndex(0), []byte("x"), true, false)
	got := s.must(s.host, "AddNamedFull", dir, fdIndex(0), []byte("new"), uint32(all), appA, []string{"read", "write"})
	s.wantPermissions(got[0].(string), map[string][]string{appA: {"read", "write"}})
	if extra := got[1].(map[string]string); extra["mountpoint"] != filepath.Join(s.runtime, "doc")+"\x00" {
		t.Error(extra)
	}
}

func TestAddFullOfNothing(t *testing.T) {
	s := newSession(t, unmounted(newFakeView()))
	for _, c := range []caller{s.host, s.sandboxed(appA)} {
		got := s.must(c, "AddFull", nil, fdList{}, uint32(0), "", []string{})
		if len(got[0].([]string)) != 0 || got[1].(map[string]string)["mountpoint"] != filepath.Join(s.runtime, "doc")+"\x00" {
			t.Error(got)
		}
	}
}

// TestAddingAFileAgainWaitsForNoChange: another's change of the store holds up
// whoever has something to write, and nobody else.
func TestAddingAFileAgainWaitsForNoChange(t *testing.T) {
	s := newSession(t, unmounted(newFakeView()))
	f, g := open{Path: s.file("f", "")}, open{Path: s.file("g", "")}
	first := s.addFull(s.host, all, appA, []string{"read"}, f, g)
	begun, end, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- s.store.Update(context.Background(), func(*permstore.Tx) error {
			close(begun)
			<-end
			return nil
		})
	}()
	<-begun
	release := sync.OnceFunc(func() { close(end) })
	defer release() // the store is closed after it
	late := time.AfterFunc(deadline, release)
	if again := s.addFull(s.host, all, appA, []string{"read"}, f, g); !slices.Equal(again, first) {
		t.Errorf("%q, then %q", first, again)
	}
	if !late.Stop() {
		t.Error("it waited for another's change")
	}
	release()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if again := s.addFull(s.host, all, appA, []string{"write"}, g, f); again[0] != first[1] || again[1] != first[0] {
		t.Errorf("%q, then %q", first, again)
	}
	s.wantPermissions(first[0], map[string][]string{appA: {"read", "write"}})
}

// TestReuse: what adding a file again does.
func TestReuse(t *testing.T) {
	s := newSession(t, unmounted(newFakeView()))
	f := open{Path: s.file("f", "")}
	for _, persistent := range []uint32{0, addPersistent} {
		first := s.addFull(s.host, addReuse|persistent, appA, []string{"read"}, f)[0]
		again := s.addFull(s.host, addReuse|persistent, appB, []string{"read", "write"}, f)[0]
		if again != first {
			t.Error("with reuse: another id")
		}
		s.wantPermissions(first, map[string][]string{appA: {"read"}, appB: {"read", "write"}})
		s.addFull(s.host, addReuse|persistent, appA, []string{"write"}, f)
		s.wantPermissions(first, map[string][]string{appA: {"read", "write"}, appB: {"read", "write"}})
		unique := s.addFull(s.host, persistent, "", nil, f)[0]
		if unique == first || unique == s.addFull(s.host, persistent, "", nil, f)[0] {
			t.Error("without reuse: an id that was there")
		}
		if s.addFull(s.host, addReuse|persistent, "", nil, f)[0] != first {
			t.Error("a unique document was found")
		}
		twice := s.addFull(s.host, addReuse|persistent, "", nil, open{Path: s.file("g", "")}, open{Path: s.file("g", "")})
		if twice[0] != twice[1] {
			t.Error("the same file twice in one call: ", twice)
		}
		if d := s.addFull(s.host, addReuse|persistent|addDirectory, "", nil, open{Path: s.home})[0]; d != s.addFull(s.host, addReuse|persistent|addDirectory, "", nil, open{Path: s.home})[0] {
			t.Error("a directory: another id")
		}
	}
	if s.addFull(s.host, addReuse, "", nil, f)[0] == s.addFull(s.host, all, "", nil, f)[0] {
		t.Error("a transient document was made persistent")
	}
	// The same path, another directory there: another document.
	sub := s.file("sub/f", "")
	before := s.addFull(s.host, all, appA, everything, open{Path: sub})[0]
	if err := os.Rename(filepath.Dir(sub), filepath.Dir(sub)+"-moved"); err != nil {
		t.Fatal(err)
	}
	if after := s.addFull(s.host, all, "", nil, open{Path: s.file("sub/f", "")})[0]; after == before {
		t.Error("a document was carried over to another directory of the same name")
	}
}

// TestGrants: who gets what by adding.
func TestGrants(t *testing.T) {
	s := newSession(t, unmounted(newFakeView()))
	a := s.sandboxed(appA)
	rw, ro := unix.O_RDWR, readOnly
	for name, c := range map[string]struct {
		by     caller
		flags  uint32
		open   int
		target string
		perms  []string
		want   map[string][]string
	}{
		"host, nobody":                  {s.host, all, 0, "", nil, map[string][]string{}},
		"host, words without a target":  {s.host, all, 0, "", []string{"read"}, map[string][]string{}},
		"host, target":                  {s.host, all, 0, appB, []string{"read"}, map[string][]string{appB: {"read"}}},
		"host, unwritable descriptor":   {s.host, all, ro, appB, []string{"write"}, map[string][]string{appB: {"write"}}},
		"host, unique":                  {s.host, 0, 0, appB, everything, map[string][]string{appB: everything}},
		"app, read-only descriptor":     {a, all, ro, "", nil, map[string][]string{appA: {"read", "grant-permissions"}}},
		"app, O_PATH":                   {a, all, 0, "", nil, map[string][]string{appA: {"read", "write", "grant-permissions"}}},
		"app, O_RDWR":                   {a, all, rw, "", nil, map[string][]string{appA: {"read", "write", "grant-permissions"}}},
		"app, unique":                   {a, addPersistent, rw, "", nil, map[string][]string{appA: everything}},
		"app, unique, unwritable":       {a, 0, ro, "", nil, map[string][]string{appA: {"read", "grant-permissions", "delete"}}},
		"app, transient":                {a, addReuse, rw, "", nil, map[string][]string{appA: {"read", "write", "grant-permissions"}}},
		"app for another":               {a, all, rw, appB, []string{"read"}, map[string][]string{appA: {"read", "write", "grant-permissions"}, appB: {"read"}}},
		"app for itself: exactly those": {a, all, rw, appA, []string{"read"}, map[string][]string{appA: {"read"}}},
	} {
		f := s.file(strings.ReplaceAll(name, " ", "-"), "")
		ids := s.addFull(c.by, c.flags, c.target, c.perms, open{f, c.open})
		if got := s.permissions(ids[0]); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	f := open{s.file("unwritable", ""), ro}
	s.addRefused(a, notAllowed, all, appB, []string{"write"}, f)
	s.addRefused(a, notAllowed, all, appA, []string{"write"}, f)
	// A document that others have is not the caller's to end.
	shared := s.file("shared", "")
	id := s.addFull(s.host, all, appB, []string{"read"}, open{Path: shared})[0]
	s.addRefused(a, notAllowed, all, appA, []string{"delete"}, open{Path: shared})
	s.wantPermissions(id, map[string][]string{appB: {"read"}})
}

// TestPermissions: each call that needs permissions, by callers who have some.
func TestPermissions(t *testing.T) {
	view := newFakeView()
	s := newSession(t, unmounted(view))
	a := s.sandboxed(appA)
	f := open{Path: s.file("f", "")}
	type call struct {
		method string
		args   []any
	}
	grant := func(app string, p ...string) call { return call{"GrantPermissions", []any{app, p}} }
	revoke := func(app string, p ...string) call { return call{"RevokePermissions", []any{app, p}} }
	for _, persistent := range []uint32{0, addPersistent} {
		for name, c := range map[string]struct {
			by   caller
			has  []string // app A's; app B has read and write
			call call
			err  string
			want map[string][]string // nil: deleted
		}{
			"host grants":                      {s.host, nil, grant(appA, "read"), "", map[string][]string{appA: {"read"}, appB: {"read", "write"}}},
			"granting adds":                    {s.host, []string{"read"}, grant(appA, "delete", "read"), "", map[string][]string{appA: {"read", "delete"}, appB: {"read", "write"}}},
			"app without anything":             {a, nil, grant(appA, "read"), notAllowed, map[string][]string{appB: {"read", "write"}}},
			"app without grant-permissions":    {a, []string{"read", "write", "delete"}, grant(appB, "read"), notAllowed, map[string][]string{appA: {"read", "write", "delete"}, appB: {"read", "write"}}},
			"app without what it passes on":    {a, []string{"read", "grant-permissions"}, grant(appB, "delete"), notAllowed, map[string][]string{appA: {"read", "grant-permissions"}, appB: {"read", "write"}}},
			"app passes on":                    {a, []string{"delete", "grant-permissions"}, grant(appB, "delete"), "", map[string][]string{appA: {"delete", "grant-permissions"}, appB: {"read", "write", "delete"}}},
			"host revokes":                     {s.host, nil, revoke(appB, "write"), "", map[string][]string{appB: {"read"}}},
			"host revokes all":                 {s.host, nil, revoke(appB, everything...), "", map[string][]string{}},
			"revoking what is not there":       {s.host, nil, revoke("org.example.C", "read"), "", map[string][]string{appB: {"read", "write"}}},
			"app revokes":                      {a, []string{"grant-permissions"}, revoke(appB, "write"), "", map[string][]string{appA: {"grant-permissions"}, appB: {"read"}}},
			"app revokes without grant":        {a, []string{"read", "write", "delete"}, revoke(appB, "write"), notAllowed, map[string][]string{appA: {"read", "write", "delete"}, appB: {"read", "write"}}},
			"app revokes its own":              {a, []string{"read", "write"}, revoke(appA, "write"), "", map[string][]string{appA: {"read"}, appB: {"read", "write"}}},
			"app revokes all of its own":       {a, []string{"read"}, revoke(appA, "read"), "", map[string][]string{appB: {"read", "write"}}},
			"host deletes":                     {s.host, nil, call{method: "Delete"}, "", nil},
			"app deletes":                      {a, []string{"delete"}, call{method: "Delete"}, "", nil},
			"app deletes without delete":       {a, []string{"read", "write", "grant-permissions"}, call{method: "Delete"}, notAllowed, map[string][]string{appA: {"read", "write", "grant-permissions"}, appB: {"read", "write"}}},
			"app without anything, own revoke": {a, nil, revoke(appA, "read"), "", map[string][]string{appB: {"read", "write"}}},
		} {
			id := s.addFull(s.host, persistent, appB, []string{"read", "write"}, f)[0]
			if c.has != nil {
				s.must(s.host, "GrantPermissions", nil, id, appA, c.has)
			}
			view.told(id)
			before := s.docs.Generation()
			r := c.by.do(request{Method: qualified(c.call.method), Args: append([]any{id}, c.call.args...)})
			name := fmt.Sprintf("%s (flags %d)", name, persistent)
			if r.Error != c.err {
				t.Errorf("%s: error %q (%s), want %q", name, r.Error, r.Text, c.err)
			}
			if told := view.told(id); c.err == "" && (!told || s.docs.Generation() == before) && !strings.Contains(name, "not there") && !strings.Contains(name, "own revoke") {
				t.Errorf("%s: the view was not told before the reply", name)
			}
			if c.want == nil {
				s.refused(s.host, invalidArgument, "Info", nil, id)
				continue
			}
			if got := s.permissions(id); !sameSets(got, c.want) {
				t.Errorf("%s: %v, want %v", name, got, c.want)
			}
			s.must(s.host, "Delete", nil, id)
		}
	}
}

func sameSets(a, b map[string][]string) bool {
	sets := func(m map[string][]string) map[string]perm {
		out := map[string]perm{}
		for app, w := range m {
			out[app] = storedPerms(w)
		}
		return out
	}
	return reflect.DeepEqual(sets(a), sets(b))
}

// TestView: what the file view is told of a document.
func TestView(t *testing.T) {
	s := newSession(t, unmounted(newFakeView()))
	f := s.file("f", "")
	for _, persistent := range []uint32{0, addPersistent} {
		id := s.addFull(s.host, persistent, appA, []string{"read"}, open{Path: f})[0]
		s.must(s.host, "GrantPermissions", nil, id, appB, []string{"write", "delete", "grant-permissions"})
		d, access, ok := s.docs.Document("", id)
		if !ok || !access.Read || !access.Write || d.Dir != s.home || d.Name != "f" || d.Directory || d.DirID.Ino == 0 {
			t.Error(d, access, ok)
		}
		if _, access, ok := s.docs.Document(appA, id); !ok || !access.Read || access.Write {
			t.Error(access, ok)
		}
		if _, _, ok := s.docs.Document(appB, id); ok {
			t.Error("shown without read")
		}
		s.must(s.host, "GrantPermissions", nil, id, appB, []string{"read"})
		if _, access, ok := s.docs.Document(appB, id); !ok || !access.Write {
			t.Error(access, ok)
		}
		for app, want := range map[string][]string{"": {id}, appA: {id}, appB: {id}, "org.example.C": nil} {
			if got := s.docs.List(app); !reflect.DeepEqual(got, want) {
				t.Errorf("List(%q) = %v, want %v", app, got, want)
			}
		}
		if got := s.docs.Apps(); !reflect.DeepEqual(got, []string{appA, appB}) {
			t.Error(got)
		}
		s.must(s.host, "RevokePermissions", nil, id, appA, []string{"read"})
		if _, _, ok := s.docs.Document(appA, id); ok || len(s.docs.List(appA)) != 0 {
			t.Error("shown after the permission was taken away")
		}
		s.must(s.host, "Delete", nil, id)
		if _, _, ok := s.docs.Document("", id); ok || len(s.docs.List("")) != 0 || len(s.docs.Apps()) != 0 {
			t.Error("shown after it was deleted")
		}
	}
}

// TestStaleRead: what was read of the store before a change was announced is
// not remembered after it.
func TestStaleRead(t *testing.T) {
	s := newSession(t, unmounted(newFakeView()))
	id := s.addFull(s.host, all, appA, []string{"read"}, open{Path: s.file("f", "")})[0]
	gen := s.docs.Generation()
	d, err := s.docs.get(id)
	if err != nil || d == nil {
		t.Fatal(d, err)
	}
	s.must(s.host, "RevokePermissions", nil, id, appA, []string{"read"})
	s.docs.remember(d, gen)
	if _, _, ok := s.docs.Document(appA, id); ok {
		t.Error("shown after the permission was taken away")
	}
}

// TestManyDocuments: what is remembered is bounded, what is not is still there.
func TestManyDocuments(t *testing.T) {
	s := newSession(t, unmounted(newFakeView()))
	var ids []string
	rec := record{path: "/a/b", dev: 1, ino: 2, flags: flagUnique}
	err := s.store.Update(t.Context(), func(tx *permstore.Tx) error {
		for range cacheSize + 10 {
			id, err := placeStored(tx, &placed{rec: rec, grants: []permission{{appA, permRead}}})
			if err != nil {
				return err
			}
			ids = append(ids, id)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		if _, _, ok := s.docs.Document(appA, id); !ok {
			t.Fatal("not shown: ", id)
		}
	}
	if n := len(s.docs.cache); n > cacheSize || n < cacheSize/2 {
		t.Errorf("%d are remembered, want at most %d", n, cacheSize)
	}
	if got := len(s.docs.List(appA)); got != len(ids) {
		t.Errorf("List: %d, want %d", got, len(ids))
	}
}

// TestPermissionStore: a change of the table holds at once.
func TestPermissionStore(t *testing.T) {
	view := newFakeView()
	s := newSession(t, unmounted(view))
	id := s.addFull(s.host, all, appA, []string{"read"}, open{Path: s.file("f", "")})[0]
	if _, _, ok := s.docs.Document(appA, id); !ok {
		t.Fatal("not shown")
	}
	store := s.host.conn.Object("org.freedesktop.impl.portal.PermissionStore", "/org/freedesktop/impl/portal/PermissionStore")
	call := func(method string, args ...any) {
		t.Helper()
		if err := store.Call("org.freedesktop.impl.portal.PermissionStore."+method, 0, args...).Err; err != nil {
			t.Fatal(err)
		}
	}
	view.told(id)
	call("DeletePermission", "documents", id, appA)
	if _, _, ok := s.docs.Document(appA, id); ok || !view.told(id) {
		t.Error("DeletePermission")
	}
	call("SetPermission", "documents", false, id, appA, []string{"read", "write", "unknown-word"})
	if _, access, ok := s.docs.Document(appA, id); !ok || !access.Write || !view.told(id) {
		t.Error("SetPermission")
	}
	s.must(s.host, "RevokePermissions", nil, id, appA, []string{"write"})
	s.wantPermissions(id, map[string][]string{appA: {"read", "unknown-word"}})
	call("Delete", "documents", id)
	if _, _, ok := s.docs.Document("", id); ok || !view.told(id) {
		t.Error("Delete")
	}
	// What is no document is none.
	call("Set", "documents", true, "odd", map[string][]string{appA: {"read"}}, dbus.MakeVariant("odd"))
	s.refused(s.host, invalidArgument, "Info", nil, "odd")
	s.refused(s.host, notFound, "Delete", nil, "odd")
	if n := s.count(); n != 0 {
		t.Error(n)
	}
}

func TestLookupInfoList(t *testing.T) {
	s := newSession(t, unmounted(newFakeView()))
	lookup := func(p string) string { return s.must(s.host, "Lookup", nil, []byte(p))[0].(string) }
	f := s.file("f", "")
	if lookup(f) != "" {
		t.Error("found before it was added")
	}
	s.refused(s.host, notFound, "Lookup", nil, []byte(f+"-not-there"))
	s.refused(s.host, notFound, "Lookup", nil, []byte(f+"/below-a-file"))
	transient := s.addFull(s.host, addReuse, "", nil, open{Path: f})[0]
	if got := lookup(f); got != transient {
		t.Errorf("%q, want the transient one", got)
	}
	id := s.addFull(s.host, all, appA, []string{"read"}, open{Path: f})[0]
	s.addFull(s.host, addPersistent, "", nil, open{Path: f})
	for _, p := range []string{f, f + "\x00"} {
		if got := lookup(p); got != id {
			t.Errorf("%q: %q, want %q", p, got, id)
		}
	}
	link := filepath.Join(s.home, "link")
	if err := os.Symlink(f, link); err != nil {
		t.Fatal(err)
	}
	if lookup(link) != id {
		t.Error("not found through a link")
	}
	dir := s.addFull(s.host, all|addDirectory, "", nil, open{Path: s.home})[0]
	if lookup(s.home) != dir || lookup(s.secret) != "" || lookup("/dev/null") != "" {
		t.Error("directories")
	}
	odd := filepath.Join(s.home, "not utf-8 \xff")
	if err := os.WriteFile(odd, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	oddID := s.addFull(s.host, all, "", nil, open{Path: odd})[0]
	if lookup(odd) != oddID || s.hostPath(oddID) != odd+"\x00" {
		t.Error("a name that is not UTF-8")
	}
	if got := s.must(s.host, "List", nil, appA)[0].(map[string][]byte); !reflect.DeepEqual(got, map[string][]byte{id: []byte(f + "\x00")}) {
		t.Errorf("List of an app: %v", got)
	}
	if n := s.count(); n != 5 {
		t.Errorf("List of all: %d, want 5", n)
	}
}

func TestGetHostPaths(t *testing.T) {
	s := newSession(t, unmounted(newFakeView()))
	a := s.sandboxed(appA)
	f, g := s.file("f", ""), s.file("g", "")
	id := s.addFull(s.host, all, appA, []string{"read"}, open{Path: f})[0]
	other := s.addFull(s.host, addReuse, appB, []string{"read"}, open{Path: g})[0]
	ids := []string{id, other, "unknown"}
	if got := s.must(a, "GetHostPaths", nil, ids)[0]; !reflect.DeepEqual(got, map[string][]byte{id: []byte(f + "\x00")}) {
		t.Errorf("app: %v", got)
	}
	if got := s.must(s.host, "GetHostPaths", nil, ids)[0]; !reflect.DeepEqual(got, map[string][]byte{id: []byte(f + "\x00"), other: []byte(g + "\x00")}) {
		t.Errorf("host: %v", got)
	}
}

// TestLimit: an app can have part in so many documents and no more.
func TestLimit(t *testing.T) {
	o := unmounted(newFakeView())
	o.tune = func(s *Service) { s.maxDocuments = 6 }
	s := newSession(t, o)
	a := s.sandboxed(appA)
	files := func(n int, prefix string) (l []open) {
		for i := range n {
			l = append(l, open{Path: s.file(fmt.Sprint(prefix, i), "")})
		}
		return l
	}
	s.addFull(s.host, all, appA, []string{"read"}, files(1, "given")...)
	ids := s.addFull(a, addReuse, "", nil, files(3, "a")...)
	s.addFull(a, addPersistent, "", nil, files(1, "b")...)
	r := a.do(request{Method: qualified("AddFull"), Files: files(2, "c"), Args: []any{fdList{0, 1}, uint32(0), "", []string{}}})
	if r.Error != failed || !strings.Contains(r.Text, "limit is 6") {
		t.Error(r)
	}
	s.addFull(a, 0, "", nil, files(1, "d")...)
	s.addRefused(a, failed, 0, "", nil, files(1, "e")[0])
	// Giving up what it has does not make room; that a document ends does.
	s.must(a, "RevokePermissions", nil, ids[0], appA, everything)
	s.addRefused(a, failed, 0, "", nil, files(1, "e")[0])
	s.must(s.host, "Delete", nil, ids[0])
	s.addFull(a, 0, "", nil, files(1, "e")...)
	s.addFull(s.host, 0, appA, []string{"read"}, files(1, "host")...) // the host is not limited
	if n := s.count(); n != 7 {
		t.Error(n)
	}
}

// TestLimitOfBytes: what describes an app's documents is bounded too, in memory
// and in the store.
func TestLimitOfBytes(t *testing.T) {
	s := newSession(t, unmounted(newFakeView()))
	a := s.sandboxed(appA)
	f := open{Path: s.file("f", "")}
	ids := []string{s.addFull(a, 0, "", nil, f)[0], s.addFull(a, all, "", nil, f)[0]}
	s.docs.mu.RLock()
	has := s.docs.shares[appA]
	s.docs.mu.RUnlock()
	if stored, err := s.docs.storedShare(appA); err != nil || has.documents != 2 || stored.documents != 1 || has.bytes <= stored.bytes {
		t.Errorf("%+v, of it stored %+v, %v", has, stored, err)
	}
	for _, id := range ids {
		s.must(a, "GrantPermissions", nil, id, appB, []string{"read"})
	}
	// Almost at the limit.
	s.docs.mu.Lock()
	more := s.docs.shares[appA].bytes - has.bytes
	s.docs.shares[appA] = share{2, MaxBytes - 30}
	s.docs.mu.Unlock()
	if more != 2*appBytes(appB) {
		t.Errorf("two documents that name another app are %d bytes more", more)
	}
	for _, flags := range []uint32{0, all} {
		r := a.do(request{Method: qualified("AddFull"), Files: []open{f}, Args: []any{fdList{0}, flags &^ addReuse, "", []string{}}})
		if r.Error != failed || !strings.Contains(r.Text, fmt.Sprint("limit is ", MaxBytes)) {
			t.Error(r)
		}
	}
	for _, id := range ids {
		s.refused(a, failed, "GrantPermissions", nil, id, "org.example.C", []string{"read"})
		s.must(a, "GrantPermissions", nil, id, appB, []string{"grant-permissions"}) // names nobody more
	}
	s.must(s.host, "GrantPermissions", nil, ids[0], "org.example.C", []string{"read"})
	s.must(s.host, "Delete", nil, ids[1])
	s.addFull(a, 0, "", nil, f)
}

// TestAGiftTakesNoRoomThatIsNeeded: who gives documents to another app cannot
// keep it from adding its own.
func TestAGiftTakesNoRoomThatIsNeeded(t *testing.T) {
	o := unmounted(newFakeView())
	o.tune = func(s *Service) { s.maxDocuments = 8 }
	s := newSession(t, o)
	a, b := s.sandboxed(appA), s.sandboxed(appB)
	f := open{Path: s.file("f", "")}
	var last string
	for range 6 {
		last = s.addFull(a, 0, appB, []string{"read"}, f)[0]
	}
	s.addRefused(a, failed, 0, appB, []string{"read"}, f)
	other := s.addFull(a, 0, "", nil, f)[0]
	s.refused(a, failed, "GrantPermissions", nil, other, appB, []string{"read"})
	s.must(a, "GrantPermissions", nil, last, appB, []string{"grant-permissions"})
	s.addFull(s.host, 0, appB, []string{"read"}, f)
	s.addFull(b, 0, "", nil, f)
	s.addRefused(b, failed, 0, "", nil, f)
}

// TestManyUniqueDocumentsOfOneFile are in nobody's way: an add looks at none of
// them, and a look-up at few.
func TestManyUniqueDocumentsOfOneFile(t *testing.T) {
	s := newSession(t, unmounted(newFakeView()))
	a := s.sandboxed(appA)
	f := open{Path: s.file("f", "")}
	const n = maxAlike + 20
	var unique []string
	for _, persistent := range []uint32{0, addPersistent} {
		id := s.addFull(a, persistent, "", nil, f)[0]
		unique = append(unique, id)
		d, err := s.docs.get(id)
		if err != nil {
			t.Fatal(err)
		}
		var more []placed
		for range n {
			more = append(more, placed{rec: d.rec})
		}
		ids, err := s.docs.place(t.Context(), more)
		if err != nil {
			t.Fatal(err)
		}
		unique = append(unique, ids...)
	}
	lookup := func() string { return s.must(s.host, "Lookup", nil, []byte(f.Path))[0].(string) }
	if got := lookup(); !slices.Contains(unique[n+1:], got) || got != lookup() {
		t.Errorf("%q is no persistent one, or not always the same", got)
	}
	id := s.addFull(a, all, "", nil, f)[0]
	if got := lookup(); got != id || slices.Contains(unique, id) {
		t.Errorf("%q, want %q", got, id)
	}
	if again := s.addFull(s.host, all, "", nil, f)[0]; again != id {
		t.Errorf("%q, want %q", again, id)
	}
	transient := s.addFull(a, addReuse, "", nil, f)[0]
	if again := s.addFull(s.host, addReuse, "", nil, f)[0]; again != transient || slices.Contains(unique, transient) {
		t.Errorf("%q, want %q", again, transient)
	}
	d, err := s.docs.get(id)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.store.View(func(tx *permstore.Tx) error {
		ids, err := alike(tx, indexPath, pathKey(d.rec.path))
		if err == nil && !slices.Equal(ids, []string{id}) {
			t.Errorf("an add looks at %v", ids)
		}
		ids, err = alike(tx, indexPath, append(pathKey(d.rec.path), 0))
		if err == nil && len(ids) != maxAlike {
			t.Errorf("a look-up looks at %d", len(ids))
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for _, id := range append(unique, id, transient) {
		s.must(s.host, "Delete", nil, id)
	}
	got := lookup()
	s.docs.mu.RLock()
	defer s.docs.mu.RUnlock()
	if got != "" || len(s.docs.byPath)+len(s.docs.uniqueByPath) != 0 {
		t.Errorf("%q, and %v, %v are left", got, s.docs.byPath, s.docs.uniqueByPath)
	}
}

// TestTransient: they end with the daemon; the others do not.
func TestTransient(t *testing.T) {
	s := newSession(t, unmounted(newFakeView()))
	f := open{Path: s.file("f", "")}
	s.addFull(s.host, addReuse, appA, everything, f)
	id := s.addFull(s.host, all, appA, everything, f)[0]
	s.stopPortal()
	s.startPortal(unmounted(newFakeView()))
	if n := s.count(); n != 1 {
		t.Error(n)
	}
	s.wantPermissions(id, map[string][]string{appA: everything})
}

// TestMountFails: the reason is told, fast, and the next call tries again.
func TestMountFails(t *testing.T) {
	calls := make(chan struct{}, 10)
	o := options{mount: failingMount(calls)}
	s := newSession(t, o)
	f := open{Path: s.file("f", "")}
	start := time.Now()
	for range 2 {
		r := s.host.do(request{Method: qualified("GetMountPoint")})
		if r.Error != failed || !strings.Contains(r.Text, "no such device") {
			t.Error(r)
		}
	}
	s.addRefused(s.host, failed, all, "", nil, f)
	if len(calls) != 3 {
		t.Errorf("%d attempts, want one for each call", len(calls))
	}
	if d := time.Since(start); d > 2*time.Second {
		t.Error("slow: ", d)
	}
	if n := s.count(); n != 0 {
		t.Error(n)
	}
}
