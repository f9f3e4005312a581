package fuse

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"
)

// TestPOSIX runs go-fuse's tests of POSIX rules on a directory document.
func TestPOSIX(t *testing.T) {
	leftOut := map[string]string{
		// go-fuse's own run leaves it out as well.
		"FcntlFlockLocksFile": "it expects a process to be kept out by its own POSIX lock, against fcntl(2)",
	}
	if !long() {
		leftOut["OpenSymlinkRace"] = "it takes long; TestAttackers asks the same. DOCPORTAL_LONG=1 runs it"
	}
	for name, f := range posixtest.All {
		if leftOut[name] != "" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			tree := r.dirDoc("d1")
			if name == "XAttrLarge" { // larger than a block, which is too large for ext4
				var err error
				tree, err = os.MkdirTemp("/dev/shm", "tree")
				must(t, err)
				t.Cleanup(func() { os.RemoveAll(tree) })
				r.docs.add(t, "d1", tree)
			}
			dir := r.in(testApp, "d1", filepath.Base(tree), "t")
			must(t, os.Mkdir(dir, 0o755))
			f(t, dir)
		})
	}
}
