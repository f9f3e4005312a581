package permstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
)

const (
	fileName = "permissions.db"
	// lockName is the file whose flock holds the directory: it stays the same
	// when the database is replaced. It also says after which transaction the
	// store was closed in good order.
	lockName = "permissions.lock"
)

// mapSize is how much address space, not memory, is mapped from the start:
// bbolt stops all readers to map a grown file anew.
const mapSize = 256 << 20

// growStep is by how many bytes the file grows at least.
const growStep = 128 << 10

// file is an open database file.
type file struct {
	db   *bolt.DB
	base *os.File // the store's descriptor of the file, shared by all handles on it
	path string
	head []byte // the meta pages, mapped once more

	changed   bool // written to since it was opened
	stale     bool // the writer must open it again first
	abandoned bool // closing db could hang

	// Guarded by Store.mu.
	readers int
	retired bool
	idle    chan struct{} // closed when it is retired and the last reader has left
}

// acquire pins the current file for a reader.
func (s *Store) acquire() (*file, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil || s.closing {
		return nil, ErrClosed
	}
	s.file.readers++
	return s.file, nil
}

func (s *Store) release(f *file) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f.readers--
	if f.retired && f.readers == 0 {
		close(f.idle)
	}
}

// swap makes next the current file and waits until nobody reads the old one.
func (s *Store) swap(next *file) (old *file) {
	s.mu.Lock()
	old = s.file
	s.file = next
	old.retired = true
	if old.readers == 0 {
		close(old.idle)
	}
	s.mu.Unlock()
	<-old.idle
	return old
}

// openDB opens bbolt on a duplicate of base.
func openDB(base *os.File, path string, noSync bool) (_ *file, err error) {
	var dup *os.File
	o := &bolt.Options{
		Timeout:         1, // one try
		NoSync:          noSync,
		NoGrowSync:      noSync,
		InitialMmapSize: mapSize,
		OpenFile: func(string, int, os.FileMode) (*os.File, error) {
			fd, err := unix.FcntlInt(base.Fd(), unix.F_DUPFD_CLOEXEC, 0)
			if err != nil {
				return nil, os.NewSyscallError("fcntl", err)
			}
			dup = os.NewFile(uintptr(fd), path)
			return dup, nil
		},
	}
	f := &file{base: base, path: path, idle: make(chan struct{})}
	err = guard(func() (err error) { f.db, err = bolt.Open(path, 0o600, o); return err })
	if errors.Is(err, syscall.ENOMEM) {
		o.InitialMmapSize = 0 // an address space limit
		err = guard(func() (err error) { f.db, err = bolt.Open(path, 0o600, o); return err })
	}
	if err != nil {
		if dup != nil {
			dup.Close() // a panic left it open
		}
		if errors.Is(err, bolterrors.ErrTimeout) {
			return nil, ErrInUse
		}
		for _, e := range [...]error{bolterrors.ErrInvalid, bolterrors.ErrChecksum, bolterrors.ErrVersionMismatch} {
			if errors.Is(err, e) {
				err = damaged("%v", e)
			}
		}
		return nil, err
	}
	f.db.AllocSize = growStep
	// What is mapped is open, and locked, as long as a thread of this process is
	// left, and one that tells the kernel of something may be for a while when the
	// process is dead. The lock file, which nobody maps, is what holds the directory.
	unix.Flock(int(base.Fd()), unix.LOCK_UN)
	f.head, err = unix.Mmap(int(base.Fd()), 0, 2*f.db.Info().PageSize, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		f.closeDB()
		return nil, os.NewSyscallError("mmap", err)
	}
	return f, nil
}

// begin begins a transaction. bbolt reads the meta pages with its locks held:
// if that panics nobody gets them again, so they are read here first.
func (f *file) begin(writable bool) (b *bolt.Tx, err error) {
	err = guard(func() (err error) {
		var page [metaSize]byte
		valid := false
		for off := 0; off < len(f.head); off += len(f.head) / 2 {
			copy(page[:], f.head[off:])
			_, _, ok := readMeta(page[:])
			valid = valid || ok
		}
		if !valid {
			return damaged("no valid meta page")
		}
		b, err = f.db.Begin(writable)
		return err
	})
	return b, err
}

// unmapPages gives back the memory that reading the whole file has cost. It is
// the page cache's: what is needed again is mapped again. A transaction must
// be open, which keeps the map where it is.
func (f *file) unmapPages() {
	info, err := f.base.Stat()
	if err != nil {
		return
	}
	page := int64(os.Getpagesize())
	size := (info.Size() + page - 1) / page * page
	unix.Syscall(unix.SYS_MADVISE, f.db.Info().Data, uintptr(size), unix.MADV_DONTNEED)
}

