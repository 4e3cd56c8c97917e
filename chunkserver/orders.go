package chunkserver

import (
	"context"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/protocol"
)

// Create makes an empty replica on the disk that the master chose.
func (s *Server) Create(ctx context.Context, req *quarry.CreateRequest) error {
	r, err := s.ordered("create", &req.ChunkRef, req.Disk)
	if err != nil {
		return err
	}
	defer r.release()
	_, err = r.ask(ctx, func(m *protocol.Member, c protocol.Call) []protocol.Effect {
		r.own(m.Create(c, req), protocol.ChangeCreate, func(_ *protocol.Change, durable func(error)) { r.disk.Create(req, durable) })
		return nil
	})
	return err
}

// Activate gives the replica the role of primary.
func (s *Server) Activate(ctx context.Context, req *quarry.ActivateRequest) error {
	r, err := s.allowed("activate", &req.ChunkRef, quarry.RightControl)
	if err != nil {
		return err
	}
	defer r.release()
	now := s.cfg.Clock.Now()
	_, err = r.ask(ctx, func(m *protocol.Member, c protocol.Call) []protocol.Effect {
		r.touched = now
		return m.Activate(c, req)
	})
	return err
}

// Reopen makes a sealed replica a member of a further version.
func (s *Server) Reopen(ctx context.Context, req *quarry.ReopenRequest) error {
	r, err := s.allowed("reopen", &req.ChunkRef, quarry.RightControl)
	if err != nil {
		return err
	}
	defer r.release()
	_, err = r.ask(ctx, func(m *protocol.Member, c protocol.Call) []protocol.Effect { return m.Reopen(c, req) })
	return err
}

// fenceSoon is how long a fence waits for the disk. A seal waits as long for the rest of the members.
const fenceSoon = 300 * time.Millisecond

// Fence ends every lower version at the replica. A server without one says so; one whose disk does
// not answer soon says that a role is over, which a seal without this member has to know.
func (s *Server) Fence(ctx context.Context, req *quarry.FenceRequest) (*quarry.FenceReply, error) {
	r, err := s.ordered("fence", &req.ChunkRef, quarry.DiskID{})
	if err != nil {
		return nil, err
	}
	defer r.release()
	soon, cancel := s.cfg.Clock.WithTimeout(ctx, fenceSoon)
	defer cancel()
	reply, err := r.ask(soon, func(m *protocol.Member, c protocol.Call) []protocol.Effect { return m.Fence(c, req) })
	if err != nil && soon.Err() != nil && ctx.Err() == nil {
		return look(r, func(m *protocol.Member) (*quarry.FenceReply, error) { return m.Fencing(req) })
	}
	if err == nil {
		err = s.stopping("fence", req.Handle) // a disk that is closed is not one that is lost
	}
	if err != nil {
		return nil, err
	}
	return reply.(*quarry.FenceReply), nil
}

// Seal cuts the replica to the decided length.
func (s *Server) Seal(ctx context.Context, req *quarry.SealRequest) (*quarry.SealReply, error) {
	r, err := s.allowed("seal", &req.ChunkRef, quarry.RightControl)
	if err != nil {
		return nil, err
	}
	defer r.release()
	answer, err := r.ask(ctx, func(m *protocol.Member, c protocol.Call) []protocol.Effect { return m.Seal(c, req) })
	if err != nil {
		return nil, err
	}
	reply := answer.(*quarry.SealReply)
	if reply.Holds {
		state, _ := r.disk.State(r.handle)
		reply.CRC = state.CRC
	}
	return reply, nil
}

// Add lets a copy serve.
func (s *Server) Add(ctx context.Context, req *quarry.AddRequest) error {
	r, err := s.allowed("add", &req.ChunkRef, quarry.RightControl)
	if err != nil {
		return err
	}
	defer r.release()
	_, err = r.ask(ctx, func(m *protocol.Member, c protocol.Call) []protocol.Effect { return m.Add(c, req) })
	return err
}

// Drop removes the replica, if there is one.
func (s *Server) Drop(ctx context.Context, req *quarry.DropRequest) error {
	r, err := s.ordered("drop", &req.ChunkRef, quarry.DiskID{})
	if err != nil {
		return err
	}
	defer r.release()
	_, err = r.ask(ctx, func(m *protocol.Member, c protocol.Call) []protocol.Effect { return m.Drop(c, req) })
	return err
}

// ask is a request whose caller waits. If ctx ends first, what was begun goes on.
func (r *replica) ask(ctx context.Context, f func(*protocol.Member, protocol.Call) []protocol.Effect) (any, error) {
	type result struct {
		reply any
		err   error
	}
	answered := make(chan result, 1)
	r.request(nil, func(reply any, err error) { answered <- result{reply, err} }, f)
	select {
	case a := <-answered:
		return a.reply, a.err
	case <-ctx.Done():
		return nil, quarry.Wrap("chunk", r.handle.String(), context.Cause(ctx))
	}
}

// look asks the machine something that it answers at once.
func look[T any](r *replica, f func(*protocol.Member) (T, error)) (T, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return f(r.member)
}
