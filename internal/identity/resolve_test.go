package identity

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// aBus is a bus on which one process has a name.
type aBus struct {
	pid   int
	pidfd bool // a bus that hands out pidfds
	uid   uint32
	asked int
	then  func(asked int) error // called at each question
}

func busOf(pid int, pidfd bool) *aBus {
	return &aBus{pid: pid, pidfd: pidfd, uid: uint32(os.Geteuid())}
}

func (b *aBus) Credentials(context.Context, string) (Credentials, error) {
	c := Credentials{UID: b.uid, PID: b.pid}
	if b.pidfd {
		fd, err := unix.PidfdOpen(b.pid, 0)
		if err != nil {
			return Credentials{}, err
		}
		c.PidFD = os.NewFile(uintptr(fd), "pidfd")
		c.PID = 1 // as a bus in another pid namespace might say
	}
	b.asked++
	if b.then != nil {
		if err := b.then(b.asked); err != nil {
			return Credentials{}, err
		}
	}
	return c, nil
}

// run starts a program that prints its process id, and waits for that.
func run(t *testing.T, name string, args ...string) (pid int, cmd *exec.Cmd) {
	t.Helper()
	return runWith(t, nil, name, args...)
}

func runWith(t *testing.T, files []*os.File, name string, args ...string) (pid int, cmd *exec.Cmd) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	cmd = exec.CommandContext(ctx, name, args...)
	cmd.ExtraFiles = files
	in, err := cmd.StdinPipe() // its end is the program's end
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var complaint strings.Builder
	cmd.Stderr = &complaint
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		cancel()
		cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		in.Close()
		cmd.Wait()
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, complaint.String())
	}
	pid, err = strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	return pid, cmd
}

// program is what runs in the tests' sandboxes.
var program = []string{"/bin/sh", "-c", "echo $$; read line"}

