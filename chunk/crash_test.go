package chunk

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/disk"
	"github.com/quarryfs/quarry/disk/crashtest"
)

var crashEvery = flag.Int("every", 29, "crash before every so many operations of the disk")

// history is what a workload has asked of one chunk, and what of it is done.
type history struct {
	data                  []byte // what the chunk's bytes are, as far as they go
	ends                  map[int64]bool
	createAsked, created  bool
	asked, acked          int64 // lengths
	promiseAsked, promise quarry.Version
	sealAsked, sealed     int64          // lengths; -1: no seal
	reopenAsked           quarry.Version // after the seal; 0: not
	reopened              bool
	againAsked, again     int64 // lengths of the seal after that; -1: none
	dropAsked, dropped    bool
	copyAsked, copied     bool // the chunk of copyBytes came in the place of this one
	marksAsked, marks     marks
}

// marks are what a replica is told and never forgets.
type marks struct{ adopted, mutable, serving, forgotten, corrupt bool }

// forgottenSession has no records.
const forgottenSession = 55

func marksOf(st *State) marks {
	return marks{st.Adopted == 1, st.Mutable, st.Serving, slices.Contains(st.Forgotten, forgottenSession), st.Status == quarry.ReplicaCorrupt}
}

// within reports whether all of m is in other.
func (m marks) within(other marks) bool {
	implies := func(a, b bool) bool { return !a || b }
	return implies(m.adopted, other.adopted) && implies(m.mutable, other.mutable) && implies(m.serving, other.serving) &&
		implies(m.forgotten, other.forgotten) && implies(m.corrupt, other.corrupt)
}

// crasher runs a workload and looks at what crashes may leave between any two operations
// of the disk.
type crasher struct {
	t      *testing.T
	mem    *disk.Mem
	mu     sync.Mutex
	chunks map[quarry.Handle]*history
	looks  int
	every  int // look before every so many operations

	incarnationAsked, incarnation quarry.Incarnation
	purging                       bool // the trash may be empty

	syncs *crashtest.Syncs
	lost  int // the last image that was counted as broken
	crashtest.Result
}

const copyBytes = 70_000

func newCrasher(t *testing.T, every int, syncs *crashtest.Syncs) *crasher {
	return &crasher{t: t, mem: disk.NewMem(), chunks: map[quarry.Handle]*history{}, every: every, syncs: syncs}
}

// lose counts an image on which something is wrong.
func (c *crasher) lose(format string, args ...any) {
	if c.lost == c.Images {
		return // one image counts once
	}
	c.lost = c.Images
	if c.Lost++; c.First == "" {
		c.First = fmt.Sprintf(format, args...)
	}
}

