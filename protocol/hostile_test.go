package protocol

import (
	"math"
	"math/rand"
	"testing"

	"github.com/quarryfs/quarry"
)

// odd draws numbers that are often at a limit.
type odd struct{ *rand.Rand }

func (r odd) number() int64 {
	edges := [...]int64{
		0, 1, 2, 3, 10, -1, quarry.PacketBytes, quarry.RecordBytesMax, quarry.RecordBytesMax + 1, quarry.ChunkBytesMax,
		quarry.ChunkBytesMax + 1, math.MaxInt64, math.MinInt64,
	}
	return edges[r.Intn(len(edges))] + int64(r.Intn(2))
}

func (r odd) ref() quarry.ChunkRef {
	return quarry.ChunkRef{Handle: 7, Version: quarry.Version(r.Intn(6)), Target: quarry.Incarnation(1 + r.Intn(12)/11)}
}

func (r odd) header() quarry.RecordHeader {
	length := int64(1 + r.Intn(20))
	if r.Intn(10) == 0 {
		length = r.number()
	}
	return quarry.RecordHeader{Session: quarry.SessionID(r.Intn(3)), Sequence: quarry.Sequence(r.Intn(8)), Length: length}
}

// TestHostileRequests sends a member whatever can be sent. It never panics, its changes
// always replay, and the disk they make is what the member believes.
func TestHostileRequests(t *testing.T) {
	for seed := range int64(4000) {
		r := odd{rand.New(rand.NewSource(seed))}
		m, disk := NewMember(7, 1, 1), Replica{Handle: 7}
		var queue []Persist
		take := func(out []Effect) {
			for _, e := range out {
				if p, ok := e.(Persist); ok {
					queue = append(queue, p)
				}
			}
		}
		for range 60 {
			if len(queue) > 0 && r.Intn(2) == 0 {
				p := queue[0]
				queue = queue[1:]
				if err := disk.Apply(&p.Change); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				take(m.Durable(p.Ticket))
			} else {
				out := hostile(r, m)
				if m.status == quarry.ReplicaLost && len(m.pending) == 0 {
					queue, disk = nil, Replica{Handle: 7} // what comes goes to another disk
				}
				take(out)
			}
			if info := m.Info(); info.Status == quarry.ReplicaGood {
				want := RecoverMember(disk, 1, 1).Info()
				if info != want {
					t.Fatalf("seed %d: the member says %+v, its disk %+v", seed, info, want)
				}
			}
			look(r, m)
		}
	}
}

func hostile(r odd, m *Member) []Effect {
	switch ref := r.ref(); r.Intn(15) {
	case 0:
		return m.Create(1, &quarry.CreateRequest{ChunkRef: ref, Mutable: r.Intn(2) == 0})
	case 1:
		members := []quarry.Member{{Server: 1, Incarnation: 1}, {Server: quarry.ServerID(1 + r.Intn(3))}, {Server: 4}}
		return m.Activate(1, &quarry.ActivateRequest{ChunkRef: ref, Members: members[:r.Intn(4)], Base: int64(r.Intn(20) / 19)})
	case 2, 3, 4:
		return m.Append(1, &ref, quarry.Sequence(r.Intn(4)), r.header())
	case 5, 6:
		req := &quarry.PrepareRequest{ChunkRef: ref, Batch: uint64(r.Intn(4)), Offset: m.r.DurableLength(), Commit: r.number()}
		if r.Intn(4) == 0 {
			req.Offset = r.number()
		}
		for range r.Intn(3) {
			req.Records = append(req.Records, r.header())
		}
		return m.Prepare(1, req)
	case 7:
		return m.Acknowledged(ref.Version, []quarry.MemberLength{{Server: quarry.ServerID(r.Intn(5)), Length: r.number()}})
	case 8:
		out, _ := m.Commit(&quarry.CommitRequest{ChunkRef: ref, Commit: r.number()})
		return out
	case 9:
		return m.Fence(1, &quarry.FenceRequest{ChunkRef: ref})
	case 10:
		req := &quarry.SealRequest{ChunkRef: ref, Length: m.durable.length, WritableVersion: quarry.Version(r.Intn(6)), PrevWritableVersion: quarry.Version(r.Intn(4))}
		if r.Intn(3) == 0 {
			req.Length = r.number()
		}
		return m.Seal(1, req)
	case 11:
		table := &Records{}
		for i := range int64(r.Intn(3)) {
			_ = table.Append(Record{1, quarry.Sequence(i + 1), i * 10, 10})
		}
		req := &quarry.CopyRequest{ChunkRef: ref, Length: table.Length() + int64(r.Intn(4)/3), WritableVersion: quarry.Version(r.Intn(6))}
		return m.Copied(1, req, table, nil)
	case 12:
		if r.Intn(2) == 0 {
			return m.Add(1, &quarry.AddRequest{ChunkRef: ref})
		}
		return m.Drop(1, &quarry.DropRequest{ChunkRef: ref})
	case 13:
		req := &quarry.ReopenRequest{ChunkRef: ref, Base: m.r.SealLength, PrevWritableVersion: m.r.LogVersion}
		if r.Intn(4) > 0 {
			req.Version = m.r.SealVersion + 1
		} else {
			req.Base, req.PrevWritableVersion = r.number(), quarry.Version(r.Intn(6))
		}
		return m.Reopen(1, req)
	}
	switch r.Intn(8) {
	case 0:
		return m.Fail()
	case 1:
		m.Corrupt()
		return nil
	case 2:
		return m.Resend()
	case 3:
		return m.Promise(1, quarry.Version(r.Intn(6)))
	}
	return m.Forget(1, quarry.SessionID(r.Intn(3)))
}

