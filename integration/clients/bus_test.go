package clients

import (
	"bufio"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	interfaces "docportal/dbus"
)

// object is a place on the bus, as the command lines name it.
func object(iface string) (name, path string) {
	if iface == storeName {
		return storeName, storePath
	}
	return documentsName, documentsPath
}

// step is one call of one method, its arguments as the program takes them, and
// what comes out: what is printed, or an error's name.
type step struct {
	iface, method string
	args          []string
	want, err     string
}

const portalError = "org.freedesktop.portal.Error."

func TestGdbusCallsEachMethod(t *testing.T) {
	d := start(t)
	file := d.file("letter.txt", "Dear all,\n")
	mount := d.mount()
	id := d.add(file, 1|2, appA, "read")
	transient := d.add(d.file("other.txt", ""), 0, "")
	const docs, files, store = documentsName, transferName, storeName
	steps := []step{
		{docs, "GetMountPoint", nil, "(b'" + mount + "',)", ""},
		{docs, "Lookup", []string{"b'" + file + "'"}, "('" + id + "',)", ""},
		{docs, "Lookup", []string{"b'" + mount + "/" + id + "/letter.txt'"}, "('" + id + "',)", ""},
		{docs, "Lookup", []string{"b'" + d.Home + "'"}, "('',)", ""},
		{docs, "Lookup", []string{"b'" + file + ".missing'"}, "", portalError + "NotFound"},
		{docs, "Lookup", []string{"b'letter.txt'"}, "", portalError + "InvalidArgument"},
		// Without the trailing NUL it is the same path.
		{docs, "Lookup", []string{bytes(file)}, "('" + id + "',)", ""},
		{docs, "Info", []string{id}, "(b'" + file + "', {'" + appA + "': ['read']})", ""},
		{docs, "Info", []string{"none"}, "", portalError + "InvalidArgument"},
		{docs, "List", []string{appA}, "({'" + id + "': b'" + file + "'},)", ""},
		{docs, "List", []string{appB}, "(@a{say} {},)", ""},
		{docs, "GetHostPaths", []string{"['" + id + "', 'none']"}, "({'" + id + "': b'" + file + "'},)", ""},
		{docs, "GrantPermissions", []string{id, appB, "['read', 'write']"}, "()", ""},
		{docs, "GrantPermissions", []string{id, appB, "['execute']"}, "", portalError + "InvalidArgument"},
		{docs, "GrantPermissions", []string{"none", appB, "['read']"}, "", portalError + "NotFound"},
		{docs, "RevokePermissions", []string{id, appA, "['read']"}, "()", ""},
		{docs, "RevokePermissions", []string{"none", appA, "['read']"}, "", portalError + "NotFound"},
		{docs, "Info", []string{id}, "(b'" + file + "', {'" + appB + "': ['read', 'write']})", ""},
		{docs, "Delete", []string{transient}, "()", ""},
		{docs, "Delete", []string{transient}, "", portalError + "NotFound"},
		// Its standard input is no file; in an array it sends no descriptors.
		{docs, "Add", []string{"0", "true", "true"}, "", portalError + "InvalidArgument"},
		{docs, "AddNamed", []string{"0", "b'x'", "true", "true"}, "", portalError + "InvalidArgument"},
		{docs, "AddFull", []string{"[handle 7]", "0", "", "@as []"}, "", portalError + "InvalidArgument"},
		{docs, "AddFull", []string{"@ah []", "0", "", "@as []"}, "(@as [], {'mountpoint': <b'" + mount + "'>})", ""},
		{docs, "AddNamedFull", []string{"0", "b'x'", "0", "", "@as []"}, "", portalError + "InvalidArgument"},
		{docs, "Missing", nil, "", "org.freedesktop.DBus.Error.UnknownMethod"},

		// A transfer ends with its starter's connection: with each gdbus.
		{files, "StartTransfer", []string{"{'writable': <false>, 'autostop': <true>}"}, "('*',)", ""},
		{files, "StartTransfer", []string{"{'writable': <'word'>}"}, "", portalError + "InvalidArgument"},
		{files, "AddFiles", []string{"key", "@ah []", "@a{sv} {}"}, "", "org.freedesktop.DBus.Error.AccessDenied"},
		{files, "RetrieveFiles", []string{"key", "@a{sv} {}"}, "", "org.freedesktop.DBus.Error.AccessDenied"},
		{files, "StopTransfer", []string{"key"}, "", "org.freedesktop.DBus.Error.AccessDenied"},

		{store, "Set", []string{"table", "false", "id", "@a{sas} {}", "<byte 0x00>"}, "", portalError + "NotFound"},
		{store, "Set", []string{"table", "true", "id", "{'" + appA + "': ['yes']}", "<('a', b'bytes', [<1>])>"}, "()", ""},
		{store, "Lookup", []string{"table", "id"}, "({'" + appA + "': ['yes']}, <('a', b'bytes', [<1>])>)", ""},
		{store, "Lookup", []string{"table", "none"}, "", portalError + "NotFound"},
		{store, "SetValue", []string{"table", "false", "id", "<uint16 7>"}, "()", ""},
		{store, "SetPermission", []string{"table", "false", "id", appB, "['no', 'ask']"}, "()", ""},
		{store, "Lookup", []string{"table", "id"}, "({'" + appA + "': ['yes'], '" + appB + "': ['no', 'ask']}, <uint16 7>)", ""},
		{store, "GetPermission", []string{"table", "id", appB}, "(['no', 'ask'],)", ""},
		{store, "GetPermission", []string{"table", "id", "org.docportal.None"}, "(@as [],)", ""},
		{store, "List", []string{"table"}, "(['id'],)", ""},
		{store, "List", []string{"none"}, "(@as [],)", ""},
		{store, "DeletePermission", []string{"table", "id", appA}, "()", ""},
		{store, "Lookup", []string{"table", "id"}, "({'" + appB + "': ['no', 'ask']}, <uint16 7>)", ""},
		{store, "Delete", []string{"table", "id"}, "()", ""},
		{store, "Delete", []string{"table", "id"}, "", portalError + "NotFound"},
		{store, "List", []string{"a/b"}, "", portalError + "InvalidArgument"},
	}
	for _, s := range steps {
		name, path := object(s.iface)
		args := append([]string{"call", "--session", "--timeout=10", "--dest=" + name, "--object-path=" + path, "--method=" + s.iface + "." + s.method, "--"}, s.args...)
		o := d.try("gdbus", args...)
		what := fmt.Sprintf("%s %q", s.method, s.args)
		if s.err != "" {
			if o.err == nil || !strings.HasPrefix(o.text, "Error: GDBus.Error:"+s.err+":") {
				t.Errorf("%s:\n%s (%v), want %s", what, o.text, o.err, s.err)
			}
			continue
		}
		if before, after, ok := strings.Cut(s.want, "*"); ok && strings.HasPrefix(o.text, before) && strings.HasSuffix(o.text, after) {
			o.text = s.want
		}
		if o.err != nil || o.text != s.want {
			t.Errorf("%s:\n%s (%v), want\n%s", what, o.text, o.err, s.want)
		}
	}
	allCalled(t, steps)
}

