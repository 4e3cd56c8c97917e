package master

import (
	"bufio"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"syscall"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/raft"
	"github.com/quarryfs/quarry/rpc"
	"github.com/quarryfs/quarry/wire"
)

// The operations between masters. A batch of Raft messages is one message that nobody
// answers; a snapshot is a row of requests, each with a part of the stream.
var (
	opRaft     = rpc.RawOp{Op: rpc.OpRaw, Name: "raft", BodyMax: 0, PayloadMax: raft.BatchBytesMax}
	opSnapshot = rpc.RawOp{Op: rpc.OpRaw + 1, Name: "snapshot", BodyMax: 64, PayloadMax: snapshotPartBytes}
)

const (
	snapshotPartBytes = 1 << 20
	// snapshotPartTime is how long a node may take for a part, and how long a stream whose
	// sender is silent is kept. The last part takes as long as the installation.
	snapshotPartTime = 10 * time.Second
	snapshotLastTime = 5 * time.Minute
	streamsMax       = 4
)

// peers carries Raft's messages and snapshots to the other masters; it is a raft.Transport.
type peers struct {
	client *rpc.Client
	clock  clock.Clock
	lost   func(quarry.NodeID) // told when a node's process is surely gone
}

// Send writes a batch to a node's connection.
func (p *peers) Send(ctx context.Context, to raft.Member, batch []byte) error {
	msg := &rpc.Raw{Payload: batch} // it is the transport's: the connection keeps it until it has left
	err := p.client.Send(ctx, to.Address, rpc.Route{Lane: rpc.LaneMessages}, opRaft, msg)
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) {
		p.lost(to.Node)
	}
	return err
}

// part is the body of a part of a snapshot.
type part struct {
	Stream uint64 // chosen by the sender
	Number uint64 // from 0, without a gap
	Last   bool
}

func partFields(w *wire.Walk, p *part) {
	wire.Uint(w, 1, &p.Stream)
	wire.Uint(w, 2, &p.Number)
	wire.Bool(w, 3, &p.Last)
}

// SendSnapshot streams a snapshot to a node, one part after the other, and returns when the
// node has installed it.
func (p *peers) SendSnapshot(ctx context.Context, to raft.Member, body io.Reader) error {
	stream := rand.Uint64()
	r := bufio.NewReader(body)
	buf := make([]byte, snapshotPartBytes)
	for number := uint64(0); ; number++ {
		n, err := io.ReadFull(r, buf)
		if err == nil { // the last part is never empty: the other side may have had all it needs
			_, err = r.Peek(1)
		}
		last := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !last {
			return err
		}
		head := part{Stream: stream, Number: number, Last: last}
		limit := snapshotPartTime
		if last {
			limit = snapshotLastTime
		}
		if err := p.sendPart(ctx, to, &head, buf[:n], limit); err != nil || last {
			return err
		}
	}
}

func (p *peers) sendPart(ctx context.Context, to raft.Member, head *part, data []byte, limit time.Duration) error {
	ctx, cancel := p.clock.WithTimeout(ctx, limit)
	defer cancel()
	req := &rpc.Raw{Body: wire.Marshal(nil, head, partFields), Payload: data}
	_, err := p.client.CallRaw(ctx, to.Address, rpc.Route{Lane: rpc.LaneBulk}, opSnapshot, req)
	return err
}

// streams are the snapshots that are coming in.
type streams struct {
	master *Master
	mu     sync.Mutex
	open   map[streamKey]*stream
}

type streamKey struct {
	from quarry.NodeID
	id   uint64
}

// stream is a snapshot that is coming in: its parts go through a pipe to the host.
type stream struct {
	next   uint64
	in     *io.PipeWriter
	err    error         // of the host; valid once done is closed
	done   chan struct{} // the host has taken it all, or refused it
	silent clock.Timer
	turn   chan struct{} // one part at a time: has room for the one that is taken
}

// take takes one part. The answer to the last one tells how the installation went.
func (s *streams) take(ctx context.Context, req *rpc.Raw) (*rpc.Raw, error) {
	var head part
	if err := wire.Unmarshal(req.Body, &head, partFields); err != nil {
		return nil, err
	}
	peer, _ := rpc.PeerFrom(ctx)
	key := streamKey{peer.Node, head.Stream}
	st, err := s.find(key, &head)
	if err != nil {
		return nil, err
	}
	select {
	case st.turn <- struct{}{}:
		defer func() { <-st.turn }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if head.Number != st.next {
		return nil, quarry.Errorf("snapshot", quarry.Invalid, "", "part %d came where %d is due", head.Number, st.next)
	}
	st.next++
	st.silent.Reset(snapshotPartTime)
	if _, err := st.in.Write(req.Payload); err != nil {
		<-st.done
		if st.err == nil {
			return nil, quarry.Errorf("snapshot", quarry.Invalid, "", "part %d comes after the snapshot's end", head.Number)
		}
		return nil, st.err
	}
	if !head.Last {
		return &rpc.Raw{}, nil
	}
	st.silent.Stop()
	st.in.Close()
	select {
	case <-st.done:
		if st.err != nil {
			return nil, st.err
		}
		return &rpc.Raw{}, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// find returns the stream of a part; the first part begins one.
func (s *streams) find(key streamKey, head *part) (*stream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st := s.open[key]; st != nil {
		return st, nil
	}
	switch {
	case head.Number != 0:
		return nil, quarry.Errorf("snapshot", quarry.NotFound, "", "the stream is not known, or was given up")
	case len(s.open) >= streamsMax:
		return nil, quarry.Errorf("snapshot", quarry.Busy, "", "%d snapshots are coming in already", streamsMax)
	}
	out, in := io.Pipe()
	st := &stream{in: in, done: make(chan struct{}), turn: make(chan struct{}, 1), silent: s.master.cfg.Clock.NewTimer(snapshotPartTime)}
	receive := func() {
		st.err = s.master.host.ReceiveSnapshot(s.master.ctx, out)
		out.CloseWithError(errors.Join(st.err, io.ErrClosedPipe))
		close(st.done)
		s.mu.Lock()
		delete(s.open, key)
		s.mu.Unlock()
	}
	if !s.master.begin(receive) {
		st.silent.Stop()
		return nil, quarry.Errorf("snapshot", quarry.Unavailable, "", "the master is stopping")
	}
	s.open[key] = st
	s.master.begin(func() {
		defer st.silent.Stop()
		select {
		case <-st.done:
		case <-s.master.ctx.Done():
			in.CloseWithError(quarry.Errorf("snapshot", quarry.Unavailable, "", "the master is stopping"))
		case <-st.silent.C():
			in.CloseWithError(quarry.Errorf("snapshot", quarry.Unavailable, "", "its sender has been silent for %v", snapshotPartTime))
		}
	})
	return st, nil
}
