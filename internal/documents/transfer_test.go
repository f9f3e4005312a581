package documents

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

const fileTransfer = "org.freedesktop.portal.FileTransfer."

// options of a transfer, as the client sends them.
type given = map[string]bool

func (s *session) startTransfer(c caller, o given) string {
	s.t.Helper()
	return s.must(c, fileTransfer+"StartTransfer", nil, o)[0].(string)
}

func addFiles(c caller, key string, files ...open) response {
	list := fdList{}
	for i := range files {
		list = append(list, int32(i))
	}
	return c.do(request{Method: fileTransfer + "AddFiles", Files: files, Args: []any{key, list, given{}}})
}

func (s *session) mustAddFiles(c caller, key string, files ...open) {
	s.t.Helper()
	if r := addFiles(c, key, files...); r.Error != "" {
		s.t.Fatal(r)
	}
}

func (s *session) retrieve(c caller, key string) []string {
	s.t.Helper()
	return s.must(c, fileTransfer+"RetrieveFiles", nil, key, given{})[0].([]string)
}

// another is one more host program on the bus.
func (s *session) another() *client {
	s.t.Helper()
	c, err := newClient(s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.conn.Close() })
	return c
}

func TestTransferKeysDoNotFillABuffer(t *testing.T) {
	s := newSession(t, unmounted(newFakeView()))
	seen := make(map[string]bool)
	for range 20 {
		key := s.startTransfer(s.host, nil)
		n := len(key)
		if n < 128/4 || n&(n-1) == 0 || seen[key] || strings.Trim(key, "0123456789abcdef") != "" {
			t.Errorf("key %q", key)
		}
		seen[key] = true
	}
}

func TestTransferToHost(t *testing.T) {
	s := newSession(t, unmounted(newFakeView()))
	a := s.sandboxed(appA)
	f, g := s.file("f", ""), s.file("g", "")
	key := s.startTransfer(a, given{})
	if len(key) < 32 {
		t.Errorf("key %q", key)
	}
	s.mustAddFiles(a, key, open{Path: f})
	dir := filepath.Dir(s.file("dir/f", ""))
	s.mustAddFiles(a, key, open{g, readOnly}, open{Path: dir})
	if got, want := s.retrieve(s.host, key), []string{f, g, dir}; !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if n := s.count(); n != 0 {
		t.Errorf("%d documents for the host", n)
	}
}

func TestTransferToApp(t *testing.T) {
	s := newSession(t, options{})
	a := s.sandboxed(appA)
	b := s.sandboxed(appB, append(s.withDocuments(appB), "--tmpfs", s.home)...)
	f := s.file("f", "text")
	d := filepath.Dir(s.file("d/g", "in it"))
	write := func(p string) string { return b.do(request{Method: "write", Args: []any{p, "text"}}).Error }
	for _, writable := range []bool{false, true} {
		for who, from := range map[string]caller{"host": s.host, "app": a} {
			key := s.startTransfer(from, given{"writable": writable})
			s.mustAddFiles(from, key, open{f, unix.O_RDWR}, open{Path: d})
			got := s.retrieve(b, key)
			if len(got) != 2 || filepath.Base(got[0]) != "f" || see(b, got[0]) != "text" || see(b, filepath.Join(got[1], "g")) != "in it" {
				t.Fatalf("from %s: %v: %q, %q", who, got, see(b, got[0]), see(b, filepath.Join(got[1], "g")))
			}
			want := "EACCES"
			if writable {
				want = ""
			}
			if got := write(got[0]); got != want {
				t.Errorf("from %s, writable %v: write: %q, want %q", who, writable, got, want)
			}
		}
	}
}

// TestTransferArguments: keys, owners, options and descriptors that do not pass.
func TestTransferArguments(t *testing.T) {
	s := newSession(t, unmounted(newFakeView()))
	a, b := s.sandboxed(appA), s.sandboxed(appA) // the same app is still another peer
	other := s.another()
	f := open{s.file("f", ""), readOnly}
	key := s.startTransfer(a, given{"autostop": false, "unknown": true})
	for _, c := range []caller{b, s.host, other} {
		if r := addFiles(c, key, f); r.Error != accessDenied {
			t.Error("AddFiles by another: ", r)
		}
		s.refused(c, accessDenied, fileTransfer+"StopTransfer", nil, key)
		for _, bad := range []string{"", "unknown", key[1:], strings.ToUpper(key)} {
			if bad == key {
				continue
			}
			s.refused(c, accessDenied, fileTransfer+"RetrieveFiles", nil, bad, given{})
			s.refused(c, accessDenied, fileTransfer+"StopTransfer", nil, bad)
			if r := addFiles(c, bad, f); r.Error != accessDenied {
				t.Error("AddFiles with a bad key: ", r)
			}
		}
	}
	if err := other.conn.Object(Name, Path).Call(fileTransfer+"StartTransfer", 0, map[string]dbus.Variant{"writable": dbus.MakeVariant("yes")}).Err; err == nil || err.(dbus.Error).Name != invalidArgument {
		t.Error(err)
	}
	s.mustAddFiles(a, key)
	for _, bad := range []open{{"/dev/null", readOnly}, {f.Path, unix.O_WRONLY}, {f.Path, unix.O_PATH | unix.O_NOFOLLOW}} {
		if r := addFiles(a, key, f, bad); r.Error != invalidArgument {
			t.Error(bad, r)
		}
	}
	if got := s.retrieve(s.host, key); len(got) != 0 {
		t.Error("a refused call added ", got)
	}
	writable := s.startTransfer(a, given{"writable": true})
	if r := addFiles(a, writable, f); r.Error != notAllowed {
		t.Error("a descriptor that is not writable: ", r)
	}
}

