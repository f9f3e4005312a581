package clients

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"docportal/integration/session"
)

// installedTests is where Debian's package xdg-desktop-portal-tests puts its
// programs.
const installedTests = "/usr/libexec/installed-tests/xdg-desktop-portal"

// portalWord makes this test program the document portal that the installed
// tests start by activation.
const portalWord = "portal"

// statusFile names the file in which the installed tests are told that their
// unmounting has reached the portal.
const statusFile = "TEST_DOCUMENT_PORTAL_FUSE_STATUS"

// dataDir names the directory that docportal keeps its store in.
const dataDir = "DOCPORTAL_TEST_DATA"

// portal runs docportal as the installed tests want it: it stays unmounted
// when they unmount, and a file says that it has noticed.
func portal() int {
	cmd := exec.Command(filepath.Join(os.Getenv("DOCPORTAL_STAGE"), "bin/docportal"), "--no-remount")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	// The installed tests remove their data directory while the portal, whose
	// bus they ended, still puts its store in order.
	cmd.Env = append(os.Environ(), "XDG_DATA_HOME="+os.Getenv(dataDir))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if name := os.Getenv(statusFile); name != "" {
		go func() {
			err := watchUnmount(filepath.Join(os.Getenv("XDG_RUNTIME_DIR"), "doc"))
			if err == nil {
				err = os.WriteFile(name, []byte("ok"), 0o600)
			}
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}()
	}
	cmd.Wait()
	// A test that gave up leaves its file behind.
	os.Remove(os.Getenv(statusFile))
	return cmd.ProcessState.ExitCode()
}

// watchUnmount returns when something that gets mounted on dir is gone again.
func watchUnmount(dir string) error {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	defer f.Close()
	for seen := false; ; {
		mounts, err := session.Mounts(filepath.Dir(dir))
		if err != nil {
			return err
		}
		there := slices.Contains(mounts, dir)
		if seen && !there {
			return nil
		}
		seen = there
		// The kernel says so when the mounts have changed since the last time.
		p := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLPRI}}
		if _, err := unix.Poll(p, -1); err != nil && err != unix.EINTR {
			return err
		}
	}
}

// installed prepares one of the installed tests, with the services that it
// starts replaced by ours.
func (d *desktop) installed(name string, args ...string) *exec.Cmd {
	d.Helper()
	program := filepath.Join(installedTests, name)
	if _, err := os.Stat(program); err != nil {
		d.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		d.Fatal(err)
	}
	for _, service := range []string{documentsName, storeName} {
		d.file("services/"+service+".service", "[D-BUS Service]\nName="+service+"\nExec="+self+" "+portalWord+"\n")
	}
	if err := os.Symlink(filepath.Join(installedTests, "dbs"), filepath.Join(d.Home, "dbs")); err != nil && !errors.Is(err, os.ErrExist) {
		d.Fatal(err)
	}
	cmd := d.Command(program, args...)
	cmd.Env = slices.DeleteFunc(cmd.Env, func(kv string) bool { return strings.HasPrefix(kv, "DBUS_SESSION_BUS_ADDRESS=") })
	cmd.Env = append(cmd.Env,
		"G_TEST_BUILDDIR="+d.Home,
		"G_TEST_SRCDIR="+installedTests,
		"DOCPORTAL_STAGE="+d.Stage(),
		dataDir+"="+filepath.Join(d.Home, "data"),
	)
	for i, kv := range cmd.Env {
		if strings.HasPrefix(kv, "PATH=") { // capsh
			cmd.Env[i] = kv + ":/usr/sbin:/sbin"
		}
	}
	return cmd
}

var (
	outdir  = regexp.MustCompile(`(?m)outdir: (/tmp/\S+)$`)
	tapOK   = regexp.MustCompile(`(?m)^ok (.*)$`)
	tapPlan = regexp.MustCompile(`(?m)^1\.\.(\d+)`)
)

