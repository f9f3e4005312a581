// Package session starts a desktop session of its own: a session bus, the
// installed xdg-desktop-portal by activation, docportal by activation, and
// sandboxed programs by sbx-run, with a home and a runtime directory that
// nobody else uses. It keeps one rule: nothing of the person's own session is
// touched, and what a session leaves behind when it is closed (a process, a
// mount, an instance of a sandbox) is an error.
package session

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// Options are the settings of a session.
type Options struct {
	// Stage is where scripts/stage put everything; "" is $DOCPORTAL_STAGE.
	Stage string
	// Log gets what the session's programs print; nil is nowhere. It is a file,
	// which they write to themselves: somebody left behind who still held a
	// pipe would keep us waiting.
	Log *os.File
	// Display lets the session use the caller's display, with the desktop
	// portal's GTK backend in place of ours.
	Display bool
	// Portals lets the backend (StartBackend) stand in for all portals, not
	// only for the file chooser, and starts a bus in place of the system's.
	Portals bool
	// SystemPortal leaves the document portal to the system's own.
	SystemPortal bool
}

// Session is a running session.
type Session struct {
	Home    string // the home directory, empty at first
	Runtime string // XDG_RUNTIME_DIR, 0700
	Address string // of the session bus
	System  string // of the bus in place of the system's, "" without Portals

	stage    string
	bus      int // process id of the bus
	env      []string
	log      *os.File
	others   map[int]bool // this process's descendants before the session
	cleanups []func() error

	mu          sync.Mutex
	children    map[int]bool // processes that were started by Start
	interrupted bool
}

// Desktop is the session's XDG_CURRENT_DESKTOP, which only our portal file names.
const Desktop = "docportaltest"

// runtimePrefix is what the paths of all sessions' runtime directories begin with.
const runtimePrefix = "/tmp/docportal-run-"

// Start starts a session. Its caller is from now on the parent of all its
// processes that lose their own, and ends it with Close.
func Start(o Options) (s *Session, err error) {
	if o.Stage == "" {
		o.Stage = os.Getenv("DOCPORTAL_STAGE")
	}
	if o.Stage == "" {
		return nil, errors.New("DOCPORTAL_STAGE does not say where everything is installed (scripts/stage)")
	}
	if os.Getuid() == 0 {
		return nil, errors.New("a session is an ordinary user's, not root's")
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("become the processes' parent: %w", err)
	}
	s = &Session{stage: o.Stage, log: o.Log, children: make(map[int]bool)}
	if s.others, err = descendants(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
			s = nil
		}
	}()
	if err := s.makeDirectories(); err != nil {
		return s, err
	}
	s.environment(o)
	if err := s.writePortalConfiguration(o); err != nil {
		return s, err
	}
	if o.Portals {
		if s.System, err = s.startBus("system-bus"); err != nil {
			return s, fmt.Errorf("system bus: %w", err)
		}
		s.env = append(s.env, "DBUS_SYSTEM_BUS_ADDRESS="+s.System)
	}
	if s.Address, err = s.startBus("bus"); err != nil {
		return s, fmt.Errorf("session bus: %w", err)
	}
	s.env = append(s.env, "DBUS_SESSION_BUS_ADDRESS="+s.Address)
	return s, nil
}

// makeDirectories makes the home below the person's own home, as that is what
// a home is like (the sandbox has a /tmp of its own), and the runtime directory
// where paths are short enough for sockets.
func (s *Session) makeDirectories() error {
	home, err := os.MkdirTemp(os.Getenv("HOME"), ".docportal-session-")
	if err != nil {
		return err
	}
	s.cleanups = append(s.cleanups, func() error { return os.RemoveAll(home) })
	s.Home = home
	run, err := os.MkdirTemp(filepath.Dir(runtimePrefix), filepath.Base(runtimePrefix))
	if err != nil {
		return err
	}
	s.cleanups = append(s.cleanups, func() error { return os.RemoveAll(run) })
	s.Runtime = run
	return nil
}

func (s *Session) environment(o Options) {
	data := "/usr/local/share:/usr/share"
	if !o.SystemPortal {
		data = s.stage + "/share:" + data
	}
	s.env = []string{
		"PATH=" + s.stage + "/bin:" + os.Getenv("PATH"),
		"HOME=" + s.Home,
		"XDG_RUNTIME_DIR=" + s.Runtime,
		"XDG_DATA_DIRS=" + data,
		"XDG_CURRENT_DESKTOP=" + Desktop,
		"XDG_SESSION_TYPE=tty",
		"XDG_DESKTOP_PORTAL_DIR=" + s.portals(),
		"GSETTINGS_BACKEND=memory",
		"LANG=C.UTF-8",
		"TERM=" + os.Getenv("TERM"),
	}
	display := []string{"NO_AT_BRIDGE=1"}
	if o.Display {
		display = nil
		for _, name := range []string{"DISPLAY", "XAUTHORITY"} {
			if v := os.Getenv(name); v != "" {
				display = append(display, name+"="+v)
			}
		}
		if os.Getenv("XAUTHORITY") == "" {
			display = append(display, "XAUTHORITY="+os.Getenv("HOME")+"/.Xauthority")
		}
		if v := os.Getenv("WAYLAND_DISPLAY"); v != "" {
			// Its socket is named relative to the person's runtime directory.
			if !filepath.IsAbs(v) {
				v = filepath.Join(os.Getenv("XDG_RUNTIME_DIR"), v)
			}
			display = append(display, "WAYLAND_DISPLAY="+v)
		}
	}
	s.env = append(s.env, display...)
}

func (s *Session) portals() string { return filepath.Join(s.Home, ".session", "portals") }

// gtkPortal is where the GTK backend's package puts its portal file.
const gtkPortal = "/usr/share/xdg-desktop-portal/portals/gtk.portal"

