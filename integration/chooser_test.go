package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"docportal/integration/session"
	"docportal/integration/wire"
)

const (
	appA = "org.docportal.TestA"
	appB = "org.docportal.TestB"
)

func startApp(t *testing.T, s *session.Session, id string) *session.App {
	t.Helper()
	a, err := s.StartApp(id)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Errorf("sbx-run of %s ended with: %v", id, err)
		}
	})
	return a
}

// do has the app do something, which works.
func do(t *testing.T, a *session.App, r wire.Request) wire.Answer {
	t.Helper()
	answer := try(t, a, r)
	if answer.Err != "" {
		t.Fatalf("%+v: %s", r, answer.Err)
	}
	return answer
}

// try has the app try something.
func try(t *testing.T, a *session.App, r wire.Request) wire.Answer {
	t.Helper()
	answer, err := a.Do(r)
	if err != nil {
		t.Fatalf("%+v: %v", r, err)
	}
	return answer
}

// choose has the app ask for a file, which the person chooses, and returns
// what the app got and what the backend was asked.
func choose(t *testing.T, s *session.Session, a *session.App, r wire.Request, backend ...string) (wire.Answer, session.Dialog) {
	t.Helper()
	b, err := s.StartBackend(backend...)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	answer := do(t, a, r)
	d, err := b.Next()
	if err != nil {
		t.Fatal(err)
	}
	return answer, d
}

// failsWith checks that the app is refused with one of the errors.
func failsWith(t *testing.T, a *session.App, r wire.Request, errnos ...string) {
	t.Helper()
	if answer := try(t, a, r); !slices.Contains(errnos, answer.Errno) {
		t.Errorf("%s %s: %q (%s), want %s", r.Op, r.Path, answer.Err, answer.Errno, strings.Join(errnos, " or "))
	}
}

func TestAChosenFileReachesTheApp(t *testing.T) {
	s := start(t)
	file := filepath.Join(s.Home, "Documents", "letter to Ünal.txt")
	const text = "Dear Ünal,\n"
	a := startApp(t, s, appA)
	b := startApp(t, s, appB)

	// The home directory is there and empty, but for what the profile names.
	writeFile(t, file, text)
	writeFile(t, filepath.Join(s.Home, ".secret"), "secret")
	failsWith(t, a, wire.Request{Op: "read", Path: file}, "ENOENT")
	failsWith(t, a, wire.Request{Op: "stat", Path: filepath.Dir(file)}, "ENOENT")
	if names := do(t, a, wire.Request{Op: "list", Path: s.Home}).Names; slices.Contains(names, ".secret") || slices.Contains(names, "Documents") || slices.Contains(names, ".session") {
		t.Errorf("the app sees %q in the home directory", names)
	}

	answer, dialog := choose(t, s, a, wire.Request{Op: "open"}, file)
	if dialog != (session.Dialog{Method: "OpenFile", AppID: appA, Title: "Choose a file"}) {
		t.Errorf("the backend was asked %+v; the app is %s", dialog, appA)
	}
	if !strings.HasPrefix(answer.URI, "file:///") || filepath.Base(answer.Path) != filepath.Base(file) || answer.Path == file {
		t.Errorf("the app got %q, want a document of %s", answer.URI, file)
	}
	if got := do(t, a, wire.Request{Op: "read", Path: answer.Path}).Data; got != text {
		t.Errorf("the app reads %q, want %q", got, text)
	}

	// Given for reading, it cannot be written, replaced or removed.
	failsWith(t, a, wire.Request{Op: "write", Path: answer.Path, Data: "x"}, "EACCES", "EPERM", "EROFS")
	failsWith(t, a, wire.Request{Op: "remove", Path: answer.Path}, "EACCES", "EPERM", "EROFS")
	failsWith(t, a, wire.Request{Op: "create", Path: answer.Path + ".new", Data: "x"}, "EACCES", "EPERM", "EROFS")
	wantFile(t, file, text)

	// It is the first app's alone.
	failsWith(t, b, wire.Request{Op: "read", Path: answer.Path}, "ENOENT")
	view := filepath.Dir(filepath.Dir(answer.Path))
	if names := do(t, a, wire.Request{Op: "list", Path: view}).Names; len(names) != 1 {
		t.Errorf("the app's view lists %q, want one document", names)
	}
	if names := do(t, b, wire.Request{Op: "list", Path: view}).Names; len(names) != 0 {
		t.Errorf("the other app's view lists %q, want nothing", names)
	}

	// What the host changes is seen by the next read.
	writeFile(t, file, "Dear all,\n")
	if got := do(t, a, wire.Request{Op: "read", Path: answer.Path}).Data; got != "Dear all,\n" {
		t.Errorf("after a change the app reads %q", got)
	}
}

