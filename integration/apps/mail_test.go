package apps

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
)

const (
	// ThunderbirdID is Thunderbird's app id.
	ThunderbirdID = "org.mozilla.Thunderbird"
	// GearyID is Geary's app id.
	GearyID = "org.gnome.Geary"
)

// letter is a link to write to somebody, as a page has it.
const letter = "mailto:bert@example.org?subject=A%20letter&body=Words."

// mailServer starts a mail server that ends with the test.
func (d *desktop) mailServer() *MailServer {
	d.Helper()
	// Paths of sockets are short.
	dir := filepath.Join(d.Runtime, "mail")
	d.must(os.Mkdir(dir, 0o700))
	m, err := StartMailServer(d.Session, d.log, dir)
	d.must(err)
	d.Cleanup(func() { m.Close() })
	return m
}

// leave leaves a file in the home directory, as an earlier start did.
func (d *desktop) leave(name, text string) {
	d.Helper()
	path := filepath.Join(d.Home, name)
	d.must(os.MkdirAll(filepath.Dir(path), 0o700))
	d.must(os.WriteFile(path, []byte(text), 0o600))
}

// attaches has a mail program, in whose window a letter is written, attach a file
// by the portal's dialog, and send it by keys. Another one is dropped on the letter,
// which the program takes or not. What it took arrives, byte for byte, and it was
// given no other.
func (d *desktop) attaches(app, window string, server *MailServer, attach, send []string, takes bool) {
	d.Helper()
	chosen, want := d.file("Documents/für Bert.bin", 3*megabyte)
	d.file("Documents/beside.txt", 10)
	dialog := d.dialogOf(window, attach)
	d.must(dialog.Path(chosen))
	d.shot("dialog")
	d.must(dialog.Enter())
	w := &Dialog{screen: d.screen, window: window}
	d.must(w.settled())
	d.shot("attached")
	files, all := []string{chosen}, map[string]Received{want.Name: want}
	dropped, also := d.file("Pictures/a phöto.bin", 123456)
	if takes {
		d.drop(app, window, dropped)
		files, all[also.Name] = append(files, dropped), also
	} else {
		d.dropped(application{id: app}, window, dropped)
	}
	_, err := d.screen.Xdotool("windowfocus", "--sync", window)
	d.must(err)
	_, err = d.screen.Xdotool(append([]string{"key", "--clearmodifiers"}, send...)...)
	d.must(err)
	got, err := server.Attached(mailbox)
	d.shot("sent")
	d.must(err)
	have := map[string]Received{}
	for name, b := range got {
		sum := sha256.Sum256(b)
		have[name] = Received{name, int64(len(b)), hex.EncodeToString(sum[:])}
	}
	if !maps.Equal(have, all) {
		d.Errorf("%+v was attached, want %+v", have, all)
	}
	docs := d.documents(app)
	slices.Sort(docs)
	if !slices.Equal(docs, files) {
		d.Errorf("%s was given %q, want %q", app, docs, files)
	}
	d.works(app, "open")
	if takes {
		d.works(app, "drag")
	}
}

