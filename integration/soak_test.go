package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"docportal/integration/session"
)

// TestEverythingAtOnce: four apps work in their documents while others are
// added, granted, revoked and deleted, servers and clients die, and new servers are
// put in place. Nothing takes two seconds, nothing is left that cannot be killed, no
// acknowledged document is lost, and what the daemon holds does not grow.
//
// With DOCPORTAL_LONG it lasts half an hour, or as long as that says.
func TestEverythingAtOnce(t *testing.T) {
	length, fault, restart := 55*time.Second, 2*time.Second, 11*time.Second
	if long := os.Getenv("DOCPORTAL_LONG"); long != "" {
		length, fault, restart = 30*time.Minute, 10*time.Second, time.Minute
		if d, err := time.ParseDuration(long); err == nil {
			length = d
		}
	}
	s := start(t)
	conn := connect(t, s)
	mount := mountPoint(t, conn)
	keeper, err := s.Owner(documentsName)
	if err != nil || keeper == 0 {
		t.Fatal(keeper, err)
	}
	c := startCrew(t, s, length, hang)
	defer watchStuck(t, s)()
	f := faults{t: t, s: s, keeper: keeper, mount: mount}
	kept := make(map[string]string) // id to content
	var seen []daemonStatus
	end := time.Now().Add(length)
	nextFault, nextRestart := time.Now().Add(fault), time.Now().Add(restart)
	restarts := 0
	for n := 0; time.Now().Before(end); n++ {
		file := filepath.Join(s.Home, fmt.Sprint("file", n))
		text := fmt.Sprint("content ", n)
		writeFile(t, file, text)
		id := addAgain(t, conn, file)
		inView := filepath.Join(mount, "by-app", appA, id, filepath.Base(file))
		again(t, conn, "GrantPermissions", id, appA, []string{"read"})
		start := time.Now()
		wantFile(t, inView, text)
		again(t, conn, "RevokePermissions", id, appA, []string{"read"})
		if _, err := os.ReadFile(inView); err == nil {
			t.Errorf("%s is read after it was revoked", id)
		}
		if took := time.Since(start); took > hang {
			t.Errorf("reading, revoking and reading took %v", took)
		}
		if n%2 == 0 || len(kept) > 500 {
			again(t, conn, "Delete", id)
		} else {
			kept[id] = text
		}
		switch now := time.Now(); {
		case now.After(nextRestart):
			nextRestart = now.Add(restart)
			if restarts++; restarts%3 == 0 {
				keeper = replace(t, s)
				f.keeper = keeper
			} else {
				syscall.Kill(keeper, syscall.SIGUSR1)
			}
		case now.After(nextFault):
			nextFault = now.Add(fault)
			seen = append(seen, statusOf(t, s))
			f.next()
		}
	}
	c.end()
	f.end()
	t.Logf("%d faults, %d restarts, %d documents kept", f.count, restarts, len(kept))
	for id, text := range kept {
		var path []byte
		var permissions map[string][]string
		if err := call(conn, documentsName, "Info", []any{id}, &path, &permissions); err != nil {
			t.Errorf("%s: %v", id, err)
			continue
		}
		wantFile(t, filepath.Join(mount, id, filepath.Base(strings.TrimSuffix(string(path), "\x00"))), text)
	}
	if owner, err := s.Owner(documentsName); err != nil || owner != keeper {
		t.Errorf("the name belongs to %d, not %d (%v)", owner, keeper, err)
	}
	// Not from the first moment: the documents that are kept come to their number.
	early, late := mean(seen[len(seen)/4:len(seen)/2]), mean(seen[len(seen)*3/4:])
	t.Logf("in the second quarter %+v, in the last %+v", early, late)
	if late.Memory > early.Memory*5/4+4<<20 || late.KeeperMemory > early.KeeperMemory*5/4+256<<10 || late.Descriptors > early.Descriptors+16 {
		t.Error("it grows")
	}
	if late.Memory > 40<<20 || late.KeeperMemory > 4<<20 || late.Descriptors > 96 {
		t.Error("it has grown from the beginning")
	}
}

// replace has another instance take over, and returns its keeper.
func replace(t *testing.T, s *session.Session) (keeper int) {
	t.Helper()
	start := time.Now()
	cmd := s.Command("docportal", "--replace")
	if err := s.Start(cmd); err != nil {
		t.Fatal(err)
	}
	go cmd.Wait() // it ends with the session
	for {
		owner, err := s.Owner(documentsName)
		if err != nil {
			t.Fatal(err)
		}
		if owner == cmd.Process.Pid {
			return owner
		}
		if time.Since(start) > 5*time.Second {
			t.Fatalf("the name belongs to %d, not %d, after %v", owner, cmd.Process.Pid, time.Since(start))
		}
		time.Sleep(time.Millisecond)
	}
}

