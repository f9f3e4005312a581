package fuse

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"docportal/internal/testdisk"
)

// TestAHungDiskKeepsNoTempFilesOfOthers: what nobody uses any more is removed, also
// while there is such a file on a disk that does not answer.
func TestAHungDiskKeepsNoTempFilesOfOthers(t *testing.T) {
	r := newRig(t)
	r.view.fs.temps.grace = 100 * time.Millisecond
	disk := testdisk.Mount(t, r.dir("disk"), filepath.Join(r.host, "below"))
	file := filepath.Join(r.host, "disk", "file.txt")
	must(t, os.WriteFile(file, []byte("file"), 0o600))
	r.docs.add(t, "f1", file)
	r.docs.grant(testApp, "f1", Access{Read: true, Write: true})
	well := filepath.Dir(r.fileDoc("well", "well"))
	forget := func(doc string) {
		nodes := r.view.fs.nodes
		var names []entry
		nodes.mu.Lock()
		for n := range nodes.views[viewKey{testApp, doc}].nodes {
			names = append(names, entry{n.parent.id, n.name})
		}
		nodes.mu.Unlock()
		for _, e := range names {
			r.view.heralds.entry(e.parent, e.name)
		}
	}
	must(t, os.WriteFile(r.in(testApp, "f1", "temp"), nil, 0o600))
	wantContent(t, r.in(testApp, "well", "file.txt"), "well")
	forget("well") // by who is ready for the next notices, then
	disk.Stop()
	defer disk.Go()
	forget("f1")
	for range 3 { // views are swept in no order: a round may come to the hung one last
		must(t, os.WriteFile(r.in(testApp, "well", "temp"), nil, 0o600))
		forget("well")
		eventually(t, "the temp file is removed", func() bool { return len(names(t, well)) == 1 })
	}
}
