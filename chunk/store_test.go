package chunk

import (
	"bytes"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/disk"
)

// disks are the kinds of disks that the store must work on.
func disks(t *testing.T, f func(t *testing.T, fsys disk.FS)) {
	t.Run("mem", func(t *testing.T) { f(t, disk.NewMem()) })
	t.Run("os", func(t *testing.T) {
		fsys, err := disk.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { fsys.Close() })
		f(t, fsys)
	})
}

// TestLife follows a chunk from create to purge, and opens the store again at each step.
func TestLife(t *testing.T) {
	disks(t, func(t *testing.T, fsys disk.FS) {
		const h = quarry.Handle(0xab)
		s := open(t, fsys, testOptions())
		again := func() {
			t.Helper()
			before, _ := s.State(h)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = open(t, fsys, testOptions())
			after, _ := s.State(h)
			if before.Handle != after.Handle || before.Promised != after.Promised || before.Length != after.Length ||
				before.SealVersion != after.SealVersion || before.Status != after.Status || before.CRC != after.CRC ||
				before.Serving != after.Serving || before.Adopted != after.Adopted || before.Hint != after.Hint {
				t.Fatalf("before %+v\nafter %+v", before, after)
			}
		}
		create(t, s, h)
		create(t, s, h) // the same request again
		again()
		must(t, func(done func(error)) { s.Adopt(h, 1, done) })
		wantKind(t, wait(func(done func(error)) { s.Adopt(h, 1, done) }), quarry.StaleVersion)
		must(t, func(done func(error)) { s.Create(createRequest(h+1), done) })
		must(t, func(done func(error)) { s.Promise(h+1, 2, done) })
		wantKind(t, wait(func(done func(error)) { s.Adopt(h+1, 1, done) }), quarry.StaleVersion)
		must(t, func(done func(error)) { s.Drop(h+1, 2, testNow, done) })
		data := pattern(1, 700_000)
		write(t, s, h, 0, 1, data[:300_000])
		write(t, s, h, 300_000, 2, data[300_000:300_100])
		syncChunk(t, s, h)
		wantBytes(t, s, h, data[:300_100])
		again()
		wantBytes(t, s, h, data[:300_100])
		write(t, s, h, 300_100, 3, data[300_100:400_000])
		write(t, s, h, 400_000, 4, data[400_000:])
		must(t, func(done func(error)) { s.Promise(h, 2, done) })
		again()
		wantBytes(t, s, h, data)
		seal(t, s, h, 400_000)
		seal(t, s, h, 400_000) // the same request again
		data = data[:400_000]
		if got := state(t, s, h).CRC; got != checksum(data) {
			t.Fatalf("the seal's checksum is %08x, want %08x", got, checksum(data))
		}
		again()
		wantBytes(t, s, h, data)
		runs, _, err := s.Records(h)
		want := []quarry.RecordRun{{Session: 9, Sequence: 1, Count: 1, Length: 300_000},
			{Session: 9, Sequence: 2, Count: 1, Offset: 300_000, Length: 100},
			{Session: 9, Sequence: 3, Count: 1, Offset: 300_100, Length: 99_900}}
		if err != nil || !slices.Equal(runs, want) {
			t.Fatalf("records %+v, %v", runs, err)
		}
		must(t, func(done func(error)) { s.Forget(h, 9, done) })
		again()
		if runs, forgotten, _ := s.Records(h); runs[0].Session != 0 || !slices.Equal(forgotten, []quarry.SessionID{9}) {
			t.Fatalf("records %+v, forgotten %v", runs, forgotten)
		}
		wantKind(t, wait(func(done func(error)) { s.Drop(h, 1, testNow, done) }), quarry.StaleVersion)
		must(t, func(done func(error)) { s.Drop(h, 2, testNow, done) })
		must(t, func(done func(error)) { s.Drop(h, 2, testNow, done) })
		again()
		if _, err := s.Read(h, 0, 1, nil); err == nil {
			t.Fatal("a dropped chunk can be read")
		}
		if n, b, err := s.Purge(testNow, 10); n != 0 || b != 0 || err != nil {
			t.Fatalf("purged %d, %d, %v before its time", n, b, err)
		}
		if u, _ := s.Usage(); u.Trash < 400_000 || u.Chunks != 0 || u.Reserved != 0 || u.Unsynced != 0 {
			t.Fatalf("usage %+v", u)
		}
		if n, b, err := s.Purge(testNow.Add(time.Second), 10); n != 2 || b < 400_000 || err != nil {
			t.Fatalf("purged %d, %d, %v", n, b, err)
		}
		if names, _ := fsys.List(trashName); len(names) > 0 {
			t.Fatalf("the trash still has %v", names)
		}
	})
}