// HasGTK reports whether the desktop portal's GTK backend is installed.
func HasGTK() bool {
	_, err := os.Stat(gtkPortal)
	return err == nil
}

// writePortalConfiguration makes xdg-desktop-portal use one backend and no
// other, in the words of old versions (UseIn) and of new ones (portals.conf).
func (s *Session) writePortalConfiguration(o Options) error {
	more := ""
	if o.Portals {
		for _, p := range []string{"Access", "Account", "AppChooser", "Background", "Email", "Inhibit", "Lockdown", "Notification", "Print", "ScreenCast", "Screenshot", "Secret", "Settings", "Wallpaper"} {
			more += "org.freedesktop.impl.portal." + p + ";"
		}
	}
	name, file := Desktop, []byte(`[portal]
DBusName=org.freedesktop.impl.portal.desktop.docportaltest
Interfaces=org.freedesktop.impl.portal.FileChooser;`+more+`
UseIn=docportaltest
`)
	if o.Display {
		b, err := os.ReadFile(gtkPortal)
		if err != nil {
			return err
		}
		name, file = "gtk", nil
		for line := range strings.Lines(string(b)) {
			if !strings.HasPrefix(line, "UseIn=") {
				file = append(file, line...)
			}
		}
		file = append(file, "\nUseIn="+Desktop+"\n"...)
	}
	conf := []byte("[preferred]\ndefault=" + name + "\n")
	return errors.Join(
		write(filepath.Join(s.portals(), name+".portal"), file),
		write(filepath.Join(s.portals(), Desktop+"-portals.conf"), conf),
		write(filepath.Join(s.Home, ".config/xdg-desktop-portal", Desktop+"-portals.conf"), conf),
	)
}

func write(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}

// startBus starts a bus, whose socket has that name in the runtime directory,
// and returns its address: the reference daemon, with the service files of
// XDG_DATA_DIRS, the first that names a service before the others.
func (s *Session) startBus(name string) (address string, err error) {
	config := filepath.Join(s.Home, ".session", name+".conf")
	err = write(config, []byte(`<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <keep_umask/>
  <listen>unix:path=`+s.Runtime+`/`+name+`</listen>
  <auth>EXTERNAL</auth>
  <standard_session_servicedirs/>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
  <!-- as the usual session.conf has it -->
  <limit name="max_replies_per_connection">50000</limit>
</busconfig>
`))
	if err != nil {
		return "", err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer r.Close()
	cmd := s.Command("dbus-daemon", "--nofork", "--nopidfile", "--config-file="+config, "--print-address=3")
	cmd.ExtraFiles = []*os.File{w}
	err = s.Start(cmd)
	w.Close()
	if err != nil {
		return "", err
	}
	s.bus = cmd.Process.Pid
	s.cleanups = append(s.cleanups, func() error {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
		return nil
	})
	address, err = bufio.NewReader(r).ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("it gave no address: %w", err)
	}
	return strings.TrimSpace(address), nil
}

// Command prepares a program in the session. It dies with its parent.
func (s *Session) Command(name string, args ...string) *exec.Cmd {
	// The session's PATH comes first; exec.Command looks in the caller's.
	if p := filepath.Join(s.stage, "bin", name); filepath.Base(name) == name {
		if _, err := os.Stat(p); err == nil {
			name = p
		}
	}
	cmd := exec.Command(name, args...)
	cmd.Env = slices.Clone(s.env)
	cmd.Dir = s.Home
	if s.log != nil {
		cmd.Stderr = s.log
	}
	// A ^C on the terminal is for who runs the session, who ends it in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
	return cmd
}

// Start starts a command, which the caller waits for.
func (s *Session) Start(cmd *exec.Cmd) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.interrupted {
		return errors.New("the session was interrupted")
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	s.children[cmd.Process.Pid] = true
	return nil
}

// Interrupt ends the session's programs, so that who waits for them goes on,
// and lets none start any more. Close is still needed. It may be called at any
// time, from any goroutine.
func (s *Session) Interrupt() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.interrupted = true
	for pid := range s.children {
		// Those that were waited for are gone; no other process of this user
		// is a child of ours.
		if isChild(pid) {
			syscall.Kill(pid, syscall.SIGTERM)
		}
	}
}

func (s *Session) started(pid int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.children[pid]
}

// Libexec is the path of one of the tests' programs.
func (s *Session) Libexec(name string) string { return filepath.Join(s.stage, "libexec", name) }

// Stage is where everything is installed.
func (s *Session) Stage() string { return s.stage }

// BusPID is the process id of the session bus.
func (s *Session) BusPID() int { return s.bus }

// Connect makes a connection to the session bus. The caller closes it.
func (s *Session) Connect() (*dbus.Conn, error) { return dbus.Connect(s.Address) }

// onClose adds something to do when the session ends, before all that was
// added earlier.
func (s *Session) onClose(f func() error) { s.cleanups = append(s.cleanups, f) }

// Close ends the session and says what it left behind, which it removes.
func (s *Session) Close() error {
	var errs []error
	// The bus first and what was started before it last: everything has to go
	// when the bus goes, and leave the directories as it found them.
	dirs := 2
	for len(s.cleanups) > dirs {
		last := len(s.cleanups) - 1
		errs = append(errs, s.cleanups[last]())
		s.cleanups = s.cleanups[:last]
	}
	errs = append(errs, s.endProcesses())
	if s.Runtime != "" {
		errs = append(errs, s.endMounts(), s.checkInstances())
	}
	for len(s.cleanups) > 0 {
		last := len(s.cleanups) - 1
		errs = append(errs, s.cleanups[last]())
		s.cleanups = s.cleanups[:last]
	}
	return errors.Join(errs...)
}