// sandbox starts a program in a bwrap with a /.flatpak-info, or what args put
// in its place. Each of contents is passed as a file, the first as 3.
func sandbox(t *testing.T, contents []string, args ...string) (pid int) {
	t.Helper()
	var files []*os.File
	for _, c := range contents {
		f, err := os.CreateTemp(t.TempDir(), "data")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(c); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Seek(0, 0); err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	all := []string{"--unshare-user", "--die-with-parent", "--ro-bind", "/usr", "/usr", "--proc", "/proc", "--dev", "/dev"}
	for _, dir := range []string{"/bin", "/lib", "/lib64", "/sbin"} {
		if link, err := os.Readlink(dir); err == nil {
			all = append(all, "--symlink", link, dir)
		} else if _, err := os.Stat(dir); err == nil {
			all = append(all, "--ro-bind", dir, dir)
		}
	}
	all = append(all, args...)
	all = append(append(all, "--"), program...)
	pid, _ = runWith(t, files, "bwrap", all...)
	return pid
}

const goodInfo = `[Application]
name=org.example.App
runtime=runtime/org.example.Platform/x86_64/1

[Instance]
instance-id=4711
app-path=/var/lib/flatpak/app/org.example.App/files
runtime-path=/var/lib/flatpak/runtime/org.example.Platform/files

[Context]
shared=ipc;network;
`

func resolve(t *testing.T, b Bus, o Options) (*Caller, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return NewResolver(b, o).Resolve(ctx, ":1.5")
}

func TestAnOrdinaryProcessIsTheHost(t *testing.T) {
	// No environment variable changes who a caller is.
	t.Setenv("XDG_DESKTOP_PORTAL_TEST_APP_INFO_KIND", "flatpak")
	t.Setenv("FLATPAK_ID", "org.example.App")
	t.Setenv("container", "flatpak")
	pid, _ := run(t, program[0], program[1:]...)
	for _, pidfd := range []bool{false, true} {
		c, err := resolve(t, busOf(pid, pidfd), Options{})
		if err != nil || !c.IsHost() || c.App != "" || c.PID != pid || c.Name != ":1.5" {
			t.Errorf("with a pidfd %v: %+v, %v", pidfd, c, err)
		}
	}
}

func TestAnAppIsWhoItsMetadataSays(t *testing.T) {
	pid := sandbox(t, []string{goodInfo}, "--ro-bind-data", "3", "/.flatpak-info")
	for _, pidfd := range []bool{false, true} {
		c, err := resolve(t, busOf(pid, pidfd), Options{})
		if err != nil {
			t.Fatal(err)
		}
		if c.IsHost() || c.Kind != Flatpak || c.App != "org.example.App" || c.InstanceID != "4711" || !c.Network || c.PID != pid ||
			c.AppPath != "/var/lib/flatpak/app/org.example.App/files" || !strings.HasPrefix(c.RuntimePath, "/var/lib/flatpak/runtime/") || c.Binds != nil {
			t.Errorf("with a pidfd %v: %+v", pidfd, c)
		}
	}
}

func TestMetadataInARealSandbox(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o666); err != nil {
		t.Fatal(err)
	}
	full := goodInfo + "#" + strings.Repeat("x", maxMetadata-len(goodInfo)-1)
	if len(full) != maxMetadata {
		t.Fatal("wrong size")
	}
	info := func(content string) []string { return []string{content} }
	data := []string{"--ro-bind-data", "3", "/.flatpak-info"}
	for _, test := range []struct {
		name     string
		contents []string
		args     []string
		app      string // "" is a refusal
	}{
		{"a regular file", info(goodInfo), []string{"--file", "3", "/.flatpak-info"}, "org.example.App"},
		{"both a file and a mount over it", info(goodInfo), []string{"--perms", "0600", "--file", "3", "/.flatpak-info", "--ro-bind-data", "4", "/.flatpak-info"}, "org.example.App"},
		{"1 MiB", info(full), data, "org.example.App"},
		{"1 MiB and a byte", info(full + "x"), data, ""},
		{"a dangling link", nil, []string{"--symlink", "/nonexistent", "/.flatpak-info"}, ""},
		{"a link to good metadata", info(goodInfo), []string{"--ro-bind-data", "3", "/real", "--symlink", "/real", "/.flatpak-info"}, ""},
		{"a link to itself", nil, []string{"--symlink", ".flatpak-info", "/.flatpak-info"}, ""},
		{"a FIFO", nil, []string{"--bind", fifo, "/.flatpak-info"}, ""},
		{"a device", nil, []string{"--dev-bind", "/dev/null", "/.flatpak-info"}, ""},
		{"a directory", nil, []string{"--dir", "/.flatpak-info"}, ""},
		{"unreadable", info(goodInfo), []string{"--perms", "0000", "--file", "3", "/.flatpak-info"}, ""},
		{"empty", info(""), data, ""},
		{"no key file", info("not a key file"), data, ""},
		{"not UTF-8", info(goodInfo + "[X]\na=\xff\n"), data, ""},
		{"no name", info("[Application]\n[Instance]\ninstance-id=1\n"), data, ""},
		{"no group", info("[Instance]\ninstance-id=1\n"), data, ""},
		{"no instance-id", info("[Application]\nname=org.example.App\n"), data, ""},
		{"an id without a dot", info("[Application]\nname=firefox\n[Instance]\ninstance-id=1\n"), data, ""},
		{"an id with a slash", info("[Application]\nname=org.example/../App\n[Instance]\ninstance-id=1\n"), data, ""},
		{"an id of snapd", info("[Application]\nname=snap.firefox\n[Instance]\ninstance-id=1\n"), data, ""},
		{"an instance-id that is a path", info("[Application]\nname=org.example.App\n[Instance]\ninstance-id=../1\n"), data, ""},
		{"no metadata at all", nil, nil, ""},
		{"a good /.linyaps", info("[Application]\nid=org.example.Lin\n"), []string{"--ro-bind-data", "3", "/.linyaps"}, "org.example.Lin"},
		{"a /.linyaps with a bad id", info("[Application]\nid=lin\n"), []string{"--ro-bind-data", "3", "/.linyaps"}, ""},
		{"a /.linyaps without an id", info("[Application]\nname=org.example.Lin\n"), []string{"--ro-bind-data", "3", "/.linyaps"}, ""},
		{"a /.linyaps that is a link", nil, []string{"--symlink", "/nonexistent", "/.linyaps"}, ""},
		{"broken flatpak metadata beside a good /.linyaps", info("[Application]\nid=org.example.Lin\n"),
			[]string{"--ro-bind-data", "3", "/.linyaps", "--dir", "/.flatpak-info"}, ""},
		{"flatpak metadata beside /.linyaps", []string{goodInfo, "[Application]\nid=org.example.Lin\n"},
			[]string{"--ro-bind-data", "3", "/.flatpak-info", "--ro-bind-data", "4", "/.linyaps"}, "org.example.App"},
	} {
		t.Run(test.name, func(t *testing.T) {
			contents := test.contents
			if strings.HasPrefix(test.name, "both") {
				contents = []string{goodInfo, goodInfo}
			}
			pid := sandbox(t, contents, test.args...)
			for _, trust := range []bool{false, true} {
				begin := time.Now()
				c, err := resolve(t, busOf(pid, true), Options{TrustUserns: trust})
				if d := time.Since(begin); d > readTimeout/2 {
					t.Errorf("answered after %v, not at once", d)
				}
				switch {
				case trust && test.name == "no metadata at all":
					if err != nil || !c.IsHost() {
						t.Errorf("user namespaces trusted: %+v, %v, want the host", c, err)
					}
				case test.app == "" && err == nil:
					t.Errorf("trusting %v: taken for %+v, want a refusal", trust, c)
				case test.app != "" && (err != nil || c.App != test.app || c.IsHost()):
					t.Errorf("trusting %v: %+v, %v, want %s", trust, c, err, test.app)
				}
			}
		})
	}
}

