package chunk

import (
	"bytes"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/disk"
)

// TestWriteDuringSync writes into a block while its file is being synced: the record that
// follows must tell of the block as it was captured.
func TestWriteDuringSync(t *testing.T) {
	const h = quarry.Handle(1)
	m := disk.NewMem()
	began, go_ := make(chan struct{}), make(chan struct{})
	var armed atomic.Bool
	s := open(t, disk.NewFaulty(m, func(op disk.Op) disk.Fault {
		if op.Kind == disk.OpSync && op.Name == chunkName(h) && armed.CompareAndSwap(true, false) {
			began <- struct{}{}
			<-go_
		}
		return disk.Fault{}
	}), testOptions())
	create(t, s, h)
	data := pattern(1, 200_000)
	armed.Store(true)
	write(t, s, h, 0, 1, data[:150_000])
	first := make(chan error, 1)
	s.Sync(h, func(err error) { first <- err })
	<-began
	write(t, s, h, 150_000, 2, data[150_000:])
	go_ <- struct{}{}
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	wantBytes(t, s, h, data[:150_000])
	image := open(t, m.Clone(), testOptions())
	if st := state(t, image, h); st.Status != quarry.ReplicaGood || st.Length != 150_000 {
		t.Fatalf("%+v", st)
	}
	wantBytes(t, image, h, data[:150_000])
	syncChunk(t, s, h)
	wantBytes(t, s, h, data)
}

// failing returns a policy that fails the operations that match, once switched on.
func failing(on *atomic.Bool, kind disk.OpKind, prefix string, fault disk.Fault) disk.Policy {
	return func(op disk.Op) disk.Fault {
		if on.Load() && op.Kind == kind && strings.HasPrefix(op.Name, prefix) {
			return fault
		}
		return disk.Fault{}
	}
}

// TestRetired fails an operation of the disk, and wants every later call to fail with a clear
// error, whatever waits to be answered, and everything acknowledged to be there afterwards.
func TestRetired(t *testing.T) {
	cases := []struct {
		name   string
		kind   disk.OpKind
		prefix string
		change func(s *Store, done func(error))
	}{
		{"sync of a chunk", disk.OpSync, chunksName, func(s *Store, done func(error)) {
			data := pattern(5, 100_000)
			if err := s.Write(1, 1000, []quarry.RecordHeader{header(9, 2, data)}, data); err != nil {
				done(err)
				return
			}
			s.Sync(1, done)
		}},
		{"write of a chunk", disk.OpWrite, chunksName, func(s *Store, done func(error)) {
			data := pattern(5, 100)
			done(s.Write(1, 1000, []quarry.RecordHeader{header(9, 2, data)}, data))
		}},
		{"sync of the journal", disk.OpSync, journalName, func(s *Store, done func(error)) { s.Promise(1, 2, done) }},
		{"write of the journal", disk.OpWrite, journalName, func(s *Store, done func(error)) { s.Promise(1, 2, done) }},
		{"sync of a new chunk", disk.OpSync, chunksName, func(s *Store, done func(error)) { s.Create(createRequest(2), done) }},
		{"sync of a new chunk's name", disk.OpSyncDir, chunksName, func(s *Store, done func(error)) { s.Create(createRequest(2), done) }},
		{"sync of an index", disk.OpSync, chunkName(1) + indexSuffix, func(s *Store, done func(error)) { s.Seal(sealRequest(1, 1000), done) }},
		{"rename of an index", disk.OpRename, chunkName(1), func(s *Store, done func(error)) { s.Seal(sealRequest(1, 1000), done) }},
		{"rename to the trash", disk.OpRename, chunksName, func(s *Store, done func(error)) { s.Drop(1, 1, testNow, done) }},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			m := disk.NewMem()
			var on atomic.Bool
			s := open(t, disk.NewFaulty(m, failing(&on, c.kind, c.prefix, disk.Fault{Err: syscall.EIO})), testOptions())
			create(t, s, 1)
			data := pattern(1, 1000)
			write(t, s, 1, 0, 1, data)
			syncChunk(t, s, 1)
			on.Store(true)
			err := wait(func(done func(error)) { c.change(s, done) })
			wantKind(t, err, quarry.Unavailable)
			if !strings.Contains(err.Error(), "retired") || !strings.Contains(err.Error(), "input/output") {
				t.Fatalf("the error does not say what happened: %v", err)
			}
			on.Store(false)
			<-s.Done()
			for _, err := range []error{
				s.Err(),
				wait(func(done func(error)) { s.Sync(1, done) }),
				wait(func(done func(error)) { s.Promise(1, 9, done) }),
				wait(func(done func(error)) { s.Create(createRequest(5), done) }),
				s.Write(1, 1000, []quarry.RecordHeader{header(9, 2, data)}, data),
				s.SetIncarnation(4),
				second(s.Read(1, 0, 10, nil)),
				second(s.Usage()),
				second(s.Receive(copyRequest(9, data))),
			} {
				wantKind(t, err, quarry.Unavailable)
			}
			wantKind(t, s.Close(), quarry.Unavailable)
			s = open(t, m.Clone(), testOptions())
			if c.name == "rename to the trash" {
				if _, ok := s.State(1); ok {
					t.Fatal("a dropped chunk is back")
				}
				return
			}
			if got := read(t, s, 1, 0, 1000); !bytes.Equal(got, data) {
				t.Fatal("acknowledged bytes are gone")
			}
		})
	}
}

