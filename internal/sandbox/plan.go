package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"docportal/internal/identity"
	"docportal/internal/reserved"
)

// Kind is what a Mount is made of.
type Kind int

// The kinds of mounts.
const (
	Bind    Kind = iota // Source, writable
	ROBind              // Source, read-only
	DevBind             // Source, with its device files
	Tmpfs               // an empty directory in memory
	Mask                // an empty read-only directory over something reserved
	Blank               // nothing to be read in place of a file of the kernel's
	Dir                 // a directory
	Symlink             // a link to Source
	Proc                // the sandbox's own processes
	Dev                 // the harmless devices
	File                // a file with Data
	ROData              // a read-only mount of a file with Data
)

// Mount is one step of building the sandbox's file system. Later steps cover
// earlier ones.
type Mount struct {
	Kind   Kind
	Source string // path on the host; the target of a Symlink
	Dest   string // path in the sandbox
	Perms  uint32 // of what is made, 0 for bwrap's default
	Data   []byte
	// file is the descriptor of Source (O_PATH) if others than root could
	// exchange what is at its path. The Plan owns it.
	file *os.File
	// create: the directory is made below root when the start begins.
	create bool
	root   string // trusted directory above Source
	At     Position
}

// Plan is all that a start will do, decided before anything is started.
type Plan struct {
	Profile  *Profile
	Host     *Host
	Instance string   // instance id
	Command  []string // absolute path of the program, then its arguments
	Cwd      string
	Mounts   []Mount
	Env      map[string]string
	Metadata []byte
	Filter   Filter
	seccomp  []byte // the filter, assembled
	Network  bool
	IPC      bool
	// SystemBus is whether the proxy also serves the system bus.
	SystemBus bool
	Session   []string // proxy rules
	System    []string
	Warnings  []string
	handed    []Handed
	// Accessible is whether the proxy also serves the accessibility bus, if the
	// session has one.
	Accessible       bool
	accessibilityBus BusAddress
	// as is who the program becomes; nil for an app, which is who starts it.
	as *processIdentity
	// compositor is a connection to the Wayland compositor whose socket is
	// planned at waylandDest, nil without one.
	compositor  *net.UnixConn
	waylandDest string
}

// Request is what the command line adds to a profile.
type Request struct {
	Args  []string // of the program; files between @@ or @@u and @@ become documents
	Cwd   string   // in the sandbox; "" for the current directory or home
	Shell bool     // a shell instead of the program
	// Literal: Args are the program's as they are, also "@@".
	Literal bool
	// LogBus: the proxy says what it does, also on the system bus, which the
	// app gets to see then whatever its profile names on it.
	LogBus bool
}

// Unusable is an error about the program: it is there and cannot be run, or
// it is not there.
type Unusable struct {
	Missing bool
	Reason  string
}

// Error implements error.
func (e *Unusable) Error() string { return e.Reason }

// fixedVariables are decided by the sandbox alone.
var fixedVariables = []string{"HOME", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "DBUS_SYSTEM_BUS_ADDRESS", "FLATPAK_ID", "container"}

// passedVariables go from the session into the sandbox; one that ends in "_"
// stands for all that begin with it. It is a list, not "all but a few": the
// environment is where people keep tokens and passwords.
var passedVariables = []string{
	"LANG", "LANGUAGE", "LC_", "TZ", "TERM", "COLORTERM", "NO_COLOR", "USER", "LOGNAME",
	"XDG_CURRENT_DESKTOP", "XDG_SESSION_DESKTOP", "XDG_SESSION_TYPE", "DESKTOP_SESSION", "DESKTOP_STARTUP_ID", "XDG_ACTIVATION_TOKEN",
	"GTK_THEME", "GTK_IM_MODULE", "QT_IM_MODULE", "XMODIFIERS", "GDK_SCALE", "GDK_DPI_SCALE", "QT_SCALE_FACTOR", "XCURSOR_THEME", "XCURSOR_SIZE",
}

// proxyVariables tell programs how to reach the network.
var proxyVariables = []string{"http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy"}

