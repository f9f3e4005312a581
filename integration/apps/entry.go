package apps

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"docportal/integration/session"
)

// Install makes apps known to the session's desktop, as a person does.
func Install(s *session.Session, log *os.File, apps ...string) error {
	cmd := s.Command("sbx-run", append([]string{"--install"}, apps...)...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := s.Start(cmd); err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("sbx-run --install: %w", err)
	}
	return nil
}

// entry is where the installed desktop entry of an app is.
func entry(s *session.Session, app string) string {
	return filepath.Join(s.Home, ".local/share/applications", app+".desktop")
}

// commandLine is what a launcher runs for an app's installed desktop entry
// without files. options are sbx-run's, arguments the program's; both come
// where a person who edits the entry puts them.
func commandLine(s *session.Session, app string, options, arguments []string) ([]string, error) {
	b, err := os.ReadFile(entry(s, app))
	if err != nil {
		return nil, err
	}
	_, exec, ok := strings.Cut(string(b), "\nExec=")
	if !ok {
		return nil, fmt.Errorf("the desktop entry of %s has no Exec", app)
	}
	exec, _, _ = strings.Cut(exec, "\n")
	if strings.ContainsAny(exec, "\"\\") {
		return nil, fmt.Errorf("this launcher cannot read %s", exec)
	}
	words := slices.DeleteFunc(strings.Fields(exec), func(w string) bool {
		return strings.HasPrefix(w, "%")
	})
	at := slices.Index(words, app)
	if at < 0 {
		return nil, fmt.Errorf("%q does not start %s", exec, app)
	}
	words = slices.Insert(words, at+1, arguments...)
	return slices.Insert(words, at, options...), nil
}

// Defaults makes apps the ones that open what is of a type, as a person does
// in the desktop's settings.
func Defaults(s *session.Session, apps map[string]string) error {
	list := "[Default Applications]\n"
	for kind, app := range apps {
		list += kind + "=" + app + ".desktop\n"
	}
	return os.WriteFile(filepath.Join(s.Home, ".config/mimeapps.list"), []byte(list), 0o600)
}
