package chunk

import (
	"math"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/wire"
)

const (
	// HintBytesMax is the longest path hint that is kept.
	HintBytesMax = quarry.PathBytesMax
	// ForgottenMax bounds the sessions that one replica can be told to forget.
	ForgottenMax = 1 << 16
)

// State is what the disk knows, durably, of one replica, but for its checksums and its
// records. It is a value: the store never changes one that it has handed out.
type State struct {
	Handle     quarry.Handle
	Status     quarry.ReplicaStatus // ReplicaMissing: there is no replica, the other fields are zero
	Promised   quarry.Version       // highest version seen; never falls
	LogVersion quarry.Version       // the writable version that the bytes belong to
	Adopted    quarry.Version       // last version in which the server took the role of primary
	// SealVersion and SealLength: as of that seal the replica is complete up to there. 0: it
	// was never sealed.
	SealVersion quarry.Version
	SealLength  int64
	Length      int64  // durable bytes; always the end of a record
	CRC         uint32 // CRC32C of all bytes, if Sealed
	Mutable     bool   // reads must be validated
	Serving     bool   // false for a copy of a chunk that the master has not added
	File        quarry.Inode
	Position    int64 // of the chunk's first byte in the file
	Hint        string
	Forgotten   []quarry.SessionID // sessions whose records are given to nobody

	flushed int64  // so many of the bytes are durable in the chunk's file, the others in the journal
	index   uint32 // checksum of the index file's content, if Sealed
}

// Exists reports whether there is a replica.
func (s *State) Exists() bool { return s.Status != 0 && s.Status != quarry.ReplicaMissing }

// Sealed reports whether the replica is sealed, so that its bytes will never change.
func (s *State) Sealed() bool { return s.SealVersion > s.LogVersion }

// growing reports whether the replica's checksums and records are in memory and in the
// journal, as they are while records may be added, and not in an index file.
func (s *State) growing() bool {
	return s.Exists() && !s.Sealed() && s.Status != quarry.ReplicaLost
}

// Info returns what a server reports of the replica to its master.
func (s *State) Info(disk quarry.DiskID) quarry.ReplicaInfo {
	return quarry.ReplicaInfo{
		Handle: s.Handle, Disk: disk, Promised: s.Promised, LogVersion: s.LogVersion, SealVersion: s.SealVersion,
		Length: s.Length, Status: s.Status, Serving: s.Serving, Mutable: s.Mutable,
	}
}

// The path hint of a sealed replica is in its index only, to keep memory small.
func stateFields(w *wire.Walk, s *State) {
	wire.Uint(w, 1, &s.Status)
	wire.Uint(w, 2, &s.Promised)
	wire.Uint(w, 3, &s.LogVersion)
	wire.Uint(w, 4, &s.Adopted)
	wire.Uint(w, 5, &s.SealVersion)
	wire.Uint(w, 6, &s.SealLength)
	wire.Uint(w, 7, &s.Length)
	wire.Uint(w, 8, &s.CRC)
	wire.Bool(w, 9, &s.Mutable)
	wire.Bool(w, 10, &s.Serving)
	wire.Uint(w, 11, &s.File)
	wire.Uint(w, 12, &s.Position)
	wire.String(w, 13, &s.Hint, HintBytesMax)
	wire.Uints(w, 14, &s.Forgotten, ForgottenMax)
	wire.Uint(w, 15, &s.flushed)
	wire.Uint(w, 16, &s.index)
	if w.Reading() {
		if why := s.flaw(); why != "" {
			w.Fail("%s", why)
		}
	}
}

// flaw says what is wrong with a state that was read; "" if nothing is.
func (s *State) flaw() string {
	switch {
	case s.Status != quarry.ReplicaGood && s.Status != quarry.ReplicaLost && s.Status != quarry.ReplicaCorrupt:
		return "the status is none of a replica's"
	case s.Length < 0 || s.Length > quarry.ChunkBytesMax || s.SealLength < 0 || s.SealLength > s.Length:
		return "a length is out of range"
	case s.flushed < 0 || s.flushed > s.Length || s.Sealed() && s.flushed != s.Length:
		return "more or less bytes are flushed than there are"
	case s.Sealed() && s.SealLength != s.Length:
		return "the sealed length is not the length"
	case s.LogVersion > s.Promised || s.SealVersion > s.Promised || s.Adopted > s.Promised:
		return "a version is above the promised one"
	case s.Position < 0 || s.Position > math.MaxInt64-quarry.ChunkBytesMax:
		return "the position is out of range"
	}
	return ""
}
