package bus

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"
)

// A bus reads no more from a connection of which too much waits to be read by
// others (max_incoming_bytes of dbus-daemon): one peer that never reads its
// answers could hold up everybody else's. So it is told how much of a peer's
// is unread where the bus can tell, and who falls far behind gets no answers
// until it has caught up.
const (
	// unseenBytes is how many bytes are sent to a peer before the bus is asked
	// whether it reads them.
	unseenBytes = 4 << 20
	// maxUnread is how many bytes may wait to be read by a peer.
	maxUnread = 16 << 20
	// unreadInterval is how often the bus is asked about a peer that is behind:
	// there is no signal.
	unreadInterval = 100 * time.Millisecond
	// unreadPatience is how long answers that are made one after the other wait
	// for a peer that is behind.
	unreadPatience = 10 * time.Second
)

// backlog is what was sent to a peer and may not have been read.
type backlog struct {
	mu      sync.Mutex
	sent    int           // bytes since it was last seen to keep up
	watched bool          // somebody asks the bus, or will again
	asked   chan struct{} // nil if it is known; closed when the bus has answered
	behind  chan struct{} // nil if it is not behind; closed when it is no more
}

// backlogs are those of the peers that have called.
type backlogs struct {
	mu    sync.Mutex
	of    map[string]*backlog // by unique name
	blind bool                // the bus does not tell
}

// meet begins to count what is sent to a peer.
func (b *backlogs) meet(name string) *backlog {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.of == nil {
		b.of = make(map[string]*backlog)
	}
	if b.of[name] == nil {
		b.of[name] = new(backlog)
	}
	return b.of[name]
}

// forget ends it.
func (b *backlogs) forget(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.of, name)
}

func (b *backlogs) find(name string) *backlog {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.blind {
		return nil
	}
	return b.of[name]
}

// toSend counts a message to a peer. It is false if the peer is so far behind
// that the message must not be sent.
func (c *Conn) toSend(name string, n int) bool {
	b := c.backlogs.find(name)
	if b == nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	// The short refusals of one that is behind are sent for a while.
	if b.behind != nil && b.sent > 2*unseenBytes {
		return false
	}
	b.sent += n
	if b.sent >= unseenBytes && !b.watched {
		b.watched, b.asked = true, make(chan struct{})
		go c.watchBacklog(name, b) // ends when it keeps up, has left, or the connection ends
	}
	return true
}

// watchBacklog asks the bus until a peer is not behind.
func (c *Conn) watchBacklog(name string, b *backlog) {
	for {
		unread, err := c.unread(c.ctx, name)
		b.mu.Lock()
		if b.asked != nil {
			close(b.asked)
			b.asked = nil
		}
		if err != nil || unread <= maxUnread {
			b.sent, b.watched = 0, false
			if b.behind != nil {
				close(b.behind)
				b.behind = nil
			}
			b.mu.Unlock()
			return
		}
		if b.behind == nil {
			b.behind = make(chan struct{})
			b.sent = 0
			c.log.Warn("a peer does not read what it is sent", "name", name, "bytes", unread)
		}
		b.mu.Unlock()
		select {
		case <-time.After(unreadInterval):
		case <-c.ctx.Done():
			return
		}
	}
}

// unread asks the bus how many bytes wait to be read by a peer. Whatever fails
// says that the peer has left or that the bus does not tell.
func (c *Conn) unread(ctx context.Context, name string) (int, error) {
	var stats map[string]Value
	err := c.Call(ctx, busName, busPath, "org.freedesktop.DBus.Debug.Stats", "GetConnectionStats", "s", []any{name}, &stats)
	var e *Error
	if errors.As(err, &e) && !strings.HasSuffix(e.Name, ".NameHasNoOwner") {
		c.backlogs.mu.Lock()
		c.backlogs.blind = true
		c.backlogs.mu.Unlock()
		c.log.Debug("the bus does not tell what its peers have not read", "error", err)
	}
	if err != nil {
		return 0, err
	}
	var n uint32
	err = stats["OutgoingBytes"].Scan(&n)
	return int(n), err
}

// keepsUp reports whether a peer reads what it is sent. With wait it waits
// until that is known, and gives the peer some time.
func (c *Conn) keepsUp(p *peer, wait bool) bool {
	b := p.backlog
	b.mu.Lock()
	asked, behind := b.asked, b.behind
	b.mu.Unlock()
	if !wait || asked == nil && behind == nil {
		return behind == nil
	}
	late := time.NewTimer(unreadPatience)
	defer late.Stop()
	if asked != nil {
		select {
		case <-asked:
		case <-p.ctx.Done():
			return false
		}
		b.mu.Lock()
		behind = b.behind
		b.mu.Unlock()
		if behind == nil {
			return true
		}
	}
	select {
	case <-behind:
		return true
	case <-p.ctx.Done():
	case <-late.C:
	}
	return false
}
