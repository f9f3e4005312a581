package documents

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"docportal/internal/keyfile"
	"docportal/internal/reserved"
)

// The words of [Context] filesystems are flatpak's (flatpak-metadata(5),
// flatpak-override(1)), in its metadata as in sbx-run's profiles. What they
// are worth for a path is judged with care: a place that might not be in the
// sandbox, or not at the host's path, is not.

// maxMetadata is the greatest size in bytes of a file that is read here.
const maxMetadata = 1 << 20

// errNoMetadata says that an app is not installed that way.
var errNoMetadata = errors.New("not installed")

// grants are the filesystems of an app: word without its mode to what it
// gives; hidden takes away.
type grants map[string]reach

// add reads a metadata file and lays its filesystems over what there is.
func (g grants) add(data []byte) error {
	f, err := keyfile.Parse(data)
	if err != nil {
		return err
	}
	words, err := f.List("Context", "filesystems")
	if err != nil {
		return err
	}
	for _, w := range words {
		g.word(w)
	}
	return nil
}

// word adds one word. One that means nothing gives nothing.
func (g grants) word(w string) {
	w, negated := strings.CutPrefix(w, "!")
	if negated && (w == "host:reset" || w == "host-reset") {
		clear(g)
		w = "host"
	}
	what, mode := splitMode(w)
	if what = canonicalWord(what); what == "" {
		return
	}
	switch {
	case negated:
		g[what] = hidden
	case mode == "ro":
		g[what] = readOnlyReach
	case mode == "" || mode == "rw" || mode == "create":
		g[what] = readWriteReach
	default:
		g[what] = hidden
	}
}

// splitMode splits a word at its last colon, and resolves backslashes.
func splitMode(w string) (what, mode string) {
	var b strings.Builder
	for i := 0; i < len(w); i++ {
		switch {
		case w[i] == '\\' && i+1 < len(w):
			i++
		case w[i] == ':':
			return b.String(), w[i+1:]
		}
		b.WriteByte(w[i])
	}
	return b.String(), ""
}

// canonicalWord spells a word in one way, "" if it is none.
func canonicalWord(w string) string {
	head, rest, deeper := strings.Cut(w, "/")
	if strings.HasPrefix(w, "/") {
		if strings.IndexByte(w, 0) >= 0 {
			return ""
		}
		return path.Clean(w)
	}
	if head == "home" {
		head = "~"
	}
	if rest = path.Clean("/" + rest)[1:]; rest != "" {
		return head + "/" + rest
	}
	if deeper && head != "~" && !strings.HasPrefix(head, "xdg-") {
		return ""
	}
	return head
}

// starter is what starts an app in a sandbox.
type starter int

const (
	flatpakStart starter = iota
	sbxStart
)

// rule is what is known of one directory and what is below it.
type rule struct {
	path  string
	reach reach
}

// territory is what of the host's files a sandbox has at their own path.
type territory struct {
	own   string // the app's own data, "" if it has none there
	rules []rule
}

// reach says what the rule of the deepest directory says; of two, the stricter
// one.
func (t *territory) reach(p string) reach {
	if t.own != "" && within(p, t.own) {
		return readWriteReach
	}
	best, depth := hidden, -1
	for _, r := range t.rules {
		if !within(p, r.path) {
			continue
		}
		switch n := len(r.path); {
		case n > depth:
			best, depth = r.reach, n
		case n == depth:
			best = min(best, r.reach)
		}
	}
	return best
}

// habitat is the session that apps live in.
type habitat struct {
	home     string // without links
	runtime  string
	env      func(string) string
	profiles []string
	app      string
	session  reserved.Session
	hide     []reserved.Place // nobody's, whatever is granted
}

