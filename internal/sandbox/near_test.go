package sandbox

import "testing"

func TestNearestWordIsSuggested(t *testing.T) {
	words := []string{"network", "ipc", "wayland", "fallback-x11"}
	for _, c := range []struct{ got, want string }{
		{"netwrok", "network"},
		{"Network", "network"},
		{"wayand", "wayland"},
		{"x11-fallback", ""},
		{"ipd", "ipc"},
		{"nothing-like-it", ""},
		{"", ""},
	} {
		if w := nearest(c.got, words); w != c.want {
			t.Errorf("nearest(%q) = %q, want %q", c.got, w, c.want)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"", "ab", 2}, {"ab", "ba", 1}, {"kitten", "sitting", 3}, {"abcd", "abdc", 1}, {"abc", "abc", 0}} {
		if d := distance(c.a, c.b); d != c.want {
			t.Errorf("distance(%q, %q) = %d, want %d", c.a, c.b, d, c.want)
		}
	}
}
