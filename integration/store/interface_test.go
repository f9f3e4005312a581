package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"

	"docportal/internal/bus"
	"docportal/internal/permstore"

	"pgregory.net/rapid"
)

// model is what the store is, in a few lines: a map.
type model tables

func (m model) get(table, id string) (e entry, ok bool) {
	e, ok = m[table][id]
	e.Permissions = maps.Clone(e.Permissions)
	return e, ok
}

func (m model) put(table, id string, e entry) {
	if m[table] == nil {
		m[table] = make(map[string]entry)
	}
	m[table][id] = e
}

// announced is a Changed that is expected.
type announced struct {
	table, id string
	deleted   bool
	entry     entry
}

// The interface does what a map does, call by call, over restarts and kills of
// the daemon; Changed says each change once, in order.
func TestTheInterfaceIsAMap(t *testing.T) {
	h := newHome(t)
	p := h.daemon()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	signals, err := h.conn.Subscribe(ctx, bus.Match{Interface: permstore.Name, Member: "Changed"})
	must(t, err)
	m := make(model)
	calls, restarts := 0, 0
	names := rapid.SampledFrom([]string{"t", "u", "documents"})
	ids := rapid.SampledFrom([]string{"1", "2", "3", "a/b", "é"})
	apps := rapid.SampledFrom([]string{"", "org.a.A", "org.b.B"})
	expect := func(rt *rapid.T, what string, err error, want string, changes ...announced) {
		rt.Helper()
		if got := errorName(err); got != want {
			rt.Fatalf("%s: %q, want %q", what, got, want)
		}
		for _, c := range changes {
			select {
			case s := <-signals.C:
				var got announced
				if err := s.Scan(&got.table, &got.id, &got.deleted, &got.entry.Data, &got.entry.Permissions); err != nil {
					rt.Fatal(err)
				}
				if got.table != c.table || got.id != c.id || got.deleted != c.deleted || !sameEntry(got.entry, c.entry) {
					rt.Fatalf("%s: Changed %v\nwant %v", what, got, c)
				}
			case <-ctx.Done():
			}
		}
		// What is said of a change is said before its reply, so nothing else is
		// on its way.
		select {
		case s := <-signals.C:
			rt.Fatalf("%s: Changed once more: %v", what, s)
		default:
		}
	}
	rapid.Check(t, func(rt *rapid.T) {
		rt.Repeat(map[string]func(*rapid.T){
			"Set": func(rt *rapid.T) {
				table, id, create := names.Draw(rt, "table"), ids.Draw(rt, "id"), rapid.Bool().Draw(rt, "create")
				e := entry{Data: drawData(rt), Permissions: drawPermissions(rt)}
				err := perm(h.conn, "Set", "sbsa{sas}v", []any{table, create, id, e.Permissions, e.Data})
				if _, ok := m.get(table, id); !ok && !create {
					expect(rt, "Set", err, "NotFound")
					return
				}
				m.put(table, id, e)
				expect(rt, "Set", err, "", announced{table, id, false, e})
			},
			"SetValue": func(rt *rapid.T) {
				table, id, create := names.Draw(rt, "table"), ids.Draw(rt, "id"), rapid.Bool().Draw(rt, "create")
				data := drawData(rt)
				err := perm(h.conn, "SetValue", "sbsv", []any{table, create, id, data})
				e, ok := m.get(table, id)
				if !ok && !create {
					expect(rt, "SetValue", err, "NotFound")
					return
				}
				e.Data = data
				m.put(table, id, e)
				expect(rt, "SetValue", err, "", announced{table, id, false, e})
			},
			"SetPermission": func(rt *rapid.T) {
				table, id, create := names.Draw(rt, "table"), ids.Draw(rt, "id"), rapid.Bool().Draw(rt, "create")
				app, words := apps.Draw(rt, "app"), rapid.SliceOfN(rapid.StringMatching(`\PC{0,3}`), 0, 3).Draw(rt, "words")
				err := perm(h.conn, "SetPermission", "sbssas", []any{table, create, id, app, words})
				e, ok := m.get(table, id)
				if !ok && !create {
					expect(rt, "SetPermission", err, "NotFound")
					return
				}
				if !ok {
					e.Data = bus.Value{Signature: "y", Data: []byte{0}}
				}
				if e.Permissions == nil {
					e.Permissions = make(map[string][]string)
				}
				e.Permissions[app] = words
				m.put(table, id, e)
				expect(rt, "SetPermission", err, "", announced{table, id, false, e})
			},
			"DeletePermission": func(rt *rapid.T) {
				table, id, app := names.Draw(rt, "table"), ids.Draw(rt, "id"), apps.Draw(rt, "app")
				err := perm(h.conn, "DeletePermission", "sss", []any{table, id, app})
				e, ok := m.get(table, id)
				if !ok {
					expect(rt, "DeletePermission", err, "NotFound")
					return
				}
				delete(e.Permissions, app)
				m.put(table, id, e)
				expect(rt, "DeletePermission", err, "", announced{table, id, false, e})
			},
			"Delete": func(rt *rapid.T) {
				table, id := names.Draw(rt, "table"), ids.Draw(rt, "id")
				err := perm(h.conn, "Delete", "ss", []any{table, id})
				e, ok := m.get(table, id)
				if !ok {
					expect(rt, "Delete", err, "NotFound")
					return
				}
				delete(m[table], id)
				expect(rt, "Delete", err, "", announced{table, id, true, entry{Data: e.Data}})
			},
			"GetPermission": func(rt *rapid.T) {
				table, id, app := names.Draw(rt, "table"), ids.Draw(rt, "id"), apps.Draw(rt, "app")
				var words []string
				err := perm(h.conn, "GetPermission", "sss", []any{table, id, app}, &words)
				if e, ok := m.get(table, id); !ok {
					expect(rt, "GetPermission", err, "NotFound")
				} else if expect(rt, "GetPermission", err, ""); !slices.Equal(words, e.Permissions[app]) {
					rt.Fatalf("GetPermission: %q, want %q", words, e.Permissions[app])
				}
			},
			"restart": func(rt *rapid.T) {
				if rapid.IntRange(0, 2).Draw(rt, "not now") != 0 {
					return
				}
				restarts++
				p.stop(rapid.SampledFrom([]syscall.Signal{syscall.SIGTERM, syscall.SIGKILL}).Draw(rt, "signal"))
				if out, errs, status := h.run("check"); status != 0 { // the indexes, too
					rt.Fatalf("check: %s%s", out, errs)
				}
				p = h.daemon()
			},
			"": func(rt *rapid.T) { // after each
				if calls++; calls%8 != 0 {
					return
				}
				for _, table := range []string{"t", "u", "documents", "none"} {
					var ids []string
					if err := perm(h.conn, "List", "s", []any{table}, &ids); err != nil {
						rt.Fatal(err)
					}
					slices.Sort(ids)
					if want := slices.Sorted(maps.Keys(m[table])); !slices.Equal(ids, want) {
						rt.Fatalf("List of %s: %q, want %q", table, ids, want)
					}
					for id, e := range m[table] {
						var got entry
						if err := perm(h.conn, "Lookup", "ss", []any{table, id}, &got.Permissions, &got.Data); err != nil || !sameEntry(got, e) {
							rt.Fatalf("Lookup of %s %q: %v, %v\nwant %v", table, id, got, err, e)
						}
					}
				}
			},
		})
	})
	// Entries and indexes: the same invariants that a stopped store is checked for.
	h.mustRun("check")
	p.stop(syscall.SIGTERM)
	h.mustRun("check")
	t.Logf("%d steps, %d restarts", calls, restarts)
}

