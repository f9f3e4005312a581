package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"docportal/internal/sandbox"
	"docportal/internal/wayland"
	"docportal/internal/wayland/waylandtest"
)

// asUser is set in the copy of the test that runs as an ordinary user.
const asUser = "SBX_RUN_TEST_AS_USER"

func TestMain(m *testing.M) {
	if sandbox.IsGate(os.Args) { // in a sandbox, sbx-run has no name
		os.Exit(sandbox.Gate(os.Args))
	}
	if os.Getuid() == 0 && os.Getenv(asUser) == "" && strings.HasSuffix(filepath.Base(os.Args[0]), ".test") {
		status, err := runAsUser()
		if err != nil {
			fmt.Fprintln(os.Stderr, "running the tests as an ordinary user:", err)
			status = 1
		}
		os.Exit(status)
	}
	testscript.Main(m, map[string]func(){
		"sbx-run":       main,
		"flatpak":       main,
		"flatpak-spawn": main,
		"inside":        inside,
		"bwrap":         brokenBwrap,
	})
}

// runAsUser runs this test binary again, as an ordinary user with a home of
// its own: users are not root, and root may do what they may not.
func runAsUser() (int, error) {
	uid, gid := 54321, 54321
	passwd, _ := os.ReadFile("/etc/passwd")
	for line := range strings.SplitSeq(string(passwd), "\n") {
		f := strings.Split(line, ":")
		if len(f) < 7 {
			continue
		}
		u, err1 := strconv.Atoi(f[2])
		g, err2 := strconv.Atoi(f[3])
		wanted := os.Getenv("DOCPORTAL_TEST_USER")
		if err1 == nil && err2 == nil && u >= 1000 && u < 60000 && (wanted == "" || f[0] == wanted) {
			uid, gid = u, g
			break
		}
	}
	dir, err := os.MkdirTemp("", "sbx-run-test")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	exe, err := os.Executable()
	if err != nil {
		return 1, err
	}
	if err := copyFile(exe, filepath.Join(dir, "sbx-run.test")); err != nil {
		return 1, err
	}
	if err := os.CopyFS(filepath.Join(dir, "testdata"), os.DirFS("testdata")); err != nil {
		return 1, err
	}
	for _, d := range []string{"", "tmp", "home"} {
		d = filepath.Join(dir, d)
		if err := os.MkdirAll(d, 0o755); err != nil {
			return 1, err
		}
		if err := os.Chmod(d, 0o755); err != nil {
			return 1, err
		}
		if err := os.Chown(d, uid, gid); err != nil {
			return 1, err
		}
	}
	// The go command's own files are root's.
	args := slices.DeleteFunc(slices.Clone(os.Args[1:]), func(a string) bool { return strings.HasPrefix(a, "-test.testlogfile=") })
	cmd := exec.Command(filepath.Join(dir, "sbx-run.test"), args...)
	cmd.Dir = dir
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), asUser+"=1", "HOME="+filepath.Join(dir, "home"), "TMPDIR="+filepath.Join(dir, "tmp"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	err = cmd.Run()
	if cmd.ProcessState == nil {
		return 1, err
	}
	return cmd.ProcessState.ExitCode(), nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}

