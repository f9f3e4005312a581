package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"docportal/internal/bus"
	"docportal/internal/documents"
	"docportal/internal/testsession"
)

// TestScripts runs testdata/*.txt: docportal's commands against a daemon that
// the bus starts when it is asked for, as on a system. Each script has a
// session of its own.
func TestScripts(t *testing.T) {
	source, err := filepath.Abs(os.Getenv(testsession.SourceVariable))
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(source, "testdata", "*.txt"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			s := newSession(t)
			// The instance that the bus has started is nobody's child here.
			t.Cleanup(func() {
				if pid := s.pid(s.conn, documents.Name); pid != 0 {
					syscall.Kill(pid, syscall.SIGTERM)
				}
				s.awaitUnmounted()
			})
			program, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			bin, home := filepath.Join(s.dir, "bin"), filepath.Join(s.dir, "home")
			if err := errors.Join(os.Mkdir(bin, 0o700), os.Mkdir(home, 0o700), os.Symlink(program, filepath.Join(bin, "docportal"))); err != nil {
				t.Fatal(err)
			}
			testscript.Run(t, testscript.Params{
				Files: []string{file},
				Setup: func(e *testscript.Env) error {
					for _, kv := range s.environment("HOME="+home, "DBUS_SESSION_BUS_ADDRESS="+s.bus.Address,
						"PATH="+bin+":"+os.Getenv("PATH"), "LANG=C.UTF-8",
						"COMPLETIONS="+filepath.Join(source, "../../completions")) {
						k, v, _ := strings.Cut(kv, "=")
						e.Setenv(k, v)
					}
					return nil
				},
				Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
					"status":   runStatus,
					"document": makeDocument,
					"isjson":   isJSON,
					"odd":      oddFiles,
				},
			})
		})
	}
}

// runStatus (status N PROGRAM [ARG…]): the program ends with this exit status.
func runStatus(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if (got == want) == neg {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

// makeDocument (document VARIABLE FILE FLAGS [APP PERM…]) makes a document and
// sets the variable to its id.
func makeDocument(ts *testscript.TestScript, neg bool, args []string) {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	c, err := bus.Dial(ctx, ts.Getenv("DBUS_SESSION_BUS_ADDRESS"), bus.Options{})
	ts.Check(err)
	defer c.Close()
	f, err := os.Open(ts.MkAbs(unquoted(ts, args[1])))
	ts.Check(err)
	defer f.Close()
	flags, err := strconv.Atoi(args[2])
	ts.Check(err)
	app, words := "", []string{}
	if len(args) > 3 {
		app, words = args[3], args[4:]
	}
	var ids []string
	var extra map[string]bus.Value
	_, err = c.CallFiles(ctx, documents.Name, documents.Path, documents.Name, "AddFull", "ahusas",
		[]any{[]bus.FD{0}, uint32(flags), app, words}, []*os.File{f}, &ids, &extra)
	ts.Check(err)
	ts.Setenv(args[0], ids[0])
}

// isJSON (isjson [PATH=VALUE…]): the last output is JSON; of a list, PATH is
// looked up in its first element.
func isJSON(ts *testscript.TestScript, neg bool, args []string) {
	var v any
	if err := json.Unmarshal([]byte(ts.ReadFile("stdout")), &v); err != nil {
		ts.Fatalf("%v", err)
	}
	if list, ok := v.([]any); ok {
		v = nil
		if len(list) > 0 {
			v = list[0]
		}
	}
	for _, a := range args {
		name, want, _ := strings.Cut(a, "=")
		at := v
		for key := range strings.SplitSeq(name, "/") {
			m, _ := at.(map[string]any)
			at = m[key]
		}
		if got := fmt.Sprint(at); got != unquoted(ts, want) {
			ts.Fatalf("%s is %q, want %q", name, got, want)
		}
	}
}

// oddFiles (odd NAME…) makes files whose names are written as in Go strings.
func oddFiles(ts *testscript.TestScript, neg bool, args []string) {
	for _, a := range args {
		ts.Check(os.WriteFile(ts.MkAbs(unquoted(ts, a)), []byte("text\n"), 0o600))
	}
}

func unquoted(ts *testscript.TestScript, s string) string {
	text, err := strconv.Unquote(`"` + s + `"`)
	ts.Check(err)
	return text
}
