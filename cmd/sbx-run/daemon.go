package main

import (
	"errors"
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
	args := o.Words
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	plan, err := sandbox.NewDaemonPlan(profile, host, o.instanceID(), args)
	if err != nil {
		return 0, err
	}
	defer plan.Close()
	starter, err := o.starter(w, plan)
	if starter == nil {
		return 0, err
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
