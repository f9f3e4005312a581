// Command docportal is the document portal and the permission store of a
// session: it owns their names on the session bus, keeps what apps may do with
// which files, and shows them the files below $XDG_RUNTIME_DIR/doc.
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"docportal/internal/fuse"
	"docportal/internal/keeper"
	"docportal/internal/memory"
)

// version is stamped by the build.
var version = "unknown"

// commandLine is the command line.
type commandLine struct {
	Version kong.VersionFlag `help:"Print the version and exit."`

	Daemon arguments `embed:""` // shown with the rest: without a command they are the command line

	Serve  struct{}      `cmd:"" default:"1" help:"Serve the session until it ends; what is done without a command."`
	Import importCommand `cmd:"" help:"Merge the permission databases of flatpak's programs into the store."`
	Export exportCommand `cmd:"" help:"Write the store as permission databases of flatpak's programs."`
	Check  checkCommand  `cmd:"" help:"Verify every invariant of the store."`
	Prune  pruneCommand  `cmd:"" help:"Remove documents whose file or directory is gone for good."`

	Status statusCommand `cmd:"" help:"Show how the running instance is: mount, documents, apps, memory, last errors."`

	List   listCommand   `cmd:"" help:"List documents, and which app may do what with them."`
	Info   infoCommand   `cmd:"" help:"Show what is known of a document."`
	Apps   appsCommand   `cmd:"" help:"List the apps that have documents."`
	Grant  grantCommand  `cmd:"" help:"Give an app permissions on a document."`
	Revoke revokeCommand `cmd:"" help:"Take permissions on a document from an app."`
	Delete deleteCommand `cmd:"" help:"Forget documents; the files stay."`

	Doctor doctorCommand `cmd:"" help:"Say what is missing or wrong on this machine for portals to work."`
}

// arguments are the daemon's.
type arguments struct {
	Replace     bool `help:"Take over from an instance that is running."`
	Verbose     bool `help:"Log each decision: who asked for what, and why not."`
	NoRemount   bool `help:"Stay unmounted, until the next call, when somebody else unmounts the file view."`
	TrustUserns bool `help:"Take programs of other user namespaces, such as toolbox containers, for the host."`
}

// grace is how long the end may take before the process leaves as it is.
const grace = 1500 * time.Millisecond

// orphaned is how long a server may take to end whose keeper has gone.
const orphaned = 800 * time.Millisecond

func main() {
	if len(os.Args) > 1 && os.Args[1] == completeWord {
		os.Exit(completeLine(os.Args[2:], os.Stdout))
	}
	server, err := keeper.Attach()
	if err != nil {
		fmt.Fprintln(os.Stderr, "docportal:", err)
		os.Exit(exitFailed)
	}
	if server == nil && serves(os.Args[1:]) {
		os.Exit(keep(os.Stderr))
	}
	var c commandLine
	parser := newParser(&c)
	chosen, err := parser.Parse(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "docportal:", err)
		os.Exit(exitUsage)
	}
	switch command := chosen.Selected().Target.Addr().Interface().(type) {
	case command:
		os.Exit(carryOut(untilSignal(), command, os.Stdout, os.Stderr))
	case *doctorCommand:
		os.Exit(command.examine(untilSignal(), os.Stdout))
	case asking:
		os.Exit(askPortal(untilSignal(), command, os.Stdout, os.Stderr))
	}
	os.Exit(run(c.Daemon, server, os.Stderr))
}

// untilSignal is a context for a process that ends with what it does.
func untilSignal() context.Context {
	ctx, _ := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	return ctx
}

// newParser makes the parser of the command line.
func newParser(c *commandLine) *kong.Kong {
	return kong.Must(c,
		kong.Name("docportal"),
		kong.Description("The document portal and permission store of a session."),
		kong.Vars{"version": version},
	)
}

// serves reports whether a command line is the daemon's, as far as that can be
// said without taking it apart: it names no command, and asks for no help.
func serves(args []string) bool {
	for _, a := range args {
		switch {
		case a == "serve":
		case !strings.HasPrefix(a, "-") || a == "-h" || strings.HasPrefix(a, "--help") || strings.HasPrefix(a, "--version"):
			return false
		}
	}
	return true
}

// keep is the process that stays: it starts the server, and another one when
// that dies, and returns the exit status.
func keep(stderr io.Writer) int {
	// It makes hardly any garbage, which goes when it rests. A heap that may grow
	// without a limit would get huge pages for what describes it.
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(64 << 20)
	runtime.GOMAXPROCS(1)
	program, err := os.Executable()
	if err != nil {
		program = os.Args[0]
	}
	args := slices.Clone(os.Args)
	args[0] = filepath.Join(filepath.Dir(args[0]), serverName)
	return keeper.Run(keeper.Options{
		Program: program,
		Args:    args,
		Log:     stderr,
		Ready:   notifyReady, // from the process that a service manager has started
		Rest:    func() { memory.GiveBack("") },
		Detach:  fuse.Detach,
		Abort:   fuse.Abort,
	})
}

// serverName is what the server is called in lists of processes.
const serverName = "docportal-server"

// run serves until a signal or the bus ends it and returns the exit status.
func run(a arguments, server *keeper.Server, stderr io.Writer) int {
	// A small heap that is collected a little more often keeps an idle daemon
	// small; the limit is soft.
	debug.SetGCPercent(50)
	debug.SetMemoryLimit(64 << 20)

	log := logger(stderr, a.Verbose)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer stop()
	ctx, end := context.WithCancel(ctx)
	defer end()
	if server != nil {
		os.WriteFile("/proc/self/comm", []byte("docportal"), 0) // or it is "exe"
		go func() {                                             // ends with the process
			<-server.Ended()
			end()
			<-server.Gone()
			time.Sleep(orphaned)
			os.Exit(exitFailed)
		}()
	}

	runtimeDir := os.Getenv("XDG_RUNTIME_DIR")
	if runtimeDir == "" {
		fmt.Fprintln(stderr, "docportal: XDG_RUNTIME_DIR is not set: there is no place to mount the file view")
		return 1
	}
	if !filepath.IsAbs(runtimeDir) {
		fmt.Fprintf(stderr, "docportal: XDG_RUNTIME_DIR is not an absolute path: %q\n", runtimeDir)
		return 1
	}
	low := fuse.Reserve()
	d := newDaemon(a, log, runtimeDir, server)
	d.low = low
	err := d.serve(ctx)
	code := status(err)
	if d.reloading {
		code = keeper.ExitReload
	}
	late := time.AfterFunc(grace, func() {
		log.Warn("something does not end; leaving")
		os.Exit(code)
	})
	defer late.Stop()
	server.Leave(code)
	d.close()
	if err != nil {
		log.Error(err.Error())
	}
	return code
}

func logger(w io.Writer, verbose bool) *slog.Logger {
	level := slog.LevelInfo
	if verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}

func status(err error) int {
	if err != nil {
		return 1
	}
	return 0
}
