package apps

import (
	"slices"

	"docportal/integration/session"
)

// ownDialog waits until a file dialog of the program itself, not the portal's, can
// be used. before are the program's windows that were there before it.
func (d *desktop) ownDialog(class string, before []string) *Dialog {
	d.Helper()
	dialog := &Dialog{screen: d.screen, class: class}
	err := session.Await(dialogLimit, func() (bool, error) {
		for _, w := range d.screen.Windows(class) {
			if width, height := d.screen.size(w); !slices.Contains(before, w) && width > 300 && height > 200 {
				dialog.window = w
				return true, nil
			}
		}
		return false, nil
	})
	if err != nil {
		d.shot("no-dialog")
		d.Fatalf("no dialog of its own came: %v", err)
	}
	_, err = d.screen.Xdotool("windowfocus", "--sync", dialog.window)
	d.must(err)
	d.must(dialog.settled())
	if other := d.screen.Windows(dialogClass); len(other) > 0 {
		d.shot("two-dialogs")
		d.Errorf("the portal has windows, too: %q", other)
	}
	return dialog
}

// ownDialogOf brings a dialog of the program itself by keys that its window knows.
func (d *desktop) ownDialogOf(class, window string, keys []string) *Dialog {
	d.Helper()
	before := d.screen.Windows(class)
	d.must((&Dialog{screen: d.screen, window: window}).settled())
	_, err := d.screen.Xdotool("windowfocus", "--sync", window)
	d.must(err)
	_, err = d.screen.Xdotool(append([]string{"key", "--clearmodifiers"}, keys...)...)
	d.must(err)
	return d.ownDialog(class, before)
}

// refuses checks that a dialog of the program itself, which goes by a name on the
// accessibility bus, says that there is no such file as one in a directory of the
// host is.
func (d *desktop) refuses(r *Reader, program string, dialog *Dialog, path string) {
	d.Helper()
	d.must(dialog.Path(path))
	d.must(dialog.Keys("Return"))
	_, err := r.AwaitAsked(program, "label", "No such file or directory$")
	d.shot("own-dialog")
	d.must(err)
	ok, err := r.AwaitAsked(program, "push button", "^OK$")
	d.must(err)
	d.must(ok.Press())
	d.must(dialog.settled())
	_, err = d.screen.Xdotool("windowfocus", "--sync", dialog.window)
	d.must(err)
}
