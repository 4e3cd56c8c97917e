package chunks

// Rule names a rule that a test can switch off, by what a leader does without it. In normal
// builds every rule holds and costs nothing: off is a constant. Under the build tag "mutant"
// the variable Off chooses; docs/testing.md says which test notices.
type Rule string

// The rules of leases and items.
const (
	GrantUnconfirmed  Rule = "grant by a leader that was deposed"
	GrantWithoutItems Rule = "grant without fences"
	ItemsBeforeLease  Rule = "items read before the lease is extended"
	RestartEndsLease  Rule = "restart on another boot ends the lease"
)

// The rules of making and copying chunks.
const (
	LoggedBeforeMade  Rule = "logged before every member has made it"
	CreateAfterLogged Rule = "CREATE after logged"
	OwnRangeJudged    Rule = "own range judged garbage"
	ServesBeforeAdded Rule = "copy serves before it is logged"
	ActivatedEarly    Rule = "primary activated before all have re-opened"
	MergedUnheld      Rule = "merge logged before all hold it"
	NumbersInAnySlot  Rule = "handle numbers used in any slot"
)
