package raft

// Rule names a rule that a test can switch off, by what a node does without it. In normal
// builds every rule holds and costs nothing: off is a constant. Under the build tag "mutant"
// the variable Off chooses; docs/testing.md says which test notices.
type Rule string

// The rules of the log.
const (
	AckBeforeSync        Rule = "entry acknowledged before it is durable"
	TrimBeforeSync       Rule = "log trimmed before the state is durable"
	StateWithoutIndex    Rule = "state without the applied index"
	SnapshotWithoutIndex Rule = "snapshot without the applied index"
	MembersNotDurable    Rule = "members counted before they are durable"
	AnyTerm              Rule = "proposed in a later term"
)

// The rules of who may vote and read.
const (
	EmptyMemberVotes  Rule = "member without a state votes"
	AnyDisk           Rule = "node with another disk is heard"
	StaleLeaderReads  Rule = "stale leader's reads"
	ReadBeforeApplied Rule = "read before it is applied"
	StaleCache        Rule = "cached value outlives its key"
)
