package master

import (
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/meta/root"
)

func TestStatus(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, c *testCluster) {
		heard, forgotten := c.register(1), c.register(3)
		silent := c.register(2)
		m := c.leader(1)
		for i, name := range []string{"a", "b"} {
			if _, err := m.Make(t.Context(), &quarry.MakeRequest{
				Op: quarry.Op{Session: c.session(1), Sequence: quarry.Sequence(i + 1), Oldest: 1}, Parent: quarry.RootInode, Name: name, Kind: quarry.KindFile,
			}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := c.leader(quarry.RootShard).root.propose(t.Context(), &root.ForgetServer{Server: forgotten.Server}); err != nil {
			t.Fatal(err)
		}
		gone := c.nodes[0]
		if gone == m {
			gone = c.nodes[1]
		}
		number, disk := gone.node, gone.disk
		gone.stop()
		heard.Address, heard.Rack, heard.Disks = "elsewhere:1", "r2", []quarry.DiskUsage{{Total: 10, Free: 4}}
		m = c.leader(1)
		if _, err := m.Heartbeat(t.Context(), heard); err != nil {
			t.Fatal(err)
		}
		c.sleep(3 * time.Second)
		c.until("the server is not forgotten", func() bool { return m.root.known.Load().servers[forgotten.Server].Forgotten })
		begun := m.cfg.Clock.Now()
		st, err := m.Status(t.Context())
		if err != nil || st.Cluster != (quarry.ClusterID{1}) || st.Node != m.node || len(st.Masters) != 3 || len(st.Shards) != testShards+1 {
			t.Fatalf("%+v, %v", st, err)
		}
		took := m.cfg.Clock.Now().Sub(begun)
		if took > identifyTime {
			t.Errorf("the answer took %v", took)
		}
		for _, n := range st.Masters {
			if n.Alive != (n.Node != number) || n.Node == number && n.Disk != disk || n.Address == "" {
				t.Errorf("master %+v, %d is gone", n, number)
			}
		}
		for i, s := range st.Shards {
			leader := c.leader(quarry.ShardID(i))
			raft, err := m.host.Status(quarry.ShardID(i))
			if err != nil || s.Shard != quarry.ShardID(i) || s.Leader != leader.node || s.Term != raft.Term || s.Applied == 0 {
				t.Errorf("shard %+v, %v", s, err)
			}
		}
		if st.Shards[1].Inodes != 3 || st.Shards[0].Inodes != 0 {
			t.Errorf("%d inodes in shard 1, %d in the root group", st.Shards[1].Inodes, st.Shards[0].Inodes)
		}
		if len(st.Servers) != 2 || st.Servers[0].Server != heard.Server || st.Servers[1].Server != silent.Server {
			t.Fatalf("servers %+v", st.Servers)
		}
		h, s := st.Servers[0], st.Servers[1]
		if h.SilentMS < 3000 || h.SilentMS > 3000+took.Milliseconds() || h.Address != "elsewhere:1" || h.Rack != "r2" || len(h.Disks) != 1 || h.Disks[0].Free != 4 || h.Incarnation != heard.Incarnation || h.Leaseless {
			t.Errorf("of who was heard: %+v", h)
		}
		if s.SilentMS != -1 || s.Address != "s:1" || s.Incarnation != silent.Incarnation {
			t.Errorf("of who was never heard: %+v", s)
		}
		map1, err := m.Topology(t.Context())
		if err != nil || len(map1.Shards) != testShards+1 || map1.Shards[1].Leader != m.node || len(map1.Shards[2].Voters) != 3 {
			t.Errorf("%+v, %v", map1, err)
		}
	})
}

// TestStatusOfLeaderCutOff asks a leader that has just lost the others: it does not say that it leads.
func TestStatusOfLeaderCutOff(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, c *testCluster) {
		m := c.nodes[0]
		for id := range quarry.ShardID(testShards + 1) {
			c.lead(id, m)
		}
		c.nodes[1].stop()
		c.nodes[2].stop()
		st, err := m.Status(t.Context())
		if err != nil || len(st.Shards) != testShards+1 {
			t.Fatalf("%+v, %v", st, err)
		}
		for _, s := range st.Shards {
			if s.Leader != 0 {
				t.Errorf("master %d leads shard %d, it says", s.Leader, s.Shard)
			}
		}
	})
}

// Leadership goes where it is asked to go; only the leader can hand it over.
func TestTransfer(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, c *testCluster) {
		ctx := t.Context()
		for id := range quarry.ShardID(testShards + 1) {
			for _, to := range c.nodes {
				if leader := c.leader(id); leader != to {
					pointsAt(t, "transfer", to.Transfer(ctx, &quarry.TransferRequest{Shard: id, To: to.node}), leader)
				}
				c.lead(id, to)
				before, _ := to.host.Status(id)
				for range 2 { // it has been done
					if err := to.Transfer(ctx, &quarry.TransferRequest{Shard: id, To: to.node}); err != nil {
						t.Fatal(err)
					}
				}
				is(t, to.Transfer(ctx, &quarry.TransferRequest{Shard: id}), quarry.Invalid)
				is(t, to.Transfer(ctx, &quarry.TransferRequest{Shard: id, To: 9}), quarry.Invalid)
				if after, _ := to.host.Status(id); after.Term != before.Term || c.leader(id) != to {
					t.Fatalf("the leadership of group %d has moved", id)
				}
			}
		}
		is(t, c.nodes[0].Transfer(ctx, &quarry.TransferRequest{Shard: testShards + 1, To: 1}), quarry.NotFound)
	})
}
