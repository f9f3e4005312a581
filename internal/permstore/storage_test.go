package permstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// big makes an entry of about n bytes.
func big(n int) Entry { return Entry{Data: bytesOf(n), Permissions: map[string][]string{"a": {"x"}}} }

// fill puts entries until the disk refuses, and returns how many it took.
func fillUp(s *Store, table string) (n int, err error) {
	for ; ; n++ {
		err := s.Update(context.Background(), func(tx *Tx) error {
			return tx.Put(table, fmt.Sprintf("%05d", n), big(60_000))
		})
		if err != nil {
			return n, err
		}
		if n == 1000 {
			return n, errors.New("the disk is never full")
		}
	}
}

// fullDisk is what a store must do on a disk that gets full, as a list of what
// was wrong. makeRoom makes some.
func fullDisk(dir string, makeRoom func(), want syscall.Errno) (wrong []string) {
	fail := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	s, err := Open(dir, Options{})
	if err != nil {
		return []string{err.Error()}
	}
	events := 0
	s.Subscribe(func(c []Change) { events += len(c) })
	if s.InMemory() {
		fail("the store is in memory only")
	}
	n, err := fillUp(s, "t")
	var storage *StorageError
	if !errors.As(err, &storage) || !errors.Is(err, want) {
		fail("the error is %v", err)
	}
	if n < 3 {
		fail("only %d entries fit", n)
	}
	check := func(when string) {
		count := 0
		err := s.View(func(tx *Tx) error {
			return tx.IDs("t", func(id string) bool {
				e, ok, err := tx.Get("t", id)
				if err != nil || !ok || len(e.Data.Data) < 60_000 {
					fail("%s: %s: %v, %v", when, id, ok, err)
				}
				count++
				return true
			})
		})
		if err != nil || count != n || events != n {
			fail("%s: %d entries and %d events of %d (%v)", when, count, events, n, err)
		}
	}
	check("while full")
	if _, err := fillUp(s, "u"); !errors.As(err, &storage) {
		fail("again: %v", err)
	}
	events = n
	makeRoom()
	if err := s.Update(context.Background(), func(tx *Tx) error { return tx.Put("t", "more", big(60_000)) }); err != nil {
		fail("with room: %v", err)
	}
	n++
	check("with room")
	if err := s.Close(); err != nil {
		fail("Close: %v", err)
	}
	if r, err := Check(dir, nil); err != nil || len(r.Problems) > 0 {
		fail("Check: %v, %v", r, err)
	}
	if s, err = Open(dir, Options{}); err != nil {
		return append(wrong, err.Error())
	}
	defer s.Close()
	check("reopened")
	return wrong
}

// onFullDisk runs in a user namespace, on a file system of 1 MiB.
func onFullDisk(dir string) int {
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		fmt.Println("SKIP", err)
		return 0
	}
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 300<<10), 0o600); err != nil {
		fmt.Println(err)
		return 1
	}
	for _, w := range fullDisk(filepath.Join(dir, "store"), func() { os.Remove(ballast) }, syscall.ENOSPC) {
		fmt.Println(w)
	}
	return 0
}

func TestAFullDisk(t *testing.T) {
	self, err := os.Executable()
	must(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "PERMSTORE_TEST_CHILD=full disk", "PERMSTORE_TEST_DIR="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if why, skip := strings.CutPrefix(string(out), "SKIP "); skip || errors.Is(err, syscall.EPERM) {
		t.Skip("no mount in a user namespace: ", why, err)
	}
	if err != nil || len(out) > 0 {
		t.Errorf("%v\n%s", err, out)
	}
}

// A limit of the file's size refuses the write as a full disk does. It is that
// of a process, so this one is not limited: the go command has it write a log.
func TestAFileSizeLimit(t *testing.T) {
	self, err := os.Executable()
	must(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "PERMSTORE_TEST_CHILD=file size limit", "PERMSTORE_TEST_DIR="+t.TempDir())
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%v\n%s", err, out)
	}
}

// withAFileSizeLimit runs in a process of its own.
func withAFileSizeLimit(dir string) int {
	var old unix.Rlimit
	err := unix.Getrlimit(unix.RLIMIT_FSIZE, &old)
	limit := old
	limit.Cur = 600_000
	if err = errors.Join(err, unix.Setrlimit(unix.RLIMIT_FSIZE, &limit)); err != nil {
		fmt.Println(err)
		return 1
	}
	for _, w := range fullDisk(dir, func() { unix.Setrlimit(unix.RLIMIT_FSIZE, &old) }, syscall.EFBIG) {
		fmt.Println(w)
	}
	return 0
}

// A commit that fails after its meta page was written, as when the last sync
// does, is taken back: who was told that it failed must not see it.
func TestARefusedChangeIsNotSeen(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	put(t, s, "t", "1", Entry{Data: nothing})
	s.Subscribe(func(c []Change) {
		if c[0].ID == "2" {
			t.Error("a refused change is announced")
		}
	})
	err := s.Update(context.Background(), func(tx *Tx) error {
		tx.b.OnCommit(func() { panic("after all is written") })
		return tx.Put("t", "2", Entry{Data: nothing})
	})
	var storage *StorageError
	if !errors.As(err, &storage) {
		t.Errorf("the error is %v", err)
	}
	if got := strings.Join(ids(t, s, "t"), " "); got != "1" {
		t.Errorf("ids: %s", got)
	}
	put(t, s, "t", "3", Entry{Data: nothing})
	must(t, s.Close())
	clean(t, dir)
	s = open(t, dir, Options{})
	if got := strings.Join(ids(t, s, "t"), " "); got != "1 3" {
		t.Errorf("ids: %s", got)
	}
}

