// Package doctor finds what is missing or wrong on a machine for portals and
// sandboxes to work. It keeps one rule: it changes nothing, and whatever it
// finds it says in one line, with the command that mends it where there is
// one.
package doctor

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"docportal/internal/bus"
)

// Finding is something that is wrong.
type Finding struct {
	// Broken says that something does not work because of it; what is not
	// broken is a warning.
	Broken bool `json:"broken"`
	// What is wrong, in one line.
	What string `json:"what"`
	// Mend is a command that mends it, "" if there is none.
	Mend string `json:"mend,omitempty"`
}

// Options say what is examined.
type Options struct {
	// App is an app id whose desktop entry has to be there; "" looks after
	// all apps that have a profile and are installed, and only warns.
	App string
	// ProfileDirs are the directories of sbx-run's profiles.
	ProfileDirs []string
	// Wait is how long one answer may take; 0 is the usual time. A portal that
	// has to be started is given this long too.
	Wait time.Duration
	// Progress is told what is waited for; nil is nobody.
	Progress func(what string)
}

// patience is the usual Wait.
const patience = 10 * time.Second

// examination is one run.
type examination struct {
	Options
	ctx      context.Context // ends when nobody waits any more
	findings []Finding
	packages packages
	conn     *bus.Conn // the session bus, nil if there is none
	runtime  string    // $XDG_RUNTIME_DIR, "" if it is no good
}

// Examine looks at the machine and the session.
func Examine(ctx context.Context, o Options) []Finding {
	if o.Wait == 0 {
		o.Wait = patience
	}
	x := &examination{Options: o, ctx: ctx, packages: findPackages()}
	for _, step := range []struct {
		what string
		do   func(context.Context)
	}{
		{"the programs", x.programs},
		{"the kernel", x.kernel},
		{"the runtime directory", x.runtimeDir},
		{"the session bus", x.sessionBus},
		{"the document portal", x.documentPortal},
		{"the desktop portal", x.desktopPortal},
		{"the portal's backend", x.backend},
		{"the apps", x.apps},
	} {
		if ctx.Err() != nil {
			x.broken("", "interrupted")
			break
		}
		if x.Progress != nil {
			x.Progress(step.what)
		}
		limited, cancel := context.WithTimeout(ctx, o.Wait)
		step.do(limited)
		cancel()
	}
	if x.conn != nil {
		x.conn.Close()
	}
	return x.findings
}

func (x *examination) broken(mend, format string, args ...any) {
	x.findings = append(x.findings, Finding{true, fmt.Sprintf(format, args...), mend})
}

func (x *examination) warn(mend, format string, args ...any) {
	x.findings = append(x.findings, Finding{false, fmt.Sprintf(format, args...), mend})
}

// Main examines, prints what was found to stdout, and returns the exit status:
// 1 if something is broken. On a terminal, stderr shows what is waited for.
func Main(ctx context.Context, o Options, asJSON bool, stdout io.Writer, stderr *os.File) int {
	terminal := isTerminal(stderr)
	if terminal {
		o.Progress = func(what string) { fmt.Fprintf(stderr, "\r\033[Klooking at %s …", what) }
	}
	findings := Examine(ctx, o)
	if terminal {
		fmt.Fprint(stderr, "\r\033[K")
	}
	status, broken := 0, 0
	for _, f := range findings {
		if f.Broken {
			broken++
			status = 1
		}
	}
	if asJSON {
		if findings == nil {
			findings = []Finding{}
		}
		e := json.NewEncoder(stdout)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		if e.Encode(findings) != nil {
			return 1
		}
		return status
	}
	for _, f := range findings {
		word := "warning"
		if f.Broken {
			word = "broken"
		}
		line := word + ": " + f.What
		if f.Mend != "" {
			line += "; mend it: " + f.Mend
		}
		fmt.Fprintln(stdout, oneLine(line))
	}
	switch {
	case len(findings) == 0:
		fmt.Fprintln(stdout, "nothing is wrong")
	default:
		fmt.Fprintf(stdout, "broken: %d, warnings: %d\n", broken, len(findings)-broken)
	}
	return status
}

// oneLine keeps what others said, such as the environment, to one line and
// from the terminal.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

func isTerminal(f *os.File) bool {
	if f == nil {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
