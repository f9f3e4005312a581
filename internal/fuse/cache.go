package fuse

import (
	"container/list"
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
// its name since.
type cache struct {
	mu     sync.Mutex
	byNode map[*node]*list.Element
	order  list.List // of *cached, oldest first
	timer  *time.Timer
	closed bool
}

type cached struct {
	n  *node
	d  *descriptor
	at time.Time
}

// get returns the descriptor of n, which the caller puts back, or nil.
func (c *cache) get(n *node) *descriptor {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.byNode[n]
	if e == nil {
		return nil
	}
	v := e.Value.(*cached)
	if time.Since(v.at) >= cacheTime {
		c.remove(e)
		return nil
	}
	return v.d.get()
}

// add keeps d, of which it takes a reference of its own, for n.
func (c *cache) add(n *node, d *descriptor) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	if c.byNode == nil {
		c.byNode = make(map[*node]*list.Element)
	}
	if e := c.byNode[n]; e != nil {
		c.remove(e)
	}
	for c.order.Len() >= cacheSize {
		c.remove(c.order.Front())
	}
	c.byNode[n] = c.order.PushBack(&cached{n, d.get(), time.Now()})
	if c.order.Len() == 1 {
		if c.timer == nil {
			c.timer = time.AfterFunc(cacheTime, c.expire)
		} else {
			c.timer.Reset(cacheTime)
		}
	}
}

func (c *cache) expire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for e := c.order.Front(); e != nil; e = c.order.Front() {
		rest := cacheTime - time.Since(e.Value.(*cached).at)
		if rest > 0 {
			c.timer.Reset(rest)
			return
		}
		c.remove(e)
	}
}

func (c *cache) remove(e *list.Element) {
	v := c.order.Remove(e).(*cached)
	delete(c.byNode, v.n)
	v.d.put()
}

// drop forgets the descriptor of n.
func (c *cache) drop(n *node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.byNode[n]; e != nil {
		c.remove(e)
	}
}

// dropView forgets the descriptors of every node of v.
func (c *cache) dropView(v *docView) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for e := c.order.Front(); e != nil; {
		next := e.Next()
		if e.Value.(*cached).n.view == v {
			c.remove(e)
		}
		e = next
	}
}

// close forgets everything and keeps nothing from now on.
func (c *cache) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for e := c.order.Front(); e != nil; e = c.order.Front() {
		c.remove(e)
	}
	if c.timer != nil {
		c.timer.Stop()
	}
}
