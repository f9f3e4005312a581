// App is the program in the sandbox: an ordinary client of the desktop portal.
// It reads requests (package wire) from its standard input, does each, and
// writes the answers to its standard output.
//
// "app call DEST PATH METHOD [STRING...]" makes one call on the session bus
// instead and prints the answer; it is what the tests start without sbx-run.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"docportal/integration/wire"
)

func main() {
	out := json.NewEncoder(os.Stdout)
	if len(os.Args) > 4 && os.Args[1] == "call" {
		a := answer(wire.Request{Op: "call", Dest: os.Args[2], Path: os.Args[3], Method: os.Args[4], Args: os.Args[5:]})
		if err := out.Encode(a); err != nil || a.Err != "" {
			os.Exit(1)
		}
		return
	}
	if len(os.Args) > 1 && os.Args[1] == forgedMark {
		if err := forged(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 16<<20)
	for in.Scan() {
		var r wire.Request
		a := wire.Answer{}
		if err := json.Unmarshal(in.Bytes(), &r); err != nil {
			a.Err = err.Error()
		} else {
			a = answer(r)
		}
		if err := out.Encode(a); err != nil {
			os.Exit(1)
		}
	}
}

func answer(r wire.Request) wire.Answer {
	var a wire.Answer
	err := do(r, &a)
	if err != nil {
		a.Err = err.Error()
		var errno unix.Errno
		if errors.As(err, &errno) {
			a.Errno = unix.ErrnoName(errno)
		}
		var d dbus.Error
		if errors.As(err, &d) {
			a.DBusError = d.Name
		}
	}
	return a
}

func do(r wire.Request, a *wire.Answer) error {
	switch r.Op {
	case "read":
		b, err := os.ReadFile(r.Path)
		a.Data = string(b)
		return err
	case "write":
		return put(r.Path, r.Data, os.O_WRONLY|os.O_TRUNC)
	case "create":
		return put(r.Path, r.Data, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	case "remove":
		return os.Remove(r.Path)
	case "stat":
		_, err := os.Stat(r.Path)
		return err
	case "list":
		entries, err := os.ReadDir(r.Path)
		for _, e := range entries {
			a.Names = append(a.Names, e.Name())
		}
		return err
	case "work":
		return work(r, a)
	case "getenv":
		a.Data = os.Getenv(r.Name)
		return nil
	case "open":
		return choose(a, "OpenFile", map[string]dbus.Variant{})
	case "save":
		return choose(a, "SaveFile", map[string]dbus.Variant{"current_name": dbus.MakeVariant(r.Name)})
	case "call":
		return call(r, a)
	case "forge":
		return forge(r, a)
	case "portal":
		return portal(r, a)
	default:
		return fmt.Errorf("no such request: %q", r.Op)
	}
}

func put(path, data string, flags int) error {
	f, err := os.OpenFile(path, flags, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(data)
	return errors.Join(err, f.Close())
}

func call(r wire.Request, a *wire.Answer) error {
	conn, err := dbus.ConnectSessionBus()
	if err != nil {
		return err
	}
	defer conn.Close()
	args := make([]any, len(r.Args))
	for i, s := range r.Args {
		args[i] = s
	}
	c := conn.Object(r.Dest, dbus.ObjectPath(r.Path)).Call(r.Method, 0, args...)
	if c.Err != nil {
		return c.Err
	}
	a.Data = fmt.Sprint(c.Body...)
	return nil
}

// choose asks the file chooser for a file and waits for the person's answer.
func choose(a *wire.Answer, method string, options map[string]dbus.Variant) error {
	conn, err := dbus.ConnectSessionBus()
	if err != nil {
		return err
	}
	defer conn.Close()
	results, err := request(conn, "FileChooser."+method, options, "", "Choose a file")
	if err != nil {
		return err
	}
	uris, _ := results["uris"].Value().([]string)
	if len(uris) == 0 {
		return errors.New("the answer has no URI")
	}
	a.URI = uris[0]
	u, err := url.Parse(a.URI)
	if err != nil {
		return err
	}
	a.Path = u.Path
	return nil
}
