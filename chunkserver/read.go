package chunkserver

import (
	"context"
	"errors"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/protocol"
)

// Read returns committed bytes. The order is: how far is it committed, the bytes, then the
// lease, then the answer; so a pause anywhere cannot make a stale answer.
func (s *Server) Read(ctx context.Context, req *quarry.ReadRequest) (*quarry.ReadReply, error) {
	r, err := s.allowed("read", &req.ChunkRef, quarry.RightRead)
	if err != nil {
		return nil, err
	}
	defer r.release()
	n, err := look(r, func(m *protocol.Member) (int64, error) { return m.Read(req) })
	if err != nil {
		return nil, err
	}
	now := s.cfg.Clock.Now()
	pressed := !s.traffic.quiet(now)
	if !req.Copying {
		s.traffic.served(now)
	}
	reply := &quarry.ReadReply{}
	if n > 0 {
		reply, err = r.disk.Read(r.handle, req.Offset, n, req.Into)
		if errors.Is(err, quarry.Corrupt) {
			r.corrupt(err)
		}
		if err != nil {
			return nil, quarry.Wrap("read", req.Handle.String(), err)
		}
	}
	reply.Pressed = req.Copying && pressed
	if !req.Validated && !s.leases.holds(req.Handle.Slot(), protocol.RightRead, s.cfg.Clock.Now()) {
		if reply.Release != nil {
			reply.Release()
		}
		return nil, quarry.Errorf("read", quarry.Confirm, req.Handle.String(), "the server has no lease; ask the master for the layout, then read it validated")
	}
	return reply, nil
}

// corrupt notes that bytes of the replica are broken, and tells the master, who has it
// copied anew from another one.
func (r *replica) corrupt(why error) {
	s := r.server
	first := false
	r.step(func(m *protocol.Member) []protocol.Effect {
		first = m.Info().Status == quarry.ReplicaGood
		m.Corrupt()
		return nil
	})
	if !first {
		return
	}
	r.disk.MarkCorrupt(r.handle, nil)
	s.cfg.Logger.Error("a replica is corrupt", "chunk", r.handle, "error", why)
	info, _ := look(r, func(m *protocol.Member) (quarry.ReplicaInfo, error) { return m.Info(), nil })
	self := quarry.Suspect{Server: s.id, Incarnation: s.incarnation, Why: clip(why.Error())}
	s.background(func(ctx context.Context) { s.tellCorrupt(ctx, r.handle, info.Promised, self) })
}

const (
	// corruptTells is how often a master is told of a broken replica until it has heard it;
	// corruptPause is the time between two tries. After that the inventory tells it.
	corruptTells = 20
	corruptPause = 3 * time.Second
)

// tellCorrupt reports a broken replica to the master. It insists, because the replica is not
// read or scrubbed again.
func (s *Server) tellCorrupt(ctx context.Context, h quarry.Handle, v quarry.Version, whose quarry.Suspect) {
	for range corruptTells {
		err := s.cfg.Masters.Report(ctx, &quarry.ReportRequest{Handle: h, Version: v, Suspects: []quarry.Suspect{whose}, Corrupt: true})
		if err == nil {
			return
		}
		s.cfg.Logger.Warn("the master could not be told of a corrupt replica", "chunk", h, "error", err)
		if s.cfg.Clock.Sleep(ctx, corruptPause) != nil {
			return
		}
	}
}

// End tells how far an open chunk is committed.
func (s *Server) End(ctx context.Context, req *quarry.EndRequest) (*quarry.EndReply, error) {
	r, err := s.allowed("end", &req.ChunkRef, quarry.RightRead)
	if err != nil {
		return nil, err
	}
	defer r.release()
	reply, err := look(r, func(m *protocol.Member) (*quarry.EndReply, error) { return m.End(req) })
	if err != nil {
		return nil, err
	}
	reply.Confirm = !s.leases.holds(req.Handle.Slot(), protocol.RightEnd, s.cfg.Clock.Now())
	return reply, nil
}

// Fate tells what became of records in a sealed chunk.
func (s *Server) Fate(ctx context.Context, req *quarry.FateRequest) (*quarry.FateReply, error) {
	r, err := s.allowed("fate", &req.ChunkRef, quarry.RightRead)
	if err != nil {
		return nil, err
	}
	defer r.release()
	return look(r, func(m *protocol.Member) (*quarry.FateReply, error) { return m.Fate(req) })
}

// Records lists committed records.
func (s *Server) Records(ctx context.Context, req *quarry.RecordsRequest) (*quarry.RecordsReply, error) {
	r, err := s.allowed("records", &req.ChunkRef, quarry.RightRead)
	if err != nil {
		return nil, err
	}
	defer r.release()
	return look(r, func(m *protocol.Member) (*quarry.RecordsReply, error) { return m.RecordRuns(req) })
}
