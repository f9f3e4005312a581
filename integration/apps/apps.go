// Package apps has the tests with real applications: Firefox, from the
// distribution's package, in the sandbox of its shipped profile, in a session
// with the system's own desktop portal and its GTK dialogs on a display of its
// own. It keeps one rule: nothing in the session is a stand-in and nothing in
// it is hooked. The dialogs are operated with the mouse and the keys, as a
// person does; only the page in the browser is driven by Marionette.
//
// Firefox and Evince are tested with everything else; the other applications,
// which are many packages, by make check-apps.
package apps

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"docportal/integration/session"
)

// Screen is an X server without a screen, that only who has its cookie may
// use.
type Screen struct {
	Display   string // DISPLAY
	Authority string // XAUTHORITY
	cmd       *exec.Cmd
}

// startLimit is how long a program may take until it is ready.
const startLimit = 60 * time.Second

// StartScreen starts a display. dir is a directory for its cookie; log gets
// what it says. The caller closes it.
func StartScreen(dir string, log *os.File) (*Screen, error) {
	s := &Screen{Authority: filepath.Join(dir, "Xauthority")}
	if err := os.WriteFile(s.Authority, cookieFile(), 0o600); err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	s.cmd = exec.Command("Xvfb", "-displayfd", "3", "-screen", "0", "1280x1024x24",
		"-auth", s.Authority, "-nolisten", "tcp", "-noreset")
	s.cmd.ExtraFiles = []*os.File{w}
	s.cmd.Stderr = log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
	err = s.cmd.Start()
	w.Close()
	if err != nil {
		return nil, err
	}
	r.SetReadDeadline(time.Now().Add(startLimit))
	number, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("no display number from Xvfb: %w", err)
	}
	s.Display = ":" + strings.TrimSpace(number)
	// Keys for umlauts: what is on no key, xdotool puts on one for a moment,
	// and not all programs notice in time.
	if _, err := s.run(startLimit, "setxkbmap", "de"); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// cookieFile is an Xauthority file with a fresh cookie for every display of
// this machine and any other: family "wild" (65535), no address, no number.
func cookieFile() []byte {
	const kind = "MIT-MAGIC-COOKIE-1"
	cookie := make([]byte, 16)
	rand.Read(cookie)
	var b []byte
	b = binary.BigEndian.AppendUint16(b, 0xffff)
	for _, field := range []string{"", "", kind, string(cookie)} {
		b = binary.BigEndian.AppendUint16(b, uint16(len(field)))
		b = append(b, field...)
	}
	return b
}

// Close ends the display.
func (s *Screen) Close() error {
	terminate(s.cmd, stopLimit)
	return nil
}

// stopLimit is how long a program of the display has to end.
const stopLimit = 10 * time.Second

// terminate ends a program: by itself if it does that in time.
func terminate(cmd *exec.Cmd, limit time.Duration) {
	cmd.Process.Signal(syscall.SIGTERM)
	t := time.AfterFunc(limit, func() { cmd.Process.Kill() })
	defer t.Stop()
	cmd.Wait()
}

// run runs a program that uses the display and returns what it printed.
func (s *Screen) run(limit time.Duration, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "DISPLAY="+s.Display, "XAUTHORITY="+s.Authority)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		err = fmt.Errorf("%w: %s", err, exit.Stderr)
	}
	if err == nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}

// Xdotool moves the mouse and presses keys.
func (s *Screen) Xdotool(args ...string) (string, error) {
	return s.run(20*time.Second, "xdotool", args...)
}

// Shot writes what the display shows to a PNG file.
func (s *Screen) Shot(file string) error {
	_, err := s.run(20*time.Second, "import", "-window", "root", file)
	return err
}

// Windows lists the visible windows of a class, the oldest first.
func (s *Screen) Windows(class string) []string {
	for {
		out, err := s.Xdotool("search", "--onlyvisible", "--class", class)
		switch {
		case err == nil:
			return strings.Fields(out)
		case strings.Contains(err.Error(), "X Error"): // a window went while it looked
		default: // its way to say that there is none
			return nil
		}
	}
}

// Drag drags from the middle of one window to a place on the display with the
// left button, and drops there when over says that who is below has noticed.
func (s *Screen) Drag(window string, x, y int, over func() (bool, error)) error {
	width, height := s.size(window)
	_, err := s.Xdotool("mousemove", "--sync", "--window", window, strconv.Itoa(width/2), strconv.Itoa(height/2), "mousedown", "1")
	if err != nil {
		return err
	}
	// A drag begins when the mouse has moved some way, and goes on when it moves.
	step := 0
	err = session.Await(startLimit, func() (bool, error) {
		step++
		if _, err := s.Xdotool("mousemove", "--sync", strconv.Itoa(x+step%20), strconv.Itoa(y)); err != nil {
			return false, err
		}
		return over()
	})
	if _, up := s.Xdotool("mouseup", "1"); err == nil {
		err = up
	}
	return err
}

// size is the size of a window, 0 by 0 if it is gone.
func (s *Screen) size(window string) (width, height int) {
	out, err := s.Xdotool("getwindowgeometry", "--shell", window)
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(out) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch n, _ := strconv.Atoi(v); k {
		case "WIDTH":
			width = n
		case "HEIGHT":
			height = n
		}
	}
	return width, height
}
