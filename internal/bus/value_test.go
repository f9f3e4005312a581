package bus

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
	"pgregory.net/rapid"
)

// marshaller writes D-Bus values by the letter of the specification, in either
// byte order and from any offset, and shares nothing with the code that it
// tests.
type marshaller struct {
	order  binary.AppendByteOrder
	offset int // of buf in the message
	buf    []byte
}

func (m *marshaller) pad(n int) {
	for (m.offset+len(m.buf))%n != 0 {
		m.buf = append(m.buf, 0)
	}
}

// sample is a value of a type: a tree of what is to be written.
type sample struct {
	typ  string
	num  uint64
	text string
	kids []sample
}

func (m *marshaller) write(s sample) {
	switch s.typ[0] {
	case 'y':
		m.buf = append(m.buf, byte(s.num))
	case 'n', 'q':
		m.pad(2)
		m.buf = m.order.AppendUint16(m.buf, uint16(s.num))
	case 'b', 'i', 'u', 'h':
		m.pad(4)
		m.buf = m.order.AppendUint32(m.buf, uint32(s.num))
	case 'x', 't', 'd':
		m.pad(8)
		m.buf = m.order.AppendUint64(m.buf, s.num)
	case 's', 'o':
		m.pad(4)
		m.buf = m.order.AppendUint32(m.buf, uint32(len(s.text)))
		m.buf = append(append(m.buf, s.text...), 0)
	case 'g':
		m.buf = append(m.buf, byte(len(s.text)))
		m.buf = append(append(m.buf, s.text...), 0)
	case 'v':
		m.write(sample{typ: "g", text: s.kids[0].typ})
		m.write(s.kids[0])
	case 'a':
		m.pad(4)
		at := len(m.buf)
		m.buf = append(m.buf, 0, 0, 0, 0)
		switch s.typ[1] {
		case '(', '{', 'x', 't', 'd':
			m.pad(8)
		case 'n', 'q':
			m.pad(2)
		}
		start := len(m.buf)
		for _, k := range s.kids {
			m.write(k)
		}
		length := m.order.AppendUint32(nil, uint32(len(m.buf)-start))
		copy(m.buf[at:], length)
	case '(', '{':
		m.pad(8)
		for _, k := range s.kids {
			m.write(k)
		}
	}
}

func marshalled(order binary.AppendByteOrder, offset int, s sample) []byte {
	m := marshaller{order: order, offset: offset}
	m.write(s)
	return m.buf
}

const basics = "ybnqiuxtdsogh"

// drawType draws a type with at most the given numbers of nested arrays and
// structs.
func drawType(t *rapid.T, arrays, structs int) string {
	kinds := []string{"basic", "variant"}
	if arrays > 0 {
		kinds = append(kinds, "array", "array", "dict")
	}
	if structs > 0 {
		kinds = append(kinds, "struct", "struct")
	}
	switch rapid.SampledFrom(kinds).Draw(t, "kind") {
	case "array":
		return "a" + drawType(t, arrays-1, structs)
	case "dict":
		return "a{" + string(drawBasic(t)) + drawType(t, arrays-1, structs) + "}"
	case "struct":
		inner := drawType(t, arrays, structs-1)
		for range rapid.IntRange(0, 2).Draw(t, "more") {
			inner += string(drawBasic(t))
		}
		return "(" + inner + ")"
	case "variant":
		return "v"
	}
	return string(drawBasic(t))
}

func drawBasic(t *rapid.T) byte { return rapid.SampledFrom([]byte(basics)).Draw(t, "basic") }

// drawSample draws a value of a type. depth counts the containers around it.
func drawSample(t *rapid.T, typ string, depth int) sample {
	s := sample{typ: typ}
	switch typ[0] {
	case 's':
		s.text = rapid.StringN(0, 5, -1).Filter(func(s string) bool { return !strings.Contains(s, "\x00") }).Draw(t, "s")
	case 'o':
		s.text = rapid.SampledFrom([]string{"/", "/a", "/a/b_1"}).Draw(t, "o")
	case 'g':
		s.text = rapid.SampledFrom([]string{"", "s", "a{sv}(y)"}).Draw(t, "g")
	case 'b':
		s.num = uint64(rapid.IntRange(0, 1).Draw(t, "b"))
	case 'v':
		arrays := 3
		if depth > 40 {
			arrays = 0 // or it would be deeper than D-Bus allows
		}
		s.kids = []sample{drawSample(t, drawType(t, arrays, arrays), depth+1)}
	case 'a':
		for range rapid.SampledFrom([]int{0, 0, 1, 2}).Draw(t, "n") {
			s.kids = append(s.kids, drawSample(t, typ[1:], depth+1))
		}
	case '(', '{':
		for members := typ[1 : len(typ)-1]; members != ""; {
			var first string
			first, members = nextType(members)
			s.kids = append(s.kids, drawSample(t, first, depth+1))
		}
	default:
		s.num = rapid.Uint64().Draw(t, "num")
	}
	return s
}