// 32 clients at once: every change is announced once, those of an id in the
// order of the states it went through, and none that was not committed.
func TestEachChangeIsAnnouncedOnce(t *testing.T) {
	h := newHome(t)
	p := h.daemon()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	signals, err := h.conn.Subscribe(ctx, bus.Match{Interface: permstore.Name, Member: "Changed"})
	must(t, err)
	const clients, each = 32, 40
	var wg sync.WaitGroup
	for n := range clients {
		c := h.dial()
		wg.Go(func() {
			for i := range each {
				// Half of the changes are of an id that all change.
				id := "shared"
				if i%2 == 0 {
					id = fmt.Sprint(n)
				}
				if err := perm(c, "SetPermission", "sbssas", []any{"t", true, id, fmt.Sprint(n), []string{fmt.Sprint(i)}}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	last := make(map[string]map[string][]string) // by id: as announced last
	counts := make(map[string]int)
	for range clients * each {
		var s *bus.Signal
		select {
		case s = <-signals.C:
		case <-ctx.Done():
			t.Fatal("not every change is announced")
		}
		var got announced
		must(t, s.Scan(&got.table, &got.id, &got.deleted, &got.entry.Data, &got.entry.Permissions))
		// Each state is the one before it with one app changed, to a later word.
		changed := 0
		for app, words := range got.entry.Permissions {
			if slices.Equal(words, last[got.id][app]) {
				continue
			}
			changed++
			var was, is int
			if old := last[got.id][app]; old != nil {
				fmt.Sscan(old[0], &was)
				was++
			}
			if fmt.Sscan(words[0], &is); is < was {
				t.Errorf("%s: %s went from %v to %v", got.id, app, last[got.id][app], words)
			}
		}
		if changed != 1 || len(got.entry.Permissions) < len(last[got.id]) {
			t.Errorf("%s: %d apps changed at once", got.id, changed)
		}
		last[got.id] = got.entry.Permissions
		counts[got.id]++
	}
	wg.Wait()
	p.stop(syscall.SIGKILL)
	h.daemon()
	for id, want := range last {
		var got entry
		must(t, perm(h.conn, "Lookup", "ss", []any{"t", id}, &got.Permissions, &got.Data))
		if !maps.EqualFunc(got.Permissions, want, slices.Equal) {
			t.Errorf("%s: %v was announced, %v is stored", id, want, got.Permissions)
		}
	}
	if counts["shared"] != clients*each/2 || counts["0"] != each/2 {
		t.Errorf("announced %v", counts)
	}
	select {
	case <-signals.C:
		t.Error("more is announced than was changed")
	default:
	}
}

// What is announced is committed: a daemon that is killed while it announces
// has every announced change on its disk.
func TestWhatIsAnnouncedIsCommitted(t *testing.T) {
	h := newHome(t)
	for round := range 5 {
		p := h.daemon()
		ctx, cancel := context.WithTimeout(context.Background(), deadline)
		signals, err := h.conn.Subscribe(ctx, bus.Match{Interface: permstore.Name, Member: "Changed"})
		must(t, err)
		var wg sync.WaitGroup
		for n := range 8 {
			c := h.dial()
			wg.Go(func() {
				for i := 1; ; i++ {
					if c.Call(ctx, permstore.Name, permstore.Path, permstore.Name, "SetPermission", "sbssas",
						[]any{"t", true, fmt.Sprint(n), "app", []string{fmt.Sprint(round*100000 + i)}}) != nil {
						return
					}
				}
			})
		}
		seen := make(map[string]int)
		note := func(s *bus.Signal) {
			var got announced
			must(t, s.Scan(&got.table, &got.id, &got.deleted, &got.entry.Data, &got.entry.Permissions))
			var value int
			fmt.Sscan(got.entry.Permissions["app"][0], &value)
			seen[got.id] = value
		}
		for range 200 + 37*round {
			select {
			case s := <-signals.C:
				note(s)
			case <-ctx.Done():
				t.Fatal("too few changes")
			}
		}
		p.stop(syscall.SIGKILL)
		wg.Wait()
		h.owned(permstore.Name) // all that the bus had of it has arrived
		for more := true; more; {
			select {
			case s := <-signals.C:
				note(s)
			default:
				more = false
			}
		}
		signals.Close(ctx)
		p = h.daemon()
		for id, want := range seen {
			var words []string
			must(t, perm(h.conn, "GetPermission", "sss", []any{"t", id, "app"}, &words))
			var got int
			if fmt.Sscan(words[0], &got); got < want {
				t.Errorf("round %d: %s: %d was announced, %d is stored", round, id, want, got)
			}
		}
		p.stop(syscall.SIGTERM)
		cancel()
	}
}

// A change of the table documents through the interface holds for the portal
// and its views before the reply.
func TestChangesOfDocumentsHoldAtOnce(t *testing.T) {
	h := newHome(t)
	h.daemon()
	mount := mountPoint(t, h.conn)
	const app = "org.a.A"
	for round := range 20 {
		f := filepath.Join(h.home(), fmt.Sprint("f", round))
		must(t, os.WriteFile(f, []byte("text"), 0o600))
		id := addFiles(t, h.conn, app, []string{"read", "write"}, f)[0]
		seen := filepath.Join(mount, "by-app", app, id, filepath.Base(f))
		open := func(flags int) error {
			file, err := os.OpenFile(seen, flags, 0)
			if err == nil {
				file.Close()
			}
			return err
		}
		listed := func() bool {
			list, err := os.ReadDir(filepath.Join(mount, "by-app", app))
			must(t, err)
			return slices.ContainsFunc(list, func(d os.DirEntry) bool { return d.Name() == id })
		}
		allow := func(words ...string) {
			t.Helper()
			must(t, perm(h.conn, "SetPermission", "sbssas", []any{"documents", false, id, app, words}))
		}
		expect := func(what string, read, write bool) {
			t.Helper()
			if err := open(os.O_RDONLY); (err == nil) != read {
				t.Errorf("round %d, %s: opening for reading: %v", round, what, err)
			}
			if err := open(os.O_RDWR); (err == nil) != write {
				t.Errorf("round %d, %s: opening for writing: %v", round, what, err)
			}
			if listed() != read {
				t.Errorf("round %d, %s: listed: %v", round, what, !read)
			}
		}
		expect("added", true, true)
		allow("read")
		expect("only read", true, false)
		allow()
		expect("nothing", false, false)
		allow("read", "write")
		expect("again", true, true)
		must(t, perm(h.conn, "DeletePermission", "sss", []any{"documents", id, app}))
		expect("no entry", false, false)
		var e entry
		must(t, perm(h.conn, "Lookup", "ss", []any{"documents", id}, &e.Permissions, &e.Data))
		must(t, perm(h.conn, "Set", "sbsa{sas}v", []any{"documents", false, id, map[string][]string{app: {"read"}}, e.Data}))
		expect("set", true, false)
		must(t, perm(h.conn, "Delete", "ss", []any{"documents", id}))
		expect("deleted", false, false)
		if err := doc(h.conn, "Info", "s", []any{id}, new([]byte), new(map[string][]string)); err == nil {
			t.Errorf("round %d: Info of a deleted document", round)
		}
		if _, err := os.Stat(filepath.Join(mount, id)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("round %d: the host's view of a deleted document: %v", round, err)
		}
		must(t, perm(h.conn, "Set", "sbsa{sas}v", []any{"documents", true, id, map[string][]string{app: {"read"}}, e.Data}))
		expect("made by hand", true, false)
		if got := addFiles(t, h.conn, app, nil, f)[0]; got != id {
			t.Errorf("round %d: added again: %s, not %s", round, got, id)
		}
	}
}
