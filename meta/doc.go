// Package meta is the state machine of one shard: the namespace, the layouts of files, the
// records of chunks, and the sessions of clients. [Machine.Apply] turns an ordered key-value
// state and a command into a changed state and a result; the read functions ([Lookup],
// [Stat], [List], [Locate], …) answer from a state. The package starts no goroutine, reads
// no clock, draws no random number and does no input or output: time and every choice come
// in with the commands, so the same commands give the same bytes on every node.
//
// # Nouns
//
// A [Command] is one entry of the shard's Raft log: an envelope with the log time, the wall
// time and, for what a client does once, its session and sequence; and a [Body], one type
// for each verb. A [Result] is what the proposer gets. A [ChunkRecord] is all that the shard
// knows of a chunk; each of its replicas has a state ([ReplicaState]) and may owe the shard
// an item, a fence or a drop, that its server has yet to make durable.
//
// # Invariants
//
//   - A command that is refused changes nothing but log time and, if it belongs to a session,
//     the stored result.
//   - A chunk's Refs is the number of pieces that name it, in files and in removed files that
//     are not collected yet.
//   - Indexes and counters follow from the records alone; savings of a record and of its
//     index entries are one step (index.go).
//   - A chunk's record goes away only when no replica of it can be anywhere: each one's server
//     has settled its drop, or is gone for good.
//
// # Transactions
//
// A directory's slot has its entries, an inode's slot the inode; so a change of names may
// concern several shards. The shard of the directory that the operation names first
// coordinates. Its command ([Make], [Rename], [Remove]) finds out that other shards are
// concerned, and begins a [Transaction] instead: it takes hold of its entry, and the
// operation's result is the transaction until that is decided. Each part elsewhere is prepared
// ([Prepare]): the participant checks it and leaves an [Intent], which keeps it possible. A
// prepare that meets another intent is Busy at once. [Decide] is one entry of the coordinator's
// log: it changes the coordinator's entries, gives the operation its result, and says whether
// the parts are to be carried out ([Finish]). When all are, [Forget] ends it. What a shard does
// not know as a transaction was given up, or is over; so a participant may at any time ask the
// coordinator's shard and settle its intent ([Intent.Settle]).
//
//	coordinator   Make, Rename, Remove ─┐              ┌─ Decide ─┐             ┌─ Forget
//	participants                        └─ Prepare … ──┘          └─ Finish … ──┘
//
// A directory that is to be removed is frozen by its intent: it is empty and takes no entries.
// A directory that is made has its inode before any entry leads to it, and none if the
// transaction is given up. A file whose last name is gone is removed where it lives
// ([PartUnlink]): that cannot be refused, so it is decided at once and only has to be delivered.
// Messages may be late and may be repeated: each preparation has a ticket, a number used once,
// the decision names the tickets, and only these are carried out.
//
// A reader of a directory who finds an intent to put an entry there asks the coordinator:
// [Lookup] and [List] tell which intents their answer depends on. If none of them was decided
// when it asked, the answer is right as of its view.
//
// A directory gets another parent by a transaction even within a shard, unless that owns every
// slot: such transactions are [Transaction.Ordered], one at a time in the cluster, so that
// [Climb] can tell whether one would close a circle.
//
// All of this has keys of the slot it belongs to, so that it moves with the slot.
//
// # Slots that move
//
// Package meta/move has the walk and its rules. The shard that the slots leave applies
// [BeginLeave], [ForgetChanges], [CloseSlots], [Release], [LeaveOver] and [CleanSlots], the other
// one [BeginTake], [Take] and [Activate]; [CancelLeave] and [CancelTake] undo a move that is not
// released. [MovingOf] tells where a shard is, [NextBatch] and [Handover] make the next command
// for the other one.
//
// # State: keys
//
// Integers in keys are big endian. Keys begin with the slot, two bytes, so that a slot is
// one range of keys; a session's slot is the first bits of its id. Values are messages of
// package wire, which may grow by fields; the state store checks their checksums. Each field
// number is beside its name, in the walk functions of records.go.
//
//	slot 'e' directory(8) name         entry: inode, kind
//	slot 'i' inode(8)                  attributes: inodeRecord
//	slot 'p' inode(8) end(8)           piece that ends at this offset of the file: pieceRecord
//	slot 'c' handle(8)                 chunk: ChunkRecord
//	slot 's' session(8)                session: SessionRecord
//	slot 'r' session(8) place(2)       result of an operation: resultRecord
//	slot 't' transaction(8)            transaction that this shard coordinates: Transaction
//	slot 'n' inode(8) name             intent on an entry or, without a name, on the inode: Intent
//
// Pieces are keyed by their end, so that the piece which holds an offset is the first one
// behind it and the last piece of a file is found by the file's length, without a scan
// backwards. The open-ended piece has the end 2^64-1. A session has a ring of [WindowOps]
// places for results; the place is the sequence modulo WindowOps. So an operation costs one
// write, no delete, and a session's results are bounded.
//
// Keys that begin with 0xffff belong to the shard, not to a slot. But for header and changes they
// follow from the records, so a slot that comes from another shard brings no part of them:
//
//	ffff 'h'                           header: slots, log time, next numbers, counters
//	ffff 's' server(8) handle(8)       a record lists a replica at this server
//	ffff 'u' server(8) handle(8)       that replica owes this item: kind, version
//	ffff 'a' handle(8)                 open, being sealed, or with replicas that have not
//	                                   confirmed the seal
//	ffff 'r' copies(1) handle(8)       sealed, with fewer copies than wanted
//	ffff 'g' time(8) kind(1) id(8)     garbage since this log time (1: no file ever named it): 1 a
//	                                   removed file, 2 a chunk
//	ffff 'o' session(8) handle(8)      the session owns the chunk
//	ffff 'x' lastSeen(8) session(8)    sessions in the order of their expiry
//	ffff 't' transaction(8)            transactions that this shard coordinates
//	ffff 'n' transaction(8) inode(8) name   intents by transaction
//	ffff 'd' number(8)                 change to a record of a slot that is leaving: its key
//
// # Commands: bytes
//
// A command is one message: fields 1 to 9 are the envelope's, those from 10 on the body's,
// as its kind says. The Raft log frames it and checks its sum. A node that does not know a
// kind or a field would come to another state than the others. So what a release adds has a
// feature level (quarry.FeatureLevel), and a leader proposes it only when the root group's log
// says that every master speaks that level; a node that meets a command it cannot read stops.
package meta
