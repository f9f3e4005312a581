package main

import (
	"context"
	"errors"
	"io"
)

type grantCommand struct {
	format
	Document string   `arg:"" complete:"document" placeholder:"ID|PATH" help:"The id of a document, or the path of its file."`
	App      string   `arg:"" complete:"app" help:"The app that gets the permissions, besides those that it has."`
	Perm     []string `arg:"" complete:"=read|write|grant-permissions|delete" help:"read, write, grant-permissions or delete."`
}

func (c *grantCommand) ask(ctx context.Context, p *portal, stdout io.Writer) error {
	return p.change(ctx, "GrantPermissions", c.Document, c.App, c.Perm, c.JSON, stdout)
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
	if d, err = p.info(ctx, d.ID); err != nil {
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
