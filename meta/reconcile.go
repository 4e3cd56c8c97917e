package meta

import (
	"github.com/quarryfs/quarry"
)

// Action is what is to be done about a replica after an inventory.
type Action uint8

// The actions that follow from an inventory.
const (
	// ActionDrop: the replica is garbage or surplus, and no record lists it: answer with a
	// drop of Version.
	ActionDrop Action = 1
	// ActionSurplus: a record lists it as away, and enough others hold: log [DropReplica].
	ActionSurplus Action = 2
	// ActionSeal: it is, or can be made, complete, and is needed: send the seal and log
	// [Hold]; if it does not serve yet, add it then.
	ActionSeal Action = 3
	// ActionBad: it is broken or incomplete: log [DropReplica].
	ActionBad Action = 4
	// ActionMissing: a record lists it and the server does not report it. It may have been
	// made after the inventory was: fence it at Version, and log [DropReplica] if it is not
	// there.
	ActionMissing Action = 5
	// ActionSuspect: a member of a chunk that is open, being sealed, or lost before it was
	// sealed: if the chunk is open, seal it; otherwise try to seal it again.
	ActionSuspect Action = 6
	// ActionAlarm: its handle is beyond all that were ever reserved. This state is older than
	// the server's: a master was restored from a backup. Drop nothing; tell the operator.
	ActionAlarm Action = 7
)

// Finding is what an inventory tells about one replica.
type Finding struct {
	Handle  quarry.Handle
	Action  Action
	Version quarry.Version
	Chunk   *ChunkRecord        // nil if there is none
	Replica *quarry.ReplicaInfo // nil if the server does not report it
}

// Reconcile compares a page of a server's inventory with the records and returns what is to
// be done; replicas that are as they should be give no finding. The page must be in the order
// of its handles.
//
// Term is that of the leader who asks. busy reports whether this leader was making a chunk of
// that handle, or a copy of it at this server, at an instant before the view was taken: what
// it has in hand is not judged.
func Reconcile(v View, page *quarry.InventoryRequest, term uint64, busy func(quarry.Handle) bool) ([]Finding, error) {
	if len(page.Replicas) > quarry.InventoryMax || page.From > page.To {
		return nil, quarry.Errorf("inventory", quarry.Invalid, "", "%d replicas from %v to %v", len(page.Replicas), page.From, page.To)
	}
	s := reading(v)
	h := s.header
	// A server that has lost much may be listed with far more than a page reports; what is
	// not looked at is found by the next inventory.
	listed := s.replicasOf(page.Server, page.From, page.To, 2*quarry.InventoryMax)
	var findings []Finding
	next, last := 0, quarry.Handle(0)
	for i := range page.Replicas {
		r := &page.Replicas[i]
		if r.Handle <= last || r.Handle < page.From || r.Handle > page.To {
			return nil, quarry.Errorf("inventory", quarry.Invalid, r.Handle.String(), "the replica is out of order")
		}
		last = r.Handle
		for ; next < len(listed) && listed[next] < r.Handle; next++ {
			findings = s.missing(findings, page.Server, listed[next])
		}
		if next < len(listed) && listed[next] == r.Handle {
			next++
		}
		if !h.owns(r.Handle.Slot()) || busy != nil && busy(r.Handle) {
			continue
		}
		f := Finding{Handle: r.Handle, Replica: r, Chunk: s.chunk(r.Handle)}
		if f.Chunk == nil {
			f.Action, f.Version = h.judge(r, term), r.Promised
		} else {
			f.Action, f.Version = compare(f.Chunk, f.Chunk.Replica(page.Server), r), f.Chunk.Version
		}
		if f.Action != 0 {
			findings = append(findings, f)
		}
	}
	for ; next < len(listed); next++ {
		findings = s.missing(findings, page.Server, listed[next])
	}
	return findings, nil
}

// missing adds what is to be done about a replica that a record lists and the server does
// not report.
func (s *state) missing(findings []Finding, server quarry.ServerID, h quarry.Handle) []Finding {
	c := s.piecedChunk(h)
	f := Finding{Handle: h, Action: ActionMissing, Version: c.Version, Chunk: c}
	switch r := c.Replica(server); {
	case r.State == ReplicaDropping: // its drop is owed, and will be settled
		return findings
	case r.State == ReplicaMember:
		f.Action = ActionSuspect
	}
	return append(findings, f)
}

// judge says what is to be done with a replica whose handle has no record: garbage is a
// handle that an earlier term reserved, or that this term did and has nothing in hand with.
func (h *header) judge(r *quarry.ReplicaInfo, term uint64) Action {
	switch n := r.Handle.Number(); {
	case n >= h.NextHandle:
		return ActionAlarm
	case h.RangeTerm != term && !off(JudgedEarly): // this leader's own range is not reserved yet: too early to judge
		return 0
	default:
		return ActionDrop
	}
}

// compare says what is to be done with a replica of a chunk; listed is how the record lists
// it, if it does.
func compare(c *ChunkRecord, listed *Replica, r *quarry.ReplicaInfo) Action {
	good := r.Status == quarry.ReplicaGood
	if c.State == quarry.ChunkOpen || c.State == quarry.ChunkSealing || !c.LengthKnown {
		switch {
		case listed == nil:
			return ActionDrop
		case !good || c.State == quarry.ChunkLost:
			return ActionSuspect
		}
		return 0
	}
	complete := good && r.SealVersion == c.Version && r.Length == c.Length
	sealable := good && r.SealVersion < c.Version &&
		(r.LogVersion == c.WritableVersion && r.Length >= c.Length ||
			c.PrevWritableVersion != 0 && r.LogVersion == c.PrevWritableVersion && c.Length == c.Base && r.Length >= c.Base)
	state := ReplicaState(0)
	if listed != nil {
		state = listed.State
	}
	switch {
	case state == ReplicaDropping:
		return 0
	case complete && state == ReplicaHolding:
		if !r.Serving { // it was added; the word did not reach it
			return ActionSeal
		}
		return 0
	case (complete || sealable) && (state == ReplicaPending || state == ReplicaHolding || c.Copies() < int(c.Wanted) && c.Freed == 0):
		return ActionSeal
	case complete || sealable:
		switch enough := c.Count(ReplicaHolding) >= int(c.Wanted); {
		case listed == nil && (enough || c.Freed != 0):
			return ActionDrop
		case listed != nil && enough:
			return ActionSurplus
		}
		return 0
	case listed == nil:
		return ActionDrop
	case state == ReplicaBad:
		return 0
	}
	return ActionBad
}
