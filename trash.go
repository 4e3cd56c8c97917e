package quarry

// RemovedMax is the most files that one Removed returns.
const RemovedMax = 128

// RemovedRequest asks a shard for files that were removed and can be brought back.
type RemovedRequest struct {
	Shard ShardID
	Path  string // only files that were called so, or were below it; "" or "/": all
	// After and AfterFile are where the page before ended; 0: this is the first one.
	After     uint64
	AfterFile Inode
	Max       int // 1 to RemovedMax
}

// RemovedFile is a file in the trash.
type RemovedFile struct {
	Inode Inode
	Path  string // what it was called by whoever removed or replaced it
	Mode  uint32
	// Length lacks what has yet to be sealed; RemovedNS is wall time, to be shown.
	Length, RemovedNS int64
}

// RemovedReply is a page of the trash of a shard, in the order in which files were removed. It may
// be empty though there is more.
type RemovedReply struct {
	Files     []RemovedFile
	More      bool
	After     uint64
	AfterFile Inode
	KeepMS    int64 // how long files are kept at present
}

// UndeleteRequest gives a removed file a name.
type UndeleteRequest struct {
	Op
	Parent, Inode Inode
	Name          string
}

// TrashRequest sets how long removed files are kept. They are kept at least as long as sessions
// live, and when every disk is full not longer than that.
type TrashRequest struct {
	KeepMS int64 // 1 to TrashKeepMax
}

// TrashKeepMax is the longest time for which removed files are kept, in milliseconds: ten years.
const TrashKeepMax = 10 * 365 * 24 * 3600 * 1000
