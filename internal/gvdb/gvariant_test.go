package gvdb

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"docportal/internal/bus"

	"pgregory.net/rapid"
)

// The examples of the GVariant specification, section 2.6 ("Worked Examples").
func TestGVariantExamples(t *testing.T) {
	for _, c := range []struct {
		sig, dbus, gvariant string
	}{
		{"s", "\x0b\x00\x00\x00hello world\x00", "hello world\x00"},
		{"ab", "\x14\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00",
			"\x01\x00\x00\x01\x01"},
		{"(si)", "\x03\x00\x00\x00foo\x00\xff\xff\xff\xff", "foo\x00\xff\xff\xff\xff\x04"},
		{"a(si)", "\x1c\x00\x00\x00\x00\x00\x00\x00" + "\x02\x00\x00\x00hi\x00\x00\xfe\xff\xff\xff\x00\x00\x00\x00" +
			"\x03\x00\x00\x00bye\x00\xff\xff\xff\xff",
			"hi\x00\x00\xfe\xff\xff\xff\x03\x00\x00\x00bye\x00\xff\xff\xff\xff\x04\x09\x15"},
		{"as", "\x25\x00\x00\x00\x01\x00\x00\x00i\x00\x00\x00\x03\x00\x00\x00can\x00\x03\x00\x00\x00has\x00\x08\x00\x00\x00strings?\x00",
			"i\x00can\x00has\x00strings?\x00\x02\x06\x0a\x13"},
		{"((ys)as)", "i\x00\x00\x00\x03\x00\x00\x00can\x00\x15\x00\x00\x00\x03\x00\x00\x00has\x00\x08\x00\x00\x00strings?\x00",
			"ican\x00has\x00strings?\x00\x04\x0d\x05"},
		{"a{si}", "\x10\x00\x00\x00\x00\x00\x00\x00\x05\x00\x00\x00a key\x00\x00\x00\x02\x02\x00\x00",
			"a key\x00\x00\x00\x02\x02\x00\x00\x06\x0d"},
		{"ay", "\x04\x00\x00\x00\x04\x05\x06\x07", "\x04\x05\x06\x07"},
		{"ai", "\x08\x00\x00\x00\x04\x00\x00\x00\x02\x01\x00\x00", "\x04\x00\x00\x00\x02\x01\x00\x00"},
		{"(yi)", "\x70\x00\x00\x00\x80\x00\x00\x00", "\x70\x00\x00\x00\x80\x00\x00\x00"},
		// A fixed-size tuple is padded to its alignment, D-Bus's is not.
		{"(iy)", "\x60\x00\x00\x00\x70", "\x60\x00\x00\x00\x70\x00\x00\x00"},
		{"a(iy)", "\x0d\x00\x00\x00\x00\x00\x00\x00\x60\x00\x00\x00\x70\x00\x00\x00\x48\x02\x00\x00\xf7",
			"\x60\x00\x00\x00\x70\x00\x00\x00\x48\x02\x00\x00\xf7\x00\x00\x00"},
		{"v", "\x01u\x00\x00\x01\x00\x00\x00", "\x01\x00\x00\x00\x00u"},
		{"g", "\x02ay\x00", "ay\x00"},
		{"o", "\x01\x00\x00\x00/\x00", "/\x00"},
		{"as", "\x00\x00\x00\x00", ""},
		{"ax", "\x00\x00\x00\x00\x00\x00\x00\x00", ""},
		{"a{sv}", "\x00\x00\x00\x00\x00\x00\x00\x00", ""},
	} {
		v := bus.Value{Signature: c.sig, Data: []byte(c.dbus)}
		want := []byte(c.gvariant + "\x00" + c.sig)
		got, err := appendVariant(nil, v)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: D-Bus %q became %q, %v; want %q", c.sig, c.dbus, got, err, want)
		}
		back, err := fromVariant(want)
		if err != nil || back.Signature != v.Signature || !bytes.Equal(back.Data, v.Data) {
			t.Errorf("%s: GVariant %q became %q, %v; want %q", c.sig, want, back, err, v)
		}
	}
}

