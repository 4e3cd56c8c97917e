package clienttest

import (
	"context"
	"slices"
	"time"

	"github.com/quarryfs/quarry"
)

// chunk is the master's record of a chunk. All but gate is guarded by Cluster.mu.
type chunk struct {
	handle   quarry.Handle
	state    quarry.ChunkState
	version  quarry.Version
	writable quarry.Version
	prev     quarry.Version // of a chunk that was opened again: the writable version before
	base     int64
	length   int64
	crc      uint32
	members  []quarry.Member
	owner    quarry.SessionID // until it is linked
	linked   bool             // by the session that owned it
	file     quarry.Inode
	gate     chan struct{} // a token: who seals it
}

// tell returns what a client is told of a chunk.
func (c *Cluster) tell(k *chunk) quarry.Chunk {
	members := slices.Clone(k.members)
	if k.state == quarry.ChunkSealed {
		for i := range members {
			members[i] = c.Server(members[i].Server).member()
		}
	}
	return quarry.Chunk{
		Handle: k.handle, State: k.state, Version: k.version, WritableVersion: k.writable, Length: k.length,
		CRC: k.crc, CRCKnown: k.state == quarry.ChunkSealed, Members: members,
		Capability: c.keys.Sign(c.id, k.handle, quarry.RightRead|quarry.RightAppend),
	}
}

func (c *Cluster) control(k *chunk, m quarry.Member, v quarry.Version) quarry.ChunkRef {
	return quarry.ChunkRef{Handle: k.handle, Version: v, Target: m.Incarnation, Capability: c.keys.Sign(c.id, k.handle, quarry.RightControl)}
}

// create makes a chunk on servers that are alive, as many as there should be copies, at
// least one. Called without the lock; the chunk is not logged.
func (c *Cluster) create(ctx context.Context, slot quarry.Slot, owner quarry.SessionID, file quarry.Inode) (*chunk, error) {
	c.mu.Lock()
	k := &chunk{
		handle: quarry.MakeHandle(slot, c.next()), state: quarry.ChunkOpen, version: 1, writable: 1,
		owner: owner, file: file, gate: make(chan struct{}, 1),
	}
	for i := range c.servers {
		s := c.servers[(c.turn+i)%len(c.servers)]
		if len(k.members) < c.config.Copies && s.usable() {
			k.members = append(k.members, s.member())
		}
	}
	c.turn++
	c.mu.Unlock()
	if len(k.members) == 0 {
		return nil, quarry.Errorf("create", quarry.NoSpace, "", "no chunk server can be used")
	}
	for _, m := range k.members {
		req := &quarry.CreateRequest{ChunkRef: c.control(k, m, 1), File: file}
		if err := c.Server(m.Server).Create(ctx, req); err != nil {
			return nil, quarry.Errorf("create", quarry.Unavailable, k.handle.String(), "%v", err)
		}
	}
	p := k.members[0]
	req := &quarry.ActivateRequest{ChunkRef: c.control(k, p, 1), Members: k.members}
	if err := c.Server(p.Server).Activate(ctx, req); err != nil {
		return nil, quarry.Errorf("create", quarry.Unavailable, k.handle.String(), "%v", err)
	}
	return k, nil
}

// sealChunk ends a chunk's writable version at the shortest length that its members have.
func (c *Cluster) sealChunk(ctx context.Context, k *chunk) error {
	select {
	case k.gate <- struct{}{}:
		defer func() { <-k.gate }()
	case <-ctx.Done():
		return ctx.Err()
	}
	c.mu.Lock()
	if k.state == quarry.ChunkSealed {
		c.mu.Unlock()
		return nil
	}
	k.state, k.version = quarry.ChunkSealing, k.writable+1
	members := k.members
	c.mu.Unlock()
	length, err := c.fence(ctx, k, members)
	if err != nil {
		return err
	}
	c.mu.Lock()
	k.state, k.length, k.members = quarry.ChunkSealed, length, nil
	if n := c.inodes[k.file]; n != nil && n.tail == k {
		p := &n.pieces[len(n.pieces)-1]
		p.Length = length
		if length == 0 {
			n.pieces = n.pieces[:len(n.pieces)-1]
		}
		n.tail = nil
	}
	c.mu.Unlock()
	for _, m := range members {
		now := c.Server(m.Server).member()
		try, cancel := c.clock.WithTimeout(ctx, 300*time.Millisecond)
		req := &quarry.SealRequest{ChunkRef: c.control(k, now, k.version), Length: length, WritableVersion: k.writable}
		if length == k.base {
			req.PrevWritableVersion = k.prev
		}
		reply, err := c.Server(m.Server).Seal(try, req)
		cancel()
		if err == nil && reply.Holds {
			c.mu.Lock()
			k.members, k.crc = append(k.members, m), reply.CRC
			c.mu.Unlock()
		}
	}
	return nil
}

