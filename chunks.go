package quarry

// ChunkRef names a chunk in a request to a chunk server. A server refuses, with
// StaleVersion, a request that was meant for another incarnation of it and, where the
// operation says so, one of another version; so a delayed request can never act on
// something it does not know.
type ChunkRef struct {
	Handle     Handle
	Version    Version
	Target     Incarnation // the incarnation of the server that is addressed
	Capability Capability
}

// Member is a replica of a chunk as the master's log names it.
type Member struct {
	Server      ServerID
	Incarnation Incarnation
	Disk        DiskID
	Address     string // host:port, from the registry of servers; not part of the identity
	Rack        string
}

// ChunkState is the state of a chunk at its master.
type ChunkState uint8

// The states of a chunk.
const (
	ChunkOpen    ChunkState = 1 // one writable version; Members must all acknowledge
	ChunkSealing ChunkState = 2 // fenced; its length is being decided
	ChunkSealed  ChunkState = 3 // Length bytes, for ever; Members are its complete replicas
	ChunkLost    ChunkState = 4 // no replica is left; only an operator can give it up
)

func (s ChunkState) String() string {
	return [...]string{"none", "open", "sealing", "sealed", "lost"}[min(s, 4)]
}

// Chunk is what a master tells of a chunk.
type Chunk struct {
	Handle          Handle
	State           ChunkState
	Version         Version
	WritableVersion Version // the last writable version
	Length          int64   // of a sealed chunk
	CRC             uint32  // CRC32C of a sealed chunk's bytes; valid if CRCKnown
	CRCKnown        bool
	Mutable         bool     // reads must be validated; always false until overwrites are offered
	Members         []Member // open: chain order, the primary first; sealed: replicas, nearest to the caller first
	Capability      Capability
}

// Primary returns the member that orders the appends of an open chunk.
func (c *Chunk) Primary() Member {
	if len(c.Members) == 0 {
		return Member{}
	}
	return c.Members[0]
}

// CreateRequest makes an empty replica of a new chunk at version 1.
type CreateRequest struct {
	ChunkRef
	Disk     DiskID // where the replica is to live
	Mutable  bool
	File     Inode  // 0 for a chunk that a session owns
	Position int64  // of the chunk's first byte in the file
	Hint     string // the file's path, for whoever must rebuild a namespace from disks
}

// ReopenRequest makes a sealed replica a member of a further writable version: that of
// ChunkRef, which follows the seal's. The server's incarnation and disk are those that the
// master's log names.
type ReopenRequest struct {
	ChunkRef
	Base                int64   // the sealed length, at which the version begins
	PrevWritableVersion Version // the one that the seal ended
}

// ActivateRequest gives a member the role of primary.
type ActivateRequest struct {
	ChunkRef
	Members []Member // all members of the version, the primary itself first
	Base    int64    // length at which the version begins
}

// AppendRequest appends one record.
type AppendRequest struct {
	ChunkRef
	Session  SessionID
	Sequence Sequence // of the session in this file
	Oldest   Sequence // the session's oldest unsettled sequence in this file
	CRCs     []uint32 // CRC32C of each 64 KiB part of Data
	Data     []byte   // 1 to RecordBytesMax bytes; unchanged until done is called
}

// AppendReply says where a committed record stands.
type AppendReply struct {
	Offset int64 // of the record's first byte in the chunk
}

// RecordHeader describes one record of a batch.
type RecordHeader struct {
	Session  SessionID
	Sequence Sequence
	Length   int64
	CRCs     []uint32 // as in AppendRequest
}

// PrepareRequest carries a batch of records down the chain.
type PrepareRequest struct {
	ChunkRef
	Batch   uint64 // 1, 2, … in the version, without a gap
	Offset  int64  // of the batch's first byte in the chunk
	Commit  int64  // bytes committed so far
	Records []RecordHeader
	Chain   []Member // the members behind the receiver, in order
	Data    []byte   // the records' bytes, one after the other
}

// PrepareReply tells how far the receiver and every member behind it are durable.
type PrepareReply struct {
	Durable []MemberLength
	Failed  []Suspect // members behind the receiver that did not take the batch
}

// MemberLength is the durable length of a chunk at one member.
type MemberLength struct {
	Server ServerID
	Length int64
}

// CommitRequest tells the members behind the primary how far the chunk is committed.
type CommitRequest struct {
	ChunkRef
	Commit int64
	Chain  []Member
}

// FenceRequest ends, at a replica, every version below ChunkRef.Version.
type FenceRequest struct{ ChunkRef }

// ReplicaStatus says whether a replica can be relied upon.
type ReplicaStatus uint8

// The states of a replica.
const (
	ReplicaGood    ReplicaStatus = 1
	ReplicaMissing ReplicaStatus = 2 // no such replica here
	ReplicaLost    ReplicaStatus = 3 // its disk failed, or holds less than it acknowledged
	ReplicaCorrupt ReplicaStatus = 4 // bytes do not match their checksums
	ReplicaWaiting ReplicaStatus = 5 // of a fence only: its role is over, its disk has not answered
)

// FenceReply tells what a fenced replica has; only durable bytes count. Of one that is
// ReplicaWaiting it tells nothing: the fence is to be sent again.
type FenceReply struct {
	Version               Version // the request's
	Incarnation           Incarnation
	Status                ReplicaStatus
	LogVersion            Version
	DurableLength, Commit int64
	SealVersion           Version
	SealLength            int64
}

// SealRequest sets, at a replica, the length at which a chunk's version ended.
type SealRequest struct {
	ChunkRef // Version: the sealed version
	Length   int64
	// PrevWritableVersion: 0, or the version before if Length is its length as well.
	WritableVersion, PrevWritableVersion Version
	Position                             int64 // of the first byte in the file; 0: as CREATE or COPY said
}

