// Demo shows the main job, step by step, in a session of its own: a sandboxed
// program asks for a file, the person chooses one, and that file, and nothing
// else, reaches the program. It ends with 0 only if each step held, and leaves
// nothing behind.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/godbus/dbus/v5"

	"docportal/integration/session"
	"docportal/integration/wire"
)

const (
	app   = "org.docportal.Demo"
	other = "org.docportal.OtherApp"
)

func main() {
	log, err := os.CreateTemp("", "docportal-demo-*.log")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Remove(log.Name()) // it goes when we go
	err = run(log)
	if err == nil {
		fmt.Println("\nEach step held, and nothing was left behind.")
		return
	}
	fmt.Fprintf(os.Stderr, "\nFAILED: %v\n", err)
	if said, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", log.Fd())); err == nil && len(said) > 0 {
		fmt.Fprintf(os.Stderr, "\nWhat the programs of the session said:\n%s", said)
	}
	os.Exit(1)
}

func run(log *os.File) error {
	// With a display the person chooses in the real dialog.
	display := session.HasGTK() && session.HasDisplay()
	s, err := session.Start(session.Options{Log: log, Display: display})
	if err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		for range stop {
			s.Interrupt()
		}
	}()
	d := &demo{s: s, display: display}
	err = d.show()
	if cerr := s.Close(); cerr != nil {
		err = errors.Join(err, fmt.Errorf("cleaning up: %w", cerr))
	} else if err == nil {
		d.say("Ended everything: no process, no mount and no sandbox is left.")
	}
	signal.Stop(stop)
	close(stop)
	return err
}

type demo struct {
	s       *session.Session
	display bool
	n       int
}

// say prints the next step.
func (d *demo) say(format string, args ...any) {
	d.n++
	fmt.Printf("%2d. %s\n", d.n, fmt.Sprintf(format, args...))
}

// found prints what a step showed.
func found(format string, args ...any) {
	fmt.Printf("    → %s\n", fmt.Sprintf(format, args...))
}

const (
	documentsName = "org.freedesktop.portal.Documents"
	documentsPath = dbus.ObjectPath("/org/freedesktop/portal/documents")
)

func (d *demo) show() error {
	s := d.s
	d.say("Started a session of its own: a message bus, a home directory and a\n    runtime directory that nobody else uses.")
	found("home directory: %s", s.Home)

	letter := filepath.Join(s.Home, "Documents", "letter.txt")
	const text = "Dear reader,\n\nthis file was chosen by a person.\n"
	if err := os.MkdirAll(filepath.Dir(letter), 0o755); err != nil {
		return err
	}
	for path, data := range map[string]string{letter: text, filepath.Join(s.Home, "Documents", "diary.txt"): "Nobody's business.\n"} {
		if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
			return err
		}
	}

	d.say("Asked the bus for the document portal; the bus started docportal, which\n    mounted its file view.")
	conn, err := s.Connect()
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := d.ours(conn); err != nil {
		return err
	}

	d.say("sbx-run starts a program in a sandbox, as the app %s.", app)
	a, err := s.StartApp(app)
	if err != nil {
		return err
	}
	if err := d.homeIsEmpty(a, letter); err != nil {
		return err
	}

	document, err := d.choose(a, letter)
	if err != nil {
		return err
	}
	if err := d.readOnly(a, conn, letter, document); err != nil {
		return err
	}
	if err := d.anotherApp(a, document); err != nil {
		return err
	}
	if err := a.Close(); err != nil {
		return fmt.Errorf("sbx-run: %w", err)
	}
	return nil
}

// ours checks that docportal, and not the system's document portal, answers.
func (d *demo) ours(conn *dbus.Conn) error {
	var mount []byte
	if err := conn.Object(documentsName, documentsPath).Call(documentsName+".GetMountPoint", 0).Store(&mount); err != nil {
		return fmt.Errorf("ask for the mount point: %w", err)
	}
	pid, err := d.s.Owner(documentsName)
	if err != nil {
		return err
	}
	program, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return err
	}
	if filepath.Base(program) != "docportal" {
		return fmt.Errorf("it is %s that answers", program)
	}
	found("process %d, mounted at %s", pid, strings.TrimSuffix(string(mount), "\x00"))
	return nil
}

func (d *demo) homeIsEmpty(a *session.App, letter string) error {
	d.say("The program looks for the person's files.")
	answer, err := a.Do(wire.Request{Op: "list", Path: d.s.Home})
	if err != nil {
		return err
	}
	if answer.Err != "" || slices.Contains(answer.Names, "Documents") {
		return fmt.Errorf("the home directory in the sandbox: %q %s", answer.Names, answer.Err)
	}
	found("in the home directory it sees: %s (its own files)", strings.Join(answer.Names, " "))
	answer, err = a.Do(wire.Request{Op: "read", Path: letter})
	if err != nil {
		return err
	}
	if answer.Errno != "ENOENT" {
		return fmt.Errorf("the program could read %s: %+v", letter, answer)
	}
	found("%s", answer.Err)
	return nil
}

