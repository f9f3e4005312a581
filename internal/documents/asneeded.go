package documents

import (
	"context"
	"path"
	"slices"
	"strings"

	"docportal/internal/identity"
)

// reaches reports whether an app can reach a file by itself at its host path,
// for writing if write is set: in every sandbox of the app that runs now, and
// there is one. It reads files of those sandboxes, so it runs without any lock.
func (s *Service) reaches(_ context.Context, app string, rec *record, write bool) bool {
	all, err := identity.Instances(s.o.RuntimeDir)
	if err != nil {
		s.log.Warn("running sandboxes cannot be listed", "reason", err)
		return false
	}
	found := false
	for _, i := range all {
		if i.App != app {
			continue
		}
		if !shows(i.Binds, rec.path, write) {
			return false
		}
		found = true
	}
	return found
}

// shows reports whether a sandbox with these mounts has the host's path p at
// the same place. The deepest mount above p decides, of several the last one.
func shows(binds []identity.Bind, p string, write bool) bool {
	best := -1
	for i, b := range binds {
		if within(p, b.Sandbox) && (best < 0 || len(b.Sandbox) >= len(binds[best].Sandbox)) {
			best = i
		}
	}
	if best < 0 {
		return false
	}
	b := binds[best]
	return path.Join(b.Host, strings.TrimPrefix(p, b.Sandbox)) == p && !(write && b.ReadOnly)
}

// runningApps are the apps with a live instance.
func (s *Service) runningApps() []string {
	all, err := identity.Instances(s.o.RuntimeDir)
	if err != nil {
		s.log.Warn("running sandboxes cannot be listed", "reason", err)
	}
	var apps []string
	for _, i := range all {
		if !slices.Contains(apps, i.App) {
			apps = append(apps, i.App)
		}
	}
	return apps
}
