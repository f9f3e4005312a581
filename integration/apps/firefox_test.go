package apps

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"docportal/integration/session"
	"docportal/integration/session/sessiontest"
)

// TestMain installs everything where an ordinary user can reach it, if that
// was not done by who called, and goes on as that user.
func TestMain(m *testing.M) {
	os.Exit(sessiontest.Main("../..", func() int {
		code := m.Run()
		if dir := os.Getenv("DOCPORTAL_SHOTS"); dir != "" {
			if err := table.Write(filepath.Join(dir, "table.md")); err != nil {
				fmt.Fprintln(os.Stderr, err)
				code = 1
			}
		}
		return code
	}))
}

// table is what this run saw.
var table Table

// works notes that an application did something, unless the test failed.
func (d *desktop) works(app, column string) {
	if !d.Failed() {
		table.Set(app, column, "yes")
	}
}

// desktop is a session with a display, a web server and Firefox.
type desktop struct {
	testing.TB
	*session.Session
	screen *Screen // if it is an X server's
	shown  camera
	server *Server
	log    *os.File
	shots  int
	first  string // if any, a directory for the front of PATH, when apps are launched
}

// download is what the page's link gives: enough for several reads and writes.
var download = bytes.Repeat([]byte("What is downloaded.\n"), 1<<18)

// start starts a session with an X server, that ends with the test, which fails
// if the session leaves anything behind.
func start(t testing.TB) *desktop {
	t.Helper()
	dir := t.TempDir()
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close() // the display has one of its own
	screen, err := StartScreen(dir, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := screen.Close(); err != nil {
			t.Errorf("display: %v", err)
		}
	})
	d := startOn(t, screen, screen.Display, screen.Authority, "")
	d.screen = screen
	return d
}

// camera takes pictures of a display.
type camera interface{ Shot(file string) error }

// startOn starts a session on a display, which the variables name: DISPLAY,
// XAUTHORITY and WAYLAND_DISPLAY.
func startOn(t testing.TB, shown camera, display, authority, wayland string) *desktop {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	d := &desktop{TB: t, log: log, shown: shown}
	t.Cleanup(func() {
		log.Close()
		if said, err := os.ReadFile(log.Name()); t.Failed() {
			t.Logf("the session's programs said (%v):\n%s", err, said)
		}
	})
	if d.server, err = StartServer(download); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.server.Close() })
	t.Setenv("DISPLAY", display)
	t.Setenv("XAUTHORITY", authority)
	t.Setenv("WAYLAND_DISPLAY", wayland)
	// DOCPORTAL_PEER has the distribution's own document portal in place of
	// ours, to compare.
	d.Session, err = session.Start(session.Options{Log: log, Display: true, SystemPortal: os.Getenv("DOCPORTAL_PEER") != ""})
	if err != nil {
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
	// As in a session in which something was opened before. A start waits two
	// seconds for the document portal, and a machine that does other things may
	// need longer to start that.
	conn, err := d.Connect()
	d.must(err)
	defer conn.Close()
	d.must(conn.Object("org.freedesktop.portal.Documents", "/org/freedesktop/portal/documents").
		Call("org.freedesktop.portal.Documents.GetMountPoint", 0).Err)
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
	if err := d.shown.Shot(filepath.Join(dir, file)); err != nil {
		d.Error(err)
	}
}

