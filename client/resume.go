package client

import (
	"context"
	"io"
	"slices"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client/resume"
	"github.com/quarryfs/quarry/crc32c"
)

// keep gives the put an owner that outlives it: that of an earlier one if it is there, or another session.
func (p *put) keep(l resume.Ledger) error {
	s, req := &p.f.sessions, &quarry.SessionRequest{}
	id, same := l.Earlier()
	if id != 0 {
		req.Session, req.Close = id, !same
		n, err := s.ask(p.ctx, req)
		switch kind := quarry.KindOf(err); {
		case kind == 0 && same:
			return p.own(l, n)
		case kind != 0 && kind != quarry.SessionExpired && same:
			return err // of one that is not wanted any more it is no matter
		}
	}
	n, err := s.at(p.ctx, p.near.Slot(), func(shard quarry.ShardID) (*session, error) {
		return s.ask(p.ctx, &quarry.SessionRequest{Shard: shard})
	})
	if err != nil {
		return err
	}
	if err := l.Begin(n.id); err != nil {
		n.tellEnd(p.ctx)
		return err
	}
	return p.own(l, n)
}

// own makes a session the owner of the put's chunks, and keeps it alive until leave.
func (p *put) own(l resume.Ledger, n *session) error {
	n.alive = func() { l.Alive(n.expiry) }
	n.alive()
	var ctx context.Context
	if ctx, n.stop = context.WithCancel(p.f.ctx); !p.f.background(func(context.Context) { n.keepAlive(ctx) }) {
		n.stop()
		return errClosed
	}
	p.ledger, p.owner = l, n
	return nil
}

// leave ends the put's part in what is kept for others, and everything that is kept if it is of no
// use any more.
func (p *put) leave(useless bool) {
	if p.ledger == nil {
		return
	}
	p.owner.end()
	if useless {
		p.ledger.End() // first: of a session that is gone nobody knows whether the file got its name
		p.owner.tellEnd(p.ctx)
	}
}

// section stores a section of the source, unless an earlier put has.
func (q *part) section(src *io.SectionReader, offset int64) {
	if q.p.ledger == nil {
		q.finish(q.whole(src, src))
		return
	}
	pieces, err := q.earlier(offset, src.Size())
	if pieces != nil {
		q.pieces = pieces
		q.stream.abort(errClosed) // it was not used
		<-q.p.slots
		return
	}
	sum := crc32c.New()
	if err == nil {
		err = q.whole(src, io.TeeReader(src, sum))
	}
	q.note = func() error { return q.p.ledger.Add(offset, q.length, sum.Sum32(), q.pieces) }
	q.finish(err)
}

// whole reads all of a section.
func (q *part) whole(src *io.SectionReader, r io.Reader) error {
	err := q.fill(r, src.Size())
	if err == nil && q.length < src.Size() {
		err = io.ErrUnexpectedEOF // the source shrank
	}
	return err
}

// earlier returns the pieces of a section that an earlier put has stored, if they are there.
func (q *part) earlier(offset, n int64) ([]quarry.LinkPiece, error) {
	p := q.p
	pieces := p.ledger.Part(offset, n)
	for _, piece := range pieces {
		var reply *quarry.ChunkReply
		wait := p.f.patience()
		err := wait.Again(p.ctx, func() (err error) {
			reply, err = p.f.masters.Finish(p.ctx, &quarry.FinishRequest{Session: p.owner.id, Handle: piece.Handle})
			return err
		})
		switch quarry.KindOf(err) {
		case 0:
			if c := &reply.Chunk; c.State != quarry.ChunkSealed || c.Length < piece.Length || c.Handle.Slot() != p.near.Slot() {
				return nil, nil
			}
		case quarry.NotFound, quarry.Corrupt, quarry.StaleVersion: // the chunk or all its replicas are lost
			return nil, nil
		default:
			return nil, err
		}
	}
	if pieces != nil {
		p.allocating.Take()
		p.expected-- // it needs no chunk
		p.allocating.Unlock()
	}
	return pieces, nil
}

// linked looks what it means that the pieces could not be linked. An earlier put may have linked
// them, and have ended before it had the answer: a chunk is linked once.
func (p *put) linked(pieces []quarry.LinkPiece, err error) (attr quarry.Attr, useless bool, _ error) {
	kind := quarry.KindOf(err)
	if p.ledger == nil || kind != quarry.NotFound && kind != quarry.Exists {
		return quarry.Attr{}, false, err
	}
	attr, lookErr := p.f.lookupPath(p.ctx, p.path)
	if lookErr == nil && attr.Kind == quarry.KindFile {
		reply, err := p.f.masters.Locate(p.ctx, &quarry.LocateRequest{File: attr.Inode, Max: quarry.PiecesMax})
		same := func(a quarry.Piece, b quarry.LinkPiece) bool { return a.Handle == b.Handle && a.Length == b.Length }
		if err == nil && !reply.More && slices.EqualFunc(reply.Pieces, pieces, same) {
			return attr, true, nil
		}
	}
	if parent, _, lookErr := p.f.parent(p.ctx, p.path); kind == quarry.NotFound && lookErr == nil && parent == p.near {
		err = quarry.Errorf("put", quarry.Exists, "", "what an earlier put has stored is not to be had any more: its session has ended, or it got the name, and was renamed, replaced or removed since; look, and say the same again to store it anew")
		return quarry.Attr{}, true, err
	}
	return quarry.Attr{}, false, err
}
