package fuse

import (
	"math"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestAClockThatIsSetMakesNobodyElsesFileOurs: whether an earlier server has
// made what is in the way does not depend on the clock being left alone.
func TestAClockThatIsSetMakesNobodyElsesFileOurs(t *testing.T) {
	const ms, hour = int64(time.Millisecond), int64(time.Hour)
	begun := moment{wall: 1000 * hour, boot: 50 * hour}
	c := &change{begun: begun}
	for what, it := range map[string]struct {
		born int64  // by the clock of the host
		now  moment // when it is asked
		want bool
	}{
		"made at once":           {begun.wall + ms, moment{begun.wall + 90*ms, begun.boot + 90*ms}, true},
		"dated by the last tick": {begun.wall - 4*ms, moment{begun.wall + 90*ms, begun.boot + 90*ms}, true},
		"older":                  {begun.wall - hour, moment{begun.wall + 90*ms, begun.boot + 90*ms}, false},
		"older, made before the clock was set back":        {begun.wall + hour, moment{begun.wall + 90*ms, begun.boot + 90*ms}, false},
		"made, then the clock was set back":                {begun.wall + ms, moment{begun.wall - hour, begun.boot + 90*ms}, true},
		"the clock was set back, then made":                {begun.wall - hour - 80*ms, moment{begun.wall - hour, begun.boot + 90*ms}, true},
		"made, then the clock was set ahead":               {begun.wall + ms, moment{begun.wall + hour, begun.boot + 90*ms}, true},
		"the clock was set ahead, then made":               {begun.wall + hour - 80*ms, moment{begun.wall + hour, begun.boot + 90*ms}, true},
		"set ahead, and older":                             {begun.wall - hour, moment{begun.wall + hour, begun.boot + 90*ms}, false},
		"set ahead, and dated in between, when nobody was": {begun.wall + hour/2, moment{begun.wall + hour, begun.boot + 90*ms}, false},
		"made, then the machine was suspended":             {begun.wall + ms, moment{begun.wall + hour, begun.boot + hour}, true},
	} {
		if got := c.mayHaveMade(it.born, it.now); got != it.want {
			t.Errorf("%s: %v", what, got)
		}
	}
	// A server of an older version has not noted as much.
	old := &change{begun: moment{wall: begun.wall}}
	if old.mayHaveMade(begun.wall-hour, present()) || !old.mayHaveMade(begun.wall+ms, present()) || !old.mayHaveMade(math.MaxInt64-clockAhead, present()) {
		t.Error("the note of an older server")
	}
}

// TestAClockThatIsSetKeepsNoPages: what a file looked like counts only if its
// date is some time ago, so after the clock was set back it does not.
func TestAClockThatIsSetKeepsNoPages(t *testing.T) {
	r := newRig(t)
	host := r.fileDoc("f1", "text")
	wantContent(t, r.in(testApp, "f1", "file.txt"), "text")
	tab := r.view.fs.nodes
	tab.mu.Lock()
	var n *node
	for _, it := range tab.byID {
		if it.name == "file.txt" {
			n = it
		}
	}
	tab.mu.Unlock()
	var st unix.Statx_t
	must(t, unix.Statx(unix.AT_FDCWD, host, 0, unix.STATX_BASIC_STATS, &st))
	for what, it := range map[string]struct {
		ahead int64 // s, the file's date before the clock
		want  bool
	}{
		"dated an hour ago":              {-3600, true},
		"dated in an hour":               {3600, false},
		"dated in a thousand years":      {1000 * 365 * 24 * 3600, false},
		"dated before there were clocks": {-2 * st.Ctime.Sec, true},
	} {
		dated := st
		dated.Ctime.Sec += it.ahead
		tab.unchanged(n, &dated)
		if got := tab.unchanged(n, &dated); got != it.want {
			t.Errorf("%s: %v", what, got)
		}
	}
}
