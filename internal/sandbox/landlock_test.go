package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestAbstractBusIsRefusedWhereItCannotBeKeptOut(t *testing.T) {
	path := BusAddress{Address: "unix:path=/x", Sockets: []string{"/x"}}
	abstract := BusAddress{Address: "unix:abstract=/x", Abstract: true}
	for _, c := range []struct {
		name    string
		network bool
		buses   []BusAddress
		abi     int
		refused bool
	}{
		{"own network", false, []BusAddress{abstract}, 0, false},
		{"own network, new kernel", false, []BusAddress{abstract}, 6, false},
		{"new kernel", true, []BusAddress{abstract}, 6, false},
		{"new kernel, bus at a path", true, []BusAddress{path}, 7, false},
		{"old kernel, bus at a path", true, []BusAddress{path}, 5, false},
		{"no Landlock, bus at a path", true, []BusAddress{path}, 0, false},
		{"old kernel", true, []BusAddress{abstract}, 5, true},
		{"no Landlock", true, []BusAddress{abstract}, 0, true},
		{"only the second bus", true, []BusAddress{path, abstract}, 5, true},
	} {
		err := checkAbstract(c.network, c.buses, c.abi)
		if (err != nil) != c.refused || err != nil && !errors.Is(err, errNoScopes) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestScopes(t *testing.T) {
	plain, setuid := filepath.Join(t.TempDir(), "bwrap"), filepath.Join(t.TempDir(), "bwrap")
	for path, mode := range map[string]os.FileMode{plain: 0o755, setuid: 0o755 | os.ModeSetuid} {
		write(t, path, "")
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		network bool
		abi     int
		bwrap   string
		want    uint64
	}{
		{false, 5, plain, 0},
		{true, 5, plain, 0},
		{false, 6, plain, scopeSignal},
		{true, 6, plain, scopeSignal | scopeAbstractUnixSocket},
		{false, 6, setuid, 0},
		{true, 7, setuid, scopeSignal | scopeAbstractUnixSocket},
	} {
		if got := scopes(c.network, c.abi, c.bwrap); got != c.want {
			t.Errorf("%+v: %#x", c, got)
		}
	}
}
