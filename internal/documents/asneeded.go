package documents

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path"
	"slices"
	"strings"
	"time"

	"docportal/internal/appid"
	"docportal/internal/identity"
)

const (
	// accessTimeout bounds what a call may take to find out what its target
	// can reach: the answer is read from files, which may lie where nobody
	// answers.
	accessTimeout = 800 * time.Millisecond
	// accessSlots is how many calls may be finding that out at a time.
	accessSlots = 8
	// maxAnswer is more than the snap command ever says.
	maxAnswer = 4096
)

// reach is how far a sandbox reaches a file of the host at the host's path.
type reach uint8

const (
	hidden reach = iota
	readOnlyReach
	readWriteReach
)

func (r reach) enough(write bool) bool { return r == readWriteReach || r == readOnlyReach && !write }

// asNeeded answers, for the files of one call, whether its target can reach
// them by itself. Whatever is not known is not reached: a document too many
// does no harm. It reads files and starts programs, so it is used without any
// lock, and all of it together ends within accessTimeout.
type asNeeded struct {
	s      *Service
	app    string
	write  bool
	ctx    context.Context
	cancel context.CancelFunc
	asked  bool
	reach  func(ctx context.Context, p string) reach // nil if nothing is known
}

// asNeeded prepares the answers for a call; nil where nobody asked. The caller
// ends it by close.
func (s *Service) asNeeded(ctx context.Context, a addition) *asNeeded {
	if a.flags&addAsNeeded == 0 || a.target == "" {
		return nil
	}
	n := &asNeeded{s: s, app: a.target, write: a.perms.has(permWrite)}
	n.ctx, n.cancel = context.WithTimeout(ctx, s.accessTimeout)
	return n
}

func (n *asNeeded) close() {
	if n != nil {
		n.cancel()
	}
}

// reaches reports whether the target can reach a file by itself, for writing
// if it is to write it.
func (n *asNeeded) reaches(rec *record) bool {
	if n == nil {
		return false
	}
	if !n.asked {
		n.asked = true
		n.reach = inTime(n, func() func(context.Context, string) reach { return n.s.reachOf(n.app) })
	}
	if n.reach == nil {
		return false
	}
	return inTime(n, func() reach { return n.reach(n.ctx, rec.path) }).enough(n.write)
}

// inTime carries out f in what time the call has left; the zero value is the
// answer of what comes too late. Where a file system never answers, the
// goroutine stays until it does, and its slot with it.
func inTime[T any](n *asNeeded, f func() T) (answer T) {
	if n.ctx.Err() != nil {
		return answer
	}
	select {
	case n.s.asking <- struct{}{}:
	case <-n.ctx.Done():
		return answer
	}
	done := make(chan T, 1)
	go func() {
		defer func() { <-n.s.asking }()
		done <- f()
	}()
	select {
	case answer = <-done:
	case <-n.ctx.Done():
		n.s.log.Warn("what an app can reach is not known in time", "app", n.app)
	}
	return answer
}

// reachOf says what an app reaches: in all of its sandboxes that run now; if
// none does, what its profile or flatpak's metadata lets it have at its next
// start. nil if nothing is known.
func (s *Service) reachOf(app string) func(ctx context.Context, p string) reach {
	if appid.Foreign(app) {
		return func(ctx context.Context, p string) reach { return s.snapReach(ctx, app, p) }
	}
	var all []func(p string) reach
	running, err := identity.Instances(s.o.RuntimeDir)
	if err != nil {
		s.log.Warn("running sandboxes cannot be listed", "reason", err)
		return nil
	}
	h := s.habitat(app)
	for _, i := range running {
		if i.App != app {
			continue
		}
		if identity.Ours(i.ID) {
			all = append(all, func(p string) reach { return shows(i.Binds, p) })
			continue
		}
		words := make(grants)
		if err := words.add(i.Info); err != nil {
			s.log.Warn("the metadata of a sandbox cannot be read", "instance", i.ID, "reason", err)
			return nil
		}
		all = append(all, h.territory(words, flatpakStart).reach)
	}
	if len(all) == 0 {
		for _, read := range []func(string) (*territory, error){h.profile, h.flatpak} {
			t, err := read(app)
			if errors.Is(err, errNoMetadata) {
				continue
			}
			if err != nil {
				s.log.Warn("what an app can reach is not known", "app", app, "reason", err)
				return nil
			}
			all = append(all, t.reach)
		}
	}
	if len(all) == 0 {
		return nil
	}
	return func(_ context.Context, p string) reach {
		if h.never(p) {
			return hidden
		}
		least := readWriteReach
		for _, reach := range all {
			least = min(least, reach(p))
		}
		return least
	}
}

// shows says how a sandbox with these mounts has the host's path p at the same
// place. The deepest mount above p decides, of several the last one.
func shows(binds []identity.Bind, p string) reach {
	best := -1
	for i, b := range binds {
		if within(p, b.Sandbox) && (best < 0 || len(b.Sandbox) >= len(binds[best].Sandbox)) {
			best = i
		}
	}
	if best < 0 {
		return hidden
	}
	b := binds[best]
	switch {
	case path.Join(b.Host, strings.TrimPrefix(p, b.Sandbox)) != p:
		return hidden
	case b.ReadOnly:
		return readOnlyReach
	default:
		return readWriteReach
	}
}

// snapReach asks snapd.
func (s *Service) snapReach(ctx context.Context, app, p string) reach {
	program := s.o.Snap
	if program == "" {
		program = "/usr/bin/snap"
	}
	cmd := exec.CommandContext(ctx, program, "routine", "file-access", strings.TrimPrefix(app, "snap."), p)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}
	cmd.WaitDelay = s.accessTimeout / 8
	out := new(answer)
	cmd.Stdout = out
	if err := cmd.Run(); err != nil {
		s.log.Warn("snap routine file-access", "app", app, "reason", err)
		return hidden
	}
	return parseFileAccess(out.Bytes())
}

// parseFileAccess reads the answer of "snap routine file-access".
func parseFileAccess(b []byte) reach {
	switch string(bytes.TrimSuffix(b, []byte("\n"))) {
	case "read-only":
		return readOnlyReach
	case "read-write":
		return readWriteReach
	}
	return hidden
}

// answer is what a program says, if that is little.
type answer struct{ bytes.Buffer }

func (a *answer) Write(b []byte) (int, error) {
	if a.Len()+len(b) > maxAnswer {
		return 0, fmt.Errorf("more than %d bytes", maxAnswer)
	}
	return a.Buffer.Write(b)
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
