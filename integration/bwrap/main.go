// Bwrap stands in for bubblewrap under its name, first in PATH: it leaves out
// arguments, or writes down what it was called with, as the file "bwrap.json"
// beside it says, and then becomes the real one. (A file and no variables,
// since bubblewrap is started with an empty environment.) So the tests see what
// sbx-run does when a part of its sandbox is missing, and the benchmark what
// the sandbox is made of.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"docportal/integration/bwrapargs"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "stand-in bwrap:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	b, err := os.ReadFile(filepath.Join(filepath.Dir(self), "bwrap.json"))
	if err != nil {
		return err
	}
	var c bwrapargs.Config
	if err := json.Unmarshal(b, &c); err != nil {
		return err
	}
	// bwrap --help and --version are questions, no sandboxes.
	if len(args) == 1 {
		return unix.Exec(c.Real, append([]string{"bwrap"}, args...), os.Environ())
	}
	plan, err := bwrapargs.Parse(args, readFD)
	if err != nil {
		return err
	}
	proxy := slices.ContainsFunc(plan.Command, func(s string) bool {
		return filepath.Base(s) == "xdg-dbus-proxy"
	})
	if c.Record != "" {
		name := "app.json"
		if proxy {
			name = "proxy.json"
		}
		if err := record(filepath.Join(c.Record, name), plan); err != nil {
			return err
		}
	}
	for _, d := range c.Drop {
		if d.Proxy == proxy {
			for _, fd := range plan.Drop(d.Option, d.Dest) {
				if !d.KeepOpen {
					unix.Close(fd)
				}
			}
		}
	}
	return unix.Exec(c.Real, append([]string{"bwrap"}, plan.Argv()...), os.Environ())
}

func readFD(fd int) ([]byte, error) {
	return io.ReadAll(os.NewFile(uintptr(fd), "--args"))
}

// record writes down a plan, with what each descriptor is.
func record(path string, p *bwrapargs.Plan) error {
	r := bwrapargs.Record{Plan: *p, FDs: map[int]bwrapargs.FD{}}
	add := func(s string) {
		n, err := strconv.Atoi(s)
		if err != nil {
			return
		}
		var d bwrapargs.FD
		d.Link, _ = os.Readlink("/proc/self/fd/" + s)
		// Only what can be read without taking it from the reader it is for.
		if strings.HasPrefix(d.Link, "/memfd:") || strings.HasPrefix(d.Link, "/") {
			var st unix.Stat_t
			if unix.Fstat(n, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Size < 1<<20 {
				d.Data = make([]byte, st.Size)
				if k, err := unix.Pread(n, d.Data, 0); err != nil || int64(k) != st.Size {
					d.Data = nil
				}
			}
		}
		r.FDs[n] = d
	}
	for _, op := range p.Ops {
		if op.HasFD() {
			add(op.Args[0])
		}
	}
	for _, a := range p.Command {
		if _, v, ok := strings.Cut(a, "="); ok && strings.HasPrefix(a, "--") {
			add(v)
		}
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o600)
}
