package journal

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io/fs"
	"path"
	"slices"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/disk"
)

// recover reads the folder, replays all records, and prepares the writer; in an empty
// folder it makes the first segment.
func (j *Journal) recover(replay func(Position, []byte) error) error {
	if err := j.fs.MkdirAll(j.dir); err != nil {
		return disk.Wrap("open journal", j.dir, err)
	}
	numbers, err := j.listSegments()
	if err != nil {
		return err
	}
	if len(numbers) == 0 {
		j.id = j.opts.id
		for j.id == 0 {
			var b [8]byte
			rand.Read(b[:])
			j.id = binary.LittleEndian.Uint64(b[:])
		}
		return disk.Wrap("create journal", j.dir, j.addSegment(segmentHeader{journal: j.id, number: 1}))
	}
	heads, err := j.readHeaders(numbers)
	if err != nil {
		return err
	}
	j.id = heads[0].journal
	for i, h := range heads {
		var next *segmentHeader
		if i+1 < len(heads) {
			next = &heads[i+1]
		}
		if err := j.recoverSegment(h, next, replay); err != nil {
			return err
		}
	}
	return disk.Wrap("open journal", j.dir, j.fs.SyncDir(j.dir))
}

// listSegments returns the numbers of the segments in order, and removes a segment that
// did not get its name.
func (j *Journal) listSegments() ([]uint64, error) {
	names, err := j.fs.List(j.dir)
	if err != nil {
		return nil, disk.Wrap("open journal", j.dir, err)
	}
	var numbers []uint64
	for _, name := range names {
		if number, ok := parseSegmentName(name); ok {
			numbers = append(numbers, number)
		}
	}
	err = j.fs.Remove(path.Join(j.dir, tempName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, disk.Wrap("open journal", path.Join(j.dir, tempName), err)
	}
	slices.Sort(numbers)
	for i, n := range numbers {
		if i > 0 && n != numbers[i-1]+1 {
			return nil, quarry.Errorf("open journal", quarry.Corrupt, path.Join(j.dir, segmentName(numbers[i-1]+1)), "the segment is missing")
		}
	}
	return numbers, nil
}

// readHeaders reads and checks the headers of the segments.
func (j *Journal) readHeaders(numbers []uint64) ([]segmentHeader, error) {
	heads := make([]segmentHeader, len(numbers))
	for i, number := range numbers {
		name := path.Join(j.dir, segmentName(number))
		f, err := j.fs.Open(name)
		if err != nil {
			return nil, disk.Wrap("open journal", name, err)
		}
		b := make([]byte, segmentHeaderBytes)
		n, err := f.ReadAt(b, 0)
		_ = f.Close() // nothing was written
		if n < len(b) {
			if size, e := j.fs.Size(name); e == nil && size < segmentHeaderBytes {
				return nil, quarry.Errorf("open journal", quarry.Corrupt, name, "the segment has %d bytes and no header", size)
			}
			return nil, disk.Wrap("open journal", name, err)
		}
		h, err := decodeSegmentHeader(name, b)
		if err != nil {
			return nil, err
		}
		if h.number != number || h.journal != heads[0].journal && i > 0 {
			return nil, quarry.Errorf("open journal", quarry.Corrupt, name, "the segment is number %d of journal %x and does not belong here", h.number, h.journal)
		}
		heads[i] = h
	}
	return heads, nil
}

// recoverSegment replays one segment. With a next segment it must end where that one says;
// the last segment ends where sound batches do, and becomes the one that is written.
func (j *Journal) recoverSegment(h segmentHeader, next *segmentHeader, replay func(Position, []byte) error) error {
	name := path.Join(j.dir, segmentName(h.number))
	s, err := openScanner(j.fs, name, h)
	if err != nil {
		return err
	}
	if next == nil {
		j.remember(h.number, s.file)
	} else {
		defer s.file.Close()
	}
	for {
		if next != nil && s.off >= int64(next.prevEnd) {
			break
		}
		sound, err := s.next(replay)
		if err != nil {
			return err
		}
		if !sound && next != nil {
			return s.corrupt("the batch at %d is broken, and segment %d is behind it", s.off, next.number)
		}
		if !sound {
			break
		}
	}
	if next != nil && (s.off != int64(next.prevEnd) || s.chain != next.prevChain) {
		return s.corrupt("segment %d says that this one ends at %d, but it does not", next.number, next.prevEnd)
	}
	j.segments = append(j.segments, segment{number: h.number, end: uint32(s.off)})
	j.bytes += s.off
	if next != nil {
		return nil
	}
	if err := s.settle(); err != nil {
		return err
	}
	j.w = writer{file: s.file, number: h.number, seed: s.seed, tail: uint32(s.off), chain: s.chain, zeroed: s.size}
	return nil
}

// scanBytes is how much of a segment is read at once.
const scanBytes = 256 << 10

// scanner reads a segment from its first batch on.
type scanner struct {
	file   disk.File
	name   string
	number uint64
	seed   seed
	chain  uint32 // checksum of the last sound batch header
	size   int64  // of the file
	off    int64  // behind the last sound batch
	last   int64  // start of the last sound batch; 0 if there is none

	buf []byte // the file's bytes from bufOff on
	at  int64
}

func openScanner(fsys disk.FS, name string, h segmentHeader) (*scanner, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, disk.Wrap("open journal", name, err)
	}
	size, err := f.Size()
	if err != nil {
		_ = f.Close() // nothing was written
		return nil, disk.Wrap("open journal", name, err)
	}
	s := &scanner{file: f, name: name, number: h.number, seed: newSeed(h.journal, h.number), chain: h.chain, size: size, off: segmentHeaderBytes}
	if size > segmentBytesLimit {
		_ = f.Close() // nothing was written
		return nil, s.corrupt("the segment has %d bytes, more than any segment has", size)
	}
	return s, nil
}

