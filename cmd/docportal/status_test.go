package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"docportal/internal/permstore"
)

// status asks the running instance how it is.
func (s *session) status() (got jsonStatus) {
	s.t.Helper()
	if err := json.Unmarshal([]byte(s.ask(&statusCommand{format{JSON: true}})), &got); err != nil {
		s.t.Fatal(err)
	}
	return got
}

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
	got := s.status()
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", got.PID))
	parent := string(text)
	if got.Keeper != p.cmd.Process.Pid || !strings.Contains(parent, fmt.Sprintf("PPid:\t%d\n", got.Keeper)) || !got.Mounted || got.Mount != doc ||
		got.Documents != 1 || got.Handles != 1 || got.Apps[""] != 1 || got.Descriptors < 5 || got.Memory == 0 || got.KeeperMemory == 0 {
		t.Errorf("%+v", got)
	}
	if n, ok := got.Apps["org.example.A"]; !ok || n != 0 || len(got.Errors) != 0 {
		t.Errorf("%+v", got)
	}
	// Descriptors and memory are those of the process.
	if fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", got.PID)); err != nil || got.Descriptors < len(fds)-5 || got.Descriptors > len(fds)+5 {
		t.Errorf("%d descriptors, there are %d, %v", got.Descriptors, len(fds), err)
	}
	if now := pss(fmt.Sprint(got.PID)); got.Memory < now/2 || got.Memory > now*2 {
		t.Errorf("memory %d, it is %d", got.Memory, now)
	}
	// What an app has open is counted for it, and given back.
	more, err := os.Open(filepath.Join(doc, "by-app/org.example.A", s.add(s.conn, f), "f"))
	if err != nil {
		t.Fatal(err)
	}
	if got := s.status(); got.Handles != 2 || got.Apps["org.example.A"] != 1 || got.Documents != 1 && got.Documents != 2 {
		t.Errorf("%+v", got)
	}
	more.Close()
	s.await("it is closed", func() bool { return s.status().Handles == 1 })
	// An unmount by somebody else is among the last errors; its server's death is
	// counted.
	if err := exec.Command("fusermount3", "-u", "-z", doc).Run(); err != nil {
		t.Fatal(err)
	}
	s.await("it is among the errors", func() bool {
		got := s.status()
		return len(got.Errors) > 0 && strings.Contains(got.Errors[0], "unmounted by somebody else")
	})
	s.killServer(p.cmd.Process.Pid, syscall.SIGSEGV)
	s.owner(s.conn, permstore.Name, 0)
	s.await("the crash is counted", func() bool {
		out.Reset()
		return askPortal(context.Background(), &statusCommand{format{JSON: true}}, &out, &errs) == 0 && json.Unmarshal(out.Bytes(), &got) == nil && got.Crashes == 1
	})
	s.mustMount(s.conn)
	text = []byte(s.ask(&statusCommand{}))
	for _, want := range []string{
		"Version: ", fmt.Sprintf("kept by %d", p.cmd.Process.Pid), "1 a short while ago", "Mount:       " + doc + "\n",
		"Documents: ", "Apps: ", "Open files: ", "Descriptors: ", "Memory: ", " MiB and ",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %q in %s", want, text)
		}
	}
}
