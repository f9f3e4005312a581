package identity

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"docportal/internal/testsession"
)

// TestMain runs the tests as an ordinary user also where root runs them: root
// may read what is unreadable, and its sandboxes are not a user's.
func TestMain(m *testing.M) {
	if os.Geteuid() != 0 || testsession.Fuzzing() {
		os.Exit(m.Run())
	}
	os.Exit(asNobody())
}

func asNobody() int {
	const nobody = 65534
	dir, err := os.MkdirTemp("", "identity")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	defer os.RemoveAll(dir)
	if err := os.Chown(dir, nobody, nobody); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	// By this name the program is found although its directory is root's.
	cmd := exec.Command("/proc/self/exe")
	for _, arg := range os.Args[1:] {
		// What the go command writes into directories of its own.
		if !strings.HasPrefix(arg, "-test.testlogfile") && !strings.HasPrefix(arg, "-test.coverprofile") && !strings.HasPrefix(arg, "-test.gocoverdir") {
			cmd.Args = append(cmd.Args, arg)
		}
	}
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HOME="+dir, "TMPDIR="+dir)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	fmt.Fprintln(os.Stderr, err)
	return 2
}
