package chunk

import (
	"slices"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/disk"
)

// Incoming is a sealed chunk that is being received from another server. Its bytes stand
// under a name that counts for nothing until Commit. Not safe for concurrent use; it ends
// with Commit or Abort, one of which must be called.
type Incoming struct {
	s    *Store
	req  quarry.CopyRequest
	r    *replica
	file disk.File
	name string
	sums sums
	segs []segment
	back int64 // the system was asked to write so many bytes
}

// Receive begins to receive a chunk, and reserves its space. The replica that may be here
// stays as it is until Commit. Errors are Busy if the chunk is being received already,
// StaleVersion if what is here is as new, NoSpace.
func (s *Store) Receive(req *quarry.CopyRequest) (*Incoming, error) {
	in := &Incoming{s: s, req: *req, name: chunkName(req.Handle) + tempSuffix}
	if err := in.check(); err != nil {
		return nil, err
	}
	if err := in.claim(); err != nil {
		return nil, err
	}
	if err := s.reserve("copy", req.Handle, req.Length); err != nil {
		in.disclaim(0)
		return nil, err
	}
	err := s.makeDir(chunkDir(req.Handle))
	if err == nil {
		in.file, err = createNew(s.fs, in.name)
	}
	if err != nil {
		in.disclaim(req.Length)
		return nil, disk.Wrap("copy", in.name, err)
	}
	return in, nil
}

func (in *Incoming) check() error {
	req := &in.req
	if req.Handle == 0 || req.Length < 0 || req.Length > quarry.ChunkBytesMax || req.Version <= req.WritableVersion ||
		len(req.Hint) > HintBytesMax || req.Position < 0 {
		return quarry.Errorf("copy", quarry.Invalid, req.Handle.String(), "version %d, writable version %d, length %d", req.Version, req.WritableVersion, req.Length)
	}
	return nil
}

// claim makes this the one copy of the chunk under way.
func (in *Incoming) claim() error {
	s, h := in.s, in.req.Handle
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(); err != nil {
		return err
	}
	r := s.replica(h)
	s.replicas.Set(h, r)
	if r.copying {
		return quarry.Errorf("copy", quarry.Busy, h.String(), "the chunk is being received already")
	}
	if err := replaceable(&r.state, &in.req); err != nil {
		s.forget(r)
		return err
	}
	r.copying, in.r = true, r
	return nil
}

// replaceable returns why a copy must not take the place of a replica, or nil.
func replaceable(have *State, req *quarry.CopyRequest) error {
	if have.Promised > req.Version || have.SealVersion >= req.Version && have.Status == quarry.ReplicaGood {
		return quarry.Errorf("copy", quarry.StaleVersion, have.Handle.String(), "the replica is sealed at version %d and promised %d, the copy is of version %d",
			have.SealVersion, have.Promised, req.Version)
	}
	return nil
}

// disclaim ends the copy and gives back the space it does not use.
func (in *Incoming) disclaim(reserved int64) {
	s := in.s
	s.mu.Lock()
	in.r.copying = false
	s.reserved -= reserved
	s.forget(in.r)
	s.mu.Unlock()
}

// Length returns how many bytes were received.
func (in *Incoming) Length() int64 { return in.sums.length }

// Write adds bytes; crcs are the checksums of their parts, cut at the chunk's 64 KiB block
// borders, as in a ReadReply. Corrupt if the bytes do not match: they may be sent again.
func (in *Incoming) Write(data []byte, crcs []uint32) error {
	h, off := in.req.Handle, in.sums.length
	if int64(len(data)) > in.req.Length-off {
		return quarry.Errorf("copy", quarry.Invalid, h.String(), "%d bytes come at %d, the chunk has %d", len(data), off, in.req.Length)
	}
	in.segs = in.segs[:0]
	for rest, at := data, off; len(rest) > 0; {
		n := min(int64(len(rest)), quarry.BlockBytes-at%quarry.BlockBytes)
		in.segs = append(in.segs, segment{checksum(rest[:n]), n})
		rest, at = rest[n:], at+n
	}
	if len(crcs) != len(in.segs) {
		return quarry.Errorf("copy", quarry.Invalid, h.String(), "%d checksums for %d parts", len(crcs), len(in.segs))
	}
	for i, g := range in.segs {
		if g.crc != crcs[i] {
			return quarry.Errorf("copy", quarry.Corrupt, h.String(), "part %d of %d bytes at %d does not match its checksum", i, len(data), off)
		}
	}
	if _, err := in.file.WriteAt(data, off); err != nil {
		return in.s.failure("copy", in.name, err)
	}
	for _, g := range in.segs {
		in.sums.add(g)
	}
	in.s.mu.Lock()
	in.s.filled(int64(len(data)))
	in.s.mu.Unlock()
	if end := in.sums.length; end >= in.back+writebackBytes {
		in.file.StartWriteback(in.back, end-in.back)
		in.back = end
	}
	return nil
}