func TestMalformedGVariantIsRefused(t *testing.T) {
	deep := []byte{0}
	sig := "y"
	for range maxNesting + 1 {
		deep = append(append(deep, 0), sig...)
		sig = "v"
	}
	for _, c := range []struct{ rule, child, sig string }{
		{"no type", "\x00", ""},
		{"two types", "\x00\x00", "yy"},
		{"a maybe type", "", "my"},
		{"the unit type", "\x00", "()"},
		{"an indefinite type", "", "*"},
		{"a dict entry alone", "\x00\x00", "{yy}"},
		{"a dict entry with a container for a key", "", "a{ayy}"},
		{"a dict entry of one", "", "a{y}"},
		{"a dict entry of three", "", "a{yyy}"},
		{"a tuple without its end", "\x00", "(y"},
		{"the wrong end", "\x00", "(y}"},
		{"an array of nothing", "", "a"},
		{"33 arrays", "", strings.Repeat("a", 33) + "y"},
		{"33 structs", "\x00", strings.Repeat("(", 33) + "y" + strings.Repeat(")", 33)},
		{"a type of 256 bytes", strings.Repeat("\x00", 254), "(" + strings.Repeat("y", 254) + ")"},
		{"65 levels", string(deep), "v"},
		{"a byte of no bytes", "", "y"},
		{"a number of too many", "\x00\x00\x00\x00\x00", "u"},
		{"a boolean 2", "\x02", "b"},
		{"a string without NUL", "a", "s"},
		{"a string of no bytes", "", "s"},
		{"a string with NUL", "a\x00b\x00", "s"},
		{"a string not UTF-8", "\xff\x00", "s"},
		{"an object path", "a\x00", "o"},
		{"a signature", "a\x00", "g"},
		{"a long signature", strings.Repeat("y", 256) + "\x00", "g"},
		{"an array with a half element", "\x00\x00\x00", "an"},
		{"an array of tuples with a half element", strings.Repeat("\x00", 9), "a(uy)"},
		{"a tuple too short", "\x00", "(yy)"},
		{"a tuple too long", "\x00\x00\x00", "(yy)"},
		{"an array whose offsets lie past it", "a\x00\x09", "as"},
		{"an array whose offsets go back", "a\x00b\x00\x04\x02", "as"},
		{"an array whose last offset leaves bytes", "a\x00\x00\x02", "as"},
		{"a tuple whose offset lies past it", "a\x00b\x00\x09", "(ss)"},
		{"a tuple with bytes between", "a\x00xxxxxx\x02", "(sy)"},
		{"a tuple with no room for the offset", "", "(ss)"},
		{"a tuple whose fixed member lies past it", "a\x00\x02", "(su)"},
		{"a variant without a type", "", "v"},
		{"a variant of many types", "\x00\x00\x00yy", "v"},
	} {
		if v, err := fromVariant([]byte(c.child + "\x00" + c.sig)); err == nil {
			t.Errorf("%s: read %q", c.rule, v)
		}
	}
	if v, err := fromVariant(nil); err == nil {
		t.Errorf("nothing: read %q", v)
	}
	if v, err := fromVariant([]byte("y")); err == nil {
		t.Errorf("a type alone: read %q", v)
	}
}

// Padding between members may hold anything in a file that somebody else wrote.
func TestPaddingIsNotLookedAt(t *testing.T) {
	v, err := fromVariant([]byte("\x01xxx\x02\x00\x00\x00\x00(yu)"))
	if want := (bus.Value{Signature: "(yu)", Data: []byte("\x01\x00\x00\x00\x02\x00\x00\x00")}); err != nil || !reflect.DeepEqual(v, want) {
		t.Errorf("read %q, %v", v, err)
	}
}

// Framing offsets are as wide as the container with them needs, at each edge.
func TestFramingOffsetWidths(t *testing.T) {
	for _, c := range []struct{ size, width int }{
		{253, 1}, {254, 1}, {255, 2}, {256, 2}, {65532, 2}, {65533, 2}, {65534, 4}, {65535, 4}, {65536, 4},
	} {
		// An array of one string of size bytes, NUL included.
		data := binary.LittleEndian.AppendUint32(nil, uint32(4+c.size))
		data = binary.LittleEndian.AppendUint32(data, uint32(c.size-1))
		data = append(append(data, strings.Repeat("x", c.size-1)...), 0)
		v := bus.Value{Signature: "as", Data: data}
		b, err := appendVariant(nil, v)
		if err != nil {
			t.Fatal(err)
		}
		if got := len(b) - len("\x00as") - c.size; got != c.width {
			t.Errorf("a string of %d bytes: offsets of %d, want %d", c.size, got, c.width)
		}
		if back, err := fromVariant(b); err != nil || !reflect.DeepEqual(back, v) {
			t.Errorf("a string of %d bytes does not come back: %v", c.size, err)
		}
	}
	if large := uint64(1 << 32); strconv.IntSize == 64 { // others hold no such value
		if got := offsetWidth(int(large)); got != 8 {
			t.Errorf("4 GiB: offsets of %d", got)
		}
	}
	if got := offset([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}); got >= 0 {
		t.Errorf("an offset of 2⁶⁴-1 is %d", got)
	}
}

