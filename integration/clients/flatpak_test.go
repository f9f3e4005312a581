package clients

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"docportal/integration/session"
)

// export runs "flatpak document-export", which prints the document's path, and
// returns the document's id.
func (d *desktop) export(args ...string) string {
	d.Helper()
	file := args[len(args)-1]
	out := d.run("flatpak", append([]string{"document-export"}, args...)...)
	id := filepath.Base(filepath.Dir(out))
	if out != filepath.Join(d.mount(), id, filepath.Base(file)) {
		d.Fatalf("document-export %q printed %q", args, out)
	}
	if _, ok := d.documents("")[id]; !ok {
		d.Fatalf("document-export %q printed %q, which is no document", args, out)
	}
	return id
}

var allWords = []string{"delete", "grant-permissions", "read", "write"}

func TestFlatpakDocumentExport(t *testing.T) {
	d := start(t)
	file := d.file("letter.txt", "Dear all,\n")
	id := d.export(file)
	d.wantDocument(id, file, nil)
	if again := d.export(file); again != id {
		t.Errorf("exported again it is %s, want %s", again, id)
	}
	// Relative paths are the command's own business: descriptors travel.
	if again := d.export("letter.txt"); again != id {
		t.Errorf("exported by a relative path it is %s, want %s", again, id)
	}
	b, err := os.ReadFile(filepath.Join(d.mount(), id, "letter.txt"))
	if err != nil || string(b) != "Dear all,\n" {
		t.Errorf("the document holds %q (%v)", b, err)
	}

	for _, c := range []struct {
		option string
		flags  uint32 // as the permission store keeps them
	}{
		{"--unique", 1}, {"-u", 1},
	} {
		other := d.export(c.option, file)
		if other == id || other == d.export(c.option, file) {
			t.Errorf("%s: not a new document each time", c.option)
		}
		d.wantDocument(other, file, nil)
		if _, data, ok := d.entry("documents", other); !ok {
			t.Errorf("%s: not persistent", c.option)
		} else if fields, ok := data.Value().([]any); !ok || fields[3] != c.flags {
			t.Errorf("%s: stored as %v, want flags %d", c.option, data, c.flags)
		}
	}
	for _, option := range []string{"--transient", "-t"} {
		other := d.export(option, file)
		if _, _, ok := d.entry("documents", other); ok || other == id {
			t.Errorf("%s: document %s (the persistent one is %s) is in the permission store", option, other, id)
		}
		d.wantDocument(other, file, nil)
	}

	dir := filepath.Dir(d.file("letters/one.txt", "1\n"))
	tree := d.export(dir)
	d.wantDocument(tree, dir, nil)
	if b, err := os.ReadFile(filepath.Join(d.mount(), tree, "letters", "one.txt")); err != nil || string(b) != "1\n" {
		t.Errorf("in the directory document: %q (%v)", b, err)
	}
	d.fails("No such file or directory", "flatpak", "document-export", filepath.Join(d.Home, "missing"))
}

func TestFlatpakDocumentExportToApps(t *testing.T) {
	d := start(t)
	for i, c := range []struct {
		options []string
		want    []string // of each app
	}{
		{nil, []string{"read"}},
		{[]string{"--allow-read"}, []string{"read"}},
		{[]string{"-r"}, []string{"read"}},
		{[]string{"--allow-write"}, []string{"read", "write"}},
		{[]string{"-w"}, []string{"read", "write"}},
		{[]string{"--allow-delete"}, []string{"delete", "read"}},
		{[]string{"-d"}, []string{"delete", "read"}},
		{[]string{"--allow-grant-permission"}, []string{"grant-permissions", "read"}},
		{[]string{"-g"}, []string{"grant-permissions", "read"}},
		{[]string{"--allow-write", "--allow-delete", "--allow-grant-permission"}, allWords},
		{[]string{"--forbid-read"}, nil},
		{[]string{"--forbid-read", "--allow-write"}, []string{"write"}},
	} {
		file := d.file(fmt.Sprintf("letter %d.txt", i), "")
		id := d.export(append(slices.Clone(c.options), "--app="+appA, "-a", appB, file)...)
		want := map[string][]string{appA: c.want, appB: c.want}
		if c.want == nil {
			want = nil
		}
		d.wantDocument(id, file, want)
		_, err := os.Stat(filepath.Join(d.mount(), "by-app", appB, id, filepath.Base(file)))
		if (err == nil) != slices.Contains(c.want, "read") {
			t.Errorf("%q: in the app's view: %v", c.options, err)
		}
	}
}

