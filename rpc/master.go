package rpc

import (
	"context"

	"github.com/quarryfs/quarry"
)

// The operations of quarry.Master.
const (
	opSession   Op = 1
	opLookup    Op = 2
	opStat      Op = 3
	opList      Op = 4
	opMake      Op = 5
	opLink      Op = 6
	opRename    Op = 7
	opRemove    Op = 8
	opLocate    Op = 9
	opRoll      Op = 10
	opAllocate  Op = 11
	opFinish    Op = 12
	opChunk     Op = 13
	opReport    Op = 14
	opRegister  Op = 15
	opHeartbeat Op = 16
	opInventory Op = 17
	opTopology  Op = 18
	opStatus    Op = 19
	opIdentify  Op = 20
	opInit      Op = 21
	opJoin      Op = 22
	opReplace   Op = 23
	opTransfer  Op = 24
	opAddShard  Op = 25
	opMoveSlots Op = 30
	opRemoved   Op = 31
	opUndelete  Op = 32
	opKeepTrash Op = 33
	opSetAttr   Op = 34
)

var (
	sessionMethod  = method[quarry.SessionRequest, quarry.SessionReply]{op: opSession, name: "session", request: sessionRequestFields, reply: sessionReplyFields}
	lookupMethod   = method[quarry.LookupRequest, quarry.LookupReply]{op: opLookup, name: "lookup", request: lookupRequestFields, reply: lookupReplyFields}
	statMethod     = method[quarry.StatRequest, quarry.StatReply]{op: opStat, name: "stat", request: statRequestFields, reply: statReplyFields}
	listMethod     = method[quarry.ListRequest, quarry.ListReply]{op: opList, name: "list", request: listRequestFields, reply: listReplyFields, replyMax: 1 << 20}
	makeMethod     = method[quarry.MakeRequest, quarry.AttrReply]{op: opMake, name: "make", request: makeRequestFields, reply: attrReplyFields}
	linkMethod     = method[quarry.LinkRequest, quarry.AttrReply]{op: opLink, name: "link", request: linkRequestFields, reply: attrReplyFields, requestMax: 20 << 20}
	renameMethod   = method[quarry.RenameRequest, quarry.AttrReply]{op: opRename, name: "rename", request: renameRequestFields, reply: attrReplyFields}
	removeMethod   = method[quarry.RemoveRequest, nothing]{op: opRemove, name: "remove", request: removeRequestFields, reply: nothingFields}
	locateMethod   = method[quarry.LocateRequest, quarry.LocateReply]{op: opLocate, name: "locate", request: locateRequestFields, reply: locateReplyFields, replyMax: bodyBytesMax}
	rollMethod     = method[quarry.RollRequest, quarry.RollReply]{op: opRoll, name: "roll", request: rollRequestFields, reply: rollReplyFields}
	allocateMethod = method[quarry.AllocateRequest, quarry.AllocateReply]{op: opAllocate, name: "allocate", request: allocateRequestFields, reply: allocateReplyFields, replyMax: 1 << 20}
	finishMethod   = method[quarry.FinishRequest, quarry.ChunkReply]{op: opFinish, name: "finish", request: finishRequestFields, reply: chunkReplyFields}
	chunkMethod    = method[quarry.ChunkRequest, quarry.ChunkReply]{op: opChunk, name: "chunk", request: chunkRequestFields, reply: chunkReplyFields}
	reportMethod   = method[quarry.ReportRequest, nothing]{op: opReport, name: "report", request: reportRequestFields, reply: nothingFields}

	registerMethod  = method[quarry.RegisterRequest, quarry.RegisterReply]{op: opRegister, name: "register", request: registerRequestFields, reply: registerReplyFields, requestMax: 1 << 20}
	heartbeatMethod = method[quarry.HeartbeatRequest, quarry.HeartbeatReply]{op: opHeartbeat, name: "heartbeat", request: heartbeatRequestFields, reply: heartbeatReplyFields, requestMax: 1 << 20, replyMax: bodyBytesMax}
	inventoryMethod = method[quarry.InventoryRequest, quarry.InventoryReply]{op: opInventory, name: "inventory", request: inventoryRequestFields, reply: inventoryReplyFields, requestMax: 1 << 20, replyMax: 1 << 20}
	topologyMethod  = method[nothing, quarry.TopologyReply]{op: opTopology, name: "topology", request: nothingFields, reply: topologyReplyFields, replyMax: 4 << 20}
	statusMethod    = method[nothing, quarry.StatusReply]{op: opStatus, name: "status", request: nothingFields, reply: statusReplyFields, replyMax: bodyBytesMax}
	identifyMethod  = method[nothing, quarry.IdentifyReply]{op: opIdentify, name: "identify", request: nothingFields, reply: identifyReplyFields}
	initMethod      = method[quarry.InitRequest, nothing]{op: opInit, name: "init", request: initRequestFields, reply: nothingFields}
	joinMethod      = method[quarry.JoinRequest, nothing]{op: opJoin, name: "join", request: joinRequestFields, reply: nothingFields}
	replaceMethod   = method[quarry.ReplaceRequest, quarry.ReplaceReply]{op: opReplace, name: "replace", request: replaceRequestFields, reply: replaceReplyFields}
	transferMethod  = method[quarry.TransferRequest, nothing]{op: opTransfer, name: "transfer", request: transferRequestFields, reply: nothingFields}
	addShardMethod  = method[quarry.AddShardRequest, nothing]{op: opAddShard, name: "addShard", request: addShardRequestFields, reply: nothingFields}
	moveSlotsMethod = method[quarry.MoveSlotsRequest, quarry.MoveSlotsReply]{op: opMoveSlots, name: "moveSlots", request: moveSlotsRequestFields, reply: moveSlotsReplyFields, replyMax: 1 << 20}
	removedMethod   = method[quarry.RemovedRequest, quarry.RemovedReply]{op: opRemoved, name: "removed", request: removedRequestFields, reply: removedReplyFields, replyMax: 1 << 20}
	undeleteMethod  = method[quarry.UndeleteRequest, quarry.AttrReply]{op: opUndelete, name: "undelete", request: undeleteRequestFields, reply: attrReplyFields}
	setAttrMethod   = method[quarry.SetAttrRequest, quarry.AttrReply]{op: opSetAttr, name: "setAttr", request: setAttrRequestFields, reply: attrReplyFields}
	keepTrashMethod = method[quarry.TrashRequest, nothing]{op: opKeepTrash, name: "keepTrash", request: trashRequestFields, reply: nothingFields}
)

