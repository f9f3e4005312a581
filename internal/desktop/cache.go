package desktop

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"docportal/internal/keyfile"
)

const cacheName = "mimeinfo.cache"

// UpdateCache writes anew which entries of the session's own directory open
// which files, as update-desktop-database(1) does; without it they are not
// offered for any. The file goes where nothing is to be said.
func UpdateCache(d Dirs) error {
	dir := d.applications()
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	types := map[string][]string{}
	for _, f := range scan([]string{dir}, entrySuffix) {
		if f.value(groupEntry, "Hidden") == "true" {
			continue
		}
		list, _ := f.List(groupEntry, "MimeType") // what cannot be read says nothing
		for _, t := range list {
			if id := f.id + entrySuffix; t != "" && !slices.Contains(types[t], id) {
				types[t] = append(types[t], id)
			}
		}
	}
	path := filepath.Join(dir, cacheName)
	if len(types) == 0 {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		os.Remove(dir) // unless something is in it
		return nil
	}
	out := new(keyfile.File)
	for _, t := range slices.Sorted(maps.Keys(types)) {
		out.SetList("MIME Cache", t, types[t])
	}
	if have, err := readFile(path); err == nil && bytes.Equal(have, out.Bytes()) {
		return nil
	}
	if _, err := (made{path, out.Bytes()}).write(true); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
