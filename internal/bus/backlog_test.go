package bus

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

// large exports a method whose answers are of 1 MiB.
func large(c *Conn) header {
	c.Export("/obj/large", &Interface{Name: "org.example.Large", Introspection: `<interface name="org.example.Large"/>`, Methods: []Method{
		{Name: "Get", Out: "a{say}", Large: true, Handle: func(context.Context, *Call) ([]any, error) {
			d := new(ByteDict)
			for n := range 16 {
				if err := d.Add(fmt.Append(nil, n), make([]byte, 1<<16)); err != nil {
					return nil, err
				}
			}
			return []any{d}, nil
		}},
	}})
	return header{path: "/obj/large", iface: "org.example.Large", member: "Get", dest: c.UniqueName()}
}

// TestWhoReadsNothingHoldsNobodyUp: dbus-daemon keeps what a peer does not read,
// and then reads no more of ours; it does not come to that. Nothing is lost to
// the one who reads late.
func TestWhoReadsNothingHoldsNobodyUp(t *testing.T) {
	address := startBus(t)
	server := serve(t, address, Options{Identify: asHost})
	get := large(server)
	deaf, name := joinBus(t, address)
	const calls = 60
	for range calls {
		deaf.send(get, nil, nil)
	}
	var p *peer
	end := time.Now().Add(patience)
	for behind := false; !behind; time.Sleep(time.Millisecond) {
		server.mu.Lock()
		p = server.peers[name]
		server.mu.Unlock()
		if p != nil {
			p.backlog.mu.Lock()
			behind = p.backlog.behind != nil
			p.backlog.mu.Unlock()
		}
		if time.Now().After(end) {
			t.Fatal("it is never behind")
		}
	}
	other, _ := joinBus(t, address)
	for range 5 {
		if r := other.call(get, nil, nil); r.outcome() != "" {
			t.Error("another caller: ", r.text())
		}
	}
	// Small answers are not waited for, and end after some.
	for range 100 {
		deaf.send(echo("Nothing", "").to(server.UniqueName()), nil, nil)
	}
	if n, err := server.unread(testContext(t), name); err != nil || n > maxUnread+2*unseenBytes+2<<20 {
		t.Errorf("%d bytes are unread, %v", n, err)
	}
	good := 0
	for n := 0; n < calls+100; {
		r := deaf.next()
		if r.typ == dbus.TypeSignal { // NameAcquired
			continue
		}
		n++
		switch {
		case r.outcome() == "" && r.sig == "a{say}":
			good++
		case r.sig == "a{say}", r.outcome() != "" && r.outcome() != "LimitsExceeded":
			t.Fatalf("%q %q", r.outcome(), r.text())
		}
	}
	if good != calls {
		t.Errorf("%d of %d large answers", good, calls)
	}
	if r := deaf.call(get, nil, nil); r.outcome() != "" {
		t.Error("it reads again and gets: ", r.text())
	}
}

// TestABusThatDoesNotTell has no statistics: all is answered.
func TestABusThatDoesNotTell(t *testing.T) {
	c, p := playBus(t, Options{Identify: asHost})
	get := large(c)
	get.dest = ""
	asked := 0
	for n := range 10 {
		p.send(get, nil, nil) // the fifth waits until it is known
		for answered := false; !answered; {
			switch r := p.next(); {
			case r.member == "GetConnectionStats":
				asked++
				p.send(header{typ: dbus.TypeError, sender: busName, errName: errUnknownMethod, replySerial: r.serial}, nil, nil)
			case r.outcome() != "":
				t.Fatalf("answer %d: %s", n, r.text())
			default:
				answered = true
			}
		}
	}
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
}
