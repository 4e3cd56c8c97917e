// Package raft hosts a node's members of many Raft groups, with any state machine: the root
// group and the shards of a master. The Raft machine itself is go.etcd.io/raft; this package
// gives it a disk, a network, a clock and a state.
//
// # Nouns
//
//   - A [Host] is a node. It has one journal for the logs of all its groups, so that they
//     share one stream of syncs, and one state store (Pebble) for their states.
//   - A group is replicated among members, each on another node. A [Member] is a node, its
//     disk and its address. Voters decide; learners only follow.
//   - A [StateMachine] applies the commands of a group to its [KV], an ordered key space.
//   - A worker is a goroutine that drives a part of the groups; an applier is a goroutine
//     that runs one group's state machine.
//   - A [Transport] carries batches of messages, and snapshots: a group's whole state, for a
//     follower that missed more than the leader's log still holds.
//
// # The walk of a command
//
// [Host.Propose] puts a command into its group's inbox. The worker takes what has gathered
// there and gives it to Raft as one (propose.go). Raft wants entries stored and sent: they go
// to the journal (group.go, append) and into the batch for each follower (transport.go), at
// the same time. There [Host.Deliver] puts them into the inbox, and they go to that journal,
// and when they are durable an answer goes back. With a majority they are committed: Raft
// hands them to the applier (apply.go), which applies them in one batch with the index they
// lead to, and answers the proposer.
//
// [Host.ReadIndex] has Raft ask a majority whether this node still leads, once for all reads
// that wait, and waits until the state has come as far (read.go). [Host.View] then reads.
//
// # What holds, whatever fails
//
//   - What was acknowledged is durable on a majority. A vote or an acknowledgement leaves a
//     node only when the journal has synced what it is for.
//   - The state may lag behind the log on disk, because commits to it are not synced: after a
//     crash the log has the commands again. It never lags behind the log's beginning: the
//     state is synced before the log is trimmed (trim.go). It may be ahead of the log's end,
//     when a crash came right after a snapshot was installed; then the log moves up to it. If
//     either was lost the node does not start (recover.go).
//   - A snapshot replaces the state, applied index, term and members included, in one step
//     (install.go).
//   - Members count only when they are durable: a node never goes back to members with which
//     it has voted or counted before (apply.go, commitChange).
//   - A node is known with its disk (identity.go). Batches and snapshots name the disks of
//     both ends, and one that names another disk is refused: a node that lost its disk has
//     forgotten its votes. A member without a state does not vote either.
//   - A failed write or sync, a damaged log and a panic stop the host: see [Host.Done] and
//     [Host.Err]. Nothing is tried again.
//
// # Bounds
//
// Everything that can grow has a bound: commands (CommandBytesMax), what waits in an inbox
// (worker.go), proposals without a majority, entries on the way to a follower or to the state
// machine (group.go), entries kept in memory (cacheBytesMax; older ones are read from the
// journal), values cached above the state (cacheBytes), batches (BatchBytesMax), the journal (Config.LogBytes, holdFactor), snapshots at a
// time and their rate. At a bound, proposals are refused as Busy, and messages are dropped, which Raft
// can bear.
//
// # Locks
//
// Worker and applier own what they touch; the rest has small locks that are never held
// together, with these exceptions: Host.mu is held while a group is added, peers.mu while a
// peer is made, and Host.stopMu is taken inside both. The worker waits for nobody but a full
// journal queue; the applier may wait for the worker.
//
// The formats on disk and on the wire are described at their code: record.go (journal),
// store.go (keys of the state), identity.go, message.go (batches), snapshot.go (streams).
package raft
