package quarry

// Op makes a mutation happen once: a master that is sent the same session and sequence
// again answers with the first result.
type Op struct {
	Session  SessionID
	Sequence Sequence
	Oldest   Sequence // the session's oldest unsettled operation; earlier results may be forgotten
}

// FileKind says what an inode is.
type FileKind uint8

// The kinds of inodes.
const (
	KindFile FileKind = 1
	KindDir  FileKind = 2
)

// Attr is what a master tells of a file or directory. Times are wall-clock nanoseconds since
// 1970 for people to look at; nothing is decided by them.
type Attr struct {
	Inode Inode
	Kind  FileKind
	// Mode are permission bits, set-user, set-group and sticky; UID and GID say whose it is. They
	// are kept and shown, and nobody is refused anything because of them.
	Mode, UID, GID uint32
	// Length is that of the fixed pieces: a file with an open tail is longer by END of its tail. A
	// lookup and a list add what the tail had when it was sealed before.
	Length   int64
	Open     bool // the last piece is open-ended: its chunk is being written
	Links    uint32
	Entries  int64 // of a directory
	Created  int64
	Modified int64 // of the last change of layout or entries, or what it was set to since
	// LayoutVersion grows with each change of the pieces that is not a plain append.
	LayoutVersion, TruncateVersion uint64
	Mutable                        bool
	Elsewhere                      bool // only Inode and Kind are told: the inode lives on another shard, which knows the rest
}

// Entry is a name in a directory.
type Entry struct {
	Name string
	Attr Attr
}

// PieceKind says what the bytes of a piece come from.
type PieceKind uint8

// The kinds of pieces.
const (
	PieceChunk  PieceKind = 1 // a range of a chunk
	PieceHole   PieceKind = 2 // zeros
	PieceInline PieceKind = 3 // bytes in the layout itself
)

// OpenEnded is the length of a piece that ends where its open chunk ends.
const OpenEnded = -1

// InlineBytesMax is the most bytes that an inline piece holds; docs/design/008-small-files.md says why
// not more.
const InlineBytesMax = 16 << 10

// Piece is a part of a file's layout.
type Piece struct {
	Offset      int64 // in the file
	Length      int64 // or OpenEnded, the last piece only
	Kind        PieceKind
	Handle      Handle
	ChunkOffset int64 // of the piece's first byte in the chunk
	Inline      []byte
}

// Suspect names a member that the caller had no answer from, or a bad one.
type Suspect struct {
	Server      ServerID
	Incarnation Incarnation
	Why         string
}

// LookupRequest walks a path.
type LookupRequest struct {
	From Inode
	Path string // slash-separated names below From; "" is From itself
}

// LookupReply is the end of the walk. If Rest is not empty or Attr is Elsewhere, the walk goes
// on, from Attr, at the shard of Attr's slot.
type LookupReply struct {
	Attr Attr
	Rest string
}

// StatRequest asks for the attributes of an inode.
type StatRequest struct{ Inode Inode }

// StatReply tells the attributes and, if the file is open, its tail: with END at the tail's
// primary that gives the length.
type StatReply struct {
	Attr  Attr
	Piece Piece  // the open-ended piece, if Attr.Open
	Tail  *Chunk // its chunk, if Attr.Open
}

// ListRequest asks for entries of a directory in the order of their bytes.
type ListRequest struct {
	Dir   Inode
	After string // the last name of the page before, or ""
	Max   int    // 1 to ListMax
}

// ListReply is a page of entries.
type ListReply struct {
	Entries []Entry
	More    bool
}

// MakeRequest makes an empty file or a directory.
type MakeRequest struct {
	Op
	Parent         Inode
	Name           string
	Kind           FileKind
	Mode, UID, GID uint32
	Existing       bool // an existing one of the same kind is a success
	Placed         bool // a new directory is made in Slot; otherwise the master chooses its slot
	Slot           Slot // of a new directory that is Placed
}

// LinkPiece is a part of a file that is published by Link: the bytes [0, Length) of a
// sealed chunk that the session owns, or inline bytes.
type LinkPiece struct {
	Handle Handle
	Length int64
	Inline []byte
}

