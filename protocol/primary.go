package protocol

import (
	"slices"
	"sort"

	"github.com/quarryfs/quarry"
)

const (
	// flightBytesMax bounds the bytes that are shipped and not committed. One batch may
	// always be in flight, so that the largest record can pass.
	flightBytesMax = 16 << 20
	// takenBytesMax bounds the bytes that are taken and not committed; beyond it APPEND is
	// answered with Busy.
	takenBytesMax = 32 << 20
	// takenMax bounds the records that are taken and not committed.
	takenMax = 16 << 10
	// BatchRecordsMax bounds the records of one batch.
	BatchRecordsMax = 1024
	// callsMax bounds the requests that wait for one record, which are resends of one append.
	callsMax = 4
)

// Primary is the role of the member that orders the appends of one version. It lives in
// its [Member] and in memory only: from ACTIVATE until a higher version is promised.
//
// Records are taken in the order in which they come, and get their offset at once. They are
// shipped in batches: one that is full leaves at once, one that is not waits while another
// is in flight, so that while one batch is synced the next one fills.
type Primary struct {
	version quarry.Version
	members []quarry.Member // as ACTIVATE named them; the first is this one
	base    int64
	active  bool // adopted is durable

	acked   []int64 // durable length of each member
	taken   []taken // records not committed, by offset
	shipped int64   // end of the last batch that was shipped
	batch   uint64  // its number
	flights []flight
	full    bool // a record did not fit: nothing more is taken in this version
}

// taken is a record that waits for its commit, with the requests that wait for it.
type taken struct {
	rec   Record
	crcs  []uint32
	calls []Call // the first one brought the bytes
}

// flight is a batch that is shipped and not committed.
type flight struct {
	batch   uint64
	offset  int64
	end     int64
	records []quarry.RecordHeader
	calls   []Call
}

func newPrimary(v quarry.Version, members []quarry.Member, base int64) *Primary {
	return &Primary{version: v, members: slices.Clone(members), base: base, acked: make([]int64, len(members)), shipped: base}
}

// Version returns the version that the role is of.
func (p *Primary) Version() quarry.Version { return p.version }

// Members returns the members of the version in the order of the chain, the primary first.
// The caller does not change them.
func (p *Primary) Members() []quarry.Member { return p.members }

// Quiet reports whether the role has begun and no record waits for its commit.
func (p *Primary) Quiet() bool { return p.active && len(p.taken) == 0 }

// Behind returns the members that have not acknowledged the last shipped byte.
func (p *Primary) Behind() []quarry.ServerID {
	var out []quarry.ServerID
	for i, n := range p.acked {
		if n < p.shipped {
			out = append(out, p.members[i].Server)
		}
	}
	return out
}

// Others returns the length that is durable at all members but this one; 0 if it is alone.
func (p *Primary) Others() int64 {
	if len(p.acked) < 2 {
		return 0
	}
	return slices.Min(p.acked[1:])
}

// Acknowledged is the event that members are durable up to some lengths, as the answer to a
// PREP of version v tells.
func (m *Member) Acknowledged(v quarry.Version, lengths []quarry.MemberLength) []Effect {
	p := m.primary
	if p == nil || p.version != v && !off(OldAckCounted) {
		return nil
	}
	for _, l := range lengths {
		i := slices.IndexFunc(p.members, func(q quarry.Member) bool { return q.Server == l.Server })
		if i > 0 { // its own length it knows itself
			p.acked[i] = max(p.acked[i], l.Length)
		}
	}
	return m.advance(nil)
}

// Resend ships every batch again that is not committed, for members that lost it. The
// batches are in order; a member that has one already answers it again.
func (m *Member) Resend() []Effect {
	p := m.primary
	if p == nil {
		return nil
	}
	var out []Effect
	for i := range p.flights {
		out = append(out, m.ship(&p.flights[i]))
	}
	return out
}

// advance commits what all members have, answers the appends that waited for it, and
// ships what there is room for.
func (m *Member) advance(out []Effect) []Effect {
	p := m.primary
	if !p.active || p.version != m.r.Promised && !off(RoleKeptAtFence) {
		return out
	}
	if low := p.lowest(m); low > m.commit {
		m.commit = low
		n := 0
		for ; n < len(p.taken) && p.taken[n].rec.End() <= low; n++ {
			for _, c := range p.taken[n].calls {
				out = append(out, Answer{Call: c, Reply: &quarry.AppendReply{Offset: p.taken[n].rec.Offset}})
			}
		}
		p.taken = slices.Delete(p.taken, 0, n)
		n = 0
		for n < len(p.flights) && p.flights[n].end <= low {
			n++
		}
		p.flights = slices.Delete(p.flights, 0, n)
		out = append(out, Advanced{Commit: m.commit})
	}
	return m.fill(out)
}

