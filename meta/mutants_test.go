//go:build mutant

package meta

import (
	"testing"

	"github.com/quarryfs/quarry/disk/mutanttest"
)

// TestMutants shows for each rule that these tests of the room notice when it does not hold.
func TestMutants(t *testing.T) {
	mutanttest.Run(t, map[Rule]string{
		ResultsNotReplicated: "TestExactlyOnce",
		OldResultForgotten:   "TestExactlyOnce",
		WallClockTime:        "TestSessionLife",
		TimeMovesBack:        "TestSessionLife",
		ClosedSessionActs:    "TestCloseSession",
		IntentNotKept:        "TestTransactions",
		AnyTicketCounts:      "TestLatePreparation",
		FrozenTakesEntries:   "TestTransactions",
		HandleRangeReused:    "TestReserveHandles",
		JudgedEarly:          "TestReconcile",
		SealedTwice:          "TestSeal",
		LinkedTwice:          "TestLink",
		LastCopyDropped:      "TestDropReplica",
		DropForgotten:        "TestModel",
		TrashFreedEarly:      "TestCollect",
		CopyOfOldSeal:        "TestAddReplica",
		ReopenedUnconfirmed:  "TestReopen",
		ReopenedByOne:        "TestReopen",
		MergedOldSeal:        "TestMerge",
		ServedByTwo:          "TestNotOwned",
		SessionLeftBehind:    "TestMovedModel",
		NumbersOfMoveReused:  "TestNumbersOfAMove",
		LateBatchTaken:       "TestLateBatch",
		UnlinkedAgain:        "TestUnlinkedOnce",
		HalfRestored:         "TestHalfFreedStaysGone",
	})
}
