package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/cluster"
	"github.com/quarryfs/quarry/rpc"
	"github.com/quarryfs/quarry/rpc/route"
)

// masters is the masters of a cluster, each a part of this process.
type masters struct {
	t      *testing.T
	ctx    context.Context
	client *rpc.Client
	route  *route.Masters
	all    map[string]*cluster.Process // by address
	dir    string
}

// startMasters makes a cluster of n masters.
func startMasters(t *testing.T, n int) *masters {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	m := &masters{t: t, ctx: ctx, all: map[string]*cluster.Process{}, dir: t.TempDir()}
	m.client = rpc.NewClient(rpc.ClientConfig{
		Network: rpc.TCP, Clock: clock.System(), Identity: func() rpc.Identity { return rpc.Identity{Role: rpc.RoleClient} },
	})
	var addresses []string
	for range n {
		addresses = append(addresses, m.start())
	}
	t.Cleanup(func() {
		for _, p := range m.all {
			_ = p.Abort()
		}
		m.client.Close()
		cancel()
	})
	if _, err := cluster.Init(ctx, m.client, clock.System(), addresses, 2); err != nil {
		t.Fatal(err)
	}
	var err error
	if m.route, err = route.New(route.Options{
		Addresses: addresses, Clock: clock.System(), Dial: func(a string) (quarry.Master, error) { return m.client.Master(a), nil },
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.route.Close() })
	return m
}

// start starts a master with an empty folder and returns its address.
func (m *masters) start() string {
	m.t.Helper()
	p, err := cluster.StartMaster(cluster.MasterOptions{
		Common: cluster.Common{Listen: "127.0.0.1:0", Logger: slog.New(slog.DiscardHandler)}, Dir: filepath.Join(m.dir, fmt.Sprint(len(m.all))),
	})
	if err != nil {
		m.t.Fatal(err)
	}
	m.all[p.Address] = p
	return p.Address
}

func (m *masters) change(ctx context.Context, c cluster.MasterChange) ([]quarry.MasterNode, error) {
	_, all, err := cluster.ChangeMasters(ctx, m.client, m.route, clock.System(), c)
	return all, err
}

// must makes a change and checks how many masters there are then.
func (m *masters) must(c cluster.MasterChange, want int) {
	m.t.Helper()
	all, err := m.change(m.ctx, c)
	if err != nil || len(all) != want {
		m.t.Fatalf("%+v: %v, %v", c, all, err)
	}
	st, err := m.route.Status(m.ctx)
	if err != nil {
		m.t.Fatal(err)
	}
	for _, s := range st.Shards {
		if len(s.Voters) != want || len(s.Learners) > 0 {
			m.t.Errorf("%+v: shard %d has the voters %v and the learners %v", c, s.Shard, s.Voters, s.Learners)
		}
	}
}

// refused fails the test unless a change is refused, with these words.
func (m *masters) refused(c cluster.MasterChange, words string) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.ctx, 20*time.Second)
	defer cancel()
	if _, err := m.change(ctx, c); err == nil || errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), words) {
		m.t.Errorf("%+v: %v", c, err)
	}
}

