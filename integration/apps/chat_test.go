package apps

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"docportal/integration/session"
	"docportal/integration/toolkit"
)

// DinoID is Dino's app id.
const DinoID = "im.dino.Dino"

// trusting has the sandboxes that are launched from now on trust an authority,
// as if this machine did: the list of those that the machine trusts is covered
// there by one that has this more.
func (d *desktop) trusting(authority string) {
	d.Helper()
	const list = "/etc/ssl/certs/ca-certificates.crt"
	known, err := os.ReadFile(list)
	d.must(err)
	own, err := os.ReadFile(authority)
	d.must(err)
	dir := filepath.Join(d.Home, ".session/trusting")
	d.must(os.MkdirAll(dir, 0o700))
	file := filepath.Join(dir, "authorities.pem")
	d.must(os.WriteFile(file, append(known, own...), 0o644))
	d.must(os.WriteFile(filepath.Join(dir, "bwrap"), fmt.Appendf(nil, `#!/bin/sh
[ "$1" = --args ] || exec /usr/bin/bwrap "$@"
args=$2
shift 2
exec /usr/bin/bwrap --args "$args" --ro-bind '%s' %s "$@"
`, file, list), 0o755))
	d.first = dir
}

// reader opens the session's accessibility bus until the test ends.
func (d *desktop) reader() *Reader {
	d.Helper()
	r, err := OpenReader(d.Session)
	d.must(err)
	d.Cleanup(func() { r.Close() })
	return r
}

// chat: a person signs in to a server, and attaches a file by the portal's
// dialog, and another one by dropping it; whom it is sent to can fetch it, byte
// for byte.
func chat(d *desktop) {
	server, err := StartChatServer(d.Session, d.log, d.TempDir(), "anna", "bert")
	d.must(err)
	d.Cleanup(func() { server.Close() })
	d.trusting(server.Authority)
	d.must(Install(d.Session, d.log, DinoID))
	d.file(".ssh/id_ed25519", 100)
	chosen, want := d.file("Documents/für Bert.bin", 3*megabyte)
	d.file("Documents/beside.txt", 10)

	dino := application{id: DinoID, class: "dino-im"}
	const program = "dino-im"
	r := d.reader()
	see := func(role, name string) *Element {
		e, err := r.Await(program, role, name)
		if err != nil {
			d.shot("not-seen")
			d.Fatal(err)
		}
		return e
	}
	stop := d.launch(dino)
	window := d.await("its window", dino.class, "")
	d.shot("started")
	d.seesNoHome(DinoID)
	d.works(DinoID, "starts")

	// The first start asks for an account.
	d.must(see("button", "^Set up account$").Press())
	see("label", "^Sign in$")
	d.typeInto(dino.class, "anna@"+server.Domain)
	see("label", "^Sign in to anna@")
	d.typeInto(dino.class, chatPassword)
	d.must(see("button", "^Finish$").Press())

	// A link to a person opens the conversation, when it is connected: it has told
	// the server its keys.
	d.must(session.Await(shortLimit, func() (bool, error) {
		_, err := os.Stat(server.Told("anna"))
		return err == nil, nil
	}))
	d.must((&Dialog{screen: d.screen, window: window}).settled())
	d.launch(application{id: DinoID, url: "xmpp:bert@" + server.Domain})
	see("label", "^bert@")
	d.must((&Dialog{screen: d.screen, window: window}).settled())
	_, height := d.screen.size(window)
	d.must((&Dialog{screen: d.screen, window: window}).click(337, height-38))
	dialog, err := d.screen.AwaitDialog()
	if err != nil {
		d.shot("no-dialog")
		d.Fatal(err)
	}
	d.must(dialog.Path(chosen))
	d.shot("dialog")
	d.must(dialog.Enter())
	see("label", "^Send a file$")
	d.shot("chosen")
	d.must(see("button", "^Send$").Press())
	d.arrives(server, "bert", 1, want)
	d.shot("sent")
	d.wasGiven(DinoID, chosen)
	d.works(DinoID, "open")

	dropped, want := d.file("Pictures/a phöto.bin", 123456)
	p := d.gtk(toolkit.GTK3, "")
	w := d.window(p, toolkit.Request{Op: "drag", Text: "Drag to Dino", Paths: []string{dropped}})
	steps := 0
	d.must(d.screen.Drag(w, 700, 300, func() (bool, error) { steps++; return steps > 20, nil }))
	see("label", "^Send a file$")
	d.shot("dropped")
	d.must(see("button", "^Send$").Press())
	d.arrives(server, "bert", 2, want)
	docs := d.documents(DinoID)
	slices.Sort(docs)
	if !slices.Equal(docs, []string{chosen, dropped}) {
		d.Errorf("Dino was given %q, want %q and %q", docs, chosen, dropped)
	}
	d.works(DinoID, "drag")
	stop()
}

// typeInto types into the newest window of a class, and ends that with Return.
func (d *desktop) typeInto(class, text string) {
	d.Helper()
	all := d.screen.Windows(class)
	if len(all) == 0 {
		d.Fatalf("%s has no window", class)
	}
	w := &Dialog{screen: d.screen, window: all[len(all)-1]}
	d.must(w.settled())
	_, err := d.screen.Xdotool("windowfocus", "--sync", w.window)
	d.must(err)
	d.must(w.Type(text))
	_, err = d.screen.Xdotool("key", "--clearmodifiers", "Return")
	d.must(err)
}

// address is where a message says that a file is, which it says twice.
var address = regexp.MustCompile(`"https://[^"]+"`)

