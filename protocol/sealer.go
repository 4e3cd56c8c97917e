package protocol

import (
	"slices"

	"github.com/quarryfs/quarry"
)

// restWait is how long a seal waits for the members that have not answered, once one has.
const restWait = 300 * millisecond

// Sealing is what the master's log says of a chunk that is being sealed.
type Sealing struct {
	Handle              quarry.Handle
	Version             quarry.Version  // of the seal: even
	WritableVersion     quarry.Version  // that ends
	PrevWritableVersion quarry.Version  // the one before it, 0 if none
	Base                int64           // length at which WritableVersion began
	Members             []quarry.Member // as logged when WritableVersion began; the primary first
}

// Sealer is one attempt of one leader to find the length at which a version ends, after
// SEALING was logged. It is volatile: a new leader begins anew, and answers given to either
// count for both, because a fenced replica does not change.
type Sealer struct {
	s         Sealing
	answers   []answer // one for each member, in the order of Members
	firstFirm Instant  // when the first firm good answer came
	haveFirm  bool
}

// answer is what is known of one member.
type answer struct {
	came  bool
	gone  bool // declared dead, no answer
	firm  bool // from the incarnation that the log names
	over  bool // that incarnation has answered, so its role is over
	reply quarry.FenceReply
}

// Verdict is what a Sealer finds.
type Verdict uint8

// The verdicts.
const (
	// Waiting: too little is known.
	Waiting Verdict = iota
	// Decided: Length may be logged, and only then told to anyone.
	Decided
	// Lost: every member answered or is dead, and none has a replica that could be sealed. Members
	// that come back may change it.
	Lost
)

// Decision is the outcome of an attempt so far.
type Decision struct {
	Verdict Verdict
	// Again: when to ask again though nothing more arrives; 0 if time alone does not help.
	Again  Instant
	Length int64
	// Suspect: no member that stayed alive answered well, and not all of the others did. The
	// seal may have lost acknowledged records; an operator must be told.
	Suspect bool
	// Short are members whose durable length is below what another one knows to be
	// committed: their disks have lost acknowledged bytes.
	Short []quarry.ServerID
}

// NewSealer begins an attempt.
func NewSealer(s Sealing) *Sealer {
	return &Sealer{s: s, answers: make([]answer, len(s.Members))}
}

// Entry returns what is being sealed.
func (s *Sealer) Entry() *Sealing { return &s.s }

// Unanswered returns the members to which FENCE is to be sent, or sent again.
func (s *Sealer) Unanswered() []quarry.ServerID {
	var out []quarry.ServerID
	for i, a := range s.answers {
		if !a.came {
			out = append(out, s.s.Members[i].Server)
		}
	}
	return out
}

// Replied is the event that a member's server answered the fence. current is the incarnation
// of that server that is registered when the answer is looked at.
//
// Answers to another version's fence are dropped. One whose disk has not answered tells only that a
// role is over. What a restarted server says never
// replaces the answer of the incarnation that was the member. The answer of an incarnation
// that has a successor, as of a host that was paused and copied, tells only that it is
// fenced: its disk is no longer the one that counts.
func (s *Sealer) Replied(from quarry.ServerID, reply *quarry.FenceReply, current quarry.Incarnation, now Instant) {
	i := slices.IndexFunc(s.s.Members, func(m quarry.Member) bool { return m.Server == from })
	if i < 0 || reply.Version != s.s.Version && !off(OldFenceReplyCounted) {
		return
	}
	a := &s.answers[i]
	firm := reply.Incarnation == s.s.Members[i].Incarnation
	a.over = a.over || firm
	if reply.Status == quarry.ReplicaWaiting && !off(WaitingCounted) {
		return
	}
	if a.came && a.firm && !firm || reply.Incarnation < current && !off(SupersededCounted) {
		return
	}
	a.came, a.firm, a.reply = true, firm, *reply
	if _, good := s.length(i); good && firm && !s.haveFirm {
		s.haveFirm, s.firstFirm = true, now
	}
}

// Gone is the event that a member's server is declared dead.
func (s *Sealer) Gone(server quarry.ServerID) {
	for i := range s.answers {
		if s.s.Members[i].Server == server {
			s.answers[i].gone = true
		}
	}
}

// Decide tells the length, if it can be told at now. l are the leases of this leader.
func (s *Sealer) Decide(l *Leases, now Instant) Decision {
	d := Decision{Short: s.short()}
	good, firm := s.good(d.Short)
	missing := 0
	for _, a := range s.answers {
		if !a.came && !a.gone {
			missing++
		}
	}
	if over, until := s.primaryOver(l, now); !over && !off(PublishEarly) {
		d.Again = until
		return d
	}
	switch {
	case len(firm) > 0:
		alone := len(firm) == 1 && len(s.answers) >= 3
		if missing > 0 && alone && !off(LongHeldAlone) {
			return d // until the others are declared dead: one disk would hold the tail alone
		}
		if wait := s.firstFirm + restWait; missing > 0 && !alone && now < wait {
			d.Again = wait
			return d
		}
		d.Verdict, d.Length = Decided, pick(firm, !off(SealAtLongest))
	case missing > 0 && !off(RestartedAloneDecides):
		return d
	case len(good) > 0:
		d.Verdict, d.Length = Decided, pick(good, off(ShortestOfRestarted))
		d.Suspect = len(good) < len(s.answers)
	case missing == 0:
		d.Verdict = Lost
	}
	return d
}

