package bus

import "fmt"

// maxBody is the largest body in bytes of a call that is looked at. The largest
// entry that the permission store takes needs a few MiB.
const maxBody = 16 << 20

// limits bound what callers may have in flight: received and not yet answered.
type limits struct {
	calls int
	bytes int // of bodies
	files int // descriptors
}

// quotas are the limits of each kind of caller.
type quotas struct {
	app     limits
	host    limits // one unique name
	unknown limits // all callers that are not identified yet, together
}

// defaultQuotas are the quotas of a connection. A sandboxed app is everybody's
// neighbour and counts as one, however many connections it opens. A host
// program has the user's trust and is bounded only so that memory is.
func defaultQuotas() quotas {
	return quotas{
		app:     limits{calls: 64, bytes: 32 << 20, files: 1024},
		host:    limits{calls: 4096, bytes: 64 << 20, files: 4096},
		unknown: limits{calls: 2 * 4096, bytes: 128 << 20, files: 4096},
	}
}

// account is what is in flight on behalf of one app, one host program, or all
// callers that are not identified yet.
type account struct {
	key    string
	limits limits
	used   limits
	peers  int // identified peers that use it
	large  lane
}

// admit takes a call on, or says which limit it would break.
func (a *account) admit(cost limits) *Error {
	switch {
	case a.used.calls+cost.calls > a.limits.calls:
		return Failed("more than %d calls in flight", a.limits.calls)
	case a.used.bytes+cost.bytes > a.limits.bytes:
		return &Error{errLimitsExceeded, fmt.Sprintf("more than %d bytes in flight", a.limits.bytes)}
	case a.used.files+cost.files > a.limits.files:
		return &Error{errLimitsExceeded, fmt.Sprintf("more than %d descriptors in flight", a.limits.files)}
	}
	a.used.calls += cost.calls
	a.used.bytes += cost.bytes
	a.used.files += cost.files
	return nil
}

func (a *account) release(cost limits) {
	a.used.calls -= cost.calls
	a.used.bytes -= cost.bytes
	a.used.files -= cost.files
}