const sandboxPath = "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games:/usr/local/sbin:/usr/sbin:/sbin"

// NewPlan decides what a start of the profile will do. It opens descriptors
// of what it binds but makes and starts nothing. The caller closes the Plan.
func NewPlan(p *Profile, h *Host, instance string, r Request) (*Plan, error) {
	if err := checkID(p.Name); err != nil {
		return nil, &ProfileError{p.NameAt, "name", err.Error()}
	}
	if p.Daemon != nil {
		return nil, &ProfileError{p.NameAt, groupSandbox, "this is for daemons, which --system starts"}
	}
	pl := &Plan{
		Profile: p, Host: h, Instance: instance,
		Network:   has(p.Shared, "network"),
		IPC:       has(p.Shared, "ipc"),
		SystemBus: len(p.System) > 0,
		Session:   sessionRules(p),
		Metadata:  metadata(p, instance),
		Filter:    filterOf(p),
	}
	var err error
	if pl.seccomp, err = pl.Filter.compile(); err != nil {
		return nil, err
	}
	if r.LogBus && !pl.SystemBus {
		pl.SystemBus = slices.ContainsFunc(h.SystemBus.Sockets, exists)
	}
	if pl.SystemBus {
		pl.System = systemRules(p)
	}
	if r.LogBus {
		pl.Session, pl.System = append(pl.Session, "--log"), append(pl.System, "--log")
	}
	if err := pl.build(r); err != nil {
		pl.Close()
		return nil, err
	}
	return pl, nil
}

// Close gives the plan's descriptors back.
func (pl *Plan) Close() {
	for _, m := range pl.Mounts {
		if m.file != nil {
			m.file.Close()
		}
	}
	for _, f := range pl.handed {
		f.File.Close()
	}
	if pl.compositor != nil {
		pl.compositor.Close()
	}
}

func (pl *Plan) build(r Request) error {
	pl.system()
	if err := pl.grants(); err != nil {
		return err
	}
	if err := pl.own(); err != nil {
		return err
	}
	pl.environment()
	pl.sockets()
	pl.devices()
	for _, e := range pl.Profile.Env {
		if e.Unset {
			delete(pl.Env, e.Name)
		} else {
			pl.Env[e.Name] = e.Value
		}
	}
	pl.Accessible = pl.accessible()
	if err := pl.command(r); err != nil {
		return err
	}
	if !r.Literal {
		if err := pl.forwarding(); err != nil {
			return err
		}
	}
	return pl.directory(r.Cwd)
}

func (pl *Plan) add(m Mount) { pl.Mounts = append(pl.Mounts, m) }

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// programMounts are what any program needs to start: the system's files,
// read-only. Not an allow-list: what a package installs is there.
func programMounts() []Mount {
	all := []Mount{{Kind: ROBind, Source: "/usr", Dest: "/usr"}}
	for _, dir := range []string{"/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"} {
		if to, err := os.Readlink(dir); err == nil {
			all = append(all, Mount{Kind: Symlink, Source: to, Dest: dir})
		} else if exists(dir) {
			all = append(all, Mount{Kind: ROBind, Source: dir, Dest: dir})
		}
	}
	return append(all,
		Mount{Kind: ROBind, Source: "/etc", Dest: "/etc"},
		Mount{Kind: Proc, Dest: "/proc"},
		Mount{Kind: Dev, Dest: "/dev"},
	)
}

