package sim

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/crc32c"
	"github.com/quarryfs/quarry/sim/image"
)

// When everything is healed, all replicas of every sealed chunk of every file have the same
// bytes, those that were shown while the simulation ran.

// compareReplicas reads every replica of every sealed chunk from its server. It returns why not
// all could be compared; what differs is told to the observer.
func (c *Cluster) compareReplicas(ctx context.Context) error {
	dirs := []quarry.Inode{quarry.RootInode}
	for len(dirs) > 0 {
		dir := dirs[0]
		dirs = dirs[1:]
		for after, more := "", true; more; {
			page, err := c.operator.List(ctx, &quarry.ListRequest{Dir: dir, After: after, Max: quarry.ListMax})
			if err != nil {
				return err
			}
			for _, e := range page.Entries {
				after = e.Name
				if e.Attr.Kind == quarry.KindDir {
					dirs = append(dirs, e.Attr.Inode)
				} else if err := c.compareFile(ctx, e.Attr.Inode); err != nil {
					return err
				}
			}
			more = page.More && len(page.Entries) > 0
		}
	}
	return nil
}

func (c *Cluster) compareFile(ctx context.Context, file quarry.Inode) error {
	for offset, more := int64(0), true; more; {
		page, err := c.operator.Locate(ctx, &quarry.LocateRequest{File: file, Offset: offset, Max: quarry.PiecesMax})
		if err != nil {
			return err
		}
		for i := range page.Chunks {
			if chunk := &page.Chunks[i]; chunk.State == quarry.ChunkSealed {
				if err := c.compareChunk(ctx, chunk); err != nil {
					return err
				}
			}
		}
		more = page.More && len(page.Pieces) > 0
		if more {
			last := page.Pieces[len(page.Pieces)-1]
			offset = last.Offset + last.Length
		}
	}
	return nil
}

func (c *Cluster) compareChunk(ctx context.Context, chunk *quarry.Chunk) error {
	var first []byte
	for i, m := range chunk.Members {
		data, err := c.readReplica(ctx, chunk, m)
		if err != nil {
			return fmt.Errorf("the replica of chunk %v on %s: %w", chunk.Handle, name(m), err)
		}
		if err := c.askFates(ctx, chunk, m); err != nil {
			return fmt.Errorf("the fates in chunk %v on %s: %w", chunk.Handle, name(m), err)
		}
		c.log.Count("replicas compared at the end")
		if i == 0 {
			first = data
		}
		o := c.watch
		o.mu.Lock()
		if !slices.Equal(data, first) || chunk.CRCKnown && crc32c.Checksum(data) != chunk.CRC {
			o.violated("I4 replicas agree", "%s has other bytes of chunk %v than %s, or than the master's checksum tells", name(m), chunk.Handle, name(chunk.Members[0]))
		}
		o.shown(o.at(m), chunk.Handle, 0, data, "a last look")
		o.mu.Unlock()
	}
	if len(chunk.Members) < 2 {
		return fmt.Errorf("chunk %v has %d replicas", chunk.Handle, len(chunk.Members))
	}
	return nil
}

// askFates asks a replica of the records that are known to stand in its chunk. The checker of I8
// judges the answers.
func (c *Cluster) askFates(ctx context.Context, chunk *quarry.Chunk, m quarry.Member) error {
	known := map[quarry.SessionID][]quarry.Sequence{}
	c.watch.mu.Lock()
	for key, at := range c.watch.records {
		if at.handle == chunk.Handle && len(known[key.record.session]) < quarry.WindowRecords {
			known[key.record.session] = append(known[key.record.session], key.record.number)
		}
	}
	c.watch.mu.Unlock()
	ref := quarry.ChunkRef{Handle: chunk.Handle, Version: chunk.Version, Target: m.Incarnation, Capability: chunk.Capability}
	for _, session := range slices.Sorted(maps.Keys(known)) {
		slices.Sort(known[session])
		_, err := c.connections.ChunkServer(m.Address).Fate(ctx, &quarry.FateRequest{
			ChunkRef: ref, Length: chunk.Length, Session: session, Sequences: known[session],
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// readReplica returns all bytes of a sealed replica.
func (c *Cluster) readReplica(ctx context.Context, chunk *quarry.Chunk, m quarry.Member) ([]byte, error) {
	ref := quarry.ChunkRef{Handle: chunk.Handle, Version: chunk.Version, Target: m.Incarnation, Capability: chunk.Capability}
	var data []byte
	for int64(len(data)) < chunk.Length {
		offset := int64(len(data))
		reply, err := c.connections.ChunkServer(m.Address).Read(ctx, &quarry.ReadRequest{
			ChunkRef: ref, Offset: offset, Length: min(chunk.Length-offset, quarry.ReadBytesMax), Validated: true,
		})
		if err == nil && len(reply.Data) == 0 {
			return nil, fmt.Errorf("it ends at %d of %d", offset, chunk.Length)
		}
		if err == nil && !image.Matches(reply, offset) {
			// A bit that has turned over is found by whoever reads it first; it is then repaired.
			err = quarry.Errorf("compare", quarry.Corrupt, chunk.Handle.String(), "the bytes at %d do not match their checksum", offset)
			_ = c.operator.Report(ctx, &quarry.ReportRequest{ // it is reported again if it is still so
				Handle: chunk.Handle, Version: chunk.Version, Corrupt: true,
				Suspects: []quarry.Suspect{{Server: m.Server, Incarnation: m.Incarnation, Why: err.Error()}},
			})
		}
		if err != nil {
			return nil, err
		}
		data = append(data, reply.Data...)
	}
	return data, nil
}
