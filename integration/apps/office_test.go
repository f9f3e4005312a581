package apps

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/godbus/dbus/v5"

	"docportal/integration/session"
)

const (
	officeID      = "org.libreoffice.LibreOffice"
	officeProgram = "soffice" // on the accessibility bus
	officeClass   = "libreoffice|[Ss]office"
	officeFile    = "letter.rtf"
	officeLock    = ".~lock." + officeFile + "#"
)

// office is a LibreOffice that opens the document.
type office struct {
	where   string
	dir     string // the document's directory, as it sees it
	config  string // where its settings are, on the host
	command func() *exec.Cmd
}

// offices has LibreOffice in a sandbox and LibreOffice on the host open one
// document. Where the sandbox has its directory, each sees the lock file of the
// other and asks whether to read only. Where it has the file alone, a lock file is
// in the view of who made it, so that both may write; who saves second is asked
// first. Whoever ends leaves no lock file.
func offices(d *desktop, directory bool) {
	d.must(Install(d.Session, d.log, officeID))
	dir := filepath.Join(d.Home, "Documents")
	file := filepath.Join(dir, officeFile)
	d.must(os.MkdirAll(dir, 0o755))
	d.must(os.WriteFile(file, paper(officeFile), 0o644))
	var given string
	if directory {
		const directoryFlag = 1 << 3
		given = filepath.Join(d.give(officeID, dir, directoryFlag), filepath.Base(dir), officeFile)
	} else {
		given = filepath.Join(d.give(officeID, file, 0), officeFile)
	}
	sandbox := office{"in the sandbox", filepath.Join(d.Runtime, "doc/by-app", officeID, filepath.Dir(given)), filepath.Join(d.Home, ".var/app", officeID, "config"),
		func() *exec.Cmd { return d.Command("sbx-run", officeID, filepath.Join(d.Runtime, "doc", given)) }}
	host := office{"on the host", dir, filepath.Join(d.Home, ".config"),
		func() *exec.Cmd { return d.Command("soffice", file) }}
	r := d.reader()
	for _, two := range [][2]office{{host, sandbox}, {sandbox, host}} {
		first, second := two[0], two[1]
		window, end := first.open(d, nil)
		d.shot("first")
		first.writes(d, window)
		for _, o := range two {
			_, err := os.Lstat(filepath.Join(o.dir, officeLock))
			if want := directory || o.where == first.where; (err == nil) != want {
				d.Errorf("opened %s: its lock, %s: %v", first.where, o.where, err)
			}
		}
		other, endOther := second.open(d, func() {
			if directory {
				_, err := r.AwaitAsked(officeProgram, "label", "is locked for editing")
				d.shot("second")
				d.must(err)
				only, err := r.AwaitAsked(officeProgram, "push button", "^Open Read-Only$")
				d.must(err)
				d.must(only.Press())
			}
		}, window)
		if directory {
			d.must(session.Await(shortLimit, func() (bool, error) {
				title, err := d.screen.Xdotool("getwindowname", other)
				return strings.Contains(title, "(read-only)"), err
			}))
		} else {
			second.writes(d, other)
			d.shot("second")
		}
		if !directory && first.where == sandbox.where {
			d.typed(other, "Other ", "ctrl+s")
			d.must(session.Await(shortLimit, func() (bool, error) {
				b, err := os.ReadFile(file)
				return strings.Contains(string(b), "Other"), err
			}))
			d.typed(window, "Mine ", "ctrl+s")
			_, err := r.AwaitAsked(officeProgram, "label", "has been changed since it was opened")
			d.shot("changed")
			d.must(err)
			endOther()
			break // what is open in the sandbox ends with the session
		}
		endOther()
		end()
		for _, o := range two {
			if _, err := os.Lstat(filepath.Join(o.dir, officeLock)); !errors.Is(err, fs.ErrNotExist) {
				d.Errorf("after the end a lock is there %s: %v", o.where, err)
			}
		}
	}
}

