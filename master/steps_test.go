package master

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/raft"
)

// comeSteps are the steps of a change by which masters come, goSteps those of one by which they go.
var (
	comeSteps = []string{"master numbered", "master invited", "member learns", "snapshot installed", "members joint", "members changed"}
	goSteps   = []string{"members joint", "members changed", "masters out of shards", "master forgotten", "master leaves"}
)

// appliedSteps are told by who applies the log, and must not wait.
var appliedSteps = []string{"member learns", "snapshot installed", "members joint", "members changed"}

// changeNow is change for who is stopped on the way.
func (c *testCluster) changeNow(id quarry.ShardID, gone []quarry.NodeID, came []quarry.MasterNode) []quarry.MasterNode {
	c.t.Helper()
	c.until(fmt.Sprintf("group %d is not changed", id), func() bool {
		m := c.leaderNow(id)
		if m == nil {
			return false
		}
		reply, err := m.Replace(c.t.Context(), &quarry.ReplaceRequest{Shard: id, Gone: gone, New: came})
		if err == nil {
			came = reply.New
		}
		return err == nil
	})
	return came
}

// TestMastersChangeThroughCrashes stops the leaders of the root group, of a shard, or of all, at each
// step of a change by which two masters come and then two go. In the end the voters are who they
// should be, those that were removed have ended, and no name is lost.
func TestMastersChangeThroughCrashes(t *testing.T) {
	who := map[string][]quarry.ShardID{"root": {0}, "shard": {1}, "all": {0, 1, 2}}
	for name, groups := range who {
		for _, step := range comeSteps {
			t.Run(fmt.Sprintf("come/%s/%s", step, name), func(t *testing.T) { mastersThroughCrash(t, step, "", groups) })
		}
		for _, step := range goSteps {
			t.Run(fmt.Sprintf("go/%s/%s", step, name), func(t *testing.T) { mastersThroughCrash(t, "", step, groups) })
		}
	}
}

func mastersThroughCrash(t *testing.T, come, leave string, groups []quarry.ShardID) {
	inBubble(t, 3, func(t *testing.T, c *testCluster) {
		s := c.session(1)
		for i := range 300 { // so that who comes needs a snapshot
			op := quarry.Op{Session: s, Sequence: quarry.Sequence(i + 1), Oldest: quarry.Sequence(i + 1)}
			if _, err := c.leader(1).Make(t.Context(), &quarry.MakeRequest{Op: op, Parent: quarry.RootInode, Name: fmt.Sprintf("%03d-%0200d", i, i), Kind: quarry.KindFile}); err != nil {
				t.Fatal(err)
			}
		}
		four, five := c.add(), c.add()
		came := []quarry.MasterNode{{Disk: four.disk, Address: four.address}, {Disk: five.disk, Address: five.address}}
		through := func(step string, change func()) {
			if step == "" {
				change()
				return
			}
			end := c.stopAt(step, 1, groups...)
			change()
			c.sleep(10 * time.Second) // those that were removed find out
			if !end() {
				t.Errorf("no change comes to %q", step)
			}
		}
		through(come, func() {
			for id := range quarry.ShardID(testShards + 1) {
				came = c.changeNow(id, nil, came)
			}
		})
		gone := []quarry.NodeID{1, 2}
		through(leave, func() {
			for id := quarry.ShardID(testShards); ; id-- {
				if c.changeNow(id, gone, nil); id == quarry.RootShard {
					return
				}
			}
		})
		c.voters(3, 4, 5)
		c.gone(c.nodes[0])
		c.gone(c.nodes[1])
		if got := names(t, c.leader(1), quarry.RootInode); len(got) != 300 {
			t.Fatalf("of 300 names there are %d", len(got))
		}
	})
}

// TestMembersAreTold hears of each change of a group's members from every member, in the order of
// the log.
func TestMembersAreTold(t *testing.T) {
	inBubble(t, 1, func(t *testing.T, c *testCluster) {
		var mu sync.Mutex
		var told []raft.Changed
		c.nodes[0].OnMembers(func(id quarry.ShardID, change raft.Changed) {
			mu.Lock()
			defer mu.Unlock()
			if id == 1 {
				told = append(told, change)
			}
		})
		c.enlarge(c.add(), c.add())
		c.sleep(time.Second)
		mu.Lock()
		defer mu.Unlock()
		ids := func(n ...quarry.NodeID) []quarry.NodeID { return n }
		want := []raft.Changed{
			{Voters: ids(1), Outgoing: ids(1), Learners: ids(2, 3)}, // two at once
			{Voters: ids(1), Learners: ids(2, 3)},
			{Voters: ids(1, 2, 3), Outgoing: ids(1)},
			{Voters: ids(1, 2, 3)},
		}
		if len(told) != len(want) {
			t.Fatalf("told %+v", told)
		}
		for i, w := range want {
			got := told[i]
			if !slices.Equal(got.Voters, w.Voters) || !slices.Equal(got.Outgoing, w.Outgoing) || !slices.Equal(got.Learners, w.Learners) || got.Snapshot ||
				got.Index == 0 || got.Term == 0 || i > 0 && got.Index <= told[i-1].Index {
				t.Errorf("change %d is %+v, want %+v", i, got, w)
			}
		}
		st, err := c.nodes[1].Group(1)
		if err != nil || !slices.Equal(st.Voters, ids(1, 2, 3)) {
			t.Errorf("the group is %+v, %v", st, err)
		}
	})
}
