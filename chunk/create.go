package chunk

import (
	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/disk"
)

// Create makes an empty replica and reserves, by accounting, the space of a whole chunk. The
// same request again succeeds while the replica is as it was made. Errors are NoSpace if
// there is no room for a whole chunk, StaleVersion if the replica exists and has changed.
func (s *Store) Create(req *quarry.CreateRequest, done func(error)) {
	state := State{
		Handle: req.Handle, Status: quarry.ReplicaGood, Promised: req.Version, LogVersion: req.Version,
		Mutable: req.Mutable, Serving: true, File: req.File, Position: req.Position, Hint: req.Hint,
	}
	s.ask(req.Handle, &op{
		done: done,
		prepare: func(have State) error {
			if have.Exists() {
				return nil
			}
			if why := state.flaw(); why != "" || len(req.Hint) > HintBytesMax || req.Handle == 0 || req.Version == 0 {
				return quarry.Errorf("create", quarry.Invalid, req.Handle.String(), "handle, version, position or hint is out of range %s", why)
			}
			if err := s.reserve("create", req.Handle, quarry.ChunkBytesMax); err != nil {
				return err
			}
			err := s.makeChunkFile(req.Handle)
			if err != nil {
				s.unreserve(quarry.ChunkBytesMax)
			}
			return err
		},
		change: func(have *State) error {
			if have.Exists() {
				if have.LogVersion != req.Version || have.Promised != req.Version {
					return quarry.Errorf("create", quarry.StaleVersion, req.Handle.String(), "the replica exists, and version %d is promised", have.Promised)
				}
				return nil
			}
			*have = state
			return nil
		},
	})
}

// makeChunkFile makes the empty file of a chunk, durable with its name. One that is there
// is left over from a create that failed.
func (s *Store) makeChunkFile(h quarry.Handle) error {
	if err := s.makeDir(chunkDir(h)); err != nil {
		return err
	}
	s.files.forget(h)
	name := chunkName(h)
	f, err := createNew(s.fs, name)
	if err != nil {
		return disk.Wrap("create", name, err)
	}
	if err := f.Sync(); err != nil {
		f.Close()
		return s.fail(disk.Wrap("create", name, err))
	}
	if err := s.fs.SyncDir(chunkDir(h)); err != nil {
		f.Close()
		return s.fail(disk.Wrap("create", name, err))
	}
	s.files.put(s.files.add(h, f))
	return nil
}

// makeDir makes a folder, unless it is known to be there.
func (s *Store) makeDir(dir string) error {
	s.mu.Lock()
	known := s.dirs[dir]
	s.mu.Unlock()
	if known {
		return nil
	}
	if err := s.fs.MkdirAll(dir); err != nil {
		return s.failure("make folder", dir, err)
	}
	s.mu.Lock()
	s.dirs[dir] = true
	s.mu.Unlock()
	return nil
}
