package bus

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"docportal/internal/identity"

	"github.com/godbus/dbus/v5"
)

// identifyTimeout bounds the identification of a caller.
const identifyTimeout = 10 * time.Second

// peer is a unique name that called. All of it is guarded by Conn.mu.
type peer struct {
	name   string
	ctx    context.Context // ends when the peer or the connection does
	cancel context.CancelFunc

	caller    *identity.Caller // nil until identified
	account   *account         // nil until identified
	resolving bool
	gone      bool
	backlog   *backlog
	waiting   []*Call // for the identification, in order of arrival
	serial    map[*exported]*lane
	running   int // calls admitted and not finished
}

// lane is calls of which one runs at a time and the others wait for it, in
// order. It is guarded by Conn.mu.
type lane struct {
	busy    bool
	waiting []*Call
}

const (
	// maxLarge is how many answers of Large methods are made at a time, of all
	// callers, and largeQueued how many bytes may wait to be sent meanwhile.
	maxLarge    = 2
	largeQueued = 8 << 20
	// largeGarbage is how many bytes of such answers may be left over when
	// another one is made: at its own pace the collector would let as much of
	// them stand beside it as there is memory in use.
	largeGarbage = 8 << 20
)

// incoming handles a method call: it answers what is wrong at once, and
// hands the rest on.
func (c *Conn) incoming(h *header) error {
	if !validName(h.sender, true) {
		c.log.Warn("message without a sender dropped", "member", h.member)
		return c.refuse(h)
	}
	iface, method, e := c.lookup(h)
	if e == nil && h.sig != method.In {
		e = &Error{errInvalidArgs, fmt.Sprintf("%s takes (%s), not (%s)", h.member, method.In, h.sig)}
	}
	if e == nil && h.body > maxBody {
		e = &Error{errLimitsExceeded, fmt.Sprintf("a message body of more than %d bytes", maxBody)}
	}
	if e == nil && method.open {
		if err := c.refuse(h); err != nil {
			return err
		}
		if h.body != 0 {
			c.replyError(h, &Error{errInvalidArgs, "bytes after the last argument"})
		} else {
			c.reply(h, method.Out, nil)
		}
		return nil
	}
	var call *Call
	if e == nil {
		call, e = c.admit(h, iface, method)
	}
	if e != nil {
		if err := c.refuse(h); err != nil {
			return err
		}
		c.replyError(h, e)
		return nil
	}
	body, files, lost, err := c.accept(h)
	if err != nil {
		return err
	}
	call.data, call.files = body, files
	if lost {
		c.replyError(h, &Error{errLimitsExceeded, "the descriptors of the message did not arrive"})
		c.mu.Lock()
		c.finished(call)
		c.mu.Unlock()
		return nil
	}
	c.mu.Lock()
	c.dispatch(call)
	c.mu.Unlock()
	return nil
}

// admit counts a call, before its body is read, on the account of its sender.
func (c *Conn) admit(h *header, iface *exported, method *Method) (*Call, *Error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return nil, &Error{errLimitsExceeded, "shutting down"}
	}
	p := c.peers[h.sender]
	if p == nil {
		p = &peer{name: h.sender, backlog: c.backlogs.meet(h.sender), serial: make(map[*exported]*lane)}
		p.ctx, p.cancel = context.WithCancel(c.ctx)
		c.peers[h.sender] = p
	}
	call := &Call{
		Sender: h.sender, Path: h.path, Interface: iface.Name, Member: h.member,
		header: *h, peer: p, iface: iface, method: method,
		cost: limits{calls: 1, bytes: h.body, files: h.files},
		pool: &c.pieces,
	}
	call.account = p.account
	if p.account == nil {
		if p.running >= c.quotas.host.calls {
			return nil, Failed("more than %d calls in flight", c.quotas.host.calls)
		}
		call.account = &c.unknown
	}
	if e := call.account.admit(call.cost); e != nil {
		return nil, e
	}
	p.running++
	call.batch = c.batch
	c.batch.calls++
	return call, nil
}

