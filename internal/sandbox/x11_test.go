package sandbox

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func cookie(family uint16, fields ...string) string {
	b := binary.BigEndian.AppendUint16(nil, family)
	for _, f := range fields {
		b = binary.BigEndian.AppendUint16(b, uint16(len(f)))
		b = append(b, f...)
	}
	return string(b)
}

// The app gets the cookies of its own display and of no other, under the
// number that the display has in the sandbox.
func TestOnlyTheDisplaysOwnCookies(t *testing.T) {
	const name, secret = "MIT-MAGIC-COOKIE-1", "0123456789abcdef"
	mine := cookie(familyWild, "", appDisplay, name, secret)
	for _, c := range []struct{ rule, file, want string }{
		{"of this host and number", cookie(familyLocal, "here", "0", name, secret), mine},
		{"of any host", cookie(familyWild, "", "0", name, secret), mine},
		{"of any number", cookie(familyLocal, "here", "", name, secret), mine},
		{"of another number", cookie(familyLocal, "here", "10", name, secret), ""},
		{"of another host", cookie(familyLocal, "there", "0", name, secret), ""},
		{"of an IPv4 address", cookie(0, "\x7f\x00\x00\x01", "0", name, secret), ""},
		{"among others", cookie(familyLocal, "there", "0", name, "x") + cookie(familyLocal, "here", "0", name, secret) + cookie(familyLocal, "here", "1", name, "y"), mine},
		{"nothing", "", ""},
		{"broken off", cookie(familyLocal, "here", "0", name, secret) + cookie(familyLocal, "here", "0", name, secret)[:30], mine},
		{"a length beyond the end", "\x01\x00\xff\xff", ""},
	} {
		if got := cookiesFor([]byte(c.file), "here", "0"); string(got) != c.want {
			t.Errorf("%s: %q, want %q", c.rule, got, c.want)
		}
	}
}

func TestCookieFilesThatAreNone(t *testing.T) {
	dir := t.TempDir()
	if b, err := readSmall(dir+"/none", maxCookies); err != nil || b != nil {
		t.Errorf("no file: %q, %v", b, err)
	}
	pipe, big := filepath.Join(dir, "pipe"), filepath.Join(dir, "big")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	write(t, big, "")
	if err := os.Truncate(big, maxCookies+1); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, pipe, big} {
		if _, err := readSmall(path, maxCookies); err == nil || !strings.Contains(err.Error(), "no cookie file") {
			t.Errorf("%s: %v", path, err)
		}
	}
}
