package doctor

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"docportal/internal/appid"
	"docportal/internal/keyfile"
	"docportal/internal/sandbox"
)

// written looks after the autostart entries and launchers that portals write
// for apps, whoever has started them, as "flatpak run ...": the stand-in for
// flatpak starts ours, a flatpak does not know them.
func (x *examination) written() {
	if real, err := filepath.EvalSymlinks(program("flatpak")); err == nil && filepath.Base(real) == "sbx-run" {
		return
	}
	ours := sandbox.Installed(x.ProfileDirs)
	for _, dir := range []string{
		filepath.Join(xdg("XDG_CONFIG_HOME", ".config"), "autostart"),
		filepath.Join(xdg("XDG_DATA_HOME", ".local/share"), "applications"),
	} {
		entries, _ := filepath.Glob(filepath.Join(dir, "*.desktop"))
		for _, path := range entries {
			id := byFlatpak(path)
			if !slices.Contains(ours, id) || isFlatpak(id) {
				continue
			}
			x.warn(`sed -i '/^Exec=/s/[^= ]*flatpak run /sbx-run --literal /' `+quote(path), "%s starts %s by flatpak, which does not know it", path, id)
		}
	}
}

// byFlatpak is the app that a desktop entry starts by "flatpak run", with a
// portal's words, "" if it starts something else.
func byFlatpak(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	f, err := keyfile.Parse(b)
	if err != nil {
		return ""
	}
	line, _ := f.String("Desktop Entry", "Exec")
	words := strings.Fields(line)
	if len(words) < 3 || filepath.Base(words[0]) != "flatpak" || words[1] != "run" {
		return ""
	}
	words = words[2:]
	if strings.HasPrefix(words[0], "--command=") {
		words = words[1:]
	}
	return strings.Join(words[:min(1, len(words))], "")
}

// isFlatpak reports whether an app is installed as a flatpak.
func isFlatpak(id string) bool {
	return appid.Valid(id) && (there(filepath.Join("/var/lib/flatpak/app", id)) || there(filepath.Join(xdg("XDG_DATA_HOME", ".local/share"), "flatpak/app", id)))
}
