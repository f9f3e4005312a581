package doctor

import (
	"os"
	"os/exec"
	"strings"
)

// packages knows how this system installs things.
type packages struct{ install, upgrade string }

func findPackages() packages {
	root := "sudo "
	if os.Geteuid() == 0 {
		root = ""
	} else if there("/usr/bin/doas") {
		root = "doas "
	}
	switch {
	case there("/sbin/apk"), there("/usr/bin/apk"):
		return packages{root + "apk add ", root + "apk upgrade "}
	case there("/usr/bin/apt-get"):
		return packages{root + "apt install ", root + "apt install --only-upgrade "}
	}
	return packages{}
}

// add is the command that installs packages, "" if nobody knows.
func (p packages) add(names ...string) string {
	if p.install == "" {
		return ""
	}
	return p.install + strings.Join(names, " ")
}

func (p packages) renew(name string) string {
	if p.upgrade == "" {
		return ""
	}
	return p.upgrade + name
}

// asRoot is a command for root.
func asRoot(command string) string {
	switch {
	case os.Geteuid() == 0:
		return command
	case there("/usr/bin/doas"):
		return "doas " + command
	}
	return "sudo " + command
}

func there(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// program finds a program in PATH, "" if it is not there.
func program(name string) string {
	path, err := exec.LookPath(name)
	if err != nil {
		return ""
	}
	return path
}