// An acknowledgement is worth something only if the file is synced.
func TestFilesAreSynced(t *testing.T) {
	dir := t.TempDir()
	for range 2 { // a new one, and an old one
		s := open(t, dir, Options{})
		if s.file.db.NoSync || s.file.db.NoGrowSync || s.file.db.NoFreelistSync {
			t.Error("bbolt does not sync")
		}
		must(t, s.Close())
	}
}

// asUser skips a test that root passes whatever the permissions are.
func asUser(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root may write everywhere")
	}
}

func TestAHomeThatCannotBeWrittenIsMemoryOnlyWithOneWarning(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	readOnly := filepath.Join(t.TempDir(), "ro")
	must(t, os.Mkdir(readOnly, 0o500))
	for name, dir := range map[string]string{
		"none":      "",
		"no home":   "/proc/nonexistent/docportal",
		"a file":    filepath.Join(file, "docportal"),
		"read-only": filepath.Join(readOnly, "docportal"),
	} {
		t.Run(name, func(t *testing.T) {
			if name == "read-only" {
				asUser(t)
			}
			var log bytes.Buffer
			s := open(t, dir, Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
			if !s.InMemory() || strings.Count(log.String(), "\n") != 1 || !strings.Contains(log.String(), "level=WARN") {
				t.Errorf("log: %q", &log)
			}
			put(t, s, "t", "1", big(50_000))
			for i := range 50 {
				put(t, s, "t", fmt.Sprint(i), big(10_000))
			}
			if n := len(ids(t, s, "t")); n != 50 {
				t.Errorf("%d ids", n)
			}
			must(t, s.Close())
			if strings.Count(log.String(), "\n") != 1 {
				t.Errorf("log: %q", &log)
			}
		})
	}
}

// What is in a directory that cannot be written now was granted nevertheless.
func TestAReadOnlyHomeKeepsItsEntries(t *testing.T) {
	asUser(t)
	dir := t.TempDir()
	s := open(t, dir, Options{})
	put(t, s, "t", "1", Entry{Data: nothing})
	must(t, s.Close())
	must(t, os.Chmod(filepath.Join(dir, fileName), 0o400))
	must(t, os.Chmod(filepath.Join(dir, lockName), 0o400))
	must(t, os.Chmod(dir, 0o500))
	defer os.Chmod(dir, 0o700)
	s = open(t, dir, Options{})
	if !s.InMemory() {
		t.Error("not in memory")
	}
	put(t, s, "t", "2", Entry{Data: nothing})
	if got := strings.Join(ids(t, s, "t"), " "); got != "1 2" {
		t.Errorf("ids: %s", got)
	}
}

func TestANewerSchemaIsRefusedAndLeftAlone(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	put(t, s, "t", "1", Entry{Data: nothing})
	must(t, s.maintain(func() error {
		return s.file.db.Update(func(b *bolt.Tx) error {
			return b.Bucket(bucketMeta).Put(keySchema, binary.LittleEndian.AppendUint32(nil, schema+1))
		})
	}))
	must(t, s.Close())
	path := filepath.Join(dir, fileName)
	before, err := os.ReadFile(path)
	must(t, err)
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrNewerSchema) {
		t.Errorf("got %v", err)
	}
	if _, err := Check(dir, nil); !errors.Is(err, ErrNewerSchema) {
		t.Errorf("Check: %v", err)
	}
	after, err := os.ReadFile(path)
	must(t, err)
	if !bytes.Equal(before, after) {
		t.Error("the file was changed")
	}
	if len(asideFiles(t, dir)) > 0 {
		t.Error("the file was moved aside")
	}
}

func TestCheckNeedsTheStoreToItself(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	if _, err := Check(dir, nil); !errors.Is(err, ErrInUse) {
		t.Errorf("got %v", err)
	}
	must(t, s.Close())
	clean(t, dir)
}

// Indexes that do not agree with the entries are found, and mended.
func TestRepairOfIndexes(t *testing.T) {
	for name, spoil := range map[string]func(entries, index *bolt.Bucket) error{
		"missing row": func(_, index *bolt.Bucket) error {
			k, _ := index.Cursor().First()
			return index.Delete(k)
		},
		"stale row": func(_, index *bolt.Bucket) error {
			return index.Put(append(appendKey(indexPrefix("t", appIndex), []byte("org.gone")), "1"...), nil)
		},
		"lost entry": func(entries, _ *bolt.Bucket) error { return entries.Delete(entryKey("t", "2")) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir, Options{})
			for i := range 5 {
				put(t, s, "t", fmt.Sprint(i), Entry{Data: nothing, Permissions: map[string][]string{"org.a": nil}})
			}
			must(t, s.maintain(func() error {
				return s.file.db.Update(func(b *bolt.Tx) error {
					return spoil(b.Bucket(bucketEntries), b.Bucket(bucketIndex))
				})
			}))
			must(t, s.Close())
			if r, err := Check(dir, nil); err != nil || len(r.Problems) == 0 {
				t.Errorf("Check: %v, %v", r, err)
			}
			must(t, Repair(dir, Options{}))
			clean(t, dir)
		})
	}
}

// A store that is opened with other indexes than it was written with has them
// all the same.
func TestChangedIndexesAreBuiltAnew(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	put(t, s, "t", "1", toData(7))
	must(t, s.Close())
	s = open(t, dir, Options{Indexes: crashIndexes()})
	if got := find(t, s, "t", "data", "\x07\x00\x00\x00"); len(got) != 1 {
		t.Errorf("found %q", got)
	}
	must(t, s.Close())
	if r, err := Check(dir, crashIndexes()); err != nil || len(r.Problems) > 0 {
		t.Errorf("Check: %v, %v", r, err)
	}
}
