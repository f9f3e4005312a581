package doctor

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"docportal/internal/keyfile"
)

func itoa(n int) string { return strconv.Itoa(n) }

const (
	portalName = "org.freedesktop.portal.Desktop"
	portalPath = "/org/freedesktop/portal/desktop"
	// chooser is what a backend must have so that files can be chosen.
	chooser = "org.freedesktop.impl.portal.FileChooser"
)

// shown are the variables that say where windows are shown.
var shown = []string{"WAYLAND_DISPLAY", "DISPLAY"}

// desktopPortal starts xdg-desktop-portal, as any app would, and looks at what
// it was started with.
func (x *examination) desktopPortal(ctx context.Context) {
	if x.conn == nil {
		return
	}
	err := x.conn.Call(ctx, portalName, portalPath, "org.freedesktop.DBus.Peer", "Ping", "", nil)
	switch {
	case nobody(err):
		x.broken(x.packages.add("xdg-desktop-portal"), "xdg-desktop-portal is not installed: apps cannot ask for files")
		return
	case err != nil:
		x.broken("/usr/libexec/xdg-desktop-portal --replace --verbose", "xdg-desktop-portal does not answer: %s", reason(err))
		return
	}
	x.environment(x.owner(ctx, portalName), "xdg-desktop-portal", append([]string{"XDG_CURRENT_DESKTOP"}, shown...))
}

// environment compares what a process of the session was started with.
func (x *examination) environment(pid int, name string, variables []string) {
	if pid == 0 {
		return
	}
	b, err := os.ReadFile("/proc/" + itoa(pid) + "/environ")
	if err != nil {
		return // another user's, or it hides
	}
	theirs := make(map[string]string)
	for kv := range strings.SplitSeq(string(b), "\x00") {
		if k, v, ok := strings.Cut(kv, "="); ok {
			theirs[k] = v
		}
	}
	var differ []string
	for _, v := range variables {
		if ours := os.Getenv(v); ours != "" && theirs[v] != ours {
			differ = append(differ, v)
		}
	}
	if len(differ) == 0 {
		return
	}
	update := "dbus-update-activation-environment "
	if there("/run/systemd/system") {
		update += "--systemd "
	}
	x.broken(update+strings.Join(differ, " ")+" && kill "+itoa(pid),
		"%s (process %d) was started before %s had the value of now: its dialogs do not appear, or are another desktop's", name, pid, strings.Join(differ, " and "))
}

// portalFile is what an installed backend says of itself.
type portalFile struct {
	name, bus  string
	interfaces []string
	useIn      []string
}

// backend looks for the program that shows the dialogs.
func (x *examination) backend(ctx context.Context) {
	desktops := strings.FieldsFunc(os.Getenv("XDG_CURRENT_DESKTOP"), func(r rune) bool { return r == ':' })
	var able []portalFile
	for _, p := range portalFiles() {
		if slices.Contains(p.interfaces, chooser) {
			able = append(able, p)
		}
	}
	pkg := "xdg-desktop-portal-gtk"
	for _, d := range desktops {
		switch strings.ToLower(d) {
		case "kde":
			pkg = "xdg-desktop-portal-kde"
		case "gnome":
			pkg = "xdg-desktop-portal-gnome"
		}
	}
	if len(able) == 0 {
		x.broken(x.packages.add(pkg), "no portal backend with a file chooser is installed: no app can ask for files")
		return
	}
	if len(desktops) == 0 {
		x.warn("export XDG_CURRENT_DESKTOP=sway && dbus-update-activation-environment XDG_CURRENT_DESKTOP", "XDG_CURRENT_DESKTOP is not set: which portal backend is used is a guess")
	}
	chosen := choose(able, desktops)
	switch {
	case chosen == nil && len(desktops) > 0:
		names := make([]string, len(able))
		for i, p := range able {
			names[i] = p.name
		}
		lower := strings.ToLower(desktops[0])
		mend := "mkdir -p ~/.config/xdg-desktop-portal && printf '[preferred]\\ndefault=" + able[0].name + "\\n' >~/.config/xdg-desktop-portal/" + quote(lower+"-portals.conf")
		x.broken(mend, "no portal backend with a file chooser is there for XDG_CURRENT_DESKTOP=%s (installed: %s)", os.Getenv("XDG_CURRENT_DESKTOP"), strings.Join(names, ", "))
		return
	case chosen == nil:
		chosen = &able[0]
	}
	if x.conn == nil {
		return
	}
	pid := x.owner(ctx, chosen.bus)
	if pid == 0 && !x.activatable(ctx, chosen.bus) {
		x.broken(x.packages.add(pkg), "the portal backend %s does not run and the session bus cannot start it (%s)", chosen.name, chosen.bus)
		return
	}
	x.environment(pid, "the portal backend "+chosen.name, shown)
}

