package clients

import (
	"bufio"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"docportal/integration/toolkit"
)

// xserver starts an X server for the session's programs and returns its
// display.
func (d *desktop) xserver() string {
	d.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		d.Fatal(err)
	}
	defer r.Close()
	cmd := d.Command("Xvfb", "-displayfd", "3", "-screen", "0", "640x480x24", "-nolisten", "tcp", "-ac")
	cmd.ExtraFiles = []*os.File{w}
	err = d.Start(cmd)
	w.Close()
	if err != nil {
		d.Fatal(err)
	}
	d.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
	})
	late := time.AfterFunc(answerLimit, func() { cmd.Process.Kill() })
	defer late.Stop()
	number, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		d.Fatalf("Xvfb gave no display: %v", err)
	}
	return ":" + strings.TrimSpace(number)
}

// program is one of the toolkits', running.
type program struct {
	*desktop
	*toolkit.Program
}

type (
	request = toolkit.Request
	answer  = toolkit.Answer
)

// open starts a toolkit's program: in a sandbox of the app, or on the host if
// app is "".
func (d *desktop) open(name, app, display string) *program {
	d.Helper()
	var env []string
	if display != "" {
		env = append(env, "DISPLAY="+display)
	}
	p, err := toolkit.Open(d.Session, name, app, env...)
	if err != nil {
		d.Fatal(err)
	}
	d.Cleanup(func() {
		if err := p.Close(); err != nil {
			d.Error(err)
		}
	})
	return &program{d, p}
}

// try has the program do something.
func (p *program) try(r request) answer {
	p.Helper()
	a, err := p.Do(r)
	if err != nil {
		p.Fatal(err)
	}
	return a
}

// do has the program do something, which works.
func (p *program) do(r request) answer {
	p.Helper()
	a := p.try(r)
	if a.Err != "" {
		p.Fatalf("%s: %+v: %s", p.Program.Name, r, a.Err)
	}
	return a
}

// data is where an app keeps its own files, and its sandbox shows them at the
// same place.
func (d *desktop) data(app string) string {
	return filepath.Join(".var/app", app, "data")
}

func TestGTKClipboardCarriesFilesBetweenSandboxes(t *testing.T) {
	d := start(t)
	display := d.xserver()
	d.mount()
	const sender3, sender4, receiver3, receiver4 = appA + "3", appA + "4", appB + "3", appB + "4"
	senders := map[string]*program{
		sender3: d.open(toolkit.GTK3, sender3, display),
		sender4: d.open(toolkit.GTK4, sender4, display),
	}
	receivers := map[string]*program{
		receiver3: d.open(toolkit.GTK3, receiver3, display),
		receiver4: d.open(toolkit.GTK4, receiver4, display),
	}
	for _, from := range []string{sender3, sender4} {
		letter := d.file(d.data(from)+"/letter to Ünal.txt", "Dear Ünal,\n")
		notes := d.file(d.data(from)+"/notes.txt", "of "+from)
		dir := filepath.Dir(d.file(d.data(from)+"/album/one.txt", "1\n"))
		senders[from].do(request{Op: "copy", Paths: []string{letter, notes, dir}})
		for _, to := range []string{receiver3, receiver4} {
			got := receivers[to].do(request{Op: "paste"}).Paths
			if len(got) != 3 {
				t.Errorf("%s got %q from %s", to, got, from)
				continue
			}
			for i, file := range []string{letter, notes, dir} {
				id := filepath.Base(filepath.Dir(got[i]))
				if got[i] != filepath.Join(d.mount(), id, filepath.Base(file)) {
					t.Errorf("%s got %s from %s, want a document of %s", to, got[i], from, file)
					continue
				}
				path, apps := d.info(id)
				wantEqual(t, "the document's path", path, file)
				// GTK 3 asks for a transfer to read, GTK 4 for one to write.
				words := map[string][]string{sender3: {"read"}, sender4: {"read", "write"}}[from]
				wantEqual(t, to+" has on "+file, apps[to], words)
				if i == 2 {
					got[i] += "/one.txt"
					file += "/one.txt"
				}
				want, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				if text := receivers[to].do(request{Op: "read", Paths: got[i : i+1]}).Text; text != string(want) {
					t.Errorf("%s reads %q in %s, want %q", to, text, got[i], want)
				}
				a := receivers[to].try(request{Op: "write", Paths: got[i : i+1], Text: string(want)})
				if writes := a.Err == ""; writes != (from == sender4) || !writes && !strings.HasPrefix(a.Err, "PermissionError") {
					t.Errorf("%s writes %s: %+v", to, got[i], a)
				}
				if a := receivers[to].try(request{Op: "read", Paths: []string{file}}); !strings.HasPrefix(a.Err, "FileNotFoundError") {
					t.Errorf("%s reads the sender's own file: %+v", to, a)
				}
			}
		}
	}
}