// TestTransferEnd: how transfers end, and who is told.
func TestTransferEnd(t *testing.T) {
	s := newSession(t, unmounted(newFakeView()))
	sender := s.another()
	signals := make(chan *dbus.Signal, 10)
	sender.conn.Signal(signals)
	closed := func(key string) {
		t.Helper()
		select {
		case got := <-signals:
			for got.Sender == "org.freedesktop.DBus" {
				got = <-signals
			}
			if got.Name != fileTransfer+"TransferClosed" || got.Body[0] != key || got.Path != Path {
				t.Error(got)
			}
		case <-time.After(deadline):
			t.Error("not told")
		}
	}
	f := open{Path: s.file("f", "")}
	key := s.startTransfer(sender, given{})
	s.mustAddFiles(sender, key, f)
	s.retrieve(s.host, key)
	closed(key)
	s.refused(s.host, accessDenied, fileTransfer+"RetrieveFiles", nil, key, given{})

	key = s.startTransfer(sender, given{"autostop": false})
	s.mustAddFiles(sender, key, f)
	for range 3 {
		s.retrieve(s.host, key)
	}
	s.must(sender, fileTransfer+"StopTransfer", nil, key)
	closed(key)
	s.refused(s.host, accessDenied, fileTransfer+"RetrieveFiles", nil, key, given{})

	key = s.startTransfer(sender, given{"autostop": false})
	s.mustAddFiles(sender, key, f)
	sender.conn.Close()
	// The bus tells the daemon when it tells everybody.
	for end := time.Now().Add(deadline); ; time.Sleep(time.Millisecond) {
		if r := s.host.do(request{Method: fileTransfer + "RetrieveFiles", Args: []any{key, given{}}}); r.Error == accessDenied {
			break
		}
		if time.Now().After(end) {
			t.Fatal("it outlives its starter")
		}
	}
	s.docs.transfers.mu.Lock()
	defer s.docs.transfers.mu.Unlock()
	if len(s.docs.transfers.open) != 0 || len(s.docs.transfers.sender) != 0 {
		t.Error("something is left of a transfer")
	}
}

// TestTransferChanges: what happens between AddFiles and RetrieveFiles.
func TestTransferChanges(t *testing.T) {
	s := newSession(t, unmounted(newFakeView()))
	a := s.sandboxed(appA)
	secret := filepath.Join(s.secret, "secret")
	os.WriteFile(secret, nil, 0o600)
	for name, c := range map[string]struct {
		change func(f string) error
		ok     bool
	}{
		"nothing":         {func(string) error { return nil }, true},
		"an atomic save":  {func(f string) error { return os.Rename(s.file("new", ""), f) }, true},
		"a planted link":  {func(f string) error { os.Remove(f); return os.Symlink(secret, f) }, false},
		"a directory":     {func(f string) error { os.Remove(f); return os.Mkdir(f, 0o700) }, false},
		"it is gone":      {os.Remove, false},
		"another parent":  {func(f string) error { d := filepath.Dir(f); os.Rename(d, d+"2"); s.file(rel(s, f), ""); return nil }, false},
		"a linked parent": {func(f string) error { d := filepath.Dir(f); os.Rename(d, d+"2"); return os.Symlink(s.secret, d) }, false},
	} {
		f := s.file(strings.ReplaceAll(name, " ", "-")+"/secret", "")
		key := s.startTransfer(a, given{})
		s.mustAddFiles(a, key, open{Path: f})
		if err := c.change(f); err != nil {
			t.Fatal(err)
		}
		r := s.host.do(request{Method: fileTransfer + "RetrieveFiles", Args: []any{key, given{}}})
		if c.ok && (r.Error != "" || r.Body[0].([]string)[0] != f) || !c.ok && r.Error != notFound {
			t.Errorf("%s: %v", name, r)
		}
	}
	// One that is gone does not keep the others.
	key := s.startTransfer(a, given{})
	gone, odd, good := s.file("gone", ""), filepath.Join(s.home, "odd \xff"), s.file("good", "")
	os.WriteFile(odd, nil, 0o600)
	s.mustAddFiles(a, key, open{Path: gone}, open{Path: odd}, open{Path: good})
	os.Remove(gone)
	if got := s.retrieve(s.host, key); !reflect.DeepEqual(got, []string{good}) {
		t.Error(got)
	}
}

