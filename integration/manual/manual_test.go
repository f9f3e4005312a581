// Package manual tests what the manuals and the README say: every command line
// in them is run, every profile in them is used, and every option that the
// programs know stands in them.
package manual

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"docportal/integration/session"
	"docportal/integration/session/sessiontest"
)

// TestMain installs everything where an ordinary user can reach it, if that
// was not done by who called, and goes on as that user.
func TestMain(m *testing.M) {
	os.Exit(sessiontest.Main("../..", m.Run))
}

// texts are what people read.
var texts = []string{"README.md", "doc/docportal.1.scd", "doc/sbx-run.1.scd", "doc/sbx-profile.5.scd"}

// source is where scripts/stage puts them.
func source() string { return filepath.Join(os.Getenv("DOCPORTAL_STAGE"), "libexec", "doc") }

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(source(), filepath.Base(name)))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// blocks are the lines of a text that are no prose: those between ``` in a
// manual, the indented ones in the README.
func blocks(name, text string) (all [][]string) {
	var block []string
	literal := false
	end := func() {
		if len(block) > 0 {
			all = append(all, block)
		}
		block = nil
	}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		switch {
		case strings.HasSuffix(name, ".scd") && line == "```":
			literal = !literal
			end()
		case literal:
			block = append(block, line)
		case strings.HasSuffix(name, ".md") && strings.HasPrefix(line, "    "):
			block = append(block, strings.TrimSpace(line))
		default:
			end()
		}
	}
	end()
	return all
}

// start starts a session in which everything that the texts name is there.
func start(t *testing.T) *session.Session {
	t.Helper()
	s := sessiontest.Start(t, session.Options{})
	if _, err := s.StartBackend("/dev/null"); err != nil {
		t.Fatal(err)
	}
	return s
}