func TestFlatpakDocumentExportForbids(t *testing.T) {
	d := start(t)
	file := d.file("letter.txt", "Dear all,\n")
	all := []string{"--app=" + appA, "--app=" + appB, "--allow-read", "--allow-write", "--allow-delete", "--allow-grant-permission", file}
	id := d.export(all...)
	d.wantDocument(id, file, map[string][]string{appA: allWords, appB: allWords})
	for option, word := range map[string]string{
		"--forbid-read":             "read",
		"--forbid-write":            "write",
		"--forbid-delete":           "delete",
		"--forbid-grant-permission": "grant-permissions",
	} {
		if got := d.export(option, "--app="+appA, file); got != id {
			t.Fatalf("%s: document %s, want %s", option, got, id)
		}
		left := slices.DeleteFunc(slices.Clone(allWords), func(w string) bool { return w == word })
		d.wantDocument(id, file, map[string][]string{appA: left, appB: allWords})
		view := filepath.Join(d.mount(), "by-app", appA, id, "letter.txt")
		if _, err := os.Stat(view); (err == nil) != (word != "read") {
			t.Errorf("%s: the app's view: %v", option, err)
		}
		if err := syscall.Access(view, 2); (err == nil) != (word != "read" && word != "write") {
			t.Errorf("%s: writing in the app's view: %v", option, err)
		}
		d.export(all...)
	}
	d.export("--forbid-read", "--forbid-write", "--forbid-delete", "--forbid-grant-permission", "--app="+appA, file)
	d.wantDocument(id, file, map[string][]string{appB: allWords})
}

func TestFlatpakDocumentExportRefuses(t *testing.T) {
	d := start(t)
	file := d.file("letter.txt", "")
	fifo := filepath.Join(d.Home, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	view := filepath.Join(d.mount(), d.export(file), "letter.txt")
	before := d.documents("")
	for _, c := range []struct {
		message string
		args    []string
	}{
		{"Invalid fd passed", []string{fifo}},
		{"Invalid fd passed", []string{"/dev/null"}},
		{"Invalid fd passed", []string{d.mount()}},
		{"Invalid fd passed", []string{d.Runtime}}, // it contains the mount
		{"Invalid fd passed", []string{filepath.Dir(view)}},
		{"Invalid fd passed", []string{"--unique", view}},
		{"not an app id", []string{"--app=firefox", file}},
		{"not an app id", []string{"--app=", file}},
	} {
		d.fails(c.message, "flatpak", append([]string{"document-export"}, c.args...)...)
	}
	wantEqual(t, "documents", d.documents(""), before)
}

func TestFlatpakKnowsADocumentByItsPathInTheView(t *testing.T) {
	d := start(t)
	file, dir := d.file("letter.txt", ""), filepath.Dir(d.file("letters/one.txt", ""))
	id, tree := d.export("--app="+appA, file), d.export(dir)
	view, viewTree := filepath.Join(d.mount(), id, "letter.txt"), filepath.Join(d.mount(), tree, "letters")
	wantEqual(t, "exported again", d.export(view), id)
	wantEqual(t, "exported again from an app's view", filepath.Base(filepath.Dir(
		d.run("flatpak", "document-export", filepath.Join(d.mount(), "by-app", appA, id, "letter.txt")))), id)
	wantEqual(t, "a directory exported again", d.export(viewTree), tree)
	inner := d.export(filepath.Join(viewTree, "one.txt"))
	d.wantDocument(inner, filepath.Join(dir, "one.txt"), nil)
	if err := os.Symlink("letter.txt", filepath.Join(d.Home, "link")); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(d.Home, "link"), d.Home + "/./letter.txt", dir + "/../letter.txt"} {
		if got := d.run("flatpak", "document-info", path); !strings.HasPrefix(got, "id: "+id+"\n") {
			t.Errorf("document-info %s:\n%s", path, got)
		}
	}
	d.run("flatpak", "document-unexport", view)
	d.run("flatpak", "document-unexport", viewTree)
	wantEqual(t, "documents", d.documents(""), map[string]string{inner: filepath.Join(dir, "one.txt")})
}

