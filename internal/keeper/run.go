package keeper

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// connectTime is how long a bus may take to accept a connection.
const connectTime = 10 * time.Second

const (
	// crashes of its own, within crashTime, after which the connection to the
	// kernel is given up: better a clear error than one that waits for a
	// server that cannot live with it.
	maxCrashes = 5
	crashTime  = 30 * time.Second
	// idleTime is after how long without a server that serves everything is
	// given up, whatever they die of.
	idleTime = 10 * time.Second
	// deadTime is how long a process may take to go when it has let go of
	// everything.
	deadTime = 50 * time.Millisecond
	// endTime is how long the end of a server may take. What is left of it then
	// waits for somebody's disk, and is left to that.
	endTime = 1700 * time.Millisecond
	// exitTime is how long a process may take to go after its witness, at the end.
	exitTime = 200 * time.Millisecond
	// leaveTime is how long it may take to leave without the server.
	leaveTime = 100 * time.Millisecond
)

// Options are the settings of Run.
type Options struct {
	// Program is the server's program, for what comes after a reload; what
	// follows a crash is the program that runs now.
	Program string
	// Args are its arguments, beginning with its name.
	Args []string
	// Log gets a line for each thing worth one.
	Log io.Writer
	// Rest is called when a server serves and nothing is to be done; nil for
	// nothing.
	Rest func()
	// Ready is called when a server serves for the first time; nil for nothing.
	Ready func()
	// Detach takes the mount away that a note of Device names, if it is there,
	// and Abort ends its connection, whoever has it; nil for nothing.
	Detach func(note string) error
	Abort  func(note string)
}

// store is what is kept.
type store map[string]kept

type kept struct {
	files []int
	note  string
}

func (s store) put(name, note string, files []int) {
	closeAll(s[name].files)
	s[name] = kept{files, note}
}

func (s store) drop(name string) {
	closeAll(s[name].files)
	delete(s, name)
}

// died is called when a server has died: what it worked on is handed to its
// successor where that can go on with it.
func (s store) died() {
	if k, ok := s[Standby]; ok && !strings.HasPrefix(s[Bus].note, Fresh) {
		s.put(Bus, k.note, k.files)
		delete(s, Standby)
	}
}

// giveUp drops what servers may die of: all but the bus.
func (s store) giveUp() {
	for name := range s {
		if name != Bus && name != Standby {
			s.drop(name)
		}
	}
}

// keeper is the process.
type keeper struct {
	Options
	kept    store
	signals chan os.Signal

	ending   <-chan time.Time // set when the end was asked for: when it is over
	crashes  []time.Time      // of their own
	serving  time.Time        // when a server served last, or the start
	restarts int
}

// Run runs a server, and another one whenever it dies, until one ends by
// itself or a signal ends it; the result is the exit status. It must be called
// on the main thread, which it keeps: the server dies with that thread.
func Run(o Options) int {
	runtime.LockOSThread()
	k := &keeper{Options: o, kept: make(store), signals: make(chan os.Signal, 8), serving: time.Now()}
	signal.Notify(k.signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGUSR1)
	program := "/proc/self/exe"
	fresh := false // everything was given up before
	for {
		c, err := k.start(program)
		if err != nil {
			k.say("cannot start the server: %v", err)
			return 1
		}
		if k.restarts > 0 {
			// If servers die faster than it rests nobody else does. The new one has
			// all that it needs for now.
			runtime.GC()
		}
		state, err := k.watch(c)
		if err != nil {
			k.say("cannot wait for the server: %v", err)
			return 1
		}
		if c.ready {
			k.serving = time.Now() // until now
		}
		status := syscall.WaitStatus(unix.SIGKILL)
		if state != nil {
			status = state.Sys().(syscall.WaitStatus)
		} else if c.left {
			status = syscall.WaitStatus(c.status << 8)
			if k.ending != nil || c.status != ExitReload {
				k.leave()
			}
		}
		over := k.ending != nil && status.Signaled() && status.Signal() == unix.SIGTERM
		switch {
		case status.Exited() && (status.ExitStatus() == 0 || k.ending != nil) || over:
			return 0
		case status.Exited() && status.ExitStatus() == ExitReload:
			program = k.Program
		case status.Exited() && !c.ready && k.restarts == 0:
			return status.ExitStatus() // it has said why
		case k.ending != nil && c.killed:
			return 0
		default:
			k.say("the server has died (%s); starting it again", end(status))
		}
		k.restarts++
		k.kept.died()
		// Who is killed from outside does not die of what it has taken over.
		if !(status.Signaled() && status.Signal() == unix.SIGKILL) && status.ExitStatus() != ExitReload {
			k.crashes = append(k.crashes, time.Now())
		}
		for len(k.crashes) > 0 && time.Since(k.crashes[0]) > crashTime {
			k.crashes = k.crashes[1:]
		}
		if len(k.crashes) >= maxCrashes || time.Since(k.serving) > idleTime {
			if fresh {
				k.say("the server cannot be kept alive")
				return 1
			}
			k.say("servers die again and again; the file view is given up, to be mounted afresh")
			k.kept.giveUp()
			fresh, k.crashes, k.serving = true, nil, time.Now()
		} else if c.ready {
			fresh = false
		}
	}
}

