package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// sockets plans the sockets that the profile grants. One that does not exist is
// left out: programs cope with its absence.
func (pl *Plan) sockets() {
	p := pl.Profile
	wayland := has(p.Sockets, "wayland") && pl.wayland()
	if has(p.Sockets, "x11") || has(p.Sockets, "fallback-x11") && !wayland {
		pl.x11()
	}
	if has(p.Sockets, "pulseaudio") {
		pl.pulse()
	}
	if has(p.Sockets, "cups") {
		if pl.socketOf("CUPS_SERVER", "/run/cups/cups.sock") {
			pl.Env["CUPS_SERVER"] = "/run/cups/cups.sock"
		}
	}
	if has(p.Sockets, "pcsc") {
		if pl.socketOf("PCSCLITE_CSOCK_NAME", "/run/pcscd/pcscd.comm") {
			pl.Env["PCSCLITE_CSOCK_NAME"] = "/run/pcscd/pcscd.comm"
		}
	}
	if has(p.Sockets, "ssh-auth") {
		if pl.socket(pl.Host.Env["SSH_AUTH_SOCK"], "/run/flatpak/ssh-auth") {
			pl.Env["SSH_AUTH_SOCK"] = "/run/flatpak/ssh-auth"
		}
	}
	if has(p.Sockets, "gpg-agent") {
		pl.gpgAgent()
	}
}

// socketOf plans a daemon's socket at its usual path, from where a variable of
// the session says it is, or from there.
func (pl *Plan) socketOf(variable, path string) bool {
	from := pl.Host.Env[variable]
	if !filepath.IsAbs(from) {
		from = path
	}
	return pl.socket(from, path)
}

// gpgAgent plans the agent's socket where gpg looks for it: below /run/user,
// whatever XDG_RUNTIME_DIR says, or else in its home directory.
func (pl *Plan) gpgAgent() {
	home := filepath.Join(pl.Host.Home, ".gnupg")
	for _, dir := range []string{fmt.Sprintf("/run/user/%d/gnupg", pl.Host.UID), filepath.Join(pl.Host.RuntimeDir, "gnupg"), home} {
		path := filepath.Join(dir, "S.gpg-agent")
		if pl.socket(path, path) {
			if dir == home && !pl.visible(home) {
				// gpg warns of a directory that others may look into.
				at := len(pl.Mounts) - 1
				pl.Mounts = slices.Insert(pl.Mounts, at, Mount{Kind: Dir, Dest: home, Perms: 0o700})
			}
			return
		}
	}
}

// socket plans a bind of a socket of the host's, if it is one. Where an app can
// write, it could have put something else there: links below the home directory
// are not followed, and no way leads to what is reserved.
func (pl *Plan) socket(path, dest string) bool {
	if !filepath.IsAbs(path) {
		return false
	}
	f, err := openHost(pl.Host, path, unix.O_PATH)
	if err != nil {
		if link := (*linkError)(nil); errors.As(err, &link) {
			pl.Warnings = append(pl.Warnings, fmt.Sprintf("socket left out: %v", err))
		}
		return false
	}
	info, err := f.Stat()
	if err == nil && info.Mode().Type() != os.ModeSocket {
		f.Close()
		return false
	}
	if err == nil {
		err = pl.checkSocket(f, path)
	}
	if err != nil {
		f.Close()
		pl.Warnings = append(pl.Warnings, fmt.Sprintf("socket %s: left out: %v", path, err))
		return false
	}
	pl.add(Mount{Kind: ROBind, Source: filepath.Clean(path), Dest: dest, file: f})
	return true
}

// checkSocket says why a socket is not what its path promises, nil if it may
// be.
func (pl *Plan) checkSocket(f *os.File, path string) error {
	places := reservedPlaces(pl.Host)
	if err := sameAsReserved(f, places); err != nil {
		return err
	}
	real, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		return err
	}
	for _, r := range places {
		// One display of all is what x11 is about.
		if r.Has(real) && (r.Path != x11Dir || !r.Has(filepath.Clean(path))) {
			return fmt.Errorf("is %s, and %s is never inside a sandbox: %s", real, r.Path, r.Why)
		}
	}
	return nil
}