// gdbus passes descriptors of its own, which its standard input is.
func TestGdbusAddsItsStandardInput(t *testing.T) {
	d := start(t)
	file := d.file("letter.txt", "Dear all,\n")
	missing := filepath.Join(d.Home, "missing.txt")
	for _, c := range []struct {
		stdin, method string
		args          []string
		path          string
		apps          map[string][]string
	}{
		{file, "Add", []string{"0", "true", "true"}, file, nil},
		{file, "Add", []string{"0", "false", "false"}, file, nil},
		{d.Home, "AddNamed", []string{"0", "b'missing.txt'", "true", "true"}, missing, nil},
		{d.Home, "AddNamedFull", []string{"0", "b'missing.txt'", "2", appA, "['read', 'write']"}, missing, map[string][]string{appA: {"read", "write"}}},
	} {
		before := d.documents("")
		stdin, err := os.Open(c.stdin)
		if err != nil {
			t.Fatal(err)
		}
		cmd := d.Command("gdbus", append([]string{"call", "--session", "--dest=" + documentsName, "--object-path=" + documentsPath, "--method=" + documentsName + "." + c.method, "--"}, c.args...)...)
		cmd.Stdin = stdin
		o := d.end(cmd)
		stdin.Close()
		id, _, _ := strings.Cut(strings.TrimPrefix(o.text, "('"), "'")
		if o.err != nil || before[id] != "" || d.documents("")[id] != c.path {
			t.Errorf("%s %q of %s: %s (%v)\nbefore %v\nafter %v", c.method, c.args, c.stdin, o.text, o.err, before, d.documents(""))
			continue
		}
		d.wantDocument(id, c.path, c.apps)
	}
}