// firefox starts Firefox, which ends with the test at the latest.
func (d *desktop) firefox(options ...string) *Firefox {
	d.Helper()
	d.must(PrepareFirefox(d.Session, d.log))
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
	c.TB = t
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

// documents lists what an app was given, as paths on the host.
func (d *desktop) documents(app string) []string {
	d.Helper()
	conn, err := d.Connect()
	d.must(err)
	defer conn.Close()
	var docs map[string][]byte
	err = conn.Object("org.freedesktop.portal.Documents", "/org/freedesktop/portal/documents").
		Call("org.freedesktop.portal.Documents.List", 0, app).Store(&docs)
	d.must(err)
	var paths []string
	for _, p := range docs {
		paths = append(paths, strings.TrimSuffix(string(p), "\x00"))
	}
	return paths
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
		d.must(session.Await(shortLimit, func() (bool, error) {
			var status string
			err := f.Script(&status, `return document.getElementById("status").textContent`)
			return strings.Contains(status, want.SHA256), err
		}))
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
			_, r := d.file("Album/"+name, int64(i)*100+1)
			r.Name = "Album/" + name
			want = append(want, r)
		}
		dialog := d.choose(f, "#choose-dir")
		d.must(dialog.Home())
		d.must(dialog.First())
		d.shot("dialog")
		d.must(dialog.Press())
		d.must(f.Confirm())
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
	d.works(FirefoxID, "starts")
	d.works(FirefoxID, "open")
}

// wantSaved checks that a folder comes to hold these files and nothing else.
func (d *desktop) wantSaved(folder string, want map[string]string) {
	d.Helper()
	var got map[string]string
	err := session.Await(shortLimit, func() (bool, error) {
		got = map[string]string{}
		entries, err := os.ReadDir(folder)
		if err != nil {
			return false, err
		}
		for _, e := range entries {
			b, err := os.ReadFile(filepath.Join(folder, e.Name()))
			if err != nil { // a temporary file that has gone, or a directory
				got[e.Name()] = err.Error()
				continue
			}
			got[e.Name()] = string(b)
		}
		return maps.Equal(got, want), nil
	})
	if err != nil {
		for name, data := range got {
			d.Errorf("%s: %d bytes, want %d: %.40q", name, len(data), len(want[name]), data)
		}
		d.Fatalf("%s holds %d files, want %d: %v", folder, len(got), len(want), err)
	}
}

// What is saved lands where the dialog said, complete, with nothing beside it.
func TestSave(t *testing.T) {
	d := start(t)
	f := d.firefox()
	folder := filepath.Join(d.Home, "Saved")
	want := map[string]string{"old.bin": "what was there before, and is replaced"}
	d.must(os.Mkdir(folder, 0o755))
	d.must(os.WriteFile(filepath.Join(folder, "old.bin"), []byte(want["old.bin"]), 0o644))

	t.Run("a download", func(t *testing.T) {
		d := d.in(t)
		d.must(f.Ask(true))
		d.must(f.Navigate(d.server.URL))
		dialog := d.choose(f, "#download")
		d.must(dialog.Path(folder + "/report für today.bin"))
		d.shot("dialog")
		d.must(dialog.Accept())
		want["report für today.bin"] = string(download)
		d.wantSaved(folder, want)
		d.shot("saved")
	})
	t.Run("a download over a file that is there", func(t *testing.T) {
		d := d.in(t)
		d.must(f.Navigate(d.server.URL))
		dialog := d.choose(f, "#download")
		d.must(dialog.Path(folder + "/old.bin"))
		d.must(dialog.Keys("Return")) // it asks whether to replace the file
		d.shot("dialog")
		d.must(dialog.Replace())
		want["old.bin"] = string(download)
		d.wantSaved(folder, want)
	})
	t.Run("a page without pictures, complete", func(t *testing.T) {
		d := d.in(t)
		d.must(f.Navigate(d.server.URL + "plain"))
		d.must(f.Save())
		dialog, err := d.screen.AwaitDialog()
		d.must(err)
		d.must(dialog.Path(folder + "/plain.html"))
		d.shot("dialog")
		d.must(dialog.Accept())
		// Firefox writes such a page anew; what counts is that all of it is there.
		d.must(session.Await(shortLimit, func() (bool, error) {
			b, err := os.ReadFile(folder + "/plain.html")
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return false, err
			}
			text := strings.TrimSpace(string(b))
			want["plain.html"] = string(b)
			return strings.Contains(text, plainText) && strings.HasSuffix(text, "</html>"), nil
		}))
		d.wantSaved(folder, want)
	})
	t.Run("a page, HTML only", func(t *testing.T) {
		d := d.in(t)
		d.must(f.Navigate(d.server.URL + "picture"))
		d.must(f.Save())
		dialog, err := d.screen.AwaitDialog()
		d.must(err)
		d.must(dialog.Path(folder + "/only.html"))
		d.must(dialog.Kind(1))
		d.shot("dialog")
		d.must(dialog.Press())
		want["only.html"] = picturePage
		d.wantSaved(folder, want)
	})
	// A Firefox that does not ask saves where a restart does not lose it.
	t.Run("a download without a question", func(t *testing.T) {
		d := d.in(t)
		d.must(f.Ask(false))
		d.must(f.Navigate(d.server.URL))
		d.must(f.Click("#download"))
		own := filepath.Join(d.Home, ".var/app", FirefoxID, "Downloads")
		d.wantSaved(own, map[string]string{"report.bin": string(download)})
		if _, err := os.Stat(filepath.Join(d.Home, "Downloads")); err == nil {
			d.Error("it wrote to the host's Downloads")
		}
	})
	d.must(f.Quit())
	d.works(FirefoxID, "save")
}

