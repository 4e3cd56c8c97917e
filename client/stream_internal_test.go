package client

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
)

// lastChunk is the tails of a file that gets no second chunk.
type lastChunk struct{ chunk quarry.Chunk }

func (t lastChunk) next(_ context.Context, last quarry.Handle, _ quarry.Version, _ []quarry.Suspect) (quarry.Chunk, quarry.Piece, error) {
	if last != 0 {
		return quarry.Chunk{}, quarry.Piece{}, quarry.Errorf("roll", quarry.NoSpace, "", "the disks are full")
	}
	return t.chunk, quarry.Piece{Handle: t.chunk.Handle}, nil
}

// fencedServer refuses every record, as a primary whose chunk is sealed does, and knows that
// it has none.
type fencedServer struct{ quarry.ChunkServer }

func (fencedServer) Append(_ context.Context, _ *quarry.AppendRequest, done func(*quarry.AppendReply, error)) {
	go done(nil, quarry.Errorf("append", quarry.StaleVersion, "", "it is sealed"))
}

func (fencedServer) Fate(_ context.Context, req *quarry.FateRequest) (*quarry.FateReply, error) {
	reply := &quarry.FateReply{Version: req.Version, Length: req.Length}
	for _, seq := range req.Sequences {
		reply.Fates = append(reply.Fates, quarry.Fate{Sequence: seq, State: quarry.FateAbsent})
	}
	return reply, nil
}

// slowMaster tells of the chunk when it is allowed to.
type slowMaster struct {
	quarry.Master
	chunk quarry.Chunk
	tell  chan struct{}
}

func (m slowMaster) Chunk(ctx context.Context, _ *quarry.ChunkRequest) (*quarry.ChunkReply, error) {
	select {
	case <-m.tell:
		return &quarry.ChunkReply{Chunk: m.chunk}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// A record that comes when a stream is about to end must not go another way while it is not
// known what became of those before it: it could stand before them.
func TestStreamThatEndsKeepsOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chunk := quarry.Chunk{Handle: 1, Version: 1, State: quarry.ChunkOpen, Members: []quarry.Member{{Server: 1, Address: "s"}}}
		sealed := chunk
		sealed.Version, sealed.State = 2, quarry.ChunkSealed
		m := slowMaster{chunk: sealed, tell: make(chan struct{})}
		f := New(m, func(quarry.Member) quarry.ChunkServer { return fencedServer{} }, Options{Clock: clock.Simulated()})
		defer f.Close()
		s := newStream(f, 1, lastChunk{chunk}, quarry.WindowBytes, nil)
		first, second := make(chan error, 1), make(chan error, 1)
		if err := s.add(t.Context(), []byte("first"), func(_ int64, err error) { first <- err }, nil); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		go func() { second <- s.add(t.Context(), []byte("second"), nil, nil) }()
		synctest.Wait()
		select {
		case err := <-second:
			t.Fatalf("the second record is turned away before the fate of the first is known: %v", err)
		case err := <-first:
			t.Fatalf("the first record is settled: %v", err)
		default:
		}
		close(m.tell)
		if err := <-first; !errors.Is(err, quarry.NoSpace) {
			t.Errorf("the first record: %v", err)
		}
		if err := <-second; !errors.Is(err, quarry.NoSpace) {
			t.Errorf("the second record: %v", err)
		}
	})
}
