package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/godbus/dbus/v5"

	"docportal/integration/session"
)

const (
	documentsName = "org.freedesktop.portal.Documents"
	documentsPath = dbus.ObjectPath("/org/freedesktop/portal/documents")
	storeName     = "org.freedesktop.impl.portal.PermissionStore"
	storePath     = dbus.ObjectPath("/org/freedesktop/impl/portal/PermissionStore")
)

// idle is how long a daemon is left alone before its memory is looked at.
const idle = 2 * time.Second

// mostMemory is what docportal may hold when idle.
const mostMemory = 10 << 10 // KiB

// limit bounds each wait for a daemon.
const limit = 10 * time.Second

// readiness measures exec to GetMountPoint answered, and idle memory, of
// docportal and of the system's document portal. The latter keeps permissions
// in another daemon, which the bus starts when it is asked for.
func readiness() error {
	theirProgram, err := serviceProgram(documentsName)
	if err != nil {
		return fmt.Errorf("the system's document portal: %w", err)
	}
	return in(session.Options{}, func(a *session.Session) error {
		return in(session.Options{SystemPortal: true}, func(b *session.Session) error {
			ours := &column{name: "docportal"}
			theirs := &column{name: "xdg-document-portal"}
			warm := &column{name: "the same, its permission store running"}
			for range rounds {
				if err := ready(a, ours, filepath.Join(a.Stage(), "bin", "docportal"), false); err != nil {
					return fmt.Errorf("%s: %w", ours.name, err)
				}
				if err := ready(b, theirs, theirProgram, false); err != nil {
					return fmt.Errorf("%s: %w", theirs.name, err)
				}
				if err := ready(b, warm, theirProgram, true); err != nil {
					return fmt.Errorf("%s: %w", warm.name, err)
				}
			}
			printTimes(fmt.Sprintf("Readiness: exec to GetMountPoint answered, %d interleaved runs", rounds), ours, theirs, warm)
			verdict("docportal ≤ xdg-document-portal", ours.median() <= theirs.median())
			return memory(a, b)
		})
	})
}

// serviceProgram is the program of a service of the system's.
func serviceProgram(name string) (string, error) {
	f, err := os.Open("/usr/share/dbus-1/services/" + name + ".service")
	if err != nil {
		return "", err
	}
	defer f.Close()
	for in := bufio.NewScanner(f); in.Scan(); {
		if program, ok := strings.CutPrefix(in.Text(), "Exec="); ok {
			return program, nil
		}
	}
	return "", errors.New("its service file has no Exec")
}

// ready starts a document portal, waits until it has told its mount point, and
// ends it, and with it the permission store.
func ready(s *session.Session, c *column, program string, storeRuns bool) error {
	conn, err := s.Connect()
	if err != nil {
		return err
	}
	defer conn.Close()
	if storeRuns {
		if err := answered(conn.Object(storeName, storePath), storeName+".List", "devices"); err != nil {
			return err
		}
	}
	if err := conn.AddMatchSignal(
		dbus.WithMatchSender("org.freedesktop.DBus"),
		dbus.WithMatchMember("NameOwnerChanged"),
		dbus.WithMatchArg(0, documentsName),
	); err != nil {
		return err
	}
	signals := make(chan *dbus.Signal, 8)
	conn.Signal(signals)

	cmd := s.Command(program)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	before := now()
	if err := s.Start(cmd); err != nil {
		return err
	}
	stuck := time.AfterFunc(limit, func() { cmd.Process.Kill() })
	defer stuck.Stop()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-signals:
	case err := <-ended:
		return fmt.Errorf("it ended: %v: %s", err, errs.String())
	}
	err = answered(conn.Object(documentsName, documentsPath), documentsName+".GetMountPoint")
	c.add(now() - before)
	if err != nil {
		return err
	}
	cmd.Process.Signal(syscall.SIGTERM)
	<-ended
	return end(s, storeName)
}

func answered(o dbus.BusObject, method string, args ...any) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return o.CallWithContext(ctx, method, 0, args...).Err
}

// end ends the process that owns a name, if there is one.
func end(s *session.Session, name string) error {
	pid, err := s.Owner(name)
	if err != nil || pid == 0 {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		return err
	}
	return session.Await(limit, func() (bool, error) {
		owner, err := s.Owner(name)
		return owner != pid, err
	})
}

// memory prints what the daemons hold when nobody asks them anything.
func memory(a, b *session.Session) error {
	for _, s := range []*session.Session{a, b} {
		conn, err := s.Connect()
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := answered(conn.Object(documentsName, documentsPath), documentsName+".GetMountPoint"); err != nil {
			return err
		}
	}
	time.Sleep(idle) // it is the idling that is measured
	ours, err := held(a, "docportal", "docportal-server")
	if err != nil {
		return err
	}
	theirs, err := held(b, "xdg-document-portal")
	if err != nil {
		return err
	}
	store, err := held(b, "xdg-permission-store")
	if err != nil {
		return err
	}
	fmt.Printf("\nIdle memory, PSS, %v after GetMountPoint\n", idle)
	fmt.Printf(tableRow, "", "MiB", "", "")
	keeper, err := held(a, "docportal")
	if err != nil {
		return err
	}
	for _, row := range []struct {
		name string
		kib  int
	}{{"docportal", ours}, {"of that, the process that stays", keeper}, {"xdg-document-portal", theirs}, {"xdg-permission-store", store}, {"both", theirs + store}} {
		fmt.Printf(tableRow, row.name, fmt.Sprintf("%.1f", float64(row.kib)/1024), "", "")
	}
	verdict(fmt.Sprintf("docportal ≤ %d MiB", mostMemory>>10), ours <= mostMemory)
	verdict("the process that stays ≤ 2.5 MB", keeper*1024 <= 2500000)
	return nil
}

// held is the PSS, in KiB, of all processes of a session with those programs.
func held(s *session.Session, programs ...string) (kib int, err error) {
	processes, err := s.Processes()
	if err != nil {
		return 0, err
	}
	found := false
	for _, p := range processes {
		name, _, _ := strings.Cut(p.Command, " ")
		if !slices.Contains(programs, filepath.Base(name)) {
			continue
		}
		found = true
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p.PID))
		if err != nil {
			return 0, err
		}
		for line := range strings.Lines(string(b)) {
			if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "Pss:" {
				n, err := strconv.Atoi(fields[1])
				if err != nil {
					return 0, err
				}
				kib += n
			}
		}
	}
	if !found {
		return 0, fmt.Errorf("no %s runs", programs[0])
	}
	return kib, nil
}
