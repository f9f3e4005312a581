package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// documentsWait is how long the document portal may take to answer.
	documentsWait = 2 * time.Second
	// partWait is how long bwrap and the proxy may take for what they do in
	// milliseconds.
	partWait = 10 * time.Second
	// infoWait bounds the wait for bwrap's report, which it writes before
	// anything else.
	infoWait = 5 * time.Second
)

// Starter holds what a start needs besides the plan.
type Starter struct {
	Bwrap string // path of bwrap
	Proxy string // path of xdg-dbus-proxy
	// Documents asks the document portal where its mount is. Nil starts
	// without documents, and without a warning.
	Documents func(ctx context.Context) (string, error)
	// Accessibility asks the session where its accessibility bus is, "" if it
	// has none; activate starts it. Nil is none.
	Accessibility func(ctx context.Context, activate bool) (address string, err error)
	// Forward makes a document of a file for the app and returns its id. Nil
	// without documents.
	Forward func(ctx context.Context, app string, f Handed) (string, error)
	// ProxyLog is where the proxy prints what it does, if the Request has
	// LogBus; nil for nowhere.
	ProxyLog *os.File
	// Warn tells the user something that does not end the start.
	Warn                  func(format string, args ...any)
	Stdin, Stdout, Stderr *os.File
	// Signals are what the app is told. One that ends programs ends the start.
	Signals <-chan os.Signal
	// Defaults are signals that this process ignores, and bwrap with it, and
	// that the app is not to ignore: those of the terminal.
	Defaults []syscall.Signal
}

// interrupted says that a signal ended the start.
type interrupted struct{ sig syscall.Signal }

func (i interrupted) Error() string { return i.sig.String() }

// Run carries a plan out: it makes the instance, starts the proxy, checks the
// identity, starts the app, waits for it, and returns its exit status, 128+n
// after a signal. An error means that the program has not run. When ctx ends,
// so does everything that was started.
func (s *Starter) Run(ctx context.Context, pl *Plan) (status int, err error) {
	for i, f := range []*os.File{s.Stdin, s.Stdout, s.Stderr} {
		if info, err := f.Stat(); err == nil && info.IsDir() {
			return 0, fmt.Errorf("descriptor %d is a directory, by which the app could leave its sandbox", i)
		}
	}
	starting, abort := context.WithCancelCause(ctx)
	defer abort(nil)
	started, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		for {
			select {
			case sig := <-s.Signals:
				if sig := sig.(syscall.Signal); ends(sig) {
					abort(interrupted{sig})
				}
			case <-started:
				return
			}
		}
	}()
	// Whatever the start has made goes when we return, in reverse.
	var made cleanup
	defer made.run()
	start := s.start
	if pl.as != nil {
		start = s.startDaemon
	}
	app, err := start(starting, pl, &made)
	close(started)
	<-watched
	if cause := context.Cause(starting); cause != nil { // more to the point than what it led to
		if i, ok := errors.AsType[interrupted](cause); ok {
			return 128 + int(i.sig), nil
		}
		return 0, cause
	}
	if err != nil {
		return 0, err
	}
	if err := app.open(); err != nil {
		return 0, err
	}
	pl.Close()
	if pl.as == nil {
		s.warnOld(ctx, pl.Host) // not before: nothing waits for it
	}
	return app.wait(ctx, s.Signals)
}

// cleanup is what a start has to undo.
type cleanup []func()

func (c *cleanup) add(f func()) { *c = append(*c, f) }

func (c *cleanup) run() {
	for i := len(*c) - 1; i >= 0; i-- {
		(*c)[i]()
	}
}

