package session

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// graceful is how long the session's processes may live on without their bus.
// The document portal has 2 s; the rest is for a slow machine.
const graceful = 5 * time.Second

// Process is a process as /proc shows it.
type Process struct {
	PID, Parent int
	Zombie      bool
	Command     string
}

// processes lists the processes that can be seen.
func processes() (map[int]Process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	all := make(map[int]Process)
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			if p, ok := process(pid); ok {
				all[pid] = p
			}
		}
	}
	return all, nil
}

// process reads what /proc says of one; ok is false if it has ended.
func process(pid int) (p Process, ok bool) {
	dir := "/proc/" + strconv.Itoa(pid)
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return p, false
	}
	// The name in parentheses may hold anything: the last one counts.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 2 {
		return p, false
	}
	parent, err := strconv.Atoi(fields[1])
	if err != nil {
		return p, false
	}
	cmdline, _ := os.ReadFile(dir + "/cmdline")
	return Process{
		PID: pid, Parent: parent, Zombie: fields[0] == "Z",
		Command: strings.TrimSpace(strings.ReplaceAll(string(cmdline), "\x00", " ")),
	}, true
}

func isChild(pid int) bool {
	p, ok := process(pid)
	return ok && p.Parent == os.Getpid() && !p.Zombie
}

// below lists the processes whose ancestor is pid.
func below(all map[int]Process, pid int) []Process {
	var found []Process
	for _, p := range all {
		for q, ok := all[p.Parent], true; ok && p.PID != pid; q, ok = all[q.Parent] {
			if q.PID == pid {
				found = append(found, p)
				break
			}
			if q.PID == q.Parent || q.PID == 0 {
				break
			}
		}
	}
	slices.SortFunc(found, func(a, b Process) int { return a.PID - b.PID })
	return found
}

func descendants() (map[int]bool, error) {
	all, err := processes()
	if err != nil {
		return nil, err
	}
	pids := make(map[int]bool)
	for _, p := range below(all, os.Getpid()) {
		pids[p.PID] = true
	}
	return pids, nil
}

// Processes lists the session's living processes.
func (s *Session) Processes() ([]Process, error) {
	all, err := processes()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(below(all, os.Getpid()), func(p Process) bool {
		if s.others[p.PID] || s.isAnothers(p) {
			return true
		}
		if p.Zombie && p.Parent == os.Getpid() && !s.started(p.PID) {
			// One that lost its parent: nobody else will ask for its status. One
			// that we started ourselves is waited for by who started it.
			unix.Wait4(p.PID, nil, unix.WNOHANG, nil)
		}
		return p.Zombie
	}), nil
}

// Descendants lists the processes that this one has started, the dead too that
// nobody has waited for.
func (s *Session) Descendants() ([]Process, error) {
	all, err := processes()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(below(all, os.Getpid()), func(p Process) bool { return s.others[p.PID] || s.isAnothers(p) }), nil
}

// isAnothers reports whether a process belongs to another session that this
// process started, as its environment says. Sandboxes say nothing.
func (s *Session) isAnothers(p Process) bool {
	environ, err := os.ReadFile("/proc/" + strconv.Itoa(p.PID) + "/environ")
	if err != nil {
		return false
	}
	for kv := range strings.SplitSeq(string(environ), "\x00") {
		if dir, ok := strings.CutPrefix(kv, "XDG_RUNTIME_DIR="); ok {
			return dir != s.Runtime && strings.HasPrefix(dir, runtimePrefix)
		}
	}
	return false
}

// Await waits until done is true, asking it each time anew, as there is no
// event for what other processes become.
func Await(limit time.Duration, done func() (bool, error)) error {
	deadline := time.Now().Add(limit)
	for {
		ok, err := done()
		if err != nil || ok {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not within %v", limit)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// endProcesses waits until all processes of the session are gone by themselves.
func (s *Session) endProcesses() error {
	var left []Process
	err := Await(graceful, func() (bool, error) {
		var err error
		left, err = s.Processes()
		return len(left) == 0, err
	})
	if err == nil {
		return nil
	}
	errs := []error{fmt.Errorf("processes that outlive the session: %w", err)}
	for _, p := range left {
		errs = append(errs, fmt.Errorf("process %d: %s", p.PID, p.Command))
		unix.Kill(p.PID, unix.SIGKILL)
	}
	Await(graceful, func() (bool, error) {
		left, err := s.Processes()
		return len(left) == 0, err
	})
	return errors.Join(errs...)
}

// Mounts lists the mount points below a directory.
func Mounts(dir string) ([]string, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var found []string
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		if len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			found = append(found, fields[4])
		}
	}
	return found, nil
}

func (s *Session) endMounts() error {
	mounts, err := Mounts(s.Runtime)
	errs := []error{err}
	for _, m := range mounts {
		errs = append(errs, fmt.Errorf("mount left behind: %s", m))
		cmd := s.Command("fusermount3", "-u", "-z", m)
		errs = append(errs, cmd.Run())
	}
	return errors.Join(errs...)
}

// Instances lists the directories of sbx-run's running sandboxes.
func (s *Session) Instances() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.Runtime, ".flatpak"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

func (s *Session) checkInstances() error {
	names, err := s.Instances()
	if err == nil && len(names) > 0 {
		err = fmt.Errorf("instance directories left behind: %s", strings.Join(names, " "))
	}
	return err
}
