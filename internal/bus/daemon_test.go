package bus

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"docportal/internal/identity"

	"github.com/godbus/dbus/v5"
)

// serve exports the echoer on a real bus and returns its unique name.
func serve(t *testing.T, address string, o Options, more ...Method) *Conn {
	t.Helper()
	c := dialBus(t, address, o)
	echoer(c, more...)
	if owner, err := c.RequestName(testContext(t), "org.example.Echo", DoNotQueue); err != nil || !owner {
		t.Fatalf("RequestName: %v, %v", owner, err)
	}
	return c
}

func TestCallsOverARealBus(t *testing.T) {
	address := startBus(t)
	before := openFiles(t)
	server := serve(t, address, Options{Identify: asHost})
	client := dialBus(t, address, Options{})
	ctx := testContext(t)
	const name, path, iface = "org.example.Echo", "/obj/echo", "org.example.Echo"

	var s string
	if err := client.Call(ctx, name, path, iface, "Text", "s", []any{"grüße"}, &s); err != nil || s != "grüße" {
		t.Errorf("Text: %q, %v", s, err)
	}
	v := Value{"a(yv)", mustValue(t, "a{sv}", map[string]Value{}).Data}
	var back Value
	if err := client.Call(ctx, name, path, "", "Any", "v", []any{v}, &back); err != nil || back.Signature != v.Signature || string(back.Data) != string(v.Data) {
		t.Errorf("Any: %v, %v", back, err)
	}
	f, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.CallFiles(ctx, name, path, iface, "Files", "ah", []any{[]FD{1, 0, 2}}, []*os.File{f, f}, &s); err != nil || s != "++-" {
		t.Errorf("Files: %q, %v", s, err)
	}
	f.Close()
	var e *Error
	if err := client.Call(ctx, name, path, iface, "Other", "", nil); !errors.As(err, &e) || e.Name != errUnknownMethod {
		t.Errorf("Other: %v", err)
	}
	if err := client.Call(ctx, "org.example.Nobody", path, iface, "Other", "", nil); !errors.As(err, &e) || !strings.HasSuffix(e.Name, "ServiceUnknown") {
		t.Errorf("nobody: %v", err)
	}
	var all map[string]Value
	if err := client.Call(ctx, name, path, "org.freedesktop.DBus.Properties", "GetAll", "s", []any{iface}, &all); err != nil || len(all) != 1 {
		t.Errorf("GetAll: %v, %v", all, err)
	}
	for _, path := range []string{"/", "/obj", "/obj/echo"} {
		if err := client.Call(ctx, name, path, "org.freedesktop.DBus.Introspectable", "Introspect", "", nil, &s); err != nil {
			t.Errorf("Introspect %s: %v", path, err)
		}
		if child := strings.Contains(s, "<node name="); child != (path != "/obj/echo") {
			t.Errorf("Introspect %s: %s", path, s)
		}
	}
	creds, err := client.Credentials(ctx, server.UniqueName())
	if err != nil || creds.UID != uint32(os.Geteuid()) || creds.PID != os.Getpid() {
		t.Errorf("credentials: %+v, %v", creds, err)
	}
	if creds.PidFD != nil {
		creds.PidFD.Close()
	}
	if _, err := client.Credentials(ctx, ":1.4711"); err == nil {
		t.Error("credentials of nobody")
	}
	client.Close()
	server.Close()
	sameFiles(t, before)
}

