package sim

import (
	"context"
	"time"

	"github.com/quarryfs/quarry"
)

// replaceMaster has a master lose its disks. When it is back, with empty ones, an operator puts
// it in the place of the one that it was, as "quarry admin master replace" does. There is one
// such fault in a run, so a majority always has what was committed.
func (n *nemesis) replaceMaster(d time.Duration) func() {
	if n.replaced {
		return nil
	}
	h := n.take(n.c.Masters)
	if h == nil {
		return nil
	}
	n.replaced = true
	n.tell("%s loses its disks, and is replaced after %v", h.name, d)
	h.Kill()
	h.Wipe()
	return func() {
		h.Start()
		for end := n.c.w.Now().Add(recoverTime); n.c.w.Now() < end; n.c.w.Sleep(500 * time.Millisecond) {
			err := n.c.replace(h)
			if err == nil {
				n.c.log.Count("masters replaced")
				break
			}
			n.c.log.Printf("sim  %s is not replaced yet: %v", h.name, err)
		}
		n.give(h)
	}
}

// replace has every group take a master that is empty in the place of the one that was at its
// address.
func (c *Cluster) replace(h *Host) error {
	ctx, cancel := c.admin.clock.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	address := h.name + ":7400"
	id, err := c.connections.Master(address).Identify(ctx)
	if err != nil {
		return err
	}
	c.mu.Lock()
	gone := c.gone
	c.mu.Unlock()
	topology, err := c.operator.Topology(ctx)
	if err != nil {
		return err
	}
	for _, m := range topology.Masters {
		if gone == 0 && m.Address == address && m.Disk != id.Disk {
			gone = m.Node
		}
	}
	c.mu.Lock()
	c.gone = gone
	c.mu.Unlock()
	leaves, comes := []quarry.NodeID{gone}, []quarry.MasterNode{{Disk: id.Disk, Address: address}}
	for _, s := range topology.Shards {
		reply, err := c.operator.Replace(ctx, &quarry.ReplaceRequest{Shard: s.Shard, Gone: leaves, New: comes})
		if err != nil {
			return err
		}
		comes = reply.New
	}
	_, err = c.operator.Replace(ctx, &quarry.ReplaceRequest{Shard: quarry.RootShard, Gone: leaves})
	return err
}
