package fuse

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// sandboxed is a shell script in a sandbox that has the app's view as /doc, as
// a launcher makes it; with app "" it runs on the host, where $DOC is the view.
func (r *rig) sandboxed(app, script string) *exec.Cmd {
	r.Helper()
	if app == "" {
		cmd := exec.Command("/bin/sh", "-euc", script)
		cmd.Env = append(os.Environ(), "DOC="+r.mnt)
		return cmd
	}
	cmd := exec.Command("bwrap", "--unshare-pid", "--die-with-parent", "--ro-bind", "/usr", "/usr",
		"--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64",
		"--ro-bind", "/etc", "/etc", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp",
		"--bind", r.in(app), "/doc", "--setenv", "DOC", "/doc", "--setenv", "HOME", "/tmp",
		"--chdir", "/tmp", "/bin/sh", "-euc", script)
	return cmd
}

func (r *rig) run(app, script string) {
	r.Helper()
	if out, err := r.sandboxed(app, script).CombinedOutput(); err != nil {
		r.Errorf("%v\n%s", err, out)
	}
}

// bank is a database of accounts whose sum is 0 after every transaction, and of
// what transactions there were.
const bank = `CREATE TABLE account(id INTEGER PRIMARY KEY, v INTEGER, pad TEXT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<200) INSERT INTO account SELECT i, 0, hex(randomblob(150)) FROM n;
CREATE TABLE log(n INTEGER PRIMARY KEY AUTOINCREMENT, w TEXT, i INTEGER, UNIQUE(w, i));`

// client is a program that works on the database: it obeys SQL on its input.
type client struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

// sqlite starts SQLite's command line on the host or in an app's sandbox.
func (r *rig) sqlite(app, db, pragma string) *client {
	r.Helper()
	// Its input may come in before it has read the last.
	return startSQLite(r, r.sandboxed(app, "exec sqlite3 -bail "+db+" 2>&1"), 100*time.Second, pragma)
}

// startSQLite starts cmd, which is SQLite's command line, and waits for locks for
// as long as patience. pragma, its first command, has an answer.
func startSQLite(t testing.TB, cmd *exec.Cmd, patience time.Duration, pragma string) *client {
	t.Helper()
	c := &client{cmd: cmd}
	var err error
	c.in, err = c.cmd.StdinPipe()
	must(t, err)
	out, err := c.cmd.StdoutPipe()
	must(t, err)
	if c.cmd.Stderr == nil {
		c.cmd.Stderr = c.cmd.Stdout
	}
	c.out = bufio.NewScanner(out)
	must(t, c.cmd.Start())
	t.Cleanup(func() { c.cmd.Process.Kill(); c.cmd.Wait() })
	fmt.Fprintf(c.in, ".timeout %d\nPRAGMA synchronous=OFF;\n%s\n", patience.Milliseconds(), pragma)
	c.out.Scan() // what the pragma says
	return c
}

// do makes one transaction, and returns what the program says of it.
func (c *client) do(sql, done string) string {
	io.WriteString(c.in, sql+"\nSELECT '"+done+"';\n")
	if !c.out.Scan() {
		return "ended"
	}
	return c.out.Text()
}

// end ends the program.
func (c *client) end() {
	c.in.Close()
	c.cmd.Wait()
}

// transfer is the i-th transaction of w.
func transfer(rnd *rand.Rand, w string, i int) string {
	from, to := 1+rnd.IntN(200), 1+rnd.IntN(200)
	return fmt.Sprintf("BEGIN IMMEDIATE; UPDATE account SET v=v-1 WHERE id=%d; UPDATE account SET v=v+1 WHERE id=%d; INSERT INTO log(w, i) VALUES('%s', %d); COMMIT;", from, to, w, i)
}