// start makes the sandbox, with the gate in front of the program closed.
func (s *Starter) start(ctx context.Context, pl *Plan, made *cleanup) (*appPart, error) {
	// Nothing is lost by beginning these early: one asks, one only reads.
	probed := async(func() (Features, error) { return probe(ctx, s.Bwrap) })
	asking, cancel := context.WithCancel(ctx)
	documents := async(func() (*documentsView, error) { return s.documents(asking, pl) })
	made.add(func() {
		cancel()
		if v := <-documents; v.value != nil && v.value.file != nil {
			v.value.file.Close()
		}
	})

	abi := landlockABI()
	accessibility := async(func() (BusAddress, error) { return s.accessibility(asking, pl, abi) })

	// The system bus is in use whether the profile names something on it or not.
	if err := checkAbstract(pl.Network, []BusAddress{pl.Host.SessionBus, pl.Host.SystemBus}, abi); err != nil {
		return nil, err
	}
	if pl.Network && abi < landlockScopeABI && pl.Env["DISPLAY"] != "" {
		s.Warn("the app can reach an abstract X11 socket: %v", errNoScopes)
	}

	if err := pl.Host.SessionBus.reach(ctx); err != nil {
		return nil, fmt.Errorf("the session bus does not answer: %w", err)
	}

	// The instance.
	collect(pl.Host.instances())
	if err := pl.makeDirs(); err != nil {
		return nil, err
	}
	in, err := newInstance(pl.Host.instances(), pl.Instance, pl.Metadata)
	if err != nil {
		return nil, fmt.Errorf("instance directory: %w", err)
	}
	made.add(in.Remove)
	// The compositor thinks while others do.
	restricted := done(result[*waylandContext]{})
	if pl.compositor != nil {
		restricted = async(func() (*waylandContext, error) { return restrictWayland(asking, pl, in) })
	}
	made.add(func() {
		cancel()
		if w := <-restricted; w.value != nil {
			w.value.close()
		}
	})
	found := <-probed
	if found.err != nil {
		return nil, found.err
	}

	a11y := <-accessibility
	if a11y.err != nil && pl.Accessible && ctx.Err() == nil {
		s.Warn("starting without accessibility: %v", a11y.err)
	}
	if err := checkAbstract(pl.Network, []BusAddress{a11y.value}, abi); err != nil {
		return nil, err
	}
	pl.setAccessibility(a11y.value)

	// The proxy comes up while the document portal thinks.
	proxy, err := s.startProxy(pl, found.value)
	if err != nil {
		return nil, fmt.Errorf("xdg-dbus-proxy: %w", err)
	}
	made.add(proxy.stop)
	view := <-documents
	documents = done(view)
	switch {
	case view.err != nil:
		if ctx.Err() == nil {
			s.Warn("starting without documents: %v", view.err)
		}
	case view.value != nil:
		f := view.value.file
		view.value.file = nil // the plan's now
		if err := pl.addDocuments(view.value.mount, f); err != nil {
			return nil, err
		}
	}
	if err := s.handOver(ctx, pl, view.err == nil && view.value != nil); err != nil {
		return nil, err
	}
	w := <-restricted
	restricted = done(w)
	if w.err != nil && ctx.Err() == nil {
		s.Warn("starting without Wayland: %v", w.err)
	}
	pl.setWayland(w.value, in, w.err)
	if err := in.writeBinds(pl.Binds()); err != nil {
		return nil, fmt.Errorf("instance directory: %w", err)
	}
	if err := proxy.ready(ctx, pl); err != nil {
		return nil, fmt.Errorf("xdg-dbus-proxy: %w", err)
	}

	// The app, held back until everything about it is known to be true.
	app, err := s.startApp(pl, found.value, scopes(pl.Network, abi, s.Bwrap), proxy)
	if err != nil {
		return nil, err
	}
	made.add(app.kill)
	if err := app.identify(ctx, pl, in, proxy, found.value); err != nil {
		return nil, err
	}
	if err := app.release(ctx, pl); err != nil {
		return nil, err
	}
	return app, nil
}

type result[T any] struct {
	value T
	err   error
}

