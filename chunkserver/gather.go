package chunkserver

import (
	"context"
	"hash/crc32"
	"slices"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/chunk"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/protocol"
)

// gathering is a chunk that is put together from others.
type gathering struct {
	server    *Server
	req       *quarry.CopyRequest
	incoming  *chunk.Incoming
	start     clock.Instant
	runs      []quarry.RecordRun
	forgotten []quarry.SessionID
}

// gatherParts puts a chunk together from its parts and installs it. The records come along, so
// that the whole can be asked for their fates, and be opened again, like any other chunk.
func (r *replica) gatherParts(ctx context.Context, req *quarry.CopyRequest) error {
	total := int64(0)
	for i := range req.Parts {
		p := &req.Parts[i]
		if p.Handle == 0 || p.Length < 1 || p.Length > quarry.ChunkBytesMax || len(p.Sources) == 0 || len(p.Sources) > quarry.ReplicasMax {
			return quarry.Errorf("gather", quarry.Invalid, req.Handle.String(), "part %d has %d bytes and %d sources", i, p.Length, len(p.Sources))
		}
		total += p.Length
	}
	if total != req.Length || len(req.Parts) > quarry.CopyPartsMax {
		return quarry.Errorf("gather", quarry.Invalid, req.Handle.String(), "%d parts have %d bytes, the chunk %d", len(req.Parts), total, req.Length)
	}
	incoming, err := r.disk.Receive(req)
	if err != nil {
		return err
	}
	g := &gathering{server: r.server, req: req, incoming: incoming, start: r.server.cfg.Clock.Now()}
	var table protocol.Records
	for i := range req.Parts {
		if err = g.part(ctx, &req.Parts[i]); err != nil {
			break
		}
	}
	if err == nil {
		table, err = protocol.MakeRecords(g.runs)
	}
	if err == nil {
		err = incoming.Check(g.runs, g.forgotten)
	}
	if err != nil {
		incoming.Abort()
		return err
	}
	return r.install(ctx, req, &arrival{incoming, g.runs}, &table, g.forgotten)
}

// part adds one part, from any of its sources that can be read. Bytes that one has given stay:
// they matched their checksums, and another one has the same.
func (g *gathering) part(ctx context.Context, p *quarry.CopyPart) error {
	base := g.incoming.Length()
	var first error
	for _, source := range p.Sources {
		from := g.server.cfg.Dial(source)
		ref := quarry.ChunkRef{Handle: p.Handle, Version: p.Version, Target: source.Incarnation, Capability: g.server.sign(p.Handle, quarry.RightRead)}
		runs, forgotten, err := fetchRecords(ctx, from, ref, p.Length)
		if err == nil {
			err = g.bytes(ctx, from, ref, base, p.Length)
		}
		if err == nil {
			g.add(runs, forgotten, base)
			return nil
		}
		if ctx.Err() != nil || !elsewhere(err) {
			return err
		}
		if first == nil {
			first = err
		}
	}
	return first
}

// add takes a part's records.
func (g *gathering) add(runs []quarry.RecordRun, forgotten []quarry.SessionID, base int64) {
	for _, run := range runs {
		run.Offset += base
		g.runs = append(g.runs, run)
	}
	for _, id := range forgotten {
		if !slices.Contains(g.forgotten, id) {
			g.forgotten = append(g.forgotten, id)
		}
	}
}

// bytes fetches what is missing of a part that begins at base.
func (g *gathering) bytes(ctx context.Context, from quarry.ChunkServer, ref quarry.ChunkRef, base, length int64) error {
	buf := make([]byte, min(length, quarry.ReadBytesMax))
	for g.incoming.Length() < base+length {
		at := g.incoming.Length() - base
		n := min(length-at, quarry.ReadBytesMax)
		reply, err := from.Read(ctx, &quarry.ReadRequest{ChunkRef: ref, Offset: at, Length: n, Validated: true, Into: buf[:n]})
		if err != nil {
			return err
		}
		if err = g.write(ref.Handle, at, reply); reply.Release != nil {
			reply.Release()
		}
		if err != nil {
			return err
		}
		if err := pace(ctx, g.server.cfg.Clock, g.start, g.incoming.Length(), g.req.BytesPerSecond); err != nil {
			return err
		}
	}
	return nil
}

// write verifies bytes of a part, which stand at an offset in it, and adds them.
func (g *gathering) write(h quarry.Handle, at int64, reply *quarry.ReadReply) error {
	if len(reply.Data) == 0 {
		return quarry.Errorf("gather", quarry.StaleVersion, h.String(), "the source has only %d bytes", at)
	}
	if !slices.Equal(blockSums(reply.Data, at), reply.CRCs) {
		return quarry.Errorf("gather", quarry.Corrupt, h.String(), "the bytes at %d do not match their checksums", at)
	}
	return g.incoming.Write(reply.Data, blockSums(reply.Data, g.incoming.Length()))
}

// blockSums returns the checksums of bytes that stand at an offset in a chunk, cut at the
// borders of its blocks.
func blockSums(data []byte, off int64) (sums []uint32) {
	for len(data) > 0 {
		n := min(int64(len(data)), quarry.BlockBytes-off%quarry.BlockBytes)
		sums = append(sums, crc32.Checksum(data[:n], castagnoli))
		data, off = data[n:], off+n
	}
	return sums
}
