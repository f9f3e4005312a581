// Package gvdb reads and writes permission databases as flatpak's family of
// programs keeps them: GVDB files, one for each table, whose values are
// GVariants. It knows the part of both formats that such files need, and only
// little-endian ones.
//
// The one rule: what is not well-formed is never guessed at. An entry that is
// damaged in any place is reported and left out, the others come out whole.
package gvdb

import (
	"strings"
	"unicode/utf8"

	"docportal/internal/bus"
)

// Entry is what a table has under one id.
type Entry struct {
	// Data is any value that D-Bus has: its signature, and its bytes in the
	// form that bus.Value describes.
	Data bus.Value
	// Permissions are the words of each app. An app without words is there
	// with an empty list. Nil if there are no apps.
	Permissions map[string][]string
}

// The parts of a file: words are little-endian uint32s.
const (
	magic      = "GVariant"
	headerSize = 24 // magic, version, options, start and end of the root table
	itemSize   = 24
	noParent   = 0xffffffff
	// A bloom filter of no words; the shift is what the usual writer uses.
	bloomWord = 5 << 27
	bloomMask = 1<<27 - 1
	maxKey    = 0xffff
)

// Names of the root table's items.
const (
	mainTable   = "main"
	appsTable   = "apps"
	placeholder = "docportal-placeholder"
)

const entrySignature = "(va{sas})"

// hash is GVDB's hash of a key.
func hash(key []byte) uint32 {
	h := uint32(5381)
	for _, c := range key {
		h = h*33 + uint32(int32(int8(c)))
	}
	return h
}

// isText reports whether D-Bus can carry s as a string.
func isText(s string) bool {
	return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0
}