// TestBrokenBeforeTheWrite has bytes that broke between their arrival, where they were compared with their
// checksums, and the write. Whatever they stand at, nobody gets them: they are refused, or do not match what is stored.
func TestBrokenBeforeTheWrite(t *testing.T) {
	const block = quarry.BlockBytes
	for _, off := range []int{0, 1000, block, 2*block + 1} {
		for _, at := range []int{0, 500, block - 1, block, block + 1000, 2*block + 99} {
			s := open(t, disk.NewMem(), testOptions())
			create(t, s, 1)
			if off > 0 {
				write(t, s, 1, 0, 1, pattern(1, off))
			}
			data := pattern(2, 2*block+100)
			records := []quarry.RecordHeader{header(9, 2, data)}
			data[at] ^= 4
			if err := s.Write(1, int64(off), records, data); err != nil {
				wantKind(t, err, quarry.Corrupt)
				continue
			}
			if off%block != 0 {
				t.Errorf("broken at %d, written at %d", at, off)
			}
			syncChunk(t, s, 1)
			for k := range int64(3) { // the block that has the byte, and no other
				_, err := tryRead(s, 1, int64(off)+k*block, min(block, int64(len(data))-k*block))
				if k == int64(at/block) {
					wantKind(t, err, quarry.Corrupt)
				} else if err != nil {
					t.Error(err)
				}
			}
			err := wait(func(done func(error)) { s.Seal(sealRequest(1, int64(off+len(data))), done) })
			if err == nil { // the last block, of which a part may be cut off, is whole
				_, _, err = s.Verify(1, 0, quarry.ChunkBytesMax)
			}
			wantKind(t, err, quarry.Corrupt)
		}
	}
}

// TestRead reads every sort of range, of growing and of sealed chunks.
func TestRead(t *testing.T) {
	disks(t, func(t *testing.T, fsys disk.FS) {
		const h, block = quarry.Handle(1), quarry.BlockBytes
		s := open(t, fsys, testOptions())
		create(t, s, h)
		data := pattern(2, 5*block+1000)
		for off, seq := 0, quarry.Sequence(1); off < len(data); seq++ {
			n := min(50_000, len(data)-off)
			write(t, s, h, int64(off), seq, data[off:off+n])
			off += n
		}
		if got := read(t, s, h, 0, 100); len(got) != 0 {
			t.Fatalf("%d bytes can be read before they are durable", len(got))
		}
		syncChunk(t, s, h)
		// More bytes in the last block, which are not durable, change nothing.
		write(t, s, h, int64(len(data)), 100, pattern(3, 10))
		check := func() {
			t.Helper()
			for _, off := range []int64{0, 1, block - 1, block, block + 1, 5 * block, 5*block + 999, 5*block + 1000, 6 * block} {
				for _, n := range []int64{1, 2, block - 1, block, block + 1, 2 * block, 2*block + 1, 1 << 20} {
					want := data[min(off, int64(len(data))):min(off+n, int64(len(data)))]
					reply, err := s.Read(h, off, n, nil)
					if err != nil {
						t.Fatal(err)
					}
					if reply.Release != nil {
						reply.Release()
						reply.Release() // does no harm
					}
					if got := read(t, s, h, off, n); !bytes.Equal(got, want) {
						t.Fatalf("[%d, +%d): %d bytes, want %d", off, n, len(got), len(want))
					}
					into := make([]byte, 0, n)
					reply, err = s.Read(h, off, n, into)
					if err != nil || reply.File != nil || !bytes.Equal(reply.Data, want) {
						t.Fatalf("[%d, +%d) into a buffer: %d bytes, %v", off, n, len(reply.Data), err)
					}
					if len(want) > 0 && &reply.Data[0] != &into[:1][0] {
						t.Fatal("the bytes are not in the buffer")
					}
				}
			}
			for _, bad := range [][2]int64{{-1, 1}, {0, 0}, {0, quarry.ReadBytesMax + 1}} {
				if _, err := s.Read(h, bad[0], bad[1], nil); err == nil {
					t.Fatalf("read %v succeeds", bad)
				}
			}
		}
		check()
		seal(t, s, h, int64(len(data)))
		check()
		s.indexes = newIndexCache(0)
		check()
	})
}

