package apps

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"docportal/integration/session"
)

// ChatServer is an XMPP server (prosody) that keeps what its users attach.
type ChatServer struct {
	// Domain is what stands after the "@" in its users' addresses: an address of
	// this machine that no other server uses.
	Domain string
	// Authority is a file with the certificate that vouches for the server.
	Authority string
	dir       string
	cmd       *exec.Cmd
}

// chatPassword is every user's.
const chatPassword = "secret"

// chatPort is where clients look for a server that has no entry in DNS.
const chatPort = "5222"

// StartChatServer starts a server with these users. dir is a directory for its
// files. The caller closes it.
func StartChatServer(s *session.Session, log *os.File, dir string, users ...string) (*ChatServer, error) {
	var b [3]byte
	rand.Read(b[:])
	c := &ChatServer{Domain: net.IPv4(127, b[0], b[1], b[2]|2).String(), dir: dir, Authority: filepath.Join(dir, "authority.pem")}
	if conn, err := net.Dial("tcp", net.JoinHostPort(c.Domain, chatPort)); err == nil {
		conn.Close()
		return nil, errors.New("a server of this machine has port " + chatPort + " of all its addresses; the chat program looks for ours there")
	}
	if err := c.certify(); err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "prosody.cfg.lua")
	err := os.WriteFile(config, fmt.Appendf(nil, `
data_path = %[1]q
pidfile = %[2]q
daemonize = false
log = { { levels = { min = "info" }, to = "console" } }
modules_enabled = { "disco", "roster", "saslauth", "tls", "carbons", "pep", "smacks", "ping", "offline", "http_file_share" }
modules_disabled = { "s2s" }
authentication = "internal_plain"
interfaces = { %[3]q }
c2s_require_encryption = true
certificates = %[1]q
ssl = { certificate = %[4]q, key = %[5]q }
http_ports = { }
https_ports = { 5281 }
https_interfaces = { %[3]q }
https_ssl = ssl
VirtualHost %[3]q
	http_host = %[3]q
`, dir, filepath.Join(dir, "pid"), c.Domain, filepath.Join(dir, "server.pem"), filepath.Join(dir, "server.key")), 0o600)
	if err != nil {
		return nil, err
	}
	for _, user := range users {
		cmd := s.Command("prosodyctl", "--config", config, "register", user, c.Domain, chatPassword)
		cmd.Stdout, cmd.Stderr = log, log
		if err := s.Start(cmd); err != nil {
			return nil, err
		}
		if err := cmd.Wait(); err != nil {
			return nil, fmt.Errorf("prosodyctl register %s: %w", user, err)
		}
	}
	c.cmd = s.Command("prosody", "--config", config, "-F")
	c.cmd.Stdout, c.cmd.Stderr = log, log
	if err := s.Start(c.cmd); err != nil {
		return nil, err
	}
	if err := answers(net.JoinHostPort(c.Domain, chatPort)); err != nil {
		c.Close()
		return nil, fmt.Errorf("the chat server: %w", err)
	}
	return c, nil
}

// certify makes an authority, and a certificate for the server that it has
// signed.
func (c *ChatServer) certify() error {
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Tests"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	server := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: c.Domain},
		NotBefore: authority.NotBefore, NotAfter: authority.NotAfter,
		IPAddresses: []net.IP{net.ParseIP(c.Domain)}, DNSNames: []string{c.Domain},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	own, err := x509.CreateCertificate(rand.Reader, authority, authority, signer.Public(), signer)
	if err != nil {
		return err
	}
	signed, err := x509.CreateCertificate(rand.Reader, server, authority, key.Public(), signer)
	if err != nil {
		return err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	for name, block := range map[string]*pem.Block{
		c.Authority:                        {Type: "CERTIFICATE", Bytes: own},
		filepath.Join(c.dir, "server.pem"): {Type: "CERTIFICATE", Bytes: signed},
		filepath.Join(c.dir, "server.key"): {Type: "PRIVATE KEY", Bytes: secret},
	} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// Certificate is a file with the server's own certificate.
func (c *ChatServer) Certificate() string { return filepath.Join(c.dir, "server.pem") }

// Kept is the file with the messages for a user who is not there, which is not
// there if there are none.
func (c *ChatServer) Kept(user string) string { return c.file("offline", user+".list") }

// Told is the file that is there when a user's program has told everybody
// something about itself.
func (c *ChatServer) Told(user string) string { return c.file("pep", user+".dat") }

func (c *ChatServer) file(kind, name string) string {
	return filepath.Join(c.dir, strings.ReplaceAll(c.Domain, ".", "%2e"), kind, name)
}

// Close ends the server.
func (c *ChatServer) Close() error {
	terminate(c.cmd, stopLimit)
	return nil
}
