//go:build apps

package apps

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"docportal/integration/session"
)

// TestMain installs everything where an ordinary user can reach it, if that
// was not done by who called, and goes on as that user.
func TestMain(m *testing.M) {
	if os.Getuid() != 0 && os.Getenv("DOCPORTAL_STAGE") != "" {
		os.Exit(m.Run())
	}
	code, err := session.Staged("../..")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

// desktop is a session with a display, a web server and Firefox.
type desktop struct {
	*testing.T
	*session.Session
	screen *Screen
	server *Server
	log    *os.File
	shots  int
}

// download is what the page's link gives: enough for several reads and writes.
var download = bytes.Repeat([]byte("What is downloaded.\n"), 1<<18)

// start starts a session that ends with the test, which fails if the session
// leaves anything behind.
func start(t *testing.T) *desktop {
	t.Helper()
	dir := t.TempDir()
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	d := &desktop{T: t, log: log}
	t.Cleanup(func() {
		log.Close()
		if said, err := os.ReadFile(log.Name()); t.Failed() {
			t.Logf("the session's programs said (%v):\n%s", err, said)
		}
	})
	if d.screen, err = StartScreen(dir, log); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.screen.Close(); err != nil {
			t.Errorf("display: %v", err)
		}
	})
	if d.server, err = StartServer(download); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.server.Close() })
	t.Setenv("DISPLAY", d.screen.Display)
	t.Setenv("XAUTHORITY", d.screen.Authority)
	t.Setenv("WAYLAND_DISPLAY", "")
	if d.Session, err = session.Start(session.Options{Log: log, Display: true}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			d.shot("failed")
		}
		if err := d.Close(); err != nil {
			t.Errorf("after the session: %v", err)
		}
	})
	if err := PrepareFirefox(d.Session); err != nil {
		t.Fatal(err)
	}
	return d
}

// shot keeps a screenshot, if somebody wants them.
func (d *desktop) shot(name string) {
	d.Helper()
	dir := os.Getenv("DOCPORTAL_SHOTS")
	if dir == "" {
		return
	}
	d.shots++
	file := fmt.Sprintf("%s-%d-%s.png", strings.ReplaceAll(d.Name(), "/", "-"), d.shots, name)
	if err := d.screen.Shot(filepath.Join(dir, file)); err != nil {
		d.Error(err)
	}
}

// firefox starts Firefox, which ends with the test at the latest.
func (d *desktop) firefox(options ...string) *Firefox {
	d.Helper()
	f, err := StartFirefox(d.Session, d.log, options...)
	if err != nil {
		d.shot("start")
		d.Fatal(err)
	}
	d.Cleanup(f.Kill)
	return f
}

// in is the desktop in a subtest.
func (d *desktop) in(t *testing.T) *desktop {
	c := *d
	c.T = t
	return &c
}

// must ends the test on an error.
func (d *desktop) must(err error) {
	d.Helper()
	if err != nil {
		d.Fatal(err)
	}
}

// file makes a file in the home directory with size bytes that nobody guesses,
// and returns its path and what the server must get.
func (d *desktop) file(name string, size int64) (string, Received) {
	d.Helper()
	path := filepath.Join(d.Home, name)
	d.must(os.MkdirAll(filepath.Dir(path), 0o755))
	f, err := os.Create(path)
	d.must(err)
	defer f.Close()
	sum := sha256.New()
	random := rand.NewChaCha8([32]byte([]byte(fmt.Sprintf("%-32.32s", filepath.Base(name)))))
	_, err = io.CopyN(io.MultiWriter(f, sum), random, size)
	d.must(err)
	return path, Received{filepath.Base(name), size, hex.EncodeToString(sum.Sum(nil))}
}

// wantUpload checks that these files were sent, in any order.
func (d *desktop) wantUpload(limit time.Duration, want ...Received) {
	d.Helper()
	got, err := d.server.Next(limit)
	if err != nil {
		d.shot("upload")
		d.Fatal(err)
	}
	have := map[Received]int{}
	for _, r := range got {
		have[r]++
	}
	for _, r := range want {
		have[r]--
	}
	for r, n := range have {
		if n != 0 {
			d.Errorf("the server got %+v %+d times\nall: %+v\nwant %+v", r, n, got, want)
		}
	}
}

// choose clicks on something that opens a file dialog and returns that.
func (d *desktop) choose(f *Firefox, selector string) *Dialog {
	d.Helper()
	d.must(f.Click(selector))
	dialog, err := d.screen.AwaitDialog()
	if err != nil {
		d.shot("no-dialog")
		d.Fatal(err)
	}
	return dialog
}

// shortLimit is how long what is no large file may take.
const shortLimit = 60 * time.Second

// megabyte is 2^20 bytes.
const megabyte = 1 << 20

