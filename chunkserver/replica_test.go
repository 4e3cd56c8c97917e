package chunkserver

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/disk"
	"github.com/quarryfs/quarry/protocol"
)

func TestSealAndFate(t *testing.T) {
	inWorld(t, func(w *world) {
		servers, _ := w.three()
		w.open(servers...)
		w.appended(w.append(servers[0], 1, text(100, 'a')), 0)
		req := &quarry.FateRequest{Length: 100, Session: 5, Sequences: []quarry.Sequence{1, 2}}
		req.ChunkRef = w.ref(servers[1], 2)
		_, err := servers[1].Fate(w.t.Context(), req)
		w.is(err, quarry.StaleVersion) // not before the seal
		w.seal(100, servers...)
		for _, s := range servers {
			req.ChunkRef = w.ref(s, 2)
			reply, err := s.Fate(w.t.Context(), req)
			w.ok(err)
			if reply.Fates[0].State != quarry.FateCommitted || reply.Fates[1].State != quarry.FateAbsent {
				t.Fatalf("%+v", reply.Fates)
			}
			w.holds(s, 2, text(100, 'a'))
		}
		w.is((<-w.append(servers[0], 2, text(1, 'b'))).err, quarry.StaleVersion)
		_, err = servers[0].End(w.t.Context(), &quarry.EndRequest{ChunkRef: w.ref(servers[0], 1)})
		w.is(err, quarry.StaleVersion)
	})
}

func TestRestart(t *testing.T) {
	inWorld(t, func(w *world) {
		servers, disks := w.three()
		w.open(servers...)
		w.appended(w.append(servers[0], 1, text(100, 'a')), 0)
		was := servers[1]
		w.ok(was.Close())
		_, err := was.Fence(w.t.Context(), &quarry.FenceRequest{ChunkRef: w.ref(was, 2)})
		w.is(err, quarry.Unavailable) // a stopped server does not call its replicas lost

		s := w.start(2, 0, disks[1])
		if s.Incarnation() <= was.Incarnation() {
			t.Fatalf("incarnation %d after %d", s.Incarnation(), was.Incarnation())
		}
		_, err = s.Fence(w.t.Context(), &quarry.FenceRequest{ChunkRef: w.ref(was, 2)})
		w.is(err, quarry.StaleVersion)
		got := make(chan error, 1)
		data := []byte("abc")
		s.Prepare(w.t.Context(), &quarry.PrepareRequest{
			ChunkRef: w.ref(s, 1), Batch: 2, Offset: 100, Data: data,
			Records: []quarry.RecordHeader{{Session: 5, Sequence: 2, Length: 3, CRCs: sums(data)}},
		}, func(_ *quarry.PrepareReply, err error) { got <- err })
		w.is(<-got, quarry.StaleVersion) // it is no member of the version any more
		w.is(s.Create(w.t.Context(), &quarry.CreateRequest{ChunkRef: w.ref(s, 1), Disk: diskID(2, 0)}), quarry.StaleVersion)
		w.is(s.Activate(w.t.Context(), &quarry.ActivateRequest{ChunkRef: w.ref(s, 1), Members: []quarry.Member{member(s)}, Base: 100}), quarry.StaleVersion)
		reply := w.fence(s, 2)
		if reply.Status != quarry.ReplicaGood || reply.DurableLength != 100 || reply.Incarnation != s.Incarnation() {
			t.Fatalf("%+v", reply)
		}
		w.seal(100, s)
	})
}

// sealed makes a chunk of two blocks and a half on the first two servers, sealed at 2.
func (w *world) sealed(servers []*Server) []byte {
	w.t.Helper()
	data := text(160<<10, 'x')
	w.open(servers[:2]...)
	w.appended(w.append(servers[0], 1, data), 0)
	w.seal(int64(len(data)), servers[:2]...)
	return data
}

func (w *world) copyTo(s *Server, d quarry.DiskID, length int64, sources ...*Server) error {
	return s.Copy(w.t.Context(), &quarry.CopyRequest{
		ChunkRef: w.ref(s, 2), Disk: d, Length: length, WritableVersion: 1, File: 1, Sources: members(sources),
	})
}

