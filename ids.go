package quarry

import (
	"encoding/hex"
	"fmt"
	"strings"
)

// Slots is the number of parts into which the namespace is cut; each slot lives on one shard.
const Slots = 4096

const (
	slotBits   = 12
	numberBits = 64 - slotBits

	// NumberMax is the largest number an inode or a handle can carry beside its slot.
	NumberMax = 1<<numberBits - 1
)

// Slot is a part of the namespace, 0 to Slots-1. The first bits of an [Inode] and of a
// [Handle] are its slot, so the slot map alone tells which shard owns it.
type Slot uint16

// Inode identifies a file or directory for as long as the cluster lives; never used again.
// 0 is no inode.
type Inode uint64

// RootInode is the directory "/".
const RootInode = Inode(1)

// MakeInode joins a slot and a number of at most NumberMax.
func MakeInode(s Slot, number uint64) Inode {
	return Inode(uint64(s)<<numberBits | number&NumberMax)
}

// Slot returns the slot that keeps the inode.
func (i Inode) Slot() Slot { return Slot(i >> numberBits) }

// Number returns the inode's number within its slot.
func (i Inode) Number() uint64 { return uint64(i) & NumberMax }

func (i Inode) String() string { return fmt.Sprintf("%d.%x", i.Slot(), i.Number()) }

// Handle identifies a chunk; used once, never again. It carries the slot of the file that
// the chunk was made for. 0 is no chunk.
type Handle uint64

// MakeHandle joins a slot and a number of at most NumberMax.
func MakeHandle(s Slot, number uint64) Handle {
	return Handle(uint64(s)<<numberBits | number&NumberMax)
}

// Slot returns the slot that keeps the chunk's record.
func (h Handle) Slot() Slot { return Slot(h >> numberBits) }

// Number returns the handle's number within its slot.
func (h Handle) Number() uint64 { return uint64(h) & NumberMax }

// String returns the handle as 16 hexadecimal digits, the name of the chunk's file.
func (h Handle) String() string { return fmt.Sprintf("%016x", uint64(h)) }

// Version is the number of a chunk's configuration. Odd versions are writable, even ones
// sealed; every change takes the next number. 0 is no version; a chunk is made at version 1.
type Version uint64

// Writable reports whether v is a version in which records may be appended.
func (v Version) Writable() bool { return v%2 == 1 }

// ServerID identifies a chunk server for life: it is kept with its disks. 0 is none.
type ServerID uint64

// NodeID identifies a master node; it is also the node's id in every Raft group. A master
// that lost its disk comes back under another one. 0 is none.
type NodeID uint64

// ShardID identifies a shard, which is one Raft group. Shard 0 is the root group.
type ShardID uint64

// RootShard is the Raft group that keeps what is cluster-wide.
const RootShard = ShardID(0)

// Incarnation numbers the starts of a chunk server's process; issued by the root group,
// ever growing. A request to or from a server names the incarnation it is meant for. 0 is
// none.
type Incarnation uint64

// SessionID identifies a client's session at one shard. 0 is none.
type SessionID uint64

// Slot returns the slot that keeps the session and the results of its operations; by it a
// request of the session finds the shard.
func (s SessionID) Slot() Slot { return Slot(s >> numberBits) }

// Sequence numbers the operations of a session, or the records a session appends to one
// file; the first is 1.
type Sequence uint64

// ClusterID is the random identity of a cluster, made once by "quarry admin init".
type ClusterID [16]byte

func (c ClusterID) String() string { return hex.EncodeToString(c[:]) }

// IsZero reports whether c is no cluster.
func (c ClusterID) IsZero() bool { return c == ClusterID{} }

// DiskID is the random identity of one disk of a server; an emptied disk gets a new one.
type DiskID [16]byte

func (d DiskID) String() string { return hex.EncodeToString(d[:]) }

// IsZero reports whether d is no disk.
func (d DiskID) IsZero() bool { return d == DiskID{} }

// ProcessID is the random identity of one start of a process.
type ProcessID [16]byte

// IsZero reports whether p is no process.
func (p ProcessID) IsZero() bool { return p == ProcessID{} }

// CheckName returns an Invalid error unless name may be the name of a file or directory:
// 1 to NameBytesMax bytes, without NUL and '/', and neither "." nor "..".
func CheckName(name string) error {
	var why string
	switch {
	case name == "":
		why = "a name must have at least one byte"
	case len(name) > NameBytesMax:
		why = fmt.Sprintf("the name has %d bytes, at most %d are allowed", len(name), NameBytesMax)
	case name == "." || name == "..":
		why = "\".\" and \"..\" cannot be names"
	case strings.ContainsRune(name, '/'):
		why = "a name cannot contain '/'"
	case strings.IndexByte(name, 0) >= 0:
		why = "a name cannot contain a NUL byte"
	default:
		return nil
	}
	return &Error{Op: "name", Kind: Invalid, Subject: fmt.Sprintf("%q", clip(name)), Err: fmt.Errorf("%s", why)}
}

// clip shortens a name that stands in an error.
func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}
