package chunk

import (
	"slices"

	"github.com/quarryfs/quarry"
)

// Reopen begins a further writable version of a sealed replica of length bytes, which grows
// again, and reserves the space that its chunk may still take. The same request again succeeds.
//
// The order leaves, at each crash, the replica sealed or open:
//
//  1. read the index, which alone has the checksums of the blocks and the records
//  2. the journal record, a whole one, with all that was in the index
//  3. remove the index. Until then it counts for nothing, as that of every growing replica;
//     Open removes it if a crash comes between.
//
// Errors, which leave the replica as it was: Invalid if it is not sealed at the length, below
// the version; Corrupt if its bytes or its index are broken; NoSpace; NotFound, Unavailable.
func (s *Store) Reopen(h quarry.Handle, v quarry.Version, length int64, done func(error)) {
	var x *Index
	o := &op{done: done}
	o.prepare = func(have State) (err error) {
		if again(&have, v) {
			return nil
		}
		if x, err = s.reopenable(&have, v, length); err != nil {
			return err
		}
		if err = s.reserve("reopen", h, quarry.ChunkBytesMax-length); err != nil {
			return err
		}
		o.begins = newGrowth(sums{x.Length, slices.Clone(x.CRCs)}, slices.Clone(x.Runs))
		return nil
	}
	o.change = func(have *State) error {
		if again(have, v) {
			return nil
		}
		have.Promised, have.LogVersion = max(have.Promised, v), v
		have.Serving, have.Hint = true, x.Hint
		have.CRC, have.index = 0, 0
		return nil
	}
	o.finish = func() error {
		if o.begins == nil {
			return nil
		}
		name := chunkName(h) + indexSuffix
		if err := s.fs.Remove(name); err != nil {
			return s.failure("remove index", name, err)
		}
		return nil
	}
	s.ask(h, o)
}

// again reports whether a replica grows in a version already.
func again(state *State, v quarry.Version) bool { return state.growing() && state.LogVersion == v }

// reopenable returns the index of a replica that may grow again.
func (s *Store) reopenable(state *State, v quarry.Version, length int64) (*Index, error) {
	if err := state.usable("reopen"); err != nil {
		return nil, err
	}
	switch {
	case state.Status != quarry.ReplicaGood:
		return nil, quarry.Errorf("reopen", quarry.Corrupt, state.Handle.String(), "its bytes are broken")
	case !state.Sealed() || state.Length != length || v <= state.SealVersion || v < state.Promised:
		return nil, quarry.Errorf("reopen", quarry.Invalid, state.Handle.String(),
			"the replica of %d bytes of version %d, seal %d and promise %d cannot be opened at version %d and %d bytes",
			state.Length, state.LogVersion, state.SealVersion, state.Promised, v, length)
	}
	return s.index(state)
}
