package fuse

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// BenchmarkView compares the view with the files that it shows.
func BenchmarkView(b *testing.B) {
	r := newRig(b)
	tree := r.dirDoc("d1")
	const files = 200
	for i := range files {
		must(b, os.WriteFile(filepath.Join(tree, fmt.Sprint(i)), make([]byte, 4096), 0o600))
	}
	must(b, os.WriteFile(filepath.Join(tree, "large"), make([]byte, 16<<20), 0o600))
	must(b, os.Mkdir(filepath.Join(tree, "many"), 0o700))
	for i := range 10_000 {
		must(b, os.WriteFile(filepath.Join(tree, "many", fmt.Sprintf("file%05d", i)), nil, 0o600))
	}
	for _, where := range []struct{ name, dir string }{{"host", tree}, {"view", r.in(testApp, "d1", "tree")}} {
		at := func(i int) string { return filepath.Join(where.dir, fmt.Sprint(i%files)) }
		for _, op := range []struct {
			name string
			do   func(i int) error
		}{
			{"stat", func(i int) error { _, err := os.Lstat(at(i)); return err }},
			{"open", func(i int) error { return openAndClose(at(i)) }},
			{"read4k", func(i int) error { _, err := os.ReadFile(at(i)); return err }},
			{"read16M", func(i int) error { _, err := os.ReadFile(filepath.Join(where.dir, "large")); return err }},
			{"write4k", func(i int) error { return os.WriteFile(at(i), make([]byte, 4096), 0o600) }},
			{"readdir10000", func(i int) error { _, err := os.ReadDir(filepath.Join(where.dir, "many")); return err }},
			{"readdir", func(i int) error { _, err := os.ReadDir(where.dir); return err }},
		} {
			b.Run(where.name+"/"+op.name, func(b *testing.B) {
				for i := 0; b.Loop(); i++ {
					if err := op.do(i); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func openAndClose(p string) error {
	f, err := os.Open(p)
	if err != nil {
		return err
	}
	return f.Close()
}
