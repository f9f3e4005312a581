package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"docportal/internal/keyfile"
)

// Daemon is what only the profile of a system's daemon says, in [Sandbox].
type Daemon struct {
	User         string   // who it runs as; root if it is not said
	Capabilities []string // what it keeps of root's powers, such as net_admin
	State        []string // directories that it may write
	ReadOnly     []string // what else it sees of the host
	Families     []string // kinds of sockets besides the usual ones
	Arguments    []string // of the program, before those of the command line
	// OpenBus: the proxy filters nothing. It lets only answers through to
	// programs that have no name, and some daemons call or signal them.
	OpenBus bool
}

// groupSandbox is the group of a daemon's profile.
const groupSandbox = "Sandbox"

var (
	daemonKeys  = []string{"user", "capabilities", "state", "readonly", "families", "arguments", "bus"}
	familyWords = []string{"packet", "qipcrtr", "alg"}
)

// capabilityNames are the kernel's, by number (linux/capability.h).
var capabilityNames = []string{
	"chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap",
	"linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw", "ipc_lock", "ipc_owner",
	"sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct", "sys_admin", "sys_boot", "sys_nice",
	"sys_resource", "sys_time", "sys_tty_config", "mknod", "lease", "audit_write", "audit_control", "setfcap",
	"mac_override", "mac_admin", "syslog", "wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf",
	"checkpoint_restore",
}

// refusedCapabilities give the whole machine away, whatever the sandbox.
var refusedCapabilities = []string{"sys_module", "sys_rawio", "sys_ptrace", "sys_boot", "mac_admin", "mac_override", "bpf", "dac_read_search"}

// stateDirs are where daemons keep what they write.
var stateDirs = []string{"/var/lib", "/var/cache", "/var/log", "/var/spool", "/run"}

// addSandbox reads a line of [Sandbox].
func (p *Profile) addSandbox(path string, e keyfile.Entry) error {
	at := Position{path, e.Line}
	if p.Daemon == nil {
		p.Daemon = new(Daemon)
	}
	d := p.Daemon
	switch e.Key {
	case "user", "bus":
		word, err := e.String()
		switch {
		case err != nil:
			return err
		case e.Key == "user":
			d.User = word
		case word == "filtered" || word == "unfiltered":
			d.OpenBus = word == "unfiltered"
		default:
			return &ProfileError{at, e.Key, fmt.Sprintf("unknown word %q%s", word, didYouMean(word, []string{"filtered", "unfiltered"}))}
		}
		return nil
	}
	list := map[string]*[]string{
		"capabilities": &d.Capabilities, "state": &d.State, "readonly": &d.ReadOnly, "families": &d.Families, "arguments": &d.Arguments,
	}[e.Key]
	if list == nil {
		return &ProfileError{at, e.Key, "unknown key" + didYouMean(e.Key, daemonKeys)}
	}
	words, err := e.List()
	if err != nil {
		return err
	}
	if e.Key == "arguments" {
		*list = words
		return nil
	}
	for _, w := range words {
		text, remove := strings.CutPrefix(w, "!")
		if err := checkDaemonWord(e.Key, text); err != nil {
			return &ProfileError{at, e.Key, err.Error()}
		}
		*list = slices.DeleteFunc(*list, func(have string) bool { return have == text })
		if !remove {
			*list = append(*list, text)
		}
	}
	return nil
}

func checkDaemonWord(key, word string) error {
	switch key {
	case "capabilities":
		switch {
		case slices.Contains(refusedCapabilities, word):
			return fmt.Errorf("%s is more than a sandbox can hold", word)
		case !slices.Contains(capabilityNames, word):
			return fmt.Errorf("unknown word %q%s", word, didYouMean(word, capabilityNames))
		}
	case "families":
		if !slices.Contains(familyWords, word) {
			return fmt.Errorf("unknown word %q%s", word, didYouMean(word, familyWords))
		}
	case "state":
		if !cleanPath(word) || !slices.ContainsFunc(stateDirs, func(dir string) bool { return word != dir && within(word, dir) }) {
			return fmt.Errorf("%q is no directory in %s", word, strings.Join(stateDirs, ", "))
		}
	case "readonly":
		if !cleanPath(word) || word == "/" || slices.Contains(stateDirs, word) || word == "/var" {
			return fmt.Errorf("%q is no path that can be shown", word)
		}
	}
	return nil
}

func cleanPath(path string) bool {
	return filepath.IsAbs(path) && filepath.Clean(path) == path && !strings.ContainsRune(path, 0)
}

// family reports whether the daemon may make sockets of a kind.
func (d *Daemon) family(word string) bool { return d != nil && slices.Contains(d.Families, word) }

