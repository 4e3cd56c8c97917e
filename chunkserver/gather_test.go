package chunkserver

import (
	"slices"
	"testing"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/protocol"
)

// TestGather puts two sealed chunks together, with borders of blocks in odd places; the second
// is at its second source only. Bytes and records are there, and it can be opened again.
func TestGather(t *testing.T) {
	inWorld(t, func(w *world) {
		servers, _ := w.three()
		first := w.sealed(servers) // chunkA, 160 KiB, at the first two
		const other, whole = chunkA + 1, chunkA + 2
		ref := func(s *Server, h quarry.Handle, v quarry.Version) quarry.ChunkRef {
			return quarry.ChunkRef{Handle: h, Version: v, Target: s.Incarnation(), Capability: w.keys.Sign(s.cfg.Cluster, h, everything)}
		}
		second, s := text(70_001, 'y'), servers[0]
		w.ok(s.Create(w.t.Context(), &quarry.CreateRequest{ChunkRef: ref(s, other, 1), Disk: member(s).Disk, File: 1}))
		w.ok(s.Activate(w.t.Context(), &quarry.ActivateRequest{ChunkRef: ref(s, other, 1), Members: members(servers[:1])}))
		c := make(chan answer, 1)
		s.Append(w.t.Context(), &quarry.AppendRequest{ChunkRef: ref(s, other, 1), Session: 5, Sequence: 2, Oldest: 2, Data: second, CRCs: sums(second)},
			func(reply *quarry.AppendReply, err error) { c <- answer{reply, err} })
		w.appended(c, 0)
		_, err := s.Fence(w.t.Context(), &quarry.FenceRequest{ChunkRef: ref(s, other, 2)})
		w.ok(err)
		_, err = s.Seal(w.t.Context(), &quarry.SealRequest{ChunkRef: ref(s, other, 2), Length: 70_001, WritableVersion: 1})
		w.ok(err)

		to, length := servers[2], int64(len(first)+len(second))
		req := &quarry.CopyRequest{
			ChunkRef: ref(to, whole, 2), Disk: member(to).Disk, Length: length, WritableVersion: 1, File: 1,
			Parts: []quarry.CopyPart{
				{Handle: chunkA, Version: 2, Length: int64(len(first)), Sources: members(servers[:2])},
				{Handle: other, Version: 2, Length: int64(len(second)), Sources: []quarry.Member{member(servers[1]), member(servers[0])}},
			},
		}
		bad := *req
		bad.Length--
		w.is(to.Copy(w.t.Context(), &bad), quarry.Invalid)
		bad = *req
		bad.Parts = []quarry.CopyPart{req.Parts[0], {Handle: other, Version: 2, Length: int64(len(second)), Sources: members(servers[1:2])}}
		w.is(to.Copy(w.t.Context(), &bad), quarry.NotFound)
		// Records that make no table: no byte of the parts is asked for.
		bad.Parts = []quarry.CopyPart{req.Parts[1], req.Parts[0]}
		w.damage = func(from string, _ *quarry.ReadReply) { w.t.Errorf("bytes are read from %s", from) }
		w.is(to.Copy(w.t.Context(), &bad), quarry.Invalid)
		w.damage = nil
		for range 2 { // the same request again
			w.ok(to.Copy(w.t.Context(), req))
		}
		// It is read without ADD: the leader may be gone when the log names the chunk.
		want := slices.Concat(first, second)
		got, err := to.Read(w.t.Context(), &quarry.ReadRequest{ChunkRef: ref(to, whole, 2), Length: quarry.ReadBytesMax, Validated: true, Into: make([]byte, quarry.ReadBytesMax)})
		w.ok(err)
		if !slices.Equal(got.Data, want) || !slices.Equal(blockSums(want, 0), got.CRCs) {
			t.Fatalf("%d bytes are read, want %d", len(got.Data), len(want))
		}
		fates, err := to.Fate(w.t.Context(), &quarry.FateRequest{ChunkRef: ref(to, whole, 2), Length: length, Session: 5, Sequences: []quarry.Sequence{1, 2, 3}})
		w.ok(err)
		if f := fates.Fates; f[0].Offset != 0 || f[1].Offset != int64(len(first)) || f[2].State != quarry.FateAbsent {
			t.Fatalf("fates %+v", f)
		}
		w.ok(to.Reopen(w.t.Context(), &quarry.ReopenRequest{ChunkRef: ref(to, whole, 3), Base: length, PrevWritableVersion: 1}))
	})
}

// TestGatherBounds: the records of all parts together are no more than a chunk may have.
func TestGatherBounds(t *testing.T) {
	empty := func() *gathering {
		return &gathering{req: &quarry.CopyRequest{}, known: map[quarry.SessionID]bool{}}
	}
	g := empty()
	runs := make([]quarry.RecordRun, protocol.RunsMax/2)
	for i := range 2 {
		if err := g.add(runs, []quarry.SessionID{1, 2}, 100); err != nil {
			t.Fatal(err)
		}
		if at := g.runs[i*len(runs)].Offset; at != int64(i)*100 || len(g.forgotten) != 2 {
			t.Fatalf("part %d begins at %d, %d sessions are forgotten", i, at, len(g.forgotten))
		}
	}
	if err := g.add(runs[:1], nil, 100); quarry.KindOf(err) != quarry.TooLarge || len(g.runs) != protocol.RunsMax {
		t.Errorf("%d runs, error %v", len(g.runs), err)
	}
	g = empty()
	ids := make([]quarry.SessionID, protocol.ForgottenMax)
	for i := range ids {
		ids[i] = quarry.SessionID(i + 1)
	}
	for range 2 {
		if err := g.add(nil, ids, 100); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.add(nil, []quarry.SessionID{1 << 40}, 100); quarry.KindOf(err) != quarry.TooLarge || len(g.forgotten) != protocol.ForgottenMax {
		t.Errorf("%d sessions are forgotten, error %v", len(g.forgotten), err)
	}
}
