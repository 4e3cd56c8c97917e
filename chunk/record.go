package chunk

import (
	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/wire"
)

// A record of the journal is one change of one replica, in the encoding of package wire.
//
//	1 kind      what the record is
//	2 handle    of the replica
//	3 state     a State after the change; kinds whole and grown
//	4 crcs      CRC32C of each block; whole: of all bytes, grown: from the block in which
//	            the length before falls; none if the replica is sealed or lost
//	5 runs      session, first sequence, count and length of each run of records; whole: of
//	            all bytes, grown: of those added
//	6 data      grown: the bytes added, if their file was not synced with them
//	7 number    kind server: the highest incarnation that the disk has seen
//
// A record of kind whole stands for itself; one of kind grown belongs to what the records
// before it say. So a checkpoint is no more than a whole record of each replica, and
// whatever is before them can go. The journal is shortened by whole segments, so that some
// grown records may be left whose beginning is gone; a whole record of the replica follows.

type recordKind uint8

// Numbers of kinds are never used again.
const (
	recordWhole   recordKind = 1 // all of a replica's state
	recordGrown   recordKind = 2 // a growing replica's state, and what was added to it
	recordDropped recordKind = 3 // the replica is gone
	recordServer  recordKind = 4 // of the server, not of a replica
)

// record is a decoded record. File, position and hint are not repeated in grown ones.
type record struct {
	Kind   recordKind
	Handle quarry.Handle
	State  State
	CRCs   []uint32
	Runs   []uint64
	Data   []byte
	Number uint64
}

func recordFields(w *wire.Walk, r *record) {
	wire.Uint(w, 1, &r.Kind)
	wire.Uint(w, 2, &r.Handle)
	if r.Kind == recordWhole || r.Kind == recordGrown {
		wire.Message(w, 3, &r.State, stateFields)
	}
	wire.Uints(w, 4, &r.CRCs, quarry.ChunkBytesMax/quarry.BlockBytes)
	wire.Uints(w, 5, &r.Runs, packedRun*RunsMax)
	wire.Bytes(w, 6, &r.Data, inlineBytesMax)
	wire.Uint(w, 7, &r.Number)
	if w.Reading() {
		r.State.Handle = r.Handle
		if r.Kind < recordWhole || r.Kind > recordServer {
			w.Fail("there is no record of kind %d", r.Kind)
		}
		if r.Kind != recordServer && r.Handle == 0 {
			w.Fail("a record names no chunk")
		}
	}
}

// replayer applies the records of the journal to a store that is being opened.
type replayer struct {
	s *Store
	// headless replicas have grown records whose beginning is gone.
	headless map[quarry.Handle]bool
}

func (p *replayer) replay(b []byte) error {
	var rec record
	if err := wire.Unmarshal(b, &rec, recordFields); err != nil {
		return quarry.Errorf("replay", quarry.Corrupt, "", "a record of the journal cannot be read: %v", err)
	}
	s := p.s
	if rec.Kind == recordServer {
		s.incarnation = max(s.incarnation, quarry.Incarnation(rec.Number))
		return nil
	}
	if rec.Kind == recordGrown {
		r, ok := s.replicas.Get(rec.Handle)
		if !ok {
			p.headless[rec.Handle] = true
			return nil
		}
		if r.growth == nil {
			return corrupt("chunk %v grows in the journal though it is sealed or lost", rec.Handle)
		}
		return r.grow(&rec)
	}
	delete(p.headless, rec.Handle)
	if rec.Kind == recordDropped {
		s.replicas.Delete(rec.Handle)
		return nil
	}
	r, err := rec.replica()
	if err != nil {
		return err
	}
	s.replicas.Set(rec.Handle, r)
	return nil
}

// end returns an error if something of the journal is missing.
func (p *replayer) end() error {
	for h := range p.headless {
		return corrupt("the journal tells how chunk %v grows, but not what it was", h)
	}
	return nil
}

// replica returns the replica that a whole record describes.
func (rec *record) replica() (*replica, error) {
	r := &replica{state: rec.State}
	if !rec.State.Exists() {
		return nil, corrupt("chunk %v has no state", rec.Handle)
	}
	if !rec.State.growing() {
		if len(rec.CRCs) > 0 || len(rec.Runs) > 0 || len(rec.Data) > 0 {
			return nil, corrupt("chunk %v does not grow, yet the journal has checksums or records of it", rec.Handle)
		}
		return r, nil
	}
	runs, err := unpackRuns(rec.Runs, 0, rec.State.Length)
	if err != nil {
		return nil, quarry.Wrap("replay", rec.Handle.String(), err)
	}
	if rec.State.flushed != rec.State.Length || len(rec.Data) > 0 {
		return nil, corrupt("chunk %v is whole in the journal, but its file is not", rec.Handle)
	}
	if int64(len(rec.CRCs)) != quarry.Blocks(rec.State.Length) {
		return nil, corrupt("chunk %v has %d bytes and %d checksums", rec.Handle, rec.State.Length, len(rec.CRCs))
	}
	r.growth = newGrowth(sums{rec.State.Length, rec.CRCs}, runs)
	return r, nil
}

// grow applies a grown record.
func (r *replica) grow(rec *record) error {
	g, from, to := r.growth, r.state.Length, rec.State.Length
	block := from / quarry.BlockBytes
	switch {
	case !rec.State.growing() || to < from || rec.State.flushed < r.state.flushed:
		return corrupt("chunk %v shrinks in the journal", rec.Handle)
	case to > from && int64(len(rec.CRCs)) != quarry.Blocks(to)-block, to == from && len(rec.CRCs) > 0:
		return corrupt("chunk %v grows from %d to %d bytes with %d checksums", rec.Handle, from, to, len(rec.CRCs))
	}
	runs, err := unpackRuns(rec.Runs, from, to)
	if err != nil {
		return quarry.Wrap("replay", rec.Handle.String(), err)
	}
	if len(g.runs)+len(runs) > RunsMax {
		return corrupt("chunk %v has too many runs of records", rec.Handle)
	}
	g.replayed = append(g.replayed, rec.Data...)
	if rec.State.flushed == to {
		g.replayed = nil
	}
	if rec.State.flushed+int64(len(g.replayed)) != to {
		return corrupt("chunk %v: %d bytes are flushed and %d in the journal, that is not %d", rec.Handle, rec.State.flushed, len(g.replayed), to)
	}
	rec.State.File, rec.State.Position, rec.State.Hint = r.state.File, r.state.Position, r.state.Hint
	r.state = rec.State
	if to > from {
		g.sums = sums{to, append(g.sums.crcs[:block], rec.CRCs...)}
		for _, run := range runs {
			g.runs = addRun(g.runs, run)
		}
		g.durableTail = g.sums.last()
	}
	return nil
}
