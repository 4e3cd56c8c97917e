package protocol

import (
	"slices"

	"github.com/quarryfs/quarry"
)

// Appender is a client's end of appends of one session to one file. It gives each record
// its sequence, and sees to it that every record is appended exactly once and in order,
// whatever becomes of answers, primaries and chunks.
//
// Each record that is not settled has at most one home, the one (handle, version) it was
// sent to. Only when a seal of that chunk, complete and later than the sending, is known not
// to hold it, may it be sent anywhere else. Not safe for concurrent use.
type Appender struct {
	session quarry.SessionID
	next    quarry.Sequence // of the next record
	records []unsettled     // those not settled and those behind them, by sequence
	bytes   int64           // of the unsettled
	tail    home            // where records are sent; zero if it is not known
	last    home            // the tail before, which cannot be written to any longer
	asked   bool            // NeedTail is under way
	dead    bool            // the fate of a record is unknown
}

type home struct {
	handle  quarry.Handle
	version quarry.Version
}

type unsettled struct {
	seq     quarry.Sequence
	length  int64
	home    home // zero: nowhere
	settled bool
}

// Send asks for an APPEND to the primary of Version of the chunk. The bytes of the record
// are the caller's. Sends of one step, and of later ones, go out in their order.
type Send struct {
	Handle   quarry.Handle
	Version  quarry.Version
	Sequence quarry.Sequence
	Oldest   quarry.Sequence
	Length   int64
}

// NeedTail asks for a ROLL: for the chunk to write to now that Last cannot be, or for the
// first one if Last is 0. The answer goes to [Appender.Tail].
type NeedTail struct {
	Last    quarry.Handle
	Version quarry.Version
}

// AskChunk asks for the master's record of a chunk. The answer goes to [Appender.Located].
type AskChunk struct{ Handle quarry.Handle }

// AskFate asks for a FATE at any replica of a sealed chunk; one that refuses says nothing,
// another one is asked. The answer goes to [Appender.Fates].
type AskFate struct {
	Handle    quarry.Handle
	Version   quarry.Version
	Length    int64
	Sequences []quarry.Sequence
}

// Settled tells that a record is appended, once and for ever.
type Settled struct {
	Sequence quarry.Sequence
	Handle   quarry.Handle
	Offset   int64 // in the chunk
}

// Unknown tells that it cannot be known whether a record was appended. The session takes no
// more records and must be ended.
type Unknown struct{ Sequence quarry.Sequence }

func (Send) effect()     {}
func (NeedTail) effect() {}
func (AskChunk) effect() {}
func (AskFate) effect()  {}
func (Settled) effect()  {}
func (Unknown) effect()  {}

// NewAppender returns the appender of a session for a file to which the session has
// appended nothing.
func NewAppender(session quarry.SessionID) *Appender {
	return &Appender{session: session, next: 1}
}

// Add takes a record of length bytes and gives it its sequence. Busy: the window is full;
// SessionExpired: the session is at its end.
func (a *Appender) Add(length int64) (quarry.Sequence, []Effect, error) {
	switch {
	case a.dead:
		return 0, nil, quarry.Errorf("append", quarry.SessionExpired, "", "the fate of an earlier record is unknown")
	case length < 1 || length > quarry.RecordBytesMax:
		return 0, nil, quarry.Errorf("append", quarry.TooLarge, "", "a record has 1 to %d bytes, this one has %d", quarry.RecordBytesMax, length)
	case len(a.records) >= quarry.WindowRecords || a.bytes > 0 && a.bytes+length > quarry.WindowBytes:
		return 0, nil, quarry.Errorf("append", quarry.Busy, "", "%d records, %d bytes are not acknowledged", len(a.records), a.bytes)
	}
	seq := a.next
	a.next++
	a.bytes += length
	a.records = append(a.records, unsettled{seq: seq, length: length})
	return seq, a.pump(a.needTail(nil)), nil
}

// Oldest returns the oldest unsettled sequence; the next one to be given, if all are settled.
func (a *Appender) Oldest() quarry.Sequence {
	if len(a.records) == 0 {
		return a.next
	}
	return a.records[0].seq
}

// Unsettled returns how many records, and how many bytes, are not settled.
func (a *Appender) Unsettled() (records int, bytes int64) {
	for i := range a.records {
		if !a.records[i].settled {
			records++
		}
	}
	return records, a.bytes
}

// At reports whether a chunk is the home of a record that is not settled.
func (a *Appender) At(h quarry.Handle) bool {
	return slices.ContainsFunc(a.records, func(r unsettled) bool { return !r.settled && r.home.handle == h })
}

// Tail is the event that the master named the chunk to write to.
func (a *Appender) Tail(chunk *quarry.Chunk) []Effect {
	a.asked = false
	if a.dead || chunk.State != quarry.ChunkOpen {
		return nil
	}
	a.tail, a.last = home{chunk.Handle, chunk.Version}, home{}
	if off(NextWithoutFate) {
		for i := range a.records {
			a.records[i].home = home{}
		}
	}
	return a.pump(a.Ask())
}

// Answered is the event that an APPEND of a record to a chunk was answered.
func (a *Appender) Answered(seq quarry.Sequence, h quarry.Handle, v quarry.Version, reply *quarry.AppendReply, err error) []Effect {
	r := a.find(seq)
	if r == nil || r.settled {
		return nil
	}
	if err == nil {
		return a.pump(a.settle(nil, r, h, reply.Offset))
	}
	if r.home != (home{h, v}) {
		return nil // no longer of interest
	}
	switch quarry.KindOf(err) {
	case quarry.SessionExpired:
		return a.die(nil)
	case quarry.Full: // the primary did not take it and takes nothing more
		r.home = home{}
		return a.pump(a.Doubt(h, v))
	case quarry.StaleVersion, quarry.NotPrimary, quarry.NotFound:
		return a.Doubt(h, v)
	}
	return nil // not known: sent again, or doubted
}

