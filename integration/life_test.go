package integration

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"docportal/integration/session"
	"docportal/integration/wire"
)

// limit is how long things that take some milliseconds may take here.
const limit = 5 * time.Second

// end ends the process that owns a bus name and waits until it is gone.
func end(t *testing.T, s *session.Session, name string, sig syscall.Signal) {
	t.Helper()
	pid, err := s.Owner(name)
	if err != nil || pid == 0 {
		t.Fatalf("owner of %s: %d (%v)", name, pid, err)
	}
	if err := syscall.Kill(pid, sig); err != nil {
		t.Fatal(err)
	}
	err = session.Await(limit, func() (bool, error) {
		processes, err := s.Processes()
		return !slices.ContainsFunc(processes, func(p session.Process) bool { return p.PID == pid }), err
	})
	if err != nil {
		t.Fatalf("process %d after %v: %v", pid, sig, err)
	}
	// The bus sees its end a moment later; a call before that is lost.
	err = session.Await(limit, func() (bool, error) {
		owner, err := s.Owner(name)
		return owner != pid, err
	})
	if err != nil {
		t.Fatalf("%s still belongs to process %d: %v", name, pid, err)
	}
}

// daemons counts the running docportal processes.
func daemons(t *testing.T, s *session.Session) int {
	t.Helper()
	processes, err := s.Processes()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(s.Stage(), "bin", "docportal")
	n := 0
	for _, p := range processes {
		if p.Command == program || strings.HasPrefix(p.Command, program+" ") {
			n++
		}
	}
	return n
}

// add makes a document of a file, as a person's program, with permissions for
// an app, and returns its id.
func add(t *testing.T, conn *dbus.Conn, file, app string, flags uint32, permissions ...string) string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var ids []string
	var extra map[string]dbus.Variant
	if err := call(conn, documentsName, "AddFull", []any{[]dbus.UnixFD{dbus.UnixFD(f.Fd())}, flags, app, permissions}, &ids, &extra); err != nil {
		t.Fatalf("AddFull: %v", err)
	}
	if len(ids) != 1 {
		t.Fatalf("AddFull gave %q, want one id", ids)
	}
	return ids[0]
}

func TestWhatWasAcknowledgedOutlivesAKill(t *testing.T) {
	const persistent = 2
	s := start(t)
	conn := connect(t, s)
	mount := mountPoint(t, conn)
	file := filepath.Join(s.Home, "letter.txt")
	writeFile(t, file, "Dear all,\n")
	for i := range 5 {
		id := add(t, conn, file, appA, persistent, "read", "write")
		end(t, s, documentsName, syscall.SIGKILL)

		var path []byte
		var permissions map[string][]string
		if err := call(conn, documentsName, "Info", []any{id}, &path, &permissions); err != nil {
			t.Fatalf("round %d: after the kill, Info(%s): %v", i, id, err)
		}
		if got := strings.TrimSuffix(string(path), "\x00"); got != file {
			t.Errorf("round %d: its path is %q, want %q", i, got, file)
		}
		got := permissions[appA]
		slices.Sort(got)
		if !slices.Equal(got, []string{"read", "write"}) || len(permissions) != 1 {
			t.Errorf("round %d: its permissions are %v", i, permissions)
		}
		if got := mountPoint(t, conn); got != mount {
			t.Errorf("round %d: the mount point moved from %s to %s", i, mount, got)
		}
		wantFile(t, filepath.Join(mount, "by-app", appA, id, "letter.txt"), "Dear all,\n")
		if n := daemons(t, s); n != 1 {
			t.Errorf("round %d: %d docportal processes, want 1", i, n)
		}
	}
}

func TestATransientDocumentGoesWithTheDaemon(t *testing.T) {
	s := start(t)
	conn := connect(t, s)
	file := filepath.Join(s.Home, "letter.txt")
	writeFile(t, file, "Dear all,\n")
	id := add(t, conn, file, appA, 0, "read")
	end(t, s, documentsName, syscall.SIGTERM)
	err := call(conn, documentsName, "Info", []any{id})
	if name := errorName(err); name != "org.freedesktop.portal.Error.InvalidArgument" {
		t.Errorf("Info: %v, want InvalidArgument", err)
	}
}

