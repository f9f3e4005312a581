package sandbox

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"docportal/internal/appid"
	"docportal/internal/keyfile"
)

// Position says where a word of a profile stands.
type Position struct {
	File string // path of the profile, "" for the command line
	Line int    // from 1, 0 for the command line
}

func (p Position) String() string {
	if p.File == "" {
		return "command line"
	}
	return fmt.Sprintf("%s:%d", p.File, p.Line)
}

// ProfileError is something in a profile, or in the options that stand for
// one, that cannot be used.
type ProfileError struct {
	At     Position
	Key    string // "" if it is not about one key
	Reason string
}

// Error implements error.
func (e *ProfileError) Error() string {
	if e.Key == "" {
		return printable(fmt.Sprintf("%s: %s", e.At, e.Reason))
	}
	return printable(fmt.Sprintf("%s: %s: %s", e.At, e.Key, e.Reason))
}

// printable keeps what a file says from driving the terminal that it is shown
// on.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}

// Word is one value of a list, and where it was written.
type Word struct {
	Text string
	At   Position
}

// Policy is what an app may do with a bus name.
type Policy int

// The policies, each includes the ones before it.
const (
	None Policy = iota // nothing; removes an earlier entry
	See
	Talk
	Own
)

var policyNames = [...]string{"none", "see", "talk", "own"}

func (p Policy) String() string { return policyNames[p] }

// BusName is a bus name, or a subtree of names ("org.example.*"), with its
// policy.
type BusName struct {
	Name   string
	Policy Policy
	At     Position
}

// EnvVar is a variable to be set, or to be taken away.
type EnvVar struct {
	Name, Value string
	Unset       bool
	At          Position
}

// Profile is what a user or a packager wants for one app: flatpak's words, in
// a key file. The zero Profile grants nothing.
type Profile struct {
	Name        string // app id
	NameAt      Position
	Command     []Word // programs to try, the first that exists is run
	Shared      []Word
	Sockets     []Word
	Devices     []Word
	Features    []Word
	Filesystems []Word
	Persistent  []Word
	Session     []BusName
	System      []BusName
	Env         []EnvVar
	Daemon      *Daemon  // nil for an app
	Files       []string // the files it was read from, in order
}

// The words of the [Context] lists, in the order that help texts show.
var (
	sharedWords  = []string{"network", "ipc"}
	socketWords  = []string{"wayland", "x11", "fallback-x11", "pulseaudio", "cups", "ssh-auth", "gpg-agent", "pcsc"}
	deviceWords  = []string{"dri", "input", "kvm", "usb", "all"}
	featureWords = []string{"userns", "devel", "multiarch", "bluetooth", "canbus"}
	// refusedSockets are words of flatpak that hand out a bus unfiltered.
	refusedSockets = []string{"session-bus", "system-bus", "inherit-wayland-socket"}
	xdgWords       = []string{"xdg-desktop", "xdg-documents", "xdg-download", "xdg-music", "xdg-pictures", "xdg-public-share", "xdg-templates", "xdg-videos", "xdg-config", "xdg-data", "xdg-cache", "xdg-state", "xdg-run"}
)

// contextKeys lists the keys of [Context] with the words each knows; nil means
// anything.
var contextKeys = []struct {
	key   string
	words []string
	list  func(*Profile) *[]Word
}{
	{"shared", sharedWords, func(p *Profile) *[]Word { return &p.Shared }},
	{"sockets", socketWords, func(p *Profile) *[]Word { return &p.Sockets }},
	{"devices", deviceWords, func(p *Profile) *[]Word { return &p.Devices }},
	{"filesystems", nil, func(p *Profile) *[]Word { return &p.Filesystems }},
	{"persistent", nil, func(p *Profile) *[]Word { return &p.Persistent }},
	{"features", featureWords, func(p *Profile) *[]Word { return &p.Features }},
}

// The groups of a profile.
const (
	groupApplication = "Application"
	groupContext     = "Context"
	groupSession     = "Session Bus Policy"
	groupSystem      = "System Bus Policy"
	groupEnvironment = "Environment"
)

