package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/alecthomas/kong"

	"docportal/internal/sandbox"
)

// options are the words of a profile, and what only a command line can say.
type options struct {
	Share        []string `sep:"none" placeholder:"WORD" help:"Share with the host: network, ipc."`
	Unshare      []string `sep:"none" placeholder:"WORD" help:"Take a share of the profile away."`
	Socket       []string `sep:"none" placeholder:"WORD" help:"Let in: wayland, x11, fallback-x11, pulseaudio, cups, ssh-auth, gpg-agent, pcsc."`
	Nosocket     []string `sep:"none" placeholder:"WORD" help:"Take a socket away."`
	Device       []string `sep:"none" placeholder:"WORD" help:"Let in: dri, input, kvm, usb, all."`
	Nodevice     []string `sep:"none" placeholder:"WORD" help:"Take a device away."`
	Filesystem   []string `sep:"none" placeholder:"PATH[:ro|:create]" help:"Show a directory or file: ~/…, /…, xdg-…, home, host."`
	Nofilesystem []string `sep:"none" placeholder:"PATH" help:"Take a path away."`
	Persist      []string `sep:"none" placeholder:"PATH" help:"Keep a path of the home directory in the app's own directory."`
	Allow        []string `sep:"none" placeholder:"FEATURE" aliases:"feature" help:"Allow: userns, devel, multiarch, bluetooth, canbus."`
	Disallow     []string `sep:"none" placeholder:"FEATURE" help:"Take a feature away."`

	TalkName         []string `sep:"none" placeholder:"NAME" help:"Let the app talk to a name on the session bus."`
	OwnName          []string `sep:"none" placeholder:"NAME" help:"Let the app own a name on the session bus."`
	SeeName          []string `sep:"none" placeholder:"NAME" help:"Let the app see a name on the session bus."`
	NoTalkName       []string `sep:"none" placeholder:"NAME" help:"Take a name on the session bus away."`
	SystemTalkName   []string `sep:"none" placeholder:"NAME" help:"Let the app talk to a name on the system bus."`
	SystemOwnName    []string `sep:"none" placeholder:"NAME" help:"Let the app own a name on the system bus."`
	SystemNoTalkName []string `sep:"none" placeholder:"NAME" help:"Take a name on the system bus away."`

	Env      []string `sep:"none" placeholder:"VAR=VALUE" help:"Set a variable in the sandbox."`
	UnsetEnv []string `sep:"none" placeholder:"VAR" help:"Unset a variable in the sandbox."`

	Command        string     `placeholder:"PROGRAM" help:"Run another program than the profile's."`
	Cwd            string     `placeholder:"DIR" help:"Start in this directory of the sandbox."`
	Shell          bool       `help:"Run a shell in the app's sandbox instead of the app."`
	FileForwarding bool       `hidden:"" help:"Nothing: files between @@ and @@ always become documents."`
	Literal        bool       `help:"Leave @@ among the program's arguments as it is: they may be somebody else's words."`
	NoDocuments    bool       `help:"Start without the document portal."`
	DryRun         dryRunFlag `placeholder:"argv" help:"Print what would run, start nothing; --dry-run=argv prints the command lines."`
	LogDbus        bool       `help:"Say what the bus proxy refuses the app, and what a profile would say to allow it."`
	Install        bool       `help:"Make apps known to the desktop: menu entries that start them in their sandbox, and nothing that starts them outside."`
	Uninstall      bool       `help:"Take away what --install made."`
	List           bool       `help:"List profiles and running sandboxes."`
	Doctor         bool       `help:"Say what is missing or wrong on this machine for sandboxes and portals to work, for APP if one is named."`
	System         string     `placeholder:"NAME" help:"As root: run a daemon of the system in its sandbox. NAME is the name or the path of its profile; arguments go to the daemon."`
	Verbose        bool       `help:"Say more."`
	Version        kong.VersionFlag

	Words []string `arg:"" optional:"" name:"app" complete:"profile" passthrough:"partial" help:"The app, then its arguments."`
}

// dryRunFlag is --dry-run, alone or with =argv.
type dryRunFlag string

