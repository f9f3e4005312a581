// Package bwrapargs takes bubblewrap's command lines apart, for the tests'
// stand-in bwrap and the benchmark. What it does not know is an error: an
// option whose length is guessed would shift all that follow.
package bwrapargs

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Config is what the stand-in bwrap is to do.
type Config struct {
	Real   string // path of the real bwrap
	Record string // directory to write app.json and proxy.json to, "" for none
	Drop   []Drop
}

// Drop names options to leave out.
type Drop struct {
	Proxy  bool   // of the proxy's sandbox, else of the app's
	Option string // such as "--info-fd"
	Dest   string // only with this destination, "" for any
	// KeepOpen leaves the option's descriptor open, so that who waits for it
	// to be used waits on; otherwise it is closed.
	KeepOpen bool
}

// Op is one option with its arguments.
type Op struct {
	Name string
	Args []string
}

// HasFD reports whether the first argument is the number of a descriptor.
func (o Op) HasFD() bool {
	return slices.Contains(fdOptions, o.Name)
}

// Plan is a command line.
type Plan struct {
	Ops     []Op
	Command []string
}

// Record is a plan with what its descriptors were.
type Record struct {
	Plan Plan
	FDs  map[int]FD
}

// FD is what a descriptor was.
type FD struct {
	Link string // of /proc/self/fd
	Data []byte // contents, if it was a regular file or a memfd
}

// Options by the number of their arguments.
var (
	fdOptions = []string{"--args", "--userns", "--userns2", "--pidns", "--sync-fd", "--bind-fd", "--ro-bind-fd", "--file", "--bind-data", "--ro-bind-data", "--seccomp", "--add-seccomp-fd", "--block-fd", "--userns-block-fd", "--info-fd", "--json-status-fd"}
	none      = []string{"--unshare-all", "--share-net", "--unshare-user", "--unshare-user-try", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup", "--unshare-cgroup-try", "--disable-userns", "--assert-userns-disabled", "--clearenv", "--new-session", "--die-with-parent", "--as-pid-1"}
	one       = []string{"--args", "--argv0", "--level-prefix", "--userns", "--userns2", "--pidns", "--uid", "--gid", "--hostname", "--chdir", "--unsetenv", "--lock-file", "--sync-fd", "--remount-ro", "--exec-label", "--file-label", "--proc", "--dev", "--tmpfs", "--mqueue", "--dir", "--seccomp", "--add-seccomp-fd", "--block-fd", "--userns-block-fd", "--info-fd", "--json-status-fd", "--cap-add", "--cap-drop", "--perms", "--size", "--overlay-src", "--tmp-overlay", "--ro-overlay"}
	two       = []string{"--setenv", "--bind", "--bind-try", "--dev-bind", "--dev-bind-try", "--ro-bind", "--ro-bind-try", "--bind-fd", "--ro-bind-fd", "--file", "--bind-data", "--ro-bind-data", "--symlink", "--chmod"}
)

// Parse takes args apart, those of --args in their place; readFD reads a
// descriptor to its end.
func Parse(args []string, readFD func(int) ([]byte, error)) (*Plan, error) {
	p := new(Plan)
	for len(args) > 0 {
		name := args[0]
		if name == "--" {
			p.Command = args[1:]
			return p, nil
		}
		if !strings.HasPrefix(name, "-") {
			p.Command = args
			return p, nil
		}
		n := -1
		switch {
		case slices.Contains(none, name):
			n = 0
		case slices.Contains(one, name):
			n = 1
		case slices.Contains(two, name):
			n = 2
		}
		if n < 0 || len(args) < 1+n {
			return nil, fmt.Errorf("unknown or incomplete option %q", name)
		}
		op := Op{Name: name, Args: args[1 : 1+n]}
		args = args[1+n:]
		if name != "--args" {
			p.Ops = append(p.Ops, op)
			continue
		}
		fd, err := strconv.Atoi(op.Args[0])
		if err != nil {
			return nil, err
		}
		b, err := readFD(fd)
		if err != nil {
			return nil, err
		}
		// Each argument ends with a NUL.
		inner := strings.Split(string(bytes.TrimSuffix(b, []byte{0})), "\x00")
		q, err := Parse(inner, readFD)
		if err != nil {
			return nil, err
		}
		p.Ops = append(p.Ops, q.Ops...)
	}
	return p, nil
}

// Drop leaves out the options of that name, with the --perms or --size that
// belongs to each, and returns the descriptors that they named.
func (p *Plan) Drop(name, dest string) []int {
	var fds []int
	var kept []Op
	for _, op := range p.Ops {
		if op.Name != name || (dest != "" && op.Args[len(op.Args)-1] != dest) {
			kept = append(kept, op)
			continue
		}
		for len(kept) > 0 && slices.Contains([]string{"--perms", "--size"}, kept[len(kept)-1].Name) {
			kept = kept[:len(kept)-1]
		}
		if op.HasFD() {
			if n, err := strconv.Atoi(op.Args[0]); err == nil {
				fds = append(fds, n)
			}
		}
	}
	p.Ops = kept
	return fds
}

// Argv puts the command line together again.
func (p *Plan) Argv() []string {
	var argv []string
	for _, op := range p.Ops {
		argv = append(append(argv, op.Name), op.Args...)
	}
	return append(append(argv, "--"), p.Command...)
}