// end says how a process has ended.
func end(status syscall.WaitStatus) string {
	if status.Signaled() {
		return status.Signal().String()
	}
	return fmt.Sprintf("exit status %d", status.ExitStatus())
}

func (k *keeper) say(format string, args ...any) {
	fmt.Fprintf(k.Log, "docportal: "+format+"\n", args...)
}

// child is a running server.
type child struct {
	process *os.Process
	fd      int // our side of the socket
	witness int // our end of its witness's pipe
	ready   bool
	killed  bool // because the end took too long
	dead    bool // but not yet gone
	leaving bool // it has said that it ends, with this status:
	status  int
	left    bool // because it could not
	state   chan *os.ProcessState
	asks    chan request
}

type request struct {
	words string
	files []int
}

// start starts a server and tells it what was kept.
func (k *keeper) start(program string) (*child, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	remote := os.NewFile(uintptr(fds[1]), "keeper")
	defer remote.Close()
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		unix.Close(fds[0])
		return nil, os.NewSyscallError("pipe2", err)
	}
	held := os.NewFile(uintptr(pipe[1]), "witness")
	defer held.Close()
	p, err := os.StartProcess(program, k.Args, &os.ProcAttr{
		Env:   append(os.Environ(), EnvSocket+"=3"),
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr, remote, held},
		Sys:   &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL},
	})
	if err != nil && program != "/proc/self/exe" {
		k.say("%v; the program that runs goes on", err)
		unix.Close(fds[0])
		unix.Close(pipe[0])
		return k.start("/proc/self/exe")
	}
	if err != nil {
		unix.Close(fds[0])
		unix.Close(pipe[0])
		return nil, err
	}
	c := &child{process: p, fd: fds[0], witness: pipe[0], state: make(chan *os.ProcessState, 1), asks: make(chan request)}
	// A server that dies at once does not read this: its end is seen below.
	for name, it := range k.kept {
		send(c.fd, wordKept+" "+name+" "+it.note, it.files)
	}
	send(c.fd, wordBegin+" "+strconv.Itoa(len(k.crashes)), nil)
	if k.ending != nil {
		send(c.fd, wordEnd, nil)
	}
	return c, nil
}

// watch serves a server until it is dead.
func (k *keeper) watch(c *child) (*os.ProcessState, error) {
	errs := make(chan error, 2)
	gone := make(chan struct{})
	go c.listen(gone, errs) // ends when nothing of the server is left
	asks := c.asks
	var rest, stuck, dead, leave <-chan time.Time
	var state *os.ProcessState
	var thread <-chan struct{} = gone
	var died time.Time
	for {
		// What it had sent before it died counts.
		if asks == nil && (state != nil || c.dead) {
			unix.Close(c.fd)
			return state, nil
		}
		select {
		case state = <-c.state:
		case err := <-errs:
			return nil, err
		case <-dead:
			c.dead = true
		case <-leave:
			k.say("the server cannot end, and is left to what it waits for")
			c.left = true
			go func() { // ends with the process
				for r := range c.asks {
					closeAll(r.files)
				}
				unix.Close(c.fd)
			}()
			return nil, nil
		case <-thread:
			thread, stuck, died = nil, time.After(stuckTime), time.Now()
			if (k.ending != nil || c.leaving) && leave == nil {
				leave = time.After(exitTime)
			}
		case <-stuck:
			stuck = nil
			files := k.kept[Device].files
			switch {
			case state != nil || len(files) == 0 || k.ending != nil:
			case time.Since(died) < slowTime && !waitsForFUSE(c.process.Pid):
				stuck = time.After(stuckTime)
			default:
				k.say("the server cannot end; requests for files fail until it has")
				refuse(files[0], func() bool { return len(c.state) > 0 || len(k.signals) > 0 })
				stuck = time.After(0) // if it was a signal
			}
		case r, ok := <-asks:
			if !ok {
				// Nothing of it holds its socket: it is dead, even if a thread
				// has to wait for the next server before it can go.
				asks, dead = nil, time.After(deadTime)
				continue
			}
			k.answer(c, r)
			if c.ready && rest == nil && k.Rest != nil {
				rest = time.After(time.Second)
			}
		case sig := <-k.signals:
			if sig == unix.SIGUSR1 {
				send(c.fd, wordReload, nil)
				continue
			}
			if k.ending == nil {
				k.ending = time.After(endTime)
				send(c.fd, wordEnd, nil)
				if thread == nil {
					leave = time.After(exitTime)
				}
			}
		case <-k.ending:
			c.killed = true
			c.process.Kill()
			if leave == nil {
				leave = time.After(deadTime)
			}
		case <-rest:
			rest = nil
			k.Rest()
		}
	}
}