func readValue(order binary.ByteOrder, typ string, data []byte) (Value, error) {
	d := decoder{order: order, data: data}
	v, err := d.value(typ, 0)
	if err == nil && d.pos != len(data) {
		err = errShort
	}
	return v, err
}

func TestValuesAreKeptExactly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		typ := drawType(t, rapid.SampledFrom([]int{1, 4, 32}).Draw(t, "arrays"), rapid.SampledFrom([]int{0, 2, 16}).Draw(t, "structs"))
		if len(typ) > 255 {
			t.Skip("too long")
		}
		s := drawSample(t, typ, 0)
		want := marshalled(binary.LittleEndian, 0, s)
		for _, order := range []interface {
			binary.ByteOrder
			binary.AppendByteOrder
		}{binary.LittleEndian, binary.BigEndian} {
			v, err := readValue(order, typ, marshalled(order, 0, s))
			if err != nil {
				t.Fatalf("%s: %v", typ, err)
			}
			if v.Signature != typ || !bytes.Equal(v.Data, want) {
				t.Fatalf("%s from %v:\n% x, want\n% x", typ, order, v.Data, want)
			}
			if err := v.Check(); err != nil {
				t.Fatalf("%s: %v", typ, err)
			}
			// As a variant at any place in a message, and back.
			shift := rapid.IntRange(0, 7).Draw(t, "shift")
			e := encoder{buf: make([]byte, shift)}
			if err := e.variant(v); err != nil {
				t.Fatal(err)
			}
			if sent := marshalled(binary.LittleEndian, shift, sample{typ: "v", kids: []sample{s}}); !bytes.Equal(e.buf[shift:], sent) {
				t.Fatalf("%s at %d:\n% x, want\n% x", typ, shift, e.buf[shift:], sent)
			}
			d := decoder{order: order, data: append(make([]byte, shift), marshalled(order, shift, sample{typ: "v", kids: []sample{s}})...), pos: shift}
			if back, err := d.variant(1); err != nil || back.Signature != typ || !bytes.Equal(back.Data, want) {
				t.Fatalf("%s from %d: %v, %v", typ, shift, back, err)
			}
		}
		if v := (Value{typ, want}); v.HasFD() != strings.Contains(typesIn(s), "h") {
			t.Fatalf("%s % x: HasFD = %v", typ, want, v.HasFD())
		}
	})
}

// typesIn lists the types of all values that are really there.
func typesIn(s sample) string {
	all := s.typ[:1]
	for _, k := range s.kids {
		all += typesIn(k)
	}
	return all
}

func TestEmptyArraysOfEveryType(t *testing.T) {
	for _, elem := range []string{"y", "b", "n", "q", "i", "u", "x", "t", "d", "s", "o", "g", "h", "v", "as", "a{sv}", "(y)", "(t)", "{sv}", "{yt}"} {
		for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
			typ := "a" + elem
			want := []byte{0, 0, 0, 0}
			if strings.IndexByte("xtd({", elem[0]) >= 0 {
				want = append(want, 0, 0, 0, 0)
			}
			v, err := readValue(order, typ, want)
			if err != nil || v.Signature != typ || !bytes.Equal(v.Data, want) {
				t.Errorf("%s: %v, %v", typ, v, err)
			}
			if _, err := readValue(order, typ, want[:len(want)-1]); err == nil {
				t.Errorf("%s cut short is accepted", typ)
			}
		}
	}
}

