package clienttest

import (
	"context"
	"slices"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/crc32c"
	"github.com/quarryfs/quarry/protocol"
)

// Create implements quarry.ChunkServer.
func (s *Server) Create(ctx context.Context, req *quarry.CreateRequest) error {
	if err := s.reach(ctx, "create", &req.ChunkRef, quarry.RightControl); err != nil {
		return err
	}
	_, err := request[any](ctx, s, req.Handle, func(r *replica, call protocol.Call) []protocol.Effect { return r.m.Create(call, req) })
	return err
}

// Activate implements quarry.ChunkServer.
func (s *Server) Activate(ctx context.Context, req *quarry.ActivateRequest) error {
	if err := s.reach(ctx, "activate", &req.ChunkRef, quarry.RightControl); err != nil {
		return err
	}
	_, err := request[any](ctx, s, req.Handle, func(r *replica, call protocol.Call) []protocol.Effect {
		r.members = req.Members
		return r.m.Activate(call, req)
	})
	return err
}

// Reopen implements quarry.ChunkServer.
func (s *Server) Reopen(ctx context.Context, req *quarry.ReopenRequest) error {
	if err := s.reach(ctx, "reopen", &req.ChunkRef, quarry.RightControl); err != nil {
		return err
	}
	_, err := request[any](ctx, s, req.Handle, func(r *replica, call protocol.Call) []protocol.Effect { return r.m.Reopen(call, req) })
	return err
}

// Append implements quarry.ChunkServer.
func (s *Server) Append(ctx context.Context, req *quarry.AppendRequest, done func(*quarry.AppendReply, error)) {
	if err := s.reach(ctx, "append", &req.ChunkRef, quarry.RightAppend); err != nil {
		done(nil, err)
		return
	}
	if !slices.Equal(blockCRCs(req.Data, 0), req.CRCs) {
		done(nil, quarry.Errorf("append", quarry.Corrupt, req.Handle.String(), "the record does not match its checksums"))
		return
	}
	s.mu.Lock()
	s.inFlight += int64(len(req.Data))
	s.inFlightMax = max(s.inFlightMax, s.inFlight)
	busy, lost, refuse := s.faults.Busy > 0, s.faults.LoseAcks > 0, s.faults.Refuse
	switch {
	case busy:
		s.faults.Busy--
	case lost:
		s.faults.LoseAcks--
	}
	s.mu.Unlock()
	finish := func(reply *quarry.AppendReply, err error) {
		s.mu.Lock()
		s.inFlight -= int64(len(req.Data))
		s.mu.Unlock()
		done(reply, err)
	}
	if refuse != nil {
		finish(nil, refuse)
		return
	}
	if busy {
		finish(nil, quarry.Errorf("append", quarry.Busy, req.Handle.String(), "too much waits"))
		return
	}
	answer := first(func(reply any, err error) {
		typed, _ := reply.(*quarry.AppendReply)
		if lost {
			typed, err = nil, quarry.Errorf("append", quarry.Unavailable, "", "connection reset")
		}
		finish(typed, err)
	})
	stop := context.AfterFunc(ctx, func() { answer(nil, quarry.Errorf("append", quarry.Unavailable, "", "%w", ctx.Err())) })
	header := quarry.RecordHeader{Session: req.Session, Sequence: req.Sequence, Length: int64(len(req.Data)), CRCs: req.CRCs}
	s.begin(req.Handle, slices.Clone(req.Data), func(r *replica, call protocol.Call) []protocol.Effect {
		return r.m.Append(call, &req.ChunkRef, req.Oldest, header)
	}, func(reply any, err error) {
		stop()
		answer(reply, err)
	})
}

// first returns f that does nothing when called again.
func first(f func(any, error)) func(any, error) {
	called := make(chan struct{}, 1)
	return func(reply any, err error) {
		select {
		case called <- struct{}{}:
			f(reply, err)
		default:
		}
	}
}

