package fuse

import (
	"sync"
	"time"
)

// notices tells the kernel to drop what it caches of documents. A notice may
// wait for requests on the same file to be answered, so each document has a
// goroutine of its own, while it has notices, that holds no lock.
type notices struct {
	view *View

	mu     sync.Mutex
	active map[string]bool // by document: true if it is to be done again
	closed bool
}

// add drops the document id.
func (n *notices) add(id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return
	}
	if _, ok := n.active[id]; ok {
		n.active[id] = true
		return
	}
	if n.active == nil {
		n.active = make(map[string]bool)
	}
	n.active[id] = false
	go n.run(id)
}

// run ends when nothing is left to drop, or with the connection: notices then
// fail at once.
func (n *notices) run(id string) {
	for {
		n.view.drop(id)
		n.mu.Lock()
		if !n.active[id] || n.closed {
			delete(n.active, id)
			n.mu.Unlock()
			return
		}
		n.active[id] = false
		n.mu.Unlock()
	}
}

// close lets nothing begin any more.
func (n *notices) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
}

// entry is a name that the kernel may have cached.
type entry struct {
	parent uint64
	name   string
}

// namesTime is how long dropNames waits.
const namesTime = 50 * time.Millisecond

// dropNames makes the kernel forget the name of a document in the views. It waits
// for look-ups in their directories, which wait for nothing, and not for long.
func (v *View) dropNames(id string) {
	var entries []entry
	t := v.fs.nodes
	t.mu.Lock()
	for k, d := range t.views {
		if k.doc == id && d.dir != nil {
			entries = append(entries, entry{d.dir.parent.id, id})
		}
	}
	t.mu.Unlock()
	if len(entries) == 0 {
		return
	}
	done := make(chan struct{})
	go func() {
		for _, e := range entries {
			v.heralds.entry(e.parent, e.name)
		}
		close(done)
	}()
	timer := time.NewTimer(namesTime)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}

// drop tells the kernel to forget the pages, attributes and names of a
// document, in every view, and removes the temp files where it is gone.
func (v *View) drop(id string) {
	var open, inodes []uint64
	var entries []entry
	var gone []*docView
	t := v.fs.nodes
	t.mu.Lock()
	for k, d := range t.views {
		if k.doc != id {
			continue
		}
		for n := range d.nodes {
			if n.handles != nil {
				open = append(open, n.id)
			} else {
				inodes = append(inodes, n.id)
			}
			if n.parent != nil {
				entries = append(entries, entry{n.parent.id, n.name})
			}
		}
		gone = append(gone, d)
	}
	t.mu.Unlock()
	// Open files first: cached pages are what can be read without asking.
	for _, ino := range append(open, inodes...) {
		v.heralds.inode(ino, 0)
	}
	for _, e := range entries {
		v.heralds.entry(e.parent, e.name)
	}
	for _, d := range gone {
		v.fs.cache.dropView(d)
		if s := d.state(); !s.visible {
			d.dropAll()
		}
	}
}
