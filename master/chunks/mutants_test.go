//go:build mutant

package chunks

import (
	"testing"

	"github.com/quarryfs/quarry/disk/mutanttest"
)

// TestMutants shows for each rule that these tests of the room notice when it does not hold.
func TestMutants(t *testing.T) {
	mutanttest.Run(t, map[Rule]string{
		GrantUnconfirmed:  "TestDeposedLeaderGrantsNothing",
		GrantWithoutItems: "TestFenceReachesAServerWithItsNextGrant",
		ItemsBeforeLease:  "TestGrantHasTheSealsThatDidNotWaitForIt",
		RestartEndsLease:  "TestSealWithARestartedPrimaryOfAnotherBootWaitsForTheLease",
		LoggedBeforeMade:  "TestRollAfterAFailedRound",
		CreateAfterLogged: "TestFinishWithADeadMember",
		OwnRangeJudged:    "TestHandlesOfUnknownOutcomeAreNotJudged",
		ServesBeforeAdded: "TestFailedDiskIsRepaired",
		ActivatedEarly:    "TestReopenThatAMemberRefuses",
		MergedUnheld:      "TestMergeThatFails",
		NumbersInAnySlot:  "TestAllocateInASlotOfAnotherShard",
	})
}