func async[T any](f func() (T, error)) chan result[T] {
	c := make(chan result[T], 1)
	go func() {
		v, err := f()
		c <- result[T]{v, err}
	}()
	return c
}

func done[T any](r result[T]) chan result[T] {
	c := make(chan result[T], 1)
	c <- r
	return c
}

// documentsView is the app's directory in the document portal's mount.
type documentsView struct {
	mount string
	file  *os.File // O_PATH
}

// documents asks the document portal for its mount and opens the app's view.
// All of it together takes documentsWait at most, also if the mount hangs.
func (s *Starter) documents(ctx context.Context, pl *Plan) (*documentsView, error) {
	if s.Documents == nil {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, documentsWait)
	defer cancel()
	opened := async(func() (*documentsView, error) {
		mount, err := s.Documents(ctx)
		if err != nil {
			return nil, err
		}
		if !filepath.IsAbs(mount) {
			return nil, fmt.Errorf("the document portal named %q as its mount", mount)
		}
		f, err := openBeneath(mount, filepath.Join("by-app", pl.Profile.Name), unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			return nil, err
		}
		return &documentsView{filepath.Clean(mount), f}, nil
	})
	select {
	case r := <-opened:
		return r.value, r.err
	case <-ctx.Done():
		return nil, errors.New("the document portal does not answer")
	}
}

// part is a bwrap that was started, and what runs in it.
type part struct {
	name   string
	cmd    *exec.Cmd
	ended  chan struct{} // closed when bwrap has ended
	thread chan struct{} // closed to end the thread that started bwrap
	child  int           // pid of the first process in it, 0 until known
	pidfd  int           // of child, -1 until known
	info   *os.File      // bwrap's report
}

// spawn starts bwrap from a thread of its own, to which scopes apply
// (scopeThread) and which lives until the part is killed.
func (s *Starter) spawn(name string, args []string, fs *files, info *os.File, scopes uint64, set func(*exec.Cmd)) (*part, error) {
	defer fs.close()
	if fs.err != nil {
		return nil, fs.err
	}
	p := &part{name: name, ended: make(chan struct{}), thread: make(chan struct{}), pidfd: -1, info: info}
	start := func(traced bool) error {
		p.cmd = exec.Command(s.Bwrap, args...)
		p.cmd.Env = []string{}
		p.cmd.ExtraFiles = fs.list
		// bwrap asks for the same with --die-with-parent, but only when it comes
		// to it.
		p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Ptrace: traced}
		set(p.cmd)
		return p.cmd.Start()
	}
	started := make(chan error)
	go func() {
		// Never unlocked: the thread ends with the goroutine, and bwrap with
		// the thread. What the thread is kept from stays on it.
		runtime.LockOSThread()
		var err error
		if scopes != 0 {
			err = scopeThread(scopes)
		}
		traced := err == nil && traceable(s.Bwrap)
		if err == nil {
			err = start(traced)
		}
		if traced && err != nil { // tracing can be forbidden, or it is done to us
			traced = false
			err = start(false)
		}
		started <- err
		if err != nil {
			return
		}
		first := 0
		if traced {
			first = firstOf(p.cmd.Process.Pid)
		}
		go func() {
			p.cmd.Wait()
			close(p.ended)
		}()
		if first != 0 {
			attend(first)
		}
		<-p.thread
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// report reads what bwrap says about the process that it started.
func (p *part) report(ctx context.Context) ([]byte, error) {
	defer p.info.Close()
	defer readBy(ctx, p.info, infoWait)()
	var all []byte
	buf := make([]byte, 4096)
	for {
		n, err := p.info.Read(buf)
		all = append(all, buf[:n]...)
		if bytes.HasSuffix(bytes.TrimSpace(all), []byte("}")) {
			break
		}
		if err == io.EOF {
			return nil, errors.New("bwrap ended without a report")
		}
		if err != nil {
			return nil, fmt.Errorf("no report from bwrap: %w", err)
		}
	}
	pid, err := childPID(all)
	if err != nil {
		return nil, err
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("process %d that bwrap started: %w", pid, err)
	}
	p.child, p.pidfd = pid, fd
	// The number could have been another process's in between.
	if parent, _, err := procStat(pid); err != nil || parent != p.cmd.Process.Pid {
		return nil, fmt.Errorf("process %d is not one that bwrap started", pid)
	}
	return all, nil
}

// readBy bounds reads of f by a time and by ctx, until done is called.
func readBy(ctx context.Context, f *os.File, limit time.Duration) (done func() bool) {
	f.SetReadDeadline(time.Now().Add(limit))
	return context.AfterFunc(ctx, func() { f.SetReadDeadline(time.Unix(1, 0)) })
}

// childPID finds "child-pid": N in bwrap's report.
func childPID(report []byte) (int, error) {
	_, rest, ok := bytes.Cut(report, []byte(`"child-pid":`))
	rest = bytes.TrimLeft(rest, " ")
	end := 0
	for end < len(rest) && rest[end] >= '0' && rest[end] <= '9' {
		end++
	}
	pid, err := strconv.Atoi(string(rest[:end]))
	if !ok || err != nil || pid <= 1 {
		return 0, fmt.Errorf("bwrap's report names no child: %q", report)
	}
	return pid, nil
}

// procState is the state of a process as ps(1) has it.
func procState(pid int) (byte, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	i := bytes.LastIndexByte(data, ')')
	if i < 0 || len(data) < i+3 {
		return 0, fmt.Errorf("/proc/%d/stat: %q", pid, data)
	}
	return data[i+2], nil
}

// procStat reads the parent and the start time (in clock ticks since boot) of
// a process.
func procStat(pid int) (parent int, start string, err error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, "", err
	}
	// The name in parentheses may hold anything.
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(fields) < 20 {
		return 0, "", fmt.Errorf("/proc/%d/stat: %q", pid, data)
	}
	parent, err = strconv.Atoi(fields[1])
	return parent, fields[19], err
}

