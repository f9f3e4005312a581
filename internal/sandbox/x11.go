package sandbox

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// appDisplay is the number of the X11 display in every sandbox; no server has
// it. Clients try the abstract socket of their display's number first, and the
// one in the file system only if nobody listens there: with the host's number
// they would meet the server's abstract socket in a shared network, which is
// kept from them, and give up.
const appDisplay = "9911"

// x11Dir is where X11 servers have their sockets.
const x11Dir = "/tmp/.X11-unix"

// cookiePath is the X11 cookie file in the sandbox.
const cookiePath = "/run/flatpak/Xauthority"

// x11 plans the socket of the session's X11 display and a cookie for it.
func (pl *Plan) x11() {
	display := pl.Host.Env["DISPLAY"]
	if display == "" {
		return
	}
	number, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(display, "unix"), ":"), ".")
	if _, err := strconv.ParseUint(number, 10, 16); err != nil || !strings.Contains(display, ":") {
		pl.Warnings = append(pl.Warnings, fmt.Sprintf("DISPLAY=%s is not of this machine: no X11", display))
		return
	}
	path := x11Dir + "/X" + number
	if !pl.socket(path, x11Dir+"/X"+appDisplay) {
		pl.Warnings = append(pl.Warnings, fmt.Sprintf("DISPLAY=%s: no socket %s: no X11", display, path))
		return
	}
	pl.Env["DISPLAY"] = ":" + appDisplay
	file := pl.Host.Env["XAUTHORITY"]
	if !filepath.IsAbs(file) {
		file = filepath.Join(pl.Host.Home, ".Xauthority")
	}
	data, err := readSmall(file, maxCookies)
	if err != nil {
		pl.Warnings = append(pl.Warnings, fmt.Sprintf("X11 cookie: %v", err))
	}
	hostname, _ := os.Hostname() // without it, only cookies for any address count
	if data = cookiesFor(data, hostname, number); len(data) > 0 {
		pl.add(Mount{Kind: ROData, Dest: cookiePath, Data: data})
		pl.Env["XAUTHORITY"] = cookiePath
	}
}

// maxCookies bounds the size of a cookie file, in bytes.
const maxCookies = 1 << 20

// readSmall reads a file that programs keep their secrets in, of at most limit
// bytes. None is no error: a server may do without.
func readSmall(path string, limit int64) ([]byte, error) {
	return readCookies(limit)(os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0))
}

// readCookies reads a file that was opened, and closes it.
func readCookies(limit int64) func(*os.File, error) ([]byte, error) {
	return func(f *os.File, err error) ([]byte, error) {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return nil, err
		}
		if !info.Mode().IsRegular() || info.Size() > limit {
			return nil, fmt.Errorf("%s is no cookie file", f.Name())
		}
		return io.ReadAll(io.LimitReader(f, limit))
	}
}

// Address families of cookies (Xauth.h).
const (
	familyLocal = 256   // the address is a host name
	familyWild  = 65535 // any address
)

// cookiesFor takes the cookies for a local display out of a cookie file
// (XauReadAuth(3)), the others are not the app's business, and makes them ones
// for any address, as the host may be renamed, and the app's display number. A
// file that breaks off counts as far as it goes.
func cookiesFor(data []byte, hostname, number string) []byte {
	var out []byte
	for len(data) >= 2 {
		family := binary.BigEndian.Uint16(data)
		data = data[2:]
		var fields [4]string // address, number, name, data
		for i := range fields {
			if len(data) < 2 {
				return out
			}
			n := int(binary.BigEndian.Uint16(data))
			if data = data[2:]; len(data) < n {
				return out
			}
			fields[i], data = string(data[:n]), data[n:]
		}
		local := family == familyWild || family == familyLocal && fields[0] == hostname
		if !local || fields[1] != "" && fields[1] != number {
			continue
		}
		out = binary.BigEndian.AppendUint16(out, familyWild)
		for _, field := range []string{"", appDisplay, fields[2], fields[3]} {
			out = binary.BigEndian.AppendUint16(out, uint16(len(field)))
			out = append(out, field...)
		}
	}
	return out
}
