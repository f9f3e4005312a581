package fuse

import (
	"encoding/binary"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A database of SQLite's that has a write-ahead log is more than one file: what was
// committed last is in NAME-wal, and NAME-shm says where. Who has the file alone
// has an old and perhaps broken database, and two programs that have logs of their
// own destroy it. So of a file document that is one, these two names are the files
// of the host, where they exist or are made. Nothing else is: a file of that name
// that has not the form of a log or an index is somebody else's, and so is a
// rollback journal, by which SQLite could be made to remove files elsewhere.

const (
	logSuffix = "-wal"
	// What the two begin with: a log with either of two numbers, an index with
	// its version, or nothing while a view has it.
	logMagic     = 0x377f0682 // big-endian, and one more
	indexVersion = 3007000    // native
)

// beside reports whether name is one of the files that belong to the document
// doc, which is a file. An error says that this cannot be told now.
func (fs *filesystem) beside(doc *Document, name string) (bool, syscall.Errno) {
	suffix, ok := strings.CutPrefix(name, doc.Name)
	if !ok || suffix != logSuffix && suffix != indexSuffix {
		return false, 0
	}
	base, errno := fs.host.openBase(doc, nil, new(unix.Statx_t))
	if errno != 0 {
		return false, errno
	}
	defer base.put()
	var head [20]byte
	n, errno := fs.host.readHead(base.fd, doc.Name, head[:])
	// Two bytes of its header say who may write and read it: 2 is who knows
	// of logs.
	if n < len(head) || string(head[:len(databaseMagic)]) != databaseMagic || head[18] != 2 || head[19] != 2 {
		return false, errno
	}
	head = [20]byte{}
	switch n, errno = fs.host.readHead(base.fd, name, head[:4]); {
	case errno == syscall.ENOENT && !exists(base.fd, name):
		return true, 0
	case errno == syscall.ENOENT: // not a regular file
		return false, 0
	case errno != 0:
		return false, errno
	case suffix == logSuffix:
		return n == 0 || binary.BigEndian.Uint32(head[:])&^1 == logMagic, 0
	}
	version := binary.NativeEndian.Uint32(head[:])
	return version == 0 || version == indexVersion, 0
}

// readHead reads the beginning of a regular file.
func (o *opener) readHead(dir int, name string, b []byte) (int, syscall.Errno) {
	fd, errno := o.openRegular(dir, name, unix.O_RDONLY, syscall.ENOENT)
	if errno != 0 {
		return 0, errno
	}
	defer unix.Close(fd)
	return readAt(fd, b, 0)
}
