package sandbox

import (
	"errors"
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
		scope   bool
		refused bool
	}{
		{"own network", false, []BusAddress{abstract}, 0, false, false},
		{"own network, new kernel", false, []BusAddress{abstract}, 6, false, false},
		{"new kernel", true, []BusAddress{abstract}, 6, true, false},
		{"new kernel, bus at a path", true, []BusAddress{path}, 7, true, false},
		{"old kernel, bus at a path", true, []BusAddress{path}, 5, false, false},
		{"no Landlock, bus at a path", true, []BusAddress{path}, 0, false, false},
		{"old kernel", true, []BusAddress{abstract}, 5, false, true},
		{"no Landlock", true, []BusAddress{abstract}, 0, false, true},
		{"only the second bus", true, []BusAddress{path, abstract}, 5, false, true},
	} {
		scope, err := checkAbstract(c.network, c.buses, c.abi)
		if scope != c.scope || (err != nil) != c.refused || err != nil && !errors.Is(err, errNoScopes) {
			t.Errorf("%s: scope %v, %v", c.name, scope, err)
		}
	}
}
