package chunkserver

import (
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/disk"
)

// fullDisk returns a disk that is full, for the operations that when names, while full is set.
func fullDisk(full *atomic.Bool, when func(disk.Op) bool) disk.FS {
	return disk.NewFaulty(disk.NewMem(), func(op disk.Op) disk.Fault {
		if full.Load() && when(op) {
			return disk.Fault{Err: syscall.ENOSPC}
		}
		return disk.Fault{}
	})
}

func chunkWrite(op disk.Op) bool {
	return op.Kind == disk.OpWrite && strings.HasPrefix(op.Name, "chunks/") && !strings.Contains(op.Name, ".idx")
}

// All disks of a chunk are full at the same time. Nothing is lost with that: what was
// acknowledged is there, every member says so, and the chunk can be sealed.
func TestFullDisksLoseNothing(t *testing.T) {
	inWorld(t, func(w *world) {
		var full atomic.Bool
		var servers []*Server
		for n := 1; n <= 3; n++ {
			servers = append(servers, w.start(n, 0, fullDisk(&full, chunkWrite)))
		}
		w.open(servers...)
		w.appended(w.append(servers[0], 1, text(100, 'a')), 0)
		full.Store(true)
		second, third := w.append(servers[0], 2, text(100, 'b')), w.append(servers[0], 3, text(100, 'c'))
		w.is((<-second).err, quarry.Unavailable)
		w.is((<-third).err, quarry.Unavailable)
		synctest.Wait()
		for _, s := range servers {
			if reply := w.fence(s, 2); reply.Status != quarry.ReplicaGood || reply.DurableLength != 100 || reply.LogVersion != 1 {
				t.Fatalf("server %d: %+v", s.ID(), reply)
			}
			if n := s.memory.Load(); n != 0 {
				t.Fatalf("%d bytes stay in memory", n)
			}
		}
		w.seal(100, servers...)
		for _, s := range servers {
			w.holds(s, 2, text(100, 'a'))
		}
	})
}

// A member that the disk has refused a batch takes no more of them, even if there is room
// again: a hole would be behind what it has.
func TestRefusedMemberLeavesItsVersion(t *testing.T) {
	inWorld(t, func(w *world) {
		var full atomic.Bool
		servers := []*Server{w.start(1, 0, disk.NewMem()), w.start(2, 0, fullDisk(&full, chunkWrite)), w.start(3, 0, disk.NewMem())}
		w.open(servers...)
		w.appended(w.append(servers[0], 1, text(100, 'a')), 0)
		full.Store(true)
		c := w.append(servers[0], 2, text(100, 'b'))
		if r := w.reported(); len(r) != 1 || r[0].Suspects[0].Server != 2 {
			t.Fatalf("reports %+v", r)
		}
		full.Store(false)
		w.append(servers[0], 3, text(100, 'c'))
		synctest.Wait()
		if reply := w.fence(servers[1], 2); reply.DurableLength != 100 || reply.Status != quarry.ReplicaGood {
			t.Fatalf("%+v", reply)
		}
		if reply := w.fence(servers[0], 2); reply.DurableLength != 200 || reply.Commit != 100 {
			t.Fatalf("%+v", reply)
		}
		w.is((<-c).err, quarry.StaleVersion)
		w.seal(100, servers...)
	})
}

// The index of a sealed chunk does not fit. The replica is as it was, and is sealed when
// there is room again.
func TestSealOnAFullDisk(t *testing.T) {
	inWorld(t, func(w *world) {
		var full atomic.Bool
		s := w.start(1, 0, fullDisk(&full, func(op disk.Op) bool {
			return op.Kind == disk.OpWrite && strings.Contains(op.Name, ".idx")
		}))
		w.open(s)
		w.appended(w.append(s, 1, text(100, 'a')), 0)
		w.fence(s, 2)
		full.Store(true)
		seal := &quarry.SealRequest{ChunkRef: w.ref(s, 2), Length: 100, WritableVersion: 1}
		_, err := s.Seal(w.t.Context(), seal)
		w.is(err, quarry.NoSpace)
		synctest.Wait()
		if reply := w.fence(s, 2); reply.Status != quarry.ReplicaGood || reply.DurableLength != 100 || reply.SealVersion != 0 {
			t.Fatalf("%+v", reply)
		}
		full.Store(false)
		w.seal(100, s)
		w.holds(s, 2, text(100, 'a'))
	})
}

