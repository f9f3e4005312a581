package bus

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"docportal/internal/identity"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

func TestEveryCallIsAnswered(t *testing.T) {
	c, p := playBus(t, Options{Identify: asHost})
	echoer(c, Method{Name: "Panic", Handle: func(context.Context, *Call) ([]any, error) { panic("boom") }},
		Method{Name: "Plain", Handle: func(context.Context, *Call) ([]any, error) { return nil, errors.New("secret") }},
		Method{Name: "Wrapped", Handle: func(context.Context, *Call) ([]any, error) {
			return nil, fmt.Errorf("context: %w", NotAllowed("no"))
		}},
		Method{Name: "BadText", Out: "s", Handle: func(context.Context, *Call) ([]any, error) { return []any{"\xff"}, nil }},
		Method{Name: "BadType", Out: "s", Handle: func(context.Context, *Call) ([]any, error) { return []any{uint32(1)}, nil }},
		Method{Name: "TooFew", Out: "ss", Handle: func(context.Context, *Call) ([]any, error) { return []any{"x"}, nil }},
		Method{Name: "BadError", Handle: func(context.Context, *Call) ([]any, error) { return nil, &Error{"no name", "\xff\x00"} }},
	)
	before := openFiles(t)
	for _, test := range []struct {
		name    string
		h       header
		body    []byte
		outcome string
	}{
		{"right", echo("Text", "s"), body(t, "s", "x"), ""},
		{"without an interface", header{path: "/obj/echo", member: "Text", sig: "s"}, body(t, "s", "x"), ""},
		{"without an interface, standard", header{path: "/obj/echo", member: "GetAll", sig: "s"}, body(t, "s", "org.example.Echo"), ""},
		{"wrong signature", echo("Text", "u"), body(t, "u", uint32(1)), "InvalidArgs"},
		{"no arguments", echo("Text", ""), nil, "InvalidArgs"},
		{"too many arguments", echo("Text", "ss"), body(t, "ss", "x", "y"), "InvalidArgs"},
		{"arguments where none are taken", echo("Nothing", "s"), body(t, "s", "x"), "InvalidArgs"},
		{"unknown method", echo("Other", "s"), body(t, "s", "x"), "UnknownMethod"},
		{"unknown method without interface", header{path: "/obj/echo", member: "Other"}, nil, "UnknownMethod"},
		{"unknown interface", header{path: "/obj/echo", iface: "org.example.Other", member: "Text"}, nil, "UnknownInterface"},
		{"unknown object", header{path: "/obj/none", iface: "org.example.Echo", member: "Text"}, nil, "UnknownObject"},
		{"overlong path", header{path: "/" + strings.Repeat("a", 100000), iface: "org.example.Echo", member: "Text"}, nil, "UnknownObject"},
		{"overlong path, Ping", header{path: "/" + strings.Repeat("a", 100000), iface: peerName, member: "Ping"}, nil, ""},
		{"Ping at an unknown object", header{path: "/any", iface: peerName, member: "Ping"}, nil, ""},
		{"Ping with arguments", header{path: "/any", iface: peerName, member: "Ping", sig: "s"}, body(t, "s", "x"), "InvalidArgs"},
		{"Ping with bytes of no argument", header{path: "/any", iface: peerName, member: "Ping"}, []byte{1}, "InvalidArgs"},
		{"body shorter than its signature", echo("Text", "s"), []byte{1, 0}, "InvalidArgs"},
		{"body longer than its signature", echo("Text", "s"), append(body(t, "s", "x"), 0), "InvalidArgs"},
		{"string longer than the body", echo("Text", "s"), []byte{255, 255, 255, 127, 'x', 0}, "InvalidArgs"},
		{"string of 4 GiB", echo("Text", "s"), []byte{255, 255, 255, 255, 'x', 0}, "InvalidArgs"},
		{"string without NUL", echo("Text", "s"), []byte{1, 0, 0, 0, 'x', 'y'}, "InvalidArgs"},
		{"string with NUL inside", echo("Text", "s"), []byte{3, 0, 0, 0, 'x', 0, 'y', 0}, "InvalidArgs"},
		{"string not UTF-8", echo("Text", "s"), []byte{1, 0, 0, 0, 0xff, 0}, "InvalidArgs"},
		{"boolean 2", echo("Flag", "b"), []byte{2, 0, 0, 0}, "InvalidArgs"},
		{"array longer than the body", echo("Bytes", "ay"), []byte{9, 0, 0, 0, 1}, "InvalidArgs"},
		{"array over 64 MiB", echo("Bytes", "ay"), []byte{1, 0, 0, 4, 1}, "InvalidArgs"},
		{"variant without a type", echo("Any", "v"), []byte{0, 0}, "InvalidArgs"},
		{"variant of two types", echo("Any", "v"), []byte{2, 'y', 'y', 0, 1, 1}, "InvalidArgs"},
		{"variant of a bad type", echo("Any", "v"), []byte{1, '?', 0, 0}, "InvalidArgs"},
		{"variant of an empty struct", echo("Any", "v"), []byte{2, '(', ')', 0, 0, 0, 0, 0}, "InvalidArgs"},
		{"variants 64 deep", echo("Any", "v"), nestedVariant(64), ""},
		{"variants 65 deep", echo("Any", "v"), nestedVariant(65), "InvalidArgs"},
		{"handler panics", echo("Panic", ""), nil, "portal.Error.Failed"},
		{"handler fails plainly", echo("Plain", ""), nil, "portal.Error.Failed"},
		{"handler fails with a wrapped D-Bus error", echo("Wrapped", ""), nil, "portal.Error.NotAllowed"},
		{"result is not UTF-8", echo("BadText", ""), nil, "portal.Error.Failed"},
		{"result of a wrong type", echo("BadType", ""), nil, "portal.Error.Failed"},
		{"too few results", echo("TooFew", ""), nil, "portal.Error.Failed"},
		{"error without a valid name", echo("BadError", ""), nil, "portal.Error.Failed"},
		{"read-only property", header{path: "/obj/echo", iface: "org.freedesktop.DBus.Properties", member: "Set", sig: "ssv"},
			body(t, "ssv", "org.example.Echo", "version", Value{"u", []byte{1, 0, 0, 0}}), "PropertyReadOnly"},
		{"unknown property", header{path: "/obj/echo", iface: "org.freedesktop.DBus.Properties", member: "Get", sig: "ss"},
			body(t, "ss", "org.example.Echo", "x"), "UnknownProperty"},
		{"property of an unknown interface", header{path: "/obj/echo", iface: "org.freedesktop.DBus.Properties", member: "Get", sig: "ss"},
			body(t, "ss", "org.example.X", "version"), "UnknownInterface"},
	} {
		fds := pipes(t, 2) // each with descriptors that nobody wants
		r := p.call(test.h, test.body, fds)
		closeAll(fds)
		if r.outcome() != test.outcome {
			t.Errorf("%s: %q (%s), want %q", test.name, r.outcome(), r.text(), test.outcome)
		}
		if strings.Contains(r.text(), "secret") || strings.Contains(r.text(), "boom") {
			t.Errorf("%s: the reply tells %q", test.name, r.text())
		}
		if r.flags&dbus.FlagNoReplyExpected == 0 {
			t.Errorf("%s: the reply wants a reply", test.name)
		}
	}
	sameFiles(t, before)
}

