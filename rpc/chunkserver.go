package rpc

import (
	"context"

	"github.com/quarryfs/quarry"
)

// The operations of quarry.ChunkServer.
const (
	opCreate   Op = 64
	opActivate Op = 65
	opAppend   Op = 66
	opPrepare  Op = 67
	opCommit   Op = 68
	opFence    Op = 69
	opSeal     Op = 70
	opCopy     Op = 71
	opAdd      Op = 72
	opDrop     Op = 73
	opFate     Op = 74
	opRead     Op = 75
	opEnd      Op = 76
	opWait     Op = 77
	opRecords  Op = 78
	opReopen   Op = 79
)

// smallReadBytes is the largest read that goes with the small requests; for larger ones a
// connection of their own pays.
const smallReadBytes = 16 << 10

var (
	createMethod   = method[quarry.CreateRequest, nothing]{op: opCreate, name: "create", request: createRequestFields, reply: nothingFields}
	activateMethod = method[quarry.ActivateRequest, nothing]{op: opActivate, name: "activate", request: activateRequestFields, reply: nothingFields}
	reopenMethod   = method[quarry.ReopenRequest, nothing]{op: opReopen, name: "reopen", request: reopenRequestFields, reply: nothingFields}
	commitMethod   = method[quarry.CommitRequest, nothing]{op: opCommit, name: "commit", request: commitRequestFields, reply: nothingFields}
	fenceMethod    = method[quarry.FenceRequest, quarry.FenceReply]{op: opFence, name: "fence", request: fenceRequestFields, reply: fenceReplyFields}
	sealMethod     = method[quarry.SealRequest, quarry.SealReply]{op: opSeal, name: "seal", request: sealRequestFields, reply: sealReplyFields}
	copyMethod     = method[quarry.CopyRequest, nothing]{op: opCopy, name: "copy", request: copyRequestFields, reply: nothingFields}
	addMethod      = method[quarry.AddRequest, nothing]{op: opAdd, name: "add", request: addRequestFields, reply: nothingFields}
	dropMethod     = method[quarry.DropRequest, nothing]{op: opDrop, name: "drop", request: dropRequestFields, reply: nothingFields}
	fateMethod     = method[quarry.FateRequest, quarry.FateReply]{op: opFate, name: "fate", request: fateRequestFields, reply: fateReplyFields}
	endMethod      = method[quarry.EndRequest, quarry.EndReply]{op: opEnd, name: "end", request: endRequestFields, reply: endReplyFields}
	waitMethod     = method[quarry.WaitRequest, quarry.WaitReply]{op: opWait, name: "wait", request: waitRequestFields, reply: waitReplyFields, parked: true}
	recordsMethod  = method[quarry.RecordsRequest, quarry.RecordsReply]{op: opRecords, name: "records", request: recordsRequestFields, reply: recordsReplyFields, replyMax: 2 << 20}

	appendMethod = method[quarry.AppendRequest, quarry.AppendReply]{op: opAppend, name: "append",
		request: appendRequestFields, reply: appendReplyFields,
		requestPayload:    func(q *quarry.AppendRequest) *[]byte { return &q.Data },
		requestPayloadMax: quarry.RecordBytesMax,
	}
	prepareMethod = method[quarry.PrepareRequest, quarry.PrepareReply]{op: opPrepare, name: "prepare",
		request: prepareRequestFields, reply: prepareReplyFields,
		requestMax:        2 << 20,
		requestPayload:    func(q *quarry.PrepareRequest) *[]byte { return &q.Data },
		requestPayloadMax: 2 * quarry.RecordBytesMax,
	}
	readMethod = method[quarry.ReadRequest, quarry.ReadReply]{op: opRead, name: "read",
		request: readRequestFields, reply: readReplyFields,
		replyPayload: func(r *quarry.ReadReply) payload {
			return payload{bytes: r.Data, file: r.File, release: r.Release}
		},
		setPayload: func(r *quarry.ReadReply, b []byte) { r.Data = b },
		room: func(q *quarry.ReadRequest) ([]byte, int) {
			return q.Into, int(min(max(q.Length, 0), quarry.ReadBytesMax))
		},
		sink: func(q *quarry.ReadRequest) quarry.ReadSink { return q.Sink },
		sums: func(r *quarry.ReadReply) []uint32 { return r.CRCs },
	}
)