func (s *Service) habitat(app string) *habitat {
	h := &habitat{home: s.o.Home, runtime: s.o.RuntimeDir, env: s.o.Env, profiles: s.o.ProfileDirs, app: app}
	if h.env == nil {
		h.env = func(string) string { return "" }
	}
	if real, err := filepath.EvalSymlinks(h.home); err == nil {
		h.home = real
	}
	if real, err := filepath.EvalSymlinks(h.runtime); err == nil {
		h.runtime = real
	}
	h.session = reserved.Session{Home: h.home, RuntimeDir: h.runtime, Env: h.env}
	h.hide = h.session.Places()
	return h
}

// never reports whether a path is in no sandbox, whatever is granted.
func (h *habitat) never(p string) bool {
	own := within(p, filepath.Join(h.session.Apps(), h.app))
	for _, r := range h.hide {
		if r.Has(p) && !(own && r.Path == h.session.Apps()) {
			return true
		}
	}
	return false
}

// contains says why no app may make a document of a directory: something lies
// in it that is in no sandbox, now or once somebody makes it.
func (h *habitat) contains(dir string) error {
	for _, r := range h.hide {
		if within(r.Path, dir) {
			return fmt.Errorf("%q contains %q, which is in no sandbox", dir, r.Path)
		}
	}
	return nil
}

func (h *habitat) xdg(variable, otherwise string) string {
	if dir := h.env(variable); filepath.IsAbs(dir) {
		return filepath.Clean(dir)
	}
	return filepath.Join(h.home, otherwise)
}

func (h *habitat) data() string   { return h.xdg("XDG_DATA_HOME", ".local/share") }
func (h *habitat) config() string { return h.xdg("XDG_CONFIG_HOME", ".config") }

// territory is what words are worth in a sandbox.
func (h *habitat) territory(words grants, by starter) *territory {
	t := new(territory)
	if by == flatpakStart {
		t.own = filepath.Join(h.home, ".var/app", h.app)
	}
	add := func(p string, r reach) {
		real, err := filepath.EvalSymlinks(p)
		switch {
		case r == hidden:
			t.rules = append(t.rules, rule{p, hidden})
			if err == nil && real != p {
				t.rules = append(t.rules, rule{real, hidden})
			}
		case err == nil && (real == p || by == flatpakStart):
			t.rules = append(t.rules, rule{real, r})
		}
	}
	add(h.runtime, hidden)
	for word, r := range words {
		if word == "host" {
			t.rules = append(t.rules, rule{"/", r})
			for _, name := range []string{"app", "bin", "boot", "dev", "efi", "etc", "lib", "lib32", "lib64", "libx32", "lost+found", "proc", "root", "run", "sbin", "sys", "tmp", "usr", "var"} {
				t.rules = append(t.rules, rule{"/" + name, hidden})
			}
			add("/run/media", r)
			if _, more := words["~"]; !more {
				add(h.home, r)
			}
			continue
		}
		if p := h.place(word); p != "" {
			add(p, r)
		}
	}
	return t
}