// TestWriteRefused tries writes that must leave no trace.
func TestWriteRefused(t *testing.T) {
	const h = quarry.Handle(1)
	s := open(t, disk.NewMem(), testOptions())
	create(t, s, h)
	data := pattern(1, 100_000)
	write(t, s, h, 0, 1, data)
	good := header(9, 2, data)
	cases := []struct {
		name    string
		h       quarry.Handle
		off     int64
		records []quarry.RecordHeader
		data    []byte
		kind    quarry.Kind
	}{
		{"no chunk", 2, 0, []quarry.RecordHeader{good}, data, quarry.NotFound},
		{"gap", h, 100_001, []quarry.RecordHeader{good}, data, quarry.Invalid},
		{"overwrite", h, 99_999, []quarry.RecordHeader{good}, data, quarry.Invalid},
		{"no record", h, 100_000, nil, data, quarry.Invalid},
		{"empty record", h, 100_000, []quarry.RecordHeader{good, {}}, data, quarry.Invalid},
		{"too few bytes", h, 100_000, []quarry.RecordHeader{good, good}, data, quarry.Invalid},
		{"too many bytes", h, 100_000, []quarry.RecordHeader{header(9, 2, data[1:])}, data, quarry.Invalid},
		{"checksums", h, 100_000, []quarry.RecordHeader{{Length: 100_000, CRCs: good.CRCs[:1]}}, data, quarry.Invalid},
		{"wrong bytes", h, 100_000, []quarry.RecordHeader{good}, pattern(2, 100_000), quarry.Corrupt},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { wantKind(t, s.Write(c.h, c.off, c.records, c.data), c.kind) })
	}
	syncChunk(t, s, h)
	wantBytes(t, s, h, data)
	if u, _ := s.Usage(); u.Unsynced != 0 || u.Reserved != quarry.ChunkBytesMax-100_000 {
		t.Fatalf("usage %+v", u)
	}
	must(t, func(done func(error)) { s.Promise(h, 2, done) })
	for _, length := range []int64{-1, 1, 99_999, 100_001} {
		wantKind(t, wait(func(done func(error)) { s.Seal(sealRequest(h, length), done) }), quarry.Invalid)
	}
	write(t, s, h, 100_000, 2, data) // a seal that was refused ends nothing
	seal(t, s, h, 0)
	wantKind(t, s.Write(h, 0, []quarry.RecordHeader{good}, data), quarry.StaleVersion)
	wantBytes(t, s, h, nil)
}

func TestFullChunk(t *testing.T) {
	const h = quarry.Handle(1)
	s := open(t, disk.NewMem(), testOptions())
	create(t, s, h)
	data := pattern(1, 16<<20)
	for i := range 4 {
		write(t, s, h, int64(i)<<24, quarry.Sequence(i+1), data)
	}
	wantKind(t, s.Write(h, 64<<20, []quarry.RecordHeader{header(9, 9, data[:1])}, data[:1]), quarry.Full)
	seal(t, s, h, 64<<20)
	if got := read(t, s, h, 64<<20-5, 100); !bytes.Equal(got, data[len(data)-5:]) {
		t.Fatal("the last bytes differ")
	}
}

