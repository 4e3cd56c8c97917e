// Package root is the state machine of the root group, shard 0: what is cluster-wide. It
// keeps the cluster's identity, the masters, the chunk servers with their disks and
// incarnations, the capability keys, and which shard owns which slots. Like package meta it
// is pure: [Apply] turns a state and a command into a changed state and a result, and the
// read functions answer from a state.
//
// # Invariants
//
// Node numbers, server numbers and incarnations only grow and are never used again. A disk
// belongs to one server for ever. There is always at least one key and one master.
//
// # State: keys
//
// One byte names the table; integers are big endian; values are messages of package wire.
//
//	'h'               header: cluster, next numbers, version of the slot map
//	'm' node(8)       master
//	's' server(8)     chunk server: disks, incarnation, boot, address, rack
//	'd' disk(16)      the server that the disk belongs to
//	'k' number(4)     capability key
//	'p' shard(8)      shard: its slots, and the masters that its group began with
//	'v' move(8)       move of slots from one shard to another, until it is over
//	'o'               the transaction that may give a directory another parent
package root
