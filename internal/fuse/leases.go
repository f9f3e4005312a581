package fuse

import (
	"syscall"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
)

// A program that has a lease on a file (fcntl(2), F_SETLEASE) holds up whoever
// opens it, for up to /proc/sys/fs/lease-break-time, which is 45 seconds. An app
// may well have the files of its document outside of it too, and take leases on
// them to stop the threads of this process one by one. So nothing here is opened
// in a way that waits, and who must wait does so in a parked goroutine, as for
// the locks of others.

// patiently repeats open, a request on n that says EAGAIN while a lease is in
// its way, until it is not. Waiting ends with the request, and counts like
// waiting for a lock.
func (l limited) patiently(cancel <-chan struct{}, n *node, open func() gofuse.Status) gofuse.Status {
	code := open()
	if code != gofuse.EAGAIN || n == nil {
		return code
	}
	if !l.locks.wait(n.app) {
		return status(syscall.ENOLCK)
	}
	defer l.locks.waited(n.app)
	pause := minLockPoll
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for code == gofuse.EAGAIN {
		select {
		case <-timer.C:
		case <-cancel:
			return gofuse.EINTR
		}
		code = open()
		pause = min(2*pause, maxLockPoll)
		timer.Reset(pause)
	}
	return code
}
