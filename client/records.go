package client

import (
	"context"
	"io"
	"iter"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client/waiting"
)

// Record is a record of a file as it was appended. What Create and Put write stands in
// records of up to 256 KiB that have no meaning of their own.
type Record struct {
	Offset int64  // of its first byte in the file
	Data   []byte // valid until the next record
}

// Records goes through the records of a file in the order of their offsets, from the first
// one that begins at from or behind it to the file's present end. So a file can be cut at
// any bytes, and each record is met in one part. An error ends it.
func (f *FS) Records(ctx context.Context, path string, from int64) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		file, err := f.Open(ctx, path)
		if err != nil {
			yield(Record{}, err)
			return
		}
		defer file.Close()
		r := &recordReader{file: file, from: max(from, 0), end: file.knownEnd(), yield: yield}
		if _, err := r.run(r.from); err != nil && err != errEnough {
			yield(Record{}, fail("records", path, err))
		}
	}
}

// Records goes through the records of the file from the tail's position on: those that are there,
// and at the end it waits for more, until its context ends or the tail is closed, which is its
// error. A record is given when it is acknowledged, once, whole and in order, whoever appended it.
// One that begins before the position is passed over. When the loop is left, Offset is behind the
// last record that was given, where another Tail, or Records again, goes on.
func (t *Tail) Records() iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		t.reading.Take()
		held := true
		defer func() {
			if held {
				t.reading.Unlock()
			}
		}()
		show := func(r Record, err error) bool { // the caller may close the tail meanwhile
			t.position.Store(max(t.position.Load(), r.Offset+int64(len(r.Data))))
			t.reading.Unlock()
			held = false
			more := yield(r, err)
			t.reading.Take()
			held = true
			return more
		}
		if err := t.records(show); err != nil && err != errEnough {
			show(Record{}, fail("tail", t.path, err))
		}
	}
}

func (t *Tail) records(yield func(Record, error) bool) error {
	t.unread = nil
	file, err := t.f.openInode(t.ctx, t.path, quarry.Attr{Inode: t.layout.file, Kind: quarry.KindFile, Length: t.known})
	if err != nil {
		return err
	}
	defer file.Close()
	r := &recordReader{file: file, from: t.position.Load(), end: t.known, yield: yield}
	for offset := r.from; ; {
		if offset, err = r.run(offset); err != nil {
			return err
		}
		if t.known, err = file.layout.grown(t.ctx, r.end); err != nil {
			return err
		}
		r.end = t.known
		file.learn(r.end)
	}
}

// errEnough ends an iteration that its caller has left.
var errEnough = quarry.Errorf("records", quarry.Internal, "", "the caller has had enough")

// recordReader is an iteration under way.
type recordReader struct {
	file  *File
	from  int64 // records that begin before are passed over
	end   int64 // of the file
	buf   []byte
	yield func(Record, error) bool
}

// run gives the records from an offset on up to the end, which is that of a record, and returns
// where to go on when there are more.
func (r *recordReader) run(offset int64) (int64, error) {
	ctx := r.file.ctx
	wait := r.file.f.patience()
	var refused *page
	for offset < r.end {
		at, err := r.file.layout.at(ctx, offset, refused)
		next := offset
		switch {
		case err != nil && !waiting.Transient(err):
			return offset, err
		case err != nil:
		case at.piece == nil:
			return offset, quarry.Errorf("records", quarry.Internal, "", "the layout ends at %d, before a byte that was there", offset)
		case at.piece.Kind == quarry.PieceChunk:
			next, err = r.page(at, offset)
		default: // a hole has no records, and inline bytes are one
			next = at.piece.Offset + at.piece.Length
			if at.piece.Kind == quarry.PieceInline {
				err = r.give(at.piece.Offset, at.piece.Length)
			}
		}
		if next > offset {
			if err != nil {
				return offset, err
			}
			wait.Progress()
			offset, refused = next, nil
			continue
		}
		if err == errEnough {
			return offset, err
		}
		if err := wait.Wait(ctx, err); err != nil {
			return offset, err
		}
		refused = at.page
	}
	return offset, nil
}