func nestedVariant(depth int) []byte {
	var e encoder
	for range depth - 1 {
		e.signature("v")
	}
	e.signature("y")
	e.byte(1)
	return e.buf
}

func TestNoReplyIsSentWhereNoneIsExpected(t *testing.T) {
	c, p := playBus(t, Options{Identify: asHost})
	ran := make(chan struct{}, 1)
	echoer(c, Method{Name: "Run", Handle: func(context.Context, *Call) ([]any, error) {
		ran <- struct{}{}
		return nil, nil
	}})
	for _, h := range []header{echo("Text", "u"), echo("Other", ""), {path: "/", iface: peerName, member: "Ping"}} {
		h.flags = dbus.FlagNoReplyExpected
		p.send(h, nil, nil)
	}
	h := echo("Run", "")
	h.flags = dbus.FlagNoReplyExpected
	p.send(h, nil, nil)
	<-ran
	serial := p.send(echo("Nothing", ""), nil, nil)
	if r := p.next(); r.replySerial != serial {
		t.Errorf("a reply to message %d, want only one to %d", r.replySerial, serial)
	}
}

func TestLargeBodiesAreRefusedAndNotKept(t *testing.T) {
	c, p := playBus(t, Options{Identify: asHost})
	echoer(c)
	for _, test := range []struct {
		size    int
		outcome string
	}{{1 << 20, ""}, {maxBody, ""}, {maxBody + 1, "LimitsExceeded"}, {3 * maxBody, "LimitsExceeded"}} {
		b := make([]byte, test.size)
		le.PutUint32(b, uint32(test.size-4))
		h := echo("Bytes", "ay")
		h.flags = dbus.FlagNoReplyExpected
		if test.outcome != "" {
			h.flags = 0
		}
		serial := p.send(h, b, nil)
		if test.outcome != "" {
			if r := p.await(serial); r.outcome() != test.outcome {
				t.Errorf("%d bytes: %q, want %q", test.size, r.outcome(), test.outcome)
			}
		}
	}
	if r := p.call(echo("Text", "s"), body(t, "s", "x"), nil); r.outcome() != "" {
		t.Errorf("the next call: %q", r.outcome())
	}
}

func TestDescriptorsOfAMessage(t *testing.T) {
	c, p := playBus(t, Options{Identify: asHost})
	echoer(c)
	before := openFiles(t)
	many := make([]FD, 253)
	for i := range many {
		many[i] = FD(i)
	}
	for _, test := range []struct {
		name string
		fds  []FD
		n    int
		want string
	}{
		{"one", []FD{0}, 1, "+"},
		{"none at all", []FD{}, 0, ""},
		{"index without any descriptor", []FD{0}, 0, "-"},
		{"index past the end", []FD{0, 1}, 1, "+-"},
		{"negative index", []FD{0xffffffff}, 1, "-"},
		{"most negative index", []FD{0x80000000}, 1, "-"},
		{"the same twice", []FD{0, 0}, 1, "++"},
		{"backwards", []FD{1, 0}, 2, "++"},
		{"unreferenced", []FD{0}, 3, "+"},
		{"all unreferenced", []FD{}, 3, ""},
		{"16", many[:16], 16, strings.Repeat("+", 16)},
		{"253", many, 253, strings.Repeat("+", 253)},
	} {
		fds := pipes(t, test.n)
		r := p.call(echo("Files", "ah"), body(t, "ah", test.fds), fds)
		closeAll(fds)
		if r.outcome() != "" || r.text() != test.want {
			t.Errorf("%s: %q (%s), want %q", test.name, r.text(), r.outcome(), test.want)
		}
	}
	sameFiles(t, before)
}

func TestDescriptorsAreNeverTakenForAnotherMessages(t *testing.T) {
	c, p := playBus(t, Options{Identify: asHost})
	echoer(c)
	before := openFiles(t)
	fds := pipes(t, 3)
	// More than the header says: the surplus is nobody's.
	h := echo("Files", "ah")
	h.files = 1
	if r := p.call(h, body(t, "ah", []FD{0, 1}), fds); r.text() != "+-" {
		t.Errorf("with a surplus: %q", r.text())
	}
	if r := p.call(echo("Files", "ah"), body(t, "ah", []FD{0}), nil); r.text() != "-" {
		t.Errorf("after a surplus: %q", r.text())
	}
	// Fewer than the header says.
	h.files = 3
	if r := p.call(h, body(t, "ah", []FD{0}), fds[:2]); r.outcome() != "LimitsExceeded" {
		t.Errorf("with too few: %q", r.outcome())
	}
	if r := p.call(echo("Files", "ah"), body(t, "ah", []FD{0}), fds[:1]); r.text() != "+" {
		t.Errorf("after too few: %q", r.text())
	}
	closeAll(fds)
	sameFiles(t, before)
}

func TestDescriptorsThatFindNoRoomAreAnswered(t *testing.T) {
	c, p := playBus(t, Options{Identify: asHost})
	echoer(c)
	p.call(echo("Nothing", ""), nil, nil)
	fds := pipes(t, 8)
	before := openFiles(t)
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	highest := slices.Max(fds)
	low := old
	low.Cur = uint64(highest + 3)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	r := p.call(echo("Files", "ah"), body(t, "ah", []FD{0}), fds)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if r.outcome() != "LimitsExceeded" {
		t.Errorf("without room for descriptors: %q %q, want LimitsExceeded", r.outcome(), r.text())
	}
	sameFiles(t, before)
	if r := p.call(echo("Files", "ah"), body(t, "ah", []FD{0, 1}), fds[:2]); r.text() != "++" {
		t.Errorf("afterwards: %q", r.text())
	}
	closeAll(fds)
}

