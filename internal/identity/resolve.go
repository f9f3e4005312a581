package identity

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Options are the settings of a Resolver.
type Options struct {
	Log *slog.Logger
	// RuntimeDir is $XDG_RUNTIME_DIR, where instance directories are; "" if
	// there is none: then no recorded mounts are believed.
	RuntimeDir string
	// TrustUserns takes processes of other user namespaces for the host if
	// they have no metadata, as containers like toolbox need. An app that can
	// reach the bus past its proxy is then the host, too.
	TrustUserns bool
	// Snap is the snap command, "/usr/bin/snap" if empty.
	Snap string
}

// Resolver tells who is behind a unique name. It keeps nothing: who asks
// remembers the answer for as long as the name stays on the bus.
type Resolver struct {
	bus  Bus
	o    Options
	proc string // where procfs is: /proc but for tests

	// Looking into a root of another user namespace may take for ever: what is
	// mounted there is that sandbox's choice. wait bounds how long a caller is
	// waited for, slots how many such looks there may be at once.
	wait  time.Duration
	slots chan struct{}
}

const (
	readTimeout = 5 * time.Second
	readSlots   = 64
)

// NewResolver makes a resolver that asks a bus for credentials.
func NewResolver(bus Bus, o Options) *Resolver {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Snap == "" {
		o.Snap = "/usr/bin/snap"
	}
	return &Resolver{bus, o, "/proc", readTimeout, make(chan struct{}, readSlots)}
}

// errOther says that a process is not of the kind that was looked for.
var errOther = errors.New("not of this kind")

// Resolve finds out who owns a unique bus name. Any error means that the
// caller must be refused: that it is of another user, that it has gone, or
// that what says who it is cannot be read or understood.
func (r *Resolver) Resolve(ctx context.Context, name string) (*Caller, error) {
	creds, err := r.bus.Credentials(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("identify %s: %w", name, err)
	}
	if creds.PidFD != nil {
		defer creds.PidFD.Close()
	}
	c, err := r.resolve(ctx, name, creds)
	if err != nil {
		return nil, fmt.Errorf("identify %s (process %d): %w", name, creds.PID, err)
	}
	return c, nil
}

func (r *Resolver) resolve(ctx context.Context, name string, creds Credentials) (*Caller, error) {
	if creds.UID != uint32(os.Geteuid()) {
		return nil, fmt.Errorf("belongs to user %d", creds.UID)
	}
	p, err := r.hold(creds)
	if err != nil {
		return nil, err
	}
	c, err := r.bounded(ctx, p)
	if err != nil {
		return nil, err
	}
	// All that was read is worth something only if it is of one process.
	if err := p.alive(); err != nil {
		return nil, err
	}
	if creds.PidFD == nil {
		// The process id was the right one if its owner is still on the bus.
		again, err := r.bus.Credentials(ctx, name)
		if err != nil {
			return nil, err
		}
		if again.PidFD != nil {
			again.PidFD.Close()
		}
		if again.UID != creds.UID || again.PID != creds.PID {
			return nil, errors.New("its credentials have changed")
		}
	}
	c.Name, c.PID = name, p.pid
	return c, nil
}

// bounded is read within limits.
func (r *Resolver) bounded(ctx context.Context, p *process) (*Caller, error) {
	if p.ownUserns() == nil {
		return r.read(ctx, p) // its root is one that the administrator made
	}
	ctx, cancel := context.WithTimeout(ctx, r.wait)
	defer cancel()
	select {
	case r.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("too many roots do not answer: %w", ctx.Err())
	}
	var c *Caller
	var err error
	done := make(chan struct{})
	// Where the root never answers, this stays until its filesystem goes: no
	// signal short of our own death ends such a system call.
	go func() {
		defer func() { <-r.slots }()
		defer close(done)
		c, err = r.read(ctx, p)
	}()
	select {
	case <-done:
		return c, err
	case <-ctx.Done():
		return nil, fmt.Errorf("its root does not answer: %w", ctx.Err())
	}
}

