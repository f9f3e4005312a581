package bus

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"docportal/internal/identity"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// pending is a call of ours that waits for its reply.
type pending struct {
	serial uint32
	dest   string
	reply  chan reply // gets one reply, or is closed when the connection ends
}

type reply struct {
	header
	body  []byte
	files []int // owned by the receiver
	lost  bool  // descriptors did not arrive
}

// Call calls a method of a peer and waits for the reply, whose arguments it
// stores in out, pointers as for Call.Scan. An error reply is an *Error.
func (c *Conn) Call(ctx context.Context, dest, path, iface, member, signature string, args []any, out ...any) error {
	files, err := c.CallFiles(ctx, dest, path, iface, member, signature, args, nil, out...)
	for _, f := range files {
		f.Close()
	}
	return err
}

// CallFiles is Call with descriptors: an FD among args is an index into files,
// which stay the caller's; an FD among out is an index into the files that are
// returned, which are the caller's to close.
func (c *Conn) CallFiles(ctx context.Context, dest, path, iface, member, signature string, args []any, files []*os.File, out ...any) ([]*os.File, error) {
	p, err := c.begin(dest, path, iface, member, signature, args, files)
	if err != nil {
		return nil, fmt.Errorf("calling %s.%s: %w", iface, member, err)
	}
	defer c.forget(p)
	got, err := c.finish(ctx, p, out...)
	if err != nil {
		return nil, fmt.Errorf("calling %s.%s: %w", iface, member, err)
	}
	return got, nil
}

// begin sends a call. The caller must forget it in the end.
func (c *Conn) begin(dest, path, iface, member, signature string, args []any, files []*os.File) (*pending, error) {
	h := header{typ: dbus.TypeMethodCall, dest: dest, path: path, iface: iface, member: member, sig: signature}
	body, err := h.check(args)
	if err != nil {
		return nil, err
	}
	fds, err := duplicate(files)
	if err != nil {
		return nil, err
	}
	p := &pending{dest: dest, reply: make(chan reply, 1)}
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		closeAll(fds)
		return nil, ErrClosed
	}
	for p.serial = c.nextSerial(); c.pending[p.serial] != nil; {
		p.serial = c.nextSerial()
	}
	c.pending[p.serial] = p
	c.mu.Unlock()
	h.serial = p.serial
	if err := c.post(&h, [][]byte{body}, fds); err != nil {
		c.forget(p)
		return nil, err
	}
	return p, nil
}

// duplicate makes descriptors that live until the message is sent, whatever
// the caller does with its own.
func duplicate(files []*os.File) ([]int, error) {
	if len(files) > maxPassedFD {
		return nil, fmt.Errorf("%d descriptors; a message carries %d", len(files), maxPassedFD)
	}
	var fds []int
	for _, f := range files {
		raw, err := f.SyscallConn()
		if err == nil {
			cerr := raw.Control(func(fd uintptr) {
				var dup int
				if dup, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0); err == nil {
					fds = append(fds, dup)
				}
			})
			err = errors.Join(err, cerr)
		}
		if err != nil {
			closeAll(fds)
			return nil, fmt.Errorf("passing a descriptor: %w", err)
		}
	}
	return fds, nil
}

