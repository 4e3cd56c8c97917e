// Package chunks is what the leader of a shard does with chunks while it leads: it grants
// leases to chunk servers, places, opens, rolls and seals chunks, repairs lost replicas,
// reconciles inventories, and frees what nothing refers to.
//
// # Nouns
//
// A [Leader] is one term of leadership of one shard. What must outlast it is in the shard's
// log, behind [Log]; what it keeps in memory may be lost at any instant: the roster of chunk
// servers with their leases, the seals and rolls under way, the queue of repairs. The leader
// after it finds in the log what is unfinished, and does it again.
//
// # Invariants
//
// A handle is taken from a range that the log gave to this term, in a slot that the shard owned
// when it had the range (handles.go), and CREATE is never sent for it once it is logged; it is
// logged only after every member has acknowledged CREATE,
// and its primary is activated only after that. A length is decided by [protocol.Sealer]
// alone and told to nobody before it is logged. A lease is extended before the items of its
// grant are read, so a seal that waits for a lease to end and a grant that does not name the
// seal can never cross.
//
// # Walks
//
// Write: [Leader.Roll] seals the tail if the writer cannot use it any more (roll.go,
// seal.go), makes replicas on fresh servers, logs the chunk and activates its primary
// (open.go, place.go). Put: [Leader.Allocate] opens chunks that a session owns, and
// [Leader.Finish] seals them. Failure: [Leader.Report], or a server that falls silent, seals
// open chunks and queues copies of sealed ones (repair.go).
//
// # Locks
//
// flights.mu comes before Leader.mu; roster.mu and all others are leaves. None is held over a
// call to the log or to a chunk server.
package chunks
