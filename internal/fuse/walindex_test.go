package fuse

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// written are the transactions that SQLite has reported as committed.
type written struct {
	mu    sync.Mutex
	done  []string
	lives int // of programs
	// errs lets programs be told of errors.
	errs bool
}

// writes has a program write to a database until the end, and another one after
// it when it ends or is told that something is wrong. life is called with each.
func (w *written) writes(t testing.TB, start func() *client, name string, seed uint64, end time.Time, life func(c *client, rnd *rand.Rand) (over func())) {
	rnd := rand.New(rand.NewPCG(seed, 2))
	for n := 0; time.Now().Before(end); n++ {
		name := fmt.Sprint(name, n)
		c := start()
		over := life(c, rnd)
		for i := 0; time.Now().Before(end); i++ {
			if got := c.do(transfer(rnd, name, i), fmt.Sprint(i)); got != fmt.Sprint(i) {
				if got != "ended" && !w.errs {
					t.Errorf("%s: %s", name, got)
				}
				break
			}
			w.mu.Lock()
			w.done = append(w.done, fmt.Sprintf("%s|%d", name, i))
			w.mu.Unlock()
		}
		over()
		c.cmd.Process.Kill()
		c.cmd.Wait()
		w.mu.Lock()
		w.lives++
		w.mu.Unlock()
	}
}

// killed has programs write to databases at the same time until the end, each
// until it is killed: after least, and up to 400 ms more.
func (w *written) killed(r *rig, end time.Time, least time.Duration, places ...databasePlace) {
	var wg sync.WaitGroup
	for i, p := range places {
		wg.Go(func() {
			w.writes(r, func() *client { return r.sqlite(p.app, p.db, "PRAGMA wal_autocheckpoint=50;") },
				string(rune('a'+i)), uint64(i), end, func(c *client, rnd *rand.Rand) func() {
					dies := time.AfterFunc(least+time.Duration(rnd.IntN(400))*time.Millisecond, func() { c.cmd.Process.Kill() })
					return func() { dies.Stop() }
				})
		})
	}
	wg.Wait()
}

// databasePlace is where a program sees a database: in an app's sandbox, or on the
// host if app is "".
type databasePlace struct{ app, db string }

// wantTransactions wants a sound database with so many of them.
func wantTransactions(t testing.TB, db string, n int) {
	t.Helper()
	out, err := exec.Command("sqlite3", db, "PRAGMA integrity_check; SELECT count(*) FROM log;").CombinedOutput()
	if want := fmt.Sprintf("ok\n%d\n", n); string(out) != want || err != nil {
		t.Errorf("%s %v, want %s", out, err, want)
	}
}

// verify wants every one of them in the database.
func (w *written) verify(t testing.TB, db string) {
	t.Helper()
	out, err := exec.Command("sqlite3", db, "PRAGMA integrity_check; SELECT sum(v) FROM account; SELECT w, i FROM log;").CombinedOutput()
	lines := strings.Split(string(out), "\n")
	if err != nil || len(lines) < 2 || lines[0] != "ok" || lines[1] != "0" {
		t.Fatalf("%.300s %v", out, err)
	}
	there := make(map[string]bool)
	for _, l := range lines[2:] {
		there[l] = true
	}
	lost := 0
	for _, d := range w.done {
		if !there[d] {
			lost++
			if lost < 10 {
				t.Errorf("%s is lost", d)
			}
		}
	}
	t.Logf("%d transactions, %d lost, %d programs", len(w.done), lost, w.lives)
}

