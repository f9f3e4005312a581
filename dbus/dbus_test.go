package dbus

import (
	"encoding/xml"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// node is the D-Bus introspection format as far as it is used here.
type node struct {
	Interfaces []struct {
		Name    string `xml:"name,attr"`
		Methods []struct {
			Name        string `xml:"name,attr"`
			Args        []arg  `xml:"arg"`
			Annotations []struct {
				Name  string `xml:"name,attr"`
				Value string `xml:"value,attr"`
			} `xml:"annotation"`
		} `xml:"method"`
		Signals []struct {
			Name string `xml:"name,attr"`
			Args []arg  `xml:"arg"`
		} `xml:"signal"`
		Properties []struct {
			Name   string `xml:"name,attr"`
			Type   string `xml:"type,attr"`
			Access string `xml:"access,attr"`
		} `xml:"property"`
	} `xml:"interface"`
}

type arg struct {
	Name      string `xml:"name,attr"`
	Type      string `xml:"type,attr"`
	Direction string `xml:"direction,attr"`
}

// want is what the specification lists.
var want = map[string]struct {
	methods map[string]Signature
	signals map[string]string
}{
	Documents: {methods: map[string]Signature{
		"GetMountPoint":     {"", "ay"},
		"Add":               {"hbb", "s"},
		"AddNamed":          {"haybb", "s"},
		"AddFull":           {"ahusas", "asa{sv}"},
		"AddNamedFull":      {"hayusas", "sa{sv}"},
		"GrantPermissions":  {"ssas", ""},
		"RevokePermissions": {"ssas", ""},
		"Delete":            {"s", ""},
		"Lookup":            {"ay", "s"},
		"Info":              {"s", "aya{sas}"},
		"List":              {"s", "a{say}"},
		"GetHostPaths":      {"as", "a{say}"},
	}},
	FileTransfer: {methods: map[string]Signature{
		"StartTransfer": {"a{sv}", "s"},
		"AddFiles":      {"saha{sv}", ""},
		"RetrieveFiles": {"sa{sv}", "as"},
		"StopTransfer":  {"s", ""},
	}, signals: map[string]string{"TransferClosed": "s"}},
	PermissionStore: {methods: map[string]Signature{
		"Lookup":           {"ss", "a{sas}v"},
		"Set":              {"sbsa{sas}v", ""},
		"SetValue":         {"sbsv", ""},
		"SetPermission":    {"sbssas", ""},
		"DeletePermission": {"sss", ""},
		"GetPermission":    {"sss", "as"},
		"Delete":           {"ss", ""},
		"List":             {"s", "as"},
	}, signals: map[string]string{"Changed": "ssbva{sas}"}},
}

func TestTheXMLSaysWhatTheSpecificationSays(t *testing.T) {
	for name, want := range want {
		data, err := os.ReadFile(name + ".xml")
		if err != nil {
			t.Fatal(err)
		}
		for what, text := range map[string]string{"file": string(data), "element": "<node>" + Interface(name) + "</node>"} {
			var n node
			d := xml.NewDecoder(strings.NewReader(text))
			d.Strict = true
			if err := d.Decode(&n); err != nil {
				t.Fatalf("%s, %s: %v", name, what, err)
			}
			if len(n.Interfaces) != 1 || n.Interfaces[0].Name != name {
				t.Fatalf("%s, %s: not this one interface", name, what)
			}
			i := n.Interfaces[0]
			methods := make(map[string]Signature)
			for _, m := range i.Methods {
				var s Signature
				fds := false
				for _, a := range m.Args {
					switch a.Direction {
					case "in":
						s.In += a.Type
					case "out":
						s.Out += a.Type
					default:
						t.Errorf("%s.%s: argument %q goes %q", name, m.Name, a.Name, a.Direction)
					}
					if a.Name == "" {
						t.Errorf("%s.%s: an argument has no name", name, m.Name)
					}
					fds = fds || strings.Contains(a.Type, "h")
				}
				annotated := len(m.Annotations) == 1 && m.Annotations[0].Name == "org.gtk.GDBus.C.UnixFD" && m.Annotations[0].Value == "true"
				if annotated != fds {
					t.Errorf("%s.%s: descriptors %v, annotated %v", name, m.Name, fds, annotated)
				}
				methods[m.Name] = s
			}
			signals := make(map[string]string)
			for _, s := range i.Signals {
				for _, a := range s.Args {
					signals[s.Name] += a.Type
				}
			}
			if !maps.Equal(methods, want.methods) {
				t.Errorf("%s, %s: methods are\n%v, not\n%v", name, what, methods, want.methods)
			}
			if !maps.Equal(signals, want.signals) {
				t.Errorf("%s, %s: signals are %v, not %v", name, what, signals, want.signals)
			}
			if len(i.Properties) != 1 || i.Properties[0].Name != "version" || i.Properties[0].Type != "u" || i.Properties[0].Access != "read" {
				t.Errorf("%s, %s: properties are %v", name, what, i.Properties)
			}
		}
	}
}

func TestMethodsAndSignalsReadTheXML(t *testing.T) {
	for name, want := range want {
		if got := Methods(Interface(name)); !maps.Equal(got, want.methods) {
			t.Errorf("Methods of %s = %v, want %v", name, got, want.methods)
		}
		if got := Signals(Interface(name)); !maps.Equal(got, want.signals) {
			t.Errorf("Signals of %s = %v, want %v", name, got, want.signals)
		}
	}
}

func TestEachBusNameHasAnActivationFile(t *testing.T) {
	files, err := filepath.Glob("*.service.in")
	if err != nil || len(files) != 2 {
		t.Fatalf("activation files: %v, %v", files, err)
	}
	for _, name := range []string{Documents, PermissionStore} {
		got := Service(name, "/usr/libexec")
		want := "[D-BUS Service]\nName=" + name + "\nExec=/usr/libexec/docportal\n"
		if got != want {
			t.Errorf("Service(%q) = %q, want %q", name, got, want)
		}
	}
}
