// Sbx-run starts a native program in a sandbox that desktop portals recognise.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
	"golang.org/x/sys/unix"

	"docportal/internal/bus"
	"docportal/internal/desktop"
	"docportal/internal/doctor"
	"docportal/internal/sandbox"
)

// version is set by the linker.
var version = "devel"

// Exit statuses of sbx-run itself, as env(1) has them.
const (
	exitFailed    = 125 // the sandbox was not made
	exitUnusable  = 126 // the program is there but cannot be run
	exitNotFound  = 127 // the program is not there
	documentsName = "org.freedesktop.portal.Documents"
	documentsPath = "/org/freedesktop/portal/documents"
)

func main() {
	if sandbox.IsGate(os.Args) {
		os.Exit(sandbox.Gate(os.Args))
	}
	if asSpawn() {
		os.Exit(spawn(os.Args[1:]))
	}
	if asFlatpak() {
		if !isKept(os.Args[1:]) {
			becomeFlatpak()
		}
	} else if len(os.Args) > 1 && os.Args[1] == "--complete" {
		os.Exit(completeLine(os.Args[2:], os.Stdout))
	}
	// A start is over before collecting garbage would pay; Shrink does it.
	debug.SetGCPercent(-1)
	// What we inherited beyond the three standard files is not for the app.
	unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC)
	args, keeper, ok := kept(os.Args[1:])
	if !ok {
		os.Exit(keep())
	}
	// The kernel kills a child when the thread that started it ends; the main
	// thread ends last.
	runtime.LockOSThread()
	os.Exit(work(args, keeper))
}

// work is the worker. It returns the exit status.
func work(args []string, keeper *os.File) int {
	os.WriteFile("/proc/self/comm", []byte("sbx-run"), 0) // else it is that of /proc/self/exe
	becomeSubreaper()
	defer sandbox.EndChildren()
	w := &worker{signals: make(chan os.Signal, 8), defaults: ignoreTerminal()}
	for _, sig := range sandbox.Forwarded {
		if !signal.Ignored(sig) {
			signal.Notify(w.signals, sig)
		}
	}
	var end context.CancelCauseFunc
	w.ctx, end = context.WithCancelCause(context.Background())
	go hear(keeper, w.signals, func() { end(errKeeperEnded) })
	return w.run(args)
}

// worker is what a start gets from the keeper.
type worker struct {
	ctx      context.Context // ends with the keeper
	signals  chan os.Signal
	defaults []syscall.Signal
}

func (w *worker) run(args []string) int {
	status, err := w.do(args)
	if err == nil {
		return status
	}
	if errors.Is(err, errKeeperEnded) { // nobody to tell
		return exitFailed
	}
	fmt.Fprintf(os.Stderr, "sbx-run: %v\n", err)
	var unusable *sandbox.Unusable
	switch {
	case errors.As(err, &unusable) && unusable.Missing:
		return exitNotFound
	case errors.As(err, &unusable):
		return exitUnusable
	}
	return exitFailed
}

// do carries out a command line, sbx-run's or flatpak's.
func (w *worker) do(args []string) (status int, err error) {
	if !asFlatpak() {
		o, status := parse(args)
		if o == nil {
			return status, nil
		}
		return o.run(w)
	}
	c, err := parseFlatpak(args)
	if err != nil {
		return 0, err
	}
	dirs := profileDirs()
	if err := c.check(dirs); err != nil {
		return 0, err
	}
	if c.info {
		return 0, c.access(dirs)
	}
	return c.asOptions().run(w)
}

func profileDirs() []string {
	exe, _ := os.Executable() // without it there is one place less to look
	return sandbox.ProfileDirs(os.Getenv, exe)
}

// parse reads the command line. A nil *options means that all is done, with
// the exit status.
func parse(args []string) (o *options, status int) {
	o = new(options)
	parser := newParser(o)
	defer func() {
		if r := recover(); r != nil {
			code, ok := r.(exit)
			if !ok {
				panic(r)
			}
			o, status = nil, int(code)
		}
	}()
	if _, err := parser.Parse(args); err != nil {
		fmt.Fprintf(os.Stderr, "sbx-run: %v\n", err)
		return nil, exitFailed
	}
	return o, 0
}