// AddFile reads the text of a profile and adds it to p: lists grow, "!word"
// takes a word away, single values replace earlier ones. An error is a
// *ProfileError and leaves p half changed.
func (p *Profile) AddFile(path string, data []byte) error {
	f, err := keyfile.Parse(data)
	if err != nil {
		return syntaxError(path, "", err)
	}
	p.Files = append(p.Files, path)
	groups := []string{groupApplication, groupContext, groupSession, groupSystem, groupEnvironment, groupSandbox}
	for _, g := range f.Groups() {
		for _, e := range g.Entries() {
			at := Position{path, e.Line}
			switch g.Name {
			case groupApplication:
				err = p.addApplication(path, e)
			case groupContext:
				err = p.addContext(path, e)
			case groupSandbox:
				err = p.addSandbox(path, e)
			case groupSession, groupSystem:
				var value string
				if value, err = e.String(); err == nil {
					err = p.AddBusName(g.Name == groupSystem, e.Key, value, at)
				}
			case groupEnvironment:
				var value string
				if value, err = e.String(); err == nil {
					err = p.AddEnv(e.Key, value, at)
				}
			default:
				return &ProfileError{Position{path, g.Line}, "", fmt.Sprintf("unknown group [%s]%s", g.Name, didYouMean(g.Name, groups))}
			}
			if err != nil {
				return syntaxError(path, e.Key, err)
			}
		}
		if g.Name == groupSandbox && p.Daemon == nil {
			p.Daemon = new(Daemon)
		}
		if !slices.Contains(groups, g.Name) {
			return &ProfileError{Position{path, g.Line}, "", fmt.Sprintf("unknown group [%s]%s", g.Name, didYouMean(g.Name, groups))}
		}
	}
	return nil
}

func syntaxError(path, key string, err error) error {
	if s, ok := err.(*keyfile.SyntaxError); ok {
		return &ProfileError{Position{path, s.Line}, key, s.Reason}
	}
	return err
}

func (p *Profile) addApplication(path string, e keyfile.Entry) error {
	at := Position{path, e.Line}
	switch e.Key {
	case "name":
		name, err := e.String()
		if err != nil {
			return err
		}
		if p.Name != "" && p.Name != name {
			return &ProfileError{at, e.Key, fmt.Sprintf("%q, but %s says %q", name, p.NameAt, p.Name)}
		}
		if err := checkID(name); err != nil {
			return &ProfileError{at, e.Key, err.Error()}
		}
		p.Name, p.NameAt = name, at
		return nil
	case "command":
		words, err := e.List()
		if err != nil {
			return err
		}
		p.Command = nil
		for _, w := range words {
			if err := p.AddCommand(w, at); err != nil {
				return err
			}
		}
		return nil
	}
	return &ProfileError{at, e.Key, "unknown key" + didYouMean(e.Key, []string{"name", "command"})}
}

// checkID says why an app id cannot be started, nil if it can.
func checkID(id string) error {
	switch {
	case appid.Launchable(id):
		return nil
	case appid.Foreign(id):
		return fmt.Errorf("%q belongs to another kind of sandbox", id)
	case appid.Valid(id):
		return fmt.Errorf("%q: names in org.freedesktop. belong to services", id)
	case id != "" && !strings.Contains(id, "."):
		return fmt.Errorf("%q is no app id: it needs a dot, as in org.example.%s", id, id)
	}
	return fmt.Errorf("%q is no app id: elements of letters, digits and _ joined by dots, - only in the last", id)
}

// AddCommand adds a program to try: a name that is looked for in the sandbox's
// PATH, or an absolute path.
func (p *Profile) AddCommand(word string, at Position) error {
	if word == "" || strings.Contains(word, "/") && !filepath.IsAbs(word) || strings.ContainsRune(word, 0) {
		return &ProfileError{at, "command", fmt.Sprintf("%q is neither the name of a program nor an absolute path", word)}
	}
	p.Command = append(p.Command, Word{word, at})
	return nil
}