// reopen opens the last chunk of a file again, and reports whether it has.
func (c *Cluster) reopen(ctx context.Context, file quarry.Inode) bool {
	c.mu.Lock()
	n := c.inodes[file]
	if !c.config.Reopen || n == nil || n.tail != nil || len(n.pieces) == 0 {
		c.mu.Unlock()
		return false
	}
	p := &n.pieces[len(n.pieces)-1]
	k := c.chunks[p.Handle]
	fit := k != nil && k.state == quarry.ChunkSealed && len(k.members) == c.config.Copies && k.length+quarry.RecordBytesMax <= quarry.ChunkBytesMax
	if !fit {
		c.mu.Unlock()
		return false
	}
	for i := range k.members {
		s := c.Server(k.members[i].Server)
		k.members[i] = s.member()
		fit = fit && s.usable()
	}
	if !fit {
		c.mu.Unlock()
		return false
	}
	k.prev, k.writable, k.base = k.writable, k.version+1, k.length
	k.state, k.version = quarry.ChunkOpen, k.writable
	p.Length, n.tail = quarry.OpenEnded, k
	members := slices.Clone(k.members)
	c.mu.Unlock()
	for _, m := range members {
		req := &quarry.ReopenRequest{ChunkRef: c.control(k, m, k.writable), Base: k.base, PrevWritableVersion: k.prev}
		if c.Server(m.Server).Reopen(ctx, req) != nil {
			return true // it will be sealed again
		}
	}
	_ = c.Server(members[0].Server).Activate(ctx, &quarry.ActivateRequest{ChunkRef: c.control(k, members[0], k.writable), Members: members, Base: k.base})
	return true
}

// fence has every member promise the sealed version and returns the length that all have
// that did not restart; or, if all did, the longest one when all have answered. If the
// primary does not answer, its lease is waited for.
func (c *Cluster) fence(ctx context.Context, k *chunk, members []quarry.Member) (int64, error) {
	for {
		length, found, primary := int64(0), false, false
		restarted, longest := 0, int64(0)
		for i, m := range members {
			s := c.Server(m.Server)
			try, cancel := c.clock.WithTimeout(ctx, 300*time.Millisecond)
			reply, err := s.Fence(try, &quarry.FenceRequest{ChunkRef: c.control(k, s.member(), k.version)})
			cancel()
			if err != nil || reply.Status != quarry.ReplicaGood {
				continue
			}
			if reply.Incarnation != m.Incarnation {
				restarted, longest = restarted+1, max(longest, reply.DurableLength)
				continue
			}
			if !found || reply.DurableLength < length {
				length = reply.DurableLength
			}
			found, primary = true, primary || i == 0
		}
		if restarted == len(members) {
			length, found = longest, true
		}
		if found && !primary {
			if err := c.clock.Sleep(ctx, c.config.Lease); err != nil {
				return 0, err
			}
		}
		if found {
			return length, nil
		}
		if err := c.clock.Sleep(ctx, 100*time.Millisecond); err != nil {
			return 0, err
		}
	}
}

// suspect has a chunk sealed of which a member is silent.
func (c *Cluster) suspect(h quarry.Handle) {
	c.mu.Lock()
	k := c.chunks[h]
	c.mu.Unlock()
	if k != nil {
		c.background(func() { _ = c.sealChunk(c.ctx, k) })
	}
}

// Locate implements quarry.Master.
func (m *Master) Locate(ctx context.Context, req *quarry.LocateRequest) (*quarry.LocateReply, error) {
	return ask(ctx, m, "locate", func(c *Cluster) (*quarry.LocateReply, error) {
		n := c.inodes[req.File]
		if n == nil {
			return nil, quarry.NotFound
		}
		r := &quarry.LocateReply{Attr: c.attr(n)}
		for _, p := range n.pieces {
			if p.Length != quarry.OpenEnded && p.Offset+p.Length <= req.Offset {
				continue
			}
			if len(r.Pieces) == req.Max {
				r.More = true
				break
			}
			r.Pieces = append(r.Pieces, p)
			if p.Kind == quarry.PieceChunk {
				r.Chunks = append(r.Chunks, c.tell(c.chunks[p.Handle]))
			}
		}
		return r, nil
	})
}

