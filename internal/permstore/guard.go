package permstore

import (
	"runtime/debug"
)

// guard runs f, which reads the memory map of the file. bbolt trusts the file:
// a bad page makes it panic, and a page that the disk cannot deliver or that
// was cut off is a SIGBUS. Both become a DamageError here. f must call nothing
// but bbolt and the codecs, so that no mistake elsewhere is taken for damage.
func guard(f func() error) (err error) {
	old := debug.SetPanicOnFault(true) // of this goroutine alone
	defer func() {
		debug.SetPanicOnFault(old)
		switch r := recover().(type) {
		case nil:
		case interface{ Addr() uintptr }: // runtime/debug.SetPanicOnFault
			err = damaged("a page of the file cannot be read")
		default:
			err = damaged("%v", r)
		}
	}()
	return f()
}
