package permstore

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"docportal/dbus"
	"docportal/internal/bus"
	"docportal/internal/identity"
	"pgregory.net/rapid"
)

// startBus starts a dbus-daemon on a socket of its own.
func startBus(t testing.TB) string {
	t.Helper()
	if _, err := exec.LookPath("dbus-daemon"); err != nil {
		t.Skip(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	cmd := exec.CommandContext(ctx, "dbus-daemon", "--session", "--nofork", "--print-address", "--address=unix:dir="+t.TempDir())
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		cancel()
		cmd.Wait()
	})
	r := bufio.NewReader(out)
	line, err := r.ReadString('\n')
	must(t, err)
	go io.Copy(io.Discard, r)
	return strings.TrimSpace(line)
}

// service is a store on a bus of its own.
type service struct {
	t       testing.TB
	address string
	store   *Store
	conn    *bus.Conn
	client  *bus.Conn

	mu   sync.Mutex
	apps map[string]string // unique names of sandboxed callers, and their app
}

func serve(t testing.TB, dir string) *service {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	s := &service{t: t, address: startBus(t), store: open(t, dir, Options{}), apps: map[string]string{}}
	var err error
	s.conn, err = bus.Dial(ctx, s.address, bus.Options{Identify: func(_ context.Context, name string) (*identity.Caller, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if app := s.apps[name]; app != "" {
			return &identity.Caller{Name: name, Kind: identity.Flatpak, App: app}, nil
		}
		return &identity.Caller{Name: name}, nil
	}})
	must(t, err)
	t.Cleanup(func() { s.conn.Close() })
	s.conn.Export(Path, Interface(s.store, func(member, signature string, args ...any) error {
		return s.conn.Emit("", Path, Name, member, signature, args...)
	}))
	if ok, err := s.conn.RequestName(ctx, Name, bus.DoNotQueue); !ok || err != nil {
		t.Fatal(ok, err)
	}
	s.client = s.dial()
	return s
}

func (s *service) dial() *bus.Conn {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := bus.Dial(ctx, s.address, bus.Options{})
	must(s.t, err)
	s.t.Cleanup(func() { c.Close() })
	return c
}

func call(c *bus.Conn, member, sig string, args []any, out ...any) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return c.Call(ctx, Name, Path, Name, member, sig, args, out...)
}