func TestValueConversions(t *testing.T) {
	for _, test := range []struct {
		sig  string
		arg  any
		data string
	}{
		{"y", byte(0), "\x00"},
		{"b", true, "\x01\x00\x00\x00"},
		{"u", uint32(5), "\x05\x00\x00\x00"},
		{"s", "a", "\x01\x00\x00\x00a\x00"},
		{"o", "/", "\x01\x00\x00\x00/\x00"},
		{"ay", []byte("a"), "\x01\x00\x00\x00a"},
		{"as", []string{}, "\x00\x00\x00\x00"},
		{"v", Value{"y", []byte{7}}, "\x01y\x00\x07"},
		{"a{sas}", map[string][]string{"b": nil, "a": nil}, "\x1c\x00\x00\x00\x00\x00\x00\x00" +
			"\x01\x00\x00\x00a\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" + "\x01\x00\x00\x00b\x00\x00\x00\x00\x00\x00\x00"},
		{"(yu)", Value{"(yu)", []byte{1, 0, 0, 0, 2, 0, 0, 0}}, "\x01\x00\x00\x00\x02\x00\x00\x00"},
	} {
		v, err := ValueOf(test.sig, test.arg)
		if err != nil || string(v.Data) != test.data {
			t.Errorf("ValueOf(%q, %v) = % x, %v; want % x", test.sig, test.arg, v.Data, err, test.data)
		}
		if err := v.Check(); err != nil {
			t.Errorf("%s: %v", test.sig, err)
		}
	}
	v := Value{"s", []byte("\x01\x00\x00\x00a\x00")}
	var s string
	if err := v.Scan(&s); err != nil || s != "a" {
		t.Errorf("Scan: %q, %v", s, err)
	}
	var u uint32
	if err := v.Scan(&u); err == nil {
		t.Error("a string was scanned into a number")
	}
	if err := (Value{}).Scan(&s); err == nil {
		t.Error("no value was scanned")
	}
	for name, v := range map[string]Value{
		"no type":         {"", nil},
		"two types":       {"yy", []byte{1, 1}},
		"bad type":        {"z", []byte{1}},
		"short":           {"u", []byte{1}},
		"long":            {"y", []byte{1, 1}},
		"padding not 0":   {"(yu)", []byte{1, 9, 0, 0, 2, 0, 0, 0}},
		"boolean 2":       {"b", []byte{2, 0, 0, 0}},
		"text not UTF-8":  {"s", []byte("\x01\x00\x00\x00\xff\x00")},
		"length too long": {"as", []byte{9, 0, 0, 0}},
	} {
		if v.Check() == nil {
			t.Errorf("%s: Check accepts it", name)
		}
	}
}

func TestADictionaryWithAKeyTwiceIsRefused(t *testing.T) {
	m := marshaller{order: binary.LittleEndian}
	entry := sample{typ: "{sas}", kids: []sample{{typ: "s", text: "a"}, {typ: "as"}}}
	m.write(sample{typ: "a{sas}", kids: []sample{entry, entry}})
	if _, err := decodeBody(binary.LittleEndian, "a{sas}", m.buf); err == nil {
		t.Error("accepted")
	}
}

