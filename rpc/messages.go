package rpc

import (
	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/wire"
)

// Limits on what messages hold, beside those of the contract. They may only grow.
const (
	addressMax   = 256
	rackMax      = 256
	textMax      = 1 << 10 // free text for people
	bootMax      = 64
	releaseMax   = 64
	membersMax   = 2 * quarry.ReplicasMax
	disksMax     = 256
	mastersMax   = 64
	votersMax    = 64
	shardsMax    = quarry.Slots + 1
	serversMax   = 1 << 14
	keysMax      = 16
	crcsMax      = quarry.RecordBytesMax/quarry.BlockBytes + 1
	batchMax     = 1 << 14 // records of one PrepareRequest
	chunksMax    = quarry.PiecesMax
	countMax     = 64      // chunks of one AllocateReply
	forgottenMax = 1 << 16 // sessions of one RecordsReply
)

func opFields(w *wire.Walk, m *quarry.Op) {
	wire.Uint(w, 1, &m.Session)
	wire.Uint(w, 2, &m.Sequence)
	wire.Uint(w, 3, &m.Oldest)
}

func capabilityFields(w *wire.Walk, m *quarry.Capability) {
	wire.Uint(w, 1, &m.Key)
	wire.Uint(w, 2, &m.Rights)
	wire.Fixed16(w, 3, &m.MAC)
}

func refFields(w *wire.Walk, m *quarry.ChunkRef) {
	wire.Uint(w, 1, &m.Handle)
	wire.Uint(w, 2, &m.Version)
	wire.Uint(w, 3, &m.Target)
	wire.Message(w, 4, &m.Capability, capabilityFields)
}

func memberFields(w *wire.Walk, m *quarry.Member) {
	wire.Uint(w, 1, &m.Server)
	wire.Uint(w, 2, &m.Incarnation)
	wire.Fixed16(w, 3, &m.Disk)
	wire.String(w, 4, &m.Address, addressMax)
	wire.String(w, 5, &m.Rack, rackMax)
}

func suspectFields(w *wire.Walk, m *quarry.Suspect) {
	wire.Uint(w, 1, &m.Server)
	wire.Uint(w, 2, &m.Incarnation)
	wire.String(w, 3, &m.Why, textMax)
}

func chunkFields(w *wire.Walk, m *quarry.Chunk) {
	wire.Uint(w, 1, &m.Handle)
	wire.Uint(w, 2, &m.State)
	wire.Uint(w, 3, &m.Version)
	wire.Uint(w, 4, &m.WritableVersion)
	wire.Uint(w, 5, &m.Length)
	wire.Uint(w, 6, &m.CRC)
	wire.Bool(w, 7, &m.CRCKnown)
	wire.Bool(w, 8, &m.Mutable)
	wire.List(w, 9, &m.Members, membersMax, memberFields)
	wire.Message(w, 10, &m.Capability, capabilityFields)
}

func itemFields(w *wire.Walk, m *quarry.Item) {
	wire.Uint(w, 1, &m.Kind)
	wire.Uint(w, 2, &m.Handle)
	wire.Uint(w, 3, &m.Version)
}

func masterNodeFields(w *wire.Walk, m *quarry.MasterNode) {
	wire.Uint(w, 1, &m.Node)
	wire.Fixed16(w, 2, &m.Disk)
	wire.String(w, 3, &m.Address, addressMax)
}

func diskUsageFields(w *wire.Walk, m *quarry.DiskUsage) {
	wire.Fixed16(w, 1, &m.Disk)
	wire.Uint(w, 2, &m.Total)
	wire.Uint(w, 3, &m.Free)
	wire.Uint(w, 4, &m.Chunks)
	wire.String(w, 5, &m.Failed, textMax)
}

func keyFields(w *wire.Walk, m *quarry.Key) {
	wire.Uint(w, 1, &m.Number)
	secret := m.Secret[:]
	wire.Bytes(w, 2, &secret, len(m.Secret))
	if w.Reading() {
		m.Secret = [32]byte{}
		if n := copy(m.Secret[:], secret); n != len(m.Secret) && n != 0 {
			w.Fail("a key has %d bytes instead of %d", n, len(m.Secret))
		}
	}
}
