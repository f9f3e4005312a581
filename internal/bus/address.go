package bus

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// sockets returns the unix socket names of a D-Bus address in order, an
// abstract one with "@" in front (D-Bus specification, "Server Addresses").
// Alternatives of other transports are left out; none left is an error.
func sockets(address string) ([]string, error) {
	if address == "" {
		address = os.Getenv("DBUS_SESSION_BUS_ADDRESS")
	}
	if address == "" {
		dir := os.Getenv("XDG_RUNTIME_DIR")
		if dir == "" {
			return nil, errors.New("neither DBUS_SESSION_BUS_ADDRESS nor XDG_RUNTIME_DIR is set")
		}
		return []string{dir + "/bus"}, nil
	}
	var names []string
	var errs []error
	for alternative := range strings.SplitSeq(address, ";") {
		if alternative == "" {
			continue
		}
		name, err := socketName(alternative)
		if err != nil {
			errs = append(errs, fmt.Errorf("bus address %q: %w", alternative, err))
			continue
		}
		names = append(names, name)
	}
	if len(names) == 0 {
		if len(errs) == 0 {
			return nil, fmt.Errorf("bus address %q is empty", address)
		}
		return nil, errors.Join(errs...)
	}
	return names, nil
}

func socketName(alternative string) (string, error) {
	transport, pairs, ok := strings.Cut(alternative, ":")
	if !ok {
		return "", errors.New("no transport")
	}
	if transport != "unix" {
		return "", fmt.Errorf("transport %q is not supported", transport)
	}
	name := ""
	for pair := range strings.SplitSeq(pairs, ",") {
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			return "", fmt.Errorf("%q is not key=value", pair)
		}
		value, err := dbus.UnescapeBusAddressValue(value)
		if err != nil {
			return "", err
		}
		switch key {
		case "path":
		case "abstract":
			value = "@" + value
		case "runtime":
			dir := os.Getenv("XDG_RUNTIME_DIR")
			if value != "yes" || dir == "" {
				return "", errors.New("runtime needs XDG_RUNTIME_DIR")
			}
			value = dir + "/bus"
		default: // guid, and what later versions add
			continue
		}
		if name != "" || value == "" || value == "@" {
			return "", errors.New("not exactly one of path, abstract and runtime")
		}
		if value[0] != '@' && value[0] != '/' {
			return "", fmt.Errorf("the path %q is not absolute", value)
		}
		name = value
	}
	if name == "" {
		return "", errors.New("no path")
	}
	return name, nil
}

// connect connects to a unix socket, by dial if that is not nil, and
// authenticates. ctx bounds both.
func connect(ctx context.Context, name string, dial func(name string) (*os.File, error)) (*os.File, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var f *os.File
	var err error
	if dial != nil {
		f, err = dialed(name, dial)
	} else {
		f, err = connectSocket(ctx, name)
	}
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { f.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := authenticate(f); err != nil {
		f.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("authenticating at %s: %w", name, err)
	}
	if !stop() {
		f.Close()
		return nil, ctx.Err()
	}
	return f, nil
}

// dialed is connectSocket by somebody else.
func dialed(name string, dial func(name string) (*os.File, error)) (*os.File, error) {
	blocking, err := dial(name)
	if err != nil {
		return nil, err
	}
	defer blocking.Close()
	return pollable(blocking, name)
}

// pollable duplicates a descriptor as a file that can have deadlines.
func pollable(f *os.File, name string) (*os.File, error) {
	fds, err := duplicate([]*os.File{f})
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fds[0]), name), nil
}

func connectSocket(ctx context.Context, name string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	// A socket whose backlog is full blocks connect, and a non-blocking one
	// only says EAGAIN: the send timeout is what bounds it.
	wait := 10 * time.Second
	if t, ok := ctx.Deadline(); ok {
		wait = max(time.Until(t), time.Millisecond)
	}
	tv := unix.NsecToTimeval(int64(wait))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv); err == nil {
		for {
			// A leading @ makes the name abstract in package unix too.
			err = unix.Connect(fd, &unix.SockaddrUnix{Name: name})
			if err != unix.EINTR {
				break
			}
		}
	}
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		unix.Close(fd)
		return nil, &os.PathError{Op: "connect", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// authenticate goes through the D-Bus handshake as the user that we are
// (mechanism EXTERNAL) and asks for descriptor passing. It waits for each
// answer, as the specification's examples do: not every proxy between us and
// the bus keeps apart what comes at once.
func authenticate(f *os.File) error {
	uid := hex.EncodeToString([]byte(strconv.Itoa(os.Geteuid())))
	for _, turn := range []struct{ say, want string }{
		{"\x00AUTH EXTERNAL " + uid, "OK"},
		{"NEGOTIATE_UNIX_FD", "AGREE_UNIX_FD"},
		{"BEGIN", ""},
	} {
		if _, err := f.WriteString(turn.say + "\r\n"); err != nil {
			return err
		}
		if turn.want == "" {
			break // messages follow
		}
		line, err := readLine(f)
		if err != nil {
			return err
		}
		if word, _, _ := strings.Cut(line, " "); word != turn.want {
			return fmt.Errorf("the bus says %q, not %s", line, turn.want)
		}
	}
	return nil
}

// readLine reads a line byte by byte: what follows the handshake belongs to
// the message stream.
func readLine(f *os.File) (string, error) {
	var line []byte
	b := make([]byte, 1)
	for len(line) < 4096 {
		if _, err := f.Read(b); err != nil {
			return "", err
		}
		line = append(line, b[0])
		if text, ok := bytes.CutSuffix(line, []byte("\r\n")); ok {
			return string(text), nil
		}
	}
	return "", errors.New("an endless line")
}
