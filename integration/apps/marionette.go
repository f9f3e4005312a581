package apps

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// Marionette is a client of the remote control that is built into Firefox
// (protocol 3: each message is its length in bytes, a colon, and an array as
// JSON). It is for one goroutine.
type Marionette struct {
	conn net.Conn
	in   *bufio.Reader
	id   int
}

// maxMessage bounds what is read of one message, in bytes.
const maxMessage = 64 << 20

// DialMarionette connects and starts a session. The caller closes it.
func DialMarionette(address string) (*Marionette, error) {
	conn, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		return nil, err
	}
	m := &Marionette{conn: conn, in: bufio.NewReader(conn)}
	conn.SetDeadline(time.Now().Add(startLimit))
	hello, err := m.read()
	if err == nil {
		var h struct {
			Protocol int `json:"marionetteProtocol"`
		}
		if err = json.Unmarshal(hello, &h); err == nil && h.Protocol != 3 {
			err = fmt.Errorf("protocol %d of Marionette, not 3", h.Protocol)
		}
	}
	if err == nil {
		err = m.Do("WebDriver:NewSession", map[string]any{"unhandledPromptBehavior": "ignore"}, nil)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return m, nil
}

// Close closes the connection; Firefox goes on.
func (m *Marionette) Close() error { return m.conn.Close() }

func (m *Marionette) read() ([]byte, error) {
	head, err := m.in.ReadString(':')
	if err != nil {
		return nil, err
	}
	n, err := strconv.Atoi(strings.TrimSuffix(head, ":"))
	if err != nil || n < 0 || n > maxMessage {
		return nil, fmt.Errorf("a message of %q bytes", head)
	}
	b := make([]byte, n)
	_, err = io.ReadFull(m.in, b)
	return b, err
}

// Error is what Firefox says of a command that failed.
type Error struct {
	Code    string `json:"error"`
	Message string `json:"message"`
}

// Error implements error.
func (e *Error) Error() string { return e.Code + ": " + e.Message }

// Do has Firefox do a command and stores its result in out, if that is not nil.
func (m *Marionette) Do(command string, params, out any) error {
	m.conn.SetDeadline(time.Now().Add(startLimit))
	m.id++
	if params == nil {
		params = map[string]any{}
	}
	b, err := json.Marshal([]any{0, m.id, command, params})
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(m.conn, "%d:%s", len(b), b); err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	b, err = m.read()
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	var answer []json.RawMessage
	if err := json.Unmarshal(b, &answer); err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	if len(answer) != 4 || string(answer[1]) != strconv.Itoa(m.id) {
		return fmt.Errorf("%s: this is not the answer: %.200s", command, b)
	}
	if string(answer[2]) != "null" {
		e := new(Error)
		return fmt.Errorf("%s: %w", command, errors.Join(json.Unmarshal(answer[2], e), e))
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(answer[3], out)
}

// Navigate loads a page and waits until it is there.
func (m *Marionette) Navigate(url string) error {
	return m.Do("WebDriver:Navigate", map[string]any{"url": url}, nil)
}

// Chrome says whether scripts are the browser's own from now on, or the page's.
func (m *Marionette) chrome(on bool) error {
	context := "content"
	if on {
		context = "chrome"
	}
	return m.Do("Marionette:SetContext", map[string]any{"value": context}, nil)
}

// Script runs a function's body in the page and stores what it returns in out.
func (m *Marionette) Script(out any, script string, args ...any) error {
	if args == nil {
		args = []any{}
	}
	var answer struct {
		Value json.RawMessage `json:"value"`
	}
	err := m.Do("WebDriver:ExecuteScript", map[string]any{"script": script, "args": args}, &answer)
	if err != nil || out == nil {
		return err
	}
	return json.Unmarshal(answer.Value, out)
}

// ChromeScript runs a function's body in the browser and stores what it returns
// in out.
func (m *Marionette) ChromeScript(out any, script string, args ...any) error {
	if err := m.chrome(true); err != nil {
		return err
	}
	err := m.Script(out, script, args...)
	return errors.Join(err, m.chrome(false))
}

// Click clicks on the first element that a CSS selector finds.
func (m *Marionette) Click(selector string) error {
	var found struct {
		Value map[string]string `json:"value"`
	}
	err := m.Do("WebDriver:FindElement", map[string]any{"using": "css selector", "value": selector}, &found)
	if err != nil {
		return err
	}
	for _, id := range found.Value {
		return m.Do("WebDriver:ElementClick", map[string]any{"id": id}, nil)
	}
	return fmt.Errorf("%s: no element", selector)
}

// Quit ends Firefox as its menu does.
func (m *Marionette) Quit() error {
	return m.Do("Marionette:Quit", map[string]any{"flags": []string{"eAttemptQuit"}}, nil)
}