// thunderbird: a person with an account attaches a file to a letter.
func thunderbird(d *desktop) {
	d.Helper()
	server := d.mailServer()
	d.must(Install(d.Session, d.log, ThunderbirdID))
	d.file(".ssh/id_ed25519", 100)
	imapHost, imapPort, _ := net.SplitHostPort(server.IMAP)
	smtpHost, smtpPort, _ := net.SplitHostPort(server.SMTP)
	d.leave(".thunderbird/profiles.ini", "[Profile0]\nName=person\nIsRelative=1\nPath=person\nDefault=1\n\n[General]\nStartWithLastProfile=1\nVersion=2\n")
	// The profile is the one of this installation, which otherwise makes another.
	d.leave(".thunderbird/person/compatibility.ini", "[Compatibility]\nLastPlatformDir=/usr/lib/thunderbird\nLastAppDir=/usr/lib/thunderbird\n")
	d.leave(".thunderbird/person/prefs.js", fmt.Sprintf(`
user_pref("mail.accountmanager.accounts", "account1,account2");
user_pref("mail.accountmanager.defaultaccount", "account1");
user_pref("mail.accountmanager.localfoldersserver", "server2");
user_pref("mail.account.account1.identities", "id1");
user_pref("mail.account.account1.server", "server1");
user_pref("mail.account.account2.server", "server2");
user_pref("mail.account.lastKey", 2);
user_pref("mail.identity.id1.fullName", "Anna");
user_pref("mail.identity.id1.useremail", "anna@example.org");
user_pref("mail.identity.id1.smtpServer", "smtp1");
user_pref("mail.identity.id1.valid", true);
user_pref("mail.identity.id1.doFcc", false);
user_pref("mail.server.server1.type", "imap");
user_pref("mail.server.server1.hostname", %q);
user_pref("mail.server.server1.port", %s);
user_pref("mail.server.server1.userName", "anna");
user_pref("mail.server.server1.name", "anna@example.org");
user_pref("mail.server.server1.authMethod", 3);
user_pref("mail.server.server1.socketType", 0);
user_pref("mail.server.server1.check_new_mail", false);
user_pref("mail.server.server1.login_at_startup", false);
user_pref("mail.server.server2.type", "none");
user_pref("mail.server.server2.hostname", "Local Folders");
user_pref("mail.server.server2.userName", "nobody");
user_pref("mail.server.server2.name", "Local Folders");
user_pref("mail.smtpservers", "smtp1");
user_pref("mail.smtp.defaultserver", "smtp1");
user_pref("mail.smtpserver.smtp1.hostname", %q);
user_pref("mail.smtpserver.smtp1.port", %s);
user_pref("mail.smtpserver.smtp1.authMethod", 1);
user_pref("mail.smtpserver.smtp1.try_ssl", 0);
user_pref("mail.warn_on_send_accel_key", false);
user_pref("mail.shell.checkDefaultClient", false);
user_pref("app.donation.eoy.version.viewed", 999);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("mailnews.start_page.enabled", false);
`, imapHost, imapPort, smtpHost, smtpPort))
	thunderbird := application{id: ThunderbirdID, class: "[Tt]hunderbird", url: letter}
	stop := d.launch(thunderbird)
	window := d.await("the letter", thunderbird.class, "^Write: ")
	d.shot("letter")
	d.seesNoHome(ThunderbirdID)
	d.attaches(ThunderbirdID, window, server, []string{"ctrl+shift+a"}, []string{"ctrl+Return"}, true)
	stop()
}

// geary: a person with an account attaches a file to a letter.
func geary(d *desktop) {
	d.Helper()
	server := d.mailServer()
	d.keyring()
	d.must(Install(d.Session, d.log, GearyID))
	d.file(".ssh/id_ed25519", 100)
	imapHost, imapPort, _ := net.SplitHostPort(server.IMAP)
	smtpHost, smtpPort, _ := net.SplitHostPort(server.SMTP)
	d.leave(".var/app/"+GearyID+"/config/geary/account_01/geary.ini", fmt.Sprintf(`[Metadata]
version=1
status=enabled

[Account]
ordinal=1
label=anna@example.org
prefetch_days=14
save_drafts=false
save_sent=false
use_signature=false
signature=
sender_mailboxes=Anna <anna@example.org>;
service_provider=other

[Incoming]
login=anna
remember_password=true
host=%s
port=%s
transport_security=none
credentials=custom

[Outgoing]
remember_password=true
host=%s
port=%s
transport_security=none
credentials=none
`, imapHost, imapPort, smtpHost, smtpPort))
	geary := application{id: GearyID, class: "[Gg]eary", url: letter}
	stop := d.launch(geary)
	window := d.await("its window", geary.class, "")
	d.shot("started")
	d.seesNoHome(GearyID)
	d.works(GearyID, "starts")
	r := d.reader()
	_, err := r.AwaitShown("geary", "password text", "")
	d.must(err)
	d.typeInto(geary.class, mailPassword)
	_, err = r.AwaitShown("geary", "push button", "^Send$")
	d.must(err)
	d.shot("letter")
	d.attaches(GearyID, window, server, []string{"ctrl+t"}, []string{"ctrl+Return"}, false)
	stop()
}
