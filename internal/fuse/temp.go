package fuse

import (
	"crypto/rand"
	"encoding/hex"
	"iter"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Hidden names are as long whatever a temp file is called, so that they fit
// wherever the main file's directory is (eCryptfs allows 143 bytes).
const (
	hiddenPrefix = ".docportal-"
	hiddenSuffix = ".tmp"
	hiddenLength = len(hiddenPrefix) + 24 + len(hiddenSuffix)
)

// tempGrace is how long a temp file stays after the kernel has let go of it:
// it does so under memory pressure too, between an app's close and its rename.
const tempGrace = time.Minute

// temp is a file that an app has made beside the main file of a document.
// docView.names guards it.
type temp struct {
	hidden string
	app    string    // in whose view it is
	name   string    // what the view shows it as
	doc    *Document // where it is
	// only is set while it may be the only copy of the user's file: it was
	// the main file, and no other has taken its place yet.
	only bool
	idle time.Time // since when nobody was seen using it; zero if somebody does
}

// tempFiles knows the temp files of every view.
type tempFiles struct {
	mu      sync.Mutex
	live    map[string]struct{} // by hidden name
	journal *journal            // nil if nobody keeps one
	timer   *time.Timer
	grace   time.Duration // tempGrace
	closed  bool
}

// hides reports whether name, in any directory, is that of a temp file, which
// is to be seen in its own document and view only.
func (t *tempFiles) hides(name string) bool {
	if len(name) != hiddenLength || !strings.HasPrefix(name, hiddenPrefix) {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	_, ok := t.live[name]
	return ok
}

// add makes up a hidden name for the temp file name of v in the directory of
// doc, and has it noted before there is a file. only is temp.only.
func (t *tempFiles) add(v *docView, name string, doc *Document, only bool) (*temp, syscall.Errno) {
	var b [12]byte
	rand.Read(b[:]) // never fails
	f := &temp{
		hidden: hiddenPrefix + hex.EncodeToString(b[:]) + hiddenSuffix,
		app:    v.app,
		name:   name,
		doc:    doc,
		only:   only,
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, syscall.EACCES
	}
	if t.live == nil {
		t.live = make(map[string]struct{})
	}
	t.live[f.hidden] = struct{}{}
	t.journal.add(f)
	return f, 0
}

// done forgets a temp file that is gone.
func (t *tempFiles) done(f *temp) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.live, f.hidden)
	t.journal.remove(f)
	if len(t.live) == 0 {
		t.journal.compact()
	}
}

// changed notes that f has another name, or is the only copy or no more.
func (t *tempFiles) changed(f *temp) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.journal.add(f)
}

// backing returns the name in the document's directory of what the view of a
// file document shows as name, or "" if it shows nothing of that name.
func (v *docView) backing(doc *Document, name string) string {
	v.names.Lock()
	defer v.names.Unlock()
	return v.backingLocked(doc, name)
}

func (v *docView) backingLocked(doc *Document, name string) string {
	if name == doc.Name {
		return name
	}
	if beside, errno := v.fs.beside(doc, name); beside {
		return name
	} else if errno != 0 {
		return ""
	}
	if f := v.temps[name]; f != nil {
		return f.hidden
	}
	return ""
}

// names2 yields the names that the view shows, sorted, with their backing.
func (v *docView) names2(doc *Document) iter.Seq2[string, string] {
	v.names.Lock()
	defer v.names.Unlock()
	shown := map[string]string{doc.Name: doc.Name}
	order := []string{doc.Name}
	for name, f := range v.temps {
		shown[name] = f.hidden
		order = append(order, name)
	}
	for _, suffix := range []string{logSuffix, indexSuffix} {
		name := doc.Name + suffix
		if beside, _ := v.fs.beside(doc, name); beside {
			if shown[name] == "" {
				order = append(order, name)
			}
			shown[name] = name
		}
	}
	slices.Sort(order)
	return func(yield func(string, string) bool) {
		for _, name := range order {
			if !yield(name, shown[name]) {
				return
			}
		}
	}
}

// setTemp makes f the temp file name, or none if f is nil. v.names is held.
func (v *docView) setTemp(name string, f *temp) {
	if f != nil {
		if v.temps == nil {
			v.temps = make(map[string]*temp)
		}
		v.temps[name] = f
	} else {
		delete(v.temps, name)
	}
	v.fs.nodes.keep(v, len(v.temps))
}

// keep notes how many temp files v has: it stays for them.
func (t *table) keep(v *docView, temps int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	v.kept = temps
	if v.kept == 0 && len(v.nodes) == 0 {
		if t.views[viewKey{v.app, v.id}] == v {
			delete(t.views, viewKey{v.app, v.id})
		}
	}
}

// mainMade notes that there is a main file again. v.names is held.
func (v *docView) mainMade() {
	for _, f := range v.temps {
		if f.only {
			f.only = false
			v.fs.temps.changed(f)
		}
	}
}

