package chunkserver

import (
	"context"
	"fmt"
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

// hanging is a disk that does not answer any more once it hangs.
type hanging struct {
	disk.FS
	hangs   atomic.Bool
	fails   atomic.Bool // its syncs fail
	release chan struct{}
}

func newHanging() *hanging {
	h := &hanging{release: make(chan struct{})}
	h.FS = disk.NewFaulty(disk.NewMem(), func(op disk.Op) disk.Fault {
		if h.hangs.Load() {
			<-h.release
		}
		if op.Kind == disk.OpSync && h.fails.Load() {
			return disk.Fault{Err: syscall.EIO}
		}
		return disk.Fault{}
	})
	return h
}

func (w *world) lastBeat(s *Server) *quarry.HeartbeatRequest {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.beats[s.ID()]
}

// A disk hangs. The heartbeats go on, and so does what is on the other disk; after half a
// minute the disk is given up, the masters hear of it, and its replicas are lost.
func TestDiskThatHangs(t *testing.T) {
	inWorld(t, func(w *world) {
		w.grants = []quarry.Grant{{Shard: 1, Term: 1, Slots: []quarry.SlotRange{{First: 0, Last: quarry.Slots - 1}}, EndMS: 2000, ReadMS: 10000}}
		h := newHanging()
		defer close(h.release)
		s := w.start(1, 0, h, disk.NewMem())
		w.open(s)
		w.appended(w.append(s, 1, []byte("abc")), 0)
		other := w.ref(s, 1)
		other.Handle = chunkA + 1
		other.Capability = w.keys.Sign(s.cfg.Cluster, other.Handle, everything)
		w.pass(2 * time.Second)
		h.hangs.Store(true)
		w.append(s, 2, []byte("def")) // not answered before the disk lets go of its bytes
		w.pass(10 * time.Second)
		before := w.lastBeat(s)
		w.pass(10 * time.Second)
		beat := w.lastBeat(s)
		if n := beat.Nonce - before.Nonce; n < 19 || n > 21 {
			t.Fatalf("%d heartbeats in 10 s", n)
		}
		if beat.Disks[0].Failed != "" || beat.Disks[0].Total == 0 {
			t.Fatalf("after 20 s: %+v", beat.Disks[0])
		}
		if !s.leases.holds(0, 0, clock.Simulated().Now()) {
			t.Fatal("the server has lost its lease")
		}
		w.ok(s.Create(w.t.Context(), &quarry.CreateRequest{ChunkRef: other, Disk: diskID(1, 1), File: 1}))

		w.pass(15 * time.Second)
		beat = w.lastBeat(s)
		if !strings.Contains(beat.Disks[0].Failed, "does not answer") || beat.Disks[1].Failed != "" {
			t.Fatalf("after 35 s: %+v", beat.Disks)
		}
		if reply := w.fence(s, 2); reply.Status != quarry.ReplicaLost {
			t.Fatalf("%+v", reply)
		}
		w.ends(s, 2*hungClose)
	})
}

// ends closes a server with a broken disk, which may take most.
func (w *world) ends(s *Server, most time.Duration) {
	w.t.Helper()
	start := clock.Simulated().Now()
	w.is(s.Close(), quarry.Unavailable)
	if d := clock.Simulated().Now().Sub(start); d > most {
		w.t.Fatalf("to stop took %v", d)
	}
}

// A disk hangs from a moment on that a server is about to stop, or has just begun to: it is given up as
// ever, and the server ends.
func TestDiskThatHangsWhileClosing(t *testing.T) {
	for name, pass := range map[string]time.Duration{"at the end": 0, "a little before": 10 * time.Second} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				h := newHanging()
				defer close(h.release)
				s := w.start(1, 0, h, disk.NewMem())
				w.open(s)
				w.appended(w.append(s, 1, []byte("abc")), 0)
				h.hangs.Store(true)
				w.append(s, 2, []byte("def"))
				w.pass(pass)
				w.ends(s, (hungLooks+5)*attendEvery)
			})
		})
	}
}

// A disk hangs with one change, and fails with others: the server ends all the same.
func TestDiskThatHangsAndFails(t *testing.T) {
	inWorld(t, func(w *world) {
		h := newHanging()
		defer close(h.release)
		s := w.start(1, 0, h, disk.NewMem())
		w.open(s)
		w.appended(w.append(s, 1, []byte("abc")), 0)
		other := w.ref(s, 1)
		other.Handle = chunkA + 1
		other.Capability = w.keys.Sign(s.cfg.Cluster, other.Handle, everything)
		h.hangs.Store(true)
		w.append(s, 2, []byte("def"))
		w.pass(5 * time.Second)
		h.fails.Store(true)
		h.hangs.Store(false)
		go s.Create(context.Background(), &quarry.CreateRequest{ChunkRef: other, Disk: diskID(1, 0), File: 1})
		w.pass(5 * time.Second)
		if s.cfg.Disks[0].Err() == nil {
			t.Fatal("the disk has not failed")
		}
		w.ends(s, (hungLooks+5)*attendEvery)
	})
}

