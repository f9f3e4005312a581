// Package waylandtest is for tests: a compositor that knows nothing but
// security contexts, and a client that lists what a compositor offers. No
// compositor of the systems that the tests run on has security contexts yet.
package waylandtest

import (
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"docportal/internal/wayland"
)

// Compositor serves connections. Its clients may only do what wayland.Attach
// does.
type Compositor struct {
	// Globals are the interfaces that it offers.
	Globals []string
	// Attached is called for each security context that is committed.
	Attached func(wayland.Identity)
	// Answer, if set, replaces what is sent in answer to the nth sync of a
	// connection, from 0. Nil ends the connection.
	Answer func(n int, right []byte) []byte

	mu   sync.Mutex
	open []func() error
}

// Serve accepts clients of l until Close.
func (c *Compositor) Serve(l net.Listener) { c.serve(l, c.Globals) }

// Close ends everything.
func (c *Compositor) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.open {
		f()
	}
}

func (c *Compositor) onClose(f func() error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open = append(c.open, f)
}

func (c *Compositor) serve(l net.Listener, globals []string) {
	c.onClose(l.Close)
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		c.onClose(conn.Close)
		go c.talk(conn.(*net.UnixConn), globals)
	}
}

// talk answers one client.
func (c *Compositor) talk(conn *net.UnixConn, globals []string) {
	defer conn.Close()
	in := &rightsReader{conn: conn}
	var id wayland.Identity
	var registry, manager, context uint32
	var out []byte
	for syncs := 0; ; {
		m, err := wayland.ReadMessage(in)
		if err != nil {
			return
		}
		switch {
		case m.Object == wayland.DisplayObject && m.Opcode == wayland.DisplayGetRegistry:
			registry, _ = m.ReadUint()
			for i, g := range globals {
				out = wayland.NewMessage(registry, wayland.RegistryGlobal).Uint(uint32(i + 1)).String(g).Uint(1).Append(out)
			}
		case m.Object == wayland.DisplayObject && m.Opcode == wayland.DisplaySync:
			callback, _ := m.ReadUint()
			out = wayland.NewMessage(callback, wayland.CallbackDone).Uint(0).Append(out)
			if c.Answer != nil {
				out = c.Answer(syncs, out)
			}
			if out == nil {
				return
			}
			if _, err := conn.Write(out); err != nil {
				return
			}
			out, syncs = nil, syncs+1
		case m.Object == registry && m.Opcode == wayland.RegistryBind:
			number, _ := m.ReadUint()
			what, _ := m.ReadString()
			m.ReadUint() // version
			if int(number) > len(globals) || number == 0 || globals[number-1] != what || what != wayland.ManagerInterface {
				return
			}
			manager, _ = m.ReadUint()
		case m.Object == manager && m.Opcode == wayland.ManagerCreate:
			context, _ = m.ReadUint()
		case m.Object == context && m.Opcode == wayland.ContextEngine:
			id.Engine, _ = m.ReadString()
		case m.Object == context && m.Opcode == wayland.ContextApp:
			id.App, _ = m.ReadString()
		case m.Object == context && m.Opcode == wayland.ContextInstance:
			id.Instance, _ = m.ReadString()
		case m.Object == context && m.Opcode == wayland.ContextCommit:
			if len(in.files) != 2 {
				return
			}
			l, err := net.FileListener(in.files[0])
			in.files[0].Close()
			if err != nil {
				return
			}
			l.(*net.UnixListener).SetUnlinkOnClose(false)
			// It stops when the other end of the second one is closed.
			go func(ended *os.File) {
				ended.Read(make([]byte, 1))
				l.Close()
				ended.Close()
			}(in.files[1])
			in.files = nil
			if c.Attached != nil {
				c.Attached(id)
			}
			// Its clients see who they are, and no manager.
			go c.serve(l, []string{fmt.Sprintf("context %s %s %s", id.Engine, id.App, id.Instance)})
		case m.Opcode == 0 && (m.Object == manager || m.Object == context): // destroy
		default:
			return
		}
	}
}

// rightsReader keeps the descriptors that come.
type rightsReader struct {
	conn  *net.UnixConn
	files []*os.File
}

func (r *rightsReader) Read(b []byte) (int, error) {
	oob := make([]byte, unix.CmsgSpace(4*16))
	n, m, _, _, err := r.conn.ReadMsgUnix(b, oob)
	if err != nil {
		return n, err
	}
	if n == 0 {
		return 0, io.EOF
	}
	messages, err := unix.ParseSocketControlMessage(oob[:m])
	if err != nil {
		return n, err
	}
	for _, c := range messages {
		fds, err := unix.ParseUnixRights(&c)
		if err != nil {
			return n, err
		}
		for _, fd := range fds {
			unix.SetNonblock(fd, true)
			r.files = append(r.files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return n, nil
}

// Globals lists what the compositor at path offers.
func Globals(path string, limit time.Duration) ([]string, error) {
	conn, err := net.DialTimeout("unix", path, limit)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(limit))
	out := wayland.NewMessage(wayland.DisplayObject, wayland.DisplayGetRegistry).Uint(2).Append(nil)
	out = wayland.NewMessage(wayland.DisplayObject, wayland.DisplaySync).Uint(3).Append(out)
	if _, err := conn.Write(out); err != nil {
		return nil, err
	}
	var all []string
	for {
		m, err := wayland.ReadMessage(conn)
		if err != nil {
			return nil, err
		}
		if m.Object == 3 {
			return all, nil
		}
		if m.Object == 2 && m.Opcode == wayland.RegistryGlobal {
			m.ReadUint()
			what, err := m.ReadString()
			if err != nil {
				return nil, err
			}
			all = append(all, what)
		}
	}
}
