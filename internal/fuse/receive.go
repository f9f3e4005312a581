package fuse

import (
	"errors"
	"reflect"
	"sync"
	"unsafe"
	"weak"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// The kernel copies a request into the memory that the server reads it to. If the
// server is killed in the middle of that, and a page of this memory was never
// used before, the request is lost, with EIO for who made it: a process that dies
// gets no more pages. So the pages are there before.

const (
	// maxReceiving is how many buffers have all the pages that a request may need;
	// that many are hardly ever in use. More than that, as somebody may bring
	// about who makes a thousand requests at once, have those for names.
	maxReceiving = 16 + maxDropped
	// Of a request without data the largest is one to set an extended attribute.
	valueSize = 64<<10 + nameSize
	// Structures, and two names.
	nameSize = 4 << 10
)

// receiving has the buffers that requests are received in. go-fuse makes them,
// keeps them for a while in a pool and has no setting for it.
type receiving struct {
	pool  sync.Pool
	fresh func() any // a []byte, of the size and alignment that go-fuse wants

	mu   sync.Mutex
	data bool // somebody may write: requests may fill a buffer
	made [maxReceiving]weak.Pointer[byte]
	size int // of a buffer
}

// attach has a server, which has not begun, use the buffers.
func (r *receiving) attach(server *gofuse.Server) error {
	// server.fuseFD.readPool, a *sync.Pool. There is no other way to it.
	fd := reflect.ValueOf(server).Elem().FieldByName("fuseFD")
	if fd.Kind() != reflect.Pointer || fd.Type().Elem().Kind() != reflect.Struct {
		return errNoPool
	}
	field := fd.Elem().FieldByName("readPool")
	if !field.IsValid() {
		return errNoPool
	}
	pool, ok := reflect.NewAt(field.Type(), field.Addr().UnsafePointer()).Interface().(**sync.Pool)
	if !ok || *pool == nil || (*pool).New == nil {
		return errNoPool
	}
	r.fresh = (*pool).New
	r.pool.New = r.make
	*pool = &r.pool
	return nil
}

var errNoPool = errors.New("this go-fuse keeps its buffers in another place")

// make makes a buffer, for r.pool.
func (r *receiving) make() any {
	v := r.fresh()
	b, ok := v.([]byte)
	if !ok || len(b) == 0 {
		return v
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.size = len(b)
	for n := range r.made {
		if r.made[n].Value() == nil {
			r.made[n] = weak.Make(&b[0])
			r.populate(b)
			return v
		}
	}
	populate(b[:min(nameSize, len(b))])
	return v
}

// populate brings the pages of a buffer that requests may need now. r.mu is held.
func (r *receiving) populate(b []byte) {
	if !r.data {
		b = b[:min(valueSize, len(b))]
	}
	populate(b)
}

// expectData is called before somebody can write: what is written may fill a
// buffer. It returns when there are pages for that, also in the buffers in which
// the kernel may be putting requests now.
func (r *receiving) expectData() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.data {
		return
	}
	r.data = true
	for n := range r.made {
		if p := r.made[n].Value(); p != nil {
			r.populate(unsafe.Slice(p, r.size))
		}
	}
}

// populate brings the pages of b, to be written to, whatever is in them. Linux
// has no way to that before 5.14, where a request does not outlive its server
// anyway.
func populate(b []byte) {
	page := uintptr(unix.Getpagesize())
	start := uintptr(unsafe.Pointer(&b[0]))
	end := start + uintptr(len(b))
	start -= start % page
	ignoringEINTR(func() error {
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, start, end-start, unix.MADV_POPULATE_WRITE); errno != 0 {
			return errno
		}
		return nil
	})
}