func TestGTKClipboardBetweenHostAndSandbox(t *testing.T) {
	d := start(t)
	display := d.xserver()
	d.mount()
	for _, name := range []string{toolkit.GTK3, toolkit.GTK4} {
		host, app := d.open(name, "", display), d.open(name, appA, display)
		letter := d.file("letter.txt", "Dear all,\n")
		host.do(request{Op: "copy", Paths: []string{letter}})
		got := app.do(request{Op: "paste"}).Paths
		if len(got) != 1 || filepath.Base(got[0]) != "letter.txt" || !strings.HasPrefix(got[0], d.mount()+"/") {
			t.Fatalf("%s: the app got %q, want a document", name, got)
		}
		if text := app.do(request{Op: "read", Paths: got}).Text; text != "Dear all,\n" {
			t.Errorf("%s: the app reads %q", name, text)
		}

		own := d.file(d.data(appA)+"/own.txt", "of the app")
		app.do(request{Op: "copy", Paths: []string{own}})
		wantEqual(t, name+": what a program of the host gets", host.do(request{Op: "paste"}).Paths, []string{own})
		// Another window of the app reaches the app's file without a document.
		other := d.open(name, appA, display)
		wantEqual(t, name+": what the app gets of itself", other.do(request{Op: "paste"}).Paths, []string{own})
		// Back again, a document is the file that it stands for.
		app.do(request{Op: "copy", Paths: got})
		third := d.open(name, appB, display)
		// What it was given it cannot give away.
		if a := third.try(request{Op: "paste"}); a.Err == "" && len(a.Paths) != 0 {
			t.Errorf("%s: a third app got %q", name, a.Paths)
		}
		wantEqual(t, "documents of the third app", d.documents(appB), map[string]string{})
		wantEqual(t, name+": what the host gets back", host.do(request{Op: "paste"}).Paths, []string{letter})
	}
}

func TestLibportalChoosesFiles(t *testing.T) {
	d := start(t)
	p := d.open(toolkit.Libportal, appA, "")
	wantEqual(t, "running under a sandbox, flatpak", p.do(request{Op: "sandboxed"}).Text, "True True")

	choose := func(r request, backend ...string) answer {
		t.Helper()
		b, err := d.StartBackend(backend...)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		a := p.do(r)
		dialog, err := b.Next()
		if err != nil {
			t.Fatal(err)
		}
		wantEqual(t, "who asks", dialog.AppID, appA)
		return a
	}
	file := d.file("Documents/letter to Ünal.txt", "Dear Ünal,\n")
	a := choose(request{Op: "open"}, file)
	if len(a.Paths) != 1 || filepath.Base(a.Paths[0]) != filepath.Base(file) || a.Paths[0] == file {
		t.Fatalf("the app got %q, want a document of %s", a.Paths, file)
	}
	wantEqual(t, "the app reads", p.do(request{Op: "read", Paths: a.Paths}).Text, "Dear Ünal,\n")
	if a := p.try(request{Op: "write", Paths: a.Paths, Text: "x"}); !strings.HasPrefix(a.Err, "PermissionError") {
		t.Errorf("the app writes what was chosen for reading: %+v", a)
	}
	a = choose(request{Op: "open"}, "-writable", file)
	p.do(request{Op: "write", Paths: a.Paths, Text: "changed"})
	wantEqual(t, "the app reads", p.do(request{Op: "read", Paths: a.Paths}).Text, "changed")

	missing := filepath.Join(d.Home, "Documents/new.txt")
	a = choose(request{Op: "save", Text: "new.txt"}, missing)
	p.do(request{Op: "write", Paths: a.Paths, Text: "made"})
	if b, err := os.ReadFile(missing); err != nil || string(b) != "made" {
		t.Errorf("on the host: %q (%v)", b, err)
	}
	for id, path := range d.documents(appA) {
		_, apps := d.info(id)
		want := []string{"read", "write"}
		if got := apps[appA]; !slices.Contains(got, "read") || !slices.Contains(got, "write") {
			t.Errorf("on %s the app has %q, want %q and more", path, got, want)
		}
	}
}
