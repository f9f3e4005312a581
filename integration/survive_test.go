package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"docportal/integration/session"
	"docportal/integration/wire"
)

// uninterruptible are the threads of the session that cannot be interrupted now
// (state D), those of dead processes too, with what they run and how often they
// have waited before.
func uninterruptible(s *session.Session) (map[int]string, error) {
	processes, err := s.Descendants()
	if err != nil {
		return nil, err
	}
	found := make(map[int]string)
	for _, p := range processes {
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", p.PID))
		for _, thread := range threads {
			text, _ := os.ReadFile(thread)
			_, waits, _ := strings.Cut(string(text), "\nvoluntary_ctxt_switches:\t")
			waits, _, _ = strings.Cut(waits, "\n")
			if tid, err := strconv.Atoi(filepath.Base(filepath.Dir(thread))); err == nil && strings.Contains(string(text), "\nState:\tD") {
				found[tid] = fmt.Sprintf("process %d, %s, after %s waits", p.PID, p.Command, waits)
			}
		}
	}
	return found, nil
}

// watchStuck looks every second for threads that could not be interrupted since
// the last time: one that waits for a disk, or for an answer when it was sent a
// signal, is there for a moment. The function that it returns ends that, and looks
// once more.
func watchStuck(t *testing.T, s *session.Session) (end func()) {
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		before := make(map[int]string)
		for last := 0; last < 2; {
			now, err := uninterruptible(s)
			if err != nil {
				t.Error(err)
				return
			}
			for tid, what := range now {
				if what == before[tid] {
					t.Errorf("in state D for a second: thread %d of %s", tid, what)
				}
			}
			before = now
			select {
			case <-stop:
				if last++; last < 2 && len(now) > 0 {
					time.Sleep(time.Second)
				}
			case <-time.After(time.Second):
			}
		}
	}()
	return func() { close(stop); <-done }
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
			a, err := app.DoFor(work, wire.Request{Op: "work", Path: view, Name: "w", Data: work.String()})
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
	defer watchStuck(t, s)()
	killed := 0
	for range kills {
		time.Sleep(distance)
		if server := session.ServerOf(keeper); server != 0 && syscall.Kill(server, syscall.SIGKILL) == nil {
			killed++
		}
	}
	c.end()
	if owner, err := s.Owner(documentsName); err != nil || owner != keeper {
		t.Errorf("the name belongs to %d, not %d (%v)", owner, keeper, err)
	}
	if killed < kills*9/10 {
		t.Errorf("only %d servers were killed", killed)
	}
}

// TestTheKeeperStaysSmall: after many servers it has no more than it may at rest,
// and no huge pages are on the way, which come when the kernel likes.
func TestTheKeeperStaysSmall(t *testing.T) {
	kills := 50
	if os.Getenv("DOCPORTAL_LONG") != "" {
		kills = 500
	}
	s := start(t)
	conn := connect(t, s)
	mountPoint(t, conn)
	keeper, err := s.Owner(documentsName)
	if err != nil || keeper == 0 {
		t.Fatal(keeper, err)
	}
	for range kills {
		if err := call(conn, documentsName, "GetMountPoint", nil); err != nil && !lost(err) {
			t.Error(err)
		}
		server := session.ServerOf(keeper)
		syscall.Kill(server, syscall.SIGKILL)
		err := session.Await(answerLimit, func() (bool, error) {
			next := session.ServerOf(keeper)
			return next != 0 && next != server, nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	// It rests a second after the last server is ready, and changes no more.
	size, since := 0, time.Now()
	err = session.Await(answerLimit, func() (bool, error) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", keeper))
		if err != nil {
			return false, err
		}
		_, rest, _ := strings.Cut(string(text), "\nPss:")
		now, err := strconv.Atoi(strings.Fields(rest)[0])
		if now != size {
			size, since = now, time.Now()
		}
		return size<<10 <= 2500000 && time.Since(since) > 2*time.Second, err
	})
	t.Logf("%d KiB", size)
	if err != nil {
		t.Errorf("it keeps %d KiB: %v", size, err)
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", keeper))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if flags, ok := strings.CutPrefix(line, "VmFlags:"); ok && slices.Contains(strings.Fields(flags), "hg") {
			t.Error("a part of its memory is to have huge pages")
		}
	}
}
