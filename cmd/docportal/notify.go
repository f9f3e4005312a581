package main

import (
	"net"
	"os"
	"strings"
)

// notifyReady tells a service manager that names and store are ours, in the
// way of sd_notify(3), which OpenRC understands too. Nobody need listen.
func notifyReady() {
	socket := os.Getenv("NOTIFY_SOCKET")
	if !strings.HasPrefix(socket, "/") && !strings.HasPrefix(socket, "@") {
		return
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return
	}
	defer c.Close()
	c.Write([]byte("READY=1\n"))
}