// alive reports whether the process is still there.
func (p *part) alive() bool {
	return p.pidfd >= 0 && unix.PidfdSendSignal(p.pidfd, 0, nil, 0) == nil
}

// kill ends bwrap and all that runs in it, and waits for bwrap. A child that
// nobody has heard of yet comes to this process or its keeper (EndChildren).
func (p *part) kill() {
	// The child is the first process of its pid namespace: all others die with
	// it. It may not have bound its life to bwrap's yet.
	if p.pidfd >= 0 {
		unix.PidfdSendSignal(p.pidfd, unix.SIGKILL, nil, 0)
	}
	p.cmd.Process.Kill()
	<-p.ended
	if p.pidfd >= 0 {
		unix.Close(p.pidfd)
		p.pidfd = -1
	}
	p.info.Close()
	close(p.thread)
}

// proxyPart is the running proxy.
type proxyPart struct {
	*part
	sync  *os.File // the ready byte comes here; the proxy ends when all copies are closed
	start string   // start time of the proxy
}

func (s *Starter) startProxy(pl *Plan, ft Features) (*proxyPart, error) {
	infoR, infoW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer infoW.Close()
	syncR, syncW, err := os.Pipe()
	if err != nil {
		infoR.Close()
		return nil, err
	}
	defer syncW.Close()
	fs := &files{id: pl.Instance}
	args := pl.proxyBwrap(s.Proxy, ft, fs, infoW, syncW)
	p, err := s.spawn("proxy", args, fs, infoR, 0, func(cmd *exec.Cmd) {
		cmd.Stderr = s.Stderr
		if s.ProxyLog != nil {
			cmd.Stdout = s.ProxyLog
		}
		cmd.SysProcAttr.Setsid = true // ^C is for the app
		if pl.as != nil && pl.as.uid != 0 {
			// The bus lets the daemon's user own its names.
			cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(pl.as.uid), Gid: uint32(pl.as.gid)}
		}
	})
	if err != nil {
		infoR.Close()
		syncR.Close()
		return nil, err
	}
	return &proxyPart{part: p, sync: syncR}, nil
}

