package documents

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"docportal/internal/bus"
)

// memo is what transient documents are noted in, so that they outlive a server
// that dies, but not the daemon: a file in memory that somebody else keeps. It
// has a note for each change, written before the change is told to anybody, and
// is written anew when most of them are of no use any more. Its methods are
// called with Service.mu held.
type memo struct {
	log  *slog.Logger
	keep func(f *os.File) error

	file  *memory // nil: nothing is noted
	notes int     // in it
	out   []byte  // not written yet
	lost  bool    // it was said that something is not noted

	renewing bool
	since    []byte  // what was written since that was begun
	next     *memory // to take file's place, once it is kept
}

// memory is a file in memory.
type memory struct {
	*os.File
	size int64
}

func newMemory() (*memory, error) {
	fd, err := unix.MemfdCreate("docportal-transient", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	return &memory{os.NewFile(uintptr(fd), "docportal-transient"), 0}, nil
}

// add writes whole notes. A part of one that a crash leaves at the end counts
// for nothing. If there is no memory for them nothing is left: better no document
// than one with a permission that was taken away.
func (m *memory) add(b []byte) error {
	if _, err := m.WriteAt(b, m.size); err != nil {
		m.Truncate(0)
		m.size = 0
		return err
	}
	m.size += int64(len(b))
	return nil
}

// A note is its length, and as many bytes: the document's id, and, but for one
// that is gone, its record (record.encode) and its apps, each with its words.
// Numbers are as binary.AppendUvarint writes them, and everything else begins
// with its length.

// appendNote appends what a document has become; nil is one that is gone.
func appendNote(b []byte, id string, k *kept) []byte {
	at := len(b)
	b = append(b, 0, 0, 0, 0)
	b = appendField(b, id)
	if k != nil {
		b = appendField(b, k.rec.encode().Data)
		for _, a := range k.apps {
			b = appendField(b, a.app)
			b = binary.AppendUvarint(b, uint64(len(a.words)))
			for _, w := range a.words {
				b = appendField(b, w)
			}
		}
	}
	binary.LittleEndian.PutUint32(b[at:], uint32(len(b)-at-4))
	return b
}

func appendField[T string | []byte](b []byte, v T) []byte {
	b = binary.AppendUvarint(b, uint64(len(v)))
	return append(b, v...)
}

// readNote is the opposite of appendNote, of what follows the length.
func readNote(b []byte) (id string, k *kept, err error) {
	bad := false
	number := func() int {
		n, size := binary.Uvarint(b)
		if size <= 0 || n > uint64(len(b)-size) { // more than there can be
			bad = true
			return 0
		}
		b = b[size:]
		return int(n)
	}
	field := func() []byte {
		n := number()
		v := b[:n]
		b = b[n:]
		return v
	}
	if id = string(field()); !validID(id) {
		return "", nil, errNote
	}
	if len(b) == 0 {
		return id, nil, nil
	}
	k = &kept{id: id}
	if k.rec, err = decode(bus.Value{Signature: signature, Data: field()}); err != nil {
		return "", nil, err
	}
	for !bad && len(b) > 0 {
		a := keptApp{app: string(field())}
		words := make([]string, 0, number())
		for range cap(words) {
			words = append(words, string(field()))
		}
		a.words = usualWords(words)
		k.apps = append(k.apps, a)
	}
	if bad {
		return "", nil, errNote
	}
	return id, k, nil
}

var errNote = errors.New("no note of a document")

// note notes what a document has become; nil is one that is gone.
func (m *memo) note(id string, k *kept) {
	if m.file != nil {
		m.out = appendNote(m.out, id, k)
		m.notes++
	}
}

// flush writes what was noted.
func (m *memo) flush() {
	if len(m.out) == 0 {
		return
	}
	b := m.out
	if m.out = m.out[:0]; cap(m.out) > maxSpare {
		m.out = nil
	}
	err := m.file.add(b)
	if err != nil && !m.lost {
		m.log.Warn("transient documents of now will not outlive a crash", "reason", err)
	}
	m.lost = err != nil
	switch {
	case m.next != nil:
		m.next.add(b)
	case m.renewing:
		m.since = append(m.since, b...)
	}
}

const (
	// maxSpare is how many bytes of room are kept for notes.
	maxSpare = 64 << 10
	// spareNotes is how many notes of no use there may be beside as many as
	// there are documents.
	spareNotes = 4096
)

// renew writes the memo anew if that is worth it.
func (s *Service) renew() {
	m := &s.memo
	if m.renewing || m.file == nil || m.notes < 2*len(s.transient)+spareNotes {
		return
	}
	m.renewing = true
	old := m.notes - len(s.transient) // of no use
	all := slices.Collect(maps.Values(s.transient))
	go func() { // ends with the attempt
		if err := s.renewWith(all, old); err != nil {
			s.log.Warn("the notes of transient documents grow", "reason", err)
		}
	}()
}

func (s *Service) renewWith(all []*kept, old int) error {
	m := &s.memo
	next, err := written(all)
	s.mu.Lock()
	if err == nil {
		err = next.add(m.since)
	}
	m.since = nil
	if err != nil {
		m.renewing, m.notes = false, 0 // to be tried again some time
		s.mu.Unlock()
		next.drop()
		return err
	}
	m.next = next
	s.mu.Unlock()

	err = m.keep(next.File)
	s.mu.Lock()
	defer s.mu.Unlock()
	m.renewing, m.next = false, nil
	if err != nil {
		m.notes = 0
		next.drop()
		return err
	}
	m.file.drop()
	m.file, m.notes = next, m.notes-old
	return nil
}

// written is a file with a note for each of all.
func written(all []*kept) (*memory, error) {
	f, err := newMemory()
	if err != nil {
		return nil, err
	}
	var b []byte
	for i, k := range all {
		if b = appendNote(b, k.id, k); len(b) < maxSpare && i+1 < len(all) {
			continue
		}
		if err := f.add(b); err != nil {
			f.drop()
			return nil, err
		}
		b = b[:0]
	}
	return f, nil
}

func (m *memory) drop() {
	if m != nil {
		m.Close()
	}
}

// Remember has transient documents noted in a file in memory, for a server after
// this one, which keep is given, and others in its place later. They begin with
// those in f, what a server before has given to keep, nil for none; n is their
// number. It owns f; keep duplicates what it is given. The error says that f
// cannot be read, and nothing of it was taken, or that nothing will be noted. No
// call may be served meanwhile.
func (s *Service) Remember(f *os.File, keep func(f *os.File) error) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f != nil {
		n, err = s.recall(f)
		f.Close()
	}
	next, failed := written(slices.Collect(maps.Values(s.transient)))
	if failed == nil {
		if failed = keep(next.File); failed != nil {
			next.drop()
		}
	}
	if failed != nil {
		return n, errors.Join(err, failed)
	}
	s.memo.file.drop()
	s.memo = memo{log: s.log, keep: keep, file: next, notes: len(s.transient)}
	return n, err
}

// recall takes back what is noted in f.
func (s *Service) recall(f *os.File) (n int, err error) {
	r := bufio.NewReaderSize(io.NewSectionReader(f, 0, math.MaxInt64), maxSpare)
	were := make(map[string]*kept)
	var b []byte
	for {
		var size [4]byte
		if _, err := io.ReadFull(r, size[:]); err != nil {
			break // what is not whole was not told to anybody
		}
		length := int64(binary.LittleEndian.Uint32(size[:]))
		if length > maxNote {
			return 0, fmt.Errorf("notes of transient documents: one of %d bytes", length)
		}
		b = slices.Grow(b[:0], int(length))[:length]
		if _, err := io.ReadFull(r, b); err != nil {
			break
		}
		id, k, err := readNote(b)
		if err != nil {
			return 0, fmt.Errorf("notes of transient documents: %w", err)
		}
		if were[id] = k; k == nil {
			delete(were, id)
		}
	}
	for id, k := range were {
		if s.transient[id] == nil {
			s.putKept(k)
			n++
		}
	}
	s.changed()
	return n, nil
}

// maxNote is longer than any note: a path is at most PATH_MAX bytes, and there
// are at most permstore.MaxApps apps.
const maxNote = 8 << 20
