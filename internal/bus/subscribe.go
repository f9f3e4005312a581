package bus

import (
	"context"
	"strings"
)

// Match says which signals a Subscription wants; empty fields match all.
type Match struct {
	Sender, Path, Interface, Member string
}

// Signal is a signal of a peer.
type Signal struct {
	Sender, Path, Interface, Member string

	sig  string
	args []any
}

// Scan stores the arguments in dst, as many as there are dst, or says why they
// do not fit: what a signal carries is the sender's choice.
func (s *Signal) Scan(dst ...any) error { return scan(s.sig, s.args, dst) }

// maxSignals is how many signals may wait for the receiver of a subscription:
// more than come while a busy machine does not let it run.
const maxSignals = 4096

// Subscription is a stream of signals, for programs that wait for portals.
type Subscription struct {
	// C gives the signals in order and is closed when the subscription ends.
	// Signals that find it full, with maxSignals in it, are dropped.
	C <-chan *Signal

	c    *Conn
	m    Match
	send chan *Signal
	rule string
}

// Subscribe asks the bus for signals. Those that the bus sends after Subscribe
// has returned are not missed.
func (c *Conn) Subscribe(ctx context.Context, m Match) (*Subscription, error) {
	rule := "type='signal'"
	for _, f := range []struct{ key, value string }{
		{"sender", m.Sender}, {"path", m.Path}, {"interface", m.Interface}, {"member", m.Member},
	} {
		if f.value != "" {
			rule += "," + f.key + "='" + strings.ReplaceAll(f.value, "'", `'\''`) + "'"
		}
	}
	ch := make(chan *Signal, maxSignals)
	s := &Subscription{C: ch, c: c, m: m, send: ch, rule: rule}
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		return nil, ErrClosed
	}
	c.watchers[s] = struct{}{}
	c.mu.Unlock()
	if err := c.Call(ctx, busName, busPath, busInterface, "AddMatch", "s", []any{rule}); err != nil {
		s.remove()
		return nil, err
	}
	return s, nil
}

// Close ends the subscription.
func (s *Subscription) Close(ctx context.Context) error {
	if !s.remove() {
		return nil
	}
	return s.c.Call(ctx, busName, busPath, busInterface, "RemoveMatch", "s", []any{s.rule})
}

func (s *Subscription) remove() bool {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if _, ok := s.c.watchers[s]; !ok {
		return false
	}
	delete(s.c.watchers, s)
	s.close()
	return true
}

// close is called with the connection's lock held, once.
func (s *Subscription) close() { close(s.send) }

func (m *Match) matches(h *header) bool {
	// Signals come with the sender's unique name: a well-known one in the rule
	// is for the bus to judge.
	exact := strings.HasPrefix(m.Sender, ":") || m.Sender == busName
	return (!exact || m.Sender == h.sender) &&
		(m.Path == "" || m.Path == h.path) &&
		(m.Interface == "" || m.Interface == h.iface) &&
		(m.Member == "" || m.Member == h.member)
}

// watched reports whether a subscription wants the signal.
func (c *Conn) watched(h *header) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for s := range c.watchers {
		if s.m.matches(h) {
			return true
		}
	}
	return false
}

// deliver hands a signal to the subscriptions that want it.
func (c *Conn) deliver(h *header, body []byte) {
	if !c.watched(h) {
		return
	}
	args, err := decodeBody(h.order, h.sig, body)
	if err != nil {
		c.log.Warn("malformed signal", "sender", h.sender, "member", h.member, "error", err)
		return
	}
	signal := &Signal{h.sender, h.path, h.iface, h.member, h.sig, args}
	c.mu.Lock()
	defer c.mu.Unlock()
	for s := range c.watchers {
		if s.m.matches(h) {
			select {
			case s.send <- signal:
			default:
				c.log.Warn("signal dropped: nobody reads the subscription", "member", h.member)
			}
		}
	}
}