// The command reads the reply to its own call wrongly and is killed by that;
// the document is there.
func TestFlatpakDocumentExportNoexist(t *testing.T) {
	d := start(t)
	file := filepath.Join(d.Home, "new.txt")
	for _, option := range []string{"--noexist", "-n"} {
		o := d.try("flatpak", "document-export", option, file)
		if exit := (*exec.ExitError)(nil); o.err != nil && !(errors.As(o.err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGSEGV) {
			t.Errorf("%s: %v\n%s", option, o.err, o.text)
		}
	}
	docs := d.documents("")
	if len(docs) != 1 {
		t.Fatalf("the documents are %v, want one", docs)
	}
	for id, path := range docs {
		wantEqual(t, "its path", path, file)
		view := filepath.Join(d.mount(), id, "new.txt")
		if _, err := os.Stat(view); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("before it is made: %v", err)
		}
		if err := os.WriteFile(view, []byte("made"), 0o644); err != nil {
			t.Error(err)
		}
		if b, err := os.ReadFile(file); err != nil || string(b) != "made" {
			t.Errorf("on the host: %q (%v)", b, err)
		}
	}
}

func TestFlatpakDocumentInfo(t *testing.T) {
	d := start(t)
	file := d.file("letter.txt", "Dear all,\n")
	wantEqual(t, "not exported", d.run("flatpak", "document-info", file), "Not exported")

	id := d.export("--app="+appA, "--app="+appB, "--allow-write", file)
	view := filepath.Join(d.mount(), id, "letter.txt")
	want := "id: " + id + "\npath: " + view + "\norigin: " + file + "\npermissions:\n"
	for _, path := range []string{file, view} {
		got := d.run("flatpak", "document-info", path)
		rest, ok := strings.CutPrefix(got, want)
		lines := strings.Split(rest, "\n")
		slices.Sort(lines)
		if !ok || !slices.Equal(lines, []string{"\t" + appA + "\tread, write", "\t" + appB + "\tread, write"}) {
			t.Errorf("of %s:\n%s", path, got)
		}
	}
	// A document without permissions has no such lines.
	other := d.file("other.txt", "")
	id = d.export(other)
	want = "id: " + id + "\npath: " + filepath.Join(d.mount(), id, "other.txt") + "\norigin: " + other
	wantEqual(t, "without permissions", d.run("flatpak", "document-info", other), want)
	// The command passes on what it was given; paths on the bus are absolute.
	d.fails("not an absolute path", "flatpak", "document-info", "letter.txt")
	d.fails("no such file or directory", "flatpak", "document-info", filepath.Join(d.Home, "missing"))
}

