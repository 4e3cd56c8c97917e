package chunkserver

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/disk"
)

// appendAt sends a record of session 5 to the primary of a version.
func (w *world) appendAt(s *Server, v quarry.Version, seq quarry.Sequence, data []byte) <-chan answer {
	c := make(chan answer, 1)
	s.Append(w.t.Context(), &quarry.AppendRequest{
		ChunkRef: w.ref(s, v), Session: 5, Sequence: seq, Oldest: seq, Data: data, CRCs: sums(data),
	}, func(reply *quarry.AppendReply, err error) { c <- answer{reply, err} })
	return c
}

// reopen makes the sealed replicas members of a version, the first of them its primary.
func (w *world) reopen(v quarry.Version, base int64, servers ...*Server) {
	w.t.Helper()
	for _, s := range servers {
		w.ok(s.Reopen(w.t.Context(), &quarry.ReopenRequest{ChunkRef: w.ref(s, v), Base: base, PrevWritableVersion: v - 2}))
	}
	w.ok(servers[0].Activate(w.t.Context(), &quarry.ActivateRequest{ChunkRef: w.ref(servers[0], v), Members: members(servers), Base: base}))
}

// TestReopen writes on in a sealed chunk, with another primary, ends that version at what is
// durable, and starts the servers anew.
func TestReopen(t *testing.T) {
	inWorld(t, func(w *world) {
		servers, disks := w.three()
		first, more := text(100_000, 'a'), text(70_000, 'b')
		w.open(servers...)
		w.appended(w.append(servers[0], 1, first), 0)
		w.seal(100_000, servers...)
		slices.Reverse(servers)
		bad := w.ref(servers[0], 3)
		bad.Capability = w.keys.Sign(servers[0].cfg.Cluster, chunkA, quarry.RightAppend)
		w.is(servers[0].Reopen(w.t.Context(), &quarry.ReopenRequest{ChunkRef: bad, Base: 100_000, PrevWritableVersion: 1}), quarry.Permission)
		w.is(servers[0].Reopen(w.t.Context(), &quarry.ReopenRequest{ChunkRef: w.ref(servers[0], 3), Base: 99_999, PrevWritableVersion: 1}), quarry.StaleVersion)
		w.reopen(3, 100_000, servers...)
		w.is((<-w.append(servers[0], 2, more)).err, quarry.StaleVersion) // of the version before
		w.appended(w.appendAt(servers[0], 3, 1, first), 0)
		w.appended(w.appendAt(servers[0], 3, 2, more), 100_000)
		want := slices.Concat(first, more)
		w.holds(servers[0], 2, want) // a reader that has the layout of the seal still reads
		for _, s := range servers {
			w.fence(s, 4)
			reply, err := s.Seal(w.t.Context(), &quarry.SealRequest{ChunkRef: w.ref(s, 4), Length: 170_000, WritableVersion: 3})
			if err != nil || !reply.Holds || reply.CRC == 0 {
				t.Fatalf("%+v, %v", reply, err)
			}
		}
		fates, err := servers[1].Fate(w.t.Context(), &quarry.FateRequest{ChunkRef: w.ref(servers[1], 4), Length: 170_000, Session: 5, Sequences: []quarry.Sequence{1, 2, 3}})
		if err != nil || fates.Fates[0].Offset != 0 || fates.Fates[1].Offset != 100_000 || fates.Fates[2].State != quarry.FateAbsent {
			t.Fatalf("%+v, %v", fates, err)
		}
		w.reopen(5, 170_000, servers...)
		w.appended(w.appendAt(servers[0], 5, 3, []byte("end")), 170_000)
		for i, s := range servers {
			w.ok(s.Close())
			servers[i] = w.start(int(s.ID()), 0, disks[s.ID()-1])
		}
		for _, s := range servers { // of this incarnation nobody is a member
			w.is(s.Reopen(w.t.Context(), &quarry.ReopenRequest{ChunkRef: w.ref(s, 5), Base: 170_000, PrevWritableVersion: 3}), quarry.StaleVersion)
			if r := w.fence(s, 6); r.LogVersion != 5 || r.DurableLength != 170_003 || r.SealVersion != 4 || r.SealLength != 170_000 {
				t.Fatalf("%+v", r)
			}
		}
	})
}

