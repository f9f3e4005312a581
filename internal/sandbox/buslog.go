package sandbox

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Refusal is something that the proxy has not let through.
type Refusal struct {
	System bool   // on the system bus; else on the session bus
	Name   string // bus name
	Policy Policy // what would let it through
	What   string // what the app tried, "" if it was to learn of the name
}

// Line is the line of a profile that would let it through.
func (r Refusal) Line() string { return r.Name + "=" + r.Policy.String() }

// Group is the group of a profile that the line belongs to.
func (r Refusal) Group() string {
	if r.System {
		return "[" + groupSystem + "]"
	}
	return "[" + groupSession + "]"
}

// Grantable says why no profile can let it through, nil if one can.
func (r Refusal) Grantable() error {
	return new(Profile).AddBusName(r.System, r.Name, r.Policy.String(), Position{})
}

// WatchProxy reads what xdg-dbus-proxy prints with --log until its end, and
// calls refused for each thing that is new. The proxy does not say on which bus
// it happened: system says whether a name is one of the system bus's.
func WatchProxy(log io.Reader, system func(name string) bool, refused func(Refusal)) {
	seen := map[string]Policy{}
	report := func(r Refusal) {
		// The names are the app's words.
		if checkBusName(r.Name) != nil || strings.HasSuffix(r.Name, "*") || strings.Trim(r.What, nameLetters) != "" {
			return
		}
		if have, ok := seen[r.Name]; ok && have >= r.Policy {
			return
		}
		seen[r.Name] = r.Policy
		r.System = system(r.Name)
		refused(r)
	}
	var name, what string // of the message that the next lines are about
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		line := lines.Text()
		f := strings.Fields(line)
		switch {
		case len(f) == 7 && f[0][0] == 'C' && f[1] == "->" && f[3] == "call" && f[5] == "at":
			name, what = f[2], f[4]
		case strings.HasPrefix(line, "Filtering message due to arg0 "):
			// "… due to arg0 NAME, policy: 0 (required 3)"
			_, rest, _ := strings.Cut(line, "arg0 ")
			n, rest, _ := strings.Cut(rest, ", policy: ")
			_, rest, _ = strings.Cut(rest, "(required ")
			need, err := strconv.Atoi(strings.TrimSuffix(rest, ")"))
			if err == nil && need >= int(See) && need <= int(Own) {
				r := Refusal{Name: n, Policy: Policy(need)}
				if r.Policy != See {
					r.What = what
				}
				report(r)
			}
			name = ""
		case strings.HasPrefix(line, "*HIDDEN*"), strings.HasPrefix(line, "*DENIED*"):
			if name != "" && name != busName {
				report(Refusal{Name: name, Policy: Talk, What: what})
			}
			name = ""
		default:
			name = ""
		}
	}
	io.Copy(io.Discard, log) // a line too long to be one: the proxy must not wait for us
}

// busName is the name of the bus itself.
const busName = "org.freedesktop.DBus"

// nameLetters are those of a D-Bus interface and member.
const nameLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_."

// Summary is what would let everything through, as lines of a profile.
func Summary(all []Refusal) string {
	var b strings.Builder
	for _, system := range []bool{false, true} {
		group := ""
		for _, r := range all {
			if r.System != system || superseded(all, r) {
				continue
			}
			if group == "" {
				group = r.Group()
				fmt.Fprintln(&b, group)
			}
			if err := r.Grantable(); err != nil {
				fmt.Fprintf(&b, "# %s: %v\n", r.Line(), err.(*ProfileError).Reason)
				continue
			}
			fmt.Fprintln(&b, r.Line())
		}
	}
	return b.String()
}

// superseded reports whether another refusal says more of the same name.
func superseded(all []Refusal, r Refusal) bool {
	for _, o := range all {
		if o.Name == r.Name && o.System == r.System && o.Policy > r.Policy {
			return true
		}
	}
	return false
}