// leave takes away what nobody would after us: the names on the bus, the mount, and
// what those wait for who use it.
func (k *keeper) leave() {
	for _, name := range []string{Standby, Bus} {
		for _, fd := range k.kept[name].files {
			unix.Shutdown(fd, unix.SHUT_RDWR) // the server still has it open
		}
	}
	device, ok := k.kept[Device]
	if !ok {
		return
	}
	done := make(chan struct{})
	go func() { // ends with the process
		defer close(done)
		if k.Abort != nil {
			k.Abort(device.note)
		}
		if k.Detach != nil {
			k.Detach(device.note)
		}
	}()
	select {
	case <-done:
	case <-time.After(leaveTime):
	}
}

// listen takes what the server says until it has gone, which closes c.asks,
// closes gone when its witness has, and collects the process. One thread waits for
// all: each costs memory, also when it is not needed any more.
func (c *child) listen(gone chan<- struct{}, errs chan<- error) {
	wait := func() {
		state, err := c.process.Wait()
		if err != nil {
			errs <- err
			return
		}
		c.state <- state
	}
	pidfd := -1
	c.process.WithHandle(func(fd uintptr) { pidfd, _ = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 3) })
	if pidfd < 0 {
		go wait() // before Linux 5.4; ends with the process
	}
	const socket, witness, process = 0, 1, 2
	fds := []unix.PollFd{
		socket:  {Fd: int32(c.fd), Events: unix.POLLIN},
		witness: {Fd: int32(c.witness), Events: unix.POLLIN},
		process: {Fd: int32(pidfd), Events: unix.POLLIN},
	}
	b := make([]byte, maxMessage)
	// poll(2) leaves out what is negative.
	for fds[socket].Fd >= 0 || fds[witness].Fd >= 0 || fds[process].Fd >= 0 {
		if _, err := unix.Poll(fds, -1); err == unix.EINTR {
			continue
		} else if err != nil {
			errs <- os.NewSyscallError("poll", err)
			return
		}
		if fds[socket].Revents != 0 {
			if words, files, err := receive(c.fd, b); err == nil {
				c.asks <- request{words, files}
			} else {
				close(c.asks)
				fds[socket].Fd = -1
			}
		}
		if fds[witness].Revents != 0 {
			close(gone)
			unix.Close(c.witness)
			fds[witness].Fd = -1
		}
		if fds[process].Revents != 0 {
			wait()
			unix.Close(pidfd)
			fds[process].Fd = -1
		}
	}
}

// answer does what a server asks for.
func (k *keeper) answer(c *child, r request) {
	first, rest := word(r.words)
	switch first {
	case wordKeep:
		name, note := word(rest)
		k.kept.put(name, note, r.files)
		r.files = nil
		send(c.fd, wordOK, nil)
	case wordDrop:
		k.kept.drop(rest)
		send(c.fd, wordOK, nil)
	case wordLend:
		k, ok := k.kept[rest]
		if !ok {
			send(c.fd, wordFailed+" nothing is kept under this name", nil)
			break
		}
		send(c.fd, wordOK+" "+k.note, k.files)
	case wordSocket:
		fd, err := connect(rest)
		if err != nil {
			send(c.fd, wordFailed+" "+err.Error(), nil)
			break
		}
		send(c.fd, wordOK, []int{fd})
		unix.Close(fd)
	case wordReady:
		c.ready = true
		k.serving = time.Now()
		if rest == strconv.FormatBool(true) && k.Ready != nil {
			k.Ready()
			k.Ready = nil
		}
		send(c.fd, wordOK, nil)
	case wordLeave:
		c.leaving = true
		c.status, _ = strconv.Atoi(rest)
		send(c.fd, wordOK, nil)
	case wordDetach:
		fd, err := unix.FcntlInt(uintptr(c.fd), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil || k.Detach == nil {
			send(c.fd, wordFailed+" the keeper cannot", nil)
			break
		}
		note := k.kept[Device].note
		go func() { // ends with the helper
			defer unix.Close(fd)
			if err := k.Detach(note); err != nil {
				send(fd, wordFailed+" "+err.Error(), nil)
				return
			}
			send(fd, wordOK, nil)
		}()
	case wordPID:
		send(c.fd, wordOK+" "+strconv.Itoa(os.Getpid()), nil)
	default:
		send(c.fd, wordFailed+" unknown request", nil)
	}
	closeAll(r.files)
}
