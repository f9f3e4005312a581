package documents

import (
	"context"
	"fmt"
	"testing"
)

// BenchmarkRemember is what a server that dies adds to the start of the next one
// if it has 100 000 transient documents.
func BenchmarkRemember(b *testing.B) {
	k := &keeping{t: b}
	s, _, err := k.service(nil)
	if err != nil {
		b.Fatal(err)
	}
	for i := range 1000 {
		some := make([]placed, 100)
		for j := range some {
			some[j] = placed{rec: record{path: fmt.Sprintf("/home/user/Pictures/%d/picture %d.jpeg", i, j), dev: 1, ino: uint64(i), handle: "\x01\x00\x00\x0012345678", fsid: 7, flags: flagTransient}, grants: []permission{{appA, permRead}}}
		}
		if _, err := s.place(context.Background(), some); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(s.memo.file.size)
	b.ResetTimer()
	for range b.N {
		next, n, err := k.service(k.taken())
		if err != nil || n != 100_000 {
			b.Fatal(n, err)
		}
		next.memo.file.drop()
	}
}
