// Package keeper is the small process that outlives the server, and the
// server's side of the talk with it. It keeps one rule: what it is given it
// holds and does not read, so that nothing that makes the server die can make
// it die.
//
// The two talk over a socket of whole messages (unix(7), SOCK_SEQPACKET). The
// keeper says first what it has kept from the server before; after that the
// server asks and the keeper answers each request with one message. A message
// is words with a space between, and descriptors.
package keeper

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Words of the messages.
const (
	wordKept   = "kept"   // NAME NOTE, with descriptors: from an earlier server
	wordBegin  = "begin"  // CRASHES: that was all
	wordEnd    = "end"    // the keeper was told to end, and so is the server
	wordReload = "reload" // the server is to make room for a new one
	wordOK     = "ok"     // an answer
	wordFailed = "failed" // REASON: an answer

	wordKeep   = "keep"   // NAME NOTE, with descriptors: keep them
	wordDrop   = "drop"   // NAME: do not any more
	wordLend   = "lend"   // NAME: what is kept under it, with its note
	wordSocket = "socket" // ADDRESS: connect to a socket, as the process that stays
	wordReady  = "ready"  // SERVES, true or false: the server answers
	wordPID    = "pid"    // the process id of the keeper
	wordDetach = "detach" // take the mount of Device away
	wordLeave  = "leave"  // STATUS: the server is about to exit with it
)

const (
	maxMessage = 4096 + 256 // a path, and words before it
	maxFiles   = 16
)

// Names of what is kept that mean something to the keeper. Of anything else it
// knows the name only.
const (
	// Bus is the connection to the message bus that the server works on. Who
	// dies leaves it in an unknown state.
	Bus = "bus"
	// Fresh is how the note begins of a connection to the bus of which nothing
	// was received: whoever has it may go on with it.
	Fresh = "fresh "
	// Standby is a fresh connection that waits for the names of Bus. When the
	// server dies Bus is closed, unless it is still fresh, and this is Bus for
	// the next one.
	Standby = "standby"
	// Device is the FUSE connection; its note says where it is mounted. It is
	// given up, so that nobody waits for it any more, when servers die again and
	// again, and with it all that has no meaning to the keeper.
	Device = "device"
)

// EnvSocket is the environment variable by which the server knows its socket.
const EnvSocket = "DOCPORTAL_KEEPER"

// ExitReload is the exit status of a server that has made room for a new one.
const ExitReload = 75

// send sends one message.
func send(fd int, words string, files []int) error {
	var oob []byte
	if len(files) > 0 {
		oob = unix.UnixRights(files...)
	}
	for {
		err := unix.Sendmsg(fd, []byte(words), oob, nil, unix.MSG_NOSIGNAL)
		if err != unix.EINTR {
			return os.NewSyscallError("sendmsg", err)
		}
	}
}

var errClosed = errors.New("the other side has gone")

// receive waits for one message. The descriptors are the caller's.
func receive(fd int, b []byte) (words string, files []int, err error) {
	oob := make([]byte, unix.CmsgSpace(4*maxFiles))
	var n, oobn, flags int
	for {
		// ECONNRESET comes once: the other side has gone and not read
		// everything. What it has said before is still there.
		n, oobn, flags, _, err = unix.Recvmsg(fd, b, oob, unix.MSG_CMSG_CLOEXEC)
		if err != unix.EINTR && err != unix.ECONNRESET {
			break
		}
	}
	if err != nil {
		return "", nil, os.NewSyscallError("recvmsg", err)
	}
	if oobn > 0 {
		messages, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil {
			return "", nil, err
		}
		for _, m := range messages {
			if fds, err := unix.ParseUnixRights(&m); err == nil {
				files = append(files, fds...)
			}
		}
	}
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		closeAll(files)
		return "", nil, errors.New("a message was cut short")
	}
	if n == 0 {
		closeAll(files)
		return "", nil, errClosed
	}
	return string(b[:n]), files, nil
}

func closeAll(files []int) {
	for _, fd := range files {
		unix.Close(fd)
	}
}

// word takes the first word off a message.
func word(message string) (first, rest string) {
	first, rest, _ = strings.Cut(message, " ")
	return first, rest
}

// connect makes a connected stream socket. A leading @ makes the name abstract.
func connect(name string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	// Blocking, a full backlog is waited for, but not for ever.
	tv := unix.NsecToTimeval(int64(connectTime))
	err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv)
	for err == nil {
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: name})
		if err == nil {
			return fd, nil
		}
		if err == unix.EINTR {
			err = nil
		}
	}
	unix.Close(fd)
	return -1, fmt.Errorf("connect %s: %w", name, err)
}
