package sandbox

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"docportal/internal/identity"
)

const (
	instancePrefix = "sbx-"
	newPrefix      = ".new-" + instancePrefix
	// staleAfter is how old an unfinished instance directory must be before
	// another start takes it away: between making it and locking it, it looks
	// abandoned.
	staleAfter = time.Minute
)

// Instance is the directory of one running sandbox,
// $XDG_RUNTIME_DIR/.flatpak/sbx-XXXXXXXX, where portals and docportal look up
// what they read in /.flatpak-info.
type Instance struct {
	ID  string
	Dir string
	ref *os.File // .ref, locked as long as it is open
}

// NewInstanceID makes a name that was never used before: a late message of an
// app that has ended must not be taken for another's.
func NewInstanceID() string {
	var b [4]byte
	rand.Read(b[:]) // never fails
	return instancePrefix + hex.EncodeToString(b[:])
}

// newInstance makes the directory with its lock, metadata and pid in it. It
// appears under its name only when it is whole and locked.
func newInstance(parent, id string, info []byte) (*Instance, error) {
	if err := os.Mkdir(parent, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	if st, err := os.Lstat(parent); err != nil {
		return nil, err
	} else if !st.IsDir() {
		return nil, fmt.Errorf("%s is not a directory", parent)
	}
	tmp := filepath.Join(parent, ".new-"+id)
	if err := os.Mkdir(tmp, 0o755); err != nil {
		return nil, err
	}
	in := &Instance{ID: id, Dir: tmp}
	err := func() (err error) {
		if in.ref, err = os.OpenFile(filepath.Join(tmp, ".ref"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644); err != nil {
			return err
		}
		if err = lock(in.ref, unix.F_RDLCK); err != nil {
			return fmt.Errorf("lock %s: %w", in.ref.Name(), err)
		}
		if err = os.Chmod(tmp, 0o755); err != nil { // whatever the umask
			return err
		}
		if err = os.Mkdir(filepath.Join(tmp, "proxy"), 0o700); err != nil {
			return err
		}
		if err = in.write("info", info); err != nil {
			return err
		}
		if err = in.write("pid", fmt.Appendf(nil, "%d", os.Getpid())); err != nil {
			return err
		}
		if err = os.Chmod(in.ref.Name(), 0o644); err != nil {
			return err
		}
		// Never onto another: RENAME_NOREPLACE also fails for an empty one.
		return unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, filepath.Join(parent, id), unix.RENAME_NOREPLACE)
	}()
	if err != nil {
		in.Remove()
		return nil, err
	}
	in.Dir = filepath.Join(parent, id)
	return in, nil
}

// lock takes a lock of the open file description, or fails at once if another
// one is in the way.
func lock(f *os.File, kind int16) error {
	return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: kind, Whence: unix.SEEK_SET})
}

// write makes a file of the directory whole or not at all.
func (in *Instance) write(name string, data []byte) error {
	path := filepath.Join(in.Dir, name)
	if err := os.WriteFile(path+".new", data, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// writeBinds records the sandbox's binds for docportal.
func (in *Instance) writeBinds(binds []identity.Bind) error {
	data, err := identity.EncodeBinds(binds)
	if err != nil {
		return err
	}
	return in.write("binds", data)
}

// check reads a file of the directory back and compares it.
func (in *Instance) check(name string, want []byte) error {
	got, err := os.ReadFile(filepath.Join(in.Dir, name))
	if err != nil {
		return fmt.Errorf("instance %s: %w", in.ID, err)
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("instance %s: %s is not what was written", in.ID, name)
	}
	return nil
}

// Remove takes the directory away and gives the lock back.
func (in *Instance) Remove() {
	os.RemoveAll(in.Dir)
	if in.ref != nil {
		in.ref.Close()
	}
}

// collect removes what earlier starts of ours left in parent: directories
// whose lock nobody holds. Flatpak's own are none of our business.
func collect(parent string) {
	entries, _ := os.ReadDir(parent) // not there: nothing to collect
	for _, e := range entries {
		fresh := strings.HasPrefix(e.Name(), newPrefix)
		if !e.IsDir() || !fresh && !identity.Ours(e.Name()) {
			continue
		}
		dir := filepath.Join(parent, e.Name())
		if fresh {
			if info, err := e.Info(); err != nil || time.Since(info.ModTime()) < staleAfter {
				continue
			}
		}
		ref, err := openBeneath(dir, ".ref", unix.O_RDWR|unix.O_NONBLOCK)
		if errors.Is(err, fs.ErrNotExist) { // half removed
			os.RemoveAll(dir)
			continue
		} else if err != nil {
			continue
		}
		if lock(ref, unix.F_WRLCK) == nil {
			endWaiting(e.Name())
			os.RemoveAll(dir)
		}
		ref.Close()
	}
}

// memfdMark is what stands between the name of a file in memory and the
// instance that it was made for.
const memfdMark = "@"

// endWaiting ends what bubblewrap had begun for an instance when both processes
// of sbx-run were killed at once where it could not be traced (birth.go): a child
// whose bwrap is killed before it was let go waits for ever, and holds the files
// that were made for the program.
// Only bwrap itself is ended: such a file could have been given to anybody.
func endWaiting(id string) {
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, proc := range processes {
		if exe, err := os.Readlink(proc + "/exe"); err != nil || filepath.Base(exe) != "bwrap" {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(proc))
		if err != nil {
			continue
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue
		}
		if holds(proc, id) {
			unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		}
		unix.Close(fd)
	}
}

// holds reports whether a process has a file in memory of an instance open.
func holds(proc, id string) bool {
	links, _ := filepath.Glob(proc + "/fd/*")
	for _, link := range links {
		target, _ := os.Readlink(link)
		if strings.HasPrefix(target, "/memfd:") && strings.HasSuffix(target, memfdMark+id+" (deleted)") {
			return true
		}
	}
	return false
}

// Running is an instance of sbx-run that is running.
type Running struct {
	ID  string // instance id
	App string // app id
	PID string // of the sbx-run that holds it
}

// RunningInstances lists the sandboxes of ours that are running.
func RunningInstances(h *Host) []Running {
	var all []Running
	entries, _ := os.ReadDir(h.instances())
	for _, e := range entries {
		dir := filepath.Join(h.instances(), e.Name())
		if !e.IsDir() || !identity.Ours(e.Name()) {
			continue
		}
		ref, err := openBeneath(dir, ".ref", unix.O_RDWR|unix.O_NONBLOCK)
		if err != nil {
			continue
		}
		free := lock(ref, unix.F_WRLCK) == nil
		ref.Close()
		if free {
			continue
		}
		info, _ := os.ReadFile(filepath.Join(dir, "info"))
		pid, _ := os.ReadFile(filepath.Join(dir, "pid"))
		all = append(all, Running{e.Name(), appOf(info), string(pid)})
	}
	return all
}
