package bus

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"slices"
	"strings"
)

// object is an exported object, or one that is only there because others lie
// below it.
type object struct {
	interfaces []*exported
	standard   []*exported
	children   []string // names of the objects right below, sorted
}

// exported is an interface of one object.
type exported struct {
	*Interface
	methods map[string]*Method
}

func index(i *Interface) *exported {
	x := &exported{i, make(map[string]*Method, len(i.Methods))}
	for n := range i.Methods {
		m := &i.Methods[n]
		for _, sig := range []string{m.In, m.Out} {
			if err := checkSignature(sig); err != nil {
				panic(fmt.Sprintf("bus: %s.%s: %v", i.Name, m.Name, err))
			}
		}
		if !validMember(m.Name) || m.Handle == nil && !m.open || x.methods[m.Name] != nil {
			panic(fmt.Sprintf("bus: %s.%s is no method", i.Name, m.Name))
		}
		x.methods[m.Name] = m
	}
	return x
}

// Export adds interfaces to an object. Peer, Introspectable and Properties are
// there by themselves. Export everything before the first RequestName. It
// panics if a path, name or signature breaks the grammar.
func (c *Conn) Export(path string, interfaces ...*Interface) {
	if !validPath(path) || len(path) > maxField {
		panic(fmt.Sprintf("bus: %q is no object path", path))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.object(path)
	for _, i := range interfaces {
		if !validName(i.Name, false) {
			panic(fmt.Sprintf("bus: %q is no interface name", i.Name))
		}
		for name, v := range i.Properties {
			if err := v.Check(); err != nil {
				panic(fmt.Sprintf("bus: property %s.%s: %v", i.Name, name, err))
			}
		}
		o.interfaces = append(o.interfaces, index(i))
	}
	for path != "/" {
		slash := strings.LastIndexByte(path, '/')
		name := path[slash+1:]
		path = path[:max(slash, 1)]
		parent := c.object(path)
		if at, found := slices.BinarySearch(parent.children, name); !found {
			parent.children = slices.Insert(parent.children, at, name)
		}
	}
}

// object returns the object at path, made if need be. c.mu is held.
func (c *Conn) object(path string) *object {
	o := c.objects[path]
	if o == nil {
		o = new(object)
		for _, i := range []*Interface{peerInterface(), c.introspectable(o), c.properties(o)} {
			o.standard = append(o.standard, index(i))
		}
		c.objects[path] = o
	}
	return o
}

// all returns the interfaces of an object, its own first.
func (o *object) all() []*exported { return slices.Concat(o.interfaces, o.standard) }

// lookup finds the method that a call names.
func (c *Conn) lookup(h *header) (*exported, *Method, *Error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.objects[h.path]
	if o == nil || h.overlong {
		// Peer is there on every path (D-Bus specification, "org.freedesktop.DBus.Peer").
		if h.iface != peerName {
			return nil, nil, &Error{errUnknownObject, fmt.Sprintf("no object %.300q here", h.path)}
		}
		o = &object{standard: []*exported{index(peerInterface())}}
	}
	known := false
	for _, x := range o.all() {
		if h.iface != "" && h.iface != x.Name {
			continue
		}
		known = true
		if m := x.methods[h.member]; m != nil {
			return x, m, nil
		}
	}
	if h.iface != "" && !known {
		return nil, nil, &Error{errUnknownInterface, fmt.Sprintf("no interface %q on this object", h.iface)}
	}
	return nil, nil, &Error{errUnknownMethod, fmt.Sprintf("no method %q on this interface", h.member)}
}

const peerName = "org.freedesktop.DBus.Peer"

func peerInterface() *Interface {
	return &Interface{
		Name: peerName,
		Methods: []Method{
			{Name: "Ping", open: true},
			{Name: "GetMachineId", Out: "s", Handle: func(context.Context, *Call) ([]any, error) {
				for _, name := range []string{"/etc/machine-id", "/var/lib/dbus/machine-id"} {
					data, err := os.ReadFile(name)
					id := strings.TrimSpace(string(data))
					if b, herr := hex.DecodeString(id); err == nil && herr == nil && len(b) == 16 {
						return []any{id}, nil
					}
				}
				return nil, Failed("this machine has no id")
			}},
		},
		Introspection: `<interface name="org.freedesktop.DBus.Peer">
    <method name="Ping"/>
    <method name="GetMachineId"><arg type="s" name="machine_uuid" direction="out"/></method>
  </interface>`,
	}
}

func (c *Conn) introspectable(o *object) *Interface {
	return &Interface{
		Name: "org.freedesktop.DBus.Introspectable",
		Methods: []Method{{Name: "Introspect", Out: "s", Handle: func(context.Context, *Call) ([]any, error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			var b strings.Builder
			b.WriteString(`<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"
  "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">
<node>
`)
			for _, x := range o.all() {
				if x.Introspection != "" {
					fmt.Fprintf(&b, "  %s\n", strings.TrimSpace(x.Introspection))
				}
			}
			for _, name := range o.children {
				fmt.Fprintf(&b, "  <node name=\"%s\"/>\n", name)
			}
			b.WriteString("</node>\n")
			return []any{b.String()}, nil
		}}},
		Introspection: `<interface name="org.freedesktop.DBus.Introspectable">
    <method name="Introspect"><arg type="s" name="xml_data" direction="out"/></method>
  </interface>`,
	}
}

func (c *Conn) properties(o *object) *Interface {
	// find returns the properties of an interface; of all if it is "".
	find := func(iface string) (map[string]Value, error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		found := make(map[string]Value)
		known := iface == ""
		for _, x := range o.all() {
			if iface == "" || x.Name == iface {
				known = true
				for name, v := range x.Properties {
					found[name] = v
				}
			}
		}
		if !known {
			return nil, &Error{errUnknownInterface, fmt.Sprintf("no interface %.300q on this object", iface)}
		}
		return found, nil
	}
	one := func(iface, name string) (Value, error) {
		all, err := find(iface)
		if err != nil {
			return Value{}, err
		}
		v, ok := all[name]
		if !ok {
			return Value{}, &Error{errUnknownProperty, fmt.Sprintf("no property %.300q on this interface", name)}
		}
		return v, nil
	}
	return &Interface{
		Name: "org.freedesktop.DBus.Properties",
		Methods: []Method{
			{Name: "Get", In: "ss", Out: "v", Handle: func(_ context.Context, call *Call) ([]any, error) {
				var iface, name string
				call.Scan(&iface, &name)
				v, err := one(iface, name)
				return []any{v}, err
			}},
			{Name: "GetAll", In: "s", Out: "a{sv}", Handle: func(_ context.Context, call *Call) ([]any, error) {
				var iface string
				call.Scan(&iface)
				all, err := find(iface)
				return []any{all}, err
			}},
			{Name: "Set", In: "ssv", Handle: func(_ context.Context, call *Call) ([]any, error) {
				var iface, name string
				var v Value
				call.Scan(&iface, &name, &v)
				if _, err := one(iface, name); err != nil {
					return nil, err
				}
				return nil, &Error{errPropertyReadOnly, fmt.Sprintf("property %q is read-only", name)}
			}},
		},
		Introspection: `<interface name="org.freedesktop.DBus.Properties">
    <method name="Get">
      <arg type="s" name="interface_name" direction="in"/>
      <arg type="s" name="property_name" direction="in"/>
      <arg type="v" name="value" direction="out"/>
    </method>
    <method name="GetAll">
      <arg type="s" name="interface_name" direction="in"/>
      <arg type="a{sv}" name="properties" direction="out"/>
    </method>
    <method name="Set">
      <arg type="s" name="interface_name" direction="in"/>
      <arg type="s" name="property_name" direction="in"/>
      <arg type="v" name="value" direction="in"/>
    </method>
    <signal name="PropertiesChanged">
      <arg type="s" name="interface_name"/>
      <arg type="a{sv}" name="changed_properties"/>
      <arg type="as" name="invalidated_properties"/>
    </signal>
  </interface>`,
	}
}
