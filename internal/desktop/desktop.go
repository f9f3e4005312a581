// Package desktop makes a sandboxed app known to the desktop: desktop entries
// that start it in its sandbox, and activation files in front of those that
// would start it outside. It keeps one rule: it changes and removes only files
// that it made itself and that nobody has changed since.
package desktop

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"docportal/internal/keyfile"
)

// maxFile is the greatest size in bytes of a file that is read here.
const maxFile = 1 << 20

// App is what is made known.
type App struct {
	ID string
	// Commands are the programs of its profile, in the order in which they are
	// tried; names or absolute paths.
	Commands []string
	// Owns reports whether the app may own a name on the session bus.
	Owns func(name string) bool
	// Launcher is the program that starts sandboxes: an absolute path.
	Launcher string
}

// Dirs are the places of a session (XDG base directory specification).
type Dirs struct {
	DataHome, ConfigHome string
	DataDirs, ConfigDirs []string // the most important ones first
}

// SessionDirs reads the places from the environment.
func SessionDirs(env func(string) string) Dirs {
	one := func(name, otherwise string) string {
		if dir := env(name); filepath.IsAbs(dir) {
			return filepath.Clean(dir)
		}
		return filepath.Join(env("HOME"), otherwise)
	}
	more := func(name, otherwise string) (dirs []string) {
		list := env(name)
		if list == "" {
			list = otherwise
		}
		for _, dir := range filepath.SplitList(list) {
			if filepath.IsAbs(dir) {
				dirs = append(dirs, filepath.Clean(dir))
			}
		}
		return dirs
	}
	return Dirs{
		one("XDG_DATA_HOME", ".local/share"), one("XDG_CONFIG_HOME", ".config"),
		more("XDG_DATA_DIRS", "/usr/local/share:/usr/share"), more("XDG_CONFIG_DIRS", "/etc/xdg"),
	}
}

func (d Dirs) applications() string { return filepath.Join(d.DataHome, "applications") }
func (d Dirs) services() string     { return filepath.Join(d.DataHome, "dbus-1/services") }
func (d Dirs) autostart() string    { return filepath.Join(d.ConfigHome, "autostart") }

// keyFile is a key file of the system's.
type keyFile struct {
	path string
	id   string // path below its directory, with - for /
	*keyfile.File
}

// read reads a key file.
func read(path string) (*keyfile.File, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	f, err := keyfile.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO must not hang us
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%s: larger than 1 MiB", path)
	}
	return data, err
}

// scan reads the key files below the directories, of those with the same id
// the first one. What cannot be read is left out: the desktop does not use it
// either.
func scan(dirs []string, suffix string) []keyFile {
	var all []keyFile
	seen := map[string]bool{}
	for _, dir := range dirs {
		filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() || !strings.HasSuffix(path, suffix) {
				return nil
			}
			rel, err := filepath.Rel(dir, path)
			if err != nil {
				return nil
			}
			id := strings.ReplaceAll(strings.TrimSuffix(rel, suffix), "/", "-")
			if seen[id] {
				return nil
			}
			seen[id] = true
			if f, err := read(path); err == nil {
				all = append(all, keyFile{path, id, f})
			}
			return nil
		})
	}
	return all
}

// below is a directory in each of several.
func below(dirs []string, name string) (all []string) {
	for _, dir := range dirs {
		all = append(all, filepath.Join(dir, name))
	}
	return all
}

// value is the string of a key, "" if it has none or none that can be read.
func (f keyFile) value(group, key string) string {
	s, _ := f.String(group, key)
	return s
}

// Activatable lists names of an app that the message bus could start outside
// its sandbox, also at the app's own wish, by the usual names of activation
// files: those that Install has not covered.
func (d Dirs) Activatable(id string) (names []string) {
	for _, dir := range append(below(d.DataDirs, "dbus-1/services"), "/usr/share/dbus-1/services") {
		entries, _ := os.ReadDir(dir) // a directory that is not there has none
		for _, e := range entries {
			name, ok := strings.CutSuffix(e.Name(), ".service")
			if !ok || name != id && !strings.HasPrefix(name, id+".") || slices.Contains(names, name) {
				continue
			}
			if _, err := os.Stat(filepath.Join(d.services(), e.Name())); err != nil {
				names = append(names, name)
			}
		}
	}
	return names
}
