# docportal and sbx-run.
#
#   make            build bin/docportal and bin/sbx-run
#   make demo       set up this machine and show the main job, step by step
#   make check      set up this machine and run every test
#   make check-long the same, with each long test in full
#   make check-apps set up this machine and test with real applications, all of them
#   make check-packages  build the Debian packages and archives, and live with them
#   make check-cross     unit tests of other architectures in an emulator
#   make dist       source and program archives in dist, reproducible
#   make deb        Debian packages in dist
#   make bench      set up this machine and print the comparisons
#   make man        the manuals in bin/man, with scdoc
#   make install    DESTDIR= PREFIX=/usr/local; the manuals too if scdoc is there
#   make install-flatpak-stand-in
#                   a "flatpak" for systems without it, which starts the apps of
#                   sbx-run that portals have put into autostart; part of
#                   "make install" without DESTDIR on such a system
#
# demo, check and bench need Go, git and a network to the package registries;
# as root they make and use an ordinary user (scripts/test-user).
.POSIX:

DESTDIR =
PREFIX = /usr/local
BINDIR = $(PREFIX)/bin
DATADIR = $(PREFIX)/share
MANDIR = $(DATADIR)/man
# Where service managers look; set to nothing to leave their files out.
OPENRCDIR = $(PREFIX)/etc
SYSTEMDDIR = $(PREFIX)/lib/systemd
SCDOC = scdoc
GO = go
# The repository may belong to somebody else than who builds it, so the version
# is asked for here and not stamped by the go command.
GOFLAGS_BUILD = -trimpath -buildvcs=false

all: build

build:
	version=$$(scripts/version) && modfile=$$(scripts/modfile) && \
	CGO_ENABLED=0 $(GO) build $(GOFLAGS_BUILD) $$modfile \
		-ldflags "-s -w -X main.version=$$version" -o bin/ ./cmd/docportal ./cmd/sbx-run

# Built only where they are missing: "make && sudo make install" needs no Go in
# root's PATH.
bin/docportal bin/sbx-run:
	$(MAKE) build