func look(r odd, m *Member) {
	ref := r.ref()
	_, _ = m.Fate(&quarry.FateRequest{ChunkRef: ref, Length: r.number(), Session: 1, Sequences: []quarry.Sequence{0, 1, 2}})
	_, _ = m.Read(&quarry.ReadRequest{ChunkRef: ref, Offset: r.number(), Length: r.number()})
	_, _ = m.End(&quarry.EndRequest{ChunkRef: ref})
	_, _, _ = m.Wait(&quarry.WaitRequest{ChunkRef: ref, Offset: r.number()})
	_, _ = m.RecordRuns(&quarry.RecordsRequest{ChunkRef: ref, Offset: r.number()})
}

// FuzzReplay: no journal, however broken, makes a replica panic or contradict itself.
func FuzzReplay(f *testing.F) {
	f.Add([]byte{1, 1, 0, 2, 1, 5, 3, 2, 0, 5, 2, 5})
	f.Add([]byte{1, 1, 0, 2, 1, 5, 5, 2, 5, 10, 3, 5, 2, 3, 5, 5, 4, 10})
	f.Add([]byte{6, 2, 9, 7, 2, 0, 9, 1, 0, 8, 2, 0, 1, 1, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		r := Replica{Handle: 7}
		for ; len(data) >= 3; data = data[3:] {
			c := Change{
				Kind: ChangeKind(data[0]), Version: quarry.Version(data[1]), WritableVersion: quarry.Version(data[1]) - 1,
				Length: int64(data[2]), Session: quarry.SessionID(data[2] % 4), Mutable: data[2]&1 == 1,
			}
			for i := range int64(data[2] % 3) {
				c.Records = append(c.Records, Record{quarry.SessionID(data[1] % 4), quarry.Sequence(data[2]), r.DurableLength() + i*int64(data[1]), int64(data[1])})
			}
			if data[2]&2 == 2 {
				c.Table, _ = &Records{}, c.Records
				for i := range c.Length / 5 {
					_ = c.Table.Append(Record{1, quarry.Sequence(i + 1), i * 5, 5})
				}
			}
			before := r.Promised
			if err := r.Apply(&c); err != nil {
				return // a journal that does not replay is refused
			}
			if r.Exists && (r.Promised < before || r.SealVersion != 0 && r.DurableLength() < r.SealLength) {
				t.Fatalf("%+v after %+v", r, c)
			}
			if again, err := MakeRecords(r.Records.Runs()); err != nil || !again.Equal(&r.Records) {
				t.Fatalf("the records are no table: %v", err)
			}
		}
	})
}
