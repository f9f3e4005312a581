package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"docportal/internal/appid"
	"docportal/internal/bus"
	"docportal/internal/desktop"
	"docportal/internal/sandbox"
)

// desktopWait bounds what only makes the desktop notice a change sooner.
const desktopWait = 5 * time.Second

// errOnlyApps says that a command takes nothing but apps.
var errOnlyApps = errors.New("takes only apps; what else an app is to get belongs into a profile in ~/.config/sbx/profiles")

// integrate installs or uninstalls the apps' files for the desktop.
func (o *options) integrate(dirs []string) error {
	name, each := "--install", o.install
	if o.Uninstall {
		name, each = "--uninstall", o.uninstall
	}
	if o.Install && o.Uninstall {
		return errors.New("--install and --uninstall at once")
	}
	if !o.only() {
		return fmt.Errorf("%s %w", name, errOnlyApps)
	}
	if len(o.Words) == 0 {
		return fmt.Errorf("%s: which app? --list shows all", name)
	}
	home := desktop.SessionDirs(os.Getenv)
	if !filepath.IsAbs(home.DataHome) || !filepath.IsAbs(home.ConfigHome) {
		return fmt.Errorf("HOME=%q is no home directory", os.Getenv("HOME"))
	}
	changed := false
	for _, app := range o.Words {
		c, err := each(app, dirs, home)
		if c != nil {
			tell(c)
			changed = changed || c.Any()
		}
		if err != nil {
			return err
		}
	}
	if changed {
		notice(home)
	}
	return nil
}

func (o *options) install(app string, dirs []string, home desktop.Dirs) (*desktop.Changes, error) {
	if strings.Contains(app, "/") {
		return nil, fmt.Errorf("%s: entries start apps by their id: copy the profile to ~/.config/sbx/profiles/ID.profile first", app)
	}
	p, err := sandbox.Load(app, dirs)
	if err != nil {
		return nil, err
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	a := &desktop.App{ID: p.Name, Owns: p.Owns, Launcher: exe}
	found := false
	for _, w := range p.Command {
		a.Commands = append(a.Commands, w.Text)
		found = found || sandbox.FindProgram(w.Text) != ""
	}
	if !found {
		return nil, &sandbox.Unusable{Missing: true, Reason: fmt.Sprintf("%s: not installed: no program %s", p.Name, strings.Join(a.Commands, " or "))}
	}
	return a.Install(home)
}

func (o *options) uninstall(app string, dirs []string, home desktop.Dirs) (*desktop.Changes, error) {
	if !appid.Valid(app) { // an id needs no profile any more
		p, err := sandbox.Load(app, dirs)
		if err != nil {
			return nil, err
		}
		app = p.Name
	}
	c, err := desktop.Uninstall(app, home)
	if err == nil && !c.Any() && len(c.Kept) == 0 {
		fmt.Printf("nothing is installed for %s\n", app)
	}
	return c, err
}

func tell(c *desktop.Changes) {
	for _, path := range c.Written {
		fmt.Println("wrote", path)
	}
	for _, path := range c.Removed {
		fmt.Println("removed", path)
	}
	if !c.Any() && len(c.Same) > 0 {
		fmt.Println("all is as it should be")
	}
	for _, path := range c.Kept {
		fmt.Fprintf(os.Stderr, "sbx-run: %s is left alone: it was not made by sbx-run --install, or was changed since\n", path)
	}
}

// notice tells the desktop of changed files: the list of who opens what, and
// the message bus, which may not watch a directory that is new.
func notice(home desktop.Dirs) {
	ctx, cancel := context.WithTimeout(context.Background(), desktopWait)
	defer cancel()
	if err := desktop.UpdateCache(home); err != nil {
		fmt.Fprintf(os.Stderr, "sbx-run: %v\n", err)
	}
	host, err := sandbox.NewHost(os.Environ())
	if err != nil {
		return // no session, no bus
	}
	conn, err := bus.Dial(ctx, host.SessionBus.Address, bus.Options{})
	if err != nil {
		return
	}
	defer conn.Close()
	conn.Call(ctx, "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "ReloadConfig", "", nil)
}

// only reports whether nothing but apps was asked for.
func (o *options) only() bool {
	rest := *o
	rest.Install, rest.Uninstall, rest.Verbose, rest.Words = false, false, false, nil
	return reflect.DeepEqual(rest, options{})
}