// Rest gives back the memory that reading or writing much has cost.
func (s *Store) Rest() {
	s.View(func(tx *Tx) error { tx.f.unmapPages(); return nil })
}

// closeDB closes the handle but not base.
func (f *file) closeDB() error {
	if f.head != nil {
		unix.Munmap(f.head)
		f.head = nil
	}
	if f.abandoned {
		return nil
	}
	return guard(f.db.Close)
}

// reopen opens the file again after a failed commit. Readers go over to the
// new handle at once.
func (s *Store) reopen() error {
	old := s.file
	next, err := openDB(old.base, old.path, s.memory)
	if err != nil {
		return err
	}
	next.changed = old.changed
	s.swap(next)
	// Not before the last reader has left: bbolt does not know of the readers
	// of another handle and would reuse their pages.
	if err := old.closeDB(); err != nil {
		s.log.Debug("closing the old handle of the permission store", "error", err)
	}
	return nil
}

// open opens or makes the file that the store lives in.
func (s *Store) open() error {
	err := s.openDir()
	if err == nil || !unwritable(err) {
		return err
	}
	s.log.Warn("permissions will be forgotten: their directory cannot be written", "dir", s.dir, "error", err)
	return s.openMemory()
}

// unwritable reports whether an error means that a directory cannot be
// written at all.
func unwritable(err error) bool {
	for _, n := range [...]syscall.Errno{
		syscall.EROFS, syscall.EACCES, syscall.EPERM, syscall.ENOENT, syscall.ENOTDIR,
		syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG, syscall.EIO, syscall.EISDIR, syscall.ELOOP,
		syscall.ENAMETOOLONG, syscall.ESTALE,
	} {
		if errors.Is(err, n) {
			return true
		}
	}
	return false
}

func (s *Store) openDir() (err error) {
	if s.dir == "" {
		return fmt.Errorf("no directory is named: %w", syscall.ENOENT)
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(s.dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			lock.Close()
		}
	}()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if err == unix.EWOULDBLOCK {
			return ErrInUse
		}
		return os.NewSyscallError("flock", err)
	}
	path := filepath.Join(s.dir, fileName)
	// To open it changes nothing, which may take long on a slow disk.
	base, err := os.OpenFile(path, os.O_RDWR|unix.O_NOATIME, 0)
	if errors.Is(err, syscall.EPERM) { // it is somebody else's, open(2)
		base, err = os.OpenFile(path, os.O_RDWR, 0)
	}
	if errors.Is(err, os.ErrNotExist) {
		s.file, err = s.create(nil)
	} else if err == nil {
		s.file, err = s.openFile(base, path)
		if isDamage(err) {
			s.file, _, err = s.restore(base, err)
			base.Close()
		} else if err != nil {
			base.Close()
		}
	}
	if err != nil {
		return err
	}
	s.lock = lock
	return nil
}

// openFile opens an existing file and looks whether it is whole.
func (s *Store) openFile(base *os.File, path string) (*file, error) {
	if err := checkMeta(base); err != nil {
		return nil, err
	}
	f, err := openDB(base, path, s.memory)
	if err != nil {
		return nil, err
	}
	if err := s.checkSchema(f); err != nil {
		f.closeDB()
		return nil, err
	}
	return f, nil
}

// checkSchema says whether this version can use a file.
func (s *Store) checkSchema(f *file) error {
	var indexes string
	err := guard(func() error {
		return f.db.View(func(b *bolt.Tx) error {
			switch v := schemaOf(b); {
			case v > schema:
				return fmt.Errorf("%w (schema %d, this one knows %d)", ErrNewerSchema, v, schema)
			case v == 0:
				return damaged("no schema version")
			}
			indexes = string(b.Bucket(bucketMeta).Get(keyIndexes))
			return (&Tx{b: b}).buckets(nil)
		})
	})
	if err != nil {
		return err
	}
	if indexes != s.indexNames() {
		s.log.Info("building the indexes of the permission store anew")
		return s.rebuildIndexes(f)
	}
	return nil
}

func (s *Store) indexNames() string {
	var b strings.Builder
	for _, x := range s.indexes {
		b.WriteString(x.Table + "\x00" + x.Name + "\x00")
	}
	return b.String()
}

// create makes a new file with the entries that fill puts in, under a
// temporary name until it is whole and on disk. With fill it replaces a damaged
// file, which is moved aside.
func (s *Store) create(fill func(put func(table, id string, e *Entry) error) error) (_ *file, err error) {
	path := filepath.Join(s.dir, fileName)
	temp := path + ".new"
	base, err := os.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			base.Close()
			os.Remove(temp)
		}
	}()
	f, err := s.initialize(base, path, fill)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.closeDB()
		}
	}()
	if err := f.db.Sync(); err != nil {
		return nil, err
	}
	f.db.NoSync, f.db.NoGrowSync = false, false
	if fill != nil {
		if err := s.quarantine(path); err != nil {
			return nil, err
		}
	}
	if err := os.Rename(temp, path); err != nil {
		return nil, err
	}
	if err := syncDir(s.dir); err != nil {
		return nil, err
	}
	if fill == nil {
		syncDir(filepath.Dir(s.dir)) // the directory may be new as well
	}
	return f, nil
}

