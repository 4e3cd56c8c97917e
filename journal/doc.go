// Package journal is an append-only log of checksummed records in segment files. The Raft
// log of a master and the chunk state of a disk are journals.
//
// Appends of many callers are committed as a group: while one batch is being synced the
// next one fills. A record is durable when its callback is called without error, and then
// all records before it are. After a failed write or sync the journal is dead: every later
// append fails with the first error, and nothing is tried again.
//
// Recovery reads the segments in order. A broken record at the very end, with nothing
// valid behind it, was torn by a crash and is cut; a broken record followed by valid ones is rot,
// and Open refuses the journal with a Corrupt error.
package journal
