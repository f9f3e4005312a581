package documents

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"docportal/internal/bus"
)

// mounted is the view while it is mounted.
type mounted struct {
	view View
	dir  string // as clients are told
	real string // the same without links
	home string // the user's home directory, without links
	// ancestors are the directories that contain the mountpoint.
	ancestors []fileID
}

// mounting is an attempt to mount; done is closed when it has ended.
type mounting struct {
	done chan struct{}
	m    *mounted
	err  error
}

// maxShortLived is how many mounts in a row may end within a second before no
// other is made by itself.
const maxShortLived = 10

// MountDir is where the view is mounted.
func (s *Service) MountDir() string { return filepath.Join(s.o.RuntimeDir, "doc") }

// mount returns the mounted view and mounts it if it is not. Calls at the same
// time share one attempt; one that failed is not remembered.
func (s *Service) mount(ctx context.Context) (*mounted, error) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, bus.Failed("the document portal is going down")
	}
	if m := s.mounted; m != nil {
		select {
		case <-m.view.Done():
			s.mounted = nil
		default:
			s.mu.Unlock()
			return m, nil
		}
	}
	a := s.mounting
	if a == nil {
		a = &mounting{done: make(chan struct{})}
		s.mounting = a
		go s.tryMount(a)
	}
	s.mu.Unlock()
	select {
	case <-a.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if a.err != nil {
		return nil, bus.Failed("cannot mount %s: %s", s.MountDir(), a.err)
	}
	return a.m, nil
}

// Mount mounts the view if it is not mounted, as calls do that need it.
func (s *Service) Mount(ctx context.Context) error {
	_, err := s.mount(ctx)
	return err
}

// tryMount makes one attempt. It ends with it, or with the view.
func (s *Service) tryMount(a *mounting) {
	m, err := s.doMount()
	s.mu.Lock()
	s.mounting = nil
	closed := s.closed
	if err == nil && !closed {
		s.mounted = m
	}
	s.mu.Unlock()
	if err == nil && closed {
		m.view.Unmount()
		err = fmt.Errorf("going down")
	}
	a.m, a.err = m, err
	close(a.done)
	if err != nil {
		s.log.Error("cannot mount the file view", "dir", s.MountDir(), "reason", err)
		return
	}
	s.log.Info("mounted", "dir", m.dir)
	start := time.Now()
	<-m.view.Done()
	s.mu.Lock()
	if time.Since(start) > time.Second {
		s.shortLived = 0
	}
	s.shortLived++
	// Who takes it away as fast as it comes wins, until the next call.
	again := !s.closed && !s.o.NoRemount && s.shortLived <= maxShortLived
	if s.mounted == m {
		s.mounted = nil
	}
	s.mu.Unlock()
	if again {
		s.log.Warn("the file view was unmounted by somebody else; mounting it again", "dir", m.dir)
		s.mount(context.Background())
	}
}

func (s *Service) doMount() (*mounted, error) {
	dir := s.MountDir()
	m := &mounted{dir: dir, home: s.o.Home}
	if home, err := filepath.EvalSymlinks(s.o.Home); err == nil {
		m.home = home
	}
	above, err := filepath.EvalSymlinks(s.o.RuntimeDir)
	if err != nil {
		return nil, err
	}
	m.real = filepath.Join(above, filepath.Base(dir))
	for d := above; ; d = filepath.Dir(d) {
		id, err := statAt(unix.AT_FDCWD, d, 0)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", d, err)
		}
		m.ancestors = append(m.ancestors, id)
		if d == "/" {
			break
		}
	}
	view, err := s.o.Mount(dir, s)
	if err != nil {
		return nil, err
	}
	m.view = view
	return m, nil
}

// Close unmounts the view. No call mounts it again.
func (s *Service) Close() error {
	s.mu.Lock()
	s.closed = true
	a, m := s.mounting, s.mounted
	s.mu.Unlock()
	if a != nil {
		<-a.done
	}
	s.transfers.close()
	if m == nil {
		return nil
	}
	return m.view.Unmount()
}
