package documents

import (
	"cmp"
	"context"
	"encoding/binary"
	"maps"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"docportal/dbus"
	"docportal/internal/appid"
	"docportal/internal/bus"
	"docportal/internal/permstore"
)

// Version is the version of the interface org.freedesktop.portal.Documents.
const Version = 5

// Interface is the D-Bus interface org.freedesktop.portal.Documents, for the
// object at Path.
func (s *Service) Interface() *bus.Interface {
	return &bus.Interface{
		Name: dbus.Documents,
		Methods: []bus.Method{
			{Name: "GetMountPoint", In: "", Out: "ay", Handle: s.handler(s.getMountPoint)},
			{Name: "Add", In: "hbb", Out: "s", Handle: s.handler(s.addOne)},
			{Name: "AddNamed", In: "haybb", Out: "s", Handle: s.handler(s.addNamedOne)},
			{Name: "AddFull", In: "ahusas", Out: "asa{sv}", Handle: s.handler(s.addFull)},
			{Name: "AddNamedFull", In: "hayusas", Out: "sa{sv}", Handle: s.handler(s.addNamedFull)},
			{Name: "GrantPermissions", In: "ssas", Out: "", Handle: s.handler(s.grantPermissions)},
			{Name: "RevokePermissions", In: "ssas", Out: "", Handle: s.handler(s.revokePermissions)},
			{Name: "Delete", In: "s", Out: "", Handle: s.handler(s.delete)},
			{Name: "Lookup", In: "ay", Out: "s", Handle: s.handler(s.lookup)},
			{Name: "Info", In: "s", Out: "aya{sas}", Handle: s.handler(s.info)},
			{Name: "List", In: "s", Out: "a{say}", Handle: s.handler(s.listDocuments), Large: true},
			{Name: "GetHostPaths", In: "as", Out: "a{say}", Handle: s.handler(s.getHostPaths), Large: true},
		},
		Properties:    map[string]bus.Value{"version": uint32Value(Version)},
		Introspection: dbus.Interface(dbus.Documents),
	}
}

func uint32Value(n uint32) bus.Value {
	return bus.Value{Signature: "u", Data: binary.LittleEndian.AppendUint32(nil, n)}
}

func bytesValue(b []byte) bus.Value {
	return bus.Value{Signature: "ay", Data: append(binary.LittleEndian.AppendUint32(nil, uint32(len(b))), b...)}
}

// handler is the one place where errors become replies.
func (s *Service) handler(h bus.Handler) bus.Handler {
	return func(ctx context.Context, c *bus.Call) ([]any, error) {
		out, err := h(ctx, c)
		return out, s.failure(err)
	}
}

func (s *Service) getMountPoint(ctx context.Context, _ *bus.Call) ([]any, error) {
	m, err := s.mount(ctx)
	if err != nil {
		return nil, err
	}
	return []any{pathValue(m.dir)}, nil
}

// oldFlags are the flags that the two booleans of the first methods mean.
func oldFlags(reuse, persistent bool) uint32 {
	var f uint32
	if reuse {
		f |= addReuse
	}
	if persistent {
		f |= addPersistent
	}
	return f
}

func (s *Service) addOne(ctx context.Context, c *bus.Call) ([]any, error) {
	var f bus.FD
	var reuse, persistent bool
	c.Scan(&f, &reuse, &persistent)
	ids, _, err := s.add(ctx, c, []bus.FD{f}, addition{flags: oldFlags(reuse, persistent)})
	if err != nil {
		return nil, err
	}
	return []any{ids[0]}, nil
}

func (s *Service) addFull(ctx context.Context, c *bus.Call) ([]any, error) {
	var fds []bus.FD
	var flags uint32
	var target string
	var words []string
	c.Scan(&fds, &flags, &target, &words)
	a, err := newAddition(flags, addReuse|addPersistent|addAsNeeded|addDirectory, target, words)
	if err != nil {
		return nil, err
	}
	ids, m, err := s.add(ctx, c, fds, a)
	if err != nil {
		return nil, err
	}
	return []any{ids, m.extra()}, nil
}

// extra is the second result of AddFull and AddNamedFull.
func (m *mounted) extra() map[string]bus.Value {
	return map[string]bus.Value{"mountpoint": bytesValue(pathValue(m.dir))}
}

func (s *Service) addNamedOne(ctx context.Context, c *bus.Call) ([]any, error) {
	if err := hostOnly(c.Caller, c.Member); err != nil {
		return nil, err
	}
	var f bus.FD
	var name []byte
	var reuse, persistent bool
	c.Scan(&f, &name, &reuse, &persistent)
	id, _, err := s.addNamed(ctx, c, f, name, addition{flags: oldFlags(reuse, persistent)})
	if err != nil {
		return nil, err
	}
	return []any{id}, nil
}

