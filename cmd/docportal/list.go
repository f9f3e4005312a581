package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"docportal/internal/appid"
)

type listCommand struct {
	format
	App string `arg:"" optional:"" complete:"app" help:"Only the documents that this app may see."`
}

// jsonDocument is a document in JSON.
type jsonDocument struct {
	ID string `json:"id"`
	jsonPath
	Apps map[string][]string `json:"apps"`
}

func (d *document) json() jsonDocument {
	apps := d.Apps
	if apps == nil {
		apps = map[string][]string{}
	}
	return jsonDocument{d.ID, newJSONPath(d.Path), apps}
}

func (c *listCommand) ask(ctx context.Context, p *portal, stdout io.Writer) error {
	if err := checkApp(c.App); c.App != "" && err != nil {
		return err
	}
	all, err := p.list(ctx, c.App)
	if err != nil {
		return err
	}
	if c.JSON {
		out := []jsonDocument{}
		for _, d := range all {
			out = append(out, d.json())
		}
		return printJSON(stdout, out)
	}
	heading := []string{"ID", "APPS", "PATH"}
	if c.App != "" {
		heading[1] = "PERMISSIONS"
	}
	var rows [][]string
	for _, d := range all {
		who := holders(d.Apps)
		if c.App != "" {
			who = strings.Join(d.Apps[c.App], ",")
		}
		rows = append(rows, []string{d.ID, who, shown(d.Path)})
	}
	return printTable(stdout, heading, rows)
}

func checkApp(app string) error {
	if !appid.Valid(app) {
		return failure{exitUsage, fmt.Errorf("not an app id: %q", app)}
	}
	return nil
}

type appsCommand struct{ format }

// jsonApp is an app in JSON.
type jsonApp struct {
	App       string `json:"app"`
	Documents int    `json:"documents"`
	Writable  int    `json:"writable"`
}

func (c *appsCommand) ask(ctx context.Context, p *portal, stdout io.Writer) error {
	all, err := p.list(ctx, "")
	if err != nil {
		return err
	}
	apps := make(map[string]*jsonApp)
	for _, d := range all {
		for app, words := range d.Apps {
			a := apps[app]
			if a == nil {
				a = &jsonApp{App: app}
				apps[app] = a
			}
			a.Documents++
			if slices.Contains(words, "write") {
				a.Writable++
			}
		}
	}
	out := []jsonApp{}
	var rows [][]string
	for _, app := range slices.Sorted(maps.Keys(apps)) {
		a := apps[app]
		out = append(out, *a)
		rows = append(rows, []string{shown([]byte(app)), fmt.Sprint(a.Documents), fmt.Sprint(a.Writable)})
	}
	if c.JSON {
		return printJSON(stdout, out)
	}
	return printTable(stdout, []string{"APP", "DOCUMENTS", "WRITABLE"}, rows)
}

type infoCommand struct {
	format
	Document string `arg:"" complete:"document" placeholder:"ID|PATH" help:"The id of a document, or the path of its file."`
}

func (c *infoCommand) ask(ctx context.Context, p *portal, stdout io.Writer) error {
	d, err := p.find(ctx, c.Document)
	if err != nil {
		return err
	}
	return p.printInfo(ctx, d, c.JSON, stdout)
}

// printInfo prints all there is to know of a document.
func (p *portal) printInfo(ctx context.Context, d *document, asJSON bool, stdout io.Writer) error {
	kept, directory := p.stored(ctx, d.ID)
	missing := false
	if st, err := os.Lstat(string(d.Path)); err == nil {
		directory = st.IsDir()
	} else {
		missing = os.IsNotExist(err)
	}
	kind := "file"
	if directory {
		kind = "directory"
	}
	var mount []byte
	if err := p.call(ctx, "GetMountPoint", "", nil, &mount); err != nil {
		mount = nil // what is known is worth telling
	}
	var view []byte
	if len(mount) > 0 {
		view = []byte(filepath.Join(string(withoutNUL(mount)), d.ID, filepath.Base(string(d.Path))))
	}
	if asJSON {
		return printJSON(stdout, struct {
			jsonDocument
			Kind    string   `json:"kind"`
			Kept    bool     `json:"kept"`
			Missing bool     `json:"missing"`
			View    jsonPath `json:"view"`
		}{d.json(), kind, kept, missing, newJSONPath(view)})
	}
	if missing {
		kind += ", not there now"
	}
	until := "until the session ends"
	if kept {
		until = "for good"
	}
	rows := [][2]string{{"id", d.ID}, {"path", shown(d.Path)}, {"kind", kind}, {"kept", until}}
	if view != nil {
		rows = append(rows, [2]string{"view", shown(view)})
	}
	for _, app := range slices.Sorted(maps.Keys(d.Apps)) {
		rows = append(rows, [2]string{"app", shown([]byte(app)) + " " + strings.Join(d.Apps[app], ",")})
	}
	for _, r := range rows {
		if _, err := fmt.Fprintf(stdout, "%-5s %s\n", r[0], r[1]); err != nil {
			return err
		}
	}
	return nil
}
