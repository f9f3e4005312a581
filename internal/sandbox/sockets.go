package sandbox

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// sockets plans the sockets that the profile grants, as plain binds. One that
// does not exist is left out: programs cope with its absence.
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
		pl.socket("/run/cups/cups.sock", "/run/cups/cups.sock")
	}
	if has(p.Sockets, "pcsc") {
		pl.socket("/run/pcscd/pcscd.comm", "/run/pcscd/pcscd.comm")
	}
	if has(p.Sockets, "ssh-auth") {
		if pl.socket(pl.Host.Env["SSH_AUTH_SOCK"], "/run/flatpak/ssh-auth") {
			pl.Env["SSH_AUTH_SOCK"] = "/run/flatpak/ssh-auth"
		}
	}
	if has(p.Sockets, "gpg-agent") {
		for _, path := range []string{filepath.Join(pl.Host.RuntimeDir, "gnupg/S.gpg-agent"), filepath.Join(pl.Host.Home, ".gnupg/S.gpg-agent")} {
			if pl.socket(path, path) {
				break
			}
		}
	}
}

// socket plans a bind of a socket of the host's, if it is one.
func (pl *Plan) socket(path, dest string) bool {
	if !filepath.IsAbs(path) {
		return false
	}
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	f := os.NewFile(uintptr(fd), path)
	if info, err := f.Stat(); err != nil || info.Mode().Type() != os.ModeSocket {
		f.Close()
		return false
	}
	pl.add(Mount{Kind: ROBind, Source: filepath.Clean(path), Dest: dest, file: f})
	return true
}

func (pl *Plan) pulse() {
	path := filepath.Join(pl.Host.RuntimeDir, "pulse/native")
	if server, ok := strings.CutPrefix(pl.Host.Env["PULSE_SERVER"], "unix:"); ok {
		path = server
	}
	dest := filepath.Join(pl.Host.RuntimeDir, "pulse/native")
	if pl.socket(path, dest) {
		pl.Env["PULSE_SERVER"] = "unix:" + dest
	}
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
		pl.add(Mount{Kind: Tmpfs, Dest: "/dev/shm", Perms: 0o1777}) // the session's, not a device
		return
	}
	for _, name := range names {
		if path := "/dev/" + name; exists(path) {
			pl.add(Mount{Kind: DevBind, Source: path, Dest: path})
		}
	}
}
