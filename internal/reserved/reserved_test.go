package reserved

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func session(t *testing.T) Session {
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s := Session{Home: filepath.Join(root, "home"), RuntimeDir: filepath.Join(root, "run"), Env: func(string) string { return "" }, Buses: []string{filepath.Join(root, "sockets/bus")}}
	for _, dir := range []string{s.Home, s.RuntimeDir} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func (s Session) has(path string) bool {
	return slices.ContainsFunc(s.Places(), func(p Place) bool { return p.Has(path) })
}

func TestWhatIsReserved(t *testing.T) {
	s := session(t)
	for path, want := range map[string]bool{
		s.Home:                                                     false,
		s.Home + "/.config":                                        false,
		s.Home + "/.config/autostart":                              true,
		s.Home + "/.config/autostart/x":                            true,
		s.Home + "/.config/autostarted":                            false,
		s.Home + "/.config/sbx/profiles/x":                         true,
		s.Home + "/.config/systemd/user":                           true,
		s.Home + "/.local/share":                                   false,
		s.Home + "/.local/share/docportal":                         true,
		s.Home + "/.local/share/flatpak/db":                        true,
		s.Home + "/.local/share/dbus-1/x":                          true,
		s.Home + "/.local/share/systemd":                           true,
		s.Home + "/.local/share/xdg-desktop-portal/applications/x": true,
		s.Home + "/.local/share/fonts":                             false,
		s.Home + "/.local/share/applications":                      true,
		s.Home + "/.var/app/org.other.App/x":                       true,
		s.Home + "/.var":                                           false,
		s.RuntimeDir:                                               true,
		s.RuntimeDir + "/app":                                      false,
		s.RuntimeDir + "/bus":                                      true,
		s.RuntimeDir + "/doc/x/y":                                  true,
		s.RuntimeDir + "/.flatpak/1/x":                             true,
		s.RuntimeDir + "/at-spi/bus":                               true,
		s.RuntimeDir + "/systemd/private":                          true,
		s.RuntimeDir + "/pipewire-0":                               true,
		s.Buses[0]:                                                 true,
		filepath.Dir(s.Buses[0]):                                   false,
		"/run/user":                                                true,
		"/run/user/1":                                              false,
		"/tmp/.X11-unix/X0":                                        true,
		"/run/dbus/system_bus_socket":                              true,
	} {
		if got := s.has(path); got != want {
			t.Errorf("%s: %v, want %v", path, got, want)
		}
	}
}

// A place that links lead to is reserved where it really is, too, and where
// the environment puts it.
func TestReservedElsewhere(t *testing.T) {
	s := session(t)
	other := filepath.Join(filepath.Dir(s.Home), "other")
	if err := os.MkdirAll(filepath.Join(other, "config"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(other, "config"), filepath.Join(s.Home, ".config")); err != nil {
		t.Fatal(err)
	}
	s.Env = func(name string) string {
		return map[string]string{"XDG_DATA_HOME": other + "/data//", "XDG_CONFIG_HOME": "relative"}[name]
	}
	for _, path := range []string{
		s.Home + "/.config/autostart", other + "/config/autostart", // not there yet
		other + "/data/applications/x", s.Home + "/.local/share/applications/x",
	} {
		if !s.has(path) {
			t.Errorf("%s is not reserved", path)
		}
	}
	places := s.Places()
	if !slices.IsSortedFunc(places, func(a, b Place) int { return len(a.Path) - len(b.Path) }) {
		t.Error("not sorted")
	}
	for _, p := range places {
		if !filepath.IsAbs(p.Path) || filepath.Clean(p.Path) != p.Path || p.Why == "" {
			t.Errorf("%+v", p)
		}
	}
}