// newParser makes the parser of the command line.
func newParser(o *options) *kong.Kong {
	return kong.Must(o,
		kong.Name("sbx-run"),
		// Kong's own line has the options at the end, where they are the program's.
		kong.ConfigureHelp(kong.HelpOptions{NoAppSummary: true}),
		kong.Description("Usage: sbx-run [OPTION...] APP [ARGUMENT...]\n\nStart a program in a sandbox that desktop portals recognise. APP is an app id, a short name of an installed profile (--list), or the path of a profile file (with a /). Options come before APP: everything after it belongs to the program; files between @@ and @@, and URIs of files between @@u and @@, are handed to it as documents."),
		kong.Vars{"version": "sbx-run " + version},
		kong.Exit(func(code int) { panic(exit(code)) }),
	)
}

// exit carries --help's and --version's wish to end out of the parser.
type exit int

func (o *options) run(w *worker) (int, error) {
	dirs := profileDirs()
	if o.List {
		return 0, o.list(dirs)
	}
	if o.Doctor {
		app := ""
		if len(o.Words) > 0 {
			app = o.Words[0]
		}
		return doctor.Main(w.ctx, doctor.Options{App: app, ProfileDirs: dirs}, false, os.Stdout, os.Stderr), nil
	}
	if o.System != "" {
		return o.daemon(w)
	}
	if o.Install || o.Uninstall {
		return 0, o.integrate(dirs)
	}
	if len(o.Words) == 0 {
		return 0, errors.New("which app? see sbx-run --help, or --list")
	}
	profile, err := sandbox.Load(o.Words[0], dirs)
	if err != nil {
		return 0, err
	}
	if err := o.apply(profile); err != nil {
		return 0, err
	}
	host, err := sandbox.NewHost(os.Environ())
	if err != nil {
		return 0, err
	}
	plan, err := sandbox.NewPlan(profile, host, o.instanceID(), sandbox.Request{Args: o.Words[1:], Cwd: o.Cwd, Shell: o.Shell, Literal: o.Literal, LogBus: o.LogDbus})
	if err != nil {
		return 0, err
	}
	defer plan.Close()
	starter, err := o.starter(w, plan)
	if starter == nil {
		return 0, err
	}
	starter.Accessibility = func(ctx context.Context, activate bool) (string, error) {
		return accessibilityBus(ctx, host, activate)
	}
	if !o.NoDocuments {
		starter.Documents = func(ctx context.Context) (string, error) {
			return mountPoint(ctx, host.SessionBus.Address)
		}
		starter.Forward = func(ctx context.Context, app string, f sandbox.Handed) (string, error) {
			return addDocument(ctx, host.SessionBus.Address, app, f)
		}
	}
	if arg := misplaced(o.Words[1:]); arg != "" && !o.Literal {
		starter.Warn("%s is passed to the program: options of sbx-run come before the app", arg)
	}
	if names := desktop.SessionDirs(os.Getenv).Activatable(profile.Name); len(names) > 0 {
		starter.Warn("the message bus can start %s outside the sandbox, also for the app itself; sbx-run --install %s prevents it", strings.Join(names, " and "), profile.Name)
	}
	if o.LogDbus {
		done, err := logBus(w.ctx, starter, host)
		if err != nil {
			return 0, err
		}
		defer done()
	}
	return starter.Run(w.ctx, plan)
}

// starter finds what carries a plan out. With --dry-run it prints the plan
// instead, and the *Starter is nil.
func (o *options) starter(w *worker, plan *sandbox.Plan) (starter *sandbox.Starter, err error) {
	starter = &sandbox.Starter{
		Warn:  func(format string, args ...any) { fmt.Fprintf(os.Stderr, "sbx-run: "+format+"\n", args...) },
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Signals: w.signals, Defaults: w.defaults,
	}
	if o.Verbose {
		for _, warning := range plan.Warnings {
			starter.Warn("%s", warning)
		}
	}
	if starter.Bwrap, err = find("bwrap"); err != nil {
		return nil, err
	}
	if starter.Proxy, err = find("xdg-dbus-proxy"); err != nil {
		return nil, err
	}
	switch o.DryRun {
	case "":
		return starter, nil
	case "argv":
		return nil, starter.PrintArgv(os.Stdout, plan)
	default:
		return nil, plan.Print(os.Stdout)
	}
}