// allCalled checks that every method of every interface is in the table.
func allCalled(t *testing.T, steps []step) {
	t.Helper()
	called := make(map[string]bool)
	for _, s := range steps {
		called[s.iface+"."+s.method] = true
	}
	for _, iface := range []string{documentsName, transferName, storeName} {
		for method := range interfaces.Methods(interfaces.Interface(iface)) {
			if !called[iface+"."+method] {
				t.Errorf("%s.%s was not called", iface, method)
			}
		}
	}
}

// bytes writes a byte string without a NUL in GVariant's text format.
func bytes(s string) string {
	var words []string
	for _, b := range []byte(s) {
		words = append(words, fmt.Sprintf("0x%02x", b))
	}
	return "[byte " + strings.Join(words, ", ") + "]"
}

func TestGdbusProperties(t *testing.T) {
	d := start(t)
	for iface, version := range map[string]int{documentsName: 5, transferName: 1, storeName: 2} {
		name, path := object(iface)
		call := []string{"call", "--session", "--dest=" + name, "--object-path=" + path}
		properties := func(method string, args ...string) []string {
			return append(append(call[:len(call):len(call)], "--method=org.freedesktop.DBus.Properties."+method, iface), args...)
		}
		wantEqual(t, "Get", d.run("gdbus", properties("Get", "version")...), fmt.Sprintf("(<uint32 %d>,)", version))
		wantEqual(t, "GetAll", d.run("gdbus", properties("GetAll")...), fmt.Sprintf("({'version': <uint32 %d>},)", version))
		d.fails("org.freedesktop.DBus.Error.PropertyReadOnly", "gdbus", properties("Set", "version", "<uint32 9>")...)
		d.fails("org.freedesktop.DBus.Error.UnknownProperty", "gdbus", properties("Get", "other")...)
		d.fails("org.freedesktop.DBus.Error.UnknownInterface", "gdbus", append(call, "--method=org.freedesktop.DBus.Properties.Get", "org.docportal.None", "version")...)
		wantEqual(t, "Ping", d.run("gdbus", append(call, "--method=org.freedesktop.DBus.Peer.Ping")...), "()")
		only := d.run("gdbus", "introspect", "--session", "--dest="+name, "--object-path="+path, "--only-properties")
		if !strings.Contains(only, fmt.Sprintf("readonly u version = %d;", version)) {
			t.Errorf("introspect --only-properties of %s:\n%s", name, only)
		}
	}
}

// node is what introspection data say, without the comments.
type node struct {
	Name       string     `xml:"name,attr"`
	Interfaces []ifaceXML `xml:"interface"`
	Nodes      []node     `xml:"node"`
}

type ifaceXML struct {
	Name       string      `xml:"name,attr"`
	Methods    []memberXML `xml:"method"`
	Signals    []memberXML `xml:"signal"`
	Properties []memberXML `xml:"property"`
}

