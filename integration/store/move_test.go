package store

import (
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"docportal/internal/bus"
	"docportal/internal/documents"
	"docportal/internal/gvdb"
	"docportal/internal/permstore"

	"pgregory.net/rapid"
)

// usualTables is a database of the usual implementation, with the fixtures
// under the names of their tables, and what every client of the store sees.
func usualTables(t testing.TB, dir string) tables {
	t.Helper()
	must(t, os.MkdirAll(dir, 0o700))
	m := make(tables)
	for table, name := range map[string]string{"documents": "documents-500-mixed.gvdb", "one": "one-yes.gvdb"} {
		b := fixture(t, name)
		must(t, os.WriteFile(filepath.Join(dir, table), b, 0o600))
		f, err := gvdb.Parse(b)
		must(t, err)
		m[table] = f.Entries
	}
	return m
}

// The first start imports flatpak's database, the originals stay as they are,
// and it happens once.
func TestTheFirstStartImports(t *testing.T) {
	h := newHome(t)
	want := usualTables(t, h.flatpak())
	must(t, os.WriteFile(filepath.Join(h.flatpak(), ".goutputstream-X"), fixture(t, "one-yes.gvdb"), 0o600))
	before := files(t, h.flatpak())
	p := h.daemon()
	compare(t, h.conn, want, nil)
	var ids []string
	must(t, perm(h.conn, "List", "s", []any{".goutputstream-X"}, &ids))
	if len(ids) != 0 {
		t.Error("a temporary file is a table")
	}
	if !maps.Equal(before, files(t, h.flatpak())) {
		t.Error("the originals have changed")
	}
	must(t, perm(h.conn, "Delete", "ss", []any{"documents", "doc0007"}))
	delete(want["documents"], "doc0007")
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		p.stop(s)
		p = h.daemon()
		compare(t, h.conn, want, nil)
	}
	p.stop(syscall.SIGTERM)
	h.mustRun("check")
}

// The values of a fixture, as its description says, reach a client.
func TestTheFixturesImportToWhatTheirDescriptionSays(t *testing.T) {
	h := newHome(t)
	dir := filepath.Join(h.dir, "from")
	must(t, os.Mkdir(dir, 0o700))
	for table, name := range map[string]string{"one": "one-yes.gvdb", "documents": "documents-1.22.1.gvdb", "mixed": "documents-500-mixed.gvdb"} {
		must(t, os.WriteFile(filepath.Join(dir, table), fixture(t, name), 0o600))
	}
	out := h.mustRun("import", dir)
	if want := "tables: 3, entries added: 502, extended: 0, already there: 0\n"; out != want {
		t.Errorf("%q, want %q", out, want)
	}
	h.daemon()
	var e entry
	must(t, perm(h.conn, "Lookup", "ss", []any{"one", "x"}, &e.Permissions, &e.Data))
	if fmt.Sprint(e) != `{{y [0]} map[org.a.A:[yes]]}` {
		t.Errorf("one-yes: %v", e)
	}
	var path []byte
	var apps map[string][]string
	must(t, doc(h.conn, "Info", "s", []any{"jD9GUJTnLOsizl3IGta1tw"}, &path, &apps))
	if string(path) != "/home/user/Documents/xxxxxx/f\x00" || len(apps) != 0 { // its app has no words
		t.Errorf("documents-1.22.1: %q %v", path, apps)
	}
	var ids []string
	must(t, perm(h.conn, "List", "s", []any{"mixed"}, &ids))
	forms := map[string]int{}
	appCount := map[string]int{}
	for _, id := range ids {
		var e entry
		must(t, perm(h.conn, "Lookup", "ss", []any{"mixed", id}, &e.Permissions, &e.Data))
		forms[e.Data.Signature]++
		for app := range e.Permissions {
			appCount[app]++
		}
	}
	if len(ids) != 500 || forms["(ayttu)"] != 333 || forms["(ayttuay)"] != 167 || len(appCount) != 62 || appCount["org.a.A"] != 499 {
		t.Errorf("documents-500-mixed: %d ids, forms %v, %d apps", len(ids), forms, len(appCount))
	}
}