// instanceID is a new instance's name, or what stands for one in --dry-run.
func (o *options) instanceID() string {
	if o.DryRun != "" {
		return sandbox.DryInstanceID
	}
	return sandbox.NewInstanceID()
}

// find looks a program up in PATH. A link of the person's to it would not be
// there in the proxy's sandbox, where it leads to is.
func find(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err == nil {
		path, err = filepath.EvalSymlinks(path)
	}
	if err != nil {
		return "", fmt.Errorf("%s is needed: %w", name, err)
	}
	return path, nil
}

// mountPoint asks the document portal where its mount is; it is started if it
// does not run.
func mountPoint(ctx context.Context, address string) (string, error) {
	conn, err := bus.Dial(ctx, address, bus.Options{})
	if err != nil {
		return "", err
	}
	defer conn.Close()
	for try := 0; ; try++ {
		var path []byte
		err := conn.Call(ctx, documentsName, documentsPath, documentsName, "GetMountPoint", "", nil, &path)
		if err == nil {
			return strings.TrimRight(string(path), "\x00"), nil
		}
		// Who died with the question in his hands has a successor at once.
		var e *bus.Error
		if try == 3 || !errors.As(err, &e) || e.Name != errNoReply {
			return "", err
		}
	}
}

// errNoReply is the bus's answer for a peer that has left.
const errNoReply = "org.freedesktop.DBus.Error.NoReply"

// Names of the service that knows the accessibility bus.
const (
	accessibilityName = "org.a11y.Bus"
	accessibilityPath = "/org/a11y/bus"
	busName           = "org.freedesktop.DBus"
	busPath           = "/org/freedesktop/DBus"
	errServiceUnknown = "org.freedesktop.DBus.Error.ServiceUnknown"
)

// accessibilityBus asks where the accessibility bus is. "" is none.
func accessibilityBus(ctx context.Context, host *sandbox.Host, activate bool) (string, error) {
	if address := host.Getenv("AT_SPI_BUS_ADDRESS"); address != "" { // programs believe it first
		return address, nil
	}
	conn, err := bus.Dial(ctx, host.SessionBus.Address, bus.Options{})
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if !activate {
		var runs bool
		if err := conn.Call(ctx, busName, busPath, busName, "NameHasOwner", "s", []any{accessibilityName}, &runs); err != nil || !runs {
			return "", err
		}
	}
	var address string
	err = conn.Call(ctx, accessibilityName, accessibilityPath, accessibilityName, "GetAddress", "", nil, &address)
	var e *bus.Error
	if errors.As(err, &e) && e.Name == errServiceUnknown { // not installed
		return "", nil
	}
	return address, err
}

// Flags of AddFull.
const (
	addReuse     = 1
	addDirectory = 8
)

// addDocument makes a document of a file that the user named for the app.
func addDocument(ctx context.Context, address, app string, f sandbox.Handed) (string, error) {
	conn, err := bus.Dial(ctx, address, bus.Options{})
	if err != nil {
		return "", err
	}
	defer conn.Close()
	flags := uint32(addReuse)
	if f.Directory {
		flags |= addDirectory
	}
	permissions := []string{"read"}
	if f.Writable {
		permissions = append(permissions, "write")
	}
	var ids []string
	var extra map[string]bus.Value
	files, err := conn.CallFiles(ctx, documentsName, documentsPath, documentsName, "AddFull", "ahusas",
		[]any{[]bus.FD{0}, flags, app, permissions}, []*os.File{f.File}, &ids, &extra)
	for _, f := range files {
		f.Close()
	}
	if err != nil {
		return "", err
	}
	if len(ids) != 1 {
		return "", fmt.Errorf("the document portal answered with %d ids", len(ids))
	}
	return ids[0], nil
}
