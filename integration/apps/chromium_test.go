package apps

import (
	"os"
	"path/filepath"
	"strings"

	"docportal/integration/session"
)

// ChromiumID is Chromium's app id.
const ChromiumID = "org.chromium.Chromium"

// chromium: what a person chose arrives at the server as from Firefox, and a
// page that is saved lands where the dialog said. It is operated with the keys
// alone.
func chromium(d *desktop) {
	d.must(Install(d.Session, d.log, ChromiumID))
	d.file(".ssh/id_ed25519", 100)
	chosen, want := d.file("Documents/für Chromium.bin", 3*megabyte)
	stop := d.launch(application{id: ChromiumID, url: d.server.URL})
	window := d.await("the page", "", "^Send files")
	d.seesNoHome(ChromiumID)
	d.works(ChromiumID, "starts")

	dialog := d.dialogOf(window, []string{"Tab", "Return"})
	d.must(dialog.Path(chosen))
	d.shot("dialog")
	d.must(dialog.Enter())
	d.wantUpload(shortLimit, want)
	d.shot("sent")
	d.wasGiven(ChromiumID, chosen)
	d.works(ChromiumID, "open")

	dropped, _ := d.file("Pictures/a phöto.jpg", 123456)
	d.dropped(application{id: ChromiumID}, window, dropped)
	// It tried the path, which is not there.
	if got, err := d.server.Next(shortLimit); err == nil {
		d.Errorf("what was dropped arrived: %+v", got)
	}

	folder := filepath.Join(d.Home, "Saved")
	d.must(os.Mkdir(folder, 0o755))
	dialog = d.dialogOf(window, []string{"ctrl+s"})
	d.must(dialog.Path(filepath.Join(folder, "page.html")))
	d.shot("save")
	d.must(dialog.Enter())
	err := session.Await(shortLimit, func() (bool, error) {
		b, err := os.ReadFile(filepath.Join(folder, "page.html"))
		return err == nil && strings.Contains(string(b), "<title>Send files</title>") && strings.HasSuffix(strings.TrimSpace(string(b)), "</html>"), nil
	})
	entries, _ := os.ReadDir(folder)
	if err != nil || len(entries) != 1 {
		d.Errorf("%s holds %v (%v)", folder, entries, err)
	}
	d.works(ChromiumID, "save")
	stop()
}