func (s *Service) addNamedFull(ctx context.Context, c *bus.Call) ([]any, error) {
	if err := hostOnly(c.Caller, c.Member); err != nil {
		return nil, err
	}
	var f bus.FD
	var name []byte
	var flags uint32
	var target string
	var words []string
	c.Scan(&f, &name, &flags, &target, &words)
	a, err := newAddition(flags, addReuse|addPersistent|addAsNeeded, target, words)
	if err != nil {
		return nil, err
	}
	id, m, err := s.addNamed(ctx, c, f, name, a)
	if err != nil {
		return nil, err
	}
	return []any{id, m.extra()}, nil
}

// permissionArguments reads the arguments of Grant- and RevokePermissions.
func permissionArguments(c *bus.Call) (id, app string, p perm, err error) {
	var words []string
	c.Scan(&id, &app, &words)
	if !appid.Valid(app) {
		return "", "", 0, bus.InvalidArgument("not an app id: %q", app)
	}
	p, err = parsePerms(words)
	return id, app, p, err
}

func (s *Service) grantPermissions(ctx context.Context, c *bus.Call) ([]any, error) {
	id, app, p, err := permissionArguments(c)
	if err != nil {
		return nil, err
	}
	allowed := func(d *document) error {
		if !c.Caller.IsHost() && !d.can(c.Caller.App).has(permGrant|p) {
			return bus.NotAllowed("not allowed to grant these permissions")
		}
		return nil
	}
	if !c.Caller.IsHost() {
		d, err := s.get(id)
		if err != nil {
			return nil, err
		}
		if d == nil {
			return nil, errNone
		}
		if err := allowed(d); err != nil {
			return nil, err
		}
		if _, named := d.words[app]; !named {
			more := share{bytes: appBytes(app)}
			done, err := s.room(c.Caller, map[string]share{c.Caller.App: more, app: shareIn(d.words, d.rec.size()).plus(more)})
			if err != nil {
				return nil, err
			}
			defer done()
		}
	}
	return nil, s.change(ctx, id, func(d *document) (map[string][]string, bool, error) {
		if err := allowed(d); err != nil {
			return nil, false, err
		}
		return granted(d.words, []permission{{app, p}}), false, nil
	})
}

func (s *Service) revokePermissions(ctx context.Context, c *bus.Call) ([]any, error) {
	id, app, p, err := permissionArguments(c)
	if err != nil {
		return nil, err
	}
	return nil, s.change(ctx, id, func(d *document) (map[string][]string, bool, error) {
		host := c.Caller.IsHost()
		if !host && app != c.Caller.App && !d.can(c.Caller.App).has(permGrant) {
			return nil, false, bus.NotAllowed("not allowed to revoke permissions")
		}
		if _, ok := d.words[app]; !ok {
			return d.words, false, nil
		}
		words := maps.Clone(d.words)
		words[app] = removeWords(d.words[app], p)
		// An app that gives up all it has on a document still has its part in
		// it (MaxDocuments), or it could leave any number of them behind.
		if len(words[app]) == 0 && host {
			delete(words, app)
		}
		return words, false, nil
	})
}

func (s *Service) delete(ctx context.Context, c *bus.Call) ([]any, error) {
	var id string
	c.Scan(&id)
	return nil, s.change(ctx, id, func(d *document) (map[string][]string, bool, error) {
		if !c.Caller.IsHost() && !d.can(c.Caller.App).has(permDelete) {
			return nil, false, bus.NotAllowed("not allowed to delete the document")
		}
		return nil, true, nil
	})
}

func (s *Service) lookup(_ context.Context, c *bus.Call) ([]any, error) {
	if err := hostOnly(c.Caller, c.Member); err != nil {
		return nil, err
	}
	var arg []byte
	c.Scan(&arg)
	p := pathArgument(arg)
	if !strings.HasPrefix(p, "/") || strings.IndexByte(p, 0) >= 0 {
		return nil, bus.InvalidArgument("not an absolute path: %q", p)
	}
	fd, err := openAt(unix.AT_FDCWD, p, unix.O_PATH)
	if err != nil {
		return nil, bus.NotFound("%s: %s", p, err)
	}
	defer unix.Close(fd)
	id, err := statFD(fd)
	if err != nil {
		return nil, bus.NotFound("%s: %s", p, err)
	}
	s.mu.RLock()
	m := s.mounted
	s.mu.RUnlock()
	if m != nil && id.dev == m.view.Dev() {
		return s.lookupOnMount(m, id)
	}
	real, err := readFD(fd)
	if err != nil {
		return nil, bus.NotFound("%s: %s", p, err)
	}
	var rec record
	var dir int
	switch {
	case id.is(directory):
		rec, _, err = dirRecord(fd)
		rec.flags = flagDirectory
	case id.is(regularFile):
		if dir, err = openDir(path.Dir(real), 0); err == nil {
			rec, _, err = dirRecord(dir)
			rec.path = path.Join(rec.path, path.Base(real))
			unix.Close(dir)
		}
	default:
		return []any{""}, nil
	}
	if err != nil {
		return nil, bus.NotFound("%s: %s", p, err)
	}
	found, err := s.find(&rec)
	if err != nil {
		return nil, err
	}
	return []any{found}, nil
}