func TestCopyFallsToTheNextSource(t *testing.T) {
	inWorld(t, func(w *world) {
		servers, _ := w.three()
		data := w.sealed(servers)
		w.damage = func(from string, reply *quarry.ReadReply) {
			if from == "s1" && len(reply.Data) > 70000 {
				reply.Data[70000] ^= 1
			}
		}
		s := servers[2]
		w.ok(w.copyTo(s, diskID(3, 0), int64(len(data)), servers[0], servers[1]))
		if r := w.reported(); len(r) != 1 || !r[0].Corrupt || r[0].Suspects[0].Server != 1 {
			t.Fatalf("reports %+v", r)
		}
		_, err := w.read(s, 2, true)
		w.is(err, quarry.NotFound) // not before Add
		w.ok(s.Add(w.t.Context(), &quarry.AddRequest{ChunkRef: w.ref(s, 2)}))
		w.holds(s, 2, data)
		reply, err := s.Fate(w.t.Context(), &quarry.FateRequest{ChunkRef: w.ref(s, 2), Length: int64(len(data)), Session: 5, Sequences: []quarry.Sequence{1}})
		w.ok(err)
		if reply.Fates[0].State != quarry.FateCommitted {
			t.Fatalf("%+v", reply.Fates) // the records came with the bytes
		}
		w.ok(w.copyTo(servers[2], diskID(3, 0), int64(len(data)), servers[0])) // again
	})
}

func TestCorruptReplicaIsReported(t *testing.T) {
	inWorld(t, func(w *world) {
		servers, disks := w.three()
		w.sealed(servers)
		f, err := disks[1].Open("chunks/10/" + chunkA.String())
		w.ok(err)
		_, err = f.WriteAt([]byte{'y'}, 70000)
		w.ok(err)
		read := func() error {
			_, err := servers[1].Read(w.t.Context(), &quarry.ReadRequest{ChunkRef: w.ref(servers[1], 2), Offset: 70000, Length: 10, Validated: true})
			return err
		}
		w.is(read(), quarry.Corrupt)
		w.is(read(), quarry.Corrupt)
		if r := w.reported(); len(r) != 1 || !r[0].Corrupt || r[0].Version != 2 || r[0].Suspects[0].Server != 2 {
			t.Fatalf("reports %+v", r)
		}
		if reply := w.fence(servers[1], 4); reply.Status != quarry.ReplicaCorrupt {
			t.Fatalf("%+v", reply)
		}
	})
}

// A replica whose index is broken cannot tell what became of records. It is reported, and
// can be replaced.
func TestReplicaWithABrokenIndex(t *testing.T) {
	inWorld(t, func(w *world) {
		servers, disks := w.three()
		data := w.sealed(servers)
		w.ok(servers[1].Close())
		f, err := disks[1].Open("chunks/10/" + chunkA.String() + ".idx")
		w.ok(err)
		_, err = f.WriteAt([]byte("rotten"), 40)
		w.ok(err)
		s := w.start(2, 0, disks[1])
		_, err = s.Fate(w.t.Context(), &quarry.FateRequest{ChunkRef: w.ref(s, 2), Length: int64(len(data)), Session: 5, Sequences: []quarry.Sequence{1}})
		w.is(err, quarry.Unavailable)
		if r := w.reported(); len(r) == 0 || !r[0].Corrupt || r[0].Suspects[0].Server != 2 {
			t.Fatalf("reports %+v", r)
		}
		w.ok(w.copyTo(s, diskID(2, 0), int64(len(data)), servers[0]))
		w.ok(s.Add(w.t.Context(), &quarry.AddRequest{ChunkRef: w.ref(s, 2)}))
		w.holds(s, 2, data)
	})
}

