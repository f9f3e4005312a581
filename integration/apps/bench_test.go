package apps

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// BenchmarkUpload compares what Firefox uploads of a file that it has as a
// document with a file that its sandbox shows it directly, in turns.
//
//	go test -run '^$' -bench Upload -benchtime 5x ./integration/apps
//
// With DOCPORTAL_PEER=1 it is the system's document portal that is measured.
func BenchmarkUpload(b *testing.B) {
	const size = 300 * megabyte
	d := start(b)
	asDocument, _ := d.file("Documents/big.iso", size)
	directly, _ := d.file("Direct/big.iso", size)
	f := d.firefox("--filesystem=~/Direct")
	d.must(f.Navigate(d.server.URL + "?" + Unsummed))
	rates := map[string][]float64{}
	upload := func(path string) {
		dialog := d.choose(f, "#choose-one")
		d.must(dialog.Path(path))
		d.must(dialog.Accept())
		u, err := d.server.next(5 * time.Minute)
		d.must(err)
		if len(u.Files) != 1 || u.Files[0].Size != size {
			d.Fatalf("the server got %+v", u.Files)
		}
		rates[path] = append(rates[path], size/1e6/u.Took.Seconds())
	}
	upload(asDocument) // the first of each fills the page cache
	upload(directly)
	clear(rates)
	for b.Loop() {
		upload(asDocument)
		upload(directly)
	}
	paths := d.documents(FirefoxID)
	// The peer does not know what the sandbox shows, and makes both documents.
	if os.Getenv("DOCPORTAL_PEER") == "" && !slices.Equal(paths, []string{asDocument}) {
		d.Fatalf("Firefox's documents are %q; only %s should be one", paths, asDocument)
	}
	for _, path := range []string{asDocument, directly} {
		slices.Sort(rates[path])
		b.ReportMetric(rates[path][len(rates[path])/2], filepath.Base(filepath.Dir(path))+"-MB/s")
		fmt.Printf("%s: %.0f MB/s\n", path, rates[path])
	}
	b.ReportMetric(rates[asDocument][len(rates[asDocument])/2]/rates[directly][len(rates[directly])/2], "ratio")
	b.ReportMetric(0, "ns/op")
	d.must(f.Quit())
}