// system plans what is the same for every app.
func (pl *Plan) system() {
	for _, m := range programMounts() {
		pl.add(m)
	}
	// The names of the person's keys; the calls that use keys fail.
	for _, path := range []string{"/proc/keys", "/proc/key-users"} {
		if exists(path) {
			pl.add(Mount{Kind: Blank, Dest: path})
		}
	}
	for _, dir := range []string{"/sys/block", "/sys/bus", "/sys/class", "/sys/dev", "/sys/devices"} {
		if exists(dir) {
			pl.add(Mount{Kind: ROBind, Source: dir, Dest: dir})
		}
	}
	pl.add(Mount{Kind: Tmpfs, Dest: "/tmp", Perms: 0o1777})
	pl.add(Mount{Kind: Tmpfs, Dest: "/run", Perms: 0o755})
	pl.add(Mount{Kind: Tmpfs, Dest: "/var", Perms: 0o755})
	pl.add(Mount{Kind: Tmpfs, Dest: "/var/tmp", Perms: 0o1777})
	pl.add(Mount{Kind: Symlink, Source: "/run", Dest: "/var/run"})
	pl.add(Mount{Kind: Dir, Dest: "/var/lib"})
	if dir := "/var/cache/fontconfig"; exists(dir) {
		pl.add(Mount{Kind: ROBind, Source: dir, Dest: dir})
	}
	if pl.Network {
		for _, path := range resolverTargets("/etc/resolv.conf") {
			pl.add(Mount{Kind: ROBind, Source: path, Dest: path})
		}
	}
	pl.add(Mount{Kind: Tmpfs, Dest: pl.Host.Home, Perms: 0o700})
}

// resolverTargets lists the directories outside /etc that the links of
// resolv.conf lead through. Whole directories: the file is replaced when the
// network changes, and a bound file would stay the old one.
func resolverTargets(path string) []string {
	var all []string
	for range 40 {
		to, err := os.Readlink(path)
		if err != nil {
			break
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(filepath.Dir(path), to)
		}
		path = realDir(filepath.Clean(to))
		dir := filepath.Dir(path)
		if within(path, "/etc") || within(path, "/usr") || !exists(path) {
			continue
		}
		if dir == "/run" || dir == "/var" || dir == "/" {
			dir = path // too wide
		}
		all = append(all, dir)
	}
	return all
}

// realDir resolves the links of a path's directory, not of its last element.
func realDir(path string) string {
	return filepath.Join(reserved.RealPath(filepath.Dir(path)), filepath.Base(path))
}

// grant is a file or directory of the host that a profile names.
type grant struct {
	path     string
	readOnly bool
	create   bool
	at       Position
	word     string
}

// expand turns the words of filesystems= into paths.
func (pl *Plan) expand() ([]grant, error) {
	h := pl.Host
	var all []grant
	for _, w := range pl.Profile.Filesystems {
		what, mode := cutMode(w.Text)
		g := grant{readOnly: mode == "ro", create: mode == "create", at: w.At, word: w.Text}
		head, rest, _ := strings.Cut(what, "/")
		switch {
		case what == "host":
			entries, err := os.ReadDir("/")
			if err != nil {
				return nil, err
			}
			skip := append([]string{"/run", "/tmp", "/var", "/boot", "/efi", "/lost+found"}, systemDirs...)
			for _, e := range entries {
				if path := "/" + e.Name(); e.IsDir() && !slices.Contains(skip, path) && readable(path) {
					g.path = path
					all = append(all, g)
				}
			}
			if exists("/run/media") {
				g.path = "/run/media"
				all = append(all, g)
			}
			g.path = h.Home
		case what == "home" || what == "~":
			g.path = h.Home
		case head == "~":
			g.path = filepath.Join(h.Home, rest)
		case head == "xdg-run":
			g.path = filepath.Join(h.RuntimeDir, rest)
		case head == "xdg-config":
			g.path = filepath.Join(h.xdgHome("XDG_CONFIG_HOME", ".config"), rest)
		case head == "xdg-data":
			g.path = filepath.Join(h.xdgHome("XDG_DATA_HOME", ".local/share"), rest)
		case head == "xdg-cache":
			g.path = filepath.Join(h.xdgHome("XDG_CACHE_HOME", ".cache"), rest)
		case head == "xdg-state":
			g.path = filepath.Join(h.xdgHome("XDG_STATE_HOME", ".local/state"), rest)
		case strings.HasPrefix(head, "xdg-"):
			dir := userDir(h, strings.TrimPrefix(head, "xdg-"))
			if dir == "" || dir == h.Home { // not set up: never the whole home
				pl.Warnings = append(pl.Warnings, fmt.Sprintf("%s: %s: no such directory is set up", w.At, w.Text))
				continue
			}
			g.path = filepath.Join(dir, rest)
		default:
			g.path = filepath.Clean(what)
		}
		all = append(all, g)
	}
	slices.SortStableFunc(all, func(a, b grant) int { return strings.Count(a.path, "/") - strings.Count(b.path, "/") })
	return all, nil
}

