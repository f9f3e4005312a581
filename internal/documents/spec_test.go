package documents

import (
	"fmt"
	"os"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"docportal/internal/testsession"
)

// TestEveryLineOfTheSpecificationHasATest says which tests show which line of
// the document portal's and of the identification's rules. A name with a
// directory before it is in another package.
func TestEveryLineOfTheSpecificationHasATest(t *testing.T) {
	testsession.EveryLineHasATest(t, os.Getenv(testsession.SourceVariable), map[string]string{
		// Documents, its methods.
		"GetMountPoint: bytes with a NUL, for all":                   "EveryMethodThroughARealProxy MountPointIsBytesWithNUL",
		"GetMountPoint: when the mount answers, fast if it cannot":   "MountFails OneMount",
		"Add, AddFull, AddNamed, AddNamedFull: arguments and who":    "EveryMethodThroughARealProxy Arguments HostOnly",
		"AddNamed: the file need not exist, names, not on the mount": "AddNamed",
		"AddFull: flags, results, mountpoint":                        "EveryMethodThroughARealProxy Arguments",
		"Grant: what the caller needs; permissions are OR-ed in":     "EveryMethodThroughARealProxy Permissions",
		"Revoke: or the target is the caller itself":                 "EveryMethodThroughARealProxy Permissions",
		"Delete: needs delete":                                       "EveryMethodThroughARealProxy Permissions",
		"Lookup: host only, on the mount too, NotFound":              "EveryMethodThroughARealProxy LookupInfoList OnMount",
		"Info: unknown is InvalidArgument":                           "EveryMethodThroughARealProxy UnknownDocument LookupInfoList",
		"List: of all, of an app":                                    "EveryMethodThroughARealProxy LookupInfoList ManyDocuments",
		"GetHostPaths: others are left out":                          "EveryMethodThroughARealProxy GetHostPaths UnknownDocument",
		"version, introspection":                                     "EveryMethodThroughARealProxy Versions Interfaces ../../dbus:TheXMLSaysWhatTheSpecificationSays",
		"paths are bytes, unknown words and flag bits, error names":  "Arguments UnknownDocument",
		// Adding files.
		"1: F_GETFL, fstat, O_PATH, O_NOFOLLOW, modes":             "Descriptors",
		"2: the path is opened again and is the same file":         "AnotherAtThatPath MovedBind AnotherLinkOfTheFileIsNoWayToItsDirectory AHomeWithLinksInItsName",
		"2: (deleted) is judged by identity":                       "DeletedNames",
		"2: what was verified is what is stored":                   "NoDocumentNamesAFileThatTheCallerCouldNotHaveOpened RecordComesBack",
		"3: access through the descriptor":                         "ReadOnlyBind Descriptors",
		"4: one and the same error; write on what is not writable": "Descriptors AllOrNothing ReadOnlyBind",
		"5: on the mount: reuse only, live, the same id":           "OnMount BorrowedDescriptor",
		"5: a file inside a directory document":                    "InsideDirectoryDocument",
		"5: what a target gets":                                    "OnMount",
		"6: never the portal":                                      "NeverThePortal MountReachedOtherwise",
		"7: bad indexes, unreferenced descriptors":                 "BadIndex ../bus:DescriptorsOfAMessage ../bus:DescriptorsAreNeverTakenForAnotherMessages",
		"8: all or nothing; nothing of nothing":                    "AllOrNothing AddFullOfNothing",
		"9: no link is followed at the last name, each time":       "NoDocumentNamesAFileThatTheCallerCouldNotHaveOpened TransferChanges",
		"reuse keeps permissions; unique is always new":            "Reuse ManyUniqueDocumentsOfOneFile",
		"what caller and target get":                               "Grants EveryMethodThroughARealProxy",
		"as-needed: running sandboxes":                             "AsNeeded AsNeededFromRunningSandboxesBeforeTheirMetadata",
		"as-needed: profiles":                                      "AsNeededFromProfiles",
		"as-needed: flatpak's metadata and overrides":              "AsNeededFromFlatpakMetadataAndOverrides AsNeededFromTheUsersInstallationBeforeTheSystems",
		"as-needed: snap":                                          "AsNeededFromSnap",
		"as-needed: no lock, within a second":                      "AsNeededHoldsNoLock AsNeededIsNeverSlowerThanASecond",
		"ids: 128 random bits, file names":                         "IDsAreFileNamesAndNeverTheSame",
		"persistent: on disk before the reply":                     "Transient ../../cmd/docportal:Kill",
		"transient: gone with the daemon":                          "Transient ATransientDocumentComesBack",
		// File transfer.
		"StartTransfer: options, keys":                                 "TransferArguments TransferKeysDoNotFillABuffer EveryMethodThroughARealProxy",
		"AddFiles: the starter only; kinds; writable; all or nothing":  "TransferArguments EveryMethodThroughARealProxy",
		"RetrieveFiles: host paths for the host":                       "TransferToHost EveryMethodThroughARealProxy",
		"RetrieveFiles: documents under the sender's authority":        "TransferToApp TransferOfDocuments",
		"RetrieveFiles: an atomic save is fine, a planted link is not": "TransferChanges",
		"StopTransfer, TransferClosed, the starter's end":              "TransferEnd EveryMethodThroughARealProxy",
		"names that are not UTF-8 are left out":                        "TransferChanges",
		// Limits.
		"100 000 live documents":                                "Limit TheLimitIsAHundredThousand LimitOfBytes AGiftTakesNoRoomThatIsNeeded",
		"64 calls in flight":                                    "../bus:CallsInFlight ../bus:ABurstBeforeIdentificationIsBoundedByWhoItTurnsOutToBe",
		"256 transfers, 8192 files":                             "TransferLimits",
		"no message stops the daemon, leaks or goes unanswered": "../bus:EveryCallIsAnswered ../bus:LargeBodiesAreRefusedAndNotKept ../bus:BytesAndDescriptorsInFlight ../bus:APeerThatLeaves ../bus:WhoReadsNothingHoldsNobodyUp ../bus:LargeAnswersAreMadeOneAtATime ../bus:WhatIsSmallInAMessageStaysSo",
		// Who is calling.
		"1: credentials; only our own uid":               "../identity:AnotherUserIsRefused ../identity:ABusThatDoesNotAnswerIsARefusal ../bus:Credentials",
		"2: pidfd, or start time before and after":       "../identity:AProcessThatDiesWhileItIsReadIsRefused ../identity:ANameThatChangesHandsWhileItIsReadIsRefused ../identity:AProcessThatDiesIsRefused ../identity:TheStartTimeIsFoundWhateverTheCommandIsCalled ../identity:APidfdThatIsNoneIsRefused",
		"3: .flatpak-info, in every form that is none":   "../identity:MetadataInARealSandbox ../identity:AFIFOWithGoodMetadataInItIsRefused ../identity:TheRuntimeGroupGoesFirst ../identity:NetworkIsAWordOfShared",
		"3: a FUSE root; every other failure refuses":    "../identity:AFuseRootThatHidesIsNoKindOfItsOwn ../identity:ARootThatNeverAnswersHoldsNobodyUp ../identity:WhatCannotBeReadOfAProcessIsARefusal",
		"3: a refusal is AccessDenied, at once":          "../bus:WhoIsNotIdentifiedGetsNothingButPing",
		"4: snap and linyaps":                            "../identity:Snaps ../identity:MetadataInARealSandbox",
		"5: the host, only from our own user namespace":  "../identity:AnOrdinaryProcessIsTheHost ../identity:MetadataInARealSandbox",
		"cached per unique name, dropped when it leaves": "../bus:ACallerIsIdentifiedOnceWhileItStays ../bus:APeerThatLeavesBeforeItIsIdentified",
		"the grammar of ids":                             "../appid:Valid",
		"from the sandbox's paths to the host's":         "../identity:APathOfTheSandboxIsOneOnTheHost MovedBind ../identity:RecordedMountsAreBelievedOnlyIfEverythingFits",
	})
}