// ready waits until the proxy serves, and checks that it is what portals will
// take for the app.
func (p *proxyPart) ready(ctx context.Context, pl *Plan) error {
	if _, err := p.report(ctx); err != nil {
		return err
	}
	var err error
	if _, p.start, err = procStat(p.child); err != nil {
		return err
	}
	defer readBy(ctx, p.sync, partWait)()
	if n, err := p.sync.Read(make([]byte, 1)); n != 1 {
		return fmt.Errorf("it did not become ready: %w", err)
	}
	return p.check(pl)
}

// check reads the proxy's identity back as a portal will read it: from the
// root of the process that listens on the socket the app gets.
func (p *proxyPart) check(pl *Plan) error {
	dir := filepath.Join(pl.Host.instances(), pl.Instance, "proxy")
	var sockets []string
	if pl.as == nil {
		sockets = append(sockets, filepath.Join(dir, "session"))
	}
	if pl.SystemBus {
		sockets = append(sockets, filepath.Join(dir, "system"))
	}
	if pl.accessibilityBus.Address != "" {
		sockets = append(sockets, filepath.Join(dir, accessibilityName))
	}
	for _, path := range sockets {
		pid, err := listener(path)
		if err != nil {
			return err
		}
		if pid != p.child {
			return fmt.Errorf("%s is served by process %d, not by the proxy (%d)", path, pid, p.child)
		}
	}
	if err := checkInfo(p.child, pl.Metadata); err != nil {
		return err
	}
	if _, start, err := procStat(p.child); err != nil || start != p.start || !p.alive() {
		return errors.New("it ended")
	}
	return nil
}

// listener says which process listens on a socket.
func listener(path string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	// Paths in sun_path are short; through a descriptor any will do.
	at, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(at)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d", at)}); err != nil {
		return 0, &os.PathError{Op: "connect", Path: path, Err: err}
	}
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0, err
	}
	return int(cred.Pid), nil
}