// dispatch runs a call, once its sender is identified. c.mu is held.
func (c *Conn) dispatch(call *Call) {
	p := call.peer
	if p.caller == nil {
		p.waiting = append(p.waiting, call)
		if !p.resolving {
			p.resolving = true
			go c.identify(p) // ends within identifyTimeout, or with p.ctx
		}
		return
	}
	if call.account != p.account {
		if e := p.account.admit(call.cost); e != nil {
			c.replyError(&call.header, e)
			c.finished(call)
			return
		}
		call.account.release(call.cost)
		call.account = p.account
	}
	call.Caller = p.caller
	var l *lane
	switch {
	case call.iface.Serial:
		if p.serial[call.iface] == nil {
			p.serial[call.iface] = new(lane)
		}
		l = p.serial[call.iface]
	case call.method.Large:
		l = &p.account.large
	default:
		l = new(lane) // of its own
	}
	if l.busy {
		l.waiting = append(l.waiting, call)
		return
	}
	l.busy = true
	j := job{l, call}
	select {
	case c.jobs <- j:
	default:
		go c.work(j) // ends with the connection, or when enough others wait for jobs
	}
}

// job is a call to run, and then those that wait in its lane.
type job struct {
	lane *lane
	call *Call
}

// maxIdle is how many goroutines wait for jobs: one that is new has a small
// stack, and finding that out with each call costs more than the waiting.
const maxIdle = 4

func (c *Conn) work(j job) {
	for {
		c.runAll(j.lane, j.call)
		if c.idle.Add(1) > maxIdle {
			c.idle.Add(-1)
			return
		}
		select {
		case j = <-c.jobs:
			c.idle.Add(-1)
		case <-c.ctx.Done():
			return
		}
	}
}

