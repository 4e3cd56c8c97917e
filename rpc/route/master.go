package route

import (
	"context"
	"slices"

	"github.com/quarryfs/quarry"
)

// callErr is call for methods that return only an error.
func callErr[Q any](ctx context.Context, m *Masters, op string, to target, req Q, method func(quarry.Master, context.Context, Q) error) error {
	_, err := call(ctx, m, op, to, req, func(node quarry.Master, ctx context.Context, req Q) (struct{}, error) {
		return struct{}{}, method(node, ctx, req)
	})
	return err
}

// Session goes to the shard that keeps the session, or that is to keep a new one.
func (m *Masters) Session(ctx context.Context, req *quarry.SessionRequest) (*quarry.SessionReply, error) {
	to := byShard(req.Shard)
	if req.Session != 0 {
		to = bySlot(req.Session.Slot())
	}
	return call(ctx, m, "session", to, req, quarry.Master.Session)
}

// Lookup goes to the shard of From; see [quarry.LookupReply] for paths that leave it.
func (m *Masters) Lookup(ctx context.Context, req *quarry.LookupRequest) (*quarry.LookupReply, error) {
	return call(ctx, m, "lookup", bySlot(req.From.Slot()), req, quarry.Master.Lookup)
}

// Stat goes to the shard of the inode.
func (m *Masters) Stat(ctx context.Context, req *quarry.StatRequest) (*quarry.StatReply, error) {
	return call(ctx, m, "stat", bySlot(req.Inode.Slot()), req, quarry.Master.Stat)
}

// List goes to the shard of the directory.
func (m *Masters) List(ctx context.Context, req *quarry.ListRequest) (*quarry.ListReply, error) {
	return call(ctx, m, "list", bySlot(req.Dir.Slot()), req, quarry.Master.List)
}

// Make goes to the shard of its session, which is that of the parent.
func (m *Masters) Make(ctx context.Context, req *quarry.MakeRequest) (*quarry.AttrReply, error) {
	return call(ctx, m, "make", byOp(req.Op, req.Parent.Slot()), req, quarry.Master.Make)
}

// Link goes to the shard of its session, which is that of the parent.
func (m *Masters) Link(ctx context.Context, req *quarry.LinkRequest) (*quarry.AttrReply, error) {
	return call(ctx, m, "link", byOp(req.Op, req.Parent.Slot()), req, quarry.Master.Link)
}

// Rename goes to the shard of its session, which is that of the old parent, and coordinates.
func (m *Masters) Rename(ctx context.Context, req *quarry.RenameRequest) (*quarry.AttrReply, error) {
	return call(ctx, m, "rename", byOp(req.Op, req.Parent.Slot()), req, quarry.Master.Rename)
}

// Remove goes to the shard of its session, which is that of the parent.
func (m *Masters) Remove(ctx context.Context, req *quarry.RemoveRequest) error {
	return callErr(ctx, m, "remove", byOp(req.Op, req.Parent.Slot()), req, quarry.Master.Remove)
}

// Locate goes to the shard of the file.
func (m *Masters) Locate(ctx context.Context, req *quarry.LocateRequest) (*quarry.LocateReply, error) {
	return call(ctx, m, "locate", bySlot(req.File.Slot()), req, quarry.Master.Locate)
}

// Roll goes to the shard of the file.
func (m *Masters) Roll(ctx context.Context, req *quarry.RollRequest) (*quarry.RollReply, error) {
	return call(ctx, m, "roll", bySlot(req.File.Slot()), req, quarry.Master.Roll)
}

// Allocate goes to the shard of its session, which is that of Near.
func (m *Masters) Allocate(ctx context.Context, req *quarry.AllocateRequest) (*quarry.AllocateReply, error) {
	return call(ctx, m, "allocate", byOp(req.Op, req.Near.Slot()), req, quarry.Master.Allocate)
}

// Finish goes to the shard of the handle.
func (m *Masters) Finish(ctx context.Context, req *quarry.FinishRequest) (*quarry.ChunkReply, error) {
	return call(ctx, m, "finish", bySlot(req.Handle.Slot()), req, quarry.Master.Finish)
}

// Chunk goes to the shard of the handle.
func (m *Masters) Chunk(ctx context.Context, req *quarry.ChunkRequest) (*quarry.ChunkReply, error) {
	return call(ctx, m, "chunk", bySlot(req.Handle.Slot()), req, quarry.Master.Chunk)
}

// Report goes to the shard of the handle.
func (m *Masters) Report(ctx context.Context, req *quarry.ReportRequest) error {
	return callErr(ctx, m, "report", bySlot(req.Handle.Slot()), req, quarry.Master.Report)
}

// Register goes to the root group.
func (m *Masters) Register(ctx context.Context, req *quarry.RegisterRequest) (*quarry.RegisterReply, error) {
	return call(ctx, m, "register", byShard(quarry.RootShard), req, quarry.Master.Register)
}

// Inventory goes to the shard it names.
func (m *Masters) Inventory(ctx context.Context, req *quarry.InventoryRequest) (*quarry.InventoryReply, error) {
	return call(ctx, m, "inventory", byShard(req.Shard), req, quarry.Master.Inventory)
}