func TestBothNamesAskedForAtTheSameMoment(t *testing.T) {
	rounds := 25
	if os.Getenv("DOCPORTAL_LONG") != "" {
		rounds = 500
	}
	s := start(t)
	conns := []*dbus.Conn{connect(t, s), connect(t, s)}
	for i := range rounds {
		var wg sync.WaitGroup
		errs := make([]error, 2)
		wg.Go(func() { errs[0] = call(conns[0], documentsName, "GetMountPoint", nil) })
		wg.Go(func() { errs[1] = call(conns[1], storeName, "List", []any{"devices"}) })
		wg.Wait()
		for _, err := range errs {
			if err != nil {
				t.Fatalf("round %d: %v", i, err)
			}
		}
		documents, err := s.Owner(documentsName)
		if err != nil {
			t.Fatal(err)
		}
		store, err := s.Owner(storeName)
		if err != nil {
			t.Fatal(err)
		}
		if documents == 0 || documents != store {
			t.Errorf("round %d: process %d serves documents, %d the permission store", i, documents, store)
		}
		if err := session.Await(2*limit, func() (bool, error) { return daemons(t, s) == 1, nil }); err != nil {
			t.Fatalf("round %d: one process left: %v; there are %d", i, err, daemons(t, s))
		}
		end(t, s, documentsName, syscall.SIGTERM)
		mounts, err := session.Mounts(s.Runtime)
		if err != nil || len(mounts) != 0 {
			t.Fatalf("round %d: mounts after the end: %v (%v)", i, mounts, err)
		}
	}
}

func TestThePermissionStoreAloneMountsNothing(t *testing.T) {
	s := start(t)
	conn := connect(t, s)
	if err := call(conn, storeName, "SetPermission", []any{"devices", true, "camera", appA, []string{"yes"}}); err != nil {
		t.Fatal(err)
	}
	var words []string
	if err := call(conn, storeName, "GetPermission", []any{"devices", "camera", appA}, &words); err != nil || !slices.Equal(words, []string{"yes"}) {
		t.Errorf("GetPermission: %q (%v)", words, err)
	}
	mounts, err := session.Mounts(s.Runtime)
	if err != nil || len(mounts) != 0 {
		t.Errorf("mounts: %v (%v), want none", mounts, err)
	}
	// The same process mounts when it is asked for documents.
	before, err := s.Owner(storeName)
	if err != nil {
		t.Fatal(err)
	}
	mount := mountPoint(t, conn)
	if mount != filepath.Join(s.Runtime, "doc") {
		t.Errorf("the mount point is %s, want %s/doc", mount, s.Runtime)
	}
	mounts, err = session.Mounts(s.Runtime)
	if err != nil || !slices.Equal(mounts, []string{mount}) {
		t.Errorf("mounts: %v (%v), want %s", mounts, err, mount)
	}
	if after, err := s.Owner(documentsName); err != nil || after != before {
		t.Errorf("process %d serves documents (%v), %d the permission store", after, err, before)
	}
}

func TestTheNamesComeBackAfterAKill(t *testing.T) {
	s := start(t)
	conn := connect(t, s)
	for i := range 10 {
		mount := mountPoint(t, conn)
		if _, err := os.ReadDir(mount); err != nil {
			t.Fatalf("round %d: %v", i, err)
		}
		end(t, s, documentsName, syscall.SIGKILL)
		// In turn one or the other is asked for first.
		if i%2 == 0 {
			if err := call(conn, storeName, "List", []any{"devices"}); err != nil {
				t.Fatalf("round %d: %v", i, err)
			}
		}
	}
	mountPoint(t, conn)
}

func TestAKilledSbxRunLeavesNothing(t *testing.T) {
	s := start(t)
	a, err := s.StartApp(appA)
	if err != nil {
		t.Fatal(err)
	}
	do(t, a, wire.Request{Op: "list", Path: "/"})
	running, err := s.Processes()
	if err != nil {
		t.Fatal(err)
	}
	sandbox := func(p session.Process) bool { return isSandbox(s, p) }
	if !slices.ContainsFunc(running, sandbox) {
		t.Fatalf("nothing of a sandbox runs: %+v", running)
	}
	a.Kill()
	var left []session.Process
	err = session.Await(limit, func() (bool, error) {
		var err error
		left, err = s.Processes()
		left = slices.DeleteFunc(left, func(p session.Process) bool { return !sandbox(p) })
		return len(left) == 0, err
	})
	if err != nil {
		t.Errorf("processes of the sandbox: %v: %+v", err, left)
	}
	mounts, err := session.Mounts(s.Runtime)
	if err != nil || len(mounts) > 1 {
		t.Errorf("mounts: %v (%v), want the documents alone", mounts, err)
	}
	theNextStartCleansUp(t, s)
}

