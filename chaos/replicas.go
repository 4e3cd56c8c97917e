package chaos

import (
	"context"
	"fmt"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/crc32c"
)

// compareEvery is how long replicas that are being repaired are given until they are looked at
// again.
const compareEvery = 500 * time.Millisecond

// compare reads every replica of every sealed chunk of every file, byte by byte, from the
// server that has it. All must have the same bytes, and at least two servers must. Replicas
// that are found broken are reported, as a client reports them, and must be repaired.
func (r *run) compare(ctx context.Context) error {
	compared := map[quarry.Handle]bool{}
	for {
		var last error // why it is not over
		err := r.cluster.layouts(ctx, r.cfg.Workload.Root, func(c *quarry.Chunk) error {
			if compared[c.Handle] || c.State == quarry.ChunkOpen {
				return nil
			}
			same, wait := r.compareChunk(ctx, c)
			switch {
			case same != nil:
				return same
			case wait != nil:
				last = wait
			default:
				compared[c.Handle] = true
				r.mu.Lock()
				r.compared++
				r.replicas += len(c.Members)
				r.mu.Unlock()
			}
			return nil
		})
		if kind := quarry.KindOf(err); kind == quarry.Internal {
			return err // they differ
		}
		if err == nil && last == nil {
			return nil
		}
		if err == nil {
			err = last
		}
		if r.clk.Sleep(ctx, compareEvery) != nil {
			return quarry.Errorf("compare", quarry.Unavailable, "", "%d chunks are the same everywhere, not all could be compared: %w", len(compared), err)
		}
	}
}

// compareChunk compares the replicas of a chunk. differ tells that they are not the same, wait
// why that cannot be told yet.
func (r *run) compareChunk(ctx context.Context, c *quarry.Chunk) (differ, wait error) {
	if c.State != quarry.ChunkSealed || len(c.Members) < min(2, r.cfg.Servers) {
		return nil, fmt.Errorf("chunk %v is %v and has %d replicas", c.Handle, c.State, len(c.Members))
	}
	var first uint32
	for i, m := range c.Members {
		sum, err := r.readReplica(ctx, c, m)
		if err != nil {
			return nil, fmt.Errorf("the replica of chunk %v on server %d: %w", c.Handle, m.Server, err)
		}
		if i == 0 {
			first = sum
		}
		if sum != first || c.CRCKnown && sum != c.CRC {
			return quarry.Errorf("compare", quarry.Internal, c.Handle.String(),
				"server %d has other bytes than server %d: CRC32C %08x and %08x of %d bytes (the master's log says %08x, known %v)",
				m.Server, c.Members[0].Server, sum, first, c.Length, c.CRC, c.CRCKnown), nil
		}
	}
	return nil, nil
}

// readReplica returns the CRC32C of all bytes of a replica.
func (r *run) readReplica(ctx context.Context, c *quarry.Chunk, m quarry.Member) (uint32, error) {
	server := r.cluster.conns.ChunkServer(m.Address)
	ref := quarry.ChunkRef{Handle: c.Handle, Version: c.Version, Target: m.Incarnation, Capability: c.Capability}
	sum := uint32(0)
	for offset := int64(0); offset < c.Length; {
		ask, cancel := r.clk.WithTimeout(ctx, askTime)
		reply, err := server.Read(ask, &quarry.ReadRequest{ChunkRef: ref, Offset: offset, Length: min(c.Length-offset, quarry.ReadBytesMax), Validated: true})
		cancel()
		if err == nil {
			err = verify(reply, offset)
		}
		if quarry.KindOf(err) == quarry.Corrupt {
			_ = r.cluster.routed.Report(ctx, &quarry.ReportRequest{ // it is reported again if it is still so
				Handle: c.Handle, Version: c.Version, Corrupt: true,
				Suspects: []quarry.Suspect{{Server: m.Server, Incarnation: m.Incarnation, Why: err.Error()}},
			})
		}
		if err != nil {
			return 0, err
		}
		sum = crc32c.Update(sum, reply.Data)
		offset += int64(len(reply.Data))
	}
	return sum, nil
}

// verify compares bytes that were read from an offset with their checksums.
func verify(reply *quarry.ReadReply, offset int64) error {
	data, crcs := reply.Data, reply.CRCs
	if len(data) == 0 {
		return quarry.Errorf("compare", quarry.Unavailable, "", "it ends at %d", offset)
	}
	for at := offset; len(data) > 0; {
		n := min(int64(len(data)), quarry.BlockBytes-at%quarry.BlockBytes)
		if len(crcs) == 0 || crc32c.Checksum(data[:n]) != crcs[0] {
			return quarry.Errorf("compare", quarry.Corrupt, "", "the bytes at %d do not match their checksum", at)
		}
		data, crcs, at = data[n:], crcs[1:], at+n
	}
	return nil
}