func readable(dir string) bool { return unix.Access(dir, unix.R_OK|unix.X_OK) == nil }

// userDir looks up a directory of xdg-user-dirs, "" if it is not set.
func userDir(h *Host, name string) string {
	key := "XDG_" + strings.ToUpper(strings.ReplaceAll(strings.TrimSuffix(name, "-share"), "-", "")) + "_DIR"
	if name == "public-share" {
		key = "XDG_PUBLICSHARE_DIR"
	}
	data, _ := os.ReadFile(filepath.Join(h.xdgHome("XDG_CONFIG_HOME", ".config"), "user-dirs.dirs"))
	dir := ""
	for line := range strings.SplitSeq(string(data), "\n") {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), key+"="); ok {
			v = strings.Trim(v, `"`)
			if rest, ok := strings.CutPrefix(v, "$HOME"); ok {
				v = h.Home + rest
			}
			if filepath.IsAbs(v) {
				dir = filepath.Clean(v)
			}
		}
	}
	if dir == "" && data == nil { // the defaults of xdg-user-dirs, untranslated
		first := strings.ToUpper(name[:1]) + name[1:]
		dir = filepath.Join(h.Home, map[string]string{"download": "Downloads", "public-share": "Public"}[name])
		if dir == h.Home {
			dir = filepath.Join(h.Home, first)
		}
	}
	return dir
}

// grants plans what the profile names, and the masks over what is reserved in
// it.
func (pl *Plan) grants() error {
	h := pl.Host
	list, err := pl.expand()
	if err != nil {
		return err
	}
	places := reservedPlaces(h)
	realHome := reserved.RealPath(h.Home)
	var bound []grant
	first := len(pl.Mounts)
	for _, g := range list {
		fail := func(format string, args ...any) error {
			return &ProfileError{g.at, "filesystems", g.word + ": " + fmt.Sprintf(format, args...)}
		}
		if g.path == "/" || g.path == "/run" || g.path == "/var" {
			return fail("too wide: name directories in it, or host")
		}
		for _, dir := range systemDirs {
			if within(g.path, dir) {
				return fail("%s is the same in every sandbox, nothing in it can be granted", dir)
			}
		}
		if err := checkReserved(g.path, places, h, pl.Profile.Name); err != nil {
			return fail("%v", err)
		}
		root, rel := "/", strings.TrimPrefix(g.path, "/")
		if within(g.path, h.Home) {
			root, rel = h.Home, strings.TrimPrefix(strings.TrimPrefix(g.path, h.Home), "/")
		} else if real := reserved.RealPath(g.path); within(real, realHome) {
			return fail("is in the home directory: write it as ~%s", strings.TrimPrefix(real, realHome))
		}
		m := Mount{Kind: Bind, Source: filepath.Join(root, rel), Dest: g.path, root: root, At: g.at}
		if g.readOnly {
			m.Kind = ROBind
		}
		var err error
		m.file, err = openBeneath(root, rel, unix.O_PATH)
		var link *linkError
		switch {
		case errors.As(err, &link):
			return fail("%v", err)
		case errors.Is(err, fs.ErrNotExist) && g.create:
			m.create = true
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission), errors.Is(err, unix.ENOTDIR):
			if g.word != "host" {
				pl.Warnings = append(pl.Warnings, fmt.Sprintf("%s: filesystems: %s: left out: %v", g.at, g.word, errors.Unwrap(err)))
			}
			continue
		case err != nil:
			return fail("%v", err)
		default:
			if err := sameAsReserved(m.file, places); err != nil {
				m.file.Close()
				return fail("%v", err)
			}
		}
		pl.add(m)
		bound = append(bound, g)
	}
	return pl.masks(bound, places, first)
}

