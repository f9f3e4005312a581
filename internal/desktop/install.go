package desktop

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"docportal/internal/appid"
	"docportal/internal/keyfile"
)

// made is a file to be made.
type made struct {
	path string
	data []byte
}

// Each file begins with a line that says whose it is, with the hash of the
// rest: what somebody has changed is theirs from then on.
const (
	markStart = "# Made by sbx-run --install "
	markHash  = "; sbx-run --uninstall takes it away unless it was changed. sha256:"
)

func marked(id string, body []byte) []byte {
	sum := sha256.Sum256(body)
	return append([]byte(markStart+id+markHash+hex.EncodeToString(sum[:])+"\n"), body...)
}

// owner says which app a file was made for, "" if it is not one of ours, and
// whether it was changed since.
func owner(data []byte) (id string, changed bool) {
	line, body, _ := bytes.Cut(data, []byte("\n"))
	rest, ok := bytes.CutPrefix(line, []byte(markStart))
	if !ok {
		return "", false
	}
	name, sum, ok := bytes.Cut(rest, []byte(markHash))
	if !ok || !appid.Valid(string(name)) {
		return "", false
	}
	want := sha256.Sum256(body)
	return string(name), string(sum) != hex.EncodeToString(want[:])
}

// ErrFlatpak says that a flatpak with the app's id is installed.
var ErrFlatpak = errors.New("a flatpak with this id is installed")

// plan lists the files that make the app known.
func (a *App) plan(d Dirs) ([]made, error) {
	var all []made
	add := func(dir, name string, f *keyfile.File) {
		all = append(all, made{filepath.Join(dir, name), marked(a.ID, f.Bytes())})
	}
	// Not what is in the person's own directory: that is theirs, or ours.
	system := slices.DeleteFunc(slices.Clone(d.DataDirs), func(dir string) bool { return dir == d.DataHome })
	found, flatpaks := entries(below(system, "applications"))
	exported := []string{filepath.Join(d.DataHome, "flatpak/exports/share"), "/var/lib/flatpak/exports/share"}
	_, more := entries(below(exported, "applications"))
	if slices.Contains(append(flatpaks, more...), a.ID) {
		return nil, fmt.Errorf("%s: %w: its entries would be hidden", a.ID, ErrFlatpak)
	}
	first, others := a.choose(found)
	usual := ""
	if first == nil {
		add(d.applications(), a.ID+entrySuffix, a.bare())
	} else {
		usual = first.program
		for i, e := range append([]entry{*first}, others...) {
			f, err := a.rewrite(e, usual)
			if err != nil {
				return nil, err
			}
			name := a.ID
			if i > 0 {
				name = a.name(e)
			}
			add(d.applications(), name+entrySuffix, f)
			if name != e.id {
				add(d.applications(), e.id+entrySuffix, alias(f))
			}
		}
	}
	started, _ := entries(below(d.ConfigDirs, "autostart"))
	for _, e := range started {
		if a.runs(e.command) {
			f, err := a.rewrite(e, usual)
			if err != nil {
				return nil, err
			}
			add(d.autostart(), filepath.Base(e.path), f)
		}
	}
	// The bus looks into /usr/share whatever the environment says.
	for _, f := range scan(append(below(system, "dbus-1/services"), "/usr/share/dbus-1/services"), ".service") {
		name := f.value(groupService, "Name")
		c, err := parseCommand(f.value(groupService, "Exec"))
		owns := a.Owns(name)
		if !validName(name) || filepath.Base(c.program) == "flatpak" || !owns && (err != nil || !a.runs(c)) {
			continue
		}
		out := new(keyfile.File)
		out.Set(groupService, "Name", name)
		if owns && err == nil {
			out.Set(groupService, "Exec", joinService(a.activated(c, usual)))
		} else { // it could not have the name in its sandbox
			out.Set(groupService, "Exec", "/bin/false")
		}
		add(d.services(), name+".service", out)
	}
	// Of two with the same path, which only odd names lead to, the first.
	seen := map[string]bool{}
	return slices.DeleteFunc(all, func(m made) bool {
		twice := seen[m.path]
		seen[m.path] = true
		return twice
	}), nil
}

const groupService = "D-BUS Service"

// validName reports whether a bus name can be the name of a file.
func validName(name string) bool {
	return name != "" && len(name) <= appid.MaxLength && name[0] != '.' && !strings.ContainsAny(name, "/\x00\n")
}