// Doubt is the event that a version of a chunk cannot be written to any longer: its primary
// says so, or cannot be reached.
func (a *Appender) Doubt(h quarry.Handle, v quarry.Version) []Effect {
	if a.tail != (home{h, v}) {
		return nil
	}
	a.last, a.tail = a.tail, home{}
	return a.needTail(nil)
}

// Resend sends again everything that was sent to the tail and is not settled, in order. It
// is asked for after a broken connection, a Busy answer, or a silence.
func (a *Appender) Resend() []Effect {
	var out []Effect
	for i := range a.records {
		if r := &a.records[i]; !r.settled && a.tail.handle != 0 && r.home == a.tail {
			out = append(out, a.send(r))
		}
	}
	return a.pump(a.needTail(out))
}

// Ask asks for the fate of every record whose home is not the tail. It may be repeated as
// long as there is such a record.
func (a *Appender) Ask() []Effect {
	var out []Effect
	seen := home{}
	for i := range a.records {
		r := &a.records[i]
		if !r.settled && r.home.handle != 0 && r.home != a.tail && r.home != seen {
			seen = r.home
			out = append(out, AskChunk{r.home.handle})
		}
	}
	return out
}

// Located is the event that the master told of a chunk.
func (a *Appender) Located(chunk *quarry.Chunk) []Effect {
	var out []Effect
	if a.tail.handle == chunk.Handle && chunk.Version > a.tail.version {
		out = a.Doubt(a.tail.handle, a.tail.version)
	}
	var at []quarry.Sequence
	for i := range a.records {
		if r := &a.records[i]; !r.settled && r.home.handle == chunk.Handle && chunk.Version > r.home.version {
			at = append(at, r.seq)
		}
	}
	switch {
	case len(at) == 0:
	case chunk.State == quarry.ChunkLost:
		return a.die(out)
	case chunk.State == quarry.ChunkSealed:
		out = append(out, AskFate{chunk.Handle, chunk.Version, chunk.Length, at})
	}
	return out
}

// Fates is the event that a replica told the fates of records in a sealed chunk. Only an
// answer about a seal later than the sending counts.
func (a *Appender) Fates(h quarry.Handle, reply *quarry.FateReply) []Effect {
	var out []Effect
	for _, f := range reply.Fates {
		r := a.find(f.Sequence)
		if r == nil || r.settled || r.home.handle != h || reply.Version <= r.home.version && !off(OldFateReplyUsed) {
			continue
		}
		switch {
		case f.State == quarry.FateCommitted:
			out = a.settle(out, r, h, f.Offset)
		case f.State == quarry.FateAbsent, off(UnknownIsAbsent):
			r.home = home{}
		default:
			return a.die(out)
		}
	}
	return a.pump(out)
}

// pump sends what may be sent: records without a home, in order, and none before those that
// come first have the tail for their home.
func (a *Appender) pump(out []Effect) []Effect {
	if a.tail.handle == 0 || a.dead {
		return out
	}
	for i := range a.records {
		r := &a.records[i]
		switch {
		case r.settled || r.home == a.tail:
		case r.home.handle == a.tail.handle && r.home.version < a.tail.version && !off(NextWithoutFate):
			// The chunk was opened again: its primary has all that the versions before have left,
			// and refuses what is still on its way to them.
			r.home = a.tail
			out = append(out, a.send(r))
		case r.home.handle != 0:
			return out
		default:
			r.home = a.tail
			out = append(out, a.send(r))
		}
	}
	return out
}

func (a *Appender) send(r *unsettled) Effect {
	return Send{r.home.handle, r.home.version, r.seq, a.Oldest(), r.length}
}

// needTail asks for a chunk to write to, if there is none and there is something to write.
func (a *Appender) needTail(out []Effect) []Effect {
	if a.tail.handle != 0 || a.asked || a.dead || len(a.records) == 0 {
		return out
	}
	a.asked = true
	return append(out, NeedTail{a.last.handle, a.last.version})
}

func (a *Appender) settle(out []Effect, r *unsettled, h quarry.Handle, offset int64) []Effect {
	r.settled = true
	a.bytes -= r.length
	out = append(out, Settled{r.seq, h, offset})
	n := 0
	for n < len(a.records) && a.records[n].settled {
		n++
	}
	a.records = slices.Delete(a.records, 0, n)
	return out
}

// die gives up: what is not settled never will be.
func (a *Appender) die(out []Effect) []Effect {
	a.dead = true
	for i := range a.records {
		if r := &a.records[i]; !r.settled {
			out = append(out, Unknown{r.seq})
		}
	}
	a.records, a.bytes = nil, 0
	return out
}

func (a *Appender) find(seq quarry.Sequence) *unsettled {
	if len(a.records) == 0 || seq < a.records[0].seq {
		return nil
	}
	if i := int(seq - a.records[0].seq); i < len(a.records) {
		return &a.records[i]
	}
	return nil
}

// Clone returns a copy that shares nothing with a.
func (a *Appender) Clone() *Appender {
	c := *a
	c.records = slices.Clone(a.records)
	return &c
}
