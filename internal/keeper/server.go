package keeper

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Kept is what an earlier server had kept under a name. The files are the
// owner's.
type Kept struct {
	Files []*os.File
	Note  string
}

// newKept takes what wordKept says, and the files.
func newKept(rest string, files []int) (name string, k *Kept) {
	name, note := word(rest)
	k = &Kept{Note: note}
	for _, f := range files {
		k.Files = append(k.Files, os.NewFile(uintptr(f), name))
	}
	return name, k
}

// Close closes the files.
func (k *Kept) Close() {
	if k != nil {
		for _, f := range k.Files {
			f.Close()
		}
	}
}

// Server is the server's side. A nil Server stands for a server without a
// keeper: it keeps nothing.
type Server struct {
	fd      int
	crashes int

	mu   sync.Mutex
	kept map[string]*Kept

	ended  chan struct{} // closed when the keeper wants the end, or has gone
	reload chan struct{} // closed when the server is to make room
	gone   chan struct{} // closed when the keeper has gone

	asking  sync.Mutex // one request at a time
	answers chan answer
}

type answer struct {
	words string
	files []int
}

// Attach takes the server's side from the environment, which it clears. It
// returns nil if there is none.
func Attach() (*Server, error) {
	text := os.Getenv(EnvSocket)
	if text == "" {
		return nil, nil
	}
	os.Unsetenv(EnvSocket)
	fd, err := strconv.Atoi(text)
	if err != nil || fd < 3 {
		return nil, errors.New(EnvSocket + " names no descriptor")
	}
	unix.CloseOnExec(fd)
	unix.CloseOnExec(fd + 1)
	witness(fd + 1)
	return attach(fd)
}

func attach(fd int) (*Server, error) {
	s := &Server{
		fd:      fd,
		kept:    make(map[string]*Kept),
		ended:   make(chan struct{}),
		reload:  make(chan struct{}),
		gone:    make(chan struct{}),
		answers: make(chan answer, 1),
	}
	b := make([]byte, maxMessage)
	for {
		words, files, err := receive(fd, b)
		if err != nil {
			return nil, err
		}
		switch first, rest := word(words); first {
		case wordKept:
			name, k := newKept(rest, files)
			s.kept[name] = k
			continue
		case wordBegin:
			s.crashes, _ = strconv.Atoi(rest)
		default:
			closeAll(files)
			return nil, errors.New("the keeper says " + strconv.Quote(words))
		}
		break
	}
	go s.listen(b) // ends with the process, or the keeper
	return s, nil
}

// listen takes what the keeper says.
func (s *Server) listen(b []byte) {
	ended, reload := false, false
	end := func() {
		if !ended {
			ended = true
			close(s.ended)
		}
	}
	for {
		words, files, err := receive(s.fd, b)
		if err != nil {
			close(s.gone)
			end()
			close(s.answers)
			return
		}
		switch words {
		case wordEnd:
			end()
		case wordReload:
			if !reload {
				reload = true
				close(s.reload)
			}
		default:
			s.answers <- answer{words, files}
		}
	}
}

// Take returns what an earlier server had kept under a name, once, or nil.
func (s *Server) Take(name string) *Kept {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.kept[name]
	delete(s.kept, name)
	return k
}

// Give has Take return what another instance has handed over. It owns k then.
func (s *Server) Give(name string, k *Kept) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept[name].Close()
	s.kept[name] = k
}

// Has reports whether Take would return something.
func (s *Server) Has(name string) bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kept[name] != nil
}

// Crashes is how many servers have died of themselves a short while ago.
func (s *Server) Crashes() int {
	if s == nil {
		return 0
	}
	return s.crashes
}

// Ended is closed when the server is to end: the keeper was told to, or has
// gone.
func (s *Server) Ended() <-chan struct{} {
	if s == nil {
		return nil
	}
	return s.ended
}

// Gone is closed when the keeper has gone.
func (s *Server) Gone() <-chan struct{} {
	if s == nil {
		return nil
	}
	return s.gone
}

// Reload is closed when the server is to leave everything as it is and exit
// with ExitReload.
func (s *Server) Reload() <-chan struct{} {
	if s == nil {
		return nil
	}
	return s.reload
}

// ask makes a request and returns what follows the answer's first word.
func (s *Server) ask(words string, files []*os.File) (string, []int, error) {
	if s == nil {
		return "", nil, errors.New("there is no keeper")
	}
	if len(words) > maxMessage || len(files) > maxFiles {
		return "", nil, errors.New("too long for the keeper")
	}
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	s.asking.Lock()
	defer s.asking.Unlock()
	if err := send(s.fd, words, fds); err != nil {
		return "", nil, err
	}
	a, ok := <-s.answers
	if !ok {
		return "", nil, errClosed
	}
	first, rest := word(a.words)
	if first != wordOK {
		closeAll(a.files)
		return "", nil, errors.New(rest)
	}
	return rest, a.files, nil
}

// Keep has files kept for the server after this one, under a name without
// spaces, in place of what was there. They stay the caller's.
func (s *Server) Keep(name, note string, files ...*os.File) error {
	if s == nil {
		return nil
	}
	_, got, err := s.ask(strings.Join([]string{wordKeep, name, note}, " "), files)
	closeAll(got)
	return err
}

// Drop has what is kept under a name closed.
func (s *Server) Drop(name string) error {
	if s == nil {
		return nil
	}
	_, got, err := s.ask(wordDrop+" "+name, nil)
	closeAll(got)
	return err
}

// Detach takes the mount away that Device is kept for. A server cannot: who starts
// a program closes for it what is open, and that waits for the disk it is on.
func (s *Server) Detach() error {
	_, got, err := s.ask(wordDetach, nil)
	closeAll(got)
	return err
}

// Leave says that the server is about to end, and with which exit status: it may
// be that it cannot, for a thread that waits for a disk.
func (s *Server) Leave(status int) error {
	if s == nil {
		return nil
	}
	_, got, err := s.ask(wordLeave+" "+strconv.Itoa(status), nil)
	closeAll(got)
	return err
}

// Ready says that the server answers, and with serves that it does not just
// refuse.
func (s *Server) Ready(serves bool) error {
	if s == nil {
		return nil
	}
	_, got, err := s.ask(wordReady+" "+strconv.FormatBool(serves), nil)
	closeAll(got)
	return err
}

// PID is the keeper's process id, 0 without a keeper.
func (s *Server) PID() int {
	if s == nil {
		return 0
	}
	rest, got, err := s.ask(wordPID, nil)
	closeAll(got)
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(rest)
	return pid
}

// Connect has the keeper connect to a stream socket: for the other side the
// keeper is who connected. A leading @ makes the name abstract. The file is the
// caller's, and blocking.
func (s *Server) Connect(name string) (*os.File, error) {
	_, files, err := s.ask(wordSocket+" "+name, nil)
	if err != nil {
		return nil, err
	}
	if len(files) != 1 {
		closeAll(files)
		return nil, errors.New("the keeper gave no socket")
	}
	return os.NewFile(uintptr(files[0]), name), nil
}
