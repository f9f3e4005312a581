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
	"runtime/debug"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
)

// version is stamped by the build.
var version = "unknown"

// arguments is the command line.
type arguments struct {
	Replace     bool             `help:"Take over from an instance that is running."`
	Verbose     bool             `help:"Log each decision: who asked for what, and why not."`
	NoRemount   bool             `help:"Stay unmounted, until the next call, when somebody else unmounts the file view."`
	TrustUserns bool             `help:"Take programs of other user namespaces, such as toolbox containers, for the host."`
	Version     kong.VersionFlag `help:"Print the version and exit."`
}

// grace is how long the end may take before the process leaves as it is.
const grace = 1800 * time.Millisecond

func main() {
	var a arguments
	kong.Parse(&a,
		kong.Name("docportal"),
		kong.Description("The document portal and permission store of a session."),
		kong.Vars{"version": version},
	)
	os.Exit(run(a, os.Stderr))
}

// run serves until a signal or the bus ends it and returns the exit status.
func run(a arguments, stderr io.Writer) int {
	// A small heap that is collected a little more often keeps an idle daemon
	// small; the limit is soft.
	debug.SetGCPercent(50)
	debug.SetMemoryLimit(64 << 20)

	level := slog.LevelInfo
	if a.Verbose {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer stop()

	runtimeDir := os.Getenv("XDG_RUNTIME_DIR")
	if runtimeDir == "" {
		fmt.Fprintln(stderr, "docportal: XDG_RUNTIME_DIR is not set: there is no place to mount the file view")
		return 1
	}
	d := newDaemon(a, log, runtimeDir)
	err := d.serve(ctx)
	late := time.AfterFunc(grace, func() {
		log.Warn("something does not end; leaving")
		os.Exit(status(err))
	})
	defer late.Stop()
	d.close()
	if err != nil {
		log.Error(err.Error())
	}
	return status(err)
}

func status(err error) int {
	if err != nil {
		return 1
	}
	return 0
}
