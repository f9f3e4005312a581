// Package wayland speaks the few words of the Wayland protocol that a sandbox
// launcher needs: it has a compositor serve one more socket, under a security
// context (security-context-v1, "wp_security_context_manager_v1"), so that the
// compositor knows which app its clients on that socket are and can keep
// privileged interfaces from them.
//
// It keeps one rule: a compositor that does not answer, or answers wrongly, is
// an error within the time given.
package wayland

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Identity is what a compositor is told of an app.
type Identity struct {
	Engine   string // of the sandbox, such as "org.flatpak"
	App      string // app id, as the engine has them
	Instance string // names this run of the app
}

// ErrNotSupported says that the compositor has no security contexts, or that
// this process is in one itself.
var ErrNotSupported = errors.New("the compositor has no security contexts")

// Names of the protocol (wayland.xml, security-context-v1.xml).
const (
	ManagerInterface = "wp_security_context_manager_v1"

	DisplayObject = 1 // there is no other object at first

	DisplaySync        = 0 // requests
	DisplayGetRegistry = 1
	RegistryBind       = 0
	ManagerDestroy     = 0
	ManagerCreate      = 1
	ContextDestroy     = 0
	ContextEngine      = 1
	ContextApp         = 2
	ContextInstance    = 3
	ContextCommit      = 4

	DisplayError   = 0 // events
	RegistryGlobal = 0
	CallbackDone   = 0
)

// The ids that we give to objects.
const (
	registry = DisplayObject + 1 + iota
	firstSync
	manager
	securityContext
	secondSync
)

// maxRead bounds what a compositor may say to us, in bytes. Usual ones list
// some fifty interfaces of a hundred bytes.
const maxRead = 1 << 20

// Attach has the compositor at the other end of conn serve listen, a UNIX
// socket that listens, for clients that are the app. The compositor serves it
// until the other end of ended, a pipe or socket, is closed; conn is no longer
// needed. Both files stay the caller's, who may close them after Attach.
//
// ErrNotSupported means that nothing was changed. After any other error the
// compositor may or may not serve the socket: the app must not get it.
func Attach(ctx context.Context, conn *net.UnixConn, listen, ended *os.File, id Identity) error {
	for _, s := range []string{id.Engine, id.App, id.Instance} {
		if s == "" || strings.ContainsRune(s, 0) {
			return fmt.Errorf("%q in a security context", s)
		}
	}
	// The deadline of ctx, and its end before that.
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetDeadline(deadline)
	}
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	// Read with read(2): descriptors that the compositor sends are dropped.
	in := bufio.NewReader(io.LimitReader(conn, maxRead))

	out := NewMessage(DisplayObject, DisplayGetRegistry).Uint(registry).Append(nil)
	out = NewMessage(DisplayObject, DisplaySync).Uint(firstSync).Append(out)
	if _, err := conn.Write(out); err != nil {
		return failed(ctx, err)
	}
	name, found := uint32(0), false
	err := until(in, firstSync, func(m *Message) error {
		if m.Object != registry || m.Opcode != RegistryGlobal {
			return nil
		}
		number, err := m.ReadUint()
		if err != nil {
			return err
		}
		what, err := m.ReadString()
		if err == nil && what == ManagerInterface {
			name, found = number, true
		}
		return err
	})
	if err != nil {
		return failed(ctx, err)
	}
	if !found {
		return ErrNotSupported
	}

	out = NewMessage(registry, RegistryBind).Uint(name).String(ManagerInterface).Uint(1).Uint(manager).Append(nil)
	out = NewMessage(manager, ManagerCreate).Uint(securityContext).Append(out) // and two descriptors
	out = NewMessage(securityContext, ContextEngine).String(id.Engine).Append(out)
	out = NewMessage(securityContext, ContextApp).String(id.App).Append(out)
	out = NewMessage(securityContext, ContextInstance).String(id.Instance).Append(out)
	out = NewMessage(securityContext, ContextCommit).Append(out)
	out = NewMessage(securityContext, ContextDestroy).Append(out)
	out = NewMessage(manager, ManagerDestroy).Append(out)
	out = NewMessage(DisplayObject, DisplaySync).Uint(secondSync).Append(out)
	if _, _, err := conn.WriteMsgUnix(out, unix.UnixRights(int(listen.Fd()), int(ended.Fd())), nil); err != nil {
		return failed(ctx, err)
	}
	return failed(ctx, until(in, secondSync, func(*Message) error { return nil }))
}

// until reads events up to the answer to a sync request.
func until(in io.Reader, sync uint32, other func(*Message) error) error {
	for {
		m, err := ReadMessage(in)
		if err != nil {
			return err
		}
		switch {
		case m.Object == sync && m.Opcode == CallbackDone:
			return nil
		case m.Object == DisplayObject && m.Opcode == DisplayError:
			m.ReadUint() // the object
			code, _ := m.ReadUint()
			text, _ := m.ReadString()
			return fmt.Errorf("error %d: %q", code, text)
		}
		if err := other(m); err != nil {
			return err
		}
	}
}

// failed makes errors say what happened.
func failed(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded) || ctx.Err() != nil:
		err = errors.New("it does not answer")
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		err = errors.New("it ended the connection")
	}
	return fmt.Errorf("the compositor: %w", err)
}