// The file that a person chose arrives at the server, byte for byte.
func TestUpload(t *testing.T) {
	d := start(t)
	f := d.firefox()
	d.must(f.Navigate(d.server.URL))

	t.Run("one file", func(t *testing.T) {
		d := d.in(t)
		path, want := d.file("Documents/letter.txt", 1234)
		dialog := d.choose(f, "#choose-one")
		d.must(dialog.Path(path))
		d.shot("dialog")
		d.must(dialog.Accept())
		d.wantUpload(shortLimit, want)
		d.shot("sent")
	})
	t.Run("a typed name with spaces and umlauts", func(t *testing.T) {
		d := d.in(t)
		path, want := d.file("Documents/über die  Bäume, groß.txt", 4321)
		dialog := d.choose(f, "#choose-one")
		d.must(dialog.Path(path))
		d.must(dialog.Accept())
		d.wantUpload(shortLimit, want)
	})
	t.Run("a name with a newline", func(t *testing.T) {
		d := d.in(t)
		path, want := d.file("odd/two lines\nof a näme.txt", 777)
		d.file("odd/zero.txt", 0)
		dialog := d.choose(f, "#choose-one")
		d.must(dialog.Path(filepath.Dir(path) + "/"))
		d.must(dialog.Keys("Return"))
		d.must(dialog.First())
		d.shot("dialog")
		d.must(dialog.Press())
		// Browsers write a newline in a name like this (HTML, "multipart form data").
		want.Name = strings.ReplaceAll(want.Name, "\n", "%0A")
		d.wantUpload(shortLimit, want)
	})
	t.Run("several files", func(t *testing.T) {
		d := d.in(t)
		var want []Received
		var dir string
		for i, name := range []string{"empty.txt", "a.txt", "b c.txt", "ü.txt", "d\ne.txt"} {
			path, r := d.file("several/"+name, int64(i*1000))
			r.Name = strings.ReplaceAll(r.Name, "\n", "%0A")
			dir, want = filepath.Dir(path), append(want, r)
		}
		dialog := d.choose(f, "#choose-many")
		d.must(dialog.Path(dir + "/"))
		d.must(dialog.Keys("Return"))
		d.must(dialog.First())
		d.must(dialog.Keys("ctrl+a"))
		d.shot("dialog")
		d.must(dialog.Press())
		d.wantUpload(shortLimit, want...)
	})
	t.Run("a directory", func(t *testing.T) {
		d := d.in(t)
		var want []Received
		for i, name := range []string{"1.txt", "deep/er/2 ä.txt", "deep/3.txt"} {
			_, r := d.file("album/"+name, int64(i)*100+1)
			r.Name = "album/" + name
			want = append(want, r)
		}
		dialog := d.choose(f, "#choose-dir")
		d.must(dialog.Path(filepath.Join(d.Home, "album")))
		d.must(dialog.Keys("Return"))
		d.shot("dialog")
		d.must(dialog.Press())
		time.Sleep(3 * time.Second)
		d.shot("confirm")
		d.wantUpload(shortLimit, want...)
	})
	t.Run("a big file", func(t *testing.T) {
		d := d.in(t)
		size, limit := int64(50*megabyte), shortLimit
		if !testing.Short() {
			size, limit = 2048*megabyte+1, 5*time.Minute
		}
		path, want := d.file("big.iso", size)
		dialog := d.choose(f, "#choose-one")
		d.must(dialog.Path(path))
		d.must(dialog.Accept())
		d.wantUpload(limit, want)
		d.must(os.Remove(path))
	})
	d.must(f.Quit())
}

// What is saved lands where the dialog said, complete and alone.
func TestSave(t *testing.T) {
	d := start(t)
	f := d.firefox()
	d.must(f.Navigate(d.server.URL))
	folder := filepath.Join(d.Home, "Saved")
	d.must(os.Mkdir(folder, 0o755))

	t.Run("a download", func(t *testing.T) {
		d := d.in(t)
		dialog := d.choose(f, "#download")
		d.shot("dialog")
		d.must(dialog.Path(folder + "/report of today.bin"))
		d.must(dialog.Accept())
		time.Sleep(3 * time.Second)
		d.shot("after")
		out, _ := exec.Command("ls", "-laR", folder).CombinedOutput()
		d.Logf("%s", out)
	})
	t.Run("a page", func(t *testing.T) {
		d := d.in(t)
		d.must(f.ChromeScript(nil, `document.getElementById("Browser:SavePage").doCommand()`))
		dialog, err := d.screen.AwaitDialog()
		d.must(err)
		d.shot("dialog")
		d.must(dialog.Path(folder + "/page.html"))
		d.shot("dialog")
		d.must(dialog.Accept())
		time.Sleep(3 * time.Second)
		d.shot("after")
		out, _ := exec.Command("ls", "-laR", folder).CombinedOutput()
		d.Logf("%s", out)
	})
	d.must(f.Quit())
}
