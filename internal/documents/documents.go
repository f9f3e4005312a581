// Package documents decides what a document is and who may do what with it. A
// document is a file or directory of the host that was shown to be reachable
// by whoever added it, an id that cannot be guessed, and for each app the
// permissions that it was given. It keeps one rule: nobody gets more of the
// host's files through a document than somebody who had it gave, and what was
// taken away is gone before the reply.
package documents

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"docportal/internal/bus"
	"docportal/internal/fuse"
	"docportal/internal/identity"
	"docportal/internal/permstore"
)

// Name and Path are where the document portal is on the bus.
const (
	Name = "org.freedesktop.portal.Documents"
	Path = "/org/freedesktop/portal/documents"
)

// View is what the service needs of a mounted file view; *fuse.View has it.
type View interface {
	Dev() uint64
	Resolve(ino uint64) (fuse.Location, bool)
	Invalidate(id string)
	Open() map[string]int
	Done() <-chan struct{}
	Unmount() error
}

// Options are the settings of a Service.
type Options struct {
	Log *slog.Logger
	// Store returns the store, which has to be opened with Indexes and
	// Committed; it may wait for the opening. Its error is answered as Failed.
	Store func() (*permstore.Store, error)
	// RuntimeDir is $XDG_RUNTIME_DIR; the view is mounted on its "doc".
	RuntimeDir string
	// Home is the user's home directory, for the paths of flatpak's sandboxes.
	Home string
	// Env is the environment, for the places of the XDG base directory
	// specification and of flatpak; nil for an empty one.
	Env func(string) string
	// ProfileDirs are the directories of sbx-run's profiles, in the order in
	// which one adds to another.
	ProfileDirs []string
	// Snap is the snap command, "/usr/bin/snap" if empty.
	Snap string
	// Mount mounts the view.
	Mount func(dir string, docs fuse.Documents) (View, error)
	// NoRemount leaves the view unmounted when somebody else unmounted it,
	// until the next call.
	NoRemount bool
	// Emit sends a signal of the object at Path to one peer.
	Emit func(dest, iface, member, signature string, args ...any) error
}

// Service is the document portal. Its methods may be called at the same time.
type Service struct {
	o            Options
	log          *slog.Logger
	maxDocuments int
	generation   atomic.Uint64 // changes with every change of a document
	left         atomic.Bool   // another server is about to have the store and the view
	transfers    transfers

	// asking has a place for each call that may look into what its target can
	// reach, for accessTimeout at most.
	asking        chan struct{}
	accessTimeout time.Duration

	// mu guards what follows. It is never held over a system call on a file
	// that is not in memory, a commit of the store, or a call of anybody else's
	// code, but while nothing is served.
	mu           sync.RWMutex
	cache        map[string]*document           // decoded ones, at most cacheSize
	transient    map[string]*kept               // transient ones, all
	byPath       map[string][]string            // of the transient ones that are not unique: host path to ids
	uniqueByPath map[string][]string            // of those that are unique
	byApp        map[string]map[string]struct{} // of the transient ones: app id to ids
	memo         memo                           // of the transient ones
	shares       map[string]share               // of the apps that have added documents or been given some by others
	pending      map[string]share               // what is about to be added to them
	mounted      *mounted                       // nil while nothing is mounted
	mounting     *mounting                      // the attempt under way, nil if none
	shortLived   int                            // mounts in a row that ended at once
	closed       bool
}

// New makes a service that has not mounted anything yet.
func New(o Options) *Service {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Emit == nil {
		o.Emit = func(string, string, string, string, ...any) error { return nil }
	}
	s := &Service{
		o:             o,
		log:           o.Log,
		maxDocuments:  MaxDocuments,
		asking:        make(chan struct{}, accessSlots),
		accessTimeout: accessTimeout,
		cache:         make(map[string]*document),
		transient:     make(map[string]*kept),
		byPath:        make(map[string][]string),
		uniqueByPath:  make(map[string][]string),
		byApp:         make(map[string]map[string]struct{}),
		shares:        make(map[string]share),
		pending:       make(map[string]share),
	}
	s.transfers.init()
	return s
}

// hostOnly refuses sandboxed callers.
func hostOnly(c *identity.Caller, method string) error {
	if !c.IsHost() {
		return bus.NotAllowed("%s is not for sandboxed apps", method)
	}
	return nil
}

// cause is what is behind an error, without the names of files that the error
// has: they are the person's, and only --verbose tells of them.
func cause(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// failure turns an error of the store or the mount into the reply's. Errors of
// the bus pass as they are.
func (s *Service) failure(err error) error {
	var be *bus.Error
	var invalid *permstore.InvalidError
	switch {
	case err == nil, errors.As(err, &be):
		return err
	case errors.As(err, &invalid):
		return bus.InvalidArgument("%s", invalid.Reason)
	case errors.Is(err, context.Canceled):
		return bus.Failed("given up") // nobody waits for the answer any more
	case errors.Is(err, errNone):
		return bus.NotFound("no such document")
	default:
		s.log.Warn("call failed", "reason", cause(err))
		return bus.Failed("%s", err)
	}
}
