package bus

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/godbus/dbus/v5"
)

// Standby is a connection to the bus that waits in the queue for names, and on
// which nothing else is received: the bus gives it the names at the moment in
// which their owner dies, and sends it the calls from then on. They wait in the
// socket until Resume, in this process or in another one.
type Standby struct {
	// File is the socket.
	File *os.File
	// Name is the connection's unique name.
	Name string

	in     *stream
	serial uint32
}

// Queue makes a connection that waits for names with the flags AllowReplacement.
// ctx bounds it.
func Queue(ctx context.Context, address string, o Options, names ...string) (*Standby, error) {
	sockets, err := sockets(address)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, socket := range sockets {
		f, err := connect(ctx, socket, o.Connect)
		if err == nil {
			var s *Standby
			if s, err = queue1(ctx, f, names); err == nil {
				return s, nil
			}
			f.Close()
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

func queue1(ctx context.Context, f *os.File, names []string) (*Standby, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &Standby{File: f, in: newStream(raw)}
	answer, err := s.ask(ctx, "Hello", "")
	if err != nil {
		return nil, err
	}
	s.Name, _ = answer[0].(string)
	for _, name := range names {
		if _, err := s.ask(ctx, "RequestName", "su", name, uint32(AllowReplacement)); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// ask calls a method of the bus that answers with one value. It reads up to
// the end of the answer, and no byte that follows.
func (s *Standby) ask(ctx context.Context, member, signature string, args ...any) ([]any, error) {
	raw, err := s.File.SyscallConn()
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { s.File.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	s.serial++
	h := header{typ: dbus.TypeMethodCall, dest: busName, path: busPath, iface: busInterface, member: member, sig: signature, serial: s.serial}
	body, err := h.check(args)
	if err != nil {
		return nil, err
	}
	data, err := h.marshal(body)
	if err != nil {
		return nil, err
	}
	if err := send(raw, outgoing{data: data}); err != nil {
		return nil, err
	}
	// What was received with the answer is read to its end as well.
	var answer []any
	for answer == nil || s.in.r != s.in.w {
		r, err := s.in.readHeader()
		if err != nil {
			return nil, err
		}
		ours := r.sender == busName && r.replySerial == s.serial && (r.typ == dbus.TypeMethodReply || r.typ == dbus.TypeError)
		if !ours || r.body > maxBody {
			if err := s.in.discard(int64(r.body)); err != nil {
				return nil, err
			}
		} else {
			text := make([]byte, r.body)
			if err := s.in.fill(text); err != nil {
				return nil, err
			}
			if answer, err = decodeBody(r.order, r.sig, text); err != nil {
				return nil, err
			}
			if r.typ == dbus.TypeError || len(answer) == 0 {
				return nil, fmt.Errorf("the bus refuses %s: %s", member, r.errName)
			}
		}
		files, _ := s.in.claim(r.files)
		closeAll(files)
	}
	return answer, nil
}

// Leave gives up waiting for names and closes the connection.
func (s *Standby) Leave(ctx context.Context, names ...string) error {
	defer s.File.Close()
	for _, name := range names {
		if _, err := s.ask(ctx, "ReleaseName", "s", name); err != nil {
			return err
		}
	}
	return nil
}

// Resume goes on with a connection of a Standby, whose unique name is name. It
// duplicates f. ctx bounds the first question only.
func Resume(ctx context.Context, f *os.File, name string, o Options) (*Conn, error) {
	f, err := pollable(f, f.Name())
	if err != nil {
		return nil, err
	}
	c, err := prepare(f, o)
	if err != nil {
		return nil, err
	}
	c.name = name
	// Asked for before anything is received, as by hello.
	match, err := c.begin(busName, busPath, busInterface, "AddMatch", "s", []any{gone}, nil)
	c.converse()
	if err == nil {
		_, err = c.finish(ctx, match)
		c.forget(match)
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("going on with a connection to the bus: %w", err)
	}
	return c, nil
}

// Dup duplicates the connection's socket. While the duplicate is open the bus
// takes the connection for alive.
func (c *Conn) Dup() (*os.File, error) { return pollable(c.file, c.file.Name()) }
