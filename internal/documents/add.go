package documents

import (
	"context"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"docportal/internal/appid"
	"docportal/internal/bus"
	"docportal/internal/identity"
)

// Flags of AddFull and AddNamedFull.
const (
	addReuse      = 1
	addPersistent = 2
	addAsNeeded   = 4
	addDirectory  = 8
)

// addition is what a call asks for each of its files.
type addition struct {
	flags  uint32
	target string // app id, "" for none
	perms  perm   // for the target
}

// newAddition checks the arguments of a call; known are the flags it has.
func newAddition(flags, known uint32, target string, words []string) (addition, error) {
	if flags&^known != 0 {
		return addition{}, bus.InvalidArgument("unknown flags: %#x", flags&^known)
	}
	if target != "" && !appid.Valid(target) {
		return addition{}, bus.InvalidArgument("not an app id: %q", target)
	}
	p, err := parsePerms(words)
	if err != nil {
		return addition{}, err
	}
	return addition{flags, target, p}, nil
}

// recordFlags are the flags of the documents that the call makes.
func (a *addition) recordFlags(f uint32) uint32 {
	if a.flags&addReuse == 0 {
		f |= flagUnique
	}
	if a.flags&addPersistent == 0 {
		f |= flagTransient
	}
	return f
}

// add adds descriptors of a call, all or none. The ids are in their order, ""
// for a file that the target can reach itself where as-needed was asked.
func (s *Service) add(ctx context.Context, call *bus.Call, fds []bus.FD, a addition) ([]string, *mounted, error) {
	if err := checkFDs(fds); err != nil {
		return nil, nil, err
	}
	m, err := s.mount(ctx)
	if err != nil {
		return nil, nil, err
	}
	c := call.Caller
	kind := regularFile
	if a.flags&addDirectory != 0 {
		kind = directory
	}
	needed := s.asNeeded(ctx, a)
	defer needed.close()
	ids := make([]string, len(fds))
	var all []placed
	var which []int
	for i, f := range fds {
		fd, ok := call.File(f)
		if !ok {
			return nil, nil, errInvalidFD()
		}
		v, err := s.verify(m, c, fd, kind, a.flags&addReuse != 0)
		if err != nil {
			return nil, nil, err
		}
		if a.perms.has(permWrite) && !v.writable {
			return nil, nil, bus.NotAllowed("write access was asked for a file that is not writable")
		}
		if needed.reaches(&v.rec) {
			continue
		}
		p, err := s.placement(c, v, a)
		if err != nil {
			return nil, nil, err
		}
		all = append(all, p)
		which = append(which, i)
	}
	made, err := s.placeFor(ctx, c, all)
	if err != nil {
		return nil, nil, err
	}
	for i, id := range made {
		ids[which[i]] = id
	}
	return ids, m, nil
}

// maxFDs is how many indexes of descriptors a call may have: each costs a look
// at the file, also where one descriptor is named again and again.
const maxFDs = 1024

func checkFDs(fds []bus.FD) error {
	if len(fds) > maxFDs {
		return bus.InvalidArgument("more than %d files in one call", maxFDs)
	}
	return nil
}

// placeFor is place under the caller's limit of documents.
func (s *Service) placeFor(ctx context.Context, c *identity.Caller, all []placed) ([]string, error) {
	if len(all) == 0 {
		return nil, nil
	}
	if !c.IsHost() {
		shares := make(map[string]share)
		for _, p := range all {
			one := share{1, p.rec.size()}
			for _, g := range p.grants {
				one.bytes += appBytes(g.app)
			}
			shares[c.App] = shares[c.App].plus(one)
			for _, g := range p.grants {
				if g.app != c.App {
					shares[g.app] = shares[g.app].plus(one)
				}
			}
		}
		done, err := s.room(c, shares)
		if err != nil {
			return nil, err
		}
		defer done()
	}
	return s.place(ctx, all)
}

