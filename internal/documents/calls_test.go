package documents

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"docportal/internal/bus"
	"docportal/internal/fuse"
	"docportal/internal/identity"
	"docportal/internal/permstore"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// caught is a portal whose bus is the test: any bytes reach it as the
// arguments of a call, with any descriptors, from whoever it is said.
type caught struct {
	t       testing.TB
	docs    *Service
	store   *permstore.Store
	bus     *net.UnixConn
	in      *bufio.Reader
	serial  uint32
	kinds   []int // descriptors of each kind that there is
	methods []bus.Method
	objects []string // the object and interface of each of the methods
	ifaces  []string
}

// callers are the unique names of the bus, and who is behind them.
var callers = map[string]*identity.Caller{
	":1.1": {Kind: identity.Host},
	":1.2": {Kind: identity.Flatpak, App: appA, InstanceID: "1"},
	":1.3": {Kind: identity.Flatpak, App: appB, InstanceID: "2"},
}

// The documents and the transfer that there are.
const (
	storedID, transientID = "stored", "transient"
	openTransfer          = "key"
)

func newCaught(t testing.TB) *caught {
	t.Helper()
	dir, err := os.MkdirTemp("", "calls-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	p := &caught{t: t}
	home, runtime := filepath.Join(dir, "home"), filepath.Join(dir, "run")
	for _, d := range []string{home, runtime, filepath.Join(home, "d")} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	p.makeKinds(home, runtime)
	view := newFakeView()
	p.docs = New(Options{
		Store:      func() (*permstore.Store, error) { return p.store, nil },
		RuntimeDir: runtime,
		Home:       home,
		Mount:      func(string, fuse.Documents) (View, error) { return view, nil },
	})
	// No directory can be made there: the store is in memory.
	p.store, err = permstore.Open(filepath.Join(home, "f", "store"), permstore.Options{Indexes: Indexes(), Committed: p.docs.Committed})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.docs.Close()
		p.store.Close()
	})
	p.connect(dir)
	p.reset(filepath.Join(home, "f"))
	return p
}

// connect plays the bus for the portal.
func (p *caught) connect(dir string) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "bus"), Net: "unix"})
	if err != nil {
		p.t.Fatal(err)
	}
	defer l.Close()
	var conn *bus.Conn
	dialled := make(chan error, 1)
	go func() {
		var err error
		conn, err = bus.Dial(context.Background(), "unix:path="+l.Addr().String(), bus.Options{
			Log: slog.New(slog.DiscardHandler),
			Identify: func(_ context.Context, name string) (*identity.Caller, error) {
				c := *callers[name]
				c.Name = name
				return &c, nil
			},
			PeerGone: p.docs.PeerGone,
		})
		dialled <- err
	}()
	if p.bus, err = l.AcceptUnix(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { p.bus.Close() })
	p.in = bufio.NewReader(p.bus)
	for _, answer := range []string{"OK 00\r\n", "AGREE_UNIX_FD\r\n", ""} {
		if _, err := p.in.ReadString('\n'); err != nil {
			p.t.Fatal(err)
		}
		p.bus.Write([]byte(answer))
	}
	for range 2 { // Hello and AddMatch
		m, err := dbus.DecodeMessage(p.in)
		if err != nil {
			p.t.Fatal(err)
		}
		p.send(dbus.TypeMethodReply, map[dbus.HeaderField]dbus.Variant{
			dbus.FieldReplySerial: dbus.MakeVariant(m.Serial()),
			dbus.FieldSender:      dbus.MakeVariant("org.freedesktop.DBus"),
			dbus.FieldSignature:   dbus.MakeVariant(dbus.SignatureOf("")),
		}, false, []byte("\x04\x00\x00\x00:1.0\x00"), nil)
	}
	if err := <-dialled; err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { conn.Close() })
	nothing := func(string, string, ...any) error { return nil }
	for path, all := range map[string][]*bus.Interface{
		Path:           {p.docs.Interface(), p.docs.FileTransfer()},
		permstore.Path: {permstore.Interface(p.store, nothing)},
	} {
		conn.Export(path, all...)
	}
	for _, i := range []*bus.Interface{p.docs.Interface(), p.docs.FileTransfer(), permstore.Interface(p.store, nothing)} {
		path := Path
		if i.Name == permstore.Name {
			path = permstore.Path
		}
		for _, m := range i.Methods {
			p.methods, p.objects, p.ifaces = append(p.methods, m), append(p.objects, path), append(p.ifaces, i.Name)
		}
	}
}

