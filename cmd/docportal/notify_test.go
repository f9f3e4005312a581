package main

import (
	"net"
	"path/filepath"
	"testing"
	"time"

	"docportal/internal/documents"
)

// TestNotify: a service manager hears of it when the names are taken, once,
// and not before.
func TestNotify(t *testing.T) {
	s := newSession(t)
	path := filepath.Join(s.dir, "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	s.start(s.bus)
	l.SetReadDeadline(time.Now().Add(deadline))
	b := make([]byte, 100)
	n, err := l.Read(b)
	if err != nil || string(b[:n]) != "READY=1\n" {
		t.Fatalf("%q, %v", b[:n], err)
	}
	if s.pid(s.conn, documents.Name) == 0 {
		t.Error("ready without the names")
	}
}
