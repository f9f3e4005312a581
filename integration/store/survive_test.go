package store

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"docportal/internal/bus"
	"docportal/internal/permstore"
)

const (
	clients = 16
	changes = 10000 // of a round
)

// crasher is a client that changes entries of its own and remembers what was
// acknowledged.
type crasher struct {
	n    int
	conn *bus.Conn
	// acknowledged is what each id's number was when a reply came, 0 for
	// deleted; tried is the change whose reply did not come.
	acknowledged map[string]uint32
	triedID      string
	tried        uint32
	number       uint32
}

const crasherIDs = 50

// change makes one change: a permission, an entry with data, or a deletion.
func (c *crasher) change(ctx context.Context) error {
	c.number++
	id := fmt.Sprint(c.n, " ", rand.IntN(crasherIDs))
	c.triedID, c.tried = id, c.number
	word := fmt.Sprint(c.number)
	var err error
	const iface = permstore.Name
	switch rand.IntN(4) {
	case 0:
		if c.acknowledged[id] == 0 {
			c.triedID = ""
			return nil
		}
		c.tried = 0
		err = c.conn.Call(ctx, iface, permstore.Path, iface, "Delete", "ss", []any{"t", id})
	case 1:
		data, e := bus.ValueOf("ay", make([]byte, rand.IntN(3000)))
		if e != nil {
			return e
		}
		err = c.conn.Call(ctx, iface, permstore.Path, iface, "Set", "sbsa{sas}v",
			[]any{"t", true, id, map[string][]string{"app": {word}, "": {"x"}}, data})
	default:
		err = c.conn.Call(ctx, iface, permstore.Path, iface, "SetPermission", "sbssas", []any{"t", true, id, "app", []string{word}})
	}
	if err == nil {
		c.acknowledged[id] = c.tried
		c.triedID = ""
	}
	return err
}

// verify reads the client's entries back.
func (c *crasher) verify(conn *bus.Conn) (wrong []string) {
	for i := range crasherIDs {
		id := fmt.Sprint(c.n, " ", i)
		var words []string
		err := perm(conn, "GetPermission", "sss", []any{"t", id, "app"}, &words)
		var got uint32
		if err == nil && len(words) == 1 {
			fmt.Sscan(words[0], &got)
		} else if errorName(err) != "NotFound" {
			wrong = append(wrong, fmt.Sprint(id, ": ", words, " ", err))
			continue
		}
		want := c.acknowledged[id]
		if got != want && !(c.triedID == id && got == c.tried) {
			wrong = append(wrong, fmt.Sprintf("%s: is %d, acknowledged was %d", id, got, want))
		}
		c.acknowledged[id] = got // from here on
	}
	c.triedID = ""
	return wrong
}

// Nothing acknowledged is lost, wherever a SIGKILL falls among 10 000 changes
// of 16 clients, and the file is whole each time. There are 200 kills; the short
// form has fewer, and they come earlier.
func TestKilledAtAnyMoment(t *testing.T) {
	rounds, among, limit := 200, changes, time.Duration(0)
	if !long() {
		rounds, among, limit = 25, changes/10, 35*time.Second
	}
	h := newHome(t)
	all := make([]*crasher, clients)
	for n := range all {
		all[n] = &crasher{n: n, conn: h.dial(), acknowledged: make(map[string]uint32)}
	}
	begin := time.Now()
	total := 0
	for round := range rounds {
		if limit != 0 && time.Since(begin) > limit {
			rounds = round
			break
		}
		p := h.daemon()
		kill := int64(1 + rand.IntN(among))
		var done atomic.Int64
		var wg sync.WaitGroup
		ctx, cancel := context.WithTimeout(context.Background(), 2*deadline)
		for _, c := range all {
			wg.Go(func() {
				for done.Load() < int64(changes) {
					if c.change(ctx) != nil {
						return
					}
					if done.Add(1) == kill {
						// Not at the moment of a reply.
						time.AfterFunc(time.Duration(rand.IntN(3000))*time.Microsecond, func() { p.cmd.Process.Kill() })
					}
				}
			})
		}
		wg.Wait()
		cancel()
		p.stop(syscall.SIGKILL)
		total += int(done.Load())
		if done.Load() < kill {
			t.Fatalf("round %d: %d of %d changes\n%s", round, done.Load(), kill, &p.log)
		}
		if out, errs, status := h.run("check"); status != 0 || !strings.HasSuffix(out, "problems: 0\n") {
			t.Fatalf("round %d: check: exit status %d\n%s%s", round, status, out, errs)
		}
		p = h.daemon()
		wrong := make([][]string, clients)
		for i, c := range all {
			wg.Go(func() { wrong[i] = c.verify(c.conn) })
		}
		wg.Wait()
		if w := slices.Concat(wrong...); len(w) > 0 {
			t.Fatalf("round %d, killed after %d changes: %d wrong:\n%s", round, kill, len(w), strings.Join(w, "\n"))
		}
		if round%2 == 0 { // else the next one begins after an unclean end
			p.stop(syscall.SIGTERM)
		} else {
			p.stop(syscall.SIGKILL)
		}
	}
	if found, _ := filepath.Glob(filepath.Join(h.store(), "*.corrupt-*")); len(found) > 0 {
		t.Errorf("a whole file was taken for damaged: %v", found)
	}
	t.Logf("%d kills, %d acknowledged changes, %v", rounds, total, time.Since(begin).Round(time.Second))
}

