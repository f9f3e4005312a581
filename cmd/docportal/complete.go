package main

import (
	"context"
	"io"
	"maps"
	"slices"
	"time"

	"docportal/internal/complete"
	"docportal/internal/documents"
)

// completeWord is the first word of the command lines by which the shells ask
// what can come next (directory completions).
const completeWord = "complete"

// completionLimit is how long a person who presses Tab waits.
const completionLimit = 2 * time.Second

// completeLine answers a shell; words are those after the program's name. The
// exit status 1 says that nothing is known, so that files are offered.
func completeLine(words []string, stdout io.Writer) int {
	if len(words) > 0 && words[0] == "--" {
		words = words[1:]
	}
	parser := newParser(new(commandLine))
	ctx, cancel := context.WithTimeout(context.Background(), completionLimit)
	defer cancel()
	if !complete.Print(stdout, parser.Model, words, func(kind string, before []string) []complete.Candidate {
		return completions(ctx, kind, before)
	}) {
		return 1
	}
	return 0
}

// completions lists documents and apps, if a document portal runs: none is
// started for it.
func completions(ctx context.Context, kind string, before []string) (all []complete.Candidate) {
	p, err := openPortal(ctx)
	if err != nil {
		return nil
	}
	defer p.close()
	var runs bool
	if p.conn.Call(ctx, busName, "/org/freedesktop/DBus", busName, "NameHasOwner", "s", []any{documents.Name}, &runs) != nil || !runs {
		return nil
	}
	switch kind {
	case "document":
		var paths map[string][]byte
		if p.call(ctx, "List", "s", []any{""}, &paths) != nil {
			return nil
		}
		for _, id := range slices.Sorted(maps.Keys(paths)) {
			all = append(all, complete.Candidate{Word: id, Help: shown(withoutNUL(paths[id]))})
		}
	case "holder":
		if len(before) == 0 {
			return nil
		}
		d, err := p.find(ctx, before[0])
		if err != nil {
			return nil
		}
		for _, app := range slices.Sorted(maps.Keys(d.Apps)) {
			all = append(all, complete.Candidate{Word: app, Help: letters(d.Apps[app])})
		}
	case "app":
		docs, err := p.list(ctx, "")
		if err != nil {
			return nil
		}
		apps := make(map[string]bool)
		for _, d := range docs {
			for app := range d.Apps {
				apps[app] = true
			}
		}
		for _, app := range slices.Sorted(maps.Keys(apps)) {
			all = append(all, complete.Candidate{Word: app})
		}
	}
	return all
}
