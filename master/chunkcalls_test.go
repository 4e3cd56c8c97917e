package master

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/rpc"
)

// obliging is a chunk server that does all that making a chunk takes, and tells of it before.
type obliging struct {
	quarry.ChunkServer
	create func()
}

func (o obliging) Create(context.Context, *quarry.CreateRequest) error {
	o.create()
	return nil
}

func (obliging) Activate(context.Context, *quarry.ActivateRequest) error { return nil }

// oblige adds chunk servers to the cluster, and returns their heartbeats.
func (c *testCluster) oblige(n byte, create func()) (beats []*quarry.HeartbeatRequest) {
	c.t.Helper()
	for i := range n {
		s := rpc.NewServer(rpc.ServerConfig{Clock: clock.Simulated(), Identity: func() rpc.Identity { return rpc.Identity{Role: rpc.RoleChunkServer} }})
		rpc.ServeChunkServer(s, obliging{create: create})
		disks := []quarry.DiskUsage{{Disk: quarry.DiskID{100, i}, Total: 1 << 40, Free: 1 << 40}}
		address := fmt.Sprintf("s%d:1", i)
		l, err := c.net.Listen(address)
		if err != nil {
			c.t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = s.Serve(l)
		}()
		c.t.Cleanup(func() {
			_ = s.Close()
			<-done
		})
		hb := c.registerAs(&quarry.RegisterRequest{Disks: disks, Address: address, Rack: address, Process: quarry.ProcessID{i}})
		hb.Disks = disks
		beats = append(beats, hb)
	}
	return beats
}

// The leader loses its followers when the chunk that a writer has asked for is made and about to be
// logged. Nobody can tell the writer whether it will be; it asks again, and does not give up.
func TestRollOfUnknownOutcome(t *testing.T) {
	inBubble(t, 3, func(t *testing.T, c *testCluster) {
		leader, op := c.leader(1), quarry.Op{Session: c.session(1), Sequence: 1, Oldest: 1}
		made, err := leader.Make(t.Context(), &quarry.MakeRequest{Op: op, Parent: quarry.RootInode, Name: "f", Kind: quarry.KindFile})
		if err != nil {
			t.Fatal(err)
		}
		var once sync.Once
		var gone []*testNode
		beats := c.oblige(3, func() {
			once.Do(func() {
				for _, n := range c.nodes {
					if n != leader {
						n.stop()
						gone = append(gone, n)
					}
				}
			})
		})
		hear := func(n *testNode) {
			for _, hb := range beats {
				if _, err := n.Heartbeat(t.Context(), hb); err != nil {
					t.Fatal(err)
				}
			}
		}
		hear(leader)
		roll := &quarry.RollRequest{Session: op.Session, File: made.Attr.Inode}
		_, err = leader.Roll(t.Context(), roll)
		is(t, err, quarry.Unavailable)
		if len(gone) != 2 {
			t.Fatalf("the roll ended before it made anything: %v", err)
		}
		for _, n := range gone {
			n.start()
		}
		leader = c.leader(1)
		hear(leader)
		reply, err := leader.Roll(t.Context(), roll)
		if err != nil || reply.Chunk.State != quarry.ChunkOpen || len(reply.Chunk.Members) != 3 {
			t.Fatalf("%+v, %v", reply, err)
		}
	})
}