// TestScripts runs testdata/*.txt. Each script has a session of its own: a
// home, a runtime directory and a private bus. BIN is the directory of the
// test's own programs, TOOLS a PATH without them, XNUMBER a
// free display number.
func TestScripts(t *testing.T) {
	bin, err := exec.LookPath("inside")
	if err != nil {
		t.Fatal(err)
	}
	bin = filepath.Dir(bin)
	tools := strings.TrimPrefix(os.Getenv("PATH"), bin+":")
	var scripts atomic.Int32
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			// bwrap is replaced only by the scripts that ask for it.
			path := filepath.Join(e.WorkDir, ".bin")
			if err := os.Mkdir(path, 0o755); err != nil {
				return err
			}
			for _, name := range []string{"sbx-run", "inside", "flatpak-spawn"} {
				if err := os.Link(filepath.Join(bin, name), filepath.Join(path, name)); err != nil {
					return err
				}
			}
			// The shim, beside what a start needs and nothing else.
			shim := filepath.Join(e.WorkDir, ".shim")
			if err := os.Mkdir(shim, 0o755); err != nil {
				return err
			}
			if err := os.Link(filepath.Join(bin, "flatpak"), filepath.Join(shim, "flatpak")); err != nil {
				return err
			}
			for _, name := range []string{"bwrap", "xdg-dbus-proxy"} {
				real, err := exec.LookPath("/usr/bin/" + name)
				if err != nil {
					return err
				}
				if err := os.Symlink(real, filepath.Join(shim, name)); err != nil {
					return err
				}
			}
			// A program with the race detector sleeps for a second when it ends.
			e.Setenv("GORACE", "atexit_sleep_ms=10")
			e.Setenv("SHIM", shim)
			e.Setenv("BIN", path)
			e.Setenv("BROKEN", bin)
			e.Setenv("PATH", path+":"+tools)
			e.Setenv("TOOLS", tools)
			e.Setenv("HOME", filepath.Join(e.WorkDir, "home"))
			e.Setenv("XDG_RUNTIME_DIR", filepath.Join(e.WorkDir, "run"))
			e.Setenv("XDG_CONFIG_HOME", "")
			// An X11 display of nobody else's.
			e.Setenv("XNUMBER", strconv.Itoa(20000+(os.Getpid()+int(scripts.Add(1)))%30000))
			for _, dir := range []string{"home", "run"} {
				dir = filepath.Join(e.WorkDir, dir)
				if err := os.MkdirAll(dir, 0o700); err != nil {
					return err
				}
				if err := os.Chmod(dir, 0o700); err != nil { // the script has files in it
					return err
				}
			}
			if u, err := user.Current(); err == nil {
				e.Setenv("USER", u.Username)
			}
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"startbus":   startBus,
			"status":     status,
			"gone":       gone,
			"eventually": eventually,
			"listen":     listen,
			"instance":   instance,
			"killed":     killed,
			"talk":       talk,
			"compositor": compositor,
			"background": background,
			"deadsocket": deadSocket,
			"xauthority": xauthority,
		},
	})
}

