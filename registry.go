package quarry

import "hash/fnv"

// MasterNode is a master as the root group knows it.
type MasterNode struct {
	Node    NodeID
	Disk    DiskID
	Address string
}

// ShardInfo is where a shard is served.
type ShardInfo struct {
	Shard ShardID
	// Leader is 0 if it is not known. Voters are as the node knows them. Members, in the answer of
	// the leader only, are the voters, the learners, and those on their way out, who still count.
	Leader          NodeID
	Voters, Members []NodeID
	Slots           []SlotRange
}

// SlotRange is the slots from First to Last, both included.
type SlotRange struct{ First, Last Slot }

// TopologyReply tells where every slot lives.
type TopologyReply struct {
	Cluster ClusterID
	Version uint64 // grows with every change of the slot map
	Masters []MasterNode
	Shards  []ShardInfo
	// Numbered is the highest number that a master was ever given: a master with such a number
	// that is not among Masters was removed.
	Numbered NodeID
	// Applied is how far the node has come in the root group's log, at least: of two answers of
	// the same Version the masters of the one that is further are the present ones.
	Applied uint64
}

// SumMasters returns a number by which two lists of masters' addresses can be compared, in
// whatever order they are; never 0.
func SumMasters(addresses []string) uint64 {
	sum := uint64(len(addresses))
	for _, a := range addresses {
		h := fnv.New64a()
		_, _ = h.Write([]byte(a)) // it cannot fail
		sum += h.Sum64()
	}
	return max(sum, 1)
}

// IdentifyReply tells what a master process is, before and after it belongs to a cluster.
type IdentifyReply struct {
	Disk             DiskID
	Address, Release string
	Init             *InitRequest // how its cluster was made; nil if it waits to be given one
	Node             NodeID
	Level            uint32 // the process's FeatureLevel
}

// InitRequest makes a waiting master a member of a new cluster. Every master is sent the
// same request; a repeated one succeeds, a different one is refused.
type InitRequest struct {
	Cluster ClusterID
	Masters []MasterNode
	Shards  int // shards beside the root group
	Key     Key // the first capability key
}

// JoinRequest makes a waiting master a member of an existing cluster.
type JoinRequest struct {
	Cluster ClusterID
	Node    MasterNode
	Masters []MasterNode // where the others are
	Shards  []ShardID    // the groups that it is to be a member of, the root group included
}

// ReplaceRequest has one group take new masters in the place of others that are gone, in one
// change; either list may be empty. With new masters the root group comes first: it gives them
// their numbers, with which they are then sent to every shard. At the end the root group is
// asked once more, with Gone alone: it forgets those masters, which end when they hear of it.
type ReplaceRequest struct {
	Shard ShardID
	Gone  []NodeID
	New   []MasterNode // Node 0, at the root group: give it the next number
}

// ReplaceReply names the nodes that were added, in the order of the request.
type ReplaceReply struct{ New []MasterNode }

// TransferRequest asks a group's leader to hand its leadership over.
type TransferRequest struct {
	Shard ShardID // the root group is shard 0
	To    NodeID
}

// AddShardRequest adds a shard that has no slots yet. Its number is the highest one plus 1; a
// repeated request succeeds.
type AddShardRequest struct{ Shard ShardID }

// MoveSlotsRequest says which slots are to be where. An empty one only asks.
type MoveSlotsRequest struct {
	To      ShardID
	Slots   []SlotRange // in order; those that another move concerns, or that are there, stay as they are
	Cancel  uint64      // a move that is to be undone; not while Slots are named
	Balance Switch      // whether the masters move slots by themselves
}

// Switch changes a setting, or leaves it as it is.
type Switch uint8

// The ways to change a setting.
const (
	SwitchLeave Switch = 0
	SwitchOn    Switch = 1
	SwitchOff   Switch = 2
)

// MoveSlotsReply tells of the moves in the cluster.
type MoveSlotsReply struct {
	Left    int64      // of the request's slots: how many the slot map does not give to the shard yet
	Moves   []SlotMove // under way
	Ended   []SlotMove // lately, the last one last; as far as the present leader remembers them
	Balance bool
	Weights []ShardWeight // as the balancer has last seen them, if it has
}

// MoveStep is how far a move is.
type MoveStep uint8

// The steps of a move.
const (
	MoveBegun    MoveStep = 1
	MoveCopying  MoveStep = 2
	MoveReleased MoveStep = 3 // nobody answers for the slots until the rest is copied
	MoveDone     MoveStep = 4
	MoveUndoing  MoveStep = 5
	MoveUndone   MoveStep = 6
)

func (s MoveStep) String() string {
	return [...]string{"unknown", "begun", "copying", "switching", "done", "undoing", "undone"}[min(s, 6)]
}

// SlotMove is a move of slots from one shard to another.
type SlotMove struct {
	Move     uint64
	From, To ShardID
	Slots    []SlotRange
	Step     MoveStep
	Records  int64 // copied, as far as the present leader of From has done it
	PauseUS  int64 // of a move that is done: microseconds in which nobody answered for the slots; 0: not known
}

// ShardWeight is what the balancer goes by: files, directories and chunks of a shard.
type ShardWeight struct {
	Shard         ShardID
	Weight, Slots int64
}

// SlotMovesMax bounds the moves that a reply tells of, of each kind.
const SlotMovesMax = 64

// DiskUsage is the state of a server's disk.
type DiskUsage struct {
	Disk        DiskID
	Total, Free int64 // bytes; Free without the reserve
	Chunks      int64
	Failed      string // why the disk was retired; "" while it is used
}

