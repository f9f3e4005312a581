package fuse

import (
	"bufio"
	"encoding/hex"
	"errors"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// journal is the list, on disk, of the temp files that there are, so that the
// next start finds those that a crash has left without searching the disk.
//
// A line is "+HIDDEN DIR MAIN ONLY DEV INO FSID HANDLE APP DOCUMENT NAME" before
// a file is made or when that changes, and "-HIDDEN" when it is gone; strings are quoted as
// Go does. A line without its end is not one. A nil journal notes nothing.
type journal struct {
	f    *os.File
	warn func(msg string, args ...any)
}

// openJournal opens the journal at path, creating it with mode 0600. It removes
// the temp files that it lists, but none through the view, or returns them if they
// are to stay.
func openJournal(path string, stay bool, host *opener, warn func(msg string, args ...any)) (*journal, []*temp, error) {
	// Whoever restarts a server waits for it, and to change anything may take long on
	// a slow disk: so not even the time of the last access is changed.
	const flags = os.O_RDWR | os.O_CREATE | os.O_APPEND | syscall.O_NOFOLLOW
	f, err := os.OpenFile(path, flags|unix.O_NOATIME, 0o600)
	if errors.Is(err, os.ErrPermission) { // it is somebody else's, open(2)
		f, err = os.OpenFile(path, flags, 0o600)
	}
	if err != nil {
		return nil, nil, err
	}
	left := make(map[string]*temp)
	r := bufio.NewReader(f)
	empty := true
	for {
		line, err := r.ReadString('\n')
		empty = empty && line == ""
		if err != nil {
			break
		}
		if hidden, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "-"); ok {
			delete(left, hidden)
		} else if t, ok := parseTemp(line); ok {
			left[t.hidden] = t
		}
	}
	var kept []*temp
	for _, t := range left {
		if stay && t.doc.ID != "" && t.name != "" {
			kept = append(kept, t)
			continue
		}
		errno := t.remove(host)
		if errno != 0 && errno != syscall.ENOENT {
			warn("a temporary file of an earlier run stays behind", "document", t.doc.ID, "file", t.hidden, "error", errno)
		}
	}
	j := &journal{f: f, warn: warn}
	if len(kept) > 0 || empty {
		return j, kept, nil // the lines stay with them
	}
	if err := f.Truncate(0); err != nil {
		f.Close()
		return nil, nil, err
	}
	return j, nil, nil
}

func formatTemp(t *temp) string {
	d := t.doc
	return "+" + t.hidden + " " + strconv.Quote(d.Dir) + " " + strconv.Quote(d.Name) + " " +
		strconv.FormatBool(t.only) + " " + strconv.FormatUint(d.DirID.Dev, 10) + " " +
		strconv.FormatUint(d.DirID.Ino, 10) + " " + strconv.FormatUint(d.DirID.FSID, 10) + " " +
		strconv.Quote(hex.EncodeToString(d.DirID.Handle)) + " " +
		strconv.Quote(t.app) + " " + strconv.Quote(d.ID) + " " + strconv.Quote(t.name) + "\n"
}

// parseTemp reads a "+" line. It takes nothing for a temp file whose name
// could not be one.
func parseTemp(line string) (*temp, bool) {
	rest, ok := strings.CutPrefix(line, "+")
	if !ok || !strings.HasSuffix(rest, "\n") {
		return nil, false
	}
	ok = true
	word := func() string {
		w, r, found := strings.Cut(strings.TrimSuffix(rest, "\n"), " ")
		ok = ok && (found || r == "")
		rest = r
		return w
	}
	quoted := func() string {
		q, err := strconv.QuotedPrefix(rest)
		if err != nil {
			ok = false
			return ""
		}
		rest = strings.TrimPrefix(rest[len(q):], " ")
		s, err := strconv.Unquote(q)
		ok = ok && err == nil
		return s
	}
	number := func() uint64 {
		n, err := strconv.ParseUint(word(), 10, 64)
		ok = ok && err == nil
		return n
	}
	t := &temp{doc: new(Document)}
	t.hidden = word()
	t.doc.Dir = quoted()
	t.doc.Name = quoted()
	only, err := strconv.ParseBool(word())
	t.only = only
	t.doc.DirID.Dev = number()
	t.doc.DirID.Ino = number()
	t.doc.DirID.FSID = number()
	handle, err2 := hex.DecodeString(quoted())
	t.doc.DirID.Handle = handle
	if rest != "\n" { // lines of earlier versions end here
		t.app = quoted()
		t.doc.ID = quoted()
		t.name = quoted()
	}
	ok = ok && err == nil && err2 == nil &&
		len(t.hidden) == hiddenLength && strings.HasPrefix(t.hidden, hiddenPrefix) &&
		component(t.hidden) && component(t.doc.Name) && strings.HasPrefix(t.doc.Dir, "/")
	return t, ok
}

func (j *journal) add(t *temp) {
	if j == nil {
		return
	}
	j.write(formatTemp(t))
	if t.only {
		// It is the user's file that goes under a name nobody knows.
		unix.Fdatasync(int(j.f.Fd()))
	}
}

func (j *journal) remove(t *temp) {
	if j == nil {
		return
	}
	j.write("-" + t.hidden + "\n")
}

// compact empties the journal when it lists nothing.
func (j *journal) compact() {
	if j == nil {
		return
	}
	if err := j.f.Truncate(0); err != nil {
		j.warn("cannot empty the journal of temporary files", "error", err)
	}
}

func (j *journal) write(line string) {
	if _, err := j.f.WriteString(line); err != nil {
		j.warn("cannot write the journal of temporary files", "error", err)
	}
}

func (j *journal) close() {
	if j != nil {
		j.f.Close()
	}
}