// TestALogOutlivesTheServer kills the server, at any moment, while programs in a
// view and on the host write to a database with a write-ahead log. Who was told
// that his transaction is committed finds it.
func TestALogOutlivesTheServer(t *testing.T) {
	during := 3 * time.Second
	if long() {
		during = 100 * time.Second
	}
	tree := filepath.Join(t.TempDir(), "tree")
	must(t, os.Mkdir(tree, 0o755))
	db := filepath.Join(tree, "db")
	if out, err := exec.Command("sqlite3", db, "PRAGMA journal_mode=wal;"+bank).CombinedOutput(); err != nil {
		t.Fatalf("%s %v", out, err)
	}
	s := newSurvivor(t, survivorSettings{Files: map[string]string{"d1": tree}})
	w := written{errs: true}
	var wg sync.WaitGroup
	end := time.Now().Add(during)
	for i, path := range []string{s.in("d1", "tree", "db"), s.in("d1", "tree", "db"), db} {
		wg.Go(func() {
			w.writes(t, func() *client {
				return startSQLite(t, exec.Command("sqlite3", "-bail", path), 300*time.Millisecond, "PRAGMA wal_autocheckpoint=50;")
			}, string(rune('a'+i)), uint64(i), end, func(*client, *rand.Rand) func() { return func() {} })
		})
	}
	rnd, kills := rand.New(rand.NewPCG(1, 1)), 0
	for time.Now().Before(end) {
		time.Sleep(time.Duration(50+rnd.IntN(250)) * time.Millisecond)
		s.kill()
		kills++
	}
	wg.Wait()
	w.verify(t, db)
	s.end()
	if strings.Contains(s.log.String(), "exit status") {
		t.Error("the server died by itself")
	}
	t.Log(kills, "kills")
	if len(w.done) < kills {
		t.Error("hardly anything was done")
	}
}

// TestPagesThatDoNotArriveLoseNothing takes a document away from an app whose
// transactions are in the log, and in its own pages of the index, but not yet in
// anybody else's.
func TestPagesThatDoNotArriveLoseNothing(t *testing.T) {
	r := newRig(t)
	r.view.fs.indexTurn = time.Hour // although the host wants it the writer joins the reader
	tree := r.dirDoc("d1")
	db, seen := filepath.Join(tree, "db"), "$DOC/d1/tree/db"
	r.run("", "sqlite3 "+db+" 'PRAGMA journal_mode=wal;"+bank+"'")
	host := r.sqlite("", db, "PRAGMA wal_autocheckpoint=0;")
	defer host.end()
	reader, writer := r.sqlite(testApp, seen, "PRAGMA wal_autocheckpoint=0;"), r.sqlite(testApp, seen, "PRAGMA wal_autocheckpoint=0;")
	rnd := rand.New(rand.NewPCG(1, 1))
	for i := range 3 {
		if got := host.do(transfer(rnd, "host", i), "done"); got != "done" {
			t.Fatal(got)
		}
	}
	if got := reader.do("BEGIN; SELECT count(*) FROM log;", "done"); got != "3" {
		t.Fatal(got)
	}
	for i := range 3 {
		if got := writer.do(transfer(rnd, "app", i), "done"); got != "done" {
			t.Fatal(got)
		}
	}
	r.docs.grant(testApp, "d1", Access{})
	r.view.Invalidate("d1")
	for _, c := range []*client{reader, writer} {
		c.cmd.Process.Kill()
		c.cmd.Wait()
	}
	for i := range 3 {
		if got := host.do(transfer(rnd, "host again", i), "done"); got != "done" {
			t.Fatal(got)
		}
	}
	host.do("PRAGMA integrity_check;", "done")
	if got := host.out.Text(); got != "ok" {
		t.Error(got)
	}
	host.out.Scan()
	if got := host.do("SELECT count(*), sum(w='app') FROM log;", "done"); got != "9|3" {
		t.Errorf("%s transactions, of which so many are the app's, want 9|3", got)
	}
}

// TestManyOpenALogAtOnce has programs in two views and on the host come and go,
// so that again and again one is the first, who makes the index, and one the
// last, who removes it.
func TestManyOpenALogAtOnce(t *testing.T) {
	r := newRig(t)
	tree := r.dirDoc("d1")
	r.docs.grant(otherApp, "d1", Access{Read: true, Write: true})
	db := filepath.Join(tree, "db")
	r.run("", "sqlite3 "+db+" 'PRAGMA journal_mode=wal;"+bank+"'")
	rounds := 12
	if long() {
		rounds = 1000
	}
	done := 0
	for i := range rounds {
		var wg sync.WaitGroup
		for j, path := range []string{r.in(testApp, "d1", "tree", "db"), r.in(testApp, "d1", "tree", "db"), r.in(otherApp, "d1", "tree", "db"), db} {
			done++
			wg.Go(func() {
				sql := fmt.Sprintf("INSERT INTO log(w, i) VALUES('%d', %d);", j, i)
				if out, err := exec.Command("sqlite3", "-bail", "-cmd", ".timeout 30000", path, sql).CombinedOutput(); err != nil {
					t.Errorf("round %d, %s: %s %v", i, path, out, err)
				}
			})
		}
		wg.Wait()
	}
	wantTransactions(t, db, done)
}

