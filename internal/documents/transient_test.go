package documents

import (
	"reflect"
	"testing"
)

func TestATransientDocumentComesBack(t *testing.T) {
	for _, words := range []map[string][]string{
		{},
		{appA: {"read"}},
		{appA: {"write", "read"}, appB: nil, "a.b.C": {"delete", "read", "grant-permissions", "write"}, "a.b.D": {"read", "write"}},
	} {
		d := newDocument("id", record{path: "/f", dev: 1, ino: 2, flags: flagTransient, handle: "h", fsid: 3}, words)
		k := keep(d)
		if back := k.document(); !reflect.DeepEqual(back, d) {
			t.Errorf("%+v came back as %+v", d, back)
		}
		for _, app := range []string{appA, appB, "a.b.C", "x.y.Z"} {
			if k.can(app) != d.can(app) {
				t.Errorf("%s can %v", app, k.can(app))
			}
		}
		if got, want := k.share(), shareIn(words, d.rec.size()); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
		addWords(k.words()[appA], permDelete) // changes nobody's
		removeWords(k.words()[appA], permRead)
		if !reflect.DeepEqual(k.document(), d) {
			t.Errorf("%+v was changed to %+v", d, k.document())
		}
	}
}
