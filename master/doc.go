// Package master serves quarry.Master: names, layouts and chunk records on Raft groups, and
// the care for the chunks of the shards that this node leads.
//
// A master is a node of every group: the root group (package meta/root) and the shards
// (package meta), all hosted by one raft.Host. A call for a slot goes to the shard that owns
// it: a read takes a ReadIndex and then looks at the state (names.go), a change is proposed
// and answered with what the state machine returned (shard.go). What has to do with chunks
// goes to the shard's chunks.Leader, which exists only while this node leads the shard.
//
// A process with an empty folder waits: it answers Identify, Init and Join and refuses all
// else (init.go). Only Init makes a cluster, and only Join makes a waiting master part of an
// existing one.
//
// No data path waits for the root group: what shards need of it (keys, addresses of servers,
// the slot map) is read from this node's own replica of its state.
package master