// IsBool makes kong take --dry-run without a value.
func (dryRunFlag) IsBool() bool { return true }

// Decode reads the value after --dry-run=, if there is one.
func (f *dryRunFlag) Decode(ctx *kong.DecodeContext) error {
	*f = "plan"
	if ctx.Scan.Peek().Type != kong.FlagValueToken {
		return nil
	}
	var value string
	if err := ctx.Scan.PopValueInto("dry-run", &value); err != nil {
		return err
	}
	if value != "plan" && value != "argv" {
		return fmt.Errorf("--dry-run=%s: only argv or plan", value)
	}
	*f = dryRunFlag(value)
	return nil
}

// apply adds the options to a profile: they are one more layer, in the
// profile's words.
func (o *options) apply(p *sandbox.Profile) error {
	here := sandbox.Position{}
	for _, c := range []struct {
		key, prefix string
		words       []string
	}{
		{"shared", "", o.Share}, {"shared", "!", o.Unshare},
		{"sockets", "", o.Socket}, {"sockets", "!", o.Nosocket},
		{"devices", "", o.Device}, {"devices", "!", o.Nodevice},
		{"filesystems", "", o.Filesystem}, {"filesystems", "!", o.Nofilesystem},
		{"persistent", "", o.Persist},
		{"features", "", o.Allow}, {"features", "!", o.Disallow},
	} {
		for _, w := range c.words {
			if err := p.AddContext(c.key, c.prefix+w, here); err != nil {
				return err
			}
		}
	}
	for _, c := range []struct {
		system bool
		policy string
		names  []string
	}{
		{false, "see", o.SeeName}, {false, "talk", o.TalkName}, {false, "own", o.OwnName}, {false, "none", o.NoTalkName},
		{true, "talk", o.SystemTalkName}, {true, "own", o.SystemOwnName}, {true, "none", o.SystemNoTalkName},
	} {
		for _, name := range c.names {
			if err := p.AddBusName(c.system, name, c.policy, here); err != nil {
				return err
			}
		}
	}
	for _, e := range o.Env {
		name, value, ok := strings.Cut(e, "=")
		if !ok {
			return fmt.Errorf("--env=%s: needs VAR=VALUE", e)
		}
		if err := p.AddEnv(name, value, here); err != nil {
			return err
		}
	}
	for _, name := range o.UnsetEnv {
		if err := p.UnsetEnv(name, here); err != nil {
			return err
		}
	}
	if o.Command != "" {
		p.Command = nil
		return p.AddCommand(o.Command, here)
	}
	return nil
}

// list prints the profiles, and the sandboxes that run.
func (o *options) list(dirs []string) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	installed := sandbox.Installed(dirs)
	if len(installed) == 0 {
		fmt.Fprintf(os.Stderr, "sbx-run: there are no profiles in %s\n", strings.Join(dirs, ", "))
	}
	fmt.Fprintln(w, "PROFILE\tFILES\tNOTES")
	for _, id := range installed {
		p, err := sandbox.Load(id, dirs)
		if err != nil {
			fmt.Fprintf(w, "%s\t-\t%v\n", id, err)
			continue
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", id, strings.Join(p.Files, " "), strings.Join(p.Notes(), ", "))
	}
	if host, err := sandbox.NewHost(os.Environ()); err == nil {
		fmt.Fprintln(w, "\nINSTANCE\tAPP\tPID")
		for _, r := range sandbox.RunningInstances(host) {
			fmt.Fprintf(w, "%s\t%s\t%s\n", r.ID, r.App, r.PID)
		}
	}
	return w.Flush()
}

// misplaced finds the first of a program's arguments that looks like an option
// of ours, "" if none does. Whoever writes it there may have meant it for us.
func misplaced(args []string) string {
	for _, arg := range args {
		name, _, _ := strings.Cut(arg, "=")
		if slices.Contains([]string{
			"--share", "--unshare", "--socket", "--nosocket", "--nodevice", "--filesystem", "--nofilesystem", "--persist",
			"--talk-name", "--own-name", "--no-talk-name", "--system-talk-name", "--log-dbus", "--no-documents",
		}, name) {
			return arg
		}
	}
	return ""
}
