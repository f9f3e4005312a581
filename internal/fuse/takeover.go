package fuse

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Notices to the kernel that go-fuse does not send (linux/fuse.h).
const (
	notifyResend   = 7 // send again what was not answered (Linux 6.9)
	notifyIncEpoch = 8 // ask again for every name (Linux 6.16)
)

// hasResend is the flag by which a kernel offers to send again.
const hasResend = 1 << 39

// notify sends a notice without a body: a header whose error is its number.
func notify(fd int, code uint32) error {
	b := binary.NativeEndian.AppendUint32(nil, 16)
	b = binary.NativeEndian.AppendUint32(b, code)
	b = append(b, make([]byte, 8)...)
	return ignoringEINTR(func() error {
		_, err := unix.Write(fd, b)
		return err
	})
}

// errNegotiation says that the kernel has agreed with an earlier server on
// something that this one does not understand in the same way.
var errNegotiation = errors.New("this version does not agree with the kernel as the one before did")

// errUnanswered says that an earlier server has died with the kernel's first
// question in its hands. Nobody has used the connection then, and nobody can.
var errUnanswered = errors.New("the server before died while it was mounting")

// negotiate makes a server for a connection, whose descriptor fd it takes over.
// The kernel asks once only what the two agree on; a server that takes over a
// connection is asked by this process instead, and has to give the same answer.
func negotiate(fd int, fs gofuse.RawFileSystem, o *gofuse.MountOptions, st *state) (*gofuse.Server, error) {
	defer unix.Close(fd)
	var request, reply []byte
	if st != nil {
		request, reply = st.negotiation()
	}
	answered := len(request) > 0
	if !answered {
		if st != nil && st.epoch() > 1 && !readable(fd) {
			return nil, errUnanswered
		}
		b := make([]byte, 64<<10)
		var n int
		err := ignoringEINTR(func() (err error) {
			n, err = unix.Read(fd, b)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("the kernel does not ask: %w", err)
		}
		request = b[:n]
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	defer unix.Close(pair[1])
	if _, err := unix.Write(pair[1], request); err != nil {
		unix.Close(pair[0])
		return nil, os.NewSyscallError("write", err)
	}
	server, err := gofuse.NewServer(fs, "/dev/fd/"+strconv.Itoa(pair[0]), o)
	if err != nil {
		return nil, err
	}
	// From here on the server owns the number pair[0].
	b := make([]byte, initMax)
	n, err := unix.Read(pair[1], b)
	if err != nil {
		return nil, os.NewSyscallError("read", err)
	}
	if answered && !bytes.Equal(b[:n], reply) {
		return nil, errNegotiation
	}
	if err := unix.Dup3(fd, pair[0], unix.O_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("dup3", err)
	}
	if answered {
		// The one before may have died just before it sent it.
		if _, err := unix.Write(fd, reply); err != nil && err != unix.ENOENT {
			return nil, fmt.Errorf("the kernel takes no answer: %w", err)
		}
		return server, nil
	}
	if st != nil {
		// Before it is sent: who finds it sends it if that was not done.
		if err := st.setNegotiation(request, b[:n]); err != nil {
			return nil, err
		}
	}
	if _, err := unix.Write(fd, b[:n]); err != nil {
		return nil, fmt.Errorf("the kernel takes no answer: %w", err)
	}
	return server, nil
}

// readable reports whether a read would not wait.
func readable(fd int) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(p, 0)
	for err == unix.EINTR {
		n, err = unix.Poll(p, 0)
	}
	return err != nil || n > 0
}

// waitTable has the requests that wait for long, for kernels that do not send
// again.
type waitTable struct {
	mu    sync.Mutex
	state *state
}

const (
	waitsAt  = 3072
	maxWaits = 128
)

func (t *waitTable) add(unique uint64) (done func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for at := uint32(waitsAt); at < waitsAt+8*maxWaits; at += 8 {
		if t.state.get(at) == 0 {
			t.state.set(at, unique)
			return func() {
				t.mu.Lock()
				defer t.mu.Unlock()
				t.state.set(at, 0)
			}
		}
	}
	return func() {}
}

// sweepSize is how many requests before the last one may be unanswered, beside
// those that are known to wait.
const sweepSize = 1 << 12

// sweep fails what an earlier server has not answered, on a kernel that cannot
// send it again: the kernel walks a path once more when it turns out to be
// stale. A number that is no request's is refused by the kernel, and does no
// harm.
func sweep(fd int, st *state) {
	fail := func(unique uint64) {
		b := binary.NativeEndian.AppendUint32(nil, 16)
		e := -int32(unix.ESTALE)
		b = binary.NativeEndian.AppendUint32(b, uint32(e))
		b = binary.NativeEndian.AppendUint64(b, unique)
		ignoringEINTR(func() error { _, err := unix.Write(fd, b); return err })
	}
	last := st.get(wordLast)
	for at := uint32(waitsAt); at < waitsAt+8*maxWaits; at += 8 {
		if unique := st.get(at); unique != 0 {
			st.set(at, 0)
			fail(unique)
		}
	}
	// Some may have been received after the last that was noted.
	for unique := last - min(last, 2*sweepSize); unique <= last+1024; unique += 2 {
		fail(unique)
	}
}

// newTracked wraps a file system for the kernel that asked request.
func newTracked(fs *filesystem, st *state, poisoned bool) *tracked {
	t := &tracked{limited: limited{fs}, state: st, poisoned: poisoned, last: new(atomic.Uint64), waits: &waitTable{state: st}}
	t.last.Store(st.get(wordLast))
	return t
}

// kernelResends reports whether the kernel sends again what was not answered.
func kernelResends(in *gofuse.InitIn) bool { return in.Flags64()&hasResend != 0 }

// takeOver brings the kernel to send again what an earlier server has not
// answered, before anything is received.
func takeOver(fd int, st *state, resends bool) error {
	if resends {
		if err := notify(fd, notifyResend); err != nil {
			return fmt.Errorf("the kernel does not send again: %w", err)
		}
	} else {
		sweep(fd, st)
	}
	notify(fd, notifyIncEpoch) // of use, but nothing depends on it
	return nil
}

// dropLost drops what the kernel may keep of what an earlier server had in use:
// it may have died between a change of permissions and telling the kernel.
func (v *View) dropLost() {
	v.fs.lost.mu.Lock()
	nodes := make(map[uint64]struct{})
	for _, l := range v.fs.lost.byID {
		if l.kind&handleDir == 0 {
			nodes[l.node] = struct{}{}
		}
	}
	v.fs.lost.mu.Unlock()
	var names []entry
	t := v.fs.nodes
	t.mu.Lock()
	for _, d := range t.views {
		if d.dir != nil {
			names = append(names, entry{d.dir.parent.id, d.dir.name})
		}
	}
	t.mu.Unlock()
	go func() { // ends with the connection at the latest
		for id := range nodes {
			v.heralds.inode(id, 0)
		}
		for _, e := range names {
			v.heralds.entry(e.parent, e.name)
		}
	}()
}
