package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"docportal/integration/session"
	"docportal/internal/bus"
	"docportal/internal/documents"
	"docportal/internal/gvdb"
	"docportal/internal/permstore"
)

// manySizes are how many documents there are.
var manySizes = [...]int{10, 1000, 10000, 80000}

const (
	manyRounds = 15
	// theirShare bounds what the system's portal may take for one row and size:
	// it looks at every document in some calls.
	theirShare = 1200 * time.Millisecond
	// oneCall is the longest call that is made of it at all.
	oneCall = 4 * time.Second
	// perMessage is how many descriptors dbus-daemon lets a message have.
	perMessage = 16

	reuse, persistent = 1, 2
)

// portal is a document portal with many documents.
type portal struct {
	s     *session.Session
	ours  bool // docportal, not the peer
	conn  *bus.Conn
	many  *dbus.Conn    // for many calls at a time
	ids   []string      // of what it was filled with
	known string        // a file that is a document
	made  string        // the last document that was made
	n     int           // files made, and ids taken
	last  time.Duration // of one add of a file that is a document
}

// seed are the documents to begin with; none of their files exists.
func seed(home string, n int) map[string]gvdb.Entry {
	entries := make(map[string]gvdb.Entry, n)
	le := binary.LittleEndian
	for i := range n {
		b := le.AppendUint32(nil, 0)
		b = fmt.Appendf(b, "%s/many/directory %d/a file of a usual name %d.pdf\x00", home, i/100, i)
		le.PutUint32(b, uint32(len(b)-4))
		for len(b)%8 != 0 {
			b = append(b, 0)
		}
		b = le.AppendUint64(b, 0xfe00)
		b = le.AppendUint64(b, uint64(1000+i/100))
		b = le.AppendUint32(b, 0)
		entries[fmt.Sprintf("%08x", 0x10000000+i)] = gvdb.Entry{
			Data:        bus.Value{Signature: "(ayttu)", Data: b},
			Permissions: map[string][]string{fmt.Sprintf("org.example.App%d", i%20): {"read", "write"}},
		}
	}
	return entries
}

