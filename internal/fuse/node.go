package fuse

import (
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// kind says what a node stands for.
type kind uint8

const (
	kindRoot  kind = iota // the mount: the host's view
	kindByApp             // by-app
	kindApp               // by-app/APP
	kindDoc               // ID, in one of the views
	kindFile              // ID/NAME of a file document, or a temp file
	kindTop               // ID/DIR of a directory document
	kindTree              // anything below ID/DIR
)

const (
	rootID  = gofuse.FUSE_ROOT_ID
	byAppID = 2
)

// node is what the kernel knows by a node id. It has no descriptor: it is
// found again by its place and recognised by its identity.
type node struct {
	id   uint64
	ino  uint64
	kind kind
	app  string   // the view it is in; "" is the host's
	view *docView // nil above the documents
	key  identity // zero above the document's directory

	doubted    atomic.Pointer[doubted]
	cacheEntry *cached // guarded by the cache's mutex

	// The table's mutex guards the rest.
	parent   *node // nil for root, and for a file that never had a name
	name     string
	lookups  uint64 // the kernel's references
	children int    // nodes whose parent it is
	handles  []*handle
	gone     bool   // removed from the table
	recent   *node  // the directory in it that was looked up last, or nil
	saved    uint32 // where state has it, 0 if it has not
	cachedAt place  // where cached of its view had it last
	seen     seenFile
}

// seenFile is what a file looked like when it was opened last.
type seenFile struct {
	mtime, ctime unix.StatxTimestamp
	size         uint64
	settled      bool // its ctime was old enough for a later change to show
}

// table holds the nodes.
type table struct {
	mu    sync.Mutex
	byID  map[uint64]*node
	byKey map[nodeKey]*node
	byIno map[uint64]*node
	views map[viewKey]*docView
	next  uint64
	root  *node
	byApp *node
	state *state // nil if nothing outlives this server
}

// nodeKey is what makes one node of one file, for all its names, in a view of
// a document.
type nodeKey struct {
	view *docView
	id   identity
}

type viewKey struct{ app, doc string }

func newTable(epoch uint64, st *state) *table {
	t := &table{
		byID:  make(map[uint64]*node),
		byKey: make(map[nodeKey]*node),
		byIno: make(map[uint64]*node),
		views: make(map[viewKey]*docView),
		next:  epoch << 40,
		state: st,
	}
	t.root = &node{id: rootID, ino: rootID, kind: kindRoot, lookups: 1}
	t.byApp = &node{id: byAppID, ino: byAppID, kind: kindByApp, parent: t.root, name: "by-app", lookups: 1}
	t.root.children = 1
	t.insert(t.root)
	t.insert(t.byApp)
	return t
}

// appNodeID is the node id of by-app/app. It follows from the app id alone,
// so that a server that takes over after a crash gives the same: the root of
// a bind mount is never looked up again.
func appNodeID(app string) uint64 {
	sum := sha256.Sum256([]byte("by-app/" + app))
	return 1<<63 | binary.LittleEndian.Uint64(sum[:])
}

// inode is the inode number shown for the file id in a view of a document. It
// depends on nothing else, so it stays when the node was forgotten meanwhile.
func (v *docView) inode(dev, ino uint64) uint64 { return inode(v.app, v.id, dev, ino) }

func inode(app, id string, dev, ino uint64) uint64 { return inodesOf(app, id, dev).number(ino) }

// inodes gives the inode numbers that a view of a document has for a device. In a
// long listing what they have in common is counted once.
type inodes uint64

// FNV-1a, without the memory that hash/fnv takes for each file listed.
const fnvOffset, fnvPrime = 14695981039346656037, 1099511628211

func inodesOf(app, id string, dev uint64) inodes {
	h := uint64(fnvOffset)
	for i := range len(app) {
		h = (h ^ uint64(app[i])) * fnvPrime
	}
	h *= fnvPrime // a NUL
	for i := range len(id) {
		h = (h ^ uint64(id[i])) * fnvPrime
	}
	return inodes(fnvNumber(h, dev))
}

func (i inodes) number(ino uint64) uint64 {
	h := fnvNumber(uint64(i), ino)
	if h <= byAppID {
		h += byAppID + 1
	}
	return h
}

// fnvNumber goes on with h for the bytes of n, the lowest first.
func fnvNumber(h, n uint64) uint64 {
	for range 8 {
		h = (h ^ n&0xff) * fnvPrime
		n >>= 8
	}
	return h
}

// insert enters n, which has its wanted inode number, and gives it another
// one if that belongs to a different file. t.mu is held, but in newTable.
func (t *table) insert(n *node) {
	for other := t.byIno[n.ino]; other != nil && other != n && !n.succeeds(other); other = t.byIno[n.ino] {
		n.ino = n.ino*6364136223846793005 + 1442695040888963407
		if n.ino <= byAppID {
			n.ino += byAppID + 1
		}
	}
	t.byIno[n.ino] = n
	t.byID[n.id] = n
	if n.view != nil {
		n.view.nodes[n] = struct{}{}
		if n.key != (identity{}) {
			t.byKey[nodeKey{n.view, n.key}] = n
		}
	}
}

// succeeds reports whether n is a file that got the inode of o's on the host. Then
// that one is removed and nobody has it open, so n has its inode number at once, also
// while the kernel still remembers o.
func (n *node) succeeds(o *node) bool {
	return n.key != (identity{}) && o.view == n.view && o.key.dev == n.key.dev && o.key.ino == n.key.ino
}

// newID returns a node id that no node has or had.
func (t *table) newID() uint64 {
	t.next++
	return t.next
}

// get returns the node with the id, or nil.
func (t *table) get(id uint64) *node {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byID[id]
}

// place returns where n was last seen.
func (t *table) place(n *node) (parent *node, name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return n.parent, n.name
}

// lookApp returns the node of by-app/app and counts a look-up.
func (t *table) lookApp(app string) *node {
	t.mu.Lock()
	defer t.mu.Unlock()
	id := appNodeID(app)
	n := t.byID[id]
	if n == nil {
		n = &node{id: id, ino: id, kind: kindApp, app: app, parent: t.byApp, name: app}
		t.byApp.children++
		t.insert(n)
	}
	n.lookups++
	t.state.saveNode(n)
	return n
}

// lookDoc returns the node of the document id in the view of parent and
// counts a look-up.
func (t *table) lookDoc(parent *node, id string, fs *filesystem) *node {
	t.mu.Lock()
	defer t.mu.Unlock()
	v := t.viewOf(viewKey{parent.app, id}, fs)
	if v.dir == nil {
		v.dir = &node{id: t.newID(), kind: kindDoc, app: parent.app, view: v, parent: parent, name: id}
		v.dir.ino = v.inode(0, 0)
		parent.children++
		t.insert(v.dir)
	}
	v.dir.lookups++
	t.state.saveNode(v.dir)
	return v.dir
}

// look returns the node of the file key, found at name in parent, and counts
// a look-up.
func (t *table) look(v *docView, k kind, parent *node, name string, key identity) *node {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.byKey[nodeKey{v, key}]
	if n == nil {
		n = &node{id: t.newID(), kind: k, app: v.app, view: v, key: key}
		n.ino = v.inode(key.dev, key.ino)
		t.insert(n)
	}
	n.lookups++
	t.move(n, parent, name)
	t.state.saveNode(n)
	if parent != nil && key.typ == unix.S_IFDIR && n.parent == parent {
		parent.recent = n
	}
	return n
}

// recentIn returns the directory that was last looked up in parent, if its name was
// that, or nil.
func (t *table) recentIn(parent *node, name string) *node {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := parent.recent; n != nil && n.parent == parent && n.name == name {
		return n
	}
	return nil
}

// find returns the node of the file key if the kernel knows it.
func (t *table) find(v *docView, key identity) *node {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byKey[nodeKey{v, key}]
}

// setPlace changes the place of n.
func (t *table) setPlace(n *node, parent *node, name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !n.gone {
		t.move(n, parent, name)
		t.state.saveNode(n)
	}
}

// move changes the place of n. t.mu is held.
func (t *table) move(n *node, parent *node, name string) {
	if n.parent == parent {
		n.name = name
		return
	}
	if parent != nil {
		// Directories that were exchanged on the host may seem to
		// contain each other until both were looked up again. The way
		// up may be long, and who has nothing in it contains nobody.
		for p := parent; p != nil; p = p.parent {
			if p == n {
				return
			}
			if n.children == 0 {
				break
			}
		}
		parent.children++
	}
	old := n.parent
	n.parent, n.name = parent, name
	if old != nil {
		old.lose(n)
		t.collect(old)
	}
}

// lose notes that n is not in the directory any more. The table's mutex is held.
func (parent *node) lose(n *node) {
	parent.children--
	if parent.recent == n {
		parent.recent = nil
	}
}

// forget takes back count look-ups of the node id.
func (t *table) forget(id, count uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.byID[id]
	if n == nil || n.kind == kindRoot || n.kind == kindByApp {
		return
	}
	n.lookups -= min(count, n.lookups)
	t.state.saveNode(n)
	t.collect(n)
}

// collect removes n, and then its parents, as far as nothing refers to them.
// t.mu is held.
func (t *table) collect(n *node) {
	for n != nil && n.kind != kindRoot && n.kind != kindByApp &&
		n.lookups == 0 && n.children == 0 && len(n.handles) == 0 && !n.gone {
		n.gone = true
		t.state.dropNode(n)
		delete(t.byID, n.id)
		if t.byIno[n.ino] == n {
			delete(t.byIno, n.ino)
		}
		parent := n.parent
		if v := n.view; v != nil {
			delete(v.nodes, n)
			if n.key != (identity{}) {
				delete(t.byKey, nodeKey{v, n.key})
			}
			if v.dir == n {
				v.dir = nil
			}
			v.uncache(n)
			v.fs.cache.drop(n)
			v.forgotten(n)
			if len(v.nodes) == 0 && v.kept == 0 {
				delete(t.views, viewKey{v.app, v.id})
			}
		}
		if parent != nil {
			parent.lose(n)
		}
		n = parent
	}
}

// addHandle notes that h is open on n.
func (t *table) addHandle(n *node, h *handle) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n.handles = append(n.handles, h)
}

