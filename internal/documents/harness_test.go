package documents

import (
	"context"
	"encoding/gob"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"docportal/internal/bus"
	"docportal/internal/fuse"
	"docportal/internal/identity"
	"docportal/internal/permstore"
	"docportal/internal/testsession"
)

const (
	appA = "org.example.A"
	appB = "org.example.B"

	documentsInterface = "org.freedesktop.portal.Documents."
	errorPrefix        = "org.freedesktop.portal.Error."
	invalidArgument    = errorPrefix + "InvalidArgument"
	notFound           = errorPrefix + "NotFound"
	notAllowed         = errorPrefix + "NotAllowed"
	failed             = errorPrefix + "Failed"
	accessDenied       = "org.freedesktop.DBus.Error.AccessDenied"
)

// deadline is for everything that waits.
const deadline = 20 * time.Second

// session is a bus with the document portal on it, for one test.
type session struct {
	t       *testing.T
	dir     string // everything is below it
	home    string // the user's files, also visible in sandboxes at the same path
	secret  string // files that no sandbox sees
	runtime string
	address string
	conn    *bus.Conn
	store   *permstore.Store
	docs    *Service
	host    *client
}

// options of a session.
type options struct {
	mount func(s *session, dir string, docs fuse.Documents) (View, error)
	tune  func(*Service)
}

func newSession(t *testing.T, o options) *session {
	t.Helper()
	// Not t.TempDir, which has the test's name in it: a socket's is bounded.
	dir, err := os.MkdirTemp("", "docs-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	s := &session{t: t, dir: dir}
	for _, d := range []struct {
		at   *string
		name string
	}{{&s.home, "home"}, {&s.secret, "secret"}, {&s.runtime, "run"}} {
		*d.at = filepath.Join(s.dir, d.name)
		if err := os.Mkdir(*d.at, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	s.address = testsession.StartBus(t, s.dir).Address
	s.startPortal(o)
	host, err := newClient(s.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { host.conn.Close() })
	s.host = host
	return s
}

func (s *session) startPortal(o options) {
	t := s.t
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	log := slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s.docs = New(Options{
		Log:        log,
		Store:      func() (*permstore.Store, error) { return s.store, nil },
		RuntimeDir: s.runtime,
		Home:       s.home,
		Mount: func(dir string, docs fuse.Documents) (View, error) {
			if o.mount != nil {
				return o.mount(s, dir, docs)
			}
			return fuse.Mount(dir, docs, fuse.Options{Log: log})
		},
		Emit: func(dest, iface, member, signature string, args ...any) error {
			return s.conn.Emit(dest, Path, iface, member, signature, args...)
		},
	})
	if o.tune != nil {
		o.tune(s.docs)
	}
	var err error
	s.store, err = permstore.Open(filepath.Join(s.dir, "store"), permstore.Options{Log: log, Indexes: Indexes(), Committed: s.docs.Committed})
	if err != nil {
		t.Fatal(err)
	}
	var resolver *identity.Resolver
	ready := make(chan struct{})
	s.conn, err = bus.Dial(ctx, s.address, bus.Options{
		Log: log,
		Identify: func(ctx context.Context, name string) (*identity.Caller, error) {
			<-ready
			return resolver.Resolve(ctx, name)
		},
		PeerGone: func(name string) { s.docs.PeerGone(name) },
	})
	if err != nil {
		t.Fatal(err)
	}
	resolver = identity.NewResolver(s.conn, identity.Options{RuntimeDir: s.runtime, Log: log})
	close(ready)
	s.conn.Export(Path, s.docs.Interface(), s.docs.FileTransfer())
	s.conn.Export(permstore.Path, permstore.Interface(s.store, func(member, signature string, args ...any) error {
		return s.conn.Emit("", permstore.Path, permstore.Name, member, signature, args...)
	}))
	for _, name := range []string{Name, permstore.Name} {
		if ok, err := s.conn.RequestName(ctx, name, bus.DoNotQueue); !ok || err != nil {
			t.Fatal(name, ok, err)
		}
	}
	t.Cleanup(s.stopPortal)
}

func (s *session) stopPortal() {
	if s.store == nil {
		return
	}
	if err := s.docs.Close(); err != nil {
		s.t.Error("unmount: ", err)
	}
	s.conn.Close()
	if err := s.store.Close(); err != nil {
		s.t.Error(err)
	}
	s.store = nil
}

// testWriter sends log lines to the test's log.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	if os.Getenv("DOCPORTAL_TEST_LOG") != "" {
		os.Stderr.Write(b)
	}
	return len(b), nil
}

// caller is who makes requests in a test.
type caller interface{ do(request) response }

// sandbox is the client in a bwrap with the metadata of an app.
type sandbox struct {
	t   *testing.T
	end func() // the client; it may be called again
	in  *gob.Encoder
	out *gob.Decoder
	doc string // where it sees its documents
}

// sandboxed starts a client as an app, which sees the home directory and its
// own view of the documents. more are further arguments for bwrap.
func (s *session) sandboxed(app string, more ...string) *sandbox {
	s.t.Helper()
	return s.sandboxedAs("[Application]\nname="+app+"\n\n[Instance]\ninstance-id=1234\n", more...)
}

// sandboxedAs is sandboxed with the whole metadata.
func (s *session) sandboxedAs(metadata string, more ...string) *sandbox {
	t := s.t
	t.Helper()
	info, err := os.CreateTemp(s.dir, "info")
	if err != nil {
		t.Fatal(err)
	}
	defer info.Close()
	info.WriteString(metadata)
	info.Seek(0, io.SeekStart)
	program, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	args := []string{
		"--unshare-user", "--unshare-pid", "--unshare-ipc", "--die-with-parent", "--new-session",
		"--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64",
		"--ro-bind", "/etc", "/etc", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp",
		"--bind", s.home, s.home,
		"--bind", filepath.Join(s.dir, "bus"), filepath.Join(s.dir, "bus"),
		"--ro-bind-data", "3", "/.flatpak-info",
		"--perms", "0755", "--file", "4", "/client",
		"--setenv", roleVariable, "client", "--setenv", "GORACE", "atexit_sleep_ms=0",
		"--setenv", "DBUS_SESSION_BUS_ADDRESS", s.address,
	}
	args = append(args, more...)
	args = append(args, "--", "/client")
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "bwrap", args...)
	cmd.ExtraFiles = []*os.File{info, program}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end := sync.OnceFunc(func() {
		stdin.Close()
		kill := time.AfterFunc(deadline, cancel)
		cmd.Wait()
		kill.Stop()
		cancel()
	})
	t.Cleanup(end)
	b := &sandbox{t: t, end: end, in: gob.NewEncoder(stdin), out: gob.NewDecoder(stdout), doc: filepath.Join(s.runtime, "doc")}
	if err := b.out.Decode(new(response)); err != nil {
		t.Fatal("the sandbox does not start: ", err)
	}
	return b
}

