package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// packaged is what Debian 12 calls the apps: the desktop entry of the package,
// and the program that the entry starts.
var packaged = map[string]struct{ entry, program string }{
	"com.github.johnfactotum.Foliate":      {"com.github.johnfactotum.Foliate", "com.github.johnfactotum.Foliate"},
	"com.transmissionbt.Transmission":      {"transmission-gtk", "transmission-gtk"},
	"im.dino.Dino":                         {"im.dino.Dino", "dino-im"},
	"io.github.celluloid_player.Celluloid": {"io.github.celluloid_player.Celluloid", "celluloid"},
	"io.github.yt_dlp.yt-dlp":              {"", "yt-dlp"},
	"io.mpv.Mpv":                           {"mpv", "mpv"},
	"org.chromium.Chromium":                {"chromium", "chromium"},
	"org.gnome.Epiphany":                   {"org.gnome.Epiphany", "epiphany"},
	"org.gnome.Evince":                     {"org.gnome.Evince", "evince"},
	"org.gnome.Geary":                      {"org.gnome.Geary", "geary"},
	"org.gnome.eog":                        {"org.gnome.eog", "eog"},
	"org.libreoffice.LibreOffice":          {"libreoffice-startcenter", "libreoffice"},
	"org.mozilla.Thunderbird":              {"thunderbird", "thunderbird"},
	"org.mozilla.firefox":                  {"firefox-esr", "firefox-esr"},
	"org.telegram.desktop":                 {"org.telegram.desktop", "telegram-desktop"},
	"sm.puri.Chatty":                       {"sm.puri.Chatty", "chatty"},
}

// The profiles that are shipped are short, and give away neither the system
// nor what apps share: files come through the portal.
func TestShippedProfiles(t *testing.T) {
	const dir, maxLines = "../../profiles", 12
	paths, err := filepath.Glob(filepath.Join(dir, "*.*"))
	if err != nil || len(paths) != len(packaged) {
		t.Fatalf("%d profiles, want %d: %v", len(paths), len(packaged), err)
	}
	table, err := os.ReadFile("../../doc/profiles.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		id, ok := strings.CutSuffix(filepath.Base(path), profileSuffix)
		if !ok {
			t.Errorf("%s is no profile", path)
			continue
		}
		p, err := Load(id, []string{dir})
		if err != nil {
			t.Error(err)
			continue
		}
		if strings.Count(id, ".") < 2 {
			t.Errorf("%s: portals want three elements", id)
		}
		known, ok := packaged[id]
		if !ok {
			t.Errorf("%s: what does Debian call it?", id)
		}
		if !has(p.Command, known.program) {
			t.Errorf("%s: its command= does not have Debian's program %s", id, known.program)
		}
		// An entry is found by the app id, or by the program that it is named after.
		if e := known.entry; e != id && e != "" && !slices.ContainsFunc(p.Command, func(w Word) bool {
			return e == w.Text || strings.HasPrefix(e, w.Text+"-")
		}) {
			t.Errorf("%s: nobody finds Debian's desktop entry %s", id, e)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		lines := 0
		for line := range strings.SplitSeq(string(data), "\n") {
			if line != "" && !strings.HasPrefix(line, "#") {
				lines++
			}
		}
		if !strings.Contains(string(table), fmt.Sprintf("| `%s` | %d |", id, lines)) {
			t.Errorf("%s: doc/profiles.md does not say %d lines", id, lines)
		}
		if lines > maxLines {
			t.Errorf("%s: %d lines, at most %d", id, lines, maxLines)
		}
		for _, w := range slices.Concat(p.Filesystems, p.Command) {
			what, _ := cutMode(w.Text)
			if word := strings.TrimPrefix(what, "~/"); slices.Contains([]string{"Desktop", "Documents", "Downloads", "Music", "Pictures", "Public", "Templates", "Videos"}, strings.SplitN(word, "/", 2)[0]) {
				t.Errorf("%s: %s: a shared directory", w.At, w.Text)
			}
			if strings.HasPrefix(what, "/") || strings.HasPrefix(what, "xdg-") || what == "home" || what == "host" || what == "~" {
				t.Errorf("%s: %s: a path of the system or a shared directory", w.At, w.Text)
			}
		}
		for _, s := range texts(p.Sockets) {
			if s == "x11" {
				t.Errorf("%s: x11 where fallback-x11 will do", id)
			}
		}
	}
}
