package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"docportal/dbus"
	"docportal/internal/bus"
	"docportal/internal/documents"
	"docportal/internal/fuse"
	"docportal/internal/identity"
	"docportal/internal/keeper"
	"docportal/internal/memory"
	"docportal/internal/permstore"
	"docportal/internal/sandbox"
)

// timeouts are how long others are given.
type timeouts struct {
	dial    time.Duration // the bus
	names   time.Duration // another newcomer, to take both names
	store   time.Duration // an instance that is going, to let go of the store
	replace time.Duration // the same if it was told to go
	inherit time.Duration // the same for a server that has died
	refused time.Duration // without calls, where the documents are another bus's
	rest    time.Duration // after calls, until their memory is given back
	calls   time.Duration // at the end, calls that came for the names
}

var usual = timeouts{
	dial:    10 * time.Second,
	names:   5 * time.Second,
	store:   time.Second,
	replace: 3 * time.Second,
	inherit: 10 * time.Second,
	refused: 10 * time.Second,
	rest:    2 * time.Second,
	calls:   500 * time.Millisecond,
}

// slowStore is how long opening the store may take before the next server is
// prepared for meanwhile.
const slowStore = 200 * time.Millisecond

const retryInterval = 5 * time.Millisecond // the store's lock has no event

// daemon is one instance, from its start to its end.
type daemon struct {
	args       arguments
	keeper     *keeper.Server // nil without one
	low        *fuse.Low      // nil without one
	inherited  bool           // the names are those of the server before
	reloading  bool           // another server comes at once
	preparing  sync.WaitGroup // the next server's connection
	standby    *bus.Standby   // nil if nothing waits for the names
	successors successors
	before     *keeper.Predecessor // whose names these were; nil if it hands nothing over
	takingOver sync.Once           // from it
	timeouts   timeouts
	log        *slog.Logger
	trouble    *trouble
	since      time.Time
	runtimeDir string
	conn       *bus.Conn
	docs       *documents.Service
	lost       chan struct{} // closed when a name of ours was taken away
	lostOnce   sync.Once
	called     chan struct{} // a call came, while refusing
	mounts     chan string   // where the file view was mounted
	processors int           // as many as the runtime chose to have

	opened chan struct{} // closed when store and err are set
	store  *permstore.Store
	err    error

	movedIn chan struct{}          // closed when the store is ready to be seen, and perms is set
	perms   map[string]bus.Handler // of the permission store's interface
	roomy   roomy
}

func newDaemon(a arguments, log *slog.Logger, runtimeDir string, k *keeper.Server) *daemon {
	seen := newTrouble(log.Handler())
	log = slog.New(seen)
	d := &daemon{
		trouble:    seen,
		since:      time.Now(),
		args:       a,
		keeper:     k,
		timeouts:   usual,
		log:        log,
		runtimeDir: runtimeDir,
		lost:       make(chan struct{}),
		called:     make(chan struct{}, 1),
		mounts:     make(chan string, 1),
		processors: runtime.GOMAXPROCS(0),
		opened:     make(chan struct{}),
		movedIn:    make(chan struct{}),
	}
	d.docs = documents.New(documents.Options{
		Log:         log,
		Store:       d.readyStore,
		RuntimeDir:  runtimeDir,
		Home:        homeDir(),
		Env:         os.Getenv,
		ProfileDirs: profileDirs(),
		NoRemount:   a.NoRemount,
		Mount:       d.mountView,
		Emit: func(dest, iface, member, signature string, args ...any) error {
			return d.conn.Emit(dest, documents.Path, iface, member, signature, args...)
		},
	})
	return d
}

// openedStore returns the store, after it was opened.
func (d *daemon) openedStore() (*permstore.Store, error) {
	<-d.opened
	return d.store, d.err
}

