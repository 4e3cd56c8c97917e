package cluster

import (
	"testing"

	"github.com/quarryfs/quarry"
)

// TestNewcomers: a master that is a member already takes the place of another one only where a leader
// says that it has yet to: what is said of a shard without a leader may be of some time ago.
func TestNewcomers(t *testing.T) {
	shard := func(id quarry.ShardID, leader quarry.NodeID, voters ...quarry.NodeID) quarry.ShardStatus {
		return quarry.ShardStatus{Shard: id, Leader: leader, Voters: voters}
	}
	disk := quarry.DiskID{4}
	topology := &quarry.TopologyReply{Masters: []quarry.MasterNode{{Node: 1}, {Node: 3}, {Node: 4, Disk: disk}}}
	m := &mastersChange{gone: []quarry.NodeID{3}, came: []quarry.MasterNode{{Disk: disk}}}
	root := shard(quarry.RootShard, 1, 1, 3, 4)
	for what, test := range map[string]struct {
		shards []quarry.ShardStatus
		want   quarry.Kind
	}{
		"it votes beside the other everywhere":         {[]quarry.ShardStatus{root, shard(1, 1, 1, 3, 4), shard(2, 4, 1, 3, 4)}, quarry.Invalid},
		"one shard was not changed":                    {[]quarry.ShardStatus{root, shard(1, 1, 1, 4), shard(2, 1, 1, 3)}, 0},
		"one was, and another has no leader":           {[]quarry.ShardStatus{root, shard(1, 1, 1, 4), shard(2, 0, 1, 3)}, 0},
		"it is seen nowhere but in one without leader": {[]quarry.ShardStatus{root, shard(1, 1, 1, 3, 4), shard(2, 0, 1, 3)}, quarry.Unavailable},
		"the shard that is added has not begun":        {[]quarry.ShardStatus{root, shard(1, 1, 1, 3, 4), shard(2, 0)}, quarry.Unavailable},
		"no shard has a leader, and it votes in each":  {[]quarry.ShardStatus{root, shard(1, 0, 1, 3, 4)}, quarry.Invalid},
	} {
		if err := m.newcomers(&quarry.StatusReply{Shards: test.shards}, topology); quarry.KindOf(err) != test.want {
			t.Errorf("%s: %v", what, err)
		}
	}
}
