package desktop

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// splitCommand splits a command line as GLib and the message bus do, which is
// what a shell does with quotes and backslashes and nothing else.
func splitCommand(s string) ([]string, error) {
	var args []string
	var b strings.Builder
	in, quote := false, byte(0)
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case quote == '\'':
			if c == '\'' {
				quote = 0
			} else {
				b.WriteByte(c)
			}
		case c == '\\':
			i++
			if i == len(s) {
				return nil, fmt.Errorf("a backslash at the end of %q", s)
			}
			if quote == '"' && !strings.ContainsRune("\"`$\\", rune(s[i])) {
				b.WriteByte('\\')
			}
			b.WriteByte(s[i])
			in = true
		case quote == '"':
			if c == '"' {
				quote = 0
			} else {
				b.WriteByte(c)
			}
		case c == '\'' || c == '"':
			quote, in = c, true
		case c == ' ' || c == '\t' || c == '\n':
			if in {
				args = append(args, b.String())
				b.Reset()
				in = false
			}
		default:
			b.WriteByte(c)
			in = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("a quote that does not end in %q", s)
	}
	if in {
		args = append(args, b.String())
	}
	if len(args) == 0 {
		return nil, fmt.Errorf("no program in %q", s)
	}
	return args, nil
}

// reservedInExec are the characters for which an argument of a desktop entry's
// Exec must be quoted (desktop entry specification, "The Exec key").
const reservedInExec = " \t\n\"'\\><~|&;$*?#()`"

// joinExec makes the value of Exec of arguments; field codes in them stay.
func joinExec(args []string) string {
	var all []string
	for _, a := range args {
		if a == "" || strings.ContainsAny(a, reservedInExec) {
			a = `"` + strings.NewReplacer(`"`, `\"`, "`", "\\`", `$`, `\$`, `\`, `\\`).Replace(a) + `"`
		}
		all = append(all, a)
	}
	return strings.Join(all, " ")
}

// literal keeps an argument from having field codes in it.
func literal(arg string) string { return strings.ReplaceAll(arg, "%", "%%") }

// joinService makes the value of Exec of an activation file.
func joinService(args []string) string {
	var all []string
	for _, a := range args {
		if a == "" || strings.ContainsAny(a, reservedInExec) {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		all = append(all, a)
	}
	return strings.Join(all, " ")
}

// command is a command line of the host's, taken apart.
type command struct {
	env     []string // VAR=VALUE, from a leading env(1)
	program string
	args    []string
}

func parseCommand(exec string) (c command, err error) {
	args, err := splitCommand(exec)
	if err != nil {
		return c, err
	}
	if filepath.Base(args[0]) == "env" {
		for args = args[1:]; len(args) > 0 && strings.Contains(args[0], "=") && args[0][0] != '-'; args = args[1:] {
			c.env = append(c.env, args[0])
		}
		if len(args) == 0 || args[0][0] == '-' {
			return c, fmt.Errorf("no program after env in %q", exec)
		}
	}
	c.program, c.args = args[0], args[1:]
	return c, nil
}

// handed puts marks around the field codes that stand for files, so that
// sbx-run makes documents of what is put in their place, and drops the codes
// that the specification has given up.
func handed(args []string) []string {
	var all []string
	for _, a := range args {
		switch {
		case a == "%f" || a == "%F":
			all = append(all, "@@", a, "@@")
		case a == "%u" || a == "%U":
			all = append(all, "@@u", a, "@@")
		case slices.Contains([]string{"%d", "%D", "%n", "%N", "%v", "%m"}, a):
		default:
			all = append(all, a)
		}
	}
	return all
}

// interpreters run programs of many apps: what they are called says nothing
// about which one.
func interpreter(program string) bool {
	name := strings.TrimRight(filepath.Base(program), "0123456789.")
	return slices.Contains([]string{"sh", "bash", "dash", "ash", "zsh", "busybox", "env", "python", "perl", "ruby", "node", "gjs", "java", "mono", "electron", "flatpak", "snap", "sbx-run", "gapplication", "dbus-launch", "false", "true"}, name)
}
