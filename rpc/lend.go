package rpc

import (
	"context"
	"errors"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/rpc/passing"
	"github.com/quarryfs/quarry/wire"
)

// Lender lends the files of its replicas to clients on the same machine, which read them
// without the network; a chunk server is one. Such a read has three parts, in any order, but
// all that is asked for is asked for within the read: bytes below a length that Lend has told,
// their checksums from the same answer, and the word of a Vouch. The methods refuse what
// ChunkServer.Read refuses, with the same kinds, and may be called by many goroutines.
type Lender interface {
	// Lend passes a descriptor of a replica's file, open for reading only, with the length up to
	// which its bytes are committed and will never change, and their checksums. Unsupported if
	// the caller is not on this machine, or the disk has no such files; Corrupt if bytes of the
	// replica are known to be broken; Busy if nothing is committed yet, or a descriptor is on its way
	// to the caller that was not taken, or too many are to all callers.
	Lend(ctx context.Context, chunk *quarry.ChunkRef) (*LendReply, error)
	// Vouch tells of each chunk whether a read of its committed bytes, one that is not
	// validated, would be answered at this instant, from the file that was lent: the replica is
	// here and sound, and the server has its read lease. StaleVersion if the edition is another
	// one: the replica may be in another file since, which can be lent.
	Vouch(ctx context.Context, req *VouchRequest) (*VouchReply, error)
}

// LendReply lends a file.
type LendReply struct {
	Length int64    // committed bytes, at least one
	CRCs   []uint32 // CRC32C of each block of them; the last one ends at Length
	// Edition names the file among all in which the replica has been.
	Edition uint64
	// FD is the descriptor that the server passes, and Release, which is set, is called when it has
	// been. The client has Descriptor in their place, which it closes.
	FD         uintptr
	Release    func()
	Descriptor *passing.Descriptor
}

// VouchMax is the most chunks that one Vouch tells of.
const VouchMax = 64

// LentChunk is a chunk of which a file was lent, of an edition.
type LentChunk struct {
	quarry.ChunkRef
	Edition uint64
}

// VouchRequest names chunks that are being read, at most VouchMax.
type VouchRequest struct{ Chunks []LentChunk }

// VouchReply tells, for each chunk of the request in its order, why its replica cannot be
// read; 0: it can.
type VouchReply struct{ Refused []quarry.Kind }

// The operations of a Lender.
const (
	opLend  Op = 80
	opVouch Op = 81
)

var (
	// The descriptor comes beside the payload, a single byte that says nothing.
	lendMethod = method[quarry.ChunkRef, LendReply]{op: opLend, name: "lend",
		request: refFields, reply: lendReplyFields,
		replyPayload: func(r *LendReply) payload {
			return payload{file: &quarry.FileRange{FD: r.FD, Offset: passFile, Length: 1}, release: r.Release}
		},
		setPayload: func(*LendReply, []byte) {},
		room:       func(*quarry.ChunkRef) ([]byte, int) { return nil, 1 },
	}
	vouchMethod = method[VouchRequest, VouchReply]{op: opVouch, name: "vouch", request: vouchRequestFields, reply: vouchReplyFields}
)

func lendReplyFields(w *wire.Walk, m *LendReply) {
	wire.Uint(w, 1, &m.Length)
	wire.Uints(w, 2, &m.CRCs, quarry.ChunkBytesMax/quarry.BlockBytes)
	wire.Uint(w, 3, &m.Edition)
}

func lentChunkFields(w *wire.Walk, m *LentChunk) {
	wire.Message(w, 1, &m.ChunkRef, refFields)
	wire.Uint(w, 2, &m.Edition)
}

func vouchRequestFields(w *wire.Walk, m *VouchRequest) {
	wire.List(w, 1, &m.Chunks, VouchMax, lentChunkFields)
}

func vouchReplyFields(w *wire.Walk, m *VouchReply) { wire.Uints(w, 1, &m.Refused, VouchMax) }

// ServeLender has a server serve the operations of a lender.
func ServeLender(s *Server, l Lender) {
	handle(s, &lendMethod, func(ctx context.Context, chunk *quarry.ChunkRef) (*LendReply, error) { return lendOver(ctx, l, chunk) })
	handle(s, &vouchMethod, l.Vouch)
}

// lendOver has a lender lend a file, if the connection of the request has room for it on its way.
func lendOver(ctx context.Context, l Lender, chunk *quarry.ChunkRef) (*LendReply, error) {
	peer, _ := PeerFrom(ctx)
	if peer.conn == nil {
		return nil, quarry.Errorf("lend", quarry.Unsupported, chunk.Handle.String(), "files are lent to clients on the same machine only")
	}
	if !peer.conn.Begin() {
		return nil, quarry.Errorf("lend", quarry.Busy, chunk.Handle.String(),
			"a file is on its way to this client, or %d are to all of them, that nobody has taken yet", passing.WayMax)
	}
	reply, err := l.Lend(ctx, chunk)
	if err != nil {
		peer.conn.End()
		return nil, err
	}
	release := reply.Release
	reply.Release = func() {
		release()
		peer.conn.End()
	}
	return reply, nil
}

// Lender returns the lender at an address of a network of [Beside]. What it returns is checked:
// a LendReply has a Descriptor and a checksum for each block, a VouchReply an answer for each chunk.
func (c *Client) Lender(address string) Lender { return lenderStub{c, address} }

type lenderStub struct {
	client  *Client
	address string
}

func (s lenderStub) Lend(ctx context.Context, chunk *quarry.ChunkRef) (*LendReply, error) {
	reply, d, err := s.lend(ctx, chunk)
	for attempt := 0; errors.Is(err, errStale) && attempt < s.client.config.BulkConns; attempt++ {
		reply, d, err = s.lend(ctx, chunk)
	}
	switch {
	case err == nil && d == nil:
		return nil, quarry.Errorf("lend", quarry.Unsupported, s.address, "the reply came without a descriptor")
	case err == nil && (reply.Length < 1 || reply.Length > quarry.ChunkBytesMax || int64(len(reply.CRCs)) != quarry.Blocks(reply.Length)):
		err = quarry.Errorf("lend", quarry.Corrupt, s.address, "a reply has %d bytes and %d checksums", reply.Length, len(reply.CRCs))
	}
	if err != nil {
		if d != nil {
			_ = d.Close() // it was not even read
		}
		return nil, err
	}
	reply.Descriptor = d
	return reply, nil
}

// lend sends one request. The descriptor is nil if none has come.
func (s lenderStub) lend(ctx context.Context, chunk *quarry.ChunkRef) (*LendReply, *passing.Descriptor, error) {
	r := s.client.remote(s.address)
	conn, err := r.borrow(ctx)
	if err != nil {
		return nil, nil, err
	}
	reply, err := exchange(ctx, conn, &lendMethod, chunk)
	var d *passing.Descriptor
	if c, ok := conn.conn.(*localConn); ok {
		d = c.Passed()
	}
	r.giveBack(conn, errors.Is(err, errSilent))
	return reply, d, err
}

// Vouch uses LaneBulk, where fewer goroutines are woken on the way than on LaneControl.
func (s lenderStub) Vouch(ctx context.Context, req *VouchRequest) (*VouchReply, error) {
	reply, err := roundTrip(ctx, s.client, s.address, Route{Lane: LaneBulk}, &vouchMethod, req)
	if err == nil && len(reply.Refused) != len(req.Chunks) {
		return nil, quarry.Errorf("vouch", quarry.Internal, s.address, "%d answers came for %d chunks", len(reply.Refused), len(req.Chunks))
	}
	return reply, err
}