// identify finds out who a peer is and lets its calls go on.
func (c *Conn) identify(p *peer) {
	caller, err := c.resolve(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	p.resolving = false
	waiting := p.waiting
	p.waiting = nil
	if err != nil {
		// Not kept: an honest caller may have met a passing lack of something.
		if p.ctx.Err() == nil {
			c.log.Info("caller refused", "name", p.name, "error", err)
		}
		for _, call := range waiting {
			if p.ctx.Err() == nil {
				c.replyError(&call.header, &Error{errAccessDenied, "the caller could not be identified"})
			}
			c.finished(call)
		}
		return
	}
	if !p.gone {
		key, limits := caller.App, c.quotas.app
		if caller.IsHost() {
			key, limits = p.name, c.quotas.host
		}
		p.caller, p.account = caller, c.accounts[key]
		if p.account == nil {
			p.account = &account{key: key, limits: limits}
			c.accounts[key] = p.account
		}
		p.account.peers++
	}
	for _, call := range waiting {
		if p.gone {
			c.finished(call)
		} else {
			c.dispatch(call)
		}
	}
}

func (c *Conn) resolve(p *peer) (caller *identity.Caller, err error) {
	defer func() {
		if r := recover(); r != nil {
			caller, err = nil, fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	if c.o.Identify == nil {
		return nil, errors.New("nobody is served here")
	}
	ctx, cancel := context.WithTimeout(p.ctx, identifyTimeout)
	defer cancel()
	caller, err = c.o.Identify(ctx, p.name)
	if err == nil && caller == nil {
		err = errors.New("no caller and no error")
	}
	return caller, err
}

// left handles that a unique name has left the bus.
func (c *Conn) left(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.peers[name]
	if p == nil {
		return
	}
	delete(c.peers, name)
	c.backlogs.forget(name)
	p.gone = true
	p.cancel()
	c.settle(p)
}

// settle says goodbye to a peer that is gone, after its last call. c.mu is
// held.
func (c *Conn) settle(p *peer) {
	if !p.gone || p.running > 0 || p.account == nil {
		return
	}
	p.account.peers--
	if p.account.peers == 0 {
		delete(c.accounts, p.account.key)
	}
	p.account = nil
	if c.o.PeerGone != nil {
		name := p.name
		c.events.push(func() { c.o.PeerGone(name) }, nil)
	}
}

// finished closes what a call holds. c.mu is held.
func (c *Conn) finished(call *Call) {
	closeAll(call.files)
	call.files, call.data, call.body = nil, nil, nil
	call.account.release(call.cost)
	call.peer.running--
	call.batch.calls--
	call.batch.check()
	c.settle(call.peer)
}

// batch is the calls that came between two Drains. All of it is guarded by
// Conn.mu but done.
type batch struct {
	before *batch // of the Drain before; nil if that has no calls any more
	calls  int    // admitted and not finished
	closed bool   // a Drain waits for it: no more calls come
	done   chan struct{}
}

func newBatch(before *batch) *batch { return &batch{before: before, done: make(chan struct{})} }

func (b *batch) check() {
	if b.closed && b.calls == 0 {
		select {
		case <-b.done:
		default:
			close(b.done)
		}
	}
}

// Drain waits until every call that was received before it is answered, its
// reply queued; calls that come meanwhile do not count. After ReleaseName has
// returned these are all the calls for that name: the bus sends what it had
// for us first, and messages are taken in their order. The error is that of
// ctx, or ErrClosed.
func (c *Conn) Drain(ctx context.Context) error {
	c.mu.Lock()
	b := c.batch
	b.closed = true
	b.check()
	next := newBatch(b)
	c.batch = next
	c.mu.Unlock()
	for b != nil {
		select {
		case <-b.done:
		case <-c.done:
			return ErrClosed
		case <-ctx.Done():
			return ctx.Err()
		}
		c.mu.Lock()
		before := b.before
		c.mu.Unlock()
		b = before
	}
	c.mu.Lock()
	next.before = nil
	c.mu.Unlock()
	return nil
}

// runAll runs a call, and those that wait for it, one after the other.
func (c *Conn) runAll(l *lane, call *Call) {
	for call != nil {
		c.run(call)
		c.mu.Lock()
		c.finished(call)
		if call = nil; len(l.waiting) > 0 {
			call = l.waiting[0]
			l.waiting[0] = nil
			l.waiting = l.waiting[1:]
		} else {
			l.busy, l.waiting = false, nil
		}
		c.mu.Unlock()
	}
}

// run handles a call and answers it.
func (c *Conn) run(call *Call) {
	if !c.keepsUp(call.peer, call.iface.Serial || call.method.Large) {
		c.replyError(&call.header, &Error{errLimitsExceeded, "the answers before this one are not read"})
		return
	}
	if call.method.Large {
		select {
		case c.large <- struct{}{}:
			defer func() { <-c.large }()
		case <-call.peer.ctx.Done():
		}
		c.out.below(largeQueued)
		if n := c.largeMade.Load(); n > largeGarbage {
			c.largeMade.Add(-n)
			runtime.GC()
		}
	}
	if call.peer.ctx.Err() == nil {
		results, err := c.handle(call)
		c.answer(call, results, err)
	}
}

func (c *Conn) handle(call *Call) (results []any, err error) {
	defer func() {
		if r := recover(); r != nil {
			results, err = nil, fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	body, err := decodeBody(call.header.order, call.header.sig, call.data)
	if err != nil {
		return nil, &Error{errInvalidArgs, err.Error()}
	}
	call.body, call.data = body, nil
	return call.method.Handle(call.peer.ctx, call)
}

// answer sends the outcome of a call.
func (c *Conn) answer(call *Call, results []any, err error) {
	if call.peer.ctx.Err() != nil {
		return // nobody to answer to
	}
	if err == nil {
		body, lent, eerr := encodeResults(call.method.Out, results)
		if call.method.Large {
			c.largeMade.Add(int64(outgoing{data: body}.size()))
		}
		if eerr == nil {
			eerr = c.reply(&call.header, call.method.Out, body, lent...)
		}
		if eerr == nil || errors.Is(eerr, ErrClosed) {
			return
		}
		err = fmt.Errorf("the reply cannot be sent: %w", eerr)
	}
	var e *Error
	if !errors.As(err, &e) {
		c.log.Error("call failed", "method", call.Interface+"."+call.Member, "sender", call.Sender, "error", err)
		e = Failed("internal error")
	}
	c.replyError(&call.header, e)
}

// reply answers a call, unless no reply is expected.
func (c *Conn) reply(h *header, sig string, body [][]byte, lent ...*piece) error {
	if h.flags&dbus.FlagNoReplyExpected != 0 {
		return nil
	}
	return c.post(&header{
		typ: dbus.TypeMethodReply, flags: dbus.FlagNoReplyExpected,
		dest: h.sender, replySerial: h.serial, sig: sig,
	}, body, nil, lent...)
}

// replyError answers a call with an error, unless no reply is expected.
func (c *Conn) replyError(h *header, e *Error) {
	if h.flags&dbus.FlagNoReplyExpected != 0 {
		return
	}
	name := e.Name
	if !validName(name, false) {
		c.log.Error("invalid error name", "name", name)
		name = portalError + "Failed"
	}
	const longest = 1024
	text := strings.ReplaceAll(e.Message, "\x00", "?")
	if len(text) > longest {
		text = text[:longest]
	}
	body, err := encodeBody("s", []any{strings.ToValidUTF8(text, "?")})
	if err == nil {
		err = c.post(&header{
			typ: dbus.TypeError, flags: dbus.FlagNoReplyExpected,
			dest: h.sender, replySerial: h.serial, errName: name, sig: "s",
		}, [][]byte{body}, nil)
	}
	if err != nil && !errors.Is(err, ErrClosed) {
		c.log.Error("error reply not sent", "error", err)
	}
}
