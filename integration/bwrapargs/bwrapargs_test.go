package bwrapargs

import (
	"errors"
	"slices"
	"testing"
)

func noFD(int) ([]byte, error) { return nil, errors.New("no such descriptor") }

func TestParse(t *testing.T) {
	args := func(fd int) ([]byte, error) {
		if fd != 9 {
			return noFD(fd)
		}
		return []byte("--tmpfs\x00/tmp\x00--perms\x000600\x00--file\x004\x00/.flatpak-info\x00"), nil
	}
	p, err := Parse([]string{"--unshare-user", "--args", "9", "--info-fd", "5", "--", "prog", "--args", "1"}, args)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"--unshare-user", "--tmpfs", "/tmp", "--perms", "0600", "--file", "4", "/.flatpak-info", "--info-fd", "5", "--", "prog", "--args", "1"}
	if got := p.Argv(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestParseRefusesWhatItDoesNotKnow(t *testing.T) {
	for _, args := range [][]string{{"--new-thing", "x", "--", "prog"}, {"--bind", "/a"}, {"--args", "x"}, {"--args", "3"}} {
		if p, err := Parse(args, noFD); err == nil {
			t.Errorf("%q: got %q, want an error", args, p.Argv())
		}
	}
}

func TestDropTakesTheModeAlong(t *testing.T) {
	p, err := Parse([]string{"--perms", "0600", "--file", "4", "/a", "--perms", "0700", "--file", "5", "/b", "--", "prog"}, noFD)
	if err != nil {
		t.Fatal(err)
	}
	if fds := p.Drop("--file", "/a"); !slices.Equal(fds, []int{4}) {
		t.Errorf("descriptors: got %v, want [4]", fds)
	}
	if got, want := p.Argv(), []string{"--perms", "0700", "--file", "5", "/b", "--", "prog"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