// RegisterRequest makes a chunk server's process known to the cluster, once: the same process
// is given the same incarnation again, and one that another process of the server has
// followed is refused with StaleVersion.
type RegisterRequest struct {
	Server        ServerID // 0: a server that has none yet
	Disks         []DiskUsage
	Boot          string // the host's boot id: an old process of the same boot that held the folder lock is gone
	Address, Rack string
	Last          Incarnation // the highest one that the disks have seen
	Release       string
	Process       ProcessID // of this start: who asks again gets the first answer
}

// RegisterReply gives the process its identity.
type RegisterReply struct {
	Server      ServerID
	Incarnation Incarnation
	Keys        Keys
}

// ItemKind says what an item of a grant asks for.
type ItemKind uint8

// The kinds of items.
const (
	ItemFence ItemKind = 1 // promise Version
	ItemDrop  ItemKind = 2 // drop the replica at Version
	ItemMark  ItemKind = 3 // mark the replica MUTABLE
)

// Item is something that a server must have done, durably, before a lease is valid.
type Item struct {
	Kind    ItemKind
	Handle  Handle
	Version Version
}

// ItemsMax bounds the items of a grant and of a heartbeat.
const ItemsMax = 1000

// HeartbeatRequest is sent by a chunk server to each master node, twice a second, for all
// shards that the node leads.
type HeartbeatRequest struct {
	Server        ServerID
	Incarnation   Incarnation
	Boot          string
	Nonce         uint64
	Address, Rack string
	Disks         []DiskUsage
	Settled       []Item // items done since the last heartbeat that was answered
	BusyBytes     int64  // bytes in flight: its load

	// The server's clock, by which the node measures how its rate differs from its own. All
	// are instants in nanoseconds; 0: unknown.
	Sent     int64  // when this heartbeat is sent
	Answered uint64 // the nonce of the last heartbeat to this node that was answered
	Received int64  // when that answer came
}

// HeartbeatReply carries a grant for each shard that the node leads.
type HeartbeatReply struct {
	Nonce  uint64
	Grants []Grant
	// Masters is the sum of the addresses of all masters that the node knows, see SumMasters:
	// who knows others asks for the topology. 0: not said.
	Masters uint64
}

// Grant gives a server the leases of one shard, counted from the instant at which it sent
// the heartbeat, once it has settled the items. With More set there is no lease yet. It is good
// for the chunks of Slots, those that the shard owns by its own log, and for no others, whatever
// an earlier grant of the shard said.
type Grant struct {
	Shard  ShardID
	Term   uint64
	Slots  []SlotRange
	EndMS  int64 // the right to say where an open chunk ends
	ReadMS int64 // the right to answer reads that are not validated
	Items  []Item
	More   bool
}

// ReplicaInfo is a replica as its server reports it.
type ReplicaInfo struct {
	Handle                            Handle
	Disk                              DiskID
	Promised, LogVersion, SealVersion Version
	Length                            int64 // sealed length, or durable length
	Status                            ReplicaStatus
	Serving, Mutable                  bool
}

// InventoryRequest is a page of a server's replicas of one shard, in the order of handles.
type InventoryRequest struct {
	Server      ServerID
	Incarnation Incarnation
	Shard       ShardID
	Replicas    []ReplicaInfo // at most InventoryMax
	From, To    Handle        // the page speaks for all handles in [From, To]
}

// InventoryMax bounds a page of an inventory.
const InventoryMax = 4096

// InventoryReply tells what to drop; all else the master does itself.
type InventoryReply struct {
	Drop []Item
}

// StatusReply is the health of the cluster as one master sees it.
type StatusReply struct {
	Cluster ClusterID
	Node    NodeID
	Masters []MasterStatus
	Shards  []ShardStatus
	Servers []ServerStatus
	TrashMS int64 // how long removed files are kept
}

// MasterStatus is a master node's health.
type MasterStatus struct {
	MasterNode
	Alive bool
}

// ShardStatus is a shard's health.
type ShardStatus struct {
	Shard         ShardID
	Leader        NodeID
	Term, Applied uint64
	Inodes        int64
	Chunks        int64
	OpenChunks    int64
	Missing       int64 // chunks with no replica known to be good
	UnderCopied   int64 // sealed chunks with fewer replicas than they should have
	Repairing     int64
	Suspect       int64 // chunks sealed with an alarm
	Slots         int64 // how many it owns
	// Removed are the files in the trash, Freeing those that cannot be brought back; and their bytes, of one copy each.
	Removed, RemovedSize, Freeing, FreeingSize int64
	Voters                                     []NodeID
	Changing                                   bool // a change of several voters is agreed on and not complete
	// Learners are masters that are to become voters when they have caught up.
	Learners []LearnerStatus
	// Lacking are some of the chunks that are missing or under-copied, at most LackingMax; only
	// the shard's leader tells them, and how many are under repair.
	Lacking []Lack
}

// LearnerStatus is a master that is catching up with a group.
type LearnerStatus struct {
	Node NodeID
	Lag  int64 // log entries that it lacks; -1: it gets a snapshot, is silent, or it is not known
}

// LackingMax bounds the chunks that a shard's status names.
const LackingMax = 16

// Lack is a chunk with too few replicas.
type Lack struct {
	Handle         Handle
	Copies, Wanted int
	Why            string // for people
}

// ServerStatus is a chunk server's health.
type ServerStatus struct {
	Server        ServerID
	Incarnation   Incarnation
	Address, Rack string
	SilentMS      int64 // since its last heartbeat; -1 if none came to this leader
	Disks         []DiskUsage
	// DriftPPM is how much slower (or faster, if it is negative) than this master's clock the
	// server's surely runs, in millionths; 0 if that is not sure.
	DriftPPM int64
	// Leaseless tells that the server gets no leases, because its clock drifts too much.
	Leaseless bool
}
