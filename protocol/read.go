package protocol

import (
	"sort"

	"github.com/quarryfs/quarry"
)

// readable is how far the replica may show its bytes: what is committed, or sealed. Bytes
// behind that may be durable here and yet never be the chunk's.
func (m *Member) readable() int64 {
	n := m.commit
	if m.durable.sealVersion != 0 {
		n = max(n, m.durable.sealLength)
	}
	if off(UncommittedRead) {
		n = m.r.DurableLength()
	}
	return n
}

// usable returns an error if there is no replica that could be looked at. Requests that only look need
// not be meant for this incarnation: what a replica may show is true whoever asks.
func (m *Member) usable(op string) error {
	if err := m.awake(op); err != nil {
		return err
	}
	switch m.state() {
	case quarry.ReplicaMissing:
		return quarry.Errorf(op, quarry.NotFound, m.r.Handle.String(), "there is no replica")
	case quarry.ReplicaLost:
		return quarry.Errorf(op, quarry.Unavailable, m.r.Handle.String(), "the replica is lost: its disk failed")
	}
	return nil
}

// Read tells how many bytes from the request's offset may be read, at most as many as it
// asks for. A request that is not validated needs the read lease besides: the server takes
// the bytes, then asks its [HeldLease], then answers.
func (m *Member) Read(req *quarry.ReadRequest) (int64, error) {
	n, err := m.Readable(req.Validated)
	if err != nil {
		return 0, err
	}
	if req.Offset < 0 || req.Length < 1 || req.Length > quarry.ReadBytesMax {
		return 0, quarry.Errorf("read", quarry.Invalid, m.r.Handle.String(), "%d bytes at %d", req.Length, req.Offset)
	}
	return max(0, min(req.Length, n-req.Offset)), nil
}

// Readable tells how many bytes of the replica reads may be given, by the rules of Read.
func (m *Member) Readable(validated bool) (int64, error) {
	if err := m.usable("read"); err != nil {
		return 0, err
	}
	switch {
	case !m.durable.serving || !m.r.Serving:
		return 0, quarry.Errorf("read", quarry.NotFound, m.r.Handle.String(), "the copy does not serve yet")
	case (m.durable.mutable || m.r.Mutable) && !validated:
		return 0, quarry.Errorf("read", quarry.StaleVersion, m.r.Handle.String(), "the file may be overwritten: ask the master for its layout first")
	}
	return m.readable(), nil
}

// End tells how far an open chunk is committed, if the member is the primary of the
// request's version. The reply says Confirm: the server clears that if, after this, its
// [HeldLease] still has the right.
func (m *Member) End(req *quarry.EndRequest) (*quarry.EndReply, error) {
	if err := m.ready("end", &req.ChunkRef); err != nil {
		return nil, err
	}
	v, p := req.Version, m.primary
	leads := p != nil && p.active && p.version == v
	if off(SecondaryAnswersEnd) {
		leads = leads || m.r.DurableLength() == m.commit
	}
	switch {
	case v < m.r.Promised && !(off(RoleKeptAtFence) && leads):
		return nil, quarry.Errorf("end", quarry.StaleVersion, m.r.Handle.String(), "version %d, promised is %d", v, m.r.Promised)
	case !leads:
		return nil, quarry.Errorf("end", quarry.NotPrimary, m.r.Handle.String(), "the server is not the primary of version %d", v)
	}
	n := m.commit
	if off(UncommittedRead) {
		n = m.r.DurableLength()
	}
	return &quarry.EndReply{Commit: n, Confirm: true}, nil
}

// Wait tells whether a wait is over: more than Offset bytes may be read here, or the chunk
// is sealed here. If not, it is asked again at the next [Advanced].
func (m *Member) Wait(req *quarry.WaitRequest) (reply quarry.WaitReply, over bool, err error) {
	if err := m.usable("wait"); err != nil {
		return reply, false, err
	}
	reply = quarry.WaitReply{Commit: m.readable(), Sealed: m.sealed()}
	return reply, reply.Sealed || reply.Commit > req.Offset, nil
}

// sealed reports whether the replica is sealed and was not opened again.
func (m *Member) sealed() bool {
	return m.durable.sealVersion > m.durable.logVersion
}

// RecordRuns returns a page of the runs of records that may be read here, beginning with
// the one that reaches over offset.
func (m *Member) RecordRuns(req *quarry.RecordsRequest) (*quarry.RecordsReply, error) {
	if err := m.usable("records"); err != nil {
		return nil, err
	}
	reply := &quarry.RecordsReply{Length: m.readable(), Forgotten: m.r.Forgotten}
	runs := m.r.Records.Runs()
	i := sort.Search(len(runs), func(k int) bool { return runEnd(&runs[k]) > req.Offset })
	for ; i < len(runs) && runs[i].Offset < reply.Length; i++ {
		if len(reply.Runs) == quarry.RecordRunsMax {
			reply.Next, reply.More = runs[i].Offset, true
			break
		}
		run := runs[i]
		run.Count = min(run.Count, uint64((reply.Length-run.Offset)/run.Length))
		reply.Runs = append(reply.Runs, run)
	}
	return reply, nil
}
