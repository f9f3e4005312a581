package apps

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"docportal/integration/session"
)

// FirefoxID is Firefox's app id.
const FirefoxID = "org.mozilla.firefox"

// profileName is the name of the browser profile that the tests use.
const profileName = "person"

// prefs are what a browser in a closed room needs: no connections of its own,
// no questions at the start, buttons that can be pressed at once. Nothing of
// them is about files or sandboxes.
const prefs = `
user_pref("marionette.port", 0);
user_pref("app.normandy.enabled", false);
user_pref("app.update.auto", false);
user_pref("app.update.disabledForTesting", true);
user_pref("browser.aboutwelcome.enabled", false);
user_pref("browser.contentblocking.introCount", 99);
user_pref("browser.discovery.enabled", false);
user_pref("browser.newtabpage.enabled", false);
user_pref("browser.newtabpage.activity-stream.feeds.section.topstories", false);
user_pref("browser.newtabpage.activity-stream.feeds.topsites", false);
user_pref("browser.region.network.url", "");
user_pref("browser.region.update.enabled", false);
user_pref("browser.safebrowsing.blockedURIs.enabled", false);
user_pref("browser.safebrowsing.downloads.enabled", false);
user_pref("browser.safebrowsing.malware.enabled", false);
user_pref("browser.safebrowsing.phishing.enabled", false);
user_pref("browser.safebrowsing.provider.google4.updateURL", "");
user_pref("browser.safebrowsing.provider.mozilla.updateURL", "");
user_pref("browser.search.update", false);
user_pref("browser.shell.checkDefaultBrowser", false);
user_pref("browser.startup.homepage", "about:blank");
user_pref("browser.startup.homepage_override.mstone", "ignore");
user_pref("browser.startup.page", 0);
user_pref("browser.tabs.warnOnClose", false);
user_pref("browser.topsites.contile.enabled", false);
user_pref("browser.uitour.enabled", false);
user_pref("browser.warnOnQuit", false);
user_pref("datareporting.healthreport.uploadEnabled", false);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("datareporting.policy.dataSubmissionPolicyBypassNotification", true);
user_pref("dom.push.connection.enabled", false);
user_pref("extensions.getAddons.cache.enabled", false);
user_pref("extensions.systemAddon.update.enabled", false);
user_pref("extensions.update.enabled", false);
user_pref("geo.provider.network.url", "");
user_pref("media.gmp-manager.updateEnabled", false);
user_pref("network.captive-portal-service.enabled", false);
user_pref("network.connectivity-service.enabled", false);
user_pref("network.dns.disablePrefetch", true);
user_pref("network.prefetch-next", false);
user_pref("network.trr.mode", 5);
user_pref("services.settings.server", "data:,#remote-settings-dummy/v1");
user_pref("toolkit.telemetry.enabled", false);
user_pref("toolkit.telemetry.server", "");
user_pref("toolkit.telemetry.unified", false);
user_pref("browser.download.alwaysOpenPanel", false);
user_pref("security.dialog_enable_delay", 0);
`

// Firefox is a Firefox in its sandbox.
type Firefox struct {
	*Marionette
	cmd     *exec.Cmd // sbx-run
	ended   chan struct{}
	err     error
	profile string // directory of the browser profile
}

// PrepareFirefox installs Firefox's desktop entry and makes a browser profile in
// the home directory, as an earlier start would have left it, if that was not
// done yet.
func PrepareFirefox(s *session.Session, log *os.File) error {
	dir := filepath.Join(s.Home, ".mozilla/firefox", profileName)
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := Install(s, log, FirefoxID); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "user.js"), []byte(prefs), 0o600),
		os.WriteFile(filepath.Join(dir, "../profiles.ini"), []byte(`[Profile0]
Name=`+profileName+`
IsRelative=1
Path=`+profileName+`

[General]
StartWithLastProfile=1
Version=2
`), 0o600),
	)
}

