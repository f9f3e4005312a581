package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"docportal/internal/bus"
	"docportal/internal/permstore"
	"docportal/internal/testdisk"

	"golang.org/x/sys/unix"
)

func large() bus.Value {
	return bus.Value{Signature: "ay", Data: append([]byte{0x60, 0xea, 0, 0}, make([]byte, 60000)...)}
}

// A disk that gets full refuses changes with a clear error, has all that was
// acknowledged, and takes changes again when there is room.
func TestAFullDisk(t *testing.T) {
	if !testdisk.MayMount(t) {
		return
	}
	h := newHome(t)
	must(t, unix.Mount("tmpfs", h.data(), "tmpfs", 0, "size=2m,mode=0700"))
	defer unix.Unmount(h.data(), unix.MNT_DETACH)
	ballast := filepath.Join(h.data(), "ballast")
	must(t, os.WriteFile(ballast, make([]byte, 300<<10), 0o600))
	p := h.daemon()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	signals, err := h.conn.Subscribe(ctx, bus.Match{Interface: permstore.Name, Member: "Changed"})
	must(t, err)
	set := func(id string) error {
		return perm(h.conn, "Set", "sbsa{sas}v", []any{"t", true, id, map[string][]string{"org.a.A": {id}}, large()})
	}
	n := 0
	for ; ; n++ {
		if err = set(fmt.Sprint(n)); err != nil {
			break
		}
		<-signals.C
		if n > 100 {
			t.Fatal("the disk is never full")
		}
	}
	if errorName(err) != "Failed" || !strings.Contains(err.Error(), "no space left on device") {
		t.Errorf("the error is %v", err)
	}
	all := func(when string) {
		t.Helper()
		var ids []string
		must(t, perm(h.conn, "List", "s", []any{"t"}, &ids))
		if len(ids) != n {
			t.Errorf("%s: %d ids of %d", when, len(ids), n)
		}
		for i := range n {
			id := fmt.Sprint(i)
			var e entry
			must(t, perm(h.conn, "Lookup", "ss", []any{"t", id}, &e.Permissions, &e.Data))
			if !bytes.Equal(e.Data.Data, large().Data) || e.Permissions["org.a.A"][0] != id {
				t.Errorf("%s: %s is not what it was", when, id)
			}
		}
	}
	for range 3 {
		if err := set("more"); errorName(err) != "Failed" {
			t.Errorf("while full: %v", err)
		}
		all("while full")
	}
	f := filepath.Join(h.home(), "f")
	must(t, os.WriteFile(f, nil, 0o600))
	select {
	case <-signals.C:
		t.Error("a refused change is announced")
	default:
	}
	// The daemon that is killed and comes back on a full disk has it all.
	p.stop(syscall.SIGKILL)
	p = h.daemon()
	all("started again while full")
	must(t, os.Remove(ballast))
	must(t, set(fmt.Sprint(n)))
	n++
	all("with room")
	p.stop(syscall.SIGTERM)
	h.mustRun("check")
	h.daemon()
	all("at last")
	if n < 10 {
		t.Errorf("only %d entries fit", n)
	}
}

// faultyDisk puts the data of a home on a file system that fails on command.
func (h *home) faultyDisk() *testdisk.Disk {
	h.t.Helper()
	return testdisk.Mount(h.t, h.data(), filepath.Join(h.dir, "below"))
}

// A disk that fails, in any way, when a change is written or brought to the
// disk: the change is refused with a clear error and leaves no trace, what was
// acknowledged is there, and the next change is taken once the disk works.
func TestAFailingDisk(t *testing.T) {
	h := newHome(t)
	f := h.faultyDisk()
	p := h.daemon()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	signals, err := h.conn.Subscribe(ctx, bus.Match{Interface: permstore.Name, Member: "Changed"})
	must(t, err)
	set := func(id, word string) error {
		return perm(h.conn, "SetPermission", "sbssas", []any{"t", true, id, "org.a.A", []string{word}})
	}
	must(t, set("1", "first"))
	<-signals.C
	word := "first"
	check := func(when string) {
		t.Helper()
		var ids, words []string
		must(t, perm(h.conn, "List", "s", []any{"t"}, &ids))
		must(t, perm(h.conn, "GetPermission", "sss", []any{"t", "1", "org.a.A"}, &words))
		if strings.Join(ids, " ") != "1" || strings.Join(words, " ") != word {
			t.Errorf("%s: ids %v, %v; want %s", when, ids, words, word)
		}
	}
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EIO, syscall.EROFS} {
		for name, fault := range map[string]*atomic.Int32{"write": &f.Writing, "fsync": &f.Syncing} {
			when := fmt.Sprintf("%s: %v", name, errno)
			fault.Store(int32(errno))
			for range 2 {
				if err := set("1", "refused"); errorName(err) != "Failed" || !strings.Contains(err.Error(), errno.Error()) {
					t.Errorf("%s: the change: %v", when, err)
				}
				if err := set("2", "refused"); errorName(err) != "Failed" {
					t.Errorf("%s: a new entry: %v", when, err)
				}
				check(when)
			}
			select {
			case <-signals.C:
				t.Errorf("%s: a refused change is announced", when)
			default:
			}
			if errno == syscall.EIO { // and after a kill in this state
				p.stop(syscall.SIGKILL)
				fault.Store(0)
				p = h.daemon()
				check(when + ", after a kill")
			}
			fault.Store(0)
			word = when
			must(t, set("1", word))
			<-signals.C
			check(when + ", mended")
		}
	}
	p.stop(syscall.SIGTERM)
	h.mustRun("check")
	p = h.daemon()
	check("at last")
	p.stop(syscall.SIGTERM)
}