// serve takes the names and answers until ctx, the bus or a newcomer ends it.
func (d *daemon) serve(ctx context.Context) error {
	d.remember(d.keeper.Take(keptTransient))
	if d.keeper.Has(keeper.Device) {
		// Who uses the file view waits already.
		go d.docs.Mount(ctx) // ends with the attempt
	}
	if err := d.connect(ctx); err != nil {
		return err
	}
	d.askBefore(ctx)
	docs, perms, err := d.takeNames(ctx)
	if err != nil || !docs && !perms {
		d.finishOpening(nil, err)
		return err
	}
	if d.before != nil {
		// Who uses the file view waits, as soon as that one has gone.
		go d.docs.Mount(ctx) // ends with the attempt
	}
	if docs && perms { // who waits for another's name would get it, and not know
		d.preparing.Go(func() {
			select { // whoever waits for this server comes first
			case <-d.opened:
			case <-time.After(slowStore):
			case <-ctx.Done():
			}
			d.have(ctx)
		})
	}
	// Also if the end has come already: who has the names has calls to answer.
	d.openStore(ctx)
	refused := d.err != nil
	var idle <-chan time.Time
	if refused {
		d.log.Error("every call is refused", "reason", d.err)
		idle = time.After(d.timeouts.refused)
	} else {
		if d.keeper == nil {
			notifyReady()
		}
		d.log.Info("ready", "version", version, "documents", docs, "permissions", perms)
	}
	d.keeper.Ready(!refused)
	if d.blind() {
		d.log.Warn("nobody can be identified: docportal runs in a user namespace of its own")
	}
	// Once after the start, and after calls, what they needed is given back.
	rest := time.After(d.timeouts.rest)
	for {
		select {
		case <-rest:
			rest = nil
			memory.GiveBack(storeDir() + "/")
		case <-ctx.Done():
			d.log.Info("ending")
			return nil
		case <-d.conn.Done():
			d.log.Info("the bus has gone")
			return nil
		case <-d.keeper.Reload():
			d.log.Info("making room for another server")
			d.reloading = true
			return nil
		case <-d.lost:
			d.log.Info("another instance has taken over")
			return nil
		case dir := <-d.mounts:
			if d.unseen(dir) {
				d.log.Warn("apps cannot see the file view: docportal runs in a mount namespace of its own", "dir", dir)
			}
		case <-d.called:
			if refused {
				idle = time.After(d.timeouts.refused)
			}
			if rest == nil {
				rest = time.After(d.timeouts.rest)
			}
		case <-idle:
			d.log.Info("no calls to refuse any more")
			return nil
		}
	}
}

// connect connects to the bus and exports everything.
func (d *daemon) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, d.timeouts.dial)
	defer cancel()
	var resolver *identity.Resolver
	_, err := d.dial(ctx, bus.Options{
		Log: d.log,
		Identify: func(ctx context.Context, name string) (*identity.Caller, error) {
			return resolver.Resolve(ctx, name)
		},
		PeerGone: func(name string) {
			d.docs.PeerGone(name)
			d.successors.left(name)
		},
		NameLost: func(name string) { d.lostOnce.Do(func() { close(d.lost) }) },
		Prepare: func(conn *bus.Conn) {
			d.conn = conn
			resolver = identity.NewResolver(conn, identity.Options{RuntimeDir: d.runtimeDir, TrustUserns: d.args.TrustUserns, Log: d.log})
			conn.Export(documents.Path, d.watched(d.docs.Interface()), d.watched(d.docs.FileTransfer()))
			conn.Export(permstore.Path, d.watched(d.permissions()))
			conn.Export(managerPath, d.watched(d.manager()))
		},
	})
	if err != nil {
		d.conn = nil
		return fmt.Errorf("cannot connect to the session bus: %w", err)
	}
	return nil
}

// permissions is the permission store's interface before there is a store: its
// calls wait for it. The names have to be taken before the store, and the
// interface exported before the names.
func (d *daemon) permissions() *bus.Interface {
	i := permstore.Interface(new(permstore.Store), nil) // for its form only
	for n := range i.Methods {
		m := &i.Methods[n]
		m.Handle = func(ctx context.Context, c *bus.Call) ([]any, error) {
			if _, err := d.readyStore(); err != nil {
				return nil, bus.Failed("%s", err)
			}
			return d.perms[m.Name](ctx, c)
		}
	}
	return i
}

// watched notes each call and what is decided of it, and refuses it where
// everything is refused.
func (d *daemon) watched(i *bus.Interface) *bus.Interface {
	for n := range i.Methods {
		handle := i.Methods[n].Handle
		i.Methods[n].Handle = func(ctx context.Context, c *bus.Call) ([]any, error) {
			select {
			case d.called <- struct{}{}:
			default:
			}
			if _, err := d.openedStore(); err != nil {
				err = bus.Failed("%s", err)
				d.decided(ctx, c, nil, err)
				return nil, err
			}
			out, err := handle(ctx, c)
			d.decided(ctx, c, out, err)
			return out, err
		}
	}
	return i
}

