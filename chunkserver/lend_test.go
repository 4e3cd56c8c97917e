package chunkserver

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/protocol"
	"github.com/quarryfs/quarry/rpc"
)

// edition is that of a server's replica of chunk A.
func edition(s *Server) uint64 { return s.cfg.Disks[0].Edition(chunkA) }

// vouched is what a server says of chunk A in the file that it is in, and vouchedFor of an edition.
func (w *world) vouched(s *Server, ref quarry.ChunkRef) quarry.Kind {
	w.t.Helper()
	return w.vouchedFor(s, ref, edition(s))
}

func (w *world) vouchedFor(s *Server, ref quarry.ChunkRef, edition uint64) quarry.Kind {
	w.t.Helper()
	other := quarry.ChunkRef{Handle: chunkA + 1, Capability: w.keys.Sign(s.cfg.Cluster, chunkA+1, quarry.RightRead)}
	reply, err := s.Vouch(w.t.Context(), &rpc.VouchRequest{Chunks: []rpc.LentChunk{{ChunkRef: other}, {ChunkRef: ref, Edition: edition}}})
	w.ok(err)
	if len(reply.Refused) != 2 || reply.Refused[0] != quarry.NotFound {
		w.t.Fatalf("%+v", reply)
	}
	return reply.Refused[1]
}

// TestVouch asks for a server's word through the life of a replica: it is given when, and only
// when, a read that is not validated would be answered.
func TestVouch(t *testing.T) {
	inWorld(t, func(w *world) {
		all := []quarry.SlotRange{{First: 0, Last: quarry.Slots - 1}}
		w.grants = []quarry.Grant{{Shard: 1, Term: 1, EndMS: 2000, ReadMS: 10000, Slots: all}}
		servers, _ := w.three()
		s := servers[0]
		says := func(s *Server, ref quarry.ChunkRef, want quarry.Kind) {
			w.t.Helper()
			if got := w.vouched(s, ref); got != want {
				w.t.Fatalf("the server's word is %v, want %v", got, want)
			}
			if ref.Capability.Key == 0 {
				return
			}
			_, err := s.Read(w.t.Context(), &quarry.ReadRequest{ChunkRef: ref, Length: quarry.ReadBytesMax})
			if got := quarry.KindOf(err); got != want {
				w.t.Fatalf("the server's word is %v, a read gets %v", want, got)
			}
		}
		w.pass(time.Second)
		says(s, w.ref(s, 1), quarry.NotFound)
		w.sealed(servers)
		says(s, w.ref(s, 2), 0)
		says(s, quarry.ChunkRef{Handle: chunkA, Version: 2}, quarry.Permission)
		// Without the masters the lease ends, and comes back with them.
		w.mu.Lock()
		grants := w.grants
		w.grants = nil
		w.mu.Unlock()
		w.pass(time.Duration(protocol.ReadLease) - 2*time.Second)
		says(s, w.ref(s, 2), 0)
		w.pass(3 * time.Second)
		says(s, w.ref(s, 2), quarry.Confirm)
		w.mu.Lock()
		w.grants = grants
		w.mu.Unlock()
		w.pass(time.Second)
		says(s, w.ref(s, 2), 0)
		// Broken bytes: a read still gets those that are sound, after a look at each.
		r, err := s.find(chunkA)
		w.ok(err)
		r.corrupt(quarry.Errorf("test", quarry.Corrupt, "", "found by somebody"))
		r.release()
		if got := w.vouched(s, w.ref(s, 2)); got != quarry.Corrupt {
			w.t.Fatalf("of a broken replica the word is %v", got)
		}
		// Dropped.
		w.ok(servers[1].Drop(w.t.Context(), &quarry.DropRequest{ChunkRef: w.ref(servers[1], 2)}))
		says(servers[1], w.ref(servers[1], 2), quarry.NotFound)
		w.ok(s.Close())
		if got, err := s.Vouch(w.t.Context(), &rpc.VouchRequest{Chunks: []rpc.LentChunk{{ChunkRef: w.ref(s, 2)}}}); err != nil || got.Refused[0] != quarry.Unavailable {
			w.t.Fatalf("a server that stops says %+v, %v", got, err)
		}
	})
}