// asksNothing has o begin as it does when it is new, and save in a document's own
// format, without a question. It would remember windows that no window manager has
// made larger.
func (o office) asksNothing(d *desktop) {
	d.Helper()
	dir := filepath.Join(o.config, "libreoffice/4/user")
	d.must(os.RemoveAll(dir))
	d.must(os.MkdirAll(dir, 0o700))
	d.must(os.WriteFile(filepath.Join(dir, "registrymodifications.xcu"), []byte(`<?xml version="1.0" encoding="UTF-8"?>
<oor:items xmlns:oor="http://openoffice.org/2001/registry" xmlns:xs="http://www.w3.org/2001/XMLSchema" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
<item oor:path="/org.openoffice.Office.Common/Save/Document"><prop oor:name="WarnAlienFormat" oor:op="fuse"><value>false</value></prop></item>
<item oor:path="/org.openoffice.Office.Common/Misc"><prop oor:name="ShowTipOfTheDay" oor:op="fuse"><value>false</value></prop></item>
</oor:items>
`), 0o600))
}

// open starts o, does what has to be done until the document's window is there, and
// waits for that, which is none of some others. What it returns ends it as a person
// does.
func (o office) open(d *desktop, ask func(), others ...string) (window string, end func()) {
	d.Helper()
	o.asksNothing(d)
	cmd := o.command()
	cmd.Stdout, cmd.Stderr = d.log, d.log
	d.must(d.Start(cmd))
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	d.Cleanup(func() { cmd.Process.Signal(syscall.SIGTERM) })
	if ask != nil {
		ask()
	}
	err := session.Await(startLimit, func() (bool, error) {
		for _, w := range d.screen.Windows(officeClass) {
			title, err := d.screen.Xdotool("getwindowname", w)
			if err == nil && strings.HasPrefix(title, officeFile) && !slices.Contains(others, w) {
				window = w
				return true, nil
			}
		}
		return false, nil
	})
	if err != nil {
		d.shot("nothing")
		d.Fatalf("the document %s: %v", o.where, err)
	}
	(&Dialog{screen: d.screen, window: window}).painted()
	return window, func() {
		d.Helper()
		// It may not hear the keys while it still has to do with its document.
		var pressed time.Time
		d.must(session.Await(shortLimit, func() (bool, error) {
			if len(ended) == 0 && time.Since(pressed) > 5*time.Second {
				d.screen.Xdotool("windowraise", window, "windowfocus", "--sync", window, "key", "--clearmodifiers", "ctrl+q")
				pressed = time.Now()
			}
			return len(ended) > 0, nil
		}))
	}
}

// writes checks that a window of o may change the document.
func (o office) writes(d *desktop, window string) {
	d.Helper()
	if title, err := d.screen.Xdotool("getwindowname", window); err != nil || strings.Contains(title, "read-only") {
		d.Errorf("%s the window is %q (%v)", o.where, title, err)
	}
}

// typed types a text into a window, and then keys.
func (d *desktop) typed(window, text string, keys ...string) {
	d.Helper()
	w := &Dialog{screen: d.screen, window: window}
	_, err := d.screen.Xdotool("windowraise", window, "windowfocus", "--sync", window)
	d.must(err)
	d.must(w.settled())
	if text != "" {
		_, err := d.screen.Xdotool("type", "--clearmodifiers", text)
		d.must(err)
		d.must(w.settled())
	}
	_, err = d.screen.Xdotool(append([]string{"key", "--clearmodifiers"}, keys...)...)
	d.must(err)
}

// give makes a document that an app may read and write, and returns its id.
func (d *desktop) give(app, path string, flags uint32) string {
	d.Helper()
	conn, err := d.Connect()
	d.must(err)
	defer conn.Close()
	f, err := os.Open(path)
	d.must(err)
	defer f.Close()
	var ids []string
	var extra map[string]dbus.Variant
	d.must(conn.Object("org.freedesktop.portal.Documents", "/org/freedesktop/portal/documents").Call("org.freedesktop.portal.Documents.AddFull", 0,
		[]dbus.UnixFD{dbus.UnixFD(f.Fd())}, flags, app, []string{"read", "write"}).Store(&ids, &extra))
	return ids[0]
}
