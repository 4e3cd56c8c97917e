//go:build mutant

package master

import (
	"testing"

	"github.com/quarryfs/quarry/disk/mutanttest"
)

// TestMutants shows for each rule that these tests of the room notice when it does not hold.
func TestMutants(t *testing.T) {
	mutanttest.Run(t, map[Rule]string{
		ToldBeforeLogged: "TestCrashesAcrossShards",
		IntentPassedOver: "TestReadersMeetIntents",
		MovedOutOfOrder:  "TestDirectoriesMovedIntoEachOther",
		RemovedIsAdded:   "TestRemovedWhileAdded",
		JointIsDone:      "TestJointIsNotDone",
	})
}