func TestReadNeedsTheLease(t *testing.T) {
	inWorld(t, func(w *world) {
		w.grants = []quarry.Grant{{Shard: 1, Term: 1, Slots: []quarry.SlotRange{{First: 0, Last: quarry.Slots - 1}}, EndMS: 2000, ReadMS: 10000}}
		servers, _ := w.three()
		w.open(servers...)
		w.appended(w.append(servers[0], 1, []byte("abc")), 0)
		s := servers[0]
		end := func() bool {
			reply, err := s.End(w.t.Context(), &quarry.EndRequest{ChunkRef: w.ref(s, 1)})
			w.ok(err)
			if reply.Commit != 3 {
				t.Fatalf("commit %d", reply.Commit)
			}
			return reply.Confirm
		}
		pass := func(d time.Duration) {
			w.ok(clock.Simulated().Sleep(w.t.Context(), d))
			synctest.Wait()
		}
		pass(time.Second)
		if _, err := w.read(s, 1, false); err != nil || end() {
			t.Fatalf("with a lease: %v", err)
		}
		// A grant whose items cannot be settled is none.
		w.mu.Lock()
		w.grants[0].Items = []quarry.Item{{Kind: quarry.ItemMark, Handle: chunkA, Version: 1}}
		w.mu.Unlock()
		pass(2600 * time.Millisecond)
		if _, err := w.read(s, 1, false); err != nil || !end() {
			t.Fatalf("after the end lease: %v", err)
		}
		pass(8 * time.Second)
		_, err := w.read(s, 1, false)
		w.is(err, quarry.Confirm)
		w.holds(s, 1, []byte("abc")) // validated
		// An item of a grant ends the version before the lease is valid.
		w.mu.Lock()
		w.grants[0].Items = []quarry.Item{{Kind: quarry.ItemFence, Handle: chunkA, Version: 2}}
		w.mu.Unlock()
		pass(time.Second)
		if _, err := w.read(s, 1, false); err != nil {
			t.Fatal(err)
		}
		_, err = s.End(w.t.Context(), &quarry.EndRequest{ChunkRef: w.ref(s, 1)})
		w.is(err, quarry.StaleVersion)
	})
}

func TestDropAndActors(t *testing.T) {
	inWorld(t, func(w *world) {
		servers, _ := w.three()
		w.sealed(servers)
		s := servers[1]
		w.is(s.Drop(w.t.Context(), &quarry.DropRequest{ChunkRef: w.ref(s, 1)}), quarry.StaleVersion)
		w.ok(s.Drop(w.t.Context(), &quarry.DropRequest{ChunkRef: w.ref(s, 2)}))
		w.ok(s.Drop(w.t.Context(), &quarry.DropRequest{ChunkRef: w.ref(s, 2)}))
		_, err := w.read(s, 2, true)
		w.is(err, quarry.NotFound)
		if reply := w.fence(s, 4); reply.Status != quarry.ReplicaMissing {
			t.Fatalf("%+v", reply)
		}
		synctest.Wait()
		if n := len(s.replicas); n != 0 {
			t.Fatalf("%d actors are left of a dropped replica", n)
		}
		// The actor of a sealed replica may go; the disk knows what it did.
		s = servers[0]
		s.mu.Lock()
		r := s.replicas[chunkA]
		r.mu.Lock()
		settled := r.settled()
		r.mu.Unlock()
		delete(s.replicas, chunkA)
		s.mu.Unlock()
		if !settled {
			t.Fatal("a sealed replica is not settled")
		}
		if reply := w.fence(s, 2); reply.DurableLength != 160<<10 || reply.SealVersion != 2 {
			t.Fatalf("%+v", reply)
		}
	})
}