man:
	mkdir -p bin/man
	for f in doc/*.scd; do \
		$(SCDOC) <"$$f" >"bin/man/$$(basename "$$f" .scd)" || exit 1; \
	done

install: bin/docportal bin/sbx-run
	mkdir -p "$(DESTDIR)$(BINDIR)" "$(DESTDIR)$(DATADIR)/dbus-1/services" \
		"$(DESTDIR)$(DATADIR)/sbx/profiles" "$(DESTDIR)$(DATADIR)/sbx/system" "$(DESTDIR)$(DATADIR)/doc/docportal" \
		"$(DESTDIR)$(DATADIR)/licenses/docportal"
	install -m 755 bin/docportal bin/sbx-run "$(DESTDIR)$(BINDIR)/"
	for f in dbus/*.service.in; do \
		to="$(DESTDIR)$(DATADIR)/dbus-1/services/$$(basename "$$f" .in)" && \
		sed 's|@bindir@|$(BINDIR)|g' "$$f" >"$$to" && chmod 644 "$$to" || exit 1; \
	done
	for f in profiles/*.profile; do \
		test ! -e "$$f" || install -m 644 "$$f" "$(DESTDIR)$(DATADIR)/sbx/profiles/" || exit 1; \
	done
	install -m 644 profiles/system/*.profile "$(DESTDIR)$(DATADIR)/sbx/system/"
	test -z "$(OPENRCDIR)" || scripts/install-services openrc "$(DESTDIR)$(OPENRCDIR)" "$(BINDIR)"
	test -z "$(SYSTEMDDIR)" || scripts/install-services systemd "$(DESTDIR)$(SYSTEMDDIR)" "$(BINDIR)"
	mkdir -p "$(DESTDIR)$(DATADIR)/bash-completion/completions" \
		"$(DESTDIR)$(DATADIR)/fish/vendor_completions.d" "$(DESTDIR)$(DATADIR)/zsh/site-functions"
	for p in docportal sbx-run; do \
		install -m 644 completions/$$p.bash "$(DESTDIR)$(DATADIR)/bash-completion/completions/$$p" && \
		install -m 644 completions/$$p.fish "$(DESTDIR)$(DATADIR)/fish/vendor_completions.d/" && \
		install -m 644 completions/_$$p "$(DESTDIR)$(DATADIR)/zsh/site-functions/" || exit 1; \
	done
	! command -v $(SCDOC) >/dev/null || $(MAKE) install-man
	install -m 644 README.md CHANGELOG.md doc/*.md "$(DESTDIR)$(DATADIR)/doc/docportal/"
	install -m 644 LICENSE "$(DESTDIR)$(DATADIR)/licenses/docportal/"
	if test -z "$(DESTDIR)" && ! command -v flatpak >/dev/null 2>&1; then \
		$(MAKE) -s install-flatpak-stand-in; \
	fi

# Never over another program. It hands everything to a real flatpak that comes
# into PATH later, but a package of it must not own the same file.
install-flatpak-stand-in:
	test ! -e "$(DESTDIR)$(BINDIR)/flatpak" || test "$$(readlink "$(DESTDIR)$(BINDIR)/flatpak")" = sbx-run
	ln -sf sbx-run "$(DESTDIR)$(BINDIR)/flatpak"

install-man: man
	for f in bin/man/*.[15]; do \
		to="$(DESTDIR)$(MANDIR)/man$${f##*.}" && mkdir -p "$$to" && install -m 644 "$$f" "$$to/" || exit 1; \
	done

uninstall:
	rm -f "$(DESTDIR)$(OPENRCDIR)/init.d/sbx" "$(DESTDIR)$(OPENRCDIR)/user/init.d/docportal" \
		"$(DESTDIR)$(SYSTEMDDIR)/user/docportal.service" "$(DESTDIR)$(SYSTEMDDIR)/system/sbx@.service"
	for f in doc/*.scd; do \
		f=$$(basename "$$f" .scd) && rm -f "$(DESTDIR)$(MANDIR)/man$${f##*.}/$$f"; \
	done
	if test "$$(readlink "$(DESTDIR)$(BINDIR)/flatpak")" = sbx-run; then \
		rm -f "$(DESTDIR)$(BINDIR)/flatpak"; \
	fi
	rm -f "$(DESTDIR)$(BINDIR)/docportal" "$(DESTDIR)$(BINDIR)/sbx-run"
	for f in dbus/*.service.in; do \
		rm -f "$(DESTDIR)$(DATADIR)/dbus-1/services/$$(basename "$$f" .in)"; \
	done
	for f in profiles/*.profile; do \
		rm -f "$(DESTDIR)$(DATADIR)/sbx/profiles/$$(basename "$$f")"; \
	done
	for f in profiles/system/*.profile; do \
		rm -f "$(DESTDIR)$(DATADIR)/sbx/system/$$(basename "$$f")"; \
	done
	for p in docportal sbx-run; do \
		rm -f "$(DESTDIR)$(DATADIR)/bash-completion/completions/$$p" \
			"$(DESTDIR)$(DATADIR)/fish/vendor_completions.d/$$p.fish" \
			"$(DESTDIR)$(DATADIR)/zsh/site-functions/_$$p"; \
	done
	rm -rf "$(DESTDIR)$(DATADIR)/doc/docportal" "$(DESTDIR)$(DATADIR)/licenses/docportal"
	rmdir "$(DESTDIR)$(DATADIR)/sbx/profiles" "$(DESTDIR)$(DATADIR)/sbx/system" "$(DESTDIR)$(DATADIR)/sbx" 2>/dev/null || true

demo:
	scripts/setup run
	scripts/staged demo

check:
	scripts/setup test
	scripts/check

check-long:
	scripts/setup test
	scripts/setup apps
	scripts/check --long

check-apps:
	scripts/setup apps
	scripts/check-apps

check-packages:
	scripts/setup packages
	scripts/check-packages

check-cross:
	scripts/setup packages
	scripts/check-cross

dist:
	scripts/dist

deb:
	scripts/deb dist

bench:
	scripts/setup bench
	scripts/staged bench

fmt:
	gofmt -w cmd dbus integration internal

clean:
	rm -rf bin dist

.PHONY: all build install install-flatpak-stand-in uninstall demo check check-long check-apps check-packages check-cross dist deb bench fmt clean
