package apps

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"docportal/integration/session"
)

// dialogClass is the class of the GTK backend's windows.
const dialogClass = "xdg-desktop-portal-gtk"

// dialogLimit is how long a dialog may take to come or to go.
const dialogLimit = 60 * time.Second

// Dialog is a file dialog of the desktop portal's GTK backend.
type Dialog struct {
	screen *Screen
	class  string // of its window
	window string
	Title  string
}

// AwaitDialog waits until a file dialog can be used.
func (s *Screen) AwaitDialog() (*Dialog, error) {
	d := &Dialog{screen: s, class: dialogClass}
	err := session.Await(dialogLimit, func() (bool, error) {
		for _, w := range s.Windows(dialogClass) {
			// GTK has small windows that are no dialogs.
			if width, height := s.size(w); width > 300 && height > 200 {
				d.window = w
				return true, nil
			}
		}
		return false, nil
	})
	if err != nil {
		return nil, fmt.Errorf("no file dialog came: %w", err)
	}
	if d.Title, err = s.Xdotool("getwindowname", d.window); err != nil {
		return nil, err
	}
	// There is no window manager that would give the keys to the new window.
	if _, err := s.Xdotool("windowfocus", "--sync", d.window); err != nil {
		return nil, err
	}
	return d, d.settled()
}

// calm is how long a dialog that shows the same is thought to have done what
// it was asked for: its list of files is filled step by step, and no event
// says that all of it is there.
const calm = 500 * time.Millisecond

// errGone is that a window is not there any more.
var errGone = errors.New("the window has gone")

// pictureLimit is how long it may take to see what a window shows.
const pictureLimit = 10 * time.Second

// picture is what the window shows, three bytes for each point.
func (d *Dialog) picture() (string, error) {
	// That program waits for a window that has gone.
	if width, _ := d.screen.size(d.window); width == 0 {
		return "", errGone
	}
	return d.screen.run(pictureLimit, "import", "-window", d.window, "-depth", "8", "rgb:-")
}

// settled waits until the dialog shows the same for a while.
func (d *Dialog) settled() error { return d.settledWithin(dialogLimit) }

func (d *Dialog) settledWithin(limit time.Duration) error {
	var last string
	var since time.Time
	return session.Await(limit, func() (bool, error) {
		now, err := d.picture()
		if err != nil {
			return false, err
		}
		if now != last {
			last, since = now, time.Now()
		}
		return time.Since(since) >= calm, nil
	})
}

// painted waits a little until there is something in a window: programs show it
// first and paint it then. Some have nothing to paint, and some never show the same.
func (d *Dialog) painted() {
	const limit = 10 * calm
	err := session.Await(limit, func() (bool, error) {
		now, err := d.picture()
		return err == nil && len(now) > 3 && strings.Count(now, now[:3]) < len(now)/3, err
	})
	if !errors.Is(err, errGone) {
		d.settledWithin(limit)
	}
}

// Keys presses keys, by their names in X11, which do not end the dialog.
func (d *Dialog) Keys(keys ...string) error {
	if _, err := d.screen.Xdotool(append([]string{"key", "--clearmodifiers"}, keys...)...); err != nil {
		return err
	}
	return d.settled()
}

// Type writes text, character by character.
func (d *Dialog) Type(text string) error {
	_, err := d.screen.Xdotool("type", "--clearmodifiers", "--delay", "10", text)
	return err
}

// Path opens the dialog's field for a path, which the "/" that a path begins
// with does, and writes it there.
func (d *Dialog) Path(path string) error {
	if err := d.Keys("ctrl+l", "ctrl+a"); err != nil {
		return err
	}
	if err := d.Type(path); err != nil {
		return err
	}
	return d.settled()
}

func (d *Dialog) open() bool {
	return slices.Contains(d.screen.Windows(d.class), d.window)
}