// makeKinds opens one descriptor of each kind that a caller may pass.
func (p *caught) makeKinds(home, runtime string) {
	p.t.Helper()
	file := filepath.Join(home, "f")
	gone, link := filepath.Join(home, "gone (deleted)"), filepath.Join(home, "link")
	for _, name := range []string{file, gone, filepath.Join(home, "d/f")} {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			p.t.Fatal(err)
		}
	}
	if err := os.Symlink(file, link); err != nil {
		p.t.Fatal(err)
	}
	add := func(fd int, err error) {
		if err != nil {
			p.t.Fatal(err)
		}
		p.kinds = append(p.kinds, fd)
		p.t.Cleanup(func() { unix.Close(fd) })
	}
	for _, o := range []struct {
		path  string
		flags int
	}{
		{file, unix.O_PATH}, {file, unix.O_RDWR}, {file, unix.O_RDONLY}, {file, unix.O_WRONLY},
		{filepath.Join(home, "d"), unix.O_PATH}, {filepath.Join(home, "d"), unix.O_RDONLY}, {filepath.Join(home, "d/f"), unix.O_PATH},
		{link, unix.O_PATH | unix.O_NOFOLLOW}, {gone, unix.O_RDWR}, {home, unix.O_PATH}, {runtime, unix.O_PATH}, {"/", unix.O_PATH},
		{"/dev/null", unix.O_RDWR}, {"/proc/self/status", unix.O_RDONLY},
	} {
		add(unix.Open(o.path, o.flags|unix.O_CLOEXEC, 0))
	}
	if err := os.Remove(gone); err != nil {
		p.t.Fatal(err)
	}
	add(unix.MemfdCreate("memory", unix.MFD_CLOEXEC))
	add(unix.Eventfd(0, unix.EFD_CLOEXEC))
	add(unix.EpollCreate1(unix.EPOLL_CLOEXEC))
	add(unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0))
}

// reset makes what there is to begin with, and removes all else.
func (p *caught) reset(file string) {
	rec := record{path: file, flags: flagTransient}
	words := map[string][]string{appA: {"read", "write", "grant-permissions"}, appB: {"read"}}
	p.docs.mu.Lock()
	for _, d := range p.docs.transient {
		p.docs.dropTransient(d)
	}
	p.docs.putTransient(newDocument(transientID, rec, words))
	p.docs.changed()
	p.docs.mu.Unlock()
	rec.flags = 0
	err := p.store.Update(context.Background(), func(tx *permstore.Tx) error {
		if err := tx.Tables(func(name string) bool {
			tx.IDs(name, func(id string) bool { tx.Delete(name, id); return true })
			return true
		}); err != nil {
			return err
		}
		return tx.Put(table, storedID, permstore.Entry{Data: rec.encode(), Permissions: words})
	})
	if err != nil {
		p.t.Fatal(err)
	}
	t := &p.docs.transfers
	t.close()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.open[openTransfer] = &transfer{key: openTransfer, owner: callers[":1.2"], name: ":1.2", files: []transferFile{{rec: rec}}}
	t.count(":1.2", appA, held{transfers: 1, files: 1, bytes: len(rec.path)}, +1)
}

// send sends a message with any body.
func (p *caught) send(typ dbus.Type, headers map[dbus.HeaderField]dbus.Variant, big bool, body []byte, fds []int) uint32 {
	var order binary.ByteOrder = binary.LittleEndian
	if big {
		order = binary.BigEndian
	}
	var b bytes.Buffer
	if err := (&dbus.Message{Type: typ, Headers: headers}).EncodeTo(&b, order); err != nil {
		p.t.Fatal(err)
	}
	p.serial++
	order.PutUint32(b.Bytes()[4:], uint32(len(body)))
	order.PutUint32(b.Bytes()[8:], p.serial)
	b.Write(body)
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	p.bus.SetDeadline(time.Now().Add(deadline))
	n, _, err := p.bus.WriteMsgUnix(b.Bytes(), oob, nil)
	if err == nil && n < b.Len() {
		_, err = p.bus.Write(b.Bytes()[n:])
	}
	if err != nil {
		p.t.Fatal(err)
	}
	return p.serial
}

