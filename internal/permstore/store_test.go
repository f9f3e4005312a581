package permstore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"docportal/internal/bus"
)

// nothing is the data of an entry that has none: the byte 0.
var nothing = bus.Value{Signature: "y", Data: []byte{0}}

func open(t testing.TB, dir string, o Options) *Store {
	t.Helper()
	s, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func change(t testing.TB, s *Store, fn func(*Tx) error) {
	t.Helper()
	if err := s.Update(context.Background(), fn); err != nil {
		t.Fatal(err)
	}
}

func put(t testing.TB, s *Store, table, id string, e Entry) {
	t.Helper()
	change(t, s, func(tx *Tx) error { return tx.Put(table, id, e) })
}

func get(t testing.TB, s *Store, table, id string) (e Entry, ok bool) {
	t.Helper()
	err := s.View(func(tx *Tx) (err error) { e, ok, err = tx.Get(table, id); return err })
	if err != nil {
		t.Fatal(err)
	}
	return e, ok
}

// strings collects what an iteration yields.
func collect(t testing.TB, s *Store, iterate func(tx *Tx, yield func(string) bool) error) []string {
	t.Helper()
	var all []string
	err := s.View(func(tx *Tx) error {
		return iterate(tx, func(v string) bool { all = append(all, v); return true })
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func ids(t testing.TB, s *Store, table string) []string {
	return collect(t, s, func(tx *Tx, yield func(string) bool) error { return tx.IDs(table, yield) })
}

func find(t testing.TB, s *Store, table, index, key string) []string {
	return collect(t, s, func(tx *Tx, yield func(string) bool) error {
		return tx.Find(table, index, []byte(key), yield)
	})
}

func keys(t testing.TB, s *Store, table, index string) []string {
	return collect(t, s, func(tx *Tx, yield func(string) bool) error {
		return tx.Keys(table, index, func(k []byte) bool { return yield(string(k)) })
	})
}

func TestEntriesSurviveReopening(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "docportal")
	s := open(t, dir, Options{})
	e := Entry{
		Data:        bus.Value{Signature: "s", Data: []byte("\x02\x00\x00\x00hi\x00")},
		Permissions: map[string][]string{"org.a.A": {"read", "write"}, "": {}},
	}
	put(t, s, "documents", "1", e)
	put(t, s, "documents", "2", Entry{Data: nothing})
	put(t, s, "devices", "1", Entry{Data: nothing})
	change(t, s, func(tx *Tx) error {
		was, err := tx.Delete("documents", "2")
		if !was {
			t.Error("the entry to delete was not there")
		}
		return err
	})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, Options{})
	got, ok := get(t, s, "documents", "1")
	if !ok || !reflect.DeepEqual(got, e) {
		t.Errorf("got %v, %v", got, ok)
	}
	if _, ok := get(t, s, "documents", "2"); ok {
		t.Error("the deleted entry is back")
	}
	if got := ids(t, s, "documents"); !slices.Equal(got, []string{"1"}) {
		t.Errorf("ids: %q", got)
	}
	if got := find(t, s, "documents", "app", "org.a.A"); !slices.Equal(got, []string{"1"}) {
		t.Errorf("ids of the app: %q", got)
	}
	if got := keys(t, s, "documents", "app"); !slices.Equal(got, []string{"", "org.a.A"}) {
		t.Errorf("apps: %q", got)
	}
	if got := collect(t, s, func(tx *Tx, yield func(string) bool) error { return tx.Tables(yield) }); !slices.Equal(got, []string{"devices", "documents"}) {
		t.Errorf("tables: %q", got)
	}
	for name, mode := range map[string]os.FileMode{"": 0o700, fileName: 0o600, lockName: 0o600} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%q: %v, %v", name, info, err)
		}
	}
}

func TestAFailingUpdateDropsItsOwnChangesOnly(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	put(t, s, "t", "kept", Entry{Data: nothing, Permissions: map[string][]string{"a": {"x"}}})
	boom := errors.New("boom")
	block := make(chan struct{})
	results := make(chan error, 3)
	started := make(chan struct{})
	go s.Update(context.Background(), func(*Tx) error { close(started); <-block; return nil })
	<-started
	queued := func(n int) {
		for {
			s.mu.Lock()
			ok := len(s.waiting) == n
			s.mu.Unlock()
			if ok {
				return
			}
		}
	}
	do := func(n int, fn func(*Tx) error) {
		go func() { results <- s.Update(context.Background(), fn) }()
		queued(n)
	}
	do(1, func(tx *Tx) error { return tx.Put("t", "first", Entry{Data: nothing}) })
	do(2, func(tx *Tx) error {
		if _, ok, _ := tx.Get("t", "first"); !ok {
			t.Error("does not see the update before it")
		}
		tx.Delete("t", "kept")
		tx.Put("t", "kept", Entry{Data: nothing, Permissions: map[string][]string{"b": {"x"}}})
		tx.Put("t", "other", Entry{Data: nothing})
		tx.Delete("t", "first")
		return boom
	})
	do(3, func(tx *Tx) error {
		if _, ok, _ := tx.Get("t", "other"); ok {
			t.Error("sees a dropped change")
		}
		return tx.Put("t", "third", Entry{Data: nothing})
	})
	close(block)
	failed := 0
	for range 3 {
		if err := <-results; err == boom {
			failed++
		} else if err != nil {
			t.Error(err)
		}
	}
	if failed != 1 {
		t.Errorf("%d updates failed", failed)
	}
	if got := ids(t, s, "t"); !slices.Equal(got, []string{"first", "kept", "third"}) {
		t.Errorf("ids: %q", got)
	}
	if got := keys(t, s, "t", "app"); !slices.Equal(got, []string{"a"}) {
		t.Errorf("apps: %q", got)
	}
}

func TestASecondOpenerIsRefusedAtOnce(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrInUse) {
		t.Fatalf("got %v", err)
	}
	s.Close()
	open(t, dir, Options{})
}

func TestManyTables(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	change(t, s, func(tx *Tx) error {
		for i := range 100 {
			if err := tx.Put(fmt.Sprint("t", i%7), fmt.Sprint(i), Entry{Data: nothing}); err != nil {
				return err
			}
		}
		return nil
	})
	if n := len(ids(t, s, "t3")); n != 14 {
		t.Errorf("%d ids", n)
	}
}

// TestSettled: what is written and not announced yet can be seen, and is said
// not to be settled.
func TestSettled(t *testing.T) {
	var s *Store
	settled := func(of *Store) (ok, there bool) {
		err := of.View(func(tx *Tx) (err error) {
			ok = tx.Settled()
			_, there, err = tx.Get("t", "a")
			return err
		})
		if err != nil {
			t.Error(err)
		}
		return ok, there
	}
	announced := false
	s = open(t, t.TempDir(), Options{Committed: func([]Change) {
		announced = true
		if ok, there := settled(s); ok || !there {
			t.Errorf("while it is announced: settled %v, there %v", ok, there)
		}
	}})
	if ok, there := settled(s); !ok || there {
		t.Errorf("before: settled %v, there %v", ok, there)
	}
	put(t, s, "t", "a", Entry{Data: nothing})
	put(t, s, "t", "b", Entry{Data: nothing}) // after which the first is done with
	change(t, s, func(*Tx) error { return nil })
	if ok, there := settled(s); !ok || !there || !announced {
		t.Errorf("afterwards: settled %v, there %v, announced %v", ok, there, announced)
	}
}