// createInDocument is Create in the directory of a file document.
func (fs *filesystem) createInDocument(n *node, s *docState, in *gofuse.CreateIn, name string, out *gofuse.CreateOut) syscall.Errno {
	base, errno := fs.base(s, new(unix.Statx_t))
	if errno != 0 {
		return errno
	}
	defer base.put()
	v := n.view
	v.names.Lock()
	defer v.names.Unlock()
	if hidden := v.backingLocked(s.doc, name); hidden != "" {
		errno = fs.createIn(n, s, base.fd, hidden, in, name, syscall.ENOENT, out)
		if errno == 0 && name == s.doc.Name {
			v.mainMade()
		}
		return errno
	}
	if _, errno := fs.beside(s.doc, name); errno != 0 {
		return errno // it must not become a temp file
	}
	f, errno := fs.temps.add(v, name, s.doc, false)
	if errno != 0 {
		return errno
	}
	v.setTemp(name, f)
	if errno = fs.createIn(n, s, base.fd, f.hidden, in, name, syscall.ENOENT, out); errno != 0 {
		v.setTemp(name, nil)
		fs.temps.done(f)
	}
	return errno
}

// mknodInDocument is Mknod of a regular file there.
func (fs *filesystem) mknodInDocument(n *node, s *docState, mode uint32, name string, out *gofuse.EntryOut) syscall.Errno {
	in := &gofuse.CreateIn{Flags: unix.O_CREAT | unix.O_EXCL | unix.O_WRONLY, Mode: mode}
	in.NodeId = n.id
	var made gofuse.CreateOut
	if errno := fs.createInDocument(n, s, in, name, &made); errno != 0 {
		return errno
	}
	fs.unregister(made.Fh)
	*out = made.EntryOut
	return 0
}

// unlinkInDocument is Unlink there.
func (fs *filesystem) unlinkInDocument(n *node, s *docState, name string) syscall.Errno {
	base, errno := fs.base(s, new(unix.Statx_t))
	if errno != 0 {
		return errno
	}
	defer base.put()
	v := n.view
	v.names.Lock()
	defer v.names.Unlock()
	hidden := v.backingLocked(s.doc, name)
	if hidden == "" {
		return syscall.ENOENT
	}
	if !fs.host.isRegular(base.fd, hidden) {
		return syscall.ENOENT
	}
	if err := unix.Unlinkat(base.fd, hidden, 0); err != nil {
		return errnoOf(err)
	}
	if f := v.temps[name]; f != nil && f.hidden == hidden {
		v.setTemp(name, nil)
		fs.temps.done(f)
	}
	return 0
}

func (o *opener) isRegular(dir int, name string) bool {
	id, errno := o.identityAt(dir, name)
	return errno == 0 && id.typ == unix.S_IFREG
}

// renameInDocument is Rename there: between the main file and temp files it is
// a rename on the host, between temp files one in the view.
func (fs *filesystem) renameInDocument(n *node, s *docState, oldName, newName string, flags uint32) syscall.Errno {
	base, errno := fs.base(s, new(unix.Statx_t))
	if errno != 0 {
		return errno
	}
	defer base.put()
	v := n.view
	v.names.Lock()
	defer v.names.Unlock()
	oldHidden, newHidden := v.backingLocked(s.doc, oldName), v.backingLocked(s.doc, newName)
	if !component(oldHidden) || !fs.host.isRegular(base.fd, oldHidden) {
		return syscall.ENOENT
	}
	for _, names := range [...][2]string{{oldName, oldHidden}, {newName, newHidden}} {
		if names[0] == names[1] && names[0] != s.doc.Name {
			return syscall.EPERM // nobody renames the log of a database
		}
	}
	replaces := newHidden != "" && fs.host.isRegular(base.fd, newHidden)
	moved := fs.nodeAt(v, base.fd, oldHidden)
	var other *node
	if replaces {
		other = fs.nodeAt(v, base.fd, newHidden)
	}
	oldTemp, newTemp := v.temps[oldName], v.temps[newName]
	switch {
	case flags == unix.RENAME_EXCHANGE && !replaces:
		return syscall.ENOENT
	case flags == unix.RENAME_NOREPLACE && replaces:
		return syscall.EEXIST
	case oldName == newName:
		return 0
	case flags == unix.RENAME_EXCHANGE && oldTemp != nil && newTemp != nil:
		v.temps[oldName], v.temps[newName] = newTemp, oldTemp
		newTemp.name, oldTemp.name = oldName, newName
		fs.temps.changed(newTemp)
		fs.temps.changed(oldTemp)
	case flags == unix.RENAME_EXCHANGE:
		if errno := renameAt(base.fd, oldHidden, base.fd, newHidden, flags); errno != 0 {
			return errno
		}
		v.mainMade()
	case oldTemp != nil && newName == s.doc.Name:
		if errno := renameAt(base.fd, oldHidden, base.fd, newName, flags); errno != 0 {
			return errno
		}
		v.setTemp(oldName, nil)
		fs.temps.done(oldTemp)
		v.mainMade()
	case oldTemp != nil:
		if newTemp != nil {
			if err := unix.Unlinkat(base.fd, newTemp.hidden, 0); err != nil && err != unix.ENOENT {
				return errnoOf(err)
			}
			fs.temps.done(newTemp)
		}
		v.setTemp(oldName, nil)
		v.setTemp(newName, oldTemp)
		oldTemp.name = newName
		fs.temps.changed(oldTemp)
	default: // the main file becomes a temp file
		f := newTemp
		if f == nil {
			if f, errno = fs.temps.add(v, newName, s.doc, true); errno != 0 {
				return errno
			}
		} else {
			f.only = true
			fs.temps.changed(f)
		}
		if errno := renameAt(base.fd, oldHidden, base.fd, f.hidden, 0); errno != 0 {
			if newTemp == nil {
				fs.temps.done(f)
			} else {
				f.only = false
				fs.temps.changed(f)
			}
			return errno
		}
		v.setTemp(newName, f)
	}
	if moved != nil {
		fs.nodes.setPlace(moved, n, newName)
	}
	if other != nil && flags == unix.RENAME_EXCHANGE {
		fs.nodes.setPlace(other, n, oldName)
	}
	return 0
}