// letter makes ~/letter.odt a document again, as the texts begin with one.
func letter(t *testing.T, s *session.Session) {
	t.Helper()
	path := filepath.Join(s.Home, "letter.odt")
	if err := os.WriteFile(path, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	conn, err := s.Connect()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	const reuse, persistent = 1, 2
	err = conn.Object("org.freedesktop.portal.Documents", "/org/freedesktop/portal/documents").CallWithContext(ctx,
		"org.freedesktop.portal.Documents.AddFull", 0,
		[]dbus.UnixFD{dbus.UnixFD(f.Fd())}, uint32(reuse|persistent), "org.mozilla.firefox", []string{"read"}).Err
	if err != nil {
		t.Fatal(err)
	}
}

// command matches a line that is a command of ours. What stands in the texts
// with "make" or "sudo" is what the rest of the tests does.
var command = regexp.MustCompile(`^(docportal|sbx-run)( |$)`)

// TestCommandLines runs each command line that stands in a text, in order.
func TestCommandLines(t *testing.T) {
	for _, name := range texts {
		t.Run(filepath.Base(name), func(t *testing.T) {
			text := read(t, name)
			s := start(t)
			profiles := filepath.Join(s.Home, ".config/sbx/profiles")
			if err := errors.Join(os.MkdirAll(profiles, 0o700), os.Mkdir(filepath.Join(s.Home, "Music"), 0o700)); err != nil {
				t.Fatal(err)
			}
			write := func(path, text string) {
				t.Helper()
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			// The programs themselves need not be installed.
			write(filepath.Join(profiles, "org.mozilla.firefox.profile"), "[Application]\nname=org.mozilla.firefox\ncommand=true\n")
			for _, block := range blocks(name, text) {
				if block[0] == "[Application]" {
					id, ok := strings.CutPrefix(block[1], "name=")
					if !ok {
						t.Fatalf("a profile without a name first: %q", block)
					}
					profile := strings.Join(block, "\n") + "\n"
					if strings.Contains(profile, "command=") {
						profile = regexp.MustCompile("(?m)^command=.*$").ReplaceAllString(profile, "command=true")
					} else {
						profile = strings.Replace(profile, "name=", "command=true\nname=", 1)
					}
					write(filepath.Join(profiles, id+".profile"), profile)
				}
			}
			// The daemon's profile that sbx-profile(5) shows.
			for _, block := range blocks("sbx-profile.5.scd", read(t, "sbx-profile.5.scd")) {
				if slices.Contains(block, "[Sandbox]") {
					write(filepath.Join(s.Home, "dnsmasq.profile"), strings.Join(block, "\n")+"\n")
				}
			}
			ran := 0
			for _, block := range blocks(name, text) {
				letter(t, s)
				for _, line := range block {
					if command.MatchString(line) {
						ran++
						runLine(t, s, line)
					}
				}
			}
			if ran < 3 {
				t.Errorf("%d command lines found", ran)
			}
		})
	}
}

// runLine runs a line as a shell does. A daemon is ended when it has taken over.
func runLine(t *testing.T, s *session.Session, line string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := s.Command("sh", "-c", line)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	daemon := strings.HasPrefix(line, "docportal -") && !strings.Contains(line, "--version")
	if daemon {
		cmd.Args[2] = "exec " + line
	}
	before, err := s.Owner("org.freedesktop.portal.Documents")
	if err == nil {
		err = s.Start(cmd)
	}
	if err != nil {
		t.Fatal(err)
	}
	late := context.AfterFunc(ctx, func() { cmd.Process.Kill() })
	defer late()
	if daemon {
		err := session.Await(20*time.Second, func() (bool, error) {
			now, err := s.Owner("org.freedesktop.portal.Documents")
			return now != 0 && now != before, err
		})
		if err != nil {
			t.Errorf("%s: takes no name: %v", line, err)
		}
		cmd.Process.Signal(syscall.SIGTERM)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%s: %v\n%s", line, err, &out)
	}
}

// TestOptions: what --help names stands in the manual, with its words.
func TestOptions(t *testing.T) {
	s := start(t)
	help := func(args ...string) string {
		out, err := s.Command(args[0], append(args[1:], "--help")...).Output()
		if err != nil {
			t.Fatal(args, err)
		}
		return string(out)
	}
	option := regexp.MustCompile(`(?m)^ +(?:-\w, )?--([a-z-]+)`)
	commands := regexp.MustCompile(`(?m)^  ([a-z]+) .*\[flags\]$`)
	check := func(manual, help string) {
		t.Helper()
		text := read(t, manual)
		found := option.FindAllStringSubmatch(help, -1)
		if len(found) < 2 {
			t.Fatalf("no options in %q", help)
		}
		for _, m := range found {
			if !strings.Contains(text, "*--"+m[1]+"*") {
				t.Errorf("%s says nothing of --%s", manual, m[1])
			}
		}
	}
	check("doc/sbx-run.1.scd", help("sbx-run"))
	own := help("docportal")
	check("doc/docportal.1.scd", own)
	var names []string
	for _, m := range commands.FindAllStringSubmatch(own, -1) {
		names = append(names, m[1])
		check("doc/docportal.1.scd", help("docportal", m[1]))
		if !regexp.MustCompile(`(?m)^\*` + m[1] + `\*`).MatchString(read(t, "doc/docportal.1.scd")) {
			t.Errorf("docportal(1) says nothing of the command %s", m[1])
		}
	}
	if !slices.Contains(names, "grant") {
		t.Errorf("commands: %v", names)
	}
	// The words of profiles, as the options list them.
	words := regexp.MustCompile(`(?s)--(share|socket|device|allow)=[A-Z]+ +[A-Z][a-z]+(?: [a-z ]+)?: ([a-z0-9, \n-]+)\.`)
	lists := words.FindAllStringSubmatch(help("sbx-run"), -1)
	if len(lists) != 4 {
		t.Fatalf("lists of words: %q", lists)
	}
	profile := read(t, "doc/sbx-profile.5.scd")
	for _, m := range lists {
		for _, w := range strings.FieldsFunc(m[2], func(r rune) bool { return r == ',' || r == ' ' || r == '\n' }) {
			if !strings.Contains(profile, "*"+w+"*") {
				t.Errorf("sbx-profile(5) says nothing of %s", w)
			}
		}
	}
}

// TestManualsAreFormatted: scdoc reads them, and man has nothing to complain of.
func TestManualsAreFormatted(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(source(), "*.scd"))
	if err != nil || len(files) < 3 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		in, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("scdoc")
		cmd.Stdin = in
		var said bytes.Buffer
		cmd.Stderr = &said
		out, err := cmd.Output()
		in.Close()
		if err != nil || !bytes.Contains(out, []byte(".TH ")) {
			t.Errorf("%s: %v: %s", file, err, &said)
		}
	}
}