// Abort gives the copy up and removes what was received.
func (in *Incoming) Abort() {
	in.file.Close()
	// A file that stays counts for nothing, and Open removes it.
	_ = in.s.fs.Remove(in.name)
	in.disclaim(in.req.Length - in.sums.length)
}

// Check reports whether what was received is the chunk, as the request and its records
// describe it; see Commit, which checks it as well. Corrupt if all the bytes together do not
// match the chunk's checksum, or the records make no table.
func (in *Incoming) Check(runs []quarry.RecordRun, forgotten []quarry.SessionID) error {
	_, err := in.index(runs, forgotten)
	return err
}

// Commit makes what was received the replica, which does not serve before Add unless it was put
// together from parts. runs are the
// chunk's records, all of them, and forgotten the sessions whose records belong to nobody.
// After an error there is no copy, and what was here before is as it was or is marked lost.
//
// In order: sync the bytes; mark the replica that is here, if any, as lost, by a record of
// its own, because its file is about to go; rename; write the index; then the record that
// makes the replica, its records and its checksums appear at once.
func (in *Incoming) Commit(runs []quarry.RecordRun, forgotten []quarry.SessionID, done func(error)) {
	s, h := in.s, in.req.Handle
	x, err := in.index(runs, forgotten)
	if err == nil {
		if err = in.file.Sync(); err != nil {
			err = s.fail(disk.Wrap("copy", in.name, err))
		}
	}
	if err != nil {
		in.Abort()
		if done != nil {
			go done(err)
		}
		return
	}
	in.file.Close() // its bytes are durable
	s.ask(h, &op{ends: true, change: func(have *State) error {
		if !have.Exists() || have.Status == quarry.ReplicaLost {
			return nil
		}
		if err := replaceable(have, &in.req); err != nil {
			return err
		}
		have.Status = quarry.ReplicaLost
		return nil
	}})
	var state State
	s.ask(h, &op{
		ends: true,
		prepare: func(have State) error {
			if have.Exists() && have.Status != quarry.ReplicaLost {
				return quarry.Errorf("copy", quarry.StaleVersion, h.String(), "version %d is promised", have.Promised)
			}
			if err := s.fs.Rename(in.name, chunkName(h)); err != nil {
				return s.failure("copy", in.name, err)
			}
			s.files.forget(h)           // after the rename: a reader may have opened the other file just before
			sum, err := s.writeIndex(x) // syncs the folder
			if err != nil && !have.Exists() {
				_ = s.fs.Remove(chunkName(h)) // if it stays, Open moves it to the trash
			}
			state = in.state(&have, x, sum)
			return err
		},
		change: func(have *State) error {
			*have = state
			return nil
		},
		done: func(err error) {
			if err != nil {
				_ = s.fs.Remove(in.name) // as in Abort
			}
			in.disclaim(0)
			if done != nil {
				done(err)
			}
		},
	})
}

// index returns the index of what was received, if that is all and right.
func (in *Incoming) index(runs []quarry.RecordRun, forgotten []quarry.SessionID) (*Index, error) {
	req := &in.req
	h := req.Handle.String()
	if in.sums.length != req.Length {
		return nil, quarry.Errorf("copy", quarry.Invalid, h, "%d of %d bytes were received", in.sums.length, req.Length)
	}
	crc := in.sums.whole()
	if req.CRCKnown && crc != req.CRC {
		return nil, quarry.Errorf("copy", quarry.Corrupt, h, "the bytes have checksum %08x, the chunk has %08x", crc, req.CRC)
	}
	if len(forgotten) > ForgottenMax {
		return nil, quarry.Errorf("copy", quarry.TooLarge, h, "%d sessions are forgotten, at most %d are kept", len(forgotten), ForgottenMax)
	}
	runs, err := unpackRuns(packRuns(runs), 0, req.Length)
	if err != nil {
		return nil, quarry.Wrap("copy", h, err)
	}
	return &Index{
		Handle: req.Handle, File: req.File, Position: req.Position, Hint: req.Hint, Mutable: req.Mutable,
		SealVersion: req.Version, WritableVersion: req.WritableVersion, Length: req.Length, CRC: crc,
		CRCs: in.sums.crcs, Runs: runs, Forgotten: slices.Clone(forgotten),
	}, nil
}

// state returns the replica that the copy becomes, in the place of another or of none.
func (in *Incoming) state(have *State, x *Index, sum uint32) State {
	return State{
		Handle: x.Handle, Status: quarry.ReplicaGood,
		Promised: max(have.Promised, x.SealVersion), LogVersion: x.WritableVersion, Adopted: have.Adopted,
		SealVersion: x.SealVersion, SealLength: x.Length, Length: x.Length, CRC: x.CRC, Mutable: x.Mutable || have.Mutable,
		File: x.File, Position: x.Position, Forgotten: x.Forgotten, Serving: len(in.req.Parts) > 0, flushed: x.Length, index: sum,
	}
}