// The writes of a commit cut short at every page, and in the middle of it: the
// daemon starts, says what it did, and has the last state or the one before.
func TestACommitCutShort(t *testing.T) {
	h := newHome(t)
	p := h.daemon()
	const n = 300
	for i := range n {
		must(t, perm(h.conn, "SetPermission", "sbssas", []any{"t", true, fmt.Sprint("id", i), "org.a.A", []string{"old", strings.Repeat("x", i)}}))
	}
	file := filepath.Join(h.store(), "permissions.db")
	before, err := os.ReadFile(file)
	must(t, err)
	data, err := bus.ValueOf("ay", make([]byte, 20000))
	must(t, err)
	must(t, perm(h.conn, "Set", "sbsa{sas}v", []any{"t", true, "id7", map[string][]string{"org.a.A": {"new"}}, data}))
	after, err := os.ReadFile(file)
	must(t, err)
	p.stop(syscall.SIGKILL)
	lock, err := os.ReadFile(filepath.Join(h.store(), "permissions.lock"))
	must(t, err)
	size := os.Getpagesize()
	state := append(bytes.Clone(before), make([]byte, len(after)-len(before))...)
	var changed []int // bbolt writes the pages in their order and a meta page last
	for page := 2; page < len(after)/size; page++ {
		if !bytes.Equal(state[page*size:(page+1)*size], after[page*size:(page+1)*size]) {
			changed = append(changed, page)
		}
	}
	for page := range 2 {
		if !bytes.Equal(state[page*size:(page+1)*size], after[page*size:(page+1)*size]) {
			changed = append(changed, page)
		}
	}
	outcomes := map[string]int{}
	try := func(what string, file []byte) {
		g := newHome(t)
		must(t, os.Mkdir(g.store(), 0o700))
		must(t, os.WriteFile(filepath.Join(g.store(), "permissions.db"), file, 0o600))
		must(t, os.WriteFile(filepath.Join(g.store(), "permissions.lock"), lock, 0o600))
		p := g.daemon()
		var ids []string
		must(t, perm(g.conn, "List", "s", []any{"t"}, &ids))
		var e entry
		must(t, perm(g.conn, "Lookup", "ss", []any{"t", "id7"}, &e.Permissions, &e.Data))
		state := "the last"
		if e.Permissions["org.a.A"][0] == "old" {
			state = "the one before"
		}
		if len(ids) != n || len(e.Permissions["org.a.A"]) == 2 != (state == "the one before") {
			t.Errorf("%s: %d ids, %v", what, len(ids), e.Permissions)
		}
		p.stop(syscall.SIGTERM)
		aside, _ := filepath.Glob(filepath.Join(g.store(), "*.corrupt-*"))
		if said := strings.Contains(p.log.String(), "damaged"); said != (len(aside) > 0) {
			t.Errorf("%s: said %v, aside %v", what, said, aside)
		}
		if len(aside) > 0 {
			state += ", salvaged"
		}
		outcomes[state]++
		g.mustRun("check")
		g.bus.Stop()
	}
	for i, page := range changed {
		half := bytes.Clone(state)
		copy(half[page*size:], after[page*size:page*size+size/2])
		if page < 2 { // a meta page has 80 bytes
			copy(half[page*size:(page+1)*size], state[page*size:(page+1)*size])
			copy(half[page*size:], after[page*size:page*size+40])
		}
		try(fmt.Sprintf("page %d of %d, a half", i, len(changed)), half)
		copy(state[page*size:(page+1)*size], after[page*size:(page+1)*size])
		try(fmt.Sprintf("page %d of %d", i, len(changed)), state)
	}
	if len(changed) < 8 || outcomes["the last"] != 1 || outcomes["the one before"] == 0 {
		t.Errorf("%d pages, outcomes %v", len(changed), outcomes)
	}
	t.Logf("%d pages: %v", len(changed), outcomes)
}

