package fuse

import (
	"reflect"
	"testing"
)

// FuzzJournal reads any line of the journal: what is accepted names a file of
// the kind that is made here, and comes back from its own line.
func FuzzJournal(f *testing.F) {
	d := &Document{Dir: "/home/user/a dir", Name: "f \"\xff", DirID: FileID{Dev: 1, Ino: 2, FSID: 3, Handle: []byte("h")}}
	hidden := hiddenPrefix
	for len(hidden) < hiddenLength {
		hidden += "0"
	}
	f.Add(formatTemp(&temp{doc: d, hidden: hidden, only: true}))
	f.Add("+" + hidden + " \"/\" \"x\" false 0 0 0 \"\"\n")
	f.Fuzz(func(t *testing.T, line string) {
		got, ok := parseTemp(line)
		if !ok {
			return
		}
		if !component(got.hidden) || !component(got.doc.Name) {
			t.Fatalf("%q is %+v", line, got)
		}
		again, ok := parseTemp(formatTemp(got))
		if !ok || !reflect.DeepEqual(again.doc, got.doc) || again.hidden != got.hidden || again.only != got.only {
			t.Fatalf("%+v %+v came back as %+v, %v", got, got.doc, again, ok)
		}
	})
}

// FuzzMountInfo reads any line of mountinfo, in which others' mounts have the
// names that they like.
func FuzzMountInfo(f *testing.F) {
	f.Add(`36 35 98:0 /mnt1 /mnt\0402\134 rw,noatime master:1 - fuse.x /dev/root\040 rw`)
	f.Add(`36 35 98:0 / /mnt rw - fuse docportal`)
	f.Fuzz(func(t *testing.T, line string) {
		if m, ok := parseMountInfo(line); ok && (m.id == "" || m.point == "" || m.typ == "") {
			t.Fatalf("%q is %+v", line, m)
		}
	})
}