// removeHandle undoes addHandle.
func (t *table) removeHandle(n *node, h *handle) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, o := range n.handles {
		if o == h {
			last := len(n.handles) - 1
			n.handles[i] = n.handles[last]
			n.handles[last] = nil
			n.handles = n.handles[:last]
			break
		}
	}
	if len(n.handles) == 0 {
		n.handles = nil
	}
	t.collect(n)
}

// open returns a descriptor of somebody's open handle on n, which the caller
// puts back, or nil.
func (t *table) open(n *node) *descriptor {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, h := range n.handles {
		if h.d != nil {
			return h.d.get()
		}
	}
	return nil
}

// unchanged notes what the file n looks like, and reports whether it is as it
// was when this was asked last, so that what the kernel has cached of it is
// right.
func (t *table) unchanged(n *node, st *unix.Statx_t) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := seenFile{mtime: st.Mtime, ctime: st.Ctime, size: st.Size}
	// A second change within the granularity of the clock leaves ctime as
	// it is, so one that is still young proves nothing later on.
	now.settled = time.Since(time.Unix(st.Ctime.Sec, int64(st.Ctime.Nsec))) > 100*time.Millisecond
	old := n.seen
	n.seen = now
	return old.settled && old.mtime == now.mtime && old.ctime == now.ctime && old.size == now.size
}

// docView is a document as one app, or the host, sees it.
type docView struct {
	fs      *filesystem
	app, id string
	cur     atomic.Pointer[docState]
	places  places

	// names is held while names in the directory of a file document are
	// changed, together with temps.
	names sync.Mutex
	temps map[string]*temp // by the name that the view shows
	// sweeping: tempFiles.sweep is at it.
	sweeping atomic.Bool

	// fs.nodes.mu guards the rest.
	dir   *node
	nodes map[*node]struct{}
	kept  int // len(temps)
	// cached are files that may be databases of which the kernel has pages.
	cached map[place]*node
}

// docState is what Documents said of a document at a generation.
type docState struct {
	generation uint64
	doc        *Document
	access     Access
	visible    bool // it lives, and may be read
	base       seenBase
}

// state returns what holds for the view now.
func (v *docView) state() *docState {
	g := v.fs.docs.Generation()
	s := v.cur.Load()
	if s != nil && s.generation == g {
		return s
	}
	// The generation was read before the answer: if it changes between,
	// the next request asks again.
	doc, a, ok := v.fs.docs.Document(v.app, v.id)
	s = &docState{generation: g, doc: doc, access: a, visible: ok && a.Read}
	v.cur.Store(s)
	return s
}