func TestCreateOnAFullDisk(t *testing.T) {
	inWorld(t, func(w *world) {
		var full atomic.Bool
		s := w.start(1, 0, fullDisk(&full, func(op disk.Op) bool { return op.Kind == disk.OpCreate }))
		full.Store(true)
		create := &quarry.CreateRequest{ChunkRef: w.ref(s, 1), Disk: diskID(1, 0), File: 1}
		w.is(s.Create(w.t.Context(), create), quarry.NoSpace)
		synctest.Wait()
		if n := len(s.replicas); n != 0 {
			t.Fatalf("%d actors are left of a create that failed", n)
		}
		full.Store(false)
		w.open(s)
		w.appended(w.append(s, 1, text(100, 'a')), 0)
	})
}

// A source whose bytes match their own checksums, but are not the chunk's, is found out and
// reported; what is here stays as it is, and the next source is asked.
func TestCopyOfAnotherChunksBytes(t *testing.T) {
	inWorld(t, func(w *world) {
		servers, _ := w.three()
		data := w.sealed(servers)
		state, _ := servers[0].cfg.Disks[0].State(chunkA)
		s := servers[2]
		w.damage = func(from string, reply *quarry.ReadReply) {
			if from == "s1" {
				reply.Data[0] ^= 1
				reply.CRCs = sums(reply.Data)
			}
		}
		req := &quarry.CopyRequest{
			ChunkRef: w.ref(s, 2), Disk: diskID(3, 0), Length: int64(len(data)), WritableVersion: 1, File: 1,
			CRC: state.CRC, CRCKnown: true, Sources: members(servers[:1]),
		}
		w.is(s.Copy(w.t.Context(), req), quarry.Corrupt)
		if r := w.reported(); len(r) != 1 || !r[0].Corrupt || r[0].Version != 2 || r[0].Suspects[0].Server != 1 {
			t.Fatalf("reports %+v", r)
		}
		if reply := w.fence(s, 2); reply.Status != quarry.ReplicaMissing {
			t.Fatalf("%+v", reply)
		}
		req.Sources = members(servers[:2])
		w.ok(s.Copy(w.t.Context(), req))
		w.ok(s.Add(w.t.Context(), &quarry.AddRequest{ChunkRef: w.ref(s, 2)}))
		w.holds(s, 2, data)
	})
}

// loses makes a sealed chunk, and has the second server's disk lose the bytes of its replica.
func (w *world) loses() (servers []*Server, disks []*disk.Mem, data []byte) {
	w.t.Helper()
	servers, disks = w.three()
	data = w.sealed(servers)
	w.ok(servers[1].Close())
	f, err := disks[1].Open("chunks/10/" + chunkA.String())
	w.ok(err)
	w.ok(f.Truncate(10))
	servers[1] = w.start(2, 0, disks[1])
	if reply := w.fence(servers[1], 2); reply.Status != quarry.ReplicaLost {
		w.t.Fatalf("%+v", reply)
	}
	return servers, disks, data
}

func TestLostReplicaOnAWorkingDiskIsDropped(t *testing.T) {
	inWorld(t, func(w *world) {
		servers, disks, _ := w.loses()
		s := servers[1]
		w.ok(s.Drop(w.t.Context(), &quarry.DropRequest{ChunkRef: w.ref(s, 2)}))
		synctest.Wait()
		if names, err := disks[1].List("chunks/10"); err != nil || len(names) != 0 {
			t.Fatalf("%v is left: %v", names, err)
		}
		if reply := w.fence(s, 2); reply.Status != quarry.ReplicaMissing {
			t.Fatalf("%+v", reply)
		}
		if n := len(s.replicas); n != 0 {
			t.Fatalf("%d actors are left", n)
		}
	})
}

func TestLostReplicaIsCopiedInItsPlace(t *testing.T) {
	inWorld(t, func(w *world) {
		servers, _, data := w.loses()
		s := servers[1]
		w.ok(w.copyTo(s, diskID(2, 0), int64(len(data)), servers[0]))
		w.ok(s.Add(w.t.Context(), &quarry.AddRequest{ChunkRef: w.ref(s, 2)}))
		w.holds(s, 2, data)
	})
}

// A lost replica gives way to a copy on another disk, and its files go.
func TestLostReplicaIsCopiedToAnotherDisk(t *testing.T) {
	inWorld(t, func(w *world) {
		servers, disks, data := w.loses()
		w.ok(servers[1].Close())
		s := w.start(2, 0, disks[1], disk.NewMem())
		w.ok(w.copyTo(s, diskID(2, 1), int64(len(data)), servers[0]))
		w.ok(s.Add(w.t.Context(), &quarry.AddRequest{ChunkRef: w.ref(s, 2)}))
		synctest.Wait()
		w.holds(s, 2, data)
		if names, err := disks[1].List("chunks/10"); err != nil || len(names) != 0 {
			t.Fatalf("%v is left: %v", names, err)
		}
	})
}
