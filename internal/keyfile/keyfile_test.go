package keyfile

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	f, err := Parse([]byte("# comment\n\n[Application]\nname = org.example.App\r\n  indented=1\n[Context]\nshared=network;ipc;\nempty=\nesc=a\\sb\\;c;d\\\\;\n[Application]\nname=org.example.Later\n"))
	if err != nil {
		t.Fatal(err)
	}
	if s, err := f.String("Application", "name"); s != "org.example.Later" || err != nil {
		t.Errorf("name = %q, %v", s, err)
	}
	if s, _ := f.String("Application", "indented"); s != "1" {
		t.Errorf("indented = %q", s)
	}
	for key, want := range map[string][]string{
		"shared": {"network", "ipc"}, "empty": {}, "esc": {"a b;c", `d\`}, "absent": nil,
	} {
		got, err := f.List("Context", key)
		if err != nil || len(got) != len(want) || len(got) > 0 && !reflect.DeepEqual(got, want) {
			t.Errorf("%s = %q, %v, want %q", key, got, err, want)
		}
	}
	if len(f.Groups()) != 2 {
		t.Errorf("%d groups, want 2", len(f.Groups()))
	}
	if f.Has("Nope", "x") || f.Has("Context", "x") || !f.Has("Context", "empty") {
		t.Error("Has")
	}
}

func TestParseErrors(t *testing.T) {
	for _, c := range []struct {
		text string
		line int
	}{
		{"key=before group", 1},
		{"[A]\nno equals sign", 2},
		{"[A]\n=no key", 2},
		{"[A\n", 1},
		{"[A]trailing\n", 1},
		{"[]\n", 1},
		{"[A[B]\n", 1},
		{"[A]\nx=\xff\n", 2},
		{"[A]\nx=a\x00b\n", 2},
		{"[A]\nx=a\r\r\n", 2},
	} {
		var se *SyntaxError
		if _, err := Parse([]byte(c.text)); !errors.As(err, &se) || se.Line != c.line {
			t.Errorf("Parse(%q) = %v, want an error in line %d", c.text, err, c.line)
		}
	}
	f, _ := Parse([]byte("[A]\nbad=\\q\nend=x\\\n"))
	for _, k := range []string{"bad", "end"} {
		if _, err := f.String("A", k); err == nil {
			t.Errorf("%s: no error", k)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("[A]\nk=v;w\\;;\n"))
	f.Add([]byte("[A]\n\\=\\s\n[B]\n"))
	f.Add([]byte("[A]\nk=\r\r\nl=v\r\r\nm\f=\fw"))
	f.Add([]byte("[A]\nl=v\\\r\nm\f=\f\rw\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Parse(data)
		if err != nil {
			return
		}
		again, err := Parse(file.Bytes())
		if err != nil {
			t.Fatalf("written text does not parse: %v\n%q", err, file.Bytes())
		}
		if !bytes.Equal(again.Bytes(), file.Bytes()) {
			t.Fatalf("not stable: %q, %q", file.Bytes(), again.Bytes())
		}
		for _, g := range file.Groups() {
			for _, e := range g.Entries() {
				was, errWas := e.String()
				is, errIs := again.String(g.Name, e.Key)
				if was != is || (errWas == nil) != (errIs == nil) {
					t.Fatalf("%s: %q (%v) became %q (%v)", e.Key, was, errWas, is, errIs)
				}
			}
		}
	})
}

func FuzzRoundTrip(f *testing.F) {
	f.Add(" a;b\\\n", "x")
	f.Add("x\f", "\f")
	f.Fuzz(func(t *testing.T, a, b string) {
		if strings.HasPrefix(a, "\f") {
			return // white space before a value, for which the syntax has no other form
		}
		var in, out File
		in.Set("G", "s", a)
		in.SetList("G", "l", []string{a, b, "end"})
		p, err := Parse(in.Bytes())
		if err != nil {
			return // not UTF-8, or NUL
		}
		out = *p
		if s, err := out.String("G", "s"); err != nil || s != a {
			t.Fatalf("%q came back as %q, %v", a, s, err)
		}
		if l, err := out.List("G", "l"); err != nil || !reflect.DeepEqual(l, []string{a, b, "end"}) {
			t.Fatalf("list came back as %q, %v", l, err)
		}
	})
}
