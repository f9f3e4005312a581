// Package testdata has the permission databases that the usual implementation
// wrote, for tests of other packages.
package testdata

import "embed"

// Files are the databases by the names of their files.
//
//go:embed *.gvdb
var Files embed.FS
