package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"docportal/dbus"
	"docportal/internal/bus"
	"docportal/internal/documents"
	"docportal/internal/permstore"
)

// command is a sub-command. It works on the store itself if nobody has it, and
// asks the daemon that has it otherwise.
type command interface {
	// alone does it with the store that is in dir and in nobody's use; an
	// error that is permstore.ErrInUse says that it is.
	alone(ctx context.Context, dir string) (outcome, error)
	// request is the method of the daemon's manager that does it.
	request() (member, signature string, args []any)
	// asJSON reports whether it is for a program.
	asJSON() bool
}

type importCommand struct {
	format
	Dir string `arg:"" optional:"" type:"path" help:"The directory with the databases, one file for each table; flatpak's own if none is named."`
}

func (c *importCommand) dir() string {
	if c.Dir == "" {
		return flatpakDir()
	}
	return c.Dir
}

func (c *importCommand) alone(ctx context.Context, dir string) (outcome, error) {
	return withStore(dir, func(s *permstore.Store) (outcome, error) { return importInto(ctx, s, c.dir()) })
}

func (c *importCommand) request() (string, string, []any) {
	return "Import", "s", []any{c.dir()}
}

type exportCommand struct {
	format
	Legacy bool   `help:"Leave out file handles: document portals before 1.21.2 cannot read them."`
	Dir    string `arg:"" type:"path" help:"The directory to write to, one file for each table."`
}

func (c *exportCommand) alone(ctx context.Context, dir string) (outcome, error) {
	if isFlatpakDir(c.Dir) && storeRuns(ctx) {
		return outcome{}, errUsed
	}
	if err := exists(dir); err != nil {
		return outcome{}, err
	}
	return withStore(dir, func(s *permstore.Store) (outcome, error) { return exportFrom(s, c.Dir, c.Legacy) })
}

func (c *exportCommand) request() (string, string, []any) {
	return "Export", "sb", []any{c.Dir, c.Legacy}
}

type checkCommand struct {
	format
	Repair bool `help:"Salvage a damaged file and write the indexes anew."`
}

func (c *checkCommand) alone(_ context.Context, dir string) (outcome, error) {
	if err := exists(dir); err != nil {
		return outcome{}, err
	}
	if c.Repair {
		if err := permstore.Repair(dir, permstore.Options{Log: logger(os.Stderr, false), Indexes: documents.Indexes()}); err != nil {
			return outcome{}, err
		}
	}
	r, err := permstore.Check(dir, documents.Indexes())
	return checked(r), err
}

func (c *checkCommand) request() (string, string, []any) {
	return "Check", "b", []any{c.Repair}
}

type pruneCommand struct {
	format
	DryRun bool `help:"Say what would be removed, and why, and remove nothing."`
}

func (c *pruneCommand) alone(ctx context.Context, dir string) (outcome, error) {
	if err := exists(dir); err != nil {
		return outcome{}, err
	}
	return withStore(dir, func(s *permstore.Store) (outcome, error) { return prune(ctx, s, c.DryRun) })
}

func (c *pruneCommand) request() (string, string, []any) {
	return "Prune", "b", []any{c.DryRun}
}

// carryOut does what a command says and returns the exit status: 1 if
// something was wrong.
func carryOut(ctx context.Context, c command, stdout, stderr io.Writer) int {
	o, err := c.alone(ctx, storeDir())
	if errors.Is(err, permstore.ErrInUse) {
		o, err = ask(ctx, c)
	}
	for _, line := range o.problems {
		fmt.Fprintln(stderr, shown([]byte(line)))
	}
	if c.asJSON() {
		if o.facts != "" {
			fmt.Fprint(stdout, o.facts)
		}
	} else {
		for _, line := range o.done {
			fmt.Fprintln(stdout, shown([]byte(line)))
		}
	}
	if err != nil {
		fmt.Fprintln(stderr, "docportal:", err)
	}
	if err == nil && len(o.problems) > 0 {
		return exitFailed
	}
	return exitStatus(err)
}

// ask has the daemon do it that has the store.
func ask(ctx context.Context, c command) (o outcome, err error) {
	conn, err := bus.Dial(ctx, "", bus.Options{})
	if err != nil {
		return o, failure{exitNobody, fmt.Errorf("%w, and there is no session bus to ask it: %v", permstore.ErrInUse, err)}
	}
	defer conn.Close()
	var owned bool
	if err := conn.Call(ctx, busName, "/org/freedesktop/DBus", busName, "NameHasOwner", "s", []any{permstore.Name}, &owned); err != nil {
		return o, err
	}
	if !owned {
		return o, failure{exitNobody, fmt.Errorf("%w, which is not on this session bus", permstore.ErrInUse)}
	}
	member, signature, args := c.request()
	err = conn.Call(ctx, permstore.Name, managerPath, dbus.Manager, member, signature, args, &o.done, &o.problems, &o.facts)
	var e *bus.Error
	if errors.As(err, &e) {
		err = failure{exitStatus(err), errors.New(e.Message)}
	}
	return o, err
}

// storeRuns reports whether a permission store, ours or another, serves this
// session.
func storeRuns(ctx context.Context) bool {
	conn, err := bus.Dial(ctx, "", bus.Options{})
	if err != nil {
		return false
	}
	defer conn.Close()
	var owned bool
	err = conn.Call(ctx, busName, "/org/freedesktop/DBus", busName, "NameHasOwner", "s", []any{permstore.Name}, &owned)
	return err != nil || owned
}

// withStore opens the store for a command.
func withStore(dir string, fn func(s *permstore.Store) (outcome, error)) (o outcome, err error) {
	s, err := permstore.Open(dir, permstore.Options{Log: logger(os.Stderr, false), Indexes: documents.Indexes()})
	if err != nil {
		return o, err
	}
	o, err = fn(s)
	return o, errors.Join(err, s.Close())
}

// exists says that there is no store yet: to open one would make it.
func exists(dir string) error {
	_, err := os.Stat(filepath.Join(dir, "permissions.db"))
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("there is no store in %s", dir)
	}
	return err
}
