package fuse

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"log"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"
	"unsafe"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// The opcodes of the protocol (linux/fuse.h) that tests name.
const (
	opLookup      = 1
	opForget      = 2
	opGetAttr     = 3
	opSetAttr     = 4
	opReadlink    = 5
	opSymlink     = 6
	opMknod       = 8
	opMkdir       = 9
	opUnlink      = 10
	opRmdir       = 11
	opRename      = 12
	opLink        = 13
	opOpen        = 14
	opRead        = 15
	opWrite       = 16
	opStatFs      = 17
	opRelease     = 18
	opFsync       = 20
	opSetXAttr    = 21
	opGetXAttr    = 22
	opListXAttr   = 23
	opRemoveXAttr = 24
	opFlush       = 25
	opInit        = 26
	opOpenDir     = 27
	opReadDir     = 28
	opReleaseDir  = 29
	opFsyncDir    = 30
	opGetLk       = 31
	opSetLk       = 32
	opSetLkw      = 33
	opAccess      = 34
	opCreate      = 35
	opInterrupt   = 36
	opIoctl       = 39
	opNotifyReply = 41
	opBatchForget = 42
	opFallocate   = 43
	opReadDirPlus = 44
	opRename2     = 45
	opLseek       = 46
	opCopyRange   = 47
	opTmpfile     = 51
	opLast        = 64
)

// unanswered are the requests to which the kernel wants no reply.
var unanswered = []uint32{opForget, opBatchForget, opNotifyReply, opInterrupt}

// unknownOps are those that the server has none of. To all others ENOSYS would
// be a lie that the kernel believes for the life of the mount.
var unknownOps = []uint32{0, 7, 19, 37, 38, 40, 48, 49, 50}

// secret is in a file beside the documents.
const secret = "what no app may ever see"

// kernel is the other end of a server that has no mount: it sends requests
// that no kernel would send as well.
type kernel struct {
	testing.TB
	fs   *filesystem
	srv  *gofuse.ProtocolServer
	host string
	docs *readOnly
	out  []byte
}

// readOnly is documents of which "ro" can be written by nobody, the host's
// view not excepted.
type readOnly struct{ *fakeDocuments }

func (d readOnly) Document(app, id string) (*Document, Access, bool) {
	doc, a, ok := d.fakeDocuments.Document(app, id)
	a.Write = a.Write && id != "ro"
	return doc, a, ok
}

// newKernel is a kernel that knows these nodes: 1<<40+1 f1, +2 its file, +3
// ro, +4 its file, +5 d1, +6 its directory, +7 a file, +8 a directory, +9 a
// file in it, +10 a link that leads out; and the open files 1<<40+1 (f1, to
// read and write), +2 (ro), +3 (a file in d1), +4 (d1's directory), +5 (f1's).
func newKernel(t testing.TB) *kernel {
	// In memory, where fsync costs nothing. Its paths are of one length: some
	// answers are.
	host := fmt.Sprintf("/dev/shm/kernel%010d", rand.Uint32())
	must(t, os.Mkdir(host, 0o700))
	docs := &readOnly{newDocuments()}
	k := &kernel{TB: t, host: host, docs: docs, out: make([]byte, 1<<17)}
	for _, f := range []string{"f1/file.txt", "ro/file.txt", "d1/file", "d1/sub/deep"} {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(host, f)), 0o755))
		must(t, os.WriteFile(filepath.Join(host, f), []byte("text"), 0o644))
	}
	must(t, os.Mkdir(filepath.Join(host, "out"), 0o755))
	must(t, os.WriteFile(filepath.Join(host, "out", "secret"), []byte(secret), 0o666))
	must(t, os.Symlink("../out/secret", filepath.Join(host, "d1", "link")))
	docs.add(t, "f1", filepath.Join(host, "f1", "file.txt"))
	docs.add(t, "ro", filepath.Join(host, "ro", "file.txt"))
	docs.add(t, "d1", filepath.Join(host, "d1"))
	for _, id := range []string{"f1", "ro", "d1"} {
		docs.grant(testApp, id, Access{Read: true, Write: id != "ro"})
	}
	log := slog.New(slog.NewTextHandler(testLog{t}, nil))
	k.fs = newFilesystem(docs, log, uint32(os.Getuid()), uint32(os.Getgid()), 0o022, nil)
	k.srv = gofuse.NewProtocolServer(limited{k.fs}, serverOptions(log))
	k.good(message(gofuse.InitIn{InHeader: to(opInit, 0), Major: 7, Minor: 45, Flags: 1<<32 - 1, Flags2: 1<<32 - 1}))
	k.good(name(opLookup, rootID, "by-app"))
	k.good(name(opLookup, byAppID, testApp))
	app, base := appNodeID(testApp), uint64(1<<40)
	for _, l := range []struct {
		parent uint64
		name   string
	}{{app, "f1"}, {base + 1, "file.txt"}, {app, "ro"}, {base + 3, "file.txt"}, {app, "d1"}, {base + 5, "d1"},
		{base + 6, "file"}, {base + 6, "sub"}, {base + 8, "deep"}, {base + 6, "link"}} {
		k.good(name(opLookup, l.parent, l.name))
	}
	k.good(message(gofuse.OpenIn{InHeader: to(opOpen, base+2), Flags: unix.O_RDWR}))
	k.good(message(gofuse.OpenIn{InHeader: to(opOpen, base+4), Flags: unix.O_RDONLY}))
	k.good(message(gofuse.OpenIn{InHeader: to(opOpen, base+7), Flags: unix.O_RDWR}))
	k.good(message(gofuse.OpenIn{InHeader: to(opOpenDir, base+6)}))
	k.good(message(gofuse.OpenIn{InHeader: to(opOpenDir, base+1)}))
	return k
}

