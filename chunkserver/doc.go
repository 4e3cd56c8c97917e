// Package chunkserver serves quarry.ChunkServer: it joins the chunk protocol's machines
// (package protocol) to the disks (package chunk) and to the network, and keeps the server
// known to the masters.
//
// Every replica is a small actor: an event (a request, an answer of another server, a change
// that became durable) is one step of its protocol.Member, under the replica's lock; the
// effects of all steps are carried out in their order by one goroutine at a time, without
// the lock. So nothing waits for a disk or a socket while it holds a lock, and changes reach
// the disk in the order of their tickets. Bytes are written by another goroutine of the
// replica, so that a disk that hangs keeps nobody from being answered.
//
// The walks: append.go (the primary's end of an append), prepare.go (a batch on its way down
// the chain), orders.go (create, activate, fence, seal, drop: the master's orders), read.go,
// lend.go (to clients on the same machine), wait.go, copy.go, whose pace yield.go decides. Beside them run the heartbeat with the leases (heartbeat.go, lease.go),
// the inventory (inventory.go), the scrub (scrub.go), and what looks after slow members
// (slow.go) and slow disks (disks.go).
//
// Lock order: Server.mu, replica.mu, Server.jobsMu; none is held over input or output.
package chunkserver
