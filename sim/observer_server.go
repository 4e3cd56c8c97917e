package sim

import (
	"context"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/chunk"
	"github.com/quarryfs/quarry/chunkserver"
)

// observedServer is a chunk server with the observer before it.
type observedServer struct {
	quarry.ChunkServer
	o *observer
	p *process

	id          quarry.ServerID
	incarnation quarry.Incarnation
}

func (o *observer) server(p *process) func(quarry.ChunkServer) quarry.ChunkServer {
	return func(s quarry.ChunkServer) quarry.ChunkServer {
		seen := &observedServer{ChunkServer: s, o: o, p: p}
		if real, ok := s.(*chunkserver.Server); ok {
			seen.id, seen.incarnation = real.ID(), real.Incarnation()
		}
		p.server.Store(seen)
		return seen
	}
}

func (s *observedServer) Create(ctx context.Context, req *quarry.CreateRequest) error {
	from := s.o.begin()
	s.o.end(s.p, func() { s.o.asked(req) })
	err := s.ChunkServer.Create(ctx, req)
	if err == nil && s.o.over(s.p.host, &req.ChunkRef) {
		s.o.end(s.p, func() { delete(s.o.promises, s.o.replica(s.p.host, req.Handle)) })
		s.o.log.Count("a chunk that nothing needs is made once more by an old request")
		return nil
	}
	s.o.end(s.p, func() {
		if err == nil {
			s.meant(&req.ChunkRef, "create")
			s.o.obeyed(from, s.p.host, &req.ChunkRef, "create")
			s.o.promised(s.p.host, req.Handle, req.Version)
			s.o.created(s, &req.ChunkRef)
			s.o.onDisk(s.p.host, req.Handle, "a replica is made", func(*chunk.State) bool { return true })
		}
	})
	if err == nil {
		s.o.reached("created", s.p, req.Handle)
	}
	return err
}

func (s *observedServer) Activate(ctx context.Context, req *quarry.ActivateRequest) error {
	from := s.o.begin()
	// A primary may have its role, and use it, when whoever asked no longer waits for the answer.
	s.o.end(s.p, func() { s.o.named(req) })
	err := s.ChunkServer.Activate(ctx, req)
	s.o.end(s.p, func() {
		if err == nil {
			s.meant(&req.ChunkRef, "activate")
			s.o.obeyed(from, s.p.host, &req.ChunkRef, "activate")
			s.o.activated(req)
			s.o.onDisk(s.p.host, req.Handle, "the role is taken", func(d *chunk.State) bool { return d.Adopted >= req.Version })
		}
	})
	if err == nil {
		s.o.reached("activated", s.p, req.Handle)
	}
	return err
}

func (s *observedServer) Reopen(ctx context.Context, req *quarry.ReopenRequest) error {
	from := s.o.begin()
	s.o.end(s.p, func() { s.o.reopening(req) })
	err := s.ChunkServer.Reopen(ctx, req)
	s.o.end(s.p, func() {
		s.o.count("re-open of a replica", err)
		if err == nil {
			s.o.isDurable(s.p.host, req.Handle, req.Base)
			s.meant(&req.ChunkRef, "reopen")
			s.o.obeyed(from, s.p.host, &req.ChunkRef, "reopen")
			s.o.promised(s.p.host, req.Handle, req.Version)
			s.o.created(s, &req.ChunkRef)
			s.o.onDisk(s.p.host, req.Handle, "it is opened again", func(d *chunk.State) bool { return d.Promised >= req.Version })
		}
	})
	if err == nil {
		s.o.reached("created", s.p, req.Handle)
	}
	return err
}

func (s *observedServer) Append(ctx context.Context, req *quarry.AppendRequest, done func(*quarry.AppendReply, error)) {
	from := s.o.begin()
	s.ChunkServer.Append(ctx, req, func(reply *quarry.AppendReply, err error) {
		s.o.end(s.p, func() {
			if err != nil {
				s.o.count("append", err)
				return
			}
			s.meant(&req.ChunkRef, "append")
			s.o.acknowledged(from, s.p.host, req, reply.Offset)
		})
		if err == nil {
			s.o.reached("acknowledged", s.p, req.Handle)
		}
		done(reply, err)
	})
}

func (s *observedServer) Prepare(ctx context.Context, req *quarry.PrepareRequest, done func(*quarry.PrepareReply, error)) {
	from := s.o.begin()
	s.o.end(s.p, func() { s.o.commitTold(&req.ChunkRef, req.Commit, "with a batch") })
	s.o.reached("batch come", s.p, req.Handle)
	s.ChunkServer.Prepare(ctx, req, func(reply *quarry.PrepareReply, err error) {
		s.o.end(s.p, func() {
			if err != nil {
				s.o.count("prepare", err)
				return
			}
			s.meant(&req.ChunkRef, "prepare")
			s.o.obeyed(from, s.p.host, &req.ChunkRef, "prepare")
			s.o.isDurable(s.p.host, req.Handle, req.Offset+int64(len(req.Data)))
		})
		if err == nil {
			s.o.reached("batch durable", s.p, req.Handle)
		}
		done(reply, err)
	})
}

