package journal

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"sync"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/disk"
)

const (
	// RecordBytesMax is the largest record.
	RecordBytesMax = 16 << 20
	// AppendBytesMax is the most bytes of records in one Append.
	AppendBytesMax = 32 << 20
)

// Position is the place of a record in its journal. Positions are ordered as the records
// are; the zero Position is before all of them.
type Position struct {
	Segment uint64
	Offset  uint32 // in bytes, in the segment's file
}

// Before reports whether p is before q.
func (p Position) Before(q Position) bool {
	return p.Segment < q.Segment || p.Segment == q.Segment && p.Offset < q.Offset
}

// String returns "segment:offset".
func (p Position) String() string { return fmt.Sprintf("%d:%d", p.Segment, p.Offset) }

// Options are the settings of a journal; zero values mean the defaults.
type Options struct {
	// SegmentBytes is the size at which a segment ends and the next begins: 4 KiB to 1 GiB,
	// default 64 MiB. A batch larger than that has a segment of its own.
	SegmentBytes int64
	// QueueBytes is how many bytes of records may wait for the writer before Append blocks:
	// up to 64 MiB, default 8 MiB.
	QueueBytes int

	// id fixes the journal's random number where the bytes of a new journal must be known.
	id uint64
}

// withDefaults returns the options with the default for each zero value.
func (o Options) withDefaults() Options {
	if o.SegmentBytes == 0 {
		o.SegmentBytes = 64 << 20
	}
	if o.QueueBytes == 0 {
		o.QueueBytes = 8 << 20
	}
	return o
}

// check refuses options out of their ranges.
func (o Options) check() error {
	if o.SegmentBytes < 4<<10 || o.SegmentBytes > 1<<30 {
		return quarry.Errorf("open journal", quarry.Invalid, "", "SegmentBytes is %d; it must be 4 KiB to 1 GiB", o.SegmentBytes)
	}
	if o.QueueBytes < 0 || o.QueueBytes > 64<<20 {
		return quarry.Errorf("open journal", quarry.Invalid, "", "QueueBytes is %d; it must be at most 64 MiB", o.QueueBytes)
	}
	return nil
}

// Journal is an open journal. Safe for use by many goroutines.
type Journal struct {
	fs   disk.FS
	dir  string
	opts Options
	id   uint64

	mu       sync.Mutex
	filled   sync.Cond // pending has calls, or closed is set
	drained  sync.Cond // the writer has taken pending, or closed is set
	pending  *batch
	closed   bool
	err      error     // the first failure of a write or sync
	segments []segment // oldest first; the last one is being written
	bytes    int64     // of all segments

	trimMu sync.Mutex // held by Trim, before mu

	filesMu sync.RWMutex         // guards files, and the open files against being closed while read
	files   map[uint64]disk.File // by segment; nil when the journal is closed

	w       writer
	stopped chan struct{} // closed when the writer has ended
}

// segment is one segment file.
type segment struct {
	number uint64
	end    uint32 // offset behind its last durable batch
}

// Open opens the journal in dir, which it makes if there is none, and calls replay with
// all records in order; the record is valid only during the call, and an error of replay
// ends Open. What was replayed is durable when Open has returned, not before.
//
// Errors are Corrupt if a record has rotted (see the package comment), Unsupported if the
// journal was written by a release with a later format, NoSpace, or Internal if the disk
// fails. One process at a time may open a journal; the caller holds the lock.
func Open(fs disk.FS, dir string, opts Options, replay func(Position, []byte) error) (*Journal, error) {
	opts = opts.withDefaults()
	if err := opts.check(); err != nil {
		return nil, err
	}
	j := &Journal{fs: fs, dir: dir, opts: opts, pending: &batch{}, files: map[uint64]disk.File{}, stopped: make(chan struct{})}
	j.filled.L, j.drained.L = &j.mu, &j.mu
	if err := j.recover(replay); err != nil {
		j.closeFiles()
		return nil, err
	}
	go j.write()
	return j, nil
}