// drawType draws a complete type that lies inside of that many containers.
func drawType(t *rapid.T, depth, limit int, room *int) string {
	const basic = "ybnqiuxtdsogh"
	*room--
	kinds := basic + "vv"
	if depth < limit && *room > 0 {
		kinds += "aaaaa((((({{{"
	}
	switch c := kinds[rapid.IntRange(0, len(kinds)-1).Draw(t, "kind")]; c {
	case 'a':
		return "a" + drawType(t, depth+1, limit, room)
	case '{':
		key := basic[rapid.IntRange(0, len(basic)-1).Draw(t, "key")]
		*room -= 4
		return "a{" + string(key) + drawType(t, depth+2, limit, room) + "}"
	case '(':
		s := "("
		*room--
		for range rapid.IntRange(1, 4).Draw(t, "members") {
			s += drawType(t, depth+1, limit, room)
		}
		return s + ")"
	default:
		return string(c)
	}
}

// drawValue draws a value of a type at the end of marshalled data, with its
// own idea of the format.
func drawValue(t *rapid.T, b []byte, sig string, depth int) (data []byte, rest string) {
	align := func(n int) {
		for len(b)%n != 0 {
			b = append(b, 0)
		}
	}
	text := func(s string) []byte {
		align(4)
		b = binary.LittleEndian.AppendUint32(b, uint32(len(s)))
		return append(append(b, s...), 0)
	}
	c, rest := sig[0], sig[1:]
	switch c {
	case 'y':
		return append(b, rapid.Byte().Draw(t, "y")), rest
	case 'b':
		align(4)
		return binary.LittleEndian.AppendUint32(b, uint32(rapid.IntRange(0, 1).Draw(t, "b"))), rest
	case 'n', 'q':
		align(2)
		return binary.LittleEndian.AppendUint16(b, rapid.Uint16().Draw(t, "q")), rest
	case 'i', 'u', 'h':
		align(4)
		return binary.LittleEndian.AppendUint32(b, rapid.Uint32().Draw(t, "u")), rest
	case 'x', 't', 'd':
		align(8)
		return binary.LittleEndian.AppendUint64(b, rapid.Uint64().Draw(t, "t")), rest
	case 's':
		s := rapid.SampledFrom([]string{"", "a", "é", "some more words"}).Draw(t, "s")
		if rapid.IntRange(0, 19).Draw(t, "long") == 0 {
			s = strings.Repeat("x", rapid.IntRange(200, 70000).Draw(t, "length"))
		}
		return text(s), rest
	case 'o':
		return text(rapid.SampledFrom([]string{"/", "/a", "/a/b_c"}).Draw(t, "o")), rest
	case 'g':
		s := rapid.SampledFrom([]string{"", "y", "a{sv}(ii)"}).Draw(t, "g")
		return append(append(append(b, byte(len(s))), s...), 0), rest
	case 'v':
		room := 10
		limit := 3
		if depth > 8 {
			limit, room = 0, 0
		}
		inner := drawType(t, 0, limit, &room)
		if depth > 24 {
			inner = "s"
		}
		b = append(append(append(b, byte(len(inner))), inner...), 0)
		b, _ = drawValue(t, b, inner, depth+1)
		return b, rest
	case '(', '{':
		align(8)
		for rest[0] != ')' && rest[0] != '}' {
			b, rest = drawValue(t, b, rest, depth+1)
		}
		return b, rest[1:]
	}
	// An array.
	align(4)
	b = append(b, 0, 0, 0, 0)
	at := len(b) - 4
	switch rest[0] {
	case 'x', 't', 'd', '(', '{':
		align(8)
	}
	start, n := len(b), 0
	if depth < 40 {
		n = rapid.IntRange(0, max(1, 4-depth/4)).Draw(t, "elements")
	}
	elem := rest
	// The size of each array is left to chance, of all together it is not.
	for range n {
		if len(b) > 200<<10 {
			break
		}
		b, _ = drawValue(t, b, elem, depth+1)
	}
	binary.LittleEndian.PutUint32(b[at:], uint32(len(b)-start))
	return b, skipType(elem)
}

// skipType returns what follows the first complete type.
func skipType(sig string) string {
	for sig[0] == 'a' {
		sig = sig[1:]
	}
	depth := 0
	for i := range sig {
		switch sig[i] {
		case '(', '{':
			depth++
		case ')', '}':
			depth--
		}
		if depth == 0 {
			return sig[i+1:]
		}
	}
	panic(sig)
}