// closed waits until the dialog is closed.
func (d *Dialog) closed() error {
	err := session.Await(dialogLimit, func() (bool, error) { return !d.open(), nil })
	if err != nil {
		return fmt.Errorf("the dialog %q stays: %w", d.Title, err)
	}
	return nil
}

// Gone waits until the dialog is closed, and gives the keys back to the
// browser.
func (d *Dialog) Gone() error {
	if err := d.closed(); err != nil {
		return err
	}
	return d.screen.focusBrowser()
}

// browserClass is the class of Firefox's windows.
const browserClass = "firefox"

// focusBrowser gives the keys back to the browser, as a window manager does
// when a dialog goes.
func (s *Screen) focusBrowser() error {
	err := session.Await(dialogLimit, func() (bool, error) {
		// xdotool finds nothing when some window goes while it looks.
		for _, w := range s.Windows(browserClass) {
			if width, height := s.size(w); width > 300 && height > 200 {
				_, err := s.Xdotool("windowfocus", "--sync", w)
				return err == nil, nil
			}
		}
		return false, nil
	})
	if err != nil {
		return fmt.Errorf("the browser has no window: %w", err)
	}
	return nil
}

// Accept presses Enter, which ends the dialog, and gives the keys back to the
// browser.
func (d *Dialog) Accept() error {
	if err := d.Enter(); err != nil {
		return err
	}
	return d.screen.focusBrowser()
}

// Enter presses Enter, which ends the dialog.
func (d *Dialog) Enter() error {
	if _, err := d.screen.Xdotool("key", "--clearmodifiers", "Return"); err != nil {
		return err
	}
	return d.closed()
}

// Escape presses Escape, which ends the dialog.
func (d *Dialog) Escape() error {
	if _, err := d.screen.Xdotool("key", "--clearmodifiers", "Escape"); err != nil {
		return err
	}
	return d.closed()
}

// Press clicks on the button at the bottom right, which ends the dialog.
func (d *Dialog) Press() error {
	if err := d.click(-50, -25); err != nil {
		return err
	}
	return d.Gone()
}

// First selects the first file of the list.
func (d *Dialog) First() error {
	if err := d.click(300, 90); err != nil {
		return err
	}
	return d.settled()
}

// Replace says yes to the question whether to replace a file, which is a
// window of its own, and ends the dialog.
func (d *Dialog) Replace() error {
	for _, w := range d.screen.Windows(dialogClass) {
		if w == d.window {
			continue
		}
		if width, height := d.screen.size(w); width < 200 || height < 80 {
			continue
		}
		q := &Dialog{screen: d.screen, window: w}
		if err := q.settled(); err != nil {
			return err
		}
		if err := q.click(-60, -20); err != nil {
			return err
		}
		return d.Gone()
	}
	return errors.New("no question came")
}

// Kind chooses from the list of kinds of files, which is above the buttons,
// the one so many entries below the present one.
func (d *Dialog) Kind(down int) error {
	if err := d.click(-60, -70); err != nil {
		return err
	}
	for range down {
		if err := d.Keys("Down"); err != nil {
			return err
		}
	}
	return d.Keys("Return")
}

// Home opens the home directory, by its entry in the list of places.
func (d *Dialog) Home() error {
	if err := d.click(60, 60); err != nil {
		return err
	}
	return d.settled()
}

// Middle clicks in the middle.
func (d *Dialog) Middle() error {
	width, height := d.screen.size(d.window)
	return d.click(width/2, height/2)
}

// click clicks at a place in the dialog; negative numbers count from its right
// and bottom.
func (d *Dialog) click(x, y int) error {
	width, height := d.screen.size(d.window)
	if x < 0 {
		x += width
	}
	if y < 0 {
		y += height
	}
	// From beside it: a mouse that is there already does not move, and for that
	// xdotool waits 15 s.
	_, err := d.screen.Xdotool("mousemove", "--window", d.window, strconv.Itoa(x-1), strconv.Itoa(y),
		"mousemove", "--sync", "--window", d.window, strconv.Itoa(x), strconv.Itoa(y), "click", "1")
	return err
}
