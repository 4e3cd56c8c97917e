package chunk

import (
	"github.com/quarryfs/quarry"
)

// writebackBytes is the step in which the system is asked to begin writing a stream to the
// disk, so that little is left to do for the sync.
const writebackBytes = 8 << 20

// Write adds records to a growing replica; data is their bytes, one behind the other, to
// stand at off, which must be the end of what was written before. Its caller has compared the bytes with
// the records' checksums when they came; see checkSums. It returns when they are written.
// They are durable after a Sync. It waits while too many bytes of the disk are unsynced.
//
// Writes of one chunk are made one after the other. Errors, after which nothing has been
// added: Corrupt if the bytes do not match their checksums, NotFound, Unavailable if the
// replica or the disk is lost, StaleVersion if the replica does not grow any more, Invalid
// if off is not its end, Full if the chunk has no room, NoSpace.
func (s *Store) Write(h quarry.Handle, off int64, records []quarry.RecordHeader, data []byte) error {
	n := int64(len(data))
	s.enter()
	defer func() {
		s.mu.Lock()
		s.leave()
		s.mu.Unlock()
	}()
	r, g, err := s.admit(h, n)
	if err != nil {
		return err
	}
	g.write.Lock()
	defer g.write.Unlock()
	added, pinned := false, false
	defer func() {
		if !added {
			s.withdraw(n)
		}
	}()
	f, err := s.files.get(h)
	if err == nil {
		defer func() {
			if !pinned {
				s.files.put(f)
			}
		}()
	}
	// Only with the file open: it is the replica's if that grows still. If it does not, the name may stand for another
	// chunk's file by now, which was made or copied in its place.
	if refused := s.checkWrite(r, g, off, records, n); refused != nil {
		return refused
	}
	if err != nil {
		return err
	}
	if err := g.checkSums(h, off, records, data); err != nil {
		return err
	}
	if err := s.put(f, off, data); err != nil {
		return err
	}
	if end := off + n; end >= g.writeback+writebackBytes {
		f.StartWriteback(g.writeback, end-g.writeback)
		g.writeback = end
	}
	s.mu.Lock()
	added = s.extend(r, g, records, data)
	if pinned = added && g.file == nil; pinned {
		g.file = f
		s.pinned++
	}
	s.mu.Unlock()
	if !added {
		return stopped(h)
	}
	return nil
}

func stopped(h quarry.Handle) error {
	return quarry.Errorf("write", quarry.StaleVersion, h.String(), "the replica does not grow any more")
}

// admit counts n bytes as unsynced. It waits until there is room for them, and for one more
// file that must stay open until it is synced.
func (s *Store) admit(h quarry.Handle, n int64) (*replica, *growth, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if err := s.usable(); err != nil {
			return nil, nil, err
		}
		r := s.replica(h)
		if err := r.state.usable("write"); err != nil {
			return nil, nil, err
		}
		if r.growth == nil || r.ending > 0 {
			return nil, nil, stopped(h)
		}
		full := s.unsynced > 0 && s.unsynced+n > s.opts.UnsyncedBytesMax
		if !full && (r.growth.file != nil || s.pinned < s.opts.FilesMax) {
			s.unsynced += n
			return r, r.growth, nil
		}
		s.syncDirty()
		s.crowd++
		s.room.Wait()
		s.crowd--
	}
}

// withdraw undoes admit.
func (s *Store) withdraw(n int64) {
	s.mu.Lock()
	s.unsynced -= n
	s.room.Broadcast()
	s.mu.Unlock()
}

// checkWrite refuses what cannot stand at the end of the chunk.
func (s *Store) checkWrite(r *replica, g *growth, off int64, records []quarry.RecordHeader, n int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := r.state.Handle
	switch {
	case r.growth != g || r.ending > 0:
		return stopped(h)
	case off != g.sums.length:
		return quarry.Errorf("write", quarry.Invalid, h.String(), "the bytes are for %d, the chunk ends at %d", off, g.sums.length)
	case off+n > quarry.ChunkBytesMax:
		return quarry.Errorf("write", quarry.Full, h.String(), "the chunk has %d bytes, %d more do not fit", off, n)
	case len(g.runs)+len(records) > RunsMax:
		return quarry.Errorf("write", quarry.Full, h.String(), "the chunk has %d runs of records, the limit is %d", len(g.runs), RunsMax)
	}
	for i := range records {
		rec := &records[i]
		if rec.Length < 1 || rec.Length > quarry.RecordBytesMax || rec.Length > n || int64(len(rec.CRCs)) != quarry.Blocks(rec.Length) {
			return quarry.Errorf("write", quarry.Invalid, h.String(), "a record has %d bytes and %d checksums, with %d bytes left", rec.Length, len(rec.CRCs), n)
		}
		n -= rec.Length
	}
	if n != 0 {
		return quarry.Errorf("write", quarry.Invalid, h.String(), "%d bytes belong to no record", n)
	}
	return nil
}

// checkSums leaves the checksums of the segments between all borders in g.segments. Where a record begins
// at a border of the blocks they are the record's own: the bytes were compared with them when they came, and what breaks
// between then and now does not match what is stored, so that whoever reads it sees that, as with what breaks on the
// disk. Elsewhere the bytes are gone through once more, and compared, because a checksum of a part of them
// would match them, broken or not.
func (g *growth) checkSums(h quarry.Handle, off int64, records []quarry.RecordHeader, data []byte) error {
	g.segments = g.segments[:0]
	for i := range records {
		rec := &records[i]
		if off%quarry.BlockBytes == 0 {
			for k, crc := range rec.CRCs {
				g.segments = append(g.segments, segment{crc, min(quarry.BlockBytes, rec.Length-int64(k)*quarry.BlockBytes)})
			}
		} else {
			var bad int
			if g.segments, bad = cutSegments(g.segments, off, data[:rec.Length], rec.CRCs); bad >= 0 {
				return quarry.Errorf("write", quarry.Corrupt, h.String(), "part %d of record %d of session %d does not match its checksum: "+
					"the bytes were changed on their way here", bad, rec.Sequence, rec.Session)
			}
		}
		off, data = off+rec.Length, data[rec.Length:]
	}
	return nil
}

// put writes data to a file. What is written past the end of the chunk, as we know it,
// counts for nothing; so a failure half way does no harm.
func (s *Store) put(f *openFile, off int64, data []byte) error {
	if _, err := f.WriteAt(data, off); err != nil {
		return s.failure("write", f.handle.String(), err)
	}
	return nil
}

// extend notes what was written; false if the replica stopped growing meanwhile.
func (s *Store) extend(r *replica, g *growth, records []quarry.RecordHeader, data []byte) bool {
	if r.growth != g || r.ending > 0 {
		return false
	}
	n, off := int64(len(data)), g.sums.length
	if g.captured+int64(len(g.small)) == off && int64(len(g.small))+n <= s.opts.inlineBytes {
		g.small = append(g.small, data...)
	} else {
		g.small = g.small[:0]
	}
	for _, seg := range g.segments {
		g.sums.add(seg)
	}
	for i := range records {
		rec := &records[i]
		g.runs = addRun(g.runs, quarry.RecordRun{
			Session: rec.Session, Sequence: rec.Sequence, Count: 1, Offset: off, Length: rec.Length,
		})
		off += rec.Length
	}
	s.filled(n)
	s.dirty[r] = struct{}{}
	r.urgent = r.urgent || s.crowd > 0 // whoever waits for room could not ask for these bytes
	s.schedule(r)
	return true
}
