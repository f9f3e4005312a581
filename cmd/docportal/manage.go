package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"

	"docportal/dbus"
	"docportal/internal/bus"
	"docportal/internal/documents"
	"docportal/internal/gvdb"
	"docportal/internal/permstore"
)

// managerPath is the object that the commands talk to.
const managerPath = "/docportal/manager"

// flatpakDir is where flatpak's programs keep their tables.
func flatpakDir() string { return filepath.Join(filepath.Dir(storeDir()), "flatpak", "db") }

// moveIn does what has to be done with a store before anybody sees it: the
// import of the first start, and what it leaves to be removed. Then it lets
// the calls go that wait for it.
func (d *daemon) moveIn(store *permstore.Store) {
	defer close(d.movedIn)
	if done, err := store.Imported(); err == nil && !done {
		defer d.room(store)()
	}
	ctx := context.Background() // who ends closes the store, which ends this
	m, err := store.ImportOnce(ctx, flatpakDir())
	if err != nil {
		d.log.Error("flatpak's permissions are not imported; docportal import does it by hand", "reason", err)
	}
	if m != nil {
		for _, p := range m.Problems {
			d.log.Warn("left out of the import", "what", p)
		}
		if m.Tables > 0 {
			d.log.Info("flatpak's permissions are imported", "tables", m.Tables, "entries", m.Added+m.Extended)
		}
	}
	if n, err := documents.PruneTransient(ctx, store); err != nil {
		d.log.Error("transient documents stay in the store", "reason", err)
	} else if n > 0 {
		d.log.Info("removed transient documents that were left over", "documents", n)
	}
	if err := store.KeepPlaceholders(flatpakDir()); err != nil {
		d.log.Warn("flatpak will not list every table", "reason", err)
	}
	emit := func(member, signature string, args ...any) error {
		return d.conn.Emit("", permstore.Path, permstore.Name, member, signature, args...)
	}
	// Not earlier: what was imported is nobody's change.
	for _, m := range permstore.Interface(store, emit).Methods {
		d.perms[m.Name] = m.Handle
	}
}

// room takes the limit of the memory away until its result is called: under
// it, what handles a whole store would be kept busy by collecting garbage.
func (d *daemon) room(store *permstore.Store) (done func()) {
	d.roomy.Lock()
	if d.roomy.users++; d.roomy.users == 1 {
		d.roomy.limit = debug.SetMemoryLimit(math.MaxInt64)
	}
	d.roomy.Unlock()
	return func() {
		d.roomy.Lock()
		defer d.roomy.Unlock()
		if d.roomy.users--; d.roomy.users == 0 {
			debug.SetMemoryLimit(d.roomy.limit)
			store.Rest()
			debug.FreeOSMemory()
		}
	}
}

// roomy counts who needs more memory than usual, for a while.
type roomy struct {
	sync.Mutex
	users int
	limit int64 // the usual one
}

// readyStore returns the store once it is ready to be seen.
func (d *daemon) readyStore() (*permstore.Store, error) {
	if store, err := d.openedStore(); err != nil {
		return store, err
	}
	<-d.movedIn
	return d.store, nil
}

// manager is the interface that the commands use while a daemon runs.
func (d *daemon) manager() *bus.Interface {
	method := func(name, in string, work func(ctx context.Context, c *bus.Call, s *permstore.Store) (outcome, error)) bus.Method {
		return bus.Method{Name: name, In: in, Out: "asass", Handle: func(ctx context.Context, c *bus.Call) ([]any, error) {
			if c.Caller == nil || !c.Caller.IsHost() {
				return nil, bus.NotAllowed("sandboxed apps do not manage the store")
			}
			s, err := d.readyStore()
			if err != nil {
				return nil, bus.Failed("%s", err)
			}
			defer d.room(s)()
			o, err := work(ctx, c, s)
			if err != nil {
				return nil, bus.Failed("%s", err)
			}
			return []any{lines(o.done), lines(o.problems), o.facts}, nil
		}}
	}
	return &bus.Interface{
		Name: dbus.Manager,
		Methods: []bus.Method{
			d.statusMethod(),
			d.handOverMethod(),
			method("Import", "s", func(ctx context.Context, c *bus.Call, s *permstore.Store) (outcome, error) {
				var dir string
				c.Scan(&dir)
				return importInto(ctx, s, dir)
			}),
			method("Export", "sb", func(ctx context.Context, c *bus.Call, s *permstore.Store) (outcome, error) {
				var dir string
				var legacy bool
				c.Scan(&dir, &legacy)
				if isFlatpakDir(dir) {
					return outcome{}, errUsed
				}
				return exportFrom(s, dir, legacy)
			}),
			method("Check", "b", func(ctx context.Context, c *bus.Call, s *permstore.Store) (outcome, error) {
				var repair bool
				c.Scan(&repair)
				if repair {
					if err := s.RepairIndexes(); err != nil {
						return outcome{}, err
					}
				}
				r, err := s.Check()
				return checked(r), err
			}),
			method("Prune", "b", func(ctx context.Context, c *bus.Call, s *permstore.Store) (outcome, error) {
				var dry bool
				c.Scan(&dry)
				return prune(ctx, s, dry)
			}),
		},
		Introspection: dbus.Interface(dbus.Manager),
	}
}