// checkInfo compares a process's /.flatpak-info with what it must be.
func checkInfo(pid int, want []byte) error {
	root, err := unix.Open(fmt.Sprintf("/proc/%d/root", pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("root of process %d: %w", pid, err)
	}
	defer unix.Close(root)
	fd, err := unix.Openat(root, ".flatpak-info", unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("it would be taken for the host: .flatpak-info in the root of process %d: %w", pid, err)
	}
	f := os.NewFile(uintptr(fd), ".flatpak-info")
	defer f.Close()
	got, err := io.ReadAll(io.LimitReader(f, int64(len(want))+1))
	if err != nil {
		return fmt.Errorf(".flatpak-info in the root of process %d: %w", pid, err)
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("it would be taken for another app: .flatpak-info in the root of process %d is not ours", pid)
	}
	return nil
}

// stop ends the proxy.
func (p *proxyPart) stop() {
	p.sync.Close()
	p.kill()
}

// appPart is the app's sandbox.
type appPart struct {
	*part
	block *os.File // a byte lets bwrap go on to the gate
	gate  *gate
}

// startApp starts the app's bwrap; proxy is nil where the app has no bus.
func (s *Starter) startApp(pl *Plan, ft Features, scopes uint64, proxy *proxyPart) (*appPart, error) {
	infoR, infoW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer infoW.Close()
	blockR, blockW, err := os.Pipe()
	if err != nil {
		infoR.Close()
		return nil, err
	}
	defer blockR.Close()
	g, err := newGate()
	if err != nil {
		infoR.Close()
		blockW.Close()
		return nil, err
	}
	defer g.started()
	fs := &files{id: pl.Instance}
	given := appFiles{infoW, blockR, nil, g, s.Defaults}
	if proxy != nil {
		given.sync = proxy.sync
	}
	args := pl.appBwrap(ft, fs, given)
	p, err := s.spawn("app", args, fs, infoR, scopes, func(cmd *exec.Cmd) {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = s.Stdin, s.Stdout, s.Stderr
		// Where there is no terminal to be shared, neither is the
		// process group: its members can be signalled.
		cmd.SysProcAttr.Setpgid = !hasTerminal()
	})
	if err != nil {
		infoR.Close()
		blockW.Close()
		g.close()
		return nil, err
	}
	// From now on the app's bwrap alone keeps the proxy.
	if proxy != nil {
		proxy.sync.Close()
	}
	return &appPart{part: p, block: blockW, gate: g}, nil
}

// identify waits for bwrap's report and reads everything back that says who
// the app is.
func (a *appPart) identify(ctx context.Context, pl *Plan, in *Instance, proxy *proxyPart, ft Features) error {
	report, err := a.report(ctx)
	if err != nil {
		return fmt.Errorf("bwrapinfo.json: %w", err)
	}
	if err := in.write("bwrapinfo.json", report); err != nil {
		return err
	}
	if err := in.check("bwrapinfo.json", report); err != nil {
		return err
	}
	if err := in.check("info", pl.Metadata); err != nil {
		return err
	}
	if !ft.BindFD {
		if err := a.compare(ctx, pl); err != nil {
			return err
		}
	}
	if proxy == nil {
		return nil
	}
	if err := proxy.check(pl); err != nil {
		return fmt.Errorf("xdg-dbus-proxy: %w", err)
	}
	return nil
}

// compare checks that what bwrap bound by path is what we had opened before.
// The metadata is the last thing that bwrap mounts.
func (a *appPart) compare(ctx context.Context, pl *Plan) error {
	deadline := time.Now().Add(partWait)
	for checkInfo(a.child, pl.Metadata) != nil {
		// There is no event for "bwrap has mounted everything".
		select {
		case <-a.ended:
			return errors.New("bwrap ended")
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(time.Millisecond):
		}
		if time.Now().After(deadline) {
			return checkInfo(a.child, pl.Metadata)
		}
	}
	root, err := unix.Open(fmt.Sprintf("/proc/%d/root", a.child), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(root)
	return compareMounts(root, pl.Mounts)
}

// compareMounts checks that below root, a descriptor of a sandbox's root
// directory, there is what had been opened before.
func compareMounts(root int, mounts []Mount) error {
	for i, m := range mounts {
		if m.file == nil || covered(mounts[i+1:], m.Dest) {
			continue
		}
		fd, err := unix.Openat2(root, m.Dest, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS})
		if err != nil {
			return fmt.Errorf("%s in the sandbox: %w", m.Dest, err)
		}
		var inside, outside unix.Stat_t
		err1, err2 := unix.Fstat(fd, &inside), unix.Fstat(int(m.file.Fd()), &outside)
		unix.Close(fd)
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		if inside.Dev != outside.Dev || inside.Ino != outside.Ino {
			return fmt.Errorf("%s was exchanged while the sandbox was made", m.Source)
		}
	}
	return nil
}

// covered reports whether a later mount hides dest.
func covered(later []Mount, dest string) bool {
	for _, m := range later {
		if within(dest, m.Dest) {
			return true
		}
	}
	return false
}

// release lets bwrap go on to the gate, and waits until the gate is there and
// everything in the sandbox ends with bwrap.
func (a *appPart) release(ctx context.Context, pl *Plan) error {
	defer a.block.Close()
	if _, err := a.block.Write([]byte{1}); err != nil {
		return err
	}
	defer readBy(ctx, a.gate.hello, partWait)()
	if err := a.gate.greet(); err != nil {
		return err
	}
	// Services that the app meets without a bus, PipeWire for one, look here.
	if err := checkInfo(a.child, pl.Metadata); err != nil {
		return err
	}
	// The gate is the second process; the first one, which ends all others with
	// it, may still be at work. It binds its life to bwrap's and then does
	// nothing but wait, which is the only event there is.
	deadline := time.Now().Add(partWait)
	for {
		state, err := procState(a.child)
		if err != nil {
			return errNoGate
		}
		if state == 'S' {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if time.Now().After(deadline) {
			return errors.New("the sandbox does not become ready")
		}
		time.Sleep(200 * time.Microsecond)
	}
}

// open lets the program run.
func (a *appPart) open() error {
	defer a.gate.close()
	if _, err := a.gate.open.WriteString(gateOpen); err != nil {
		return errNoGate
	}
	return nil
}

// kill ends the app if it still runs.
func (a *appPart) kill() {
	a.gate.close()
	a.block.Close()
	a.part.kill()
}

// Forwarded are the signals that the app gets when sbx-run gets them.
var Forwarded = []os.Signal{unix.SIGTERM, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGWINCH, unix.SIGCONT}

// ends reports whether a signal asks a program to end.
func ends(sig syscall.Signal) bool {
	return sig == unix.SIGTERM || sig == unix.SIGHUP || sig == unix.SIGINT || sig == unix.SIGQUIT
}

// wait passes signals on until the app has ended, or has to end with ctx.
func (a *appPart) wait(ctx context.Context, signals <-chan os.Signal) (int, error) {
	shrink := time.After(ShrinkDelay)
	for {
		select {
		case <-shrink:
			Shrink()
		case sig := <-signals:
			a.forward(sig.(syscall.Signal))
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-a.ended:
			ws := a.cmd.ProcessState.Sys().(syscall.WaitStatus)
			if ws.Signaled() {
				return 128 + int(ws.Signal()), nil
			}
			return ws.ExitStatus(), nil
		}
	}
}

// forward sends a signal to the program: the child of the sandbox's first
// process, which is bwrap's own.
func (a *appPart) forward(sig syscall.Signal) {
	if !a.alive() || (sig == unix.SIGINT || sig == unix.SIGQUIT) && foreground() {
		return // the terminal has sent it to the app, too
	}
	sent := false
	eachChild(a.child, func(pidfd int) {
		sent = unix.PidfdSendSignal(pidfd, sig, nil, 0) == nil || sent
	})
	if !sent && ends(sig) { // the program has not begun yet
		unix.PidfdSendSignal(a.pidfd, unix.SIGKILL, nil, 0)
	}
}

// hasTerminal reports whether this process has a controlling terminal.
func hasTerminal() bool {
	fd, err := unix.Open("/dev/tty", unix.O_RDONLY|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	unix.Close(fd)
	return true
}

// foreground reports whether our process group has the terminal.
func foreground() bool {
	fd, err := unix.Open("/dev/tty", unix.O_RDONLY|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	group, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// EndChildren kills all children of this process and those that come to it,
// as a subreaper, until there are none. Nothing else may wait for them.
func EndChildren() {
	for {
		eachChild(os.Getpid(), func(pidfd int) { unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0) })
		if _, err := unix.Wait4(-1, nil, 0, nil); err != nil && err != unix.EINTR {
			return
		}
	}
}

// eachChild calls f with a pidfd of every child of a process of ours.
func eachChild(parent int, f func(pidfd int)) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", parent))
	for _, task := range tasks {
		data, _ := os.ReadFile(task)
		for _, field := range strings.Fields(string(data)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				continue
			}
			fd, err := unix.PidfdOpen(pid, 0)
			if err != nil {
				continue
			}
			// The number could be another process's by now.
			if have, _, err := procStat(pid); err == nil && have == parent {
				f(fd)
			}
			unix.Close(fd)
		}
	}
}
