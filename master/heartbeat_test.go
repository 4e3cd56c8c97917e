package master

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/meta/root"
)

// register makes a chunk server with one disk known to all masters, and returns its first
// heartbeat.
func (c *testCluster) register(n byte) *quarry.HeartbeatRequest {
	c.t.Helper()
	req := &quarry.RegisterRequest{Disks: []quarry.DiskUsage{{Disk: quarry.DiskID{100, n}}}, Address: "s:1", Rack: "r", Process: quarry.ProcessID{n}}
	return c.registerAs(req)
}

func (c *testCluster) registerAs(req *quarry.RegisterRequest) *quarry.HeartbeatRequest {
	c.t.Helper()
	reply, err := c.leader(quarry.RootShard).Register(c.t.Context(), req)
	if err != nil {
		c.t.Fatal(err)
	}
	c.until("the masters do not learn of the server", func() bool {
		return !slices.ContainsFunc(c.nodes, func(n *testNode) bool {
			return n.Master != nil && n.root.known.Load().servers[reply.Server].Incarnation != reply.Incarnation
		})
	})
	return &quarry.HeartbeatRequest{Server: reply.Server, Incarnation: reply.Incarnation, Nonce: 7, Address: req.Address, Rack: req.Rack}
}

// lead has a node lead a group.
func (c *testCluster) lead(id quarry.ShardID, to *testNode) {
	c.t.Helper()
	if err := c.leader(id).Transfer(c.t.Context(), &quarry.TransferRequest{Shard: id, To: to.node}); err != nil {
		c.t.Fatal(err)
	}
	if got := c.leader(id); got != to {
		c.t.Fatalf("node %d leads group %d, not %d", got.node, id, to.node)
	}
}

// A node grants for just the shards that it leads.
func TestHeartbeatGrants(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, c *testCluster) {
		hb := c.register(1)
		for _, lead := range [][2]int{{0, 0}, {0, 1}, {2, 1}} {
			c.lead(1, c.nodes[lead[0]])
			c.lead(2, c.nodes[lead[1]])
			for i, n := range c.nodes {
				reply, err := n.Heartbeat(t.Context(), hb)
				if err != nil || reply.Nonce != hb.Nonce {
					t.Fatalf("%+v, %v", reply, err)
				}
				granted := map[quarry.ShardID]bool{}
				for _, g := range reply.Grants {
					granted[g.Shard] = true
					st, err := n.host.Status(g.Shard)
					want := []quarry.SlotRange{root.Split(testShards)[g.Shard-1]}
					if err != nil || g.Term != st.Term || !slices.Equal(g.Slots, want) || g.EndMS <= 0 || g.ReadMS <= 0 {
						t.Errorf("the grant %+v is not of term %d and slots %v", g, st.Term, want)
					}
				}
				if granted[1] != (lead[0] == i) || granted[2] != (lead[1] == i) || len(granted) != len(reply.Grants) {
					t.Errorf("leaders %v: node %d grants %v", lead, i+1, granted)
				}
			}
		}
	})
}

// A leader that the others do not hear grants nothing, but answers.
func TestHeartbeatWithoutMajority(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, c *testCluster) {
		hb := c.register(1)
		leader := c.leader(1)
		for _, n := range c.nodes {
			if n != leader {
				n.stop()
			}
		}
		ctx, cancel := clock.Simulated().WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		reply, err := leader.Heartbeat(ctx, hb)
		if err != nil || len(reply.Grants) != 0 {
			t.Fatalf("%+v, %v", reply, err)
		}
	})
}

