package fuse

import (
	"math"
	"sync"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// A server that dies has changed something on the host and not answered, or
// not changed it yet. Its successor gets the request again and must neither do
// it twice nor say that what the first did is in the way. So each change is
// noted before it is made, and its outcome after it.

// change is a note. Words of its record:
const (
	changeUnique = 0  // of the request; 0 if the record is free
	changeBegun  = 8  // ns since 1970: the names of files are dated by that clock
	changeSize0  = 16 // of the file, before data was appended; before an exchange, the first one's inode number
	changeBoot   = 24 // ns since the machine was started, when it was begun; 0 if not noted
	changeOpcode = 32 // uint32
	changeState  = 36 // uint32
	changeResult = 40 // uint32: how much was written
)

// States of a change; an outcome is changeDone + errno.
const (
	changeMaking = 1
	changeDone   = 2
)

// resentBit marks the unique number of a request that the kernel sends again.
const resentBit = 1 << 63

// change is what an earlier server has noted.
type change struct {
	at            uint32
	size          uint64
	begun         moment
	opcode        uint32
	state, result uint32
}

// moment is a time by the clock that dates files, which may be set, and by one
// that nobody sets and that goes on in a suspended machine, in ns.
type moment struct{ wall, boot int64 }

func present() moment {
	var boot unix.Timespec
	unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot) // it is always there
	return moment{time.Now().UnixNano(), boot.Nano()}
}

// mayHaveMade reports whether a file that was made at t may have been made
// between the begin of the change and now. If the clock was set in between, t is
// by the clock before that or after it: begun and now say what either shows.
func (c *change) mayHaveMade(t int64, now moment) bool {
	within := func(from, to int64) bool { return t >= from-clockGrain && t <= to+clockAhead }
	if c.begun.boot == 0 {
		return within(c.begun.wall, math.MaxInt64-clockAhead)
	}
	took := now.boot - c.begun.boot
	return within(c.begun.wall, c.begun.wall+took) || within(now.wall-took, now.wall)
}

// done reports whether the change was made, or refused.
func (c *change) done() bool { return c.state >= changeDone }

func (c *change) status() gofuse.Status { return gofuse.Status(c.state - changeDone) }

// changeTable has the changes under way and the latest that were made. A note
// stays after its end: the answer is sent a moment later.
type changeTable struct {
	s *state

	mu      sync.Mutex
	free    [maxChanges]uint16 // a ring: what was freed last is used last
	first   int
	count   int
	earlier map[uint64]*change // of earlier servers, by unique number
}

// init reads what earlier servers have left. It stays where it is, for this
// server may die as well.
func (t *changeTable) init(s *state) {
	t.s = s
	t.earlier = make(map[uint64]*change)
	var made []uint16
	for n := range maxChanges {
		at := uint32(changesAt + n*changeSize)
		unique := s.get(at)
		if unique == 0 {
			t.put(uint16(n))
			continue
		}
		c := &change{
			at:     at,
			size:   s.get(at + changeSize0),
			begun:  moment{int64(s.get(at + changeBegun)), int64(s.get(at + changeBoot))},
			opcode: s.get32(at + changeOpcode),
			state:  s.get32(at + changeState),
			result: s.get32(at + changeResult),
		}
		t.earlier[unique] = c
		if c.done() {
			made = append(made, uint16(n))
		}
	}
	for _, n := range made {
		t.put(n)
	}
}

// put frees a place.
func (t *changeTable) put(n uint16) {
	t.free[(t.first+t.count)%maxChanges] = n
	t.count++
}

// take returns, once, what an earlier server has noted of a request that is
// sent again.
func (t *changeTable) take(h *gofuse.InHeader) *change {
	if h.Unique&resentBit == 0 {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	unique := h.Unique &^ resentBit
	c := t.earlier[unique]
	delete(t.earlier, unique)
	if c != nil && c.opcode != h.Opcode {
		return nil
	}
	return c
}

// noted is take for who asks before: what was noted stays.
func (t *changeTable) noted(h *gofuse.InHeader) *change {
	if h.Unique&resentBit == 0 {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.earlier[h.Unique&^resentBit]
}

// begin notes a change that is about to be made. It returns 0 if there are too
// many, and then nothing is known of this one.
func (t *changeTable) begin(h *gofuse.InHeader, size uint64) (at uint32) {
	t.mu.Lock()
	if t.count == 0 {
		t.mu.Unlock()
		return 0
	}
	at = uint32(changesAt) + uint32(t.free[t.first])*changeSize
	t.first = (t.first + 1) % maxChanges
	t.count--
	t.mu.Unlock()
	s := t.s
	s.set(at, 0)
	begun := present()
	s.set(at+changeBegun, uint64(begun.wall))
	s.set(at+changeBoot, uint64(begun.boot))
	s.set(at+changeSize0, size)
	s.set32(at+changeOpcode, h.Opcode)
	s.set32(at+changeState, changeMaking)
	s.set32(at+changeResult, 0)
	s.set(at, h.Unique&^resentBit)
	return at
}

// end notes what came of a change.
func (t *changeTable) end(at uint32, code gofuse.Status, result uint32) {
	if at == 0 {
		return
	}
	t.s.set32(at+changeResult, result)
	t.s.set32(at+changeState, changeDone+uint32(code))
	t.mu.Lock()
	t.put(uint16((at - changesAt) / changeSize))
	t.mu.Unlock()
}