func TestGodbusUnderstandsUs(t *testing.T) {
	address := startBus(t)
	serve(t, address, Options{Identify: asHost})
	c, err := dbus.Connect(address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	obj := c.Object("org.example.Echo", "/obj/echo")
	want := []any{byte(1), true, uint32(2), "x", []byte{3}, []string{"y"}, []dbus.UnixFD{0}, dbus.UnixFD(0), dbus.MakeVariant("z"),
		map[string][]string{"a": {"b"}}, map[string][]byte{"c": {4}}, map[string]dbus.Variant{"d": dbus.MakeVariant([]string{"e"})}}
	call := obj.Call("org.example.Echo.All", 0, want...)
	if call.Err != nil || len(call.Body) != len(want) {
		t.Fatalf("%v, %v", call.Body, call.Err)
	}
	for i, got := range call.Body {
		if i == 6 || i == 7 {
			continue // descriptors do not come back
		}
		if fmt.Sprint(got) != fmt.Sprint(want[i]) {
			t.Errorf("value %d: %v, want %v", i, got, want[i])
		}
	}
	v, err := obj.GetProperty("org.example.Echo.version")
	if err != nil || v.Value() != uint32(5) {
		t.Errorf("version: %v, %v", v, err)
	}
}

func TestSignalsOverARealBus(t *testing.T) {
	address := startBus(t)
	server := serve(t, address, Options{Identify: asHost})
	ctx := testContext(t)
	m := Match{Sender: "org.example.Echo", Interface: "org.example.Echo"}
	one, two := dialBus(t, address, Options{}), dialBus(t, address, Options{})
	toOne, err := one.Subscribe(ctx, m)
	if err != nil {
		t.Fatal(err)
	}
	toTwo, err := two.Subscribe(ctx, m)
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Emit(one.UniqueName(), "/obj/echo", "org.example.Echo", "Private", "s", "for one"); err != nil {
		t.Fatal(err)
	}
	if err := server.Emit("", "/obj/echo", "org.example.Echo", "Public", "s", "for all"); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[*Subscription][]string{toOne: {"Private", "Public"}, toTwo: {"Public"}} {
		for _, member := range c {
			s := <-what.C
			var text string
			if err := s.Scan(&text); err != nil || s.Member != member || s.Sender != server.UniqueName() {
				t.Errorf("%+v, %v, want %s", s, err, member)
			}
		}
	}
	if err := toOne.Close(ctx); err != nil {
		t.Error(err)
	}
	if _, open := <-toOne.C; open {
		t.Error("the subscription goes on")
	}
	two.Close()
	if _, open := <-toTwo.C; open {
		t.Error("the subscription goes on without a connection")
	}
}

func TestNamesOnARealBus(t *testing.T) {
	address := startBus(t)
	ctx := testContext(t)
	lost := make(chan string, 4)
	first := dialBus(t, address, Options{NameLost: func(name string) { lost <- name }})
	second := dialBus(t, address, Options{})
	const name = "org.example.Name"
	for _, step := range []struct {
		c     *Conn
		flags NameFlags
		owner bool
	}{{first, AllowReplacement | DoNotQueue, true}, {first, AllowReplacement | DoNotQueue, true}, {second, DoNotQueue, false}, {second, ReplaceExisting | DoNotQueue, true}} {
		if owner, err := step.c.RequestName(ctx, name, step.flags); err != nil || owner != step.owner {
			t.Errorf("RequestName: %v, %v, want %v", owner, err, step.owner)
		}
	}
	if got := <-lost; got != name {
		t.Errorf("lost %q", got)
	}
	// Giving a name back is no loss.
	if _, err := first.RequestName(ctx, "org.example.Other", DoNotQueue); err != nil {
		t.Fatal(err)
	}
	if err := first.ReleaseName(ctx, "org.example.Other"); err != nil {
		t.Fatal(err)
	}
	if err := second.ReleaseName(ctx, name); err != nil {
		t.Fatal(err)
	}
	if owner, err := first.RequestName(ctx, name, DoNotQueue); err != nil || !owner {
		t.Errorf("after the release: %v, %v", owner, err)
	}
	if len(lost) != 0 {
		t.Errorf("lost %q", <-lost)
	}
}

func TestTheBusDies(t *testing.T) {
	address, kill := startKillableBus(t)
	c := dialBus(t, address, Options{})
	kill()
	<-c.Done()
	if c.Err() == nil {
		t.Error("no reason")
	}
	if _, err := Dial(testContext(t), address, Options{}); err == nil {
		t.Error("dialled a bus that is gone")
	}
}

func TestPeersOfARealBus(t *testing.T) {
	address := startBus(t)
	gone := make(chan string, 10)
	entered := make(chan struct{}, 100)
	server := serve(t, address, Options{Identify: asHost, PeerGone: func(name string) { gone <- name }},
		Method{Name: "Wait", In: "h", Handle: func(ctx context.Context, _ *Call) ([]any, error) {
			entered <- struct{}{}
			<-ctx.Done()
			return nil, nil
		}})
	before := openFiles(t)

	// It calls without end and reads nothing.
	deaf, deafName := joinBus(t, address)
	for range 5000 {
		deaf.send(echo("Text", "s").to(server.UniqueName()), body(t, "s", strings.Repeat("x", 1000)), nil)
	}
	// It dies while its calls run.
	dying, dyingName := joinBus(t, address)
	fds := pipes(t, 16)
	for range 10 {
		dying.send(echo("Wait", "h").to(server.UniqueName()), body(t, "h", FD(0)), fds)
	}
	closeAll(fds)
	for range 10 {
		<-entered
	}
	// It dies in the middle of a message.
	cut, _ := joinBus(t, address)
	h := echo("Text", "s").to(server.UniqueName())
	h.typ, h.serial = dbus.TypeMethodCall, 9
	data := h.bytes(t, body(t, "s", strings.Repeat("x", 5000)))
	cut.file.Write(data[:len(data)/2])
	cut.file.Close()
	dying.file.Close()
	if name := <-gone; name != dyingName {
		t.Errorf("%s has gone, want %s", name, dyingName)
	}

	// The others are served all the time.
	p, _ := joinBus(t, address)
	for _, test := range []struct {
		name string
		fds  []FD
		n    int
		want string
	}{
		{"index outside", []FD{1}, 1, "-"}, {"negative", []FD{0xffffffff}, 1, "-"}, {"no descriptors", []FD{0}, 0, "-"},
		{"duplicate", []FD{0, 0}, 1, "++"}, {"unreferenced", []FD{}, 5, ""}, {"16", []FD{15}, 16, "+"},
	} {
		fds := pipes(t, test.n)
		if r := p.call(echo("Files", "ah").to(server.UniqueName()), body(t, "ah", test.fds), fds); r.text() != test.want {
			t.Errorf("%s: %q %q", test.name, r.outcome(), r.text())
		}
		closeAll(fds)
	}
	if r := p.call(echo("Text", "u").to(server.UniqueName()), []byte{1, 0, 0, 0}, nil); r.outcome() != "InvalidArgs" {
		t.Errorf("wrong signature: %q", r.outcome())
	}
	big := make([]byte, maxBody+5)
	le.PutUint32(big, uint32(len(big)-4))
	if r := p.call(echo("Bytes", "ay").to(server.UniqueName()), big, nil); r.outcome() != "LimitsExceeded" {
		t.Errorf("more than 16 MiB: %q", r.outcome())
	}
	p.file.Close()
	deaf.file.Close()
	left := map[string]bool{<-gone: true, <-gone: true}
	if !left[deafName] {
		t.Errorf("%v have gone, %s has not", left, deafName)
	}
	sameFiles(t, before)
}

func TestAddresses(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", "/run/user/1000")
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", "")
	for _, test := range []struct {
		address, want string // names joined by spaces; "" is an error
	}{
		{"", "/run/user/1000/bus"},
		{"unix:path=/tmp/x", "/tmp/x"},
		{"unix:path=/tmp/x,guid=00", "/tmp/x"},
		{"unix:guid=00,path=/tmp/x", "/tmp/x"},
		{"unix:abstract=/tmp/x", "@/tmp/x"},
		{"unix:abstract=x;unix:path=/y;", "@x /y"},
		{"tcp:host=localhost,port=1;unix:path=/y", "/y"},
		{"unix:path=/a%20b%2cc%3b", "/a b,c;"},
		{"unix:path=/a+b", "/a+b"},
		{"unix:runtime=yes", "/run/user/1000/bus"},
		{"unix:runtime=no", ""},
		{"unix:path=/a%2", ""},
		{"unix:path=/a%zz", ""},
		{"unix:path=relative", ""},
		{"unix:path=", ""},
		{"unix:path=/a,abstract=b", ""},
		{"unix:dir=/tmp", ""},
		{"unix:path", ""},
		{"unix", ""},
		{";", ""},
		{"autolaunch:", ""},
	} {
		names, err := sockets(test.address)
		if got := strings.Join(names, " "); got != test.want || (err == nil) != (test.want != "") {
			t.Errorf("%q: %q, %v, want %q", test.address, got, err, test.want)
		}
	}
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path=/env")
	if names, err := sockets(""); err != nil || names[0] != "/env" {
		t.Errorf("from the environment: %v, %v", names, err)
	}
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", "")
	t.Setenv("XDG_RUNTIME_DIR", "")
	if names, err := sockets(""); err == nil {
		t.Errorf("without an environment: %v", names)
	}
}

func TestDialTriesTheAlternativesInOrder(t *testing.T) {
	address := startBus(t)
	dialBus(t, "unix:path=/nonexistent/bus;"+address, Options{})
}

func TestDialABusThatIsNone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bus")
	silent := listen(t, path)
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() {
		_, err := Dial(ctx, "unix:path="+path, Options{})
		result <- err
	}()
	f := silent()
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("a bus that says nothing: %v", err)
	}
	f.Close()
	for _, answer := range []string{"REJECTED EXTERNAL\r\n", "OK 00\r\nERROR\r\n", "OK 00\r\n", "", strings.Repeat("x", 10000)} {
		go func() {
			_, err := Dial(context.Background(), "unix:path="+path, Options{})
			result <- err
		}()
		f := silent()
		f.WriteString(answer)
		f.Close()
		if err := <-result; err == nil {
			t.Errorf("a bus that answers %q was accepted", answer)
		}
	}
}

var _ identity.Bus = (*Conn)(nil)