// checkReserved says why a path cannot be granted, nil if it can.
func checkReserved(path string, places []reserved.Place, h *Host, app string) error {
	own := filepath.Join(h.Home, ".var/app", app)
	for _, r := range places {
		if path == r.Path || r.Has(path) && !within(path, own) {
			return fmt.Errorf("%s is never inside a sandbox: %s", r.Path, r.Why)
		}
	}
	return nil
}

// sameAsReserved finds reserved places that are mounted at another path, too.
func sameAsReserved(f *os.File, places []reserved.Place) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	for _, r := range places {
		var have unix.Stat_t
		if unix.Stat(r.Path, &have) == nil && have.Dev == st.Dev && have.Ino == st.Ino {
			return fmt.Errorf("is %s, which is never inside a sandbox: %s", r.Path, r.Why)
		}
	}
	return nil
}

// masks covers what is reserved in wider grants. Where the app may write, what
// does not exist yet is made first, as the app would make it otherwise; and
// the directories above it are made mount points of their own, because an app
// could rename them, with the mask, and make new ones in their place. The
// mounts of bound begin at first.
func (pl *Plan) masks(bound []grant, places []reserved.Place, first int) error {
	pinned := map[string]bool{}
	for _, r := range places {
		if r.Path != reserved.RealPath(r.Path) {
			continue // its real place is in the list, too
		}
		var in *grant
		for i := range bound {
			if r.Path != bound[i].path && within(r.Path, bound[i].path) {
				in = &bound[i] // the innermost one, as they are sorted by depth
			}
		}
		if in == nil {
			continue
		}
		there := exists(r.Path)
		if !there && (in.readOnly || r.File) {
			continue
		}
		if !in.readOnly {
			for dir := filepath.Dir(r.Path); dir != in.path && !pinned[dir]; dir = filepath.Dir(dir) {
				pinned[dir] = true
			}
		}
	}
	// The same holds above what is granted for reading in what is granted for
	// writing.
	for _, g := range bound {
		if !g.readOnly {
			continue
		}
		var in *grant
		for i := range bound {
			if g.path != bound[i].path && within(g.path, bound[i].path) {
				in = &bound[i]
			}
		}
		if in == nil || in.readOnly {
			continue
		}
		for dir := filepath.Dir(g.path); dir != in.path && !pinned[dir]; dir = filepath.Dir(dir) {
			pinned[dir] = true
		}
	}
	for _, dir := range slices.SortedFunc(maps.Keys(pinned), func(a, b string) int { return len(a) - len(b) }) {
		root, rel := "/", strings.TrimPrefix(dir, "/")
		if within(dir, pl.Host.Home) {
			root, rel = pl.Host.Home, strings.TrimPrefix(strings.TrimPrefix(dir, pl.Host.Home), "/")
		}
		m := Mount{Kind: Bind, Source: dir, Dest: dir, root: root}
		var err error
		if m.file, err = openBeneath(root, rel, unix.O_PATH); errors.Is(err, fs.ErrNotExist) {
			m.create = true
		} else if err != nil {
			return err
		}
		pl.add(m)
	}
	// What is bound at a directory covers what was bound below it before.
	slices.SortStableFunc(pl.Mounts[first:], func(a, b Mount) int { return strings.Count(a.Dest, "/") - strings.Count(b.Dest, "/") })
	for _, r := range places {
		if r.Path != reserved.RealPath(r.Path) {
			continue
		}
		readOnly, covered := true, false
		for _, g := range bound {
			if r.Path != g.path && within(r.Path, g.path) {
				covered, readOnly = true, g.readOnly
			}
		}
		if !covered {
			continue
		}
		info, err := os.Lstat(r.Path)
		switch {
		case err != nil && (readOnly || r.File):
		case err == nil && !info.IsDir():
			pl.add(Mount{Kind: ROBind, Source: "/dev/null", Dest: r.Path})
		default:
			m := Mount{Kind: Mask, Source: r.Path, Dest: r.Path, Perms: 0o700, create: err != nil, root: "/"}
			if within(r.Path, pl.Host.Home) {
				m.root = pl.Host.Home
			}
			pl.add(m)
		}
	}
	return nil
}

