package bus

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"docportal/internal/identity"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// patience is how long a test waits for what must happen at once.
const patience = 10 * time.Second

// startBus starts a dbus-daemon on a socket of its own.
func startBus(t testing.TB) string {
	t.Helper()
	address, _ := startKillableBus(t)
	return address
}

func startKillableBus(t testing.TB) (address string, kill func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	cmd := exec.CommandContext(ctx, "dbus-daemon", "--session", "--nofork", "--nopidfile", "--print-address",
		"--address=unix:path="+filepath.Join(t.TempDir(), "bus"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = func() {
		cancel()
		cmd.Wait()
	}
	t.Cleanup(kill)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal("dbus-daemon says no address: ", err)
	}
	return strings.TrimSpace(line), kill
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func dialBus(t testing.TB, address string, o Options) *Conn {
	t.Helper()
	c, err := Dial(testContext(t), address, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func asHost(_ context.Context, name string) (*identity.Caller, error) {
	return &identity.Caller{Name: name, Kind: identity.Host}, nil
}

func asApp(_ context.Context, name string) (*identity.Caller, error) {
	return &identity.Caller{Name: name, Kind: identity.Flatpak, App: "org.example.App", InstanceID: "1"}, nil
}

// rawPeer speaks the protocol by hand: what a Conn would never send, it sends.
type rawPeer struct {
	t      testing.TB
	file   *os.File
	raw    syscall.RawConn
	in     *stream
	serial uint32
	sender string // put into the messages where there is no bus to do it
}

func newRawPeer(t testing.TB, f *os.File) *rawPeer {
	t.Helper()
	raw, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	f.SetDeadline(time.Now().Add(patience))
	return &rawPeer{t: t, file: f, raw: raw, in: newStream(raw)}
}

// joinBus connects a raw peer to a bus.
func joinBus(t testing.TB, address string) (p *rawPeer, name string) {
	t.Helper()
	names, err := sockets(address)
	if err != nil {
		t.Fatal(err)
	}
	f, err := connect(testContext(t), names[0], nil)
	if err != nil {
		t.Fatal(err)
	}
	p = newRawPeer(t, f)
	r := p.call(header{dest: busName, path: busPath, iface: busInterface, member: "Hello"}, nil, nil)
	args, err := decodeBody(r.order, r.sig, r.body)
	if err != nil || len(args) != 1 {
		t.Fatal("Hello: ", args, err)
	}
	return p, args[0].(string)
}

// playBus makes a connection whose bus is the test.
func playBus(t testing.TB, o Options) (*Conn, *rawPeer) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	c, err := start(os.NewFile(uintptr(fds[0]), "conn"), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	p := newRawPeer(t, os.NewFile(uintptr(fds[1]), "bus"))
	p.sender = ":1.7"
	return c, p
}

// send sends a message; fds stay the caller's.
func (p *rawPeer) send(h header, body []byte, fds []int) uint32 {
	p.t.Helper()
	p.serial++
	h.serial = p.serial
	if h.typ == 0 {
		h.typ = dbus.TypeMethodCall
	}
	if h.sender == "" {
		h.sender = p.sender
	}
	if h.files == 0 {
		h.files = len(fds)
	}
	data, err := h.marshal(body)
	if err != nil {
		p.t.Fatal(err)
	}
	if err := send(p.raw, outgoing{data: data, files: fds}); err != nil {
		p.t.Fatal("sending: ", err)
	}
	return p.serial
}

// bytes is a whole message.
func (h *header) bytes(t testing.TB, body []byte) []byte {
	t.Helper()
	data, err := h.marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Join(data, nil)
}

// next reads the next message.
func (p *rawPeer) next() reply {
	p.t.Helper()
	h, err := p.in.readHeader()
	if err != nil {
		p.t.Fatal("waiting for a message: ", err)
	}
	body := make([]byte, h.body)
	if err := p.in.fill(body); err != nil {
		p.t.Fatal(err)
	}
	files, err := p.in.claim(h.files)
	return reply{h, body, files, err != nil}
}

// await reads until the reply to a serial; signals are passed over.
func (p *rawPeer) await(serial uint32) reply {
	p.t.Helper()
	for {
		r := p.next()
		if (r.typ == dbus.TypeMethodReply || r.typ == dbus.TypeError) && r.replySerial == serial {
			return r
		}
	}
}

func (p *rawPeer) call(h header, body []byte, fds []int) reply {
	p.t.Helper()
	return p.await(p.send(h, body, fds))
}

// outcome is "" for a good reply, else its error name without the common part.
func (r reply) outcome() string {
	if r.typ != dbus.TypeError {
		return ""
	}
	name := strings.TrimPrefix(r.errName, "org.freedesktop.DBus.Error.")
	return strings.TrimPrefix(name, "org.freedesktop.")
}

func (r reply) text() string {
	args, _ := decodeBody(r.order, r.sig, r.body)
	if len(args) == 0 {
		return ""
	}
	s, _ := args[0].(string)
	return s
}

// body encodes arguments and must succeed.
func body(t testing.TB, sig string, args ...any) []byte {
	t.Helper()
	b, err := encodeBody(sig, args)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// openFiles counts this process's descriptors.
func openFiles(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// sameFiles reports a leak if the number of descriptors does not come back to
// what it was. A reply may come before its call is cleaned up, hence the
// polling.
func sameFiles(t testing.TB, before int) {
	t.Helper()
	now := 0
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if now = openFiles(t); now == before {
			return
		}
	}
	t.Errorf("%d descriptors are open, not %d as before", now, before)
}

// pipes returns n descriptors to pass.
func pipes(t testing.TB, n int) []int {
	t.Helper()
	var fds []int
	for range n {
		fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		fds = append(fds, fd)
	}
	return fds
}

// echoer exports methods that the tests call.
func echoer(c *Conn, more ...Method) {
	echo := func(_ context.Context, c *Call) ([]any, error) { return c.body, nil }
	c.Export("/obj/echo", &Interface{
		Name: "org.example.Echo",
		Methods: append([]Method{
			{Name: "Nothing", Handle: echo},
			{Name: "Text", In: "s", Out: "s", Handle: echo},
			{Name: "Any", In: "v", Out: "v", Handle: echo},
			{Name: "Flag", In: "b", Out: "b", Handle: echo},
			{Name: "Bytes", In: "ay", Out: "ay", Handle: echo},
			{Name: "All", In: "ybusayasahhva{sas}a{say}a{sv}", Out: "ybusayasahhva{sas}a{say}a{sv}", Handle: echo},
			// Files says for each index whether there is such a descriptor.
			{Name: "Files", In: "ah", Out: "s", Handle: func(_ context.Context, c *Call) ([]any, error) {
				var fds []FD
				c.Scan(&fds)
				var b bytes.Buffer
				for _, i := range fds {
					fd, ok := c.File(i)
					var st unix.Stat_t
					switch {
					case !ok:
						b.WriteByte('-')
					case unix.Fstat(fd, &st) == nil:
						b.WriteByte('+')
					default:
						b.WriteByte('!')
					}
				}
				return []any{b.String()}, nil
			}},
		}, more...),
		Properties:    map[string]Value{"version": {Signature: "u", Data: []byte{5, 0, 0, 0}}},
		Introspection: `<interface name="org.example.Echo"/>`,
	})
}

func echo(member, sig string) header {
	return header{path: "/obj/echo", iface: "org.example.Echo", member: member, sig: sig}
}

// to addresses a message.
func (h header) to(name string) header {
	h.dest = name
	return h
}

func discardAll(r io.Reader) { io.Copy(io.Discard, r) }

var le = binary.LittleEndian

// listen listens on a socket; what it returns accepts one connection.
func listen(t testing.TB, path string) (accept func() *os.File) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: path})
	}
	if err == nil {
		err = unix.Listen(fd, 8)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return func() *os.File {
		conn, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		return os.NewFile(uintptr(conn), "accepted")
	}
}
