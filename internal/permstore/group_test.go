package permstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// Updates that wait while one is being written share the next transaction.
func TestWaitingUpdatesShareATransaction(t *testing.T) {
	const updates = 200
	s := open(t, t.TempDir(), Options{})
	var commits, events int
	s.Subscribe(func(c []Change) { commits++; events += len(c) })
	before := s.file.db.Stats()
	hold, started := make(chan struct{}), make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		s.Update(context.Background(), func(*Tx) error { close(started); <-hold; return nil })
	})
	<-started
	for i := range updates {
		all.Go(func() {
			if err := s.Update(context.Background(), func(tx *Tx) error {
				return tx.Put("t", fmt.Sprint(i), Entry{Data: nothing})
			}); err != nil {
				t.Error(err)
			}
			// What was acknowledged is to be seen.
			if _, ok := get(t, s, "t", fmt.Sprint(i)); !ok {
				t.Errorf("update %d is not there", i)
			}
		})
	}
	for waiting := 0; waiting < updates; {
		s.mu.Lock()
		waiting = len(s.waiting)
		s.mu.Unlock()
	}
	close(hold)
	all.Wait()
	if commits != 1 || events != updates {
		t.Errorf("%d commits with %d changes", commits, events)
	}
	after := s.file.db.Stats()
	if n := after.TxStats.Sub(&before.TxStats); n.GetWrite() > 30 {
		t.Errorf("%d pages written", n.GetWrite())
	}
}

// A context withdraws an update that has not begun, and no other.
func TestAnUpdateIsWithdrawnOrDone(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	hold, started := make(chan struct{}), make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	first, second := make(chan error, 1), make(chan error, 1)
	go func() {
		first <- s.Update(ctx, func(tx *Tx) error { close(started); <-hold; return tx.Put("t", "1", Entry{Data: nothing}) })
	}()
	<-started
	go func() {
		second <- s.Update(ctx, func(tx *Tx) error { return tx.Put("t", "2", Entry{Data: nothing}) })
	}()
	for waiting := 0; waiting < 1; {
		s.mu.Lock()
		waiting = len(s.waiting)
		s.mu.Unlock()
	}
	cancel()
	if err := <-second; !errors.Is(err, context.Canceled) {
		t.Errorf("the second update: %v", err)
	}
	close(hold)
	if err := <-first; err != nil {
		t.Errorf("the first update: %v", err)
	}
	if got := ids(t, s, "t"); len(got) != 1 || got[0] != "1" {
		t.Errorf("ids: %q", got)
	}
}

// A mistake in an update's function is its caller's.
func TestAPanicInAnUpdateIsTheCallers(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	func() {
		defer func() {
			if r := recover(); r != "mistake" {
				t.Errorf("recovered %v", r)
			}
		}()
		s.Update(context.Background(), func(tx *Tx) error {
			tx.Put("t", "1", Entry{Data: nothing})
			panic("mistake")
		})
	}()
	put(t, s, "t", "2", Entry{Data: nothing})
	if got := ids(t, s, "t"); len(got) != 1 || got[0] != "2" {
		t.Errorf("ids: %q", got)
	}
}

// A transaction is of no use outside of its function, nor a view for changes.
func TestTransactionsEnd(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	var kept *Tx
	change(t, s, func(tx *Tx) error { kept = tx; return nil })
	if err := kept.Put("t", "1", Entry{Data: nothing}); !errors.Is(err, ErrClosed) {
		t.Errorf("Put after Update: %v", err)
	}
	must(t, s.View(func(tx *Tx) error {
		kept = tx
		if err := tx.Put("t", "1", Entry{Data: nothing}); !errors.Is(err, ErrReadOnly) {
			t.Errorf("Put in View: %v", err)
		}
		if _, err := tx.Delete("t", "1"); !errors.Is(err, ErrReadOnly) {
			t.Errorf("Delete in View: %v", err)
		}
		return nil
	}))
	if _, _, err := kept.Get("t", "1"); !errors.Is(err, ErrClosed) {
		t.Errorf("Get after View: %v", err)
	}
	must(t, s.Close())
	if err := s.View(func(*Tx) error { return nil }); !errors.Is(err, ErrClosed) {
		t.Errorf("View after Close: %v", err)
	}
	if err := s.Update(context.Background(), func(*Tx) error { return nil }); !errors.Is(err, ErrClosed) {
		t.Errorf("Update after Close: %v", err)
	}
	must(t, s.Close())
}

// A view sees one state, whatever is committed meanwhile, and nobody waits for it.
func TestAViewIsOfOneState(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	put(t, s, "t", "1", Entry{Data: nothing})
	must(t, s.View(func(tx *Tx) error {
		for i := range 50 { // and the file grows
			put(t, s, "t", fmt.Sprint("more ", i), big(60_000))
		}
		n := 0
		err := tx.IDs("t", func(string) bool { n++; return true })
		if n != 1 {
			t.Errorf("%d ids", n)
		}
		return err
	}))
}

// When the machine stops while a transaction is written, the state is the one
// before it, or the new one: bbolt writes the pages, then the meta page. Here
// they stop at each page, and in the middle of it.
func TestWritesCutShortAtEachPage(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, fileName)
	s := open(t, dir, Options{})
	all := many(t, s, 300)
	before, err := os.ReadFile(path)
	must(t, err)
	change(t, s, func(tx *Tx) error {
		n := 0
		for id := range all {
			if n++; n%3 == 0 {
				if _, err := tx.Delete("documents", id); err != nil {
					return err
				}
			}
		}
		return nil
	})
	after, err := os.ReadFile(path)
	must(t, err)
	must(t, s.Close())
	size := os.Getpagesize()
	old, _, _, _ := findMeta(bytes.NewReader(before))
	now, _, _, _ := findMeta(bytes.NewReader(after))
	if now.txid != old.txid+1 {
		t.Fatal("not one transaction")
	}
	var changed []int
	grown := append(bytes.Clone(before), make([]byte, len(after)-len(before))...)
	for p := 2; p*size < len(after); p++ {
		if !bytes.Equal(grown[p*size:(p+1)*size], after[p*size:(p+1)*size]) {
			changed = append(changed, p)
		}
	}
	changed = append(changed, now.slot) // last
	try := func(what string, file []byte, wantOld, wantNew bool) {
		d := t.TempDir()
		must(t, os.WriteFile(filepath.Join(d, fileName), file, 0o600))
		s := open(t, d, Options{})
		<-s.checked
		n := len(ids(t, s, "documents"))
		if isOld, isNew := n == len(all), n == len(all)-len(all)/3; !(isOld && wantOld || isNew && wantNew) {
			t.Errorf("%s: %d entries", what, n)
		}
		missing(t, s, all)
		must(t, s.Close())
		clean(t, d)
	}
	state := grown
	for i, p := range changed {
		last := i == len(changed)-1
		for _, n := range []int{512, size / 2} {
			part := bytes.Clone(state)
			copy(part[p*size:], after[p*size:p*size+n])
			try(fmt.Sprintf("page %d of %d, %d bytes", i, len(changed), n), part, !last, last)
		}
		copy(state[p*size:(p+1)*size], after[p*size:(p+1)*size])
		try(fmt.Sprintf("page %d of %d", i, len(changed)), state, !last, last)
	}
	// A meta page of which only a part was written is of either state.
	torn := bytes.Clone(state)
	copy(torn[now.slot*size:(now.slot+1)*size], before[now.slot*size:(now.slot+1)*size])
	copy(torn[now.slot*size:], after[now.slot*size:now.slot*size+40])
	try("torn meta page", torn, true, true)
}