// choose is the backend that xdg-desktop-portal takes for a desktop: by
// portals.conf(5), else the first that says it is for the desktop; nil if it
// is left to chance.
func choose(able []portalFile, desktops []string) *portalFile {
	named := func(name string) *portalFile {
		for i := range able {
			if able[i].name == name || name == "*" {
				return &able[i]
			}
		}
		return nil
	}
	if names, ok := preferred(desktops); ok {
		for _, name := range names {
			if p := named(name); p != nil {
				return p
			}
		}
		return nil
	}
	for _, d := range desktops {
		for i := range able {
			if slices.ContainsFunc(able[i].useIn, func(u string) bool { return strings.EqualFold(u, d) }) {
				return &able[i]
			}
		}
	}
	return nil
}

// preferred reads the first portals.conf that counts.
func preferred(desktops []string) (names []string, ok bool) {
	dirs := []string{os.Getenv("XDG_DESKTOP_PORTAL_DIR")}
	for _, d := range append(append([]string{xdg("XDG_CONFIG_HOME", ".config")}, list("XDG_CONFIG_DIRS", "/etc/xdg")...), "/etc") {
		dirs = append(dirs, filepath.Join(d, "xdg-desktop-portal"))
	}
	for _, d := range append([]string{xdg("XDG_DATA_HOME", ".local/share")}, dataDirs()...) {
		dirs = append(dirs, filepath.Join(d, "xdg-desktop-portal"))
	}
	for _, dir := range dirs {
		if !filepath.IsAbs(dir) {
			continue
		}
		files := []string{}
		for _, d := range desktops {
			files = append(files, strings.ToLower(d)+"-portals.conf")
		}
		for _, name := range append(files, "portals.conf") {
			f, err := readKeyFile(filepath.Join(dir, name))
			if err != nil {
				continue
			}
			value, found := entry(f, "preferred", chooser)
			if !found {
				value, found = entry(f, "preferred", "default")
			}
			return words(value), found
		}
	}
	return nil, false
}

// portalFiles reads the *.portal files, in the order of their names.
func portalFiles() (all []portalFile) {
	dirs := []string{os.Getenv("XDG_DESKTOP_PORTAL_DIR")}
	if dirs[0] == "" {
		dirs = nil
		for _, d := range append([]string{xdg("XDG_DATA_HOME", ".local/share")}, dataDirs()...) {
			dirs = append(dirs, filepath.Join(d, "xdg-desktop-portal/portals"))
		}
	}
	seen := make(map[string]bool)
	for _, dir := range dirs {
		files, _ := filepath.Glob(filepath.Join(dir, "*.portal"))
		for _, file := range files {
			name := strings.TrimSuffix(filepath.Base(file), ".portal")
			f, err := readKeyFile(file)
			if err != nil || seen[name] {
				continue
			}
			seen[name] = true
			p := portalFile{name: name}
			p.bus, _ = entry(f, "portal", "DBusName")
			v, _ := entry(f, "portal", "Interfaces")
			p.interfaces = words(v)
			v, _ = entry(f, "portal", "UseIn")
			p.useIn = words(v)
			all = append(all, p)
		}
	}
	slices.SortStableFunc(all, func(a, b portalFile) int { return strings.Compare(a.name, b.name) })
	return all
}

func readKeyFile(path string) (*keyfile.File, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return keyfile.Parse(b)
}

func entry(f *keyfile.File, group, key string) (string, bool) {
	for _, e := range f.Group(group).Entries() {
		if e.Key == key {
			return strings.TrimSpace(e.Value), true
		}
	}
	return "", false
}

func words(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ';' })
}

// xdg is one of the XDG base directories of the user.
func xdg(variable, fallback string) string {
	if dir := os.Getenv(variable); filepath.IsAbs(dir) {
		return dir
	}
	return filepath.Join(os.Getenv("HOME"), fallback)
}

// list is one of the XDG lists of directories.
func list(variable, fallback string) []string {
	v := os.Getenv(variable)
	if v == "" {
		v = fallback
	}
	return strings.Split(v, ":")
}

// dataDirs are the data directories, with the one that every
// xdg-desktop-portal of a distribution knows.
func dataDirs() []string {
	dirs := list("XDG_DATA_DIRS", "/usr/local/share:/usr/share")
	if !slices.Contains(dirs, "/usr/share") {
		dirs = append(dirs, "/usr/share")
	}
	return dirs
}
