package identity

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"docportal/internal/appid"
	"docportal/internal/keyfile"

	"golang.org/x/sys/unix"
)

// maxMetadata is the greatest size in bytes of a metadata file.
const maxMetadata = 1 << 20

// snapTimeout bounds the snap command.
const snapTimeout = time.Second

// readRegular reads a regular file of at most maxMetadata bytes in an open
// directory. It follows no link and waits for nothing.
func readRegular(dir int, name string) ([]byte, unix.Stat_t, error) {
	var st unix.Stat_t
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, st, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd) // no os.File: that would poll what may be a file of our own view
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, st, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, st, &fs.PathError{Op: "read", Path: name, Err: errors.New("not a regular file")}
	}
	data := make([]byte, 0, min(max(st.Size, 0), maxMetadata)+512)
	for {
		n, err := unix.Read(fd, data[len(data):cap(data)])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, st, &fs.PathError{Op: "read", Path: name, Err: err}
		}
		if n == 0 {
			return data, st, nil
		}
		data = data[:len(data)+n]
		if len(data) > maxMetadata {
			return nil, st, &fs.PathError{Op: "read", Path: name, Err: errors.New("larger than 1 MiB")}
		}
		data = slices.Grow(data, 512)
	}
}

// readMetadata reads a metadata file in the root of a process; root is -1 for
// a root that hides from us. errOther means that there is none.
func readMetadata(root int, name string) ([]byte, error) {
	if root < 0 {
		return nil, errOther
	}
	data, _, err := readRegular(root, name)
	if errors.Is(err, unix.ENOENT) {
		return nil, errOther
	}
	if errors.Is(err, unix.EACCES) {
		var st unix.Statfs_t
		if unix.Fstatfs(root, &st) == nil && st.Type == unix.FUSE_SUPER_MAGIC {
			return nil, errOther
		}
	}
	return data, err
}

// flatpak reads /.flatpak-info, which flatpak and sbx-run put there.
func (r *Resolver) flatpak(root int) (*Caller, error) {
	const name = ".flatpak-info"
	data, err := readMetadata(root, name)
	if err != nil {
		return nil, err
	}
	c, err := parseFlatpak(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	for _, p := range []*string{&c.AppPath, &c.RuntimePath} {
		if real, err := filepath.EvalSymlinks(*p); *p != "" && err == nil {
			*p = real
		}
	}
	// Without believable mounts the caller is who it is all the same.
	if Ours(c.InstanceID) {
		if c.Binds, err = TrustedBinds(r.o.RuntimeDir, c.InstanceID, data); err != nil {
			r.o.Log.Warn("recorded mounts not believed", "app", c.App, "error", err)
		}
	}
	return c, nil
}

// parseFlatpak reads the metadata of an instance (flatpak-metadata(5)).
func parseFlatpak(data []byte) (*Caller, error) {
	f, err := keyfile.Parse(data)
	if err != nil {
		return nil, err
	}
	c := &Caller{Kind: Flatpak}
	group := "Application"
	if f.Group("Runtime") != nil {
		group = "Runtime"
	}
	for _, v := range []struct {
		group, key string
		dst        *string
	}{
		{group, "name", &c.App},
		{"Instance", "instance-id", &c.InstanceID},
		{"Instance", "app-path", &c.AppPath},
		{"Instance", "runtime-path", &c.RuntimePath},
	} {
		if *v.dst, err = f.String(v.group, v.key); err != nil {
			return nil, err
		}
	}
	if err := checkID(c.App); err != nil {
		return nil, err
	}
	if !validInstance(c.InstanceID) {
		return nil, fmt.Errorf("no usable instance-id: %q", c.InstanceID)
	}
	shared, err := f.List("Context", "shared")
	if err != nil {
		return nil, err
	}
	c.Network = slices.Contains(shared, "network")
	return c, nil
}

// checkID judges an app id from a metadata file.
func checkID(id string) error {
	if !appid.Valid(id) {
		return fmt.Errorf("not an app id: %q", id)
	}
	if appid.Foreign(id) {
		return fmt.Errorf("%q is an id that snapd alone gives", id)
	}
	return nil
}

// validInstance reports whether id can be an instance id: the name of one
// directory.
func validInstance(id string) bool {
	if id == "" || len(id) > 255 || id[0] == '.' {
		return false
	}
	for i := 0; i < len(id); i++ {
		if c := id[i]; c <= ' ' || c >= 0x7f || c == '/' {
			return false
		}
	}
	return true
}

// linyaps reads /.linyaps.
func linyaps(root int) (*Caller, error) {
	const name = ".linyaps"
	data, err := readMetadata(root, name)
	if err != nil {
		return nil, err
	}
	f, err := keyfile.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	id, err := f.String("Application", "id")
	if err == nil {
		err = checkID(id)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return &Caller{Kind: Linyaps, App: id}, nil
}

// snap asks snapd about a process in one of its control groups.
func (r *Resolver) snap(ctx context.Context, p *process) (*Caller, error) {
	groups, err := os.ReadFile(p.path("cgroup"))
	if errors.Is(err, fs.ErrNotExist) {
		// A kernel without control groups has no such file for us either.
		if _, own := os.Stat("/proc/self/cgroup"); errors.Is(own, fs.ErrNotExist) {
			return nil, errOther
		}
	}
	if err != nil {
		return nil, err
	}
	if !bytes.Contains(groups, []byte("/snap.")) {
		return nil, errOther
	}
	ctx, cancel := context.WithTimeout(ctx, snapTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, r.o.Snap, "routine", "portal-info", fmt.Sprint(p.pid))
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}
	cmd.WaitDelay = snapTimeout / 4
	out := &limitedBuffer{max: maxMetadata}
	cmd.Stdout = out
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("snap routine portal-info: %w", err)
	}
	return parseSnap(out.Bytes())
}

// parseSnap reads the answer of "snap routine portal-info".
func parseSnap(data []byte) (*Caller, error) {
	f, err := keyfile.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("snap routine portal-info: %w", err)
	}
	name, err := f.String("Snap Info", "InstanceName")
	if err != nil {
		return nil, fmt.Errorf("snap routine portal-info: %w", err)
	}
	c := &Caller{Kind: Snap, App: "snap." + name}
	// A name with a dot could look like somebody else's.
	if !appid.Valid(c.App) || strings.Contains(name, ".") {
		return nil, fmt.Errorf("snap routine portal-info: not a snap's name: %q", name)
	}
	e, _ := f.Group("Snap Info").Lookup("HasNetworkStatus")
	c.Network = e.Value == "true"
	return c, nil
}

// limitedBuffer is a buffer that fails when it would grow beyond max bytes.
type limitedBuffer struct {
	bytes.Buffer
	max int
}

func (b *limitedBuffer) Write(p []byte) (int, error) {
	if b.Len()+len(p) > b.max {
		return 0, errors.New("too much output")
	}
	return b.Buffer.Write(p)
}
