package desktop

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"docportal/internal/keyfile"
)

const (
	groupEntry  = "Desktop Entry"
	groupAction = "Desktop Action "
	entrySuffix = ".desktop"
)

// entry is a desktop entry of the system's that starts a program.
type entry struct {
	keyFile
	command
}

// entries lists the desktop entries that start programs, in the directories
// and of the kind that are asked for. Flatpaks' own are not among them, and
// are listed by their id.
func entries(dirs []string) (all []entry, flatpaks []string) {
	for _, f := range scan(dirs, entrySuffix) {
		if id := f.value(groupEntry, "X-Flatpak"); id != "" {
			flatpaks = append(flatpaks, id)
			continue
		}
		if f.value(groupEntry, "Type") != "Application" || f.value(groupEntry, "Hidden") == "true" {
			continue
		}
		if c, err := parseCommand(f.value(groupEntry, "Exec")); err == nil {
			all = append(all, entry{f, c})
		}
	}
	return all, flatpaks
}

// runs reports whether the entry starts one of the app's programs.
func (a *App) runs(c command) bool {
	return !interpreter(c.program) && slices.ContainsFunc(a.Commands, func(w string) bool {
		return filepath.Base(w) == filepath.Base(c.program)
	})
}

// belongs reports whether an entry is one of the app's, and what its name adds
// to that of the app: nothing for what starts the app as such.
func (a *App) belongs(e entry) (part string, ok bool) {
	if e.id == a.ID {
		return "", true
	}
	if !a.runs(e.command) {
		return "", false
	}
	names := []string{a.ID}
	for _, w := range a.Commands {
		names = append(names, filepath.Base(w))
	}
	for _, name := range names {
		if e.id == name {
			return "", true
		}
		for _, sep := range []string{"-", "."} {
			if part, ok := strings.CutPrefix(e.id, name+sep); ok {
				return part, true
			}
		}
	}
	return "", false
}

// choose picks the entry that stands for the app, and what else of it people
// see or open files with.
func (a *App) choose(all []entry) (first *entry, more []entry) {
	var mine []entry
	for _, e := range all {
		if _, ok := a.belongs(e); ok {
			mine = append(mine, e)
		}
	}
	rank := func(e entry) int {
		switch part, _ := a.belongs(e); {
		case e.id == a.ID:
			return 0
		case part == "": // as the first program of the profile that is there
			return 1 + slices.IndexFunc(a.Commands, func(w string) bool { return filepath.Base(w) == e.id })
		}
		if e.value(groupEntry, "NoDisplay") == "true" {
			return 2000
		}
		return 1000 + len(e.args)
	}
	slices.SortStableFunc(mine, func(x, y entry) int {
		if d := rank(x) - rank(y); d != 0 {
			return d
		}
		return strings.Compare(x.id, y.id)
	})
	for i, e := range mine {
		switch {
		case i == 0:
			first = &mine[0]
		case e.value(groupEntry, "NoDisplay") != "true", e.value(groupEntry, "MimeType") != "":
			more = append(more, e)
		}
	}
	return first, more
}

// name is the desktop file id of a further entry of the app: portals and
// shells take what begins with the app's id for a part of it.
func (a *App) name(e entry) string {
	if strings.HasPrefix(e.id, a.ID+".") || strings.HasPrefix(e.id, a.ID+"-") {
		return e.id
	}
	part, _ := a.belongs(e)
	if part == "" {
		part = e.id
	}
	clean := func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '-' {
			return r
		}
		return '_'
	}
	return a.ID + "." + strings.Map(clean, part)
}

// sandboxed is the command line that starts in the sandbox what c starts
// outside. Usual is the program that the app is started by anyway.
func (a *App) sandboxed(c command, usual string) []string {
	args := []string{literal(a.Launcher), "--file-forwarding"}
	for _, v := range c.env {
		args = append(args, "--env="+v)
	}
	if filepath.Base(c.program) != filepath.Base(usual) {
		args = append(args, "--command="+c.program)
	}
	return append(append(args, a.ID), handed(c.args)...)
}

// droppedKeys would have the desktop start the program in another way than by
// Exec, or are ours.
var droppedKeys = []string{"Exec", "TryExec", "DBusActivatable", "X-Flatpak", "Hidden", "X-Flatpak-Tags", "X-Flatpak-RenamedFrom", "X-SnapInstanceName", "X-Sandbox"}

// rewrite makes the entry that starts the app in its sandbox of one that
// starts it outside. Usual is as for sandboxed.
func (a *App) rewrite(e entry, usual string) (*keyfile.File, error) {
	out := new(keyfile.File)
	for _, k := range e.Group(groupEntry).Entries() {
		if !slices.Contains(droppedKeys, k.Key) && k.Key != "Actions" {
			out.SetRaw(groupEntry, k.Key, k.Value)
		}
	}
	out.Set(groupEntry, "Exec", joinExec(a.sandboxed(e.command, usual)))
	out.Set(groupEntry, "X-Flatpak", a.ID)
	names, err := e.List(groupEntry, "Actions")
	if err != nil {
		return nil, fmt.Errorf("%s: Actions: %w", e.path, err)
	}
	var kept []string
	for _, name := range names {
		group := groupAction + name
		c, err := parseCommand(e.value(group, "Exec"))
		if err != nil || slices.Contains(kept, name) {
			continue // what only the bus could start
		}
		kept = append(kept, name)
		for _, k := range e.Group(group).Entries() {
			if k.Key != "Exec" {
				out.SetRaw(group, k.Key, k.Value)
			}
		}
		out.Set(group, "Exec", joinExec(a.sandboxed(c, usual)))
	}
	if len(kept) > 0 {
		out.SetList(groupEntry, "Actions", kept)
	}
	return out, nil
}

// alias is an entry in the place of the system's own one: what names that one,
// as the person's choice of a browser does, starts the app in its sandbox. It
// is not shown and offers itself for nothing, since the other one does.
func alias(of *keyfile.File) *keyfile.File {
	out := new(keyfile.File)
	for _, g := range of.Groups() {
		for _, k := range g.Entries() {
			// Without X-Flatpak: portals would take the file's name for the app id.
			if k.Key != "MimeType" && k.Key != "X-Flatpak" && k.Key != "NoDisplay" && k.Key != "Implements" {
				out.SetRaw(g.Name, k.Key, k.Value)
			}
		}
	}
	out.Set(groupEntry, "NoDisplay", "true")
	return out
}

// bare is the entry of an app that has none: portals want to know its name.
func (a *App) bare() *keyfile.File {
	out := new(keyfile.File)
	out.Set(groupEntry, "Type", "Application")
	out.Set(groupEntry, "Name", a.ID[strings.LastIndexByte(a.ID, '.')+1:])
	out.Set(groupEntry, "Exec", joinExec(append(a.sandboxed(command{}, ""), "@@u", "%U", "@@")))
	out.Set(groupEntry, "Icon", "application-x-executable")
	out.Set(groupEntry, "Terminal", "true")
	out.Set(groupEntry, "NoDisplay", "true")
	out.Set(groupEntry, "X-Flatpak", a.ID)
	return out
}