// lowest is the length that every member of the version has.
func (p *Primary) lowest(m *Member) int64 {
	acked := slices.Clone(p.acked)
	if off(AckBeforeSync) {
		acked[0] = p.shipped
	}
	slices.Sort(acked)
	if off(Majority) && len(acked) > 1 {
		return min(acked[1], m.written)
	}
	return min(acked[0], m.written)
}

// Singly has every batch carry one record, and wait until the one before is committed: what
// group commit is measured against.
func (m *Member) Singly() { m.single = true }

// fill ships batches while there are records and room.
func (m *Member) fill(out []Effect) []Effect {
	p := m.primary
	for {
		at := sort.Search(len(p.taken), func(i int) bool { return p.taken[i].rec.Offset >= p.shipped })
		wait := p.taken[at:]
		n, size, full := m.nextBatch(wait)
		inFlight := p.inFlight()
		if n == 0 || inFlight > 0 && (!full || inFlight+size > flightBytesMax) {
			return out
		}
		out = m.launch(out, wait[:n], size)
	}
}

// nextBatch tells how many of the waiting records make the next batch, their bytes, and
// whether the batch is full: that it need not wait for more.
func (m *Member) nextBatch(wait []taken) (n int, size int64, full bool) {
	most := BatchRecordsMax
	if m.single {
		most = 1
	}
	for n < len(wait) && n < most && (n == 0 || size+wait[n].rec.Length <= quarry.PacketBytes) {
		size += wait[n].rec.Length
		n++
	}
	return n, size, !m.single && (n < len(wait) || n == most || size >= quarry.PacketBytes)
}

func (p *Primary) inFlight() int64 {
	if len(p.flights) == 0 {
		return 0
	}
	return p.shipped - p.flights[0].offset
}

// launch makes a batch of records, writes it here and ships it.
func (m *Member) launch(out []Effect, wait []taken, size int64) []Effect {
	p := m.primary
	f := flight{batch: p.batch + 1, offset: p.shipped, end: p.shipped + size}
	c := Change{Kind: ChangeBatch, Version: p.version}
	for _, t := range wait {
		f.records = append(f.records, quarry.RecordHeader{Session: t.rec.Session, Sequence: t.rec.Sequence, Length: t.rec.Length, CRCs: t.crcs})
		f.calls = append(f.calls, t.calls[0])
		c.Records = append(c.Records, t.rec)
	}
	p.batch, p.shipped = f.batch, f.end
	p.flights = append(p.flights, f)
	m.written = f.end
	out = m.ticket(out, c, f.calls)
	if len(p.members) > 1 {
		out = append(out, m.ship(&f))
	}
	return out
}

func (m *Member) ship(f *flight) Effect {
	p := m.primary
	return Ship{Calls: f.calls, Request: quarry.PrepareRequest{
		ChunkRef: quarry.ChunkRef{Handle: m.r.Handle, Version: p.version},
		Batch:    f.batch, Offset: f.offset, Commit: m.commit, Records: f.records,
	}}
}

// depose ends the role: what was taken and not shipped is forgotten, and nobody is told
// that anything he waits for was or was not appended.
func (m *Member) depose(out []Effect, kind quarry.Kind, why string) []Effect {
	p := m.primary
	if p == nil {
		return out
	}
	for _, t := range p.taken {
		for _, c := range t.calls {
			out = append(out, m.error("append", c, kind, "%s; ask the sealed chunk what became of the record", why))
		}
	}
	m.r.Records.Cut(p.shipped)
	m.primary = nil
	return append(out, Deposed{p.version})
}

func (p *Primary) clone() *Primary {
	if p == nil {
		return nil
	}
	c := *p
	c.acked, c.flights = slices.Clone(p.acked), slices.Clone(p.flights)
	c.taken = slices.Clone(p.taken)
	for i := range c.taken {
		c.taken[i].calls = slices.Clone(c.taken[i].calls)
	}
	return &c
}
