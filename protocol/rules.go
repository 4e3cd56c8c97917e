package protocol

// Rule names a rule of the protocol that a test can switch off, by what the machines do
// without it. In normal builds every rule holds and costs nothing: off is a constant. Under
// the build tag "mutant" the variable Off chooses.
type Rule string

// The rules of a member and its role of primary.
const (
	NoDedup              Rule = "no dedup"
	DuplicateAckedEarly  Rule = "duplicate acked early"
	AckBeforeSync        Rule = "ack before sync"
	Majority             Rule = "majority"
	UncommittedRead      Rule = "uncommitted read"
	GapAccepted          Rule = "gap accepted"
	FenceReportsUnsynced Rule = "fence reports unsynced"
	PromiseNotDurable    Rule = "promise lost in a crash"
	RoleKeptAtFence      Rule = "role kept after a fence"
	RoleTakenTwice       Rule = "role taken twice"
	RestartedMemberStays Rule = "restarted member stays"
	RequestsOutliveDisk  Rule = "requests outlive the disk"
	SecondaryAnswersEnd  Rule = "secondary answers END"
	SealAnyLog           Rule = "SEAL applied to a log of another version"
	FateBeforeSeal       Rule = "fate before seal"
	FateFromShort        Rule = "fate from a short member"
	FateFromOlderSeal    Rule = "fate from an older seal"
	CopyWithoutRecords   Rule = "copy without records"
	OldCopyApplied       Rule = "old copy applied"
	OldPrepareAccepted   Rule = "old PREP accepted"
	OldRequestAccepted   Rule = "old APPEND accepted"
	OldAckCounted        Rule = "old ACK counted"
	AnySequenceFirst     Rule = "any seq first"
	SequenceGap          Rule = "gap in a session"
	ForgottenIsAbsent    Rule = "forgotten session answers absent"
	ReopenWithoutBytes   Rule = "re-open by a member without the bytes"
	ReopenOldVersion     Rule = "re-open without a new version"
)

// The rules of the sealer.
const (
	PublishEarly          Rule = "length published before the primary's lease is over"
	OldFenceReplyCounted  Rule = "fence reply of another version counted"
	LostCountedAsEmpty    Rule = "lost member counted as length 0"
	ShortReplyCounted     Rule = "short fence reply counted"
	CommitNotCompared     Rule = "commit in fence replies ignored"
	WaitingCounted        Rule = "answer of a member whose disk has not answered counted"
	SupersededCounted     Rule = "superseded member counted"
	RestartedCounted      Rule = "restarted member counted"
	ShortestOfRestarted   Rule = "all restarted, min taken"
	RestartedAloneDecides Rule = "decide on a restarted member alone"
	SealAtLongest         Rule = "longest instead of shortest reply"
	LongHeldAlone         Rule = "one firm reply of three decides"
)

// The rules of an appender.
const (
	NextWithoutFate  Rule = "next chunk without fate"
	OldFateReplyUsed Rule = "old fate reply used"
	UnknownIsAbsent  Rule = "unknown taken as absent"
)

// The rules of leases.
const (
	NoClockMargin       Rule = "no clock margin"
	NoLeaseCheck        Rule = "no lease check"
	GrantMovesBack      Rule = "grant record moves back"
	FailoverWithoutWait Rule = "failover without wait"
	TakenWithoutWait    Rule = "slots taken without wait"
	RegisterEndsLease   Rule = "registering ends the lease at once"
)