// TestADatabaseMadeInAView: of a file that became a database after it was opened
// the kernel has pages, and they are right all the same.
func TestADatabaseMadeInAView(t *testing.T) {
	r := newRig(t)
	tree := r.dirDoc("d1")
	db, seen := filepath.Join(tree, "db"), "$DOC/d1/tree/db"
	app := r.sqlite(testApp, seen, "PRAGMA journal_mode=wal;")
	defer app.end()
	if got := app.do(bank, "made"); got != "made" {
		t.Fatal(got)
	}
	host := r.sqlite("", db, "PRAGMA wal_autocheckpoint=0;")
	defer host.end()
	rounds := 60
	if long() {
		rounds = 20_000
	}
	for i := range rounds {
		if got := host.do(fmt.Sprintf("UPDATE account SET v=%d; PRAGMA wal_checkpoint(TRUNCATE);", i), "done"); got != "0|0|0" {
			t.Fatal(got)
		}
		host.out.Scan()
		if got, want := app.do("SELECT min(v), max(v) FROM account;", "done"), fmt.Sprintf("%d|%d", i, i); got != want {
			t.Fatalf("the app sees %s, want %s", got, want)
		}
		app.out.Scan()
	}
}

// loggedDoc makes a file document of a database that has a write-ahead log.
func (r *rig) loggedDoc(id string) (host string) {
	r.Helper()
	host = filepath.Join(r.dir(id+".d"), "db")
	r.run("", "sqlite3 "+host+" 'PRAGMA journal_mode=wal;"+bank+"'")
	r.docs.add(r, id, host)
	r.docs.grant(testApp, id, Access{Read: true, Write: true})
	return host
}

// TestALoggedDatabaseAsAFile: programs in a sandbox that has the file alone, in
// one that has its directory, and on the host, killed now and then.
func TestALoggedDatabaseAsAFile(t *testing.T) {
	during := 2 * time.Second
	if long() {
		during = 60 * time.Second
	}
	r := newRig(t)
	host := r.loggedDoc("f1")
	r.docs.add(t, "d1", filepath.Dir(host))
	r.docs.grant(otherApp, "d1", Access{Read: true, Write: true})
	var w written
	w.killed(r, time.Now().Add(during), 200*time.Millisecond,
		databasePlace{testApp, "$DOC/f1/db"}, databasePlace{testApp, "$DOC/f1/db"}, databasePlace{otherApp, "$DOC/d1/f1.d/db"}, databasePlace{"", host})
	w.verify(t, host)
	r.run(testApp, "sqlite3 $DOC/f1/db 'SELECT count(*) FROM log' >/dev/null; ls -A $DOC/f1 >/tmp/l; test $(cat /tmp/l) = db")
	if left := names(t, filepath.Dir(host)); len(left) != 1 {
		t.Errorf("left: %q", left)
	}
}

// TestWhatAHostHasCommittedIsInTheFile: the log of a program that was killed is
// there for an app that has the file, also to read it only.
func TestWhatAHostHasCommittedIsInTheFile(t *testing.T) {
	r := newRig(t)
	host := r.loggedDoc("f1")
	r.docs.grant(otherApp, "f1", Access{Read: true})
	c := r.sqlite("", host, "PRAGMA wal_autocheckpoint=0;")
	if got := c.do(transfer(rand.New(rand.NewPCG(1, 1)), "host", 1), "done"); got != "done" {
		t.Fatal(got)
	}
	r.run(otherApp, `test "$(sqlite3 -readonly $DOC/f1/db 'SELECT w FROM log')" = host`)
	c.cmd.Process.Kill()
	c.cmd.Wait()
	r.run(testApp, `test "$(sqlite3 $DOC/f1/db 'SELECT w FROM log')" = host`)
}