func (s *Service) lookupOnMount(m *mounted, id fileID) ([]any, error) {
	loc, ok := m.view.Resolve(id.ino)
	if !ok {
		return []any{""}, nil
	}
	d, err := s.get(loc.Document)
	if err != nil {
		return nil, err
	}
	if d == nil || !d.rec.directory() && loc.Rel != path.Base(d.rec.path) || d.rec.directory() && loc.Rel != "" {
		return []any{""}, nil
	}
	return []any{d.id}, nil
}

func (s *Service) info(_ context.Context, c *bus.Call) ([]any, error) {
	if err := hostOnly(c.Caller, c.Member); err != nil {
		return nil, err
	}
	var id string
	c.Scan(&id)
	d, err := s.get(id)
	if err != nil {
		return nil, err
	}
	if d == nil {
		return nil, bus.InvalidArgument("no such document: %q", id)
	}
	words := make(map[string][]string, len(d.words))
	for app, w := range d.words {
		if len(w) > 0 {
			words[app] = w
		}
	}
	return []any{pathValue(d.rec.path), words}, nil
}

func (s *Service) listDocuments(_ context.Context, c *bus.Call) ([]any, error) {
	if err := hostOnly(c.Caller, c.Member); err != nil {
		return nil, err
	}
	var app string
	c.Scan(&app)
	if app != "" && !appid.Valid(app) {
		return nil, bus.InvalidArgument("not an app id: %q", app)
	}
	out := c.Dict()
	if app == "" {
		if err := s.allPaths(out.Add); err != nil {
			return nil, err
		}
		return []any{out}, nil
	}
	var failed error
	err := s.each(app, func(id string, load func() *document) {
		if d := load(); d != nil && len(d.words[app]) > 0 {
			failed = cmp.Or(failed, out.Add([]byte(id), []byte(d.rec.path)))
		}
	})
	if err = cmp.Or(failed, err); err != nil {
		return nil, err
	}
	return []any{out}, nil
}

// allPaths calls yield with the id and path of each document, until it fails.
func (s *Service) allPaths(yield func(id, path []byte) error) error {
	var docs []*kept
	s.mu.RLock()
	docs = slices.AppendSeq(docs, maps.Values(s.transient))
	s.mu.RUnlock()
	for _, d := range docs {
		if err := yield([]byte(d.id), []byte(d.rec.path)); err != nil {
			return err
		}
	}
	store, err := s.o.Store()
	if err != nil {
		return err
	}
	return store.View(func(tx *permstore.Tx) error {
		var failed error
		err := tx.Data(table, func(id, sig, data []byte) bool {
			if p, ok := pathOf(sig, data); ok && validID(string(id)) {
				failed = yield(id, p)
			}
			return failed == nil
		})
		return cmp.Or(failed, err)
	})
}

func (s *Service) getHostPaths(_ context.Context, c *bus.Call) ([]any, error) {
	var ids []string
	c.Scan(&ids)
	out := make(map[string][]byte, len(ids))
	tell := func(d *document) {
		if d != nil && (c.Caller.IsHost() || d.can(c.Caller.App) != 0) {
			out[d.id] = pathValue(d.rec.path)
		}
	}
	var others []string // to be read in one transaction
	s.mu.RLock()
	for _, id := range ids {
		if d := s.cache[id]; d != nil {
			tell(d)
		} else if k := s.transient[id]; k != nil {
			tell(k.document())
		} else {
			others = append(others, id)
		}
	}
	s.mu.RUnlock()
	if len(others) == 0 {
		return []any{out}, nil
	}
	store, err := s.o.Store()
	if err != nil {
		return nil, err
	}
	err = store.View(func(tx *permstore.Tx) error {
		for _, id := range others {
			if !validID(id) {
				continue
			}
			e, ok, err := tx.Get(table, id)
			if err != nil {
				return err
			}
			if !ok || !c.Caller.IsHost() && storedPerms(e.Permissions[c.Caller.App]) == 0 {
				continue
			}
			if p, ok := pathOf([]byte(e.Data.Signature), e.Data.Data); ok {
				out[id] = append(p[:len(p):len(p)], 0)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return []any{out}, nil
}
