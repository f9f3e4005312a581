package apps

import (
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"docportal/integration/session"
	"docportal/integration/toolkit"
)

// application is what is to be known of an application to operate it. All else
// is in its profile and its desktop entry.
type application struct {
	id    string
	class string // of its windows, a regular expression
	// url, if any, is what it is started with, instead of nothing.
	url string
	// file is what it opens, and title a regular expression for the title of
	// the window that shows it.
	file, title string
	// openKeys bring its dialog for opening, saveKeys the one for saving;
	// printKeys the one for printing. There are none where there is no such
	// dialog, or where the reason in why says that it does not work.
	openKeys, saveKeys, printKeys []string
	// ownOpenKeys and ownSaveKeys bring dialogs that are the program's own, not the
	// portal's; program is its name on the accessibility bus.
	ownOpenKeys, ownSaveKeys []string
	program                  string
	// ready, if any, is a button that it shows when it has started, which its first
	// window does not say.
	ready string
	// lock, if any, is a file that it makes beside one that it opens.
	lock string
	// left are files, below the app's own directory, as an earlier start leaves
	// them.
	left  map[string]string
	sound bool              // plays what it opens
	drag  bool              // is a window to drop files on
	why   map[string]string // reasons, by column
	short bool              // tested in every check
}

const (
	// noAccount is why a program that does nothing without an account is only
	// started.
	noAccount = "needs an account"
	// asksForPaths is why what is dropped on a program does not reach it; the test
	// sees what it asks for.
	asksForPaths = "no: it asks for text/uri-list, the paths of the host"
	// ownDialog is why a program's file dialog does not help.
	ownDialog = "by \"open with\": its own dialog shows an empty home"
)

var applications = []application{
	{
		drag: true, id: EvinceID, class: "[Ee]vince", file: "paper.pdf", title: "^paper.pdf", short: true,
		openKeys: []string{"ctrl+o"}, saveKeys: []string{"ctrl+s"}, printKeys: []string{"ctrl+p"},
	},
	{
		drag: true, id: "org.gnome.eog", class: "[Ee]og", file: "picture.png", title: "^picture.png$", printKeys: []string{"ctrl+p"},
		program: "eog", ownOpenKeys: []string{"ctrl+o"}, ownSaveKeys: []string{"ctrl+shift+s"},
	},
	{
		id: "com.github.johnfactotum.Foliate", class: "Foliate", file: "book.epub", title: "^A small book$",
		openKeys: []string{"ctrl+o"},
	},
	{
		drag: true, id: "io.mpv.Mpv", class: "mpv", file: "sound.wav", title: "sound.wav - mpv", sound: true,
		why: map[string]string{"open": "by \"open with\": it has no dialog"},
	},
	{
		drag: true, id: "io.github.celluloid_player.Celluloid", class: "[Cc]elluloid", file: "sound.wav", title: "^sound.wav$", sound: true,
		openKeys: []string{"ctrl+o"},
	},
	{
		id: "com.transmissionbt.Transmission", class: "[Tt]ransmission", file: "data.torrent", title: "^Torrent Options$",
		left:    map[string]string{"config/transmission/settings.json": `{"user-has-given-informed-consent": true}`},
		program: "transmission-gtk", ownOpenKeys: []string{"ctrl+o"},
	},
	{
		id: "org.gnome.Epiphany", class: "[Ee]piphany", file: "page.html", title: "^A page of the host$",
		openKeys: []string{"ctrl+o"},
	},
	{
		id: ThunderbirdID, class: "[Tt]hunderbird", file: "letter.eml", title: "^A letter",
	},
	{
		id: "org.libreoffice.LibreOffice", class: "libreoffice|[Ss]office", file: "letter.rtf", title: "^letter.rtf",
		lock:    ".~lock.letter.rtf#",
		program: "soffice", ready: "^Open File$", ownOpenKeys: []string{"ctrl+o"}, ownSaveKeys: []string{"ctrl+shift+s"},
	},
	{
		id: "org.telegram.desktop", class: "TelegramDesktop",
		why: map[string]string{"open": noAccount},
	},
}

// everything reports whether all applications are to be tested, with all that
// can be done with them. Most take packages that are installed for make
// check-apps only.
func everything() bool { return os.Getenv("DOCPORTAL_APPS") != "" || !testing.Short() }

