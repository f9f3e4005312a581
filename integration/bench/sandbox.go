package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"docportal/integration/bwrapargs"
	"docportal/integration/session"
	"docportal/integration/wire"
)

const app = "org.docportal.Bench"

// allowance is what sbx-run may add to its two parts.
const allowance = 60 * time.Millisecond

// mostOfSbxRun is what sbx-run may hold while an app runs, in KiB.
const mostOfSbxRun = 6 << 10

// startOfAnApp measures the time from exec to the program's first instruction.
// One sandbox runs all the while: its command lines are what the plain ones
// are made of, and its instance directory is what they bind.
func startOfAnApp() error {
	return in(session.Options{}, func(s *session.Session) error {
		records, err := os.MkdirTemp(s.Home, "records-")
		if err != nil {
			return err
		}
		dir, err := s.StandIn(bwrapargs.Config{Record: records})
		if err != nil {
			return err
		}
		running, err := s.StartApp(app, dir)
		if err != nil {
			return err
		}
		// An answer means that the start is over.
		if _, err := running.Do(wire.Request{Op: "getenv", Name: "HOME"}); err != nil {
			return err
		}
		appRecord, err := readRecord(filepath.Join(records, "app.json"))
		if err != nil {
			return err
		}
		proxyRecord, err := readRecord(filepath.Join(records, "proxy.json"))
		if err != nil {
			return err
		}
		profile, err := s.Profile(app, "probe")
		if err != nil {
			return err
		}
		probe := filepath.Join(s.Home, "program", "probe")

		plain := &column{name: "plain bwrap, same mounts"}
		proxy := &column{name: "wrapped proxy, to its ready byte"}
		ours := &column{name: "sbx-run"}
		flatpak := &column{name: "flatpak run"}
		flatpakApp, err := installedFlatpak(s)
		if err != nil {
			flatpak.note = err.Error()
		}
		for range rounds {
			d, err := startPlain(s, appRecord, probe)
			if err != nil {
				return fmt.Errorf("plain bwrap: %w", err)
			}
			plain.add(d)
			if d, err = startProxy(s, proxyRecord); err != nil {
				return fmt.Errorf("wrapped proxy: %w", err)
			}
			proxy.add(d)
			if d, err = toFirstInstruction(s, s.Command("sbx-run", profile)); err != nil {
				return fmt.Errorf("sbx-run: %w", err)
			}
			ours.add(d)
			if flatpakApp == "" {
				continue
			}
			cmd := s.Command("flatpak", "run", "--filesystem="+filepath.Dir(probe)+":ro", "--command="+probe, flatpakApp)
			if d, err = toFirstInstruction(s, cmd); err != nil {
				return fmt.Errorf("flatpak run: %w", err)
			}
			flatpak.add(d)
		}
		printTimes(fmt.Sprintf("Start of an app: exec to the program's first instruction, %d interleaved runs", rounds), plain, proxy, ours, flatpak)
		verdict(fmt.Sprintf("sbx-run ≤ plain bwrap + wrapped proxy + %s ms", ms(allowance)),
			ours.median() <= plain.median()+proxy.median()+allowance)
		time.Sleep(idle) // it is the waiting that is measured
		kib, err := held(s, "sbx-run")
		if err != nil {
			return err
		}
		fmt.Printf("\nMemory of sbx-run's two processes while an app runs, PSS\n")
		fmt.Printf(tableRow, "", "MiB", "", "")
		fmt.Printf(tableRow, "sbx-run", fmt.Sprintf("%.1f", float64(kib)/1024), "", "")
		verdict(fmt.Sprintf("sbx-run ≤ %d MiB", mostOfSbxRun>>10), kib <= mostOfSbxRun)
		return running.Close()
	})
}

func readRecord(path string) (bwrapargs.Record, error) {
	var r bwrapargs.Record
	b, err := os.ReadFile(path)
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(b, &r)
}

// toFirstInstruction runs a command that ends with the probe.
func toFirstInstruction(s *session.Session, cmd *exec.Cmd) (time.Duration, error) {
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	before := now()
	if err := s.Start(cmd); err != nil {
		return 0, err
	}
	stuck := time.AfterFunc(limit, func() { cmd.Process.Kill() })
	defer stuck.Stop()
	if err := cmd.Wait(); err != nil {
		return 0, fmt.Errorf("%w: %s", err, errs.String())
	}
	ns, err := strconv.ParseInt(strings.TrimSpace(out.String()), 10, 64)
	if err != nil {
		return 0, err
	}
	return time.Duration(ns) - before, nil
}