func second[T any](_ T, err error) error { return err }

// TestFailedWaiters retires the disk while much waits to be done, writers at the bound included.
func TestFailedWaiters(t *testing.T) {
	m := disk.NewMem()
	var on atomic.Bool
	opts := testOptions()
	opts.UnsyncedBytesMax = 1 << 20
	s := open(t, disk.NewFaulty(m, failing(&on, disk.OpSync, chunksName, disk.Fault{Err: syscall.EIO})), opts)
	for h := range quarry.Handle(8) {
		create(t, s, h+1)
	}
	on.Store(true)
	var wg sync.WaitGroup
	var answered atomic.Int64
	for h := range quarry.Handle(8) {
		wg.Go(func() {
			data := pattern(1, 300_000)
			for i := range 50 {
				wg.Add(1)
				s.SyncLater(h+1, func(error) { answered.Add(1); wg.Done() })
				if err := s.Write(h+1, int64(i)*300_000, []quarry.RecordHeader{header(9, quarry.Sequence(i+1), data)}, data); err != nil {
					if quarry.KindOf(err) != quarry.Unavailable {
						t.Error(err)
					}
					return
				}
			}
			t.Error("a disk that cannot sync takes everything")
		})
	}
	wg.Wait()
	if answered.Load() == 0 {
		t.Fatal("nobody was answered")
	}
}

func TestNoSpace(t *testing.T) {
	m := disk.NewMem()
	q, err := disk.WithQuota(m, 200<<20)
	if err != nil {
		t.Fatal(err)
	}
	opts := testOptions()
	opts.ReserveBytes = 30 << 20
	s := open(t, q, opts)
	create(t, s, 1)
	create(t, s, 2)
	wantKind(t, wait(func(done func(error)) { s.Create(createRequest(3), done) }), quarry.NoSpace)
	wantKind(t, second(s.Receive(copyRequest(9, make([]byte, 45<<20)))), quarry.NoSpace)
	data := pattern(1, 1<<20)
	write(t, s, 1, 0, 1, data)
	u, err := s.Usage()
	if err != nil || u.Reserved != 127<<20 {
		t.Fatalf("usage %+v, %v", u, err)
	}
	seal(t, s, 1, 1<<20) // gives back what it did not take
	create(t, s, 3)
	must(t, func(done func(error)) { s.Drop(2, 1, testNow, done) })
	create(t, s, 4)
	if s.Err() != nil {
		t.Fatal(s.Err())
	}
}

