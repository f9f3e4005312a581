package identity

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Bind is one mount of a sandbox, as sbx-run records it in the file "binds" of
// the instance directory: three NUL-terminated fields, "ro" or "rw", the
// host's path, the sandbox's path.
type Bind struct {
	ReadOnly bool
	Host     string // absolute path on the host
	Sandbox  string // absolute path in the sandbox
}

// EncodeBinds makes the content of the file "binds". It fails if a path is not
// absolute and clean, or contains NUL.
func EncodeBinds(binds []Bind) ([]byte, error) {
	var b bytes.Buffer
	for _, x := range binds {
		mode := "rw"
		if x.ReadOnly {
			mode = "ro"
		}
		for _, path := range []string{x.Host, x.Sandbox} {
			if err := checkPath(path); err != nil {
				return nil, err
			}
		}
		for _, field := range []string{mode, x.Host, x.Sandbox} {
			b.WriteString(field)
			b.WriteByte(0)
		}
	}
	return b.Bytes(), nil
}

// ParseBinds reads the content of the file "binds".
func ParseBinds(data []byte) ([]Bind, error) {
	if len(data) == 0 {
		return nil, nil
	}
	text, ok := strings.CutSuffix(string(data), "\x00")
	if !ok {
		return nil, errors.New("binds: the last field does not end")
	}
	fields := strings.Split(text, "\x00")
	if len(fields)%3 != 0 {
		return nil, fmt.Errorf("binds: %d fields", len(fields))
	}
	binds := make([]Bind, 0, len(fields)/3)
	for f := range slices.Chunk(fields, 3) {
		if f[0] != "ro" && f[0] != "rw" {
			return nil, fmt.Errorf("binds: neither ro nor rw: %q", f[0])
		}
		for _, path := range f[1:] {
			if err := checkPath(path); err != nil {
				return nil, err
			}
		}
		binds = append(binds, Bind{f[0] == "ro", f[1], f[2]})
	}
	return binds, nil
}

func checkPath(path string) error {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path || strings.IndexByte(path, 0) >= 0 {
		return fmt.Errorf("binds: not an absolute, clean path: %q", path)
	}
	return nil
}

// Ours reports whether id is an instance id that sbx-run gives:
// sbx-[0-9a-f]{8}.
func Ours(id string) bool {
	hex, ok := strings.CutPrefix(id, "sbx-")
	return ok && len(hex) == 8 && strings.Trim(hex, "0123456789abcdef") == ""
}

// Instance is a sandbox that is running, one directory in
// $XDG_RUNTIME_DIR/.flatpak.
type Instance struct {
	ID    string
	App   string
	Info  []byte // its metadata, as in /.flatpak-info
	Binds []Bind // only of sbx-run's
}

// TrustedBinds returns the mounts that sbx-run recorded for an instance, if
// they are to be believed: the id is one that sbx-run gives, the directory is
// the user's and no link, its .ref is locked, and its info is what the
// caller's own root says.
func TrustedBinds(runtimeDir, id string, info []byte) ([]Bind, error) {
	if runtimeDir == "" || !Ours(id) {
		return nil, fmt.Errorf("instance %q is not sbx-run's", id)
	}
	i, err := readInstance(filepath.Join(runtimeDir, ".flatpak"), id)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(i.Info, info) {
		return nil, fmt.Errorf("instance %s: info is not what its root says", id)
	}
	return i.Binds, nil
}

// Instances lists the sandboxes that run now, sbx-run's and flatpak's, sorted
// by id. Directories that break a rule are left out.
//
// It opens and closes every .ref: a process that holds one by a POSIX lock
// (F_SETLK) would lose it here, one by an open file description lock
// (F_OFD_SETLK) does not.
func Instances(runtimeDir string) ([]Instance, error) {
	dir := filepath.Join(runtimeDir, ".flatpak")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []Instance
	for _, e := range entries {
		if id := e.Name(); Ours(id) || strings.Trim(id, "0123456789") == "" {
			if i, err := readInstance(dir, id); err == nil {
				all = append(all, i)
			}
		}
	}
	return all, nil
}

// readInstance reads the directory of a live instance.
func readInstance(dir, id string) (Instance, error) {
	i, err := readInstanceDir(dir, id)
	if err != nil {
		return Instance{}, fmt.Errorf("instance %s: %w", id, err)
	}
	return i, nil
}

func readInstanceDir(dir, id string) (Instance, error) {
	i := Instance{ID: id}
	fd, err := unix.Open(filepath.Join(dir, id), unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return i, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return i, err
	}
	if err := owned(&st); err != nil {
		return i, err
	}
	if err := locked(fd, ".ref"); err != nil {
		return i, err
	}
	if i.Info, st, err = readRegular(fd, "info"); err != nil {
		return i, err
	}
	if err := owned(&st); err != nil {
		return i, err
	}
	c, err := parseFlatpak(i.Info)
	if err != nil {
		return i, err
	}
	if c.InstanceID != id {
		return i, fmt.Errorf("info is of instance %q", c.InstanceID)
	}
	i.App = c.App
	if !Ours(id) {
		return i, nil
	}
	binds, st, err := readRegular(fd, "binds")
	if err != nil {
		return i, err
	}
	if err := owned(&st); err != nil {
		return i, err
	}
	i.Binds, err = ParseBinds(binds)
	return i, err
}

func owned(st *unix.Stat_t) error {
	if st.Uid != uint32(os.Geteuid()) {
		return fmt.Errorf("belongs to user %d", st.Uid)
	}
	return nil
}

// locked reports that somebody holds a lock on a file: as long as a sandbox
// runs, its bwrap holds a read lock on .ref.
func locked(dir int, name string) error {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd)
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(uintptr(fd), unix.F_OFD_GETLK, &lock); err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	if lock.Type == unix.F_UNLCK {
		return fmt.Errorf("%s is not locked: it has ended", name)
	}
	return nil
}
