package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Marks around arguments that are files of the host, as in the desktop entries
// that flatpak writes: "@@ FILE… @@" and "@@u URI… @@", where an absolute path
// is a file as well.
const (
	filesMark = "@@"
	urisMark  = "@@u"
)

// Handed is a file of the host that the app is handed as a document.
type Handed struct {
	File      *os.File // O_PATH; the Plan's
	Directory bool
	Writable  bool // by the user
	arg       int  // index in the Plan's Command
	uri       bool
}

// forwarding takes the marks out of the program's arguments and opens the files
// between them. One that the app sees anyway is passed by its path.
func (pl *Plan) forwarding() error {
	command := pl.Command[:1:1]
	mark := ""
	for _, arg := range pl.Command[1:] {
		switch {
		case mark == "" && (arg == filesMark || arg == urisMark):
			mark = arg
			continue
		case mark != "" && arg == filesMark:
			mark = ""
			continue
		}
		if mark == "" {
			command = append(command, arg)
			continue
		}
		// GLib puts the path of a local file even where its URI is asked for.
		path, uri := arg, mark == urisMark && !filepath.IsAbs(arg)
		if uri {
			var local bool
			if path, local = filePath(arg); !local {
				command = append(command, arg) // as it is: nothing of the host's
				continue
			}
		}
		f, real, err := openForwarded(path)
		if err != nil {
			return err
		}
		f.arg, f.uri = len(command), uri
		command = append(command, spell(real, f.uri))
		if pl.visible(real) {
			f.File.Close()
			continue
		}
		pl.handed = append(pl.handed, f)
	}
	if mark != "" {
		return fmt.Errorf("%s has no %s at its end", mark, filesMark)
	}
	pl.Command = command
	return nil
}

// openForwarded opens a file to be handed to the app, and says where it really
// is.
func openForwarded(path string) (f Handed, real string, err error) {
	if path == "" {
		return f, "", errors.New("an empty name between " + filesMark)
	}
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return f, "", &os.PathError{Op: "open", Path: path, Err: err}
	}
	f.File = os.NewFile(uintptr(fd), path)
	info, err := f.File.Stat()
	if err == nil && !info.Mode().IsRegular() && !info.IsDir() {
		err = fmt.Errorf("%s is neither a file nor a directory", path)
	}
	if err == nil {
		real, err = whereIs(f.File)
	}
	if err != nil {
		f.File.Close()
		return f, "", err
	}
	f.Directory = info.IsDir()
	f.Writable = unix.Access(fmt.Sprintf("/proc/self/fd/%d", fd), unix.W_OK) == nil
	return f, real, nil
}

// whereIs is the path of an open file, without links. In the view of documents
// the kernel takes every name for deleted, as none is cached.
func whereIs(f *os.File) (string, error) {
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		return "", err
	}
	var open unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &open); err != nil {
		return "", err
	}
	for _, p := range []string{path, strings.TrimSuffix(path, " (deleted)")} {
		var st unix.Stat_t
		if filepath.IsAbs(p) && unix.Lstat(p, &st) == nil && st.Dev == open.Dev && st.Ino == open.Ino {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s is not at any path", f.Name())
}

// filePath is the path that a file: URI of this machine names.
func filePath(uri string) (path string, ok bool) {
	u, err := url.Parse(uri)
	if err != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.Scheme != "file" || u.Host != "" && u.Host != "localhost" || !filepath.IsAbs(u.Path) || strings.ContainsRune(u.Path, 0) {
		return "", false
	}
	return u.Path, true
}

// spell writes a path as the argument that it replaces was.
func spell(path string, uri bool) string {
	if !uri {
		return path
	}
	return (&url.URL{Scheme: "file", Path: path}).String()
}

// handOver makes documents of the forwarded files and puts their paths into the
// program's arguments.
func (s *Starter) handOver(ctx context.Context, pl *Plan, documents bool) error {
	if len(pl.handed) == 0 {
		return nil
	}
	if !documents || s.Forward == nil {
		return errors.New("without the document portal no file can be handed to the app")
	}
	ctx, cancel := context.WithTimeout(ctx, documentsWait)
	defer cancel()
	for _, f := range pl.handed {
		real, err := whereIs(f.File)
		if err != nil {
			return fmt.Errorf("handing %s to the app: %w", f.File.Name(), err)
		}
		id, err := s.Forward(ctx, pl.Profile.Name, f)
		if err != nil {
			return fmt.Errorf("handing %s to the app: %w", f.File.Name(), err)
		}
		if id == "" || strings.Contains(id, "/") || id == "." || id == ".." {
			return fmt.Errorf("handing %s to the app: the document portal answered %q", f.File.Name(), id)
		}
		path := filepath.Join(pl.Host.RuntimeDir, "doc", id, filepath.Base(real))
		pl.Command[f.arg] = spell(path, f.uri)
	}
	return nil
}