func lines(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

// outcome is what a command has to say.
type outcome struct {
	done, problems []string // for a person, line by line
	facts          string   // the same for a program: a JSON object
}

// tell sets the facts.
func (o *outcome) tell(facts map[string]any) {
	var b strings.Builder
	facts["problems"] = lines(o.problems)
	if printJSON(&b, facts) == nil {
		o.facts = b.String()
	}
}

func (o *outcome) say(format string, args ...any) {
	o.done = append(o.done, fmt.Sprintf(format, args...))
}

// errUsed says that the files of flatpak's programs cannot be replaced now.
var errUsed = errors.New("a permission store is running: it would not see the files that are written in place of its own; end it, or name another directory")

// isFlatpakDir reports whether a directory is the one that flatpak's programs use.
func isFlatpakDir(dir string) bool {
	a, err := filepath.EvalSymlinks(dir)
	if err != nil {
		a = dir
	}
	b, err := filepath.EvalSymlinks(flatpakDir())
	if err != nil {
		b = flatpakDir()
	}
	return a == b
}

func importInto(ctx context.Context, s *permstore.Store, dir string) (o outcome, err error) {
	if !filepath.IsAbs(dir) {
		return o, fmt.Errorf("%q is no absolute path", dir)
	}
	if s.InMemory() {
		return o, errors.New("the store cannot be written")
	}
	m, err := s.Import(ctx, dir)
	if m != nil {
		o.problems = m.Problems
		o.say("tables: %d, entries added: %d, extended: %d, already there: %d", m.Tables, m.Added, m.Extended, m.Same)
		o.tell(map[string]any{"tables": m.Tables, "added": m.Added, "extended": m.Extended, "same": m.Same})
	}
	return o, err
}

func exportFrom(s *permstore.Store, dir string, legacy bool) (o outcome, err error) {
	if !filepath.IsAbs(dir) {
		return o, fmt.Errorf("%q is no absolute path", dir)
	}
	m, err := s.Export(dir, func(table string, data bus.Value) (bus.Value, error) {
		switch {
		case table != "documents":
			return data, nil
		case legacy:
			return gvdb.LegacyDocument(data)
		default:
			return documents.PeerData(data)
		}
	})
	if m != nil {
		o.problems = m.Problems
		o.say("tables: %d, entries: %d", m.Tables, m.Added)
		o.tell(map[string]any{"tables": m.Tables, "entries": m.Added})
	}
	return o, err
}

func checked(r *permstore.Report) (o outcome) {
	if r != nil {
		o.say("entries: %d, problems: %d", r.Entries, len(r.Problems))
		o.problems = r.Problems
		o.tell(map[string]any{"entries": r.Entries})
	}
	return o
}

func prune(ctx context.Context, s *permstore.Store, dry bool) (o outcome, err error) {
	gone, err := documents.Prune(ctx, s, homeDir(), dry)
	word := "removed"
	if dry {
		word = "would remove"
	}
	all := []jsonGone{}
	for _, g := range gone {
		o.say("%s %s %q: %s", word, g.ID, g.Path, g.Why)
		all = append(all, jsonGone{g.ID, newJSONPath([]byte(g.Path)), g.Why})
	}
	o.say("documents: %d", len(gone))
	o.tell(map[string]any{"documents": all, "removed": !dry})
	return o, err
}

// jsonGone is a document that is gone for good, in JSON.
type jsonGone struct {
	ID string `json:"id"`
	jsonPath
	Why string `json:"why"`
}
