package apps

import (
	"os"
	"path/filepath"
	"testing"
)

// wayland starts a session with a Wayland compositor and no X server.
func wayland(t *testing.T) *desktop {
	t.Helper()
	dir := t.TempDir()
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		log.Close()
		if said, err := os.ReadFile(log.Name()); t.Failed() {
			t.Logf("the compositor said (%v):\n%s", err, said)
		}
	})
	sway, err := StartSway(dir, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sway.Close() })
	return startOn(t, sway, "", "", sway.Display)
}

// On Wayland, what a person chose arrives at the server, byte for byte, and what
// is saved lands where the dialog said.
func TestWayland(t *testing.T) {
	if !everything() {
		t.Log("with make check-apps")
		return
	}
	d := wayland(t)
	d.file(".ssh/id_ed25519", 100)
	f := d.firefox()
	d.must(f.Navigate(d.server.URL))
	r := d.reader()
	d.seesNoHome(FirefoxID)
	entries, err := os.ReadDir(filepath.Join(d.root(FirefoxID), "tmp/.X11-unix"))
	if len(entries) > 0 {
		d.Errorf("Firefox sees the sockets of X servers: %v (%v)", entries, err)
	}

	t.Run("upload", func(t *testing.T) {
		d := d.in(t)
		path, want := d.file("Documents/über die  Bäume, groß.txt", 3*megabyte)
		d.file("Documents/beside.txt", 10)
		d.must(f.Click("#choose-one"))
		d.must(r.Choose(path, "Select", func() { d.shot("dialog") }))
		d.wantUpload(shortLimit, want)
		d.shot("sent")
		d.wasGiven(FirefoxID, path)
	})
	t.Run("save", func(t *testing.T) {
		d := d.in(t)
		d.must(f.Ask(true))
		folder := filepath.Join(d.Home, "Saved")
		d.must(os.Mkdir(folder, 0o755))
		d.must(f.Click("#download"))
		d.must(r.Choose(filepath.Join(folder, "report.bin"), "Save", func() { d.shot("dialog") }))
		d.wantSaved(folder, map[string]string{"report.bin": string(download)})
		d.shot("saved")
	})
	d.must(f.Quit())
}

// Evince opens, on Wayland, what is chosen in its dialog.
func TestWaylandEvince(t *testing.T) {
	if !everything() {
		t.Log("with make check-apps")
		return
	}
	d := wayland(t)
	d.must(Install(d.Session, d.log, EvinceID))
	chosen := filepath.Join(d.Home, "Documents/paper.pdf")
	d.must(os.Mkdir(filepath.Dir(chosen), 0o755))
	d.must(os.WriteFile(chosen, paper("paper.pdf"), 0o644))
	stop := d.launch(application{id: EvinceID})
	r := d.reader()
	open, err := r.AwaitShown("evince", "push button", "^Open")
	d.must(err)
	d.seesNoHome(EvinceID)
	d.must(open.Press())
	d.must(r.Choose(chosen, "Open", func() { d.shot("dialog") }))
	_, err = r.AwaitShown("evince", "frame", "^paper.pdf")
	d.shot("opened")
	d.must(err)
	d.wasGiven(EvinceID, chosen)
	stop()
}
