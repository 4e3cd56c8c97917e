//go:build mutant

package raft

import (
	"testing"

	"github.com/quarryfs/quarry/disk/mutanttest"
)

// TestMutants shows for each rule that these tests of the room notice when it does not hold.
func TestMutants(t *testing.T) {
	mutanttest.Run(t, map[Rule]string{
		AckBeforeSync:        "TestSingleNode",
		TrimBeforeSync:       "TestPowerLoss",
		StateWithoutIndex:    "TestPowerLoss",
		SnapshotWithoutIndex: "TestSnapshotOfLaterState",
		MembersNotDurable:    "TestRemoveLeader",
		AnyTerm:              "TestProposeInTerm",
		EmptyMemberVotes:     "TestEmptyMemberDoesNotVote",
		AnyDisk:              "TestWipedNode",
		StaleLeaderReads:     "TestStaleLeader",
		ReadBeforeApplied:    "TestReadWaitsForApply",
		StaleCache:           "TestCacheIsExact",
	})
}