// name returns the short name of a D-Bus error, "" for nil.
func name(err error) string {
	var e *bus.Error
	if errors.As(err, &e) {
		return strings.TrimPrefix(e.Name, "org.freedesktop.portal.Error.")
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

func text(s string) bus.Value {
	b := binary.LittleEndian.AppendUint32(nil, uint32(len(s)))
	return bus.Value{Signature: "s", Data: append(append(b, s...), 0)}
}

func TestTheInterfaceIsTheDocumentedOne(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	x := Interface(s, nil)
	want := dbus.Methods(dbus.Interface(dbus.PermissionStore))
	got := map[string]dbus.Signature{}
	for _, m := range x.Methods {
		got[m.Name] = dbus.Signature{In: m.In, Out: m.Out}
	}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if sig := dbus.Signals(dbus.Interface(dbus.PermissionStore))["Changed"]; sig != changedSignature {
		t.Errorf("Changed is %q, want %q", changedSignature, sig)
	}
	if x.Name != dbus.PermissionStore {
		t.Error(x.Name)
	}
}

// One call after the other, with what each must answer.
func TestMethods(t *testing.T) {
	s := serve(t, t.TempDir())
	type perms = map[string][]string
	type step struct {
		member, sig string
		args        []any
		want        any // the error's name, or a list of results
	}
	long := strings.Repeat("x", 256)
	zero := bus.Value{Signature: "y", Data: []byte{0}}
	for i, c := range []step{
		{"List", "s", []any{"t"}, []any{[]string{}}},
		{"Lookup", "ss", []any{"t", "i"}, "NotFound"},
		{"Set", "sbsa{sas}v", []any{"t", false, "i", perms{}, zero}, "NotFound"},
		{"SetValue", "sbsv", []any{"t", false, "i", zero}, "NotFound"},
		{"SetPermission", "sbssas", []any{"t", false, "i", "org.a.A", []string{"yes"}}, "NotFound"},
		{"DeletePermission", "sss", []any{"t", "i", "org.a.A"}, "NotFound"},
		{"GetPermission", "sss", []any{"t", "i", "org.a.A"}, "NotFound"},
		{"Delete", "ss", []any{"t", "i"}, "NotFound"},
		{"List", "s", []any{"t"}, []any{[]string{}}},

		// A new entry of one app has the byte 0 as its data.
		{"SetPermission", "sbssas", []any{"t", true, "i", "org.a.A", []string{"yes", "no"}}, []any{}},
		{"Lookup", "ss", []any{"t", "i"}, []any{perms{"org.a.A": {"yes", "no"}}, zero}},
		{"GetPermission", "sss", []any{"t", "i", "org.a.A"}, []any{[]string{"yes", "no"}}},
		{"GetPermission", "sss", []any{"t", "i", "org.b.B"}, []any{[]string{}}},
		{"SetPermission", "sbssas", []any{"t", false, "i", "", []string{}}, []any{}},
		{"Lookup", "ss", []any{"t", "i"}, []any{perms{"org.a.A": {"yes", "no"}, "": {}}, zero}},

		// SetValue leaves the permissions, Set replaces both.
		{"SetValue", "sbsv", []any{"t", false, "i", text("hello")}, []any{}},
		{"Lookup", "ss", []any{"t", "i"}, []any{perms{"org.a.A": {"yes", "no"}, "": {}}, text("hello")}},
		{"DeletePermission", "sss", []any{"t", "i", ""}, []any{}},
		{"DeletePermission", "sss", []any{"t", "i", "org.not.There"}, []any{}},
		{"Lookup", "ss", []any{"t", "i"}, []any{perms{"org.a.A": {"yes", "no"}}, text("hello")}},
		{"Set", "sbsa{sas}v", []any{"t", false, "i", perms{"org.b.B": {"x"}}, text("")}, []any{}},
		{"Lookup", "ss", []any{"t", "i"}, []any{perms{"org.b.B": {"x"}}, text("")}},
		{"SetValue", "sbsv", []any{"t", true, "a/b ü", text("new")}, []any{}},
		{"Lookup", "ss", []any{"t", "a/b ü"}, []any{perms{}, text("new")}},
		{"Set", "sbsa{sas}v", []any{"u", true, "i", perms{}, zero}, []any{}},
		{"List", "s", []any{"t"}, []any{[]string{"a/b ü", "i"}}},
		{"Delete", "ss", []any{"t", "i"}, []any{}},
		{"Delete", "ss", []any{"t", "i"}, "NotFound"},
		{"List", "s", []any{"t"}, []any{[]string{"a/b ü"}}},
		{"List", "s", []any{"u"}, []any{[]string{"i"}}},

		{"List", "s", []any{""}, "InvalidArgument"},
		{"List", "s", []any{".."}, "InvalidArgument"},
		{"List", "s", []any{long}, "InvalidArgument"},
		{"Lookup", "ss", []any{"a/b", "i"}, "InvalidArgument"},
		{"Lookup", "ss", []any{"t", ""}, "InvalidArgument"},
		{"Delete", "ss", []any{"t", ""}, "InvalidArgument"},
		{"Delete", "ss", []any{".", "i"}, "InvalidArgument"},
		{"GetPermission", "sss", []any{"t", "a/b ü", "a/b"}, "InvalidArgument"},
		{"DeletePermission", "sss", []any{"t", "a/b ü", "."}, "InvalidArgument"},
		{"SetPermission", "sbssas", []any{"t", true, "i", long, []string{}}, "InvalidArgument"},
		{"SetPermission", "sbssas", []any{"t", true, strings.Repeat("i", 4097), "a", []string{}}, "InvalidArgument"},
		{"SetPermission", "sbssas", []any{"", true, "i", "a", []string{}}, "InvalidArgument"},
		{"Set", "sbsa{sas}v", []any{"t", true, "i", perms{"..": {}}, zero}, "InvalidArgument"},
		{"Set", "sbsa{sas}v", []any{"t", true, "i", apps(MaxApps + 1), zero}, "InvalidArgument"},
		{"Set", "sbsa{sas}v", []any{"t", true, "i", perms{}, bytesOf(MaxData)}, "InvalidArgument"},
		{"SetValue", "sbsv", []any{"t", true, "i", bytesOf(MaxData)}, "InvalidArgument"},
		{"Lookup", "ss", []any{"t", "i"}, "NotFound"},
		{"Set", "sbsa{sas}v", []any{"t", true, "i", apps(MaxApps), bytesOf(MaxData - 4)}, []any{}},
		{"SetPermission", "sbssas", []any{"t", true, "i", "one.More", []string{}}, "InvalidArgument"},
	} {
		var out []any
		if want, ok := c.want.([]any); ok {
			for _, w := range want {
				out = append(out, reflect.New(reflect.TypeOf(w)).Interface())
			}
		}
		err := call(s.client, c.member, c.sig, c.args, out...)
		what := fmt.Sprintf("%d: %s%.100q", i, c.member, c.args)
		if want, ok := c.want.(string); ok {
			if name(err) != want {
				t.Errorf("%s: %v, want %s", what, err, want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		for i, w := range c.want.([]any) {
			// An empty list may be nil here.
			if got := reflect.ValueOf(out[i]).Elem().Interface(); fmt.Sprintf("%q", got) != fmt.Sprintf("%q", w) {
				t.Errorf("%s: result %d is %q, want %q", what, i, got, w)
			}
		}
	}
	var v bus.Value
	ctx := context.Background()
	if err := s.client.Call(ctx, Name, Path, "org.freedesktop.DBus.Properties", "Get", "ss", []any{Name, "version"}, &v); err != nil ||
		!reflect.DeepEqual(v, bus.Value{Signature: "u", Data: []byte{2, 0, 0, 0}}) {
		t.Errorf("version is %v, %v", v, err)
	}
}

func TestSandboxedCallersAreRefused(t *testing.T) {
	s := serve(t, t.TempDir())
	app := s.dial()
	s.mu.Lock()
	s.apps[app.UniqueName()] = "org.a.A"
	s.mu.Unlock()
	put(t, s.store, "t", "i", Entry{Data: nothing})
	zero := bus.Value{Signature: "y", Data: []byte{0}}
	calls := map[string][]any{
		"Lookup":           {"t", "i"},
		"Set":              {"t", true, "i", map[string][]string{}, zero},
		"Delete":           {"t", "i"},
		"SetValue":         {"t", true, "i", zero},
		"SetPermission":    {"t", true, "i", "org.a.A", []string{"yes"}},
		"DeletePermission": {"t", "i", "org.a.A"},
		"GetPermission":    {"t", "i", "org.a.A"},
		"List":             {"t"},
	}
	methods := Interface(open(t, t.TempDir(), Options{}), nil).Methods
	if len(methods) != len(calls) {
		t.Errorf("%d methods", len(methods))
	}
	for _, m := range methods {
		if err := call(app, m.Name, m.In, calls[m.Name]); name(err) != "NotAllowed" {
			t.Errorf("%s: %v", m.Name, err)
		}
	}
	if e, ok := get(t, s.store, "t", "i"); !ok || len(e.Permissions) > 0 {
		t.Errorf("the entry is %v, %v", e, ok)
	}
}

// Changed is sent once for each change, in their order, whoever made them, and
// before the reply.
func TestChangedSignals(t *testing.T) {
	s := serve(t, t.TempDir())
	ctx := context.Background()
	sub, err := s.client.Subscribe(ctx, bus.Match{Interface: Name, Member: "Changed"})
	must(t, err)
	zero := bus.Value{Signature: "y", Data: []byte{0}}
	must(t, call(s.client, "SetPermission", "sbssas", []any{"t", true, "i", "a", []string{"x"}}))
	must(t, call(s.client, "SetValue", "sbsv", []any{"t", true, "i", text("v")}))
	must(t, call(s.client, "DeletePermission", "sss", []any{"t", "i", "a"}))
	must(t, call(s.client, "SetPermission", "sbssas", []any{"t", true, "i", "a", []string{"x"}}))
	must(t, call(s.client, "Delete", "ss", []any{"t", "i"}))
	if err := call(s.client, "Delete", "ss", []any{"t", "i"}); name(err) != "NotFound" {
		t.Error(err)
	}
	change(t, s.store, func(tx *Tx) error {
		tx.Put("documents", "1", Entry{Data: nothing})
		return tx.Put("documents", "2", Entry{Data: nothing})
	})
	must(t, call(s.client, "SetValue", "sbsv", []any{"t", true, "end", zero}))
	type event struct {
		table, id   string
		deleted     bool
		data        bus.Value
		permissions map[string][]string
	}
	none, x := map[string][]string{}, map[string][]string{"a": {"x"}}
	for i, want := range []event{
		{"t", "i", false, zero, x},
		{"t", "i", false, text("v"), x},
		{"t", "i", false, text("v"), none},
		{"t", "i", false, text("v"), x},
		{"t", "i", true, text("v"), none},
		{"documents", "1", false, zero, none},
		{"documents", "2", false, zero, none},
		{"t", "end", false, zero, none},
	} {
		select {
		case sig := <-sub.C:
			var got event
			must(t, sig.Scan(&got.table, &got.id, &got.deleted, &got.data, &got.permissions))
			if !reflect.DeepEqual(got, want) {
				t.Errorf("signal %d: %v, want %v", i, got, want)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("no signal %d", i)
		}
	}
}

// Of several clients that delete the same entry exactly one succeeds.
func TestRacingDeletes(t *testing.T) {
	s := serve(t, t.TempDir())
	clients := make([]*bus.Conn, 8)
	for i := range clients {
		clients[i] = s.dial()
	}
	for round := range 20 {
		put(t, s.store, "t", "i", Entry{Data: nothing})
		results := make(chan string, len(clients))
		for _, c := range clients {
			go func() { results <- name(call(c, "Delete", "ss", []any{"t", "i"})) }()
		}
		all := []string{}
		for range clients {
			all = append(all, <-results)
		}
		slices.Sort(all)
		if all[0] != "" || all[1] != "NotFound" || all[len(all)-1] != "NotFound" {
			t.Errorf("round %d: %q", round, all)
		}
	}
}

// arbitrary draws a value of any type, up to 32 containers deep, in the form
// that Value's comment describes.
func arbitrary(t *rapid.T) bus.Value {
	depth := rapid.IntRange(0, 31).Draw(t, "depth")
	sig := arbitraryType(t, depth, true)
	var m marshaller
	m.value(t, sig, depth)
	return bus.Value{Signature: sig, Data: m.b}
}

// arbitraryType draws a type; the deep ones are chains with a few leaves.
func arbitraryType(t *rapid.T, depth int, deep bool) string {
	basic := rapid.SampledFrom([]string{"y", "b", "n", "q", "i", "u", "x", "t", "d", "s", "o", "g"})
	if depth == 0 || !deep {
		return basic.Draw(t, "basic")
	}
	switch rapid.IntRange(0, 3).Draw(t, "kind") {
	case 0:
		return "a" + arbitraryType(t, depth-1, true)
	case 1:
		s := "("
		for range rapid.IntRange(0, 2).Draw(t, "before") {
			s += arbitraryType(t, 0, false)
		}
		s += arbitraryType(t, depth-1, true)
		return s + ")"
	case 2:
		if depth < 2 {
			return "a" + basic.Draw(t, "element")
		}
		return "a{" + basic.Draw(t, "key") + arbitraryType(t, depth-2, true) + "}"
	}
	return "v"
}

type marshaller struct{ b []byte }

func (m *marshaller) align(n int) {
	for len(m.b)%n != 0 {
		m.b = append(m.b, 0)
	}
}

func (m *marshaller) value(t *rapid.T, sig string, depth int) (rest string) {
	m.align(alignment(sig[0]))
	le := binary.LittleEndian
	c, rest := sig[0], sig[1:]
	switch c {
	case 'y':
		m.b = append(m.b, rapid.Byte().Draw(t, "y"))
	case 'b':
		m.b = le.AppendUint32(m.b, uint32(rapid.IntRange(0, 1).Draw(t, "b")))
	case 'n', 'q':
		m.b = le.AppendUint16(m.b, rapid.Uint16().Draw(t, "q"))
	case 'i', 'u':
		m.b = le.AppendUint32(m.b, rapid.Uint32().Draw(t, "u"))
	case 'x', 't', 'd':
		m.b = le.AppendUint64(m.b, rapid.Uint64().Draw(t, "t"))
	case 's', 'o':
		s := rapid.SampledFrom([]string{"", "a", "ü", "long enough"}).Draw(t, "s")
		if c == 'o' {
			s = rapid.SampledFrom([]string{"/", "/a", "/a_b/c"}).Draw(t, "o")
		}
		m.b = le.AppendUint32(m.b, uint32(len(s)))
		m.b = append(append(m.b, s...), 0)
	case 'g':
		s := rapid.SampledFrom([]string{"", "y", "a{sv}", "(ayttu)", "yy"}).Draw(t, "g")
		m.b = append(append(append(m.b, byte(len(s))), s...), 0)
	case 'v':
		d := 0
		if depth > 0 {
			d = rapid.IntRange(0, depth-1).Draw(t, "variant depth")
		}
		s := arbitraryType(t, d, true)
		m.b = append(append(append(m.b, byte(len(s))), s...), 0)
		m.value(t, s, d)
	case '(', '{':
		for rest[0] != ')' && rest[0] != '}' {
			rest = m.value(t, rest, depth-1)
		}
		rest = rest[1:]
	case 'a':
		at := len(m.b)
		m.b = append(m.b, 0, 0, 0, 0)
		m.align(alignment(rest[0]))
		start := len(m.b)
		element := rest
		n := rapid.SampledFrom([]int{0, 1, 1, 1, 2}).Draw(t, "length")
		if depth > 6 {
			n = min(n, 1)
		}
		rest = skipType(element)
		for range n {
			m.value(t, element, depth-1)
		}
		le.PutUint32(m.b[at:], uint32(len(m.b)-start))
	}
	return rest
}

func skipType(sig string) string {
	rest, _ := (&walker{}).typ(sig, 0)
	return rest
}

// Data of any type comes back byte for byte, the type included, after a restart too.
func TestDataIsKeptExactly(t *testing.T) {
	dir := t.TempDir()
	s := serve(t, dir)
	var all []bus.Value
	lookup := func(i int) (v bus.Value) {
		var p map[string][]string
		must(t, call(s.client, "Lookup", "ss", []any{"t", fmt.Sprint(i)}, &p, &v))
		return v
	}
	set := func(v bus.Value) {
		i := len(all)
		if err := call(s.client, "SetValue", "sbsv", []any{"t", true, fmt.Sprint(i), v}); err != nil {
			t.Fatalf("%v: %v", v, err)
		}
		all = append(all, v)
		if got := lookup(i); !reflect.DeepEqual(got, v) {
			t.Fatalf("%v came back as %v", v, got)
		}
	}
	// The empty array of each type.
	for _, e := range []string{"y", "b", "n", "q", "i", "u", "x", "t", "d", "s", "o", "g", "v", "as", "(y)", "(tt)", "{sv}", "{tv}", "a{sas}"} {
		var m marshaller
		m.b = make([]byte, 4)
		m.align(alignment(e[0]))
		set(bus.Value{Signature: "a" + e, Data: m.b})
	}
	rapid.Check(t, func(rt *rapid.T) {
		v := arbitrary(rt)
		if len(v.Data) <= MaxData && len(v.Signature) <= 255 {
			set(v)
		}
	})
	must(t, s.store.Close())
	store := open(t, dir, Options{})
	for i, v := range all {
		if e, ok := get(t, store, "t", fmt.Sprint(i)); !ok || !reflect.DeepEqual(e.Data, v) {
			t.Fatalf("%v came back as %v after a restart", v, e.Data)
		}
	}
}

func TestDescriptorsAreNoData(t *testing.T) {
	for _, v := range []bus.Value{
		{Signature: "h", Data: make([]byte, 4)},
		{Signature: "v", Data: []byte{1, 'h', 0, 0, 0, 0, 0, 0}},
	} {
		var limit *InvalidError
		if err := checkData(v); !errors.As(err, &limit) {
			t.Errorf("%v: %v", v, err)
		}
	}
}