// TestIDsAreFileNamesAndNeverTheSame: 128 bits in [0-9a-f].
func TestIDsAreFileNamesAndNeverTheSame(t *testing.T) {
	form := regexp.MustCompile(`^[0-9a-f]{32}$`)
	seen := make(map[string]bool)
	for range 10000 {
		id := newID()
		if !form.MatchString(id) || !validID(id) || seen[id] {
			t.Fatal(id)
		}
		seen[id] = true
	}
}

// TestTheLimitIsAHundredThousand: at its real number, for an app in a sandbox.
func TestTheLimitIsAHundredThousand(t *testing.T) {
	s := newSession(t, unmounted(newFakeView()))
	a := s.sandboxed(appA)
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	s.docs.mu.Lock()
	for n := range 99999 {
		rec := record{path: fmt.Sprint("/srv/directory/file ", n), handle: "0123456789ab", flags: flagTransient}
		s.docs.putTransient(newDocument(newID(), rec, granted(nil, []permission{{appA, permRead | permGrant}})))
	}
	s.docs.mu.Unlock()
	// It is the memory of all others, too.
	if each := (heap() - before) / 99999; each > 600 {
		t.Errorf("%d bytes for each document", each)
	}
	f := open{Path: s.file("f", "")}
	s.addFull(a, 0, "", nil, f)
	r := a.do(request{Method: qualified("AddFull"), Files: []open{f}, Args: []any{fdList{0}, uint32(0), "", []string{}}})
	if r.Error != failed || !strings.Contains(r.Text, "100000") {
		t.Error(r)
	}
}