func to(op uint32, node uint64) gofuse.InHeader {
	h := gofuse.InHeader{Opcode: op, Unique: 77, NodeId: node}
	h.Uid, h.Gid, h.Pid = uint32(os.Getuid()), uint32(os.Getgid()), 1
	return h
}

// message is a request: a struct of the protocol and what follows it.
func message[T any](in T, rest ...string) []byte {
	b := bytes.Clone(unsafe.Slice((*byte)(unsafe.Pointer(&in)), unsafe.Sizeof(in)))
	for _, r := range rest {
		b = append(b, r...)
	}
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	return b
}

func name(op uint32, node uint64, name string) []byte { return message(to(op, node), name, "\x00") }

// request sends a request and returns the reply, which is checked for being
// one. The answer of a request that waits is asked for by an interrupt.
func (k *kernel) request(in []byte) (out []byte, errno syscall.Errno) {
	k.Helper()
	var op uint32
	var unique uint64
	if len(in) >= 16 {
		op, unique = binary.NativeEndian.Uint32(in[4:]), binary.NativeEndian.Uint64(in[8:])
	}
	type result struct {
		n    int
		code gofuse.Status
	}
	back := make(chan result, 1)
	ask := func() {
		// The server may change what it was given.
		n, code := k.srv.HandleRequest([][]byte{bytes.Clone(in)}, [][]byte{k.out})
		back <- result{n, code}
	}
	var r result
	if op != opSetLkw {
		ask()
		r = <-back
	} else {
		go ask()
		again := time.NewTicker(2 * time.Millisecond)
		defer again.Stop()
		stuck := time.After(10 * time.Second)
		for done := false; !done; {
			select {
			case r = <-back:
				done = true
			case <-again.C: // it may not have begun to wait before
				h := to(opInterrupt, 0)
				k.srv.HandleRequest([][]byte{message(gofuse.InterruptIn{InHeader: h, Unique: unique})}, [][]byte{make([]byte, 64)})
			case <-stuck:
				k.Fatalf("no answer: % x", in)
			}
		}
	}
	if !r.code.Ok() {
		return nil, syscall.Errno(r.code) // refused by the server's library
	}
	if r.n == 0 {
		if !slices.Contains(unanswered, op) {
			k.Fatalf("opcode %d is not answered", op)
		}
		return nil, 0
	}
	out = k.out[:r.n]
	h := (*gofuse.OutHeader)(unsafe.Pointer(&out[0]))
	if int(h.Length) != r.n || h.Unique != unique || h.Status > 0 || h.Status < -4095 {
		k.Fatalf("opcode %d: reply of %d bytes with the header %+v", op, r.n, *h)
	}
	errno = syscall.Errno(-h.Status)
	if errno == syscall.ENOSYS && op < opLast && !slices.Contains(unknownOps, op) && op <= opTmpfile {
		k.Fatalf("opcode %d is said not to be there", op)
	}
	if bytes.Contains(out, []byte(secret)) {
		k.Fatalf("opcode %d shows the secret", op)
	}
	return out[unsafe.Sizeof(*h):], errno
}