// activated is the command line of an activation file.
func (a *App) activated(c command, usual string) []string {
	args := []string{a.Launcher}
	for _, v := range c.env {
		args = append(args, "--env="+v)
	}
	if !a.runs(c) || usual != "" && filepath.Base(c.program) != filepath.Base(usual) {
		args = append(args, "--command="+c.program)
	}
	return append(append(args, a.ID), c.args...)
}

// Changes are what an Install or Uninstall has done.
type Changes struct {
	Written []string // paths of files that are new or newer
	Removed []string
	Same    []string // files that were as they are to be
	// Kept are files in the way that are not ours, or that somebody changed.
	Kept []string
}

// Any reports whether a file was written or removed.
func (c *Changes) Any() bool { return len(c.Written)+len(c.Removed) > 0 }

// Install makes the app known. What was made for it earlier and is no longer
// of use is taken away. If the app's own entry cannot be made, nothing is.
func (a *App) Install(d Dirs) (*Changes, error) {
	plan, err := a.plan(d)
	if err != nil {
		return nil, err
	}
	own := filepath.Join(d.applications(), a.ID+entrySuffix)
	if state, err := look(own, a.ID); err != nil {
		return nil, err
	} else if state == theirs {
		return nil, fmt.Errorf("%s is in the way: it was not made by sbx-run --install, or was changed since; move it away", own)
	}
	c := new(Changes)
	for _, m := range plan {
		state, err := look(m.path, a.ID)
		if err != nil {
			return c, err
		}
		if state == theirs {
			c.Kept = append(c.Kept, m.path)
			continue
		}
		wrote, err := m.write(state == ours)
		if err != nil {
			return c, err
		}
		if wrote {
			c.Written = append(c.Written, m.path)
		} else {
			c.Same = append(c.Same, m.path)
		}
	}
	return c, sweep(a.ID, d, c, func(path string) bool {
		return slices.ContainsFunc(plan, func(m made) bool { return m.path == path })
	})
}

// Uninstall takes away what Install made for an app.
func Uninstall(id string, d Dirs) (*Changes, error) {
	c := new(Changes)
	return c, sweep(id, d, c, func(string) bool { return false })
}

// sweep removes the unchanged files that were made for an app and that are not
// wanted any more, and the directories that become empty by it.
func sweep(id string, d Dirs, c *Changes, wanted func(path string) bool) error {
	for _, dir := range []string{d.applications(), d.services(), d.autostart()} {
		entries, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		removed := false
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			if !e.Type().IsRegular() || wanted(path) {
				continue
			}
			data, err := readFile(path)
			if err != nil {
				continue // ours can be read
			}
			switch of, changed := owner(data); {
			case of != id:
			case changed:
				c.Kept = append(c.Kept, path)
			default:
				if err := os.Remove(path); err != nil {
					return err
				}
				removed = true
				c.Removed = append(c.Removed, path)
			}
		}
		if removed {
			os.Remove(dir) // unless something is in it
			if dir == d.services() {
				os.Remove(filepath.Dir(dir))
			}
		}
	}
	return nil
}

// state is what is at a path.
type state int

const (
	absent state = iota
	ours         // made for the app, and not changed since
	theirs       // anything else
)

func look(path, id string) (state, error) {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return absent, nil
	case err != nil:
		return theirs, err
	case !info.Mode().IsRegular():
		return theirs, nil
	}
	data, err := readFile(path)
	if err != nil {
		return theirs, err
	}
	if of, changed := owner(data); of != id || changed {
		return theirs, nil
	}
	return ours, nil
}

// write makes the file, whole or not at all; over an earlier one only if that
// is ours. It reports whether anything had to be written.
func (m made) write(over bool) (bool, error) {
	if over {
		if have, err := readFile(m.path); err == nil && bytes.Equal(have, m.data) {
			return false, nil
		}
	}
	dir := filepath.Dir(m.path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return false, err
	}
	tmp, err := os.CreateTemp(dir, ".sbx-run-*")
	if err != nil {
		return false, err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(m.data)
	if err == nil {
		err = tmp.Chmod(0o644)
	}
	if e := tmp.Close(); err == nil {
		err = e
	}
	if err != nil {
		return false, err
	}
	if !over { // never over what came meanwhile
		err := unix.Renameat2(unix.AT_FDCWD, tmp.Name(), unix.AT_FDCWD, m.path, unix.RENAME_NOREPLACE)
		if err != unix.EINVAL { // a file system that does not know the flag
			return err == nil, err
		}
	}
	return true, os.Rename(tmp.Name(), m.path)
}