// own plans the app's own directories, and its runtime directory.
func (pl *Plan) own() error {
	h, p := pl.Host, pl.Profile
	rel := filepath.Join(".var/app", p.Name)
	if err := pl.addOwn(rel, filepath.Join(h.Home, rel), Position{}); err != nil {
		return err
	}
	pl.shareTemporary(filepath.Join(rel, "cache/tmp"))
	kept := slices.Clone(p.Persistent)
	slices.SortStableFunc(kept, func(a, b Word) int { return strings.Count(a.Text, "/") - strings.Count(b.Text, "/") })
	for _, w := range kept {
		if err := pl.keep(filepath.Join(rel, w.Text), filepath.Join(h.Home, w.Text), w.At); err != nil {
			return &ProfileError{w.At, "persistent", err.Error()}
		}
	}
	// It covers what a wider grant has of it, and not what is granted in it.
	var in []Mount
	pl.Mounts = slices.DeleteFunc(pl.Mounts, func(m Mount) bool {
		is := (m.Kind == Bind || m.Kind == ROBind) && m.Source == m.Dest && m.Dest != h.RuntimeDir && within(m.Dest, h.RuntimeDir)
		if is {
			in = append(in, m)
		}
		return is
	})
	pl.add(Mount{Kind: Tmpfs, Dest: h.RuntimeDir, Perms: 0o700})
	pl.Mounts = append(pl.Mounts, in...)
	dir := filepath.Join(h.instances(), pl.Instance)
	pl.add(Mount{Kind: ROBind, Source: dir, Dest: dir})
	pl.add(Mount{Kind: ROBind, Source: filepath.Join(dir, "proxy/session"), Dest: filepath.Join(h.RuntimeDir, "bus")})
	if pl.SystemBus {
		if h.SystemBus.Address == "" {
			return errors.New("the profile names something on the system bus, but there is none")
		}
		pl.add(Mount{Kind: ROBind, Source: filepath.Join(dir, "proxy/system"), Dest: "/run/dbus/system_bus_socket"})
	}
	pl.add(Mount{Kind: Symlink, Source: "/.flatpak-info", Dest: filepath.Join(h.RuntimeDir, "flatpak-info")})
	pl.add(Mount{Kind: File, Dest: "/run/host/container-manager", Data: []byte("flatpak\n"), Perms: 0o444})
	return nil
}

// shareTemporary plans /var/tmp, which all sandboxes of the app have in common,
// as flatpak has it: a second start of a program finds the first one by a
// socket there, and does not work on the same files beside it. An app that has
// put something else into the place goes without.
func (pl *Plan) shareTemporary(rel string) {
	if f, err := openBeneath(pl.Host.Home, rel, unix.O_PATH|unix.O_DIRECTORY); err == nil {
		f.Close()
	} else if !errors.Is(err, fs.ErrNotExist) {
		return
	}
	pl.addOwn(rel, "/var/tmp", Position{})
}

// keep plans a persistent path: a link to what lies below the app's own
// directory. What the app opens by it has a path that is the same on the host,
// by which the desktop portal finds the file when the app hands it over: a
// download that another app is to open. Where something else of the host is
// shown at that path, above it or below, it is a bind, which the portal cannot
// follow.
func (pl *Plan) keep(rel, dest string, at Position) error {
	linked := false
	for _, m := range pl.Mounts {
		switch {
		case m.Kind == Tmpfs:
		case m.Kind == Symlink:
			linked = linked || within(dest, m.Dest) // below one that is kept as well
		case within(dest, m.Dest) || within(m.Dest, dest):
			return pl.addOwn(rel, dest, at)
		}
	}
	own := filepath.Join(pl.Host.Home, rel)
	if err := pl.addOwn(rel, own, at); err != nil {
		return err
	}
	if !linked {
		pl.add(Mount{Kind: Symlink, Source: own, Dest: dest, At: at})
	}
	return nil
}