// openHost opens a file of the host's that the session names. No link is
// followed below the home directory, and elsewhere none that is not root's: an
// app that may write there could lead the next start elsewhere.
func openHost(h *Host, path string, flags int) (*os.File, error) {
	path = filepath.Clean(path)
	if within(path, h.Home) {
		return openBeneath(h.Home, strings.TrimPrefix(strings.TrimPrefix(path, h.Home), "/"), flags)
	}
	return openByRoot(path, flags)
}

// Where PulseAudio's client library finds what it needs in the sandbox.
const (
	pulseCookie = "/run/flatpak/pulse/cookie"
	pulseConfig = "/run/flatpak/pulse/config"
)

// maxPulseCookie bounds the size of a cookie file, in bytes; they have 256.
const maxPulseCookie = 4096

// pulse plans PulseAudio's socket, which PipeWire serves in many sessions, and
// the cookie that a server may ask for.
func (pl *Plan) pulse() {
	dest := filepath.Join(pl.Host.RuntimeDir, "pulse/native")
	if !pl.socket(pulseSocket(pl.Host), dest) {
		return
	}
	pl.Env["PULSE_SERVER"] = "unix:" + dest
	// The server cannot see the sandbox's shared memory.
	pl.add(Mount{Kind: ROData, Dest: pulseConfig, Data: []byte("enable-shm=no\n")})
	pl.Env["PULSE_CLIENTCONFIG"] = pulseConfig
	path := pl.Host.Env["PULSE_COOKIE"]
	if !filepath.IsAbs(path) {
		path = filepath.Join(pl.Host.xdgHome("XDG_CONFIG_HOME", ".config"), "pulse/cookie")
	}
	cookie, err := readCookies(maxPulseCookie)(openHost(pl.Host, path, unix.O_RDONLY|unix.O_NONBLOCK))
	if err != nil {
		pl.Warnings = append(pl.Warnings, fmt.Sprintf("PulseAudio cookie: %v", err))
	}
	if len(cookie) > 0 {
		pl.add(Mount{Kind: ROData, Dest: pulseCookie, Data: cookie})
		pl.Env["PULSE_COOKIE"] = pulseCookie
	}
}

// pulseSocket is the path of PulseAudio's socket: PULSE_SERVER is a list of
// servers, each of which may begin with a machine's id in braces.
func pulseSocket(h *Host) string {
	for server := range strings.FieldsSeq(h.Env["PULSE_SERVER"]) {
		if rest, ok := strings.CutPrefix(server, "{"); ok {
			_, server, _ = strings.Cut(rest, "}")
		}
		if path := strings.TrimPrefix(server, "unix:"); filepath.IsAbs(path) {
			return path
		}
	}
	if dir := h.Env["PULSE_RUNTIME_PATH"]; filepath.IsAbs(dir) {
		return filepath.Join(dir, "native")
	}
	return filepath.Join(h.RuntimeDir, "pulse/native")
}

// devices plans the device files that the profile grants.
func (pl *Plan) devices() {
	p := pl.Profile
	var names []string
	for word, list := range map[string][]string{
		"dri":   {"dri", "mali", "mali0", "umplock", "nvidiactl", "nvidia-modeset", "nvidia-uvm", "nvidia0", "nvidia1", "nvidia2", "nvidia3", "dxg", "kfd"},
		"input": {"input", "uinput"},
		"kvm":   {"kvm"},
		"usb":   {"bus/usb"},
	} {
		if has(p.Devices, word) {
			names = append(names, list...)
		}
	}
	slices.Sort(names)
	if has(p.Devices, "all") {
		pl.add(Mount{Kind: DevBind, Source: "/dev", Dest: "/dev"})
		// These hold what the session's programs share, no devices.
		for _, dir := range []string{"/dev/shm", "/dev/mqueue"} {
			if exists(dir) {
				pl.add(Mount{Kind: Tmpfs, Dest: dir, Perms: 0o1777})
			}
		}
		return
	}
	for _, name := range names {
		if path := "/dev/" + name; exists(path) {
			pl.add(Mount{Kind: DevBind, Source: path, Dest: path})
		}
	}
}
