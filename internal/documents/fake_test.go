package documents

import (
	"slices"
	"sync"
	"syscall"

	"docportal/internal/fuse"
)

// fakeView stands for a mount that nobody looks at, and remembers what it was
// told.
type fakeView struct {
	mu          sync.Mutex
	invalidated []string
	done        chan struct{}
	once        sync.Once
}

func newFakeView() *fakeView { return &fakeView{done: make(chan struct{})} }

func (v *fakeView) Dev() uint64                          { return 1 << 62 }
func (v *fakeView) Resolve(uint64) (fuse.Location, bool) { return fuse.Location{}, false }
func (v *fakeView) Done() <-chan struct{}                { return v.done }
func (v *fakeView) Open() map[string]int                 { return nil }

func (v *fakeView) Unmount() error { v.once.Do(func() { close(v.done) }); return nil }

func (v *fakeView) Invalidate(id string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.invalidated = append(v.invalidated, id)
}

// told reports whether the view was told of a change of the document, and
// forgets it.
func (v *fakeView) told(id string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	found := slices.Contains(v.invalidated, id)
	v.invalidated = nil
	return found
}

// unmounted are the options of a session without a real mount.
func unmounted(v *fakeView) options {
	return options{mount: func(*session, string, fuse.Documents) (View, error) { return v, nil }}
}

// stuckView is a fakeView that takes the files of one device for its own and
// never says what they are: as stuck as a disk that does not answer.
type stuckView struct {
	*fakeView
	dev   uint64
	asked chan struct{}
}

func (v *stuckView) Dev() uint64 { return v.dev }

func (v *stuckView) Resolve(uint64) (fuse.Location, bool) {
	v.asked <- struct{}{}
	<-v.done
	return fuse.Location{}, false
}

// failingMount fails each time and says so in calls.
func failingMount(calls chan struct{}) func(*session, string, fuse.Documents) (View, error) {
	return func(*session, string, fuse.Documents) (View, error) {
		calls <- struct{}{}
		return nil, syscall.ENODEV
	}
}