// TestSQLite has four writers on one database, two in one sandbox, one in
// another and one on the host, beside readers in all three places.
func TestSQLite(t *testing.T) {
	for _, mode := range []string{"wal", "wal that only grows", "delete"} {
		t.Run(mode, func(t *testing.T) {
			total, pragma := 400, "PRAGMA wal_autocheckpoint=50;"
			mode, grows := strings.CutSuffix(mode, " that only grows")
			if grows { // beyond what one piece of its index has room for
				total, pragma = 1000, "PRAGMA wal_autocheckpoint=0;"
			}
			if long() {
				total = 10_000
			}
			each := total / 4
			r := newRig(t)
			tree := r.dirDoc("d1")
			r.docs.grant(otherApp, "d1", Access{Read: true, Write: true})
			db, seen := filepath.Join(tree, "db"), "$DOC/d1/tree/db"
			r.run("", "sqlite3 "+db+" 'PRAGMA journal_mode="+mode+";"+bank+"'")
			var wg sync.WaitGroup
			var writing atomic.Int32
			writers := []databasePlace{{testApp, seen}, {testApp, seen}, {otherApp, seen}, {"", db}}
			readers := []databasePlace{{testApp, seen}, {otherApp, seen}, {"", db}}
			if grows && !long() {
				readers = readers[1:2]
			}
			for i, w := range writers {
				writing.Add(1)
				c := r.sqlite(w.app, w.db, pragma)
				name := string(rune('a' + i))
				wg.Go(func() {
					defer c.end()
					defer writing.Add(-1)
					rnd := rand.New(rand.NewPCG(uint64(i), 1))
					for i := range each {
						if got, want := c.do(transfer(rnd, name, i), fmt.Sprint(i)), fmt.Sprint(i); got != want {
							t.Errorf("writer %s, transaction %d: %s", name, i, got)
							return
						}
					}
				})
			}
			for _, w := range readers {
				c := r.sqlite(w.app, w.db, pragma)
				wg.Go(func() {
					defer c.end()
					for i := 0; writing.Load() > 0; i++ {
						got := c.do("SELECT sum(v), (SELECT count(*)-max(n) FROM log) FROM account;", "end")
						if c.out.Scan(); i > 0 && got != "0|0" && got != "0|" {
							t.Errorf("a reader in %q sees %s", w.app, got)
							return
						}
						if i%30 == 29 && !grows {
							c.do("PRAGMA wal_checkpoint("+[]string{"RESTART", "TRUNCATE"}[i%60/30]+");", "end")
							c.out.Scan()
						}
					}
				})
			}
			wg.Wait()
			// How often the next transaction was somebody else's says whether
			// they worked at the same time.
			out, err := exec.Command("sqlite3", db, `PRAGMA integrity_check; SELECT sum(v) FROM account; SELECT count(*) FROM log;
				SELECT count(*) FROM log a, log b WHERE b.n=a.n+1 AND a.w<>b.w;`).CombinedOutput()
			var turns int
			var rest string
			if n, _ := fmt.Sscanf(string(out), fmt.Sprintf("ok\n0\n%d\n%%d%%s", total), &turns, &rest); n != 1 || err != nil {
				t.Errorf("%s %v", out, err)
			}
			t.Log(turns, "turns")
			if want := map[string]int{"wal": total / 50, "delete": 4}[mode]; turns < want {
				t.Errorf("only %d turns: they wait for each other to end", turns)
			}
		})
	}
}

// TestATransactionIsWaitedFor: who begins one while another place is in the middle
// of its own waits for that, sees what it has done, and loses nothing.
func TestATransactionIsWaitedFor(t *testing.T) {
	r := newRig(t)
	tree := r.dirDoc("d1")
	r.docs.grant(otherApp, "d1", Access{Read: true, Write: true})
	db, seen := filepath.Join(tree, "db"), "$DOC/d1/tree/db"
	r.run("", "sqlite3 "+db+" 'PRAGMA journal_mode=wal;"+bank+"'")
	places := []databasePlace{{testApp, seen}, {otherApp, seen}, {"", db}}
	var clients []*client
	for _, p := range places {
		c := r.sqlite(p.app, p.db, "PRAGMA wal_autocheckpoint=0;")
		defer c.end()
		clients = append(clients, c)
	}
	done := 0
	for i, first := range clients {
		begin := []string{"BEGIN IMMEDIATE;", "BEGIN; SELECT count(*) FROM log WHERE n<0;"}
		for _, begin := range begin {
			if got := first.do(begin+" SELECT 'begun';", "x"); got == "0" {
				first.out.Scan()
			}
			if first.out.Text() != "begun" {
				t.Fatalf("%s: %s", begin, first.out.Text())
			}
			first.out.Scan()
			answers := make(chan string, 2)
			for j, c := range clients {
				if j != i {
					go func() { answers <- c.do(fmt.Sprintf("INSERT INTO log(w, i) VALUES('%d', %d);", j, done+j), "done") }()
				}
			}
			select {
			case got := <-answers:
				if places[i].app != "" {
					t.Errorf("%s in %q does not keep others out: %s", begin, places[i].app, got)
				}
				answers <- got
			case <-time.After(200 * time.Millisecond): // not a wait: it must not come
			}
			if got := first.do(fmt.Sprintf("INSERT INTO log(w, i) VALUES('%d', %d); COMMIT;", i, done+i), "done"); got != "done" {
				t.Error(got)
			}
			for range 2 {
				select {
				case got := <-answers:
					if got != "done" {
						t.Errorf("after it: %s", got)
					}
				case <-time.After(30 * time.Second):
					t.Fatal("it never goes on")
				}
			}
			done += 3
			for _, c := range clients {
				if got, want := c.do("SELECT count(*) FROM log;", "end"), fmt.Sprint(done); got != want {
					t.Errorf("%s transactions are seen, %s were done", got, want)
				}
				c.out.Scan()
			}
		}
	}
	wantTransactions(t, db, done)
}