// Importing again changes nothing, in either way of doing it; what is there
// stays.
func TestImportByHand(t *testing.T) {
	h := newHome(t)
	from := filepath.Join(h.dir, "from")
	want := usualTables(t, from)
	added := h.mustRun("import", from)
	again := h.mustRun("import", from)
	if added != "tables: 2, entries added: 501, extended: 0, already there: 0\n" || again != "tables: 2, entries added: 0, extended: 0, already there: 501\n" {
		t.Errorf("%q, then %q", added, again)
	}
	h.daemon()
	must(t, perm(h.conn, "SetPermission", "sbssas", []any{"one", true, "x", "org.a.A", []string{"no"}}))
	must(t, perm(h.conn, "SetPermission", "sbssas", []any{"one", true, "x", "org.b.B", []string{"b"}}))
	must(t, perm(h.conn, "SetPermission", "sbssas", []any{"one", true, "y", "org.b.B", []string{"b"}}))
	must(t, perm(h.conn, "Delete", "ss", []any{"documents", "doc0008"}))
	// Through the daemon, which has the store; relative to where it is called.
	if out := h.mustRun("import", "from"); out != "tables: 2, entries added: 1, extended: 0, already there: 500\n" {
		t.Errorf("%q", out)
	}
	y := bus.Value{Signature: "y", Data: []byte{0}}
	want["one"] = map[string]entry{
		"x": {Data: y, Permissions: map[string][]string{"org.a.A": {"no"}, "org.b.B": {"b"}}},
		"y": {Data: y, Permissions: map[string][]string{"org.b.B": {"b"}}},
	}
	compare(t, h.conn, want, nil)
	if _, errs, status := h.run("import", filepath.Join(h.dir, "nowhere")); status != 1 || !strings.Contains(errs, "no such file") {
		t.Errorf("exit status %d, %q", status, errs)
	}
}

// Import, export, import: the same tables, in the same bytes.
func TestARoundTripIsTheIdentity(t *testing.T) {
	h := newHome(t)
	from, out, last := filepath.Join(h.dir, "from"), filepath.Join(h.dir, "out"), filepath.Join(h.dir, "last")
	want := usualTables(t, from)
	drawn(t, 6, want).write(t, from)
	h.mustRun("import", from)
	h.mustRun("export", out)
	g := newHome(t)
	g.mustRun("import", out)
	g.mustRun("export", last)
	for table := range want {
		a, err := os.ReadFile(filepath.Join(out, table))
		must(t, err)
		b, err := os.ReadFile(filepath.Join(last, table))
		must(t, err)
		if string(a) != string(b) {
			t.Errorf("table %s: the second export is different", table)
		}
		f, err := gvdb.Parse(a)
		must(t, err)
		if !maps.EqualFunc(f.Entries, want[table], sameEntry) {
			t.Errorf("table %s: the export is not what was imported", table)
		}
	}
	g.daemon()
	compare(t, g.conn, want, nil)
	// The daemon exports the same.
	g.mustRun("export", filepath.Join(g.dir, "again"))
	for table := range want {
		a, _ := os.ReadFile(filepath.Join(g.dir, "again", table))
		b, err := os.ReadFile(filepath.Join(last, table))
		must(t, err)
		if string(a) != string(b) {
			t.Errorf("table %s: the daemon exports something else", table)
		}
	}
}

// drawn adds tables with values of all kinds, the same ones each time.
func drawn(t testing.TB, n int, m tables) tables {
	t.Helper()
	for i := range n {
		m[fmt.Sprint("drawn", i)] = rapid.Custom(drawTable).Example(i)
	}
	return m
}

func drawTable(t *rapid.T) map[string]entry {
	m := make(map[string]entry)
	for range rapid.IntRange(1, 12).Draw(t, "entries") {
		m[rapid.StringMatching(`[a-z/ é.]{1,8}`).Draw(t, "id")] = entry{Data: drawData(t), Permissions: drawPermissions(t)}
	}
	return m
}

func drawPermissions(t *rapid.T) map[string][]string {
	m := map[string][]string{}
	for range rapid.IntRange(0, 4).Draw(t, "apps") {
		app := rapid.SampledFrom([]string{"", "org.a.A", "org.b.B", "é", "x y"}).Draw(t, "app")
		m[app] = rapid.SliceOfN(rapid.StringMatching(`\PC{0,4}`), 0, 3).Draw(t, "words")
	}
	return m
}