// ServeMaster has a server serve the operations of a master.
func ServeMaster(s *Server, m quarry.Master) {
	handle(s, &sessionMethod, m.Session)
	handle(s, &lookupMethod, m.Lookup)
	handle(s, &statMethod, m.Stat)
	handle(s, &listMethod, m.List)
	handle(s, &makeMethod, m.Make)
	handle(s, &linkMethod, m.Link)
	handle(s, &renameMethod, m.Rename)
	handle(s, &removeMethod, noReply(m.Remove))
	handle(s, &locateMethod, m.Locate)
	handle(s, &rollMethod, m.Roll)
	handle(s, &allocateMethod, m.Allocate)
	handle(s, &finishMethod, m.Finish)
	handle(s, &chunkMethod, m.Chunk)
	handle(s, &reportMethod, noReply(m.Report))
	handle(s, &registerMethod, m.Register)
	handle(s, &heartbeatMethod, m.Heartbeat)
	handle(s, &inventoryMethod, m.Inventory)
	handle(s, &topologyMethod, noRequest(m.Topology))
	handle(s, &statusMethod, noRequest(m.Status))
	handle(s, &identifyMethod, noRequest(m.Identify))
	handle(s, &initMethod, noReply(m.Init))
	handle(s, &joinMethod, noReply(m.Join))
	handle(s, &replaceMethod, m.Replace)
	handle(s, &transferMethod, noReply(m.Transfer))
	handle(s, &addShardMethod, noReply(m.AddShard))
	handle(s, &moveSlotsMethod, m.MoveSlots)
	handle(s, &removedMethod, m.Removed)
	handle(s, &undeleteMethod, m.Undelete)
	handle(s, &setAttrMethod, m.SetAttr)
	handle(s, &keepTrashMethod, noReply(m.KeepTrash))
}

// noReply makes a handler with a reply out of one that has none.
func noReply[Q any](fn func(context.Context, *Q) error) func(context.Context, *Q) (*nothing, error) {
	return func(ctx context.Context, q *Q) (*nothing, error) { return &nothing{}, fn(ctx, q) }
}

// noRequest makes a handler with a request out of one that has none.
func noRequest[R any](fn func(context.Context) (*R, error)) func(context.Context, *nothing) (*R, error) {
	return func(ctx context.Context, _ *nothing) (*R, error) { return fn(ctx) }
}

// Master returns the master at an address. It connects at the first call. If the master
// cannot be reached or is lost before it has answered, calls fail with Unavailable.
func (c *Client) Master(address string) quarry.Master { return &masterStub{stub{c, address}} }

// stub is the client's end of an interface.
type stub struct {
	client  *Client
	address string
}

// do sends a small request.
func do[Q, R any](ctx context.Context, s stub, m *method[Q, R], q *Q) (*R, error) {
	return roundTrip(ctx, s.client, s.address, Route{Lane: LaneControl}, m, q)
}

type masterStub struct{ stub }

var _ quarry.Master = (*masterStub)(nil)

func (s *masterStub) Session(ctx context.Context, req *quarry.SessionRequest) (*quarry.SessionReply, error) {
	return do(ctx, s.stub, &sessionMethod, req)
}

func (s *masterStub) Lookup(ctx context.Context, req *quarry.LookupRequest) (*quarry.LookupReply, error) {
	return do(ctx, s.stub, &lookupMethod, req)
}

func (s *masterStub) Stat(ctx context.Context, req *quarry.StatRequest) (*quarry.StatReply, error) {
	return do(ctx, s.stub, &statMethod, req)
}

