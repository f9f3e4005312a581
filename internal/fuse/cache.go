package fuse

import (
	"sync"
	"time"
)

const (
	// cacheSize is the greatest number of descriptors kept between
	// requests.
	cacheSize = 64
	// cacheTime is how long one is kept. It is short, and counts from when
	// the name was resolved: a removable disk must be free as soon as
	// nobody uses it, and a directory that was moved away on the host
	// stops being reached by its old place. It is as long as a path walk
	// and the operation it was for need.
	cacheTime = 50 * time.Millisecond
)

// cache keeps the descriptors of nodes that were just looked up, so that the
// operation that the look-up was for finds the same file whatever happened to
// its name since. Every look-up adds one, so that takes no memory of the heap.
type cache struct {
	mu      sync.Mutex
	started time.Time // of the clock for cached.at; the first descriptor's time
	entries [cacheSize]cached
	timer   *time.Timer
	ticking bool // the timer will call expire
	closed  bool
}

// cached is a descriptor of n, which has its place in the cache; n is nil if there
// is none.
type cached struct {
	n  *node
	d  *descriptor
	at time.Duration
}

func (c *cache) now() time.Duration { return time.Since(c.started) }

// get returns the descriptor of n, which the caller puts back, or nil.
func (c *cache) get(n *node) *descriptor {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n.cacheEntry == nil {
		return nil
	}
	if c.now()-n.cacheEntry.at >= cacheTime {
		c.remove(n.cacheEntry)
		return nil
	}
	return n.cacheEntry.d.get()
}

// add keeps d, of which it takes a reference of its own, for n.
func (c *cache) add(n *node, d *descriptor) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	if c.started.IsZero() {
		c.started = time.Now()
	}
	e := n.cacheEntry
	if e == nil {
		e = c.oldest()
	}
	c.remove(e)
	*e = cached{n, d.get(), c.now()}
	n.cacheEntry = e
	if !c.ticking {
		c.ticking = true
		if c.timer == nil {
			c.timer = time.AfterFunc(cacheTime, c.expire)
		} else {
			c.timer.Reset(cacheTime)
		}
	}
}

// oldest is a free entry, or the one whose descriptor was added before all others.
func (c *cache) oldest() *cached {
	oldest := &c.entries[0]
	for i := range c.entries {
		e := &c.entries[i]
		if e.n == nil {
			return e
		}
		if e.at < oldest.at {
			oldest = e
		}
	}
	return oldest
}

func (c *cache) expire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ticking = false
	now, rest := c.now(), time.Duration(0)
	for i := range c.entries {
		e := &c.entries[i]
		if e.n == nil {
			continue
		}
		left := cacheTime - (now - e.at)
		if left <= 0 {
			c.remove(e)
		} else if rest == 0 || left < rest {
			rest = left
		}
	}
	if rest > 0 {
		c.ticking = true
		c.timer.Reset(rest)
	}
}

// remove empties e. c.mu is held.
func (c *cache) remove(e *cached) {
	if e.n != nil {
		e.n.cacheEntry = nil
		e.d.put()
		*e = cached{}
	}
}

// drop forgets the descriptor of n.
func (c *cache) drop(n *node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n.cacheEntry != nil {
		c.remove(n.cacheEntry)
	}
}

// dropView forgets the descriptors of every node of v.
func (c *cache) dropView(v *docView) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.entries {
		if e := &c.entries[i]; e.n != nil && e.n.view == v {
			c.remove(e)
		}
	}
}

// close forgets everything and keeps nothing from now on.
func (c *cache) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for i := range c.entries {
		c.remove(&c.entries[i])
	}
	if c.timer != nil {
		c.timer.Stop()
	}
}
