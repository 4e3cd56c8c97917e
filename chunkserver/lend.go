package chunkserver

import (
	"context"
	"errors"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/protocol"
	"github.com/quarryfs/quarry/rpc"
)

var _ rpc.Lender = (*Server)(nil)

// Lend implements rpc.Lender. It needs no lease: what it tells is true for ever, and who
// reads has the server vouch for the chunk besides.
func (s *Server) Lend(ctx context.Context, ref *quarry.ChunkRef) (*rpc.LendReply, error) {
	if peer, _ := rpc.PeerFrom(ctx); !peer.Local {
		return nil, quarry.Errorf("lend", quarry.Unsupported, ref.Handle.String(), "files are lent to clients on the same machine only")
	}
	r, n, err := s.sound("lend", ref)
	if err != nil {
		return nil, err
	}
	defer r.release()
	if n == 0 {
		return nil, quarry.Errorf("lend", quarry.Busy, ref.Handle.String(), "nothing is committed yet")
	}
	lent, err := r.disk.Lend(r.handle, n)
	if errors.Is(err, quarry.Corrupt) {
		r.corrupt(err)
	}
	if errors.Is(err, quarry.Unavailable) { // a client that hears of it does not ask again for a while
		s.cfg.Logger.Warn("a file cannot be lent; clients on this machine read over the network", "chunk", ref.Handle, "error", err)
	}
	if err != nil {
		return nil, err
	}
	return &rpc.LendReply{Length: lent.Length, CRCs: lent.CRCs, Edition: lent.Edition, FD: lent.File.Fd(), Release: func() {
		_ = lent.File.Close() // it is for reading only
	}}, nil
}

// Vouch implements rpc.Lender. The edition is compared when the replica has been found sound, for
// editions never come back: then the lent file was the replica's at that instant, too. Compared
// first, it would leave room for another file to come in between, and what is found would be of
// that one. The lease is looked at last, as in Read.
func (s *Server) Vouch(_ context.Context, req *rpc.VouchRequest) (*rpc.VouchReply, error) {
	reply := &rpc.VouchReply{Refused: make([]quarry.Kind, len(req.Chunks))}
	for i := range req.Chunks {
		ref := &req.Chunks[i].ChunkRef
		r, _, err := s.sound("vouch", ref)
		if err != nil {
			reply.Refused[i] = quarry.KindOf(err)
			continue
		}
		switch {
		case r.disk.Edition(ref.Handle) != req.Chunks[i].Edition:
			reply.Refused[i] = quarry.StaleVersion
		case !s.leases.holds(ref.Handle.Slot(), protocol.RightRead, s.cfg.Clock.Now()):
			reply.Refused[i] = quarry.Confirm
		}
		r.release()
	}
	return reply, nil
}

// sound finds a replica of which no bytes are known to be broken, as a read that is not
// validated would, and how many of its bytes are committed. The caller releases it.
func (s *Server) sound(op string, ref *quarry.ChunkRef) (*replica, int64, error) {
	r, err := s.allowed(op, ref, quarry.RightRead)
	if err != nil {
		return nil, 0, err
	}
	n, err := look(r, func(m *protocol.Member) (int64, error) {
		n, err := m.Readable(false)
		if err == nil && m.Info().Status != quarry.ReplicaGood {
			err = quarry.Errorf(op, quarry.Corrupt, ref.Handle.String(), "bytes of the replica are broken")
		}
		return n, err
	})
	if err != nil {
		r.release()
		return nil, 0, err
	}
	return r, n, nil
}