// LinkRequest publishes a file, whole, under a name.
type LinkRequest struct {
	Op
	Parent Inode
	// Path is that of the name: a file that is replaced is found by it in the trash.
	Name, Path     string
	Mode, UID, GID uint32
	ModifiedNS     int64       // since 1970; 0: the time of the change
	Pieces         []LinkPiece // at most PiecesMax
	Replace        bool        // an existing file of the name is replaced, in the same step
	Owner          SessionID   // the client's session that the chunks belong to; 0: that of the Op
}

// RenameRequest gives a file or directory another name.
type RenameRequest struct {
	Op
	Parent, ToParent Inode
	// ToPath is that of the new name: a file that is replaced is found by it in the trash.
	Name, ToName, ToPath string
	Replace              bool // a file that has the new name is replaced, in the same step
}

// RemoveRequest removes a name.
type RemoveRequest struct {
	Op
	Parent Inode
	// Path is that of the name: a file is found by it in the trash.
	Name, Path string
	Dir        bool // the name must be an empty directory; otherwise it must be a file
	Now        bool // the file is not to be kept in the trash
}

// SetAttrRequest sets what is kept of a file or directory to be shown: its mode, whose it is, and
// when it was changed.
type SetAttrRequest struct {
	Op
	Inode                                Inode
	SetMode, SetUID, SetGID, SetModified bool // which of those below are set
	Mode, UID, GID                       uint32
	ModifiedNS                           int64 // since 1970; 0: the time of the change
}

// AttrReply carries the attributes of what was made, linked, renamed or set.
type AttrReply struct{ Attr Attr }

// LocateRequest asks where the bytes of a file are.
type LocateRequest struct {
	File   Inode
	Offset int64
	Max    int // pieces, 1 to PiecesMax
}

// LocateReply is a page of the layout, from the piece that holds the offset, and the
// chunks of its pieces.
type LocateReply struct {
	Attr   Attr
	Pieces []Piece
	Chunks []Chunk
	More   bool
}

// RollRequest asks for a chunk to append to. Last and Version name the chunk the caller
// can write to no longer (0: it knows none). If that is still the file's tail, it is sealed
// and a new one made; if not, the present tail is the answer. So writers that come at the
// same time get the same chunk, and a repeated request does nothing twice.
type RollRequest struct {
	Session  SessionID
	File     Inode
	Last     Handle
	Version  Version
	Suspects []Suspect
	Hint     string // the file's path
}

// RollReply is the file's open tail.
type RollReply struct {
	Attr  Attr
	Piece Piece
	Chunk Chunk
}

// AllocateRequest asks for open chunks that belong to the session until they are linked.
type AllocateRequest struct {
	Op
	Near  Inode // whose slot they are to have
	Count int   // 1 to 64
	Hint  string
	Owner SessionID // the client's session that is to own them; 0: that of the Op
}

// AllocateReply carries the chunks.
type AllocateReply struct{ Chunks []Chunk }

// FinishRequest seals a chunk that the session owns.
type FinishRequest struct {
	Session  SessionID
	Handle   Handle
	Version  Version
	Suspects []Suspect
}

// ChunkRequest asks for a chunk's record.
type ChunkRequest struct{ Handle Handle }

// ChunkReply carries a chunk.
type ChunkReply struct{ Chunk Chunk }

// SessionRequest opens (Session 0) a session at a shard, or keeps alive or closes one, at whatever
// shard its slot lives.
type SessionRequest struct {
	Shard   ShardID // of a new session
	Session SessionID
	Close   bool
}

// SessionReply tells the session and how long it lives without being kept alive.
type SessionReply struct {
	Session  SessionID
	ExpiryMS int64
}

// ReportRequest tells the master of a failure at members of a chunk that the sender cannot
// deal with: a silent member, or a corrupt replica.
type ReportRequest struct {
	Handle   Handle
	Version  Version
	Suspects []Suspect
	Corrupt  bool // the suspects' bytes are broken; otherwise they are silent or failed
}
