package chunkserver

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
)

func (w *world) Inventory(_ context.Context, req *quarry.InventoryRequest) (*quarry.InventoryReply, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.inventories = append(w.inventories, req)
	return &quarry.InventoryReply{Drop: w.drops}, nil
}

// Rot in a replica at rest, that nobody reads, is found by the scrub and reported once.
func TestScrubFindsRot(t *testing.T) {
	inWorld(t, func(w *world) {
		servers, disks := w.three()
		w.sealed(servers)
		f, err := disks[0].Open("chunks/10/" + chunkA.String())
		w.ok(err)
		_, err = f.WriteAt([]byte{'y'}, 150<<10)
		w.ok(err)
		w.pass(2*scrubPause + time.Minute)
		if r := w.reported(); len(r) != 1 || !r[0].Corrupt || r[0].Suspects[0].Server != 1 {
			t.Fatalf("reports %+v", r)
		}
		if reply := w.fence(servers[1], 2); reply.Status != quarry.ReplicaGood {
			t.Fatalf("the sound one: %+v", reply)
		}
	})
}

// The inventory names every replica, and what the master does not know is dropped, but not
// what has promised more than the master says.
func TestInventoryDropsWhatIsNotKnown(t *testing.T) {
	inWorld(t, func(w *world) {
		servers, _ := w.three()
		w.sealed(servers)
		s := servers[0]
		tell := func() { w.ok(s.tell(w.t.Context(), 1, 1, ^quarry.Handle(0))) }
		w.drops = []quarry.Item{{Kind: quarry.ItemDrop, Handle: chunkA, Version: 1}, {Kind: quarry.ItemDrop, Handle: chunkA + 1, Version: 9}}
		tell()
		w.holds(s, 2, text(160<<10, 'x'))
		w.drops = []quarry.Item{{Kind: quarry.ItemDrop, Handle: chunkA, Version: 2}}
		tell()
		_, err := w.read(s, 2, true)
		w.is(err, quarry.NotFound)
		w.drops = nil
		tell()
		told := w.inventories
		if i := told[0].Replicas; len(i) != 1 || i[0].Handle != chunkA || i[0].SealVersion != 2 || i[0].Length != 160<<10 || i[0].Disk != diskID(1, 0) {
			t.Fatalf("%+v", i)
		}
		if last := told[len(told)-1]; len(last.Replicas) != 0 || last.From != 1 || last.To != ^quarry.Handle(0) {
			t.Fatalf("%+v", last)
		}
	})
}

// A wait ends with the next commit, with the seal, in its time, and with the server.
func TestWait(t *testing.T) {
	inWorld(t, func(w *world) {
		servers, _ := w.three()
		w.open(servers...)
		s := servers[2] // a secondary
		begin := func(ctx context.Context, offset int64) *atomic.Pointer[quarry.WaitReply] {
			var got atomic.Pointer[quarry.WaitReply]
			go func() {
				reply, err := s.Wait(ctx, &quarry.WaitRequest{ChunkRef: w.ref(s, 1), Offset: offset})
				if err != nil {
					reply = &quarry.WaitReply{Commit: -1}
				}
				got.Store(reply)
			}()
			synctest.Wait()
			return &got
		}
		ctx := w.t.Context()
		got := begin(ctx, 0)
		if got.Load() != nil {
			t.Fatal("a wait for nothing is over")
		}
		w.appended(w.append(servers[0], 1, []byte("abc")), 0)
		w.pass(10 * time.Millisecond)
		if r := got.Load(); r == nil || r.Commit != 3 || r.Sealed {
			t.Fatalf("after a commit: %+v", r)
		}
		short, cancel := clock.Simulated().WithTimeout(ctx, time.Second)
		defer cancel()
		got = begin(short, 3)
		w.pass(time.Second)
		if r := got.Load(); r == nil || r.Commit != 3 {
			t.Fatalf("after its time: %+v", r)
		}
		got = begin(ctx, 3)
		w.seal(3, servers...)
		synctest.Wait()
		if r := got.Load(); r == nil || !r.Sealed || r.Commit != 3 {
			t.Fatalf("after the seal: %+v", r)
		}
	})
}

// A lease of a leader of an older term is none, and that of another shard is of no use.
func TestLeaseOfAnOlderTerm(t *testing.T) {
	var l leases
	grant := &quarry.Grant{Shard: 1, Term: 5, Slots: []quarry.SlotRange{{First: 0, Last: 9}}, EndMS: 2000, ReadMS: 10000}
	l.granted(grant, 1, 1e9)
	if !l.holds(3, 0, 2e9) || l.holds(10, 0, 2e9) || l.holds(3, 0, 4e9) || !l.holds(3, 1, 4e9) {
		t.Fatal("a lease counts from the sending, for its slots, each right for its time")
	}
	old := *grant
	old.Term = 4
	l.granted(&old, 2, 9e9)
	if l.holds(3, 0, 10e9) {
		t.Fatal("a leader of an older term granted a lease")
	}
	root := *grant
	root.Shard = quarry.RootShard
	l.granted(&root, 3, 9e9)
	if l.holds(3, 0, 10e9) {
		t.Fatal("the root group granted a lease")
	}
}

// A copy keeps to the rate that it is given.
func TestCopyKeepsItsRate(t *testing.T) {
	inWorld(t, func(w *world) {
		servers, _ := w.three()
		data := w.sealed(servers)
		start := clock.Simulated().Now()
		w.ok(servers[2].Copy(w.t.Context(), &quarry.CopyRequest{
			ChunkRef: w.ref(servers[2], 2), Disk: diskID(3, 0), Length: int64(len(data)), WritableVersion: 1, File: 1,
			Sources: members(servers[:1]), BytesPerSecond: 16 << 10,
		}))
		if d := clock.Simulated().Now().Sub(start); d < 10*time.Second || d > 11*time.Second {
			t.Fatalf("160 KiB at 16 KiB/s took %v", d)
		}
	})
}
