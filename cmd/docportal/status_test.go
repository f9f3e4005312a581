package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"docportal/internal/permstore"
)

// TestStatus: a running instance says how it is; none is started for the
// question.
func TestStatus(t *testing.T) {
	s := newSession(t)
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", s.bus.Address)
	var out, errs bytes.Buffer
	if code := askPortal(context.Background(), &statusCommand{}, &out, &errs); code != exitNobody || !strings.Contains(errs.String(), "not running") {
		t.Errorf("nobody runs: %d, %s", code, errs.String())
	}
	p := s.start(s.bus)
	s.owner(s.conn, permstore.Name, 0) // or the bus starts another
	f := filepath.Join(s.dir, "f")
	os.WriteFile(f, []byte("text"), 0o600)
	doc := s.mustMount(s.conn)
	open, err := os.Open(filepath.Join(doc, s.add(s.conn, f), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	errs.Reset()
	if code := askPortal(context.Background(), &statusCommand{format{JSON: true}}, &out, &errs); code != 0 {
		t.Fatal(code, errs.String())
	}
	var got jsonStatus
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", got.PID))
	parent := string(text)
	if got.Keeper != p.cmd.Process.Pid || !strings.Contains(parent, fmt.Sprintf("PPid:\t%d\n", got.Keeper)) || !got.Mounted || got.Mount != doc ||
		got.Documents != 1 || got.Handles != 1 || got.Apps[""] != 1 || got.Descriptors < 5 || got.Memory == 0 || got.KeeperMemory == 0 {
		t.Errorf("%+v", got)
	}
	if _, ok := got.Apps["org.example.A"]; !ok {
		t.Errorf("apps %v", got.Apps)
	}
	out.Reset()
	if code := askPortal(context.Background(), &statusCommand{}, &out, &errs); code != 0 || !strings.Contains(out.String(), doc) {
		t.Errorf("%d, %s%s", code, out.String(), errs.String())
	}
}