// Append adds records to the journal: they stand together, in the order of the calls, and
// after a crash all of them are there or none. It copies the records and returns; it blocks
// only while the queue is full. With no records it is a barrier: done is called when all
// calls before it are durable.
//
// When the records are durable, or will never be, done is called with the position of each
// record, or with an error; calls come in the order of the appends, from one goroutine. The
// positions are valid only during the call. done must be quick, and must not call Append,
// Write or Close. It may be nil.
//
// Errors are TooLarge (nothing was written, the journal goes on), Unavailable after Close,
// and the journal's first failure, see Err; after such a failure the records may or may not
// be found by the next Open.
func (j *Journal) Append(done func(positions []Position, err error), records ...[]byte) {
	c := call{done: done, records: len(records)}
	n, err := j.checkSize(records)
	if err != nil {
		c, n, records = call{done: done, err: err}, 0, nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for !j.closed && j.pending.full(n, j.opts.QueueBytes) {
		j.drained.Wait()
	}
	if j.closed {
		if done != nil {
			go done(nil, quarry.Errorf("append", quarry.Unavailable, j.dir, "the journal is closed"))
		}
		return
	}
	j.pending.add(c, records)
	j.filled.Signal()
}

// checkSize returns the bytes that the records take in a batch, and TooLarge if they are
// beyond the limits.
func (j *Journal) checkSize(records [][]byte) (int, error) {
	sum := 0
	for _, r := range records {
		if len(r) > RecordBytesMax {
			return 0, quarry.Errorf("append", quarry.TooLarge, j.dir, "a record has %d bytes, the limit is %d", len(r), RecordBytesMax)
		}
		sum += recordHeaderBytes + len(r)
		if sum > AppendBytesMax {
			return 0, quarry.Errorf("append", quarry.TooLarge, j.dir, "the records of one append are more than %d bytes", AppendBytesMax)
		}
	}
	return sum, nil
}

// Write is Append that waits until the records are durable, and returns the position of the
// first.
func (j *Journal) Write(records ...[]byte) (Position, error) {
	type result struct {
		first Position
		err   error
	}
	c := make(chan result, 1)
	j.Append(func(positions []Position, err error) {
		r := result{err: err}
		if len(positions) > 0 {
			r.first = positions[0]
		}
		c <- r
	}, records...)
	r := <-c
	return r.first, r.err
}

// Trim removes the segments that lie wholly before the position. The segment that is being
// written always stays. A failure to sync the folder kills the journal.
func (j *Journal) Trim(before Position) error {
	j.trimMu.Lock()
	defer j.trimMu.Unlock()
	for {
		j.mu.Lock()
		oldest, err := j.segments[0], j.err
		done := len(j.segments) == 1 || oldest.number >= before.Segment
		j.mu.Unlock()
		if done || err != nil {
			return err
		}
		if err := j.removeSegment(oldest.number); err != nil {
			return err
		}
		// Readers find the file open, or not at all, or not in the list: it is opened by
		// nobody once it is removed, and forget comes last.
		j.mu.Lock()
		j.segments = slices.Delete(j.segments, 0, 1)
		j.bytes -= int64(oldest.end)
		j.mu.Unlock()
		j.forget(oldest.number)
	}
}

// removeSegment removes the oldest segment's file and makes that durable, before another is
// removed: a crash must leave no gap.
func (j *Journal) removeSegment(number uint64) error {
	name := path.Join(j.dir, segmentName(number))
	if err := j.fs.Remove(name); err != nil {
		return disk.Wrap("trim journal", name, err)
	}
	err := disk.Wrap("trim journal", j.dir, j.fs.SyncDir(j.dir))
	if err != nil {
		j.mu.Lock()
		j.err = cmp.Or(j.err, err)
		j.mu.Unlock()
	}
	return err
}

// End returns the position behind the last durable record: each later record is there or
// behind it.
func (j *Journal) End() Position {
	j.mu.Lock()
	defer j.mu.Unlock()
	last := j.segments[len(j.segments)-1]
	return Position{Segment: last.number, Offset: last.end}
}

// Bytes returns the size of the journal, without what is written ahead of its tail.
func (j *Journal) Bytes() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.bytes
}

// Err returns the failure that killed the journal, or nil.
func (j *Journal) Err() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.err
}

// Close commits what was appended, closes the files, and returns the failure that killed
// the journal, if any.
func (j *Journal) Close() error {
	j.mu.Lock()
	j.closed = true
	j.filled.Signal()
	j.drained.Broadcast()
	j.mu.Unlock()
	<-j.stopped
	return j.Err()
}
