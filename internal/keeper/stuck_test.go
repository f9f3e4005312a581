package keeper

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"docportal/internal/testdisk"
)

// TestWaitsForFUSE: a process that waits for a disk which is nobody's program is
// told from one that waits for somebody's.
func TestWaitsForFUSE(t *testing.T) {
	dir := t.TempDir()
	place := filepath.Join(dir, "disk")
	if err := os.Mkdir(place, 0o700); err != nil {
		t.Fatal(err)
	}
	disk := testdisk.Mount(t, place, filepath.Join(dir, "below"))
	f := filepath.Join(place, "f")
	if err := os.WriteFile(f, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	start := func(args ...string) int {
		t.Helper()
		cmd := exec.Command("cat", args...)
		if _, err := cmd.StdinPipe(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			cmd.Process.Kill()
			disk.Go()
			cmd.Wait()
		})
		return cmd.Process.Pid
	}
	eventually := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("not in time: ", what)
			}
		}
	}
	pipe := start()
	eventually("it waits elsewhere", func() bool { return !waitsForFUSE(pipe) })
	disk.Stop()
	file := start(f)
	eventually("the disk is asked", func() bool { return disk.Waiting() > 0 })
	eventually("it waits for the disk", func() bool { return waitsForFUSE(file) })
	if waitsForFUSE(pipe) {
		t.Error("one that waits elsewhere is said to wait for the disk")
	}
	if !waitsForFUSE(1 << 30) {
		t.Error("where nothing is told it may be")
	}
}