// Prepare implements quarry.ChunkServer.
func (s *Server) Prepare(ctx context.Context, req *quarry.PrepareRequest, done func(*quarry.PrepareReply, error)) {
	if err := s.reach(ctx, "prepare", &req.ChunkRef, quarry.RightPrepare); err != nil {
		done(nil, err)
		return
	}
	s.begin(req.Handle, req.Data, func(r *replica, call protocol.Call) []protocol.Effect { return r.m.Prepare(call, req) },
		func(reply any, err error) {
			typed, _ := reply.(*quarry.PrepareReply)
			done(typed, err)
		})
}

// Commit implements quarry.ChunkServer.
func (s *Server) Commit(ctx context.Context, req *quarry.CommitRequest) error {
	return s.look(ctx, "commit", &req.ChunkRef, quarry.RightPrepare, func(r *replica) error {
		effects, err := r.m.Commit(req)
		s.do(r, effects)
		return err
	})
}

// look runs a request that is answered at once.
func (s *Server) look(ctx context.Context, op string, ref *quarry.ChunkRef, need quarry.Rights, f func(*replica) error) error {
	if err := s.reach(ctx, op, ref, need); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.unlock()
	r := s.replicas[ref.Handle]
	switch {
	case r == nil:
		return quarry.Errorf(op, quarry.NotFound, ref.Handle.String(), "there is no replica")
	case ref.Target != s.incarnation:
		return quarry.Errorf(op, quarry.StaleVersion, ref.Handle.String(), "the request is for incarnation %d, this is %d", ref.Target, s.incarnation)
	case r.m != nil && ref.Version < r.m.Replica().Promised:
		return quarry.Errorf(op, quarry.StaleVersion, ref.Handle.String(), "version %d, promised is %d", ref.Version, r.m.Replica().Promised)
	}
	return f(r)
}

// Fence implements quarry.ChunkServer.
func (s *Server) Fence(ctx context.Context, req *quarry.FenceRequest) (*quarry.FenceReply, error) {
	if err := s.reach(ctx, "fence", &req.ChunkRef, quarry.RightControl); err != nil {
		return nil, err
	}
	return request[*quarry.FenceReply](ctx, s, req.Handle, func(r *replica, call protocol.Call) []protocol.Effect { return r.m.Fence(call, req) })
}

// Seal implements quarry.ChunkServer.
func (s *Server) Seal(ctx context.Context, req *quarry.SealRequest) (*quarry.SealReply, error) {
	if err := s.reach(ctx, "seal", &req.ChunkRef, quarry.RightControl); err != nil {
		return nil, err
	}
	reply, err := request[*quarry.SealReply](ctx, s, req.Handle, func(r *replica, call protocol.Call) []protocol.Effect { return r.m.Seal(call, req) })
	if err == nil && reply.Holds {
		s.mu.Lock()
		reply.CRC = crc32c.Checksum(s.replicas[req.Handle].data)
		s.mu.Unlock()
	}
	return reply, err
}

// Fate implements quarry.ChunkServer.
func (s *Server) Fate(ctx context.Context, req *quarry.FateRequest) (reply *quarry.FateReply, err error) {
	err = s.look(ctx, "fate", &req.ChunkRef, quarry.RightRead, func(r *replica) (err error) {
		reply, err = r.m.Fate(req)
		return err
	})
	return reply, err
}

