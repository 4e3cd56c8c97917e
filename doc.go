// Package quarry is the contract between the parts of Quarry, a distributed file system
// for huge files: the identifiers, the errors, the messages, and the two interfaces
// [Master] and [ChunkServer] through which clients, masters and chunk servers meet.
//
// A file is a layout: an ordered list of pieces, most of them ranges of chunks. A chunk is
// up to 64 MiB of bytes that only ever grow at the end; it is kept as replicas on several
// chunk servers. The masters keep names, layouts and chunk records; the chunk servers keep
// bytes. Bytes never pass through a master.
//
// The package does no input or output, starts no goroutine and reads no clock. Everything
// else in the repository imports it, and it imports nothing of the repository.
//
// # The walks
//
// Write: a client makes a file at its master ([Master.Make]), asks for a chunk to write to
// ([Master.Roll]), and sends records to the chunk's primary ([ChunkServer.Append]), which
// orders them and passes them along the chain of replicas ([ChunkServer.Prepare]). When
// every replica has them on disk they are committed, and only then acknowledged.
//
// Read: a client asks where the bytes of a file are ([Master.Locate]) and reads them from
// the nearest replica ([ChunkServer.Read]); how far an open file reaches it asks the
// primary of the last chunk ([ChunkServer.End]).
//
// Seal: when a replica fails, or a chunk is full, the master ends the chunk's writable
// version: it fences every replica ([ChunkServer.Fence]), decides one length that holds
// every acknowledged record, logs it, and tells the replicas ([ChunkServer.Seal]). Writing
// goes on in a new chunk. What became of a record whose answer was lost is told by the
// sealed replicas ([ChunkServer.Fate]); so every record is appended exactly once.
package quarry