// fill puts documents where a daemon that starts will find them.
func fill(s *session.Session, entries map[string]gvdb.Entry, ours bool) error {
	if !ours {
		data, err := gvdb.Encode(entries)
		if err != nil {
			return err
		}
		dir := filepath.Join(s.Home, ".local/share/flatpak/db")
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, "documents"), data, 0o600)
	}
	store, err := permstore.Open(filepath.Join(s.Home, ".local/share/docportal"), permstore.Options{Indexes: documents.Indexes()})
	if err != nil {
		return err
	}
	defer store.Close()
	ids := make([]string, 0, len(entries))
	for id := range entries {
		ids = append(ids, id)
	}
	for len(ids) > 0 {
		group := ids[:min(len(ids), 1000)]
		ids = ids[len(group):]
		if err := store.Update(context.Background(), func(tx *permstore.Tx) error {
			for _, id := range group {
				e := entries[id]
				if err := tx.Put("documents", id, permstore.Entry{Data: e.Data, Permissions: e.Permissions}); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

func newPortal(s *session.Session, n int, ours bool) (*portal, error) {
	entries := seed(s.Home, n)
	if err := fill(s, entries, ours); err != nil {
		return nil, err
	}
	p := &portal{s: s, ours: ours}
	for id := range entries {
		p.ids = append(p.ids, id)
	}
	var err error
	if p.many, err = s.Connect(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if p.conn, err = bus.Dial(ctx, s.Address, bus.Options{}); err != nil {
		return nil, err
	}
	if _, err := p.timed("GetMountPoint", ""); err != nil {
		return nil, err
	}
	if p.known, err = p.file(); err != nil {
		return nil, err
	}
	_, err = p.addFull(reuse|persistent, "", p.known)
	return p, err
}

// file makes another file.
func (p *portal) file() (string, error) {
	p.n++
	name := filepath.Join(p.s.Home, "files", fmt.Sprint(p.n))
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return "", err
	}
	return name, os.WriteFile(name, nil, 0o600)
}

func (p *portal) files(n int) ([]string, error) {
	names := make([]string, n)
	for i := range names {
		var err error
		if names[i], err = p.file(); err != nil {
			return nil, err
		}
	}
	return names, nil
}

func (p *portal) close() {
	p.conn.Close()
	p.many.Close()
}

// addFull adds files, in as many messages as are needed, and says how long
// that took, without the opening.
func (p *portal) addFull(flags uint32, app string, names ...string) (took time.Duration, err error) {
	perms := []string{}
	if app != "" {
		perms = []string{"read", "write"}
	}
	for len(names) > 0 {
		group := names[:min(len(names), perMessage)]
		names = names[len(group):]
		var fds []bus.FD
		var files []*os.File
		for i, name := range group {
			f, err := os.OpenFile(name, unix.O_PATH, 0)
			if err != nil {
				return 0, err
			}
			defer f.Close()
			fds, files = append(fds, bus.FD(i)), append(files, f)
		}
		var ids []string
		var extra map[string]bus.Value
		start := now()
		_, err := p.conn.CallFiles(context.Background(), documentsName, string(documentsPath), documentsName, "AddFull", "ahusas",
			[]any{fds, flags, app, perms}, files, &ids, &extra)
		took += now() - start
		if err != nil {
			return 0, err
		}
		p.made = ids[0]
	}
	return took, nil
}

// timed measures one call.
func (p *portal) timed(method, sig string, args ...any) (time.Duration, error) {
	start := now()
	err := p.conn.Call(context.Background(), documentsName, string(documentsPath), documentsName, method, sig, args)
	return now() - start, err
}

// operation is one row: what is done once and how long that took.
type operation struct {
	name    string
	waits   bool // docportal answers when it is on the disk; the peer never waits
	grows   bool // its answer grows with the number of documents
	theirs  bool // the peer has it
	least   int  // index of the size that growth begins at
	turn    int  // calls in a row, of what costs nothing to repeat
	measure func(p *portal) (time.Duration, error)
}

// perCall measures one call, or what one of a turn took in the mean: between
// the turns other daemons have had the processor and its caches, so that the
// first of them begins in the cold.
func (o *operation) perCall(p *portal) (sum time.Duration, err error) {
	for range o.turn {
		d, err := o.measure(p)
		if err != nil {
			return 0, err
		}
		sum += d
	}
	return sum / time.Duration(o.turn), nil
}

func (p *portal) id(i int) string { return p.ids[(i*7919)%len(p.ids)] }

var operations = []operation{
	{"AddFull of 1 new", true, false, true, 0, 1, func(p *portal) (time.Duration, error) {
		name, err := p.file()
		if err != nil {
			return 0, err
		}
		return p.addFull(reuse|persistent, "org.example.Target", name)
	}},
	{"AddFull of 1 new, transient", false, false, true, 0, 5, func(p *portal) (time.Duration, error) {
		name, err := p.file()
		if err != nil {
			return 0, err
		}
		return p.addFull(reuse, "org.example.Target", name)
	}},
	{"AddFull of 1 existing (reuse)", false, false, true, 0, 5, func(p *portal) (time.Duration, error) {
		return p.addFull(reuse|persistent, "", p.known)
	}},
	{"AddFull of 100 new, 16 a message", true, false, true, 0, 1, func(p *portal) (time.Duration, error) {
		names, err := p.files(100)
		if err != nil {
			return 0, err
		}
		return p.addFull(reuse|persistent, "org.example.Target", names...)
	}},
	{"Lookup, hit", false, false, true, 0, 5, func(p *portal) (time.Duration, error) {
		return p.timed("Lookup", "ay", append([]byte(p.known), 0))
	}},
	{"Lookup, miss", false, false, true, 0, 5, func(p *portal) (time.Duration, error) {
		return p.timed("Lookup", "ay", append([]byte(p.s.Home+"/.session/bus.conf"), 0))
	}},
	{"Info", false, false, true, 0, 5, func(p *portal) (time.Duration, error) {
		p.n++
		return p.timed("Info", "s", p.id(p.n))
	}},
	{"List of all", false, true, true, 0, 5, func(p *portal) (time.Duration, error) {
		return p.timed("List", "s", "")
	}},
	{"GrantPermissions", true, false, true, 0, 1, func(p *portal) (time.Duration, error) {
		p.n++
		return p.timed("GrantPermissions", "ssas", p.made, fmt.Sprintf("org.example.Granted%d", p.n%10), []string{"read"})
	}},
	{"Delete", true, false, true, 0, 1, func(p *portal) (time.Duration, error) {
		name, err := p.file()
		if err != nil {
			return 0, err
		}
		if _, err := p.addFull(persistent, "", name); err != nil {
			return 0, err
		}
		return p.timed("Delete", "s", p.made)
	}},
	{"GetHostPaths of 100", false, false, false, 1, 5, func(p *portal) (time.Duration, error) {
		ids := make([]string, 100)
		for i := range ids {
			p.n++
			ids[i] = p.id(p.n)
		}
		return p.timed("GetHostPaths", "as", ids)
	}},
	{"200 pipelined Info", false, false, true, 0, 1, func(p *portal) (time.Duration, error) {
		o := p.many.Object(documentsName, documentsPath)
		done := make(chan *dbus.Call, 200)
		start := now()
		for range cap(done) {
			p.n++
			o.Go(documentsName+".Info", 0, done, p.id(p.n))
		}
		for range cap(done) {
			if c := <-done; c.Err != nil {
				return 0, c.Err
			}
		}
		return now() - start, nil
	}},
}

// manyDocuments measures every call of both portals, each with as many
// documents as manySizes has, all of them running at the same time.
func manyDocuments() error {
	var ours, theirs [len(manySizes)]*portal
	var nest func(i int) error
	nest = func(i int) error {
		if i == 2*len(manySizes) {
			return compareMany(ours[:], theirs[:])
		}
		n, peer := i/2, i%2 == 1
		return in(session.Options{SystemPortal: peer}, func(s *session.Session) error {
			p, err := newPortal(s, manySizes[n], !peer)
			if err != nil {
				return fmt.Errorf("%d documents: %w", manySizes[n], err)
			}
			defer p.close()
			if peer {
				theirs[n] = p
			} else {
				ours[n] = p
			}
			return nest(i + 1)
		})
	}
	return nest(0)
}

func compareMany(ours, theirs []*portal) error {
	fmt.Printf("\nCalls of docportal with %d documents and with %d, medians in ms of %d interleaved turns of 1 or 5 calls (GetHostPaths of 100: %d)\n", manySizes[0], manySizes[len(manySizes)-1], 2*manyRounds, manySizes[1])
	if err := growth(ours); err != nil {
		return err
	}
	fmt.Printf("\nCalls with many documents, medians in ms of up to %d interleaved turns of 1 or 5 calls; ours, xdg-document-portal's, ratio\n", manyRounds)
	fmt.Printf("  %-36s", "")
	for _, n := range manySizes {
		fmt.Printf(" %27s", fmt.Sprintf("%d documents", n))
	}
	fmt.Println()
	ratio := make(map[string][]float64)
	for _, op := range operations {
		var a, b [len(manySizes)]column
		var spent [len(manySizes)]time.Duration
		for round := range manyRounds {
			for i := range manySizes {
				d, err := op.perCall(ours[i])
				if err != nil {
					return fmt.Errorf("%s: %w", op.name, err)
				}
				a[i].add(d)
				// What would take too long by the row before is left out.
				if !op.theirs || spent[i] > theirShare || strings.HasPrefix(op.name, "AddFull of 100") && theirs[i].slow() {
					continue
				}
				if d, err = op.perCall(theirs[i]); err != nil {
					return fmt.Errorf("%s of xdg-document-portal, round %d: %w", op.name, round, err)
				}
				b[i].add(d)
				spent[i] += d * time.Duration(op.turn)
				if strings.HasPrefix(op.name, "AddFull of 1 existing") {
					theirs[i].last = d
				}
			}
		}
		mark := ""
		if op.waits {
			mark = " *"
		}
		fmt.Printf("  %-36s", op.name+mark)
		for i := range manySizes {
			if len(b[i].times) == 0 {
				fmt.Printf(" %27s", fine(a[i].median())+"        -       -")
				ratio[op.name] = append(ratio[op.name], 0)
				continue
			}
			r := float64(b[i].median()) / float64(max(a[i].median(), 1))
			ratio[op.name] = append(ratio[op.name], r)
			fmt.Printf(" %27s", fmt.Sprintf("%s %8s %6.1f×", fine(a[i].median()), fine(b[i].median()), r))
		}
		fmt.Println()
	}
	fmt.Println("  * docportal answers when the change is on the disk, xdg-document-portal before it writes; -: it lacks the call, or takes seconds for it")
	verdict("Lookup and reuse at 10 000: ≥ 20 × the speed", ratio["Lookup, hit"][2] >= 20 && ratio["AddFull of 1 existing (reuse)"][2] >= 20)
	verdict("AddFull of 100 at 10 000: ≤ a third of the time", ratio["AddFull of 100 new, 16 a message"][2] >= 3)
	verdict("List of 10 000: ≤ a quarter of the time", ratio["List of all"][2] >= 4)
	return nil
}

// growth compares docportal with itself, while the other portals have nothing
// to do: they write their tables long after they have answered.
func growth(ours []*portal) error {
	var grown []string
	for _, op := range operations {
		if op.grows {
			continue
		}
		var few, many column
		for range 2 * manyRounds {
			for i, c := range map[int]*column{op.least: &few, len(ours) - 1: &many} {
				d, err := op.perCall(ours[i])
				if err != nil {
					return fmt.Errorf("%s: %w", op.name, err)
				}
				c.add(d)
			}
		}
		times := float64(many.median()) / float64(max(few.median(), 1))
		fmt.Printf("  %-36s %8s %8s %6.2f×\n", op.name, fine(few.median()), fine(many.median()), times)
		if times > 1.5 {
			grown = append(grown, op.name)
		}
	}
	verdict("no cost grows with the number: 80 000 documents within 1.5 × of 10, List aside"+listed(grown), len(grown) == 0)
	return nil
}

func listed(l []string) string {
	if len(l) == 0 {
		return ""
	}
	return "; not: " + strings.Join(l, ", ")
}

func fine(d time.Duration) string {
	return fmt.Sprintf("%.2f", float64(d)/float64(time.Millisecond))
}

// slow reports whether a hundred adds would take longer than oneCall.
func (p *portal) slow() bool { return 100*p.last > oneCall }

const (
	most       = 100000 // documents
	mostRSS    = 40 << 10
	mostToWait = 30 * time.Millisecond
)

// largeStore measures the start and the memory of docportal with as many
// documents as one app may have.
func largeStore() error {
	return in(session.Options{}, func(s *session.Session) error {
		if err := fill(s, seed(s.Home, most), true); err != nil {
			return err
		}
		runtime.GC()
		start := &column{name: "docportal"}
		for range rounds {
			if err := ready(s, start, filepath.Join(s.Stage(), "bin", "docportal"), false); err != nil {
				return err
			}
		}
		printTimes(fmt.Sprintf("Readiness with %d documents, %d runs", most, rounds), start)
		verdict(fmt.Sprintf("ready within %v", mostToWait), start.median() <= mostToWait)
		conn, err := bus.Dial(context.Background(), s.Address, bus.Options{})
		if err != nil {
			return err
		}
		defer conn.Close()
		p := &portal{conn: conn}
		if _, err := p.timed("GetMountPoint", ""); err != nil {
			return err
		}
		pid, err := s.Owner(documentsName)
		if err != nil {
			return err
		}
		server := session.ServerOf(pid)
		if server == 0 {
			return errors.New("docportal has no server")
		}
		fmt.Printf("\nMemory of docportal's server with %d documents, MiB\n", most)
		fmt.Printf(tableRow, "", "RSS", "of files", "most")
		most := 0
		for _, step := range []struct {
			name string
			call func() error
			rest time.Duration
		}{
			{"after the start", func() error { return nil }, 0},
			{"after List of all", func() error { _, err := p.timed("List", "s", ""); return err }, 0},
			{"after a rest", func() error { return nil }, idle + time.Second},
			{"after 10 more List", func() error {
				for range 10 {
					if _, err := p.timed("List", "s", ""); err != nil {
						return err
					}
				}
				return nil
			}, 0},
			{"after a rest", func() error { return nil }, idle + time.Second},
		} {
			if err := step.call(); err != nil {
				return err
			}
			time.Sleep(step.rest)
			var rss, files int
			if rss, files, most, err = resident(server); err != nil {
				return err
			}
			fmt.Printf(tableRow, step.name, mib(rss), mib(files), mib(most))
		}
		verdict(fmt.Sprintf("docportal ≤ %d MiB at every moment", mostRSS>>10), most <= mostRSS)
		return syscall.Kill(pid, syscall.SIGTERM)
	})
}

func mib(kib int) string { return fmt.Sprintf("%.1f", float64(kib)/1024) }

// resident is VmRSS, RssFile and VmHWM, the most that VmRSS has been, of a
// process in KiB.
func resident(pid int) (rss, files, most int, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, 0, err
	}
	for line := range strings.Lines(string(b)) {
		fmt.Sscanf(line, "VmRSS: %d kB", &rss)
		fmt.Sscanf(line, "RssFile: %d kB", &files)
		fmt.Sscanf(line, "VmHWM: %d kB", &most)
	}
	return rss, files, most, nil
}
