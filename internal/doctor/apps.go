package doctor

import (
	"context"
	"path/filepath"

	"docportal/internal/appid"
	"docportal/internal/sandbox"
)

// apps looks after the profiles and the desktop entries of apps.
func (x *examination) apps(context.Context) {
	if x.App != "" {
		p, err := sandbox.Load(x.App, x.ProfileDirs)
		id := x.App
		switch {
		case err == nil:
			id = p.Name
		case !appid.Valid(x.App):
			x.broken("sbx-run --list", "%v", err)
			return
		}
		if !hasEntry(id) {
			x.broken("sbx-run --install "+quote(id), "there is no desktop entry %s.desktop: portals refuse the app, or show it without a name", id)
		}
		return
	}
	x.written()
	x.images()
	for _, id := range sandbox.Installed(x.ProfileDirs) {
		p, err := sandbox.Load(id, x.ProfileDirs)
		if err != nil {
			x.warn("", "the profile of %s is wrong: %v", id, err)
			continue
		}
		installed := false
		for _, w := range p.Command {
			installed = installed || sandbox.FindProgram(w.Text) != ""
		}
		if installed && !hasEntry(id) {
			x.warn("sbx-run --install "+quote(id), "there is no desktop entry %s.desktop: portals refuse the app, or show it without a name", id)
		}
	}
}

func hasEntry(id string) bool {
	for _, dir := range append([]string{xdg("XDG_DATA_HOME", ".local/share")}, list("XDG_DATA_DIRS", "/usr/local/share:/usr/share")...) {
		if there(filepath.Join(dir, "applications", id+".desktop")) {
			return true
		}
	}
	return false
}

// images looks after what GTK and others load images with, where that is a
// program for each: in a sandbox they start it by flatpak-spawn, and look for
// that in no other directory.
func (x *examination) images() {
	if there("/usr/share/glycin-loaders") && !there("/usr/bin/flatpak-spawn") && !there("/bin/flatpak-spawn") {
		x.warn(asRoot(`ln -s "$(command -v sbx-run)" /usr/bin/flatpak-spawn`),
			"there is no /usr/bin/flatpak-spawn, by which image loaders (glycin) start in sandboxes: apps show no images")
	}
}