// Each application starts from its desktop entry, shows its window, opens a
// file that was chosen for it and sees nothing beside it.
func TestApplications(t *testing.T) {
	all := everything()
	for _, a := range applications {
		if a.short || all {
			t.Run(a.id, func(t *testing.T) { a.test(start(t)) })
		}
	}
	if all {
		t.Run(ChromiumID, func(t *testing.T) { chromium(start(t)) })
		t.Run(DinoID, func(t *testing.T) { chat(start(t)) })
		t.Run(ChattyID, func(t *testing.T) { chatty(start(t)) })
		t.Run(GearyID, func(t *testing.T) { geary(start(t)) })
		t.Run(ThunderbirdID+" with an account", func(t *testing.T) { thunderbird(start(t)) })
		t.Run(officeID+" on a file", func(t *testing.T) { offices(start(t), false) })
		t.Run(officeID+" on a directory", func(t *testing.T) { offices(start(t), true) })
		t.Run(ytDlpID, func(t *testing.T) { fetches(start(t)) })
	}
}

const ytDlpID = "io.github.yt_dlp.yt-dlp"

// fetches tries a program of the terminal: it gets what it is asked for into the
// directory that its command line names, and sees no other.
func fetches(d *desktop) {
	d.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "audio/x-wav")
		http.ServeContent(w, r, "sound.wav", time.Now(), bytes.NewReader(paper("sound.wav")))
	}))
	d.Cleanup(server.Close)
	d.file(".ssh/id_ed25519", 100)
	d.file("Documents/beside.txt", 10)
	dir := filepath.Join(d.Home, "Videos")
	d.must(os.Mkdir(dir, 0o755))
	run := func(command string, args ...string) string {
		cmd := d.Command("sbx-run", append([]string{"--filesystem=" + dir, "--command=" + command, ytDlpID}, args...)...)
		cmd.Dir = dir
		out, err := cmd.Output()
		if err != nil {
			d.Fatalf("%s: %v", command, err)
		}
		return string(out)
	}
	if seen := strings.Fields(run("ls", "-A", d.Home)); !slices.Contains(seen, "Videos") || slices.Contains(seen, "Documents") || slices.Contains(seen, ".ssh") {
		d.Errorf("it sees %q", seen)
	}
	run("yt-dlp", "--no-config", "--no-progress", server.URL+"/sound.wav")
	got, err := filepath.Glob(filepath.Join(dir, "*"))
	d.must(err)
	if len(got) != 1 {
		d.Fatalf("it left %q", got)
	}
	if b, err := os.ReadFile(got[0]); err != nil || !bytes.Equal(b, paper("sound.wav")) {
		d.Errorf("%s is not what the server has (%v)", got[0], err)
	}
	d.works(ytDlpID, "starts")
	table.Set(ytDlpID, "open", "has no window")
}

