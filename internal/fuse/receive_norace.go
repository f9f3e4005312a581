//go:build !race

package fuse

// maxDropped is 0, since a sync.Pool drops nothing before it is collected.
const maxDropped = 0
