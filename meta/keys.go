package meta

import (
	"encoding/binary"

	"github.com/quarryfs/quarry"
)

// The tables; doc.go draws the keys.
const (
	tableEntry   = 'e'
	tableInode   = 'i'
	tablePiece   = 'p'
	tableChunk   = 'c'
	tableSession = 's'
	tableResult  = 'r'
	tableTx      = 't'
	tableIntent  = 'n'

	tableHeader      = 'h'
	tableServer      = 's'
	tableItem        = 'u'
	tableActive      = 'a'
	tableRepair      = 'r'
	tableGarbage     = 'g'
	tableSoon        = 'f'
	tableOwned       = 'o'
	tableExpiry      = 'x'
	tableCoordinated = 't'
	tableHeld        = 'n'
	tableChange      = 'd' // move.ChangeKey makes its keys
)

// shardSlot is what keys of the shard itself begin with.
const shardSlot = 0xffff

// openEnd is the end in the key of an open-ended piece.
const openEnd = ^uint64(0)

// garbageKind says what an entry of the garbage queue is.
type garbageKind uint8

const (
	garbageFile  garbageKind = 1
	garbageChunk garbageKind = 2
	garbageSoon  garbageKind = 3 // a removed file that is not kept, but for those who ask for fates
)

// The functions below append a key to dst and return it; numbers that the caller leaves
// away make it the prefix of a table or of a part of it.

func table(dst []byte, slot uint16, table byte, numbers ...uint64) []byte {
	dst = binary.BigEndian.AppendUint16(dst, slot)
	dst = append(dst, table)
	for _, n := range numbers {
		dst = binary.BigEndian.AppendUint64(dst, n)
	}
	return dst
}

func entryKey(dst []byte, dir quarry.Inode, name string) []byte {
	return append(table(dst, uint16(dir.Slot()), tableEntry, uint64(dir)), name...)
}

func inodeKey(dst []byte, id quarry.Inode) []byte {
	return table(dst, uint16(id.Slot()), tableInode, uint64(id))
}

func pieceKey(dst []byte, id quarry.Inode, end uint64) []byte {
	return table(dst, uint16(id.Slot()), tablePiece, uint64(id), end)
}

func chunkKey(dst []byte, h quarry.Handle) []byte {
	return table(dst, uint16(h.Slot()), tableChunk, uint64(h))
}

func sessionKey(dst []byte, s quarry.SessionID) []byte {
	return table(dst, uint16(SessionSlot(s)), tableSession, uint64(s))
}

func resultKey(dst []byte, s quarry.SessionID, place uint16) []byte {
	return binary.BigEndian.AppendUint16(table(dst, uint16(SessionSlot(s)), tableResult, uint64(s)), place)
}

func headerKey(dst []byte) []byte { return table(dst, shardSlot, tableHeader) }

func serverKey(dst []byte, s quarry.ServerID, h quarry.Handle) []byte {
	return table(dst, shardSlot, tableServer, uint64(s), uint64(h))
}

func itemKey(dst []byte, s quarry.ServerID, h quarry.Handle) []byte {
	return table(dst, shardSlot, tableItem, uint64(s), uint64(h))
}

func activeKey(dst []byte, h quarry.Handle) []byte {
	return table(dst, shardSlot, tableActive, uint64(h))
}

func repairKey(dst []byte, copies uint8, h quarry.Handle) []byte {
	dst = append(table(dst, shardSlot, tableRepair), copies)
	return binary.BigEndian.AppendUint64(dst, uint64(h))
}

func garbageKey(dst []byte, at LogTime, kind garbageKind, id uint64) []byte {
	queue := byte(tableGarbage)
	if kind == garbageSoon {
		queue = tableSoon
	}
	dst = append(table(dst, shardSlot, queue, uint64(at)), byte(kind))
	return binary.BigEndian.AppendUint64(dst, id)
}

func ownedKey(dst []byte, s quarry.SessionID, h quarry.Handle) []byte {
	return table(dst, shardSlot, tableOwned, uint64(s), uint64(h))
}

func expiryKey(dst []byte, seen LogTime, s quarry.SessionID) []byte {
	return table(dst, shardSlot, tableExpiry, uint64(seen), uint64(s))
}

func transactionKey(dst []byte, id TxID) []byte {
	return table(dst, uint16(id.Slot()), tableTx, uint64(id))
}

// intentKey is the key of an intent on an entry of a directory or, without a name, on an inode.
func intentKey(dst []byte, id quarry.Inode, name string) []byte {
	return append(table(dst, uint16(id.Slot()), tableIntent, uint64(id)), name...)
}

func coordinatedKey(dst []byte, id TxID) []byte {
	return table(dst, shardSlot, tableCoordinated, uint64(id))
}

func heldKey(dst []byte, tx TxID, id quarry.Inode, name string) []byte {
	return append(table(dst, shardSlot, tableHeld, uint64(tx), uint64(id)), name...)
}

// lastNumber returns the number that a key ends with.
func lastNumber(key []byte) uint64 { return binary.BigEndian.Uint64(key[len(key)-8:]) }

// after returns the smallest key that is greater than every key with the prefix; nil if
// there is none.
func after(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}

// SessionSlot returns the slot that keeps a session and its results.
func SessionSlot(s quarry.SessionID) quarry.Slot { return quarry.Inode(s).Slot() }
