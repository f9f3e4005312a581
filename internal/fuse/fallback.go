package fuse

import (
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// This file stands in for openat2(2) where there is none: in Linux before 5.6, in
// sandboxes that do not know it (ENOSYS), on file systems that do not take its
// flags (EOPNOTSUPP). It is small so that each line of it can be read with care.
//
// What openat2 promises for one name, openat(2) promises too if the name is one
// component, is neither "." nor "..", and is opened with O_NOFOLLOW: there is no
// way out of the directory then but a link, and that is not followed. For whole
// paths, which only the directory of a document is found by, there is walk.

// openChildOld is openChild.
func openChildOld(dir int, name string, flags int, mode uint32) (int, syscall.Errno) {
	if !component(name) {
		return -1, syscall.ENOENT
	}
	return openNoFollow(dir, name, flags, mode)
}

// openNoFollow opens name in dir, but not what a link there leads to. The caller
// answers for name.
func openNoFollow(dir int, name string, flags int, mode uint32) (int, syscall.Errno) {
	for {
		fd, err := unix.Openat(dir, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return -1, errnoOf(err)
		}
		return fd, 0
	}
}

// maxLinks is how many links a path may lead over (path_resolution(7)).
const maxLinks = 40

// walk is openDirectory by one component after the other. It follows links, and
// goes up where a path says so: what it arrives at is compared with what was to
// be there. It never goes through the view, of which it asks nothing.
func (o *opener) walk(path string) (int, syscall.Errno) {
	at, errno := openNoFollow(unix.AT_FDCWD, "/", unix.O_PATH|unix.O_DIRECTORY, 0)
	if errno != 0 {
		return -1, errno
	}
	typ, links, rest := uint32(unix.S_IFDIR), 0, strings.Split(path, "/")
	for len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
		if name == "" || name == "." {
			continue
		}
		// As a directory first: that has an automount point mounted.
		fd, errno := openNoFollow(at, name, unix.O_PATH|unix.O_DIRECTORY, 0)
		if errno == syscall.ENOTDIR || errno == syscall.ELOOP {
			fd, errno = openNoFollow(at, name, unix.O_PATH, 0)
		}
		if errno != 0 {
			unix.Close(at)
			return -1, errno
		}
		// What the kernel knows anyway will do; of the mount nothing may be
		// asked.
		var st unix.Statx_t
		err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE, &st)
		typ = uint32(st.Mode) & unix.S_IFMT
		next, text := fd, ""
		switch {
		case err != nil:
			errno = errnoOf(err)
		case o.shows(deviceOf(&st)):
			errno = syscall.ENOENT
		case typ == unix.S_IFLNK:
			if links++; links > maxLinks {
				errno = syscall.ELOOP
				break
			}
			buf := make([]byte, unix.PathMax)
			n, err := unix.Readlinkat(fd, "", buf)
			errno, text = errnoOf(err), string(buf[:max(n, 0)])
			unix.Close(fd)
			next, typ = at, unix.S_IFDIR // from where the text goes on
			rest = append(strings.Split(text, "/"), rest...)
			if strings.HasPrefix(text, "/") && errno == 0 {
				next, errno = openNoFollow(at, "/", unix.O_PATH|unix.O_DIRECTORY, 0)
			}
		}
		if next != at {
			unix.Close(at)
		}
		if at = next; errno != 0 {
			if at >= 0 {
				unix.Close(at)
			}
			return -1, errno
		}
	}
	if typ != unix.S_IFDIR {
		unix.Close(at)
		return -1, syscall.ENOTDIR
	}
	return at, 0
}