// A disk that hangs while an item of a grant needs it: the item is not settled, the lease
// does not come, and the heartbeats go on.
func TestItemForADiskThatHangs(t *testing.T) {
	inWorld(t, func(w *world) {
		h := newHanging()
		defer close(h.release)
		peers, _ := w.three()
		data := w.sealed(peers)
		s := w.start(4, 0, h)
		w.ok(w.copyTo(s, diskID(4, 0), int64(len(data)), peers[0]))
		s.mu.Lock()
		delete(s.replicas, chunkA) // so that its index is read from the disk again
		s.mu.Unlock()
		h.hangs.Store(true)
		w.mu.Lock()
		w.grants = []quarry.Grant{{
			Shard: 1, Term: 1, Slots: []quarry.SlotRange{{First: 0, Last: quarry.Slots - 1}}, EndMS: 2000, ReadMS: 10000,
			Items: []quarry.Item{{Kind: quarry.ItemDrop, Handle: chunkA, Version: 2}},
		}}
		w.mu.Unlock()
		w.pass(20 * time.Second)
		before := w.lastBeat(s).Nonce
		w.pass(8 * time.Second)
		if n := w.lastBeat(s).Nonce - before; n < 3 {
			t.Fatalf("%d heartbeats in 8 s", n)
		}
		if s.leases.holds(0, 0, clock.Simulated().Now()) {
			t.Fatal("a lease though the item is not settled")
		}
		w.pass(20 * time.Second) // the disk is given up, and with it the replica
		if !s.leases.holds(0, 0, clock.Simulated().Now()) {
			t.Fatal("no lease though nothing is left to settle")
		}
	})
}

// A process that is stopped for a minute finds that a minute has passed, and its disk is as
// good as before. Nor is one given up that is slow, but goes on.
func TestSlowDiskIsNotGivenUp(t *testing.T) {
	inWorld(t, func(w *world) {
		var slow atomic.Bool
		s := w.start(1, 0, disk.NewFaulty(disk.NewMem(), func(op disk.Op) disk.Fault {
			if slow.Load() && op.Kind == disk.OpSync {
				_ = clock.Simulated().Sleep(w.t.Context(), 20*time.Second)
			}
			return disk.Fault{}
		}))
		w.open(s)
		synctest.Wait()
		slow.Store(true)
		var answers []<-chan answer
		for i := range 5 {
			answers = append(answers, w.append(s, quarry.Sequence(i+1), []byte("abc")))
			w.pass(15 * time.Second)
		}
		for i, c := range answers {
			w.appended(c, int64(3*i))
		}
		slow.Store(false)
	})
}

func TestSpaceIsCountedBetweenMeasurements(t *testing.T) {
	inWorld(t, func(w *world) {
		small, err := disk.WithQuota(disk.NewMem(), 1<<30)
		w.ok(err)
		s := w.start(1, 0, small)
		d := s.cfg.Disks[0]
		free := func() int64 {
			u, err := d.Usage()
			w.ok(err)
			return u.Free
		}
		w.pass(2 * time.Second)
		before := free()
		w.open(s)
		w.appended(w.append(s, 1, text(1<<20, 'a')), 0)
		unmeasured := before - free()
		w.pass(2 * time.Second)
		if measured := before - free(); unmeasured != quarry.ChunkBytesMax || measured < unmeasured || measured > unmeasured+8<<20 {
			t.Fatalf("a chunk took %d bytes, measured %d", unmeasured, measured)
		}
	})
}

// What was dropped goes after a day, all of it; and at once, the oldest first, while the disk is short of room,
// whoever has taken it.
func TestTrashIsPurged(t *testing.T) {
	inWorld(t, func(w *world) {
		small, err := disk.WithQuota(disk.NewMem(), 1<<30)
		w.ok(err)
		w.ok(small.MkdirAll("trash"))
		file := func(name string, bytes int64) {
			f, err := small.Create(name)
			w.ok(err)
			w.ok(f.Truncate(bytes))
			w.ok(f.Close())
		}
		yesterday := clock.Simulated().Wall().Add(-trashKeep).Unix()
		const old = 3 * purgeStep
		for h := range quarry.Handle(old) {
			file(fmt.Sprintf("trash/%v.%d", h+1, yesterday+1800), 1)
		}
		for h := range quarry.Handle(4) { // the younger, the lower the handle
			file(fmt.Sprintf("trash/%v.%d", old+h+1, yesterday+3600-int64(h)), 32<<20)
		}
		w.start(1, 0, small)
		left := func() int {
			names, err := small.List("trash")
			w.ok(err)
			return len(names)
		}
		w.pass(25 * time.Minute)
		if n := left(); n != old+4 {
			t.Fatalf("%d replicas are left of %d that are to be kept", n, old+4)
		}
		w.pass(10 * time.Minute)
		if n := left(); n != 4 {
			t.Fatalf("%d replicas are left, 4 are to be kept", n)
		}
		_, free, err := small.Usage()
		w.ok(err)
		file("foreign", free-40<<20) // 51 MiB are a twentieth
		w.pass(2 * measureEvery)
		names, err := small.List("trash")
		w.ok(err)
		if len(names) != 3 || strings.HasPrefix(names[2], quarry.Handle(old+4).String()) {
			t.Fatalf("left are %v", names)
		}
		w.pass(30 * time.Minute)
		if n := left(); n != 0 {
			t.Fatalf("%d replicas are left after a day", n)
		}
	})
}