func TestMessagesInManyPieces(t *testing.T) {
	c, p := playBus(t, Options{Identify: asHost})
	echoer(c)
	h := echo("Text", "s")
	h.typ, h.serial, h.sender = dbus.TypeMethodCall, 1, ":1.7"
	one := h.bytes(t, body(t, "s", "x"))
	go func() {
		all := slices.Concat(one, one, one)
		for i := range all {
			p.file.Write(all[i : i+1])
		}
	}()
	for range 3 {
		if r := p.await(1); r.text() != "x" {
			t.Errorf("reply %q %q", r.outcome(), r.text())
		}
	}
}

func TestUnknownHeaderFieldsAreIgnored(t *testing.T) {
	c, p := playBus(t, Options{Identify: asHost})
	echoer(c)
	before := openFiles(t)
	for _, v := range []Value{
		{"y", []byte{1}},
		mustValue(t, "as", []string{"x", "yy"}),
		mustValue(t, "a{sv}", map[string]Value{"x": mustValue(t, "ay", make([]byte, 100000))}),
		mustValue(t, "v", Value{"g", []byte{0, 0}}),
		mustValue(t, "v", mustValue(t, "s", strings.Repeat("long", 10000))),
		{"(yxs)", []byte{1, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2, 0, 0, 0, 0, 0}},
	} {
		var e encoder
		e.buf = []byte{'l', 1, 0, 1}
		e.uint32(0)
		e.uint32(99)
		err := e.array('(', func() error {
			for _, f := range []struct {
				code byte
				v    Value
			}{
				{200, v}, {1, mustValue(t, "o", "/obj/echo")}, {201, v}, {3, mustValue(t, "s", "Nothing")},
				{7, mustValue(t, "s", ":1.7")}, {202, v},
			} {
				e.align(8)
				e.byte(f.code)
				if err := e.variant(f.v); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		e.align(8)
		if err := send(p.raw, outgoing{data: [][]byte{e.buf}}); err != nil {
			t.Fatal(err)
		}
		if r := p.await(99); r.outcome() != "" {
			t.Errorf("with a field of type %s: %s %s", v.Signature, r.outcome(), r.text())
		}
	}
	sameFiles(t, before)
}

func mustValue(t testing.TB, sig string, arg any) Value {
	t.Helper()
	v, err := ValueOf(sig, arg)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestMessagesOfBothByteOrders(t *testing.T) {
	c, p := playBus(t, Options{Identify: asHost})
	echoer(c)
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		m := &dbus.Message{
			Type: dbus.TypeMethodCall,
			Headers: map[dbus.HeaderField]dbus.Variant{
				dbus.FieldPath:      dbus.MakeVariant(dbus.ObjectPath("/obj/echo")),
				dbus.FieldInterface: dbus.MakeVariant("org.example.Echo"),
				dbus.FieldMember:    dbus.MakeVariant("All"),
				dbus.FieldSender:    dbus.MakeVariant(":1.9"),
				dbus.FieldSignature: dbus.MakeVariant(dbus.ParseSignatureMust("ybusayasahhva{sas}a{say}a{sv}")),
			},
			Body: []any{byte(1), true, uint32(2), "three", []byte{4, 5}, []string{"six", ""},
				[]dbus.UnixFDIndex{7, 8}, dbus.UnixFDIndex(9),
				dbus.MakeVariant(map[string][]uint64{"ten": {11, 12}}),
				map[string][]string{"a": {"b"}, "": {}}, map[string][]byte{"c": {13}},
				map[string]dbus.Variant{"d": dbus.MakeVariant([]dbus.Variant{dbus.MakeVariant(int16(-1))})}},
		}
		var buf writeBuffer
		if err := m.EncodeTo(&buf, order); err != nil {
			t.Fatal(err)
		}
		// godbus numbers messages where it sends them; here the test does.
		order.PutUint32(buf[8:], 99)
		if _, err := p.file.Write(buf); err != nil {
			t.Fatal(err)
		}
		r := p.await(99)
		if r.outcome() != "" {
			t.Fatalf("%v: %s: %s", order, r.outcome(), r.text())
		}
		args, err := decodeBody(r.order, r.sig, r.body)
		if err != nil {
			t.Fatal(err)
		}
		got := args
		want := "[1 true 2 three [4 5] [six ] [7 8] 9 "
		if s := fmt.Sprint(got); !strings.HasPrefix(s, want) {
			t.Errorf("%v: %s, want %s…", order, s, want)
		}
		if v := got[8].(Value); v.Signature != "a{sat}" {
			t.Errorf("%v: variant of %q", order, v.Signature)
		}
		if m := got[9].(map[string][]string); len(m) != 2 || len(m["a"]) != 1 || m["a"][0] != "b" {
			t.Errorf("%v: a{sas} is %v", order, m)
		}
		if m := got[11].(map[string]Value); m["d"].Signature != "av" {
			t.Errorf("%v: a{sv} is %v", order, m)
		}
	}
}

type writeBuffer []byte

func (b *writeBuffer) Write(p []byte) (int, error) {
	*b = append(*b, p...)
	return len(p), nil
}

func TestWhoIsNotIdentifiedGetsNothingButPing(t *testing.T) {
	var asked atomic.Int32
	identify := func(ctx context.Context, name string) (*identity.Caller, error) {
		if asked.Add(1) == 3 {
			panic("identification broken")
		}
		return nil, errors.New("secret reason")
	}
	for what, o := range map[string]Options{"refused": {Identify: identify}, "nobody asked": {}} {
		c, p := playBus(t, o)
		echoer(c)
		before := openFiles(t)
		for _, h := range []header{
			echo("Text", "s"),
			{path: "/obj/echo", iface: "org.freedesktop.DBus.Introspectable", member: "Introspect"},
			{path: "/obj/echo", iface: "org.freedesktop.DBus.Properties", member: "GetAll", sig: "s"},
			{path: "/obj/echo", iface: peerName, member: "GetMachineId"},
		} {
			var b []byte
			if h.sig != "" {
				b = body(t, "s", "org.example.Echo")
			}
			fds := pipes(t, 2)
			r := p.call(h, b, fds)
			closeAll(fds)
			if r.outcome() != "AccessDenied" || strings.Contains(r.text(), "secret") {
				t.Errorf("%s, %s: %q %q", what, h.member, r.outcome(), r.text())
			}
		}
		if r := p.call(header{path: "/obj/echo", iface: peerName, member: "Ping"}, nil, nil); r.outcome() != "" {
			t.Errorf("%s, Ping: %q", what, r.outcome())
		}
		sameFiles(t, before)
	}
	if asked.Load() != 4 {
		t.Errorf("a refused caller was identified %d times for 4 calls", asked.Load())
	}
}

func TestACallerIsIdentifiedOnceWhileItStays(t *testing.T) {
	var asked atomic.Int32
	let := make(chan struct{})
	c, p := playBus(t, Options{Identify: func(_ context.Context, name string) (*identity.Caller, error) {
		asked.Add(1)
		<-let
		return asHost(context.Background(), name)
	}})
	echoer(c)
	for range 20 {
		p.send(echo("Nothing", ""), nil, nil)
	}
	// The reader is not held up meanwhile.
	if r := p.call(header{path: "/", iface: peerName, member: "Ping"}, nil, nil); r.outcome() != "" {
		t.Fatal(r.outcome())
	}
	close(let)
	for range 20 {
		if r := p.next(); r.outcome() != "" {
			t.Fatal(r.outcome())
		}
	}
	p.call(echo("Nothing", ""), nil, nil)
	if asked.Load() != 1 {
		t.Errorf("identified %d times", asked.Load())
	}
}

// leave says that a name has left, as the bus would.
func (p *rawPeer) leave(name, sender string) {
	p.send(header{typ: dbus.TypeSignal, path: busPath, iface: busInterface, member: "NameOwnerChanged", sig: "sss", sender: sender},
		body(p.t, "sss", name, name, ""), nil)
}

func TestAPeerThatLeaves(t *testing.T) {
	gone := make(chan string, 10)
	var asked atomic.Int32
	c, p := playBus(t, Options{
		Identify: func(ctx context.Context, name string) (*identity.Caller, error) {
			asked.Add(1)
			return asHost(ctx, name)
		},
		PeerGone: func(name string) { gone <- name },
	})
	entered, ended, let := make(chan struct{}), make(chan error, 1), make(chan struct{})
	echoer(c, Method{Name: "Wait", Handle: func(ctx context.Context, _ *Call) ([]any, error) {
		close(entered)
		<-ctx.Done()
		ended <- ctx.Err()
		<-let
		return nil, ctx.Err()
	}})
	before := openFiles(t)
	fds := pipes(t, 2)
	p.send(echo("Wait", ""), nil, fds)
	closeAll(fds)
	<-entered
	// Others may say so too, and are not believed.
	p.leave(":1.7", ":1.66")
	p.leave(":1.7", "org.freedesktop.DBuss")
	if r := p.call(echo("Nothing", ""), nil, nil); r.outcome() != "" {
		t.Fatal(r.outcome())
	}
	select {
	case <-ended:
		t.Fatal("a stranger ended the caller's calls")
	default:
	}
	p.leave(":1.7", busName)
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the call's context ended with %v", err)
	}
	select {
	case name := <-gone:
		t.Errorf("PeerGone(%q) although a call is running", name)
	default:
	}
	close(let)
	if name := <-gone; name != ":1.7" {
		t.Errorf("PeerGone(%q)", name)
	}
	sameFiles(t, before)
	// The reply was dropped, and the cache forgot.
	serial := p.send(echo("Nothing", ""), nil, nil)
	if r := p.next(); r.replySerial != serial {
		t.Errorf("reply to %d, want %d", r.replySerial, serial)
	}
	if asked.Load() != 2 {
		t.Errorf("identified %d times, want 2", asked.Load())
	}
}

func TestAPeerThatLeavesBeforeItIsIdentified(t *testing.T) {
	entered, result := make(chan struct{}), make(chan error, 1)
	gone := make(chan string, 1)
	first := true
	c, p := playBus(t, Options{
		Identify: func(ctx context.Context, name string) (*identity.Caller, error) {
			if !first {
				return asHost(ctx, name)
			}
			first = false
			close(entered)
			<-ctx.Done()
			result <- ctx.Err()
			// A success that comes too late must not be kept.
			return asHost(ctx, name)
		},
		PeerGone: func(name string) { gone <- name },
	})
	ran := make(chan string, 10)
	echoer(c, Method{Name: "Run", Handle: func(_ context.Context, c *Call) ([]any, error) {
		ran <- c.Sender
		return nil, nil
	}})
	before := openFiles(t)
	fds := pipes(t, 3)
	p.send(echo("Run", ""), nil, fds)
	closeAll(fds)
	<-entered
	p.leave(":1.7", busName)
	if err := <-result; err != context.Canceled {
		t.Errorf("identification ended with %v", err)
	}
	p.sender = ":1.8"
	if r := p.call(echo("Run", ""), nil, nil); r.outcome() != "" {
		t.Fatal(r.outcome())
	}
	if who := <-ran; who != ":1.8" || len(ran) != 0 {
		t.Errorf("a call of %s was handled", who)
	}
	select {
	case name := <-gone:
		t.Errorf("PeerGone(%q) for a peer that was never served", name)
	default:
	}
	sameFiles(t, before)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.peers) != 1 || c.unknown.used != (limits{}) {
		t.Errorf("%d peers are kept, %+v is in flight of unknown ones", len(c.peers), c.unknown.used)
	}
}

func TestCallsInFlight(t *testing.T) {
	for _, test := range []struct {
		who      string
		identify func(context.Context, string) (*identity.Caller, error)
		senders  []string
		limit    int
	}{
		{"an app", asApp, []string{":1.7"}, 64},
		{"an app with two connections", asApp, []string{":1.7", ":1.8"}, 64},
		{"a host program", asHost, []string{":1.7"}, 4096},
	} {
		c, p := playBus(t, Options{Identify: test.identify})
		let, entered := make(chan struct{}), make(chan struct{}, 10000)
		echoer(c, Method{Name: "Wait", Handle: func(context.Context, *Call) ([]any, error) {
			entered <- struct{}{}
			<-let
			return nil, nil
		}})
		for _, s := range test.senders {
			p.sender = s
			p.call(echo("Nothing", ""), nil, nil) // identified from here on
		}
		const more = 500
		var sender sync.WaitGroup
		sender.Go(func() {
			for n := range test.limit + more {
				h := echo("Wait", "")
				h.sender = test.senders[n%len(test.senders)]
				p.send(h, nil, nil)
			}
		})
		for range more {
			r := p.next()
			if r.outcome() != "portal.Error.Failed" || !strings.Contains(r.text(), fmt.Sprint(test.limit)) {
				t.Fatalf("%s: %q %q, want the limit of %d", test.who, r.outcome(), r.text(), test.limit)
			}
		}
		for range test.limit {
			<-entered
		}
		sender.Wait()
		// Others are not concerned.
		other := echo("Nothing", "")
		other.sender = ":1.99"
		if test.who == "a host program" {
			if r := p.call(other, nil, nil); r.outcome() != "" {
				t.Errorf("%s: somebody else is refused: %q", test.who, r.text())
			}
		}
		close(let)
		for range test.limit {
			if r := p.next(); r.outcome() != "" {
				t.Fatalf("%s: %q", test.who, r.outcome())
			}
		}
		if r := p.call(echo("Nothing", ""), nil, nil); r.outcome() != "" {
			t.Errorf("%s: refused after all was answered: %q", test.who, r.text())
		}
		for _, s := range append(test.senders, ":1.99") {
			p.leave(s, busName)
		}
		p.sender = ":1.100"
		p.call(echo("Nothing", ""), nil, nil)
		c.mu.Lock()
		if len(c.peers) != 1 || len(c.accounts) != 1 {
			t.Errorf("%s: %d peers and %d accounts are kept, want 1", test.who, len(c.peers), len(c.accounts))
		}
		c.mu.Unlock()
		c.Close()
	}
}

func TestABurstBeforeIdentificationIsBoundedByWhoItTurnsOutToBe(t *testing.T) {
	let, wait := make(chan struct{}), make(chan struct{})
	c, p := playBus(t, Options{Identify: func(ctx context.Context, name string) (*identity.Caller, error) {
		<-let
		return asApp(ctx, name)
	}})
	echoer(c, Method{Name: "Wait", Handle: func(context.Context, *Call) ([]any, error) {
		<-wait
		return nil, nil
	}})
	for range 100 {
		p.send(echo("Wait", ""), nil, nil)
	}
	close(let)
	for range 36 {
		if r := p.next(); r.outcome() != "portal.Error.Failed" {
			t.Fatalf("%q", r.outcome())
		}
	}
	close(wait)
	for range 64 {
		if r := p.next(); r.outcome() != "" {
			t.Fatalf("%q", r.outcome())
		}
	}
}

func TestBytesAndDescriptorsInFlight(t *testing.T) {
	c, p := playBus(t, Options{Identify: asApp})
	wait := make(chan struct{})
	hold := func(context.Context, *Call) ([]any, error) {
		<-wait
		return nil, nil
	}
	echoer(c, Method{Name: "HoldBytes", In: "ay", Handle: hold}, Method{Name: "Hold", Handle: hold})
	p.call(echo("Nothing", ""), nil, nil)
	before := openFiles(t)
	big := make([]byte, maxBody)
	le.PutUint32(big, maxBody-4)
	p.send(echo("HoldBytes", "ay"), big, nil)
	p.send(echo("HoldBytes", "ay"), big, nil)
	if r := p.call(echo("HoldBytes", "ay"), []byte{0, 0, 0, 0}, nil); r.outcome() != "LimitsExceeded" {
		t.Errorf("more than 32 MiB in flight: %q", r.outcome())
	}
	fds := pipes(t, 253)
	for range 4 {
		p.send(echo("Hold", ""), nil, fds)
	}
	if r := p.call(echo("Hold", ""), nil, fds); r.outcome() != "LimitsExceeded" {
		t.Errorf("more than 1024 descriptors in flight: %q", r.outcome())
	}
	closeAll(fds)
	close(wait)
	sameFiles(t, before)
}

func TestASerialInterfaceRunsCallsInOrder(t *testing.T) {
	c, p := playBus(t, Options{Identify: asHost})
	var mu sync.Mutex
	var order []uint32
	running := 0
	step := make(chan struct{})
	c.Export("/obj/serial", &Interface{Name: "org.example.Serial", Serial: true, Methods: []Method{
		{Name: "Note", In: "u", Handle: func(_ context.Context, c *Call) ([]any, error) {
			var n uint32
			c.Scan(&n)
			mu.Lock()
			running++
			if running > 1 {
				t.Error("two calls of one sender at once")
			}
			mu.Unlock()
			if n == 0 {
				<-step
			}
			mu.Lock()
			order = append(order, n)
			running--
			mu.Unlock()
			return nil, nil
		}},
		{Name: "Other", Handle: func(context.Context, *Call) ([]any, error) { return nil, nil }},
	}})
	for n := range uint32(50) {
		p.send(header{path: "/obj/serial", iface: "org.example.Serial", member: "Note", sig: "u"}, body(t, "u", n), nil)
	}
	// Another sender does not wait for them.
	if r := p.call(header{path: "/obj/serial", iface: "org.example.Serial", member: "Other", sender: ":1.8"}, nil, nil); r.outcome() != "" {
		t.Fatal(r.outcome())
	}
	close(step)
	for range 50 {
		if r := p.next(); r.outcome() != "" {
			t.Fatal(r.outcome())
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if !slices.IsSorted(order) || len(order) != 50 {
		t.Errorf("order %v", order)
	}
}

// TestLargeAnswersAreMadeOneAtATime: one for each caller, of an app with all
// its connections, and few in all; whoever waits for them holds nobody else up.
func TestLargeAnswersAreMadeOneAtATime(t *testing.T) {
	c, p := playBus(t, Options{Identify: func(ctx context.Context, name string) (*identity.Caller, error) {
		if strings.HasPrefix(name, ":1.") {
			return asApp(ctx, name)
		}
		return asHost(ctx, name)
	}})
	entered, let := make(chan string, 100), make(chan struct{})
	large := &Interface{Name: "org.example.Large", Introspection: `<interface name="org.example.Large"/>`, Methods: []Method{
		{Name: "Get", Out: "a{say}", Large: true, Handle: func(_ context.Context, c *Call) ([]any, error) {
			entered <- c.Sender
			<-let
			return []any{new(ByteDict)}, nil
		}},
	}}
	c.Export("/obj/echo", large)
	echoer(c)
	get := header{path: "/obj/echo", iface: "org.example.Large", member: "Get"}
	senders := []string{":1.1", ":1.2", ":2.1", ":2.2", ":2.3"} // two of one app
	for range 2 {
		for _, get.sender = range senders {
			p.send(get, nil, nil)
		}
	}
	running := map[string]bool{<-entered: true, <-entered: true}
	h := echo("Nothing", "")
	for _, h.sender = range senders { // this one waits for none of them
		if r := p.call(h, nil, nil); r.outcome() != "" {
			t.Errorf("%s: %s", h.sender, r.text())
		}
	}
	if len(running) != 2 || len(entered) > 0 || running[":1.1"] && running[":1.2"] {
		t.Errorf("%v, and %d more are made at a time", running, len(entered))
	}
	p.leave(":2.3", busName)
	h.sender = ":1.1"
	p.call(h, nil, nil) // after which that is known
	close(let)
	for n := len(senders) - 1; n > 0; n-- { // those of who has left are not answered
		for range 2 {
			if r := p.next(); r.outcome() != "" || r.sig != "a{say}" {
				t.Fatalf("%q %q", r.outcome(), r.sig)
			}
		}
	}
	for _, get.sender = range senders {
		if r := p.call(get, nil, nil); r.outcome() != "" {
			t.Errorf("afterwards, %s: %q", get.sender, r.text())
		}
	}
}

// TestPiecesOfAnswersAreUsedAgainWhenTheyAreSent: whoever reads late gets what
// was answered to him, whatever others are answered meanwhile.
func TestPiecesOfAnswersAreUsedAgainWhenTheyAreSent(t *testing.T) {
	c, p := playBus(t, Options{Identify: asHost})
	var made atomic.Int32
	c.Export("/obj/echo", &Interface{Name: "org.example.Large", Introspection: `<interface name="org.example.Large"/>`, Methods: []Method{
		{Name: "Get", Out: "a{say}", Large: true, Handle: func(_ context.Context, c *Call) ([]any, error) {
			d, fill := c.Dict(), bytes.Repeat([]byte{byte(made.Add(1))}, 1000)
			for n := range maxLent * len(piece{}) / 1000 * 4 / 3 { // more than is lent
				if err := d.Add(fmt.Append(nil, n), fill); err != nil {
					return nil, err
				}
			}
			return []any{d}, nil
		}},
	}})
	get := header{path: "/obj/echo", iface: "org.example.Large", member: "Get"}
	const each, senders = 3, 3
	for range each {
		for n := range senders {
			get.sender = fmt.Sprintf(":2.%d", n)
			p.send(get, nil, nil)
		}
	}
	seen := make(map[byte]bool)
	for len(seen) < each*senders {
		r := p.next()
		if r.member == "GetConnectionStats" { // whether they read
			p.send(header{typ: dbus.TypeError, sender: busName, errName: errUnknownMethod, replySerial: r.serial}, nil, nil)
			continue
		}
		args, err := decodeBody(r.order, r.sig, r.body)
		if err != nil || r.outcome() != "" {
			t.Fatal(err, r.text())
		}
		all := args[0].(map[string][]byte)
		want := all["0"][0]
		for key, v := range all {
			if !bytes.Equal(v, append(bytes.Repeat([]byte{want}, 1000), 0)) {
				t.Fatalf("answer %d: something else at %s", want, key)
			}
		}
		if seen[want] {
			t.Fatalf("answer %d twice", want)
		}
		seen[want] = true
	}
}

func TestMessagesThatAreNoCalls(t *testing.T) {
	c, p := playBus(t, Options{Identify: asHost})
	echoer(c)
	before := openFiles(t)
	fds := pipes(t, 2)
	for _, h := range []header{
		{typ: dbus.TypeMethodReply, replySerial: 4711, sig: "s"},
		{typ: dbus.TypeError, replySerial: 4711, errName: "a.b", sig: "s"},
		{typ: dbus.TypeSignal, path: "/x", iface: "a.b", member: "C", sig: "s"},
		{typ: 9, path: "/x", iface: "a.b", member: "C", sig: "s"},
	} {
		p.send(h, body(t, "s", "x"), fds)
	}
	h := echo("Nothing", "")
	h.sender = "nobody" // which a bus does not do
	p.send(h, nil, fds)
	closeAll(fds)
	serial := p.send(echo("Nothing", ""), nil, nil)
	if r := p.next(); r.replySerial != serial || r.outcome() != "" {
		t.Errorf("reply to %d: %q", r.replySerial, r.outcome())
	}
	sameFiles(t, before)
}

func TestABusThatDoesNotSpeakDBusIsLeft(t *testing.T) {
	good := header{typ: dbus.TypeMethodCall, serial: 1, path: "/", member: "X", sender: ":1.1"}
	valid := good.bytes(t, nil)
	mangle := func(at int, b byte) []byte {
		m := slices.Clone(valid)
		m[at] = b
		return m
	}
	for name, data := range map[string][]byte{
		"byte order":            mangle(0, 'x'),
		"protocol version":      mangle(3, 2),
		"serial 0":              mangle(8, 0),
		"body over 128 MiB":     mangle(7, 0x80),
		"fields over 64 MiB":    mangle(15, 0x80),
		"field of a wrong type": mangle(18, 'u'),
		"field overruns":        mangle(12, 1),
		"ends in the middle":    valid[:20],
		"nothing":               {},
	} {
		c, p := playBus(t, Options{Identify: asHost})
		p.file.Write(data)
		p.file.Close()
		<-c.Done()
		if c.Err() == nil {
			t.Errorf("%s: ended without a reason", name)
		}
	}
}

func TestTheConnectionEndsWithCallsUnderWay(t *testing.T) {
	before := openFiles(t)
	c, p := playBus(t, Options{Identify: asHost})
	entered, left := make(chan struct{}), make(chan struct{})
	echoer(c, Method{Name: "Wait", Handle: func(ctx context.Context, _ *Call) ([]any, error) {
		close(entered)
		<-ctx.Done()
		close(left)
		return nil, nil
	}})
	fds := pipes(t, 2)
	p.send(echo("Wait", ""), nil, fds)
	closeAll(fds)
	<-entered
	failed := make(chan error, 1)
	go func() { failed <- c.Call(context.Background(), ":1.1", "/", "a.b", "C", "", nil) }()
	p.next()
	p.file.Close()
	<-c.Done()
	<-left
	if err := <-failed; !errors.Is(err, ErrClosed) {
		t.Errorf("a call under way ended with %v", err)
	}
	if err := c.Call(context.Background(), ":1.1", "/", "a.b", "C", "", nil); !errors.Is(err, ErrClosed) {
		t.Errorf("a call afterwards ended with %v", err)
	}
	if err := c.Emit("", "/", "a.b", "C", ""); !errors.Is(err, ErrClosed) {
		t.Errorf("a signal afterwards: %v", err)
	}
	c.Close()
	sameFiles(t, before)
}

func TestADrainEndsWhenWhatCameBeforeItIsAnswered(t *testing.T) {
	identified := make(chan struct{})
	c, p := playBus(t, Options{Identify: func(ctx context.Context, name string) (*identity.Caller, error) {
		<-identified
		return asHost(ctx, name)
	}})
	entered, leave := make(chan struct{}, 8), make(chan struct{})
	echoer(c, Method{Name: "Wait", Handle: func(context.Context, *Call) ([]any, error) {
		entered <- struct{}{}
		<-leave
		return nil, nil
	}})
	ctx := testContext(t)
	if err := c.Drain(ctx); err != nil {
		t.Fatal("without calls: ", err)
	}
	// The peer's message is handled in its turn, before the answer to ours.
	first := p.send(echo("Wait", ""), nil, nil)
	other := p.send(echo("Nothing", "s"), body(t, "s", "x"), nil) // refused, holds nothing up
	if got := p.await(other).outcome(); got != "InvalidArgs" {
		t.Fatal(got)
	}
	short, cancel := context.WithCancel(ctx)
	cancel()
	if err := c.Drain(short); !errors.Is(err, context.Canceled) {
		t.Error("one that is not identified yet: ", err)
	}
	close(identified)
	<-entered
	drained := make(chan error, 2)
	go func() { drained <- c.Drain(ctx) }()
	go func() { drained <- c.Drain(ctx) }()
	for {
		c.mu.Lock()
		both := c.batch.before != nil && c.batch.before.before != nil && c.batch.before.before.before != nil
		c.mu.Unlock()
		if both {
			break
		}
		runtime.Gosched()
	}
	second := p.send(echo("Wait", ""), nil, nil)
	<-entered
	select {
	case err := <-drained:
		t.Error("before the answer: ", err)
	default:
	}
	leave <- struct{}{}
	if got := p.await(first).outcome(); got != "" {
		t.Error(got)
	}
	// The second call came later and still runs.
	for range 2 {
		if err := <-drained; err != nil {
			t.Error(err)
		}
	}
	go func() { drained <- c.Drain(ctx) }()
	leave <- struct{}{}
	p.await(second)
	if err := <-drained; err != nil {
		t.Error(err)
	}
	c.Close()
	if err := c.Drain(ctx); err != nil && !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

func TestRepliesAreBelievedOnlyOfWhoWasCalled(t *testing.T) {
	c, p := playBus(t, Options{})
	for _, test := range []struct {
		dest, sender string
		want         bool
	}{
		{":1.1", ":1.1", true},
		{":1.1", busName, true},
		{":1.1", ":1.2", false},
		{busName, busName, true},
		{busName, ":1.2", false},
		{"a.b.c", ":1.3", true},
		{"a.b.c", busName, true},
		{"a.b.c", "x.y", false},
	} {
		result := make(chan string, 1)
		go func() {
			var who string
			if err := c.Call(context.Background(), test.dest, "/", "a.b", "C", "", nil, &who); err != nil {
				who = err.Error()
			}
			result <- who
		}()
		call := p.next()
		answer := func(sender, text string) {
			p.send(header{typ: dbus.TypeMethodReply, replySerial: call.serial, sender: sender, sig: "s"}, body(t, "s", text), nil)
		}
		answer(test.sender, "first")
		answer(busName, "second")
		if got := <-result; (got == "first") != test.want {
			t.Errorf("a reply of %s to a call of %s: %s", test.sender, test.dest, got)
		}
	}
}

func TestRepliesOfAllKinds(t *testing.T) {
	c, p := playBus(t, Options{})
	before := openFiles(t)
	fds := pipes(t, 2)
	defer func() {
		closeAll(fds)
		sameFiles(t, before)
	}()
	for _, test := range []struct {
		name string
		h    header
		body []byte
		fds  []int
		want string // part of the error
	}{
		{"right", header{typ: dbus.TypeMethodReply, sig: "s"}, body(t, "s", "x"), nil, ""},
		{"more values", header{typ: dbus.TypeMethodReply, sig: "su"}, body(t, "su", "x", uint32(1)), nil, ""},
		{"descriptors that are not wanted", header{typ: dbus.TypeMethodReply, sig: "s"}, body(t, "s", "x"), fds, ""},
		{"other type", header{typ: dbus.TypeMethodReply, sig: "u"}, body(t, "u", uint32(1)), fds, "unexpected"},
		{"nothing", header{typ: dbus.TypeMethodReply}, nil, fds, "unexpected"},
		{"malformed", header{typ: dbus.TypeMethodReply, sig: "s"}, []byte{1}, fds, "malformed"},
		{"too few descriptors", header{typ: dbus.TypeMethodReply, sig: "s", files: 5}, body(t, "s", "x"), fds, "lost"},
		{"error", header{typ: dbus.TypeError, errName: "a.b.C", sig: "s"}, body(t, "s", "why"), fds, "a.b.C: why"},
		{"error without text", header{typ: dbus.TypeError, errName: "a.b.C"}, nil, fds, "a.b.C"},
		{"malformed error", header{typ: dbus.TypeError, errName: "a.b.C", sig: "s"}, []byte{9}, fds, "a.b.C"},
	} {
		result := make(chan error, 1)
		go func() {
			var s string
			result <- c.Call(context.Background(), ":1.1", "/", "a.b", "C", "", nil, &s)
		}()
		test.h.replySerial, test.h.sender = p.next().serial, ":1.1"
		p.send(test.h, test.body, test.fds)
		if err := <-result; (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
}

func TestACallThatIsGivenUp(t *testing.T) {
	c, p := playBus(t, Options{})
	before := openFiles(t)
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() { result <- c.Call(ctx, ":1.1", "/", "a.b", "C", "", nil) }()
	call := p.next()
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	fds := pipes(t, 2)
	p.send(header{typ: dbus.TypeMethodReply, replySerial: call.serial, sender: ":1.1"}, nil, fds)
	closeAll(fds)
	sameFiles(t, before)
}

func TestCredentials(t *testing.T) {
	c, p := playBus(t, Options{})
	before := openFiles(t)
	u32 := func(n uint32) Value { return Value{"u", le.AppendUint32(nil, n)} }
	for _, test := range []struct {
		name  string
		all   map[string]Value
		fds   int
		ok    bool
		pidfd bool
	}{
		{"old bus", map[string]Value{"UnixUserID": u32(1000), "ProcessID": u32(42)}, 0, true, false},
		{"new bus", map[string]Value{"UnixUserID": u32(1000), "ProcessID": u32(42), "ProcessFD": {"h", []byte{1, 0, 0, 0}}}, 3, true, true},
		{"no user", map[string]Value{"ProcessID": u32(42)}, 0, false, false},
		{"no process", map[string]Value{"UnixUserID": u32(1000)}, 1, false, false},
		{"process 0", map[string]Value{"UnixUserID": u32(1000), "ProcessID": u32(0)}, 0, false, false},
		{"process -1", map[string]Value{"UnixUserID": u32(1000), "ProcessID": u32(0xffffffff)}, 0, false, false},
		{"user of another type", map[string]Value{"UnixUserID": {"s", []byte{0, 0, 0, 0, 0}}, "ProcessID": u32(42)}, 0, false, false},
		{"ProcessFD without descriptor", map[string]Value{"UnixUserID": u32(1000), "ProcessID": u32(42), "ProcessFD": {"h", []byte{0, 0, 0, 0}}}, 0, false, false},
		{"ProcessFD out of range", map[string]Value{"UnixUserID": u32(1000), "ProcessID": u32(42), "ProcessFD": {"h", []byte{9, 0, 0, 0}}}, 2, false, false},
	} {
		type result struct {
			creds identity.Credentials
			err   error
		}
		results := make(chan result, 1)
		go func() {
			creds, err := c.Credentials(context.Background(), ":1.5")
			results <- result{creds, err}
		}()
		call := p.next()
		fds := pipes(t, test.fds)
		p.send(header{typ: dbus.TypeMethodReply, replySerial: call.serial, sender: busName, sig: "a{sv}"}, body(t, "a{sv}", test.all), fds)
		closeAll(fds)
		r := <-results
		if (r.err == nil) != test.ok || (r.creds.PidFD != nil) != test.pidfd {
			t.Errorf("%s: %+v, %v", test.name, r.creds, r.err)
		}
		if r.err == nil && (r.creds.UID != 1000 || r.creds.PID != 42) {
			t.Errorf("%s: %+v", test.name, r.creds)
		}
		if r.creds.PidFD != nil {
			r.creds.PidFD.Close()
		}
		sameFiles(t, before)
	}
}

func TestPassingDescriptorsOut(t *testing.T) {
	c, p := playBus(t, Options{})
	before := openFiles(t)
	f, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	go c.CallFiles(testContext(t), ":1.1", "/", "a.b", "C", "hah", []any{FD(1), []FD{0}}, []*os.File{f, f})
	r := p.next()
	if len(r.files) != 2 {
		t.Fatalf("%d descriptors arrived", len(r.files))
	}
	closeAll(r.files)
	if _, err := f.Stat(); err != nil {
		t.Errorf("the caller's own descriptor: %v", err)
	}
	f.Close()
	sameFiles(t, before)
	if _, err := c.CallFiles(testContext(t), ":1.1", "/", "a.b", "C", "", nil, slices.Repeat([]*os.File{f}, 254)); err == nil {
		t.Error("254 descriptors in one message")
	}
	if _, err := c.CallFiles(testContext(t), ":1.1", "/", "a.b", "C", "", nil, []*os.File{f}); err == nil {
		t.Error("a closed file was passed")
	}
}

func TestWhatTheBusWouldDisconnectUsForIsAnError(t *testing.T) {
	c, p := playBus(t, Options{})
	for name, send := range map[string]func() error{
		"destination": func() error { return c.Emit("no name", "/", "a.b", "C", "") },
		"path":        func() error { return c.Emit("", "a", "a.b", "C", "") },
		"interface":   func() error { return c.Emit("", "/", "ab", "C", "") },
		"member":      func() error { return c.Emit("", "/", "a.b", "C.D", "") },
		"signature":   func() error { return c.Emit("", "/", "a.b", "C", "()") },
		"text":        func() error { return c.Emit("", "/", "a.b", "C", "s", "\xff") },
		"text NUL":    func() error { return c.Emit("", "/", "a.b", "C", "s", "\x00") },
		"object path": func() error { return c.Emit("", "/", "a.b", "C", "o", "x") },
		"type":        func() error { return c.Emit("", "/", "a.b", "C", "s", 1) },
		"too few":     func() error { return c.Emit("", "/", "a.b", "C", "s") },
		"too many":    func() error { return c.Emit("", "/", "a.b", "C", "s", "x", "y") },
		"size":        func() error { return c.Emit("", "/", "a.b", "C", "ay", make([]byte, maxArray)) },
		"array":       func() error { return c.Emit("", "/", "a.b", "C", "ay", make([]byte, maxArray+1)) },
		"value":       func() error { return c.Emit("", "/", "a.b", "C", "v", Value{"s", []byte{1}}) },
		"value type":  func() error { return c.Emit("", "/", "a.b", "C", "v", Value{"", nil}) },
		"value bytes": func() error { return c.Emit("", "/", "a.b", "C", "v", Value{"y", []byte{1, 2}}) },
		"call path":   func() error { return c.Call(context.Background(), ":1.1", "", "a.b", "C", "", nil) },
	} {
		if send() == nil {
			t.Errorf("%s: sent", name)
		}
	}
	if err := c.Emit(":1.1", "/", "a.b", "C", "s", "x"); err != nil {
		t.Fatal(err)
	}
	if r := p.next(); r.member != "C" || r.dest != ":1.1" || r.text() != "x" {
		t.Errorf("the first message sent is %+v", r.header)
	}
}
