// Package chunk keeps the chunks of one disk as plain files. It decides nothing: the
// protocol says what a replica does, and the [Store] makes it durable, whole or not at all.
//
// Every walk ends here: a write comes as [Store.Write] and [Store.Sync], a seal as
// [Store.Seal], a re-open as [Store.Reopen], a read as [Store.Read], a repair as [Store.Receive].
//
// # What holds
//
//   - A state that the store shows, and bytes that it returns, are durable. [Store.State] and
//     [Store.Read] never run ahead of the disk.
//   - Bytes below the durable length are never written again, until the replica is
//     dropped. So a write that a crash tears can only hurt bytes that nobody was told of.
//   - No byte is written before it matched the writer's checksum, when it came or here, and none
//     leaves without one: it was compared here, or the stored checksum goes with it. What is stored
//     is the writer's own checksum, or was computed of bytes that are compared with it once more.
//   - The journal never speaks of bytes that are not durable: files are synced before their
//     record, and the record's checksums describe exactly the durable bytes, that of the last
//     block the part of it that is durable.
//   - A file that is shorter than the journal says makes the replica lost. Its length is never
//     taken for the replica's.
//   - A sync that failed, a write that failed for another reason than a full disk, or a dead
//     journal retires the disk. Nothing is tried again.
//
// # The folder
//
//	FORMAT                     whose disk this is: see Identity
//	lock                       held while the store is open
//	journal/                   a package journal; its records are described at type record
//	chunks/ab/<handle>         the bytes of a chunk, and nothing else; the handle has 16
//	                           hexadecimal digits, ab are the last two
//	chunks/ab/<handle>.idx     of a sealed chunk: see Index
//	chunks/ab/<handle>.tmp     a copy that is being received
//	trash/<handle>.<seconds>   the bytes of a dropped replica; seconds since 1970
//	trash/<handle>.<seconds>.idx
//
// The file of a sealed chunk and its index say all that must be known of it: chunks can be
// read, and a namespace rebuilt, from the files alone, without a journal and without this
// package.
//
// While a replica grows, its checksums and records are in memory and in the journal. A
// sealed one has them in its index only, which is read when it is needed; it takes about
// 250 bytes of memory, so that a disk of 16 TB with full chunks takes 64 MiB.
//
// # Locks
//
// growth.write and Store.purging are taken before Store.mu, never both; the caches have locks of their
// own, which are taken last. No lock but those two is held while the disk works.
package chunk
