package sandbox

import (
	"slices"
	"strings"
	"testing"
)

func TestBusAddressOfAnyForm(t *testing.T) {
	for _, c := range []struct {
		raw, address string
		sockets      []string
		abstract     bool
	}{
		{"unix:path=/run/user/1/bus", "unix:path=/run/user/1/bus", []string{"/run/user/1/bus"}, false},
		{"unix:path=/tmp/dbus-x,guid=0123", "unix:path=/tmp/dbus-x,guid=0123", []string{"/tmp/dbus-x"}, false},
		{"unix:path=/tmp/a%20b%2cc", "unix:path=/tmp/a%20b%2cc", []string{"/tmp/a b,c"}, false},
		{"unix:abstract=/tmp/dbus-x,guid=1", "unix:abstract=/tmp/dbus-x,guid=1", nil, true},
		{"unix:runtime=yes", "unix:path=/r%20t/bus", []string{"/r t/bus"}, false},
		{"unix:path=/a;unix:path=/b;", "unix:path=/a;unix:path=/b", []string{"/a", "/b"}, false},
		{"unixexec:path=/bin/x;unix:path=/b", "unix:path=/b", []string{"/b"}, false},
		{"tcp:host=localhost,port=1", "tcp:host=localhost,port=1", nil, false},
	} {
		a, err := ParseAddress(c.raw, "/r t")
		if err != nil || a.Address != c.address || !slices.Equal(a.Sockets, c.sockets) || a.Abstract != c.abstract {
			t.Errorf("%s: got %+v, %v", c.raw, a, err)
		}
	}
	for _, c := range []struct{ raw, err string }{
		{"", "empty"}, {"autolaunch:", "cannot use"}, {"unixexec:path=/x", "cannot use"}, {"unix:path=rel", "cannot use"},
		{"nonsense", "without a transport"}, {"unix:path", "no key=value"}, {"unix:path=/a%2", "no key=value"}, {"unix:path=/a%00", "no key=value"}, {"unix:path=/a%zz", "no key=value"},
	} {
		if a, err := ParseAddress(c.raw, "/r"); err == nil || !strings.Contains(err.Error(), c.err) {
			t.Errorf("%q: got %+v, %v, want %s", c.raw, a, err, c.err)
		}
	}
}