// Topology asks any node whose slot map is not older than the one that is known, and keeps what it
// tells if that is newer. Only if every node that answers is behind, the newest of their answers is
// returned.
func (m *Masters) Topology(ctx context.Context) (*quarry.TopologyReply, error) {
	var newest *quarry.TopologyReply // of those that are behind
	asked := map[quarry.Master]bool{}
	ask := func(node quarry.Master, ctx context.Context, _ struct{}) (*quarry.TopologyReply, error) {
		if newest != nil { // there is an answer, so nobody who is silent is waited for
			limited, cancel := m.opts.Clock.WithTimeout(ctx, m.opts.Silence)
			defer cancel()
			ctx = limited
		}
		reply, err := node.Topology(ctx)
		if err != nil {
			return nil, err
		}
		known := m.version()
		if reply.Version >= known {
			return reply, nil
		}
		if newest == nil || newer(reply, newest.Version, newest.Applied) {
			newest = reply
		}
		if asked[node] { // all others were asked since
			return newest, nil
		}
		asked[node] = true
		return nil, quarry.Errorf("topology", quarry.Unavailable, "", "the master has version %d of the slot map, and %d is known", reply.Version, known)
	}
	reply, err := call(ctx, m, "topology", target{any: true}, struct{}{}, ask)
	if err == nil {
		m.mu.Lock()
		m.learned.takeNewer(reply)
		m.mu.Unlock()
	}
	return reply, err
}

// RefreshNext asks one node for the topology, another one each turn, and keeps the newest:
// [Masters.Topology] goes on asking the same one, which may be behind for good. If that one does not
// answer within a second all are asked. It fails with Unavailable if no node answers.
func (m *Masters) RefreshNext(ctx context.Context, turn uint64) error {
	addresses := m.Addresses()
	slices.Sort(addresses) // each has its turn, in whatever order they are told
	asking, cancel := m.opts.Clock.WithTimeout(ctx, refreshMax)
	err := m.Learn(asking, addresses[turn%uint64(len(addresses))])
	cancel()
	if err != nil && ctx.Err() == nil {
		err = m.refresh(ctx)
	}
	return quarry.Wrap("topology", "", err)
}

// Learn asks the node at an address for the topology, and keeps it if that is newer than what is
// known. Errors: those of the call; Unavailable if the node belongs to no cluster yet.
func (m *Masters) Learn(ctx context.Context, address string) error {
	topology, err := m.fetch(ctx, address)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.learned.takeNewer(topology)
	return nil
}

// fetch asks one node for the topology.
func (m *Masters) fetch(ctx context.Context, address string) (*quarry.TopologyReply, error) {
	node, err := m.Node(address)
	if err != nil {
		return nil, err
	}
	topology, err := node.Topology(ctx)
	if err == nil && len(topology.Shards) == 0 {
		err = quarry.Errorf("topology", quarry.Unavailable, address, "the master belongs to no cluster yet")
	}
	return topology, err
}

// Replace goes to the leader of the group that it names. It waits while new masters catch up.
func (m *Masters) Replace(ctx context.Context, req *quarry.ReplaceRequest) (*quarry.ReplaceReply, error) {
	return call(ctx, m, "replace", byShard(req.Shard), req, quarry.Master.Replace)
}

// Transfer goes to the leader of the group it names.
func (m *Masters) Transfer(ctx context.Context, req *quarry.TransferRequest) error {
	return callErr(ctx, m, "transfer", byShard(req.Shard), req, quarry.Master.Transfer)
}

// AddShard goes to the leader of the root group.
func (m *Masters) AddShard(ctx context.Context, req *quarry.AddShardRequest) error {
	return callErr(ctx, m, "add shard", byShard(quarry.RootShard), req, quarry.Master.AddShard)
}

// MoveSlots goes to the leader of the root group.
func (m *Masters) MoveSlots(ctx context.Context, req *quarry.MoveSlotsRequest) (*quarry.MoveSlotsReply, error) {
	return call(ctx, m, "move slots", byShard(quarry.RootShard), req, quarry.Master.MoveSlots)
}

// Removed goes to the leader of the shard it names.
func (m *Masters) Removed(ctx context.Context, req *quarry.RemovedRequest) (*quarry.RemovedReply, error) {
	return call(ctx, m, "removed", byShard(req.Shard), req, quarry.Master.Removed)
}

// Undelete goes to the shard of its session, which is that of the parent.
func (m *Masters) Undelete(ctx context.Context, req *quarry.UndeleteRequest) (*quarry.AttrReply, error) {
	return call(ctx, m, "undelete", byOp(req.Op, req.Parent.Slot()), req, quarry.Master.Undelete)
}

// KeepTrash goes to the leader of the root group.
func (m *Masters) KeepTrash(ctx context.Context, req *quarry.TrashRequest) error {
	return callErr(ctx, m, "keep trash", byShard(quarry.RootShard), req, quarry.Master.KeepTrash)
}

// Heartbeat is refused: it addresses one node.
func (m *Masters) Heartbeat(context.Context, *quarry.HeartbeatRequest) (*quarry.HeartbeatReply, error) {
	return nil, notRouted("heartbeat")
}

// Identify is refused: it addresses one node.
func (m *Masters) Identify(context.Context) (*quarry.IdentifyReply, error) {
	return nil, notRouted("identify")
}

// Init is refused: it addresses one node.
func (m *Masters) Init(context.Context, *quarry.InitRequest) error { return notRouted("init") }

// Join is refused: it addresses one node.
func (m *Masters) Join(context.Context, *quarry.JoinRequest) error { return notRouted("join") }

func notRouted(op string) error {
	return quarry.Errorf(op, quarry.Invalid, "", "the request is for one node and cannot be routed; send it to that node")
}

// SetAttr goes to the shard of its session, which is that of the inode.
func (m *Masters) SetAttr(ctx context.Context, req *quarry.SetAttrRequest) (*quarry.AttrReply, error) {
	return call(ctx, m, "set attributes", byOp(req.Op, req.Inode.Slot()), req, quarry.Master.SetAttr)
}