func TestManyRuns(t *testing.T) {
	const h = quarry.Handle(1)
	s := open(t, disk.NewMem(), testOptions())
	create(t, s, h)
	b := []byte{1}
	var records []quarry.RecordHeader
	var data []byte
	for i := range RunsMax / 4 {
		records = append(records, header(1<<63+quarry.SessionID(i%2), 1<<62+quarry.Sequence(i), b))
		data = append(data, b...)
	}
	for i := range 4 {
		if err := s.Write(h, int64(i*len(data)), records, data); err != nil {
			t.Fatal(err)
		}
	}
	wantKind(t, s.Write(h, RunsMax, records[:1], b), quarry.Full)
	syncChunk(t, s, h)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, s.fs, testOptions())
	seal(t, s, h, RunsMax)
	if runs, _, err := s.Records(h); err != nil || len(runs) != RunsMax {
		t.Fatalf("%d runs, %v", len(runs), err)
	}
}

// TestOrder asks for many changes at once and wants the callbacks of each chunk in the order
// of the calls, and each after its bytes are durable.
func TestOrder(t *testing.T) {
	opts := testOptions()
	opts.Workers = 8
	s := open(t, disk.NewMem(), opts)
	var wait sync.WaitGroup
	for c := range 20 {
		h := quarry.Handle(c + 1)
		create(t, s, h)
		wait.Go(func() {
			var mu sync.Mutex
			var got []int
			var ops sync.WaitGroup
			off := int64(0)
			for i := range 100 {
				n := 100 + (i*c*977)%150_000
				data := pattern(uint64(i), n)
				if err := s.Write(h, off, []quarry.RecordHeader{header(9, quarry.Sequence(i+1), data)}, data); err != nil {
					t.Error(err)
					return
				}
				off += int64(n)
				end := off
				ops.Add(1)
				done := func(err error) {
					defer ops.Done()
					mu.Lock()
					defer mu.Unlock()
					got = append(got, i)
					if st, _ := s.State(h); err != nil || st.Length < end {
						t.Errorf("%v; %d bytes are durable, want %d", err, st.Length, end)
					}
				}
				switch i % 5 {
				case 0:
					s.SyncLater(h, done)
				case 1:
					s.Promise(h, quarry.Version(i/5+1), done)
				default:
					s.Sync(h, done)
				}
			}
			s.SyncAll()
			ops.Wait()
			if len(got) != 100 || !slices.IsSorted(got) {
				t.Errorf("chunk %v: callbacks came as %v", h, got)
			}
		})
	}
	wait.Wait()
	if u, _ := s.Usage(); u.Unsynced != 0 {
		t.Fatalf("usage %+v", u)
	}
	if s.pinned > opts.withDefaults(0).FilesMax/2+1 {
		t.Fatalf("%d files are pinned", s.pinned)
	}
}

// TestSyncLater wants a stream to be synced in large steps, and when something else needs it.
func TestSyncLater(t *testing.T) {
	const h = quarry.Handle(1)
	s := open(t, disk.NewMem(), testOptions())
	create(t, s, h)
	data := pattern(1, 1<<20)
	later := make(chan error, 20)
	off := int64(0)
	step := func() {
		write(t, s, h, off, quarry.Sequence(off>>20+1), data)
		off += 1 << 20
		s.SyncLater(h, func(err error) { later <- err })
	}
	for range 7 {
		step()
	}
	must(t, func(done func(error)) { s.Promise(2, 1, func(error) { done(nil) }) }) // a commit passes
	if len(later) != 0 || state(t, s, h).Length != 0 {
		t.Fatal("a stream is synced too early")
	}
	step()
	for range 8 {
		if err := <-later; err != nil {
			t.Fatal(err)
		}
	}
	step()
	must(t, func(done func(error)) { s.Promise(h, 2, done) })
	if len(later) != 1 || state(t, s, h).Length != 9<<20 {
		t.Fatal("a promise comes before the bytes written before it")
	}
	step()
	s.SyncAll()
	<-later
	<-later
	step()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-later; err != nil {
		t.Fatal(err)
	}
}

// TestUnsyncedBound wants Write to wait at the bound, and to go on.
func TestUnsyncedBound(t *testing.T) {
	opts := testOptions()
	opts.UnsyncedBytesMax = 1 << 20
	s := open(t, disk.NewMem(), opts)
	data := pattern(1, 100_000)
	for h := range quarry.Handle(8) {
		create(t, s, h+1)
	}
	for i := range 40 {
		for h := range quarry.Handle(8) {
			write(t, s, h+1, int64(i)*100_000, quarry.Sequence(i+1), data)
			if u, _ := s.Usage(); u.Unsynced > opts.UnsyncedBytesMax {
				t.Fatalf("%d bytes are unsynced", u.Unsynced)
			}
		}
	}
}