// initialize writes the buckets of an empty file.
func (s *Store) initialize(base *os.File, path string, fill func(put func(table, id string, e *Entry) error) error) (*file, error) {
	f, err := openDB(base, path, true)
	if err != nil {
		return nil, err
	}
	err = guard(func() error {
		return f.db.Update(func(b *bolt.Tx) error {
			meta, err := b.CreateBucket(bucketMeta)
			if err != nil {
				return err
			}
			if _, err := b.CreateBucket(bucketEntries); err != nil {
				return err
			}
			if _, err := b.CreateBucket(bucketIndex); err != nil {
				return err
			}
			if err := meta.Put(keyIndexes, []byte(s.indexNames())); err != nil {
				return err
			}
			if fill != nil {
				// It replaces one that was damaged: what had been imported and
				// deleted since must not come back.
				if err := markImported(b); err != nil {
					return err
				}
			}
			return meta.Put(keySchema, binary.LittleEndian.AppendUint32(nil, schema))
		})
	})
	if err == nil && fill != nil {
		err = s.fill(f, fill)
	}
	if err != nil {
		f.closeDB()
		return nil, err
	}
	return f, nil
}

// fill writes entries into a new file, some at a time to bound the memory.
func (s *Store) fill(f *file, fill func(put func(table, id string, e *Entry) error) error) error {
	var tx *Tx
	end := func() error {
		if tx == nil {
			return nil
		}
		b := tx.b
		tx = nil
		return guard(b.Commit)
	}
	err := fill(func(table, id string, e *Entry) error {
		if tx == nil {
			tx = &Tx{s: s, writable: true}
			if err := guard(func() (err error) { tx.b, err = f.begin(true); return tx.buckets(err) }); err != nil {
				return err
			}
		}
		if _, err := tx.change(table, id, e); err != nil {
			return err
		}
		if len(tx.log) >= 1000 {
			return end()
		}
		return nil
	})
	if err != nil {
		if tx != nil {
			tx.b.Rollback()
		}
		return err
	}
	return end()
}

// rebuildIndexes writes all index rows anew.
func (s *Store) rebuildIndexes(f *file) error {
	return guard(func() error {
		return f.db.Update(func(b *bolt.Tx) error {
			if err := b.DeleteBucket(bucketIndex); err != nil {
				return err
			}
			index, err := b.CreateBucket(bucketIndex)
			if err != nil {
				return err
			}
			c := b.Bucket(bucketEntries).Cursor()
			for k, v := c.First(); k != nil; k, v = c.Next() {
				table, id, _ := splitKey(k)
				e, _, err := decode(k, v)
				if err != nil {
					return err
				}
				rows, err := s.rows(table, id, e)
				if err != nil {
					return err
				}
				for _, r := range rows {
					if err := index.Put(r, nil); err != nil {
						return err
					}
				}
			}
			return b.Bucket(bucketMeta).Put(keyIndexes, []byte(s.indexNames()))
		})
	})
}

// openMemory makes the store live in memory, with a copy of what is on disk.
func (s *Store) openMemory() error {
	s.memory = true
	old, err := os.Open(filepath.Join(s.dir, fileName))
	if err != nil {
		s.file, err = s.createMemory(nil)
		return err
	}
	defer old.Close()
	base, err := memfd()
	if err != nil {
		return err
	}
	if _, err = io.Copy(base, old); err == nil {
		if s.file, err = s.openFile(base, fileName); err == nil {
			return nil
		}
	}
	base.Close()
	if errors.Is(err, ErrNewerSchema) {
		return err
	}
	o, _ := s.salvage(old, err)
	s.file, err = s.createMemory(o.fill)
	return err
}

func memfd() (*os.File, error) {
	fd, err := unix.MemfdCreate("permissions", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	return os.NewFile(uintptr(fd), "permissions"), nil
}

// createMemory makes a new file in memory.
func (s *Store) createMemory(fill func(put func(table, id string, e *Entry) error) error) (*file, error) {
	base, err := memfd()
	if err != nil {
		return nil, err
	}
	f, err := s.initialize(base, fileName, fill)
	if err != nil {
		base.Close()
	}
	return f, err
}

// close ends the store once the writer has.
func (s *Store) close() error {
	f := s.file
	s.mu.Lock()
	f.retired = true
	if f.readers == 0 {
		close(f.idle)
	}
	s.mu.Unlock()
	<-f.idle
	<-s.checked
	if s.lock != nil && !f.stale {
		if f.changed {
			if err := s.saveCopy(f); err != nil {
				s.log.Warn("the permission store was not copied", "error", err)
			}
		}
		s.sayEnded(f)
	}
	err := f.closeDB()
	if e := f.base.Close(); err == nil {
		err = e
	}
	if s.lock != nil {
		s.lock.Close() // gives the directory up last
	}
	return err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) {
		return err
	}
	return nil
}