// arrives waits until the server keeps messages for a user with the addresses
// of so many files, and fetches the last as who reads the message does.
func (d *desktop) arrives(server *ChatServer, user string, files int, want Received) {
	d.Helper()
	var at []string
	var messages []byte
	err := session.Await(shortLimit, func() (bool, error) {
		messages, _ = os.ReadFile(server.Kept(user))
		at = slices.Compact(address.FindAllString(string(messages), -1))
		return len(at) >= files, nil
	})
	if err != nil {
		d.shot("no-message")
		d.Fatalf("%d messages with a file came for %s, want %d: %s", len(at), user, files, messages)
	}
	authority, err := os.ReadFile(server.Authority)
	d.must(err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	defer client.CloseIdleConnections()
	url := strings.Trim(at[files-1], `"`)
	answer, err := client.Get(url)
	d.must(err)
	defer answer.Body.Close()
	sum := sha256.New()
	size, err := io.Copy(sum, answer.Body)
	d.must(err)
	if size != want.Size || sumText(sum) != want.SHA256 {
		d.Errorf("%s: %s, %d bytes, SHA-256 %s; want %+v", url, answer.Status, size, sumText(sum), want)
	}
}

// ChattyID is Chatty's app id.
const ChattyID = "sm.puri.Chatty"

// chatty: a person with an account attaches a file. The program has a dialog of its
// own for that, which offers what the program itself has, and no file of the host.
func chatty(d *desktop) {
	server, err := StartChatServer(d.Session, d.log, d.TempDir(), "anna", "bert")
	d.must(err)
	d.Cleanup(func() { server.Close() })
	d.must(Install(d.Session, d.log, ChattyID))
	d.file(".ssh/id_ed25519", 100)
	hidden, _ := d.file("Documents/für Bert.bin", 10)
	own := ".var/app/" + ChattyID + "/.purple/"
	d.leave(own+"accounts.xml", fmt.Sprintf(`<?xml version='1.0' encoding='UTF-8' ?>
<account version='1.0'>
	<account>
		<protocol>prpl-jabber</protocol>
		<name>anna@%s/chatty</name>
		<password>%s</password>
		<statuses>
			<status type='available' name='Available' active='true'><attributes/></status>
			<status type='offline' name='Offline' active='false'><attributes/></status>
		</statuses>
		<settings>
			<setting name='connection_security' type='string'>require_tls</setting>
			<setting name='port' type='int'>%s</setting>
		</settings>
		<settings ui='chatty-ui'>
			<setting name='auto-login' type='bool'>1</setting>
		</settings>
	</account>
</account>
`, server.Domain, chatPassword, chatPort))
	d.leave(own+"blist.xml", fmt.Sprintf(`<?xml version='1.0' encoding='UTF-8' ?>
<purple version='1.0'>
	<blist>
		<group name='Buddies'>
			<contact>
				<buddy account='anna@%[1]s/chatty' proto='prpl-jabber'>
					<name>bert@%[1]s</name>
					<alias>Bert</alias>
				</buddy>
			</contact>
		</group>
	</blist>
	<privacy/>
</purple>
`, server.Domain))
	certificate, err := os.ReadFile(server.Certificate())
	d.must(err)
	d.leave(own+"certificates/x509/tls_peers/"+server.Domain, string(certificate))
	chosen := ".var/app/" + ChattyID + "/data/für Bert.bin"
	d.file(chosen, 10)
	plugins, err := filepath.Glob("/usr/lib/*/purple-2/jabber_http_file_upload.so")
	d.must(err)
	if len(plugins) != 1 {
		d.Fatalf("the plugins that send files by XMPP are %q, want one", plugins)
	}
	d.leave(own+"prefs.xml", fmt.Sprintf(`<?xml version='1.0' encoding='UTF-8' ?>
<pref version='1' name='/'>
	<pref name='chatty'>
		<pref name='plugins'>
			<pref name='loaded' type='pathlist'>
				<item value='%s'/>
			</pref>
		</pref>
	</pref>
</pref>
`, plugins[0]))
	chatty := application{id: ChattyID, class: "[Cc]hatty"}
	const program = ChattyID // as it calls itself
	r := d.reader()
	press := func(role, name string) {
		d.Helper()
		e, err := r.AwaitShown(program, role, name)
		if err != nil {
			d.shot("not-seen")
			d.Fatal(err)
		}
		d.must(e.Press())
	}
	stop := d.launch(chatty)
	d.await("its window", chatty.class, "")
	d.shot("started")
	d.seesNoHome(ChattyID)
	d.works(ChattyID, "starts")

	// The button cannot be pressed until it is connected.
	press("toggle button", "^Add Chat$")
	press("push button", "^New Message")
	_, err = r.AwaitShown(program, "label", "^Bert$")
	d.must(err)
	windows := d.screen.Windows(chatty.class)
	people := &Dialog{screen: d.screen, window: windows[len(windows)-1]}
	d.must(people.settled())
	d.must(people.click(120, 130))
	before := d.screen.Windows(chatty.class)
	press("push button", "^$") // a paper clip
	dialog := d.ownDialog(chatty.class, before)
	d.refuses(r, program, dialog, hidden)
	d.must(dialog.Path(filepath.Join(d.Home, chosen)))
	d.must(dialog.Enter())
	_, err = r.AwaitShown(program, "label", "^Offering to send "+filepath.Base(chosen))
	d.shot("offered")
	d.must(err)
	if docs := d.documents(ChattyID); len(docs) > 0 {
		d.Errorf("it was given %q", docs)
	}
	if !d.Failed() {
		table.Set(ChattyID, "open", "no: its own dialog shows an empty home")
	}
	stop()
}
