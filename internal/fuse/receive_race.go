//go:build race

package fuse

// maxDropped is how many buffers may be waiting for the garbage collection: under
// the race detector a sync.Pool drops a quarter of what is put into it.
const maxDropped = 48