// primaryOver reports whether the old primary surely says nothing more about the chunk's
// end: it has answered the fence itself, or its lease is over. An answer of its successor
// says nothing of it.
func (s *Sealer) primaryOver(l *Leases, now Instant) (bool, Instant) {
	if s.answers[0].over {
		return true, 0
	}
	p := &s.s.Members[0]
	slot := s.s.Handle.Slot()
	return l.Over(slot, p.Server, p.Incarnation, RightEnd, now), l.Until(slot, p.Server, p.Incarnation, RightEnd) + 1
}

// length is what a member's answer counts for; false if it is no length at all. That there
// is no replica, or a lost one, or a shorter one than the version began with, are not
// lengths.
func (s *Sealer) length(i int) (int64, bool) {
	a := &s.answers[i]
	if !a.came {
		return 0, false
	}
	r := &a.reply
	if off(LostCountedAsEmpty) && r.Status != quarry.ReplicaGood {
		return 0, true
	}
	if off(ShortReplyCounted) {
		return r.DurableLength, r.Status == quarry.ReplicaGood
	}
	switch {
	case r.Status != quarry.ReplicaGood || r.DurableLength < s.s.Base:
		return 0, false
	case r.LogVersion == s.s.WritableVersion:
		return r.DurableLength, true
	case s.s.PrevWritableVersion != 0 && r.LogVersion == s.s.PrevWritableVersion:
		return s.s.Base, true // it never opened the version, so nothing of it was committed
	}
	return 0, false
}

// short returns the members that have less than another one knows to be committed.
func (s *Sealer) short() []quarry.ServerID {
	top := int64(0)
	for _, a := range s.answers {
		if a.came && a.reply.LogVersion == s.s.WritableVersion {
			top = max(top, a.reply.Commit)
		}
	}
	var out []quarry.ServerID
	for i := range s.answers {
		if n, ok := s.length(i); ok && n < top && !off(CommitNotCompared) {
			out = append(out, s.s.Members[i].Server)
		}
	}
	return out
}

// good returns the lengths of the good answers, and of those of them that are firm.
func (s *Sealer) good(short []quarry.ServerID) (good, firm []int64) {
	for i := range s.answers {
		n, ok := s.length(i)
		if !ok || slices.Contains(short, s.s.Members[i].Server) {
			continue
		}
		good = append(good, n)
		if s.answers[i].firm || off(RestartedCounted) {
			firm = append(firm, n)
		}
	}
	return good, firm
}

func pick(lengths []int64, shortest bool) int64 {
	if shortest {
		return slices.Min(lengths)
	}
	return slices.Max(lengths)
}

// Clone returns a copy that shares nothing with s but the entry, which does not change.
func (s *Sealer) Clone() *Sealer {
	c := *s
	c.answers = slices.Clone(s.answers)
	return &c
}

// SealRound is the work after SEALED was logged: every replica is told the length, and each
// says whether it is complete.
type SealRound struct {
	request  quarry.SealRequest
	replicas []holder
}

type holder struct {
	server  quarry.ServerID
	replied bool
	holds   bool
}

// NewSealRound begins a round for the replicas on servers, which may be more than the
// members: older ones that an inventory showed.
func NewSealRound(s *Sealing, length int64, servers []quarry.ServerID) *SealRound {
	req := quarry.SealRequest{Length: length, WritableVersion: s.WritableVersion}
	req.Handle, req.Version = s.Handle, s.Version
	if length == s.Base {
		req.PrevWritableVersion = s.PrevWritableVersion // nothing was added: the log before is as good
	}
	r := &SealRound{request: req}
	for _, server := range servers {
		r.replicas = append(r.replicas, holder{server: server})
	}
	return r
}

// Request returns the SEAL to send; its target and capability are the caller's to fill in.
func (r *SealRound) Request() quarry.SealRequest { return r.request }

// Pending returns the servers that have not answered.
func (r *SealRound) Pending() []quarry.ServerID {
	return r.servers(func(h *holder) bool { return !h.replied })
}

// Holders returns the servers whose replica is complete at this seal.
func (r *SealRound) Holders() []quarry.ServerID {
	return r.servers(func(h *holder) bool { return h.holds })
}

// Unfit returns the servers whose replica is not complete: it is dropped and copied anew,
// never padded.
func (r *SealRound) Unfit() []quarry.ServerID {
	return r.servers(func(h *holder) bool { return h.replied && !h.holds })
}

// Replied is the event that a server answered the SEAL of this round; holds is false also
// if it has no replica. The caller drops answers of incarnations that have a successor: what
// they hold is not on the disk that counts.
func (r *SealRound) Replied(from quarry.ServerID, holds bool) {
	for i := range r.replicas {
		if h := &r.replicas[i]; h.server == from {
			h.replied, h.holds = true, h.holds || holds
		}
	}
}

func (r *SealRound) servers(want func(*holder) bool) []quarry.ServerID {
	var out []quarry.ServerID
	for i := range r.replicas {
		if want(&r.replicas[i]) {
			out = append(out, r.replicas[i].server)
		}
	}
	return out
}