// decided logs a decision: who asked for what, and why not. The key of a transfer
// is all that somebody needs to get its files, and is in no log; nor is the data
// of a permission, which is its owner's.
func (d *daemon) decided(ctx context.Context, c *bus.Call, out []any, err error) {
	if !d.log.Enabled(ctx, slog.LevelDebug) {
		return
	}
	attrs := []any{"method", c.Interface + "." + c.Member, "caller", c.Sender}
	if c.Caller != nil {
		attrs = append(attrs, "app", c.Caller.App)
	}
	if c.Interface != dbus.FileTransfer {
		if words := c.Words(); len(words) > 0 {
			attrs = append(attrs, "of", words)
		}
	}
	if err != nil {
		d.log.Debug("refused", append(attrs, "reason", err)...)
		return
	}
	if c.Interface == dbus.Documents && strings.HasPrefix(c.Member, "Add") && len(out) > 0 {
		attrs = append(attrs, "document", out[0])
	}
	d.log.Debug("allowed", attrs...)
}

// openStore opens the store and lets the waiting calls go. Who has the names
// has it soon: an instance that is going still holds it for a moment. If it
// stays with somebody else, that is the user's other session bus.
func (d *daemon) openStore(ctx context.Context) {
	wait := d.timeouts.store
	if d.args.Replace {
		wait = d.timeouts.replace
	}
	if d.inherited {
		wait = d.timeouts.inherit
	}
	deadline := time.NewTimer(wait)
	defer deadline.Stop()
	retry := time.NewTicker(retryInterval)
	defer retry.Stop()
	ended := ctx.Done()
	for {
		store, err := permstore.Open(storeDir(), permstore.Options{
			Log:       d.log,
			Indexes:   documents.Indexes(),
			Committed: d.docs.Committed,
		})
		if err == nil || !errors.Is(err, permstore.ErrInUse) {
			d.takeOver() // who had the store is as good as gone
			d.finishOpening(store, err)
			return
		}
		select {
		case <-retry.C:
			continue
		case <-ended:
			ended = nil
			deadline.Reset(d.timeouts.calls)
			continue
		case <-deadline.C:
			err = fmt.Errorf("the documents of this user are served on another session bus: %w", err)
		case <-d.conn.Done():
			err = bus.ErrClosed
		}
		d.finishOpening(nil, err)
		return
	}
}

func (d *daemon) finishOpening(store *permstore.Store, err error) {
	if store == nil && err == nil {
		err = errors.New("docportal is going down")
	}
	d.store, d.err = store, err
	if err == nil {
		d.perms = make(map[string]bus.Handler)
		go d.moveIn(store)
	} else {
		close(d.movedIn)
	}
	close(d.opened)
}

// homeDir is the user's home directory.
func homeDir() string {
	if home := os.Getenv("HOME"); filepath.IsAbs(home) {
		return home
	}
	if u, err := user.Current(); err == nil && filepath.IsAbs(u.HomeDir) {
		return u.HomeDir
	}
	return "/nonexistent" // the store then lives in memory, and says so
}

// profileDirs are the directories of sbx-run's profiles. sbx-run is installed
// beside us.
func profileDirs() []string {
	exe, err := os.Executable()
	if err != nil {
		exe = ""
	}
	return sandbox.ProfileDirs(os.Getenv, exe)
}

// storeDir is where the permissions are kept (XDG base directory specification).
func storeDir() string {
	data := os.Getenv("XDG_DATA_HOME")
	if !filepath.IsAbs(data) {
		data = filepath.Join(homeDir(), ".local/share")
	}
	return filepath.Join(data, "docportal")
}

// close gives the names back, so that calls from now on go to the next
// instance, answers those that came before, unmounts, closes the store, and
// leaves the bus, in this order: what the next instance needs is free when
// this one is gone. If another server comes at once, here or as the successor,
// the file view stays.
func (d *daemon) close() {
	stays := d.reloading
	if d.conn != nil {
		ctx, cancel := context.WithTimeout(context.Background(), d.timeouts.calls)
		if !d.reloading {
			stays = d.handOver(ctx)
			d.leave(ctx)
		}
		for _, name := range []string{documents.Name, permstore.Name} {
			d.conn.ReleaseName(ctx, name)
		}
		d.conn.Drain(ctx)
		cancel()
	}
	if stays {
		d.docs.Leave()
	} else if err := d.docs.Close(); err != nil {
		d.log.Error("cannot unmount", "reason", err)
	}
	if d.store != nil {
		if err := d.store.Close(); err != nil {
			d.log.Error("cannot close the store", "reason", err)
		}
		<-d.movedIn
	}
	if d.conn != nil {
		d.conn.Close()
	}
}
