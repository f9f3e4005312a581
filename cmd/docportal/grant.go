package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"docportal/internal/bus"
	"docportal/internal/documents"
)

type grantCommand struct {
	format
	Document string   `arg:"" complete:"document" placeholder:"ID|PATH" help:"The id of a document, or the path of its file. A file or directory that is none becomes one."`
	App      string   `arg:"" complete:"app" help:"The app that gets the permissions, besides those that it has."`
	Perm     []string `arg:"" complete:"=read|write|grant-permissions|delete" help:"read, write, grant-permissions or delete."`
}

func (c *grantCommand) ask(ctx context.Context, p *portal, stdout io.Writer) error {
	err := p.change(ctx, "GrantPermissions", c.Document, c.App, c.Perm, c.JSON, stdout)
	if exitStatus(err) != exitNotFound {
		return err
	}
	f, missing := os.OpenFile(c.Document, unix.O_PATH, 0)
	if missing != nil {
		return err // neither a document nor a file
	}
	defer f.Close()
	id, err := p.add(ctx, f, c.App, c.Perm)
	if err != nil || !c.JSON {
		return err
	}
	return p.print(ctx, id, stdout)
}

// Flags of AddFull.
const (
	addReuse      = 1
	addPersistent = 2
	addDirectory  = 8
)

// add makes a document of a file or directory, for good, and gives an app
// permissions on it.
func (p *portal) add(ctx context.Context, f *os.File, app string, perms []string) (id string, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	flags := uint32(addReuse | addPersistent)
	if info, err := f.Stat(); err != nil {
		return "", err
	} else if info.IsDir() {
		flags |= addDirectory
	}
	var ids []string
	var extra map[string]bus.Value
	files, err := p.conn.CallFiles(ctx, documents.Name, documents.Path, documents.Name, "AddFull", "ahusas",
		[]any{[]bus.FD{0}, flags, app, perms}, []*os.File{f}, &ids, &extra)
	for _, f := range files {
		f.Close()
	}
	if err == nil && len(ids) != 1 {
		err = fmt.Errorf("the document portal answered with %d ids", len(ids))
	}
	if err != nil {
		return "", err
	}
	return ids[0], nil
}

type revokeCommand struct {
	format
	Document string   `arg:"" complete:"document" placeholder:"ID|PATH" help:"The id of a document, or the path of its file."`
	App      string   `arg:"" complete:"holder" help:"The app that loses the permissions."`
	Perm     []string `arg:"" optional:"" complete:"=read|write|grant-permissions|delete" help:"read, write, grant-permissions or delete; all if none is named."`
}

func (c *revokeCommand) ask(ctx context.Context, p *portal, stdout io.Writer) error {
	words := c.Perm
	if len(words) == 0 {
		words = []string{"read", "write", "grant-permissions", "delete"}
	}
	return p.change(ctx, "RevokePermissions", c.Document, c.App, words, c.JSON, stdout)
}

// change grants or revokes, and with --json says what came of it.
func (p *portal) change(ctx context.Context, member, word, app string, perms []string, asJSON bool, stdout io.Writer) error {
	if err := checkApp(app); err != nil {
		return err
	}
	d, err := p.find(ctx, word)
	if err != nil {
		return err
	}
	if err := p.call(ctx, member, "ssas", []any{d.ID, app, perms}); err != nil || !asJSON {
		return err
	}
	return p.print(ctx, d.ID, stdout)
}

// print says what a document is now, in JSON.
func (p *portal) print(ctx context.Context, id string, stdout io.Writer) error {
	d, err := p.info(ctx, id)
	if err != nil {
		return err
	}
	return printJSON(stdout, d.json())
}

type deleteCommand struct {
	format
	Documents []string `arg:"" name:"document" complete:"document" placeholder:"ID|PATH" help:"The ids of documents, or the paths of their files."`
}

// ask deletes what can be deleted; the first failure decides the exit status.
func (c *deleteCommand) ask(ctx context.Context, p *portal, stdout io.Writer) error {
	deleted := []string{}
	var failed error
	for _, word := range c.Documents {
		d, err := p.find(ctx, word)
		if err == nil {
			err = p.call(ctx, "Delete", "s", []any{d.ID})
		}
		if err == nil {
			deleted = append(deleted, d.ID)
			continue
		}
		if failed == nil {
			failed = err
		} else {
			failed = failure{exitStatus(failed), errors.New(message(failed) + "; " + message(err))}
		}
	}
	if c.JSON {
		if err := printJSON(stdout, map[string][]string{"deleted": deleted}); err != nil {
			return err
		}
	}
	return failed
}