// TestDiskFull meets a disk that is full in spite of the accounting, because somebody else
// filled it: the operation fails, the disk stays, and what was there before is there.
func TestDiskFull(t *testing.T) {
	var on atomic.Bool
	full := disk.Fault{Err: syscall.ENOSPC, Part: 5000}
	s := open(t, disk.NewFaulty(disk.NewMem(), failing(&on, disk.OpWrite, chunksName, full)), testOptions())
	create(t, s, 1)
	data := pattern(1, 100_000)
	write(t, s, 1, 0, 1, data)
	syncChunk(t, s, 1)
	on.Store(true)
	more := pattern(2, 100_000)
	wantKind(t, s.Write(1, 100_000, []quarry.RecordHeader{header(9, 2, more)}, more), quarry.NoSpace)
	wantKind(t, wait(func(done func(error)) { s.Seal(sealRequest(1, 100_000), done) }), quarry.NoSpace)
	in, err := s.Receive(copyRequest(2, data))
	if err != nil {
		t.Fatal(err)
	}
	wantKind(t, in.Write(data, parts(data)), quarry.NoSpace)
	in.Abort()
	wantBytes(t, s, 1, data)
	on.Store(false)
	write(t, s, 1, 100_000, 2, more)
	seal(t, s, 1, 200_000)
	wantBytes(t, s, 1, append(data, more...))
	if u, _ := s.Usage(); u.Reserved != 0 || u.Unsynced != 0 {
		t.Fatalf("usage %+v", u)
	}
}

// hurtCase is one way to hurt the files of a chunk.
type hurtCase struct {
	name   string
	sealed bool
	index  bool                // the index is hurt, not the bytes
	hurt   func([]byte) []byte // nil: remove the file
	status quarry.ReplicaStatus
	bad    int64 // the block that does not match any more; -1: none
}

// wantBad wants the bad block to be found by Verify, and neither to be read nor to be sealed,
// and all others to be read.
func (c *hurtCase) wantBad(t *testing.T, s *Store, data []byte) {
	const block = quarry.BlockBytes
	var bad []int64
	for off, done := int64(0), false; !done; {
		next, end, err := s.Verify(1, off, block)
		if err != nil {
			wantKind(t, err, quarry.Corrupt)
			bad = append(bad, off/block)
		}
		off, done = next, end
	}
	if len(bad) != 1 || bad[0] != c.bad {
		t.Fatalf("Verify finds the blocks %v, want %d", bad, c.bad)
	}
	wantKind(t, second(s.Read(1, c.bad*block+1, 10, nil)), quarry.Corrupt)
	wantKind(t, second(tryRead(s, 1, c.bad*block, block)), quarry.Corrupt)
	must(t, func(done func(error)) { s.MarkCorrupt(1, done) })
	for i := range int64(4) {
		reply, err := s.Read(1, i*block, block, nil)
		if i == c.bad {
			wantKind(t, err, quarry.Corrupt) // a suspect replica verifies whole blocks, too
		} else if err != nil || !bytes.Equal(reply.Data, data[i*block:min((i+1)*block, int64(len(data)))]) {
			t.Fatalf("block %d: %v", i, err)
		}
	}
	if !c.sealed {
		wantKind(t, wait(func(done func(error)) { s.Seal(sealRequest(1, int64(len(data))), done) }), quarry.Invalid)
	}
}

// TestHurt hurts the files of a closed store and wants recovery, Read, Verify and Seal to
// notice.
func TestHurt(t *testing.T) {
	const block = quarry.BlockBytes
	data := pattern(1, 3*block+500)
	flip := func(at int) func([]byte) []byte {
		return func(b []byte) []byte { b[at] ^= 1; return b }
	}
	cut := func(n int) func([]byte) []byte { return func(b []byte) []byte { return b[:n] } }
	cases := []hurtCase{
		{"short", false, false, cut(3*block + 499), quarry.ReplicaLost, -1},
		{"short, sealed", true, false, cut(3*block + 499), quarry.ReplicaLost, -1},
		{"empty, sealed", true, false, cut(0), quarry.ReplicaLost, -1},
		{"gone", false, false, nil, quarry.ReplicaLost, -1},
		{"gone, sealed", true, false, nil, quarry.ReplicaLost, -1},
		{"last block", false, false, flip(3*block + 499), quarry.ReplicaCorrupt, 3},
		{"first block", false, false, flip(5), quarry.ReplicaGood, 0},
		{"first block, sealed", true, false, flip(5), quarry.ReplicaGood, 0},
		{"last block, sealed", true, false, flip(3*block + 499), quarry.ReplicaGood, 3},
		{"no index", true, true, nil, quarry.ReplicaCorrupt, -2},
		{"index", true, true, flip(40), quarry.ReplicaGood, -2},
		{"short index", true, true, cut(30), quarry.ReplicaGood, -2},
		{"empty index", true, true, cut(0), quarry.ReplicaGood, -2},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			m := disk.NewMem()
			s := open(t, m, testOptions())
			create(t, s, 1)
			write(t, s, 1, 0, 1, data)
			syncChunk(t, s, 1)
			name := chunkName(1)
			if c.sealed {
				seal(t, s, 1, int64(len(data)))
			}
			if c.index {
				name += indexSuffix
			}
			s.Close()
			if c.hurt == nil {
				if err := m.Remove(name); err != nil {
					t.Fatal(err)
				}
			} else {
				setFile(t, m, name, c.hurt)
			}
			for range 2 { // the second time from the journal
				s = open(t, m, testOptions())
				if st := state(t, s, 1); st.Status != c.status || st.Length != int64(len(data)) {
					t.Fatalf("state %+v", st)
				}
				s.Close()
			}
			s = open(t, m, testOptions())
			switch {
			case c.status == quarry.ReplicaLost:
				wantKind(t, second(s.Read(1, 0, 10, nil)), quarry.Unavailable)
				wantKind(t, s.Write(1, int64(len(data)), nil, nil), quarry.Unavailable)
			case c.index:
				wantKind(t, second(s.Read(1, 0, 10, nil)), quarry.Corrupt)
				_, _, err := s.Verify(1, 0, 1)
				wantKind(t, err, quarry.Corrupt)
			default:
				c.wantBad(t, s, data)
			}
		})
	}
}

