// Package move has what two shards keep of a move of slots from one to the other, and the batches
// of records that go between them. The commands are those of package meta; what drives them is
// the master.
//
// # A move, step by step
//
//	root          BeginMove ───────────────────────────────────────────────────────── EndMove
//	shard From    BeginLeave  ForgetChanges …  CloseSlots  Release                 LeaveOver  CleanSlots …
//	shard To      BeginTake   Take … Take …                Take …  Activate
//
// From BeginLeave on, the shard that the slots leave notes the key of every record of theirs that
// a command changes or deletes, in a log of changes. The other one takes batches: first records in
// the order of their keys, up to a cursor, then those that were changed before the cursor, with
// the values that they have when the batch is made. Release takes the slots from the first shard:
// nothing of them changes any more, and nobody answers for them until the rest of the changes is
// taken and Activate gives them to the second one. So a slot is served by one shard at a time,
// whatever the slot map says and whoever drives the move, and however often that changes.
//
// Before Release everything can be undone, in this order: CancelLeave, which is refused if the
// slots are released, then CancelTake, then the root group's EndMove. A shard that has never heard
// of a move hears of its end as well, so that no late command begins it. After Release there is no
// way back: the move goes on until the second shard owns the slots.
//
// Any number of drivers may work at the same move at a time, each from a leadership of its own,
// with views of different age. A batch is taken only if its number is the next one, so it follows
// the state that it was made for; and it is made only from a view that has all changes which that
// state has. See [Taking] for the invariant that this keeps.
//
// # Records of slots that are not owned
//
// A shard that takes slots has records of slots that it does not own yet, with the entries in
// its indexes and what they count for in its counters; so has the one that they have left, until
// they are cleaned away. Nobody sees them: every read by a number of such a slot is refused with
// WrongShard, and every scan of an index passes them over. Counters count them: during a move the
// sum over all shards is too high, never too low.
//
// # What moves
//
// Everything is keyed by slot, so all of it is records: names, files, chunks, removed files,
// sessions and the results of their operations, intents. Transactions end before Release, those
// that are coordinated in a slot of the move and those that have yet to give a session of such a
// slot its result. Numbers that are used once (of inodes, sessions, handles, transactions and
// preparations) are given by a shard for all of its slots: Activate raises those of the second
// shard to at least those of the first. Handles are reserved by leaders, so one may hold a range
// below what the slots have used: new chunks need handles from a floor on.
//
// Log times differ between shards. Times in records are shifted by what the difference was when
// the move began. A shard without a leader stands still meanwhile: if the difference has grown when
// Activate comes, sessions and garbage seem older than they are, and for sixteen times as long as
// it has grown, at most for the expiry of sessions, no session ends and no garbage is collected.
// Chunks that no file ever named need no such care.
//
// A session may own chunks of another slot; after a move the two may be at different shards. The
// chunk keeps its owner, and who links it names that (meta.Link's Owner). When the session is over,
// the chunk's shard has to be told (meta.Strangers, meta.Disown).
package move