// TestVouchOfAnotherFile: a server does not vouch for a file when its replica is in another one,
// whether that came in the place of broken bytes, after a drop, or with a restart.
func TestVouchOfAnotherFile(t *testing.T) {
	inWorld(t, func(w *world) {
		w.grants = []quarry.Grant{{Shard: 1, Term: 1, EndMS: 2000, ReadMS: 10000, Slots: []quarry.SlotRange{{First: 0, Last: quarry.Slots - 1}}}}
		servers, disks := w.three()
		w.pass(time.Second)
		data := w.sealed(servers)
		s := servers[0]
		before := edition(s)
		exchanged := func(how string) {
			t.Helper()
			if got := w.vouchedFor(s, w.ref(s, 2), before); got != quarry.StaleVersion {
				t.Fatalf("after %s the word on the file before is %v", how, got)
			}
			if got := w.vouched(s, w.ref(s, 2)); got != 0 {
				t.Fatalf("after %s the word on the file is %v", how, got)
			}
			before = edition(s)
		}
		again := func() {
			t.Helper()
			w.ok(w.copyTo(s, diskID(1, 0), int64(len(data)), servers[1]))
			w.ok(s.Add(w.t.Context(), &quarry.AddRequest{ChunkRef: w.ref(s, 2)}))
		}
		if got := w.vouchedFor(s, w.ref(s, 2), before); got != 0 {
			t.Fatalf("the word is %v", got)
		}
		r, err := s.find(chunkA)
		w.ok(err)
		r.corrupt(quarry.Errorf("test", quarry.Corrupt, "", "found by somebody"))
		r.release()
		w.reported() // when the disk knows, too
		again()
		exchanged("a repair")
		w.ok(s.Drop(w.t.Context(), &quarry.DropRequest{ChunkRef: w.ref(s, 2)}))
		if got := w.vouchedFor(s, w.ref(s, 2), before); got != quarry.NotFound {
			t.Fatalf("after a drop the word on the file before is %v", got)
		}
		again()
		exchanged("a drop and a copy")
		w.ok(s.Close())
		s = w.start(1, 0, disks[0])
		servers[0] = s
		w.pass(time.Second)
		exchanged("a restart")
	})
}

// Who is not on the machine gets no file.
func TestLendToOthers(t *testing.T) {
	inWorld(t, func(w *world) {
		servers, _ := w.three()
		w.sealed(servers)
		ref := w.ref(servers[0], 2)
		_, err := servers[0].Lend(context.Background(), &ref)
		w.is(err, quarry.Unsupported)
		if !strings.Contains(err.Error(), "same machine") {
			w.t.Fatal(err) // a disk in memory has no files to lend either
		}
	})
}

// What is durable here and not at all members is not lent.
func TestLendsWhatIsCommitted(t *testing.T) {
	inWorld(t, func(w *world) {
		servers, _ := w.three()
		w.open(servers[:2]...)
		w.appended(w.append(servers[0], 1, text(1000, 'x')), 0)
		w.mu.Lock()
		w.refuse = func(string, *quarry.PrepareRequest) error { return quarry.Unavailable }
		w.mu.Unlock()
		w.append(servers[0], 2, text(500, 'y'))
		w.pass(time.Second)
		ref := w.ref(servers[0], 1)
		r, n, err := servers[0].sound("lend", &ref)
		w.ok(err)
		defer r.release()
		if n != 1000 || r.member.DurableLength() != 1500 {
			w.t.Fatalf("%d bytes would be lent, of %d durable ones 1000 are committed", n, r.member.DurableLength())
		}
	})
}