type memberXML struct {
	Name        string      `xml:"name,attr"`
	Type        string      `xml:"type,attr"`
	Direction   string      `xml:"direction,attr"`
	Access      string      `xml:"access,attr"`
	Value       string      `xml:"value,attr"`
	Args        []memberXML `xml:"arg"`
	Annotations []memberXML `xml:"annotation"`
}

// standard are the interfaces that every object has.
var standard = []string{
	"org.freedesktop.DBus.Introspectable",
	"org.freedesktop.DBus.Peer",
	"org.freedesktop.DBus.Properties",
}

func TestIntrospectionIsWhatIsWrittenDown(t *testing.T) {
	d := start(t)
	for path, own := range map[string][]string{
		documentsPath: {documentsName, transferName},
		storePath:     {storeName},
	} {
		name, _ := object(own[0])
		for program, args := range map[string][]string{
			"gdbus":  {"introspect", "--session", "--xml", "--dest", name, "--object-path", path},
			"busctl": {"--address=" + d.Address, "introspect", "--xml-interface", name, path},
		} {
			out := d.run(program, args...)
			var n node
			if err := xml.Unmarshal([]byte(out), &n); err != nil {
				t.Fatalf("%s of %s: %v\n%s", program, path, err, out)
			}
			got := make(map[string]ifaceXML)
			for _, i := range n.Interfaces {
				got[i.Name] = i
			}
			if len(got) != len(n.Interfaces) || len(got) != len(own)+len(standard) {
				t.Errorf("%s: interfaces of %s: %v", program, path, got)
			}
			for _, name := range standard {
				if _, ok := got[name]; !ok {
					t.Errorf("%s: %s has no %s", program, path, name)
				}
			}
			for _, name := range own {
				var want ifaceXML
				if err := xml.Unmarshal([]byte(interfaces.Interface(name)), &want); err != nil {
					t.Fatal(err)
				}
				if !reflect.DeepEqual(got[name], want) {
					t.Errorf("%s: %s is\n%+v, want\n%+v", program, name, got[name], want)
				}
			}
		}
	}
}

func TestObjectsAreFoundFromTheRoot(t *testing.T) {
	d := start(t)
	for _, name := range []string{documentsName, storeName} {
		out := d.run("busctl", "--address="+d.Address, "--list", "tree", name)
		objects := make(map[string]bool)
		for path := range strings.FieldsSeq(out) {
			objects[path] = true
		}
		for _, path := range []string{documentsPath, storePath} {
			if !objects[path] {
				t.Errorf("tree of %s has no %s:\n%s", name, path, out)
			}
		}
		out = d.run("gdbus", "introspect", "--session", "--recurse", "--dest", name, "--object-path", "/")
		for _, iface := range []string{documentsName, transferName, storeName} {
			if !strings.Contains(out, "interface "+iface+" {") {
				t.Errorf("from the root of %s there is no %s:\n%s", name, iface, out)
			}
		}
	}
}

// reply is what "busctl --json=short" prints.
type reply struct {
	Type string          `json:"type"`
	Data json.RawMessage `json:"data"`
}

