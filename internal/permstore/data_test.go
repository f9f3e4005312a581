package permstore

import (
	"context"
	"fmt"
	"testing"

	"docportal/internal/bus"
)

// TestDataIsWhatGetSays: the data of all entries of a table, in their order,
// and of no other table.
func TestDataIsWhatGetSays(t *testing.T) {
	s, err := Open(t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const n = 3*maxAtOnce + 7
	err = s.Update(context.Background(), func(tx *Tx) error {
		for i := range n {
			e := Entry{Data: bus.Value{Signature: "ay", Data: []byte{1, 0, 0, 0, byte(i)}}, Permissions: map[string][]string{"a": {"b"}}}
			if err := tx.Put("table", fmt.Sprintf("%06d", i), e); err != nil {
				return err
			}
		}
		return tx.Put("tablf", "x", Entry{Data: bus.Value{Signature: "y", Data: []byte{1}}})
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, stop := range []int{1, maxAtOnce, maxAtOnce + 1, n, n + 1} {
		got := 0
		err := s.View(func(tx *Tx) error {
			return tx.Data("table", func(id, sig, data []byte) bool {
				e, ok, err := tx.Get("table", string(id))
				if !ok || err != nil || e.Data.Signature != string(sig) || string(e.Data.Data) != string(data) || string(id) != fmt.Sprintf("%06d", got) {
					t.Fatalf("%s: %q %x, %v %v", id, sig, data, ok, err)
				}
				got++
				return got != stop
			})
		})
		if err != nil || got != min(stop, n) {
			t.Errorf("%d of %d: %v", got, stop, err)
		}
	}
	if err := s.View(func(tx *Tx) error {
		return tx.Data("none", func(_, _, _ []byte) bool { t.Error("an entry of no table"); return true })
	}); err != nil {
		t.Error(err)
	}
}
