package permstore

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
)

// Errors of the store. They may come wrapped.
var (
	// ErrInUse: another process has the store open.
	ErrInUse = errors.New("permission store: in use by another process")
	// ErrNewerSchema: the file was written by a newer version; it is left as it is.
	ErrNewerSchema = errors.New("permission store: written by a newer version")
	// ErrClosed: the store, or the transaction, has ended.
	ErrClosed = errors.New("permission store: closed")
	// ErrReadOnly: a change inside View.
	ErrReadOnly = errors.New("permission store: read-only transaction")
)

// InvalidError says that an entry, or its name, is past the limits of the
// store. Nothing was changed.
type InvalidError struct{ Reason string }

// Error implements error.
func (e *InvalidError) Error() string { return e.Reason }

func invalid(format string, args ...any) error {
	return &InvalidError{fmt.Sprintf(format, args...)}
}

// StorageError says that a change could not be written, for a reason of the
// disk: it is full, over quota, read-only, failing. None of the change has
// happened, everything earlier is there, and the store works on.
type StorageError struct {
	Err   error
	Errno syscall.Errno // the reason, 0 if it is none of the kernel's
}

// Error implements error.
func (e *StorageError) Error() string { return "cannot store the change: " + e.Err.Error() }

// Unwrap returns the cause, for errors.Is(err, syscall.ENOSPC) and the like.
func (e *StorageError) Unwrap() []error {
	if e.Errno != 0 {
		return []error{e.Err, e.Errno}
	}
	return []error{e.Err}
}

// storageErrno lists the reasons that a disk has for refusing a write.
var storageErrno = [...]syscall.Errno{
	syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, syscall.EIO, syscall.EFBIG,
}

func storageError(err error) error {
	var e *StorageError
	if errors.As(err, &e) {
		return err
	}
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		// bbolt passes some causes on as text alone.
		for _, n := range storageErrno {
			if strings.Contains(err.Error(), n.Error()) {
				errno = n
				break
			}
		}
	}
	return &StorageError{Err: err, Errno: errno}
}

// DamageError says that a part of the file could not be read: a page that is
// no page, a record whose checksum is wrong, a file that is shorter than it
// says. What is elsewhere in the file can still be read.
type DamageError struct{ Reason string }

// Error implements error.
func (e *DamageError) Error() string { return "permission store: damaged: " + e.Reason }

func damaged(format string, args ...any) error {
	return &DamageError{fmt.Sprintf(format, args...)}
}

// isDamage reports whether err comes from the file's contents.
func isDamage(err error) bool {
	var d *DamageError
	return errors.As(err, &d)
}