// A damaged file is moved aside; what can be read of it, or is in the last
// copy, is served, and the log counts it.
func TestADamagedFile(t *testing.T) {
	h := newHome(t)
	p := h.daemon()
	for i := range 500 {
		must(t, perm(h.conn, "SetPermission", "sbssas", []any{"t", true, fmt.Sprintf("%04d", i), "org.a.A", []string{"yes"}}))
	}
	p.stop(syscall.SIGTERM) // makes the copy
	file := filepath.Join(h.store(), "permissions.db")
	info, err := os.Stat(file)
	must(t, err)
	must(t, os.Truncate(file, info.Size()/2))
	if _, errs, status := h.run("check"); status != 1 || errs == "" {
		t.Errorf("check of a damaged file: exit status %d, %q", status, errs)
	}
	p = h.daemon()
	var ids []string
	must(t, perm(h.conn, "List", "s", []any{"t"}, &ids))
	if len(ids) != 500 {
		t.Errorf("%d ids", len(ids))
	}
	p.stop(syscall.SIGTERM)
	for _, want := range []string{"recovered=", "from copy", "lost=0", "moved aside"} {
		if !strings.Contains(p.log.String(), want) {
			t.Errorf("the log does not say %q", want)
		}
	}
	h.mustRun("check")
	// By command, without a daemon.
	must(t, os.Truncate(file, info.Size()/2))
	if out, _, status := h.run("check", "--repair"); status != 0 || !strings.Contains(out, "entries: 500, problems: 0") {
		t.Errorf("check --repair: exit status %d, %q", status, out)
	}
}

// A home that cannot be written, or is not there: everything works until the
// end, after one warning, and what was granted before holds.
func TestAHomeThatCannotBeWritten(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(h *home)
		before  bool // there are earlier entries
	}{
		"read-only": {func(h *home) {
			must(t, os.Chmod(h.data(), 0o500))
			must(t, os.Chmod(h.store(), 0o500))
			for _, f := range []string{"permissions.db", "permissions.lock"} {
				must(t, os.Chmod(filepath.Join(h.store(), f), 0o400))
			}
		}, true},
		"read-only and empty": {func(h *home) { must(t, os.RemoveAll(h.store())); must(t, os.Chmod(h.data(), 0o500)) }, false},
		"missing": {func(h *home) {
			must(t, os.RemoveAll(h.data()))
			must(t, os.WriteFile(h.data(), nil, 0o400))
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHome(t)
			p := h.daemon()
			must(t, perm(h.conn, "SetPermission", "sbssas", []any{"t", true, "early", "org.a.A", []string{"yes"}}))
			p.stop(syscall.SIGTERM)
			c.prepare(h)
			defer os.Chmod(h.data(), 0o700)
			defer os.Chmod(h.store(), 0o700)
			p = h.daemon()
			must(t, perm(h.conn, "SetPermission", "sbssas", []any{"t", true, "late", "org.a.A", []string{"yes"}}))
			var ids []string
			must(t, perm(h.conn, "List", "s", []any{"t"}, &ids))
			want := "late"
			if c.before {
				want = "early late"
			}
			if got := strings.Join(ids, " "); got != want {
				t.Errorf("ids %q, want %q", got, want)
			}
			mountPoint(t, h.conn)
			f := filepath.Join(h.home(), "f")
			must(t, os.WriteFile(f, []byte("text"), 0o600))
			id := addFiles(t, h.conn, "org.a.A", []string{"read"}, f)[0]
			if b, err := os.ReadFile(filepath.Join(mountPoint(t, h.conn), id, "f")); err != nil || string(b) != "text" {
				t.Errorf("%q, %v", b, err)
			}
			p.stop(syscall.SIGTERM)
			if n := strings.Count(p.log.String(), "permissions will be forgotten"); n != 1 {
				t.Errorf("%d warnings:\n%s", n, &p.log)
			}
		})
	}
}

