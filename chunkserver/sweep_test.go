package chunkserver

import (
	"bytes"
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/disk"
)

// life is the life of a replica at a server whose disk fails in the midst of it.
type life struct {
	w       *world
	s       *Server // the primary; its disk fails
	peer    *Server
	created bool
	acked   int64
	holds   bool
	dropped bool // or may have been
	full    bool // the disk is only full
}

// live goes through everything that is done to a replica. Each step may fail; none may hang.
func (l *life) live() {
	w, s, ctx := l.w, l.s, l.w.t.Context()
	l.created = s.Create(ctx, &quarry.CreateRequest{ChunkRef: w.ref(s, 1), Disk: diskID(1, 0), File: 1}) == nil
	w.ok(l.peer.Create(ctx, &quarry.CreateRequest{ChunkRef: w.ref(l.peer, 1), Disk: diskID(2, 0), File: 1}))
	if !l.created || s.Activate(ctx, &quarry.ActivateRequest{ChunkRef: w.ref(s, 1), Members: members([]*Server{s, l.peer})}) != nil {
		return
	}
	for i := range 3 {
		c := w.append(s, quarry.Sequence(i+1), text(100<<10, byte('a'+i))) // beyond what the journal carries
		w.pass(time.Second)
		select {
		case a := <-c:
			if a.err == nil {
				l.acked += 100 << 10
			}
		default: // it waits for a fence
		}
	}
	if _, err := s.Fence(ctx, &quarry.FenceRequest{ChunkRef: w.ref(s, 2)}); err != nil {
		return
	}
	w.pass(time.Second)
	reply, err := s.Seal(ctx, &quarry.SealRequest{ChunkRef: w.ref(s, 2), Length: l.acked, WritableVersion: 1})
	l.holds = err == nil && reply.Holds
	l.check(s)
}

// check requires that the replica says nothing of itself that is not so.
func (l *life) check(s *Server) {
	w := l.w
	w.t.Helper()
	synctest.Wait()
	reply, err := s.Fence(w.t.Context(), &quarry.FenceRequest{ChunkRef: w.ref(s, 2)})
	if err != nil {
		return
	}
	switch {
	case l.dropped:
	case l.full && reply.Status == quarry.ReplicaLost:
		w.t.Errorf("lost on a disk that is full")
	case reply.Status == quarry.ReplicaMissing && l.acked > 0:
		w.t.Errorf("no replica, though %d bytes were acknowledged", l.acked)
	case reply.Status != quarry.ReplicaGood:
		return
	case reply.DurableLength < l.acked:
		w.t.Errorf("a good replica of %d bytes, %d were acknowledged", reply.DurableLength, l.acked)
	}
	if !l.holds || l.dropped {
		return
	}
	if reply.SealVersion != 2 || reply.SealLength != l.acked {
		w.t.Errorf("the seal that it held is gone: %+v", reply)
	}
	if data, err := w.read(s, 2, true); err == nil && !bytes.Equal(data, l.bytes()) {
		w.t.Errorf("%d bytes are read, and not those that were acknowledged", len(data))
	}
}

func (l *life) bytes() (all []byte) {
	for i := range int(l.acked / (100 << 10)) {
		all = append(all, text(100<<10, byte('a'+i))...)
	}
	return all
}

// end copies a replica of the chunk over it, or beside it, and drops it.
func (l *life) end() {
	w, s := l.w, l.s
	if l.acked == 0 {
		return
	}
	l.check(s)
	w.fence(l.peer, 2)
	reply, err := l.peer.Seal(w.t.Context(), &quarry.SealRequest{ChunkRef: w.ref(l.peer, 2), Length: l.acked, WritableVersion: 1})
	if err != nil || !reply.Holds {
		w.t.Errorf("the other member does not hold what was acknowledged: %v", err)
		return
	}
	if w.copyTo(s, diskID(1, 0), l.acked, l.peer) == nil {
		l.holds = true
	}
	l.full = false // a copy that fails may leave the replica lost in whose place it was to be
	l.check(s)
	l.dropped = true
	_ = s.Drop(w.t.Context(), &quarry.DropRequest{ChunkRef: w.ref(s, 2)})
	l.check(s)
}

// The disk fails, or is full, from the nth operation on, for each n: at each step of create,
// activate, write, sync, fence, seal, copy and drop. Nothing hangs, nothing that is said is
// wrong, then or after a restart, and a full disk loses nothing.
func TestDiskFailsAtEachStep(t *testing.T) {
	for name, fault := range map[string]struct {
		err  error
		once bool
	}{"fails": {err: syscall.EIO}, "fails once": {err: syscall.EIO, once: true}, "is full": {err: syscall.ENOSPC}, "is full once": {err: syscall.ENOSPC, once: true}} {
		for n := int64(0); n < 400; n++ {
			over := false
			t.Run(fmt.Sprintf("%s/%d", name, n), func(t *testing.T) {
				inWorld(t, func(w *world) {
					var ops atomic.Int64
					var on atomic.Bool
					mem := disk.NewMem()
					s := w.start(1, 0, disk.NewFaulty(mem, func(op disk.Op) disk.Fault {
						if fault.err == syscall.ENOSPC && (op.Kind != disk.OpWrite && op.Kind != disk.OpCreate || len(op.Name) > 8 && op.Name[:8] == "journal/") {
							return disk.Fault{}
						}
						if !on.Load() || op.Kind == disk.OpUsage {
							return disk.Fault{}
						}
						if k := ops.Add(1) - 1; k == n || k > n && !fault.once {
							return disk.Fault{Err: fault.err}
						}
						return disk.Fault{}
					}))
					l := &life{w: w, s: s, peer: w.start(2, 0, disk.NewMem()), full: fault.err == syscall.ENOSPC}
					on.Store(true)
					l.live()
					l.end()
					over = ops.Load() <= n
					if fault.err == syscall.ENOSPC && s.cfg.Disks[0].Err() != nil {
						w.t.Errorf("a full disk is retired: %v", s.cfg.Disks[0].Err())
					}
					if m := s.memory.Load(); m != 0 {
						w.t.Errorf("%d bytes stay in memory", m)
					}
					on.Store(false)
					_ = s.Close()
					l.check(w.start(1, 0, mem))
				})
			})
			if over || t.Failed() {
				break
			}
		}
	}
}

// A report that a replica is corrupt is made until the master has heard it.
func TestCorruptReplicaIsReportedUntilHeard(t *testing.T) {
	inWorld(t, func(w *world) {
		servers, disks := w.three()
		w.sealed(servers)
		f, err := disks[1].Open("chunks/10/" + chunkA.String())
		w.ok(err)
		_, err = f.WriteAt([]byte{'y'}, 70000)
		w.ok(err)
		w.deaf = 3
		_, err = servers[1].Read(w.t.Context(), &quarry.ReadRequest{ChunkRef: w.ref(servers[1], 2), Offset: 70000, Length: 10, Validated: true})
		w.is(err, quarry.Corrupt)
		w.pass(4 * corruptPause)
		if r := w.reported(); len(r) != 1 || !r[0].Corrupt || r[0].Suspects[0].Server != 2 {
			t.Fatalf("reports %+v", r)
		}
	})
}