func TestBusctlCallsEachMethodThatTakesNoDescriptors(t *testing.T) {
	d := start(t)
	file := d.file("letter.txt", "Dear all,\n")
	mount := d.mount()
	id := d.add(file, 1|2, appA, "read")
	ay := func(s string) []string {
		args := []string{fmt.Sprint(len(s) + 1)}
		for _, b := range []byte(s + "\x00") {
			args = append(args, fmt.Sprint(b))
		}
		return args
	}
	data := func(values ...any) string {
		b, err := json.Marshal(values)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	numbers := func(s string) (n []int) {
		for _, b := range []byte(s + "\x00") {
			n = append(n, int(b))
		}
		return n
	}
	args := func(words ...string) []string { return words }
	const docs, files, store = documentsName, transferName, storeName
	steps := []step{
		{docs, "GetMountPoint", nil, "ay " + data(numbers(mount)), ""},
		{docs, "Lookup", append(args("ay"), ay(file)...), "s " + data(id), ""},
		{docs, "Lookup", append(args("ay"), ay("/")...), "s " + data(""), ""},
		{docs, "Info", args("s", id), "aya{sas} " + data(numbers(file), map[string][]string{appA: {"read"}}), ""},
		{docs, "List", args("s", ""), "a{say} " + data(map[string][]int{id: numbers(file)}), ""},
		{docs, "GetHostPaths", args("as", "2", id, "none"), "a{say} " + data(map[string][]int{id: numbers(file)}), ""},
		{docs, "GrantPermissions", args("ssas", id, appB, "1", "write"), "", ""},
		{docs, "RevokePermissions", args("ssas", id, appA, "1", "read"), "", ""},
		{docs, "Info", args("s", id), "aya{sas} " + data(numbers(file), map[string][]string{appB: {"write"}}), ""},
		{docs, "AddFull", args("ahusas", "0", "0", "", "0"), "asa{sv} " + data([]int{}, map[string]any{"mountpoint": map[string]any{"type": "ay", "data": numbers(mount)}}), ""},
		{docs, "Delete", args("s", id), "", ""},
		{docs, "Delete", args("s", id), "", "no such document"},
		{docs, "Delete", args("u", "7"), "", "u"},
		{files, "RetrieveFiles", args("sa{sv}", "key", "0"), "", "Access denied"},
		{files, "AddFiles", args("saha{sv}", "key", "0", "0"), "", "Access denied"},
		{files, "StopTransfer", args("s", "key"), "", "Access denied"},
		{store, "Set", args("sbsa{sas}v", "table", "true", "id", "1", appA, "1", "yes", "(sai)", "text", "2", "1", "2"), "", ""},
		{store, "Lookup", args("ss", "table", "id"), "a{sas}v " + data(map[string][]string{appA: {"yes"}}, map[string]any{"type": "(sai)", "data": []any{"text", []int{1, 2}}}), ""},
		{store, "SetValue", args("sbsv", "table", "false", "id", "d", "2.5"), "", ""},
		{store, "SetPermission", args("sbssas", "table", "false", "id", appB, "0"), "", ""},
		{store, "Lookup", args("ss", "table", "id"), "a{sas}v " + data(map[string][]string{appA: {"yes"}, appB: {}}, map[string]any{"type": "d", "data": 2.5}), ""},
		{store, "GetPermission", args("sss", "table", "id", appA), "as " + data([]string{"yes"}), ""},
		{store, "List", args("s", "table"), "as " + data([]string{"id"}), ""},
		{store, "DeletePermission", args("sss", "table", "id", appA), "", ""},
		{store, "Delete", args("ss", "table", "id"), "", ""},
		{store, "Lookup", args("ss", "table", "id"), "", "no entry"},
	}
	for _, s := range steps {
		name, path := object(s.iface)
		o := d.try("busctl", append([]string{"--address=" + d.Address, "--timeout=10", "--json=short", "call", "--", name, path, s.iface, s.method}, s.args...)...)
		what := fmt.Sprintf("%s %q", s.method, s.args)
		if s.err != "" {
			if o.err == nil || !strings.HasPrefix(o.text, "Call failed: ") || !strings.Contains(o.text, s.err) {
				t.Errorf("%s:\n%s (%v), want %q", what, o.text, o.err, s.err)
			}
			continue
		}
		if o.err != nil {
			t.Errorf("%s: %v\n%s", what, o.err, o.text)
			continue
		}
		if s.want == "" {
			// An empty reply has no JSON.
			if o.text != "" && o.text != "{}" {
				t.Errorf("%s: %s", what, o.text)
			}
			continue
		}
		signature, want, _ := strings.Cut(s.want, " ")
		var r reply
		if err := json.Unmarshal([]byte(o.text), &r); err != nil {
			t.Errorf("%s: %v\n%s", what, err, o.text)
			continue
		}
		var gotData, wantData any
		if err := json.Unmarshal(r.Data, &gotData); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(want), &wantData); err != nil {
			t.Fatal(err)
		}
		if r.Type != signature || !reflect.DeepEqual(gotData, wantData) {
			t.Errorf("%s:\n%s, want %s", what, o.text, s.want)
		}
	}
}

