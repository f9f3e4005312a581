package main

import (
	"errors"
	"fmt"
	"os"

	"docportal/internal/sandbox"
)

// daemon starts a daemon of the system and returns its exit status.
func (o *options) daemon(w *worker) (int, error) {
	if !o.onlyDaemon() {
		return 0, errors.New("--system takes the daemon's arguments and nothing else; what it is to get belongs into its profile in /etc/sbx/system")
	}
	exe, _ := os.Executable() // without it there is one place less to look
	profile, err := sandbox.LoadDaemon(o.System, sandbox.DaemonDirs(exe))
	if err != nil {
		return 0, err
	}
	host, err := sandbox.NewDaemonHost(os.Environ())
	if err != nil {
		return 0, err
	}
	instance := sandbox.NewInstanceID()
	if o.DryRun != "" {
		instance = sandbox.DryInstanceID
	}
	args := o.Words
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	plan, err := sandbox.NewDaemonPlan(profile, host, instance, args)
	if err != nil {
		return 0, err
	}
	defer plan.Close()
	starter := &sandbox.Starter{
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
		return 0, err
	}
	if starter.Proxy, err = find("xdg-dbus-proxy"); err != nil {
		return 0, err
	}
	switch o.DryRun {
	case "":
	case "argv":
		return 0, starter.PrintArgv(os.Stdout, plan)
	default:
		return 0, plan.Print(os.Stdout)
	}
	if os.Geteuid() != 0 {
		return 0, errors.New("--system is for root: a service manager starts daemons")
	}
	return starter.Run(w.ctx, plan)
}

// onlyDaemon reports whether nothing else was asked for.
func (o *options) onlyDaemon() bool {
	rest := *o
	rest.System, rest.DryRun = "", ""
	return rest.only()
}