// read reads what kind of caller a process is.
func (r *Resolver) read(ctx context.Context, p *process) (*Caller, error) {
	root, err := p.openRoot()
	if err == nil {
		defer unix.Close(root)
	} else if !errors.Is(err, errOther) {
		return nil, err
	}
	for _, kind := range []func() (*Caller, error){
		func() (*Caller, error) { return r.flatpak(root) },
		func() (*Caller, error) { return r.snap(ctx, p) },
		func() (*Caller, error) { return linyaps(root) },
	} {
		if c, err := kind(); !errors.Is(err, errOther) {
			return c, err
		}
	}
	if !r.o.TrustUserns {
		if err := p.ownUserns(); err != nil {
			return nil, err
		}
	}
	return &Caller{Kind: Host}, nil
}

// process is a process that is looked at through /proc. Its id alone says
// little, as ids are used again: pidfd or start tell whether it is the same.
type process struct {
	proc  string // where procfs is
	pid   int
	pidfd *os.File // nil if the bus gave none; not owned
	start string   // start time in clock ticks since boot
}

func (r *Resolver) hold(creds Credentials) (*process, error) {
	p := &process{proc: r.proc, pid: creds.PID, pidfd: creds.PidFD}
	var err error
	if p.pidfd != nil {
		// The bus may count processes in another namespace than ours.
		p.pid, err = pidOf(p.pidfd)
	} else {
		p.start, err = p.startTime()
	}
	return p, err
}

// pidOf returns the process id of a pidfd in our pid namespace.
func pidOf(pidfd *os.File) (int, error) {
	info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", pidfd.Fd()))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(info)) {
		if text, ok := strings.CutPrefix(line, "Pid:"); ok {
			// -1 is a process that has ended, 0 one of another namespace.
			if pid, err := strconv.Atoi(strings.TrimSpace(text)); err == nil && pid > 0 {
				return pid, nil
			}
			return 0, errors.New("the process has ended")
		}
	}
	return 0, errors.New("the bus's ProcessFD is no pidfd")
}

func (p *process) path(name string) string { return fmt.Sprintf("%s/%d/%s", p.proc, p.pid, name) }

func (p *process) startTime() (string, error) {
	stat, err := os.ReadFile(p.path("stat"))
	if err != nil {
		return "", err
	}
	return startOf(stat)
}

// startOf is field 22 of /proc/PID/stat (proc_pid_stat(5)).
func startOf(stat []byte) (string, error) {
	// The second field, the command in brackets, may contain anything.
	i := strings.LastIndexByte(string(stat), ')')
	fields := strings.Fields(string(stat[i+1:]))
	if i < 0 || len(fields) < 20 {
		return "", errors.New("/proc/PID/stat is malformed")
	}
	return fields[19], nil
}

// alive reports that the process has been there all the time.
func (p *process) alive() error {
	if p.pidfd == nil {
		start, err := p.startTime()
		if err != nil {
			return err
		}
		if start != p.start {
			return errors.New("another process has its id now")
		}
		return nil
	}
	fds := []unix.PollFd{{Fd: int32(p.pidfd.Fd()), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return os.NewSyscallError("poll", err)
		}
		if n != 0 { // a pidfd becomes readable when its process ends
			return errors.New("the process has ended")
		}
		return nil
	}
}

// ownUserns reports that the process is in our user namespace. What cannot be
// read is not ours.
func (p *process) ownUserns() error {
	theirs, err := os.Stat(p.path("ns/user"))
	if err != nil {
		return err
	}
	ours, err := os.Stat("/proc/self/ns/user")
	if err != nil {
		return err
	}
	if !os.SameFile(theirs, ours) {
		return errors.New("no metadata, in a user namespace of its own")
	}
	return nil
}

// openRoot opens the root directory of a process, which may be another one
// than ours. errOther is a root that hides from us because it is FUSE.
func (p *process) openRoot() (int, error) {
	fd, err := unix.Open(p.path("root"), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == nil {
		return fd, nil
	}
	var st unix.Statfs_t
	if err == unix.EACCES && unix.Statfs(p.path("root"), &st) == nil && st.Type == unix.FUSE_SUPER_MAGIC {
		return -1, errOther
	}
	return -1, &fs.PathError{Op: "open", Path: p.path("root"), Err: err}
}
