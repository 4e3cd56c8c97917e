package client_test

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/client/clienttest"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/rpc"
)

// network serves a cluster on a network in memory.
type network struct {
	t       *testing.T
	memory  *rpc.Memory
	cluster quarry.ClusterID
	key     []byte
	servers []*rpc.Server
}

func (n *network) serve(address string, role rpc.Role, register func(*rpc.Server)) {
	n.t.Helper()
	s := rpc.NewServer(rpc.ServerConfig{
		Clock: clock.Simulated(), Key: n.key,
		Identity: func() rpc.Identity { return rpc.Identity{Cluster: n.cluster, Role: role} },
	})
	register(s)
	l, err := n.memory.Listen(address)
	if err != nil {
		n.t.Fatal(err)
	}
	go func() {
		if err := s.Serve(l); err != nil {
			n.t.Error(err)
		}
	}()
	n.servers = append(n.servers, s)
}

func (n *network) close() {
	for _, s := range n.servers {
		s.Close()
	}
}

func serveCluster(t *testing.T, c *clienttest.Cluster, key []byte) *network {
	n := &network{t: t, memory: rpc.NewMemory(), cluster: c.ID(), key: key}
	n.serve("master:7400", rpc.RoleMaster, func(s *rpc.Server) { rpc.ServeMaster(s, c.Master()) })
	for _, server := range c.Servers() {
		n.serve(server.Address(), rpc.RoleChunkServer, func(s *rpc.Server) { rpc.ServeChunkServer(s, server) })
	}
	return n
}

// The suite over real connections.
func TestOverTheNetwork(t *testing.T) {
	for name, key := range map[string][]byte{"open": nil, "with a key": bytes.Repeat([]byte("k"), 32)} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := clienttest.New(clienttest.Config{Delay: time.Millisecond})
				defer c.Close()
				n := serveCluster(t, c, key)
				defer n.close()
				files, err := client.Open(t.Context(), []string{"nowhere:1", "master:7400"}, client.Options{
					Clock: clock.Simulated(), Network: n.memory, Key: key,
				})
				if err != nil {
					t.Fatal(err)
				}
				clienttest.Run(t, files)
				if err := files.Close(); err != nil {
					t.Error(err)
				}
				if n := c.Sessions(); n != 0 {
					t.Errorf("%d sessions are left", n)
				}
			})
		})
	}
}

func TestOpenFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clienttest.New(clienttest.Config{})
		defer c.Close()
		n := serveCluster(t, c, bytes.Repeat([]byte("k"), 32))
		defer n.close()
		opts := client.Options{Clock: clock.Simulated(), Network: n.memory}
		e := &env{T: t}
		start := time.Now()
		_, err := client.Open(t.Context(), []string{"nowhere:1"}, opts)
		e.want(err, quarry.Unavailable)
		if d := time.Since(start); d > 11*time.Second || !strings.Contains(err.Error(), "that the masters run") {
			t.Errorf("after %v: %v", d, err)
		}
		_, err = client.Open(t.Context(), []string{"master:7400"}, opts)
		e.want(err, quarry.Permission)
		_, err = client.Open(t.Context(), nil, opts)
		e.want(err, quarry.Invalid)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = client.Open(ctx, []string{"nowhere:1"}, opts)
		e.want(err, context.DeadlineExceeded)
	})
}

// A client asks one master after the other who the masters are, each time a little sooner or later.
func TestFollowsTheMasters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clienttest.New(clienttest.Config{})
		defer c.Close()
		n := serveCluster(t, c, nil)
		defer n.close()
		files, err := client.Open(t.Context(), []string{"master:7400"}, client.Options{Clock: clock.Simulated(), Network: n.memory})
		if err != nil {
			t.Fatal(err)
		}
		gaps := map[time.Duration]bool{}
		last, asked := time.Now(), c.Count("topology")
		for range 200_000 {
			_ = clock.Simulated().Sleep(t.Context(), 5*time.Millisecond)
			if now := c.Count("topology"); now != asked {
				gap := time.Since(last)
				if now != asked+1 || gap < 4*time.Second || gap > 5*time.Second+5*time.Millisecond {
					t.Errorf("it asked %d times after %v", now-asked, gap)
				}
				gaps[gap] = true
				last, asked = time.Now(), now
			}
		}
		if len(gaps) < 20 {
			t.Errorf("there are only %d different pauses", len(gaps))
		}
		if err := files.Close(); err != nil {
			t.Error(err)
		}
	})
}