func TestAFileChosenForWritingCanBeWritten(t *testing.T) {
	s := start(t)
	file := filepath.Join(s.Home, "notes.txt")
	writeFile(t, file, "old, and longer than the new one")
	a := startApp(t, s, appA)
	answer, dialog := choose(t, s, a, wire.Request{Op: "open"}, "-writable", file)
	if dialog.AppID != appA {
		t.Errorf("the backend was asked for %q, want %q", dialog.AppID, appA)
	}
	do(t, a, wire.Request{Op: "write", Path: answer.Path, Data: "new"})
	wantFile(t, file, "new")
}

func TestSaveFile(t *testing.T) {
	for _, c := range []struct {
		name   string
		exists bool
	}{
		{"a new file", false},
		{"a file that is there", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := start(t)
			file := filepath.Join(s.Home, "Downloads", "report.txt")
			writeFile(t, filepath.Join(s.Home, "Downloads", "other.txt"), "other")
			op := "create"
			if c.exists {
				writeFile(t, file, "the version before")
				op = "write"
			}
			a := startApp(t, s, appA)
			answer, dialog := choose(t, s, a, wire.Request{Op: "save", Name: "report.txt"}, file)
			if dialog.Method != "SaveFile" || dialog.AppID != appA {
				t.Errorf("the backend was asked %+v; the app is %s", dialog, appA)
			}
			if !c.exists {
				failsWith(t, a, wire.Request{Op: "stat", Path: answer.Path}, "ENOENT")
			}
			do(t, a, wire.Request{Op: op, Path: answer.Path, Data: "saved"})
			wantFile(t, file, "saved")
			if got := do(t, a, wire.Request{Op: "read", Path: answer.Path}).Data; got != "saved" {
				t.Errorf("the app reads %q back", got)
			}
			// The folder that it lies in was not given.
			failsWith(t, a, wire.Request{Op: "read", Path: filepath.Join(filepath.Dir(answer.Path), "other.txt")}, "ENOENT")
			// No temporary file stays on the host.
			names, err := os.ReadDir(filepath.Dir(file))
			if err != nil || len(names) != 2 {
				t.Errorf("the folder holds %v (%v), want other.txt and report.txt", names, err)
			}
		})
	}
}

func TestACancelledDialogGivesNothing(t *testing.T) {
	s := start(t)
	file := filepath.Join(s.Home, "letter.txt")
	writeFile(t, file, "Dear all,\n")
	a := startApp(t, s, appA)
	b, err := s.StartBackend("-cancel", file)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if answer := try(t, a, wire.Request{Op: "open"}); answer.URI != "" || !strings.Contains(answer.Err, "cancelled") {
		t.Errorf("the app got %+v", answer)
	}
	var ids map[string][]byte
	if err := call(connect(t, s), documentsName, "List", []any{""}, &ids); err != nil || len(ids) != 0 {
		t.Errorf("documents: %v (%v), want none", ids, err)
	}
}

func TestTheAppIsNeverTheHost(t *testing.T) {
	s := start(t)
	a := startApp(t, s, appA)
	// The host may list all documents, an app may not.
	answer := try(t, a, wire.Request{Op: "call", Dest: documentsName, Path: documentsPath, Method: documentsName + ".List", Args: []string{""}})
	if answer.DBusError != "org.freedesktop.portal.Error.NotAllowed" {
		t.Errorf("Documents.List in the sandbox: %+v, want NotAllowed", answer)
	}
	// The permission store is the host's, and the proxy does not even show it.
	answer = try(t, a, wire.Request{Op: "call", Dest: storeName, Path: storePath, Method: storeName + ".List", Args: []string{"documents"}})
	if answer.DBusError == "" {
		t.Errorf("PermissionStore.List in the sandbox: %+v, want an error", answer)
	}
	// The two services may be one connection: with the other's name, too.
	answer = try(t, a, wire.Request{Op: "call", Dest: documentsName, Path: storePath, Method: storeName + ".List", Args: []string{"documents"}})
	if answer.DBusError == "" {
		t.Errorf("PermissionStore.List by the name of Documents: %+v, want an error", answer)
	}
	// The host's view is out of reach.
	failsWith(t, a, wire.Request{Op: "stat", Path: filepath.Join(s.Runtime, "doc", "by-app")}, "ENOENT")
}