// page gives the records of a chunk from an offset in the file on, as many as one answer
// tells of. It returns where in the file to go on; offset itself if no replica answered.
func (r *recordReader) page(at place, offset int64) (int64, error) {
	first := at.piece.ChunkOffset
	stop := first + r.end - at.piece.Offset // in the chunk
	if at.piece.Length != quarry.OpenEnded {
		stop = min(stop, first+at.piece.Length)
	}
	asked := first + offset - at.piece.Offset
	reply, err := r.file.f.askRecords(r.file.ctx, at.chunk, asked, stop)
	if err != nil {
		return offset, err
	}
	next := stop
	if reply.More {
		next = min(stop, reply.Next)
	}
	for _, run := range reply.Runs {
		for i := range int64(run.Count) {
			begin := run.Offset + i*run.Length
			if begin < first || begin+run.Length > stop {
				continue
			}
			if err := r.give(at.piece.Offset+begin-first, run.Length); err != nil {
				return at.piece.Offset + next - first, err
			}
		}
	}
	return at.piece.Offset + next - first, nil
}

// askRecords asks the replicas of a chunk in turn for the records from an offset on; one that
// does not know all up to stop is passed over.
func (f *FS) askRecords(ctx context.Context, chunk *quarry.Chunk, offset, stop int64) (*quarry.RecordsReply, error) {
	err := quarry.Errorf("records", quarry.Unavailable, chunk.Handle.String(), "no server has a good replica of the chunk")
	for _, m := range f.order(chunk.Members) {
		try, cancel := f.clock.WithTimeout(ctx, replyMax)
		reply, askErr := f.servers(m).Records(try, &quarry.RecordsRequest{ChunkRef: reference(chunk, m), Offset: offset})
		cancel()
		switch {
		case askErr != nil:
			err = quarry.Errorf("records", quarry.KindOf(askErr), chunk.Handle.String(), "%w", askErr)
		case reply.Length < stop:
			err = quarry.Errorf("records", quarry.Busy, chunk.Handle.String(), "server %d does not know byte %d to be committed", m.Server, stop-1)
		case !sound(reply, offset):
			err = quarry.Errorf("records", quarry.Corrupt, chunk.Handle.String(), "server %d gave a broken list", m.Server)
		default:
			return reply, nil
		}
	}
	return nil, err
}

// sound reports whether the runs can be those of a chunk, without a hole from offset on.
func sound(reply *quarry.RecordsReply, offset int64) bool {
	if len(reply.Runs) > quarry.RecordRunsMax || reply.More && reply.Next <= offset || reply.Length > quarry.ChunkBytesMax {
		return false
	}
	end := int64(-1)
	for _, run := range reply.Runs {
		if run.Length < 1 || run.Length > quarry.RecordBytesMax || run.Count < 1 || run.Count > quarry.ChunkBytesMax ||
			end < 0 && (run.Offset < 0 || run.Offset > offset) || end >= 0 && run.Offset != end {
			return false
		}
		end = run.Offset + int64(run.Count)*run.Length
		if end > quarry.ChunkBytesMax {
			return false
		}
	}
	return end > offset && (reply.More && end >= reply.Next || !reply.More && end >= reply.Length)
}

// give reads a record and hands it to the caller, unless it begins too early.
func (r *recordReader) give(offset, length int64) error {
	if offset < r.from {
		return nil
	}
	if int64(len(r.buf)) < length {
		r.buf = make([]byte, length)
	}
	if r.file.position != offset {
		if _, err := r.file.Seek(offset, io.SeekStart); err != nil {
			return err
		}
	}
	if _, err := io.ReadFull(r.file, r.buf[:length]); err != nil {
		return err
	}
	r.from = offset + length // no record twice, whatever the next answer tells of
	if !r.yield(Record{offset, r.buf[:length]}, nil) {
		return errEnough
	}
	return nil
}
