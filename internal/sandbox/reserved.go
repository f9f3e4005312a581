package sandbox

import (
	"path/filepath"
	"slices"
)

// reserved is a place that is never inside a sandbox, whatever the profile
// says.
type reserved struct {
	path string
	why  string
	// itself: only the directory as a whole is reserved, entries in it may be
	// named.
	itself bool
	// file: it is no directory.
	file bool
}

// reservedPaths lists what no profile can grant, each at the path where it is
// expected and, if links lead elsewhere, where it really is. The app's own
// directory is not in it: it is bound over the mask of the others.
func reservedPaths(h *Host) []reserved {
	var all []reserved
	add := func(r reserved) {
		all = append(all, r)
		if real := realPath(r.path); real != r.path {
			r.path = real
			all = append(all, r)
		}
	}
	add(reserved{path: h.RuntimeDir, why: "the session's sockets", itself: true})
	for _, e := range []struct {
		name, why string
	}{
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
		add(reserved{path: filepath.Join(h.RuntimeDir, e.name), why: e.why})
	}
	for _, bus := range []BusAddress{h.SessionBus, h.SystemBus} {
		for _, path := range bus.Sockets {
			add(reserved{path: path, why: "a message bus", file: true})
		}
	}
	data, config := []string{".local/share"}, []string{".config"}
	homes := func(dirs []string, variable string) []string {
		paths := []string{filepath.Join(h.Home, dirs[0])}
		if dir := h.Env[variable]; filepath.IsAbs(dir) && filepath.Clean(dir) != paths[0] {
			paths = append(paths, filepath.Clean(dir))
		}
		return paths
	}
	for _, dir := range homes(data, "XDG_DATA_HOME") {
		add(reserved{path: filepath.Join(dir, "docportal"), why: "the documents and permissions of all apps"})
		add(reserved{path: filepath.Join(dir, "flatpak"), why: "the programs and permissions of all flatpaks"})
		add(reserved{path: filepath.Join(dir, "applications"), why: "commands that start outside the sandbox"})
		add(reserved{path: filepath.Join(dir, "dbus-1"), why: "services that start outside the sandbox"})
		add(reserved{path: filepath.Join(dir, "systemd"), why: "services that start outside the sandbox"})
	}
	for _, dir := range homes(config, "XDG_CONFIG_HOME") {
		add(reserved{path: filepath.Join(dir, "sbx"), why: "the profiles themselves"})
		add(reserved{path: filepath.Join(dir, "autostart"), why: "commands that start outside the sandbox"})
		add(reserved{path: filepath.Join(dir, "systemd"), why: "services that start outside the sandbox"})
	}
	add(reserved{path: filepath.Join(h.Home, ".var/app"), why: "the data of all apps"})
	for _, dir := range []string{"/tmp/.X11-unix", "/tmp/.ICE-unix", "/tmp/.XIM-unix", "/run/dbus", "/run/systemd", "/run/flatpak"} {
		add(reserved{path: dir, why: "sockets of the host"})
	}
	add(reserved{path: "/run/user", why: "the sockets of all sessions", itself: true})
	slices.SortStableFunc(all, func(a, b reserved) int { return len(a.path) - len(b.path) })
	return slices.CompactFunc(all, func(a, b reserved) bool { return a.path == b.path })
}

// systemDirs are bound read-only as a whole, or made anew, in every sandbox:
// nothing in them can be granted in another way.
var systemDirs = []string{"/usr", "/etc", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/sys", "/dev"}