func (s *scanner) corrupt(format string, args ...any) error {
	return quarry.Errorf("open journal", quarry.Corrupt, s.name, format, args...)
}

// bytes returns n bytes from off, fewer at the file's end. They are valid until the next
// call.
func (s *scanner) bytes(off int64, n int64) ([]byte, error) {
	n = max(0, min(n, s.size-off))
	if off < s.at || off+n > s.at+int64(len(s.buf)) {
		want := min(max(n, scanBytes), s.size-off)
		if int64(cap(s.buf)) < want {
			s.buf = make([]byte, want)
		}
		s.buf, s.at = s.buf[:want], off
		if err := readFull(s.file, s.buf, off); err != nil {
			s.buf = nil
			return nil, disk.Wrap("open journal", s.name, err)
		}
	}
	return s.buf[off-s.at:][:n], nil
}

// next replays the batch at s.off and steps over it; false, and no step, if there is no
// sound one.
func (s *scanner) next(replay func(Position, []byte) error) (bool, error) {
	b, err := s.bytes(s.off, batchHeaderBytes)
	if err != nil {
		return false, err
	}
	h, ok := decodeBatchHeader(s.seed, uint32(s.off), b)
	if !ok || int64(h.length) > s.size-s.off {
		return false, nil
	}
	if h.chain != s.chain {
		return false, s.corrupt("the batch at %d does not follow from the one before it", s.off)
	}
	if b, err = s.bytes(s.off, int64(h.length)); err != nil {
		return false, err
	}
	if !checkBatch(s.seed, uint32(s.off), h, b) {
		return false, nil
	}
	if replay != nil {
		err = eachRecord(uint32(s.off), h, b, func(off uint32, data []byte) error {
			return replay(Position{Segment: s.number, Offset: off}, data)
		})
		if err != nil {
			return false, err
		}
	}
	s.chain, s.last, s.off = h.sum, s.off, s.off+int64(h.length)
	return true, nil
}

// settle makes the end of the last segment certain: it refuses rot, cuts what a crash has
// torn, and writes and syncs the last batch once more (see the package comment).
func (s *scanner) settle() error {
	clean, err := s.checkTail()
	if err != nil {
		return err
	}
	if !clean {
		if err := s.file.Truncate(s.off); err != nil {
			return disk.Wrap("open journal", s.name, err)
		}
		s.size = s.off
	}
	if s.last > 0 {
		b, err := s.bytes(s.last, s.off-s.last)
		if err != nil {
			return err
		}
		if _, err := s.file.WriteAt(b, s.last); err != nil {
			return disk.Wrap("open journal", s.name, err)
		}
	}
	return disk.Wrap("open journal", s.name, s.file.Sync())
}

// checkTail reports whether all is zero behind the last sound batch. A sound batch header
// there proves that a batch before it has rotted.
func (s *scanner) checkTail() (clean bool, err error) {
	clean = true
	for off := s.off; off < s.size; off += batchAlign {
		b, err := s.bytes(off, batchHeaderBytes)
		if err != nil {
			return false, err
		}
		word := b[:min(batchAlign, len(b))]
		if bytes.Equal(word, zeros[:len(word)]) {
			continue
		}
		clean = false
		if _, ok := decodeBatchHeader(s.seed, uint32(off), b); ok && off > s.off {
			return false, s.corrupt("the batch at %d is broken, but a later one at %d is sound", s.off, off)
		}
	}
	return clean, nil
}
