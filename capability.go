package quarry

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
)

// Rights are what a capability allows with a chunk.
type Rights uint8

// The rights of a capability; they may be joined.
const (
	RightRead    Rights = 1 << iota // Read, End, Wait, Fate, Records
	RightAppend                     // Append
	RightPrepare                    // Prepare, Commit: between the members of a chunk
	RightControl                    // Create, Activate, Fence, Seal, Copy, Add, Drop: the master's
)

// Capability is the proof, signed by the master, that its holder may do something with one
// chunk. It does not expire by time, because clocks may be wrong: it ends when the key it
// was signed with is retired. The chunk's version, not the capability, fences what is stale.
type Capability struct {
	Key    uint32 // number of the key
	Rights Rights
	MAC    [16]byte
}

// Key is a secret that the masters and chunk servers of a cluster share.
type Key struct {
	Number uint32
	Secret [32]byte
}

// Keys are the keys in force; the newest, which signs, is the last. At least one. Read-only
// once in use.
type Keys []Key

// Sign returns a capability for a chunk; the zero capability if there is no key.
func (k Keys) Sign(cluster ClusterID, h Handle, r Rights) Capability {
	if len(k) == 0 {
		return Capability{}
	}
	key := &k[len(k)-1]
	return Capability{Key: key.Number, Rights: r, MAC: key.mac(cluster, h, r)}
}

// Verify returns a Permission error unless c was signed with one of the keys for this chunk
// and has all of the rights.
func (k Keys) Verify(cluster ClusterID, h Handle, c Capability, need Rights) error {
	if c.Rights&need != need {
		return Errorf("capability", Permission, h.String(), "it does not allow this operation")
	}
	for i := range k {
		if k[i].Number != c.Key {
			continue
		}
		if want := k[i].mac(cluster, h, c.Rights); hmac.Equal(want[:], c.MAC[:]) {
			return nil
		}
		return Errorf("capability", Permission, h.String(), "its signature is wrong")
	}
	return Errorf("capability", Permission, h.String(), "key %d is not in force; ask the master for the chunk again", c.Key)
}

func (k *Key) mac(cluster ClusterID, h Handle, r Rights) [16]byte {
	var msg [25]byte
	copy(msg[:16], cluster[:])
	binary.BigEndian.PutUint64(msg[16:24], uint64(h))
	msg[24] = byte(r)
	sum := hmac.New(sha256.New, k.Secret[:])
	sum.Write(msg[:])
	var out [16]byte
	copy(out[:], sum.Sum(nil))
	return out
}