// good is request that must work.
func (k *kernel) good(in []byte) []byte {
	k.Helper()
	out, errno := k.request(in)
	if errno != 0 {
		k.Fatalf("% x: %v", in, errno)
	}
	return out
}

// end closes and forgets everything, and checks that nothing is left of it and
// nothing outside the documents was touched.
func (k *kernel) end() {
	k.fs.handles.mu.Lock()
	var open []uint64
	for id := range k.fs.handles.byID {
		open = append(open, id)
	}
	k.fs.handles.mu.Unlock()
	for _, id := range open {
		k.request(message(gofuse.ReleaseIn{InHeader: to(opRelease, 0), Fh: id}))
	}
	for _, v := range k.fs.nodes.withTemps() {
		v.dropAll()
	}
	k.fs.nodes.mu.Lock()
	lookups := make(map[uint64]uint64)
	for id, n := range k.fs.nodes.byID {
		lookups[id] = n.lookups
	}
	k.fs.nodes.mu.Unlock()
	for id, n := range lookups {
		k.request(message(gofuse.ForgetIn{InHeader: to(opForget, id), Nlookup: n}))
	}
	k.fs.temps.close(k.fs)
	k.fs.cache.close()
	t := k.fs.nodes
	t.mu.Lock()
	if len(t.byID) != 2 || len(t.byIno) != 2 || len(t.byKey) != 0 || len(t.views) != 0 || t.root.children != 1 {
		k.Errorf("left: %d nodes, %d numbers, %d files, %d views", len(t.byID), len(t.byIno), len(t.byKey), len(t.views))
	}
	t.mu.Unlock()
	k.fs.handles.mu.Lock()
	if len(k.fs.handles.byID) != 0 || len(k.fs.handles.byApp) != 0 {
		k.Errorf("left: handles %v of %v", k.fs.handles.byID, k.fs.handles.byApp)
	}
	k.fs.handles.mu.Unlock()
	k.fs.locks.mu.Lock()
	if len(k.fs.locks.files) != 0 || len(k.fs.locks.waiting) != 0 {
		k.Errorf("left: locks of %d files, %d waiters", len(k.fs.locks.files), len(k.fs.locks.waiting))
	}
	k.fs.locks.mu.Unlock()
	if n := openBelow(k, k.host); n != 0 {
		k.Errorf("left: %d descriptors", n)
	}

	for path, want := range map[string]string{"": "d1 f1 out ro", "out": "secret", "ro": "file.txt"} {
		var got []byte
		for i, n := range names(k, filepath.Join(k.host, path)) {
			if i > 0 {
				got = append(got, ' ')
			}
			got = append(got, n...)
		}
		if string(got) != want {
			k.Errorf("%q on the host has %q, want %q", path, got, want)
		}
	}
	for path, want := range map[string]string{"out/secret": secret, "ro/file.txt": "text"} {
		wantContent(k, filepath.Join(k.host, path), want)
		if info, err := os.Stat(filepath.Join(k.host, path)); err != nil || info.Mode() != 0o644 {
			k.Errorf("%s: %v %v", path, info, err)
		}
	}
	// What the requests made may be closed to its owner.
	filepath.WalkDir(k.host, func(p string, e fs.DirEntry, err error) error {
		if e != nil && e.IsDir() {
			unix.Chmod(p, 0o700)
		} else if info, err := e.Info(); err == nil && info.Mode()&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky) != 0 {
			k.Errorf("%s has mode %v", p, info.Mode())
		}
		return nil
	})
	must(k, os.RemoveAll(k.host))
}