// TestOnlyTheLogOfADatabaseIsBeside: other files of such names are nobody's but
// their owner's, and what an app makes is a temp file.
func TestOnlyTheLogOfADatabaseIsBeside(t *testing.T) {
	r := newRig(t)
	host := r.loggedDoc("f1")
	text := r.fileDoc("f2", "text")
	rollback := filepath.Join(r.dir("f3.d"), "db")
	r.run("", "sqlite3 "+rollback+" 'CREATE TABLE t(x)'")
	r.docs.add(t, "f3", rollback)
	r.docs.grant(testApp, "f3", Access{Read: true, Write: true})
	elsewhere := r.file("elsewhere", "\x37\x7f\x06\x82")
	for _, p := range []struct {
		id, host, name string
		plant          func(path string) error
	}{
		{"f1", host, "db-journal", nil},
		{"f1", host, "db-wal2", nil},
		{"f1", host, "db-wal", func(path string) error { return os.WriteFile(path, []byte("notes"), 0o600) }},
		{"f1", host, "db-shm", func(path string) error { return os.WriteFile(path, []byte("notes"), 0o600) }},
		{"f1", host, "db-wal", func(path string) error { return os.Symlink(elsewhere, path) }},
		{"f1", host, "db-wal", func(path string) error { return os.Symlink(elsewhere+"-missing", path) }},
		{"f1", host, "db-shm", func(path string) error { return os.Mkdir(path, 0o700) }},
		{"f2", text, "file.txt-wal", nil},
		{"f2", text, "file.txt-wal", func(path string) error { return os.WriteFile(path, []byte("\x37\x7f\x06\x82"), 0o600) }},
		{"f3", rollback, "db-wal", nil},
		{"f3", rollback, "db-shm", func(path string) error { return os.WriteFile(path, nil, 0o600) }},
	} {
		at, seen := filepath.Join(filepath.Dir(p.host), p.name), r.in(testApp, p.id, p.name)
		var before string
		if p.plant != nil {
			must(t, p.plant(at))
			b, _ := os.ReadFile(at)
			before = string(b)
		}
		if _, err := os.Lstat(seen); err == nil {
			t.Errorf("%s of the host is seen", p.name)
		}
		if err := os.Remove(seen); err == nil {
			t.Errorf("%s of the host can be removed", p.name)
		}
		must(t, os.WriteFile(seen, []byte("the app's"), 0o600))
		wantContent(t, seen, "the app's")
		if p.plant == nil {
			if _, err := os.Lstat(at); err == nil {
				t.Errorf("%s is made on the host", p.name)
			}
		} else if b, _ := os.ReadFile(at); string(b) != before {
			t.Errorf("%s of the host has changed", p.name)
		}
		must(t, os.Remove(seen))
		if p.plant != nil {
			must(t, os.Remove(at))
		}
	}
	wantContent(t, elsewhere, "\x37\x7f\x06\x82")
	if _, err := os.Lstat(elsewhere + "-missing"); err == nil {
		t.Error("a file was made elsewhere")
	}
	// The log is not to be renamed, nor anything to become it.
	must(t, os.WriteFile(r.in(testApp, "f1", "db-wal"), nil, 0o600))
	must(t, os.WriteFile(r.in(testApp, "f1", "other"), nil, 0o600))
	wantErr(t, "rename a log", os.Rename(r.in(testApp, "f1", "db-wal"), r.in(testApp, "f1", "other")), syscall.EPERM)
	wantErr(t, "rename to a log", os.Rename(r.in(testApp, "f1", "other"), r.in(testApp, "f1", "db-wal")), syscall.EPERM)
}

// TestAFileIsNotedAsADatabaseOnce, wherever an app moves it and locks it again,
// and as none when nobody has it any more.
func TestAFileIsNotedAsADatabaseOnce(t *testing.T) {
	r := newRig(t)
	r.dirDoc("d1")
	noted := func() (n int) {
		nodes := r.view.fs.nodes
		nodes.mu.Lock()
		defer nodes.mu.Unlock()
		for _, v := range nodes.views {
			n += len(v.cached)
		}
		return n
	}
	at := func(i int) string { return r.in(testApp, "d1", "tree", fmt.Sprint("db", i)) }
	f, err := os.Create(at(0))
	must(t, err)
	defer f.Close()
	for i := range 20 {
		lk := unix.Flock_t{Type: unix.F_WRLCK, Start: lockedBytes, Len: 1}
		must(t, unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lk))
		if n := noted(); n != 1 {
			t.Fatalf("moved %d times: noted %d times", i, n)
		}
		lk.Type = unix.F_UNLCK
		must(t, unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lk))
		must(t, os.Rename(at(i), at(i+1)))
	}
	must(t, f.Close())
	must(t, os.Remove(at(20)))
	eventually(t, "it is noted no more", func() bool { return noted() == 0 })
}
