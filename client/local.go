package client

import (
	"context"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client/lent"
	"github.com/quarryfs/quarry/rpc"
)

// lend has replicas on this machine be read from the files that their servers lend, over
// connections that Close closes.
func (f *FS) lend(connections *rpc.Client) {
	f.lent = lent.New(lent.Config{
		Clock: f.clock, Log: f.log, Connections: connections, Background: f.background, Ahead: int64(f.opts.ReadAhead),
	})
}

// readLocal reads bytes of a chunk from the file of a replica on this machine, of the first one
// that gives any, and returns how many there are. If there are none the chunk must be read over
// the network, first from suspect if there is one: its bytes are not those that were written.
// The caller has looked at the chunk's state.
func (f *FS) readLocal(ctx context.Context, chunk *quarry.Chunk, p memory, offset int64, row *lent.Row) (n int, suspect *quarry.Member) {
	if f.lent == nil {
		return 0, nil
	}
	for i := range chunk.Members {
		m := &chunk.Members[i]
		if !f.here(m) {
			continue
		}
		n, corrupt := f.lent.Read(ctx, m, reference(chunk, *m), offset, p.n, func(n int64) []byte { return p.first(n).bytes() }, row)
		if n > 0 || corrupt {
			return n, m
		}
	}
	return 0, nil
}

// readLocal reads at the file's position as much of p as one lent file has; 0: it must be read
// ahead. Bytes that are in the memory of this machine need not be fetched before they are
// wanted: they are read when there is a place for them.
func (file *File) readLocal(p []byte) int {
	p = p[:max(0, min(int64(len(p)), file.knownEnd()-file.position))]
	if file.f.lent == nil || len(p) < lent.BytesMin || len(file.ahead.segments) > 0 {
		return 0
	}
	at, err := file.layout.at(file.ctx, file.position, nil)
	if err != nil || at.piece == nil || at.piece.Kind != quarry.PieceChunk || at.chunk.Mutable || at.chunk.State == quarry.ChunkLost {
		return 0 // who reads ahead meets it, too
	}
	within, want := file.position-at.piece.Offset, memory{known: p, n: len(p)}
	if at.piece.Length != quarry.OpenEnded {
		want = want.first(at.piece.Length - within)
	}
	n, _ := file.f.readLocal(file.ctx, at.chunk, want, at.piece.ChunkOffset+within, &file.row)
	return n
}
