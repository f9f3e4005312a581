package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"docportal/dbus"
	"docportal/internal/bus"
	"docportal/internal/fuse"
	"docportal/internal/permstore"
)

type statusCommand struct{ format }

// jsonStatus is what a running instance says of itself.
type jsonStatus struct {
	Version   string `json:"version"`
	PID       int    `json:"pid"`    // of the server
	Keeper    int    `json:"keeper"` // of the process that stays; 0 if there is none
	Since     string `json:"since"`  // of the server
	Crashes   int    `json:"crashes"`
	Mount     string `json:"mount"`
	Mounted   bool   `json:"mounted"`
	Documents int    `json:"documents"`
	// Apps are those that have documents or run, with the files that they have
	// open; the host's are under "".
	Apps        map[string]int `json:"apps"`
	Handles     int            `json:"handles"`
	Descriptors int            `json:"descriptors"`
	// Memory is what each of the two holds alone and its share of the rest
	// (PSS), in bytes.
	Memory       int64    `json:"memory"`
	KeeperMemory int64    `json:"keeperMemory"`
	Errors       []string `json:"errors"` // the last ones
}

// ask asks an instance that runs; none is started for it.
func (c *statusCommand) ask(ctx context.Context, p *portal, stdout io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	var owned bool
	if err := p.conn.Call(ctx, busName, "/org/freedesktop/DBus", busName, "NameHasOwner", "s", []any{permstore.Name}, &owned); err != nil {
		return err
	}
	if !owned {
		return failure{exitNobody, errors.New("docportal is not running; the bus starts it when somebody asks for documents")}
	}
	var text string
	err := p.conn.Call(ctx, permstore.Name, managerPath, dbus.Manager, "Status", "", nil, &text)
	var e *bus.Error
	if errors.As(err, &e) && (e.Name == "org.freedesktop.DBus.Error.UnknownMethod" || e.Name == "org.freedesktop.DBus.Error.UnknownObject") {
		return failure{exitNobody, errors.New("another permission store serves this session")}
	}
	if err != nil {
		return err
	}
	var s jsonStatus
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return err
	}
	if c.JSON {
		return printJSON(stdout, s)
	}
	mount := s.Mount
	if !s.Mounted {
		mount += " (not mounted; the next call mounts it)"
	} else if seen, err := fuse.Visible(os.Getpid(), s.Mount); err == nil && !seen {
		mount += " (not to be seen from here: docportal runs in a mount namespace of its own)"
	}
	keeper := ""
	if s.Keeper != 0 {
		keeper = fmt.Sprintf(", kept by %d", s.Keeper)
	}
	for _, row := range [][2]string{
		{"Version", s.Version},
		{"Process", fmt.Sprintf("%d since %s%s", s.PID, s.Since, keeper)},
		{"Crashes", fmt.Sprintf("%d a short while ago", s.Crashes)},
		{"Mount", mount},
		{"Documents", strconv.Itoa(s.Documents)},
		{"Apps", strconv.Itoa(len(s.Apps))},
		{"Open files", strconv.Itoa(s.Handles)},
		{"Descriptors", strconv.Itoa(s.Descriptors)},
		{"Memory", fmt.Sprintf("%.1f MiB and %.1f MiB", float64(s.Memory)/(1<<20), float64(s.KeeperMemory)/(1<<20))},
	} {
		fmt.Fprintf(stdout, "%-12s %s\n", row[0]+":", row[1])
	}
	for _, e := range s.Errors {
		fmt.Fprintf(stdout, "%-12s %s\n", "Error:", e)
	}
	return nil
}

// statusMethod is the manager's method.
func (d *daemon) statusMethod() bus.Method {
	return bus.Method{Name: "Status", Out: "s", Handle: func(ctx context.Context, c *bus.Call) ([]any, error) {
		if c.Caller == nil || !c.Caller.IsHost() {
			return nil, bus.NotAllowed("sandboxed apps do not manage the store")
		}
		text, err := json.Marshal(d.status())
		if err != nil {
			return nil, bus.Failed("%s", err)
		}
		return []any{string(text)}, nil
	}}
}

func (d *daemon) status() jsonStatus {
	f := d.docs.Facts()
	s := jsonStatus{
		Version:   version,
		PID:       os.Getpid(),
		Keeper:    d.keeper.PID(),
		Since:     d.since.Format(time.RFC3339),
		Crashes:   d.keeper.Crashes(),
		Mount:     d.docs.MountDir(),
		Mounted:   f.Mounted,
		Documents: f.Documents,
		Apps:      make(map[string]int),
		Memory:    pss("self"),
		Errors:    d.trouble.last(),
	}
	for _, app := range f.Apps {
		s.Apps[app] = 0
	}
	for app, n := range f.Open {
		s.Apps[app] = n
		s.Handles += n
	}
	if list, err := os.ReadDir("/proc/self/fd"); err == nil {
		s.Descriptors = len(list) - 1 // but the one of this list
	}
	if s.Keeper != 0 {
		s.KeeperMemory = pss(strconv.Itoa(s.Keeper))
	}
	return s
}

// pss is a process's proportional set size in bytes (proc(5), smaps_rollup).
func pss(process string) int64 {
	text, err := os.ReadFile("/proc/" + process + "/smaps_rollup")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "Pss:" {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			return n << 10
		}
	}
	return 0
}

// trouble is a log handler that remembers the last warnings and errors.
type trouble struct {
	slog.Handler
	kept *keptTrouble
}

type keptTrouble struct {
	mu    sync.Mutex
	lines []string
}

const maxTrouble = 10

func newTrouble(h slog.Handler) *trouble { return &trouble{h, new(keptTrouble)} }

// Handle implements slog.Handler.
func (t *trouble) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelWarn {
		line := r.Time.Format(time.RFC3339) + " " + r.Message
		r.Attrs(func(a slog.Attr) bool {
			line += fmt.Sprintf(" %s=%v", a.Key, a.Value)
			return true
		})
		t.kept.mu.Lock()
		t.kept.lines = append(t.kept.lines, line)
		if n := len(t.kept.lines) - maxTrouble; n > 0 {
			t.kept.lines = t.kept.lines[n:]
		}
		t.kept.mu.Unlock()
	}
	return t.Handler.Handle(ctx, r)
}

// last are the lines, the latest last.
func (t *trouble) last() []string {
	t.kept.mu.Lock()
	defer t.kept.mu.Unlock()
	return append([]string{}, t.kept.lines...)
}