func (a application) test(d *desktop) {
	for column, why := range a.why {
		table.Set(a.id, column, why)
	}
	d.must(Install(d.Session, d.log, a.id))
	d.file(".ssh/id_ed25519", 100)
	chosen := filepath.Join(d.Home, "Documents", a.file)
	d.file("Documents/beside.txt", 10)
	if a.file != "" {
		d.must(os.WriteFile(chosen, paper(a.file), 0o644))
	}
	for name, text := range a.left {
		path := filepath.Join(d.Home, ".var/app", a.id, name)
		d.must(os.MkdirAll(filepath.Dir(path), 0o700))
		d.must(os.WriteFile(path, []byte(text), 0o600))
	}
	if a.sound {
		d.sound()
	}

	stop := d.launch(a)
	window := d.await("its window", a.class, "")
	d.shot("started")
	d.seesNoHome(a.id)
	d.works(a.id, "starts")

	if len(a.openKeys) > 0 {
		dialog := d.dialogOf(window, a.openKeys)
		d.must(dialog.Path(chosen))
		d.shot("dialog")
		d.must(dialog.Enter())
		d.await("what was chosen", a.class, a.title)
		d.shot("opened")
		d.wasGiven(a.id, chosen)
		d.works(a.id, "open")
	}
	if len(a.ownOpenKeys) > 0 {
		r := d.reader()
		if a.ready != "" {
			_, err := r.AwaitShown(a.program, "push button", a.ready)
			d.must(err)
			window = d.await("its window", a.class, "")
		}
		own := filepath.Join(d.Home, ".var/app", a.id, "data", a.file)
		// Another one than what is opened later.
		d.must(os.WriteFile(own, bytes.Replace(paper(a.file), []byte("hello"), []byte("owner"), 1), 0o644))
		dialog := d.ownDialogOf(a.class, window, a.ownOpenKeys)
		d.refuses(r, a.program, dialog, chosen)
		d.must(dialog.Path(own))
		d.must(dialog.Enter())
		d.await("what is its own", a.class, a.title)
		d.shot("opened")
		if docs := d.documents(a.id); len(docs) > 0 {
			d.Errorf("it was given %q", docs)
		}
	}
	stop()

	if a.file == "" {
		return
	}
	// "Open with": a file manager starts it with the file.
	stop = d.launch(a, chosen)
	if a.sound {
		// Before it is all seen, which may take longer than what is heard.
		d.heard()
	}
	window = d.await("what it was started with", a.class, a.title)
	d.shot("open-with")
	d.wasGiven(a.id, chosen)
	if len(a.ownOpenKeys) > 0 && !d.Failed() {
		table.Set(a.id, "open", ownDialog)
	}
	if a.lock != "" {
		d.locked(a, window, chosen)
	}
	if a.sound {
		d.works(a.id, "sound")
	}
	if len(a.saveKeys) > 0 {
		dialog := d.dialogOf(window, a.saveKeys)
		to := filepath.Join(d.Home, "Saved", a.file)
		d.must(os.MkdirAll(filepath.Dir(to), 0o755))
		d.must(dialog.Path(to))
		d.shot("save")
		d.must(dialog.Enter())
		d.wantSaved(filepath.Dir(to), map[string]string{a.file: string(paper(a.file))})
		d.works(a.id, "save")
	}
	if len(a.ownSaveKeys) > 0 {
		dialog := d.ownDialogOf(a.class, window, a.ownSaveKeys)
		d.shot("own-save")
		if len(a.printKeys) > 0 {
			d.must(dialog.Escape())
		}
		if !d.Failed() {
			table.Set(a.id, "save", "no: its own dialog")
		}
	}
	if len(a.printKeys) > 0 {
		dialog := d.dialogOf(window, a.printKeys)
		d.shot("print")
		d.must(dialog.Escape())
		d.works(a.id, "print")
	}
	stop()

	if a.drag && everything() {
		stop = d.launch(a)
		d.dropped(a, d.await("its window", a.class, ""), chosen)
		stop()
	}
}

// dropped drops a file of a program of the host on an application's window, and
// sees what comes of it: the application opens it if it asks for it as the
// portal's files are handed over. If it asks for paths, it is in its table that
// it does, and it was given nothing.
func (d *desktop) dropped(a application, window, file string) {
	d.Helper()
	before := d.documents(a.id)
	asked := d.drop(a.id, window, file)
	if slices.Contains(asked, "text/uri-list") {
		if after := d.documents(a.id); len(after) != len(before) {
			d.Errorf("%s asked for %q and was given %q, before that %q", a.id, asked, after, before)
		}
		table.Set(a.id, "drag", asksForPaths)
		return
	}
	d.await("what was dropped", a.class, a.title)
	d.works(a.id, "drag")
}

// drop drops a file of a program of the host on an application's window, and returns
// the forms that it asked for it in.
func (d *desktop) drop(app, window, file string) []string {
	d.Helper()
	p := d.gtk(toolkit.GTK3, "")
	w := d.window(p, toolkit.Request{Op: "drag", Text: "Drag to " + app, Paths: []string{file}})
	_, err := d.screen.Xdotool("windowmove", "--sync", window, "0", "0")
	d.must(err)
	width, height := d.screen.size(window)
	steps := 0
	d.must(d.screen.Drag(w, width/2, height/2, func() (bool, error) { steps++; return steps > 20, nil }))
	var asked []string
	err = session.Await(shortLimit, func() (bool, error) {
		answer, err := p.Do(toolkit.Request{Op: "asked"})
		asked = answer.Formats
		return len(asked) > 0, err
	})
	if err != nil {
		d.shot("not-dropped")
		d.Fatalf("%s did not ask for what was dropped: %v", app, err)
	}
	(&Dialog{screen: d.screen, window: window}).settled()
	d.shot("dropped")
	return asked
}

