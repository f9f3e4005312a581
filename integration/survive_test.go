package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"docportal/integration/session"
	"docportal/integration/wire"
)

// stuck are the processes of the user that cannot be interrupted now and could
// not a second ago.
func stuck(t *testing.T, s *session.Session) []session.Process {
	t.Helper()
	inD := func() map[int]session.Process {
		processes, err := s.Processes()
		if err != nil {
			t.Fatal(err)
		}
		found := make(map[int]session.Process)
		for _, p := range processes {
			text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID))
			if _, state, _ := strings.Cut(string(text), ") "); strings.HasPrefix(state, "D") {
				found[p.PID] = p
			}
		}
		return found
	}
	before := inD()
	if len(before) == 0 {
		return nil
	}
	time.Sleep(time.Second) // one that reads from the disk is there for a moment
	var all []session.Process
	for pid, p := range inD() {
		if _, ok := before[pid]; ok {
			all = append(all, p)
		}
	}
	return all
}

// crew are four apps that work in a directory each, without pause. No step may
// take longer than a limit.
type crew struct {
	t     *testing.T
	dirs  []string
	group sync.WaitGroup
}

func startCrew(t *testing.T, s *session.Session, work, limit time.Duration) *crew {
	t.Helper()
	conn := connect(t, s)
	c := &crew{t: t}
	for n := range 4 {
		id := fmt.Sprintf("org.example.Crew%d", n)
		dir := filepath.Join(s.Home, fmt.Sprint("dir", n))
		writeFile(t, filepath.Join(dir, "kept"), id)
		doc := add(t, conn, dir, id, 8|2, "read", "write")
		app, err := s.StartApp(id)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { app.Close() })
		view := filepath.Join(s.Runtime, "doc", doc, filepath.Base(dir))
		do(t, app, wire.Request{Op: "stat", Path: filepath.Join(view, "kept")}) // it has begun
		c.dirs = append(c.dirs, dir)
		c.group.Go(func() {
			a, err := app.Do(wire.Request{Op: "work", Path: view, Name: "w", Data: work.String()})
			if err != nil || a.Err != "" {
				t.Errorf("%s: %v, %s", id, err, a.Err)
			}
			for _, what := range a.Names {
				t.Errorf("%s: %s", id, what)
			}
			t.Logf("%s: %s rounds, the longest step took %s", id, a.Data, a.Path)
			if longest, err := time.ParseDuration(a.Path); err != nil || longest > limit {
				t.Errorf("%s: a step took %v (%v)", id, longest, err)
			}
			if rounds, _ := strconv.Atoi(a.Data); rounds < 10 {
				t.Errorf("%s: only %d rounds", id, rounds)
			}
			if a, err := app.Do(wire.Request{Op: "read", Path: filepath.Join(view, "kept")}); err != nil || a.Data != id {
				t.Errorf("%s: %q, %v", id, a.Data, err)
			}
		})
	}
	return c
}

// end waits for the work and looks at what is left of it.
func (c *crew) end() {
	c.group.Wait()
	for _, dir := range c.dirs {
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != 1 {
			c.t.Errorf("%s: %v, %v", dir, entries, err)
		}
	}
}

// TestSandboxesOutliveTheServer: the server is killed every 100 ms while four
// apps work in their documents. No operation by path fails or takes a second,
// nothing is done twice, and nothing is left that cannot be killed.
func TestSandboxesOutliveTheServer(t *testing.T) {
	kills := 50
	if os.Getenv("DOCPORTAL_LONG") != "" {
		kills = 200
	}
	s := start(t)
	mountPoint(t, connect(t, s))
	keeper, err := s.Owner(documentsName)
	if err != nil || keeper == 0 {
		t.Fatal(keeper, err)
	}
	const distance = 100 * time.Millisecond
	c := startCrew(t, s, time.Duration(kills+5)*distance, time.Second)
	killed := 0
	for range kills {
		time.Sleep(distance)
		if server := session.ServerOf(keeper); server != 0 && syscall.Kill(server, syscall.SIGKILL) == nil {
			killed++
		}
	}
	c.end()
	if left := stuck(t, s); len(left) > 0 {
		t.Errorf("in state D: %+v", left)
	}
	if owner, err := s.Owner(documentsName); err != nil || owner != keeper {
		t.Errorf("the name belongs to %d, not %d (%v)", owner, keeper, err)
	}
	if killed < kills/2 {
		t.Errorf("only %d servers were killed", killed)
	}
}
