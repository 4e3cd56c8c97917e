package protocol

import "github.com/quarryfs/quarry"

// Instant is a point on one node's monotonic clock, in nanoseconds, as clock.Instant is.
// Instants of different nodes are never compared.
type Instant int64

// Call names a request until it is answered. The caller of a machine chooses it; a machine
// only hands it back in an [Answer].
type Call uint64

// Ticket numbers the changes of one replica, from 1 and without a gap in one life of its
// [Member].
type Ticket uint64

// Effect is something that a machine wants done. The effects of one step may be carried out
// in any order and at the same time, but for the changes of one replica, which become
// durable in the order of their tickets.
type Effect interface{ effect() }

// Persist asks for a change to be made durable, and then for [Member.Durable] with its
// ticket. What the change needs comes first, and is synced before the change is written to
// the journal: the name and the empty file of a create, the bytes of a batch, the index
// beside a sealed chunk, the fetched file of a copy. If any of it fails, [Member.Fail].
//
// Changes of many replicas may share one sync of the journal. Calls is set for a batch: its
// bytes are those that came with these requests, one after the other.
type Persist struct {
	Ticket Ticket
	Change Change
	Calls  []Call
}

// Answer ends a request. Reply is what the contract names for it, behind a pointer
// (*quarry.AppendReply, *quarry.PrepareReply, *quarry.FenceReply, *quarry.SealReply), or nil
// for requests whose answer says nothing. Err is a *quarry.Error and excludes Reply.
type Answer struct {
	Call  Call
	Reply any
	Err   error
}

// Ship asks the primary's server to send a batch to the members behind it. Everything but
// Data, Chain, the target and the capability is filled in; Data is the bytes of the appends
// in Calls, one after the other. A batch may be shipped again ([Member.Resend]): its bytes
// are kept until its end is committed ([Advanced]) or the role ends ([Deposed]).
type Ship struct {
	Request quarry.PrepareRequest
	Calls   []Call
}

// Advanced tells that the replica may show more than before: its commit moved, or it was
// sealed, added, or lost. Whoever waits at this replica ([Member.Wait]) asks again; a
// primary that does not ship a batch soon sends its commit alone.
type Advanced struct {
	Commit int64
	Sealed bool
}

// AskSeal asks the primary's server to tell the master that the chunk's version must end,
// because nothing more fits.
type AskSeal struct{ Version quarry.Version }

// Deposed tells that the member's role as primary of Version is over. Every append it had
// taken and not answered is answered in the same step.
type Deposed struct{ Version quarry.Version }

func (Persist) effect()  {}
func (Answer) effect()   {}
func (Ship) effect()     {}
func (Advanced) effect() {}
func (AskSeal) effect()  {}
func (Deposed) effect()  {}