// TestALongTransaction: who reads or writes in a view for longer than SQLite tries to
// begin keeps everybody elsewhere out, and is kept out by those on the host. They are
// told so, and go on when it is over; others in the same place see nothing of it.
func TestALongTransaction(t *testing.T) {
	r := newRig(t)
	var places sync.WaitGroup
	for i, holder := range []string{testApp, ""} {
		id := fmt.Sprint("d", i)
		tree := r.dirDoc(id)
		r.docs.grant(otherApp, id, Access{Read: true, Write: true})
		db := map[string]string{"": filepath.Join(tree, "db"), testApp: "$DOC/" + id + "/tree/db", otherApp: "$DOC/" + id + "/tree/db"}
		r.run("", "sqlite3 "+db[""]+" 'PRAGMA journal_mode=wal;"+bank+"'")
		first := r.sqlite(holder, db[holder], "PRAGMA wal_autocheckpoint=0;")
		clients := make(map[string]*client)
		for app := range db { // without -bail they go on
			clients[app] = startSQLite(r, r.sandboxed(app, "exec sqlite3 "+db[app]+" 2>&1"), 100*time.Second, "PRAGMA wal_autocheckpoint=0;")
		}
		if got := first.do("BEGIN; SELECT count(*) FROM log;", "begun"); got != "0" {
			t.Fatal(got)
		}
		first.out.Scan()
		places.Go(func() {
			var all sync.WaitGroup
			for app, c := range clients {
				all.Go(func() {
					// The host waits for nobody on the host, nor an app for its own.
					got, want := c.do("INSERT INTO log(w, i) VALUES('"+app+"', 1);", "done"), "locking protocol"
					if app == holder {
						want = "done"
					}
					if !strings.Contains(got, want) {
						t.Errorf("%q reads, %q writes: %s", holder, app, got)
					}
					if app != holder {
						c.out.Scan() // done with that
					}
				})
			}
			all.Wait()
			first.do("COMMIT;", "committed")
			for app, c := range clients {
				if got := c.do("INSERT INTO log(w, i) VALUES('"+app+"', 2);", "done"); got != "done" {
					t.Errorf("after %q has read, %q writes: %s", holder, app, got)
				}
			}
			wantTransactions(t, db[""], 4)
		})
	}
	places.Wait()
}

// TestSQLiteKeepsWhatItAcknowledged kills the programs that write, in all
// places, and wants what they were told to be done.
func TestSQLiteKeepsWhatItAcknowledged(t *testing.T) {
	for _, mode := range []string{"wal", "delete"} {
		t.Run(mode, func(t *testing.T) {
			during := 2 * time.Second
			if long() {
				during = 100 * time.Second
			}
			r := newRig(t)
			tree := r.dirDoc("d1")
			r.docs.grant(otherApp, "d1", Access{Read: true, Write: true})
			db, seen := filepath.Join(tree, "db"), "$DOC/d1/tree/db"
			r.run("", "sqlite3 "+db+" 'PRAGMA journal_mode="+mode+";"+bank+"'")
			var w written
			w.killed(r, time.Now().Add(during), 50*time.Millisecond,
				databasePlace{testApp, seen}, databasePlace{testApp, seen}, databasePlace{otherApp, seen}, databasePlace{"", db})
			w.verify(t, db)
		})
	}
}

