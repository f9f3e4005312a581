// Package reserved lists what of a session is in no sandbox, whatever a profile
// grants and whatever an app asks for. It is the one list of its kind: what it
// leaves out, apps can be given.
package reserved

import (
	"path/filepath"
	"slices"
	"strings"
)

// Place is a path that is never inside a sandbox.
type Place struct {
	Path string // absolute, clean
	Why  string // for error messages
	// Itself: only the directory as a whole is reserved, not what is in it.
	Itself bool
	// File: it is no directory.
	File bool
}

// Has reports whether a path is the place, or lies in it where that counts.
func (p Place) Has(path string) bool {
	return path == p.Path || !p.Itself && within(path, p.Path)
}

// Session is where a person's session has its files.
type Session struct {
	Home       string // absolute, clean
	RuntimeDir string // $XDG_RUNTIME_DIR: absolute, clean
	Env        func(string) string
	Buses      []string // sockets of message buses
}

// Apps is the directory of all apps' own data. An app's own one, in it, is not
// reserved for that app.
func (s Session) Apps() string { return filepath.Join(s.Home, ".var/app") }

// Places lists them, each at the path where it is expected and, if links lead
// elsewhere, where it really is; the shortest paths first.
func (s Session) Places() []Place {
	var all []Place
	add := func(p Place) {
		all = append(all, p)
		if real := RealPath(p.Path); real != p.Path {
			p.Path = real
			all = append(all, p)
		}
	}
	add(Place{Path: s.RuntimeDir, Why: "the session's sockets", Itself: true})
	for _, e := range [...]struct{ name, why string }{
		{".flatpak", "the identities of running sandboxes"},
		{".dbus-proxy", "the buses of other sandboxes"},
		{"doc", "the documents of all apps"},
		{"bus", "the session bus"},
		{"dbus-1", "the session bus"},
		{"at-spi", "the accessibility bus"},
		{"systemd", "the service manager"},
		{"pipewire-0", "cameras and microphones: the portal hands them out"},
		{"pipewire-0-manager", "cameras and microphones: the portal hands them out"},
	} {
		add(Place{Path: filepath.Join(s.RuntimeDir, e.name), Why: e.why})
	}
	for _, path := range s.Buses {
		add(Place{Path: path, Why: "a message bus", File: true})
	}
	for _, dir := range s.homes("XDG_DATA_HOME", ".local/share") {
		add(Place{Path: filepath.Join(dir, "docportal"), Why: "the documents and permissions of all apps"})
		add(Place{Path: filepath.Join(dir, "flatpak"), Why: "the programs and permissions of all flatpaks"})
		add(Place{Path: filepath.Join(dir, "applications"), Why: "commands that start outside the sandbox"})
		// Where portals put the launchers that links in applications lead to.
		add(Place{Path: filepath.Join(dir, "xdg-desktop-portal"), Why: "commands that start outside the sandbox"})
		add(Place{Path: filepath.Join(dir, "dbus-1"), Why: "services that start outside the sandbox"})
		add(Place{Path: filepath.Join(dir, "systemd"), Why: "services that start outside the sandbox"})
	}
	for _, dir := range s.homes("XDG_CONFIG_HOME", ".config") {
		add(Place{Path: filepath.Join(dir, "sbx"), Why: "the profiles themselves"})
		add(Place{Path: filepath.Join(dir, "autostart"), Why: "commands that start outside the sandbox"})
		add(Place{Path: filepath.Join(dir, "systemd"), Why: "services that start outside the sandbox"})
	}
	add(Place{Path: s.Apps(), Why: "the data of all apps"})
	for _, dir := range [...]string{"/tmp/.X11-unix", "/tmp/.ICE-unix", "/tmp/.XIM-unix", "/run/dbus", "/run/systemd", "/run/flatpak"} {
		add(Place{Path: dir, Why: "sockets of the host"})
	}
	add(Place{Path: "/run/user", Why: "the sockets of all sessions", Itself: true})
	slices.SortStableFunc(all, func(a, b Place) int { return len(a.Path) - len(b.Path) })
	return slices.CompactFunc(all, func(a, b Place) bool { return a.Path == b.Path })
}

// homes are the usual place of a base directory, and the one that the
// environment names.
func (s Session) homes(variable, usual string) []string {
	paths := []string{filepath.Join(s.Home, usual)}
	if s.Env == nil {
		return paths
	}
	if dir := s.Env(variable); filepath.IsAbs(dir) && filepath.Clean(dir) != paths[0] {
		paths = append(paths, filepath.Clean(dir))
	}
	return paths
}

// RealPath resolves all links of an absolute path as far as it exists.
func RealPath(path string) string {
	rest := ""
	for p := path; ; p = filepath.Dir(p) {
		if real, err := filepath.EvalSymlinks(p); err == nil {
			return filepath.Join(real, rest)
		}
		if p == "/" {
			return path
		}
		rest = filepath.Join(filepath.Base(p), rest)
	}
}

// within reports whether path is dir or lies below it. Both are clean.
func within(path, dir string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}