// drawn draws a value of any type that D-Bus has.
func drawn(t *rapid.T) bus.Value {
	room := 40
	sig := drawType(t, 0, 28, &room)
	if len(sig) > 240 {
		sig = "av"
	}
	// Deep ones do not come about by chance.
	for range rapid.SampledFrom([]int{0, 0, 0, 1, 5, 32}).Draw(t, "wraps") {
		wrapped := []string{"a" + sig, "(" + sig + ")", "(s" + sig + "y)", "a{s" + sig + "}"}[rapid.IntRange(0, 3).Draw(t, "wrap")]
		if _, err := compile(wrapped); err == nil {
			sig = wrapped
		}
	}
	b, _ := drawValue(t, nil, sig, 0)
	v := bus.Value{Signature: sig, Data: b}
	if err := v.Check(); err != nil {
		if strings.Contains(err.Error(), "nested") {
			t.Skip(err)
		}
		t.Fatalf("drew %q %x: %v", sig, b, err)
	}
	return v
}

func TestAnyValueComesBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := drawn(t)
		b, err := appendVariant(nil, v)
		if err != nil {
			t.Fatalf("%q: %v", v.Signature, err)
		}
		back, err := fromVariant(b)
		if err != nil || back.Signature != v.Signature || !bytes.Equal(back.Data, v.Data) {
			t.Fatalf("%q %x\nas GVariant %x\nbecame %x, %v", v.Signature, v.Data, b, back.Data, err)
		}
	})
}

// Where a value begins in a file does not matter, as long as it is aligned.
func TestValuesDoNotDependOnTheirPlace(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := drawn(t)
		b, err := appendVariant(nil, v)
		if err != nil {
			t.Fatal(err)
		}
		before := make([]byte, 8*rapid.IntRange(1, 40000).Draw(t, "before"))
		c, err := appendVariant(before, v)
		if err != nil || !bytes.Equal(c[len(before):], b) {
			t.Fatalf("%q: %x, not %x", v.Signature, c[len(before):], b)
		}
	})
}

func TestAnyTableComesBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := drawnTable(t, rapid.IntRange(0, 12).Draw(t, "entries"))
		b, err := Encode(m)
		if err != nil {
			t.Fatal(err)
		}
		f, err := Parse(b)
		if err != nil || len(f.Problems) != 0 || !reflect.DeepEqual(f.Entries, m) {
			t.Fatalf("%v\nbecame %+v, %v", m, f, err)
		}
	})
}

func drawnTable(t *rapid.T, n int) map[string]Entry {
	m := make(map[string]Entry)
	for i := range n {
		e := Entry{Data: drawn(t)}
		for range rapid.IntRange(0, 4).Draw(t, "apps") {
			if e.Permissions == nil {
				e.Permissions = make(map[string][]string)
			}
			app := rapid.SampledFrom([]string{"", "org.a.A", "org.b.B", "snap.x", "é"}).Draw(t, "app")
			words := rapid.SliceOfN(rapid.SampledFrom([]string{"", "read", "write", "grant-permissions"}), 0, 5).Draw(t, "words")
			e.Permissions[app] = append([]string{}, words...)
		}
		m[fmt.Sprintf("id%d %s", i, rapid.SampledFrom([]string{"", "é", "/a/b"}).Draw(t, "id"))] = e
	}
	return m
}

func FuzzFromVariant(f *testing.F) {
	for _, s := range []string{"\x00\x00y", "a\x00b\x00\x02\x04\x00as", "\x01\x00\x00\x00\x00u\x00v", "hi\x00\x00\xfe\xff\xff\xff\x03\x00a(si)",
		"a\x00\x02\x00a{sas}", "\x00\x00\x00\x00\x00\x00\x00\x00\x00(ayttuay)"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := fromVariant(b)
		if err != nil {
			return
		}
		if len(v.Data) > 16*len(b)+64 {
			t.Fatalf("%d bytes became %d", len(b), len(v.Data))
		}
		g, err := appendVariant(nil, v)
		if err != nil {
			t.Fatal(err)
		}
		back, err := fromVariant(g)
		if err != nil || back.Signature != v.Signature || !bytes.Equal(back.Data, v.Data) {
			t.Fatalf("%q became %q, %v", v, back, err)
		}
	})
}

func FuzzAppendVariant(f *testing.F) {
	f.Add("y", []byte{0})
	f.Add("a{sv}", []byte("\x10\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00a\x00\x01u\x00\x00\x00\x00\x01\x00\x00\x00"))
	f.Add("(ayttu)", make([]byte, 28))
	f.Add("as", []byte("\x06\x00\x00\x00\x01\x00\x00\x00a\x00"))
	f.Fuzz(func(t *testing.T, sig string, data []byte) {
		v := bus.Value{Signature: sig, Data: data}
		b, err := appendVariant(nil, v)
		if err != nil {
			return
		}
		back, err := fromVariant(b)
		if err != nil || back.Signature != sig || !bytes.Equal(back.Data, data) {
			t.Fatalf("%q became %q, %v", v, back, err)
		}
	})
}
