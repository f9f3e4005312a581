package fuse

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// state is what the server after this one needs to go on with the connection
// to the kernel: the negotiation, the node ids that the kernel knows, the open
// handles, and the changes under way. It is in memory that outlives the
// process, and is written as things happen, since a crash leaves no time to.
//
// A record is written with its first word last and removed by its first word,
// so that whoever finds it after a crash finds a whole one or none. What is
// missing is stale to the kernel, which looks it up again. A nil state keeps
// nothing.
type state struct {
	file *os.File
	mem  []byte

	mu    sync.Mutex
	free  [len(recordSizes)][]uint32 // offsets, by class
	pages int                        // data pages in use
	full  bool                       // there is no memory for more

	changes changeTable
}

// The memory begins with a page of words, each at its offset, and bytes.
const (
	stateMagic    = 0x3157656976706364 // another form has another
	wordMagic     = 0
	wordEpoch     = 8  // servers so far
	wordDevice    = 16 // st_dev of the mount, 0 while unknown
	wordStarted   = 24 // seconds since 1970
	wordLast      = 40 // the greatest unique number of a request seen
	wordInitSize  = 48
	wordReplySize = 56
	initAt        = 1024
	replyAt       = 2048
	initMax       = 1024
)

const (
	pageSize    = 4096
	changesAt   = pageSize
	maxChanges  = 512
	changeSize  = 64
	classesAt   = changesAt + maxChanges*changeSize
	maxPages    = 16384
	dataAt      = classesAt + maxPages
	stateLength = dataAt + maxPages*pageSize
)

// recordSizes are the sizes of records, by class; class 0 is a page that is not
// used. Handles are in the smallest, nodes in the others, by their names.
var recordSizes = [...]uint32{0, 32, 96, 160, 320}

const (
	classHandle = 1
	classNode   = 2 // and above
)

// Words of a handle's record.
const (
	handleNode   = 8
	handleUnique = 16 // of the request that opened it
	handleFlags  = 24 // uint32
	handleKind   = 28 // uint32
)

const (
	handleDir    = 1 // a directory
	handleLocked = 2 // a lock was taken by it, which its server's end releases
	handleIndex  = 4 // an index of a log, which cannot be mapped without answers
)

// Words of a node's record.
const (
	nodeParent  = 8
	nodeIno     = 16
	nodeDev     = 24
	nodeFile    = 32 // inode number of the host
	nodeBorn    = 40
	nodeType    = 48 // uint32
	nodeKind    = 52 // byte
	nodeLength  = 53 // byte
	nodeLookups = 56
	nodeName    = 64
)

var errState = errors.New("its state is of another form")

// newState makes the state of a new connection.
func newState() (*state, error) {
	fd, err := unix.MemfdCreate("docportal-view", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "docportal-view")
	if err := f.Truncate(dataAt); err != nil {
		f.Close()
		return nil, err
	}
	s, err := mapState(f)
	if err != nil {
		f.Close()
		return nil, err
	}
	s.set(wordEpoch, 1)
	s.set(wordStarted, uint64(time.Now().Unix()))
	s.set(wordMagic, stateMagic)
	s.changes.init(s)
	return s, nil
}

// openState takes over the state of a connection, and f with it.
func openState(f *os.File) (*state, error) {
	s, err := mapState(f)
	if err != nil {
		return nil, err
	}
	if s.get(wordMagic) != stateMagic {
		s.close()
		return nil, errState
	}
	s.set(wordEpoch, s.get(wordEpoch)+1)
	s.changes.init(s)
	return s, nil
}