// withDocuments are arguments for sandboxed: the app's view, where apps have it.
func (s *session) withDocuments(app string) []string {
	s.mountPoint()
	doc := filepath.Join(s.runtime, "doc")
	return []string{"--bind", filepath.Join(doc, "by-app", app), doc}
}

func (b *sandbox) do(r request) response {
	b.t.Helper()
	if err := b.in.Encode(r); err != nil {
		b.t.Fatal(err)
	}
	var got response
	if err := b.out.Decode(&got); err != nil {
		b.t.Fatal("the client in the sandbox has ended: ", err)
	}
	return got
}

// mountPoint makes the portal mount.
func (s *session) mountPoint() string {
	s.t.Helper()
	return strings.TrimSuffix(string(s.must(s.host, "GetMountPoint", nil)[0].([]byte)), "\x00")
}

// must calls a method of the Documents interface, which has to succeed.
func (s *session) must(c caller, method string, files []open, args ...any) []any {
	s.t.Helper()
	r := c.do(request{Method: qualified(method), Files: files, Args: args})
	if r.Error != "" {
		s.t.Fatalf("%s: %s: %s", method, r.Error, r.Text)
	}
	return r.Body
}

// refused calls a method, which has to fail with that error.
func (s *session) refused(c caller, want, method string, files []open, args ...any) {
	s.t.Helper()
	r := c.do(request{Method: qualified(method), Files: files, Args: args})
	if r.Error != want {
		s.t.Errorf("%s%v = %v, error %q (%s), want %q", method, args, r.Body, r.Error, r.Text, want)
	}
}

func qualified(method string) string {
	if strings.Contains(method, ".") {
		return method
	}
	return documentsInterface + method
}

// file makes a file of the user's and returns its path.
func (s *session) file(name, text string) string {
	s.t.Helper()
	p := filepath.Join(s.home, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return p
}

// addFull adds files with AddFull, which has to succeed, and returns the ids.
func (s *session) addFull(c caller, flags uint32, target string, perms []string, files ...open) []string {
	s.t.Helper()
	if perms == nil {
		perms = []string{}
	}
	list := fdList{}
	for i := range files {
		list = append(list, int32(i))
	}
	return s.must(c, "AddFull", files, list, flags, target, perms)[0].([]string)
}

// addRefused is AddFull of one file that has to fail.
func (s *session) addRefused(c caller, want string, flags uint32, target string, perms []string, f open) {
	s.t.Helper()
	if perms == nil {
		perms = []string{}
	}
	s.refused(c, want, "AddFull", []open{f}, fdList{0}, flags, target, perms)
}

// permissions asks the portal who may do what with a document.
func (s *session) permissions(id string) map[string][]string {
	s.t.Helper()
	return s.must(s.host, "Info", nil, id)[1].(map[string][]string)
}

func (s *session) wantPermissions(id string, want map[string][]string) {
	s.t.Helper()
	if got := s.permissions(id); !reflect.DeepEqual(got, want) {
		s.t.Errorf("permissions of the document: %v, want %v", got, want)
	}
}

// hostPath is what Info says.
func (s *session) hostPath(id string) string {
	s.t.Helper()
	return string(s.must(s.host, "Info", nil, id)[0].([]byte))
}

// ids lists the live documents.
func (s *session) count() int {
	s.t.Helper()
	return len(s.must(s.host, "List", nil, "")[0].(map[string][]byte))
}

// run runs a program that has to succeed.
func run(t *testing.T, name string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}
