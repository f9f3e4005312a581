package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"docportal/integration/session"
)

// TestEverythingAtOnce: four apps work in their documents while others are
// added, granted, revoked and deleted, the server is killed, and put in place
// anew. Nothing hangs, no acknowledged document is lost, and what the daemon
// holds does not grow.
func TestEverythingAtOnce(t *testing.T) {
	length, fault := 25*time.Second, 2*time.Second
	if os.Getenv("DOCPORTAL_LONG") != "" {
		length, fault = 30*time.Minute, 10*time.Second
	}
	s := start(t)
	conn := connect(t, s)
	mount := mountPoint(t, conn)
	keeper, err := s.Owner(documentsName)
	if err != nil || keeper == 0 {
		t.Fatal(keeper, err)
	}
	c := startCrew(t, s, length, 2*time.Second)
	defer watchStuck(t, s)()
	first := statusOf(t, s)
	kept := make(map[string]string) // id to content
	end := time.Now().Add(length)
	next := time.Now().Add(fault)
	faults := 0
	for n := 0; time.Now().Before(end); n++ {
		file := filepath.Join(s.Home, fmt.Sprint("file", n))
		text := fmt.Sprint("content ", n)
		writeFile(t, file, text)
		id := addAgain(t, conn, file)
		again(t, conn, "GrantPermissions", id, appA, []string{"read"})
		wantFile(t, filepath.Join(mount, "by-app", appA, id, filepath.Base(file)), text)
		again(t, conn, "RevokePermissions", id, appA, []string{"read"})
		if _, err := os.ReadFile(filepath.Join(mount, "by-app", appA, id, filepath.Base(file))); err == nil {
			t.Errorf("%s is read after it was revoked", id)
		}
		if n%2 == 0 || len(kept) > 500 {
			again(t, conn, "Delete", id)
		} else {
			kept[id] = text
		}
		if time.Now().After(next) {
			next = time.Now().Add(fault)
			if faults++; faults%3 == 0 {
				syscall.Kill(keeper, syscall.SIGUSR1)
			} else if server := session.ServerOf(keeper); server != 0 {
				syscall.Kill(server, syscall.SIGKILL)
			}
		}
	}
	c.end()
	t.Logf("%d faults, %d documents kept", faults, len(kept))
	for id, text := range kept {
		var path []byte
		var permissions map[string][]string
		if err := call(conn, documentsName, "Info", []any{id}, &path, &permissions); err != nil {
			t.Errorf("%s: %v", id, err)
			continue
		}
		wantFile(t, filepath.Join(mount, id, filepath.Base(strings.TrimSuffix(string(path), "\x00"))), text)
	}
	last := statusOf(t, s)
	t.Logf("memory %d and %d bytes at first, %d and %d at last; descriptors %d and %d",
		first.Memory, first.KeeperMemory, last.Memory, last.KeeperMemory, first.Descriptors, last.Descriptors)
	if last.Memory > 64<<20 || last.KeeperMemory > 8<<20 || last.Descriptors > first.Descriptors+64 {
		t.Errorf("it grows: %+v", last)
	}
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
	if took := time.Since(start); err != nil || took > 2*time.Second {
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
	for range 3 {
		err = call(conn, documentsName, "AddFull", []any{[]dbus.UnixFD{dbus.UnixFD(f.Fd())}, uint32(1 | 2), "", []string{}}, &ids, &extra)
		if !lost(err) {
			break
		}
	}
	if err != nil || len(ids) != 1 {
		t.Fatalf("AddFull: %q, %v", ids, err)
	}
	return ids[0]
}