// mapState maps the memory. What is beyond the end of the file is reserved for
// its growth.
func mapState(f *os.File) (*state, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() < dataAt {
		return nil, errState
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, stateLength, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	return &state{file: f, mem: mem}, nil
}

// close lets go of the memory, which nobody may use any more.
func (s *state) close() {
	unix.Munmap(s.mem)
	s.file.Close()
}

func (s *state) get(at uint32) uint64         { return binary.LittleEndian.Uint64(s.mem[at:]) }
func (s *state) set(at uint32, v uint64)      { binary.LittleEndian.PutUint64(s.mem[at:], v) }
func (s *state) get32(at uint32) uint32       { return binary.LittleEndian.Uint32(s.mem[at:]) }
func (s *state) set32(at uint32, v uint32)    { binary.LittleEndian.PutUint32(s.mem[at:], v) }
func (s *state) epoch() uint64                { return s.get(wordEpoch) }
func (s *state) bytes(at, size uint32) []byte { return s.mem[at : at+size : at+size] }

// negotiation returns the kernel's INIT request and the answer to it, empty if
// there was none.
func (s *state) negotiation() (request, reply []byte) {
	n, m := min(s.get(wordInitSize), initMax), min(s.get(wordReplySize), initMax)
	return s.bytes(initAt, uint32(n)), s.bytes(replyAt, uint32(m))
}

func (s *state) setNegotiation(request, reply []byte) error {
	if len(request) > initMax || len(reply) > initMax {
		return fmt.Errorf("INIT has %d bytes and its answer %d", len(request), len(reply))
	}
	copy(s.mem[initAt:], request)
	copy(s.mem[replyAt:], reply)
	s.set(wordReplySize, uint64(len(reply)))
	s.set(wordInitSize, uint64(len(request)))
	return nil
}

// allocate returns the offset of a free record of a class, 0 if there is none.
// s.mu is held.
func (s *state) allocate(class int) uint32 {
	free := &s.free[class]
	if len(*free) == 0 {
		if s.full || s.pages >= maxPages {
			return 0
		}
		at := uint32(dataAt + s.pages*pageSize)
		// To be killed for want of memory, by touching it, is no way out.
		if err := unix.Fallocate(int(s.file.Fd()), 0, int64(at), pageSize); err != nil {
			s.full = true
			return 0
		}
		s.mem[classesAt+s.pages] = byte(class)
		s.pages++
		s.spread(at, class, func(uint32) bool { return true })
	}
	last := len(*free) - 1
	at := (*free)[last]
	*free = (*free)[:last]
	return at
}

// spread enters the records of a page that are free. s.mu is held.
func (s *state) spread(page uint32, class int, free func(at uint32) bool) {
	size := recordSizes[class]
	for n := pageSize / size; n > 0; n-- {
		if at := page + (n-1)*size; free(at) {
			s.free[class] = append(s.free[class], at)
		}
	}
}

// release frees a record. s.mu is held.
func (s *state) release(at uint32) {
	s.set(at, 0)
	class := int(s.mem[classesAt+(at-dataAt)/pageSize])
	s.free[class] = append(s.free[class], at)
}

// scan finds what is free, and calls use for each record in use. It is called
// once, before anything else.
func (s *state) scan(use func(class int, at uint32)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	info, err := s.file.Stat()
	if err != nil {
		return err
	}
	for ; s.pages < maxPages; s.pages++ {
		class := int(s.mem[classesAt+s.pages])
		at := uint32(dataAt + s.pages*pageSize)
		if class == 0 || int64(at)+pageSize > info.Size() {
			break
		}
		if class >= len(recordSizes) {
			return errState
		}
		s.spread(at, class, func(at uint32) bool {
			if s.get(at) != 0 {
				use(class, at)
				return false
			}
			return true
		})
	}
	return nil
}

// saveNode writes what the kernel knows of n. The table's mutex is held.
func (s *state) saveNode(n *node) {
	if s == nil || n.kind == kindRoot || n.kind == kindByApp {
		return
	}
	if n.parent == nil || len(n.name) > 255 {
		s.dropNode(n) // nothing would find it again
		return
	}
	if at := n.saved; at != 0 {
		if s.get(at+nodeParent) == n.parent.id && s.savedName(at) == n.name {
			s.set(at+nodeLookups, n.lookups)
			return
		}
		s.dropNode(n)
	}
	class := classNode
	for class < len(recordSizes)-1 && int(recordSizes[class])-nodeName < len(n.name) {
		class++
	}
	s.mu.Lock()
	at := s.allocate(class)
	s.mu.Unlock()
	if at == 0 {
		return
	}
	s.set(at+nodeParent, n.parent.id)
	s.set(at+nodeIno, n.ino)
	s.set(at+nodeDev, n.key.dev)
	s.set(at+nodeFile, n.key.ino)
	s.set(at+nodeBorn, n.key.born)
	s.set32(at+nodeType, n.key.typ)
	s.mem[at+nodeKind] = byte(n.kind)
	s.mem[at+nodeLength] = byte(len(n.name))
	s.set(at+nodeLookups, n.lookups)
	copy(s.mem[at+nodeName:], n.name)
	s.set(at, n.id)
	n.saved = at
}

func (s *state) savedName(at uint32) string {
	return string(s.bytes(at+nodeName, uint32(s.mem[at+nodeLength])))
}

// dropNode forgets n. The table's mutex is held.
func (s *state) dropNode(n *node) {
	if s == nil || n.saved == 0 {
		return
	}
	s.mu.Lock()
	s.release(n.saved)
	s.mu.Unlock()
	n.saved = 0
}

// saveHandle notes that h is open.
func (s *state) saveHandle(h *handle) {
	if s == nil {
		return
	}
	s.mu.Lock()
	at := s.allocate(classHandle)
	s.mu.Unlock()
	if at == 0 {
		return
	}
	s.set(at+handleNode, h.n.id)
	s.set(at+handleUnique, 0)
	s.set32(at+handleFlags, uint32(h.flags))
	kind := uint32(0)
	if h.dir != nil {
		kind = handleDir
	}
	if h.stale {
		kind |= handleLocked
	}
	if h.index {
		kind |= handleIndex
	}
	s.set32(at+handleKind, kind)
	s.set(at, h.id)
	h.saved = at
}

// dropHandle forgets h.
func (s *state) dropHandle(h *handle) {
	if s == nil || h.saved == 0 {
		return
	}
	s.mu.Lock()
	s.release(h.saved)
	s.mu.Unlock()
	h.saved = 0
}
