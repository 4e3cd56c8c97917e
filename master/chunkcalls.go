package master

import (
	"context"
	"errors"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
)

// rightsOfClient are what a client may do with a chunk of a file.
const rightsOfClient = quarry.RightRead | quarry.RightAppend

// Stat returns the attributes of an inode and its open tail.
func (m *Master) Stat(ctx context.Context, req *quarry.StatRequest) (*quarry.StatReply, error) {
	t, err := m.termOf("stat", req.Inode.Slot())
	if err != nil {
		return nil, err
	}
	reply, err := read(ctx, m, "stat", req.Inode.Slot(), func(v meta.View) (*quarry.StatReply, error) {
		return meta.Stat(v, req)
	})
	if err == nil && reply.Tail != nil {
		t.chunks.Complete(reply.Tail, rightsOfClient)
	}
	return reply, err
}

// Locate returns a page of a file's layout.
func (m *Master) Locate(ctx context.Context, req *quarry.LocateRequest) (*quarry.LocateReply, error) {
	t, err := m.termOf("locate", req.File.Slot())
	if err != nil {
		return nil, err
	}
	reply, err := read(ctx, m, "locate", req.File.Slot(), func(v meta.View) (*quarry.LocateReply, error) {
		return meta.Locate(v, req)
	})
	if err != nil {
		return nil, err
	}
	for i := range reply.Chunks {
		t.chunks.Complete(&reply.Chunks[i], rightsOfClient)
	}
	return reply, nil
}

// Chunk returns a chunk's record.
func (m *Master) Chunk(ctx context.Context, req *quarry.ChunkRequest) (*quarry.ChunkReply, error) {
	t, err := m.termOf("chunk", req.Handle.Slot())
	if err != nil {
		return nil, err
	}
	return read(ctx, m, "chunk", req.Handle.Slot(), func(v meta.View) (*quarry.ChunkReply, error) {
		rec, err := meta.ChunkOf(v, req.Handle)
		if err != nil {
			return nil, err
		}
		return &quarry.ChunkReply{Chunk: t.chunks.Describe(rec, rightsOfClient)}, nil
	})
}

// Roll returns the chunk in which a file can be appended to.
func (m *Master) Roll(ctx context.Context, req *quarry.RollRequest) (*quarry.RollReply, error) {
	t, err := m.termOf("roll", req.File.Slot())
	if err != nil {
		return nil, err
	}
	reply, err := t.chunks.Roll(ctx, req)
	return reply, m.again("roll", err)
}

// Allocate makes open chunks that the session owns.
func (m *Master) Allocate(ctx context.Context, req *quarry.AllocateRequest) (*quarry.AllocateReply, error) {
	t, err := m.termOf("allocate", home(req.Op, req.Near.Slot()))
	if err != nil {
		return nil, err
	}
	reply, err := t.chunks.Allocate(ctx, req)
	return reply, m.again("allocate", err)
}

// Finish seals a chunk of the session.
func (m *Master) Finish(ctx context.Context, req *quarry.FinishRequest) (*quarry.ChunkReply, error) {
	t, err := m.termOf("finish", req.Handle.Slot())
	if err != nil {
		return nil, err
	}
	reply, err := t.chunks.Finish(ctx, req)
	return reply, m.again("finish", err)
}

// again is the error of a request that finds what it did before when it is sent again. So a command
// whose outcome is unknown, because the leader changed meanwhile, is no reason for its caller to give
// up: whoever leads can tell.
func (m *Master) again(op string, err error) error {
	if errors.Is(err, quarry.Unknown) {
		return &quarry.Error{Op: op, Kind: quarry.Unavailable, Err: errLeaderChanged}
	}
	return m.wrongShard(op, err)
}

// Report notes silent members or corrupt replicas.
func (m *Master) Report(ctx context.Context, req *quarry.ReportRequest) error {
	t, err := m.termOf("report", req.Handle.Slot())
	if err != nil {
		return err
	}
	return m.wrongShard("report", t.chunks.Report(ctx, req))
}

// Inventory reconciles a page of a server's replicas.
func (m *Master) Inventory(ctx context.Context, req *quarry.InventoryRequest) (*quarry.InventoryReply, error) {
	_, t, err := m.leading("inventory", req.Shard)
	if err != nil {
		return nil, err
	}
	reply, err := t.chunks.Inventory(ctx, req)
	return reply, m.wrongShard("inventory", err)
}

// Session opens, keeps alive or ends a client's session.
func (m *Master) Session(ctx context.Context, req *quarry.SessionRequest) (*quarry.SessionReply, error) {
	sh, err := m.sessionShard(req)
	if err != nil {
		return nil, err
	}
	reply := &quarry.SessionReply{Session: req.Session, ExpiryMS: m.cfg.SessionExpiry.Milliseconds()}
	switch {
	case req.Session == 0:
		result, err := sh.propose(ctx, quarry.Op{}, &meta.OpenSession{Slot: sh.firstSlot()})
		if err != nil {
			return nil, m.wrongShard("session", err)
		}
		reply.Session = result.Session
	case req.Close:
		for more := true; more; {
			result, err := sh.propose(ctx, quarry.Op{}, &meta.CloseSession{Session: req.Session})
			if err != nil {
				return nil, m.wrongShard("session", err)
			}
			sh.orphaned(result.Orphans)
			more = result.More
		}
	default:
		result, err := sh.propose(ctx, quarry.Op{}, &meta.KeepSessions{Sessions: []quarry.SessionID{req.Session}})
		if err != nil {
			return nil, m.wrongShard("session", err)
		}
		if len(result.Sessions) > 0 {
			return nil, quarry.Errorf("session", quarry.SessionExpired, "", "session %d is not known any more", req.Session)
		}
	}
	return reply, nil
}

// sessionShard returns the shard that a session's request is for.
func (m *Master) sessionShard(req *quarry.SessionRequest) (*shard, error) {
	if req.Session != 0 {
		return m.shardOf("session", req.Session.Slot())
	}
	return m.shard("session", req.Shard)
}
