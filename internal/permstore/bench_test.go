package permstore

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
)

// filled makes a store with n documents of two apps each.
func filled(b testing.TB, dir string, n int) *Store {
	s := open(b, dir, Options{Indexes: crashIndexes()})
	for at := 0; at < n; at += 10_000 {
		change(b, s, func(tx *Tx) error {
			for i := at; i < min(n, at+10_000); i++ {
				e := Entry{Data: bytesOf(120), Permissions: map[string][]string{
					fmt.Sprint("org.example.App", i%50): {"read", "write"}, "org.example.Other": {"read"},
				}}
				if err := tx.Put("t", fmt.Sprintf("%032x", i), e); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return s
}

func setOne(s *Store, i, n int) error {
	return s.Update(context.Background(), func(tx *Tx) error {
		id := fmt.Sprintf("%032x", i*7919%n)
		e, _, err := tx.Get("t", id)
		if err != nil {
			return err
		}
		e.Permissions["org.example.App"] = []string{fmt.Sprint(i)}
		return tx.Put("t", id, e)
	})
}

var sizes = []int{10, 1000, 100_000}

func BenchmarkSetPermission(b *testing.B) {
	for _, n := range sizes {
		for _, clients := range []int{1, 32} {
			b.Run(fmt.Sprintf("ids=%d/clients=%d", n, clients), func(b *testing.B) {
				s := filled(b, b.TempDir(), n)
				var next atomic.Int64
				b.SetParallelism(clients)
				b.ResetTimer()
				if clients == 1 {
					for i := range b.N {
						must(b, setOne(s, i, n))
					}
					return
				}
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						if err := setOne(s, int(next.Add(1)), n); err != nil {
							b.Error(err)
						}
					}
				})
			})
		}
	}
}

func BenchmarkGet(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprintf("ids=%d", n), func(b *testing.B) {
			s := filled(b, b.TempDir(), n)
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				i++
				s.View(func(tx *Tx) error {
					_, ok, err := tx.Get("t", fmt.Sprintf("%032x", i%n))
					if !ok || err != nil {
						b.Fatal(ok, err)
					}
					return nil
				})
			}
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprintf("ids=%d", n), func(b *testing.B) {
			dir := b.TempDir()
			must(b, filled(b, dir, n).Close())
			if info, err := os.Stat(filepath.Join(dir, fileName)); err == nil {
				b.ReportMetric(float64(info.Size())/float64(n), "bytes/id")
			}
			for b.Loop() {
				s, err := Open(dir, Options{Indexes: crashIndexes()})
				if err != nil {
					b.Fatal(err)
				}
				s.Close()
			}
		})
	}
}
