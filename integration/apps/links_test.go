package apps

import (
	"slices"
	"strings"
	"testing"
	"time"

	"docportal/integration/session"
	"docportal/integration/toolkit"
)

// EvinceID is Evince's app id.
const EvinceID = "org.gnome.Evince"

// pressWindow clicks in the middle of a window.
func (d *desktop) pressWindow(window string) {
	d.Helper()
	d.must((&Dialog{screen: d.screen, window: window}).Middle())
}

// A link that is clicked in another sandboxed app opens in the Firefox that
// runs; a paper that is clicked there opens in Evince, in its own sandbox,
// which is given that file and nothing else.
func TestLinks(t *testing.T) {
	d := start(t)
	d.must(Install(d.Session, d.log, EvinceID))
	d.must(Defaults(d.Session, map[string]string{
		"x-scheme-handler/http": FirefoxID,
		"text/html":             FirefoxID,
		"application/pdf":       EvinceID,
	}))
	f := d.firefox()
	d.must(f.Navigate(d.server.URL))
	for _, name := range []string{toolkit.GTK3, toolkit.GTK4} {
		t.Run("a link in "+name, func(t *testing.T) {
			d := d.in(t)
			p := d.gtk(name, sender)
			w := d.window(p, toolkit.Request{Op: "link", Text: "Link in " + name, Paths: []string{d.server.URL + "visit?" + name}})
			d.pressWindow(w)
			select {
			case <-d.server.Visits:
			case <-time.After(shortLimit):
				d.shot("no-visit")
				d.Fatal("nobody asked for the page")
			}
			var urls []string
			d.must(session.Await(shortLimit, func() (bool, error) {
				err := f.ChromeScript(&urls, `return gBrowser.browsers.map(b => b.currentURI.spec)`)
				return slices.Contains(urls, d.server.URL+"visit?"+name), err
			}))
			d.shot("visited")
		})
	}
	t.Run("a paper", func(t *testing.T) {
		d := d.in(t)
		// As the settings do: PDF is opened by what the system has for it.
		d.must(f.ChromeScript(nil, `
			const info = Cc["@mozilla.org/mime;1"].getService(Ci.nsIMIMEService).getFromTypeAndExtension("application/pdf", "pdf");
			info.preferredAction = Ci.nsIHandlerInfo.useSystemDefault;
			info.alwaysAskBeforeHandling = false;
			Cc["@mozilla.org/uriloader/handler-service;1"].getService(Ci.nsIHandlerService).store(info)`))
		d.must(f.Click("#paper"))
		err := session.Await(shortLimit, func() (bool, error) {
			title, err := d.screen.Xdotool("search", "--onlyvisible", "--name", "^paper.pdf")
			return err == nil && title != "", nil
		})
		d.shot("paper")
		d.must(err)
		docs := d.documents(EvinceID)
		if len(docs) != 1 || !strings.HasSuffix(docs[0], "/paper.pdf") {
			d.Errorf("Evince was given %q", docs)
		}
	})
	d.must(f.Quit())
}
