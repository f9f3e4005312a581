package bus

import "sync"

// queue hands items from many goroutines to one, in order. Pushing never
// waits; who must not outrun the other side waits in below.
type queue[T any] struct {
	mu     sync.Mutex
	change sync.Cond
	items  []T
	weigh  func(T) int
	weight int
	busy   bool // the last item that was popped may still be worked on
	closed bool
}

func newQueue[T any](weigh func(T) int) *queue[T] {
	q := &queue[T]{weigh: weigh}
	q.change.L = &q.mu
	return q
}

// push reports whether the queue was still open and has the item now. Where
// nothing is before it, now is asked first, if not nil: it does at once what it
// can without waiting, and returns what is left, or that all is done.
func (q *queue[T]) push(item T, now func(T) (rest T, done bool)) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	if now != nil && !q.busy && len(q.items) == 0 {
		var done bool
		if item, done = now(item); done {
			return true
		}
	}
	q.items = append(q.items, item)
	q.weight += q.weigh(item)
	q.change.Broadcast()
	return true
}

// pop waits for an item. ok is false when the queue is closed and empty. Who
// pops has done with the item before.
func (q *queue[T]) pop() (item T, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.busy = false
	for len(q.items) == 0 {
		if q.closed {
			return item, false
		}
		q.change.Wait()
	}
	item = q.items[0]
	var none T
	q.items[0] = none
	q.items = q.items[1:]
	if len(q.items) == 0 {
		q.items = nil
	}
	q.weight -= q.weigh(item)
	q.busy = true
	q.change.Broadcast()
	return item, true
}

// below waits until the items weigh less than limit or the queue is closed.
func (q *queue[T]) below(limit int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.weight >= limit && !q.closed {
		q.change.Wait()
	}
}

// close lets no more items in.
func (q *queue[T]) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.change.Broadcast()
}

// drain closes the queue and returns what was left in it.
func (q *queue[T]) drain() []T {
	q.close()
	q.mu.Lock()
	defer q.mu.Unlock()
	items := q.items
	q.items, q.weight = nil, 0
	q.change.Broadcast()
	return items
}
