package documents

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"path"
	"path/filepath"
	"sync"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"docportal/dbus"
	"docportal/internal/bus"
	"docportal/internal/identity"
)

// TransferVersion is the version of the interface org.freedesktop.portal.FileTransfer.
const TransferVersion = 1

// Limits of one sender, and of an app with all its connections.
const (
	maxTransfers     = 256  // open at a time
	maxTransferFiles = 8192 // in all its open transfers
	maxTransferBytes = 16 << 20

	appTransfers     = 4 * maxTransfers
	appTransferFiles = 4 * maxTransferFiles
	appTransferBytes = maxTransferBytes
)

// transfers are the open file transfers: a sender puts files into one and
// hands its key to whoever is to have them.
type transfers struct {
	mu     sync.Mutex
	open   map[string]*transfer // by key
	sender map[string]*held     // by unique name
	app    map[string]*held     // by app id
}

// held is what a sender or an app has open.
type held struct {
	transfers, files int
	bytes            int // of the files' paths
}

func (h *held) add(o held, sign int) {
	h.transfers += sign * o.transfers
	h.files += sign * o.files
	h.bytes += sign * o.bytes
}

// past says which of the limits more would break, if any.
func (h *held) past(more, limit held, whose string) error {
	switch {
	case h.transfers+more.transfers > limit.transfers:
		return bus.Failed("%d transfers of %s are open, and the limit is %d", h.transfers, whose, limit.transfers)
	case h.files+more.files > limit.files:
		return bus.Failed("%d files are in open transfers of %s, and the limit is %d", h.files, whose, limit.files)
	case h.bytes+more.bytes > limit.bytes:
		return bus.Failed("the paths in open transfers of %s have %d bytes, and the limit is %d", whose, h.bytes, limit.bytes)
	}
	return nil
}

// hold counts more for a sender, or says which limit that would break; t.mu is
// held.
func (t *transfers) hold(name, app string, more held) error {
	for _, a := range []struct {
		of    map[string]*held
		key   string
		limit held
		whose string
	}{
		{t.sender, name, held{maxTransfers, maxTransferFiles, maxTransferBytes}, "this sender"},
		{t.app, app, held{appTransfers, appTransferFiles, appTransferBytes}, "this app"},
	} {
		if a.key == "" { // the host's programs have no more in common than their user
			continue
		}
		has := a.of[a.key]
		if has == nil {
			has = new(held)
		}
		if err := has.past(more, a.limit, a.whose); err != nil {
			return err
		}
	}
	t.count(name, app, more, +1)
	return nil
}

// count adds to what a sender and its app hold, or takes away; t.mu is held.
func (t *transfers) count(name, app string, what held, sign int) {
	for _, a := range []struct {
		of  map[string]*held
		key string
	}{{t.sender, name}, {t.app, app}} {
		if a.key == "" {
			continue
		}
		if a.of[a.key] == nil {
			a.of[a.key] = new(held)
		}
		a.of[a.key].add(what, sign)
		if a.of[a.key].transfers == 0 {
			delete(a.of, a.key)
		}
	}
}

// transfer is one file transfer.
type transfer struct {
	key      string
	owner    *identity.Caller
	name     string // unique name of the owner
	writable bool
	autostop bool
	taken    bool // somebody is retrieving it, and nobody else may
	files    []transferFile
}

// transferFile is a file as it was verified when it was added: a name in a
// known directory, or a document.
type transferFile struct {
	rec      record
	id       string // the document, if the descriptor was on the mount
	writable bool
	limit    perm
}

func (t *transfers) init() {
	t.open = make(map[string]*transfer)
	t.sender = make(map[string]*held)
	t.app = make(map[string]*held)
}

// FileTransfer is the D-Bus interface org.freedesktop.portal.FileTransfer, for
// the object at Path.
func (s *Service) FileTransfer() *bus.Interface {
	return &bus.Interface{
		Name: dbus.FileTransfer,
		Methods: []bus.Method{
			{Name: "StartTransfer", In: "a{sv}", Out: "s", Handle: s.handler(s.startTransfer)},
			{Name: "AddFiles", In: "saha{sv}", Out: "", Handle: s.handler(s.addFiles)},
			{Name: "RetrieveFiles", In: "sa{sv}", Out: "as", Handle: s.handler(s.retrieveFiles)},
			{Name: "StopTransfer", In: "s", Out: "", Handle: s.handler(s.stopTransfer)},
		},
		Properties:    map[string]bus.Value{"version": uint32Value(TransferVersion)},
		Introspection: dbus.Interface(dbus.FileTransfer),
	}
}