func TestAFIFOWithGoodMetadataInItIsRefused(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o666); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(fifo, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(goodInfo); err != nil {
		t.Fatal(err)
	}
	pid := sandbox(t, nil, "--bind", fifo, "/.flatpak-info")
	if c, err := resolve(t, busOf(pid, true), Options{}); err == nil || !strings.Contains(err.Error(), "regular") {
		t.Errorf("%+v, %v, want a refusal: not a regular file", c, err)
	}
}

func TestTheRuntimeGroupGoesFirst(t *testing.T) {
	c, err := parseFlatpak([]byte("[Application]\nname=org.example.App\n[Runtime]\nname=org.example.Runtime\n[Instance]\ninstance-id=1\n"))
	if err != nil || c.App != "org.example.Runtime" {
		t.Errorf("%+v, %v", c, err)
	}
	if c, err := parseFlatpak([]byte("[Application]\nname=org.example.App\n[Runtime]\n[Instance]\ninstance-id=1\n")); err == nil {
		t.Errorf("a Runtime group without a name: %+v", c)
	}
}

func TestNetworkIsAWordOfShared(t *testing.T) {
	const head = "[Application]\nname=a.b\n[Instance]\ninstance-id=1\n"
	for text, want := range map[string]bool{
		"": false, "[Context]\n": false, "[Context]\nshared=network": true, "[Context]\nshared=ipc;network;": true,
		"[Context]\nshared=networks;": false, "[Context]\nshared=!network;": false, "[Other]\nshared=network;": false,
	} {
		if c, err := parseFlatpak([]byte(head + text)); err != nil || c.Network != want {
			t.Errorf("%q: %+v, %v, want network %v", text, c, err, want)
		}
	}
}

func TestAnotherUserIsRefused(t *testing.T) {
	b := busOf(os.Getpid(), true)
	b.uid++
	if c, err := resolve(t, b, Options{}); err == nil {
		t.Errorf("taken for %+v", c)
	}
}

func TestABusThatDoesNotAnswerIsARefusal(t *testing.T) {
	b := busOf(os.Getpid(), false)
	b.then = func(int) error { return errors.New("no such name") }
	if c, err := resolve(t, b, Options{}); err == nil {
		t.Errorf("taken for %+v", c)
	}
}