func drawData(t *rapid.T) bus.Value {
	var v bus.Value
	var err error
	switch sig := rapid.SampledFrom([]string{"y", "b", "u", "s", "ay", "as", "v", "a{sas}", "a{say}", "a{sv}", "empty"}).Draw(t, "type"); sig {
	case "y":
		v, err = bus.ValueOf(sig, rapid.Byte().Draw(t, "y"))
	case "b":
		v, err = bus.ValueOf(sig, rapid.Bool().Draw(t, "b"))
	case "u":
		v, err = bus.ValueOf(sig, rapid.Uint32().Draw(t, "u"))
	case "s":
		v, err = bus.ValueOf(sig, rapid.StringMatching(`\PC{0,9}`).Draw(t, "s"))
	case "ay":
		v, err = bus.ValueOf(sig, rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "ay"))
	case "as":
		v, err = bus.ValueOf(sig, rapid.SliceOfN(rapid.StringMatching(`\PC{0,4}`), 0, 5).Draw(t, "as"))
	case "v":
		v, err = bus.ValueOf(sig, drawData(t))
	case "a{sas}":
		v, err = bus.ValueOf(sig, drawPermissions(t))
	case "a{say}":
		v, err = bus.ValueOf(sig, rapid.MapOfN(rapid.StringMatching(`[a-z]{0,3}`), rapid.SliceOfN(rapid.Byte(), 0, 5), 0, 3).Draw(t, "say"))
	case "a{sv}":
		v, err = bus.ValueOf(sig, map[string]bus.Value{"k": drawData(t)})
	case "empty": // an empty array of a type that only its signature tells
		sig = rapid.SampledFrom([]string{"a(tu)", "aax", "a{s(ts)}", "av", "ad"}).Draw(t, "empty")
		n := 4
		if strings.IndexByte("({xd", sig[1]) >= 0 {
			n = 8
		}
		v = bus.Value{Signature: sig, Data: make([]byte, n)}
		err = v.Check()
	}
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// What the usual permission store says of an entry: nothing of apps without
// words.
func asPeerSays(e entry) entry {
	e.Permissions = maps.Clone(e.Permissions)
	maps.DeleteFunc(e.Permissions, func(_ string, words []string) bool { return len(words) == 0 })
	return e
}

// What is exported is served by the system's own permission store, each entry
// of each table.
func TestTheSystemsPermissionStoreServesAnExport(t *testing.T) {
	h := newHome(t)
	from := filepath.Join(h.dir, "from")
	want := drawn(t, 20, usualTables(t, from))
	want.write(t, from)
	h.mustRun("import", from)
	p := h.daemon()
	compare(t, h.conn, want, nil)
	p.stop(syscall.SIGTERM)
	peer := newHome(t)
	h.mustRun("export", peer.flatpak())
	peer.start(permstore.Name, peerStore)
	compare(t, peer.conn, want, asPeerSays)
	n := 0
	for _, entries := range want {
		n += len(entries)
	}
	t.Logf("compared %d entries of %d tables", n, len(want))
}