// tap checks what a test program said in the Test Anything Protocol: that each
// test of its plan passed, and which these are, but for those that were left
// out by request.
func (d *desktop) tap(o output, want ...string) {
	d.Helper()
	for _, m := range outdir.FindAllStringSubmatch(o.text, -1) {
		d.left = append(d.left, m[1])
		if mounts, err := session.Mounts(m[1]); err != nil || len(mounts) != 0 {
			d.Errorf("left mounted: %v (%v)", mounts, err)
		}
	}
	var passed []string
	for _, m := range tapOK.FindAllStringSubmatch(o.text, -1) {
		passed = append(passed, m[1])
	}
	plan := tapPlan.FindStringSubmatch(o.text)
	if o.err != nil || plan == nil || plan[1] != fmt.Sprint(len(passed)) {
		d.Errorf("plan %q, passed %d: %v\n%s", plan, len(passed), o.err, o.text)
	}
	wantEqual(d, "passed", passed, want)
}

func TestInstalledTestPermissionStore(t *testing.T) {
	d := start(t)
	d.tap(d.end(d.installed("test-permission-store", "--tap")),
		"1 /permissions/version",
		"2 /permissions/change",
		"3 /permissions/lookup",
		"4 /permissions/delete1",
		"5 /permissions/delete2",
		"6 /permissions/delete3",
		"7 /permissions/delete4",
		"8 /permissions/delete5",
		"9 /permissions/create1",
		"10 /permissions/create2",
		"11 /permissions/set-value",
		"12 /permissions/get-permission1",
		"13 /permissions/get-permission2",
		"14 /permissions/get-permission3",
	)
}

func TestInstalledTestDocPortal(t *testing.T) {
	d := start(t)
	d.tap(d.end(d.installed("test-doc-portal", "--tap", "-s", "/db/version")),
		"1 /db/version # SKIP by request (-s option)",
		"2 /db/create_doc",
		"3 /db/recursive_doc",
		"4 /db/create_docs",
		"5 /db/add_named",
	)
}

// The one test that may fail, of a release that knows version 4 only.
func TestInstalledTestDocPortalVersion(t *testing.T) {
	d := start(t)
	o := d.end(d.installed("test-doc-portal", "--tap", "-p", "/db/version"))
	for _, m := range outdir.FindAllStringSubmatch(o.text, -1) {
		d.left = append(d.left, m[1])
	}
	if o.err != nil && !strings.Contains(o.text, "assertion failed (xdp_dbus_documents_get_version (documents) == 4): (5 == 4)") {
		t.Errorf("%v\n%s", o.err, o.text)
	}
}

// fuseLimit is how long test-document-fuse.sh may take. In full, with its
// twenty processes, it takes minutes; the tests of a package have twenty.
func fuseLimit() time.Duration {
	if os.Getenv("DOCPORTAL_LONG") != "" {
		return 18 * time.Minute
	}
	return 5 * time.Minute
}

// The script is Debian's; in a short run its passes and processes are fewer.
func TestInstalledTestDocumentFuse(t *testing.T) {
	d := start(t)
	cmd := d.installed("test-document-fuse.sh")
	if os.Getenv("DOCPORTAL_LONG") == "" {
		script, err := os.ReadFile(cmd.Path)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"ITERATIONS", "PARALLEL_TESTS", "PARALLEL_ITERATIONS"} {
			n := "1"
			if name == "PARALLEL_TESTS" {
				n = "2"
			}
			line := regexp.MustCompile(`(?m)^` + name + `=\d+$`)
			if !line.Match(script) {
				t.Fatalf("%s sets no %s", cmd.Path, name)
			}
			script = line.ReplaceAll(script, []byte(name+"="+n))
		}
		cmd.Args = []string{"bash", d.file("short.sh", string(script))}
		if cmd.Path, err = exec.LookPath("bash"); err != nil {
			t.Fatal(err)
		}
	}
	d.tap(d.endWithin(fuseLimit(), cmd), "single-threaded", "load-test")
}