func TestHeartbeatRefuses(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, c *testCluster) {
		hb := c.register(1)
		beat := func(change func(*quarry.HeartbeatRequest)) error {
			req := *hb
			change(&req)
			_, err := c.leader(1).Heartbeat(t.Context(), &req)
			return err
		}
		is(t, beat(func(r *quarry.HeartbeatRequest) { r.Server += 9 }), quarry.Unavailable)
		first := *hb
		hb = c.registerAs(&quarry.RegisterRequest{
			Server: hb.Server, Disks: []quarry.DiskUsage{{Disk: quarry.DiskID{100, 1}}}, Address: "s:1", Rack: "r",
			Last: hb.Incarnation, Process: quarry.ProcessID{2},
		})
		if hb.Server != first.Server || hb.Incarnation <= first.Incarnation {
			t.Fatalf("server %d incarnation %d follows server %d incarnation %d", hb.Server, hb.Incarnation, first.Server, first.Incarnation)
		}
		is(t, beat(func(r *quarry.HeartbeatRequest) { r.Incarnation = first.Incarnation }), quarry.StaleVersion)
		if err := beat(func(*quarry.HeartbeatRequest) {}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.leader(quarry.RootShard).root.propose(t.Context(), &root.ForgetServer{Server: hb.Server}); err != nil {
			t.Fatal(err)
		}
		m := c.leader(1)
		c.until("the server is not forgotten", func() bool { return m.root.known.Load().servers[hb.Server].Forgotten })
		is(t, beat(func(*quarry.HeartbeatRequest) {}), quarry.Permission)
		if _, ok := m.root.Lookup(hb.Server); ok || len(m.root.List()) != 0 {
			t.Fatal("a server that was given up is still told of")
		}
	})
}

// The root group's leader, and nobody else, has the log note that a process took its
// incarnation.
func TestHeartbeatConfirms(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, c *testCluster) {
		hb := c.register(1)
		leader, follower := c.leader(quarry.RootShard), c.follower(quarry.RootShard)
		confirmed := func() quarry.Incarnation { return leader.root.known.Load().servers[hb.Server].Confirmed }
		for _, n := range []*testNode{follower, leader} {
			if confirmed() != 0 {
				t.Fatal("the log notes an incarnation that its leader has not heard")
			}
			for range 3 {
				before, _ := leader.host.Status(quarry.RootShard)
				if _, err := n.Heartbeat(t.Context(), hb); err != nil {
					t.Fatal(err)
				}
				c.sleep(time.Second)
				after, _ := leader.host.Status(quarry.RootShard)
				if after.Applied != before.Applied && confirmed() == 0 {
					t.Fatal("something else was logged")
				}
			}
		}
		if confirmed() != hb.Incarnation {
			t.Fatalf("incarnation %d is confirmed, not %d", confirmed(), hb.Incarnation)
		}
	})
}

// Pulses are remembered of so many servers, of the newest incarnation, and count for two
// seconds.
func TestPulses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &Master{cfg: Config{Clock: clock.Simulated()}, pulses: map[quarry.ServerID]pulse{}}
		for id := range quarry.ServerID(pulsesMax) {
			m.notePulse(&quarry.HeartbeatRequest{Server: id + 1, Incarnation: 5})
		}
		if !m.notePulse(&quarry.HeartbeatRequest{Server: pulsesMax + 1, Incarnation: 5}) || len(m.pulses) != pulsesMax {
			t.Fatalf("%d pulses are remembered", len(m.pulses))
		}
		_ = clock.Simulated().Sleep(t.Context(), heardFor)
		if got := m.heardLately(); len(got) != 0 {
			t.Fatalf("%d servers are taken for alive after %v", len(got), heardFor)
		}
		settled := []quarry.Item{{}}
		m.notePulse(&quarry.HeartbeatRequest{Server: 9, Incarnation: 6, Settled: settled})
		m.notePulse(&quarry.HeartbeatRequest{Server: 3, Incarnation: 5})
		m.notePulse(&quarry.HeartbeatRequest{Server: 9, Incarnation: 5}) // it was under way for long
		got := m.heardLately()
		if len(got) != 2 || got[0].Server != 3 || got[1].Server != 9 || got[1].Incarnation != 6 || got[1].Settled != nil {
			t.Fatalf("heard of %+v", got)
		}
	})
}
