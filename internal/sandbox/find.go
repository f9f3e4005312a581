package sandbox

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

const (
	profileSuffix = ".profile"
	// maxProfile is far more than any profile needs; a wrong file, such as a
	// device, must not fill the memory.
	maxProfile = 1 << 20
)

// ProfileDirs lists the directories of profiles, the ones that later ones add
// to first: system directories (/usr/share, /usr/local/share, the share
// directory beside the program, $XDG_DATA_DIRS), /etc, the user's own.
//
// Of $XDG_DATA_DIRS and the program's own prefix only directories count that
// root alone may write: flatpak puts directories there that apps of the user
// fill.
func ProfileDirs(env func(string) string, exe string) []string {
	var dirs []string
	add := func(dir string) {
		if filepath.IsAbs(dir) && !slices.Contains(dirs, filepath.Clean(dir)) {
			dirs = append(dirs, filepath.Clean(dir))
		}
	}
	add("/usr/share/sbx/profiles")
	add("/usr/local/share/sbx/profiles")
	var more []string
	for _, d := range strings.Split(env("XDG_DATA_DIRS"), ":") {
		more = append(more, filepath.Join(d, "sbx/profiles"))
	}
	if exe != "" {
		more = append(more, filepath.Join(filepath.Dir(exe), "../share/sbx/profiles"))
	}
	slices.Reverse(more) // the first of XDG_DATA_DIRS is the most important one
	for _, d := range more {
		if rootOnly(d) {
			add(d)
		}
	}
	add("/etc/sbx/profiles")
	add(filepath.Join(configHome(env), "sbx/profiles"))
	return dirs
}

func configHome(env func(string) string) string {
	if dir := env("XDG_CONFIG_HOME"); filepath.IsAbs(dir) {
		return dir
	}
	return filepath.Join(env("HOME"), ".config")
}

// rootOnly reports whether the directory exists and only root may write it.
func rootOnly(dir string) bool {
	info, err := os.Stat(dir)
	if err != nil || !info.IsDir() || info.Mode().Perm()&0o022 != 0 {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && st.Uid == 0
}

// ErrNoProfile says that no profile of that name exists.
var ErrNoProfile = errors.New("no profile")

// Load reads the profile of app: a path of a profile file (it has a "/"), an
// app id, or a short name that only one installed profile has.
// For an id, ID.profile of each directory is read in order, and each adds to
// the ones before it.
func Load(app string, dirs []string) (*Profile, error) {
	p := new(Profile)
	if strings.Contains(app, "/") {
		if err := p.readFile(app); err != nil {
			return nil, err
		}
	} else {
		id, err := findID(app, dirs)
		if err != nil {
			return nil, err
		}
		for _, dir := range dirs {
			path := filepath.Join(dir, id+profileSuffix)
			if err := p.readFile(path); errors.Is(err, fs.ErrNotExist) {
				continue
			} else if err != nil {
				return nil, err
			}
			if p.Name != "" && p.Name != id {
				return nil, &ProfileError{p.NameAt, "name", fmt.Sprintf("%q in a file named %s%s", p.Name, id, profileSuffix)}
			}
		}
	}
	if p.Name == "" {
		return nil, &ProfileError{Position{p.Files[len(p.Files)-1], 1}, "name", "missing in [Application]: the app id"}
	}
	return p, nil
}

func (p *Profile) readFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO must not hang us
	if err != nil {
		return err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return err
	} else if !info.Mode().IsRegular() {
		return fmt.Errorf("%s: not a file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxProfile+1))
	if err != nil {
		return err
	}
	if len(data) > maxProfile {
		return fmt.Errorf("%s: too large for a profile", path)
	}
	return p.AddFile(path, data)
}

// findID turns what the user typed into the app id of an installed profile: an
// id, its last element, another element of it, or the name of a program; the
// first of these that any profile has.
func findID(app string, dirs []string) (string, error) {
	ids := Installed(dirs)
	if slices.Contains(ids, app) {
		return app, nil
	}
	words := make([]string, 0, len(ids))
	for _, is := range []func(id string) bool{
		func(id string) bool {
			last := id[strings.LastIndexByte(id, '.')+1:]
			words = append(words, id, last)
			return strings.EqualFold(last, app)
		},
		func(id string) bool {
			elements := strings.Split(id, ".")
			return slices.ContainsFunc(elements[1:], func(e string) bool { return strings.EqualFold(e, app) })
		},
		func(id string) bool {
			p, err := Load(id, dirs) // one that cannot be read has no programs
			return err == nil && slices.ContainsFunc(p.Command, func(w Word) bool {
				words = append(words, filepath.Base(w.Text))
				return filepath.Base(w.Text) == app
			})
		},
	} {
		var found []string
		for _, id := range ids {
			if is(id) {
				found = append(found, id)
			}
		}
		switch len(found) {
		case 0:
		case 1:
			return found[0], nil
		default:
			return "", fmt.Errorf("%q is short for more than one app: %s", app, strings.Join(found, ", "))
		}
	}
	hint := didYouMean(app, words)
	if hint == "" {
		hint = "; sbx-run --list shows all; a profile is a file ID" + profileSuffix + " in " + strings.Join(dirs, ", ")
	}
	return "", fmt.Errorf("%w for %q%s", ErrNoProfile, app, hint)
}

// Installed lists the app ids of all profiles in the directories, sorted.
func Installed(dirs []string) []string {
	var ids []string
	for _, dir := range dirs {
		entries, _ := os.ReadDir(dir) // a directory that is not there has none
		for _, e := range entries {
			if id, ok := strings.CutSuffix(e.Name(), profileSuffix); ok && checkID(id) == nil {
				ids = append(ids, id)
			}
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}
