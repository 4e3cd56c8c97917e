// Package journal is an append-only log of checksummed records in segment files. The Raft
// log of a master and the chunk state of a disk are journals.
//
// Appends of many callers are committed as a group: while one batch is being synced the
// next one fills. A record is durable when its callback is called without error, and then
// all records before it are. After a failed write or sync the journal is dead: every later
// append fails with the first error, and nothing is tried again.
//
// # Recovery
//
// There is never more than one batch between the journal and the disk: a batch is written
// only when the one before it is synced. So a crash can tear the last batch, and nobody was
// told that its records are durable; a batch with a sound one behind it was durable once,
// and if it is broken, it has rotted. Open cuts the first kind and refuses the second with a
// Corrupt error that names the segment and the offset. A broken last batch is always taken
// for a torn one, since nothing on the disk tells the two apart; Close leaves an empty batch
// behind the last record, so that after an orderly stop that record has its witness, too.
//
// What Open replays it has also written and synced once more. The process before may have
// been killed between write and sync, or may have seen its sync fail: then the system's
// cache holds bytes that a later sync does not write, because it believes them clean.
//
// # Format
//
// The folder holds segments, named by their number in 16 hexadecimal digits and ".journal",
// without gaps; numbers begin at 1 and oldest segments are removed first. A segment is made under the
// name "next.tmp", synced, and renamed, so a segment that has its name has a sound header.
// Integers are little-endian, checksums are CRC32C (Castagnoli).
//
//	segment header, 64 bytes
//	 0  8  magic "QUARRYJL"
//	 8  4  format version, 1
//	12  4  zero
//	16  8  journal: a random number, the same in all segments of one journal
//	24  8  number of the segment
//	32  4  end of the segment before: the offset behind its last batch, 0 if there is none
//	36  4  chain: checksum of the last batch header of the segment before, 0 if none
//	40 20  zero
//	60  4  checksum of the 60 bytes before
//
//	batch header, 24 bytes, at an offset divisible by 8
//	 0  4  magic "QJB1"
//	 4  4  length of the batch with header and padding, divisible by 8
//	 8  4  number of records
//	12  4  chain: checksum of the batch header before, or of the segment header
//	16  4  checksum of the record headers of the batch, one behind the other
//	20  4  checksum of journal, segment, own offset, and the 20 bytes before
//
//	record, right behind the batch header or the record before
//	 0  4  length of the data
//	 4  4  checksum of journal, segment, own offset, length and data
//	 8  .  data
//
// Behind the last record a batch is padded with zeros. Behind the last batch of the last
// segment there are zeros, or nothing: zeros are written ahead of the tail, because a sync is
// faster when the file's blocks are written already. Checksums cover the journal, segment and
// offset, so that bytes of another place or another journal are never taken for records;
// the chain ties each batch to all before it.
package journal
