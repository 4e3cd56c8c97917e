package chunkserver

import (
	"context"
	"crypto/rand"
	"time"

	"github.com/quarryfs/quarry"
)

// register makes this start of the server known: the root group gives it an incarnation, and
// an id if its disks have none. Both are on every disk before any request is answered. It goes on
// until a master takes it, or ctx ends.
func (s *Server) register(ctx context.Context) error {
	req := &quarry.RegisterRequest{Boot: s.cfg.Boot, Address: s.cfg.Address, Rack: s.cfg.Rack, Release: s.cfg.Release}
	rand.Read(req.Process[:]) // the request may be sent several times, and arrive late
	for _, d := range s.cfg.Disks {
		id, last := d.Identity().Server, d.Incarnation()
		if id != 0 && req.Server != 0 && id != req.Server {
			return quarry.Errorf("register", quarry.Invalid, d.Identity().Disk.String(), "the disk belongs to server %d, another disk to server %d: start them apart", id, req.Server)
		}
		req.Server, req.Last = max(req.Server, id), max(req.Last, last)
	}
	req.Disks = s.usage()
	reply, err := s.cfg.Masters.Register(ctx, req)
	for quarry.KindOf(err) == quarry.Unavailable {
		s.cfg.Logger.Info("waiting for the masters", "error", err)
		if s.cfg.Clock.Sleep(ctx, time.Second) != nil {
			break
		}
		reply, err = s.cfg.Masters.Register(ctx, req)
	}
	if err != nil {
		return quarry.Wrap("register", s.cfg.Address, err)
	}
	for _, d := range s.cfg.Disks {
		err := d.SetServer(reply.Server)
		if err == nil {
			err = d.SetIncarnation(reply.Incarnation)
		}
		if err != nil {
			return quarry.Wrap("register", d.Identity().Disk.String(), err)
		}
	}
	s.id, s.incarnation, s.keys = reply.Server, reply.Incarnation, reply.Keys
	s.cfg.Logger.Info("registered", "server", s.id, "incarnation", s.incarnation, "address", s.cfg.Address)
	return nil
}
