package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"docportal/internal/sandbox"
)

// Toolkits load images in processes of their own, and where they see a sandbox
// like flatpak's they start these by "flatpak-spawn --sandbox". A link of that
// name to sbx-run, which an app finds in its sandbox as it finds any program of
// the system, does that, and nothing else: it starts no program outside.

const spawnName = "flatpak-spawn"

// asSpawn reports whether the program was called by that name.
func asSpawn() bool { return filepath.Base(os.Args[0]) == spawnName }

// spawned is what a command line of flatpak-spawn's asks for.
type spawned struct {
	directory string
	forwarded []int // descriptors beside the standard ones
	env       []string
	command   []string
}

// parseSpawn reads the arguments of flatpak-spawn.
func parseSpawn(args, env []string) (s spawned, err error) {
	sandboxed := false
	s.env = env
	for ; len(args) > 0 && strings.HasPrefix(args[0], "-"); args = args[1:] {
		if args[0] == "--" {
			args = args[1:]
			break
		}
		name, value, _ := strings.Cut(args[0], "=")
		switch name {
		case "--sandbox":
			sandboxed = true
		case "--watch-bus", "--no-network": // who is asked ends with its socket, and has no network
		case "--directory":
			s.directory = value
		case "--forward-fd":
			fd, err := strconv.Atoi(value)
			if err != nil || fd < 3 {
				return s, fmt.Errorf("%s: no descriptor", args[0])
			}
			s.forwarded = append(s.forwarded, fd)
		case "--clear-env":
			s.env = nil
		case "--env":
			if !strings.Contains(value, "=") {
				return s, fmt.Errorf("%s: no NAME=VALUE", args[0])
			}
			s.env = append(s.env, value)
		default:
			return s, fmt.Errorf("%s: this is sbx-run in the place of flatpak-spawn: it knows only --sandbox", args[0])
		}
	}
	if !sandboxed || len(args) == 0 {
		return s, errors.New("this is sbx-run in the place of flatpak-spawn: it knows only --sandbox PROGRAM, in a sandbox")
	}
	s.command = args
	return s, nil
}

// spawn becomes the program, and returns an exit status as env(1) has them if it
// does not.
func spawn(args []string) int {
	fail := func(status int, err error) int {
		fmt.Fprintln(os.Stderr, "flatpak-spawn:", err)
		return status
	}
	if _, err := os.Stat("/.flatpak-info"); err != nil {
		return fail(exitFailed, errors.New("this is no sandbox"))
	}
	s, err := parseSpawn(args, os.Environ())
	if err != nil {
		return fail(exitFailed, err)
	}
	if os.Getenv("PATH") == "" { // toolkits start with hardly any environment
		os.Setenv("PATH", "/usr/local/bin:/usr/bin:/bin")
	}
	path, err := exec.LookPath(s.command[0])
	if err != nil {
		return fail(exitNotFound, err)
	}
	if s.directory != "" {
		if err := os.Chdir(s.directory); err != nil {
			return fail(exitFailed, err)
		}
	}
	unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC)
	for _, fd := range s.forwarded {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			return fail(exitFailed, fmt.Errorf("descriptor %d: %w", fd, err))
		}
	}
	runtime.LockOSThread() // what confines is the thread's, and goes with exec
	if err := sandbox.ConfineLoader(); err != nil {
		return fail(exitFailed, err)
	}
	return fail(exitUnusable, syscall.Exec(path, s.command, s.env))
}