// DaemonDirs lists the directories of daemons' profiles, the ones that later
// ones add to first.
func DaemonDirs(exe string) []string {
	dirs := []string{"/usr/share/sbx/system", "/usr/local/share/sbx/system"}
	if exe != "" {
		if dir := filepath.Join(filepath.Dir(exe), "../share/sbx/system"); rootOnly(dir) && !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return append(dirs, "/etc/sbx/system")
}

// LoadDaemon reads the profile of a daemon: a path (it has a "/") of a file, or
// the name of one in the directories. The daemon's id is system.NAME.
func LoadDaemon(name string, dirs []string) (*Profile, error) {
	p := new(Profile)
	files := []string{name}
	if !strings.Contains(name, "/") {
		files = nil
		for _, dir := range dirs {
			files = append(files, filepath.Join(dir, name+profileSuffix))
		}
	}
	for _, file := range files {
		if err := p.readFile(file); err != nil && (len(files) == 1 || !errors.Is(err, fs.ErrNotExist)) {
			return nil, err
		}
	}
	if len(p.Files) == 0 {
		return nil, fmt.Errorf("%w for the daemon %q; a profile is a file NAME%s in %s", ErrNoProfile, name, profileSuffix, strings.Join(dirs, ", "))
	}
	first := Position{p.Files[0], 1}
	switch {
	case p.Name != "":
		return nil, &ProfileError{p.NameAt, "name", "a daemon has no app id; its name is that of the file"}
	case p.Daemon == nil:
		return nil, &ProfileError{first, "", "no group [Sandbox]: this is not the profile of a daemon"}
	case len(p.Sockets)+len(p.Filesystems)+len(p.Persistent)+len(p.Session) > 0:
		return nil, &ProfileError{first, "", "a daemon has no session: sockets, filesystems, persistent and [Session Bus Policy] are for apps"}
	}
	if p.Daemon.OpenBus && len(p.System) > 0 {
		return nil, &ProfileError{p.System[0].At, "bus", "unfiltered, and [System Bus Policy] at once"}
	}
	name = strings.TrimSuffix(filepath.Base(name), profileSuffix)
	if len(p.Command) == 0 {
		p.Command = []Word{{name, first}}
	}
	p.Name, p.NameAt = "system."+name, first
	if err := checkID(p.Name); err != nil {
		return nil, &ProfileError{first, "", err.Error()}
	}
	return p, nil
}

// processIdentity is who the program in a sandbox becomes.
type processIdentity struct {
	uid, gid     int
	groups       []int
	capabilities []int
}

// daemonRuntime is where instances of daemons are.
const daemonRuntime = "/run/sbx"

// NewDaemonHost reads what the start of a daemon needs to know of the machine.
func NewDaemonHost(environ []string) (*Host, error) {
	h := &Host{Home: "/", RuntimeDir: daemonRuntime, Env: map[string]string{}}
	for _, kv := range environ {
		if k, v, ok := strings.Cut(kv, "="); ok {
			h.Env[k] = v
		}
	}
	var err error
	h.SystemBus, err = systemBus(h.Env["DBUS_SYSTEM_BUS_ADDRESS"])
	return h, err
}

// NewDaemonPlan decides what the start of a daemon will do.
func NewDaemonPlan(p *Profile, h *Host, instance string, args []string) (*Plan, error) {
	pl := &Plan{
		Profile: p, Host: h, Instance: instance, Cwd: "/",
		Network:   has(p.Shared, "network"),
		IPC:       has(p.Shared, "ipc"),
		SystemBus: len(p.System) > 0 || p.Daemon.OpenBus,
		System:    systemRules(p),
		Metadata:  metadata(p, instance),
		Filter:    filterOf(p),
	}
	var err error
	if pl.as, err = identityOf(p.Daemon); err != nil {
		return nil, err
	}
	if pl.seccomp, err = pl.Filter.compile(); err != nil {
		return nil, err
	}
	if err := pl.buildDaemon(args); err != nil {
		pl.Close()
		return nil, err
	}
	return pl, nil
}

func identityOf(d *Daemon) (*processIdentity, error) {
	as := new(processIdentity)
	for _, name := range d.Capabilities {
		as.capabilities = append(as.capabilities, slices.Index(capabilityNames, name))
	}
	slices.Sort(as.capabilities)
	name := d.User
	if name == "" {
		name = "root"
	}
	u, err := user.Lookup(name)
	if err != nil {
		return nil, fmt.Errorf("user=%s: %w", name, err)
	}
	groups, err := u.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("user=%s: %w", name, err)
	}
	for i, id := range append([]string{u.Uid, u.Gid}, groups...) {
		n, err := strconv.Atoi(id)
		if err != nil {
			return nil, fmt.Errorf("user=%s: %w", name, err)
		}
		switch i {
		case 0:
			as.uid = n
		case 1:
			as.gid = n
		default:
			as.groups = append(as.groups, n)
		}
	}
	return as, nil
}

