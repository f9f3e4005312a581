package permstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"testing"

	"docportal/internal/bus"
	"pgregory.net/rapid"
)

// byData finds entries of the table "b" by the bytes of their data, each by itself.
func byData(id string, e Entry) [][]byte {
	var keys [][]byte
	for i := range e.Data.Data {
		keys = append(keys, e.Data.Data[i:i+1])
	}
	return append(keys, []byte(id))
}

// The store behaves as maps do, restarts included.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp("", "permstore")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		var events []Change
		o := Options{
			Indexes:   []Index{{Table: "b", Name: "data", Keys: byData}},
			Committed: func(c []Change) { events = append(events, c...) },
		}
		s, err := Open(dir, o)
		if err != nil {
			rt.Fatal(err)
		}
		defer func() { s.Close() }()
		model := map[[2]string]Entry{}
		tables := rapid.SampledFrom([]string{"a", "b", "b\x01", "ab"})
		someIDs := rapid.SampledFrom([]string{"1", "2", "11", "é", "a/b", "\xc2\x80", "."})
		apps := rapid.SampledFrom([]string{"", "org.a", "org.a.b", "snap.x"})
		words := rapid.SliceOfN(rapid.SampledFrom([]string{"read", "write", ""}), 0, 3)
		data := rapid.Custom(func(t *rapid.T) bus.Value {
			b := rapid.SliceOfN(rapid.SampledFrom([]byte{0, 1, 0xff, 'a'}), 0, 4).Draw(t, "data")
			return bus.Value{Signature: "ay", Data: append([]byte{byte(len(b)), 0, 0, 0}, b...)}
		})
		compare := func(rt *rapid.T, tx *Tx, model map[[2]string]Entry) {
			for _, table := range []string{"a", "b", "b\x01", "ab", "none"} {
				var want, got []string
				index := map[string][]string{}
				app := map[string][]string{}
				for k, e := range model {
					if k[0] != table {
						continue
					}
					want = append(want, k[1])
					for a := range e.Permissions {
						app[a] = append(app[a], k[1])
					}
					if table == "b" {
						seen := map[string]bool{}
						for _, key := range byData(k[1], e) {
							if !seen[string(key)] {
								index[string(key)] = append(index[string(key)], k[1])
							}
							seen[string(key)] = true
						}
					}
					if e2, ok, err := tx.Get(table, k[1]); err != nil || !ok || !reflect.DeepEqual(e, e2) {
						rt.Fatalf("Get(%q, %q): %v, %v, %v; want %v", table, k[1], e2, ok, err, e)
					}
				}
				slices.Sort(want)
				if err := tx.IDs(table, func(id string) bool { got = append(got, id); return true }); err != nil {
					rt.Fatal(err)
				}
				if !slices.Equal(got, want) {
					rt.Fatalf("IDs(%q): %q, want %q", table, got, want)
				}
				for name, want := range map[string]map[string][]string{"app": app, "data": index} {
					var got []string
					if err := tx.Keys(table, name, func(k []byte) bool { got = append(got, string(k)); return true }); err != nil {
						rt.Fatal(err)
					}
					if keys := slices.Sorted(maps.Keys(want)); !slices.Equal(got, keys) {
						rt.Fatalf("Keys(%q, %q): %q, want %q", table, name, got, keys)
					}
					for key, ids := range want {
						slices.Sort(ids)
						var got []string
						if err := tx.Find(table, name, []byte(key), func(id string) bool { got = append(got, id); return true }); err != nil {
							rt.Fatal(err)
						}
						if !slices.Equal(got, ids) {
							rt.Fatalf("Find(%q, %q, %q): %q, want %q", table, name, key, got, ids)
						}
					}
				}
			}
		}
		boom := errors.New("boom")
		rt.Repeat(map[string]func(*rapid.T){
			"update": func(rt *rapid.T) {
				fail := rapid.IntRange(0, 3).Draw(rt, "fail") == 0
				next := maps.Clone(model)
				var want []Change
				events = nil
				steps := rapid.IntRange(1, 6).Draw(rt, "steps")
				err := s.Update(context.Background(), func(tx *Tx) error {
					for range steps {
						table, id := tables.Draw(rt, "table"), someIDs.Draw(rt, "id")
						old, was := next[[2]string{table, id}]
						c := Change{Table: table, ID: id}
						if was {
							c.Old = &old
						}
						if rapid.Bool().Draw(rt, "delete") {
							got, err := tx.Delete(table, id)
							if err != nil || got != was {
								rt.Fatalf("Delete: %v, %v, want %v", got, err, was)
							}
							if was {
								want = append(want, c)
							}
							delete(next, [2]string{table, id})
						} else {
							e := Entry{Data: data.Draw(rt, "value"), Permissions: map[string][]string{}}
							for a, w := range rapid.MapOfN(apps, words, 0, 3).Draw(rt, "permissions") {
								e.Permissions[a] = append([]string{}, w...)
							}
							if err := tx.Put(table, id, e); err != nil {
								rt.Fatal(err)
							}
							c.New = &e
							want = append(want, c)
							next[[2]string{table, id}] = e
						}
					}
					compare(rt, tx, next)
					if fail {
						return boom
					}
					return nil
				})
				if fail {
					if err != boom {
						rt.Fatalf("got %v", err)
					}
					want = nil
				} else if err != nil {
					rt.Fatal(err)
				} else {
					model = next
				}
				if len(events)+len(want) > 0 && !reflect.DeepEqual(events, want) {
					rt.Fatalf("events %v, want %v", events, want)
				}
			},
			"reopen": func(rt *rapid.T) {
				if err := s.Close(); err != nil {
					rt.Fatal(err)
				}
				r, err := Check(dir, o.Indexes)
				if err != nil || len(r.Problems) > 0 || r.Entries != len(model) {
					rt.Fatalf("Check: %v, %v", r, err)
				}
				if s, err = Open(dir, o); err != nil {
					rt.Fatal(err)
				}
			},
			"": func(rt *rapid.T) {
				if err := s.View(func(tx *Tx) error { compare(rt, tx, model); return nil }); err != nil {
					rt.Fatal(err)
				}
			},
		})
	})
}