// TestWhatIsSmallInAMessageStaysSo: arguments of very many parts are refused,
// long before the whole body is too large.
func TestWhatIsSmallInAMessageStaysSo(t *testing.T) {
	for sig, limit := range map[string]int{"a{sv}": maxEntries, "a{sas}": maxEntries, "as": maxStrings} {
		for n, good := range map[int]bool{limit: true, limit + 1: false} {
			var e encoder
			err := e.array(sig[1], func() error {
				for i := range n {
					if sig[1] == 's' {
						e.text("")
						continue
					}
					e.align(8)
					e.text(fmt.Sprint(i))
					if sig == "a{sv}" {
						e.signature("y")
						e.byte(0)
					} else {
						e.uint32(0)
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := decodeBody(binary.LittleEndian, sig, e.buf); (err == nil) != good {
				t.Errorf("%d of %s: %v", n, sig, err)
			}
		}
	}
}

func TestSignatures(t *testing.T) {
	deep := strings.Repeat("a", 32) + "y"
	structs := strings.Repeat("(", 32) + "y" + strings.Repeat(")", 32)
	for sig, want := range map[string]bool{
		"": true, "y": true, "sas": true, "a{sv}": true, "(y(s))": true, "a(y)": true, "a{s(yv)}": true,
		deep: true, "a" + deep: false, structs: true, "(" + structs + ")": false,
		strings.Repeat("y", 255): true, strings.Repeat("y", 256): false,
		"a": false, "()": false, "a()": false, "(": false, ")": false, "(y": false, "y)": false, "{sv}": false,
		"a{s}": false, "a{svv}": false, "a{vs}": false, "a{asv}": false, "a{(y)v}": false, "a{}": false, "a{sv": false,
		"z": false, "y\x00": false, "({sv})": false, "a{s{sv}}": false, "(y}": false, "a{sv)": false, "r": false, "e": false, "m": false,
	} {
		if err := checkSignature(sig); (err == nil) != want {
			t.Errorf("signature %q: %v, want valid %v", sig, err, want)
		}
	}
	if first, rest := nextType("a{s(yv)}as"); first != "a{s(yv)}" || rest != "as" {
		t.Errorf("nextType: %q, %q", first, rest)
	}
}

func TestNames(t *testing.T) {
	long := "a." + strings.Repeat("b", 253)
	for _, test := range []struct {
		name       string
		iface, bus bool
	}{
		{"a.b", true, true}, {"a", false, false}, {"", false, false}, {"a.b-c", false, true}, {"a.1b", false, false},
		{":1.2", false, true}, {":1", false, false}, {"a..b", false, false}, {".a.b", false, false}, {"a.b.", false, false},
		{long, true, true}, {long + "b", false, false}, {"a.b\x00", false, false}, {"a.ü", false, false}, {"_a._b", true, true},
	} {
		if got := validName(test.name, false); got != test.iface {
			t.Errorf("interface name %q: %v", test.name, got)
		}
		if got := validName(test.name, true); got != test.bus {
			t.Errorf("bus name %q: %v", test.name, got)
		}
	}
	for name, want := range map[string]bool{"A": true, "a_1": true, "": false, "1a": false, "a.b": false, "a-b": false, strings.Repeat("a", 256): false} {
		if got := validMember(name); got != want {
			t.Errorf("member %q: %v", name, got)
		}
	}
}

func TestWhatWeSendIsWhatGodbusReads(t *testing.T) {
	h := header{typ: dbus.TypeMethodCall, serial: 7, dest: "a.b", path: "/x", iface: "c.d", member: "E", sig: "sa{say}v"}
	data := h.bytes(t, body(t, h.sig, "x", map[string][]byte{"k": {1, 2}}, mustValue(t, "as", []string{"y"})))
	m, err := dbus.DecodeMessage(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if m.Serial() != 7 || m.Type != dbus.TypeMethodCall || m.Headers[dbus.FieldMember].Value() != "E" || m.Headers[dbus.FieldDestination].Value() != "a.b" {
		t.Errorf("header: %v", m)
	}
	if len(m.Body) != 3 || m.Body[0] != "x" || !bytes.Equal(m.Body[1].(map[string][]byte)["k"], []byte{1, 2}) ||
		!slices.Equal(m.Body[2].(dbus.Variant).Value().([]string), []string{"y"}) {
		t.Errorf("body: %v", m.Body)
	}
}

func TestAnElementDoesNotReachPastItsArray(t *testing.T) {
	short := []byte{5, 0, 0, 0, 1, 0, 0, 0, 'x', 0} // the string takes 6 bytes
	if v, err := readValue(binary.LittleEndian, "as", short); err == nil {
		t.Errorf("as: %v", v)
	}
	if args, err := decodeBody(binary.LittleEndian, "as", short); err == nil {
		t.Errorf("as: %v", args)
	}
}

func TestALargeDictionaryIsTheSameAsAMap(t *testing.T) {
	for _, n := range []int{0, 1, 3, 1000, 20000} {
		m := make(map[string][]byte)
		var keys []string
		for i := range n {
			k := fmt.Sprintf("%06d", i)[:4+i%3]
			if m[k] == nil {
				keys, m[k] = append(keys, k), append([]byte(strings.Repeat("/path", i%50)), 0)
			}
		}
		m["long"] = append([]byte(strings.Repeat("/x", len(piece{}))), 0)
		keys = append(keys, "long")
		if n == 0 {
			keys, m = nil, nil
		}
		slices.Sort(keys)
		d := new(ByteDict)
		for _, k := range keys {
			if err := d.Add([]byte(k), bytes.TrimSuffix(m[k], []byte{0})); err != nil {
				t.Fatal(err)
			}
		}
		got, _, err := encodeResults("a{say}", []any{d})
		want, err2 := encodeBody("a{say}", []any{m})
		if err != nil || err2 != nil || !bytes.Equal(bytes.Join(got, nil), want) {
			t.Errorf("%d entries: %v, %v, other bytes", n, err, err2)
		}
		if n == 20000 && len(got) < 10 {
			t.Errorf("%d pieces", len(got))
		}
	}
	for sig, args := range map[string][]any{"sa{say}": {"x", new(ByteDict)}, "a{say}s": {new(ByteDict), "x"}, "a{sas}": {new(ByteDict)}} {
		if _, _, err := encodeResults(sig, args); err == nil {
			t.Error("a dictionary as one of ", sig)
		}
	}
	for _, key := range []string{"\xff", "a\x00"} {
		if new(ByteDict).Add([]byte(key), nil) == nil {
			t.Errorf("the key %q", key)
		}
	}
	d, value := new(ByteDict), make([]byte, 1<<20)
	for n := 0; d.Add(nil, value) == nil; n++ {
		if n > maxArray>>20 {
			t.Fatal("a dictionary without end")
		}
	}
}
