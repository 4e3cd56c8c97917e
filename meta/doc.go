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
// docs/formats.md draws the keys. They begin with the slot, so that a slot is one range of keys; a
// session's slot is the first bits of its id. A piece is keyed by its end, so that the one that
// holds an offset is the first one behind it. A session has a ring of [WindowOps] places for results.
// Keys that begin with 0xffff belong to the shard: but for header and changes they follow from the
// records (index.go), so a slot that comes from another shard brings no part of them.
//
// # Commands: bytes
//
// A command is one message: fields 1 to 9 are the envelope's, those from 10 on the body's,
// as its kind says. The Raft log frames it and checks its sum. A node that does not know a
// kind or a field would come to another state than the others. So what a release adds has a
// feature level (quarry.FeatureLevel), and a leader proposes it only when the root group's log
// says that every master speaks that level; a node that meets a command it cannot read stops.
package meta
