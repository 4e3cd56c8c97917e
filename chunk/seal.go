package chunk

import (
	"math"
	"slices"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/disk"
)

// Seal cuts a replica to the length at which its version ended, and writes its index. After
// it the replica never changes. The same request again succeeds; so does one of a later
// version with the same length.
//
// What is asked for is done in an order that leaves, at each crash, the replica as it was
// or sealed:
//
//  1. sync the file, because the journal may have its last bytes
//  2. write the index beside it, under a name that counts for nothing; sync; rename; sync
//     the folder. An index without a sealed replica is ignored.
//  3. the journal record: from here on it is sealed
//  4. truncate the file. Until then it is longer than the replica, which does no harm; Open
//     does it if a crash comes between.
//
// Errors, which leave the replica as it was: Invalid if it does not hold the length or that
// is not the end of a record, Corrupt if its bytes are broken where they are cut.
func (s *Store) Seal(req *quarry.SealRequest, done func(error)) {
	h := req.Handle
	var sealed State
	s.ask(h, &op{
		done: done, ends: true,
		prepare: func(have State) (err error) {
			sealed, err = s.sealFiles(have, req)
			return err
		},
		change: func(have *State) error {
			if err := have.usable("seal"); err != nil {
				return err
			}
			sealed.Status = have.Status
			*have = sealed
			return nil
		},
		finish: func() error { return s.truncate(h, req.Length) },
	})
}

// sealFiles does what must be durable before the seal's record, and returns the state after
// it.
func (s *Store) sealFiles(state State, req *quarry.SealRequest) (State, error) {
	if err := state.usable("seal"); err != nil {
		return state, err
	}
	if why := unsealable(&state, req); why != "" {
		return state, quarry.Errorf("seal", quarry.Invalid, req.Handle.String(), "the replica of %d bytes of version %d cannot be sealed at %d: %s",
			state.Length, state.LogVersion, req.Length, why)
	}
	resealed := state.Sealed()
	state.Promised = max(state.Promised, req.Version)
	state.LogVersion, state.SealVersion = req.WritableVersion, req.Version
	if req.Position > 0 { // the chunk may have been made before anybody knew it
		state.Position = req.Position
	}
	if resealed { // the index is of an earlier seal, but says the same of the bytes
		return state, nil
	}
	x, err := s.cutIndex(&state, req)
	if err != nil {
		return state, err
	}
	if state.flushed < state.Length {
		if err := s.syncFile(req.Handle); err != nil {
			return state, err
		}
	}
	if state.index, err = s.writeIndex(x); err != nil {
		return state, err
	}
	state.Length, state.SealLength, state.flushed = x.Length, x.Length, x.Length
	state.CRC, state.Hint = x.CRC, ""
	return state, nil
}

// unsealable says why a replica cannot be sealed; "" if it can.
func unsealable(state *State, req *quarry.SealRequest) string {
	switch {
	case state.Status != quarry.ReplicaGood:
		return "its bytes are broken"
	case req.Length < 0 || req.Length > state.Length:
		return "it is shorter"
	case req.Position < 0 || req.Position > math.MaxInt64-quarry.ChunkBytesMax:
		return "there is no such position"
	case req.Version <= req.WritableVersion || req.Version < state.SealVersion:
		return "the version is not above the writable one or the present seal's"
	case state.Sealed() && req.Length != state.Length:
		return "it is sealed already"
	}
	return ""
}

// cutIndex returns the index of the replica cut to a length.
func (s *Store) cutIndex(state *State, req *quarry.SealRequest) (*Index, error) {
	s.mu.Lock()
	r, _ := s.replicas.Get(req.Handle)
	g := r.growth
	s.mu.Unlock()
	// A Write that was let in before the seal was asked for ends first, so that its bytes
	// are cut, too. Nothing of them counts any more.
	g.write.Lock()
	defer g.write.Unlock()
	if !recordBoundary(g.runs, req.Length) {
		return nil, quarry.Errorf("seal", quarry.Invalid, req.Handle.String(), "%d is not the end of a record", req.Length)
	}
	x := &Index{
		Handle: req.Handle, File: state.File, Position: state.Position, Hint: state.Hint, Mutable: state.Mutable,
		SealVersion: req.Version, WritableVersion: req.WritableVersion, Length: req.Length,
		CRCs: slices.Clone(g.sums.crcs[:quarry.Blocks(req.Length)]),
		Runs: cutRuns(g.runs, 0, req.Length), Forgotten: state.Forgotten,
	}
	if n := req.Length % quarry.BlockBytes; n != 0 {
		crc, err := s.cutBlock(state, g.durableTail, g.sums.crcs, req.Length)
		if err != nil {
			return nil, err
		}
		x.CRCs[len(x.CRCs)-1] = crc
	}
	x.CRC = (&sums{x.Length, x.CRCs}).whole()
	return x, nil
}

// cutBlock returns the checksum of the first bytes, up to length, of the block that length
// falls into, and verifies the block.
func (s *Store) cutBlock(state *State, durableTail uint32, crcs []uint32, length int64) (uint32, error) {
	block := length / quarry.BlockBytes
	crc := crcs[block]
	if block == quarry.Blocks(state.Length)-1 {
		crc = durableTail
	}
	f, err := s.files.get(state.Handle)
	if err != nil {
		return 0, err
	}
	defer s.files.put(f)
	buf := blocks.Get().(*blockBuffer)
	defer blocks.Put(buf)
	b, err := buf.load(f, block, state.Length, crc)
	if err != nil {
		return 0, quarry.Wrap("seal", state.Handle.String(), err)
	}
	return checksum(b[:length%quarry.BlockBytes]), nil
}

// syncFile makes the bytes of a chunk's file durable.
func (s *Store) syncFile(h quarry.Handle) error {
	f, err := s.files.get(h)
	if err != nil {
		return err
	}
	defer s.files.put(f)
	if err := f.Sync(); err != nil {
		return s.fail(disk.Wrap("sync", h.String(), err))
	}
	return nil
}

// truncate cuts what a file has behind the end of its chunk.
func (s *Store) truncate(h quarry.Handle, length int64) error {
	f, err := s.files.get(h)
	if err != nil {
		return err
	}
	defer s.files.put(f)
	size, err := f.Size()
	if err == nil && size > length {
		err = f.Truncate(length)
	}
	if err != nil {
		return s.fail(disk.Wrap("truncate", h.String(), err))
	}
	return nil
}