// TestDiskFailsInAReopen: the disk fails, or is full, from the nth operation after the seal on,
// for each n: at each step of re-open, activate, append, fence and seal. Nothing that a server
// says of itself is wrong, then or after a restart, and what was sealed stays readable.
func TestDiskFailsInAReopen(t *testing.T) {
	for _, fault := range []struct {
		name string
		err  error
		once bool
	}{{"fails", syscall.EIO, false}, {"is full", syscall.ENOSPC, false}, {"is full once", syscall.ENOSPC, true}} {
		over := false
		for n := int64(0); n < 200 && !over && !t.Failed(); n++ {
			t.Run(fmt.Sprintf("%s/%d", fault.name, n), func(t *testing.T) {
				inWorld(t, func(w *world) {
					var ops atomic.Int64
					ops.Store(-1 << 40) // before the seal
					mem := disk.NewMem()
					s := w.start(1, 0, disk.NewFaulty(mem, func(op disk.Op) disk.Fault {
						full := fault.err == syscall.ENOSPC
						if op.Kind == disk.OpUsage || op.Kind == disk.OpRead || full && (op.Kind != disk.OpWrite && op.Kind != disk.OpCreate || strings.HasPrefix(op.Name, "journal/")) {
							return disk.Fault{}
						}
						if k := ops.Add(1) - 1; k == n || k > n && !fault.once {
							return disk.Fault{Err: fault.err}
						}
						return disk.Fault{}
					}))
					over = w.reopenOn(s, w.start(2, 0, disk.NewMem()), &ops) <= n
					ops.Store(-1 << 40)
					_ = s.Close()
					w.checkReopened(w.start(1, 0, mem))
				})
			})
		}
	}
}

// reopenOn goes through a re-open at a server whose disk may fail, and returns how many
// operations of the disk that took.
func (w *world) reopenOn(s, peer *Server, ops *atomic.Int64) int64 {
	ctx, both := w.t.Context(), []*Server{s, peer}
	w.open(both...)
	w.appended(w.append(s, 1, text(100<<10, 'a')), 0)
	w.seal(100<<10, both...)
	ops.Store(0)
	ok := true
	for _, m := range both {
		ok = m.Reopen(ctx, &quarry.ReopenRequest{ChunkRef: w.ref(m, 3), Base: 100 << 10, PrevWritableVersion: 1}) == nil && ok
	}
	if ok && s.Activate(ctx, &quarry.ActivateRequest{ChunkRef: w.ref(s, 3), Members: members(both), Base: 100 << 10}) == nil {
		c := w.appendAt(s, 3, 2, text(100<<10, 'b'))
		w.pass(time.Second)
		select {
		case a := <-c:
			w.acked = a.err == nil
		default: // it waits for a fence
		}
	}
	w.checkReopened(s)
	if w.acked {
		if r, err := s.Seal(ctx, &quarry.SealRequest{ChunkRef: w.ref(s, 4), Length: 200 << 10, WritableVersion: 3}); err == nil && !r.Holds {
			w.t.Errorf("a seal at what is acknowledged is not held")
		}
	}
	return ops.Load()
}

// checkReopened requires that a good replica has what was sealed, and what was acknowledged
// after that.
func (w *world) checkReopened(s *Server) {
	w.t.Helper()
	synctest.Wait()
	reply, err := s.Fence(w.t.Context(), &quarry.FenceRequest{ChunkRef: w.ref(s, 4)})
	if err != nil || reply.Status != quarry.ReplicaGood {
		if err == nil && s.cfg.Disks[0].Err() == nil && reply.Status == quarry.ReplicaMissing {
			w.t.Errorf("the replica is gone")
		}
		return
	}
	if reply.DurableLength < 100<<10 || w.acked && reply.DurableLength < 200<<10 || reply.SealLength < 100<<10 {
		w.t.Errorf("acknowledged after the re-open: %v; %+v", w.acked, reply)
	}
	data, err := w.read(s, 2, true)
	if err == nil && !bytes.HasPrefix(data, text(100<<10, 'a')) {
		w.t.Errorf("what was sealed is not read: %d bytes", len(data))
	}
	if err != nil && s.cfg.Disks[0].Err() == nil {
		w.t.Errorf("what was sealed cannot be read: %v", err)
	}
}

// TestIdleChunkIsReported: the primary asks for a version to end to which nobody writes, again
// until it is heard, and not while somebody does.
func TestIdleChunkIsReported(t *testing.T) {
	inWorld(t, func(w *world) {
		servers, _ := w.three()
		w.open(servers...)
		for i := range 10 {
			w.ok(clock.Simulated().Sleep(w.t.Context(), 20*time.Second))
			w.appended(w.append(servers[0], quarry.Sequence(i+1), []byte("x")), int64(i))
		}
		if r := w.reported(); len(r) > 0 {
			t.Fatalf("reported while it is written to: %+v", r[0])
		}
		w.mu.Lock()
		w.deaf = 1
		w.mu.Unlock()
		w.ok(clock.Simulated().Sleep(w.t.Context(), 100*time.Second))
		r := w.reported()
		if len(r) == 0 || r[0].Handle != chunkA || r[0].Version != 1 || len(r[0].Suspects) > 0 || r[0].Corrupt {
			t.Fatalf("reports %+v", r)
		}
		w.seal(10, servers...)
		n := len(w.reported())
		w.ok(clock.Simulated().Sleep(w.t.Context(), 200*time.Second))
		if m := len(w.reported()); m != n {
			t.Fatalf("%d reports of a sealed chunk", m-n)
		}
	})
}
