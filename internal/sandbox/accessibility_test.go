package sandbox

import (
	"context"
	"errors"
	"slices"
	"testing"
)

func TestAccessibilityBusIsAskedFor(t *testing.T) {
	h := testHost(t)
	for _, c := range []struct {
		rule               string
		accessible         bool
		network            bool
		abi                int
		asked, activated   bool
		answer, wantSocket string
		err                error
		fails              bool
	}{
		{rule: "a window", accessible: true, abi: 6, asked: true, activated: true, answer: "unix:path=/run/x/at-spi/bus_0,guid=00", wantSocket: "/run/x/at-spi/bus_0"},
		{rule: "no window", abi: 6},
		{rule: "no window, but a network that abstract sockets cannot be kept out of", network: true, abi: 5, asked: true, answer: "unix:abstract=/a11y"},
		{rule: "no window, and a network that they are kept out of", network: true, abi: 6},
		{rule: "none installed", accessible: true, asked: true, activated: true},
		{rule: "nonsense", accessible: true, asked: true, activated: true, answer: "nonsense", fails: true},
		{rule: "an error", accessible: true, asked: true, activated: true, err: errors.New("no"), fails: true},
	} {
		pl := mustPlan(t, h, "")
		pl.Accessible, pl.Network = c.accessible, c.network
		asked, activated := false, false
		s := &Starter{Accessibility: func(_ context.Context, activate bool) (string, error) {
			asked, activated = true, activate
			return c.answer, c.err
		}}
		a, err := s.accessibility(context.Background(), pl, c.abi)
		if asked != c.asked || activated != c.activated || (err != nil) != c.fails {
			t.Errorf("%s: asked %v, activated %v, %v", c.rule, asked, activated, err)
		}
		if c.wantSocket != "" && !slices.Equal(a.Sockets, []string{c.wantSocket}) {
			t.Errorf("%s: %+v", c.rule, a)
		}
		pl.setAccessibility(a)
		if got := pl.Env[accessibilityVariable]; (got != "") != (c.wantSocket != "") || pl.Accessible != (got != "") {
			t.Errorf("%s: %s=%q", c.rule, accessibilityVariable, got)
		}
	}
	// Nobody waits for one that hangs.
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	pl := mustPlan(t, h, "")
	pl.Accessible = true
	s := &Starter{Accessibility: func(ctx context.Context, _ bool) (string, error) { select {} }}
	if _, err := s.accessibility(ctx, pl, 6); err == nil {
		t.Error("a bus that hangs was waited for")
	}
}
