package master

// Rule names a rule that a test can switch off, by what a master does without it. In normal
// builds every rule holds and costs nothing: off is a constant. Under the build tag "mutant"
// the variable Off chooses; docs/testing.md says which test notices.
type Rule string

// The rules of transactions.
const (
	ToldBeforeLogged Rule = "decision told before it is logged"
	IntentPassedOver Rule = "reader passes over an intent"
	MovedOutOfOrder  Rule = "directories moved at the same time"
)

// The rules of changes of the masters.
const (
	RemovedIsAdded Rule = "removed master made a member"
	JointIsDone    Rule = "change of members counted before it is complete"
)
