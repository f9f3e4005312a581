package documents

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"docportal/internal/permstore"
)

// keeping is somebody who keeps the last file that it was given.
type keeping struct {
	t     testing.TB
	f     *os.File
	given int
	fail  error
}

func (k *keeping) keep(f *os.File) error {
	if k.fail != nil {
		return k.fail
	}
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		k.t.Fatal(err)
	}
	k.f.Close()
	k.f = os.NewFile(uintptr(fd), f.Name())
	k.given++
	return nil
}

// service is a service with transient documents only, and what is kept of them.
func (k *keeping) service(f *os.File) (*Service, int, error) {
	s := New(Options{Store: func() (*permstore.Store, error) { return nil, errors.New("there is no store") }})
	n, err := s.Remember(f, k.keep)
	return s, n, err
}

func (k *keeping) taken() *os.File {
	k.t.Helper()
	fd, err := unix.FcntlInt(k.f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		k.t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), "kept")
}

// transients are all transient documents, as they were made.
func (s *Service) transients() map[string]*document {
	s.mu.RLock()
	defer s.mu.RUnlock()
	all := make(map[string]*document)
	for id, k := range s.transient {
		all[id] = k.document()
	}
	return all
}

// settled waits until nothing is written anew.
func (s *Service) settled(t *testing.T) {
	t.Helper()
	for {
		s.mu.RLock()
		busy := s.memo.renewing
		s.mu.RUnlock()
		if !busy {
			return
		}
	}
}