// hang is what nothing may take.
const hang = 2 * time.Second

// faults are what goes wrong beside the work, one after the other.
type faults struct {
	t      *testing.T
	s      *session.Session
	keeper int
	mount  string
	count  int
	group  sync.WaitGroup
}

func (f *faults) next() {
	server := session.ServerOf(f.keeper)
	switch f.count++; {
	case f.count%8 == 3: // of which four in 30 s are too many
		syscall.Kill(server, syscall.SIGSEGV)
	case f.count%4 == 0:
		f.clientDies()
	case f.count%4 == 1:
		f.callerDies()
	case f.count%4 == 2 && server != 0:
		// It stands still for a while, and is killed then.
		syscall.Kill(server, syscall.SIGSTOP)
		f.group.Go(func() {
			time.Sleep(hang / 4)
			syscall.Kill(server, syscall.SIGKILL)
		})
	case server != 0:
		syscall.Kill(server, syscall.SIGKILL)
	}
}

// clientDies has a program killed in the middle of what it asks of the view.
func (f *faults) clientDies() {
	cmd := exec.Command("sh", "-c", `while :; do ls -R "$0"; cat "$0"/*/*; done >/dev/null 2>&1`, f.mount)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		f.t.Error(err)
		return
	}
	f.group.Go(func() {
		time.Sleep(hang / 10)
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
	})
}

// callerDies has one leave the bus that has called and not read the answers.
func (f *faults) callerDies() {
	conn, err := f.s.Connect()
	if err != nil {
		f.t.Error(err)
		return
	}
	defer conn.Close()
	for range 100 {
		conn.Object(documentsName, documentsPath).Go(documentsName+".List", dbus.FlagNoAutoStart, nil, appA)
	}
}

func (f *faults) end() { f.group.Wait() }

func mean(all []daemonStatus) (m daemonStatus) {
	for _, d := range all {
		m.Memory += d.Memory
		m.KeeperMemory += d.KeeperMemory
		m.Descriptors += d.Descriptors
	}
	if n := len(all); n > 0 {
		m.Memory, m.KeeperMemory, m.Descriptors = m.Memory/int64(n), m.KeeperMemory/int64(n), m.Descriptors/n
	}
	return m
}

// daemonStatus is the part of "docportal status --json" that counts here.
type daemonStatus struct {
	Memory, KeeperMemory int64
	Descriptors          int
}

func statusOf(t *testing.T, s *session.Session) (d daemonStatus) {
	t.Helper()
	out, err := s.Command("docportal", "status", "--json").Output()
	if err == nil {
		err = json.Unmarshal(out, &d)
	}
	if err != nil {
		t.Fatalf("docportal status: %v: %s", err, out)
	}
	return d
}

// lost reports whether a call was in the hands of a server that died.
func lost(err error) bool { return errorName(err) == "org.freedesktop.DBus.Error.NoReply" }

// again makes a call, and once more if it was lost. What was done already may
// be refused then.
func again(t *testing.T, conn *dbus.Conn, method string, args ...any) {
	t.Helper()
	start := time.Now()
	err := call(conn, documentsName, method, args)
	if lost(err) {
		if err = call(conn, documentsName, method, args); method == "Delete" {
			err = nil
		}
	}
	if took := time.Since(start); err != nil || took > hang {
		t.Errorf("%s took %v: %v", method, took, err)
	}
}

// addAgain adds a document that stays, and once more if the call was lost: the
// same one is found then.
func addAgain(t *testing.T, conn *dbus.Conn, file string) string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var ids []string
	var extra map[string]dbus.Variant
	start := time.Now()
	for range 3 {
		err = call(conn, documentsName, "AddFull", []any{[]dbus.UnixFD{dbus.UnixFD(f.Fd())}, uint32(1 | 2), "", []string{}}, &ids, &extra)
		if !lost(err) {
			break
		}
	}
	if err != nil || len(ids) != 1 {
		t.Fatalf("AddFull: %q, %v", ids, err)
	}
	if took := time.Since(start); took > hang {
		t.Errorf("AddFull took %v", took)
	}
	return ids[0]
}
