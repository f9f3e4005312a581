package documents

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"docportal/internal/bus"
	"docportal/internal/permstore"
)

// indexTransient has the stored documents that are transient, under "". They
// are left over: ours live in memory.
const indexTransient = "transient"

// pruneGroup is how many documents are removed in one transaction.
const pruneGroup = 500

// Gone is a document whose file or directory is gone for good.
type Gone struct {
	ID, Path string
	Why      string
}

// Prune removes the stored documents whose file or directory is gone for good,
// or with dry only names them. home is the user's home directory. Who cannot
// be shown to be gone stays: see gone.
func Prune(ctx context.Context, store *permstore.Store, home string, dry bool) ([]Gone, error) {
	var ids []string
	err := store.View(func(tx *permstore.Tx) error {
		return tx.IDs(table, func(id string) bool { ids = append(ids, id); return true })
	})
	if err != nil {
		return nil, err
	}
	p := newPruner(home)
	var all []Gone
	seen := make(map[string]bus.Value) // the data that was looked at
	for _, id := range ids {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		var data bus.Value
		err := store.View(func(tx *permstore.Tx) error {
			e, _, err := tx.Get(table, id)
			data = e.Data
			return err
		})
		var damage *permstore.DamageError
		if errors.As(err, &damage) {
			continue
		} else if err != nil {
			return nil, err
		}
		rec, err := decode(data)
		if err != nil {
			continue // no document, or removed meanwhile
		}
		if why := p.gone(&rec); why != "" {
			all = append(all, Gone{id, rec.path, why})
			seen[id] = data
		}
	}
	if dry {
		return all, nil
	}
	var removed []Gone
	for len(all) > 0 {
		n := min(len(all), pruneGroup)
		var done []Gone
		err := store.Update(ctx, func(tx *permstore.Tx) error {
			for _, g := range all[:n] {
				e, ok, err := tx.Get(table, g.ID)
				if err != nil {
					return err
				}
				// Who was added again meanwhile is another one.
				if !ok || e.Data.Signature != seen[g.ID].Signature || string(e.Data.Data) != string(seen[g.ID].Data) {
					continue
				}
				if _, err := tx.Delete(table, g.ID); err != nil {
					return err
				}
				done = append(done, g)
			}
			return nil
		})
		if err != nil {
			return removed, err
		}
		removed = append(removed, done...)
		all = all[n:]
	}
	return removed, nil
}

// PruneTransient removes the transient documents that are in the store, as an
// import can bring them, and returns their number. It takes no longer for
// there being many others.
func PruneTransient(ctx context.Context, store *permstore.Store) (n int, err error) {
	var ids []string
	err = store.View(func(tx *permstore.Tx) error {
		return tx.Find(table, indexTransient, nil, func(id string) bool { ids = append(ids, id); return true })
	})
	for err == nil && len(ids) > 0 {
		group := ids[:min(len(ids), pruneGroup)]
		ids = ids[len(group):]
		err = store.Update(ctx, func(tx *permstore.Tx) error {
			for _, id := range group {
				if _, err := tx.Delete(table, id); err != nil {
					return err
				}
			}
			return nil
		})
		if err == nil {
			n += len(group)
		}
	}
	return n, err
}

// pruner judges whether files are gone.
type pruner struct {
	home   string
	always map[uint64]bool // devices that are mounted as long as there is a session
	// hasIdentity reports whether the file system of a directory is known by
	// more than a device number.
	hasIdentity func(*record) bool
}

func newPruner(home string) *pruner {
	p := &pruner{
		home:        path.Clean(home),
		always:      make(map[uint64]bool),
		hasIdentity: func(r *record) bool { return r.fsid != 0 && r.fsid != r.dev },
	}
	for _, dir := range []string{"/", home} {
		if id, err := statAt(unix.AT_FDCWD, dir, 0); err == nil {
			p.always[id.dev] = true
		}
	}
	return p
}

// gone says why the file or directory of a record is gone for good, "" if it
// is there or nobody can tell.
//
// A volume that is not mounted takes its files away for a while only. So what
// is missing counts as gone only where the file system that it was on is seen
// to be there, at its place: the directory of the file itself, or the nearest
// one above that exists, is on the file system of the record, is not empty (an
// empty one may be a mountpoint) and the file system is known by an identity of
// its own. One that has only a device number may be another medium in the same
// drive, unless it holds the root or the home directory.
func (p *pruner) gone(r *record) string {
	dir := r.dir()
	fd, err := openDir(dir, 0)
	missing := err != nil
	for at := dir; err != nil; {
		if !isMissing(err) || at == "/" {
			return ""
		}
		at = path.Dir(at)
		fd, err = openDir(at, 0)
	}
	defer unix.Close(fd)
	id, err := statFD(fd)
	if err != nil || !id.is(directory) {
		return ""
	}
	now := record{path: r.path, dev: id.dev, ino: id.ino}
	now.handle, now.fsid = handleOf(fd)
	if !p.always[id.dev] && !p.hasIdentity(&now) {
		return ""
	}
	if !missing && r.sameThere(&now) {
		if r.directory() {
			return ""
		}
		_, err := statAt(fd, path.Base(r.path), unix.AT_SYMLINK_NOFOLLOW)
		if errors.Is(err, unix.ENOENT) {
			return "the file is not in its directory any more"
		}
		return ""
	}
	if !p.sameVolume(r, &now) || isEmpty(fd) {
		return ""
	}
	switch {
	case !missing:
		return "another directory is in the place of " + dir
	case r.directory():
		return "the directory is not there any more"
	default:
		return "the file's directory is not there any more"
	}
}

func isMissing(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR)
}

// sameVolume reports whether a directory is on the file system of a record. A
// record without a handle has only the device number to tell, which counts in
// the home directory, where other volumes are seldom mounted.
func (p *pruner) sameVolume(r, now *record) bool {
	if r.handle != "" {
		return now.handle != "" && r.fsid == now.fsid
	}
	return r.dev == now.dev && p.always[r.dev] && within(r.path, p.home)
}

// isEmpty reports whether a directory is empty, or cannot be looked at.
func isEmpty(dir int) bool {
	fd, err := openAt(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return true
	}
	f := os.NewFile(uintptr(fd), ".")
	defer f.Close()
	names, _ := f.Readdirnames(1)
	return len(names) == 0
}

// PeerData returns the data of a document as the usual document portal keeps
// it, for an export: of a file handle the bytes alone.
func PeerData(v bus.Value) (bus.Value, error) {
	r, err := decode(v)
	if err != nil || v.Signature != signature || r.handle == "" {
		return v, nil
	}
	handle := r.handle[4:]
	r.handle = ""
	out := r.encode()
	le := binary.LittleEndian
	le.PutUint32(out.Data[len(out.Data)-4:], uint32(len(handle)))
	out.Data = append(out.Data, handle...)
	return out, nil
}
