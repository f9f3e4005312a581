package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Host is what a start needs to know of the session it is started from.
type Host struct {
	UID, GID   int
	Home       string // absolute, clean
	RuntimeDir string // $XDG_RUNTIME_DIR: absolute, clean, the user's own
	Env        map[string]string
	SessionBus BusAddress
	// SystemBus is needed only by profiles that name something on it; its
	// address is empty where there is none.
	SystemBus BusAddress
}

// NewHost reads the session from the environment. It fails where a sandbox
// could not be told apart from the host: without a runtime directory of the
// user's own, or without a session bus.
func NewHost(environ []string) (*Host, error) {
	h := &Host{UID: os.Getuid(), GID: os.Getgid(), Env: map[string]string{}}
	for _, kv := range environ {
		if k, v, ok := strings.Cut(kv, "="); ok {
			h.Env[k] = v
		}
	}
	h.Home = filepath.Clean(h.Env["HOME"])
	if !filepath.IsAbs(h.Home) || h.Home == "/" {
		return nil, fmt.Errorf("HOME=%q is no home directory", h.Env["HOME"])
	}
	h.RuntimeDir = filepath.Clean(h.Env["XDG_RUNTIME_DIR"])
	if !filepath.IsAbs(h.RuntimeDir) || h.RuntimeDir == "/" {
		return nil, fmt.Errorf("XDG_RUNTIME_DIR is not set: it names the directory of this session's sockets")
	}
	info, err := os.Stat(h.RuntimeDir)
	if err != nil {
		return nil, fmt.Errorf("XDG_RUNTIME_DIR: %w", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || !ok || int(st.Uid) != h.UID || info.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf("XDG_RUNTIME_DIR=%s is not a directory of your own that nobody else may write", h.RuntimeDir)
	}
	address := h.Env["DBUS_SESSION_BUS_ADDRESS"]
	if address == "" {
		address = "unix:path=" + escapeAddress(filepath.Join(h.RuntimeDir, "bus"))
	}
	if h.SessionBus, err = ParseAddress(address, h.RuntimeDir); err != nil {
		return nil, fmt.Errorf("session bus: %w", err)
	}
	h.SystemBus, err = systemBus(h.Env["DBUS_SYSTEM_BUS_ADDRESS"])
	if err != nil {
		return nil, err
	}
	return h, nil
}

// systemBus reads the address of the system bus, which need not be set.
func systemBus(address string) (BusAddress, error) {
	if address == "" {
		address = "unix:path=/run/dbus/system_bus_socket"
		if _, err := os.Stat("/run/dbus/system_bus_socket"); err != nil {
			address = "unix:path=/var/run/dbus/system_bus_socket"
		}
	}
	a, err := ParseAddress(address, "/nonexistent")
	if err != nil {
		return a, fmt.Errorf("system bus: %w", err)
	}
	return a, nil
}

// Getenv returns a variable of the session, "" if it is not set.
func (h *Host) Getenv(name string) string { return h.Env[name] }

// xdgHome returns one of the XDG base directories.
func (h *Host) xdgHome(variable, fallback string) string {
	if dir := h.Env[variable]; filepath.IsAbs(dir) {
		return filepath.Clean(dir)
	}
	return filepath.Join(h.Home, fallback)
}

// instances is the directory of all running sandboxes, flatpak's and ours.
func (h *Host) instances() string { return filepath.Join(h.RuntimeDir, ".flatpak") }
