package documents

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"docportal/internal/permstore"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// flood calls at full speed, always as many as the portal takes on, for a
// while, in every way that costs the portal more than the caller.
func (c *client) flood(file string, ids []string, d time.Duration) response {
	fd, err := unix.Open(file, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return result(err)
	}
	defer unix.Close(fd)
	o := c.conn.Object(Name, Path)
	one := dbus.UnixFD(fd)
	many := slices.Repeat([]dbus.UnixFD{one}, 16)
	repeated := slices.Repeat(ids, 20)
	options := make(map[string]dbus.Variant)
	for n := range 2000 {
		options[fmt.Sprint(n)] = dbus.MakeVariant(true)
	}
	end := time.Now().Add(d)
	var wg sync.WaitGroup
	var calls atomic.Int32
	var sending sync.Mutex // the proxy wants serials in order
	call := func(method string, args ...any) *dbus.Call {
		calls.Add(1)
		sending.Lock()
		c := o.Go(method, 0, make(chan *dbus.Call, 1), args...)
		sending.Unlock()
		return <-c.Done
	}
	for worker := range 80 {
		wg.Go(func() {
			for n := worker; time.Now().Before(end); n++ {
				switch n % 8 {
				case 0:
					call(documentsInterface+"AddFull", many, uint32(0), "", []string{})
				case 1:
					call(documentsInterface+"AddFull", many[:2], uint32(addReuse), fmt.Sprint("a.b.C", n), []string{"read"})
				case 2:
					call(documentsInterface+"GetHostPaths", repeated)
				case 3:
					call(documentsInterface+"GrantPermissions", ids[0], fmt.Sprint("a.b.D", n), []string{"read"})
				case 4:
					call(fileTransfer+"StartTransfer", options)
				case 5:
					var key string
					if call(fileTransfer+"StartTransfer", map[string]dbus.Variant{"autostop": dbus.MakeVariant(false)}).Store(&key) == nil {
						for range 5 {
							call(fileTransfer+"AddFiles", key, many, map[string]dbus.Variant{})
						}
						call(fileTransfer+"RetrieveFiles", key, map[string]dbus.Variant{})
					}
				case 6:
					call(documentsInterface+"AddFull", []dbus.UnixFD{one, one}, uint32(0), strings.Repeat("x", 1<<12), []string{"read"})
				case 7:
					call(documentsInterface+"Delete", ids[n%len(ids)])
				}
			}
		})
	}
	wg.Wait()
	return result(nil, uint32(calls.Load()))
}

// TestAHostileAppHoldsNobodyUp: from a real sandbox behind a real proxy an app
// does its worst, with two connections at once; all others' calls are answered
// meanwhile, little memory is needed, and what it held is gone with it.
func TestAHostileAppHoldsNobodyUp(t *testing.T) {
	s := newSession(t, options{})
	attackers := []*sandbox{s.proxied(appA), s.proxied(appA)}
	b := s.proxied(appB, s.withDocuments(appB)...)
	f := s.file("f", "text")
	var ids []string
	for range 100 {
		ids = append(ids, s.addFull(attackers[0], 0, "", nil, open{f, unix.O_RDWR})...)
	}
	kept := s.addFull(s.host, all, appB, []string{"read"}, open{Path: f})[0]
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var calls atomic.Uint32
	for _, a := range attackers {
		wg.Go(func() {
			r := a.do(request{Method: "flood", Args: []any{f, ids, uint32(2000)}})
			if r.Error != "" {
				t.Error(r)
				return
			}
			calls.Add(r.Body[0].(uint32))
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	var slowest time.Duration
	var most uint64
	served := 0
	for under := true; under; served++ {
		start := time.Now()
		s.must(s.host, "Info", nil, kept)
		s.must(s.host, "AddFull", []open{{Path: f}}, fdList{0}, uint32(all), "", []string{})
		if got := s.must(b, "GetHostPaths", nil, []string{kept})[0].(map[string][]byte); len(got) != 1 {
			t.Error(got)
		}
		if got := see(b, b.doc+"/"+kept+"/f"); got != "text" {
			t.Errorf("the other app sees %q", got)
		}
		slowest = max(slowest, time.Since(start))
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		most = max(most, m.HeapAlloc)
		select {
		case <-done:
			under = false
		default:
		}
	}
	t.Logf("%d calls of the attackers, %d rounds of the others, the slowest in %v, %d MiB", calls.Load(), served, slowest, most>>20)
	if most > 256<<20 {
		t.Errorf("%d MiB were needed", most>>20)
	}
	for _, a := range attackers {
		a.end()
	}
	want := func() error {
		now, err := os.ReadDir("/proc/self/fd")
		s.docs.transfers.mu.Lock()
		open := len(s.docs.transfers.open)
		s.docs.transfers.mu.Unlock()
		if err == nil && (len(now) > len(files) || open > 0) {
			err = fmt.Errorf("%d descriptors are open, not %d, and %d transfers", len(now), len(files), open)
		}
		return err
	}
	for end := time.Now().Add(deadline); want() != nil && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	// What is counted for the app is what there is.
	s.docs.mu.RLock()
	has := s.docs.shares[appA]
	var really share
	for id := range s.docs.byApp[appA] {
		really = really.plus(s.docs.transient[id].share())
	}
	pending := len(s.docs.pending)
	s.docs.mu.RUnlock()
	stored, err := s.docs.storedShare(appA)
	if err = errors.Join(err, want()); err != nil || has != really.plus(stored) || pending != 0 {
		t.Errorf("%+v is counted, %+v there; %d pending; %v", has, really.plus(stored), pending, err)
	}
	if err := s.store.Update(context.Background(), func(*permstore.Tx) error { return nil }); err != nil {
		t.Error(err)
	}
}
