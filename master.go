package quarry

import "context"

// Master keeps names, layouts and chunk records. Clients, chunk servers and operators call
// it, in process or over the network.
//
// Every answer is linearizable: it tells of a state that was the newest at some instant
// between call and return. A request is served by the leader of the shard that owns the
// slot of the inode or handle it names; another node refuses it with NotLeader, which names
// the leader if it is known, or with WrongShard, which tells the version of the slot map that
// it was refused by. A request with an [Op] goes to the shard of its session's slot instead, where
// it is known whether it was done before; WrongShard because of another slot says that it was not,
// and that a session at another shard is to do it. A mutation carries an [Op], or says why it
// needs none; sent again with the same Op it gives its first result; SessionExpired or
// Unknown if that cannot be told any more. Busy and Unavailable: nothing is known to have
// been done, try again. All methods may be called by many goroutines.
type Master interface {
	// Session opens, keeps alive or ends a client's session at a shard.
	Session(ctx context.Context, req *SessionRequest) (*SessionReply, error)

	// Lookup walks a path as far as the shard owns its directories. NotFound names the
	// first name that is missing, NotDir the first that is no directory.
	Lookup(ctx context.Context, req *LookupRequest) (*LookupReply, error)
	// Stat returns the attributes of an inode and its open tail.
	Stat(ctx context.Context, req *StatRequest) (*StatReply, error)
	// List returns a page of a directory.
	List(ctx context.Context, req *ListRequest) (*ListReply, error)
	// Make makes an empty file or a directory. Exists, NotFound (the parent), NotDir.
	Make(ctx context.Context, req *MakeRequest) (*AttrReply, error)
	// Link publishes sealed chunks of the session as a file, in one step.
	Link(ctx context.Context, req *LinkRequest) (*AttrReply, error)
	// Rename moves a name; a directory cannot be moved below itself (Invalid).
	Rename(ctx context.Context, req *RenameRequest) (*AttrReply, error)
	// Remove removes a file or an empty directory. A file goes into the trash, unless it is said
	// that it is not to be kept.
	Remove(ctx context.Context, req *RemoveRequest) error
	// SetAttr sets attributes that are kept to be shown. NotFound: it is gone, or in the trash.
	SetAttr(ctx context.Context, req *SetAttrRequest) (*AttrReply, error)
	// Removed returns a page of the files in the trash of a shard.
	Removed(ctx context.Context, req *RemovedRequest) (*RemovedReply, error)
	// Undelete gives a file in the trash a name again, whole and in one step. NotFound: the
	// directory is gone, or the file is not in the trash (any more). Exists: the name is taken.
	Undelete(ctx context.Context, req *UndeleteRequest) (*AttrReply, error)

	// Locate returns a page of a file's layout with the chunks and their replicas.
	Locate(ctx context.Context, req *LocateRequest) (*LocateReply, error)
	// Roll returns the chunk in which a file can be appended to; see [RollRequest]. It does
	// not return before the chunk is logged and its primary active.
	Roll(ctx context.Context, req *RollRequest) (*RollReply, error)
	// Allocate makes open chunks that the session owns; they are garbage when it ends.
	Allocate(ctx context.Context, req *AllocateRequest) (*AllocateReply, error)
	// Finish seals a chunk of the session, and returns it sealed. Needs no Op: a sealed
	// chunk is returned as it is.
	Finish(ctx context.Context, req *FinishRequest) (*ChunkReply, error)
	// Chunk returns a chunk's record.
	Chunk(ctx context.Context, req *ChunkRequest) (*ChunkReply, error)
	// Report tells of silent members or corrupt replicas. It returns when it is noted.
	Report(ctx context.Context, req *ReportRequest) error

	// Register gives a chunk server's process its incarnation; served by the root group.
	Register(ctx context.Context, req *RegisterRequest) (*RegisterReply, error)
	// Heartbeat renews a server's leases at the shards that this node leads.
	Heartbeat(ctx context.Context, req *HeartbeatRequest) (*HeartbeatReply, error)
	// Inventory reconciles a page of a server's replicas with the shard's records.
	Inventory(ctx context.Context, req *InventoryRequest) (*InventoryReply, error)

	// Topology tells where every slot lives. Any node answers, as far as it knows.
	Topology(ctx context.Context) (*TopologyReply, error)
	// Status tells the health of the cluster as this node knows it.
	Status(ctx context.Context) (*StatusReply, error)
	// Identify tells what this process is; it is answered before there is a cluster.
	Identify(ctx context.Context) (*IdentifyReply, error)
	// Init makes a waiting master a member of a new cluster; see [InitRequest].
	Init(ctx context.Context, req *InitRequest) error
	// Join makes a waiting master a member of an existing cluster.
	Join(ctx context.Context, req *JoinRequest) error
	// Replace has new masters take the place of others, in one group; either may be none. It
	// returns when the new ones have a vote there and the others have none, or with Busy while
	// the new ones are catching up: ask again. The same request again succeeds. A leader that is
	// to go hands the leadership over and answers NotLeader. Invalid: too few of the voters that
	// would be left are heard from.
	Replace(ctx context.Context, req *ReplaceRequest) (*ReplaceReply, error)
	// Transfer moves the leadership of a group from this node, which leads it, to another voter.
	// It returns when the other one leads; nothing that was acknowledged is touched, and
	// clients wait for as long as the change takes. The same request again succeeds. Invalid:
	// the node has no vote there. Unavailable: it did not take over, and who led leads on.
	Transfer(ctx context.Context, req *TransferRequest) error
	// AddShard makes a further shard, without slots, on all masters that have a vote in the root
	// group. It returns when that is logged; its leader is there soon after.
	AddShard(ctx context.Context, req *AddShardRequest) error
	// MoveSlots begins to move slots to another shard, has moves undone, switches the balancer,
	// and tells what moves are under way; served by the root group. It returns when that is logged.
	// The same request again begins what is left of it.
	MoveSlots(ctx context.Context, req *MoveSlotsRequest) (*MoveSlotsReply, error)
	// KeepTrash sets how long removed files are kept, in the whole cluster, from now on and for
	// those that are in the trash already. It returns when that is logged.
	KeepTrash(ctx context.Context, req *TrashRequest) error
}
