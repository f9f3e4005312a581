// Package toolkit has programs that use GTK 3, GTK 4 and libportal as
// applications do: a clipboard, things to drag, links, file dialogs. They take
// requests on their standard input and answer on their output, a JSON object a
// line. They keep one rule: what they do with files and portals is the
// toolkit's own work.
package toolkit

import (
	"bufio"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"docportal/integration/session"
)

//go:embed *.py
var programs embed.FS

// The programs.
const (
	GTK3      = "gtk3.py"
	GTK4      = "gtk4.py"
	Libportal = "libportal.py"
)

// common is what the programs have in common.
const common = "requests.py"

// Request is what a program is asked to do.
type Request struct {
	Op       string   `json:"op"`
	Paths    []string `json:"paths,omitempty"`
	Text     string   `json:"text,omitempty"`
	Multiple bool     `json:"multiple,omitempty"`
}

// Answer is what came of a request; Err says what did not.
type Answer struct {
	Err     string   `json:"err"`
	Paths   []string `json:"paths"`
	Formats []string `json:"formats"`
	Text    string   `json:"text"`
}

// answerLimit is the time in which a program must have done its work.
const answerLimit = time.Minute

// python is the system's, which has the bindings.
const python = "/usr/bin/python3"

// quiet has a toolkit do without what is not there.
var quiet = []string{"GTK_A11Y=none", "NO_AT_BRIDGE=1", "GDK_BACKEND=x11", "GSETTINGS_BACKEND=memory"}

// Program is one of them, running.
type Program struct {
	Name string // for messages
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Scanner
	end  sync.Once
	err  error
}

// Open starts one of the programs in a session, with these variables more: in
// a sandbox of the app, or on the host if app is "". The caller closes it.
func Open(s *session.Session, name, app string, env ...string) (*Program, error) {
	file := filepath.Join(s.Home, "program", name)
	for _, part := range []string{name, common} {
		text, err := programs.ReadFile(part)
		if err != nil {
			return nil, err
		}
		if err := write(filepath.Join(filepath.Dir(file), part), text); err != nil {
			return nil, err
		}
	}
	p := &Program{Name: name + " of " + app}
	if app == "" {
		p.cmd = s.Command(python, file)
		p.cmd.Env = append(p.cmd.Env, quiet...)
	} else {
		profile := filepath.Join(s.Home, ".session", app+"."+name)
		err := write(profile, fmt.Appendf(nil, `[Application]
name=%s
command=%s
[Context]
sockets=x11;
filesystems=~/program:ro;
`, app, python))
		if err != nil {
			return nil, err
		}
		var args []string
		for _, kv := range quiet {
			args = append(args, "--env="+kv)
		}
		p.cmd = s.Command("sbx-run", append(args, profile, file)...)
	}
	p.cmd.Env = append(p.cmd.Env, env...)
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewScanner(out)
	return p, s.Start(p.cmd)
}

// write makes a file whole: a program that was started before may read it now.
func write(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", data, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// Do has the program do something. An error is one of the program itself; what
// it could not do stands in the answer.
func (p *Program) Do(r Request) (Answer, error) {
	var a Answer
	b, err := json.Marshal(r)
	if err != nil {
		return a, err
	}
	late := time.AfterFunc(answerLimit, func() { p.cmd.Process.Kill() })
	defer late.Stop()
	if _, err := p.in.Write(append(b, '\n')); err != nil {
		return a, fmt.Errorf("%s: %+v: %w", p.Name, r, err)
	}
	if !p.out.Scan() {
		return a, errors.Join(fmt.Errorf("%s: %+v: no answer", p.Name, r), p.out.Err())
	}
	if err := json.Unmarshal(p.out.Bytes(), &a); err != nil {
		return a, fmt.Errorf("%s: %+v: %w", p.Name, r, err)
	}
	return a, nil
}

// Close lets the program end by itself and returns what it ended with.
func (p *Program) Close() error {
	p.end.Do(func() {
		p.in.Close()
		late := time.AfterFunc(answerLimit, func() { p.cmd.Process.Kill() })
		defer late.Stop()
		if err := p.cmd.Wait(); err != nil {
			p.err = fmt.Errorf("%s ended with: %w", p.Name, err)
		}
	})
	return p.err
}
