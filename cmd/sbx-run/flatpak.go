package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"docportal/internal/appid"
	"docportal/internal/sandbox"
)

// Portals write "flatpak run …" into the autostart entries and launchers that
// they make for apps, whoever started the app. Where there is no flatpak, a
// link of that name to sbx-run understands these command lines, and nothing
// else; where there is one, it is handed everything. What it runs may come from
// an app: only apps with an installed profile are started, no option makes a
// sandbox wider, and only --file-forwarding gives "@@" a meaning.

const flatpakName = "flatpak"

// asFlatpak reports whether the program was called by that name.
func asFlatpak() bool { return filepath.Base(os.Args[0]) == flatpakName }

// becomeFlatpak becomes the real flatpak and does not return, if there is one.
func becomeFlatpak() {
	var self unix.Stat_t
	if unix.Stat("/proc/self/exe", &self) != nil {
		return
	}
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		path := filepath.Join(dir, flatpakName)
		var st unix.Stat_t
		if !filepath.IsAbs(path) || unix.Stat(path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG ||
			st.Dev == self.Dev && st.Ino == self.Ino || unix.Access(path, unix.X_OK) != nil || standIn(path) {
			continue
		}
		unix.Exec(path, append([]string{path}, os.Args[1:]...), os.Environ())
	}
}

// standIn reports whether a program is a link of ours to another sbx-run, such
// as a newer one: two of them would hand over to each other for ever.
func standIn(path string) bool {
	real, err := filepath.EvalSymlinks(path)
	return err != nil || filepath.Base(real) == "sbx-run"
}

// errNotFlatpak says what the stand-in does.
var errNotFlatpak = errors.New(`this is sbx-run in the place of flatpak, which is not installed: it knows only "flatpak run [--command=PROGRAM] [--file-forwarding] [--branch=…] [--arch=…] APP…" and "flatpak info --file-access=PATH APP"`)

// flatpakCommand is what a command line of flatpak's asks for.
type flatpakCommand struct {
	app, command string
	forwarding   bool
	args         []string
	info         bool
	path         string // of info --file-access
}

// parseFlatpak reads the arguments of flatpak.
func parseFlatpak(args []string) (c flatpakCommand, err error) {
	if len(args) == 0 || args[0] != "run" && args[0] != "info" {
		return c, errNotFlatpak
	}
	c.info = args[0] == "info"
	valued := map[string]*string{"--command": &c.command, "--branch": new(string), "--arch": new(string)}
	if c.info {
		valued = map[string]*string{"--file-access": &c.path}
	}
	for args = args[1:]; len(args) > 0 && strings.HasPrefix(args[0], "-"); args = args[1:] {
		name, value, ok := strings.Cut(args[0], "=")
		to := valued[name]
		switch {
		case to != nil && ok:
			*to = value
		case to != nil && len(args) > 1:
			*to = args[1]
			args = args[1:]
		case !c.info && args[0] == "--file-forwarding":
			c.forwarding = true
		default:
			return c, fmt.Errorf("%s: %w", args[0], errNotFlatpak)
		}
	}
	if len(args) == 0 || c.info && (len(args) != 1 || !filepath.IsAbs(c.path)) {
		return c, errNotFlatpak
	}
	c.app, c.args = args[0], args[1:]
	return c, nil
}

// check finds the app's profile.
func (c *flatpakCommand) check(dirs []string) error {
	if !appid.Valid(c.app) || !slices.Contains(sandbox.Installed(dirs), c.app) {
		return fmt.Errorf("%q: %w in %s", c.app, sandbox.ErrNoProfile, strings.Join(dirs, ", "))
	}
	return nil
}

// asOptions are the options of sbx-run that do the same.
func (c *flatpakCommand) asOptions() *options {
	return &options{Command: c.command, Words: append([]string{c.app}, c.args...), Literal: !c.forwarding}
}

// access prints what the app's sandbox shows of a path, as flatpak does.
func (c *flatpakCommand) access(dirs []string) error {
	p, err := sandbox.Load(c.app, dirs)
	if err != nil {
		return err
	}
	host, err := sandbox.NewHost(os.Environ())
	if err != nil {
		return err
	}
	plan, err := sandbox.NewPlan(p, host, sandbox.DryInstanceID, sandbox.Request{Shell: true})
	if err != nil {
		return err
	}
	defer plan.Close()
	shown, readOnly := false, false
	if real, err := filepath.EvalSymlinks(c.path); err == nil {
		shown, readOnly = plan.Shows(real)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	switch {
	case !shown:
		fmt.Println("hidden")
	case readOnly:
		fmt.Println("read-only")
	default:
		fmt.Println("read-write")
	}
	return nil
}