// policy looks before an operation; nothing becomes known to be durable meanwhile.
func (c *crasher) policy(op disk.Op) disk.Fault {
	switch op.Kind {
	case disk.OpRead, disk.OpSize, disk.OpList, disk.OpOpen, disk.OpUsage:
		return disk.Fault{}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.looks++
	founding := c.looks < 20
	if (founding || c.looks%c.every == 0) && !c.syncs.Enough(c.Lost) {
		var images []*disk.Mem
		c.mem.Images(3, func(m *disk.Mem) { images = append(images, m) })
		images = append(images, c.mem.Clone(), c.mem.Crash(rand.New(rand.NewPCG(uint64(c.looks), 0))))
		for i, m := range images {
			c.check(m, c.chunks, fmt.Sprintf("look %d, image %d, before %v", c.looks, i, op))
		}
		if c.looks%(12*c.every) == 0 || founding && c.looks%6 == 0 {
			c.restart(c.mem.Clone(), fmt.Sprintf("look %d, killed before %v", c.looks, op))
			c.restart(c.mem.Crash(rand.New(rand.NewPCG(uint64(c.looks), 1))), fmt.Sprintf("look %d, power lost before %v", c.looks, op))
		}
	}
	sync := (op.Kind == disk.OpSync || op.Kind == disk.OpSyncDir) && strings.HasPrefix(op.Name, journalName)
	if sync && c.looks%(c.every-2) == 0 && !c.syncs.Enough(c.Lost) {
		c.restart(c.mem.Clone(), fmt.Sprintf("look %d, killed before %v", c.looks, op))
	}
	return c.syncs.Fault(op)
}

// check opens an image, compares it with the histories, and goes on working on it.
func (c *crasher) check(m *disk.Mem, chunks map[quarry.Handle]*history, what string) {
	c.Images++
	opts := testOptions()
	opts.Workers = 1
	s, err := Open(m, opts)
	if err != nil {
		c.lose("%s: %v", what, err)
		return
	}
	c.compare(s, chunks, what)
	if err := s.Close(); err != nil {
		c.lose("%s: %v", what, err)
	}
	s, err = Open(m, opts)
	if err != nil {
		c.lose("%s: the second time: %v", what, err)
		return
	}
	for h, hist := range chunks {
		if err := hist.goOn(s, h); err != nil {
			c.lose("%s: chunk %v afterwards: %v", what, h, err)
			break
		}
	}
	if err := s.Close(); err != nil {
		c.lose("%s: %v", what, err)
	}
}

// compare compares what a store shows with the histories.
func (c *crasher) compare(s *Store, chunks map[quarry.Handle]*history, what string) {
	if n := s.Incarnation(); n < c.incarnation || n > c.incarnationAsked {
		c.lose("%s: incarnation %d, acknowledged %d, asked for %d", what, n, c.incarnation, c.incarnationAsked)
		return
	}
	for h, hist := range chunks {
		if err := hist.check(s, h, c.purging); err != nil {
			c.lose("%s: chunk %v: %v", what, h, err)
			return // it is counted as an image
		}
	}
}

func (hist *history) check(s *Store, h quarry.Handle, purging bool) error {
	st, ok := s.State(h)
	switch {
	case !ok && hist.dropAsked:
		if names, err := s.fs.List(trashName); err != nil || hist.dropped && len(names) == 0 && hist.acked > 0 && !purging {
			return fmt.Errorf("the trash is empty, %v", err)
		}
		return nil
	case !ok && (hist.created || hist.copied):
		return errors.New("it is gone")
	case !ok:
		return nil
	case hist.dropped:
		return errors.New("it is back")
	case !hist.createAsked && !hist.copyAsked:
		return errors.New("nobody asked for it")
	case st.Promised < hist.promise || st.Promised > max(hist.promiseAsked, 1):
		return fmt.Errorf("promised %d, acknowledged %d, asked for %d", st.Promised, hist.promise, hist.promiseAsked)
	case hist.copyAsked && !hist.copied && st.Status == quarry.ReplicaLost:
		return nil // given up for the copy
	case st.Status != quarry.ReplicaGood && !hist.marksAsked.corrupt:
		return fmt.Errorf("its status is %d", st.Status)
	}
	if got := marksOf(&st); !hist.copyAsked && (!hist.marks.within(got) || !got.within(hist.marksAsked)) {
		return fmt.Errorf("its marks are %+v, acknowledged %+v, asked for %+v", got, hist.marks, hist.marksAsked)
	} else if got.corrupt {
		return nil
	}
	if size, err := s.fs.Size(chunkName(h)); err != nil || st.Sealed() && size != st.Length {
		return fmt.Errorf("its file has %d bytes, it has %d, %v", size, st.Length, err)
	}
	want := hist.data[:st.Length]
	if hist.copyAsked && st.SealVersion == 4 {
		want = pattern(uint64(h)+1, copyBytes)
	} else if err := hist.checkLength(&st); err != nil {
		return err
	} else if err := hist.checkRecords(s, &st); err != nil {
		return err
	}
	got, err := tryRead(s, h, 0, st.Length+10)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("its %d bytes are not the %d that were written", len(got), len(want))
	}
	return nil
}