// What is exported for document portals of before 1.21.2, Debian's among them,
// is served by it: each document's Info, and the List of each app and of the
// host, as docportal says them.
func TestTheSystemsDocumentPortalServesAnExport(t *testing.T) {
	h := newHome(t)
	p := h.daemon()
	mountPoint(t, h.conn)
	var paths []string
	for i := range 40 {
		f := filepath.Join(h.home(), fmt.Sprint("f", i))
		must(t, os.WriteFile(f, []byte(f), 0o600))
		paths = append(paths, f)
	}
	var ids []string
	for some := range slices.Chunk(paths, 10) { // a message carries few descriptors
		ids = append(ids, addFiles(t, h.conn, "org.a.A", []string{"read"}, some...)...)
	}
	addFiles(t, h.conn, "org.b.B", []string{"read", "write", "grant-permissions"}, paths[25:35]...)
	// Documents of imported tables are among them.
	imported := usualTables(t, filepath.Join(h.dir, "from"))
	h.mustRun("import", filepath.Join(h.dir, "from"))
	ids = slices.AppendSeq(ids, maps.Keys(imported["documents"]))
	type info struct {
		path string
		apps map[string][]string
	}
	infos := func(c *bus.Conn) map[string]info {
		t.Helper()
		m := make(map[string]info)
		for _, id := range ids {
			var path []byte
			var apps map[string][]string
			if err := doc(c, "Info", "s", []any{id}, &path, &apps); err != nil {
				t.Errorf("Info of %s: %v", id, err)
			}
			maps.DeleteFunc(apps, func(_ string, words []string) bool { return len(words) == 0 })
			for _, words := range apps {
				slices.Sort(words)
			}
			m[id] = info{string(path), apps}
		}
		return m
	}
	lists := func(c *bus.Conn) map[string]map[string][]byte {
		t.Helper()
		m := make(map[string]map[string][]byte)
		for _, app := range []string{"", "org.a.A", "org.b.B", "org.x.App59", "org.none"} {
			var list map[string][]byte
			must(t, doc(c, "List", "s", []any{app}, &list))
			m[app] = list
		}
		return m
	}
	lookups := func(c *bus.Conn) []string {
		t.Helper()
		var all []string
		for _, f := range append(slices.Clone(paths), filepath.Join(h.home(), "none")) {
			var id string
			if err := doc(c, "Lookup", "ay", []any{append([]byte(f), 0)}, &id); err != nil {
				id = errorName(err)
			}
			all = append(all, id)
		}
		return all
	}
	must(t, os.WriteFile(filepath.Join(h.home(), "none"), nil, 0o600))
	ourInfos, ourLists, ourLookups := infos(h.conn), lists(h.conn), lookups(h.conn)
	p.stop(syscall.SIGTERM)

	peer := newHome(t)
	h.mustRun("export", "--legacy", peer.flatpak())
	peer.start(permstore.Name, peerStore)
	peer.start(documents.Name, peerPortal)
	theirMount := mountPoint(t, peer.conn)
	theirInfos := infos(peer.conn)
	for id, want := range ourInfos {
		if got := theirInfos[id]; got.path != want.path || !maps.EqualFunc(got.apps, want.apps, slices.Equal) {
			t.Errorf("Info of %s: %v, want %v", id, got, want)
		}
	}
	for app, want := range ourLists {
		if got := lists(peer.conn)[app]; !maps.EqualFunc(got, want, func(a, b []byte) bool { return string(a) == string(b) }) {
			t.Errorf("List of %q: %d documents, want %d", app, len(got), len(want))
		}
	}
	if got := lookups(peer.conn); !slices.Equal(got, ourLookups) {
		t.Errorf("Lookup: %v\nwant %v", got, ourLookups)
	}
	// And they are files there.
	for i, id := range ids[:len(paths)] {
		if b, err := os.ReadFile(filepath.Join(theirMount, id, filepath.Base(paths[i]))); err != nil || string(b) != paths[i] {
			t.Errorf("%s: %q, %v", id, b, err)
		}
	}
	t.Logf("compared %d documents, %d lists, %d lookups", len(ourInfos), len(ourLists), len(ourLookups))
}

// legacyDocument is the data of a document without a handle.
func legacyDocument(path string, dev, ino uint64, flags uint32) bus.Value {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, uint32(len(path)+1))
	b = append(append(b, path...), 0)
	for len(b)%8 != 0 {
		b = append(b, 0)
	}
	b = le.AppendUint32(le.AppendUint64(le.AppendUint64(b, dev), ino), flags)
	return bus.Value{Signature: "(ayttu)", Data: b}
}

