package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// openBeneath opens a path below a directory that is trusted itself, with
// flags and O_CLOEXEC. No component below root may be a link: what an app
// planted must not lead the next start elsewhere. The caller owns the result.
func openBeneath(root, rel string, flags int) (*os.File, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: root, Err: err}
	}
	defer unix.Close(dir)
	return openBeneathAt(dir, root, rel, flags)
}

func openBeneathAt(dir int, root, rel string, flags int) (*os.File, error) {
	path := filepath.Join(root, rel)
	how := &unix.OpenHow{
		Flags:   uint64(flags) | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	if rel == "" {
		rel = "."
	}
	for {
		fd, err := unix.Openat2(dir, rel, how)
		switch {
		case err == unix.EINTR, err == unix.EAGAIN: // a rename was in the way
			continue
		case err == unix.ELOOP:
			return nil, &linkError{path}
		case err != nil:
			return nil, &os.PathError{Op: "open", Path: path, Err: err}
		}
		return os.NewFile(uintptr(fd), path), nil
	}
}

// maxLinks is how many links a path may lead through, as in the kernel.
const maxLinks = 40

// openByRoot opens an absolute path as openBeneath does, but follows links that
// are root's, such as /var/run: no app could have made them. The caller owns the
// result.
func openByRoot(path string, flags int) (*os.File, error) {
	for range maxLinks {
		f, err := openBeneath("/", strings.TrimPrefix(path, "/"), flags)
		if link := (*linkError)(nil); !errors.As(err, &link) {
			return f, err
		}
		next, err := followFirst(path)
		if err != nil {
			return nil, err
		}
		path = next
	}
	return nil, &linkError{path}
}

// followFirst puts the target of the first link in an absolute path in its
// place, if the link is root's.
func followFirst(path string) (string, error) {
	elements := strings.Split(strings.TrimPrefix(path, "/"), "/")
	at := "/"
	for i, name := range elements {
		next := filepath.Join(at, name)
		var st unix.Stat_t
		if err := unix.Lstat(next, &st); err != nil {
			return "", &os.PathError{Op: "lstat", Path: next, Err: err}
		}
		if st.Mode&unix.S_IFMT != unix.S_IFLNK {
			at = next
			continue
		}
		if st.Uid != 0 {
			return "", &linkError{path}
		}
		to, err := os.Readlink(next)
		if err != nil {
			return "", err
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(at, to) // nothing before it is a link
		}
		return filepath.Join(append([]string{to}, elements[i+1:]...)...), nil
	}
	return path, nil
}

// linkError says that a path is, or goes through, a symbolic link.
type linkError struct{ path string }

func (e *linkError) Error() string {
	if to, err := filepath.EvalSymlinks(e.path); err == nil && to != e.path {
		return fmt.Sprintf("%s goes through a link to %s; links are not followed", e.path, to)
	}
	return e.path + " goes through a link; links are not followed"
}

// mkdirBeneath makes rel and its parents below root, as far as they are
// missing, with mode 0700, and opens it (O_PATH). The caller owns the result.
func mkdirBeneath(root, rel string) (*os.File, error) {
	f, err := openBeneath(root, "", unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	at := root
	for _, name := range strings.Split(filepath.Clean(rel), "/") {
		if err := unix.Mkdirat(int(f.Fd()), name, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
			f.Close()
			return nil, &os.PathError{Op: "mkdir", Path: filepath.Join(at, name), Err: err}
		}
		next, err := openBeneathAt(int(f.Fd()), at, name, unix.O_PATH|unix.O_DIRECTORY)
		f.Close()
		if err != nil {
			return nil, err
		}
		f, at = next, filepath.Join(at, name)
	}
	return f, nil
}

// within reports whether path is dir or lies below it. Both are clean.
func within(path, dir string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}
