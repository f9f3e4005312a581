package sandbox

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// startDaemon makes the sandbox of a daemon, with the gate in front of the
// program closed: as for an app, but without a session, and as root, who gives
// the daemon what it needs and nothing else.
func (s *Starter) startDaemon(ctx context.Context, pl *Plan, made *cleanup) (*appPart, error) {
	ft, err := probe(ctx, s.Bwrap)
	if err != nil {
		return nil, err
	}
	abi := landlockABI()
	if err := checkAbstract(pl.Network, []BusAddress{pl.Host.SystemBus}, abi); err != nil {
		return nil, err
	}
	if pl.SystemBus {
		if err := pl.Host.SystemBus.reach(ctx); err != nil {
			return nil, fmt.Errorf("the system bus does not answer: %w", err)
		}
	}
	if err := os.MkdirAll(pl.Host.RuntimeDir, 0o755); err != nil {
		return nil, err
	}
	collect(pl.Host.instances())
	if err := pl.makeState(); err != nil {
		return nil, err
	}
	in, err := newInstance(pl.Host.instances(), pl.Instance, pl.Metadata)
	if err != nil {
		return nil, fmt.Errorf("instance directory: %w", err)
	}
	made.add(in.Remove)
	var proxy *proxyPart
	if pl.SystemBus {
		if err := os.Chown(filepath.Join(in.Dir, "proxy"), pl.as.uid, pl.as.gid); err != nil {
			return nil, err
		}
		if proxy, err = s.startProxy(pl, ft); err != nil {
			return nil, fmt.Errorf("xdg-dbus-proxy: %w", err)
		}
		made.add(proxy.stop)
		if err := proxy.ready(ctx, pl); err != nil {
			return nil, fmt.Errorf("xdg-dbus-proxy: %w", err)
		}
	}
	app, err := s.startApp(pl, ft, scopes(pl.Network, abi, s.Bwrap), proxy)
	if err != nil {
		return nil, err
	}
	made.add(app.kill)
	if err := app.identify(ctx, pl, in, proxy, ft); err != nil {
		return nil, err
	}
	if err := app.release(ctx, pl); err != nil {
		return nil, err
	}
	return app, nil
}
