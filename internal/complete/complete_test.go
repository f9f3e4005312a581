package complete

import (
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

type line struct {
	Verbose bool     `help:"Say more."`
	Socket  []string `complete:"=wayland|x11" short:"s" help:"Let in."`
	Any     string   `help:"Anything."`
	Secret  bool     `hidden:""`

	List struct {
		JSON bool   `name:"json"`
		App  string `arg:"" optional:"" complete:"app"`
	} `cmd:"" help:"List."`
	Give struct {
		Doc  string   `arg:"" complete:"document"`
		Perm []string `arg:"" complete:"=read|write"`
	} `cmd:"" help:"Give."`
	Run struct {
		App  string   `arg:"" complete:"app"`
		Args []string `arg:"" optional:"" passthrough:"partial"`
	} `cmd:""`
	Hidden struct{} `cmd:"" hidden:""`
}

func TestCandidates(t *testing.T) {
	parser := kong.Must(new(line))
	values := func(kind string, before []string) []Candidate {
		return []Candidate{{Word: kind + strings.Join(before, "+")}, {Word: "zzz"}}
	}
	for typed, want := range map[string]string{
		"":                           "list give run",
		"g":                          "give",
		"nothing":                    "",
		"-":                          "--help --verbose --socket --any",
		"--v":                        "--verbose",
		"list --":                    "--json --help --verbose --socket --any",
		"list --json ":               "app zzz",
		"list a":                     "app",
		"list a ":                    "",
		"list -- -":                  "",
		"give ":                      "document zzz",
		"give d ":                    "read write",
		"give d read w":              "write",
		"--socket ":                  "wayland x11",
		"-s w":                       "wayland",
		"--socket=x":                 "--socket=x11",
		"--socket = x":               "x11",
		"--socket =":                 "wayland x11",
		"--socket = x11 --verbose l": "list",
		"--any x li":                 "list",
		"--any ":                     "",
		"--verbose l":                "list",
		"run ":                       "app zzz",
		"run a x -":                  "",
		"run a x --socket ":          "",
	} {
		var got []string
		for _, c := range Candidates(parser.Model, strings.Split(typed, " "), values) {
			got = append(got, c.Word)
		}
		if w := strings.Fields(want); !slices.Equal(got, w) {
			t.Errorf("%q: %v, want %v", typed, got, w)
		}
	}
}

// A word that a shell would take for two is not offered.
func TestPrint(t *testing.T) {
	var b strings.Builder
	parser := kong.Must(new(line))
	any := Print(&b, parser.Model, []string{"list", ""}, func(string, []string) []Candidate {
		return []Candidate{{"a\tb", ""}, {"c\nd", ""}, {"e", "one\ttwo\nthree"}}
	})
	if got := b.String(); !any || got != "e\tone two\n" {
		t.Errorf("%q, %v", got, any)
	}
}