// The address bar shows nothing of the home directory but what the profile
// names.
func TestHomeIsHidden(t *testing.T) {
	d := start(t)
	secret, _ := d.file("Documents/letter.txt", 100)
	d.file(".ssh/id_ed25519", 100)
	d.file(".bashrc", 100)
	d.file("Downloads/letter.txt", 100)
	f := d.firefox()
	var names []string
	d.must(f.Navigate("file://" + d.Home + "/"))
	d.shot("home")
	d.must(f.Script(&names, `return Array.from(document.querySelectorAll("tbody a"), a => decodeURIComponent(a.getAttribute("href"))).sort()`))
	if want := []string{".mozilla/", ".var/", "Downloads/"}; !slices.Equal(names, want) {
		d.Errorf("Firefox sees %q in the home directory, want %q", names, want)
	}
	d.must(f.Navigate("file://" + filepath.Dir(d.Home) + "/"))
	d.must(f.Script(&names, `return Array.from(document.querySelectorAll("tbody a"), a => decodeURIComponent(a.getAttribute("href"))).sort()`))
	if want := []string{filepath.Base(d.Home) + "/"}; !slices.Equal(names, want) {
		d.Errorf("Firefox sees %q beside the home directory, want %q", names, want)
	}
	for _, path := range []string{secret, filepath.Dir(secret), filepath.Join(d.Home, "Downloads/letter.txt"), filepath.Join(d.Runtime, "doc/by-app")} {
		if err := f.Navigate("file://" + path); err == nil || !strings.Contains(err.Error(), "fileNotFound") {
			d.Errorf("%s: %v, want not found", path, err)
		}
	}
	d.must(f.Quit())
}

// What Firefox keeps in its profile is there at the next start, and lies where
// Firefox without a sandbox has it.
func TestProfileStays(t *testing.T) {
	d := start(t)
	f := d.firefox()
	d.must(f.Navigate(d.server.URL))
	d.must(f.Script(nil, `document.cookie = "stay=here; max-age=100000"`))
	d.must(f.ChromeScript(nil, `Services.prefs.setStringPref("docportal.stay", "here")`))
	d.must(f.Quit())
	b, err := os.ReadFile(filepath.Join(d.Home, ".mozilla/firefox", profileName, "prefs.js"))
	if err != nil || !strings.Contains(string(b), `user_pref("docportal.stay", "here");`) {
		d.Errorf("the preference is not on the host (%v)", err)
	}

	f = d.firefox()
	d.must(f.Navigate(d.server.URL))
	var cookie, pref string
	d.must(f.Script(&cookie, `return document.cookie`))
	d.must(f.ChromeScript(&pref, `return Services.prefs.getStringPref("docportal.stay", "")`))
	if cookie != "stay=here" || pref != "here" {
		d.Errorf("after a new start the cookie is %q, the preference %q", cookie, pref)
	}
	d.must(f.Quit())
}

