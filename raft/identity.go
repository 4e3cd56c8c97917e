package raft

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io/fs"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/crc32c"
	"github.com/quarryfs/quarry/disk"
)

// The file "identity" says whose folder this is. It is made once, and replaced when the node
// gets its id and when it gets its first group.
//
//	 0  8  magic "QUARRYID"
//	 8  4  format version, 1, little-endian, like all numbers
//	12  4  1 if the node has had groups, so that its log must be there
//	16 16  disk: a random number
//	32  8  node, 0 until it is known
//	40 16  cluster, 0 until it is known
//	56  4  CRC32C of all before
const (
	identityName    = "identity"
	identityTemp    = "identity.tmp"
	identityMagic   = "QUARRYID"
	identityVersion = 1
	identityBytes   = 60

	journalDir = "log"
	lockName   = "LOCK"
)

type identity struct {
	disk    quarry.DiskID
	node    quarry.NodeID
	cluster quarry.ClusterID
	used    bool
}

func (id identity) encode() []byte {
	b := make([]byte, identityBytes)
	copy(b, identityMagic)
	binary.LittleEndian.PutUint32(b[8:], identityVersion)
	if id.used {
		b[12] = 1
	}
	copy(b[16:], id.disk[:])
	binary.LittleEndian.PutUint64(b[32:], uint64(id.node))
	copy(b[40:], id.cluster[:])
	binary.LittleEndian.PutUint32(b[56:], crc32c.Checksum(b[:56]))
	return b
}

func decodeIdentity(b []byte) (identity, error) {
	if len(b) < 12 || string(b[:8]) != identityMagic {
		return identity{}, quarry.Errorf("open", quarry.Corrupt, identityName, "this is not an identity file")
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != identityVersion {
		return identity{}, quarry.Errorf("open", quarry.Unsupported, identityName, "the folder has format version %d; this release reads version %d: start a release that knows it", v, identityVersion)
	}
	if len(b) != identityBytes || crc32c.Checksum(b[:56]) != binary.LittleEndian.Uint32(b[56:]) {
		return identity{}, quarry.Errorf("open", quarry.Corrupt, identityName, "the file does not match its checksum")
	}
	return identity{
		disk:    quarry.DiskID(b[16:32]),
		node:    quarry.NodeID(binary.LittleEndian.Uint64(b[32:])),
		cluster: quarry.ClusterID(b[40:56]),
		used:    b[12] != 0,
	}, nil
}

// DiskIdentity returns the identity of the disk that a node's folder is on, and the node and
// cluster that it belongs to, both zero if it belongs to none yet. It makes the identity if
// the folder is empty. No Host may be open on the folder.
func DiskIdentity(fsys disk.FS) (quarry.DiskID, quarry.NodeID, quarry.ClusterID, error) {
	id, err := loadIdentity(fsys)
	return id.disk, id.node, id.cluster, err
}

// loadIdentity reads the identity, or makes it if the folder has nothing.
func loadIdentity(fsys disk.FS) (identity, error) {
	f, err := fsys.Open(identityName)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := fsys.List(journalDir); err == nil {
			return identity{}, quarry.Errorf("open", quarry.Corrupt, identityName, "the folder has a log, but its identity is lost")
		}
		id := identity{}
		rand.Read(id.disk[:])
		return id, id.save(fsys)
	}
	if err != nil {
		return identity{}, disk.Wrap("open", identityName, err)
	}
	b := make([]byte, identityBytes+1)
	n, err := f.ReadAt(b, 0)
	_ = f.Close() // it was only read
	if n == 0 && err != nil {
		return identity{}, quarry.Errorf("open", quarry.Corrupt, identityName, "the file cannot be read: %w", err)
	}
	return decodeIdentity(b[:n])
}

// save makes the identity durable, in one step.
func (id identity) save(fsys disk.FS) error {
	if err := fsys.Remove(identityTemp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return disk.Wrap("write", identityTemp, err)
	}
	f, err := fsys.Create(identityTemp)
	if err != nil {
		return disk.Wrap("write", identityTemp, err)
	}
	_, err = f.WriteAt(id.encode(), 0)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = fsys.Rename(identityTemp, identityName)
	}
	if err == nil {
		err = fsys.SyncDir(".")
	}
	return disk.Wrap("write", identityName, err)
}

// claim ties the folder to a node of a cluster, or checks that it is tied to just that.
func (id *identity) claim(fsys disk.FS, node quarry.NodeID, cluster quarry.ClusterID) error {
	switch {
	case id.node == 0:
		id.node, id.cluster = node, cluster
		return id.save(fsys)
	case id.cluster != cluster:
		return quarry.Errorf("open", quarry.WrongCluster, identityName, "the folder belongs to cluster %v, not to %v", id.cluster, cluster)
	case id.node != node:
		return quarry.Errorf("open", quarry.Invalid, identityName, "the folder belongs to node %d, not to node %d", id.node, node)
	}
	return nil
}
