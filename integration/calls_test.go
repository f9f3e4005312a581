package integration

import (
	"bytes"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"docportal/integration/session"
	"docportal/internal/sandbox"
)

// callsTried has integration/calls, or the one for the second architecture,
// try its calls in a sandbox, and returns what came of each.
func callsTried(t *testing.T, s *session.Session, program string, options ...string) map[string]string {
	t.Helper()
	profile, err := s.Profile(appA, program)
	if err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	cmd := s.Command("sbx-run", append(append([]string{"--no-documents"}, options...), profile)...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := s.Start(cmd); err != nil {
		t.Fatal(err)
	}
	defer time.AfterFunc(answerLimit, func() { cmd.Process.Kill() }).Stop()
	err = cmd.Wait()
	got := map[string]string{}
	for line := range strings.Lines(out.String()) {
		name, answer, _ := strings.Cut(strings.TrimSpace(line), " ")
		got[name] = answer
	}
	if len(got) == 0 {
		t.Logf("%s: %v: %s", program, err, errs.String())
	}
	return got
}

// denied is what calls must answer where nothing is allowed.
func denied() map[string]string {
	want := map[string]string{
		"unshare-user": "EPERM", "clone-newuser": "EPERM", "clone-newuser-high": "EPERM",
		"tiocsti": "EPERM", "tiocsti-high": "EPERM", "tioclinux": "EPERM", "tiocgwinsz": "EBADF",
		"setlease": "EPERM", "setlease-high": "EPERM", "setdelegation": "EPERM", "setlease64": "EPERM", "getfl": "EBADF",
		"vsock": "EAFNOSUPPORT", "vsock-high": "EAFNOSUPPORT", "packet": "EAFNOSUPPORT", "alg": "EAFNOSUPPORT",
		"bluetooth": "EAFNOSUPPORT", "can": "EAFNOSUPPORT", "socketpair-tipc": "EAFNOSUPPORT",
		"inet": "ok", "netlink": "ok",
	}
	for _, name := range (sandbox.Filter{}).Denied() {
		want[name] = "EPERM"
	}
	for _, name := range []string{
		"clone3", "open_tree", "open_tree_attr", "move_mount", "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr",
		"io_uring_setup", "io_uring_enter", "io_uring_register",
	} {
		want[name] = "ENOSYS"
	}
	return want
}

// oldCalls are those that newer architectures lack.
var oldCalls = []string{"umount", "uselib", "setlease64"}

func compareCalls(t *testing.T, got, want map[string]string) {
	t.Helper()
	for name, answer := range want {
		if _, tried := got[name]; !tried && slices.Contains(oldCalls, name) {
			continue
		}
		if got[name] != answer {
			t.Errorf("%s: %q, want %s", name, got[name], answer)
		}
	}
}

func TestDeniedSystemCallsFail(t *testing.T) {
	s := start(t)
	want := denied()
	if runtime.GOARCH == "amd64" {
		for _, name := range []string{"int80-getpid", "int80-mount", "int80-ptrace", "int80-clone3", "x32-getpid", "x32-mount", "x32-ptrace"} {
			want[name] = "ENOSYS"
		}
	}
	compareCalls(t, callsTried(t, s, "calls"), want)

	got := callsTried(t, s, "calls", "--allow=userns", "--allow=devel")
	compareCalls(t, got, map[string]string{
		"unshare": "ok", "chroot": "EFAULT", "unshare-user": "EINVAL", "clone-newuser": "EINVAL", "ptrace": "ESRCH",
		"perf_event_open": "EFAULT",
		"setns":           "EPERM", "mount": "EPERM", "clone3": "ENOSYS", "move_mount": "ENOSYS",
	})
}

// A program of the second architecture gets nothing done, or meets a filter of
// its own numbers.
func TestTheSecondArchitectureIsFilteredToo(t *testing.T) {
	if runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
		return // the kernel has none
	}
	s := start(t)
	if got := callsTried(t, s, "calls-second"); len(got) != 0 {
		t.Errorf("without features=multiarch it ran: %v", got)
	}
	compareCalls(t, callsTried(t, s, "calls-second", "--allow=multiarch"), denied())
	got := callsTried(t, s, "calls", "--allow=multiarch")
	compareCalls(t, got, denied())
	if runtime.GOARCH == "amd64" {
		compareCalls(t, got, map[string]string{"int80-getpid": "ok", "int80-mount": "EPERM", "int80-ptrace": "EPERM", "int80-clone3": "ENOSYS", "x32-getpid": "ENOSYS", "x32-ptrace": "ENOSYS"})
	}
}