func (s *masterStub) List(ctx context.Context, req *quarry.ListRequest) (*quarry.ListReply, error) {
	return do(ctx, s.stub, &listMethod, req)
}

func (s *masterStub) Make(ctx context.Context, req *quarry.MakeRequest) (*quarry.AttrReply, error) {
	return do(ctx, s.stub, &makeMethod, req)
}

func (s *masterStub) Link(ctx context.Context, req *quarry.LinkRequest) (*quarry.AttrReply, error) {
	return do(ctx, s.stub, &linkMethod, req)
}

func (s *masterStub) Rename(ctx context.Context, req *quarry.RenameRequest) (*quarry.AttrReply, error) {
	return do(ctx, s.stub, &renameMethod, req)
}

func (s *masterStub) Remove(ctx context.Context, req *quarry.RemoveRequest) error {
	_, err := do(ctx, s.stub, &removeMethod, req)
	return err
}

func (s *masterStub) Locate(ctx context.Context, req *quarry.LocateRequest) (*quarry.LocateReply, error) {
	return do(ctx, s.stub, &locateMethod, req)
}

func (s *masterStub) Roll(ctx context.Context, req *quarry.RollRequest) (*quarry.RollReply, error) {
	return do(ctx, s.stub, &rollMethod, req)
}

func (s *masterStub) Allocate(ctx context.Context, req *quarry.AllocateRequest) (*quarry.AllocateReply, error) {
	return do(ctx, s.stub, &allocateMethod, req)
}

func (s *masterStub) Finish(ctx context.Context, req *quarry.FinishRequest) (*quarry.ChunkReply, error) {
	return do(ctx, s.stub, &finishMethod, req)
}

func (s *masterStub) Chunk(ctx context.Context, req *quarry.ChunkRequest) (*quarry.ChunkReply, error) {
	return do(ctx, s.stub, &chunkMethod, req)
}

func (s *masterStub) Report(ctx context.Context, req *quarry.ReportRequest) error {
	_, err := do(ctx, s.stub, &reportMethod, req)
	return err
}

func (s *masterStub) Register(ctx context.Context, req *quarry.RegisterRequest) (*quarry.RegisterReply, error) {
	return do(ctx, s.stub, &registerMethod, req)
}

func (s *masterStub) Heartbeat(ctx context.Context, req *quarry.HeartbeatRequest) (*quarry.HeartbeatReply, error) {
	return do(ctx, s.stub, &heartbeatMethod, req)
}

func (s *masterStub) Inventory(ctx context.Context, req *quarry.InventoryRequest) (*quarry.InventoryReply, error) {
	return do(ctx, s.stub, &inventoryMethod, req)
}

func (s *masterStub) Topology(ctx context.Context) (*quarry.TopologyReply, error) {
	return do(ctx, s.stub, &topologyMethod, &nothing{})
}

func (s *masterStub) Status(ctx context.Context) (*quarry.StatusReply, error) {
	return do(ctx, s.stub, &statusMethod, &nothing{})
}

func (s *masterStub) Identify(ctx context.Context) (*quarry.IdentifyReply, error) {
	return do(ctx, s.stub, &identifyMethod, &nothing{})
}

func (s *masterStub) Init(ctx context.Context, req *quarry.InitRequest) error {
	_, err := do(ctx, s.stub, &initMethod, req)
	return err
}

func (s *masterStub) Join(ctx context.Context, req *quarry.JoinRequest) error {
	_, err := do(ctx, s.stub, &joinMethod, req)
	return err
}

func (s *masterStub) Replace(ctx context.Context, req *quarry.ReplaceRequest) (*quarry.ReplaceReply, error) {
	return do(ctx, s.stub, &replaceMethod, req)
}

func (s *masterStub) Transfer(ctx context.Context, req *quarry.TransferRequest) error {
	_, err := do(ctx, s.stub, &transferMethod, req)
	return err
}

func (s *masterStub) AddShard(ctx context.Context, req *quarry.AddShardRequest) error {
	_, err := do(ctx, s.stub, &addShardMethod, req)
	return err
}

func (s *masterStub) MoveSlots(ctx context.Context, req *quarry.MoveSlotsRequest) (*quarry.MoveSlotsReply, error) {
	return do(ctx, s.stub, &moveSlotsMethod, req)
}

func (s *masterStub) Removed(ctx context.Context, req *quarry.RemovedRequest) (*quarry.RemovedReply, error) {
	return do(ctx, s.stub, &removedMethod, req)
}

func (s *masterStub) Undelete(ctx context.Context, req *quarry.UndeleteRequest) (*quarry.AttrReply, error) {
	return do(ctx, s.stub, &undeleteMethod, req)
}

func (s *masterStub) SetAttr(ctx context.Context, req *quarry.SetAttrRequest) (*quarry.AttrReply, error) {
	return do(ctx, s.stub, &setAttrMethod, req)
}

func (s *masterStub) KeepTrash(ctx context.Context, req *quarry.TrashRequest) error {
	_, err := do(ctx, s.stub, &keepTrashMethod, req)
	return err
}