// In Update, what an iteration yields may be changed at once, and what is added
// further on is met.
func TestIterationInUpdateAllowsChanges(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	const n = 2000
	e := Entry{Data: nothing, Permissions: map[string][]string{"a": {}}}
	change(t, s, func(tx *Tx) error {
		for i := range n {
			if err := tx.Put("t", fmt.Sprintf("%05d", i), e); err != nil {
				return err
			}
		}
		return nil
	})
	var seen, want []string
	for i := range n {
		id := fmt.Sprintf("%05d", i)
		if want = append(want, id); i%2 == 0 {
			want = append(want, id+"b")
		}
	}
	change(t, s, func(tx *Tx) error {
		var failed error
		err := tx.IDs("t", func(id string) bool {
			i := len(id) - 1
			if seen = append(seen, id); id[i] != 'b' && id[i]%2 == 0 {
				// One behind, which is not met, and one right after.
				failed = errors.Join(failed, tx.Put("t", id[:i], e), tx.Put("t", id+"b", e))
			}
			_, err := tx.Delete("t", id)
			failed = errors.Join(failed, err)
			return true
		})
		return errors.Join(err, failed)
	})
	if !slices.Equal(seen, want) {
		t.Errorf("saw %d ids, want %d", len(seen), len(want))
	}
	if left := ids(t, s, "t"); len(left) != n/10 {
		t.Errorf("%d ids left", len(left))
	}
	if left := find(t, s, "t", "app", "a"); len(left) != n/10 {
		t.Errorf("%d index rows left", len(left))
	}
}