func (s *observedServer) Commit(ctx context.Context, req *quarry.CommitRequest) error {
	s.o.end(s.p, func() { s.o.commitTold(&req.ChunkRef, req.Commit, "by itself") })
	return s.ChunkServer.Commit(ctx, req)
}

func (s *observedServer) Fence(ctx context.Context, req *quarry.FenceRequest) (*quarry.FenceReply, error) {
	reply, err := s.ChunkServer.Fence(ctx, req)
	s.o.end(s.p, func() {
		if err == nil && reply.Status == quarry.ReplicaWaiting {
			s.o.log.Count("fences answered before the disk has")
		} else if err == nil {
			s.o.fenced(s.p.host, req, reply)
			if reply.Status == quarry.ReplicaGood {
				s.o.onDisk(s.p.host, req.Handle, "it is fenced", func(d *chunk.State) bool {
					return d.Promised >= req.Version && d.Length >= reply.DurableLength
				})
			}
		}
	})
	if err == nil {
		s.o.reached("fenced", s.p, req.Handle)
	}
	return reply, err
}

func (s *observedServer) Seal(ctx context.Context, req *quarry.SealRequest) (*quarry.SealReply, error) {
	s.o.end(s.p, func() {
		s.o.sealTold(req.Handle, req.Version, req.Length, "a seal")
		s.o.survivors(req.Handle)
	})
	s.o.reached("seal come", s.p, req.Handle)
	reply, err := s.ChunkServer.Seal(ctx, req)
	s.o.end(s.p, func() {
		if err == nil {
			s.o.log.Count(map[bool]string{true: "a replica holds a seal", false: "a replica cannot hold a seal"}[reply.Holds])
			s.o.promised(s.p.host, req.Handle, req.Version)
			if reply.Holds {
				s.o.onDisk(s.p.host, req.Handle, "a seal is held", func(d *chunk.State) bool {
					return d.SealVersion >= req.Version && d.SealLength == req.Length
				})
			}
		}
	})
	if err == nil {
		s.o.reached("sealed", s.p, req.Handle)
	}
	return reply, err
}

func (s *observedServer) Copy(ctx context.Context, req *quarry.CopyRequest) error {
	s.o.end(s.p, func() { s.o.sealTold(req.Handle, req.Version, req.Length, "a copy") })
	err := s.ChunkServer.Copy(ctx, req)
	s.o.end(s.p, func() {
		s.o.count(map[bool]string{false: "copy", true: "merge of pieces at a server"}[len(req.Parts) > 0], err)
	})
	if err == nil {
		s.o.reached("copied", s.p, req.Handle)
	}
	return err
}

func (s *observedServer) Drop(ctx context.Context, req *quarry.DropRequest) error {
	err := s.ChunkServer.Drop(ctx, req)
	s.o.end(s.p, func() { s.o.count("drop", err) })
	return err
}

func (s *observedServer) Fate(ctx context.Context, req *quarry.FateRequest) (*quarry.FateReply, error) {
	reply, err := s.ChunkServer.Fate(ctx, req)
	s.o.end(s.p, func() {
		s.o.count("fate", err)
		if err == nil {
			s.o.fates(s.p.host, req, reply)
		}
	})
	return reply, err
}

func (s *observedServer) Read(ctx context.Context, req *quarry.ReadRequest) (*quarry.ReadReply, error) {
	reply, err := s.ChunkServer.Read(ctx, req)
	s.o.end(s.p, func() {
		if err != nil {
			s.o.count("read", err)
			return
		}
		if !req.Validated {
			s.o.mayRead(s, req.Handle)
		}
		s.o.read(s.p.host, req.Handle, req.Offset, reply)
	})
	return reply, err
}

func (s *observedServer) End(ctx context.Context, req *quarry.EndRequest) (*quarry.EndReply, error) {
	from := s.o.begin()
	reply, err := s.ChunkServer.End(ctx, req)
	s.o.end(s.p, func() {
		if err != nil {
			s.o.count("end", err)
			return
		}
		s.o.authorised(from, s, req, reply)
		s.o.endTold(from, s.p.host, req, reply)
	})
	return reply, err
}

func (s *observedServer) Wait(ctx context.Context, req *quarry.WaitRequest) (*quarry.WaitReply, error) {
	reply, err := s.ChunkServer.Wait(ctx, req)
	s.o.end(s.p, func() {
		if err == nil {
			s.o.commitTold(&req.ChunkRef, reply.Commit, "to who waits")
		}
	})
	return reply, err
}
