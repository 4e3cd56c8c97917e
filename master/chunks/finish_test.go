package chunks

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
)

func (w *world) allocate(seq quarry.Sequence, n int) (*quarry.AllocateReply, error) {
	return w.lead().Allocate(w.ctx, &quarry.AllocateRequest{
		Op: quarry.Op{Session: w.session, Sequence: seq, Oldest: 1}, Near: quarry.RootInode, Count: n, Hint: "/a",
	})
}

func TestAllocateOnceAndFinish(t *testing.T) {
	inWorld(t, 4, func(w *world) {
		reply, err := w.allocate(500, 5)
		if err != nil || len(reply.Chunks) != 5 {
			t.Fatalf("%+v, %v", reply, err)
		}
		again, err := w.allocate(500, 5)
		if err != nil || len(again.Chunks) != 5 || again.Chunks[0].Handle != reply.Chunks[0].Handle {
			t.Fatalf("again: %+v, %v", again, err)
		}
		w.pass(100 * time.Millisecond)
		replicas := 0
		for id := range 4 {
			replicas += len(w.net.server(quarry.ServerID(id + 1)).inventory(0).Replicas)
		}
		if replicas != 15 {
			t.Errorf("%d replicas, want 15: those of the second attempt are garbage", replicas)
		}
		for _, c := range reply.Chunks {
			w.append(c, 1000)
			done, err := w.lead().Finish(w.ctx, &quarry.FinishRequest{Session: w.session, Handle: c.Handle, Version: c.Version})
			if err != nil {
				t.Fatal(err)
			}
			if got := done.Chunk; got.State != quarry.ChunkSealed || got.Length != 1000 || len(got.Members) != 3 || !got.CRCKnown || !w.holds(c.Handle, 3) {
				t.Errorf("%+v", got)
			}
		}
		c := reply.Chunks[0]
		w.propose(&meta.Link{Parent: quarry.RootInode, Name: "a", Pieces: []quarry.LinkPiece{{Handle: c.Handle, Length: 1000}}})
		done, err := w.lead().Finish(w.ctx, &quarry.FinishRequest{Session: w.session, Handle: c.Handle, Version: c.Version})
		if err != nil || done.Chunk.Length != 1000 {
			t.Errorf("finish of what is sealed: %+v, %v", done, err)
		}
	})
}

// A caller that gives up while its chunks are being logged leaves no handle in the making: its
// replicas would be kept from every inventory for as long as the term lasts.
func TestAllocateGivenUp(t *testing.T) {
	inWorld(t, 4, func(w *world) {
		ctx, giveUp := context.WithCancel(w.ctx)
		defer giveUp()
		w.log.setFault(func(b meta.Body) error {
			if _, ok := b.(*meta.OpenOwned); ok {
				giveUp()
			}
			return nil
		})
		_, _ = w.lead().Allocate(ctx, &quarry.AllocateRequest{
			Op: quarry.Op{Session: w.session, Sequence: 500, Oldest: 1}, Near: quarry.RootInode, Count: 2, Hint: "/a",
		}) // whatever it says, nobody hears it
		if left := w.lead().handles.inHand(); len(left) > 0 || ctx.Err() == nil {
			t.Errorf("%d handles are still in the making", len(left))
		}
	})
}

func TestFinishWithADeadMember(t *testing.T) {
	inWorld(t, 4, func(w *world) {
		reply, err := w.allocate(500, 1)
		if err != nil {
			t.Fatal(err)
		}
		c := reply.Chunks[0]
		w.append(c, 1000)
		w.server(c.Members[1]).kill()
		took := w.timed(func() {
			done, err := w.lead().Finish(w.ctx, &quarry.FinishRequest{Session: w.session, Handle: c.Handle, Version: c.Version})
			if err != nil || done.Chunk.Length != 1000 || len(done.Chunk.Members) != 2 {
				t.Errorf("%+v, %v", done, err)
			}
		})
		if took > 500*time.Millisecond {
			t.Errorf("it took %v", took)
		}
	})
}

