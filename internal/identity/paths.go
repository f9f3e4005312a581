package identity

import (
	"path"
	"slices"
	"strings"
)

// Dirs are the places on the host that paths of a sandbox lead to.
type Dirs struct {
	Mount string // where the document view is mounted
	Home  string // the user's home directory
}

// HostPaths returns where a path of the caller may be on the host, the likely
// ones first. It only spells paths: which of them is the file that the caller
// means, if any, is known by comparing device and inode.
func (c *Caller) HostPaths(name string, d Dirs) []string {
	if c.IsHost() {
		return []string{name}
	}
	// A descriptor opened while bwrap was still setting up is spelt so.
	if rest, ok := below(name, "/newroot"); ok {
		name = path.Clean("/" + rest)
	}
	var all []string
	add := func(base, rest string) {
		if base == "" {
			return
		}
		if p := path.Join(base, rest); !slices.Contains(all, p) {
			all = append(all, p)
		}
	}
	for _, b := range byLength(c.Binds) {
		if rest, ok := below(name, b.Sandbox); ok {
			add(b.Host, rest)
		}
	}
	data := ""
	if d.Home != "" && c.App != "" {
		data = path.Join(d.Home, ".var/app", c.App)
	}
	for _, m := range []struct{ sandbox, host string }{
		{"/run/flatpak/doc", d.Mount},
		{"/run/host/usr", "/usr"},
		{"/run/host/etc", "/etc"},
		{"/app", c.AppPath},
		{"/usr", c.RuntimePath},
		{"/var/config", joinTo(data, "config")},
		{"/var/data", joinTo(data, "data")},
	} {
		if rest, ok := below(name, m.sandbox); ok {
			add(m.host, rest)
		}
	}
	add(name, "")
	return all
}

func joinTo(dir, name string) string {
	if dir == "" {
		return ""
	}
	return path.Join(dir, name)
}

// below reports whether name is dir or lies below it, and where.
func below(name, dir string) (rest string, ok bool) {
	rest, ok = strings.CutPrefix(name, dir)
	if !ok || dir == "/" {
		return rest, ok
	}
	return rest, rest == "" || rest[0] == '/'
}

// byLength returns binds with the longest sandbox path first; of equal ones the
// last, which covers those before it.
func byLength(binds []Bind) []Bind {
	sorted := slices.Clone(binds)
	slices.Reverse(sorted)
	slices.SortStableFunc(sorted, func(a, b Bind) int { return len(b.Sandbox) - len(a.Sandbox) })
	return sorted
}