// ServeChunkServer has a server serve the operations of a chunk server. Append and Prepare
// are called by the goroutine that reads from the connection, so those of one sender come in
// their order; while they have not returned, nothing else is read from there. The Data of
// their requests is valid until done is called.
func ServeChunkServer(s *Server, c quarry.ChunkServer) {
	handle(s, &createMethod, noReply(c.Create))
	handle(s, &activateMethod, noReply(c.Activate))
	handle(s, &reopenMethod, noReply(c.Reopen))
	handleOrdered(s, &appendMethod, c.Append)
	handleOrdered(s, &prepareMethod, c.Prepare)
	handle(s, &commitMethod, noReply(c.Commit))
	handle(s, &fenceMethod, c.Fence)
	handle(s, &sealMethod, c.Seal)
	handle(s, &copyMethod, noReply(c.Copy))
	handle(s, &addMethod, noReply(c.Add))
	handle(s, &dropMethod, noReply(c.Drop))
	handle(s, &fateMethod, c.Fate)
	handle(s, &readMethod, c.Read)
	handle(s, &endMethod, c.End)
	handle(s, &waitMethod, c.Wait)
	handle(s, &recordsMethod, c.Records)
}

// ChunkServer returns the chunk server at an address. It connects at the first call. If the
// server cannot be reached or is lost before it has answered, calls fail with Unavailable.
//
// Append and Prepare send in the order of their calls, per chunk. They wait while there is
// no connection or too much waits to be sent, but not for the answer; done is called by the
// goroutine that reads answers, and so must neither wait nor call Append or Prepare.
func (c *Client) ChunkServer(address string) quarry.ChunkServer {
	return &chunkServerStub{stub{c, address}}
}

type chunkServerStub struct{ stub }

var _ quarry.ChunkServer = (*chunkServerStub)(nil)

func (s *chunkServerStub) Create(ctx context.Context, req *quarry.CreateRequest) error {
	_, err := do(ctx, s.stub, &createMethod, req)
	return err
}

func (s *chunkServerStub) Activate(ctx context.Context, req *quarry.ActivateRequest) error {
	_, err := do(ctx, s.stub, &activateMethod, req)
	return err
}

func (s *chunkServerStub) Reopen(ctx context.Context, req *quarry.ReopenRequest) error {
	_, err := do(ctx, s.stub, &reopenMethod, req)
	return err
}

func (s *chunkServerStub) Append(ctx context.Context, req *quarry.AppendRequest, done func(*quarry.AppendReply, error)) {
	route := Route{Lane: LaneAppend, Key: uint64(req.Handle)}
	start(ctx, s.client, s.address, route, &appendMethod, req, done)
}

func (s *chunkServerStub) Prepare(ctx context.Context, req *quarry.PrepareRequest, done func(*quarry.PrepareReply, error)) {
	behind := min(len(req.Chain), quarry.ReplicasMax-1)
	route := Route{Lane: LanePrepare + Lane(behind), Key: uint64(req.Handle)}
	start(ctx, s.client, s.address, route, &prepareMethod, req, done)
}

func (s *chunkServerStub) Commit(ctx context.Context, req *quarry.CommitRequest) error {
	_, err := do(ctx, s.stub, &commitMethod, req)
	return err
}

func (s *chunkServerStub) Fence(ctx context.Context, req *quarry.FenceRequest) (*quarry.FenceReply, error) {
	return do(ctx, s.stub, &fenceMethod, req)
}

func (s *chunkServerStub) Seal(ctx context.Context, req *quarry.SealRequest) (*quarry.SealReply, error) {
	return do(ctx, s.stub, &sealMethod, req)
}

func (s *chunkServerStub) Copy(ctx context.Context, req *quarry.CopyRequest) error {
	_, err := do(ctx, s.stub, &copyMethod, req)
	return err
}

func (s *chunkServerStub) Add(ctx context.Context, req *quarry.AddRequest) error {
	_, err := do(ctx, s.stub, &addMethod, req)
	return err
}

func (s *chunkServerStub) Drop(ctx context.Context, req *quarry.DropRequest) error {
	_, err := do(ctx, s.stub, &dropMethod, req)
	return err
}

func (s *chunkServerStub) Fate(ctx context.Context, req *quarry.FateRequest) (*quarry.FateReply, error) {
	return do(ctx, s.stub, &fateMethod, req)
}

func (s *chunkServerStub) Read(ctx context.Context, req *quarry.ReadRequest) (*quarry.ReadReply, error) {
	route := Route{Lane: LaneBulk}
	if req.Length <= smallReadBytes {
		route.Lane = LaneControl
	}
	return roundTrip(ctx, s.client, s.address, route, &readMethod, req)
}

func (s *chunkServerStub) End(ctx context.Context, req *quarry.EndRequest) (*quarry.EndReply, error) {
	return do(ctx, s.stub, &endMethod, req)
}

func (s *chunkServerStub) Wait(ctx context.Context, req *quarry.WaitRequest) (*quarry.WaitReply, error) {
	return do(ctx, s.stub, &waitMethod, req)
}

func (s *chunkServerStub) Records(ctx context.Context, req *quarry.RecordsRequest) (*quarry.RecordsReply, error) {
	return do(ctx, s.stub, &recordsMethod, req)
}