// TestForeignIndex puts a sound index of another seal, or of another chunk, beside a chunk.
func TestForeignIndex(t *testing.T) {
	for name, change := range map[string]func(*Index){
		"seal":  func(x *Index) { x.SealVersion = 4 },
		"chunk": func(x *Index) { x.Handle = 2 },
		"records": func(x *Index) {
			x.Runs = []quarry.RecordRun{{Session: 9, Sequence: 2, Count: 1, Length: 1000}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := disk.NewMem()
			s := open(t, m, testOptions())
			create(t, s, 1)
			write(t, s, 1, 0, 1, pattern(1, 1000))
			seal(t, s, 1, 1000)
			s.Close()
			setFile(t, m, chunkName(1)+indexSuffix, func(b []byte) []byte {
				x, err := ReadIndex(b)
				if err != nil {
					t.Fatal(err)
				}
				change(x)
				b, _ = x.encode()
				return b
			})
			s = open(t, m, testOptions())
			wantKind(t, second(s.Read(1, 0, 10, nil)), quarry.Corrupt)
			_, _, err := s.Records(1)
			wantKind(t, err, quarry.Corrupt)
		})
	}
}

// TestLyingDisk has a disk that says that it synced and did not, and crashes it. What is lost
// then cannot be had; but no wrong byte may come back, and no short replica may count as good.
func TestLyingDisk(t *testing.T) {
	var on atomic.Bool
	m := disk.NewMem()
	s := open(t, disk.NewFaulty(m, failing(&on, disk.OpSync, chunksName, disk.Fault{Skip: true})), testOptions())
	data := pattern(1, 200_000)
	for h := range quarry.Handle(2) {
		create(t, s, h+1)
		on.Store(true)
		write(t, s, h+1, 0, 1, data[:100_000])
		syncChunk(t, s, h+1)
		write(t, s, h+1, 100_000, 2, data[100_000:])
		syncChunk(t, s, h+1)
		on.Store(false)
	}
	must(t, func(done func(error)) { s.Promise(1, 2, done) })
	statuses := map[quarry.ReplicaStatus]int{}
	m.Images(200, func(image *disk.Mem) {
		s, err := Open(image, testOptions())
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		status := state(t, s, 1).Status
		statuses[status]++
		if size, _ := image.Size(chunkName(1)); size < 200_000 && status != quarry.ReplicaLost {
			t.Fatalf("a replica with %d bytes of 200,000 has status %d", size, status)
		}
		got, err := tryRead(s, 1, 0, 1<<20)
		if err == nil && !bytes.Equal(got, data) {
			t.Fatal("wrong bytes were read without an error")
		}
	})
	if statuses[quarry.ReplicaLost] == 0 || statuses[quarry.ReplicaCorrupt] == 0 || statuses[quarry.ReplicaGood] == 0 {
		t.Fatalf("the images do not show all cases: %v", statuses)
	}
}
