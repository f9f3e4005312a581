package session

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Staged is for the TestMain of a package whose tests need a session. It
// installs everything of the source tree at top where an ordinary user can
// reach it, runs this test program again as that user (scripts/test-user), and
// returns its exit status.
func Staged(top string) (int, error) {
	dir, err := os.MkdirTemp("/tmp", "docportal-stage-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		return 1, err
	}
	stage := exec.Command(filepath.Join(top, "scripts/stage"), dir)
	stage.Stderr = os.Stderr
	if err := stage.Run(); err != nil {
		return 1, fmt.Errorf("scripts/stage: %w", err)
	}
	user, err := exec.Command(filepath.Join(top, "scripts/test-user")).Output()
	if err != nil {
		return 1, fmt.Errorf("scripts/test-user: %w", err)
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return 1, err
	}
	program := filepath.Join(dir, "session.test")
	if err := os.WriteFile(program, self, 0o755); err != nil {
		return 1, err
	}
	args := []string{strings.TrimSpace(string(user)), program}
	for _, arg := range os.Args[1:] {
		// The go command's own file, which the other user may not write.
		if !strings.HasPrefix(arg, "-test.testlogfile=") {
			args = append(args, arg)
		}
	}
	cmd := exec.Command(filepath.Join(dir, "libexec/asuser"), args...)
	cmd.Env = append(os.Environ(), "DOCPORTAL_STAGE="+dir)
	cmd.Dir = dir
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err = cmd.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return exit.ExitCode(), nil
	}
	if err != nil {
		return 1, err
	}
	return 0, nil
}