// finish waits for the reply of a call.
func (c *Conn) finish(ctx context.Context, p *pending, out ...any) ([]*os.File, error) {
	var r reply
	var ok bool
	select {
	case r, ok = <-p.reply:
		if !ok {
			return nil, ErrClosed
		}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	files, err := r.scan(out)
	if err != nil {
		closeAll(r.files)
	}
	return files, err
}

func (r *reply) scan(out []any) ([]*os.File, error) {
	var args []any
	var err error
	if len(out) > 0 || r.typ == dbus.TypeError { // what nobody asks for is not looked at
		args, err = decodeBody(r.order, r.sig, r.body)
	}
	if r.typ == dbus.TypeError {
		text := ""
		if err == nil && len(args) > 0 {
			text, _ = args[0].(string)
		}
		return nil, &Error{r.errName, text}
	}
	if err != nil {
		return nil, fmt.Errorf("malformed reply: %w", err)
	}
	if r.lost {
		return nil, errFilesLost
	}
	if err := scan(r.sig, args, out); err != nil {
		return nil, fmt.Errorf("unexpected reply: %w", err)
	}
	files := make([]*os.File, len(r.files))
	for i, fd := range r.files {
		files[i] = os.NewFile(uintptr(fd), "bus")
	}
	return files, nil
}

// scan stores args in out, as many as out has.
func scan(sig string, args, out []any) error {
	if len(out) > len(args) {
		return fmt.Errorf("%d values, not %d", len(args), len(out))
	}
	for i, dst := range out {
		var typ string
		typ, sig = nextType(sig)
		if !fits(typ, dst) {
			return fmt.Errorf("value %d has type %q, which does not fit a %T", i, typ, dst)
		}
	}
	for i, dst := range out {
		store(dst, args[i])
	}
	return nil
}

// forget ends the waiting for a call. Its reply is dropped, should it come.
func (c *Conn) forget(p *pending) {
	c.mu.Lock()
	delete(c.pending, p.serial)
	c.mu.Unlock()
	select {
	case r, ok := <-p.reply:
		if ok {
			closeAll(r.files)
		}
	default:
	}
}

// answered handles a reply. On a session bus anybody may send anybody a reply
// with a guessed serial, so only the one who was called, or the bus in his
// place, is believed. The owner of a well-known name is not known here: there
// any unique name is, and it must guess a serial that began at random.
func (c *Conn) answered(h *header) error {
	c.mu.Lock()
	p := c.pending[h.replySerial]
	c.mu.Unlock()
	if p == nil || h.sender != busName && h.sender != p.dest &&
		(strings.HasPrefix(p.dest, ":") || p.dest == busName || !strings.HasPrefix(h.sender, ":")) {
		return c.refuse(h)
	}
	body, files, lost, err := c.accept(h)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pending[h.replySerial] != p {
		closeAll(files)
		return nil
	}
	delete(c.pending, h.replySerial)
	p.reply <- reply{*h, body, files, lost} // has room for the one reply
	return nil
}

// Credentials implements identity.Bus.
func (c *Conn) Credentials(ctx context.Context, name string) (identity.Credentials, error) {
	var all map[string]Value
	files, err := c.CallFiles(ctx, busName, busPath, busInterface, "GetConnectionCredentials", "s", []any{name}, nil, &all)
	if err != nil {
		return identity.Credentials{}, err
	}
	creds, keep, err := credentials(all, files)
	for i, f := range files {
		if i != keep {
			f.Close()
		}
	}
	return creds, err
}

// credentials reads the bus's answer; keep is the index of the file that went
// into it, or -1.
func credentials(all map[string]Value, files []*os.File) (creds identity.Credentials, keep int, err error) {
	var uid, pid uint32
	if err := all["UnixUserID"].Scan(&uid); err != nil {
		return creds, -1, fmt.Errorf("the bus names no user: %w", err)
	}
	if err := all["ProcessID"].Scan(&pid); err != nil || pid == 0 || int32(pid) < 0 {
		return creds, -1, errors.New("the bus names no process")
	}
	creds.UID, creds.PID = uid, int(pid)
	if v, ok := all["ProcessFD"]; ok {
		var fd FD
		if err := v.Scan(&fd); err != nil || int64(fd) >= int64(len(files)) {
			return identity.Credentials{}, -1, errors.New("the bus sent a ProcessFD without its descriptor")
		}
		creds.PidFD = files[fd]
		return creds, int(fd), nil
	}
	return creds, -1, nil
}

// NameFlags are the flags of RequestName (D-Bus specification).
type NameFlags uint32

// Flags of RequestName.
const (
	AllowReplacement NameFlags = 1
	ReplaceExisting  NameFlags = 2
	DoNotQueue       NameFlags = 4
)

// RequestName asks for a well-known name; owner reports whether this
// connection has it now (otherwise it waits in the queue, unless DoNotQueue).
func (c *Conn) RequestName(ctx context.Context, name string, flags NameFlags) (owner bool, err error) {
	var answer uint32
	err = c.Call(ctx, busName, busPath, busInterface, "RequestName", "su", []any{name, uint32(flags)}, &answer)
	return answer == 1 || answer == 4, err // PRIMARY_OWNER, ALREADY_OWNER
}

// ReleaseName gives a well-known name back.
func (c *Conn) ReleaseName(ctx context.Context, name string) error {
	// The bus says NameLost before it replies; it took nothing away.
	c.mu.Lock()
	c.giving[name] = true
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.giving, name)
		c.mu.Unlock()
	}()
	return c.Call(ctx, busName, busPath, busInterface, "ReleaseName", "s", []any{name})
}