// buildDaemon plans a daemon's file system: the programs, what of /etc
// everybody may read, its state, and nothing of any person.
func (pl *Plan) buildDaemon(args []string) error {
	d := pl.Profile.Daemon
	pl.system()
	pl.Mounts = slices.DeleteFunc(pl.Mounts, func(m Mount) bool { return m.Dest == pl.Host.Home })
	pl.devices()
	pl.secrets(append(slices.Clone(d.ReadOnly), d.State...))
	for _, path := range d.State {
		pl.above(path)
		m := Mount{Kind: Bind, Source: path, Dest: path, root: "/"}
		var err error
		if m.file, err = openBeneath("/", path[1:], unix.O_PATH|unix.O_DIRECTORY); errors.Is(err, fs.ErrNotExist) {
			m.create = true
		} else if err != nil {
			return fmt.Errorf("state=%s: %w", path, err)
		}
		pl.add(m)
	}
	for _, path := range d.ReadOnly {
		f, err := openBeneath("/", path[1:], unix.O_PATH)
		if errors.Is(err, fs.ErrNotExist) {
			pl.Warnings = append(pl.Warnings, fmt.Sprintf("readonly=%s: left out: it is not there", path))
			continue
		} else if err != nil {
			return fmt.Errorf("readonly=%s: %w", path, err)
		}
		pl.above(path)
		pl.add(Mount{Kind: ROBind, Source: path, Dest: path, file: f})
	}
	dir := filepath.Join(pl.Host.instances(), pl.Instance)
	pl.add(Mount{Kind: ROBind, Source: dir, Dest: dir})
	pl.Env = map[string]string{"PATH": sandboxPath, "HOME": "/"}
	for _, name := range []string{"LANG", "TZ"} {
		if v := pl.Host.Env[name]; v != "" {
			pl.Env[name] = v
		}
	}
	if pl.SystemBus {
		pl.above("/run/dbus/system_bus_socket")
		pl.add(Mount{Kind: ROBind, Source: filepath.Join(dir, "proxy/system"), Dest: "/run/dbus/system_bus_socket"})
		pl.Env["DBUS_SYSTEM_BUS_ADDRESS"] = "unix:path=/run/dbus/system_bus_socket"
	}
	for _, e := range pl.Profile.Env {
		if e.Unset {
			delete(pl.Env, e.Name)
		} else {
			pl.Env[e.Name] = e.Value
		}
	}
	return pl.command(Request{Args: append(slices.Clone(d.Arguments), args...)})
}

// above makes the directories above a path that the sandbox has not got yet:
// those that bwrap makes are root's alone.
func (pl *Plan) above(path string) {
	var dirs []string
	for dir := filepath.Dir(path); dir != "/"; dir = filepath.Dir(dir) {
		if slices.ContainsFunc(pl.Mounts, func(m Mount) bool { return m.Dest == dir }) {
			break
		}
		dirs = append(dirs, dir)
	}
	for _, dir := range slices.Backward(dirs) {
		pl.add(Mount{Kind: Dir, Dest: dir, Perms: 0o755})
	}
}

// secrets hides what of /etc not everybody may read: passwords and keys, which
// are root's, as a daemon may be too. What the profile names stays.
func (pl *Plan) secrets(named []string) {
	filepath.WalkDir("/etc", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Type()&fs.ModeSymlink != 0 {
			return nil
		}
		if slices.Contains(named, path) {
			if entry.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		info, err := entry.Info()
		switch {
		case err != nil:
		case entry.IsDir() && info.Mode().Perm()&0o005 != 0o005:
			pl.add(Mount{Kind: Mask, Source: path, Dest: path, Perms: 0o700})
			return filepath.SkipDir
		case !entry.IsDir() && info.Mode().Perm()&0o004 == 0:
			pl.add(Mount{Kind: ROBind, Source: "/dev/null", Dest: path})
		}
		return nil
	})
}

// makeState makes the daemon's directories that are missing, and gives them to
// its user.
func (pl *Plan) makeState() error {
	for i := range pl.Mounts {
		m := &pl.Mounts[i]
		if !m.create {
			continue
		}
		f, err := mkdirBeneath("/", m.Source[1:])
		if err != nil {
			return err
		}
		mode := uint32(0o700)
		if within(m.Source, "/run") {
			mode = 0o755 // sockets for others
		}
		self := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
		if err := errors.Join(unix.Chown(self, pl.as.uid, pl.as.gid), unix.Chmod(self, mode)); err != nil {
			f.Close()
			return fmt.Errorf("%s: %w", m.Source, err)
		}
		m.file, m.create = f, false
	}
	return nil
}

// capabilityOptions are bwrap's options for a daemon: what it keeps, and what
// the gate needs to become its user.
func (as *processIdentity) capabilityOptions() []string {
	args := []string{"--cap-drop", "ALL"}
	keep := maps.Collect(func(yield func(int, bool) bool) {
		for _, c := range append(slices.Clone(as.capabilities), unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_SETPCAP) {
			if !yield(c, true) {
				return
			}
		}
	})
	for _, c := range slices.Sorted(maps.Keys(keep)) {
		args = append(args, "--cap-add", "CAP_"+strings.ToUpper(capabilityNames[c]))
	}
	return args
}