// StartFirefox starts Firefox by its installed desktop entry, with the options
// of sbx-run that are given, and connects to it. The caller ends it.
func StartFirefox(s *session.Session, log *os.File, options ...string) (*Firefox, error) {
	f := &Firefox{profile: filepath.Join(s.Home, ".mozilla/firefox", profileName), ended: make(chan struct{})}
	port := filepath.Join(f.profile, "MarionetteActivePort")
	if err := os.Remove(port); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	args, err := commandLine(s, FirefoxID, options, []string{"-P", profileName, "--marionette", "--remote-allow-system-access"})
	if err != nil {
		return nil, err
	}
	f.cmd = s.Command(args[0], args[1:]...)
	f.cmd.Stdout, f.cmd.Stderr = log, log
	if err := s.Start(f.cmd); err != nil {
		return nil, err
	}
	go func() {
		f.err = f.cmd.Wait()
		close(f.ended)
	}()
	var address string
	err = session.Await(startLimit, func() (bool, error) {
		select {
		case <-f.ended:
			return false, fmt.Errorf("sbx-run ended: %v", f.err)
		default:
		}
		// The file is written when the port is open.
		b, err := os.ReadFile(port)
		if err != nil || len(b) == 0 {
			return false, nil
		}
		address = "127.0.0.1:" + strings.TrimSpace(string(b))
		return true, nil
	})
	if err != nil {
		f.Kill()
		return nil, fmt.Errorf("Firefox did not start: %w", err)
	}
	if f.Marionette, err = DialMarionette(address); err != nil {
		f.Kill()
		return nil, err
	}
	return f, nil
}

// Ask has Firefox ask where to save what is downloaded, or not, as its
// settings do.
func (f *Firefox) Ask(always bool) error {
	return f.ChromeScript(nil, `Services.prefs.setBoolPref("browser.download.useDownloadDir", !arguments[0])`, always)
}

// Save asks for the dialog that saves the page, as Ctrl+S does.
func (f *Firefox) Save() error {
	return f.ChromeScript(nil, `document.getElementById("Browser:SavePage").doCommand()`)
}

// Confirm says yes to a question that Firefox asks in the window.
func (f *Firefox) Confirm() error {
	var no *Error
	err := session.Await(startLimit, func() (bool, error) {
		err := f.Do("WebDriver:AcceptAlert", nil, nil)
		if errors.As(err, &no) && no.Code == "no such alert" {
			return false, nil
		}
		return err == nil, err
	})
	if err != nil {
		return fmt.Errorf("no question came: %w", err)
	}
	return nil
}

// Downloaded waits until Firefox has done with what it downloads: it knows of a
// file's end a moment after it is all there.
func (f *Firefox) Downloaded() error {
	return session.Await(startLimit, func() (done bool, err error) {
		err = f.ChromeScript(&done, `
			const { Downloads } = ChromeUtils.importESModule("resource://gre/modules/Downloads.sys.mjs");
			return Downloads.getList(Downloads.ALL).then(list => list.getAll()).then(all => all.every(d => d.stopped))`)
		return done, err
	})
}

// Quit has Firefox end by itself, when nothing is downloaded any more, about which
// it would ask, and returns what sbx-run ended with.
func (f *Firefox) Quit() error {
	err := f.Downloaded()
	err = errors.Join(err, f.Marionette.Quit())
	f.Marionette.Close()
	t := time.AfterFunc(startLimit, func() { f.cmd.Process.Signal(syscall.SIGKILL) })
	defer t.Stop()
	<-f.ended
	return errors.Join(err, f.err)
}

// Kill ends sbx-run, and with it Firefox, if it has not ended yet.
func (f *Firefox) Kill() {
	if f.Marionette != nil {
		f.Marionette.Close()
	}
	select {
	case <-f.ended:
		return
	default:
	}
	f.cmd.Process.Signal(syscall.SIGKILL)
	<-f.ended
}
