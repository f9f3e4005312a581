package fuse

import (
	"cmp"
	"os"
	"testing"

	"docportal/internal/testsession"
)

// TestEveryLineOfTheSpecificationHasATest says which tests show which line of
// the file view's rules, but those of the life of the mount. A name with a
// directory before it is in another package.
func TestEveryLineOfTheSpecificationHasATest(t *testing.T) {
	testsession.EveryLineHasATest(t, cmp.Or(os.Getenv(sourceVariable), "."), map[string]string{
		// The tree.
		"mounted by the user, fsname, subtype, nosuid, nodev; fusermount 2 will do": "MountIsADocumentPortals NoHelperIsAClearError",
		"modes of the views and of documents":                                       "TreeHasItsModes",
		"without write: no 0222 bits, EACCES on every change":                       "TreeHasItsModes ReadOnlyIsEACCESOnEveryChange",
		"by-app lists apps with a readable document or a live instance":             "TreeHasItsModes ../documents:ByAppListsWhoHasADocumentOrRuns",
		"by-app/APP has only what APP may read":                                     "TreeHasItsModes ../documents:FirstWholePath",
		"any well-formed app id can be looked up, a malformed one cannot":           "TreeHasItsModes",
		"looking up makes no lasting state":                                         "NothingIsKeptWithoutAUser FuzzRequests",
		// File documents.
		"the parent's identity is checked at every open":                "ReplacedParentIsENOENT ParentIsKnownByItsHandle",
		"replacing the file is fine":                                    "ReplacedFileIsTheDocument",
		"temp files: hidden beside the main file, in this view only":    "TempFiles RandomOperationsFollowTheTempFileRules",
		"temp files go with their last user":                            "TempFilesGoWithTheirLastUser TempFilesGoWithTheDocument TempFilesGoWithTheMount",
		"left-overs of a crash go at the next start":                    "TempFilesOfACrashGoAtTheNextStart JournalLinesOfOthersAreIgnored",
		"the hidden name fits NAME_MAX":                                 "TempFiles",
		"rename to, from and beside the main file, with each flag":      "TempFiles RenameFlagsInFileDocuments RandomOperationsFollowTheTempFileRules Programs",
		"links, devices and directories of that name are ENOENT":        "NamesThatAreNotRegularFilesAreENOENT",
		"no mkdir, symlink, link":                                       "TempFiles RandomOperationsFollowTheTempFileRules FileDocumentsHaveNoAttributesToSet",
		"CREATE with planted links, through every operation with names": "NamesThatAreNotRegularFilesAreENOENT Attackers FuzzRequests",
		// Directory documents.
		"everything that a local file system does": "POSIX TheRulesOfEachCall UnusualCallsAreAsOnTheHost WhatIsMadeIsAsItsDirectorySays RandomOperationsAreAsOnTheHost Programs AHostThatRemovesClones",
		"xattr user.*": "ExtendedAttributes TheRulesOfEachCall POSIX",
		"fallocate, holes, copy_file_range, O_TMPFILE":          "RandomOperationsAreAsOnTheHost TheRulesOfEachCall POSIX",
		"statfs, fsync of files and directories":                "CookiesAndSpaceAreThoseBelow Programs",
		"links are text, never followed":                        "LinksAreTextOnly Attackers",
		"renames and links between documents are EXDEV":         "TwoDocumentsAreTwoDevices ARenameOutOfADocumentIsEXDEV",
		"SQLite, git, tar, rsync, cp, dd, vim, GTK, lock files": "SQLite ATransactionIsWaitedFor ALongTransaction SQLiteKeepsWhatItAcknowledged ALogOutlivesTheServer PagesThatDoNotArriveLoseNothing ManyOpenALogAtOnce Programs AHostThatRemovesClones",
		// Rules that hold everywhere.
		"every open is beneath a verified directory":              "OldOpensLeadNowhereElse WithoutOpenat2 AttacksWithoutOpenat2 Attackers LinksOnTheWayToADocumentAreFollowed",
		". and .. never resolve":                                  "OldOpensLeadNowhereElse FuzzRequests",
		"nothing of the mount is in a document":                   "NothingOfTheMountIsInADocument ADocumentThatLeadsIntoTheView",
		"setuid, setgid and sticky bits":                          "DangerousBitsAreHiddenAndStripped FuzzRequests",
		"a permission change holds at once, caches and maps too":  "Revocation RevocationFromAProgramThatGoesOn TheNameOfARevokedDocumentIsGoneAtOnce ../documents:FirstWholePath",
		"a deleted document":                                      "Revocation RevocationFromAProgramThatGoesOn",
		"locks exclude: a sandbox, two, the host":                 "LocksExclude GetLockSaysWhoIsInTheWay WhoHasALockSeesWhatOthersWrote SQLite",
		"waits end on an interrupt":                               "WaitingForALockIsInterrupted",
		"waiters hold no thread, at most 1024 of an app":          "ACrowdOfWaitersIsNoHarm",
		"closing one descriptor releases a process's POSIX locks": "ClosingOneDescriptorReleasesAProcesssPOSIXLocks",
		"FLUSH reports what close reports":                        "ClosingSaysWhatTheFileSystemBelowSays",
		"each optional part of a request may be absent":           "FuzzRequests POSIX",
		"coherence both ways":                                     "TwoSidesTakeTurns MovedDirectoriesAreSeenAtOnce WhatIsNoDirectoryAnyMore ADirectoryThatIsMountedOnItself ReplacedDirectoriesAreSeenWithoutErrors ADirectoryInUseGoesOn ADirectoryThatIsOnlyReferredTo ARenameOfWhatTheHostHasExchanged ARemovalOfWhatTheHostHasExchanged HostAndSandboxSeeEachOther AnOpenFileIsAsTheHostLeavesIt ReadAndWriteBothWays AnEditWithTheOldMtimeIsSeen PagesAreKeptOnlyOfUnchangedFiles ReplaceStormIsSeenWithoutErrors MappedPagesAreNotAppended",
		"inode numbers are stable, collisions resolved":           "InodeNumbersAreStable ATreeRemovedOnTheHostIsMadeAgain TwoSidesTakeTurns CollidingInodeNumbersAreToldApart",
		"cookies are the backing file system's":                   "CookiesAndSpaceAreThoseBelow POSIX",
		"nothing is kept open without a user":                     "MediaCanBeTakenAway AFewDescriptorsAreEnough NothingLeaks NothingIsKeptWithoutAUser AppAndHostAtOnce DescriptorsAreGivenUpInTime TheOldestDescriptorIsGivenUp",
		"no app uses up the descriptors":                          "OneAppCannotUseUpTheDescriptors",
		"xattr host-path: for readers, listed, never settable":    "ExtendedAttributes",
		"no handler waits for another":                            "AHungDocumentHindersNoOther ADescriptorThatTakesLongToCloseHoldsUpNobody AHungDiskKeepsNoTempFilesOfOthers TheWayToADeepDirectory ADeviceNumberIsAnotherDisksLater ADocumentThatLeadsIntoTheView ALeaseHoldsUpNobodyElse ../documents:AHungDocumentDelaysNoCall",
		"an interrupt of a stuck call is answered":                "AHungDocumentHindersNoOther",
		"64 stuck calls of a file system, 16 of a document":       "StuckCallsAreBounded AHungDocumentHindersNoOther",
	})
}