func TestAProcessThatDiesIsRefused(t *testing.T) {
	for _, pidfd := range []bool{false, true} {
		for _, reaped := range []bool{false, true} {
			pid, cmd := run(t, program[0], program[1:]...)
			b := busOf(pid, pidfd)
			b.then = func(asked int) error {
				if asked > 1 {
					return nil
				}
				if err := cmd.Process.Kill(); err != nil {
					return err
				}
				if reaped {
					cmd.Wait()
					return nil
				}
				var info unix.Siginfo
				return unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOWAIT, nil)
			}
			if c, err := resolve(t, b, Options{}); err == nil {
				t.Errorf("with a pidfd %v, reaped %v: taken for %+v", pidfd, reaped, c)
			}
		}
	}
}

func TestAProcessThatDiesWhileItIsReadIsRefused(t *testing.T) {
	for _, pidfd := range []bool{false, true} {
		pid, cmd := run(t, program[0], program[1:]...)
		r := NewResolver(busOf(pid, pidfd), Options{})
		creds, err := r.bus.Credentials(context.Background(), "")
		if err != nil {
			t.Fatal(err)
		}
		p, err := r.hold(creds)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.alive(); err != nil {
			t.Errorf("with a pidfd %v, alive: %v", pidfd, err)
		}
		if !pidfd {
			other := *p
			other.start += "1"
			if other.alive() == nil {
				t.Error("a process with another start time is taken for the same")
			}
		}
		cmd.Process.Kill()
		cmd.Wait()
		if p.alive() == nil {
			t.Errorf("with a pidfd %v: dead, and taken for alive", pidfd)
		}
		if creds.PidFD != nil {
			creds.PidFD.Close()
		}
	}
}

func TestANameThatChangesHandsWhileItIsReadIsRefused(t *testing.T) {
	pid, _ := run(t, program[0], program[1:]...)
	for what, change := range map[string]func(b *aBus) error{
		"left":            func(*aBus) error { return errors.New("no such name") },
		"another process": func(b *aBus) error { b.pid = os.Getpid(); return nil },
		"another user":    func(b *aBus) error { b.uid++; return nil },
	} {
		b := busOf(pid, false)
		b.then = func(asked int) error {
			if asked == 1 { // what follows is seen at the second question
				return change(b)
			}
			return nil
		}
		if what == "left" {
			b.then = func(asked int) error {
				if asked == 2 {
					return change(b)
				}
				return nil
			}
		}
		if c, err := resolve(t, b, Options{}); err == nil {
			t.Errorf("%s: taken for %+v", what, c)
		}
	}
}

func TestAPidfdThatIsNoneIsRefused(t *testing.T) {
	f, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if pid, err := pidOf(f); err == nil {
		t.Errorf("process %d", pid)
	}
}