// placement decides who gets what on a verified file.
func (s *Service) placement(c *identity.Caller, v *verified, a addition) (placed, error) {
	if v.id != "" {
		return s.placementOfDocument(c, v, a)
	}
	p := placed{rec: v.rec, reuse: a.flags&addReuse != 0}
	p.rec.flags = a.recordFlags(v.rec.flags)
	if c.IsHost() {
		if a.target != "" {
			p.grants = []permission{{a.target, a.perms}}
		}
		return p, nil
	}
	own := permRead | permGrant
	if v.writable {
		own |= permWrite
	}
	if p.rec.unique() {
		own |= permDelete
	}
	// A file inside a directory document: no more than the caller has there.
	own &= v.limit | permDelete
	if a.target != "" && v.limit != permAll {
		if !v.limit.has(permGrant | a.perms) {
			return placed{}, bus.NotAllowed("not allowed to pass on these permissions")
		}
	}
	switch a.target {
	case "":
		p.grants = []permission{{c.App, own}}
	case c.App:
		p.grants = []permission{{c.App, a.perms}}
	default:
		p.grants = []permission{{c.App, own}, {a.target, a.perms}}
	}
	// A document that is there already belongs to others too: its end is not
	// the caller's to give away.
	if a.target != "" && a.perms.has(permDelete) {
		p.check = func(d *document) error {
			if !d.can(c.App).has(permDelete) {
				return bus.NotAllowed("not allowed to pass on the permission to delete")
			}
			return nil
		}
	}
	return p, nil
}

// placementOfDocument is rule 5: the file is a document already. Its target is
// granted what the caller may pass on, and nobody else gets anything.
func (s *Service) placementOfDocument(c *identity.Caller, v *verified, a addition) (placed, error) {
	p := placed{rec: v.rec, id: v.id}
	if a.target != "" {
		p.grants = []permission{{a.target, a.perms}}
	}
	if !c.IsHost() {
		p.check = func(d *document) error {
			switch has := d.can(c.App); {
			case !has.has(permRead):
				return errInvalidFD()
			case a.target != "" && !has.has(permGrant|a.perms):
				return bus.NotAllowed("not allowed to pass on these permissions")
			}
			return nil
		}
	}
	return p, nil
}

// addNamed adds a name in an open directory, which need not exist; for the
// host only.
func (s *Service) addNamed(ctx context.Context, call *bus.Call, f bus.FD, name []byte, a addition) (string, *mounted, error) {
	base := pathArgument(name)
	if base == "" || len(base) > 255 || base == "." || base == ".." || strings.ContainsAny(base, "/\x00") {
		return "", nil, bus.InvalidArgument("not a file name: %q", base)
	}
	m, err := s.mount(ctx)
	if err != nil {
		return "", nil, err
	}
	fd, ok := call.File(f)
	if !ok {
		return "", nil, errInvalidFD()
	}
	rec, err := s.verifyParent(m, fd, base)
	if err != nil {
		s.log.Debug("directory refused", "caller", call.Caller.Name, "reason", err)
		return "", nil, errInvalidFD()
	}
	needed := s.asNeeded(ctx, a)
	defer needed.close()
	if needed.reaches(&rec) {
		return "", m, nil
	}
	p, err := s.placement(call.Caller, &verified{rec: rec, writable: true, limit: permAll}, a)
	if err != nil {
		return "", nil, err
	}
	ids, err := s.place(ctx, []placed{p})
	if err != nil {
		return "", nil, err
	}
	return ids[0], m, nil
}

// verifyParent checks the directory descriptor of AddNamed, whose caller is
// the host.
func (s *Service) verifyParent(m *mounted, fd int, name string) (record, error) {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return record{}, err
	}
	if flags&unix.O_PATH != 0 && flags&unix.O_NOFOLLOW != 0 {
		return record{}, unix.ELOOP
	}
	id, err := statFD(fd)
	if err != nil {
		return record{}, err
	}
	if !id.is(directory) || id.dev == m.view.Dev() {
		return record{}, unix.ENOTDIR
	}
	p, err := readFD(fd)
	if err != nil {
		return record{}, err
	}
	if !strings.HasPrefix(p, "/") || path.Clean(p) != p {
		return record{}, unix.ENOENT
	}
	dir, err := openDir(p, unix.O_NOFOLLOW)
	if err != nil {
		return record{}, err
	}
	defer unix.Close(dir)
	now, err := statFD(dir)
	if err != nil {
		return record{}, err
	}
	if !now.same(id) {
		return record{}, unix.ESTALE
	}
	return s.nameRecord(m, dir, name, nil)
}
