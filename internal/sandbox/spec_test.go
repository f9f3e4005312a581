package sandbox

import (
	"testing"

	"docportal/internal/testsession"
)

// TestEveryLineOfTheSpecificationHasATest says which tests show which line of
// the sandbox's rules. NAME.txt are scripts; most of them are those of the
// command.
func TestEveryLineOfTheSpecificationHasATest(t *testing.T) {
	const cmd, whole, daemons = "../../cmd/sbx-run:", "../../integration:", "../../integration/system:"
	testsession.EveryLineHasATest(t, ".", map[string]string{
		// What a start does.
		"1: a wrong profile ends here, with file, line and reason": "ProfileErrorsNameFileLineKeyAndNearWord ProfileIsFoundByIDShortNameOrPath " + cmd + "errors.txt",
		"2: the directory: whole, locked, never reused":            "InstanceIsBelievedByDocportal InstanceIDIsNeverTakenTwice InstanceParentMayNotBeALink",
		"2: info, pid, bwrapinfo.json as portals read them":        whole + "WhatNewerPortalsRead " + cmd + "visible.txt",
		"2: binds": "BindsForDocportal BindsTellWhatIsCovered " + whole + "TheRecordedBindsSayWhatTheAppSees",
		"2: only ours are collected, and only dead ones":                          "CollectionTakesOnlyOurDeadInstances CollectionEndsNobodyButBwrap " + whole + "FlatpaksAndOursLeaveEachOtherAlone",
		"2: the app sees its own directory, read-only, and no other":              cmd + "visible.txt " + cmd + "reserved.txt " + whole + "AnAppCannotPretendToBeAnother",
		"2: docportal believes it only if everything fits":                        "../identity:RecordedMountsAreBelievedOnlyIfEverythingFits ../identity:AnInstanceOfARealSandbox ../documents:AsNeededFromRunningSandboxesBeforeTheirMetadata",
		"3: the document portal: 2 s, both places, none is a warning":             "DocumentsAreAskedForTwoSecondsAtMost " + cmd + "lifecycle.txt " + whole + "AChosenFileReachesTheApp",
		"4: one proxy with the same metadata; its ready byte":                     "MetadataIsMountedTwiceInBothSandboxes ProxySocketMustBeServedByTheProxy " + cmd + "broken.txt",
		"4: the proxy ends with the app":                                          whole + "AKilledSbxRunLeavesNothing " + cmd + "lifecycle.txt",
		"4: its rules; no wildcard for portals, Flatpak never":                    "ProxyRules " + cmd + "bus.txt " + cmd + "dryrun.txt",
		"4: the system bus only for who names something on it":                    "ProxyRules " + cmd + "options.txt " + cmd + "visible.txt",
		"4: the accessibility bus":                                                "AccessibilityBusIsAskedFor " + cmd + "accessible.txt",
		"5: the identity is read back, else nothing starts":                       "ProxySocketMustBeServedByTheProxy PlanRefusesIDsThatWouldBeTheHost " + cmd + "broken.txt " + whole + "SbxRunStartsNothingWithoutItsIdentity " + whole + "TheAppIsNeverTheHost",
		"6: arguments by descriptor, no environment, -- before the command":       "Arguments Environment " + cmd + "visible.txt",
		"6: blocked until all is read back":                                       "ChildPIDInBwrapsReport ExchangedDirectoryIsNoticed " + cmd + "broken.txt",
		"7: signals and the exit status":                                          cmd + "lifecycle.txt " + cmd + "signals.txt " + cmd + "terminal.txt",
		"7: nothing stays behind, after kill -9 either":                           whole + "SbxRunKilledAtAnyMomentOfTheStartLeavesNothing " + whole + "AKilledSbxRunLeavesNothing " + daemons + "Killed",
		"/.flatpak-info: what is in it, and what is not":                          "Metadata " + whole + "WhatNewerPortalsRead",
		"/.flatpak-info twice in both":                                            "MetadataIsMountedTwiceInBothSandboxes",
		"flatpak-info in the runtime directory, container-manager, the variables": "Environment " + cmd + "visible.txt",
		// The sandbox.
		"/usr and /etc read-only, /bin, /sbin and /lib as on the host": "WhatIsTheSameForEveryApp " + cmd + "visible.txt",
		"own /proc, /dev, /tmp, /run; of /sys and /var only parts":     "WhatIsTheSameForEveryApp " + cmd + "visible.txt",
		"fontconfig's cache; where resolv.conf leads to":               "WhatIsTheSameForEveryApp ResolverTargets",
		"HOME at its path, empty; XDG directories":                     "Environment PersistentPathsAreKeptInTheAppsOwnDirectory " + cmd + "visible.txt",
		"bound directories are opened without links, never onto one":   "NothingIsOpenedThroughALink LinksOfOthersThanRoot PlantedLinksInTheAppsOwnDirectoryAreRefused WhatTheAppCouldMakeIsMadeAndPinnedFirst " + cmd + "planted.txt",
		"without --bind-fd: compared before the release":               "ExchangedDirectoryIsNoticed " + cmd + "broken.txt",
		"abstract sockets":                                                  "AbstractBusIsRefusedWhereItCannotBeKeptOut Scopes " + cmd + "abstract.txt " + cmd + "x11.txt " + cmd + "sockets.txt",
		"never inside: an error with file and line":                         "ReservedPathsAreErrorsWithFileAndLine LinksToReservedPathsAreErrors ReservedPathUnderAnotherNameIsRefused ../reserved:WhatIsReserved ../reserved:ReservedElsewhere " + cmd + "reserved.txt",
		"never inside: masked in a wider bind":                              "WiderGrantsHaveReservedPathsMasked ReservedPathBehindALinkIsMaskedWhereItIs ReadOnlyGrantsHoldInsideWritableOnes GrantsInTheRuntimeDirectory " + cmd + "reserved.txt",
		"namespaces; --disable-userns":                                      "Arguments " + cmd + "options.txt " + whole + "DeniedSystemCallsFail",
		"seccomp: each call, each architecture":                             "FilterOnEachArchitecture NumbersAreThoseOfSysUnix UnknownCallsAreAllowed NoFilterForOtherArchitectures " + whole + "DeniedSystemCallsFail",
		"seccomp: other architectures and ABIs, multiarch":                  "ForeignArchitecturesAndABIsGetENOSYS MultiarchFiltersTheSecondArchitectureByItsOwnNumbers " + whole + "TheSecondArchitectureIsFilteredToo",
		"Wayland by a security context; if that fails, none":                "../wayland:ClientsOfTheSocketAreTheApp ../wayland:ACompositorWithoutSecurityContexts ../wayland:ACompositorThatFails ../wayland:IdentitiesThatCannotBeSaid " + cmd + "wayland.txt",
		"X11 with its own cookie; it isolates nothing, and that is said":    "OnlyTheDisplaysOwnCookies CookieFilesThatAreNone " + cmd + "x11.txt " + cmd + "list.txt " + cmd + "dryrun.txt",
		"fallback-x11 is nothing where Wayland is; shipped profiles use it": "SocketsAreGrantedByName ShippedProfiles " + cmd + "wayland.txt",
		"PulseAudio, PipeWire, cups, ssh-agent, gpg-agent, pcsc by name":    "SocketsAreGrantedByName " + cmd + "sockets.txt",
		"the camera by the portal only":                                     whole + "PortalsKnowTheApp " + whole + "TheGTKBackendAsksThePerson " + cmd + "devices.txt",
		"devices":                                                           "Grants " + cmd + "devices.txt",
		// Profiles.
		"three directories, later ones add to or replace": "LaterLayersAddAndReplace ProfileIsRead ProfileDirsOfOthersAreNotSystemDirs",
		"the same words on the command line":              "WordsOnTheCommandLineAreChecked NearestWordIsSuggested " + cmd + "options.txt",
		"--dry-run, --log-dbus, --shell, --list":          "WhatTheProxyRefused TheLogIsNotBelieved " + cmd + "dryrun.txt " + cmd + "logdbus.txt " + cmd + "shell.txt " + cmd + "list.txt",
		"@@ and @@u; a missing file is an error":          "FilesBetweenMarksBecomeDocuments FilesThatCannotBeHandedOverEndTheStart " + whole + "FilesNamedOnTheCommandLineReachTheApp " + whole + "AFileThatIsMissingEndsTheStart",
		"--install and --uninstall":                       "../desktop:AnEntryOfAnotherName ../desktop:ActivationAndAutostart ../desktop:UninstallLeavesNothing ../desktop:ThePersonsOwnFiles " + cmd + "install.txt " + whole + "AnInstalledAppOpensFiles",
		"no shipped profile names a shared directory":     "ShippedProfiles",
		"the shim for flatpak":                            cmd + "flatpak.txt " + whole + "AutostartAndLaunchersStartTheApp ../desktop:AFlatpakOfTheSameIdStays",
		"--system":                                        daemons + "ModemManager " + daemons + "Dnsmasq " + daemons + "Avahi " + daemons + "Refused " + daemons + "Profiles",
		// Traps.
		"an id without a dot is the host":                       "PlanRefusesIDsThatWouldBeTheHost " + whole + "SbxRunRefusesAnIDThatPortalsTakeForTheHost",
		"bwrapinfo.json missing; a proxy that sleeps":           cmd + "broken.txt",
		"the proxy is dumpable and the same user's":             whole + "TheAppIsNeverTheHost " + whole + "PortalsKnowTheApp",
		"APPID.desktop exists on the host":                      cmd + "install.txt " + whole + "AutostartAndLaunchersStartTheApp",
		"XDG_RUNTIME_DIR anywhere; the bus abstract or in /tmp": "BusAddressOfAnyForm " + cmd + "busaddress.txt",
		"old programs: warn once":                               "VersionsAreCompared OldProgramsAreToldOfOnceASession",
	})
}
