package fuse

import (
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
)

// The kernel keeps the names of documents and of directories inside them, so
// that a path costs one question for its last name and not one for each. Nothing
// is believed for that: whoever comes to a directory whose name the kernel may
// have kept is served only if it is still at its place, which is walked from the
// document's verified directory for each request. If it is not, the answer is
// ESTALE, upon which the kernel walks the path once more and asks for every name
// on it (LOOKUP_REVAL).
//
// Two things need more than that:
//
//   - The second walk must arrive although somebody replaces directories without
//     pause. So the names that it asks for are not kept, and each step goes on
//     from the directory that the step before has found, as it always was for
//     names that are not kept.
//   - Who has a directory open may go on in it wherever the host moves it. So the
//     kernel is told to drop the name; who comes then has no name for it. For the
//     moment that this takes such a program may be told ESTALE too.
//
// The name of a document's own directory in the view needs no place on the host:
// it is dropped when permissions change, before their author is told.

// keepTime is for how long the kernel may keep the name of a document.
const keepTime = 24 * time.Hour

// directoryTime is for how long it may keep that of a directory inside one, about a
// tick of its clock. Where there is no directory any more some calls are answered by
// the kernel itself for so long: unlink(2), open(2) to write or create, truncate(2),
// readlink(2), link(2) from there and rename(2) over a file. No time at all costs
// git status three times the look-ups, a walk through a path of five directories
// seven times; but programs that walk come back to a directory at once.
const directoryTime = 4 * time.Millisecond

// walkTime is for how long a thread that was told ESTALE counts as one that
// walks its path again.
const walkTime = 100 * time.Millisecond

// maxWalks bounds how many of them are known.
const maxWalks = 1024

// walks are the threads that were told ESTALE.
type walks struct {
	known  atomic.Int32 // len(byTask), to see without the lock that there are none
	mu     sync.Mutex
	byTask map[uint32]*walk // by thread
	// cleared is when those that are over were last looked for.
	cleared time.Time
}

// walk is what is known of a thread that was sent away.
type walk struct {
	at   time.Time
	from *node // the directory that was not at its place
	more bool  // it will come back there once for the same reason
	// What its second walk has found last, the last name it asked for, and
	// the directories that it asked in last.
	to   *node
	name string
	dirs [2]*node
	over uint64 // the request that it was for, which ends it
}

// begin notes that who comes to n is told that it is not at its place. With more
// it is told so a second time: a look-up of a name that the kernel knew comes
// back at once, since ESTALE then only makes it drop that name.
func (w *walks) begin(who *gofuse.InHeader, n *node, more bool) {
	if who == nil || who.Pid == 0 {
		return // nobody, or somebody who cannot be told from others
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if now.Sub(w.cleared) >= walkTime {
		for t, o := range w.byTask {
			if now.Sub(o.at) >= walkTime {
				delete(w.byTask, t)
			}
		}
		w.cleared = now
	}
	if len(w.byTask) >= maxWalks {
		return
	}
	if w.byTask == nil {
		w.byTask = make(map[uint32]*walk)
	}
	w.byTask[who.Pid] = &walk{at: now, from: n, more: more}
	w.known.Store(int32(len(w.byTask)))
}

// get is the walk of who, if there is one. Without an answer w.mu is not held.
func (w *walks) get(who *gofuse.InHeader) *walk {
	if who == nil || w.known.Load() == 0 {
		return nil
	}
	w.mu.Lock()
	o := w.byTask[who.Pid]
	if o != nil && (time.Since(o.at) >= walkTime || o.over != 0 && o.over != who.Unique) {
		delete(w.byTask, who.Pid)
		w.known.Store(int32(len(w.byTask)))
		o = nil
	}
	if o == nil {
		w.mu.Unlock()
	}
	return o
}

// back reports whether who comes to n is to be sent away from there once more.
func (w *walks) back(who *gofuse.InHeader, n *node) bool {
	o := w.get(who)
	if o == nil {
		return false
	}
	defer w.mu.Unlock()
	more := o.more
	o.more = false
	return more && o.from == n
}

// step notes that who comes to n, to look name up in it or, with "", for what
// the walk was for. It reports whether that is where the second walk led to.
func (w *walks) step(who *gofuse.InHeader, n *node, name string) bool {
	o := w.get(who)
	if o == nil {
		return false
	}
	defer w.mu.Unlock()
	if name == "" {
		o.over = who.Unique
		return n == o.to || n == o.dirs[0] || n == o.dirs[1]
	}
	// A name that the kernel drops is asked for twice.
	found := n == o.to || n == o.dirs[0] && name == o.name
	if n != o.dirs[0] {
		o.dirs[1] = o.dirs[0]
	}
	o.to, o.name, o.dirs[0] = nil, name, n
	return found
}

// walking reports whether who is on a second walk.
func (w *walks) walking(who *gofuse.InHeader) bool {
	o := w.get(who)
	if o == nil {
		return false
	}
	w.mu.Unlock()
	return true
}

// find notes what was found for who.
func (w *walks) find(who *gofuse.InHeader, n *node) {
	if o := w.get(who); o != nil {
		o.to = n
		w.mu.Unlock()
	}
}

// dropTime is how long a request waits for the kernel to drop a name.
const dropTime = 20 * time.Millisecond

// verified is descriptor for a directory whose name the kernel may have kept.
// name is what is looked up in it, or "".
func (fs *filesystem) verified(n *node, s *docState, who *gofuse.InHeader, name string) (*descriptor, syscall.Errno) {
	d, errno := fs.resolve(n, s)
	switch errno {
	case syscall.ENOENT, syscall.ENOTDIR, syscall.ESTALE:
		fs.unname(n)
		fs.walks.begin(who, n, name != "" && fs.nodes.knows(n, name))
		errno = syscall.ESTALE
	}
	return d, errno
}

// unname makes the kernel drop the name of n, which is not at its place, if
// somebody has n open: who comes there later comes by that. It waits for it, but
// not for long: requests may hold the directory that the name is in.
func (fs *filesystem) unname(n *node) {
	t := fs.nodes
	t.mu.Lock()
	if len(n.handles) == 0 || n.parent == nil || n.unnaming {
		t.mu.Unlock()
		return
	}
	n.unnaming = true
	parent, name, found := n.parent.id, n.name, n.found
	t.mu.Unlock()
	done := make(chan struct{})
	go func() { // ends when the kernel has done it, or with the connection
		fs.dropName(parent, name)
		t.mu.Lock()
		n.unnaming = false
		if n.found == found {
			n.kept.Store(false)
		}
		t.mu.Unlock()
		close(done)
	}()
	timer := time.NewTimer(dropTime)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}

// nameless notes that the directory n, which may be nil, was removed by way of the
// kernel: it has forgotten the name, and who comes to n has it open.
func (n *node) nameless() {
	if n != nil {
		n.kept.Store(false)
	}
}

// knows reports whether the kernel may know the name in the directory n.
func (t *table) knows(n *node, name string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n.view.linked {
		return true
	}
	for o := range n.view.nodes {
		if o.parent == n && o.name == name {
			return true
		}
	}
	return false
}
