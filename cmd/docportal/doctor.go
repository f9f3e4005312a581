package main

import (
	"context"
	"io"
	"os"
	"time"

	"docportal/internal/doctor"
)

type doctorCommand struct {
	format
	Wait time.Duration `default:"10s" help:"How long to wait for each answer."`
	App  string        `arg:"" optional:"" complete:"app" help:"An app whose desktop entry has to be there."`
}

// examine looks at the machine and returns the exit status.
func (c *doctorCommand) examine(ctx context.Context, stdout io.Writer) int {
	return doctor.Main(ctx, doctor.Options{App: c.App, ProfileDirs: profileDirs(), Wait: c.Wait}, c.JSON, stdout, os.Stderr)
}
