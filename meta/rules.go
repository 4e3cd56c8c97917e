package meta

// Rule names a rule that a test can switch off, by what a state machine does without it. In normal
// builds every rule holds and costs nothing: off is a constant. Under the build tag "mutant"
// the variable Off chooses; docs/testing.md says which test notices.
type Rule string

// The rules of sessions and of log time.
const (
	ResultsNotReplicated Rule = "session table not replicated"
	OldResultForgotten   Rule = "forgotten operation done again"
	WallClockTime        Rule = "log time from the wall clock"
	TimeMovesBack        Rule = "log time moves back"
	ClosedSessionActs    Rule = "expired session acts"
)

// The rules of transactions.
const (
	IntentNotKept      Rule = "intent lost"
	AnyTicketCounts    Rule = "late preparation carried out"
	FrozenTakesEntries Rule = "frozen directory takes entries"
	UnlinkedAgain      Rule = "file that was brought back removed by a late message"
)

// The rules of chunks.
const (
	HandleRangeReused Rule = "handle range reused"
	JudgedEarly       Rule = "garbage judged before the own range"
	SealedTwice       Rule = "sealed again at another length"
	LinkedTwice       Rule = "chunk linked twice"
	LastCopyDropped   Rule = "surplus dropped by its own copy"
	DropForgotten     Rule = "drop forgotten before it is done"
	TrashFreedEarly   Rule = "trash freed early"
	HalfRestored      Rule = "file brought back of which a part is freed"
	CopyOfOldSeal     Rule = "copy of an older seal counted"

	ReopenedUnconfirmed Rule = "re-opened with replicas that have not confirmed the seal"
	ReopenedByOne       Rule = "re-opened by some of the replicas"
	MergedOldSeal       Rule = "part merged as of an older seal"
)

// The rules of slots that move.
const (
	ServedByTwo         Rule = "slot served by two shards"
	SessionLeftBehind   Rule = "session lost in a move"
	NumbersOfMoveReused Rule = "handle numbers used again after a move"
	LateBatchTaken      Rule = "late batch of a move applied"
)
