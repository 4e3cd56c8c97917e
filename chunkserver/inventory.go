package chunkserver

import (
	"cmp"
	"context"
	"errors"
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
		var told toldSlots
		for err := s.inventory(ctx, &told); err != nil; err = s.inventory(ctx, &told) {
			s.cfg.Logger.Debug("inventory", "error", err)
			if s.cfg.Clock.Sleep(ctx, inventoryRetry) != nil {
				return
			}
		}
		if s.cfg.Clock.Sleep(ctx, inventoryEvery) != nil {
			return
		}
	}
}

// toldSlots are the slots whose shard has been told what the server has of them. Slots may move
// meanwhile: one whose shard says that it is not its own is told again, to whoever has it then.
type toldSlots [quarry.Slots]bool

// next returns the next slots of a range that were not told; false if there are none.
func (t *toldSlots) next(r quarry.SlotRange) (quarry.SlotRange, bool) {
	last := min(r.Last, quarry.Slots-1)
	for r.First <= last && t[r.First] {
		r.First++
	}
	if r.First > last {
		return r, false
	}
	for r.Last = r.First; r.Last < last && !t[r.Last+1]; {
		r.Last++
	}
	return r, true
}

// inventory tells every shard what was not told. An error says that something is left.
func (s *Server) inventory(ctx context.Context, told *toldSlots) error {
	topology, err := s.cfg.Masters.Topology(ctx)
	if err != nil {
		return err
	}
	var failed error
	for _, shard := range topology.Shards {
		for _, all := range shard.Slots {
			for slots, more := told.next(all); more; slots, more = told.next(all) {
				from, to := quarry.MakeHandle(slots.First, 0), quarry.MakeHandle(slots.Last, quarry.NumberMax)
				switch err := s.tell(ctx, shard.Shard, from, to); {
				case err == nil:
					for slot := slots.First; slot <= slots.Last; slot++ {
						told[slot] = true
					}
				case errors.Is(err, quarry.WrongShard):
					failed = err
				default:
					return err
				}
				all.First = slots.Last + 1
			}
		}
	}
	return failed
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