func rel(s *session, f string) string {
	r, _ := filepath.Rel(s.home, f)
	return r
}

// TestTransferOfDocuments: the sender needs what it passes on.
func TestTransferOfDocuments(t *testing.T) {
	s := newSession(t, options{})
	a := s.sandboxed(appA, s.withDocuments(appA)...)
	b := s.sandboxed(appB, s.withDocuments(appB)...)
	f := filepath.Join(s.secret, "f")
	os.WriteFile(f, []byte("text"), 0o600)
	id := s.addFull(s.host, all, appA, []string{"read", "write"}, open{Path: f})[0]
	p := filepath.Join(a.doc, id, "f")
	try := func(writable bool) response {
		key := s.startTransfer(a, given{"writable": writable})
		s.mustAddFiles(a, key, open{p, unix.O_RDWR})
		return b.do(request{Method: fileTransfer + "RetrieveFiles", Args: []any{key, given{}}})
	}
	if r := try(false); r.Error != notAllowed {
		t.Error("without grant-permissions: ", r)
	}
	s.must(s.host, "GrantPermissions", nil, id, appA, []string{"grant-permissions"})
	r := try(false)
	if r.Error != "" || !reflect.DeepEqual(r.Body[0], []string{filepath.Join(b.doc, id, "f")}) || see(b, r.Body[0].([]string)[0]) != "text" {
		t.Error(r)
	}
	s.wantPermissions(id, map[string][]string{appA: {"read", "write", "grant-permissions"}, appB: {"read"}})
	key := s.startTransfer(a, given{"writable": true})
	s.mustAddFiles(a, key, open{p, unix.O_RDWR})
	s.must(s.host, "RevokePermissions", nil, id, appA, []string{"write"})
	s.refused(b, notAllowed, fileTransfer+"RetrieveFiles", nil, key, given{})
}

// TestTransferLimits: of one sender, and of an app with all its connections.
func TestTransferLimits(t *testing.T) {
	s := newSession(t, unmounted(newFakeView()))
	tally := &s.docs.transfers
	pretend := func(name, app string, what held) {
		tally.mu.Lock()
		defer tally.mu.Unlock()
		tally.count(name, app, what, +1)
	}
	refused := func(c caller, limit int) {
		t.Helper()
		r := c.do(request{Method: fileTransfer + "StartTransfer", Args: []any{given{}}})
		if r.Error != failed || !strings.Contains(r.Text, fmt.Sprint("limit is ", limit)) {
			t.Error(r)
		}
	}
	var keys []string
	for range maxTransfers {
		keys = append(keys, s.startTransfer(s.host, given{}))
	}
	refused(s.host, maxTransfers)
	s.must(s.host, fileTransfer+"StopTransfer", nil, keys[0])
	s.startTransfer(s.host, given{})
	refused(s.host, maxTransfers)

	f := open{Path: s.file("f", "")}
	name := s.host.conn.Names()[0]
	for limit, less := range map[int]held{
		maxTransferFiles: {files: maxTransferFiles - 1},
		maxTransferBytes: {bytes: maxTransferBytes - len(f.Path) - 1},
	} {
		pretend(name, "", less)
		if r := addFiles(s.host, keys[1], f, f); r.Error != failed || !strings.Contains(r.Text, fmt.Sprint("limit is ", limit)) {
			t.Error(r)
		}
		s.mustAddFiles(s.host, keys[1], f)
		s.must(s.host, fileTransfer+"StopTransfer", nil, keys[1])
		less.files, less.bytes = -less.files, -less.bytes
		pretend(name, "", less)
		keys[1] = s.startTransfer(s.host, given{})
	}
	s.startTransfer(s.another(), given{}) // the host's programs are not one

	a, b := s.sandboxed(appA), s.sandboxed(appA)
	one, two := s.startTransfer(a, given{}), s.startTransfer(b, given{})
	pretend("others", appA, held{transfers: appTransfers - 2})
	refused(a, appTransfers)
	refused(b, appTransfers)
	pretend("others", appA, held{files: appTransferFiles - 1})
	s.mustAddFiles(a, one, f)
	if r := addFiles(b, two, f); r.Error != failed || !strings.Contains(r.Text, fmt.Sprint("limit is ", appTransferFiles)) {
		t.Error(r)
	}
	s.docs.PeerGone("others")
	s.must(a, fileTransfer+"StopTransfer", nil, one)
	s.mustAddFiles(b, two, f)
	s.retrieve(s.host, two)
	tally.mu.Lock()
	defer tally.mu.Unlock()
	// What was pretended is held by nobody's transfer, so it stays.
	if got, want := *tally.app[appA], (held{transfers: appTransfers - 2, files: appTransferFiles - 1}); got != want {
		t.Errorf("the app holds %+v, want %+v", got, want)
	}
}