// locked checks that an application has opened a file to write, and has its lock
// beside it in its own view, which is a hidden file of the host's.
func (d *desktop) locked(a application, window, file string) {
	d.Helper()
	pattern := filepath.Join(d.Runtime, "doc/by-app", a.id, "*", a.lock)
	if locks, err := filepath.Glob(pattern); len(locks) != 1 || err != nil {
		d.Errorf("its locks are %q (%v)", locks, err)
	}
	if _, err := os.Lstat(filepath.Join(filepath.Dir(file), a.lock)); !errors.Is(err, os.ErrNotExist) {
		d.Errorf("its lock is on the host: %v", err)
	}
	if title, err := d.screen.Xdotool("getwindowname", window); err != nil || strings.Contains(title, "read-only") {
		d.Errorf("its window is %q (%v)", title, err)
	}
}

// wasGiven checks that an app has one file of the host, and no other.
func (d *desktop) wasGiven(app, want string) {
	d.Helper()
	// What a dialog gives stays, what a start hands over does not: these are two
	// documents of one file.
	docs := slices.Compact(d.documents(app))
	if !slices.Equal(docs, []string{want}) {
		d.Errorf("%s was given %q, want %s", app, docs, want)
	}
}

// launch starts an application by its desktop entry as the desktop does, with
// GLib's launcher, and returns what ends it.
func (d *desktop) launch(a application, files ...string) func() {
	d.Helper()
	args := append([]string{"launch", entry(d.Session, a.id)}, files...)
	if a.url != "" && len(files) == 0 {
		args = append(args, a.url)
	}
	cmd := d.Command("gio", args...)
	if d.first != "" {
		session.PathFirst(cmd, d.first)
	}
	cmd.Stdout, cmd.Stderr = d.log, d.log
	// It ends at once; what it starts is to stay.
	cmd.SysProcAttr = nil
	d.must(d.Start(cmd))
	d.must(cmd.Wait())
	ended := false
	end := func() {
		if ended {
			return
		}
		ended = true
		d.Helper()
		all, err := d.Processes()
		d.must(err)
		for _, p := range all {
			if p.Parent == os.Getpid() && strings.Contains(p.Command, "sbx-run --file-forwarding "+a.id) {
				syscall.Kill(p.PID, syscall.SIGTERM)
			}
		}
		d.must(session.Await(shortLimit, func() (bool, error) {
			names, err := d.Instances()
			return len(names) == 0, err
		}))
	}
	d.Cleanup(end)
	return end
}

// await waits until a window of a class can be seen, with such a title if that
// is not "", and returns the largest.
func (d *desktop) await(what, class, title string) string {
	d.Helper()
	var found string
	err := session.Await(startLimit, func() (bool, error) {
		args := []string{"search", "--onlyvisible", "--class", class}
		if title != "" {
			args = []string{"search", "--onlyvisible", "--name", title}
		}
		out, err := d.screen.Xdotool(args...)
		if err != nil {
			return false, nil
		}
		most := 0
		for _, w := range strings.Fields(out) {
			if width, height := d.screen.size(w); width > 150 && width*height > most {
				found, most = w, width*height
			}
		}
		return most > 0, nil
	})
	if err != nil {
		d.shot("nothing")
		d.Fatalf("%s: %v", what, err)
	}
	(&Dialog{screen: d.screen, window: found}).painted()
	return found
}

// dialogOf brings a dialog of the portal by keys that an application's window
// knows.
func (d *desktop) dialogOf(window string, keys []string) *Dialog {
	d.Helper()
	d.must((&Dialog{screen: d.screen, window: window}).settled())
	_, err := d.screen.Xdotool("windowfocus", "--sync", window)
	d.must(err)
	_, err = d.screen.Xdotool(append([]string{"key", "--clearmodifiers"}, keys...)...)
	d.must(err)
	dialog, err := d.screen.AwaitDialog()
	if err != nil {
		d.shot("no-dialog")
		d.Fatal(err)
	}
	return dialog
}

// seesNoHome checks what an application's processes see of the home directory:
// its own directory, and what its profile names, with nothing of the host's in
// it.
func (d *desktop) seesNoHome(app string) {
	d.Helper()
	root := d.root(app)
	for _, name := range []string{"Documents", ".ssh", ".session"} {
		if _, err := os.Lstat(filepath.Join(root, d.Home, name)); err == nil {
			d.Errorf("%s sees ~/%s", app, name)
		}
	}
	entries, err := os.ReadDir(filepath.Join(root, d.Home, ".var/app"))
	d.must(err)
	if len(entries) != 1 || entries[0].Name() != app {
		d.Errorf("%s sees %v in ~/.var/app", app, entries)
	}
}
