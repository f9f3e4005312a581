package sandbox

import (
	"docportal/internal/keyfile"
)

// flatpakVersion is the version of flatpak whose metadata ours is like;
// programs read it to know which keys they may look for.
const flatpakVersion = "1.14.4"

// metadata makes the text of /.flatpak-info, by which portals know the app.
//
// There is no [Runtime] group, as portals would take the app id from there,
// and neither app-path nor runtime-path, which would give paths in the sandbox
// another meaning on the host.
func metadata(p *Profile, instance string) []byte {
	f := new(keyfile.File)
	f.Set(groupApplication, "name", p.Name)
	f.Set("Instance", "instance-id", instance)
	f.Set("Instance", "session-bus-proxy", "true")
	if len(p.System) > 0 {
		f.Set("Instance", "system-bus-proxy", "true")
	}
	f.Set("Instance", "flatpak-version", flatpakVersion)
	for _, k := range contextKeys {
		if words := texts(*k.list(p)); len(words) > 0 {
			f.SetList(groupContext, k.key, words)
		}
	}
	for _, n := range p.Session {
		f.Set(groupSession, n.Name, n.Policy.String())
	}
	for _, n := range p.System {
		f.Set(groupSystem, n.Name, n.Policy.String())
	}
	return f.Bytes()
}

// appOf reads the app id back from metadata, "" if it has none.
func appOf(info []byte) string {
	f, err := keyfile.Parse(info)
	if err != nil {
		return ""
	}
	name, _ := f.String(groupApplication, "name")
	return name
}