// systemPlaces are a sandbox's own, or in it somewhere else.
var systemPlaces = [...]string{"/app", "/bin", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/run/flatpak", "/run/host", "/sbin", "/sys", "/usr"}

// place is the host's path of a word, "" if it has none.
func (h *habitat) place(word string) string {
	head, rest, _ := strings.Cut(word, "/")
	switch head {
	case "": // absolute
		for _, dir := range systemPlaces {
			if within(word, dir) || within(dir, word) {
				return ""
			}
		}
		return word
	case "~":
		return filepath.Join(h.home, rest)
	case "xdg-run":
		if rest == "" {
			return ""
		}
		return filepath.Join(h.runtime, rest)
	case "xdg-config":
		return filepath.Join(h.config(), rest)
	case "xdg-data":
		return filepath.Join(h.data(), rest)
	case "xdg-cache":
		return filepath.Join(h.xdg("XDG_CACHE_HOME", ".cache"), rest)
	case "xdg-state":
		return filepath.Join(h.xdg("XDG_STATE_HOME", ".local/state"), rest)
	}
	variable, ok := userDirs[head]
	if !ok {
		return ""
	}
	text, err := readSmall(filepath.Join(h.config(), "user-dirs.dirs"))
	if err != nil {
		return ""
	}
	dir := parseUserDirs(text, h.home)[variable]
	if dir == "" || dir == h.home { // "not used": never the whole home
		return ""
	}
	return filepath.Join(dir, rest)
}

// userDirs are the words of xdg-user-dirs.
var userDirs = map[string]string{
	"xdg-desktop":      "XDG_DESKTOP_DIR",
	"xdg-documents":    "XDG_DOCUMENTS_DIR",
	"xdg-download":     "XDG_DOWNLOAD_DIR",
	"xdg-music":        "XDG_MUSIC_DIR",
	"xdg-pictures":     "XDG_PICTURES_DIR",
	"xdg-public-share": "XDG_PUBLICSHARE_DIR",
	"xdg-templates":    "XDG_TEMPLATES_DIR",
	"xdg-videos":       "XDG_VIDEOS_DIR",
}

// parseUserDirs reads user-dirs.dirs: lines NAME="$HOME/..." or NAME="/...".
func parseUserDirs(text []byte, home string) map[string]string {
	dirs := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok || len(value) < 2 || value[0] != '"' || value[len(value)-1] != '"' || strings.IndexByte(value, 0) >= 0 {
			continue
		}
		value = value[1 : len(value)-1]
		var b strings.Builder
		for i := 0; i < len(value); i++ {
			if value[i] == '\\' && i+1 < len(value) {
				i++
			}
			b.WriteByte(value[i])
		}
		value = b.String()
		switch rest, ok := strings.CutPrefix(value, "$HOME"); {
		case ok && (rest == "" || rest[0] == '/'):
			dirs[name] = filepath.Join(home, rest)
		case strings.HasPrefix(value, "/"):
			dirs[name] = filepath.Clean(value)
		}
	}
	return dirs
}

// profile reads the profiles of an app, each over the ones before it.
func (h *habitat) profile(app string) (*territory, error) {
	words := make(grants)
	found := false
	for _, dir := range h.profiles {
		err := words.addFile(filepath.Join(dir, app+".profile"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		found = true
	}
	if !found {
		return nil, errNoMetadata
	}
	return h.territory(words, sbxStart), nil
}

// flatpak reads the metadata of an installed flatpak, the user's before the
// system's, and the overrides: of the system for all apps and for this one,
// then the user's.
func (h *habitat) flatpak(app string) (*territory, error) {
	user, system := h.env("FLATPAK_USER_DIR"), h.env("FLATPAK_SYSTEM_DIR")
	if !filepath.IsAbs(user) {
		user = filepath.Join(h.data(), "flatpak")
	}
	if !filepath.IsAbs(system) {
		system = "/var/lib/flatpak"
	}
	words := make(grants)
	metadata := filepath.Join("app", app, "current/active/metadata")
	err := words.addFile(filepath.Join(user, metadata))
	if errors.Is(err, fs.ErrNotExist) {
		err = words.addFile(filepath.Join(system, metadata))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNoMetadata
	}
	if err != nil {
		return nil, err
	}
	for _, dir := range []string{system, user} {
		for _, name := range []string{"global", app} {
			if err := words.addFile(filepath.Join(dir, "overrides", name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
		}
	}
	return h.territory(words, flatpakStart), nil
}

func (g grants) addFile(name string) error {
	data, err := readSmall(name)
	if err != nil {
		return err
	}
	if err := g.add(data); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// readSmall reads a regular file of at most maxMetadata bytes; a FIFO in its
// place is not waited for.
func readSmall(name string) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a file", name)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxMetadata+1))
	if err == nil && len(data) > maxMetadata {
		err = fmt.Errorf("%s: larger than 1 MiB", name)
	}
	return data, err
}