// addOwn plans a bind of something below the app's own directory.
func (pl *Plan) addOwn(rel, dest string, at Position) error {
	m := Mount{Kind: Bind, Source: filepath.Join(pl.Host.Home, rel), Dest: dest, root: pl.Host.Home, At: at}
	var err error
	if m.file, err = openBeneath(m.root, rel, unix.O_PATH|unix.O_DIRECTORY); errors.Is(err, fs.ErrNotExist) {
		m.create = true
	} else if err != nil {
		return err
	}
	pl.add(m)
	return nil
}

// AddDocuments plans the app's view of its documents. f is a descriptor
// (O_PATH) of by-app/ID in the document portal's mount; the Plan owns it.
func (pl *Plan) addDocuments(mount string, f *os.File) error {
	source := filepath.Join(mount, "by-app", pl.Profile.Name)
	second, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		f.Close()
		return err
	}
	pl.add(Mount{Kind: Bind, Source: source, Dest: filepath.Join(pl.Host.RuntimeDir, "doc"), file: f})
	pl.add(Mount{Kind: Bind, Source: source, Dest: "/run/flatpak/doc", file: os.NewFile(uintptr(second), source)})
	return nil
}

// environment plans the variables that do not depend on what is granted.
func (pl *Plan) environment() {
	h, app := pl.Host, pl.Profile.Name
	pl.Env = map[string]string{}
	for name, value := range h.Env {
		pass := slices.ContainsFunc(passedVariables, func(v string) bool {
			return v == name || strings.HasSuffix(v, "_") && strings.HasPrefix(name, v)
		})
		if pass || pl.Network && slices.Contains(proxyVariables, strings.ToLower(name)) {
			pl.Env[name] = value
		}
	}
	own := filepath.Join(h.Home, ".var/app", app)
	maps.Copy(pl.Env, map[string]string{
		"HOME":                     h.Home,
		"PATH":                     sandboxPath,
		"SHELL":                    "/bin/sh",
		"XDG_RUNTIME_DIR":          h.RuntimeDir,
		"XDG_DATA_HOME":            filepath.Join(own, "data"),
		"XDG_CONFIG_HOME":          filepath.Join(own, "config"),
		"XDG_CACHE_HOME":           filepath.Join(own, "cache"),
		"XDG_STATE_HOME":           filepath.Join(own, ".local/state"),
		"XDG_DATA_DIRS":            "/usr/local/share:/usr/share",
		"XDG_CONFIG_DIRS":          "/etc/xdg",
		"DBUS_SESSION_BUS_ADDRESS": "unix:path=" + escapeAddress(filepath.Join(h.RuntimeDir, "bus")),
		"FLATPAK_ID":               app,
		"container":                "flatpak",
		"GTK_USE_PORTAL":           "1", // GTK 3 asks portals only if told to
	})
	if pl.SystemBus {
		pl.Env["DBUS_SYSTEM_BUS_ADDRESS"] = "unix:path=/run/dbus/system_bus_socket"
	}
}

// ownDirs are the directories that an app finds in its own one, relative to
// it.
var ownDirs = []string{"data", "config", "cache", ".local/state"}

// command finds the program.
func (pl *Plan) command(r Request) error {
	words := pl.Profile.Command
	if r.Shell {
		words = []Word{{Text: "bash"}, {Text: "sh"}}
	}
	if len(words) == 0 {
		return &Unusable{true, fmt.Sprintf("%s: no command= in the profile, and no --command", pl.Profile.Name)}
	}
	var tried []string
	for _, w := range words {
		paths := []string{w.Text}
		if !strings.Contains(w.Text, "/") {
			paths = nil
			for _, dir := range strings.Split(pl.Env["PATH"], ":") {
				if filepath.IsAbs(dir) {
					paths = append(paths, filepath.Join(dir, w.Text))
				}
			}
		}
		for _, path := range paths {
			info, err := os.Stat(path)
			if err != nil || info.IsDir() {
				continue
			}
			if unix.Access(path, unix.X_OK) != nil {
				return &Unusable{false, fmt.Sprintf("%s: not executable", path)}
			}
			if real := reserved.RealPath(path); !pl.visible(real) || !pl.visible(realDir(path)) {
				return &Unusable{false, fmt.Sprintf("%s is not visible in the sandbox; --filesystem=%s:ro would show it", real, filepath.Dir(real))}
			}
			pl.Command = append([]string{path}, r.Args...)
			return nil
		}
		tried = append(tried, w.Text)
	}
	return &Unusable{true, fmt.Sprintf("%s: not installed: no program %s", pl.Profile.Name, strings.Join(tried, " or "))}
}

