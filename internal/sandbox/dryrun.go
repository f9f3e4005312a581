package sandbox

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
)

// DryInstanceID stands for the instance id where nothing is started.
const DryInstanceID = "sbx-XXXXXXXX"

// Notes says what a user should know about what a profile grants.
func (p *Profile) Notes() []string {
	var notes []string
	if has(p.Sockets, "x11") || has(p.Sockets, "fallback-x11") {
		notes = append(notes, "X11 isolates nothing")
	}
	for _, w := range p.Filesystems {
		if what, _ := cutMode(w.Text); what == "home" || what == "host" || what == "~" {
			notes = append(notes, "sees "+what)
		}
	}
	for _, n := range p.Session {
		for _, name := range outsideNames {
			if n.Policy >= Talk && covers(n.Name, name) {
				notes = append(notes, "by "+name+" it can start programs outside, or grant itself what it likes")
			}
		}
	}
	return notes
}

// outsideNames are services with which a sandbox is none.
var outsideNames = []string{"org.freedesktop.systemd1", "org.freedesktop.Flatpak", "org.freedesktop.impl.portal.PermissionStore", "org.gnome.Shell"}

// Print writes the plan for people.
func (pl *Plan) Print(out io.Writer) error {
	w := bufio.NewWriter(out)
	p := pl.Profile
	fmt.Fprintf(w, "App       %s\n", p.Name)
	fmt.Fprintf(w, "Profile   %s\n", strings.Join(p.Files, ", "))
	fmt.Fprintf(w, "Program   %s\n", printable(quoted(pl.Command)))
	fmt.Fprintf(w, "Starts in %s\n", pl.Cwd)
	if d := p.Daemon; d != nil {
		fmt.Fprintf(w, "User      %s\n", cmp.Or(d.User, "root"))
		fmt.Fprintf(w, "Powers    %s\n", cmp.Or(strings.Join(d.Capabilities, ", "), "none"))
	}
	fmt.Fprintf(w, "Network   %s\n", map[bool]string{true: "the host's", false: "none"}[pl.Network])
	for _, n := range p.Notes() {
		fmt.Fprintf(w, "Note      %s\n", n)
	}
	for _, n := range pl.Warnings {
		fmt.Fprintf(w, "Warning   %s\n", n)
	}
	fmt.Fprintf(w, "\nVisible\n")
	for _, m := range pl.Mounts {
		from := ""
		if m.Source != m.Dest {
			from = "  (" + m.Source + ")"
		}
		made := ""
		if m.create {
			made = "  made first"
		}
		switch m.Kind {
		case Bind:
			fmt.Fprintf(w, "  rw     %s%s%s\n", m.Dest, from, made)
		case ROBind:
			fmt.Fprintf(w, "  ro     %s%s%s\n", m.Dest, from, made)
		case DevBind:
			fmt.Fprintf(w, "  device %s\n", m.Dest)
		case Tmpfs, Dir:
			fmt.Fprintf(w, "  empty  %s\n", m.Dest)
		case Mask, Blank:
			fmt.Fprintf(w, "  hidden %s%s\n", m.Dest, made)
		case Symlink:
			fmt.Fprintf(w, "  link   %s -> %s\n", m.Dest, m.Source)
		case Proc, Dev, File, ROData:
			fmt.Fprintf(w, "  own    %s\n", m.Dest)
		}
	}
	if pl.as == nil {
		fmt.Fprintf(w, "  rw     %s  (its documents, if there is a document portal)\n", filepath.Join(pl.Host.RuntimeDir, "doc"))
		fmt.Fprintf(w, "\nSession bus\n")
		for _, r := range pl.Session {
			printRule(w, r)
		}
	}
	if pl.SystemBus {
		fmt.Fprintf(w, "\nSystem bus\n")
		for _, r := range pl.System {
			printRule(w, r)
		}
	}
	if pl.Accessible {
		fmt.Fprintf(w, "\nAccessibility bus, if there is one\n")
		for _, r := range accessibilityRules() {
			printRule(w, r)
		}
	}
	fmt.Fprintf(w, "\nSystem calls that fail\n  %s\n", strings.Join(pl.Filter.Denied(), " "))
	fmt.Fprintf(w, "\nEnvironment\n")
	for _, name := range slices.Sorted(maps.Keys(pl.Env)) {
		fmt.Fprintf(w, "  %s=%s\n", printable(name), printable(pl.Env[name]))
	}
	return w.Flush()
}

func printRule(w io.Writer, rule string) {
	if policy, name, ok := strings.Cut(strings.TrimPrefix(rule, "--"), "="); ok {
		fmt.Fprintf(w, "  %-9s %s\n", policy, name)
	}
}

// PrintArgv writes the command lines of a start, one argument a line as a
// shell would read it, with --args files in place.
func (s *Starter) PrintArgv(out io.Writer, pl *Plan) error {
	ft, err := probe(context.Background(), s.Bwrap)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(out)
	fmt.Fprintf(w, "# the proxy\n%s\n\n# the app\n%s\n",
		quoted(append([]string{s.Bwrap}, pl.proxyArgv(s.Proxy, ft)...)),
		quoted(append([]string{s.Bwrap}, pl.appArgv(ft)...)))
	return w.Flush()
}

// quoted writes arguments as a shell would read them.
func quoted(args []string) string {
	var all []string
	for _, a := range args {
		if a == "" || strings.Trim(a, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_=/.,:+@%") != "" {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		all = append(all, a)
	}
	return strings.Join(all, " ")
}
