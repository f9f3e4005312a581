package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"docportal/integration/bwrapargs"
	"docportal/integration/session"
	"docportal/integration/wire"
)

// run starts sbx-run on a profile whose program answers one request, with a
// directory first in PATH, and returns what the program and sbx-run printed.
func run(t *testing.T, s *session.Session, profile, pathFirst string) (program, message string, err error) {
	t.Helper()
	request, err := json.Marshal(wire.Request{Op: "getenv", Name: "FLATPAK_ID"})
	if err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	cmd := s.Command("sbx-run", profile)
	if pathFirst != "" {
		session.PathFirst(cmd, pathFirst)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(append(request, '\n')), &out, &errs
	cmd.WaitDelay = 2 * time.Second
	if err := s.Start(cmd); err != nil {
		t.Fatal(err)
	}
	// A start that hangs is as bad as one that succeeds, and so is one that
	// leaves somebody behind who holds its output.
	limit := time.AfterFunc(20*time.Second, func() { cmd.Process.Kill() })
	defer limit.Stop()
	err = cmd.Wait()
	return out.String(), errs.String(), err
}

// refused checks that sbx-run ended by itself with an error and a reason, and
// that the program had not run.
func refused(t *testing.T, program, message string, err error) {
	t.Helper()
	var exit *exec.ExitError
	switch {
	case program != "":
		t.Errorf("the program ran and answered %s", program)
	case !errors.As(err, &exit) || !exit.Exited():
		t.Errorf("sbx-run ended with: %v, want an exit status", err)
	case strings.TrimSpace(message) == "":
		t.Error("sbx-run gave no reason")
	}
	t.Logf("sbx-run: %s", strings.TrimSpace(message))
}

func TestSbxRunRefusesAnIDThatPortalsTakeForTheHost(t *testing.T) {
	s := start(t)
	for _, id := range []string{"firefox", "org..firefox", "snap.firefox.firefox", "org.freedesktop.Portal"} {
		t.Run(id, func(t *testing.T) {
			profile, err := s.Profile(id, "app")
			if err != nil {
				t.Fatal(err)
			}
			program, message, err := run(t, s, profile, "")
			refused(t, program, message, err)
			if !strings.Contains(message, profile) {
				t.Errorf("the message does not name the profile %s: %s", profile, message)
			}
		})
	}
}

func TestSbxRunStartsNothingWithoutItsIdentity(t *testing.T) {
	proxyData := []bwrapargs.Drop{
		{Proxy: true, Option: "--file", Dest: "/.flatpak-info"},
		{Proxy: true, Option: "--bind-data", Dest: "/.flatpak-info"},
		{Proxy: true, Option: "--ro-bind-data", Dest: "/.flatpak-info"},
		{Proxy: true, Option: "--ro-bind", Dest: "/.flatpak-info"},
	}
	for _, c := range []struct {
		name string
		drop []bwrapargs.Drop
		ok   bool
	}{
		// The stand-in itself does no harm.
		{"nothing is missing", nil, true},
		{"the proxy's metadata", proxyData, false},
		{"bwrapinfo.json", []bwrapargs.Drop{{Option: "--info-fd"}}, false},
		{"bwrapinfo.json, for ever", []bwrapargs.Drop{{Option: "--info-fd", KeepOpen: true}}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := start(t)
			profile, err := s.Profile(appA, "app")
			if err != nil {
				t.Fatal(err)
			}
			dir, err := s.StandIn(bwrapargs.Config{Drop: c.drop})
			if err != nil {
				t.Fatal(err)
			}
			program, message, err := run(t, s, profile, dir)
			if !c.ok {
				refused(t, program, message, err)
			} else if err != nil || !strings.Contains(program, appA) {
				t.Errorf("program %q, sbx-run: %v %s", program, err, message)
			}
			names, err := s.Instances()
			if err != nil || len(names) != 0 {
				t.Errorf("instances: %v (%v), want none", names, err)
			}
		})
	}
}

// outsider calls the document portal from a sandbox that sbx-run did not make:
// a bubblewrap with args, the bus's socket and no proxy.
func outsider(t *testing.T, s *session.Session, metadata string, args ...string) wire.Answer {
	t.Helper()
	if _, err := s.Profile(appA, "app"); err != nil { // it puts the program there
		t.Fatal(err)
	}
	program := filepath.Join(s.Home, "program")
	argv := append([]string{"--die-with-parent", "--proc", "/proc", "--ro-bind", program, program, "--bind", s.Runtime, s.Runtime}, args...)
	var files []*os.File
	if metadata != "" {
		f, err := os.CreateTemp(t.TempDir(), "info")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(metadata); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Seek(0, 0); err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
		argv = append(argv, "--ro-bind-data", "3", "/.flatpak-info")
	}
	argv = append(argv, "--", filepath.Join(program, "app"), "call", documentsName, documentsPath, documentsName+".GetMountPoint")
	cmd := s.Command("bwrap", argv...)
	cmd.ExtraFiles = files
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := s.Start(cmd); err != nil {
		t.Fatal(err)
	}
	waitErr := cmd.Wait()
	var answer wire.Answer
	if err := json.Unmarshal(out.Bytes(), &answer); err != nil {
		t.Fatalf("%v: %v: %q", waitErr, err, out.String())
	}
	return answer
}

func TestDocportalRefusesWhoIsNotSurelyIdentified(t *testing.T) {
	s := start(t)
	metadata := func(name string) string {
		return fmt.Sprintf("[Application]\nname=%s\n[Instance]\ninstance-id=sbx-00000001\n", name)
	}
	const denied = "org.freedesktop.DBus.Error.AccessDenied"
	for _, c := range []struct {
		name, metadata, want string
	}{
		{"a right id", metadata(appA), ""},
		{"an id without a dot", metadata("firefox"), denied},
		{"an id of snap's", metadata("snap.firefox"), denied},
		{"an empty id", metadata(""), denied},
		{"no instance", "[Application]\nname=" + appA + "\n", denied},
		{"no key file", "name=" + appA + "\n", denied},
		{"no metadata, in another user namespace", "", denied},
	} {
		t.Run(c.name, func(t *testing.T) {
			if answer := outsider(t, s, c.metadata, "--unshare-user"); answer.DBusError != c.want {
				t.Errorf("got %+v, want error %q", answer, c.want)
			}
		})
	}
}