// Read implements quarry.ChunkServer.
func (s *Server) Read(ctx context.Context, req *quarry.ReadRequest) (*quarry.ReadReply, error) {
	s.mu.Lock()
	faults := s.faults
	if faults.DropReads > 0 {
		s.faults.DropReads--
	}
	s.mu.Unlock()
	if err := s.c.clock.Sleep(ctx, faults.Slow); err != nil {
		return nil, err
	}
	if faults.DropReads > 0 {
		return nil, quarry.Errorf("read", quarry.Unavailable, "", "connection reset")
	}
	var data []byte
	err := s.look(ctx, "read", &req.ChunkRef, quarry.RightRead, func(r *replica) error {
		if r.zeros > 0 {
			data = zeros(req, r.zeros)
			return nil
		}
		n, err := r.m.Read(req)
		if err == nil && n > 0 {
			data = append(intoOf(req), r.data[req.Offset:req.Offset+n]...)
		}
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case faults.NoLease && !req.Validated:
		return nil, quarry.Errorf("read", quarry.Confirm, req.Handle.String(), "there is no lease")
	}
	reply := &quarry.ReadReply{Data: data, CRCs: blockCRCs(data, req.Offset)}
	if faults.Corrupt && len(data) > 0 {
		data[len(data)/2] ^= 1
	}
	return reply, nil
}

// intoOf returns where the bytes of a reply may go.
func intoOf(req *quarry.ReadRequest) []byte { return req.Into[:0] }

func zeros(req *quarry.ReadRequest, length int64) []byte {
	n := max(0, min(req.Length, length-req.Offset))
	data := intoOf(req)
	if int64(cap(data)) < n {
		return make([]byte, n)
	}
	data = data[:n]
	clear(data)
	return data
}

// End implements quarry.ChunkServer.
func (s *Server) End(ctx context.Context, req *quarry.EndRequest) (reply *quarry.EndReply, err error) {
	err = s.look(ctx, "end", &req.ChunkRef, quarry.RightRead, func(r *replica) (err error) {
		if reply, err = r.m.End(req); err == nil {
			reply.Confirm = s.faults.NoLease
		}
		return err
	})
	return reply, err
}

// Wait implements quarry.ChunkServer.
func (s *Server) Wait(ctx context.Context, req *quarry.WaitRequest) (*quarry.WaitReply, error) {
	for {
		var reply quarry.WaitReply
		var over bool
		var changed chan struct{}
		err := s.look(ctx, "wait", &req.ChunkRef, quarry.RightRead, func(r *replica) (err error) {
			changed = r.changed
			reply, over, err = r.m.Wait(req)
			return err
		})
		if err != nil || over {
			return &reply, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return &reply, nil
		case <-s.c.ctx.Done():
			return nil, quarry.Unavailable
		}
	}
}

// Records implements quarry.ChunkServer.
func (s *Server) Records(ctx context.Context, req *quarry.RecordsRequest) (reply *quarry.RecordsReply, err error) {
	err = s.look(ctx, "records", &req.ChunkRef, quarry.RightRead, func(r *replica) (err error) {
		reply, err = r.m.RecordRuns(req)
		return err
	})
	return reply, err
}

// blockCRCs returns the checksum of each part of data, cut at the blocks of a chunk in which
// it begins at offset.
func blockCRCs(data []byte, offset int64) []uint32 {
	var crcs []uint32
	for len(data) > 0 {
		n := min(int64(len(data)), quarry.BlockBytes-offset%quarry.BlockBytes)
		crcs = append(crcs, crc32c.Checksum(data[:n]))
		data, offset = data[n:], offset+n
	}
	return crcs
}

// PutZeros makes a file of full chunks of zeros that take no memory, as a base for reads of
// files that are larger than the machine.
func (c *Cluster) PutZeros(path string, length int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.put(c.inodes[quarry.RootInode], path, quarry.KindFile)
	for at := int64(0); at < length; at += quarry.ChunkBytesMax {
		size := min(quarry.ChunkBytesMax, length-at)
		k := &chunk{handle: quarry.MakeHandle(n.attr.Inode.Slot(), c.next()), state: quarry.ChunkSealed, version: 2, writable: 1, length: size}
		c.chunks[k.handle] = k
		for i := range c.config.Copies {
			s := c.servers[(c.turn+i)%len(c.servers)]
			k.members = append(k.members, s.member())
			s.mu.Lock()
			s.replicas[k.handle] = &replica{zeros: size}
			s.mu.Unlock()
		}
		c.turn++
		n.pieces = append(n.pieces, quarry.Piece{Offset: at, Length: size, Kind: quarry.PieceChunk, Handle: k.handle})
	}
}
