package sandbox

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestFilesBetweenMarksBecomeDocuments(t *testing.T) {
	h := testHost(t)
	dir := t.TempDir()
	letter := filepath.Join(dir, "a letter.txt")
	write(t, letter, "Dear all,\n")
	write(t, filepath.Join(h.Home, "shown/x.txt"), "x")
	if err := os.Symlink(letter, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	odd := filepath.Join(dir, "50% (deleted)")
	write(t, odd, "")
	doc := filepath.Join(h.RuntimeDir, "doc")
	asURI := func(path string) string { return "file://" + strings.ReplaceAll(path, " ", "%20") }
	for _, c := range []struct {
		name       string
		args, want []string
	}{
		{"none", []string{"a", "b"}, []string{"a", "b"}},
		{"nothing between", []string{"@@", "@@"}, nil},
		{"a file", []string{"-x", "@@", letter, "@@", "-y"}, []string{"-x", doc + "/id/a letter.txt", "-y"}},
		{"through a link", []string{"@@", filepath.Join(dir, "link"), "@@"}, []string{doc + "/id/a letter.txt"}},
		{"a directory", []string{"@@", dir, "@@"}, []string{doc + "/id/" + filepath.Base(dir)}},
		{"a URI", []string{"@@u", asURI(letter), "@@"}, []string{asURI(doc + "/id/a letter.txt")}},
		{"a URI of this machine", []string{"@@u", strings.Replace(asURI(letter), "://", "://localhost", 1), "@@"}, []string{asURI(doc + "/id/a letter.txt")}},
		{"a path for a URI, as GLib's launcher has it", []string{"@@u", letter, "@@"}, []string{doc + "/id/a letter.txt"}},
		{"other URIs", []string{"@@u", "https://example.org/a%20b", "mailto:a@b", "file://elsewhere/x", "@@"}, []string{"https://example.org/a%20b", "mailto:a@b", "file://elsewhere/x"}},
		{"what is no file's URI", []string{"@@u", asURI(letter) + "?x", asURI(letter) + "#x", "file:letter.txt", "file:///%zz", "file:///a%00b", "", "@@"},
			[]string{asURI(letter) + "?x", asURI(letter) + "#x", "file:letter.txt", "file:///%zz", "file:///a%00b", ""}},
		{"escapes and an odd name", []string{"@@u", "FILE:" + strings.ReplaceAll(odd, "%", "%25") + "", "@@", "@@", odd, "@@"},
			[]string{asURI(doc + "/id/50%25 %28deleted%29"), doc + "/id/50% (deleted)"}},
		{"two groups", []string{"@@", letter, "@@", "a", "@@u", "x:y", "@@"}, []string{doc + "/id/a letter.txt", "a", "x:y"}},
		{"what the app sees", []string{"@@", filepath.Join(h.Home, "shown/x.txt"), "@@"}, []string{filepath.Join(h.Home, "shown/x.txt")}},
	} {
		p := parseProfile(t, "[Application]\nname=org.example.App\ncommand=sh\n[Context]\nfilesystems=~/shown\n")
		pl, err := NewPlan(p, h, "sbx-00000001", Request{Args: c.args})
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		s := &Starter{Forward: func(_ context.Context, app string, f Handed) (string, error) {
			if info, err := f.File.Stat(); err != nil || info.IsDir() != f.Directory || app != "org.example.App" || !f.Writable {
				t.Errorf("%s: forwarded %+v to %s (%v)", c.name, f, app, err)
			}
			return "id", nil
		}}
		if err := s.handOver(context.Background(), pl, true); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if got := pl.Command[1:]; !slices.Equal(got, c.want) {
			t.Errorf("%s: arguments %q, want %q", c.name, got, c.want)
		}
		pl.Close()
	}
}

func TestFilesThatCannotBeHandedOverEndTheStart(t *testing.T) {
	h := testHost(t)
	letter := filepath.Join(t.TempDir(), "letter.txt")
	write(t, letter, "")
	p := parseProfile(t, "[Application]\nname=org.example.App\ncommand=sh\n")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"@@", letter + "x", "@@"}, "letter.txtx: no such file"},
		{[]string{"@@u", "file://" + letter + "x", "@@"}, "letter.txtx: no such file"},
		{[]string{"@@u", letter + "x", "@@"}, "letter.txtx: no such file"},
		{[]string{"@@", "", "@@"}, "empty name"},
		{[]string{"@@", "/dev/null", "@@"}, "neither a file nor a directory"},
		{[]string{"@@", letter}, "no @@ at its end"},
		{[]string{"@@u"}, "no @@ at its end"},
	} {
		if pl, err := NewPlan(p, h, "sbx-00000001", Request{Args: c.args}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.args, err, c.want)
			if err == nil {
				pl.Close()
			}
		}
	}
	// One that goes before it is handed over.
	gone := filepath.Join(filepath.Dir(letter), "gone.txt")
	write(t, gone, "")
	pl, err := NewPlan(p, h, "sbx-00000001", Request{Args: []string{"@@", gone, "@@"}})
	if err != nil {
		t.Fatal(err)
	}
	defer pl.Close()
	if err := os.Remove(gone); err != nil {
		t.Fatal(err)
	}
	err = (&Starter{Forward: func(context.Context, string, Handed) (string, error) { return "id", nil }}).handOver(context.Background(), pl, true)
	if err == nil || !strings.Contains(err.Error(), "is not at any path") {
		t.Errorf("a deleted file: %v", err)
	}
	answer := func(id string, err error) *Starter {
		return &Starter{Forward: func(context.Context, string, Handed) (string, error) { return id, err }}
	}
	for _, c := range []struct {
		name      string
		starter   *Starter
		documents bool
	}{
		{"no document portal", answer("id", nil), false},
		{"--no-documents", &Starter{}, true},
		{"refused", answer("", errors.New("no")), true},
		{"no id", answer("", nil), true},
		{"no id but a way out", answer("..", nil), true},
		{"a path", answer("a/b", nil), true},
	} {
		pl, err := NewPlan(p, h, "sbx-00000001", Request{Args: []string{"@@", letter, "@@"}})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.starter.handOver(context.Background(), pl, c.documents); err == nil {
			t.Errorf("%s: handed over as %q", c.name, pl.Command)
		}
		pl.Close()
	}
}