func TestFlatpakDocumentUnexport(t *testing.T) {
	d := start(t)
	file, other := d.file("letter.txt", "Dear all,\n"), d.file("other.txt", "")
	id, otherID := d.export(file), d.export(other)
	d.run("flatpak", "document-unexport", file)
	wantEqual(t, "documents", d.documents(""), map[string]string{otherID: other})
	if _, err := os.Stat(filepath.Join(d.mount(), id)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("in the view: %v", err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
	d.run("flatpak", "document-unexport", "--doc-id", otherID)
	wantEqual(t, "documents", d.documents(""), map[string]string{})
	if again := d.export(file); again == id {
		t.Error("an id came back")
	}
	d.fails("no such document", "flatpak", "document-unexport", "--doc-id", otherID)
	wantEqual(t, "not exported", d.run("flatpak", "document-unexport", other), "Not exported")
	d.fails("not an absolute path", "flatpak", "document-unexport", "letter.txt")
}

// table splits what flatpak prints for a program: lines of columns.
func table(out string) (lines [][]string) {
	for line := range strings.SplitSeq(out, "\n") {
		if line != "" {
			lines = append(lines, strings.Split(line, "\t"))
		}
	}
	slices.SortFunc(lines, slices.Compare)
	return lines
}

func TestFlatpakDocuments(t *testing.T) {
	d := start(t)
	wantEqual(t, "without documents", d.run("flatpak", "documents"), "")
	file, other := d.file("letter.txt", ""), d.file("other.txt", "")
	dir := filepath.Dir(d.file("letters/one.txt", ""))
	ids := map[string]string{
		d.export("--app="+appA, "--allow-write", file): file,
		d.export("--app="+appB, other):                 other,
		d.export("--transient", "--unique", file):      file,
		d.export("--app="+appA, dir):                   dir,
	}
	var all, ofA [][]string
	for id, path := range ids {
		_, apps := d.info(id)
		row := []string{id, filepath.Join(d.mount(), id, filepath.Base(path)), path}
		if len(apps) == 0 {
			all = append(all, row)
			continue
		}
		for app, words := range apps {
			row = append(row, app, strings.Join(words, " "))
			all = append(all, row)
			if app == appA {
				ofA = append(ofA, row)
			}
		}
	}
	slices.SortFunc(all, slices.Compare)
	slices.SortFunc(ofA, slices.Compare)
	for _, name := range []string{"documents", "document-list"} {
		wantEqual(t, name, table(d.run("flatpak", name, "--columns=id,path,origin,application,permissions")), all)
		wantEqual(t, name+" of an app", table(d.run("flatpak", name, "--columns=all", appA)), ofA)
		wantEqual(t, name+" of an app without any", d.run("flatpak", name, "org.docportal.None"), "")
	}
}

func TestFlatpakPermissionSet(t *testing.T) {
	d := start(t)
	d.run("flatpak", "permission-set", "devices", "camera", appA, "yes")
	apps, data, ok := d.entry("devices", "camera")
	wantEqual(t, "permissions", apps, map[string][]string{appA: {"yes"}})
	if !ok || data.Signature().String() != "y" || data.Value() != byte(0) {
		t.Errorf("data of a new entry: %v", data)
	}
	d.run("flatpak", "permission-set", "devices", "camera", appB, "no", "ask")
	apps, _, _ = d.entry("devices", "camera")
	wantEqual(t, "permissions", apps, map[string][]string{appA: {"yes"}, appB: {"no", "ask"}})

	for text, signature := range map[string]string{
		"uint32 5":                         "u",
		"'word'":                           "s",
		"<('a', {'b': <[byte 1, 2, 3]>})>": "v",
		"[{'x': <@mx nothing>}]":           "",
	} {
		o := d.try("flatpak", "permission-set", "--data", text, "other", "id", appA, "yes")
		if signature == "" {
			if o.err == nil {
				t.Errorf("--data %s: not refused", text)
			}
			continue
		}
		if o.err != nil {
			t.Errorf("--data %s: %v\n%s", text, o.err, o.text)
		}
		apps, data, _ := d.entry("other", "id")
		wantEqual(t, "permissions", apps, map[string][]string{appA: {"yes"}})
		if got := data.Signature().String(); got != signature {
			t.Errorf("--data %s: kept as %s %v, want %s", text, got, data, signature)
		}
	}
}

func TestFlatpakPermissions(t *testing.T) {
	d := start(t)
	d.run("flatpak", "permission-set", "devices", "camera", appA, "yes")
	d.run("flatpak", "permission-set", "devices", "camera", appB, "no", "ask")
	d.run("flatpak", "permission-set", "--data", "'text'", "devices", "speakers", appA, "yes")
	d.run("flatpak", "permission-set", "location", "location", appA, "EXACT", "0")
	devices := [][]string{
		{"devices", "camera", appA, "yes", "0x00"},
		{"devices", "camera", appB, "no,ask", "0x00"},
		{"devices", "speakers", appA, "yes", "'text'"},
	}
	location := []string{"location", "location", appA, "EXACT,0", "0x00"}
	wantEqual(t, "a table", table(d.run("flatpak", "permissions", "devices")), devices)
	wantEqual(t, "an entry", table(d.run("flatpak", "permissions", "devices", "camera")), devices[:2])
	wantEqual(t, "a table that does not exist", d.run("flatpak", "permissions", "nothing"), "")
	wantEqual(t, "by its other name", table(d.run("flatpak", "permission-list", "devices")), devices)

	// Which tables there are, the command sees by the files in flatpak/db.
	wantEqual(t, "all tables", table(d.run("flatpak", "permissions")), append(slices.Clone(devices), location))
	wantEqual(t, "of an app", table(d.run("flatpak", "permission-show", appA)), [][]string{devices[0], devices[2], location})
	wantEqual(t, "of an app without any", d.run("flatpak", "permission-show", "org.docportal.None"), "")

	// Those files are no database to be imported at the next start.
	d.run("flatpak", "permission-set", "devices", "speakers", appA, "no")
	pid, err := d.Owner(storeName)
	if err != nil || pid == 0 {
		t.Fatalf("owner of the permission store: %d (%v)", pid, err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := session.Await(answerLimit, func() (bool, error) {
		owner, err := d.Owner(storeName)
		return owner != pid, err
	}); err != nil {
		t.Fatal(err)
	}
	devices[2][3] = "no"
	wantEqual(t, "after a kill", table(d.run("flatpak", "permissions")), append(slices.Clone(devices), location))
}

func TestFlatpakPermissionRemove(t *testing.T) {
	d := start(t)
	d.run("flatpak", "permission-set", "devices", "camera", appA, "yes")
	d.run("flatpak", "permission-set", "devices", "camera", appB, "no")
	d.run("flatpak", "permission-remove", "devices", "camera", appA)
	apps, _, _ := d.entry("devices", "camera")
	wantEqual(t, "without one app", apps, map[string][]string{appB: {"no"}})
	d.run("flatpak", "permission-remove", "devices", "camera")
	if apps, _, ok := d.entry("devices", "camera"); ok {
		t.Errorf("the entry is still there: %v", apps)
	}
	d.fails("no entry", "flatpak", "permission-remove", "devices", "camera")
}

func TestFlatpakPermissionReset(t *testing.T) {
	d := start(t)
	file := d.file("letter.txt", "")
	id := d.export("--app="+appA, "--app="+appB, file)
	d.run("flatpak", "permission-set", "devices", "camera", appA, "yes")
	d.run("flatpak", "permission-set", "devices", "camera", appB, "no")
	view := func(app string) string { return filepath.Join(d.mount(), "by-app", app, id, "letter.txt") }
	for _, app := range []string{appA, appB} {
		if _, err := os.Stat(view(app)); err != nil {
			t.Error(err)
		}
	}

	d.run("flatpak", "permission-reset", appA)
	// A change of the table "documents" is one of the documents.
	d.wantDocument(id, file, map[string][]string{appB: {"read"}})
	if _, err := os.Stat(view(appA)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("in the view of the app that was reset: %v", err)
	}
	if _, err := os.Stat(view(appB)); err != nil {
		t.Errorf("in the view of the other app: %v", err)
	}
	apps, _, _ := d.entry("devices", "camera")
	wantEqual(t, "permissions", apps, map[string][]string{appB: {"no"}})

	d.run("flatpak", "permission-reset", "--all")
	d.wantDocument(id, file, nil)
	if _, err := os.Stat(view(appB)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("in a view after --all: %v", err)
	}
	apps, _, _ = d.entry("devices", "camera")
	wantEqual(t, "permissions", apps, map[string][]string{})
}
