package bus

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// stream is the receiving side of the socket: bytes, and the descriptors that
// came with them.
type stream struct {
	conn  syscall.RawConn
	buf   []byte // fixed size
	r, w  int    // unread part of buf
	read  int64  // bytes taken from the stream so far
	start int64  // where the message under way began
	files []int  // received, not yet given to a message; owned
	oob   []byte

	// Descriptors that came with bytes before this offset are lost: the
	// process had no room for them (MSG_CTRUNC).
	lost int64
}

// streamBuffer is the size of the receive buffer in bytes.
const streamBuffer = 16 << 10

func newStream(conn syscall.RawConn) *stream {
	return &stream{
		conn: conn,
		buf:  make([]byte, streamBuffer),
		oob:  make([]byte, unix.CmsgSpace(4*maxPassedFD)),
	}
}

// begin marks the beginning of a message. Descriptors that no message claimed
// are closed here, once no byte that they might belong to is waiting.
func (s *stream) begin() {
	s.start = s.read
	if s.r == s.w {
		s.closeFiles()
	}
}

func (s *stream) closeFiles() {
	closeAll(s.files)
	s.files = nil
}

// pos is the offset in the message under way.
func (s *stream) pos() int64 { return s.read - s.start }

// receive reads at least one byte into p, which must be what follows the
// buffered bytes.
func (s *stream) receive(p []byte) (int, error) {
	var n, oobn, flags int
	var err error
	werr := s.conn.Read(func(fd uintptr) bool {
		for {
			n, oobn, flags, _, err = unix.Recvmsg(int(fd), p, s.oob, unix.MSG_CMSG_CLOEXEC)
			if err != unix.EINTR {
				break
			}
		}
		return err != unix.EAGAIN
	})
	if werr != nil {
		return 0, werr
	}
	if err != nil {
		return 0, os.NewSyscallError("recvmsg", err)
	}
	var got []int
	if oobn > 0 {
		msgs, err := unix.ParseSocketControlMessage(s.oob[:oobn])
		if err != nil {
			return 0, err
		}
		for _, m := range msgs {
			if fds, err := unix.ParseUnixRights(&m); err == nil {
				got = append(got, fds...)
			}
		}
	}
	if flags&unix.MSG_CTRUNC != 0 {
		closeAll(got)
		s.lost = s.read + int64(s.w-s.r) + int64(n)
	} else {
		s.files = append(s.files, got...)
	}
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// peek makes n bytes available without taking them; n must not exceed the
// buffer. They are valid until the next call.
func (s *stream) peek(n int) ([]byte, error) {
	if s.r+n > len(s.buf) {
		copy(s.buf, s.buf[s.r:s.w])
		s.r, s.w = 0, s.w-s.r
	}
	for s.w-s.r < n {
		m, err := s.receive(s.buf[s.w:])
		if err != nil {
			if err == io.EOF && s.w > s.r {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		s.w += m
	}
	return s.buf[s.r : s.r+n], nil
}

// take is peek and moves on.
func (s *stream) take(n int) ([]byte, error) {
	b, err := s.peek(n)
	if err == nil {
		s.advance(n)
	}
	return b, err
}

func (s *stream) advance(n int) {
	s.r += n
	s.read += int64(n)
	if s.r == s.w {
		s.r, s.w = 0, 0
	}
}

func (s *stream) discard(n int64) error {
	for n > 0 {
		if s.r == s.w {
			if _, err := s.peek(1); err != nil {
				return err
			}
		}
		m := min(n, int64(s.w-s.r))
		s.advance(int(m))
		n -= m
	}
	return nil
}

// fill reads len(p) bytes into p.
func (s *stream) fill(p []byte) error {
	n := copy(p, s.buf[s.r:s.w])
	s.advance(n)
	for p = p[n:]; len(p) > 0; {
		n, err := s.receive(p)
		if err != nil {
			return err
		}
		s.read += int64(n)
		p = p[n:]
	}
	return nil
}

func (s *stream) align(n int) error {
	return s.discard(-s.pos() & int64(n-1))
}

func (s *stream) uint32(order binary.ByteOrder) (uint32, error) {
	if err := s.align(4); err != nil {
		return 0, err
	}
	b, err := s.take(4)
	if err != nil {
		return 0, err
	}
	return order.Uint32(b), nil
}

func (s *stream) signature() (string, error) {
	b, err := s.take(1)
	if err != nil {
		return "", err
	}
	n := int(b[0])
	b, err = s.take(n + 1)
	if err != nil {
		return "", err
	}
	return string(b[:n]), nil
}

var errFilesLost = errors.New("descriptors of the message were lost")

// claim gives the message under way, whose body has been read, the n
// descriptors that its header announced. The receiver owns them. An error
// means that they did not arrive: the process or the sender had no more.
func (s *stream) claim(n int) ([]int, error) {
	if n == 0 {
		return nil, nil
	}
	if s.start < s.lost {
		return nil, errFilesLost
	}
	if n > len(s.files) {
		s.closeFiles()
		return nil, errFilesLost
	}
	files := s.files[:n:n]
	s.files = s.files[n:]
	return files, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// maxPieces is how many pieces of a message are sent at once; the kernel's own
// bound is 1024 (UIO_MAXIOV).
const maxPieces = 64

// send writes a whole message; its descriptors go with the first byte. It
// changes m.data's elements.
func send(conn syscall.RawConn, m outgoing) error {
	for len(m.data) > 0 {
		var err error
		werr := conn.Write(func(fd uintptr) bool {
			m, err = m.sendSome(int(fd))
			return err != unix.EAGAIN
		})
		if werr != nil {
			return werr
		}
		if err != nil {
			return os.NewSyscallError("sendmsg", err)
		}
	}
	return nil
}

// trySend writes what of a message can be written without waiting, and returns
// the rest. What fails is left to send.
func trySend(conn syscall.RawConn, m outgoing) (rest outgoing, done bool) {
	conn.Write(func(fd uintptr) bool {
		for err := error(nil); err == nil && len(m.data) > 0; {
			m, err = m.sendSome(int(fd))
		}
		return true
	})
	return m, len(m.data) == 0
}

// sendSome writes what fits of a message and returns the rest. Descriptors
// that are sent stay open, and with the message, until it is sent whole.
func (m outgoing) sendSome(fd int) (rest outgoing, err error) {
	var oob []byte
	if len(m.files) > 0 && !m.passed {
		oob = unix.UnixRights(m.files...)
	}
	var n int
	for {
		n, err = unix.SendmsgBuffers(fd, m.data[:min(len(m.data), maxPieces)], oob, nil, unix.MSG_NOSIGNAL)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return m, err
	}
	m.passed = true
	for len(m.data) > 0 && n >= len(m.data[0]) {
		n -= len(m.data[0])
		m.data[0] = nil // it may be large
		m.data = m.data[1:]
	}
	if n > 0 {
		m.data[0] = m.data[0][n:]
	}
	return m, nil
}
