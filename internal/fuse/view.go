// Package fuse shows documents as files: a host view of all documents and a
// view for each app with just what it was given. It keeps one rule: nothing
// outside a document is ever reached through it, whatever the app or the host
// does to names and links meanwhile.
package fuse

import (
	"log/slog"
)

// Document is what the view needs to know of a document. It is immutable.
type Document struct {
	ID string
	// Dir is the host path of the directory that the document stands on: the
	// parent of a file, or the directory itself.
	Dir string
	// Name is the name shown: the file's base name, or the directory's.
	Name      string
	Directory bool
	// DirID identifies Dir: a directory at that path that is another one is
	// not the document's.
	DirID FileID
}

// FileID identifies a file or directory of the host.
type FileID struct {
	Dev, Ino uint64
	// Handle is the type (int32, little-endian) and bytes of
	// name_to_handle_at(2), empty where the filesystem has none; FSID is
	// statfs(2)'s f_fsid for it. If set it counts instead of Dev and Ino,
	// which removable media change.
	Handle []byte
	FSID   uint64
}

// Access is what a view may do with a document.
type Access struct {
	Read, Write bool
}

// Documents answers the view's questions. Its methods are called from request
// handlers: they wait for nothing but a map look-up or a read of the store's
// memory map. app "" is the host view, which may do everything.
type Documents interface {
	// Generation changes, before the change is acknowledged, whenever an
	// answer of Document may have changed.
	Generation() uint64
	// Document returns a live document and what app may do with it; ok is
	// false if there is none.
	Document(app, id string) (d *Document, a Access, ok bool)
	// List returns the ids of the documents that app may read, sorted.
	List(app string) []string
	// Apps returns the app ids to list in by-app, sorted.
	Apps() []string
}

// Location is a place in the view.
type Location struct {
	App      string // "" for the host view
	Document string // document id, "" above the documents
	// Rel is the path below the document's directory, "" for that directory
	// itself: the file of a file document has its name as Rel; inside a
	// directory document Rel is relative to the directory of the document.
	Rel string
}

// Options are the settings of a mount.
type Options struct {
	Log *slog.Logger
}

// View is a mounted file view.
type View struct{}

// Mount mounts the view on dir with fusermount3 (or fusermount), the way
// file-view's "Life of the mount" says, and returns when it answers.
func Mount(dir string, docs Documents, o Options) (*View, error) { panic("not implemented") }

// Dev is the st_dev of the mount.
func (v *View) Dev() uint64 { panic("not implemented") }

// Resolve says what an inode number of the mount stands for, while somebody
// holds it open.
func (v *View) Resolve(ino uint64) (Location, bool) { panic("not implemented") }

// Invalidate drops what the kernel caches of a document, in every view, after
// its permissions changed or it was deleted. It waits for nothing.
func (v *View) Invalidate(id string) { panic("not implemented") }

// Done is closed when the mount is gone, by Unmount or by somebody else.
func (v *View) Done() <-chan struct{} { panic("not implemented") }

// Unmount takes the mount away, whatever is held open on it, and removes
// temporary files. It returns within two seconds.
func (v *View) Unmount() error { panic("not implemented") }
