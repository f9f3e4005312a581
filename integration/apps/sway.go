package apps

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"docportal/integration/session"
)

// Sway is a Wayland compositor without a screen and without X11.
type Sway struct {
	Display string // WAYLAND_DISPLAY, the path of its socket
	dir     string
	cmd     *exec.Cmd
}

// StartSway starts a compositor. dir is a directory for its sockets; log gets
// what it says. The caller closes it.
func StartSway(dir string, log *os.File) (*Sway, error) {
	config := filepath.Join(dir, "config")
	err := os.WriteFile(config, []byte(`xwayland disable
output HEADLESS-1 resolution 1280x1024
default_border none
workspace_layout tabbed
`), 0o600)
	if err != nil {
		return nil, err
	}
	s := &Sway{Display: filepath.Join(dir, "wayland-1"), dir: dir}
	s.cmd = exec.Command("sway", "--config", config)
	s.cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+dir, "WLR_BACKENDS=headless", "WLR_RENDERER=pixman", "WLR_LIBINPUT_NO_DEVICES=1")
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	err = session.Await(startLimit, func() (bool, error) {
		_, err := os.Stat(s.Display)
		return err == nil, nil
	})
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("no socket from sway: %w", err)
	}
	return s, nil
}

// Shot writes what the compositor shows to a PNG file.
func (s *Sway) Shot(file string) error {
	cmd := exec.Command("grim", file)
	cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+s.dir, "WAYLAND_DISPLAY="+s.Display)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("grim: %w: %s", err, out)
	}
	return nil
}

// Close ends the compositor.
func (s *Sway) Close() error {
	terminate(s.cmd, stopLimit)
	return nil
}