// boolOption reads an option of type b.
func boolOption(options map[string]bus.Value, name string, otherwise bool) (bool, error) {
	v, ok := options[name]
	if !ok {
		return otherwise, nil
	}
	if v.Signature != "b" || len(v.Data) != 4 {
		return false, bus.InvalidArgument("the option %q is not a boolean", name)
	}
	return v.Data[0] != 0, nil
}

// transferKey makes a key of 160 bits. GTK 4 reads keys into a buffer that
// grows to powers of two, and takes them for terminated by what is left of it:
// from a sender that sends no NUL (GTK 3) a key must not fill it.
func transferKey() string {
	var b [20]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// errTransfer is the answer to a wrong key and to somebody else's alike.
func errTransfer() error { return bus.AccessDenied("no such transfer") }

func (s *Service) startTransfer(_ context.Context, c *bus.Call) ([]any, error) {
	var options map[string]bus.Value
	c.Scan(&options)
	writable, err := boolOption(options, "writable", false)
	if err != nil {
		return nil, err
	}
	autostop, err := boolOption(options, "autostop", true)
	if err != nil {
		return nil, err
	}
	t := &transfer{key: transferKey(), owner: c.Caller, name: c.Sender, writable: writable, autostop: autostop}
	s.transfers.mu.Lock()
	defer s.transfers.mu.Unlock()
	if err := s.transfers.hold(t.name, t.owner.App, held{transfers: 1}); err != nil {
		return nil, err
	}
	s.transfers.open[t.key] = t
	return []any{t.key}, nil
}

// own returns the caller's transfer; t.mu is held.
func (t *transfers) own(c *bus.Call, key string) (*transfer, error) {
	tr := t.open[key]
	if tr == nil || tr.taken || tr.name != c.Sender {
		return nil, errTransfer()
	}
	return tr, nil
}

func (s *Service) addFiles(ctx context.Context, c *bus.Call) ([]any, error) {
	var key string
	var fds []bus.FD
	var options map[string]bus.Value
	c.Scan(&key, &fds, &options)
	if err := checkFDs(fds); err != nil {
		return nil, err
	}
	t := &s.transfers
	t.mu.Lock()
	tr, err := t.own(c, key)
	t.mu.Unlock()
	if err != nil {
		return nil, err
	}
	m, err := s.mount(ctx)
	if err != nil {
		return nil, err
	}
	files := make([]transferFile, 0, len(fds))
	for _, f := range fds {
		fd, ok := c.File(f)
		if !ok {
			return nil, errInvalidFD()
		}
		id, err := statFD(fd)
		if err != nil {
			return nil, errInvalidFD()
		}
		kind := regularFile
		if id.is(directory) {
			kind = directory
		}
		v, err := s.verify(m, c.Caller, fd, kind, true)
		if err != nil {
			return nil, err
		}
		if tr.writable && !v.writable {
			return nil, bus.NotAllowed("a file of a writable transfer is not writable")
		}
		files = append(files, transferFile{v.rec, v.id, v.writable, v.limit})
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if tr, err = t.own(c, key); err != nil { // it was stopped meanwhile
		return nil, err
	}
	more := content(files)
	if err := t.hold(tr.name, tr.owner.App, more); err != nil {
		return nil, err
	}
	tr.files = append(tr.files, files...)
	return nil, nil
}

// content is what files count for.
func content(files []transferFile) held {
	h := held{files: len(files)}
	for _, f := range files {
		h.bytes += len(f.rec.path)
	}
	return h
}

// remove ends a transfer; t.mu is held.
func (t *transfers) remove(tr *transfer) {
	delete(t.open, tr.key)
	what := content(tr.files)
	what.transfers = 1
	t.count(tr.name, tr.owner.App, what, -1)
}

func (s *Service) closeTransfer(tr *transfer) {
	if err := s.o.Emit(tr.name, dbus.FileTransfer, "TransferClosed", "s", tr.key); err != nil {
		s.log.Debug("cannot tell that a transfer has ended", "to", tr.name, "reason", err)
	}
}

func (s *Service) stopTransfer(_ context.Context, c *bus.Call) ([]any, error) {
	var key string
	c.Scan(&key)
	t := &s.transfers
	t.mu.Lock()
	tr, err := t.own(c, key)
	if err == nil {
		t.remove(tr)
	}
	t.mu.Unlock()
	if err != nil {
		return nil, err
	}
	s.closeTransfer(tr)
	return nil, nil
}

// PeerGone ends what a peer of the bus had open.
func (s *Service) PeerGone(name string) {
	t := &s.transfers
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sender[name] == nil {
		return
	}
	for _, tr := range t.open {
		if tr.name == name {
			t.remove(tr)
		}
	}
}

// close ends all transfers.
func (t *transfers) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.init()
}

func (s *Service) retrieveFiles(ctx context.Context, c *bus.Call) ([]any, error) {
	var key string
	var options map[string]bus.Value
	c.Scan(&key, &options)
	t := &s.transfers
	t.mu.Lock()
	tr := t.open[key]
	if tr == nil || tr.taken {
		t.mu.Unlock()
		return nil, errTransfer()
	}
	files := tr.files[:len(tr.files):len(tr.files)]
	tr.taken = tr.autostop
	t.mu.Unlock()
	paths, err := s.retrieve(ctx, tr, c.Caller, files)
	if !tr.autostop {
		return []any{paths}, err
	}
	t.mu.Lock()
	if t.open[key] == tr { // its owner may have left
		if tr.taken = false; err == nil {
			t.remove(tr)
		}
	}
	t.mu.Unlock()
	if err != nil {
		return nil, err
	}
	s.closeTransfer(tr)
	return []any{paths}, nil
}

// retrieve makes the paths that the receiver gets for the files, under the
// sender's authority. A file that is gone or was replaced by something else is
// left out; it is an error if none is left.
func (s *Service) retrieve(ctx context.Context, tr *transfer, to *identity.Caller, files []transferFile) ([]string, error) {
	m, err := s.mount(ctx)
	if err != nil {
		return nil, err
	}
	a := addition{flags: addReuse | addAsNeeded, target: to.App, perms: permRead}
	if tr.writable {
		a.perms |= permWrite
	}
	needed := s.asNeeded(ctx, a)
	defer needed.close()
	paths := []string{}
	var all []placed
	var which []int // index in paths
	for _, f := range files {
		rec, err := s.again(m, &f)
		if err != nil {
			s.log.Warn("a file of a transfer is left out", "from", tr.owner.App, "reason", cause(err))
			s.log.Debug("left out of a transfer", "path", f.rec.path, "reason", err)
			continue
		}
		if !utf8.ValidString(rec.path) {
			s.log.Warn("a file of a transfer is left out: its name is not UTF-8", "from", tr.owner.App)
			s.log.Debug("left out of a transfer", "path", f.rec.path)
			continue
		}
		paths = append(paths, rec.path)
		if to.IsHost() || f.id == "" && needed.reaches(&rec) {
			continue
		}
		p, err := s.placement(tr.owner, &verified{rec: rec, writable: f.writable, id: f.id, limit: f.limit}, a)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
		which = append(which, len(paths)-1)
	}
	if len(paths) == 0 && len(files) > 0 {
		return nil, bus.NotFound("none of the files is there any more")
	}
	ids, err := s.placeFor(ctx, tr.owner, all)
	if err != nil {
		return nil, err
	}
	for i, id := range ids {
		n := which[i]
		paths[n] = filepath.Join(m.dir, id, path.Base(paths[n]))
	}
	return paths, nil
}

// again verifies a file of a transfer anew: the directory must be the one that
// was verified, the name in it a file, not a link.
func (s *Service) again(m *mounted, f *transferFile) (record, error) {
	if f.id != "" {
		d, err := s.get(f.id)
		if err != nil {
			return record{}, err
		}
		if d == nil {
			return record{}, errNone
		}
		return d.rec, nil
	}
	dir, err := openDir(f.rec.dir(), 0)
	if err != nil {
		return record{}, err
	}
	defer unix.Close(dir)
	var now record
	if f.rec.directory() {
		now, err = s.directoryRecord(m, dir, nil)
	} else {
		name := path.Base(f.rec.path)
		var id fileID
		if id, err = statAt(dir, name, 0); err != nil {
			return record{}, err
		}
		if !id.is(regularFile) {
			return record{}, fmt.Errorf("not a regular file")
		}
		now, err = s.nameRecord(m, dir, name, &id)
	}
	if err != nil {
		return record{}, err
	}
	if !f.rec.sameDirectory(&now) {
		return record{}, fmt.Errorf("another directory")
	}
	return now, nil
}
