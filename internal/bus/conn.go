package bus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"docportal/internal/identity"

	"github.com/godbus/dbus/v5"
)

const (
	busName      = "org.freedesktop.DBus"
	busPath      = "/org/freedesktop/DBus"
	busInterface = "org.freedesktop.DBus"
)

// maxQueued is how many bytes may wait to be sent before no more messages are
// received. A bus reads what we send whatever its clients do, so only a bus
// that has stopped working lets them pile up.
const maxQueued = 64 << 20

// ErrClosed is the error of calls on a connection that has ended.
var ErrClosed = errors.New("the bus connection has ended")

// Conn is a connection to a message bus.
type Conn struct {
	o    Options
	log  *slog.Logger
	name string
	file *os.File
	raw  syscall.RawConn
	in   *stream

	out    *queue[outgoing]
	events *queue[func()] // callbacks to the owner, one at a time

	ctx    context.Context // ends with the connection
	cancel context.CancelFunc
	done   chan struct{}
	reader sync.WaitGroup
	writer sync.WaitGroup
	serial atomic.Uint32 // of the last message sent
	jobs   chan job      // for those that wait for one
	idle   atomic.Int32  // those
	large  chan struct{} // has a place for each answer of a Large method

	pieces    sync.Pool    // of the answers that are sent
	largeMade atomic.Int64 // bytes of their answers since the last collection
	backlogs  backlogs

	mu       sync.Mutex
	ended    bool
	err      error
	pending  map[uint32]*pending
	objects  map[string]*object
	peers    map[string]*peer
	accounts map[string]*account // by app id, or unique name of a host caller
	unknown  account             // of callers not yet identified
	batch    *batch              // where the next call counts
	quotas   quotas
	watchers map[*Subscription]struct{}
	giving   map[string]bool // names that ReleaseName is giving back
}

// Options are the settings of a connection.
type Options struct {
	Log *slog.Logger
	// Identify says who is behind a unique name. A nil func refuses every
	// caller. Its errors are answered as AccessDenied without their text. It
	// is called once for a name that stays on the bus, and again after an
	// error when the name calls again.
	Identify func(ctx context.Context, name string) (*identity.Caller, error)
	// PeerGone is called when a unique name that called before leaves the bus,
	// after the last of its handlers has returned.
	PeerGone func(name string)
	// NameLost is called when the bus takes a well-known name away. Neither it
	// nor PeerGone is called before the one before has returned.
	NameLost func(name string)
	// Prepare is called before anything is received: what is exported in it is
	// there for the first call.
	Prepare func(c *Conn)
	// Connect connects to a unix socket, whose name has a leading @ if it is
	// abstract; nil is connect(2). The bus takes who did for the process behind
	// the connection.
	Connect func(name string) (*os.File, error)
}