// SealReply answers a SealRequest.
type SealReply struct {
	Holds bool   // the replica is complete at this seal, durably
	CRC   uint32 // CRC32C of its Length bytes, if it holds
}

// CopyRequest has a server fetch a sealed chunk from another one.
type CopyRequest struct {
	ChunkRef        // Version: the sealed version
	Disk            DiskID
	Length          int64
	WritableVersion Version
	CRC             uint32 // checked if CRCKnown
	CRCKnown        bool
	Mutable         bool
	File            Inode
	Position        int64
	Hint            string
	Sources         []Member
	// BytesPerSecond bounds the bandwidth used; 0: no bound. BytesPerSecondLeast is the rate down to
	// which the copy yields to clients, of its server and of its sources; 0: it does not yield.
	BytesPerSecond, BytesPerSecondLeast int64
	// Parts, if any, are what a new chunk is put together from, whole and one behind the other,
	// with their records; then there are no Sources.
	Parts []CopyPart
}

// CopyPart is a sealed chunk that becomes a part of another one.
type CopyPart struct {
	Handle  Handle
	Version Version // of its seal
	Length  int64
	Sources []Member
}

// CopyPartsMax bounds the parts of a CopyRequest.
const CopyPartsMax = 64

// AddRequest lets a copied replica serve, after the master has logged it.
type AddRequest struct {
	ChunkRef
	Mutable bool
}

// DropRequest removes a replica that no layout needs. A replica whose promised version is
// above ChunkRef.Version stays.
type DropRequest struct{ ChunkRef }

// FateRequest asks what became of records in a sealed chunk.
type FateRequest struct {
	ChunkRef  // Version: the sealed version
	Length    int64
	Session   SessionID
	Sequences []Sequence // at most WindowRecords
}

// FateState is what became of a record in a chunk.
type FateState uint8

// The fates of a record. FateUnknown is never to be taken as FateAbsent.
const (
	FateCommitted FateState = 1
	FateAbsent    FateState = 2
	FateUnknown   FateState = 3
)

// Fate is the answer for one record.
type Fate struct {
	Sequence Sequence
	State    FateState
	Offset   int64 // of a committed record in the chunk
}

// FateReply answers a FateRequest; it repeats which seal it speaks of.
type FateReply struct {
	Version Version
	Length  int64
	Fates   []Fate
}

// ReadRequest reads committed bytes.
type ReadRequest struct {
	ChunkRef
	Offset int64
	Length int64 // 1 to ReadBytesMax
	// Validated: the caller has asked the master for the layout since its read began. Copying: it is a
	// part of a COPY, not a client's.
	Validated, Copying bool
	Into               []byte // where the bytes may be put, if it has room; does not travel
	// Sink, if set, may be given the bytes as they come, in place of Into; does not travel.
	Sink ReadSink
}

// ReadSink is told of a reply that comes over a network. Its methods are called one after the
// other and before Read returns, or not at all: a server in the same process just returns Data.
type ReadSink interface {
	// Place returns the memory for the n bytes that are about to be received. It may wait for
	// it, well below a second: until then the bytes stay in the network, and the server, which
	// gives up a client that takes nothing, keeps what it needs to send them.
	Place(n int) []byte
	// Arrived says that data, a beginning of what Place returned, is there. The checksums are
	// those of the whole reply.
	Arrived(crcs []uint32, data []byte)
}

// ReadReply carries the bytes and their checksums.
type ReadReply struct {
	CRCs []uint32 // CRC32C of each part of Data, cut at the chunk's 64 KiB block borders
	Data []byte   // at most the requested length; fewer where the committed bytes end
	// Pressed tells a COPY that the server has served clients just before.
	Pressed bool
	// File, if set by a server, is where the bytes are to be sent from instead of Data.
	// Release, if set, is called when the bytes have been sent.
	File    *FileRange
	Release func()
}

// FileRange is a range of an open file that a server sends without reading it itself.
type FileRange struct {
	FD     uintptr
	Offset int64
	Length int64
}

// EndRequest asks where the committed bytes of an open chunk end.
type EndRequest struct{ ChunkRef }

// EndReply tells how far a chunk is committed.
type EndReply struct {
	Commit int64
	// Confirm: the server has no lease; the answer counts only if the master says, when
	// asked after it, that the chunk is still open at the request's version.
	Confirm bool
}

// WaitRequest waits until a chunk has more committed bytes than Offset, or is sealed.
type WaitRequest struct {
	ChunkRef
	Offset int64
}

// WaitReply ends a wait. Neither set: nothing came before the deadline; ask again.
type WaitReply struct {
	Commit int64
	Sealed bool
}

// RecordsRequest asks for the records of a replica, in the order of their offsets.
type RecordsRequest struct {
	ChunkRef
	Offset int64 // the first record wanted ends after it
}

// RecordRun is a row of records of one session with consecutive sequences, equal lengths
// and adjacent places.
type RecordRun struct {
	Session  SessionID
	Sequence Sequence // of the first
	Count    uint64
	Offset   int64 // of the first
	Length   int64 // of each
}

// RecordsReply is a page of at most RecordRunsMax runs below the committed length.
type RecordsReply struct {
	Runs      []RecordRun
	Forgotten []SessionID // sessions whose records here have been dropped
	Next      int64       // ask again from here, if More
	More      bool
	Length    int64 // committed, or sealed
}

// RecordRunsMax bounds a page of RecordsReply.
const RecordRunsMax = 4096
