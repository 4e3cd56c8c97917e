package quarry

// Sizes and bounds that every part of a cluster shares. Times and sizes that one site may
// want different are settings of the servers, not constants here.
const (
	// ChunkBytesMax is the most bytes that a chunk holds.
	ChunkBytesMax = 64 << 20
	// BlockBytes is the part of a chunk that one checksum covers.
	BlockBytes = 64 << 10
	// RecordBytesMax is the largest record that can be appended.
	RecordBytesMax = 16 << 20
	// PacketBytes is the size in which streams of bytes are cut into records and in which
	// the primary batches small records for the chain.
	PacketBytes = 256 << 10
	// ReadBytesMax is the most bytes one Read returns.
	ReadBytesMax = 1 << 20
	// NameBytesMax is the longest name of a file or directory.
	NameBytesMax = 255
	// PathBytesMax is the longest path.
	PathBytesMax = 4096
	// PathPartsMax is the deepest path.
	PathPartsMax = 256
	// ListMax is the most entries that one List returns.
	ListMax = 1000
	// PiecesMax is the most pieces that one Locate returns and one Link takes.
	PiecesMax = 4096
	// ReplicasMax is the most replicas of a chunk.
	ReplicasMax = 8
	// FeatureLevel is the highest level of commands that this release applies. A command, or a
	// field of one, that a release adds has the next level: it is proposed only when every
	// master of the cluster speaks that level, because a master that does not know it must stop.
	FeatureLevel = 2
	// WindowBytes is the most unacknowledged bytes that a writer keeps in flight per stream.
	WindowBytes = 16 << 20
	// WindowRecords is the most unacknowledged records that a session keeps in flight per
	// file.
	WindowRecords = 1024
)

// Blocks returns how many checksum blocks n bytes from the start of a chunk cover.
func Blocks(n int64) int64 { return (n + BlockBytes - 1) / BlockBytes }
