package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"docportal/internal/bus"
	"docportal/internal/documents"
	"docportal/internal/permstore"
)

// answerLimit is how long the document portal may take; the bus gives one that
// it has to start 25 s.
const answerLimit = 30 * time.Second

// atOnce is how many calls wait for their answers at the same time.
const atOnce = 16

// portal is the document portal of the session, ours or another: what is asked
// here is in the public interface.
type portal struct{ conn *bus.Conn }

// openPortal connects to the session bus.
func openPortal(ctx context.Context) (*portal, error) {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	conn, err := bus.Dial(ctx, "", bus.Options{})
	if err != nil {
		return nil, failure{exitNobody, fmt.Errorf("cannot connect to the session bus: %w", err)}
	}
	return &portal{conn}, nil
}

func (p *portal) close() { p.conn.Close() }

// call calls a method of the document portal.
func (p *portal) call(ctx context.Context, member, signature string, args []any, out ...any) error {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	err := p.conn.Call(ctx, documents.Name, documents.Path, documents.Name, member, signature, args, out...)
	if errors.Is(err, context.DeadlineExceeded) {
		return failure{exitNobody, errors.New("the document portal does not answer")}
	}
	return err
}

// document is what the document portal says of one.
type document struct {
	ID   string
	Path []byte // as the host has it
	Apps map[string][]string
}

// info asks for a document.
func (p *portal) info(ctx context.Context, id string) (*document, error) {
	d := &document{ID: id}
	err := p.call(ctx, "Info", "s", []any{id}, &d.Path, &d.Apps)
	var e *bus.Error
	if errors.As(err, &e) && (e.Name == "org.freedesktop.portal.Error.InvalidArgument" || e.Name == "org.freedesktop.portal.Error.NotFound") {
		return nil, failure{exitNotFound, fmt.Errorf("no such document: %q", id)}
	}
	if err != nil {
		return nil, err
	}
	d.Path = withoutNUL(d.Path)
	return d, nil
}

func withoutNUL(path []byte) []byte {
	if n := len(path); n > 0 && path[n-1] == 0 {
		return path[:n-1]
	}
	return path
}

// find returns the document that a person means: an id, or the path of a file
// on the host or in the file view.
func (p *portal) find(ctx context.Context, word string) (*document, error) {
	if !strings.Contains(word, "/") {
		d, err := p.info(ctx, word)
		if err == nil || exitStatus(err) != exitNotFound {
			return d, err
		}
		if _, missing := os.Lstat(word); missing != nil {
			return nil, err
		}
	}
	path, err := filepath.Abs(word)
	if err != nil {
		return nil, err
	}
	var id string
	if err := p.call(ctx, "Lookup", "ay", []any{append([]byte(path), 0)}, &id); err != nil {
		return nil, err
	}
	if id == "" {
		return nil, failure{exitNotFound, fmt.Errorf("%s is no document", shown([]byte(path)))}
	}
	return p.info(ctx, id)
}

// list asks for the documents that an app may see, or for all if app is empty,
// sorted by path.
func (p *portal) list(ctx context.Context, app string) ([]*document, error) {
	var paths map[string][]byte
	if err := p.call(ctx, "List", "s", []any{app}, &paths); err != nil {
		return nil, err
	}
	ids := slices.Sorted(maps.Keys(paths))
	found := make([]*document, len(ids))
	errs := make([]error, len(ids))
	next := make(chan int)
	var wg sync.WaitGroup
	for range min(atOnce, len(ids)) {
		wg.Go(func() {
			for i := range next {
				found[i], errs[i] = p.info(ctx, ids[i])
			}
		})
	}
	for i := range ids {
		next <- i
	}
	close(next)
	wg.Wait()
	var all []*document
	for i, d := range found {
		switch {
		case errs[i] == nil:
			all = append(all, d)
		case exitStatus(errs[i]) != exitNotFound: // removed meanwhile
			return nil, errs[i]
		}
	}
	slices.SortFunc(all, func(a, b *document) int {
		if c := strings.Compare(string(a.Path), string(b.Path)); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return all, nil
}

// stored says what the permission store knows besides: whether a document
// outlives the session, and if so, whether it is a directory.
func (p *portal) stored(ctx context.Context, id string) (kept, directory bool) {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	var apps map[string][]string
	var data bus.Value
	if p.conn.Call(ctx, permstore.Name, permstore.Path, permstore.Name, "Lookup", "ss", []any{"documents", id}, &apps, &data) != nil {
		return false, false
	}
	return documents.Stored(data)
}

// asking is a command that asks the document portal.
type asking interface {
	ask(ctx context.Context, p *portal, stdout io.Writer) error
}

// askPortal does what such a command says and returns the exit status.
func askPortal(ctx context.Context, c asking, stdout, stderr io.Writer) int {
	p, err := openPortal(ctx)
	if err == nil {
		defer p.close()
		err = c.ask(ctx, p, stdout)
	}
	if err != nil {
		fmt.Fprintln(stderr, "docportal:", message(err))
	}
	return exitStatus(err)
}

// message is what an error says to a person: of an error reply the text alone.
func message(err error) string {
	var e *bus.Error
	if errors.As(err, &e) && e.Message != "" {
		return e.Message
	}
	return err.Error()
}
