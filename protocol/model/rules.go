package model

import "github.com/quarryfs/quarry/protocol"

// The rules of a master that the model itself plays: how it logs, takes handles, judges
// garbage and grants. The machines cannot hold them; a real master must.
const (
	CreateAfterLogged  protocol.Rule = "CREATE after logged"
	HandleTakenTwice   protocol.Rule = "handle taken twice"
	OwnRangeJudged     protocol.Rule = "own range judged garbage"
	JudgedEarly        protocol.Rule = "judged before the own range entry commits"
	EntryUsedEarly     protocol.Rule = "entry used before it commits"
	GrantWithoutFences protocol.Rule = "grant without fences"
	ConfirmSkipped     protocol.Rule = "END without lease"
	ReopenUnconfirmed  protocol.Rule = "re-open with unconfirmed members"
)
