package main

import (
	"io"
	"os"

	"docportal/internal/complete"
	"docportal/internal/sandbox"
)

// completeLine answers a shell that asks, with --complete as the first option,
// what can come next (directory completions); words are those after it. The
// exit status 1 says that nothing is known, so that files are offered.
func completeLine(words []string, stdout io.Writer) int {
	if len(words) > 0 && words[0] == "--" {
		words = words[1:]
	}
	if !complete.Print(stdout, newParser(new(options)).Model, words, func(kind string, _ []string) []complete.Candidate {
		exe, _ := os.Executable()
		return profiles(kind, sandbox.ProfileDirs(os.Getenv, exe))
	}) {
		return 1
	}
	return 0
}

// profiles lists the apps that have a profile.
func profiles(kind string, dirs []string) (all []complete.Candidate) {
	if kind != "profile" {
		return nil
	}
	for _, id := range sandbox.Installed(dirs) {
		all = append(all, complete.Candidate{Word: id})
	}
	return all
}