// A document that was imported without a handle is found again when its file
// is added again, also after the devices were numbered anew; a transient one
// that was left over is collected.
func TestAnImportedDocumentIsFoundAgain(t *testing.T) {
	h := newHome(t)
	dir := filepath.Join(h.home(), "Documents")
	must(t, os.Mkdir(dir, 0o700))
	var st syscall.Stat_t
	must(t, syscall.Stat(dir, &st))
	documents := make(map[string]entry)
	var paths []string
	for i := range 4 {
		f := filepath.Join(dir, fmt.Sprint("f", i))
		must(t, os.WriteFile(f, []byte("text"), 0o600))
		paths = append(paths, f)
		documents[fmt.Sprint("old", i)] = entry{
			Data:        legacyDocument(f, uint64(st.Dev)+uint64(i%2), st.Ino, 0),
			Permissions: map[string][]string{"org.a.A": {"read"}},
		}
	}
	// The newer form, with a handle that we cannot compare.
	withHandle := documents["old3"]
	withHandle.Data.Signature = "(ayttuay)"
	withHandle.Data.Data = append(binary.LittleEndian.AppendUint32(withHandle.Data.Data, 8), "\x23\xa9\x9a\x00\x0d\x4f\xf9\xc7"...)
	documents["old3"] = withHandle
	documents["left"] = entry{Data: legacyDocument(paths[0], uint64(st.Dev), st.Ino, 2), Permissions: map[string][]string{"org.a.A": {"read"}}}
	tables{"documents": documents}.write(t, h.flatpak())
	p := h.daemon()
	for round := range 2 {
		if got := addFiles(t, h.conn, "org.b.B", []string{"read"}, paths...); strings.Join(got, " ") != "old0 old1 old2 old3" {
			t.Errorf("round %d: ids %v", round, got)
		}
		var path []byte
		var apps map[string][]string
		must(t, doc(h.conn, "Info", "s", []any{"old1"}, &path, &apps))
		if string(path) != paths[1]+"\x00" || fmt.Sprint(apps) != "map[org.a.A:[read] org.b.B:[read]]" {
			t.Errorf("round %d: %q, %v", round, path, apps)
		}
		if b, err := os.ReadFile(filepath.Join(mountPoint(t, h.conn), "by-app/org.a.A/old0/f0")); err != nil || string(b) != "text" {
			t.Errorf("round %d: %q, %v", round, b, err)
		}
		if err := doc(h.conn, "Info", "s", []any{"left"}, &path, &apps); errorName(err) != "InvalidArgument" {
			t.Errorf("round %d: a transient document that was left over: %v", round, err)
		}
		p.stop(syscall.SIGTERM)
		p = h.daemon()
	}
}

// The flatpak command finds the tables by files and asks the bus for what is
// in them; it may also change the store.
func TestTheFlatpakCommandFindsTheTables(t *testing.T) {
	h := newHome(t)
	h.daemon()
	must(t, perm(h.conn, "SetPermission", "sbssas", []any{"devices", true, "camera", "org.a.A", []string{"yes"}}))
	must(t, perm(h.conn, "SetPermission", "sbssas", []any{"location", true, "location", "org.a.A", []string{"EXACT", "0"}}))
	flatpak := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("flatpak", args...)
		cmd.Env, cmd.Dir = h.env, h.dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("flatpak %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	for _, list := range []string{flatpak("permissions"), flatpak("permission-show", "org.a.A")} {
		for _, want := range []string{"devices", "camera", "yes", "location", "EXACT"} {
			if !strings.Contains(list, want) {
				t.Errorf("%s is not listed:\n%s", want, list)
			}
		}
	}
	flatpak("permission-reset", "org.a.A")
	for table, id := range map[string]string{"devices": "camera", "location": "location"} {
		var words []string
		if err := perm(h.conn, "GetPermission", "sss", []any{table, id, "org.a.A"}, &words); err == nil && len(words) > 0 {
			t.Errorf("after the reset: %s: %v", table, words)
		}
	}
	// Its placeholders bring nothing back.
	if out := h.mustRun("import"); out != "tables: 0, entries added: 0, extended: 0, already there: 0\n" {
		t.Errorf("%q", out)
	}
}

// Replacing the files of flatpak's programs needs the store to be unused.
func TestAnExportInPlace(t *testing.T) {
	h := newHome(t)
	h.mustRun("import", func() string { d := filepath.Join(h.dir, "from"); usualTables(t, d); return d }())
	for _, program := range []string{docportal(), peerStore} {
		p := h.start(permstore.Name, program)
		if _, errs, status := h.run("export", h.flatpak()); status != 1 || !strings.Contains(errs, "a permission store is running") {
			t.Errorf("while %s runs: exit status %d, %q", filepath.Base(program), status, errs)
		}
		p.stop(syscall.SIGTERM)
	}
	h.mustRun("export", h.flatpak())
	h.start(permstore.Name, peerStore)
	want := usualTables(t, filepath.Join(h.dir, "from"))
	delete(want, "documents") // in the form that this one was not asked for
	compare(t, h.conn, want, asPeerSays)
}