func (hist *history) checkLength(st *State) error {
	opened := hist.reopenAsked != 0 && st.LogVersion == hist.reopenAsked
	switch {
	case hist.copied:
		return errors.New("the copy is gone")
	case hist.reopened && !opened:
		return fmt.Errorf("it is not opened again: %+v", st)
	case opened && hist.again >= 0 && (!st.Sealed() || st.Length != hist.again):
		return fmt.Errorf("it is not sealed again at %d: %+v", hist.again, st)
	case opened && st.Sealed() && st.Length != hist.againAsked:
		return fmt.Errorf("it is sealed again at %d, not %d", st.Length, hist.againAsked)
	case opened && st.SealLength != hist.sealed && st.SealLength != hist.againAsked:
		return fmt.Errorf("the seal before was at %d: %+v", hist.sealed, st)
	case opened && !st.Sealed() && (st.Length < hist.acked || st.Length > hist.asked):
		return fmt.Errorf("opened again it has %d bytes, acknowledged %d, asked for %d", st.Length, hist.acked, hist.asked)
	case opened:
	case hist.sealed >= 0 && (!st.Sealed() || st.Length != hist.sealed):
		return fmt.Errorf("it is not sealed at %d: %+v", hist.sealed, st)
	case st.Sealed() && st.Length != hist.sealAsked:
		return fmt.Errorf("it is sealed at %d, not %d", st.Length, hist.sealAsked)
	case !st.Sealed() && (st.Length < hist.acked || st.Length > hist.asked):
		return fmt.Errorf("it has %d bytes, acknowledged %d, asked for %d", st.Length, hist.acked, hist.asked)
	}
	return nil
}

func (hist *history) checkRecords(s *Store, st *State) error {
	runs, _, err := s.Records(st.Handle)
	if err != nil {
		return err
	}
	off := int64(0)
	for _, r := range runs {
		for range r.Count {
			if off += r.Length; !hist.ends[off] {
				return fmt.Errorf("no record ends at %d", off)
			}
		}
	}
	if off != st.Length {
		return fmt.Errorf("the records end at %d, the bytes at %d", off, st.Length)
	}
	return nil
}

// goOn writes to the chunk and seals it.
func (hist *history) goOn(s *Store, h quarry.Handle) error {
	st, ok := s.State(h)
	if !ok || st.Status != quarry.ReplicaGood {
		return wait(func(done func(error)) { s.Drop(h, st.Promised, testNow, done) })
	}
	if st.Sealed() {
		if _, err := tryRead(s, h, 0, st.Length); err != nil {
			return err
		}
		v := st.Promised + 1
		if err := wait(func(done func(error)) { s.Reopen(h, v, st.Length, done) }); err != nil {
			return err
		}
		want, length := st, st.Length
		if st, _ = s.State(h); st.Promised != v || st.LogVersion != v || st.Length != length || st.SealVersion != want.SealVersion {
			return fmt.Errorf("opened again it is %+v, was %+v", st, want)
		}
		if hist.copyAsked {
			_, err := tryRead(s, h, 0, st.Length)
			return err
		}
	}
	more := pattern(99, 5000)
	if err := s.Write(h, st.Length, []quarry.RecordHeader{header(3, 1, more)}, more); err != nil {
		return err
	}
	req := sealRequest(h, st.Length+5000)
	req.Version = max(st.Promised, 1) + 1
	req.WritableVersion = st.LogVersion
	if err := wait(func(done func(error)) { s.Seal(req, done) }); err != nil {
		return err
	}
	got, err := tryRead(s, h, 0, 1<<30)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, append(bytes.Clone(hist.data[:st.Length]), more...)) {
		return errors.New("the bytes differ after more were written")
	}
	return nil
}

// do notes that something is asked for, does it, and notes that it is done.
func (c *crasher) do(asked func(), change func(done func(error)), acked func()) {
	c.mu.Lock()
	asked()
	c.mu.Unlock()
	err := wait(func(done func(error)) {
		change(func(err error) {
			if err == nil {
				c.mu.Lock()
				acked()
				c.mu.Unlock()
			}
			done(err)
		})
	})
	if err != nil {
		c.t.Error(err)
	}
}

