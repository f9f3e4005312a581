package identity

import (
	"path"
	"strings"
)

// Dirs are the places on the host that paths of a sandbox lead to.
type Dirs struct {
	Mount string // where the document view is mounted
	Home  string // the user's home directory
}

// HostPath returns where a path of the caller is on the host. It only spells
// paths: whether that is the file that the caller means is known by comparing
// device and inode. There is no second guess: a file that is at another place
// than the one that the app's mounts lead to is not what the app opened, even
// if it is the same file by another link.
func (c *Caller) HostPath(name string, d Dirs) string {
	if c.IsHost() {
		return name
	}
	name = fromRoot(name)
	if b, rest, ok := c.bind(name); ok {
		return path.Join(b.Host, rest)
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
		if rest, ok := below(name, m.sandbox); ok && m.host != "" {
			return path.Join(m.host, rest)
		}
	}
	return name
}

// fromRoot is a path as the sandbox spells it: a descriptor that was opened
// while bwrap was still setting up is spelt with its old root.
func fromRoot(name string) string {
	if rest, ok := below(name, "/newroot"); ok {
		return path.Clean("/" + rest)
	}
	return name
}

// Whole reports whether all that the caller has below its directory name is
// what the host has below the directory host: no mount of the sandbox covers a
// part of it with something else. readOnly says that a part of it is read-only
// for the caller. It knows only of mounts that sbx-run recorded.
func (c *Caller) Whole(name, host string) (whole, readOnly bool) {
	name = fromRoot(name)
	for _, b := range c.Binds {
		rest, ok := below(b.Sandbox, name)
		if !ok || rest == "" {
			continue
		}
		if b.Host != path.Join(host, rest) {
			return false, false
		}
		readOnly = readOnly || b.ReadOnly
	}
	return true, readOnly
}

// bind is the mount that a path of the sandbox is on: the one with the longest
// path, of equal ones the last, which covers those before it.
func (c *Caller) bind(name string) (on Bind, rest string, ok bool) {
	for _, b := range c.Binds {
		if r, here := below(name, b.Sandbox); here && (!ok || len(b.Sandbox) >= len(on.Sandbox)) {
			on, rest, ok = b, r, true
		}
	}
	return on, rest, ok
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
