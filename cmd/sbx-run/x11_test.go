package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

const cookieName = "MIT-MAGIC-COOKIE-1"

// xauthority FILE NUMBER: a cookie file for the display with that number of
// this machine.
func xauthority(ts *testscript.TestScript, neg bool, args []string) {
	host, err := os.Hostname()
	ts.Check(err)
	data := binary.BigEndian.AppendUint16(nil, 256) // of a local display
	for _, field := range []string{host, args[1], cookieName, "0123456789abcdef"} {
		data = binary.BigEndian.AppendUint16(data, uint16(len(field)))
		data = append(data, field...)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), data, 0o600))
}

// x11 opens the display as clients do, with the cookie of XAUTHORITY if there
// is one, and prints what the server says.
func x11() {
	c, err := net.DialTimeout("unix", "/tmp/.X11-unix/X"+strings.TrimPrefix(os.Getenv("DISPLAY"), ":"), 5*time.Second)
	fatalIf(err)
	c.SetDeadline(time.Now().Add(5 * time.Second))
	name, secret := "", ""
	if data, err := os.ReadFile(os.Getenv("XAUTHORITY")); err == nil && len(data) >= 16 {
		name, secret = cookieName, string(data[len(data)-16:])
	}
	hello := []byte{'l', 0, 11, 0, 0, 0, byte(len(name)), 0, byte(len(secret)), 0, 0, 0}
	for _, s := range []string{name, secret} {
		hello = append(hello, s...)
		for len(hello)%4 != 0 {
			hello = append(hello, 0)
		}
	}
	_, err = c.Write(hello)
	fatalIf(err)
	var reply [8]byte
	_, err = io.ReadFull(c, reply[:])
	fatalIf(err)
	fmt.Println("display", map[byte]string{0: "refused", 1: "opened"}[reply[0]])
}
