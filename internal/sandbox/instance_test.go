package sandbox

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"docportal/internal/identity"
)

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

func TestInstanceIsBelievedByDocportal(t *testing.T) {
	runtimeDir := t.TempDir()
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	p := parseProfile(t, firefox)
	id := NewInstanceID()
	info := metadata(p, id)
	in, err := newInstance(filepath.Join(runtimeDir, ".flatpak"), id, info)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Remove()
	binds := []identity.Bind{{ReadOnly: true, Host: "/a", Sandbox: "/b"}, {Host: "/c", Sandbox: "/d"}}
	if err := in.writeBinds(binds); err != nil {
		t.Fatal(err)
	}
	got, err := identity.TrustedBinds(runtimeDir, id, info)
	if err != nil || !slices.Equal(got, binds) {
		t.Errorf("got %v, %v", got, err)
	}
	if want := []string{".ref", "binds", "info", "pid", "proxy"}; !slices.Equal(names(t, in.Dir), want) {
		t.Errorf("files %v, want %v", names(t, in.Dir), want)
	}
	for name, mode := range map[string]os.FileMode{"": 0o755, ".ref": 0o644} {
		if st, err := os.Stat(filepath.Join(in.Dir, name)); err != nil || st.Mode().Perm() != mode {
			t.Errorf("%q: %v %v, want %v", name, st.Mode(), err, mode)
		}
	}
	if err := in.check("info", info); err != nil {
		t.Error(err)
	}
	if err := in.check("info", append(info, '\n')); err == nil {
		t.Error("another text passed for info")
	}
	if err := in.check("bwrapinfo.json", nil); err == nil {
		t.Error("a missing file passed")
	}
}

func TestInstanceIDIsNeverTakenTwice(t *testing.T) {
	parent := filepath.Join(t.TempDir(), ".flatpak")
	id := NewInstanceID()
	if !identity.Ours(id) {
		t.Fatalf("%q is not an id of ours", id)
	}
	in, err := newInstance(parent, id, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Remove()
	if _, err := newInstance(parent, id, nil); err == nil {
		t.Error("made twice")
	}
	if got := names(t, parent); !slices.Equal(got, []string{id}) {
		t.Errorf("left %v", got)
	}
}

func TestInstanceParentMayNotBeALink(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink(t.TempDir(), filepath.Join(dir, ".flatpak")); err != nil {
		t.Fatal(err)
	}
	if _, err := newInstance(filepath.Join(dir, ".flatpak"), NewInstanceID(), nil); err == nil {
		t.Error("made behind a link")
	}
}

func TestCollectionTakesOnlyOurDeadInstances(t *testing.T) {
	parent := filepath.Join(t.TempDir(), ".flatpak")
	live, err := newInstance(parent, "sbx-00000001", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer live.Remove()
	dead, err := newInstance(parent, "sbx-00000002", nil)
	if err != nil {
		t.Fatal(err)
	}
	dead.ref.Close() // as if killed
	for _, dir := range []string{"123456", "sbx-0000000", "sbx-ABCDEF01", "sbx-00000003x", "other", ".new-sbx-00000004", ".new-sbx-00000005", ".new-flatpak"} {
		write(t, filepath.Join(parent, dir, ".ref"), "")
	}
	write(t, filepath.Join(parent, "sbx-00000006"), "a file")
	if err := os.Mkdir(filepath.Join(parent, "sbx-00000007"), 0o755); err != nil { // half removed
		t.Fatal(err)
	}
	long := time.Now().Add(-2 * staleAfter)
	for _, dir := range []string{".new-sbx-00000004", ".new-flatpak"} {
		if err := os.Chtimes(filepath.Join(parent, dir), long, long); err != nil {
			t.Fatal(err)
		}
	}
	collect(parent)
	want := []string{".new-flatpak", ".new-sbx-00000005", "123456", "other", "sbx-0000000", "sbx-00000001", "sbx-00000003x", "sbx-00000006", "sbx-ABCDEF01"}
	if got := names(t, parent); !slices.Equal(got, want) {
		t.Errorf("left %v\nwant %v", got, want)
	}
}

func TestCollectionEndsNobodyButBwrap(t *testing.T) {
	parent := t.TempDir()
	const id = "sbx-00000001"
	in, err := newInstance(parent, id, []byte("[Application]\n"))
	if err != nil {
		t.Fatal(err)
	}
	in.ref.Close() // whoever made it has ended
	f, err := memfd("info"+memfdMark+id, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	start := func(name string) *exec.Cmd {
		path := filepath.Join(t.TempDir(), name)
		data, err := os.ReadFile("/bin/sleep")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o755); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(path, "1000")
		cmd.Args[0] = "sleep" // as which a program of many applets knows itself
		cmd.ExtraFiles = []*os.File{f}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	other, waiting := start("other"), start("bwrap")
	collect(parent)
	other.Process.Signal(unix.SIGTERM)
	for cmd, want := range map[*exec.Cmd]unix.Signal{other: unix.SIGTERM, waiting: unix.SIGKILL} {
		cmd.Wait()
		if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); ws.Signal() != want {
			t.Errorf("%s ended by %v, want %v", cmd.Path, ws.Signal(), want)
		}
	}
	if got := names(t, parent); len(got) != 0 {
		t.Errorf("left %v", got)
	}
}