// TestChangeMasters grows and shrinks the masters, and has what is dangerous refused by name.
func TestChangeMasters(t *testing.T) {
	t.Parallel()
	m := startMasters(t, 1)
	m.refused(cluster.MasterChange{Gone: []quarry.NodeID{1}}, "the last master")
	m.refused(cluster.MasterChange{Gone: []quarry.NodeID{7}}, "there has never been a master with the number 7")
	m.refused(cluster.MasterChange{By: []string{"127.0.0.1:1"}}, "does not answer; start it with an empty folder first")
	a, b := m.start(), m.start()
	m.refused(cluster.MasterChange{By: []string{a, a}}, "twice")
	other := startMasters(t, 1)
	for stranger := range other.all {
		m.refused(cluster.MasterChange{By: []string{stranger}}, "wrong cluster")
	}
	m.must(cluster.MasterChange{By: []string{a, b}}, 3)
	m.must(cluster.MasterChange{By: []string{a, b}}, 3) // said again
	_ = m.all[b].Abort()                                // node 3
	m.refused(cluster.MasterChange{Gone: []quarry.NodeID{2}, By: []string{a}}, "cannot take its own place")
	m.refused(cluster.MasterChange{Gone: []quarry.NodeID{3}, By: []string{a}}, "is node 2 of this cluster already")
	m.refused(cluster.MasterChange{By: []string{m.start()}}, "node 3 does not answer")
	m.refused(cluster.MasterChange{Gone: []quarry.NodeID{2}}, "node 3 does not answer")
	c := m.start()
	m.must(cluster.MasterChange{Gone: []quarry.NodeID{3}, By: []string{c}}, 3)
	m.must(cluster.MasterChange{Gone: []quarry.NodeID{3}}, 3) // it is gone already
	m.must(cluster.MasterChange{Gone: []quarry.NodeID{1, 2}}, 1)
	m.must(cluster.MasterChange{Gone: []quarry.NodeID{1, 2}}, 1)
	for address, p := range m.all {
		if address == c || address == b {
			continue
		}
		if st, err := m.client.Master(address).Identify(m.ctx); err == nil && st.Node == 0 {
			continue // it was never added
		}
		select {
		case <-p.Failed():
			if !errors.Is(p.Err(), quarry.Permission) {
				t.Errorf("%s: %v", address, p.Err())
			}
		case <-m.ctx.Done():
			t.Errorf("%s was removed and goes on", address)
		}
	}
}

// TestChangeInterrupted has changes end at any point, and says them again.
func TestChangeInterrupted(t *testing.T) {
	t.Parallel()
	m := startMasters(t, 1)
	by := []string{m.start(), m.start()}
	again := func(c cluster.MasterChange, want int) {
		t.Helper()
		interrupted := 0
		for patience := 2 * time.Millisecond; ; patience = patience * 3 / 2 {
			ctx, cancel := context.WithTimeout(m.ctx, patience)
			_, err := m.change(ctx, c)
			cancel()
			if err == nil {
				break
			}
			if interrupted++; m.ctx.Err() != nil || errors.Is(err, quarry.Invalid) {
				t.Fatalf("%+v: %v", c, err)
			}
		}
		t.Logf("%+v: interrupted %d times", c, interrupted)
		m.must(c, want)
	}
	again(cluster.MasterChange{By: by}, 3)
	again(cluster.MasterChange{Gone: []quarry.NodeID{1, 2}}, 1)
	f, err := client.Open(m.ctx, []string{by[1]}, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Mkdir(m.ctx, "/d"); err != nil {
		t.Error(err)
	}
}

// TestChangeOrder has those who are gone leave the root group last, and looks at the shards once
// more when they are forgotten: another change may have added them there meanwhile.
func TestChangeOrder(t *testing.T) {
	t.Parallel()
	m := startMasters(t, 3)
	by := m.start()
	r := &recorder{}
	through, err := route.New(route.Options{Addresses: m.route.Addresses(), Clock: clock.System(), Dial: func(a string) (quarry.Master, error) {
		return recording{m.client.Master(a), r}, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer through.Close()
	if _, _, err := cluster.ChangeMasters(m.ctx, m.client, through, clock.System(), cluster.MasterChange{Gone: []quarry.NodeID{3}, By: []string{by}}); err != nil {
		t.Fatal(err)
	}
	var order []string
	for _, req := range r.done {
		order = append(order, fmt.Sprintf("%d:%d+%d", req.Shard, len(req.Gone), len(req.New)))
	}
	if got := strings.Join(order, " "); got != "0:0+1 1:1+1 2:1+1 0:1+0 1:1+1 2:1+1" {
		t.Errorf("the groups were changed in the order %s", got)
	}
}

// recorder keeps the changes of groups that succeeded.
type recorder struct {
	mu   sync.Mutex
	done []*quarry.ReplaceRequest
}

type recording struct {
	quarry.Master
	to *recorder
}

func (r recording) Replace(ctx context.Context, req *quarry.ReplaceRequest) (*quarry.ReplaceReply, error) {
	reply, err := r.Master.Replace(ctx, req)
	if err == nil {
		r.to.mu.Lock()
		defer r.to.mu.Unlock()
		r.to.done = append(r.to.done, req)
	}
	return reply, err
}
