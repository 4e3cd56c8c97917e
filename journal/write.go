package journal

import (
	"path"
	"runtime"

	"github.com/quarryfs/quarry/disk"
)

// zeroStepMax is how far ahead of the tail zeros are written at most. On ext4 a sync of 4 KiB
// into blocks that are written already takes 0.3 ms, one that extends the file 0.8 ms; larger
// steps gain nothing and make a fresh journal larger.
const zeroStepMax = 1 << 20

// zeroBatchMax is the largest batch behind which zeros are written. Larger ones come in
// streams, and then to write every byte twice costs more than it saves.
const zeroBatchMax = 128 << 10

var zeros [zeroStepMax]byte

// writer is the state of the goroutine that writes; nobody else touches it.
type writer struct {
	file      disk.File  // of the last segment
	number    uint64     // of the last segment
	seed      seed       // of the last segment
	tail      uint32     // where the next batch goes
	chain     uint32     // checksum of the last batch header
	zeroed    int64      // the file is written up to here, with zeros behind the tail
	positions []Position // of the records of the batch
}

// write commits batch after batch until the journal is closed.
func (j *Journal) write() {
	defer close(j.stopped)
	spare := &batch{}
	for {
		b := j.take(spare)
		if b == nil {
			break
		}
		err := j.Err()
		if err == nil && b.count > 0 {
			err = j.commit(b)
		}
		b.answer(j.w.positions, err)
		b.reset(2 * j.opts.QueueBytes)
		j.w.positions = j.w.positions[:0]
		spare = b
		// Who was answered often has the next record ready: with 16 such clients, letting them
		// run first makes batches twice as large and half as many again records per second.
		runtime.Gosched()
	}
	if j.Err() == nil && j.w.tail > segmentHeaderBytes {
		_ = j.commit(&batch{}) // the witness of the last record; Err has its failure
	}
	j.closeFiles()
}

// take waits for calls and takes them all, and leaves spare to take the next ones; nil when
// the journal is closed and nothing is pending.
func (j *Journal) take(spare *batch) *batch {
	j.mu.Lock()
	defer j.mu.Unlock()
	for len(j.pending.calls) == 0 {
		if j.closed {
			return nil
		}
		j.filled.Wait()
	}
	b := j.pending
	j.pending = spare
	j.drained.Broadcast()
	return b
}

// commit writes a batch and makes it durable. A failure kills the journal.
func (j *Journal) commit(b *batch) error {
	err := j.put(b)
	j.mu.Lock()
	defer j.mu.Unlock()
	if err != nil {
		j.err = disk.Wrap("write journal", path.Join(j.dir, segmentName(j.w.number)), err)
		return j.err
	}
	last := &j.segments[len(j.segments)-1]
	j.bytes += int64(j.w.tail - last.end)
	last.end = j.w.tail
	return nil
}

// put writes and syncs a batch behind the tail, in the next segment if this one is full.
func (j *Journal) put(b *batch) error {
	w := &j.w
	if w.tail > segmentHeaderBytes && int64(w.tail)+int64(b.bytes()) > j.opts.SegmentBytes {
		if err := j.addSegment(segmentHeader{journal: j.id, number: w.number + 1, prevEnd: w.tail, prevChain: w.chain}); err != nil {
			return err
		}
	}
	w.chain, w.positions = b.seal(w.seed, w.number, w.tail, w.chain, w.positions[:0])
	if _, err := w.file.WriteAt(b.buf, int64(w.tail)); err != nil {
		return err
	}
	w.tail += uint32(len(b.buf))
	if int64(w.tail) > w.zeroed {
		w.zeroed = int64(w.tail)
		if len(b.buf) <= zeroBatchMax {
			if err := w.writeZeros(j.opts.SegmentBytes); err != nil {
				return err
			}
		}
	}
	return w.file.Sync()
}

// writeZeros writes zeros from w.zeroed on, for the next batches to overwrite.
func (w *writer) writeZeros(segmentBytes int64) error {
	n := min(zeroStepMax, segmentBytes/4, segmentBytes-w.zeroed)
	if n <= 0 {
		return nil
	}
	_, err := w.file.WriteAt(zeros[:n], w.zeroed)
	if disk.IsNoSpace(err) {
		return nil // the batch itself found room, and the next one may
	}
	w.zeroed += n
	return err
}

// addSegment makes a segment durable, name and all, and makes it the one that is written.
func (j *Journal) addSegment(h segmentHeader) error {
	temp, name := path.Join(j.dir, tempName), path.Join(j.dir, segmentName(h.number))
	f, err := j.fs.Create(temp)
	if err != nil {
		return err
	}
	head := h.encode()
	w := writer{file: f, number: h.number, seed: newSeed(h.journal, h.number), tail: segmentHeaderBytes, zeroed: segmentHeaderBytes, chain: h.chain}
	_, err = f.WriteAt(head, 0)
	if err == nil {
		err = w.writeZeros(j.opts.SegmentBytes)
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = j.fs.Rename(temp, name)
	}
	if err == nil {
		err = j.fs.SyncDir(j.dir)
	}
	if err != nil {
		_ = f.Close() // the first error is the one that counts
		return err
	}
	w.positions = j.w.positions
	j.w = w
	j.remember(h.number, f)
	j.mu.Lock()
	j.segments = append(j.segments, segment{number: h.number, end: segmentHeaderBytes})
	j.bytes += segmentHeaderBytes
	j.mu.Unlock()
	return nil
}
