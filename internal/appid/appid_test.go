package appid

import (
	"strings"
	"testing"
)

func TestValid(t *testing.T) {
	long := "a." + strings.Repeat("b", MaxLength-2)
	for id, want := range map[string]bool{
		"":                    false,
		"firefox":             false,
		".":                   false,
		"..":                  false,
		"a.b":                 true,
		"org.mozilla.firefox": true,
		"a..b":                false,
		".a.b":                false,
		"a.b.":                false,
		"a.b-c":               true,
		"a-b.c":               false,
		"a.b-c.d":             false,
		"a.-":                 true,
		"a._":                 true,
		"1.2":                 true,
		"a.b/c":               false,
		"a/../b.c":            false,
		"a.b\x00":             false,
		"a.b\n":               false,
		"a.ü":                 false,
		"a b.c":               false,
		long:                  true,
		long + "b":            false,
	} {
		if got := Valid(id); got != want {
			t.Errorf("Valid(%q) = %v, want %v", id, got, want)
		}
	}
}

func TestLaunchable(t *testing.T) {
	for id, want := range map[string]bool{
		"org.mozilla.firefox":     true,
		"snap.firefox":            false,
		"org.freedesktop.Flatpak": false,
		"org.freedesktopx.App":    true,
		"firefox":                 false,
	} {
		if got := Launchable(id); got != want {
			t.Errorf("Launchable(%q) = %v, want %v", id, got, want)
		}
	}
}