// replay prepares bubblewrap with the options of a record, without those that
// only make sense together with sbx-run, and with descriptors of our own. The
// caller closes them.
func replay(s *session.Session, r bwrapargs.Record, command ...string) (*exec.Cmd, error) {
	p := r.Plan
	for _, o := range []string{"--sync-fd", "--block-fd", "--userns-block-fd", "--info-fd", "--json-status-fd", "--seccomp", "--add-seccomp-fd", "--lock-file"} {
		p.Drop(o, "")
	}
	var files []*os.File
	for i, op := range p.Ops {
		if !op.HasFD() {
			continue
		}
		n, err := strconv.Atoi(op.Args[0])
		if err != nil {
			return nil, err
		}
		dest := op.Args[len(op.Args)-1]
		switch op.Name {
		case "--bind-fd", "--ro-bind-fd":
			p.Ops[i] = bwrapargs.Op{Name: strings.TrimSuffix(op.Name, "-fd"), Args: []string{r.FDs[n].Link, dest}}
		case "--file", "--bind-data", "--ro-bind-data":
			f, err := dataFile(r.FDs[n].Data)
			if err != nil {
				return nil, err
			}
			p.Ops[i].Args = []string{strconv.Itoa(3 + len(files)), dest}
			files = append(files, f)
		default:
			return nil, fmt.Errorf("no way to replay %s", op.Name)
		}
	}
	p.Command = command
	cmd := s.Command("bwrap", p.Argv()...)
	// As sbx-run does: nothing of the session but what the options say.
	cmd.Env = nil
	cmd.Env = append(cmd.Env, "PATH=/usr/bin:/bin")
	cmd.ExtraFiles = files
	return cmd, nil
}

func dataFile(data []byte) (*os.File, error) {
	f, err := os.CreateTemp("", "docportal-bench-")
	if err != nil {
		return nil, err
	}
	os.Remove(f.Name())
	if _, err := f.Write(data); err != nil {
		return nil, err
	}
	_, err = f.Seek(0, io.SeekStart)
	return f, err
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

func startPlain(s *session.Session, r bwrapargs.Record, probe string) (time.Duration, error) {
	r.Plan.Ops = append([]bwrapargs.Op(nil), r.Plan.Ops...)
	cmd, err := replay(s, r, probe)
	if err != nil {
		return 0, err
	}
	defer closeAll(cmd.ExtraFiles)
	return toFirstInstruction(s, cmd)
}

// startProxy starts the recorded proxy a second time, on sockets of its own.
func startProxy(s *session.Session, r bwrapargs.Record) (time.Duration, error) {
	r.Plan.Ops = append([]bwrapargs.Op(nil), r.Plan.Ops...)
	args, sockets, err := proxyArgs(r)
	if err != nil {
		return 0, err
	}
	argsFile, err := dataFile(args)
	if err != nil {
		return 0, err
	}
	ready, theirs, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer ready.Close()
	cmd, err := replay(s, r)
	if err != nil {
		return 0, err
	}
	n := 3 + len(cmd.ExtraFiles)
	cmd.Args = append(cmd.Args, "xdg-dbus-proxy", fmt.Sprintf("--fd=%d", n), fmt.Sprintf("--args=%d", n+1))
	cmd.ExtraFiles = append(cmd.ExtraFiles, theirs, argsFile)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	before := now()
	err = s.Start(cmd)
	closeAll(cmd.ExtraFiles)
	if err != nil {
		return 0, err
	}
	stuck := time.AfterFunc(limit, func() { cmd.Process.Kill() })
	defer stuck.Stop()
	var b [1]byte
	_, err = io.ReadFull(ready, b[:])
	d := now() - before
	// It ends when its descriptor is closed.
	ready.Close()
	werr := cmd.Wait()
	for _, path := range sockets {
		os.Remove(path)
	}
	if err != nil {
		return 0, fmt.Errorf("%w: %v: %s", err, werr, errs.String())
	}
	return d, nil
}

// proxyArgs takes the recorded proxy's arguments, from its command line and
// from its --args, and gives each socket another name in the same directory.
func proxyArgs(r bwrapargs.Record) (args []byte, sockets []string, err error) {
	var words []string
	for _, a := range r.Plan.Command[1:] {
		value, ok := strings.CutPrefix(a, "--args=")
		if !ok {
			words = append(words, a)
			continue
		}
		n, err := strconv.Atoi(value)
		if err != nil {
			return nil, nil, err
		}
		words = append(words, strings.Split(strings.TrimSuffix(string(r.FDs[n].Data), "\x00"), "\x00")...)
	}
	words = slices.DeleteFunc(words, func(w string) bool { return strings.HasPrefix(w, "--fd=") })
	for i := range words {
		// ADDRESS PATH: a path follows an address.
		if i > 0 && strings.HasPrefix(words[i], "/") && strings.Contains(words[i-1], ":") {
			words[i] += "-bench"
			sockets = append(sockets, words[i])
		}
	}
	if len(sockets) == 0 {
		return nil, nil, errors.New("the recorded proxy has no socket")
	}
	return []byte(strings.Join(words, "\x00") + "\x00"), sockets, nil
}

// installedFlatpak is an app that is installed for all users.
func installedFlatpak(s *session.Session) (string, error) {
	if _, err := exec.LookPath("flatpak"); err != nil {
		return "", errors.New("flatpak is not installed")
	}
	cmd := s.Command("flatpak", "list", "--system", "--app", "--columns=application")
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := s.Start(cmd); err != nil {
		return "", err
	}
	if err := cmd.Wait(); err != nil {
		return "", err
	}
	name, _, _ := strings.Cut(strings.TrimSpace(out.String()), "\n")
	if name == "" {
		return "", errors.New("flatpak has no app with a runtime")
	}
	return name, nil
}
