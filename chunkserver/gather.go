package chunkserver

import (
	"context"
	"slices"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/chunk"
	"github.com/quarryfs/quarry/crc32c"
	"github.com/quarryfs/quarry/protocol"
)

// gathering is a chunk that is put together from others.
type gathering struct {
	server    *Server
	req       *quarry.CopyRequest
	incoming  *chunk.Incoming // nil while the records are fetched
	paced     *pacer
	length    int64                     // of the parts whose records are here
	runs      []quarry.RecordRun        // at most protocol.RunsMax
	forgotten []quarry.SessionID        // at most protocol.ForgottenMax
	known     map[quarry.SessionID]bool // those in forgotten
}

// gatherParts puts a chunk together from its parts and installs it. The records come along, so
// that the whole can be asked for their fates, and be opened again, like any other chunk. They
// come first: whether they make one table is known before any bytes are on their way.
func (r *replica) gatherParts(ctx context.Context, req *quarry.CopyRequest) error {
	if err := checkParts(req); err != nil {
		return err
	}
	g := &gathering{server: r.server, req: req, known: map[quarry.SessionID]bool{}}
	for i := range req.Parts {
		if err := g.records(ctx, &req.Parts[i]); err != nil {
			return err
		}
	}
	table, err := protocol.MakeRecords(g.runs)
	if err != nil {
		return err
	}
	if g.incoming, err = r.disk.Receive(req); err != nil {
		return err
	}
	g.paced = r.server.pace(req.BytesPerSecond, req.BytesPerSecondLeast)
	for i := range req.Parts {
		if err = g.part(ctx, &req.Parts[i]); err != nil {
			break
		}
	}
	if err == nil {
		err = g.incoming.Check(g.runs, g.forgotten)
	}
	if err != nil {
		g.incoming.Abort()
		return err
	}
	return r.install(ctx, req, &arrival{g.incoming, g.runs}, &table, g.forgotten)
}

// checkParts returns an error unless the parts of a request are together what it asks for.
func checkParts(req *quarry.CopyRequest) error {
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
	return nil
}

// anySource asks the sources of a part, one after the other, until one has answered.
func (g *gathering) anySource(ctx context.Context, p *quarry.CopyPart, ask func(from quarry.ChunkServer, ref quarry.ChunkRef) error) error {
	var first error
	for _, source := range p.Sources {
		err := ask(g.server.cfg.Dial(source), quarry.ChunkRef{
			Handle: p.Handle, Version: p.Version, Target: source.Incarnation, Capability: g.server.sign(p.Handle, quarry.RightRead),
		})
		if err == nil {
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

// records fetches the records of the next part.
func (g *gathering) records(ctx context.Context, p *quarry.CopyPart) error {
	var runs []quarry.RecordRun
	var forgotten []quarry.SessionID
	err := g.anySource(ctx, p, func(from quarry.ChunkServer, ref quarry.ChunkRef) (err error) {
		runs, forgotten, err = fetchRecords(ctx, from, ref, p.Length)
		return err
	})
	if err != nil {
		return err
	}
	return g.add(runs, forgotten, p.Length)
}

// add takes the records of the next part. TooLarge if all together are more than a chunk may
// have.
func (g *gathering) add(runs []quarry.RecordRun, forgotten []quarry.SessionID, length int64) error {
	if n := len(g.runs) + len(runs); n > protocol.RunsMax {
		return quarry.Errorf("gather", quarry.TooLarge, g.req.Handle.String(), "%d runs of records, at most %d are allowed", n, protocol.RunsMax)
	}
	for _, run := range runs {
		run.Offset += g.length
		g.runs = append(g.runs, run)
	}
	g.length += length
	for _, id := range forgotten {
		if g.known[id] {
			continue
		}
		if len(g.forgotten) >= protocol.ForgottenMax {
			return quarry.Errorf("gather", quarry.TooLarge, g.req.Handle.String(), "more than %d sessions are forgotten", protocol.ForgottenMax)
		}
		g.known[id] = true
		g.forgotten = append(g.forgotten, id)
	}
	return nil
}

// part adds the bytes of one part, from any of its sources that can be read. Bytes that one has
// given stay: they matched their checksums, and another one has the same.
func (g *gathering) part(ctx context.Context, p *quarry.CopyPart) error {
	base := g.incoming.Length()
	return g.anySource(ctx, p, func(from quarry.ChunkServer, ref quarry.ChunkRef) error {
		return g.bytes(ctx, from, ref, base, p.Length)
	})
}

// bytes fetches what is missing of a part that begins at base.
func (g *gathering) bytes(ctx context.Context, from quarry.ChunkServer, ref quarry.ChunkRef, base, length int64) error {
	buf := make([]byte, min(length, quarry.ReadBytesMax))
	for g.incoming.Length() < base+length {
		at := g.incoming.Length() - base
		n := min(length-at, quarry.ReadBytesMax)
		reply, err := from.Read(ctx, &quarry.ReadRequest{ChunkRef: ref, Offset: at, Length: n, Validated: true, Copying: true, Into: buf[:n]})
		if err != nil {
			return err
		}
		if err = g.write(ref.Handle, at, reply); reply.Release != nil {
			reply.Release()
		}
		if err != nil {
			return err
		}
		if err := g.paced.piece(ctx, g.incoming.Length()-base-at, reply.Pressed); err != nil {
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
		sums = append(sums, crc32c.Checksum(data[:n]))
		data, off = data[n:], off+n
	}
	return sums
}
