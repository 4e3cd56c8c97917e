package chunkserver

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/protocol"
)

const (
	inventoryEvery = time.Hour
	inventoryRetry = 2 * time.Second
)

// inventories tells every shard what the server has of it: after the start, and then every
// hour, in case that something was missed.
func (s *Server) inventories(ctx context.Context) {
	for {
		pause := inventoryEvery
		if err := s.inventory(ctx); err != nil {
			s.cfg.Logger.Debug("inventory", "error", err)
			pause = inventoryRetry
		}
		if s.cfg.Clock.Sleep(ctx, pause) != nil {
			return
		}
	}
}

// inventory tells every shard once.
func (s *Server) inventory(ctx context.Context) error {
	topology, err := s.cfg.Masters.Topology(ctx)
	if err != nil {
		return err
	}
	for _, shard := range topology.Shards {
		for _, slots := range shard.Slots {
			from, to := quarry.MakeHandle(slots.First, 0), quarry.MakeHandle(slots.Last, quarry.NumberMax)
			if err := s.tell(ctx, shard.Shard, from, to); err != nil {
				return err
			}
		}
	}
	return nil
}

// page returns the next replicas from one handle to another, in the order of their handles,
// and reports whether there are more.
func (s *Server) page(from, to quarry.Handle) (infos []quarry.ReplicaInfo, more bool) {
	for _, d := range s.cfg.Disks {
		id := d.Identity().Disk
		for _, state := range d.Inventory(from, to, quarry.InventoryMax+1) {
			info := state.Info(id)
			if d.Err() != nil {
				info.Status = quarry.ReplicaLost
			}
			infos = append(infos, info)
		}
	}
	// Of two disks the one counts that is not lost; the good status is the lowest.
	slices.SortFunc(infos, func(a, b quarry.ReplicaInfo) int {
		return cmp.Or(cmp.Compare(a.Handle, b.Handle), cmp.Compare(a.Status, b.Status))
	})
	infos = slices.CompactFunc(infos, func(a, b quarry.ReplicaInfo) bool {
		if a.Handle == b.Handle && a.Status == quarry.ReplicaGood && b.Status == quarry.ReplicaLost {
			s.disks[b.Disk].Drop(b.Handle, b.Promised, s.cfg.Clock.Wall(), nil) // the copy took its place
		}
		return a.Handle == b.Handle
	})
	if len(infos) > quarry.InventoryMax {
		return infos[:quarry.InventoryMax], true
	}
	return infos, false
}

// tell sends the replicas from one handle to another in pages, and drops what it is told.
func (s *Server) tell(ctx context.Context, shard quarry.ShardID, from, to quarry.Handle) error {
	for {
		infos, more := s.page(from, to)
		req := &quarry.InventoryRequest{Server: s.id, Incarnation: s.incarnation, Shard: shard, Replicas: infos, From: from, To: to}
		if more {
			req.To = infos[len(infos)-1].Handle
		}
		reply, err := s.cfg.Masters.Inventory(ctx, req)
		if err != nil {
			return err
		}
		s.drop(ctx, reply.Drop)
		if !more {
			return nil
		}
		from = req.To + 1
	}
}

// drop removes replicas that the master does not know.
func (s *Server) drop(ctx context.Context, items []quarry.Item) {
	for _, item := range items {
		r, err := s.find(item.Handle)
		if r == nil {
			if err != nil {
				s.cfg.Logger.Warn("a replica that is not needed cannot be dropped", "chunk", item.Handle, "error", err)
			}
			continue
		}
		_, err = r.ask(ctx, func(m *protocol.Member, c protocol.Call) []protocol.Effect {
			return m.Drop(c, &quarry.DropRequest{ChunkRef: quarry.ChunkRef{Handle: item.Handle, Version: item.Version, Target: s.incarnation}})
		})
		r.release()
		if err != nil {
			s.cfg.Logger.Warn("a replica that is not needed could not be dropped", "chunk", item.Handle, "error", err)
		}
	}
}