// wellFormed are requests as a kernel sends them, of each kind.
func wellFormed() [][]byte {
	const base = 1 << 40
	lk := func(op uint32, fh uint64, typ uint32) []byte {
		return message(gofuse.LkIn{InHeader: to(op, base+2), Fh: fh, Owner: 5, Lk: gofuse.FileLock{End: 1<<63 - 1, Typ: typ}})
	}
	z := "\x00"
	return [][]byte{
		name(opLookup, rootID, "d1"), name(opLookup, rootID, "by-app"), name(opLookup, byAppID, otherApp),
		name(opLookup, base+6, "sub"), name(opLookup, base+6, ".."), name(opLookup, base+6, "../out/secret"), name(opLookup, base+1, "file.txt"),
		message(gofuse.ForgetIn{InHeader: to(opForget, base+9), Nlookup: 1}),
		message(gofuse.GetAttrIn{InHeader: to(opGetAttr, base+7), Flags_: gofuse.FUSE_GETATTR_FH, Fh_: base + 3}),
		message(gofuse.GetAttrIn{InHeader: to(opGetAttr, base+10)}),
		message(gofuse.SetAttrIn{SetAttrInCommon: gofuse.SetAttrInCommon{InHeader: to(opSetAttr, base+7), Valid: 1<<11 - 1, Mode: 0o6755, Size: 3, Fh: base + 3}}),
		message(gofuse.SetAttrIn{SetAttrInCommon: gofuse.SetAttrInCommon{InHeader: to(opSetAttr, base+10), Valid: gofuse.FATTR_MTIME | gofuse.FATTR_ATIME_NOW, Mtime: 5}}),
		message(gofuse.SetAttrIn{SetAttrInCommon: gofuse.SetAttrInCommon{InHeader: to(opSetAttr, base+2), Valid: gofuse.FATTR_SIZE | gofuse.FATTR_FH, Size: 1, Fh: base + 1}}),
		message(to(opReadlink, base+10)),
		message(to(opSymlink, base+6), "new", z, "../out/secret", z), message(to(opSymlink, base+1), "new", z, "x", z),
		message(gofuse.MknodIn{InHeader: to(opMknod, base+6), Mode: unix.S_IFIFO | 0o644}, "pipe", z),
		message(gofuse.MknodIn{InHeader: to(opMknod, base+1), Mode: unix.S_IFREG | 0o4755}, "temp", z),
		message(gofuse.MkdirIn{InHeader: to(opMkdir, base+8), Mode: 0o1755}, "dir", z),
		name(opUnlink, base+6, "file"), name(opUnlink, base+1, "file.txt"), name(opRmdir, base+6, "sub"),
		message(gofuse.RenameIn{InHeader: to(opRename2, base+6), Newdir: base + 8, Flags: unix.RENAME_NOREPLACE}, "file", z, "moved", z),
		message(gofuse.RenameIn{InHeader: to(opRename2, base+1), Newdir: base + 1}, "file.txt", z, "away", z),
		message(to(opRename, base+6), "\x06\x00\x00\x00\x00\x01\x00\x00", "sub", z, "file", z),
		message(gofuse.LinkIn{InHeader: to(opLink, base+6), Oldnodeid: base + 10}, "hard", z),
		message(gofuse.LinkIn{InHeader: to(opLink, base+6), Oldnodeid: base + 2}, "hard", z),
		message(gofuse.OpenIn{InHeader: to(opOpen, base+7), Flags: unix.O_RDWR | unix.O_APPEND | unix.O_TRUNC}),
		message(gofuse.OpenIn{InHeader: to(opOpen, base+10), Flags: unix.O_RDWR}), message(gofuse.OpenIn{InHeader: to(opOpen, base+4), Flags: unix.O_WRONLY}),
		message(gofuse.ReadIn{InHeader: to(opRead, base+2), Fh: base + 1, Size: 4096}),
		message(gofuse.ReadIn{InHeader: to(opRead, base+7), Fh: base + 3, Size: 1 << 16}),
		message(gofuse.ReadIn{InHeader: to(opRead, base+6), Fh: base + 4, Size: 1 << 20, Offset: 1<<64 - 1}),
		message(gofuse.WriteIn{InHeader: to(opWrite, base+2), Fh: base + 1, Size: 5, Flags: unix.O_APPEND}, "hello"),
		message(gofuse.WriteIn{InHeader: to(opWrite, base+4), Fh: base + 2, Size: 5, Offset: 1 << 62}, "hello"),
		message(to(opStatFs, base+6)), message(to(opStatFs, rootID)),
		message(gofuse.ReleaseIn{InHeader: to(opRelease, base+7), Fh: base + 3}),
		message(gofuse.FsyncIn{InHeader: to(opFsync, base+2), Fh: base + 1, FsyncFlags: 1}),
		message(gofuse.FsyncIn{InHeader: to(opFsync, base+6), Fh: base + 4}),
		message(to(opSetXAttr, base+7), "\x01\x00\x00\x00\x00\x00\x00\x00", "user.a", z, "v"),
		message(to(opSetXAttr, base+7), "\xff\xff\xff\xff\x00\x00\x00\x00", hostPathAttr, z, "v"),
		message(gofuse.GetXAttrIn{InHeader: to(opGetXAttr, base+7), Size: 4096}, hostPathAttr, z),
		message(gofuse.GetXAttrIn{InHeader: to(opGetXAttr, base+10), Size: 1}, "user.a", z),
		message(gofuse.GetXAttrIn{InHeader: to(opListXAttr, base+7), Size: 65536}), message(gofuse.GetXAttrIn{InHeader: to(opListXAttr, base+2)}),
		name(opRemoveXAttr, base+7, "user.a"), name(opRemoveXAttr, base+7, "security.capability"),
		message(gofuse.FlushIn{InHeader: to(opFlush, base+2), Fh: base + 1, LockOwner: 5}),
		message(gofuse.OpenIn{InHeader: to(opOpenDir, base+8)}), message(gofuse.OpenIn{InHeader: to(opOpenDir, base+2)}),
		message(gofuse.ReadIn{InHeader: to(opReadDir, base+6), Fh: base + 4, Size: 4096}),
		message(gofuse.ReadIn{InHeader: to(opReadDir, base+1), Fh: base + 5, Size: 4096, Offset: 1}),
		message(gofuse.ReadIn{InHeader: to(opReadDir, base+6), Fh: base + 4, Size: 65536, Offset: 1<<63 - 1}),
		message(gofuse.ReadIn{InHeader: to(opReadDirPlus, base+6), Fh: base + 4, Size: 4096}),
		message(gofuse.ReleaseIn{InHeader: to(opReleaseDir, base+6), Fh: base + 4}),
		message(gofuse.FsyncIn{InHeader: to(opFsyncDir, base+6), Fh: base + 4}), message(gofuse.FsyncIn{InHeader: to(opFsyncDir, base+1), Fh: base + 5}),
		lk(opGetLk, base+1, unix.F_WRLCK), lk(opSetLk, base+1, unix.F_WRLCK), lk(opSetLk, base+1, unix.F_UNLCK), lk(opSetLkw, base+2, unix.F_RDLCK),
		message(gofuse.LkIn{InHeader: to(opSetLkw, base+2), Fh: base + 1, Owner: 6, LkFlags: gofuse.LK_FLOCK, Lk: gofuse.FileLock{Typ: unix.F_WRLCK}}),
		message(gofuse.AccessIn{InHeader: to(opAccess, base+7), Mask: 7}), message(gofuse.AccessIn{InHeader: to(opAccess, base+3), Mask: 2}),
		message(gofuse.CreateIn{InHeader: to(opCreate, base+6), Flags: unix.O_RDWR | unix.O_CREAT, Mode: unix.S_IFREG | 0o6755}, "created", z),
		message(gofuse.CreateIn{InHeader: to(opCreate, base+6), Flags: unix.O_RDWR | unix.O_CREAT | unix.O_TRUNC, Mode: unix.S_IFREG | 0o644}, "link", z),
		message(gofuse.CreateIn{InHeader: to(opCreate, base+1), Flags: unix.O_WRONLY | unix.O_CREAT, Mode: unix.S_IFREG | 0o644}, "temp", z),
		message(gofuse.CreateIn{InHeader: to(opCreate, base+3), Flags: unix.O_WRONLY | unix.O_CREAT, Mode: unix.S_IFREG | 0o644}, "file.txt", z),
		message(gofuse.InterruptIn{InHeader: to(opInterrupt, 0), Unique: 77}),
		message(gofuse.IoctlIn{InHeader: to(opIoctl, base+2), Fh: base + 1, Cmd: 0x5401, OutSize: 60}),
		message(gofuse.NotifyRetrieveIn{InHeader: to(opNotifyReply, base+2)}),
		message(to(opBatchForget, 0), "\x01\x00\x00\x00\x00\x00\x00\x00", "\x09\x00\x00\x00\x00\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00"),
		message(gofuse.FallocateIn{InHeader: to(opFallocate, base+2), Fh: base + 1, Offset: 1, Length: 100, Mode: unix.FALLOC_FL_KEEP_SIZE}),
		message(gofuse.LseekIn{InHeader: to(opLseek, base+2), Fh: base + 1, Whence: unix.SEEK_HOLE}),
		message(gofuse.CopyFileRangeIn{InHeader: to(opCopyRange, base+4), FhIn: base + 2, NodeIdOut: base + 2, FhOut: base + 1, OffOut: 10, Len: 4}),
		message(gofuse.CopyFileRangeIn{InHeader: to(opCopyRange, base+2), FhIn: base + 1, NodeIdOut: base + 4, FhOut: base + 2, Len: 1 << 62}),
		message(gofuse.CreateIn{InHeader: to(opTmpfile, base+6), Flags: unix.O_RDWR, Mode: unix.S_IFREG | 0o4755}, "/", z),
		message(gofuse.CreateIn{InHeader: to(opTmpfile, base+1), Flags: unix.O_RDWR, Mode: unix.S_IFREG | 0o644}, "/", z),
	}
}