// Dial connects to the bus at a D-Bus address (D-Bus specification, "Server
// Addresses"), authenticates and says hello. An empty address is the session
// bus: $DBUS_SESSION_BUS_ADDRESS, else $XDG_RUNTIME_DIR/bus. ctx bounds the
// connecting only.
func Dial(ctx context.Context, address string, o Options) (*Conn, error) {
	names, err := sockets(address)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, name := range names {
		f, err := connect(ctx, name, o.Connect)
		if err == nil {
			var c *Conn
			if c, err = start(f, o); err == nil {
				if err = c.hello(ctx); err == nil {
					return c, nil
				}
				c.Close()
			}
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// start runs the message protocol on an authenticated socket, which the
// connection owns from now on.
func start(f *os.File, o Options) (*Conn, error) {
	c, err := prepare(f, o)
	if err == nil {
		c.converse()
	}
	return c, err
}

// prepare is start without anything being sent or received yet.
func prepare(f *os.File, o Options) (*Conn, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, err
	}
	c := &Conn{
		o:        o,
		log:      o.Log,
		file:     f,
		raw:      raw,
		in:       newStream(raw),
		out:      newQueue(outgoing.size),
		events:   newQueue(func(func()) int { return 1 }),
		done:     make(chan struct{}),
		jobs:     make(chan job),
		large:    make(chan struct{}, maxLarge),
		pending:  make(map[uint32]*pending),
		objects:  make(map[string]*object),
		peers:    make(map[string]*peer),
		accounts: make(map[string]*account),
		batch:    newBatch(nil),
		quotas:   defaultQuotas(),
		watchers: make(map[*Subscription]struct{}),
		giving:   make(map[string]bool),
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	c.unknown.limits = c.quotas.unknown
	c.serial.Store(rand.Uint32()) // see answered
	c.ctx, c.cancel = context.WithCancel(context.Background())
	if o.Prepare != nil {
		o.Prepare(c)
	}
	return c, nil
}

func (c *Conn) converse() {
	c.reader.Go(c.receiveAll)
	c.writer.Go(c.sendAll)
	go c.callBack() // ends with the events queue
}

// gone is the match of the one signal that tells when callers leave.
const gone = "type='signal',sender='org.freedesktop.DBus',path='/org/freedesktop/DBus'," +
	"interface='org.freedesktop.DBus',member='NameOwnerChanged',arg2=''"

// hello introduces the connection and asks for the one signal that tells when
// callers leave. Both go out at once, so that no caller can be seen before.
func (c *Conn) hello(ctx context.Context) error {
	hello, err := c.begin(busName, busPath, busInterface, "Hello", "", nil, nil)
	if err != nil {
		return err
	}
	defer c.forget(hello)
	match, err := c.begin(busName, busPath, busInterface, "AddMatch", "s", []any{gone}, nil)
	if err != nil {
		return err
	}
	defer c.forget(match)
	if _, err := c.finish(ctx, hello, &c.name); err != nil {
		return fmt.Errorf("saying hello to the bus: %w", err)
	}
	if _, err := c.finish(ctx, match); err != nil {
		return fmt.Errorf("asking the bus for NameOwnerChanged: %w", err)
	}
	return nil
}

// UniqueName is the connection's own unique name.
func (c *Conn) UniqueName() string { return c.name }

// Done is closed when the connection has ended, by Close or by the bus.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err says why the connection has ended: nil after Close, or before the end.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close ends the connection; calls in flight are dropped, their contexts end.
// Messages that were queued before are still sent, for a second at most.
func (c *Conn) Close() error {
	c.cancel()
	c.out.close()
	c.file.SetWriteDeadline(time.Now().Add(time.Second))
	c.writer.Wait()
	c.end(nil)
	c.reader.Wait()
	return nil
}

// end ends the connection once, for a reason.
func (c *Conn) end(err error) {
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		return
	}
	c.ended, c.err = true, err
	waiting := c.pending
	c.pending = nil
	var calls []*Call
	for _, p := range c.peers {
		calls = append(calls, p.waiting...)
		p.waiting = nil
	}
	for w := range c.watchers {
		w.close()
	}
	c.watchers = nil
	c.mu.Unlock()

	c.cancel()
	c.file.Close()
	for _, m := range c.out.drain() {
		closeAll(m.files)
	}
	c.events.drain()
	for _, p := range waiting {
		close(p.reply)
	}
	for _, call := range calls {
		closeAll(call.files)
	}
	close(c.done)
}

func (c *Conn) callBack() {
	for {
		fn, ok := c.events.pop()
		if !ok {
			return
		}
		fn()
	}
}

func (c *Conn) sendAll() {
	for {
		m, ok := c.out.pop()
		if !ok {
			return
		}
		err := send(c.raw, m)
		c.sent(m)
		if err != nil {
			// Not in this goroutine's way: end closes what it works on.
			c.end(fmt.Errorf("sending to the bus: %w", err))
			return
		}
	}
}

// receiveAll reads messages until the connection ends. It never waits for a
// handler.
func (c *Conn) receiveAll() {
	defer c.in.closeFiles()
	for {
		c.out.below(maxQueued)
		if err := c.receive(); err != nil {
			if err == io.EOF {
				err = errors.New("the bus closed the connection")
			}
			c.end(err)
			return
		}
	}
}

// receive reads and handles one message.
func (c *Conn) receive() error {
	h, err := c.in.readHeader()
	if err != nil {
		return err
	}
	switch h.typ {
	case dbus.TypeMethodCall:
		return c.incoming(&h)
	case dbus.TypeMethodReply, dbus.TypeError:
		return c.answered(&h)
	case dbus.TypeSignal:
		return c.signalled(&h)
	}
	return c.refuse(&h) // types that are not known are to be ignored
}

// refuse passes over a message's body and closes its descriptors.
func (c *Conn) refuse(h *header) error {
	if err := c.in.discard(int64(h.body)); err != nil {
		return err
	}
	files, _ := c.in.claim(h.files)
	closeAll(files)
	return nil
}

// accept reads a message's body and its descriptors, which the caller owns.
// lost reports that the descriptors did not arrive.
func (c *Conn) accept(h *header) (body []byte, files []int, lost bool, err error) {
	body = make([]byte, h.body)
	if err := c.in.fill(body); err != nil {
		return nil, nil, false, err
	}
	files, err = c.in.claim(h.files)
	return body, files, err != nil, nil
}

// nextSerial returns a serial for a message.
func (c *Conn) nextSerial() uint32 {
	for {
		if n := c.serial.Add(1); n != 0 {
			return n
		}
	}
}

// sent lets go of what a message held.
func (c *Conn) sent(m outgoing) {
	closeAll(m.files)
	for _, p := range m.lent {
		c.pieces.Put(p)
	}
}

// post sends a message, whose descriptors it takes over, and of whose body some
// pieces may be lent. It does not wait and may be called with c.mu held.
func (c *Conn) post(h *header, body [][]byte, files []int, lent ...*piece) error {
	if h.serial == 0 {
		h.serial = c.nextSerial()
	}
	h.files = len(files)
	data, err := h.marshal(body...)
	if err != nil {
		closeAll(files)
		return err
	}
	if strings.HasPrefix(h.dest, ":") && !c.toSend(h.dest, outgoing{data: data}.size()) {
		closeAll(files)
		return nil // nobody reads it
	}
	message, sent := outgoing{data: data, files: files, lent: lent}, false
	if !c.out.push(message, func(m outgoing) (outgoing, bool) {
		m, sent = trySend(c.raw, m)
		return m, sent
	}) {
		closeAll(files)
		return ErrClosed
	}
	if sent {
		c.sent(message)
	}
	return nil
}

// Emit sends a signal, to one peer if dest is its unique name, else to all.
// It does not wait.
func (c *Conn) Emit(dest, path, iface, member, signature string, args ...any) error {
	h := header{typ: dbus.TypeSignal, flags: dbus.FlagNoReplyExpected,
		dest: dest, path: path, iface: iface, member: member, sig: signature}
	body, err := h.check(args)
	if err != nil {
		return fmt.Errorf("signal %s.%s: %w", iface, member, err)
	}
	return c.post(&h, [][]byte{body}, nil)
}

// check reports what of a signal or call the bus would disconnect us for, and
// encodes its arguments.
func (h *header) check(args []any) (body []byte, err error) {
	switch {
	case h.dest != "" && !validName(h.dest, true):
		return nil, fmt.Errorf("%q is not a bus name", h.dest)
	case len(h.path) > maxField || !validPath(h.path):
		return nil, fmt.Errorf("%q is not an object path", h.path)
	case (h.iface != "" || h.typ == dbus.TypeSignal) && !validName(h.iface, false):
		return nil, fmt.Errorf("%q is not an interface name", h.iface)
	case !validMember(h.member):
		return nil, fmt.Errorf("%q is not a member name", h.member)
	}
	if err := checkSignature(h.sig); err != nil {
		return nil, err
	}
	return encodeBody(h.sig, args)
}

// signalled handles a signal.
func (c *Conn) signalled(h *header) error {
	fromBus := h.sender == busName && h.iface == busInterface && h.path == busPath
	if !fromBus && !c.watched(h) || h.body > maxBody {
		return c.refuse(h)
	}
	body, files, _, err := c.accept(h)
	if err != nil {
		return err
	}
	closeAll(files)
	c.deliver(h, body)
	if !fromBus {
		return nil
	}
	args, err := decodeBody(h.order, h.sig, body)
	if err != nil {
		return fmt.Errorf("the bus sent a malformed %s: %w", h.member, err)
	}
	switch {
	case h.member == "NameOwnerChanged" && h.sig == "sss":
		if name := args[0].(string); strings.HasPrefix(name, ":") && args[2].(string) == "" {
			c.left(name)
		}
	case h.member == "NameLost" && h.sig == "s":
		name := args[0].(string)
		c.mu.Lock()
		ours := c.giving[name]
		c.mu.Unlock()
		if !ours && c.o.NameLost != nil && !strings.HasPrefix(name, ":") {
			c.events.push(func() { c.o.NameLost(name) }, nil)
		}
	}
	return nil
}
