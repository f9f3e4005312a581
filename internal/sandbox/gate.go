package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The gate is the first program in the app's sandbox: sbx-run itself, executed
// from a descriptor, which waits for its line and then becomes the app. Bwrap
// binds the life of a sandbox to its own only after all else, and what it
// takes for permission to go on is also what it sees when sbx-run is killed.
// So whoever is killed in the middle of a start, the program does not run.
const (
	gateMark = "sbx-gate"
	gateOpen = "go\n"
	// gatePrefix begins the path that bwrap executes: a descriptor needs no
	// mount.
	gatePrefix = "/proc/self/fd/"
)

// exitNoGate is the gate's exit status when it was not opened.
const exitNoGate = 125

// gateCommand is the command line of a gate in front of command. The
// descriptors' numbers are those in the sandbox: exe is this program, go_ is
// where the line comes from, hello is where the gate says that it is there.
// Defaults are the signals that bwrap ignores and the app must not; as is who
// the gate becomes before it says hello, nil for nobody else.
func gateCommand(exe, open, hello string, defaults []syscall.Signal, as *processIdentity, command []string) []string {
	var numbers []string
	for _, sig := range defaults {
		numbers = append(numbers, strconv.Itoa(int(sig)))
	}
	return append([]string{gatePrefix + exe, gateMark, exe, open, hello, strings.Join(numbers, ","), as.String(), "--"}, command...)
}

// IsGate reports whether a process with these arguments is a gate, which must
// call Gate before anything else.
func IsGate(args []string) bool {
	return len(args) > 8 && strings.HasPrefix(args[0], gatePrefix) && args[1] == gateMark && args[7] == "--"
}

// Gate waits for the line, becomes the app and does not return; if that fails
// it returns an exit status as env(1) has them.
func Gate(args []string) int {
	var fds [3]int
	for i := range fds {
		fd, err := strconv.Atoi(args[2+i])
		if err != nil || fd < 3 {
			return exitNoGate
		}
		unix.CloseOnExec(fd)
		fds[i] = fd
	}
	open, hello := fds[1], fds[2]
	if args[6] != "" {
		as, err := parseIdentity(args[6])
		if err == nil {
			err = as.become()
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "sbx-run: %v\n", err)
			return exitNoGate
		}
	}
	if _, err := unix.Write(hello, []byte{1}); err != nil {
		return exitNoGate
	}
	var line []byte
	buf := make([]byte, len(gateOpen))
	for len(line) < len(gateOpen) {
		n, err := unix.Read(open, buf[:len(gateOpen)-len(line)])
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return exitNoGate
		}
		line = append(line, buf[:n]...)
	}
	if string(line) != gateOpen {
		return exitNoGate
	}
	// What has a handler is at its default after exec.
	for number := range strings.SplitSeq(args[5], ",") {
		if sig, err := strconv.Atoi(number); err == nil {
			signal.Notify(make(chan os.Signal, 1), syscall.Signal(sig))
		}
	}
	// Bwrap's own process in the sandbox is bound to sbx-run's life, as long as
	// nobody writes into its memory (/proc/1/mem). Who is in a domain of his own
	// cannot look into processes outside it.
	runtime.LockOSThread() // the thread that executes
	if landlockABI() >= landlockScopeABI {
		if err := scopeThread(scopeSignal); err != nil {
			fmt.Fprintf(os.Stderr, "sbx-run: %v\n", err)
			return exitNoGate
		}
	}
	command := args[8:]
	err := syscall.Exec(command[0], command, os.Environ())
	fmt.Fprintf(os.Stderr, "sbx-run: %s: %v\n", command[0], err)
	if errors.Is(err, unix.ENOENT) {
		return 127
	}
	return 126
}

// gate is the outer side of a gate.
type gate struct {
	open  *os.File // the only writing end
	hello *os.File // a byte comes when the gate is there, the end if it never will be
	// inner are the ends for the sandbox, and this program.
	innerOpen, innerHello, exe *os.File
}

func newGate() (g *gate, err error) {
	g = new(gate)
	defer func() {
		if err != nil {
			g.close()
		}
	}()
	// Not by a path: the file could have been exchanged for a newer one.
	if g.exe, err = os.Open("/proc/self/exe"); err != nil {
		return nil, err
	}
	if g.innerOpen, g.open, err = os.Pipe(); err != nil {
		return nil, err
	}
	if g.hello, g.innerHello, err = os.Pipe(); err != nil {
		return nil, err
	}
	return g, nil
}

// started closes what is the sandbox's.
func (g *gate) started() {
	for _, f := range []*os.File{g.innerOpen, g.innerHello, g.exe} {
		if f != nil {
			f.Close()
		}
	}
	g.innerOpen, g.innerHello, g.exe = nil, nil, nil
}

func (g *gate) close() {
	g.started()
	for _, f := range []*os.File{g.open, g.hello} {
		if f != nil {
			f.Close()
		}
	}
}

// errNoGate says that bwrap ended, with a message of its own, or that the gate
// could not be executed.
var errNoGate = errors.New("bwrap could not start the program")

// greet waits for the gate to be there.
func (g *gate) greet() error {
	g.hello.SetReadDeadline(time.Now().Add(partWait))
	if n, err := g.hello.Read(make([]byte, 1)); n != 1 {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("the sandbox does not become ready: %w", err)
		}
		return errNoGate
	}
	return nil
}