func (p *Profile) addContext(path string, e keyfile.Entry) error {
	at := Position{path, e.Line}
	words, err := e.List()
	if err != nil {
		return err
	}
	if e.Key == "unset-environment" {
		for _, w := range words {
			if err := p.UnsetEnv(w, at); err != nil {
				return err
			}
		}
		return nil
	}
	for _, w := range words {
		if err := p.AddContext(e.Key, w, at); err != nil {
			return err
		}
	}
	if len(words) == 0 { // an unknown key is an error without words, too
		return p.knownContext(e.Key, at)
	}
	return nil
}

func (p *Profile) knownContext(key string, at Position) error {
	keys := []string{}
	for _, k := range contextKeys {
		if k.key == key {
			return nil
		}
		keys = append(keys, k.key)
	}
	return &ProfileError{at, key, "unknown key" + didYouMean(key, append(keys, "unset-environment"))}
}

// AddContext adds a word to a list of [Context], or takes it away if it begins
// with "!".
func (p *Profile) AddContext(key, word string, at Position) error {
	if err := p.knownContext(key, at); err != nil {
		return err
	}
	for _, k := range contextKeys {
		if k.key != key {
			continue
		}
		text, remove := strings.CutPrefix(word, "!")
		if err := checkWord(key, text, k.words); err != nil {
			return &ProfileError{at, key, err.Error()}
		}
		list := k.list(p)
		same := func(w Word) bool { return w.Text == text }
		if key == "filesystems" {
			path, _ := cutMode(text)
			same = func(w Word) bool { have, _ := cutMode(w.Text); return have == path }
		}
		*list = slices.DeleteFunc(*list, same)
		if !remove {
			*list = append(*list, Word{text, at})
		}
	}
	return nil
}

func checkWord(key, word string, known []string) error {
	switch {
	case word == "" || strings.ContainsFunc(word, unicode.IsControl):
		return fmt.Errorf("%q is no word", word)
	case key == "filesystems":
		return checkFilesystem(word)
	case key == "persistent":
		if clean := filepath.Clean(word); !filepath.IsLocal(word) || clean == "." {
			return fmt.Errorf("%q must be a path below the home directory, without ~", word)
		}
		return nil
	case key == "sockets" && slices.Contains(refusedSockets, word):
		return fmt.Errorf("%s is never handed out: name what the app needs in [Session Bus Policy] or [System Bus Policy]", word)
	case !slices.Contains(known, word):
		return fmt.Errorf("unknown word %q%s", word, didYouMean(word, known))
	}
	return nil
}

// cutMode splits the mode ("ro", "rw", "create" or "") from a word of
// filesystems=.
func cutMode(word string) (what, mode string) {
	i := strings.LastIndexByte(word, ':')
	if i < 0 || strings.Contains(word[i:], "/") {
		return word, ""
	}
	return word[:i], word[i+1:]
}

func checkFilesystem(word string) error {
	what, mode := cutMode(word)
	if modes := []string{"ro", "rw", "create"}; mode != "" && !slices.Contains(modes, mode) {
		return fmt.Errorf("%q: unknown mode %q%s", word, mode, didYouMean(mode, modes))
	}
	if strings.Contains("/"+what+"/", "/../") {
		return fmt.Errorf("%q: a path with .. in it", word)
	}
	switch {
	case what == "host", what == "home", what == "~", strings.HasPrefix(what, "~/"), strings.HasPrefix(what, "/"):
		return nil
	case strings.HasPrefix(what, "xdg-"):
		head, rest, _ := strings.Cut(what, "/")
		if !slices.Contains(xdgWords, head) {
			return fmt.Errorf("unknown directory %q%s", head, didYouMean(head, xdgWords))
		}
		if head == "xdg-run" && rest == "" {
			return fmt.Errorf("xdg-run needs a path in it, as in xdg-run/name")
		}
		return nil
	}
	known := append([]string{"host", "home"}, xdgWords...)
	if w := nearest(what, known); w != "" {
		return fmt.Errorf("unknown directory %q; did you mean %s?", what, w)
	}
	return fmt.Errorf("%q is neither host, home, xdg-…, ~/… nor an absolute path", what)
}