// FindProgram is where in a sandbox a program of a profile's command= is, by
// its name or its absolute path; "" if it is not installed.
func FindProgram(word string) string {
	paths := []string{word}
	if !strings.Contains(word, "/") {
		paths = nil
		for _, dir := range strings.Split(sandboxPath, ":") {
			paths = append(paths, filepath.Join(dir, word))
		}
	}
	for _, path := range paths {
		if info, err := os.Stat(path); err == nil && !info.IsDir() && unix.Access(path, unix.X_OK) == nil {
			return path
		}
	}
	return ""
}

// Shows reports whether a path of the host, without links, shows the same file
// in the sandbox, and whether the sandbox may only read it.
func (pl *Plan) Shows(path string) (shown, readOnly bool) {
	for _, m := range pl.Mounts {
		if within(path, m.Dest) {
			shown = (m.Kind == Bind || m.Kind == ROBind || m.Kind == DevBind) && m.Source == m.Dest
			readOnly = m.Kind == ROBind
		}
	}
	return shown, readOnly
}

func (pl *Plan) visible(path string) bool {
	shown, _ := pl.Shows(path)
	return shown
}

// directory decides where the program starts.
func (pl *Plan) directory(cwd string) error {
	if cwd != "" {
		if !filepath.IsAbs(cwd) {
			return fmt.Errorf("--cwd=%s is not an absolute path", cwd)
		}
		pl.Cwd = filepath.Clean(cwd)
		return nil
	}
	pl.Cwd = pl.Host.Home
	if dir, err := os.Getwd(); err == nil && pl.visible(dir) {
		pl.Cwd = dir
	}
	return nil
}

// Binds lists what of the host is where in the sandbox, for docportal. What
// covers a part of a bind without being the host's is listed as a read-only
// bind of /dev/null: whoever is given the directory above would see more than
// the app.
func (pl *Plan) Binds() []identity.Bind {
	var all []identity.Bind
	for _, m := range pl.Mounts {
		switch m.Kind {
		case Bind, DevBind, ROBind:
			all = append(all, identity.Bind{ReadOnly: m.Kind == ROBind, Host: m.Source, Sandbox: m.Dest})
		case Mask, Tmpfs:
			if slices.ContainsFunc(all, func(b identity.Bind) bool { return within(m.Dest, b.Sandbox) }) {
				all = append(all, identity.Bind{ReadOnly: true, Host: "/dev/null", Sandbox: m.Dest})
			}
		}
	}
	return all
}

// makeDirs makes the directories that the plan needs and that are missing, and
// opens them.
func (pl *Plan) makeDirs() error {
	for i := range pl.Mounts {
		m := &pl.Mounts[i]
		if !m.create {
			continue
		}
		rel, err := filepath.Rel(m.root, m.Source)
		if err != nil {
			return err
		}
		f, err := mkdirBeneath(m.root, rel)
		if err != nil {
			return err
		}
		if m.Kind == Mask {
			f.Close()
		} else {
			m.file = f
		}
		m.create = false
	}
	// The app may have put links here; that is its own business, as nothing
	// outside the sandbox follows them.
	for _, dir := range ownDirs {
		rel := filepath.Join(".var/app", pl.Profile.Name, dir)
		if f, err := mkdirBeneath(pl.Host.Home, rel); err == nil {
			f.Close()
		}
	}
	return nil
}
