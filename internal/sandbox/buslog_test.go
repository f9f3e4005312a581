package sandbox

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// What xdg-dbus-proxy 0.1.4 prints for calls of gdbus(1).
const proxyLog = `C1: -> org.freedesktop.DBus call org.freedesktop.DBus.Hello at /org/freedesktop/DBus
C2: -> org.freedesktop.DBus fake AddMatch for org.seen.Name
B3: <- org.freedesktop.DBus return from C2
*SKIPPED*
C9: -> org.freedesktop.Notifications call org.freedesktop.Notifications.GetCapabilities at /org/freedesktop/Notifications
*HIDDEN* (ping)
B10: <- (no sender) return from C9
*REWRITTEN*
C10: -> org.freedesktop.DBus call org.freedesktop.DBus.RequestName at /org/freedesktop/DBus
Filtering message due to arg0 org.mine.X, policy: 0 (required 3)
*HIDDEN* (ping)
C10: -> org.freedesktop.DBus call org.freedesktop.DBus.GetNameOwner at /org/freedesktop/DBus
Filtering message due to arg0 org.who.Is, policy: 0 (required 1)
B11: <- (no sender) return from C10
*REWRITTEN*
C10: -> org.freedesktop.DBus call org.freedesktop.DBus.StartServiceByName at /org/freedesktop/DBus
Filtering message due to arg0 org.who.Is, policy: 0 (required 2)
*HIDDEN* (ping)
C10: -> org.seen.Name call org.seen.Name.X at /
*DENIED* (ping)
C11: -> org.seen.Name call org.seen.Name.Y at /
*DENIED* (ping)
C12: -> org.let.Through call org.a.B at /
B13: <- :1.9 return from C12
*HIDDEN*
C13: -> org.freedesktop.login1 call org.freedesktop.login1.Manager.Inhibit at /org/freedesktop/login1
*HIDDEN* (ping)
C14: -> :1.5 call org.a.B at /
*HIDDEN* (ping)
C15: -> org.freedesktop.portal.Flatpak call org.freedesktop.portal.Flatpak.Spawn at /
*HIDDEN* (ping)
`

func watch(log string) []Refusal {
	var all []Refusal
	WatchProxy(strings.NewReader(log), func(name string) bool { return name == "org.freedesktop.login1" }, func(r Refusal) { all = append(all, r) })
	return all
}

func TestWhatTheProxyRefused(t *testing.T) {
	got := watch(proxyLog)
	want := []Refusal{
		{false, "org.freedesktop.Notifications", Talk, "org.freedesktop.Notifications.GetCapabilities"},
		{false, "org.mine.X", Own, "org.freedesktop.DBus.RequestName"},
		{false, "org.who.Is", See, ""},
		{false, "org.who.Is", Talk, "org.freedesktop.DBus.StartServiceByName"},
		{false, "org.seen.Name", Talk, "org.seen.Name.X"},
		{true, "org.freedesktop.login1", Talk, "org.freedesktop.login1.Manager.Inhibit"},
		{false, "org.freedesktop.portal.Flatpak", Talk, "org.freedesktop.portal.Flatpak.Spawn"},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%v\nwant\n%v", got, want)
	}
	summary := Summary(got)
	if want := `[Session Bus Policy]
org.freedesktop.Notifications=talk
org.mine.X=own
org.who.Is=talk
org.seen.Name=talk
# org.freedesktop.portal.Flatpak=talk: reaches org.freedesktop.portal.Flatpak, which starts programs outside the sandbox
[System Bus Policy]
org.freedesktop.login1=talk
`; summary != want {
		t.Errorf("got\n%s\nwant\n%s", summary, want)
	}
	// It can be pasted.
	p := new(Profile)
	if err := p.AddFile("x", []byte(summary)); err != nil || len(p.Session) != 4 || len(p.System) != 1 {
		t.Error(err, p.Session, p.System)
	}
}

// The names in the log are the app's words.
func TestTheLogIsNotBelieved(t *testing.T) {
	for _, name := range []string{"\x1b[2J", "org.a.B;x", "org.a.*x", "a", ":1.2", strings.Repeat("a.", 200), "org..a", "org.*", "org.a.*", "org.freedesktop.DBus"} {
		for _, form := range []string{"C1: -> %s call org.a.B at /\n*HIDDEN*\n", "Filtering message due to arg0 %s, policy: 0 (required 3)\n*HIDDEN*\n"} {
			if got := watch(fmt.Sprintf(form, name)); len(got) != 0 {
				t.Errorf("%q: %v", name, got)
			}
		}
	}
	if got := watch("C1: -> org.a.B call \x1b[31m at /\n*HIDDEN*\n"); len(got) != 0 {
		t.Error(got)
	}
	// A line without an end is read to the end.
	if got := watch(strings.Repeat("x", 1<<20)); len(got) != 0 {
		t.Error(got)
	}
}
