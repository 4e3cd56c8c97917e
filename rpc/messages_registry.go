package rpc

import (
	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/wire"
)

func registerRequestFields(w *wire.Walk, m *quarry.RegisterRequest) {
	wire.Uint(w, 1, &m.Server)
	wire.List(w, 2, &m.Disks, disksMax, diskUsageFields)
	wire.String(w, 3, &m.Boot, bootMax)
	wire.String(w, 4, &m.Address, addressMax)
	wire.String(w, 5, &m.Rack, rackMax)
	wire.Uint(w, 6, &m.Last)
	wire.String(w, 7, &m.Release, releaseMax)
	wire.Fixed16(w, 8, &m.Process)
}

func registerReplyFields(w *wire.Walk, m *quarry.RegisterReply) {
	wire.Uint(w, 1, &m.Server)
	wire.Uint(w, 2, &m.Incarnation)
	wire.List(w, 3, (*[]quarry.Key)(&m.Keys), keysMax, keyFields)
}

func heartbeatRequestFields(w *wire.Walk, m *quarry.HeartbeatRequest) {
	wire.Uint(w, 1, &m.Server)
	wire.Uint(w, 2, &m.Incarnation)
	wire.String(w, 3, &m.Boot, bootMax)
	wire.Uint(w, 4, &m.Nonce)
	wire.String(w, 5, &m.Address, addressMax)
	wire.String(w, 6, &m.Rack, rackMax)
	wire.List(w, 7, &m.Disks, disksMax, diskUsageFields)
	wire.List(w, 8, &m.Settled, quarry.ItemsMax, itemFields)
	wire.Uint(w, 9, &m.BusyBytes)
	wire.Uint(w, 10, &m.Sent)
	wire.Uint(w, 11, &m.Answered)
	wire.Uint(w, 12, &m.Received)
}

func heartbeatReplyFields(w *wire.Walk, m *quarry.HeartbeatReply) {
	wire.Uint(w, 1, &m.Nonce)
	wire.List(w, 2, &m.Grants, shardsMax, grantFields)
	wire.Uint(w, 3, &m.Masters)
}

func grantFields(w *wire.Walk, m *quarry.Grant) {
	wire.Uint(w, 1, &m.Shard)
	wire.Uint(w, 2, &m.Term)
	wire.List(w, 3, &m.Slots, quarry.Slots, wire.SlotRangeFields)
	wire.Uint(w, 4, &m.EndMS)
	wire.Uint(w, 5, &m.ReadMS)
	wire.List(w, 6, &m.Items, quarry.ItemsMax, itemFields)
	wire.Bool(w, 7, &m.More)
}

func replicaFields(w *wire.Walk, m *quarry.ReplicaInfo) {
	wire.Uint(w, 1, &m.Handle)
	wire.Fixed16(w, 2, &m.Disk)
	wire.Uint(w, 3, &m.Promised)
	wire.Uint(w, 4, &m.LogVersion)
	wire.Uint(w, 5, &m.SealVersion)
	wire.Uint(w, 6, &m.Length)
	wire.Uint(w, 7, &m.Status)
	wire.Bool(w, 8, &m.Serving)
	wire.Bool(w, 9, &m.Mutable)
}

func inventoryRequestFields(w *wire.Walk, m *quarry.InventoryRequest) {
	wire.Uint(w, 1, &m.Server)
	wire.Uint(w, 2, &m.Incarnation)
	wire.Uint(w, 3, &m.Shard)
	wire.List(w, 4, &m.Replicas, quarry.InventoryMax, replicaFields)
	wire.Uint(w, 5, &m.From)
	wire.Uint(w, 6, &m.To)
}

func inventoryReplyFields(w *wire.Walk, m *quarry.InventoryReply) {
	wire.List(w, 1, &m.Drop, quarry.InventoryMax, itemFields)
}

func topologyReplyFields(w *wire.Walk, m *quarry.TopologyReply) {
	wire.Fixed16(w, 1, &m.Cluster)
	wire.Uint(w, 2, &m.Version)
	wire.List(w, 3, &m.Masters, mastersMax, masterNodeFields)
	wire.List(w, 4, &m.Shards, shardsMax, shardInfoFields)
	wire.Uint(w, 5, &m.Numbered)
	wire.Uint(w, 6, &m.Applied)
}

func shardInfoFields(w *wire.Walk, m *quarry.ShardInfo) {
	wire.Uint(w, 1, &m.Shard)
	wire.Uint(w, 2, &m.Leader)
	wire.Uints(w, 3, &m.Voters, votersMax)
	wire.List(w, 4, &m.Slots, quarry.Slots, wire.SlotRangeFields)
	wire.Uints(w, 5, &m.Members, 2*votersMax)
}

func statusReplyFields(w *wire.Walk, m *quarry.StatusReply) {
	wire.Fixed16(w, 1, &m.Cluster)
	wire.Uint(w, 2, &m.Node)
	wire.List(w, 3, &m.Masters, mastersMax, masterStatusFields)
	wire.List(w, 4, &m.Shards, shardsMax, shardStatusFields)
	wire.List(w, 5, &m.Servers, serversMax, serverStatusFields)
	wire.Uint(w, 20, &m.TrashMS)
}

func masterStatusFields(w *wire.Walk, m *quarry.MasterStatus) {
	wire.Message(w, 1, &m.MasterNode, masterNodeFields)
	wire.Bool(w, 2, &m.Alive)
}