func TestSbxRunKilledAtAnyMomentOfTheStartLeavesNothing(t *testing.T) {
	rounds := 210
	if os.Getenv("DOCPORTAL_LONG") != "" {
		rounds = 3000
	}
	s := start(t)
	mountPoint(t, connect(t, s))
	profile, err := s.Profile(appA, "app")
	if err != nil {
		t.Fatal(err)
	}
	before, err := session.Mounts(s.Runtime)
	if err != nil {
		t.Fatal(err)
	}
	// A third of the rounds run while others want the processors.
	var load sync.WaitGroup
	var busy atomic.Bool
	defer load.Wait()
	defer busy.Store(false)
	for i := range rounds {
		if i == rounds*2/3 {
			busy.Store(true)
			for range 2 * runtime.NumCPU() {
				load.Go(func() {
					for busy.Load() {
					}
				})
			}
		}
		// All moments come up evenly, whatever the number of rounds.
		_, part := math.Modf(float64(i) * math.Phi)
		moment := time.Duration(part * float64(120*time.Millisecond))
		victim := []string{"the first process", "both", "the second process", "both"}[i%4]
		// Its input never ends: it ends by the kill alone.
		cmd := s.Command("sbx-run", profile)
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Start(cmd); err != nil {
			t.Fatal(err)
		}
		time.Sleep(moment) // not a wait: the moment
		second := 0
		if victim != "the first process" {
			if second = secondOf(cmd.Process.Pid); second != 0 {
				syscall.Kill(second, syscall.SIGKILL)
			}
		}
		if victim != "the second process" || second == 0 {
			cmd.Process.Kill()
		}
		cmd.Wait()
		var left []session.Process
		gone := func() (bool, error) {
			var err error
			left, err = s.Processes()
			left = slices.DeleteFunc(left, func(p session.Process) bool { return !isSandbox(s, p) })
			return len(left) == 0, err
		}
		if err := session.Await(limit, gone); err != nil {
			t.Fatalf("%s killed after %v: %v: %+v", victim, moment, err, left)
		}
		in.Close()
		if mounts, err := session.Mounts(s.Runtime); err != nil || !slices.Equal(mounts, before) {
			t.Fatalf("%s killed after %v: mounts %v (%v), want %v", victim, moment, mounts, err, before)
		}
	}
	busy.Store(false)
	theNextStartCleansUp(t, s)
	// Who was killed while it made the directory leaves a part of it, which
	// could be another's work under way: a start takes it a minute later.
	names, err := filepath.Glob(filepath.Join(s.Runtime, ".flatpak", ".new-*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if err := os.RemoveAll(name); err != nil {
			t.Error(err)
		}
	}
}

// secondOf is the second process of an sbx-run, 0 if there is none yet.
func secondOf(first int) int {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", first))
	for _, task := range tasks {
		text, _ := os.ReadFile(task)
		for field := range strings.FieldsSeq(string(text)) {
			// Until it is itself, a child looks like its parent.
			line, _ := os.ReadFile("/proc/" + field + "/cmdline")
			if pid, err := strconv.Atoi(field); err == nil && strings.Contains(string(line), "\x00--kept-by=") {
				return pid
			}
		}
	}
	return 0
}

// isSandbox reports whether a process is a part of a sandbox.
func isSandbox(s *session.Session, p session.Process) bool {
	return strings.Contains(p.Command, "sbx-") || strings.Contains(p.Command, "bwrap") || strings.Contains(p.Command, "xdg-dbus-proxy") ||
		strings.HasPrefix(p.Command, filepath.Join(s.Home, "program"))
}

func theNextStartCleansUp(t *testing.T, s *session.Session) {
	t.Helper()
	b, err := s.StartApp(appB)
	if err != nil {
		t.Fatal(err)
	}
	do(t, b, wire.Request{Op: "list", Path: "/"})
	if names, err := finished(s); err != nil || len(names) != 1 {
		t.Errorf("instances while one sandbox runs: %v (%v)", names, err)
	}
	if err := b.Close(); err != nil {
		t.Errorf("sbx-run ended with: %v", err)
	}
	if names, err := finished(s); err != nil || len(names) != 0 {
		t.Errorf("instances after the last sandbox: %v (%v)", names, err)
	}
}

// finished lists the instance directories that were made completely.
func finished(s *session.Session) ([]string, error) {
	names, err := s.Instances()
	return slices.DeleteFunc(names, func(name string) bool { return strings.HasPrefix(name, ".new-") }), err
}
