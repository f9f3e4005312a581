package sandbox

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
)

// BusAddress is where a message bus listens: the entries of a D-Bus address
// (D-Bus specification, "Server Addresses") that a client can connect to.
type BusAddress struct {
	Address  string   // for xdg-dbus-proxy
	Sockets  []string // paths of sockets that the proxy must see
	Abstract bool     // an entry is an abstract socket
	dials    []dial   // what each entry connects to
}

// dial is what net.Dial takes.
type dial struct{ network, address string }

// reach finds out whether anything listens at the address.
func (a BusAddress) reach(ctx context.Context) error {
	var d net.Dialer
	var last error
	for _, to := range a.dials {
		c, err := d.DialContext(ctx, to.network, to.address)
		if err == nil {
			return c.Close()
		}
		last = err
	}
	return last
}

// ParseAddress reads a D-Bus address. Entries that only a server or nobody
// here can use are left out; an address without any other is an error.
func ParseAddress(raw, runtimeDir string) (BusAddress, error) {
	var a BusAddress
	var kept []string
	err := errors.New("empty")
	for _, entry := range strings.Split(raw, ";") {
		if entry == "" {
			continue
		}
		transport, rest, ok := strings.Cut(entry, ":")
		if !ok {
			return a, fmt.Errorf("bus address %q: an entry without a transport", raw)
		}
		keys := map[string]string{}
		for _, kv := range strings.Split(rest, ",") {
			if kv == "" {
				continue
			}
			k, v, ok := strings.Cut(kv, "=")
			v, verr := unescapeAddress(v)
			if !ok || verr != nil {
				return a, fmt.Errorf("bus address %q: %q is no key=value", raw, kv)
			}
			keys[k] = v
		}
		switch {
		case transport == "unix" && filepath.IsAbs(keys["path"]):
			a.Sockets = append(a.Sockets, filepath.Clean(keys["path"]))
			a.dials = append(a.dials, dial{"unix", keys["path"]})
		case transport == "unix" && keys["abstract"] != "":
			a.Abstract = true
			a.dials = append(a.dials, dial{"unix", "@" + keys["abstract"]})
		case transport == "unix" && keys["runtime"] == "yes":
			path := filepath.Join(runtimeDir, "bus")
			a.Sockets = append(a.Sockets, path)
			a.dials = append(a.dials, dial{"unix", path})
			entry = "unix:path=" + escapeAddress(path)
		case transport == "tcp", transport == "nonce-tcp" && filepath.IsAbs(keys["noncefile"]):
			a.dials = append(a.dials, dial{"tcp", net.JoinHostPort(keys["host"], keys["port"])})
			if f := keys["noncefile"]; f != "" {
				a.Sockets = append(a.Sockets, filepath.Clean(f))
			}
		default:
			err = fmt.Errorf("cannot use %q", entry)
			continue
		}
		kept = append(kept, entry)
	}
	if len(kept) == 0 {
		return a, fmt.Errorf("bus address %q: %w", raw, err)
	}
	a.Address = strings.Join(kept, ";")
	return a, nil
}

func unescapeAddress(s string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b.WriteByte(s[i])
			continue
		}
		if i+2 >= len(s) {
			return "", errors.New("half an escape")
		}
		c, err := hex.DecodeString(s[i+1 : i+3])
		if err != nil || c[0] == 0 {
			return "", errors.New("no escape")
		}
		b.WriteByte(c[0])
		i += 2
	}
	return b.String(), nil
}

// escapeAddress escapes a value of a D-Bus address.
func escapeAddress(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-_/.\\*", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02x", c)
		}
	}
	return b.String()
}