// remove takes a temp file away, or makes it the main file again if it is the
// user's only copy.
func (f *temp) remove(host *opener) syscall.Errno {
	base, errno := host.openBase(f.doc, nil, new(unix.Statx_t))
	if errno != 0 {
		return errno
	}
	defer base.put()
	if f.only {
		errno := renameAt(base.fd, f.hidden, base.fd, f.doc.Name, unix.RENAME_NOREPLACE)
		if errno != syscall.EEXIST {
			return errno
		}
	}
	return errnoOf(unix.Unlinkat(base.fd, f.hidden, 0))
}

// forgotten is called when the kernel has let go of n, with the table locked.
func (v *docView) forgotten(n *node) {
	if v.kept > 0 && n.kind == kindFile {
		v.fs.temps.sweepLater(v.fs)
	}
}

func (t *tempFiles) sweepLater(fs *filesystem) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.timer == nil && !t.closed {
		t.timer = time.AfterFunc(t.grace, func() { t.sweep(fs) })
	}
}

// sweep removes the temp files that nobody has used since the sweep before. It
// waits for no view: a disk that hangs must not keep the temp files of other views.
func (t *tempFiles) sweep(fs *filesystem) {
	t.mu.Lock()
	t.timer = nil
	closed := t.closed
	t.mu.Unlock()
	if closed {
		return
	}
	for _, v := range fs.nodes.withTemps() {
		if !v.sweeping.CompareAndSwap(false, true) {
			t.sweepLater(fs)
			continue
		}
		go func() { // ends with the disk's answers
			again := v.sweep(t.grace)
			v.sweeping.Store(false)
			if again {
				t.sweepLater(fs)
			}
		}()
	}
}

// sweep removes the temp files of v that nobody has used since the sweep before, and
// reports whether there are others that may go next time.
func (v *docView) sweep(grace time.Duration) (again bool) {
	v.names.Lock()
	defer v.names.Unlock()
	for name, f := range v.temps {
		switch {
		case v.uses(f):
			f.idle = time.Time{}
		case f.idle.IsZero():
			f.idle = time.Now()
			again = true
		case time.Since(f.idle) < grace/2:
			again = true
		default:
			v.drop(name, f)
		}
	}
	return again
}

// uses reports whether the kernel knows the temp file f. v.names is held.
func (v *docView) uses(f *temp) bool {
	base, errno := v.fs.host.openBase(f.doc, nil, new(unix.Statx_t))
	if errno != 0 {
		return false
	}
	defer base.put()
	return v.fs.nodeAt(v, base.fd, f.hidden) != nil
}

// drop removes the temp file f. v.names is held.
func (v *docView) drop(name string, f *temp) {
	if errno := f.remove(v.fs.host); errno != 0 && errno != syscall.ENOENT {
		v.fs.log.Warn("a temporary file stays behind", "document", v.id, "file", f.hidden, "error", errno)
	}
	v.setTemp(name, nil)
	v.fs.temps.done(f)
}

// withTemps returns the views that have temp files.
func (t *table) withTemps() []*docView {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []*docView
	for _, v := range t.views {
		if v.kept > 0 {
			all = append(all, v)
		}
	}
	return all
}

// dropAll removes the temp files of a view.
func (v *docView) dropAll() {
	v.names.Lock()
	defer v.names.Unlock()
	for name, f := range v.temps {
		v.drop(name, f)
	}
}

// close removes every temp file; no more are made. A disk that hangs keeps those of
// the views that come after it: the next start removes them by the journal.
func (t *tempFiles) close(fs *filesystem) {
	t.mu.Lock()
	t.closed = true
	if t.timer != nil {
		t.timer.Stop()
	}
	t.mu.Unlock()
	for _, v := range fs.nodes.withTemps() {
		v.dropAll()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.journal.close()
}
