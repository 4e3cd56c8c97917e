package chunkserver

import (
	"context"
	"errors"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/chunk"
	"github.com/quarryfs/quarry/protocol"
)

// Actors are made when a replica is asked for, from what its disk knows, and live as long
// as they know more than the disk. So a server's memory does not grow with its chunks.

const (
	// actorsMax is how many actors are kept before settled ones are let go.
	actorsMax = 4096
	// replicasMax bounds all actors, those of open chunks included.
	replicasMax = 1 << 16
)

// allowed checks a request's capability and finds its replica, which stays until the caller
// releases it.
func (s *Server) allowed(op string, ref *quarry.ChunkRef, need quarry.Rights) (*replica, error) {
	if err := s.stopping(op, ref.Handle); err != nil {
		return nil, err
	}
	s.mu.RLock()
	keys, r := s.keys, s.replicas[ref.Handle]
	if r != nil {
		r.users.Add(1)
	}
	s.mu.RUnlock()
	if err := keys.Verify(s.cfg.Cluster, ref.Handle, ref.Capability, need); err != nil {
		if r != nil {
			r.release()
		}
		return nil, quarry.Wrap(op, ref.Handle.String(), err)
	}
	if r != nil {
		return r, nil
	}
	r, err := s.load(ref.Handle)
	if err != nil {
		return nil, quarry.Wrap(op, ref.Handle.String(), err)
	}
	if r == nil {
		return nil, quarry.Errorf(op, quarry.NotFound, ref.Handle.String(), "server %d has no replica of the chunk", s.id)
	}
	return r, nil
}

