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
