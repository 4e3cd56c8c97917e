package journal

import (
	"encoding/binary"
	"path"
	"slices"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/disk"
)

// filesMax is how many segments are kept open.
const filesMax = 16

// Read returns the record at a position that Append or replay has named. Errors are
// NotFound for a record that was trimmed or is not durable, and Corrupt if there is no sound
// record at the position. A dead journal can still be read, a closed one cannot.
func (j *Journal) Read(p Position) ([]byte, error) {
	j.mu.Lock()
	i, found := slices.BinarySearchFunc(j.segments, p.Segment, func(s segment, n uint64) int {
		if s.number < n {
			return -1
		}
		return int(min(s.number-n, 1))
	})
	end := uint32(0)
	if found {
		end = j.segments[i].end
	}
	j.mu.Unlock()
	if !found || p.Offset >= end {
		return nil, quarry.Errorf("read journal", quarry.NotFound, j.dir, "no record is at %v", p)
	}
	name := path.Join(j.dir, segmentName(p.Segment))
	if p.Offset < segmentHeaderBytes || end-p.Offset < recordHeaderBytes {
		return nil, quarry.Errorf("read journal", quarry.Corrupt, name, "no record begins at %d", p.Offset)
	}
	data, sum, err := j.readRecord(p, end)
	if err != nil {
		return nil, disk.Wrap("read journal", name, err)
	}
	if sum != newSeed(j.id, p.Segment).record(p.Offset, data) {
		return nil, quarry.Errorf("read journal", quarry.Corrupt, name, "the record at %d does not match its checksum", p.Offset)
	}
	return data, nil
}

// readRecord reads the data and the checksum of what stands at p in a segment of end bytes.
func (j *Journal) readRecord(p Position, end uint32) ([]byte, uint32, error) {
	f, err := j.lockFile(p.Segment)
	if err != nil {
		return nil, 0, err
	}
	defer j.filesMu.RUnlock()
	var head [recordHeaderBytes]byte
	if err := readFull(f, head[:], int64(p.Offset)); err != nil {
		return nil, 0, err
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n > end-p.Offset-recordHeaderBytes || n > RecordBytesMax {
		return nil, 0, quarry.Errorf("", quarry.Corrupt, "", "the record at %d is longer than can be", p.Offset)
	}
	data := make([]byte, n)
	if err := readFull(f, data, int64(p.Offset)+recordHeaderBytes); err != nil {
		return nil, 0, err
	}
	return data, binary.LittleEndian.Uint32(head[4:]), nil
}

// readFull fills b from off; the end of the file inside b is an error.
func readFull(f disk.File, b []byte, off int64) error {
	n, err := f.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	return err
}

// lockFile returns a segment's open file and holds filesMu for reading, unless it returns
// an error.
func (j *Journal) lockFile(number uint64) (disk.File, error) {
	for {
		j.filesMu.RLock()
		f, closed := j.files[number], j.files == nil
		if f != nil {
			return f, nil
		}
		j.filesMu.RUnlock()
		if closed {
			return nil, quarry.Errorf("", quarry.Unavailable, "", "the journal is closed")
		}
		f, err := j.fs.Open(path.Join(j.dir, segmentName(number)))
		if err != nil {
			return nil, err
		}
		j.remember(number, f)
	}
}

// remember keeps a segment's file open, and closes another one if too many are.
func (j *Journal) remember(number uint64, f disk.File) {
	j.filesMu.Lock()
	defer j.filesMu.Unlock()
	if j.files == nil || j.files[number] != nil {
		_ = f.Close() // too late, or another reader was faster; nothing was written through it
		return
	}
	newest := number
	for n := range j.files {
		newest = max(newest, n)
	}
	for n, old := range j.files {
		if len(j.files) < filesMax {
			break
		}
		if n != newest { // the newest is being written
			_ = old.Close() // all its bytes are synced
			delete(j.files, n)
		}
	}
	j.files[number] = f
}

// forget closes a segment's file if it is open.
func (j *Journal) forget(number uint64) {
	j.filesMu.Lock()
	defer j.filesMu.Unlock()
	if f := j.files[number]; f != nil {
		_ = f.Close() // all its bytes are synced
		delete(j.files, number)
	}
}

// closeFiles closes all files, and none is opened any more.
func (j *Journal) closeFiles() {
	j.filesMu.Lock()
	defer j.filesMu.Unlock()
	for _, f := range j.files {
		_ = f.Close() // all its bytes are synced, or the journal is dead
	}
	j.files = nil
}