func TestInventory(t *testing.T) {
	s := open(t, disk.NewMem(), testOptions())
	for h := range quarry.Handle(10) {
		create(t, s, h*1000+1)
	}
	var got []quarry.Handle
	for from := quarry.Handle(0); ; {
		page := s.Inventory(from, 7001, 3)
		if len(page) == 0 {
			break
		}
		for _, st := range page {
			got = append(got, st.Handle)
			if info := st.Info(testIdentity.Disk); info.Handle != st.Handle || info.Status != quarry.ReplicaGood || !info.Serving {
				t.Fatalf("info %+v", info)
			}
		}
		from = page[len(page)-1].Handle + 1
	}
	if want := []quarry.Handle{1, 1001, 2001, 3001, 4001, 5001, 6001, 7001}; !slices.Equal(got, want) {
		t.Fatalf("inventory %v", got)
	}
}

func TestIdentity(t *testing.T) {
	m := disk.NewMem()
	if _, err := ReadIdentity(m); err == nil {
		t.Fatal("an empty folder has an identity")
	}
	_, err := Open(m, Options{})
	wantKind(t, err, quarry.NotFound)
	opts := testOptions()
	opts.Identity.Server = 0
	s := open(t, m, opts)
	_, err = Open(m, opts)
	wantKind(t, err, quarry.Busy)
	if err := s.SetIncarnation(5); err != nil {
		t.Fatal(err)
	}
	if err := s.SetServer(7); err != nil {
		t.Fatal(err)
	}
	wantKind(t, s.SetServer(8), quarry.Invalid)
	s.Close()
	wantKind(t, wait(func(done func(error)) { s.Sync(1, done) }), quarry.Unavailable)
	if id, err := ReadIdentity(m); err != nil || id != testIdentity {
		t.Fatalf("identity %+v, %v", id, err)
	}
	for name, change := range map[string]func(*Identity){
		"cluster": func(id *Identity) { id.Cluster[0]++ },
		"disk":    func(id *Identity) { id.Disk[0]++ },
		"server":  func(id *Identity) { id.Server++ },
	} {
		opts := testOptions()
		change(&opts.Identity)
		_, err := Open(m, opts)
		if want := map[string]quarry.Kind{"cluster": quarry.WrongCluster, "disk": quarry.Invalid, "server": quarry.Invalid}[name]; quarry.KindOf(err) != want {
			t.Errorf("another %s: %v", name, err)
		}
	}
	s = open(t, m, Options{})
	if s.Incarnation() != 5 || s.Identity() != testIdentity {
		t.Fatalf("incarnation %d, identity %+v", s.Incarnation(), s.Identity())
	}
	create(t, s, 1)
	s.Close()
	setFile(t, m, formatName, func(b []byte) []byte { return bytes.Replace(b, []byte("format 1"), []byte("format 2"), 1) })
	if _, err := Open(m, Options{}); quarry.KindOf(err) != quarry.Unsupported || !strings.Contains(err.Error(), "format 2") {
		t.Fatalf("a later format: %v", err)
	}
	setFile(t, m, formatName, func(b []byte) []byte {
		return bytes.Replace(testIdentity.encode(), []byte("server 7"), []byte("server 8"), 1)
	})
	_, err = Open(m, Options{})
	wantKind(t, err, quarry.Corrupt)
	if err := m.Remove(formatName); err != nil {
		t.Fatal(err)
	}
	_, err = Open(m, testOptions())
	wantKind(t, err, quarry.Corrupt)
}

// setFile changes the content of a file.
func setFile(t testing.TB, fsys disk.FS, name string, change func([]byte) []byte) {
	t.Helper()
	b, err := readFile(fsys, name, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	f, err := fsys.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b = change(b)
	if _, err := f.WriteAt(b, 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(int64(len(b))); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}