// live does things to one chunk, from create to its end.
func (c *crasher) live(s *Store, h quarry.Handle, r *rand.Rand) {
	hist := &history{data: pattern(uint64(h), 1<<20), ends: map[int64]bool{0: true}, sealAsked: -1, sealed: -1, againAsked: -1, again: -1}
	c.mu.Lock()
	c.chunks[h] = hist
	c.mu.Unlock()
	c.do(func() { hist.createAsked, hist.marksAsked.serving = true, true },
		func(done func(error)) { s.Create(createRequest(h), done) }, func() { hist.created, hist.marks.serving = true, true })
	seq := quarry.Sequence(1)
	for range 4 + r.IntN(8) {
		if c.mark(s, h, hist, r.IntN(24)) {
			continue
		}
		if r.IntN(6) == 0 {
			v := hist.promiseAsked + 1
			c.do(func() { hist.promiseAsked = v }, func(done func(error)) { s.Promise(h, v, done) }, func() { hist.promise = v })
			continue
		}
		var end int64
		for range 1 + r.IntN(3) {
			n := int64(1 + r.IntN(3000))
			switch r.IntN(8) {
			case 0:
				n = int64(1 + r.IntN(100_000))
			case 1, 2, 3:
				n = int64(1 + r.IntN(100))
			}
			off := hist.asked
			c.mu.Lock()
			hist.asked += n
			hist.ends[hist.asked] = true
			end = hist.asked
			c.mu.Unlock()
			data := hist.data[off : off+n]
			if err := s.Write(h, off, []quarry.RecordHeader{header(9, seq, data)}, data); err != nil {
				c.t.Error(err)
			}
			seq++
		}
		switch r.IntN(4) {
		case 0: // the next records are written while these are being synced
			s.Sync(h, func(err error) {
				c.mu.Lock()
				defer c.mu.Unlock()
				if err != nil {
					c.t.Error(err)
				}
				hist.acked = end
			})
		case 1, 2:
			c.do(func() {}, func(done func(error)) { s.Sync(h, done) }, func() { hist.acked = end })
		}
	}
	if r.IntN(3) > 0 {
		c.mu.Lock()
		length := hist.acked
		c.mu.Unlock()
		v := quarry.Version(max(2, hist.promiseAsked+1))
		req := sealRequest(h, length)
		req.Version = v
		c.do(func() { hist.sealAsked, hist.promiseAsked = length, v }, func(done func(error)) { s.Seal(req, done) },
			func() { hist.sealed, hist.promise = length, v })
		if r.IntN(2) == 0 {
			c.reopen(s, h, hist, seq, r)
		}
	}
	switch r.IntN(5) {
	case 2:
		c.do(func() { hist.marksAsked.corrupt = true }, func(done func(error)) { s.MarkCorrupt(h, done) }, func() { hist.marks.corrupt = true })
	case 0:
		c.do(func() { hist.dropAsked = true }, func(done func(error)) { s.Drop(h, 100, testNow, done) }, func() { hist.dropped = true })
	case 1:
		if hist.promiseAsked <= 4 && hist.sealAsked < 0 {
			c.copyOver(s, h, hist)
		}
	}
}

// reopen opens the sealed chunk again, writes to it, and may seal it.
func (c *crasher) reopen(s *Store, h quarry.Handle, hist *history, seq quarry.Sequence, r *rand.Rand) {
	base, v := hist.sealed, hist.promise+1
	c.do(func() { hist.reopenAsked, hist.promiseAsked, hist.asked, hist.acked = v, v, base, base },
		func(done func(error)) { s.Reopen(h, v, base, done) }, func() { hist.reopened, hist.promise = true, v })
	for range r.IntN(4) {
		n := int64(1 + r.IntN(80_000))
		off := hist.asked
		c.mu.Lock()
		hist.asked += n
		hist.ends[hist.asked] = true
		end := hist.asked
		c.mu.Unlock()
		data := hist.data[off:end]
		if err := s.Write(h, off, []quarry.RecordHeader{header(9, seq, data)}, data); err != nil {
			c.t.Error(err)
		}
		seq++
		if r.IntN(2) == 0 {
			c.do(func() {}, func(done func(error)) { s.Sync(h, done) }, func() { hist.acked = end })
		}
	}
	if r.IntN(2) == 0 {
		c.mu.Lock()
		length := hist.acked
		c.mu.Unlock()
		req := sealRequest(h, length)
		req.Version, req.WritableVersion = v+1, v
		c.do(func() { hist.againAsked, hist.promiseAsked = length, v+1 }, func(done func(error)) { s.Seal(req, done) },
			func() { hist.again, hist.promise = length, v+1 })
	}
}

