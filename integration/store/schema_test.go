package store

import (
	"encoding/binary"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// setSchema makes a file one of another version.
func setSchema(t testing.TB, path string, version uint32) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, nil)
	must(t, err)
	must(t, db.Update(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte("meta")).Put([]byte("schema"), binary.LittleEndian.AppendUint32(nil, version))
	}))
	must(t, db.Close())
}
