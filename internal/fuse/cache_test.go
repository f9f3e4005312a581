package fuse

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"docportal/internal/testdisk"
)

// cacheTest is a cache, and nodes with descriptors of a file of their own.
func cacheTest(t *testing.T, count int) (c *cache, nodes []*node, fds []*descriptor) {
	c = new(cache)
	t.Cleanup(c.close)
	for range count {
		f, err := os.CreateTemp(t.TempDir(), "")
		must(t, err)
		fd, err := unix.Dup(int(f.Fd()))
		must(t, err)
		f.Close()
		d := newDescriptor(fd)
		t.Cleanup(d.put)
		nodes, fds = append(nodes, new(node)), append(fds, d)
	}
	return c, nodes, fds
}

// held is how many references there are to d besides the test's own.
func held(d *descriptor) int { return int(d.refs.Load()) - 1 }

func TestTheOldestDescriptorIsGivenUp(t *testing.T) {
	c, nodes, fds := cacheTest(t, cacheSize+2)
	c.next = time.Now() // no timer: on a slow machine the oldest would go by themselves
	for i := range cacheSize {
		c.add(nodes[i], fds[i])
	}
	c.add(nodes[0], fds[0]) // so it is the youngest
	c.add(nodes[cacheSize], fds[cacheSize])
	c.add(nodes[cacheSize+1], fds[cacheSize+1])
	for i, d := range fds {
		want := 1
		if i == 1 || i == 2 {
			want = 0
		}
		if held(d) != want {
			t.Errorf("descriptor %d is held %d times, want %d", i, held(d), want)
		}
	}
	for i, n := range nodes {
		if d := c.get(n); d != nil && d != fds[i] {
			t.Errorf("node %d has another one's descriptor", i)
		} else {
			d.put()
		}
	}
}

func TestDescriptorsAreGivenUpInTime(t *testing.T) {
	c, nodes, fds := cacheTest(t, 3)
	for i, n := range nodes {
		c.add(n, fds[i])
	}
	c.drop(nodes[1])
	if d := c.get(nodes[1]); d != nil {
		t.Error("what was dropped is there")
	}
	c.mu.Lock()
	if time.Until(c.next) > dropTime {
		t.Errorf("it is held for %v more", time.Until(c.next))
	}
	c.mu.Unlock()
	eventually(t, "what was dropped is not held", func() bool { return held(fds[1]) == 0 })
	eventually(t, "nothing is held", func() bool { return held(fds[0])+held(fds[1])+held(fds[2]) == 0 })
	c.add(nodes[0], fds[0]) // the timer runs again
	eventually(t, "nothing is held", func() bool { return held(fds[0]) == 0 })
	c.close()
	c.add(nodes[0], fds[0])
	if held(fds[0]) != 0 {
		t.Error("something is held after the end")
	}
}

// TestADescriptorThatTakesLongToCloseHoldsUpNobody: its disk says nothing for the
// moment, and with a lock held everybody would wait for that.
func TestADescriptorThatTakesLongToCloseHoldsUpNobody(t *testing.T) {
	r := newRig(t)
	disk := testdisk.Mount(t, r.dir("disk"), filepath.Join(r.host, "below"))
	must(t, os.WriteFile(filepath.Join(r.host, "disk", "file"), nil, 0o600))
	defer disk.Go()
	for what, f := range map[string]func(c *cache, hung *node, d *descriptor){
		"a revocation":         func(c *cache, hung *node, _ *descriptor) { c.dropView(hung.view) },
		"another in its place": func(c *cache, hung *node, d *descriptor) { c.add(hung, d) },
		"time":                 func(*cache, *node, *descriptor) {},
		"its node's end":       func(c *cache, hung *node, _ *descriptor) { c.drop(hung) },
		"the end":              func(c *cache, _ *node, _ *descriptor) { c.close() },
	} {
		c, nodes, fds := cacheTest(t, 2)
		// Not O_PATH, so that to close it is to ask the disk.
		fd, err := unix.Open(filepath.Join(r.host, "disk", "file"), unix.O_RDONLY, 0)
		must(t, err)
		d, hung := newDescriptor(fd), &node{view: new(docView)}
		c.add(hung, d)
		d.put()
		disk.Stop()
		go f(c, hung, fds[0])
		eventually(t, "the descriptor is being closed by "+what, func() bool { return disk.Waiting() > 0 })
		done := make(chan struct{})
		go func() { // ends when the disk answers, at the latest
			c.add(nodes[1], fds[1])
			c.get(nodes[1]).put()
			c.drop(nodes[1])
			c.drop(hung)
			close(done)
		}()
		select {
		case <-done:
		case <-time.After(patience):
			t.Error("nobody gets a descriptor while one is closed by", what)
		}
		disk.Go()
		eventually(t, "the disk has answered", func() bool { return disk.Waiting() == 0 })
	}
}