// mark tells the replica one of the things that it must not forget.
func (c *crasher) mark(s *Store, h quarry.Handle, hist *history, which int) bool {
	asked, got := &hist.marksAsked, &hist.marks
	switch {
	case which == 0 && hist.promiseAsked == 0 && !asked.adopted:
		c.do(func() { asked.adopted = true }, func(done func(error)) { s.Adopt(h, 1, done) }, func() { got.adopted = true })
	case which == 1:
		c.do(func() { asked.mutable = true }, func(done func(error)) { s.Mark(h, done) }, func() { got.mutable = true })
	case which == 2:
		c.do(func() { asked.forgotten = true }, func(done func(error)) { s.Forget(h, forgottenSession, done) }, func() { got.forgotten = true })
	case which == 3:
		n := quarry.Incarnation(0)
		c.do(func() { c.incarnationAsked++; n = c.incarnationAsked }, func(done func(error)) { done(s.SetIncarnation(n)) },
			func() { c.incarnation = max(c.incarnation, n) })
	default:
		return false
	}
	return true
}

// copyOver lets a copy take the chunk's place.
func (c *crasher) copyOver(s *Store, h quarry.Handle, hist *history) {
	data := pattern(uint64(h)+1, copyBytes)
	req := &quarry.CopyRequest{
		ChunkRef: quarry.ChunkRef{Handle: h, Version: 4}, Length: copyBytes, WritableVersion: 3,
		CRC: checksum(data), CRCKnown: true, Position: 5,
	}
	in, err := s.Receive(req)
	if err != nil {
		c.t.Error(err)
		return
	}
	for off := 0; off < len(data); off += 33_000 {
		part := data[off:min(off+33_000, len(data))]
		if err := in.Write(part, blockParts(int64(off), part)); err != nil {
			c.t.Error(err)
		}
	}
	c.do(func() { hist.copyAsked, hist.promiseAsked = true, 4 }, func(done func(error)) {
		in.Commit([]quarry.RecordRun{{Session: 1, Sequence: 1, Count: 7, Length: 10_000}}, nil, done)
	}, func() { hist.copied, hist.promise = true, 4 })
}

// blockParts returns the checksums of data cut at the chunk's block borders.
func blockParts(off int64, data []byte) []uint32 {
	var crcs []uint32
	for len(data) > 0 {
		n := min(int64(len(data)), quarry.BlockBytes-off%quarry.BlockBytes)
		crcs = append(crcs, checksum(data[:n]))
		data, off = data[n:], off+n
	}
	return crcs
}

// TestCrash crashes the disk between its operations, in many ways, and wants everything
// acknowledged to be there, and nothing that was never asked for.
func TestCrash(t *testing.T) {
	every := *crashEvery
	if testing.Short() {
		every *= 4
	}
	total := 0
	for seed := range uint64(4) {
		r := runCrashes(t, seed, every, &crashtest.Syncs{})
		if r.Lost > 0 {
			t.Errorf("seed %d: %d of %d images lose something: %s", seed, r.Lost, r.Images, r.First)
		}
		total += r.Images
	}
	t.Logf("%d images", total)
}

// runCrashes has three chunks live at a time on a disk that crashes, and empties the trash in
// the end.
func runCrashes(t *testing.T, seed uint64, every int, syncs *crashtest.Syncs) crashtest.Result {
	c := newCrasher(t, every, syncs)
	opts := testOptions()
	opts.JournalBytes = 1 // as often as it can be
	s, err := Open(disk.NewFaulty(c.mem, c.policy), opts)
	if err != nil {
		t.Fatal(err)
	}
	var lives sync.WaitGroup
	for k := range quarry.Handle(3) {
		lives.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(k)))
			for i := range quarry.Handle(4) {
				c.live(s, 1+k+i<<8, r)
			}
		})
	}
	lives.Wait()
	c.mu.Lock()
	c.purging = true
	c.mu.Unlock()
	if _, _, err := s.Purge(testNow.Add(time.Second), 100); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.check(c.mem.Clone(), c.chunks, "at the end")
	return c.Result
}
