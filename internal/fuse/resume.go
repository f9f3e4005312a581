package fuse

import (
	"sync"
	"sync/atomic"
	"syscall"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// lostHandle is a handle of an earlier server. It is opened again when it is
// used, since that may take a while where a disk hangs.
type lostHandle struct {
	id, node, unique uint64
	flags, kind      uint32
	at               uint32
	turn             chan struct{} // one attempt at a time
}

type lostHandles struct {
	count atomic.Int32 // so that a server that has taken over nothing asks no further
	mu    sync.Mutex
	byID  map[uint64]*lostHandle
}

func (t *lostHandles) get(id uint64) *lostHandle {
	if t.count.Load() == 0 {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byID[id]
}

func (t *lostHandles) add(l *lostHandle) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID == nil {
		t.byID = make(map[uint64]*lostHandle)
	}
	t.byID[l.id] = l
	t.count.Add(1)
}

// written reports whether somebody can write by one of them.
func (t *lostHandles) written() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range t.byID {
		if changes(l.flags) {
			return true
		}
	}
	return false
}

func (t *lostHandles) remove(l *lostHandle) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID[l.id] != l {
		return false
	}
	delete(t.byID, l.id)
	t.count.Add(-1)
	return true
}

// opened returns the handle that a request opened which is sent again, since
// nobody knows of it.
func (t *lostHandles) opened(unique uint64) *lostHandle {
	if t.count.Load() == 0 {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range t.byID {
		if l.unique != 0 && l.unique == unique&^resentBit {
			return l
		}
	}
	return nil
}

// restore makes the nodes that the kernel knows from an earlier server, and
// notes its open handles.
func (fs *filesystem) restore() error {
	t := fs.nodes
	s := t.state
	nodes := make(map[uint64]*node)
	parents := make(map[*node]uint64)
	// The kernel may still have pages of an index that are to go nowhere. Who
	// opens it now gets another node.
	var stale []*node
	err := s.scan(func(class int, at uint32) {
		if class == classHandle {
			fs.lost.add(&lostHandle{
				id:     s.get(at),
				node:   s.get(at + handleNode),
				unique: s.get(at + handleUnique),
				flags:  s.get32(at + handleFlags),
				kind:   s.get32(at + handleKind),
				at:     at,
				turn:   make(chan struct{}, 1),
			})
			return
		}
		n := &node{
			id:   s.get(at),
			ino:  s.get(at + nodeIno),
			kind: kind(s.mem[at+nodeKind]),
			key: identity{
				dev:  s.get(at + nodeDev),
				ino:  s.get(at + nodeFile),
				born: s.get(at + nodeBorn),
				typ:  s.get32(at + nodeType),
			},
			name:    s.savedName(at),
			lookups: s.get(at + nodeLookups),
			saved:   at,
		}
		if isIndex(n.name) {
			stale = append(stale, n)
			return
		}
		nodes[n.id] = n
		parents[n] = s.get(at + nodeParent)
	})
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, n := range stale {
		s.dropNode(n)
	}
	for _, n := range nodes {
		fs.enter(n, nodes, parents)
	}
	for _, n := range nodes {
		if t.byID[n.id] == n {
			t.collect(n) // what was about to be
		} else {
			s.dropNode(n) // its parent is not known
		}
	}
	return nil
}

// enter enters a node of an earlier server, its parents first, and reports
// whether it could. t.mu is held.
func (fs *filesystem) enter(n *node, nodes map[uint64]*node, parents map[*node]uint64) bool {
	t := fs.nodes
	id, ok := parents[n]
	if !ok {
		return t.byID[n.id] == n // done before, or under way in a circle
	}
	delete(parents, n)
	parent := t.byID[id]
	if parent == nil {
		if parent = nodes[id]; parent == nil || !fs.enter(parent, nodes, parents) {
			return false
		}
	}
	switch n.kind {
	case kindApp:
		if parent != t.byApp || n.id != appNodeID(n.name) {
			return false
		}
		n.app = n.name
	case kindDoc:
		if parent.kind != kindRoot && parent.kind != kindApp {
			return false
		}
		n.app, n.view = parent.app, t.viewOf(viewKey{parent.app, n.name}, fs)
		if n.view.dir != nil {
			return false
		}
		n.view.dir = n
	case kindFile, kindTop, kindTree:
		if parent.view == nil {
			return false
		}
		n.app, n.view = parent.app, parent.view
	default:
		return false
	}
	n.parent = parent
	parent.children++
	t.insert(n)
	return true
}

// viewOf returns a document's view, and makes it. t.mu is held.
func (t *table) viewOf(k viewKey, fs *filesystem) *docView {
	v := t.views[k]
	if v == nil {
		v = &docView{fs: fs, app: k.app, id: k.doc, places: fs.calls.places(k.app), nodes: make(map[*node]struct{})}
		t.views[k] = v
	}
	return v
}

// restoreTemps shows the temp files of an earlier server again.
func (fs *filesystem) restoreTemps(left []*temp) {
	for _, f := range left {
		fs.nodes.mu.Lock()
		v := fs.nodes.viewOf(viewKey{f.app, f.doc.ID}, fs)
		fs.nodes.mu.Unlock()
		v.names.Lock()
		v.setTemp(f.name, f)
		v.names.Unlock()
		fs.temps.mu.Lock()
		if fs.temps.live == nil {
			fs.temps.live = make(map[string]struct{})
		}
		fs.temps.live[f.hidden] = struct{}{}
		fs.temps.mu.Unlock()
	}
	if len(left) > 0 {
		fs.temps.sweepLater(fs)
	}
}

// revive opens a handle of an earlier server again. It returns 0 if there is
// nothing to open.
func (l limited) revive(cancel <-chan struct{}, fh uint64) gofuse.Status {
	lost := l.lost.get(fh)
	if lost == nil {
		return gofuse.OK
	}
	select {
	case lost.turn <- struct{}{}:
		defer func() { <-lost.turn }()
	case <-cancel:
		return gofuse.EINTR
	}
	if l.handles.get(fh) != nil {
		return gofuse.OK
	}
	n := l.nodes.get(lost.node)
	if n == nil || lost.kind&handleLocked != 0 {
		// Who holds a lock must learn that it holds it no more.
		return status(syscall.ESTALE)
	}
	return do(l.filesystem, cancel, n, &nothing{}, func(*nothing) gofuse.Status {
		return status(l.reopen(lost, n))
	}, nil)
}

// reopen makes a handle of one that was lost.
func (fs *filesystem) reopen(lost *lostHandle, n *node) syscall.Errno {
	h := &handle{id: lost.id, n: n, flags: int(lost.flags), saved: lost.at}
	if lost.kind&handleDir != 0 {
		h.dir = new(stream)
	}
	if n.view != nil {
		s, errno := fs.visible(n)
		if errno != 0 {
			return errno
		}
		if n.kind != kindDoc || !s.doc.Directory {
			d, errno := fs.descriptor(n, s)
			if errno != 0 {
				return syscall.ESTALE
			}
			defer d.put()
			switch {
			case n.kind == kindDoc:
				h.d = d.get()
			case h.dir == nil && n.key.typ != unix.S_IFREG, h.dir != nil && n.key.typ != unix.S_IFDIR:
				return syscall.ESTALE
			default:
				flags := h.flags & openFlags &^ unix.O_TRUNC
				if h.dir != nil {
					flags = unix.O_RDONLY | unix.O_DIRECTORY
				}
				fd, errno := reopen(d.fd, flags)
				if errno != 0 {
					return syscall.ESTALE
				}
				h.d = newDescriptor(fd)
				if h.dir != nil {
					// The request may be for what follows the last name. ext4
					// finds the beginning after that only if it was read first.
					unix.Getdents(fd, make([]byte, 512))
				}
			}
		}
	}
	fs.nodes.addHandle(n, h)
	if !fs.lost.remove(lost) {
		// It was closed meanwhile.
		fs.nodes.removeHandle(n, h)
		h.d.put()
		return syscall.ESTALE
	}
	fs.handles.adopt(h)
	return 0
}

// forgetLost closes a handle that was never opened again, if it is one.
func (fs *filesystem) forgetLost(l *lostHandle) {
	if l != nil && fs.lost.remove(l) {
		fs.nodes.state.mu.Lock()
		fs.nodes.state.release(l.at)
		fs.nodes.state.mu.Unlock()
	}
}

// adopt enters h, which has its id already.
func (t *handleTable) adopt(h *handle) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byApp == nil {
		t.byApp = make(map[string]int)
	}
	t.byApp[h.n.app]++
	t.byID[h.id] = h
}
