package sandbox

// portals are the services whose portal objects every app may call. There is
// no wildcard: org.freedesktop.portal.Flatpak starts programs outside.
var portals = []string{
	"org.freedesktop.portal.Desktop",
	"org.freedesktop.portal.Documents",
	"org.freedesktop.portal.IBus",
	"org.freedesktop.portal.Fcitx",
}

// sessionRules are xdg-dbus-proxy's options for the session bus.
func sessionRules(p *Profile) []string {
	rules := []string{
		"--filter",
		"--own=" + p.Name + ".*", // the subtree includes the name itself
		"--own=org.mpris.MediaPlayer2." + p.Name + ".*",
	}
	for _, name := range portals {
		rules = append(rules, "--call="+name+"=*", "--broadcast="+name+"=@/org/freedesktop/portal/*")
	}
	return append(rules, policyRules(p.Session)...)
}

// systemRules are xdg-dbus-proxy's options for the system bus.
func systemRules(p *Profile) []string {
	if p.Daemon != nil && p.Daemon.OpenBus {
		return nil
	}
	return append([]string{"--filter"}, policyRules(p.System)...)
}

func policyRules(names []BusName) []string {
	var rules []string
	for _, n := range names {
		rules = append(rules, "--"+n.Policy.String()+"="+n.Name)
	}
	return rules
}