// A first start, as a person's who has never used Firefox, makes a profile
// that the next start uses. New Firefoxes have it in the app's own directory.
func TestFirstStart(t *testing.T) {
	d := start(t)
	d.must(Install(d.Session, d.log, FirefoxID))
	var profiles []string
	for i, name := range []string{"first", "second"} {
		args, err := commandLine(d.Session, FirefoxID, nil, []string{d.server.URL + "visit"})
		d.must(err)
		cmd := d.Command(args[0], args[1:]...)
		cmd.Stdout, cmd.Stderr = d.log, d.log
		d.must(d.Start(cmd))
		select {
		case <-d.server.Visits:
		case <-time.After(startLimit):
			d.Error("Firefox did not ask for the page")
		}
		d.shot(name)
		terminate(cmd, startLimit)
		var found []string
		for _, dir := range []string{".mozilla/firefox", ".var/app/" + FirefoxID + "/config/mozilla/firefox"} {
			all, err := filepath.Glob(filepath.Join(d.Home, dir, "*.default*", "prefs.js"))
			d.must(err)
			found = append(found, all...)
		}
		if i == 0 {
			profiles = found
		}
		if len(found) != 1 || !slices.Equal(found, profiles) {
			d.Errorf("after the %s start the profiles are %q, after the first %q; want one", name, found, profiles)
		}
	}
}

// The sandbox that Firefox puts its pages in works inside ours.
func TestContentSandbox(t *testing.T) {
	d := start(t)
	f := d.firefox()
	d.must(f.Navigate("about:support"))
	var rows []string
	err := session.Await(shortLimit, func() (bool, error) {
		err := f.Script(&rows, `
			const body = document.getElementById("sandbox-tbody");
			body.scrollIntoView();
			return Array.from(body.rows, r => r.lastElementChild.textContent.trim())`)
		return len(rows) > 0, err
	})
	d.must(err)
	d.shot("support")
	var says struct {
		HasSeccompBPF, HasSeccompTSync, HasUserNamespaces, CanSandboxContent, CanSandboxMedia bool
		ContentSandboxLevel, EffectiveContentSandboxLevel                                     int
	}
	d.must(f.ChromeScript(&says, `
		const {Troubleshoot} = ChromeUtils.importESModule("resource://gre/modules/Troubleshoot.sys.mjs");
		return Troubleshoot.snapshot().then(s => s.sandbox)`))
	if !says.HasSeccompBPF || !says.HasSeccompTSync || !says.HasUserNamespaces || !says.CanSandboxContent || !says.CanSandboxMedia ||
		says.ContentSandboxLevel < 4 || says.EffectiveContentSandboxLevel != says.ContentSandboxLevel ||
		slices.Contains(rows, "false") || !slices.Contains(rows, strconv.Itoa(says.EffectiveContentSandboxLevel)) {
		d.Errorf("about:support says %q; all of it: %+v", rows, says)
	}
	// What the page's process says itself, to the kernel: a filter more than
	// Firefox has from us.
	d.must(f.Navigate(d.server.URL))
	all, err := d.Processes()
	d.must(err)
	tabs, browser := 0, 0
	for _, p := range all {
		n := filters(p.PID)
		switch {
		case strings.Contains(p.Command, "-contentproc") && strings.HasSuffix(p.Command, " tab"):
			tabs++
			if n < 2 {
				d.Errorf("process %d of pages has %d seccomp filters, want 2: %s", p.PID, n, p.Command)
			}
		case strings.Contains(p.Command, "--marionette") && !strings.Contains(p.Command, "sbx-run") && n > 0:
			browser++
		}
	}
	if tabs == 0 || browser == 0 {
		d.Errorf("%d processes of pages and %d of Firefox under a filter, want some: %+v", tabs, browser, all)
	}
	d.must(f.Quit())
}

// filters is the number of a process's seccomp filters.
func filters(pid int) int {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "Seccomp_filters:"); ok {
			n, _ := strconv.Atoi(strings.TrimSpace(v))
			return n
		}
	}
	return 0
}
