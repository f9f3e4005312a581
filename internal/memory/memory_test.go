package memory

import "testing"

// TestOnlyPagesThatNobodyWritesAreGivenBack is the table of mappings.
func TestOnlyPagesThatNobodyWritesAreGivenBack(t *testing.T) {
	const exe, dir = "/usr/bin/docportal", "/home/a b/docportal/"
	for line, want := range map[string]bool{
		"00400000-00800000 r-xp 00000000 fe:00 1 \t         /usr/bin/docportal":                 false, // not a space
		"00400000-00800000 r-xp 00000000 fe:00 1            /usr/bin/docportal":                 true,
		"00800000-00900000 r--p 00400000 fe:00 1            /usr/bin/docportal":                 true,
		"00900000-00a00000 rw-p 00500000 fe:00 1            /usr/bin/docportal":                 false,
		"00900000-00a00000 r--p 00500000 fe:00 1            /usr/bin/docportals":                false,
		"7f0000000000-7f0000010000 r--s 00000000 fe:00 2    /home/a b/docportal/permissions.db": true,
		"7f0000000000-7f0000010000 rw-s 00000000 fe:00 2    /home/a b/docportal/permissions.db": false,
		"7f0000000000-7f0000010000 r--s 00000000 fe:00 2    /home/a b/docportal2/x":             false,
		"c000000000-c000400000 rw-p 00000000 00:00 0":                                           false,
		"7ffd00000000-7ffd00001000 r-xp 00000000 00:00 0    [vdso]":                             false,
		"00800000-00400000 r-xp 00000000 fe:00 1            /usr/bin/docportal":                 false,
		"": false, "x r y z /usr/bin/docportal": false,
	} {
		start, length, ok := droppable(line, exe, dir, true)
		if ok != want || ok && (start == 0 || length == 0) {
			t.Errorf("%q: %#x %#x %v", line, start, length, ok)
		}
	}
}

// TestPagesThatALoaderWroteAreKept: in a program that runs at any address the
// loader has written to what is read-only now.
func TestPagesThatALoaderWroteAreKept(t *testing.T) {
	const exe = "/usr/bin/docportal"
	for line, want := range map[string]bool{
		"00400000-00800000 r-xp 00000000 fe:00 1    /usr/bin/docportal": true,
		"00800000-00900000 r--p 00400000 fe:00 1    /usr/bin/docportal": false,
	} {
		if _, _, ok := droppable(line, exe, "", false); ok != want {
			t.Errorf("%q: %v", line, ok)
		}
	}
}

// TestAProgramGoesOn: nothing that is needed is lost.
func TestAProgramGoesOn(t *testing.T) {
	before := make([]byte, 1<<20)
	before[12345] = 7
	for range 10 {
		GiveBack("")
	}
	if before[12345] != 7 {
		t.Error("the heap has changed")
	}
}
