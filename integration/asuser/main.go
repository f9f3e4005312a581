// Asuser runs a program as an ordinary user: asuser USER PROGRAM [ARG...].
// Root's tests and demonstration are started with it. It replaces itself by
// the program, so signals and the exit status are the program's own, and it
// takes nothing of root's session along. Called by USER, it just runs the
// program.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"os/user"
	"strconv"
	"strings"
	"syscall"
)

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: asuser USER PROGRAM [ARG...]")
		os.Exit(2)
	}
	err := run(os.Args[1], os.Args[2:])
	fmt.Fprintln(os.Stderr, "asuser:", err)
	os.Exit(1)
}

func run(name string, argv []string) error {
	u, err := user.Lookup(name)
	if err != nil {
		return err
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return err
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return err
	}
	// A shell starts its background jobs with these ignored, and tests are
	// about what they do. What is caught here is as usual after execve(2).
	signal.Notify(make(chan os.Signal, 1), syscall.SIGINT, syscall.SIGQUIT)
	if os.Getuid() == uid {
		return syscall.Exec(argv[0], argv, os.Environ())
	}
	if uid == 0 {
		return errors.New("that is no ordinary user")
	}
	if err := syscall.Setgroups([]int{gid}); err != nil {
		return fmt.Errorf("setgroups: %w", err)
	}
	if err := syscall.Setresgid(gid, gid, gid); err != nil {
		return fmt.Errorf("setresgid: %w", err)
	}
	if err := syscall.Setresuid(uid, uid, uid); err != nil {
		return fmt.Errorf("setresuid: %w", err)
	}
	env := []string{"HOME=" + u.HomeDir, "USER=" + name, "LOGNAME=" + name, "SHELL=/bin/sh"}
	for _, kv := range os.Environ() {
		if keep(kv) {
			env = append(env, kv)
		}
	}
	return syscall.Exec(argv[0], argv, env)
}

// keep reports whether a variable of root's environment means the same to
// another user.
func keep(kv string) bool {
	name, _, _ := strings.Cut(kv, "=")
	switch name {
	case "PATH", "TERM", "TMPDIR", "LANG", "TZ":
		return true
	}
	return strings.HasPrefix(name, "DOCPORTAL_") || strings.HasPrefix(name, "LC_")
}