// meta is what a bbolt meta page says. Its layout is bbolt's file format 2, in
// the machine's byte order: a page header of 16 bytes, then magic, version,
// page size and flags (u32), root page, sequence, freelist page, high-water
// mark, transaction and checksum (u64).
type meta struct {
	slot      int // 0 or 1
	pageSize  int
	root      uint64
	freelist  uint64
	highWater uint64 // pages
	txid      uint64
}

const (
	metaMagic   = 0xED0CDAED
	metaVersion = 2
	metaSize    = 80 // with the page header
)

// readMeta reads a meta page; ok is false if it is none.
func readMeta(page []byte) (m meta, version uint32, ok bool) {
	if len(page) < metaSize {
		return m, 0, false
	}
	ne := binary.NativeEndian
	p := page[pageHeader:metaSize]
	if ne.Uint32(p) != metaMagic {
		return m, 0, false
	}
	h := fnv.New64a()
	h.Write(p[:56])
	if h.Sum64() != ne.Uint64(p[56:]) {
		return m, 0, false
	}
	version = ne.Uint32(p[4:])
	m = parseMeta(page)
	ok = m.pageSize >= 1024 && m.pageSize <= 64<<10 && m.pageSize&(m.pageSize-1) == 0
	return m, version, ok
}

// parseMeta reads the numbers of a meta page.
func parseMeta(page []byte) meta {
	ne := binary.NativeEndian
	p := page[pageHeader:metaSize]
	return meta{
		pageSize:  int(ne.Uint32(p[8:])),
		root:      ne.Uint64(p[16:]),
		freelist:  ne.Uint64(p[32:]),
		highWater: ne.Uint64(p[40:]),
		txid:      ne.Uint64(p[48:]),
	}
}

// findMeta returns the meta page that counts, the valid one of the later
// transaction, and whether the other one is valid as well.
func findMeta(f io.ReaderAt) (best meta, found, both bool, err error) {
	var page [metaSize]byte
	newer, n := false, 0
	look := func(off int64) {
		if _, err := f.ReadAt(page[:], off); err != nil {
			return
		}
		m, version, ok := readMeta(page[:])
		if !ok {
			return
		}
		if version != metaVersion {
			newer = true
			return
		}
		if off != 0 && off != int64(m.pageSize) {
			return
		}
		n++
		if !found || m.txid > best.txid {
			best, found = m, true
			best.slot = int(min(off, 1))
		}
	}
	look(0)
	if found {
		look(int64(best.pageSize))
	} else {
		for size := int64(1024); size <= 64<<10; size *= 2 {
			look(size)
		}
	}
	if !found && newer {
		return best, false, false, fmt.Errorf("%w (another file format)", ErrNewerSchema)
	}
	return best, found, n == 2, nil
}

// checkMeta looks whether a file can be mapped without a fault: it has a meta
// page, and is as long as that says.
func checkMeta(base *os.File) error {
	info, err := base.Stat()
	if err != nil {
		return err
	}
	m, _, both, err := findMeta(base)
	if err != nil {
		return err
	}
	if !both {
		return damaged("an invalid meta page")
	}
	if need := m.highWater * uint64(m.pageSize); uint64(info.Size()) < need {
		return damaged("the file has %d bytes of %d", info.Size(), need)
	}
	// bbolt believes the list of free pages, and overwrites what is on it.
	v := newSalvage(base, info.Size())
	v.pageSize = m.pageSize
	if v.freelist(m) == nil {
		return damaged("the list of free pages is not readable")
	}
	return nil
}

// revoke takes the meta page of a transaction back, if it was written: the
// other one, of the transaction before, is put in its place.
func (f *file) revoke(txid uint64) error {
	m, found, both, err := findMeta(f.base)
	if err != nil || !found || m.txid != txid {
		return err
	}
	if !both {
		return damaged("an invalid meta page")
	}
	var page [metaSize]byte
	if _, err := f.base.ReadAt(page[:], int64(1-m.slot)*int64(m.pageSize)); err != nil {
		return err
	}
	_, err = f.base.WriteAt(page[pageHeader:], int64(m.slot)*int64(m.pageSize)+pageHeader)
	return err
}