// A home on a slow disk: the mount point is told while flatpak's database is
// still being read; who asks for what is in it waits and gets it whole.
func TestTheMountPointDoesNotWaitForTheImport(t *testing.T) {
	h := newHome(t)
	f := h.faultyDisk()
	want := usualTables(t, h.flatpak())
	release := make(chan struct{})
	f.Hold(release)
	p := h.daemon()
	if _, err := os.Stat(mountPoint(t, h.conn)); err != nil {
		t.Error(err)
	}
	answered := make(chan error, 1)
	var ids []string
	go func() { answered <- perm(h.dial(), "List", "s", []any{"documents"}, &ids) }()
	mountPoint(t, h.conn)
	select {
	case err := <-answered:
		t.Errorf("List did not wait: %d ids, %v", len(ids), err)
	default:
	}
	close(release)
	if err := <-answered; err != nil || len(ids) != len(want["documents"]) {
		t.Errorf("List: %d ids, %v", len(ids), err)
	}
	compare(t, h.conn, want, nil)
	p.stop(syscall.SIGTERM)
}

// Documents whose file is gone for good are collected, by command, with or
// without a daemon; those of a volume that is not mounted are not.
func TestPruneAndVolumes(t *testing.T) {
	if !testdisk.MayMount(t) {
		return
	}
	h := newHome(t)
	volume := filepath.Join(h.home(), "volume")
	must(t, os.Mkdir(volume, 0o700))
	must(t, os.WriteFile(filepath.Join(h.home(), "more"), nil, 0o600))
	// The volume lives where the namespace sees it still when it is not in place.
	away := filepath.Join(h.dir, "away")
	must(t, os.Mkdir(away, 0o700))
	must(t, unix.Mount("tmpfs", away, "tmpfs", 0, "mode=0700"))
	defer unix.Unmount(away, unix.MNT_DETACH)
	insert := func() { t.Helper(); must(t, unix.Mount(away, volume, "", unix.MS_BIND, "")) }
	remove := func() { t.Helper(); must(t, unix.Unmount(volume, 0)) }
	insert()
	must(t, os.Mkdir(filepath.Join(volume, "dir"), 0o700))
	var paths []string
	for _, name := range []string{"volume/a", "volume/b", "volume/dir/c", "home", "lost"} {
		f := filepath.Join(h.home(), name)
		must(t, os.WriteFile(f, nil, 0o600))
		paths = append(paths, f)
	}
	entries := make(map[string]entry)
	for _, f := range paths {
		var st syscall.Stat_t
		must(t, syscall.Stat(filepath.Dir(f), &st))
		entries[filepath.Base(f)] = entry{Data: legacyDocument(f, uint64(st.Dev), st.Ino, 0), Permissions: map[string][]string{"org.a.A": {"read"}}}
	}
	tables{"documents": entries}.write(t, filepath.Join(h.dir, "from"))
	h.mustRun("import", filepath.Join(h.dir, "from"))
	remaining := func() string {
		t.Helper()
		p := h.daemon()
		defer p.stop(syscall.SIGTERM)
		var ids []string
		must(t, perm(h.conn, "List", "s", []any{"documents"}, &ids))
		return strings.Join(ids, " ")
	}
	prune := func(when, want string, args ...string) {
		t.Helper()
		out := h.mustRun(append([]string{"prune"}, args...)...)
		var got []string
		for line := range strings.Lines(out) {
			if w := strings.Fields(line); len(w) > 2 && (w[0] == "removed" || w[0] == "would") {
				id := strings.TrimPrefix(strings.TrimPrefix(line, "removed "), "would remove ")
				got = append(got, strings.Fields(id)[0])
				if !strings.Contains(line, ": ") {
					t.Errorf("%s: no reason: %q", when, line)
				}
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %q is gone, want %q\n%s", when, got, want, out)
		}
	}
	prune("all there", "")
	must(t, os.Remove(paths[4]))
	must(t, os.Remove(paths[1]))
	remove()
	prune("volume not mounted, dry", "lost", "--dry-run")
	if got := remaining(); got != "a b c home lost" {
		t.Errorf("after a dry run: %s", got)
	}
	prune("volume not mounted", "lost")
	// Somebody has put a file into the empty mountpoint: its file system is
	// still not the volume's.
	must(t, os.WriteFile(filepath.Join(volume, "stray"), nil, 0o600))
	prune("volume not mounted, mountpoint not empty", "")
	must(t, os.Remove(filepath.Join(volume, "stray")))
	insert()
	p := h.daemon()
	prune("volume mounted again", "b") // through the daemon
	p.stop(syscall.SIGTERM)
	must(t, os.RemoveAll(filepath.Join(volume, "dir")))
	if got := remaining(); got != "a c home" {
		t.Errorf("left: %s", got)
	}
	remove()
	if _, err := os.Stat(paths[0]); !errors.Is(err, os.ErrNotExist) {
		t.Fatal("the volume is still there")
	}
	h.mustRun("check")
}