func TestFinishOfWhatIsNotTheSessions(t *testing.T) {
	inWorld(t, 4, func(w *world) {
		_, c := w.open("a")
		_, err := w.lead().Finish(w.ctx, &quarry.FinishRequest{Session: w.session, Handle: c.Handle, Version: c.Version})
		if !errors.Is(err, quarry.NotFound) {
			t.Errorf("a file's tail: %v", err)
		}
		reply, err := w.allocate(500, 1)
		if err != nil {
			t.Fatal(err)
		}
		_, err = w.lead().Finish(w.ctx, &quarry.FinishRequest{Session: w.session, Handle: reply.Chunks[0].Handle, Version: 3})
		if !errors.Is(err, quarry.StaleVersion) {
			t.Errorf("another version: %v", err)
		}
		for _, n := range []int{0, 65} {
			if _, err := w.allocate(501, n); !errors.Is(err, quarry.Invalid) {
				t.Errorf("%d chunks: %v", n, err)
			}
		}
	})
}

func TestChunksOfAnExpiredSessionAreFreed(t *testing.T) {
	inWorldOf(t, 4, Config{SessionExpiry: 2 * time.Minute, TrashAfter: always(5 * time.Minute)}, func(w *world) {
		reply, err := w.allocate(500, 2)
		if err != nil {
			t.Fatal(err)
		}
		h := reply.Chunks[0].Handle
		w.append(reply.Chunks[0], 1000)
		w.pass(110 * time.Second)
		if w.record(h).State != quarry.ChunkOpen {
			t.Fatal("the session has expired early")
		}
		// No file has ever named it: its space is not kept with the trash.
		w.until("its record is gone", 30*time.Second, func() bool {
			w.state.mu.Lock()
			defer w.state.mu.Unlock()
			n := meta.Totals(w.state.kv)
			return n.Chunks == 0 && n.Items == 0
		})
		for id := range 4 {
			if got := w.net.server(quarry.ServerID(id + 1)).inventory(0).Replicas; len(got) != 0 {
				t.Errorf("server %d has %v", id+1, got)
			}
		}
	})
}

func TestRemovedFileIsCollectedSoonerWhenSpaceIsShort(t *testing.T) {
	inWorldOf(t, 3, Config{SessionExpiry: time.Minute, TrashAfter: always(time.Hour)}, func(w *world) {
		rec := w.sealed("a")
		w.propose(&meta.Remove{Parent: quarry.RootInode, Name: "a"})
		for id := range 3 {
			s := w.net.server(quarry.ServerID(id + 1))
			s.mu.Lock()
			s.free = 1 << 20
			s.mu.Unlock()
		}
		w.pass(10 * time.Minute)
		if w.record(rec.Handle) == nil {
			t.Fatal("it is collected while sessions may ask for fates")
		}
		w.pass(70 * time.Second)
		if w.record(rec.Handle) != nil {
			t.Error("it is not collected")
		}
	})
}

func TestOpenTailOfARemovedFileIsSealed(t *testing.T) {
	inWorld(t, 3, func(w *world) {
		_, c := w.open("a")
		r := w.propose(&meta.Remove{Parent: quarry.RootInode, Name: "a"})
		w.lead().Orphans(r.Orphans)
		w.until("it is sealed", time.Second, func() bool { return w.record(c.Handle).State == quarry.ChunkSealed })
		_, c = w.open("b")
		w.propose(&meta.Remove{Parent: quarry.RootInode, Name: "b"}) // and nobody tells
		w.until("it is found and sealed", 10*time.Second, func() bool { return w.record(c.Handle).State == quarry.ChunkSealed })
	})
}

func TestStatus(t *testing.T) {
	inWorld(t, 4, func(w *world) {
		w.sealed("a")
		w.open("b")
		s, err := w.lead().Status()
		if err != nil || s.Term != 1 || s.Inodes != 3 || s.Chunks != 3 || s.OpenChunks != 2 || s.UnderCopied != 0 {
			t.Errorf("%+v, %v", s, err)
		}
		list := w.lead().ServerStatus()
		if len(list) != 4 || list[2].Server != 3 || list[2].SilentMS > 500 || list[2].Address != addressOf(3) {
			t.Errorf("%+v", list)
		}
	})
}