// TestPrograms has programs as they are work in a directory document.
func TestPrograms(t *testing.T) {
	r := newRig(t)
	tree := r.dirDoc("d1")
	r.fileDoc("f1", "one\n")
	for _, p := range []struct{ name, script string }{
		{"git", `cd $DOC/d1/tree; export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*'
			git init -q a; cd a; git config user.email a@example.org; git config user.name a
			i=0; while [ $i -lt 20 ]; do echo $i >f$i; i=$((i+1)); done; ln -s f1 link; chmod +x f2
			git add .; git commit -qm one; git checkout -qb other; echo x >f1; rm f3; git commit -qam two
			cd ..; git clone -q a b; cd b; git checkout -q HEAD~1; test -f f3; git checkout -q other; test ! -e f3
			git gc -q; git fsck --strict; test -z "$(git status --porcelain)"; test -L link; test -x f2`},
		{"tar", `cd $DOC/d1/tree; mkdir t; echo x >t/f; ln t/f t/g; ln -s f t/l; truncate -s 1M t/sparse; touch -d @1000000000 t/f
			tar -cSf t.tar t; mv t old; tar -xpf t.tar; tar -df t.tar; test t/f -ef t/g; test $(stat -c %Y t/f) = 1000000000`},
		{"rsync", `cd $DOC/d1/tree; mkdir r; echo x >r/f; ln r/f r/g; ln -s f r/l; chmod 640 r/f
			rsync -aHA --checksum r/ s/; test s/f -ef s/g; test -z "$(rsync -aHAi --checksum r/ s/)"`},
		// The host path is listed and may not be set, so whoever copies all
		// attributes of a document leaves it out.
		{"rsync -X", `cd $DOC/d1/tree; mkdir x; echo x >x/f; setfattr -n user.a -v b x/f
			rsync -aHAX --filter='-x user.document-portal.*' --checksum x/ y/; test "$(getfattr --only-values -n user.a y/f)" = b`},
		{"rsync -X from elsewhere", `umask 022; mkdir -p /tmp/src/sub; cd /tmp/src; echo x >f; ln f g; ln -s f l; echo y >sub/h; chmod 640 sub/h; setfattr -n user.a -v b f
			rsync -aHAX --checksum /tmp/src/ $DOC/d1/tree/in/; rsync -aHAX --checksum /tmp/src/ $DOC/d1/tree/in/; test -z "$(rsync -aHAi --checksum /tmp/src/ $DOC/d1/tree/in/)"
			cd $DOC/d1/tree/in; test "$(getfattr --only-values -n user.a f)" = b; test f -ef g; test "$(stat -c %a sub/h)" = 640
			mkdir /tmp/one; echo four >/tmp/one/file.txt; rsync -aHAX --checksum /tmp/one/file.txt $DOC/f1/; test "$(cat $DOC/f1/file.txt)" = four
			rsync -aHAX --checksum /tmp/one/file.txt $DOC/f1/; test -z "$(rsync -aHAi --checksum /tmp/one/file.txt $DOC/f1/)"`},
		{"tar, cp and dd into a file document", `mkdir /tmp/two; cd /tmp/two; dd if=/dev/urandom of=file.txt bs=64k count=5 2>/dev/null; chmod 640 file.txt; f=$DOC/f1/file.txt
			tar -cf - file.txt | tar -C $DOC/f1 -xpf -; cmp file.txt $f; test $(stat -c %a $f) = 640; tar -C $DOC/f1 -cf - file.txt | tar -df -
			echo x >$f; cp --reflink=auto file.txt $f; cmp file.txt $f; cp --remove-destination file.txt $f; cmp file.txt $f; cp -b file.txt $f; cmp file.txt $f; rm $f~
			dd if=file.txt of=$f bs=4k conv=fsync 2>/dev/null; cmp file.txt $f; dd if=file.txt of=$f bs=4k oflag=direct 2>/dev/null; cmp file.txt $f; test "$(ls $DOC/f1)" = file.txt`},
		{"GIO's atomic save", `cat >/tmp/save.py <<'E'
import os, sys
from gi.repository import Gio, GLib
for path in sys.argv[1:]:
    for backup in (False, True):
        f = Gio.File.new_for_path(path)
        for text in (b"short", b"a longer text " * 10000):
            ok, tag = f.replace_contents(text, None, backup, Gio.FileCreateFlags.NONE, None)
            assert ok and f.load_contents(None)[1] == text
            f.replace_contents(text + b"!", tag, backup, Gio.FileCreateFlags.REPLACE_DESTINATION, None)
            assert f.load_contents(None)[1] == text + b"!"
            try:
                f.replace_contents(b"lost", tag, backup, Gio.FileCreateFlags.NONE, None)
                raise SystemExit("a change by somebody else is overwritten")
            except GLib.Error as e:
                assert e.matches(Gio.io_error_quark(), Gio.IOErrorEnum.WRONG_ETAG), e
        if backup:
            assert os.path.exists(path + "~")
            os.remove(path + "~")
    left = [n for n in os.listdir(os.path.dirname(path)) if n.startswith(".gout")]
    assert not left, left
E
			echo x >$DOC/d1/tree/saved; /usr/bin/python3 /tmp/save.py $DOC/d1/tree/saved $DOC/f1/file.txt`},
		{"cp and dd", `cd $DOC/d1/tree; dd if=/dev/urandom of=big bs=64k count=20 conv=fsync 2>/dev/null
			cp --reflink=auto big copy; cmp big copy; cp -a big all; cmp big all; cp --sparse=always big sp; cmp big sp`},
		{"vim", `cd $DOC/d1/tree; echo one >v; vim.tiny -u NONE -es -c 's/one/two/' -c wq v </dev/null || true; test "$(cat v)" = two
			cd $DOC/f1; echo one >file.txt; vim.tiny -u NONE -es -c 's/one/two/' -c wq file.txt </dev/null || true; test "$(cat file.txt)" = two`},
		{"an atomic save", `for d in $DOC/d1/tree $DOC/f1; do cd $d; echo three >.goutputstream-A1B2C3; sync .goutputstream-A1B2C3
			ln file.txt file.txt~ 2>/dev/null || true; mv .goutputstream-A1B2C3 file.txt; test "$(cat file.txt)" = three; done`},
		{"a lock file", `for d in $DOC/d1/tree $DOC/f1; do cd $d; (set -C; echo me >'.~lock.file.txt#'); ! (set -C; echo you >'.~lock.file.txt#') 2>/dev/null
			test "$(cat '.~lock.file.txt#')" = me; rm '.~lock.file.txt#'; test ! -e '.~lock.file.txt#'; done`},
	} {
		t.Run(p.name, func(t *testing.T) {
			r := *r
			r.TB = t
			r.run(testApp, p.script)
		})
	}
	// It is all on the host.
	wantContent(t, filepath.Join(tree, "file.txt"), "three\n")
	out, err := exec.Command("git", "-c", "safe.directory=*", "-C", filepath.Join(tree, "b"), "fsck").CombinedOutput()
	if err != nil || strings.Contains(string(out), "error") {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestAHostThatRemovesClones has git work where the host takes the last clone
// away, whose inode numbers its file system uses again at once.
func TestAHostThatRemovesClones(t *testing.T) {
	r := newRig(t)
	tree := r.dirDoc("d1")
	r.run("", "cd "+r.dir("source")+`; git init -q .; git config user.email a@example.org; git config user.name a
		i=0; while [ $i -lt 100 ]; do mkdir -p d$((i%10)); echo $i >d$((i%10))/f$i; i=$((i+1)); done; git add .; git commit -qm one; echo more >d1/f1; git commit -qam two`)
	must(t, os.Rename(filepath.Join(r.host, "source"), filepath.Join(tree, "source")))
	rounds := 2
	if long() {
		rounds = 40
	}
	for i := range rounds {
		r.run(testApp, `cd $DOC/d1/tree; export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*'
			git clone -q source clone; cd clone; git checkout -q HEAD~1; git gc -q; git fsck --strict; test -z "$(git status --porcelain)"; git checkout -q -
			diff -r -x .git . ../source`)
		if t.Failed() {
			t.Fatal("round", i)
		}
		must(t, os.RemoveAll(filepath.Join(tree, "clone")))
	}
}