// ordered is allowed for the master's orders that may come before there is a replica. disk
// is where it is to be; zero: anywhere, nothing will be made.
func (s *Server) ordered(op string, ref *quarry.ChunkRef, disk quarry.DiskID) (*replica, error) {
	r, err := s.allowed(op, ref, quarry.RightControl)
	switch {
	case err != nil && quarry.KindOf(err) != quarry.NotFound:
		return nil, err
	case r != nil && (disk.IsZero() || disk == r.disk.Identity().Disk):
		return r, nil
	}
	d := s.cfg.Disks[0]
	if !disk.IsZero() {
		if d = s.disks[disk]; d == nil {
			if r != nil {
				r.release()
			}
			return nil, quarry.Errorf(op, quarry.StaleVersion, ref.Handle.String(), "server %d has no disk %s", s.id, disk)
		}
	}
	if r != nil {
		return s.moved(op, r, d)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.replicas[ref.Handle]; r != nil {
		if r.disk != d && !disk.IsZero() {
			return nil, quarry.Errorf(op, quarry.Busy, ref.Handle.String(), "another request for the chunk is under way")
		}
		r.users.Add(1)
		return r, nil
	}
	if err := s.roomForOne(op, ref.Handle); err != nil {
		return nil, err
	}
	r = newReplica(s, d, protocol.NewMember(ref.Handle, s.id, s.incarnation))
	r.users.Add(1)
	s.replicas[ref.Handle] = r
	return r, nil
}

// moved returns the actor for an order that names another disk than the one that has the
// replica, or is asked for it, at present. A replica that is there stays there. A lost one
// gives way to a copy on a disk that works; its actor is kept beside the new one, which is
// as lost until the copy is there: an empty one could be created, and would then speak as a
// good member.
func (s *Server) moved(op string, r *replica, d *chunk.Store) (*replica, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r.mu.Lock()
	exists, lost := r.member.Exists(), r.member.Info().Status == quarry.ReplicaLost
	suspended := r.member.Suspended()
	r.mu.Unlock()
	switch {
	case suspended:
		r.users.Add(-1)
		return nil, quarry.Errorf(op, quarry.Busy, r.handle.String(), "the replica is read anew from its disk")
	case exists && !lost:
		return r, nil
	case !lost || s.replicas[r.handle] != r:
		r.users.Add(-1)
		return nil, quarry.Errorf(op, quarry.Busy, r.handle.String(), "another request for the chunk is under way")
	}
	m := protocol.NewMember(r.handle, s.id, s.incarnation)
	m.Fail()
	n := newReplica(s, d, m)
	n.before = r
	n.users.Add(1)
	s.replicas[r.handle] = n
	r.users.Add(-1)
	return n, nil
}

// roomForOne returns an error if there are too many actors for one more. s.mu is held.
func (s *Server) roomForOne(op string, h quarry.Handle) error {
	s.shrink()
	if len(s.replicas) >= replicasMax {
		return quarry.Errorf(op, quarry.Busy, h.String(), "server %d has %d chunks open already", s.id, replicasMax)
	}
	return nil
}

// find returns the actor of a replica that this server has, or nil. The caller releases it.
func (s *Server) find(h quarry.Handle) (*replica, error) {
	s.mu.RLock()
	r := s.replicas[h]
	if r != nil {
		r.users.Add(1)
	}
	s.mu.RUnlock()
	if r != nil {
		return r, nil
	}
	return s.load(h)
}

// load makes the actor of a replica that a disk has; nil if none has.
func (s *Server) load(h quarry.Handle) (*replica, error) {
	for {
		d, state := s.disk(h)
		if d == nil {
			return nil, nil
		}
		failed := d.Err() != nil
		m, err := s.restore(d, state, failed)
		if err != nil {
			return nil, err
		}
		s.mu.Lock()
		if r := s.replicas[h]; r != nil {
			r.users.Add(1)
			s.mu.Unlock()
			return r, nil
		}
		// Without an actor nothing changes the replica, so the disk still says the same unless
		// another actor came and went meanwhile.
		// If the disk fails from here on, watch finds the actor.
		if now, _ := d.State(h); !same(&now, &state) || failed != (d.Err() != nil) {
			s.mu.Unlock()
			continue
		}
		if err := s.roomForOne("find", h); err != nil {
			s.mu.Unlock()
			return nil, err
		}
		r := newReplica(s, d, m)
		r.users.Add(1)
		s.replicas[h] = r
		s.mu.Unlock()
		return r, nil
	}
}

// disk finds the disk that has a replica: one that is not lost, if it can be. A lost one may
// have been copied to another disk.
func (s *Server) disk(h quarry.Handle) (found *chunk.Store, at chunk.State) {
	for _, d := range s.cfg.Disks {
		state, ok := d.State(h)
		if !ok {
			continue
		}
		if found == nil {
			found, at = d, state
		}
		if state.Status != quarry.ReplicaLost && d.Err() == nil {
			return d, state
		}
	}
	return found, at
}

// restore makes the machine of a replica as its disk knows it.
// Without its records it is lost: it could say of none of them that it is absent.
func (s *Server) restore(d *chunk.Store, state chunk.State, failed bool) (*protocol.Member, error) {
	r := protocol.Replica{
		Handle: state.Handle, Exists: true, Promised: state.Promised, LogVersion: state.LogVersion,
		SealVersion: state.SealVersion, SealLength: state.SealLength, Adopted: state.Adopted,
		Mutable: state.Mutable, Serving: state.Serving,
	}
	if state.Status == quarry.ReplicaLost || failed {
		return s.lost(r), nil
	}
	runs, forgotten, err := d.Records(state.Handle)
	if err == nil {
		if r.Records, err = protocol.MakeRecords(runs); err != nil {
			err = quarry.Errorf("recover", quarry.Corrupt, state.Handle.String(), "its records cannot be: %v", err)
		}
	}
	switch {
	case errors.Is(err, quarry.Corrupt):
		s.cfg.Logger.Error("the records of a replica are broken", "chunk", state.Handle, "error", err)
		d.MarkCorrupt(state.Handle, nil)
		self := quarry.Suspect{Server: s.id, Incarnation: s.incarnation, Why: clip(err.Error())}
		s.background(func(ctx context.Context) { s.tellCorrupt(ctx, state.Handle, state.Promised, self) })
		return s.lost(r), nil
	case err != nil:
		return nil, err
	}
	r.Forgotten = forgotten
	m := protocol.RecoverMember(r, s.id, s.incarnation)
	if state.Status == quarry.ReplicaCorrupt {
		m.Corrupt()
	}
	return m, nil
}

// lost makes the machine of a replica that is lost.
func (s *Server) lost(r protocol.Replica) *protocol.Member {
	m := protocol.RecoverMember(r, s.id, s.incarnation)
	m.Fail()
	return m
}

// same reports whether nothing has changed between two looks at a replica.
func same(a, b *chunk.State) bool {
	return a.Status == b.Status && a.Promised == b.Promised && a.LogVersion == b.LogVersion && a.Adopted == b.Adopted &&
		a.SealVersion == b.SealVersion && a.Length == b.Length && a.Serving == b.Serving && len(a.Forgotten) == len(b.Forgotten)
}

// shrink lets some settled actors go if there are many. s.mu is held.
func (s *Server) shrink() {
	if len(s.replicas) < actorsMax {
		return
	}
	looked := 0
	for h, r := range s.replicas {
		r.mu.Lock()
		if r.users.Load() == 0 && r.settled() {
			delete(s.replicas, h)
		}
		r.mu.Unlock()
		if looked++; looked == 64 {
			return
		}
	}
}

// release lets go of an actor that was found.
func (r *replica) release() {
	if r.users.Add(-1) > 0 {
		return
	}
	r.mu.Lock()
	idle := r.idle()
	r.mu.Unlock()
	if idle {
		r.server.forget(r)
	}
}

// forget removes an actor that has nothing to remember.
func (s *Server) forget(r *replica) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.users.Load() > 0 || !r.idle() || s.replicas[r.handle] != r {
		return
	}
	if r.before != nil {
		s.replicas[r.handle] = r.before // the copy did not come: it is lost as before
		return
	}
	delete(s.replicas, r.handle)
}
