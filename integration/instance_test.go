package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"docportal/integration/wire"
	"docportal/internal/keyfile"
)

// What desktop portals from 1.18 to 1.22 read of an app, in their order: the
// metadata in the root of the process on the bus, the report of bubblewrap in
// the directory that the metadata names, and the process that the report names,
// whose namespaces they take for the app's.
func TestWhatNewerPortalsRead(t *testing.T) {
	s := start(t)
	a, err := s.StartAppWith(appA, "--share=network")
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	inside := do(t, a, wire.Request{Op: "read", Path: "/.flatpak-info"}).Data
	f, err := keyfile.Parse([]byte(inside))
	if err != nil {
		t.Fatal(err)
	}
	value := func(group, key string) string {
		v, err := f.String(group, key)
		if err != nil {
			t.Errorf("[%s] %s: %v", group, key, err)
		}
		return v
	}
	if got := value("Application", "name"); got != appA {
		t.Errorf("name=%s", got)
	}
	if got := value("Context", "shared"); got != "network;" {
		t.Errorf("shared=%s", got)
	}
	value("Instance", "flatpak-version")
	for _, g := range f.Groups() {
		if g.Name == "Runtime" {
			t.Error("there is a group [Runtime], which would be taken for the app")
		}
		for _, e := range g.Entries() {
			if e.Key == "app-path" || e.Key == "runtime-path" || e.Key == "original-app-path" {
				t.Errorf("%s would give paths another meaning", e.Key)
			}
		}
	}
	dir := filepath.Join(s.Runtime, ".flatpak", value("Instance", "instance-id"))
	read := func(path string) []byte {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if got := read(filepath.Join(dir, "info")); string(got) != inside {
		t.Errorf("info is %q, the app has %q", got, inside)
	}
	report := read(filepath.Join(dir, "bwrapinfo.json"))
	var info map[string]any
	if err := json.Unmarshal(report, &info); err != nil { // also if there is more than one object
		t.Fatalf("bwrapinfo.json: %v: %q", err, report)
	}
	pid, ok := info["child-pid"].(float64)
	if !ok || pid <= 1 {
		t.Fatalf("child-pid: %v", info["child-pid"])
	}
	proc := fmt.Sprintf("/proc/%d", int(pid))
	if got := read(proc + "/root/.flatpak-info"); !bytes.Equal(got, []byte(inside)) {
		t.Errorf("in the root of child-pid there is %q", got)
	}
	// 1.18 takes the namespace from the report, later ones from the process.
	ns, err := os.Readlink(proc + "/ns/pid")
	if err != nil {
		t.Fatal(err)
	}
	own, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("pid:[%.0f]", info["pid-namespace"]); ns != want || ns == own {
		t.Errorf("child-pid is in %s, the report says %s, and this is %s", ns, want, own)
	}
}
