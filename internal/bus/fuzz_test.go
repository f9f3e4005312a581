package bus

import (
	"bytes"
	"encoding/binary"
	"os"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// FuzzFraming feeds any bytes to a connection: it must end or go on waiting,
// and answer every call that it could read.
func FuzzFraming(f *testing.F) {
	for _, h := range []header{echo("Text", "s"), echo("Files", "ah"), {path: "/", iface: peerName, member: "Ping"}} {
		h.typ, h.serial, h.sender = dbus.TypeMethodCall, 1, ":1.7"
		data := h.bytes(f, []byte{1, 0, 0, 0, 'x', 0})
		f.Add(data)
		f.Add(append(data, data...))
		f.Add(data[:len(data)-3])
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		c, err := start(os.NewFile(uintptr(fds[0]), "conn"), Options{Identify: asHost})
		if err != nil {
			t.Fatal(err)
		}
		echoer(c)
		peer := os.NewFile(uintptr(fds[1]), "bus")
		go discardAll(peer)
		peer.SetDeadline(time.Now().Add(patience))
		peer.Write(data)
		unix.Shutdown(fds[1], unix.SHUT_WR)
		select {
		case <-c.Done():
		case <-time.After(patience):
			t.Fatal("the end of the stream was not seen")
		}
		c.Close()
		peer.Close()
	})
}

// FuzzValue brings any bytes of any type into canonical form: what is accepted
// is a fixed point and survives being sent.
func FuzzValue(f *testing.F) {
	f.Add("a{sv}", []byte{0, 0, 0, 0, 0, 0, 0, 0}, false)
	f.Add("(yxs)", []byte{1, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2, 0, 0, 0, 0, 0}, true)
	f.Add("av", []byte{0, 0, 0, 4, 1, 'y', 0, 1}, true)
	f.Add("aau", []byte{8, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0}, false)
	f.Fuzz(func(t *testing.T, sig string, data []byte, big bool) {
		if checkSingle(sig) != nil {
			return
		}
		var order binary.ByteOrder = binary.LittleEndian
		if big {
			order = binary.BigEndian
		}
		d := decoder{order: order, data: data}
		v, err := d.value(sig, 0)
		if err != nil {
			return
		}
		if err := v.Check(); err != nil {
			t.Fatalf("%q % x became % x: %v", sig, data, v.Data, err)
		}
		if len(v.Data) != d.pos {
			t.Fatalf("%q: %d bytes became %d", sig, d.pos, len(v.Data))
		}
		v.HasFD()
		e := encoder{buf: make([]byte, 3)}
		if err := e.variant(v); err != nil {
			return // one level deeper may be too deep
		}
		back := decoder{order: binary.LittleEndian, data: e.buf, pos: 3}
		if w, err := back.variant(0); err != nil || w.Signature != v.Signature || !bytes.Equal(w.Data, v.Data) {
			t.Fatalf("%q % x came back as %v, %v", sig, v.Data, w, err)
		}
	})
}

// FuzzScan decodes any body of any signature: what is accepted can be encoded
// again and means the same.
func FuzzScan(f *testing.F) {
	f.Add("sas", []byte{1, 0, 0, 0, 'x', 0, 0, 0, 0, 0, 0, 0}, false)
	f.Add("ahusas", make([]byte, 24), false)
	f.Add("a{sv}a{say}a{sas}", make([]byte, 24), true)
	f.Add("ybnqiuxtdsogv", make([]byte, 80), true)
	f.Fuzz(func(t *testing.T, sig string, data []byte, big bool) {
		if checkSignature(sig) != nil {
			return
		}
		var order binary.ByteOrder = binary.LittleEndian
		if big {
			order = binary.BigEndian
		}
		args, err := decodeBody(order, sig, data)
		if err != nil {
			return
		}
		one, err := encodeBody(sig, args)
		if err != nil {
			t.Fatalf("%q: %v cannot be encoded: %v", sig, args, err)
		}
		again, err := decodeBody(binary.LittleEndian, sig, one)
		if err != nil {
			t.Fatalf("%q: % x cannot be decoded: %v", sig, one, err)
		}
		if two, err := encodeBody(sig, again); err != nil || !bytes.Equal(one, two) {
			t.Fatalf("%q: % x became % x, %v", sig, one, two, err)
		}
	})
}