// Roll implements quarry.Master.
func (m *Master) Roll(ctx context.Context, req *quarry.RollRequest) (*quarry.RollReply, error) {
	c := m.c
	tail, err := ask(ctx, m, "roll", func(c *Cluster) (*chunk, error) { // what is to be sealed
		n := c.inodes[req.File]
		if n == nil {
			return nil, quarry.Errorf("roll", quarry.NotFound, "", "the file was removed")
		}
		c.expire()
		if c.sessions[req.Session] == nil {
			return nil, quarry.SessionExpired
		}
		if t := n.tail; t != nil && (t.handle != req.Last || req.Version < t.version) && t.state == quarry.ChunkOpen {
			return nil, nil
		}
		return n.tail, nil
	})
	if err != nil {
		return nil, err
	}
	if tail != nil {
		if err := c.sealChunk(ctx, tail); err != nil {
			return nil, err
		}
	}
	c.mu.Lock()
	n := c.inodes[req.File]
	ready := n != nil && n.tail != nil
	c.mu.Unlock()
	ready = ready || c.reopen(ctx, req.File)
	if !ready {
		k, err := c.create(ctx, req.File.Slot(), 0, req.File)
		if err != nil {
			return nil, err
		}
		c.mu.Lock()
		if n := c.inodes[req.File]; n != nil && n.tail == nil {
			c.chunks[k.handle] = k
			n.tail = k
			n.pieces = append(n.pieces, quarry.Piece{Offset: c.attr(n).Length, Length: quarry.OpenEnded, Kind: quarry.PieceChunk, Handle: k.handle})
		}
		c.mu.Unlock()
	}
	return ask(ctx, m, "rolled", func(c *Cluster) (*quarry.RollReply, error) {
		n := c.inodes[req.File]
		if n == nil {
			return nil, quarry.NotFound
		}
		if n.tail == nil || n.tail.state != quarry.ChunkOpen {
			return nil, quarry.Errorf("roll", quarry.Unavailable, "", "the tail is being sealed")
		}
		return &quarry.RollReply{Attr: c.attr(n), Piece: n.pieces[len(n.pieces)-1], Chunk: c.tell(n.tail)}, nil
	})
}

// Allocate implements quarry.Master.
func (m *Master) Allocate(ctx context.Context, req *quarry.AllocateRequest) (*quarry.AllocateReply, error) {
	var made []*chunk
	for range req.Count {
		k, err := m.c.create(ctx, req.Near.Slot(), ownerOf(req.Op, req.Owner), 0)
		if err != nil {
			return nil, err
		}
		made = append(made, k)
	}
	return ask(ctx, m, "allocate", func(c *Cluster) (*quarry.AllocateReply, error) {
		slot := req.Near.Slot()
		reply, err := once(c, req.Op, slot, func() (*quarry.AllocateReply, error) {
			if c.sessions[ownerOf(req.Op, req.Owner)] == nil {
				return nil, quarry.Errorf("allocate", quarry.SessionExpired, "", "the owner is not known")
			}
			r := &quarry.AllocateReply{}
			for _, k := range made {
				c.chunks[k.handle] = k
				r.Chunks = append(r.Chunks, c.tell(k))
			}
			return r, nil
		})
		if err == nil && c.shardOf(req.Op.Session.Slot()) != c.shardOf(slot) { // it was done, and the chunks are elsewhere
			return nil, &quarry.Error{Op: "allocate", Kind: quarry.WrongShard, Err: &quarry.WrongShardError{Slot: slot, Map: c.mapVersion}}
		}
		return reply, err
	})
}

// Finish implements quarry.Master.
func (m *Master) Finish(ctx context.Context, req *quarry.FinishRequest) (*quarry.ChunkReply, error) {
	k, err := ask(ctx, m, "finish", func(c *Cluster) (*chunk, error) {
		k := c.chunks[req.Handle]
		c.expire()
		switch {
		case k == nil || !k.linked && (k.owner != req.Session || c.sessions[k.owner] == nil):
			return nil, quarry.Errorf("finish", quarry.NotFound, req.Handle.String(), "the session owns no such chunk")
		case k.state == quarry.ChunkLost:
			return nil, quarry.Errorf("finish", quarry.Corrupt, req.Handle.String(), "every replica of the chunk is lost")
		}
		return k, nil
	})
	if err != nil {
		return nil, err
	}
	if err := m.c.sealChunk(ctx, k); err != nil {
		return nil, err
	}
	return m.Chunk(ctx, &quarry.ChunkRequest{Handle: req.Handle})
}

// Chunk implements quarry.Master.
func (m *Master) Chunk(ctx context.Context, req *quarry.ChunkRequest) (*quarry.ChunkReply, error) {
	return ask(ctx, m, "chunk", func(c *Cluster) (*quarry.ChunkReply, error) {
		k := c.chunks[req.Handle]
		if k == nil {
			return nil, quarry.Errorf("chunk", quarry.NotFound, req.Handle.String(), "there is no such chunk")
		}
		return &quarry.ChunkReply{Chunk: c.tell(k)}, nil
	})
}

// Report implements quarry.Master.
func (m *Master) Report(ctx context.Context, req *quarry.ReportRequest) error {
	_, err := ask(ctx, m, "report", func(c *Cluster) (*struct{}, error) {
		c.reports = append(c.reports, *req)
		return &struct{}{}, nil
	})
	if err == nil && !req.Corrupt {
		m.c.suspect(req.Handle)
	}
	return err
}