func TestBusctlProperties(t *testing.T) {
	d := start(t)
	for iface, version := range map[string]int{documentsName: 5, transferName: 1, storeName: 2} {
		name, path := object(iface)
		wantEqual(t, "get-property", d.run("busctl", "--address="+d.Address, "get-property", name, path, iface, "version"), fmt.Sprint("u ", version))
		d.fails("read-only", "busctl", "--address="+d.Address, "set-property", name, path, iface, "version", "u", "9")
		out := d.run("busctl", "--address="+d.Address, "introspect", name, path, iface)
		members := make(map[string]string) // name to what it is
		for line := range strings.Lines(out) {
			if f := strings.Fields(line); strings.HasPrefix(f[0], ".") {
				members[f[0][1:]] = strings.Join(f[1:4], " ")
			}
		}
		want := map[string]string{"version": fmt.Sprint("property u ", version)}
		dash := func(signature string) string {
			if signature == "" {
				return "-"
			}
			return signature
		}
		for method, s := range interfaces.Methods(interfaces.Interface(iface)) {
			want[method] = "method " + dash(s.In) + " " + dash(s.Out)
		}
		for signal, s := range interfaces.Signals(interfaces.Interface(iface)) {
			want[signal] = "signal " + dash(s) + " -"
		}
		if !maps.Equal(members, want) {
			t.Errorf("introspect %s:\n%v, want\n%v", iface, members, want)
		}
	}
}

// Whoever watches the permission store sees what others change.
func TestGdbusMonitorSeesChanges(t *testing.T) {
	d := start(t)
	cmd := d.Command("gdbus", "monitor", "--session", "--dest="+storeName)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Start(cmd); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(answerLimit, func() { cmd.Process.Kill() })
	defer func() {
		late.Stop()
		cmd.Process.Kill()
		cmd.Wait()
	}()
	lines := bufio.NewScanner(out)
	next := func(with string) string {
		t.Helper()
		for lines.Scan() {
			if strings.Contains(lines.Text(), with) {
				return lines.Text()
			}
		}
		t.Fatalf("gdbus monitor ended before it said %q", with)
		return ""
	}
	// It says who owns the name when it listens.
	d.ask(storeName, "List", []any{"none"})
	next("is owned by")
	set := func(words ...string) {
		t.Helper()
		args := []string{"call", "--session", "--dest=" + storeName, "--object-path=" + storePath}
		d.run("gdbus", append(args, words...)...)
	}
	const changed = storePath + ": " + storeName + ".Changed "
	for _, c := range []struct {
		call []string
		want string
	}{
		{[]string{"SetPermission", "table", "true", "id", appA, "['yes']"}, "('table', 'id', false, <byte 0x00>, {'" + appA + "': ['yes']})"},
		{[]string{"SetValue", "table", "false", "id", "<'text'>"}, "('table', 'id', false, <'text'>, {'" + appA + "': ['yes']})"},
		{[]string{"DeletePermission", "table", "id", appA}, "('table', 'id', false, <'text'>, @a{sas} {})"},
		{[]string{"Delete", "table", "id"}, "('table', 'id', true, <'text'>, @a{sas} {})"},
	} {
		set(append([]string{"--method=" + storeName + "." + c.call[0]}, c.call[1:]...)...)
		if got := next(".Changed "); got != changed+c.want {
			t.Errorf("%q:\n%s, want\n%s", c.call, got, changed+c.want)
		}
	}
	// A document's permissions are an entry of the store.
	id := d.add(d.file("letter.txt", ""), 2, appA, "read")
	if got := next(".Changed "); !strings.Contains(got, "('documents', '"+id+"', false, <(b'"+filepath.Join(d.Home, "letter.txt")+"'") {
		t.Errorf("of a new document: %s", got)
	}
}
