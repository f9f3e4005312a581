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
	// nobody uses it, and who has a directory without having it open (as
	// working directory, or by O_PATH) is not to go on in it for long
	// after the host has moved it. It is as long as a path walk and the
	// operation that it was for need.
	cacheTime = 50 * time.Millisecond
	// dropTime is after how long the descriptors of forgotten nodes are closed.
	dropTime = time.Millisecond
)

// cache keeps the descriptors of nodes that were just looked up, so that the
// operation that the look-up was for finds the same file whatever happened to
// its name since. Every look-up adds one, so that takes no memory of the heap.
//
// To close the last descriptor of a large file that was removed, or of a disk that
// was unmounted lazily, takes as long as the disk likes. So it is done with no lock
// held.
type cache struct {
	mu      sync.Mutex
	entries [cacheSize]cached
	timer   *time.Timer
	next    time.Time // when the timer will call expire; zero if it will not
	closed  bool
}

// cached is a descriptor of n, which has its place in the cache; d is nil if there
// is none. n is nil if it was forgotten: then d only waits for its time to be closed.
type cached struct {
	n  *node
	d  *descriptor
	at time.Time
}

// get returns the descriptor of n, which the caller puts back, or nil.
func (c *cache) get(n *node) *descriptor {
	c.mu.Lock()
	var d, late *descriptor
	switch e := n.cacheEntry; {
	case e == nil:
	case time.Since(e.at) >= cacheTime:
		late = c.remove(e)
	default:
		d = e.d.get()
	}
	c.mu.Unlock()
	late.put()
	return d
}

// add keeps d, of which it takes a reference of its own, for n.
func (c *cache) add(n *node, d *descriptor) { c.replace(n, d).put() }

// replace is the part of add that holds c.mu: the caller puts back what it returns.
func (c *cache) replace(n *node, d *descriptor) (old *descriptor) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	e := n.cacheEntry
	if e == nil {
		e = c.oldest()
	}
	old = c.remove(e)
	*e = cached{n, d.get(), time.Now()}
	n.cacheEntry = e
	c.expireIn(cacheTime)
	return old
}

// expireIn has expire called after that time at the latest. c.mu is held.
func (c *cache) expireIn(rest time.Duration) {
	at := time.Now().Add(rest)
	if c.closed || !c.next.IsZero() && !at.Before(c.next) {
		return
	}
	c.next = at
	if c.timer == nil {
		c.timer = time.AfterFunc(rest, c.expire)
	} else {
		c.timer.Reset(rest)
	}
}

// oldest is a free entry, or the one whose descriptor was added before all others.
func (c *cache) oldest() *cached {
	oldest := &c.entries[0]
	for i := range c.entries {
		e := &c.entries[i]
		if e.d == nil {
			return e
		}
		if e.at.Before(oldest.at) {
			oldest = e
		}
	}
	return oldest
}

func (c *cache) expire() {
	c.removeAll(func(e *cached) bool { return e.n == nil || time.Since(e.at) >= cacheTime }, func() {
		c.next = time.Time{}
		for i := range c.entries {
			if e := &c.entries[i]; e.d != nil {
				c.expireIn(max(time.Until(e.at.Add(cacheTime)), 1))
			}
		}
	})
}

// remove empties e and returns its descriptor, or nil, which the caller puts back
// when no lock is held. c.mu is held.
func (c *cache) remove(e *cached) *descriptor {
	d := e.d
	if e.n != nil {
		e.n.cacheEntry = nil
	}
	*e = cached{}
	return d
}

// removeAll removes the entries that which chooses, then calls then, which may be
// nil, with c.mu held, and closes the descriptors when it is not held any more.
func (c *cache) removeAll(which func(e *cached) bool, then func()) {
	var all [cacheSize]*descriptor
	c.mu.Lock()
	for i := range c.entries {
		if e := &c.entries[i]; e.d != nil && which(e) {
			all[i] = c.remove(e)
		}
	}
	if then != nil {
		then()
	}
	c.mu.Unlock()
	for _, d := range all {
		d.put()
	}
}

// drop forgets n. The caller may hold the table's mutex, so the descriptor is left
// to be closed by the timer, soon: what was removed takes room on its disk for as
// long.
func (c *cache) drop(n *node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := n.cacheEntry; e != nil {
		n.cacheEntry, e.n = nil, nil
		c.expireIn(dropTime)
	}
}

// dropView forgets the descriptors of every node of v.
func (c *cache) dropView(v *docView) {
	c.removeAll(func(e *cached) bool { return e.n != nil && e.n.view == v }, nil)
}

// close forgets everything and keeps nothing from now on.
func (c *cache) close() {
	c.removeAll(func(*cached) bool { return true }, func() {
		c.closed = true
		if c.timer != nil {
			c.timer.Stop()
		}
	})
}