func shardStatusFields(w *wire.Walk, m *quarry.ShardStatus) {
	wire.Uint(w, 1, &m.Shard)
	wire.Uint(w, 2, &m.Leader)
	wire.Uint(w, 3, &m.Term)
	wire.Uint(w, 4, &m.Applied)
	wire.Uint(w, 5, &m.Inodes)
	wire.Uint(w, 6, &m.Chunks)
	wire.Uint(w, 7, &m.OpenChunks)
	wire.Uint(w, 8, &m.Missing)
	wire.Uint(w, 9, &m.UnderCopied)
	wire.Uint(w, 10, &m.Repairing)
	wire.Uint(w, 11, &m.Suspect)
	wire.Uint(w, 12, &m.Slots)
	wire.List(w, 13, &m.Lacking, quarry.LackingMax, lackFields)
	wire.Uints(w, 14, &m.Voters, votersMax)
	wire.Bool(w, 15, &m.Changing)
	wire.List(w, 16, &m.Learners, votersMax, learnerStatusFields)
	wire.Uint(w, 20, &m.Removed)
	wire.Uint(w, 21, &m.RemovedSize)
	wire.Uint(w, 22, &m.Freeing)
	wire.Uint(w, 23, &m.FreeingSize)
}

func learnerStatusFields(w *wire.Walk, m *quarry.LearnerStatus) {
	wire.Uint(w, 1, &m.Node)
	wire.Uint(w, 2, &m.Lag)
}

func lackFields(w *wire.Walk, m *quarry.Lack) {
	wire.Uint(w, 1, &m.Handle)
	wire.Uint(w, 2, &m.Copies)
	wire.Uint(w, 3, &m.Wanted)
	wire.String(w, 4, &m.Why, errorTextMax)
}

func serverStatusFields(w *wire.Walk, m *quarry.ServerStatus) {
	wire.Uint(w, 1, &m.Server)
	wire.Uint(w, 2, &m.Incarnation)
	wire.String(w, 3, &m.Address, addressMax)
	wire.String(w, 4, &m.Rack, rackMax)
	wire.Uint(w, 5, &m.SilentMS)
	wire.List(w, 6, &m.Disks, disksMax, diskUsageFields)
	wire.Uint(w, 7, &m.DriftPPM)
	wire.Bool(w, 8, &m.Leaseless)
}

func identifyReplyFields(w *wire.Walk, m *quarry.IdentifyReply) {
	wire.Fixed16(w, 1, &m.Disk)
	wire.String(w, 2, &m.Address, addressMax)
	wire.String(w, 3, &m.Release, releaseMax)
	wire.Optional(w, 4, &m.Init, initRequestFields)
	wire.Uint(w, 5, &m.Node)
	wire.Uint(w, 6, &m.Level)
}

func initRequestFields(w *wire.Walk, m *quarry.InitRequest) {
	wire.Fixed16(w, 1, &m.Cluster)
	wire.List(w, 2, &m.Masters, mastersMax, masterNodeFields)
	wire.Uint(w, 3, &m.Shards)
	wire.Message(w, 4, &m.Key, keyFields)
}

func joinRequestFields(w *wire.Walk, m *quarry.JoinRequest) {
	wire.Fixed16(w, 1, &m.Cluster)
	wire.Message(w, 2, &m.Node, masterNodeFields)
	wire.List(w, 3, &m.Masters, mastersMax, masterNodeFields)
	wire.Uints(w, 4, &m.Shards, shardsMax)
}

func replaceRequestFields(w *wire.Walk, m *quarry.ReplaceRequest) {
	wire.Uint(w, 3, &m.Shard)
	wire.Uints(w, 4, &m.Gone, mastersMax)
	wire.List(w, 5, &m.New, mastersMax, masterNodeFields)
}

func replaceReplyFields(w *wire.Walk, m *quarry.ReplaceReply) {
	wire.List(w, 2, &m.New, mastersMax, masterNodeFields)
}

func transferRequestFields(w *wire.Walk, m *quarry.TransferRequest) {
	wire.Uint(w, 1, &m.Shard)
	wire.Uint(w, 2, &m.To)
}

func addShardRequestFields(w *wire.Walk, m *quarry.AddShardRequest) { wire.Uint(w, 1, &m.Shard) }

func moveSlotsRequestFields(w *wire.Walk, m *quarry.MoveSlotsRequest) {
	wire.Uint(w, 1, &m.To)
	wire.List(w, 2, &m.Slots, quarry.Slots, wire.SlotRangeFields)
	wire.Uint(w, 3, &m.Cancel)
	wire.Uint(w, 4, &m.Balance)
}

func moveSlotsReplyFields(w *wire.Walk, m *quarry.MoveSlotsReply) {
	wire.Uint(w, 1, &m.Left)
	wire.List(w, 2, &m.Moves, quarry.SlotMovesMax, slotMoveFields)
	wire.List(w, 3, &m.Ended, quarry.SlotMovesMax, slotMoveFields)
	wire.Bool(w, 4, &m.Balance)
	wire.List(w, 5, &m.Weights, shardsMax, shardWeightFields)
}

func slotMoveFields(w *wire.Walk, m *quarry.SlotMove) {
	wire.Uint(w, 1, &m.Move)
	wire.Uint(w, 2, &m.From)
	wire.Uint(w, 3, &m.To)
	wire.List(w, 4, &m.Slots, quarry.Slots, wire.SlotRangeFields)
	wire.Uint(w, 5, &m.Step)
	wire.Uint(w, 6, &m.Records)
	wire.Uint(w, 7, &m.PauseUS)
}

func shardWeightFields(w *wire.Walk, m *quarry.ShardWeight) {
	wire.Uint(w, 1, &m.Shard)
	wire.Uint(w, 2, &m.Weight)
	wire.Uint(w, 3, &m.Slots)
}
