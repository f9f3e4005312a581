package sandbox

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestProxySocketMustBeServedByTheProxy(t *testing.T) {
	h := testHost(t)
	pl := mustPlan(t, h, "")
	dir := filepath.Join(h.instances(), pl.Instance, "proxy")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir) // the whole path may be too long for a socket
	l, err := net.Listen("unix", "session")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	pid, err := listener(filepath.Join(dir, "session"))
	if err != nil || pid != os.Getpid() {
		t.Errorf("listener %d, %v, want %d", pid, err, os.Getpid())
	}
	other := &proxyPart{part: &part{child: os.Getppid()}}
	if err := other.check(pl); err == nil || !strings.Contains(err.Error(), "not by the proxy") {
		t.Errorf("another process passed for the proxy: %v", err)
	}
	// The right process, but it looks like the host.
	host := &proxyPart{part: &part{child: os.Getpid()}}
	if err := host.check(pl); err == nil || !strings.Contains(err.Error(), "taken for the host") {
		t.Errorf("the host passed for the proxy: %v", err)
	}
}

func TestExchangedDirectoryIsNoticed(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"opened", "root/a", "root/b"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("a", filepath.Join(dir, "root/link")); err != nil {
		t.Fatal(err)
	}
	root, err := unix.Open(filepath.Join(dir, "root"), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(root)
	open := func(path string) *os.File {
		f, err := openBeneath(dir, path, unix.O_PATH)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	for _, c := range []struct {
		name   string
		mounts []Mount
		ok     bool
	}{
		{"same", []Mount{{Dest: "/a", file: open("root/a")}}, true},
		{"other", []Mount{{Dest: "/a", file: open("opened")}}, false},
		{"one of two", []Mount{{Dest: "/a", file: open("root/a")}, {Dest: "/b", file: open("opened")}}, false},
		{"missing", []Mount{{Dest: "/none", file: open("opened")}}, false},
		{"link", []Mount{{Dest: "/link", file: open("root/a")}}, false},
		{"covered by a later one", []Mount{{Dest: "/a", file: open("opened")}, {Dest: "/", Kind: Tmpfs}}, true},
	} {
		if err := compareMounts(root, c.mounts); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestChildPIDInBwrapsReport(t *testing.T) {
	for _, c := range []struct {
		report string
		pid    int
	}{
		{"{\n    \"child-pid\": 4711\n}\n", 4711},
		{"{\"child-pid\":12,\"mnt-namespace\":1}", 12},
		{"{}", 0}, {"", 0}, {"{\"child-pid\": x}", 0}, {"{\"child-pid\": 1}", 0}, {"{\"child-pid\": 99999999999999999999}", 0},
	} {
		if pid, err := childPID([]byte(c.report)); pid != c.pid && err == nil || (err == nil) != (c.pid != 0) {
			t.Errorf("%q: %d, %v", c.report, pid, err)
		}
	}
}

func TestDocumentsAreAskedForTwoSecondsAtMost(t *testing.T) {
	pl := mustPlan(t, testHost(t), "")
	mount := t.TempDir()
	if err := os.MkdirAll(filepath.Join(mount, "by-app/org.example.App"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		answer func(context.Context) (string, error)
		ok     bool
	}{
		{"answers", func(context.Context) (string, error) { return mount, nil }, true},
		{"nonsense", func(context.Context) (string, error) { return "relative", nil }, false},
		{"no view", func(context.Context) (string, error) { return t.TempDir(), nil }, false},
		{"never", func(ctx context.Context) (string, error) { <-ctx.Done(); return "", ctx.Err() }, false},
	} {
		s := &Starter{Documents: c.answer}
		v, err := s.documents(context.Background(), pl)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
		if v != nil {
			if err := pl.addDocuments(v.mount, v.file); err != nil {
				t.Error(err)
			}
		}
	}
	for _, dest := range []string{filepath.Join(pl.Host.RuntimeDir, "doc"), "/run/flatpak/doc"} {
		if m := pl.shows(dest); m.Source != filepath.Join(mount, "by-app/org.example.App") || m.Kind != Bind {
			t.Errorf("%s shows %+v", dest, m)
		}
	}
}