// packed is requests one after the other, each with its length.
func packed(requests ...[]byte) []byte {
	var b []byte
	for _, r := range requests {
		b = binary.LittleEndian.AppendUint16(b, uint16(len(r)))
		b = append(b, r...)
	}
	return b
}

// FuzzRequests sends requests of any content: parts that are absent, sizes that
// are wrong, nodes and files that are none, opcodes that do not exist. Each is
// answered or refused, and nothing is reached or kept by it.
func FuzzRequests(f *testing.F) {
	good := wellFormed()
	for some := range slices.Chunk(good, 6) {
		f.Add(packed(some...))
	}
	for _, r := range good {
		var bad [][]byte
		for _, cut := range []int{0, 15, 39, 40, 48, len(r) - 1} {
			if cut < len(r) {
				bad = append(bad, r[:cut])
			}
		}
		for _, node := range []uint64{0, 3, byAppID, 1<<40 + 2, 1<<40 + 5, 1<<40 + 6, 1<<40 + 10, 1<<64 - 1} {
			b := bytes.Clone(r)
			binary.NativeEndian.PutUint64(b[16:], node)
			bad = append(bad, b)
		}
		for at := 40; at+8 <= min(len(r), 80); at += 8 {
			b := bytes.Clone(r)
			binary.NativeEndian.PutUint64(b[at:], 1<<64-1)
			bad = append(bad, b)
		}
		f.Add(packed(append(bad, r)...))
	}
	for op := range uint32(opLast) {
		f.Add(packed(message(to(op, 1<<40+6)), message(to(op, 1<<40+2), "\x01\x00\x00\x00\x00\x01\x00\x00", "file", "\x00", "other", "\x00")))
	}
	log.SetOutput(io.Discard) // of what the library refuses
	f.Cleanup(func() { log.SetOutput(os.Stderr) })
	f.Fuzz(func(t *testing.T, in []byte) {
		bounded(t)
		k := newKernel(t)
		for len(in) >= 2 {
			size := min(int(binary.LittleEndian.Uint16(in)), len(in)-2)
			k.request(in[2 : 2+size])
			in = in[2+size:]
		}
		k.end()
	})
}

// bounded keeps a request from filling the disk.
func bounded(t testing.TB) {
	var old unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_FSIZE, &old))
	must(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 1 << 20, Max: old.Max}))
	t.Cleanup(func() { unix.Setrlimit(unix.RLIMIT_FSIZE, &old) })
}