func TestFailedDisk(t *testing.T) {
	inWorld(t, func(w *world) {
		peers, _ := w.three()
		broken := false
		first := disk.NewFaulty(disk.NewMem(), func(op disk.Op) disk.Fault {
			if broken && op.Kind == disk.OpSync {
				return disk.Fault{Err: errors.New("the disk is gone")}
			}
			return disk.Fault{}
		})
		s := w.start(4, 0, first, disk.NewMem())
		w.open(s, peers[0])
		w.appended(w.append(s, 1, text(100, 'a')), 0)
		synctest.Wait()
		broken = true
		w.is((<-w.append(s, 2, text(100, 'b'))).err, quarry.Unavailable)
		synctest.Wait()

		lost := func() {
			t.Helper()
			if reply := w.fence(s, 2); reply.Status != quarry.ReplicaLost {
				t.Fatalf("%+v", reply)
			}
		}
		lost()
		create := &quarry.CreateRequest{ChunkRef: w.ref(s, 1), Disk: diskID(4, 1), File: 1}
		w.is(s.Create(w.t.Context(), create), quarry.Unavailable) // a late one, on the disk that works
		lost()

		// A copy that fails leaves it lost; one that comes takes its place on the other disk.
		w.seal(100, peers[0])
		if w.copyTo(s, diskID(4, 1), 100, peers[1]) == nil {
			t.Fatal("a copy from a server that has none")
		}
		lost()
		w.is(s.Create(w.t.Context(), create), quarry.Unavailable)
		w.ok(w.copyTo(s, diskID(4, 1), 100, peers[0]))
		w.ok(s.Add(w.t.Context(), &quarry.AddRequest{ChunkRef: w.ref(s, 2)}))
		w.holds(s, 2, text(100, 'a'))
		s.mu.Lock()
		delete(s.replicas, chunkA)
		s.mu.Unlock()
		w.holds(s, 2, text(100, 'a')) // and it is found there
		infos, _ := s.page(0, ^quarry.Handle(0))
		if len(infos) != 1 || infos[0].Status != quarry.ReplicaGood || infos[0].Disk != diskID(4, 1) {
			t.Fatalf("inventory %+v", infos)
		}
	})
}

// The caller of a copy goes away while the replica is busy: the copy is installed all the same.
func TestCopyWhoseCallerGoesAway(t *testing.T) {
	inWorld(t, func(w *world) {
		servers, _ := w.three()
		data := w.sealed(servers)
		s := servers[2]
		incoming := func() *arrival {
			runs, _, err := servers[0].cfg.Disks[0].Records(chunkA)
			w.ok(err)
			in, err := s.cfg.Disks[0].Receive(&quarry.CopyRequest{ChunkRef: w.ref(s, 2), Length: int64(len(data)), WritableVersion: 1})
			w.ok(err)
			w.ok(in.Write(data, sums(data)))
			return &arrival{in, runs}
		}()
		installAndLeave(w, s, incoming, int64(len(data)))
		synctest.Wait()
		w.ok(s.Add(w.t.Context(), &quarry.AddRequest{ChunkRef: w.ref(s, 2)}))
		w.holds(s, 2, data)
	})
}

// installAndLeave installs a copy for a caller that goes away while another goroutine carries
// out the replica's effects.
func installAndLeave(w *world, s *Server, a *arrival, length int64) {
	w.t.Helper()
	req := &quarry.CopyRequest{ChunkRef: w.ref(s, 2), Disk: diskID(3, 0), Length: length, WritableVersion: 1}
	r, err := s.ordered("copy", &req.ChunkRef, req.Disk)
	w.ok(err)
	table, err := protocol.MakeRecords(a.runs)
	w.ok(err)
	hold := make(chan struct{})
	r.mu.Lock()
	r.queue, r.busy = append(r.queue, action(func() { <-hold })), true
	r.mu.Unlock()
	go r.drain()
	ctx, cancel := context.WithCancel(w.t.Context())
	cancel()
	w.is(r.install(ctx, req, a, &table, nil), quarry.Unavailable)
	close(hold)
	r.release()
}

// A replica that was given up though its disk works stays lost as long as the process lives.
func TestLostStaysLost(t *testing.T) {
	inWorld(t, func(w *world) {
		peers, _ := w.three()
		s := w.start(4, 0, disk.NewMem(), disk.NewMem())
		w.open(s, peers[0])
		r, err := s.find(chunkA)
		w.ok(err)
		r.step(func(m *protocol.Member) []protocol.Effect { return m.Fail() })
		r.release()
		if w.copyTo(s, diskID(4, 1), 100, peers[1]) == nil {
			t.Fatal("a copy from a server that has none")
		}
		synctest.Wait()
		if reply := w.fence(s, 2); reply.Status != quarry.ReplicaLost {
			t.Fatalf("%+v", reply)
		}
	})
}