// answer reads until the answer to a call.
func (p *caught) answer(serial uint32) *dbus.Message {
	p.t.Helper()
	for {
		m, err := dbus.DecodeMessage(p.in)
		if err != nil {
			p.t.Fatal("waiting for an answer: ", err)
		}
		if n, ok := m.Headers[dbus.FieldReplySerial].Value().(uint32); ok && n == serial {
			return m
		}
	}
}

// settled reports a leak if the process does not come back to that number of
// descriptors.
func (p *caught) settled(want int) {
	p.t.Helper()
	n := 0
	for end := time.Now().Add(deadline); time.Now().Before(end); time.Sleep(100 * time.Microsecond) {
		if n = p.descriptors(); n <= want {
			return
		}
	}
	p.t.Fatalf("%d descriptors are open, not %d as before", n, want)
}

func (p *caught) descriptors() int {
	d, err := os.Open("/proc/self/fd")
	if err != nil {
		p.t.Fatal(err)
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil && err != io.EOF {
		p.t.Fatal(err)
	}
	return len(names)
}

// arguments marshals what the seeds are made of.
func (p *caught) arguments(sig string, args ...any) []byte {
	p.t.Helper()
	var b bytes.Buffer
	m := &dbus.Message{Type: dbus.TypeSignal, Body: args, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldPath: dbus.MakeVariant(dbus.ObjectPath("/")), dbus.FieldInterface: dbus.MakeVariant("a.b"),
		dbus.FieldMember: dbus.MakeVariant("c"), dbus.FieldSignature: dbus.MakeVariant(dbus.SignatureOf(args...)),
	}}
	if got := dbus.SignatureOf(args...).String(); got != sig {
		p.t.Fatalf("%s, want %s", got, sig)
	}
	if err := m.EncodeTo(&b, binary.LittleEndian); err != nil {
		p.t.Fatal(err)
	}
	return b.Bytes()[b.Len()-int(binary.LittleEndian.Uint32(b.Bytes()[4:])):]
}

