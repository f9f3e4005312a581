package permstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"docportal/internal/bus"
)

func bytesOf(n int) bus.Value {
	return bus.Value{Signature: "ay", Data: append([]byte{byte(n), byte(n >> 8), byte(n >> 16), 0}, make([]byte, n)...)}
}

// variants makes a value of n variants inside each other.
func variants(n int) bus.Value {
	var b []byte
	for range n - 1 {
		b = append(b, 1, 'v', 0)
	}
	return bus.Value{Signature: "v", Data: append(b, 1, 'y', 0, 7)}
}

func apps(n int) map[string][]string {
	m := map[string][]string{}
	for i := range n {
		m[fmt.Sprint("a", i)] = nil
	}
	return m
}

func TestLimits(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	long := strings.Repeat("x", 255)
	id := strings.Repeat("i", 4096)
	for _, c := range []struct {
		name      string
		table, id string
		e         Entry
		ok        bool
	}{
		{"plain", "t", "i", Entry{Data: nothing}, true},
		{"longest names", long, id, Entry{Data: nothing, Permissions: map[string][]string{long: nil}}, true},
		{"empty app", "t", "i", Entry{Data: nothing, Permissions: map[string][]string{"": {"yes"}}}, true},
		{"id of anything", "t", "../ /\n", Entry{Data: nothing}, true},
		{"no table", "", "i", Entry{Data: nothing}, false},
		{"table too long", long + "x", "i", Entry{Data: nothing}, false},
		{"table with a slash", "a/b", "i", Entry{Data: nothing}, false},
		{"table with a NUL", "a\x00b", "i", Entry{Data: nothing}, false},
		{"table .", ".", "i", Entry{Data: nothing}, false},
		{"table ..", "..", "i", Entry{Data: nothing}, false},
		{"table no UTF-8", "\xff", "i", Entry{Data: nothing}, false},
		{"no id", "t", "", Entry{Data: nothing}, false},
		{"id too long", "t", id + "i", Entry{Data: nothing}, false},
		{"app too long", "t", "i", Entry{Data: nothing, Permissions: map[string][]string{long + "x": nil}}, false},
		{"app with a slash", "t", "i", Entry{Data: nothing, Permissions: map[string][]string{"a/b": nil}}, false},
		{"app ..", "t", "i", Entry{Data: nothing, Permissions: map[string][]string{"..": nil}}, false},
		{"most data", "t", "i", Entry{Data: bytesOf(MaxData - 4)}, true},
		{"too much data", "t", "i", Entry{Data: bytesOf(MaxData - 3)}, false},
		{"most apps", "t", "i", Entry{Data: nothing, Permissions: apps(MaxApps)}, true},
		{"too many apps", "t", "i", Entry{Data: nothing, Permissions: apps(MaxApps + 1)}, false},
		{"deepest", "t", "i", Entry{Data: variants(64)}, true},
		{"too deep", "t", "i", Entry{Data: variants(65)}, false},
		{"far too deep", "t", "i", Entry{Data: variants(20000)}, false},
		{"no data", "t", "i", Entry{}, false},
		{"data cut short", "t", "i", Entry{Data: bus.Value{Signature: "u", Data: []byte{1, 2, 3}}}, false},
		{"data too long", "t", "i", Entry{Data: bus.Value{Signature: "y", Data: []byte{1, 2}}}, false},
		{"data of two types", "t", "i", Entry{Data: bus.Value{Signature: "yy", Data: []byte{1, 2}}}, false},
		{"words too long", "t", "i", Entry{Data: nothing, Permissions: map[string][]string{"a": {strings.Repeat("w", 5<<20)}}}, false},
	} {
		err := s.Update(context.Background(), func(tx *Tx) error { return tx.Put(c.table, c.id, c.e) })
		var limit *InvalidError
		if c.ok != (err == nil) || !c.ok && !errors.As(err, &limit) {
			t.Errorf("%s: %v", c.name, err)
		}
		if _, ok := get(t, s, c.table, c.id); c.ok && !ok {
			t.Errorf("%s: not there", c.name)
		}
	}
}

func TestNesting(t *testing.T) {
	for _, c := range []struct {
		sig  string
		data string
		want int // -1: malformed
	}{
		{"y", "\x00", 0},
		{"(y)", "\x00", 1},
		{"a{sv}", "\x00\x00\x00\x00\x00\x00\x00\x00", 2}, // an empty array has no variant
		{"aai", "\x00\x00\x00\x00", 2},
		{"ay", "\x01\x00\x00\x00\x07", 1},
		{"v", "\x01y\x00\x07", 1},
		{"v", "\x01v\x00\x01y\x00\x07", 2},
		{"s", "\x02\x00\x00\x00hi\x00", 0},
		{"(ys)", "\x01\x00\x00\x00\x02\x00\x00\x00hi\x00", 1},
		{"at", "\x08\x00\x00\x00\x00\x00\x00\x0012345678", 1},
		{"at", "\x07\x00\x00\x00\x00\x00\x00\x001234567", -1},
		{"a", "\x00\x00\x00\x00", -1},
		{"(", "", -1},
		{"v", "\x02yy\x00\x07\x07", -1},
		{"q", "\x00", -1},
		{"s", "\xff\xff\xff\xff", -1},
	} {
		got, err := nesting(bus.Value{Signature: c.sig, Data: []byte(c.data)})
		if err != nil {
			got = -1
		}
		if got != c.want {
			t.Errorf("%s %q: %d, want %d", c.sig, c.data, got, c.want)
		}
	}
}
