package apps

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net"
	"net/mail"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	"docportal/integration/session"
)

// MailServer is two servers that share their users' mailboxes: one that clients
// read mail from (dovecot, IMAP), one that they send it by (aiosmtpd, SMTP). They
// are reached on this machine only, without TLS.
type MailServer struct {
	IMAP, SMTP string // host and port
	dir        string
	cmds       []*exec.Cmd
}

// mailPassword is every user's.
const mailPassword = "secret"

// mailbox is whose mailbox gets what is sent, whomever it is for.
const mailbox = "bert"

// StartMailServer starts the servers. dir is a directory for their files, whose
// path is short enough for sockets in it. The caller closes them.
func StartMailServer(s *session.Session, log *os.File, dir string) (m *MailServer, err error) {
	m = &MailServer{dir: dir}
	defer func() {
		if err != nil {
			m.Close()
			m = nil
		}
	}()
	if m.IMAP, err = freeAddress(); err != nil {
		return m, err
	}
	if m.SMTP, err = freeAddress(); err != nil {
		return m, err
	}
	me, err := user.Current()
	if err != nil {
		return m, err
	}
	group, err := user.LookupGroupId(me.Gid)
	if err != nil {
		return m, err
	}
	host, port, _ := net.SplitHostPort(m.IMAP)
	if err := os.MkdirAll(filepath.Dir(m.kept(mailbox)), 0o700); err != nil {
		return m, err
	}
	config := filepath.Join(dir, "dovecot.conf")
	err = os.WriteFile(config, fmt.Appendf(nil, `
base_dir = %[1]s/run
state_dir = %[1]s/run
listen = %[2]s
protocols = imap
ssl = no
disable_plaintext_auth = no
log_path = /dev/stderr
default_internal_user = %[4]s
default_internal_group = %[5]s
default_login_user = %[4]s
service anvil {
  chroot =
}
service imap-login {
  chroot =
  inet_listener imap {
    port = %[3]s
  }
  inet_listener imaps {
    port = 0
  }
}
mail_location = maildir:~/Maildir
namespace inbox {
  inbox = yes
  mailbox Drafts {
    special_use = \Drafts
    auto = subscribe
  }
  mailbox Sent {
    special_use = \Sent
    auto = subscribe
  }
  mailbox Trash {
    special_use = \Trash
    auto = subscribe
  }
}
passdb {
  driver = static
  args = password=%[8]s
}
userdb {
  driver = static
  args = uid=%[6]s gid=%[7]s home=%[1]s/%%n
}
first_valid_uid = 1
`, dir, host, port, me.Username, group.Name, me.Uid, me.Gid, mailPassword), 0o600)
	if err != nil {
		return m, err
	}
	for _, args := range [][]string{
		{"/usr/sbin/dovecot", "-F", "-c", config},
		{"/usr/bin/python3", "-m", "aiosmtpd", "--nosetuid", "--class", "aiosmtpd.handlers.Mailbox", "--size", "100000000", "--listen", m.SMTP, m.kept(mailbox)},
	} {
		cmd := s.Command(args[0], args[1:]...)
		cmd.Stdout, cmd.Stderr = log, log
		if err := s.Start(cmd); err != nil {
			return m, err
		}
		m.cmds = append(m.cmds, cmd)
	}
	for _, address := range []string{m.IMAP, m.SMTP} {
		if err := answers(address); err != nil {
			return m, err
		}
	}
	return m, nil
}

// kept is the directory with a user's mail, in the form of Maildir.
func (m *MailServer) kept(user string) string { return filepath.Join(m.dir, user, "Maildir") }

// Attached waits for a message in a user's mailbox, and returns the names and the
// contents of what is attached to it.
func (m *MailServer) Attached(user string) (map[string][]byte, error) {
	var files []string
	err := session.Await(startLimit, func() (bool, error) {
		files = nil
		for _, dir := range []string{"new", "cur"} {
			all, err := filepath.Glob(filepath.Join(m.kept(user), dir, "*"))
			if err != nil {
				return false, err
			}
			files = append(files, all...)
		}
		return len(files) > 0, nil
	})
	if err != nil {
		return nil, fmt.Errorf("no message came for %s: %w", user, err)
	}
	if len(files) > 1 {
		return nil, fmt.Errorf("%d messages came for %s", len(files), user)
	}
	b, err := os.ReadFile(files[0])
	if err != nil {
		return nil, err
	}
	return attached(b)
}

// attached reads what is attached to a message.
func attached(message []byte) (map[string][]byte, error) {
	read, err := mail.ReadMessage(bytes.NewReader(message))
	if err != nil {
		return nil, err
	}
	kind, params, err := mime.ParseMediaType(read.Header.Get("Content-Type"))
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(kind, "multipart/") {
		return nil, fmt.Errorf("nothing is attached: it is %s", kind)
	}
	found := map[string][]byte{}
	parts := multipart.NewReader(read.Body, params["boundary"])
	for {
		part, err := parts.NextPart()
		if err == io.EOF {
			return found, nil
		}
		if err != nil {
			return found, err
		}
		name, err := fileName(part)
		if err != nil {
			return found, err
		}
		if name == "" {
			continue
		}
		if code := part.Header.Get("Content-Transfer-Encoding"); !strings.EqualFold(code, "base64") {
			return found, fmt.Errorf("%s is in %s", name, code)
		}
		if found[name], err = io.ReadAll(base64.NewDecoder(base64.StdEncoding, part)); err != nil {
			return found, fmt.Errorf("%s: %w", name, err)
		}
	}
}

// extended is a file's name in a header's parameter, with its character set (RFC
// 2231).
var extended = regexp.MustCompile(`filename\*=([\w-]+)'\w*'([^;\s]+)`)

// fileName is the name that a part of a message has as a file; "" if it has none.
// The library knows names in UTF-8 only, as parameters, but those in Latin 1 as
// words, too, which differ in the sign before a number.
func fileName(part *multipart.Part) (string, error) {
	name := part.FileName()
	if m := extended.FindStringSubmatch(part.Header.Get("Content-Disposition")); name == "" && m != nil {
		name = "=?" + m[1] + "?Q?" + strings.ReplaceAll(m[2], "%", "=") + "?="
	}
	return new(mime.WordDecoder).DecodeHeader(name)
}

// freeAddress is an address of this machine where nobody listens.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// answers waits until somebody listens at an address.
func answers(address string) error {
	err := session.Await(startLimit, func() (bool, error) {
		conn, err := net.Dial("tcp", address)
		if errors.Is(err, syscall.ECONNREFUSED) {
			return false, nil
		}
		if err == nil {
			conn.Close()
		}
		return true, err
	})
	if err != nil {
		return fmt.Errorf("nobody answers at %s: %w", address, err)
	}
	return nil
}

// Close ends the servers.
func (m *MailServer) Close() error {
	for _, cmd := range m.cmds {
		terminate(cmd, stopLimit)
	}
	return nil
}
