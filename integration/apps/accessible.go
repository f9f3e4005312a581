package apps

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/godbus/dbus/v5"

	"docportal/integration/session"
)

// Reader sees what a session's programs show, presses buttons and fills fields,
// as a screen reader does: by the accessibility bus. It needs no mouse and no
// keys, which a Wayland compositor gives to nobody.
type Reader struct {
	conn *dbus.Conn
}

const accessible = "org.a11y.atspi.Accessible"

const (
	// readLimit is how long a program may take to tell of one of its elements; it
	// is asked again.
	readLimit = 3 * time.Second
	// pressLimit is how long it may take to do what a press says.
	pressLimit = 20 * time.Second
)

// OpenReader connects to the accessibility bus of a session. The caller closes
// it.
func OpenReader(s *session.Session) (*Reader, error) {
	conn, err := s.Connect()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	var address string
	if err := conn.Object("org.a11y.Bus", "/org/a11y/bus").Call("org.a11y.Bus.GetAddress", 0).Store(&address); err != nil {
		return nil, fmt.Errorf("no accessibility bus: %w", err)
	}
	r := &Reader{}
	r.conn, err = dbus.Connect(address)
	return r, err
}

// Close ends the connection.
func (r *Reader) Close() error { return r.conn.Close() }

// Element is something that a program shows.
type Element struct {
	reader *Reader
	at     reference
	Name   string
	Role   string // as AT-SPI names it: "push button" of GTK 3, "button" of GTK 4
}

// reference is how AT-SPI names an element.
type reference struct {
	Owner string
	Path  dbus.ObjectPath
}

func (r *Reader) call(at reference, method string, args ...any) *dbus.Call {
	return r.callWithin(readLimit, at, method, args...)
}

func (r *Reader) callWithin(limit time.Duration, at reference, method string, args ...any) *dbus.Call {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return r.conn.Object(at.Owner, at.Path).CallWithContext(ctx, method, 0, args...)
}

// The states of an element that matter here (AtspiStateType), as bits.
const (
	sensitive = 1 << 24
	showing   = 1 << 25
)

// find looks for an element below another, breadth first, that has these
// states.
func (r *Reader) find(from reference, role string, name *regexp.Regexp, states uint32) *Element {
	for queue := []reference{from}; len(queue) > 0; queue = queue[1:] {
		e := &Element{reader: r, at: queue[0]}
		// Elements go while they are looked at.
		var title dbus.Variant
		if r.call(e.at, "org.freedesktop.DBus.Properties.Get", accessible, "Name").Store(&title) != nil ||
			r.call(e.at, accessible+".GetRoleName").Store(&e.Role) != nil {
			continue
		}
		e.Name, _ = title.Value().(string)
		if e.Role == role && name.MatchString(e.Name) {
			var has []uint32
			if r.call(e.at, accessible+".GetState").Store(&has) == nil && len(has) > 0 && has[0]&states == states {
				return e
			}
		}
		var below []reference
		if r.call(e.at, accessible+".GetChildren").Store(&below) == nil {
			queue = append(queue, below...)
		}
	}
	return nil
}

// Await waits until a program, which goes by that name there, has an element of
// that role whose name matches a regular expression.
func (r *Reader) Await(program, role, name string) (*Element, error) {
	return r.await(program, "", role, name, 0)
}

// AwaitShown waits until it can be used and seen as well, which GTK 4 does not
// tell.
func (r *Reader) AwaitShown(program, role, name string) (*Element, error) {
	return r.await(program, "", role, name, sensitive|showing)
}

// AwaitAsked waits until the same is in a question or a message that a program has a
// window for. It looks nowhere else: some programs take long to tell of all that they
// show.
func (r *Reader) AwaitAsked(program, role, name string) (*Element, error) {
	return r.await(program, "alert", role, name, sensitive|showing)
}

// await waits for an element in windows of a role, or in all if that is "".
func (r *Reader) await(program, window, role, name string, states uint32) (*Element, error) {
	is, err := regexp.Compile(name)
	if err != nil {
		return nil, err
	}
	var found *Element
	err = session.Await(dialogLimit, func() (bool, error) {
		var programs []reference
		if err := r.call(reference{"org.a11y.atspi.Registry", "/org/a11y/atspi/accessible/root"}, accessible+".GetChildren").Store(&programs); err != nil {
			return false, err
		}
		for _, p := range programs {
			var title dbus.Variant
			if r.call(p, "org.freedesktop.DBus.Properties.Get", accessible, "Name").Store(&title) != nil || title.Value() != program {
				continue
			}
			below := []reference{p}
			if window != "" {
				below = r.windows(p, window)
			}
			for _, w := range below {
				if found = r.find(w, role, is, states); found != nil {
					return true, nil
				}
			}
		}
		return false, nil
	})
	if err != nil {
		return nil, fmt.Errorf("%s shows no %s %q: %w", program, role, name, err)
	}
	return found, nil
}

// windows lists a program's windows of a role.
func (r *Reader) windows(program reference, role string) []reference {
	var all []reference
	r.call(program, accessible+".GetChildren").Store(&all)
	return slices.DeleteFunc(all, func(w reference) bool {
		var is string
		return r.call(w, accessible+".GetRoleName").Store(&is) != nil || is != role
	})
}

// Choose gives a path to the file dialog of the desktop portal's GTK backend,
// by the field that it has or shows for that, and presses the button, by its
// name, that ends it. look is called before that.
func (r *Reader) Choose(path, button string, look func()) error {
	dialog, err := r.AwaitShown(dialogClass, "file chooser", "^File Chooser Widget$")
	if err != nil {
		return err
	}
	if err := dialog.Press(); err != nil {
		return err
	}
	field, err := r.AwaitShown(dialogClass, "text", "")
	if err != nil {
		return err
	}
	if err := field.Write(path); err != nil {
		return err
	}
	end, err := r.AwaitShown(dialogClass, "push button", "^"+button+"$")
	if err != nil {
		return err
	}
	look()
	return end.Press()
}

// Press does what a press on the element does, when it can be pressed.
func (e *Element) Press() error {
	err := session.Await(dialogLimit, func() (bool, error) {
		var states []uint32
		err := e.reader.call(e.at, accessible+".GetState").Store(&states)
		return len(states) > 0 && states[0]&sensitive != 0, err
	})
	if err != nil {
		return fmt.Errorf("%q cannot be pressed: %w", e.Name, err)
	}
	var done bool
	if err := e.reader.callWithin(pressLimit, e.at, "org.a11y.atspi.Action.DoAction", int32(0)).Store(&done); err != nil {
		return fmt.Errorf("press %q: %w", e.Name, err)
	}
	if !done {
		return fmt.Errorf("%q cannot be pressed", e.Name)
	}
	return nil
}

// SelectRow selects a row of a table, the first of which is 0.
func (e *Element) SelectRow(row int32) error {
	var done bool
	if err := e.reader.call(e.at, "org.a11y.atspi.Table.AddRowSelection", row).Store(&done); err != nil {
		return fmt.Errorf("row %d of %q: %w", row, e.Name, err)
	}
	if !done {
		return fmt.Errorf("row %d of %q cannot be selected", row, e.Name)
	}
	return nil
}

// Write puts a text into a field.
func (e *Element) Write(text string) error {
	var done bool
	if err := e.reader.callWithin(pressLimit, e.at, "org.a11y.atspi.EditableText.SetTextContents", text).Store(&done); err != nil {
		return fmt.Errorf("write into %q: %w", e.Name, err)
	}
	if !done {
		return errors.New("the field takes no text")
	}
	return nil
}