// AddBusName adds a name to the policy of the session bus or the system bus.
func (p *Profile) AddBusName(system bool, name, policy string, at Position) error {
	if err := checkBusName(name); err != nil {
		return &ProfileError{at, name, err.Error()}
	}
	i := slices.Index(policyNames[:], policy)
	if i < 0 {
		return &ProfileError{at, name, fmt.Sprintf("unknown policy %q%s", policy, didYouMean(policy, policyNames[:]))}
	}
	if Policy(i) >= Talk && !system && covers(name, "org.freedesktop.portal.Flatpak") {
		return &ProfileError{at, name, "reaches org.freedesktop.portal.Flatpak, which starts programs outside the sandbox"}
	}
	list := &p.Session
	if system {
		list = &p.System
	}
	*list = slices.DeleteFunc(*list, func(n BusName) bool { return n.Name == name })
	if Policy(i) != None {
		*list = append(*list, BusName{name, Policy(i), at})
	}
	return nil
}

// covers reports whether a name or subtree of the proxy's options includes the
// name.
func covers(pattern, name string) bool {
	tree, ok := strings.CutSuffix(pattern, ".*")
	return pattern == name || ok && (name == tree || strings.HasPrefix(name, tree+"."))
}

// Owns reports whether the app may own a name on the session bus.
func (p *Profile) Owns(name string) bool {
	for _, own := range []string{p.Name + ".*", "org.mpris.MediaPlayer2." + p.Name + ".*"} {
		if covers(own, name) {
			return true
		}
	}
	return slices.ContainsFunc(p.Session, func(n BusName) bool { return n.Policy == Own && covers(n.Name, name) })
}

// checkBusName applies the D-Bus specification's grammar of well-known names,
// with ".*" at the end for a subtree.
func checkBusName(name string) error {
	n := strings.TrimSuffix(name, ".*")
	elements := strings.Split(n, ".")
	ok := len(n) <= appid.MaxLength && (len(elements) >= 2 || n != name)
	for _, e := range elements {
		ok = ok && e != "" && (e[0] < '0' || e[0] > '9')
		for i := 0; i < len(e); i++ {
			c := e[i]
			ok = ok && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-')
		}
	}
	switch {
	case !ok:
		return fmt.Errorf("not a bus name")
	case len(elements) < 2:
		return fmt.Errorf("too wide: a subtree needs two elements before the .*")
	case name == "org.freedesktop.DBus":
		return fmt.Errorf("the bus itself is always filtered")
	}
	return nil
}

// AddEnv sets a variable in the sandbox.
func (p *Profile) AddEnv(name, value string, at Position) error {
	if err := checkVariable(name); err != nil {
		return &ProfileError{at, name, err.Error()}
	}
	if strings.ContainsRune(value, 0) {
		return &ProfileError{at, name, "a NUL byte in the value"}
	}
	p.Env = append(p.Env, EnvVar{Name: name, Value: value, At: at})
	return nil
}

// UnsetEnv takes a variable away from the sandbox.
func (p *Profile) UnsetEnv(name string, at Position) error {
	if err := checkVariable(name); err != nil {
		return &ProfileError{at, name, err.Error()}
	}
	p.Env = append(p.Env, EnvVar{Name: name, Unset: true, At: at})
	return nil
}

func checkVariable(name string) error {
	if name == "" || strings.ContainsAny(name, "=\x00") {
		return fmt.Errorf("%q cannot be the name of a variable", name)
	}
	if slices.Contains(fixedVariables, name) {
		return fmt.Errorf("the sandbox itself sets this variable")
	}
	return nil
}

// Has reports whether a list has the word.
func has(list []Word, word string) bool {
	return slices.ContainsFunc(list, func(w Word) bool { return w.Text == word })
}

// texts returns the words of a list without their positions.
func texts(list []Word) []string {
	var all []string
	for _, w := range list {
		all = append(all, w.Text)
	}
	return all
}