// TestTransientDocumentsAreNoted: after any changes another service that gets
// the notes has the same documents, in every index, and goes on from there; the
// notes do not grow without end.
func TestTransientDocumentsAreNoted(t *testing.T) {
	ctx := context.Background()
	k := &keeping{t: t}
	s, n, err := k.service(nil)
	if n != 0 || err != nil {
		t.Fatal(n, err)
	}
	defer func() { k.f.Close() }()
	r := rand.New(rand.NewPCG(1, 2))
	var ids []string
	apps := []string{appA, appB, "org.example.C"}
	one := func() placed {
		name := fmt.Sprintf("/home/u/%d", r.IntN(50))
		if r.IntN(4) == 0 {
			name += "\n\xff\" "
		}
		p := placed{rec: record{path: name, dev: 1, ino: uint64(r.IntN(9)), flags: flagTransient}, reuse: r.IntN(2) == 0}
		if !p.reuse {
			p.rec.flags |= flagUnique
		}
		if r.IntN(2) == 0 {
			p.rec.handle, p.rec.fsid = "\x01\x00\x00\x00handle\x00", 7
		}
		for range r.IntN(3) {
			p.grants = append(p.grants, permission{apps[r.IntN(len(apps))], perm(r.IntN(int(permAll) + 1))})
		}
		return p
	}
	step := func() {
		if len(ids) < 200 && r.IntN(3) > 0 || len(ids) == 0 {
			some := make([]placed, 1+r.IntN(4))
			for i := range some {
				some[i] = one()
			}
			made, err := s.place(ctx, some)
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, made...)
			return
		}
		at := r.IntN(len(ids))
		remove := r.IntN(2) == 0
		err := s.change(ctx, ids[at], func(d *document) (map[string][]string, bool, error) {
			return map[string][]string{apps[r.IntN(len(apps))]: {"read"}}, remove, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if remove {
			id := ids[at]
			ids = slices.DeleteFunc(ids, func(i string) bool { return i == id })
		}
	}
	const rounds = 4
	for range rounds {
		for range 6000 {
			step()
		}
		s.settled(t)
		info, err := k.f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		if most := int64(2*len(s.transients())+spareNotes+2000) * 400; info.Size() > most {
			t.Errorf("%d bytes for %d documents", info.Size(), len(s.transients()))
		}
		next, n, err := k.service(k.taken())
		if err != nil || n != len(s.transients()) {
			t.Fatal(n, err)
		}
		if !reflect.DeepEqual(next.transients(), s.transients()) {
			t.Fatal("other documents")
		}
		for _, pair := range [][2]any{{next.byApp, s.byApp}, {sets(next.byPath), sets(s.byPath)}, {sets(next.uniqueByPath), sets(s.uniqueByPath)}} {
			if !reflect.DeepEqual(pair[0], pair[1]) {
				t.Fatalf("%v is not %v", pair[0], pair[1])
			}
		}
		s.memo.file.drop()
		s = next
	}
	if k.given < rounds+3 {
		t.Errorf("written anew %d times only", k.given)
	}
	s.memo.file.drop()
}

// sets are lists without their order.
func sets(m map[string][]string) map[string]string {
	out := make(map[string]string)
	for k, ids := range m {
		ids = slices.Clone(ids)
		slices.Sort(ids)
		out[k] = strings.Join(ids, " ")
	}
	return out
}

// TestNotesThatAreCutShort: what a crash cuts off was told to nobody; of notes
// that are broken otherwise nothing is taken.
func TestNotesThatAreCutShort(t *testing.T) {
	k := &keeping{t: t}
	s, _, err := k.service(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { k.f.Close() }()
	add := func() {
		t.Helper()
		if _, err := s.place(context.Background(), []placed{{rec: record{path: "/home/u/f", flags: flagTransient | flagUnique}}}); err != nil {
			t.Fatal(err)
		}
	}
	add()
	add()
	text, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", k.f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	first := len(text) / 2
	for size := range len(text) + 1 {
		f, err := os.Create(filepath.Join(t.TempDir(), "f"))
		if err != nil {
			t.Fatal(err)
		}
		f.Write(text[:size])
		want := 0
		if size >= first {
			want++
		}
		if size == len(text) {
			want++
		}
		if next, n, err := k.service(f); err != nil || n != want || len(next.transients()) != want {
			t.Errorf("%d bytes: %d documents, %v", size, n, err)
		}
	}
	note := func(fields ...string) string {
		var b []byte
		for _, f := range fields {
			b = appendField(b, f)
		}
		return string(binary.LittleEndian.AppendUint32(nil, uint32(len(b)))) + string(b)
	}
	good := string((&record{path: "/f"}).encode().Data)
	for _, broken := range []string{
		"\x00\x00\x00\x00", note("x", good[:len(good)-1]), "\x01\x00\x00\x00\x05", "\xff\xff\xff\xff", "\x01\x00\x00\x00\xff",
		note(""), note("../x"), note("../x", good), note("x", "bad"), note("x", good, "a"),
		note("x", string((&record{path: "f"}).encode().Data)),
		note("x", good, "a", "\x05"), string(text) + note("x", ""),
	} {
		f, err := os.Create(filepath.Join(t.TempDir(), "f"))
		if err != nil {
			t.Fatal(err)
		}
		f.WriteString(broken)
		if next, n, err := k.service(f); err == nil || n != 0 || len(next.transients()) != 0 {
			t.Errorf("%q: %d documents, %v", broken, n, err)
		}
	}
}

// TestNoMemoryForNotes: calls go on; what a server after this one finds has no
// permission that was taken away.
func TestNoMemoryForNotes(t *testing.T) {
	ctx := context.Background()
	k := &keeping{t: t}
	s, _, err := k.service(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { k.f.Close() }()
	ids, err := s.place(ctx, []placed{{rec: record{path: "/home/u/f", flags: flagTransient}, grants: []permission{{appA, permAll}}}})
	if err != nil {
		t.Fatal(err)
	}
	// No write beyond this size succeeds (memfd_create(2), F_SEAL_GROW).
	file := s.memo.file.File
	sealed, err := unix.MemfdCreate("sealed", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", file.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Write(sealed, text); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.FcntlInt(uintptr(sealed), unix.F_ADD_SEALS, unix.F_SEAL_GROW); err != nil {
		t.Fatal(err)
	}
	s.memo.file.File = os.NewFile(uintptr(sealed), "sealed")
	file.Close()
	if err := k.keep(s.memo.file.File); err != nil {
		t.Fatal(err)
	}
	err = s.change(ctx, ids[0], func(*document) (map[string][]string, bool, error) { return map[string][]string{}, false, nil })
	if err != nil {
		t.Fatal(err)
	}
	if can := s.transients()[ids[0]].can(appA); can != 0 {
		t.Errorf("the app still can %v", can)
	}
	next, _, err := k.service(k.taken())
	if err != nil {
		t.Fatal(err)
	}
	if d := next.transients()[ids[0]]; d != nil && d.can(appA) != 0 {
		t.Error("what was taken away is back")
	}

	// Nor does it hold anybody up that nothing is kept.
	k.fail = errors.New("no")
	s, n, err := k.service(nil)
	if !errors.Is(err, k.fail) || n != 0 {
		t.Error(n, err)
	}
	if _, err := s.place(ctx, []placed{{rec: record{path: "/home/u/f", flags: flagTransient}}}); err != nil {
		t.Error(err)
	}
}

// FuzzNote: what can be read is written the same again, or nearly: nothing that is
// no document's is ever read.
func FuzzNote(f *testing.F) {
	f.Add([]byte{})
	for _, k := range []*kept{
		nil,
		{id: "0123", rec: record{path: "/a/b", dev: 1, ino: 2, flags: flagTransient}},
		{id: "0123", rec: record{path: "/a/b", handle: "\x01\x00\x00\x00h", fsid: 3}, apps: []keptApp{{appA, []string{"read"}}, {appB, []string{"x", ""}}}},
	} {
		f.Add(appendNote(nil, "0123", k)[4:])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		id, k, err := readNote(b)
		if err != nil {
			return
		}
		if !validID(id) || k != nil && (k.id != id || !isPlace([]byte(k.rec.path))) {
			t.Fatalf("%q, %+v", id, k)
		}
		again, same, err := readNote(appendNote(nil, id, k)[4:])
		if err != nil || again != id || !reflect.DeepEqual(same, k) {
			t.Errorf("%+v is read as %+v, %v", k, same, err)
		}
	})
}

// TestWhatIsLeftToAnotherServerIsNotAnswered: a server that has closed its store
// for another one tells nobody that there are no documents.
func TestWhatIsLeftToAnotherServerIsNotAnswered(t *testing.T) {
	k := &keeping{t: t}
	s, _, err := k.service(nil) // whose store cannot be read
	if err != nil {
		t.Fatal(err)
	}
	defer func() { k.f.Close() }()
	id := newID()
	questions := []func(){
		func() { s.Document(appA, id) },
		func() { s.List(appA) },
		func() { s.List("") },
		func() { s.Apps() },
	}
	for _, ask := range questions {
		ask()
	}
	s.Leave()
	answered := make(chan int)
	for n, ask := range questions {
		go func() { // ends with the process
			ask()
			answered <- n
		}()
	}
	select {
	case n := <-answered:
		t.Errorf("question %d was answered", n)
	case <-time.After(100 * time.Millisecond):
	}
}
