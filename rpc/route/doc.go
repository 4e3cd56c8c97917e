// Package route sends each request for the masters to the node that can answer it. A
// [Masters] knows the addresses of the masters, learns from them which shard owns which
// slot and who leads each shard, and is itself a quarry.Master for clients and chunk
// servers.
//
// A request goes to the leader of the shard that owns the slot of the inode or handle it
// names, or of the shard it names. A node that says it does not lead may name the leader;
// a node that cannot be reached is passed over at once. A node that is silent is not given
// up, because a seal may rightly take seconds: the others are asked who leads now, and only
// if they name another one is the request sent again, there. Sending a request twice is
// safe: mutations carry an Op that the masters execute once, and all else changes nothing.
//
// The one invariant: a request is given up only when its context ends, when no node has
// taken it for [Options.Patience], or when a master refuses it for good. So an Unavailable
// error of a mutation leaves its outcome open, and the caller may ask again with the same Op.
package route