// FuzzCalls sends any bytes as the arguments of any method, with descriptors
// of any kind, as the host and as apps: each call is answered by what its
// method says it answers or an error, keeps no descriptor, and gives an app
// nothing that is the host's.
func FuzzCalls(f *testing.F) {
	p := newCaught(f)
	type (
		fd      = dbus.UnixFD
		options = map[string]dbus.Variant
		words   = map[string][]string
	)
	one, data := []fd{0}, dbus.MakeVariant([]any{"x", uint32(1)})
	for member, all := range map[string][][]any{
		"GetMountPoint":     {{}},
		"Add":               {{fd(0), true, true}, {fd(1), false, false}},
		"AddNamed":          {{fd(0), []byte("name\x00"), true, false}},
		"AddFull":           {{one, uint32(7), appB, []string{"read", "write"}}, {[]fd{0, 1, 0}, uint32(1), "", []string{}}, {one, uint32(8), appA, []string{"delete"}}},
		"AddNamedFull":      {{fd(0), []byte("name"), uint32(3), appB, []string{"read"}}},
		"GrantPermissions":  {{storedID, appB, []string{"read"}}, {transientID, appB, []string{"write", "grant-permissions"}}},
		"RevokePermissions": {{storedID, appB, []string{"read"}}, {transientID, appA, []string{"write"}}},
		"Delete":            {{storedID}, {transientID}, {"table", "id"}},
		"Lookup":            {{[]byte("/proc/self/fd/0\x00")}, {table, storedID}},
		"Info":              {{storedID}, {transientID}},
		"List":              {{""}, {appA}, {table}},
		"GetHostPaths":      {{[]string{storedID, transientID, ""}}},
		"StartTransfer":     {{options{"writable": dbus.MakeVariant(true), "autostop": dbus.MakeVariant(false)}}},
		"AddFiles":          {{openTransfer, one, options{}}, {openTransfer, []fd{0, 1}, options{"x": data}}},
		"RetrieveFiles":     {{openTransfer, options{}}},
		"StopTransfer":      {{openTransfer}},
		"Set":               {{"t", true, "id", words{appA: {"yes"}}, data}, {table, true, "id", words{}, data}},
		"SetValue":          {{"t", true, "id", data}, {table, false, storedID, data}},
		"SetPermission":     {{"t", true, "id", appA, []string{"yes"}}, {table, false, storedID, appB, []string{"read"}}},
		"DeletePermission":  {{table, storedID, appB}},
		"GetPermission":     {{table, storedID, appB}},
	} {
		for n, m := range p.methods {
			if m.Name != member {
				continue
			}
			for _, args := range all {
				if sig := dbus.SignatureOf(args...).String(); sig == m.In {
					body := p.arguments(sig, args...)
					f.Add(byte(n), byte(1), false, body, []byte{0, 4}, byte(2))
					f.Add(byte(n), byte(2), false, body, []byte{1, 6}, byte(2))
					f.Add(byte(n), byte(3), true, body, []byte{}, byte(3))
				}
			}
		}
	}
	before := p.descriptors()
	f.Fuzz(func(t *testing.T, member, from byte, big bool, body, kinds []byte, announced byte) {
		p.t = t
		n := int(member) % len(p.methods)
		m := p.methods[n]
		name := [...]string{":1.1", ":1.2", ":1.3"}[from%3]
		var fds []int
		for _, k := range kinds[:min(len(kinds), 20)] {
			fds = append(fds, p.kinds[int(k)%len(p.kinds)])
		}
		headers := map[dbus.HeaderField]dbus.Variant{
			dbus.FieldPath:      dbus.MakeVariant(dbus.ObjectPath(p.objects[n])),
			dbus.FieldInterface: dbus.MakeVariant(p.ifaces[n]),
			dbus.FieldMember:    dbus.MakeVariant(m.Name),
			dbus.FieldSender:    dbus.MakeVariant(name),
			dbus.FieldSignature: dbus.MakeVariant(dbus.ParseSignatureMust(m.In)),
		}
		if announced %= 32; announced > 0 {
			headers[dbus.FieldUnixFDs] = dbus.MakeVariant(uint32(announced))
		}
		r := p.answer(p.send(dbus.TypeMethodCall, headers, big, body, fds))
		if r.Type == dbus.TypeError {
			if e := r.Headers[dbus.FieldErrorName].Value().(string); !strings.HasPrefix(e, "org.freedesktop.") {
				t.Errorf("%s: the error %s", m.Name, e)
			}
		} else if sig, _ := r.Headers[dbus.FieldSignature].Value().(dbus.Signature); sig.String() != m.Out {
			t.Errorf("%s: answered by (%s), not (%s)", m.Name, sig, m.Out)
		} else if !callers[name].IsHost() && hosts(p.ifaces[n], m.Name) {
			t.Errorf("an app's %s.%s succeeded", p.ifaces[n], m.Name)
		}
		// Descriptors that the header does not announce go with the next
		// message; and one call's have been closed when it is finished.
		p.answer(p.send(dbus.TypeMethodCall, map[dbus.HeaderField]dbus.Variant{
			dbus.FieldPath:      dbus.MakeVariant(dbus.ObjectPath(Path)),
			dbus.FieldInterface: dbus.MakeVariant("org.freedesktop.DBus.Peer"),
			dbus.FieldMember:    dbus.MakeVariant("Ping"),
			dbus.FieldSender:    dbus.MakeVariant(name),
		}, false, nil, nil))
		p.settled(before)
		p.docs.mu.RLock()
		many, gone := len(p.docs.transient), p.docs.transient[transientID] == nil
		for id, d := range p.docs.transient {
			if !validID(id) || !filepath.IsAbs(d.rec.path) || filepath.Clean(d.rec.path) != d.rec.path || within(p.docs.MountDir(), d.rec.path) {
				t.Errorf("%s: the document %q of %q", m.Name, id, d.rec.path)
			}
		}
		p.docs.mu.RUnlock()
		d, err := p.docs.get(storedID)
		if err != nil {
			t.Error(err)
		}
		p.docs.transfers.mu.Lock()
		gone = gone || d == nil || p.docs.transfers.open[openTransfer] == nil
		p.docs.transfers.mu.Unlock()
		if gone || many > 100 || p.serial%1000 < 2 {
			p.reset(filepath.Join(p.docs.o.Home, "f"))
		}
	})
}

// hosts reports whether a method is not for apps.
func hosts(iface, member string) bool {
	switch member {
	case "AddNamed", "AddNamedFull", "Lookup", "Info", "List":
		return true
	}
	return iface == permstore.Name
}
