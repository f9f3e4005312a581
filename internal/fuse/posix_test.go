package fuse

import (
	"os"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"
)

// TestPOSIX runs go-fuse's tests of POSIX rules on a directory document.
func TestPOSIX(t *testing.T) {
	leftOut := map[string]string{
		// go-fuse's own run leaves it out as well.
		"FcntlFlockLocksFile": "it expects a process to be kept out by its own POSIX lock, against fcntl(2)",
		"XAttrLarge":          "it needs a file system with larger attributes than ext4's block and skips itself elsewhere",
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
			r.dirDoc("d1")
			dir := r.in(testApp, "d1", "tree", "t")
			must(t, os.Mkdir(dir, 0o755))
			f(t, dir)
		})
	}
}