// A second daemon, on another bus, refuses each call and changes nothing; the
// commands of the first one's user go through the first one.
func TestTwoProcesses(t *testing.T) {
	h := newHome(t)
	first := h.daemon()
	must(t, perm(h.conn, "SetPermission", "sbssas", []any{"t", true, "1", "org.a.A", []string{"yes"}}))
	other := newHome(t)
	for i, kv := range other.env {
		if strings.HasPrefix(kv, "XDG_DATA_HOME=") {
			other.env[i] = "XDG_DATA_HOME=" + h.data()
		}
	}
	second := other.daemon()
	err := perm(other.conn, "SetPermission", "sbssas", []any{"t", true, "2", "org.a.A", []string{"yes"}})
	if errorName(err) != "Failed" || !strings.Contains(err.Error(), "another session bus") {
		t.Errorf("the second: %v", err)
	}
	if _, errs, status := other.run("check"); status != 1 || !strings.Contains(errs, "another session bus") {
		t.Errorf("check on the second bus: exit status %d, %q", status, errs)
	}
	if out := h.mustRun("check"); out != "entries: 1, problems: 0\n" {
		t.Errorf("check on the first bus: %q", out)
	}
	if out := h.mustRun("check", "--repair"); out != "entries: 1, problems: 0\n" {
		t.Errorf("check --repair on the first bus: %q", out)
	}
	second.stop(syscall.SIGTERM)
	must(t, perm(h.conn, "SetPermission", "sbssas", []any{"t", true, "2", "org.a.A", []string{"yes"}}))
	first.stop(syscall.SIGTERM)
	h.mustRun("check")
}

// A file of a newer version is refused, by everything, and left as it is.
func TestANewerSchema(t *testing.T) {
	h := newHome(t)
	p := h.daemon()
	must(t, perm(h.conn, "SetPermission", "sbssas", []any{"t", true, "1", "org.a.A", []string{"yes"}}))
	p.stop(syscall.SIGTERM)
	setSchema(t, filepath.Join(h.store(), "permissions.db"), 99)
	before := files(t, h.store())
	p = h.daemon()
	err := perm(h.conn, "List", "s", []any{"t"}, new([]string))
	if errorName(err) != "Failed" || !strings.Contains(err.Error(), "newer version") {
		t.Errorf("List: %v", err)
	}
	if err := doc(h.conn, "GetMountPoint", "", nil, new([]byte)); errorName(err) != "Failed" {
		t.Errorf("GetMountPoint: %v", err)
	}
	p.stop(syscall.SIGTERM)
	for _, args := range [][]string{{"check"}, {"check", "--repair"}, {"prune"}, {"import", h.dir}, {"export", filepath.Join(h.dir, "out")}} {
		if _, errs, status := h.run(args...); status != 1 || !strings.Contains(errs, "newer version") {
			t.Errorf("%v: exit status %d, %q", args, status, errs)
		}
	}
	after := files(t, h.store())
	if len(after) != len(before) || after[filepath.Join(h.store(), "permissions.db")] != before[filepath.Join(h.store(), "permissions.db")] {
		t.Error("the file is not as it was")
	}
}
