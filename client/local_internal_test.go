package client

import (
	"context"
	"log/slog"
	"testing"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client/lent"
	"github.com/quarryfs/quarry/clock"
)

// A file is asked for only of a chunk that can be read over the network, too.
func TestReadLocalLooksAtTheChunk(t *testing.T) {
	for _, test := range []struct {
		chunk quarry.Chunk
		asked bool
	}{{quarry.Chunk{State: quarry.ChunkSealed}, true}, {quarry.Chunk{State: quarry.ChunkLost}, false}, {quarry.Chunk{State: quarry.ChunkSealed, Mutable: true}, false}} {
		asked := false
		f := &FS{clock: clock.System(), opts: Options{Hosts: []string{"127.0.0.1"}}}
		f.lent = lent.New(lent.Config{Clock: f.clock, Log: slog.New(slog.DiscardHandler), Background: func(func(context.Context)) bool {
			asked = true
			return false
		}})
		asked = false
		test.chunk.Handle, test.chunk.Members = 3, []quarry.Member{{Server: 1, Address: "127.0.0.1:1"}}
		file := &File{f: f, ctx: t.Context(), layout: f.layout(1), known: lent.BytesMin}
		page, err := makePage(&quarry.LocateReply{Pieces: []quarry.Piece{chunkPiece(0, lent.BytesMin, 3)}, Chunks: []quarry.Chunk{test.chunk}}, 0)
		if err != nil {
			t.Fatal(err)
		}
		file.layout.keep(page)
		if n := file.readLocal(make([]byte, lent.BytesMin)); n != 0 || asked != test.asked {
			t.Errorf("%+v: %d bytes, a server was asked: %v", test.chunk, n, asked)
		}
	}
}
