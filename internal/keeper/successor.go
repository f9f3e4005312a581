package keeper

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// An instance that is replaced by another one, with a keeper of its own, hands
// over what its keeper has: the two servers share a pair of sockets, on which
// what is kept comes in the keeper's messages. The old server holds its end
// until it has gone, whatever it goes by, so that the new one knows when nothing
// of it is left that could work on what it has handed over.

// Predecessor is the new server's end.
type Predecessor struct{ fd int }

// NewPredecessor makes the pair. remote is for the old server, and the caller's
// to close once it is sent.
func NewPredecessor() (p *Predecessor, remote *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	return &Predecessor{fds[0]}, os.NewFile(uintptr(fds[1]), "successor"), nil
}

// Await waits until the old server has gone, and returns what it has handed
// over, by name, which is the caller's to close. The error says that it has not
// gone in time: then it must be taken to work on.
func (p *Predecessor) Await(limit time.Duration) (map[string]*Kept, error) {
	got := make(map[string]*Kept)
	b := make([]byte, maxMessage)
	for end := time.Now().Add(limit); ; {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}, int(max(time.Until(end), 0).Milliseconds()))
		if err == unix.EINTR {
			continue
		}
		var words string
		var files []int
		if err == nil && n == 0 {
			err = errors.New("the instance before does not end")
		}
		if err == nil {
			words, files, err = receive(p.fd, b)
		}
		if errors.Is(err, errClosed) {
			return got, nil
		}
		if err != nil {
			for _, k := range got {
				k.Close()
			}
			return nil, err
		}
		first, rest := word(words)
		if first != wordKept {
			closeAll(files)
			continue
		}
		name, k := newKept(rest, files)
		got[name].Close()
		got[name] = k
	}
}

// Close closes the end.
func (p *Predecessor) Close() {
	if p != nil {
		unix.Close(p.fd)
	}
}

// HandOver sends what is kept under a name to the server after this one, by its
// socket, which stays the caller's. Both keepers have it then; the old one lets
// go of it when it ends.
func (s *Server) HandOver(name string, socket int) error {
	note, files, err := s.ask(wordLend+" "+name, nil)
	if err != nil {
		return err
	}
	defer closeAll(files)
	if err := send(socket, strings.Join([]string{wordKept, name, note}, " "), files); err != nil {
		return fmt.Errorf("the next instance takes nothing: %w", err)
	}
	return nil
}