// choose has the program ask for a file, and the person choose one.
func (d *demo) choose(a *session.App, letter string) (wire.Answer, error) {
	var backend *session.Backend
	if d.display {
		d.say("The program calls FileChooser.OpenFile on its filtered bus.\n    Please choose a file in the dialog, for example\n    %s", letter)
	} else {
		d.say("The program calls FileChooser.OpenFile on its filtered bus. There is no\n    display: the click is played, everything else is real.")
		var err error
		if backend, err = d.s.StartBackend(letter); err != nil {
			return wire.Answer{}, err
		}
	}
	answer, err := a.Do(wire.Request{Op: "open"})
	if err != nil {
		return answer, err
	}
	if answer.Err != "" {
		return answer, errors.New(answer.Err)
	}
	if backend != nil {
		dialog, err := backend.Next()
		if err != nil {
			return answer, err
		}
		if dialog.AppID != app {
			return answer, fmt.Errorf("the file chooser was told that the caller is %q, not %q", dialog.AppID, app)
		}
		found("the file chooser was told who asks: %s", dialog.AppID)
		found("the person chose %s", letter)
	}
	found("the program got %s", answer.URI)

	read, err := a.Do(wire.Request{Op: "read", Path: answer.Path})
	if err != nil {
		return answer, err
	}
	if read.Err != "" {
		return answer, errors.New(read.Err)
	}
	if backend != nil {
		if want, err := os.ReadFile(letter); err != nil || read.Data != string(want) {
			return answer, fmt.Errorf("the program read %q, the file holds %q (%v)", read.Data, want, err)
		}
	}
	d.say("The program prints the file:")
	for i, line := range strings.Split(strings.TrimSuffix(read.Data, "\n"), "\n") {
		if i == 10 {
			fmt.Println("    | …")
			break
		}
		fmt.Printf("    | %q\n", line)
	}
	return answer, nil
}

// readOnly shows that what was given for reading cannot be written.
func (d *demo) readOnly(a *session.App, conn *dbus.Conn, letter string, document wire.Answer) error {
	id := filepath.Base(filepath.Dir(document.Path))
	portal := conn.Object(documentsName, documentsPath)
	var path []byte
	var permissions map[string][]string
	if err := portal.Call(documentsName+".Info", 0, id).Store(&path, &permissions); err != nil {
		return fmt.Errorf("ask for the document: %w", err)
	}
	if _, ok := permissions[app]; !ok || len(permissions) != 1 {
		return fmt.Errorf("the document's permissions are %v", permissions)
	}
	target := document.Path
	if slices.Contains(permissions[app], "write") {
		// The real dialog gives for writing too, unless told otherwise.
		d.say("The dialog gave that file for writing too. Another one is given for\n    reading alone, and the program tries to write to that.")
		given, err := d.give(portal, letter)
		if err != nil {
			return err
		}
		target = filepath.Join(filepath.Dir(filepath.Dir(document.Path)), given, filepath.Base(letter))
	} else {
		d.say("The file was given for reading. The program tries to write to it.")
	}
	before, err := os.ReadFile(letter)
	if err != nil {
		return err
	}
	answer, err := a.Do(wire.Request{Op: "write", Path: target, Data: "overwritten"})
	if err != nil {
		return err
	}
	after, err := os.ReadFile(letter)
	if err != nil {
		return err
	}
	if !slices.Contains([]string{"EACCES", "EPERM", "EROFS"}, answer.Errno) || string(before) != string(after) {
		return fmt.Errorf("the program could write: %+v", answer)
	}
	found("%s", answer.Err)
	return nil
}

// give gives the app a file for reading, as the person's programs do.
func (d *demo) give(portal dbus.BusObject, file string) (id string, err error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var ids []string
	var extra map[string]dbus.Variant
	err = portal.Call(documentsName+".AddFull", 0, []dbus.UnixFD{dbus.UnixFD(f.Fd())}, uint32(0), app, []string{"read"}).Store(&ids, &extra)
	if err != nil {
		return "", fmt.Errorf("add the file: %w", err)
	}
	if len(ids) != 1 {
		return "", fmt.Errorf("the portal gave %q for one file", ids)
	}
	return ids[0], nil
}

// anotherApp shows that the document is the first app's alone.
func (d *demo) anotherApp(a *session.App, document wire.Answer) error {
	d.say("sbx-run starts a second app, %s, which tries\n    to open the same document.", other)
	b, err := d.s.StartApp(other)
	if err != nil {
		return err
	}
	answer, err := b.Do(wire.Request{Op: "read", Path: document.Path})
	if err != nil {
		return err
	}
	if answer.Errno != "ENOENT" {
		return fmt.Errorf("the second app: %+v", answer)
	}
	found("%s", answer.Err)
	view := filepath.Dir(filepath.Dir(document.Path))
	answer, err = b.Do(wire.Request{Op: "list", Path: view})
	if err != nil {
		return err
	}
	if answer.Err != "" || len(answer.Names) != 0 {
		return fmt.Errorf("the second app's documents: %q %s", answer.Names, answer.Err)
	}
	found("its list of documents is empty")
	// The first one still has it.
	answer, err = a.Do(wire.Request{Op: "stat", Path: document.Path})
	if err != nil {
		return err
	}
	if answer.Err != "" {
		return errors.New(answer.Err)
	}
	if err := b.Close(); err != nil {
		return fmt.Errorf("sbx-run: %w", err)
	}
	return nil
}