// startbus [ADDRESS]: starts a private bus, at $XDG_RUNTIME_DIR/bus unless told
// otherwise, which activates what is in the directory services.
func startBus(ts *testscript.TestScript, neg bool, args []string) {
	address := "unix:path=" + ts.Getenv("XDG_RUNTIME_DIR") + "/bus"
	if len(args) > 0 {
		address = args[0]
	}
	config := ts.MkAbs("bus.conf")
	ts.Check(os.WriteFile(config, []byte(`<busconfig><type>session</type><listen>`+address+`</listen>
<servicedir>`+ts.Getenv("HOME")+`/.local/share/dbus-1/services</servicedir>
<servicedir>`+ts.MkAbs("services")+`</servicedir>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>`), 0o600))
	cmd := exec.Command("dbus-daemon", "--config-file="+config, "--nofork", "--nopidfile", "--print-address")
	// Also for what it activates.
	for _, name := range []string{"HOME", "XDG_RUNTIME_DIR"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	cmd.Env = append(cmd.Env, "PATH="+ts.Getenv("TOOLS"))
	if os.Getenv("DOCPORTAL_TEST_LOG") != "" {
		cmd.Stderr = os.Stderr // its own words, and those of what it starts
	}
	out, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	ts.Defer(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n') // it listens now
	ts.Check(err)
	ts.Setenv("DBUS_SESSION_BUS_ADDRESS", strings.TrimSpace(line))
}

// status N PROGRAM [ARG…]: the program ends with this exit status.
func status(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if exit, ok := err.(*exec.ExitError); ok {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if (got == want) == neg {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

// gone TEXT: within a while no process of ours has TEXT in its command line or
// environment.
func gone(ts *testscript.TestScript, neg bool, args []string) {
	wait(ts, func() string { return processWith(args[0]) })
}

// eventually FILE [TEXT]: within a while the file exists, with the text in it.
func eventually(ts *testscript.TestScript, neg bool, args []string) {
	wait(ts, func() string {
		data, err := os.ReadFile(ts.MkAbs(args[0]))
		if err != nil {
			return err.Error()
		}
		if len(args) > 1 && !strings.Contains(string(data), args[1]) {
			return fmt.Sprintf("%s: %q", args[0], data)
		}
		return ""
	})
}

// instance DIR: within a while an instance directory appears in the runtime
// directory DIR.
func instance(ts *testscript.TestScript, neg bool, args []string) {
	wait(ts, func() string {
		if found, _ := filepath.Glob(ts.MkAbs(args[0]) + "/.flatpak/sbx-*"); len(found) == 0 {
			return "no instance"
		}
		return ""
	})
}

// wait polls: neither the end of another's process nor a file written by one
// is an event for us.
func wait(ts *testscript.TestScript, problem func() string) {
	deadline := time.Now().Add(10 * time.Second)
	for {
		p := problem()
		if p == "" {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s", p)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func processWith(text string) string {
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range all {
		var st syscall.Stat_t // others may run the same tests
		if syscall.Stat(dir, &st) != nil || int(st.Uid) != os.Getuid() {
			continue
		}
		for _, name := range []string{"cmdline", "environ"} {
			data, _ := os.ReadFile(dir + "/" + name)
			if strings.Contains(string(data), text) && dir != fmt.Sprintf("/proc/%d", os.Getpid()) {
				return fmt.Sprintf("%s still runs: %q", dir, data)
			}
		}
	}
	return ""
}

// killed SIGNAL [worker]: sends a signal to the background programs of the
// script, or to the second process of each.
func killed(ts *testscript.TestScript, neg bool, args []string) {
	sig := map[string]syscall.Signal{"KILL": syscall.SIGKILL, "TERM": syscall.SIGTERM, "USR1": syscall.SIGUSR1}[args[0]]
	for _, cmd := range ts.BackgroundCmds() {
		if len(args) == 1 {
			ts.Check(cmd.Process.Signal(sig))
			continue
		}
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", cmd.Process.Pid))
		ts.Check(err)
		for _, task := range tasks {
			children, err := os.ReadFile(task)
			ts.Check(err)
			for field := range strings.FieldsSeq(string(children)) {
				pid, err := strconv.Atoi(field)
				ts.Check(err)
				ts.Check(syscall.Kill(pid, sig))
			}
		}
	}
}

// listen ADDRESS: a socket that accepts, at a path or at @NAME.
func listen(ts *testscript.TestScript, neg bool, args []string) {
	path := args[0]
	if !strings.HasPrefix(path, "@") {
		path = ts.MkAbs(path)
		ts.Check(os.MkdirAll(filepath.Dir(path), 0o700))
	}
	l, err := net.Listen("unix", path)
	ts.Check(err)
	ts.Defer(func() { l.Close() })
}

// deadsocket PATH: a socket that nobody listens at any more.
func deadSocket(ts *testscript.TestScript, neg bool, args []string) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: ts.MkAbs(args[0])})
	ts.Check(err)
	l.SetUnlinkOnClose(false)
	ts.Check(l.Close())
}

// compositor MODE PATH: a compositor at PATH. With "contexts" it has security
// contexts, with "plain" none; with "refuses" and "hangs" it has them and they
// fail.
func compositor(ts *testscript.TestScript, neg bool, args []string) {
	c := &waylandtest.Compositor{Globals: []string{"wl_compositor", wayland.ManagerInterface}}
	switch args[0] {
	case "contexts":
	case "plain":
		c.Globals = []string{"wl_compositor"}
	case "refuses":
		c.Answer = func(n int, right []byte) []byte {
			if n == 0 {
				return right
			}
			return wayland.NewMessage(wayland.DisplayObject, wayland.DisplayError).Uint(4).Uint(1).String("not for you").Append(nil)
		}
	case "hangs":
		c.Answer = func(int, []byte) []byte { return []byte{} }
	default:
		ts.Fatalf("compositor %s?", args[0])
	}
	l, err := net.Listen("unix", ts.MkAbs(args[1]))
	ts.Check(err)
	go c.Serve(l)
	ts.Defer(c.Close)
}

// background SOCKET PROGRAM [ARG…]: runs a program in the script's environment
// until the script ends, and waits for the socket that it makes.
func background(ts *testscript.TestScript, neg bool, args []string) {
	path, err := exec.LookPath(args[1])
	ts.Check(err)
	cmd := exec.Command(path, args[2:]...)
	cmd.Dir = ts.MkAbs(".")
	for _, name := range []string{"PATH", "HOME", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	cmd.Env = append(cmd.Env, "WLR_BACKENDS=headless", "WLR_RENDERER=pixman", "WLR_LIBINPUT_NO_DEVICES=1")
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	ts.Check(cmd.Start())
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	ts.Defer(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-ended
	})
	wait(ts, func() string {
		select {
		case <-ended:
			ts.Fatalf("%s ended: %s", args[1], said.String())
		default:
		}
		c, err := net.Dial("unix", ts.MkAbs(args[0]))
		if err != nil {
			return fmt.Sprintf("%s: %v", args[1], err)
		}
		c.Close()
		return ""
	})
}

// brokenBwrap is a bwrap that loses options and otherwise does what the real
// one does. A file "drop" beside it says which: lines of "app" or "proxy", the
// option, the number of its arguments; "help" and an option that it no longer
// says it has; or "proxy run" and what a shell runs instead.
func brokenBwrap() {
	exe, _ := os.Executable()
	config, err := os.ReadFile(filepath.Join(filepath.Dir(exe), "drop"))
	if err != nil {
		fatal(err)
	}
	args := os.Args[1:]
	if slices.Equal(args, []string{"--help"}) {
		out, err := exec.Command(realBwrap(), args...).Output()
		if err != nil {
			fatal(err)
		}
		for line := range strings.Lines(string(out)) {
			if f := strings.Fields(line); len(f) == 0 || !strings.Contains(string(config), "help "+f[0]+"\n") {
				fmt.Print(line)
			}
		}
		os.Exit(0)
	}
	if len(args) > 2 && args[0] == "--args" {
		data, err := os.ReadFile("/proc/self/fd/" + args[1])
		if err != nil {
			fatal(err)
		}
		options := strings.Split(strings.TrimSuffix(string(data), "\x00"), "\x00")
		who := "app"
		if strings.Contains(strings.Join(args, " "), "xdg-dbus-proxy") {
			who = "proxy"
		}
		for line := range strings.SplitSeq(string(config), "\n") {
			f := strings.Fields(line)
			if len(f) < 3 || f[0] != who {
				continue
			}
			if f[1] == "run" { // in place of the proxy, with the number of its --fd
				own, err := os.ReadFile("/proc/self/fd/" + strings.TrimPrefix(args[len(args)-1], "--args="))
				if err != nil {
					fatal(err)
				}
				fd, _, _ := strings.Cut(strings.TrimPrefix(string(own), "--fd="), "\x00")
				args = append(args[:3:3], "sh", "-c", strings.SplitN(line, " ", 3)[2], "sh", fd)
				continue
			}
			n, err := strconv.Atoi(f[2])
			if err != nil {
				fatal(err)
			}
			for i := slices.Index(options, f[1]); i >= 0; i = slices.Index(options, f[1]) {
				options = slices.Delete(options, i, i+1+n)
			}
		}
		args = append(options, args[2:]...)
	}
	fatal(syscall.Exec(realBwrap(), append([]string{"bwrap"}, args...), os.Environ()))
}

// realBwrap is the one of the system: sbx-run starts the stand-in without a
// PATH to look in.
func realBwrap() string {
	for _, dir := range []string{"/usr/local/bin", "/usr/bin", "/bin"} {
		if path, err := exec.LookPath(dir + "/bwrap"); err == nil {
			return path
		}
	}
	fatal(errors.New("no bwrap"))
	return ""
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