func TestTheStartTimeIsFoundWhateverTheCommandIsCalled(t *testing.T) {
	dir := t.TempDir()
	p := &process{proc: dir, pid: 7}
	if err := os.Mkdir(filepath.Join(dir, "7"), 0o700); err != nil {
		t.Fatal(err)
	}
	tail := " S 1 7 7 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 12345 0 0\n"
	for text, want := range map[string]string{
		"7 (cat)" + tail:                      "12345",
		"7 (a b) S 1 2 3 4 5 6 7) (c)" + tail: "12345",
		"7 (x\ny)" + tail:                     "12345",
		"7 (cat) S 1":                         "",
		"":                                    "",
	} {
		if err := os.WriteFile(p.path("stat"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := p.startTime()
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v, want %q", text, got, err, want)
		}
	}
}

// fakeProc is a procfs with one process, for what needs root to arrange.
func fakeProc(t *testing.T, r *Resolver, pid int, cgroup string) {
	t.Helper()
	r.proc = t.TempDir()
	dir := filepath.Join(r.proc, strconv.Itoa(pid))
	for _, d := range []string{"root", "ns"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/proc/self/ns/user", filepath.Join(dir, "ns/user")); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"stat": "7 (x) S 1 7 7 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 12345 0 0\n", "cgroup": cgroup} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSnaps(t *testing.T) {
	const group = "1:name=systemd:/user.slice/snap.foo.bar-1.scope\n0::/x\n"
	const answer = "cat <<END\n[Snap Info]\nInstanceName=%s\nAppName=foo\nDesktopFile=foo.desktop\nHasNetworkStatus=true\nEND\n"
	for _, test := range []struct {
		name, cgroup, script string
		app                  string // "" is a refusal, "host" the host
	}{
		{"another control group", "0::/user.slice/app.slice\n", "exit 1", "host"},
		{"a snap", group, `test "$1 $2 $3" = "routine portal-info 7" || exit 1` + "\n" + fmt.Sprintf(answer, "foo"), "snap.foo"},
		{"a second instance", group, fmt.Sprintf(answer, "foo_two"), "snap.foo_two"},
		{"a name with a hyphen", group, fmt.Sprintf(answer, "foo-bar"), "snap.foo-bar"},
		{"a name with a dot", group, fmt.Sprintf(answer, "foo.bar"), ""},
		{"a name with a slash", group, fmt.Sprintf(answer, "foo/bar"), ""},
		{"no name", group, fmt.Sprintf(answer, ""), ""},
		{"no answer", group, "true", ""},
		{"no key file", group, "echo hello", ""},
		{"it fails", group, fmt.Sprintf(answer, "foo") + "exit 1", ""},
		{"it says too much", group, "exec head -c 3000000 /dev/zero", ""},
		{"it hangs", group, "exec sleep 60", ""},
		{"it hangs behind a child", group, "sleep 60 &\nwait", ""},
		{"there is no snap command", group, "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			script := filepath.Join(t.TempDir(), "snap")
			if test.script != "" {
				if err := os.WriteFile(script, []byte("#!/bin/sh\n"+test.script+"\n"), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			r := NewResolver(busOf(7, false), Options{Snap: script})
			fakeProc(t, r, 7, test.cgroup)
			begin := time.Now()
			c, err := r.Resolve(context.Background(), ":1.5")
			if d := time.Since(begin); d > 3*time.Second {
				t.Errorf("it took %v", d)
			}
			switch test.app {
			case "":
				if err == nil {
					t.Errorf("taken for %+v", c)
				}
			case "host":
				if err != nil || !c.IsHost() {
					t.Errorf("%+v, %v, want the host", c, err)
				}
			default:
				if err != nil || c.App != test.app || c.Kind != Snap || !c.Network {
					t.Errorf("%+v, %v, want %s", c, err, test.app)
				}
			}
		})
	}
}

func TestWhatCannotBeReadOfAProcessIsARefusal(t *testing.T) {
	for _, name := range []string{"stat", "root", "cgroup", "ns/user"} {
		r := NewResolver(busOf(7, false), Options{})
		fakeProc(t, r, 7, "0::/\n")
		if c, err := r.Resolve(context.Background(), ":1.5"); err != nil || !c.IsHost() {
			t.Fatalf("complete: %+v, %v", c, err)
		}
		if err := os.RemoveAll(filepath.Join(r.proc, "7", name)); err != nil {
			t.Fatal(err)
		}
		if c, err := r.Resolve(context.Background(), ":1.5"); err == nil {
			t.Errorf("without %s: taken for %+v", name, c)
		}
	}
	// A root that is not for us to see is refused, unless it is FUSE.
	r := NewResolver(busOf(7, false), Options{})
	fakeProc(t, r, 7, "0::/\n")
	if err := os.Chmod(filepath.Join(r.proc, "7"), 0o000); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(filepath.Join(r.proc, "7"), 0o700)
	p := &process{proc: r.proc, pid: 7}
	if _, err := p.openRoot(); err == nil || errors.Is(err, errOther) {
		t.Errorf("a root that cannot be opened: %v", err)
	}
}
