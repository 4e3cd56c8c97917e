package root

import (
	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta"
)

// Topology tells where every slot lives. Leaders and voters are not part of this state.
func Topology(v meta.View) *quarry.TopologyReply {
	s := state{view: v}
	h := s.loadHeader()
	t := &quarry.TopologyReply{Cluster: h.Cluster, Version: h.MapVersion, Masters: all(&s, tableMaster, masterFields), Numbered: max(h.NextNode, 1) - 1}
	for _, shard := range Shards(v) {
		t.Shards = append(t.Shards, quarry.ShardInfo{Shard: shard.Shard, Slots: shard.Slots})
	}
	return t
}

// Servers returns all chunk servers, in the order of their numbers; those that were given up
// as well.
func Servers(v meta.View) []Server {
	return all(&state{view: v}, tableServer, serverFields)
}

// ServerOf returns a chunk server; false if it is not known.
func ServerOf(v meta.View, id quarry.ServerID) (s Server, ok bool) {
	ok = load(&state{view: v}, serverKey(id), &s, serverFields)
	return s, ok
}

// Keys returns the capability keys in force, the one that signs last.
func Keys(v meta.View) quarry.Keys {
	return all(&state{view: v}, tableKey, keyFields)
}
