package apps

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"docportal/integration/toolkit"
)

// gtk starts a program of the toolkits, which ends with the test.
func (d *desktop) gtk(name, app string) *toolkit.Program {
	d.Helper()
	p, err := toolkit.Open(d.Session, name, app)
	d.must(err)
	d.Cleanup(func() {
		if err := p.Close(); err != nil {
			d.Error(err)
		}
	})
	return p
}

// window has a program show something in a window of its own, in the lower
// right corner of the display and above the others, and returns the window.
func (d *desktop) window(p *toolkit.Program, r toolkit.Request) string {
	d.Helper()
	a, err := p.Do(r)
	d.must(err)
	if a.Err != "" {
		d.Fatalf("%+v: %s", r, a.Err)
	}
	w, err := d.screen.Xdotool("search", "--onlyvisible", "--name", "^"+r.Text+"$")
	d.must(err)
	_, err = d.screen.Xdotool("windowmove", "--sync", w, "1000", "800", "windowraise", w)
	d.must(err)
	return w
}

// sender is the app that files are dragged from.
const sender = "org.docportal.Sender"

// A file that is dragged from a window to a page arrives at the server, byte
// for byte, whether the window is a program's of the host or one's in another
// sandbox, and Firefox sees nothing beside it.
func TestDrag(t *testing.T) {
	d := start(t)
	f := d.firefox()
	d.must(f.Navigate(d.server.URL))
	var dragged []string
	for _, from := range []struct{ program, app string }{
		{toolkit.GTK3, ""},
		{toolkit.GTK3, sender},
		{toolkit.GTK4, ""},
		{toolkit.GTK4, sender},
	} {
		name := strings.TrimSuffix(from.program, ".py") + " on the host"
		folder := "Pictures/" + from.program
		if from.app != "" {
			name = strings.TrimSuffix(from.program, ".py") + " in a sandbox"
			folder = filepath.Join(".var/app", from.app, "data", from.program)
		}
		t.Run(name, func(t *testing.T) {
			d := d.in(t)
			path, want := d.file(folder+"/a phöto.jpg", 123456)
			beside, also := d.file(folder+"/letter.txt", 0)
			dragged = append(dragged, path, beside)
			d.file(folder+"/not this.txt", 10)
			p := d.gtk(from.program, from.app)
			w := d.window(p, toolkit.Request{Op: "drag", Text: name, Paths: []string{path, beside}})
			err := d.screen.Drag(w, 600, 500, func() (bool, error) {
				var status string
				err := f.Script(&status, `return document.getElementById("status").textContent`)
				return strings.HasPrefix(status, "over the page"), err
			})
			if err != nil {
				d.shot("drag")
				d.must(err)
			}
			d.wantUpload(shortLimit, want, also)
			d.shot("dropped")
		})
	}
	d.must(f.Quit())
	docs := d.documents(FirefoxID)
	slices.Sort(docs)
	slices.Sort(dragged)
	if !slices.Equal(docs, dragged) {
		t.Errorf("Firefox was given %q, want %q", docs, dragged)
	}
	d.works(FirefoxID, "drag")
}
