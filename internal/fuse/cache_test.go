package fuse

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
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
	if held(fds[1]) != 0 || nodes[1].cacheEntry != nil {
		t.Error("what was dropped is held")
	}
	eventually(t, "nothing is held", func() bool { return held(fds[0])+held(fds[2]) == 0 })
	c.add(nodes[0], fds[0]) // the timer runs again
	eventually(t, "nothing is held", func() bool { return held(fds[0]) == 0 })
	c.close()
	c.add(nodes[0], fds[0])
	if held(fds[0]) != 0 {
		t.Error("something is held after the end")
	}
}
