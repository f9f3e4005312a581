package documents

import (
	"encoding/gob"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// A client is a program that calls the portal, by another implementation of
// D-Bus: the test itself, or the test binary in a sandbox.

// open says how to open a file; its descriptor is an argument.
type open struct {
	Path  string
	Flags int // 0 is O_PATH
}

// readOnly is O_RDONLY, whose number is 0.
const readOnly = -1

// request is a call or a file operation.
type request struct {
	Method string // INTERFACE.MEMBER, or "read", "write", "stat", "list"
	Files  []open
	Args   []any // fdIndex and fdList refer to Files
}

type (
	fdIndex int32
	fdList  []int32
)

// response is what came of a request.
type response struct {
	Body  []any
	Error string // D-Bus error name or errno name, "" for success
	Text  string
}

func init() {
	for _, v := range []any{
		fdIndex(0), fdList(nil), []string(nil), []byte(nil), uint32(0), false, "",
		map[string][]string(nil), map[string][]byte(nil), map[string]string(nil), map[string]bool(nil),
	} {
		gob.Register(v)
	}
}

// client carries out requests.
type client struct{ conn *dbus.Conn }

func newClient(address string) (*client, error) {
	conn, err := dbus.Connect(address)
	if err != nil {
		return nil, err
	}
	return &client{conn}, nil
}

func (c *client) do(r request) response {
	switch r.Method {
	case "read":
		b, err := os.ReadFile(r.Args[0].(string))
		return result(err, string(b))
	case "write":
		f, err := os.OpenFile(r.Args[0].(string), os.O_WRONLY|os.O_TRUNC, 0)
		if err == nil {
			_, err = f.WriteString(r.Args[1].(string))
			err = errors.Join(err, f.Close())
		}
		return result(err)
	case "stat":
		_, err := os.Lstat(r.Args[0].(string))
		return result(err)
	case "flood":
		return c.flood(r.Args[0].(string), r.Args[1].([]string), time.Duration(r.Args[2].(uint32))*time.Millisecond)
	case "list":
		entries, err := os.ReadDir(r.Args[0].(string))
		names := []string{}
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return result(err, names)
	}
	return c.call(r)
}

func result(err error, body ...any) response {
	var errno unix.Errno
	switch {
	case err == nil:
		return response{Body: body}
	case errors.As(err, &errno):
		return response{Error: unix.ErrnoName(errno), Text: err.Error()}
	default:
		return response{Error: "unknown", Text: err.Error()}
	}
}

func (c *client) call(r request) response {
	var fds []dbus.UnixFD
	defer func() {
		for _, fd := range fds {
			unix.Close(int(fd))
		}
	}()
	for _, o := range r.Files {
		flags := o.Flags
		switch flags {
		case 0:
			flags = unix.O_PATH
		case readOnly:
			flags = unix.O_RDONLY
		}
		fd, err := unix.Open(o.Path, flags|unix.O_CLOEXEC, 0)
		if err != nil {
			return result(fmt.Errorf("open %s: %w", o.Path, err))
		}
		fds = append(fds, dbus.UnixFD(fd))
	}
	var args []any
	for _, a := range r.Args {
		switch a := a.(type) {
		case fdIndex:
			args = append(args, fds[a])
		case fdList:
			list := []dbus.UnixFD{}
			for _, i := range a {
				list = append(list, fds[i])
			}
			args = append(args, list)
		case map[string]bool:
			m := map[string]dbus.Variant{}
			for k, v := range a {
				m[k] = dbus.MakeVariant(v)
			}
			args = append(args, m)
		default:
			args = append(args, a)
		}
	}
	call := c.conn.Object(Name, Path).Call(r.Method, 0, args...)
	var de dbus.Error
	switch {
	case errors.As(call.Err, &de):
		return response{Error: de.Name, Text: de.Error()}
	case call.Err != nil:
		return response{Error: "unknown", Text: call.Err.Error()}
	}
	for i, v := range call.Body {
		switch v := v.(type) {
		case map[string]dbus.Variant:
			call.Body[i] = plain(v)
		case dbus.Variant:
			call.Body[i] = v.Value()
		}
	}
	return response{Body: call.Body}
}

// plain shows a dictionary of variants as text.
func plain(m map[string]dbus.Variant) map[string]string {
	out := map[string]string{}
	for k, v := range m {
		if b, ok := v.Value().([]byte); ok {
			out[k] = string(b)
			continue
		}
		out[k] = fmt.Sprint(v.Value())
	}
	return out
}

// clientMain is the program inside the sandbox.
func clientMain() int {
	c, err := newClient(os.Getenv("DBUS_SESSION_BUS_ADDRESS"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	in, out := gob.NewDecoder(os.Stdin), gob.NewEncoder(os.Stdout)
	if err := out.Encode(response{}); err != nil { // ready
		return 1
	}
	for {
		var r request
		if in.Decode(&r) != nil {
			return 0
		}
		if err := out.Encode(c.do(r)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
}
