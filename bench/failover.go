package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/quarryfs/quarry"
	"github.com/quarryfs/quarry/client"
	"github.com/quarryfs/quarry/clock"
	"github.com/quarryfs/quarry/cluster"
	"github.com/quarryfs/quarry/rpc"
)

const (
	// settleTime is how long a cluster may take to be whole again between two kills.
	settleTime = 30 * time.Second
	lookEvery  = 20 * time.Millisecond
)

// failover kills the leader of the first shard with SIGKILL, again and again, and measures
// how long it takes until a write that began after it is accepted. Masters are processes of
// their own, of this very program.
func (b *run) failover(ctx context.Context) ([]Result, error) {
	p := &processes{run: b}
	defer p.close()
	if err := p.start(ctx); err != nil {
		return nil, err
	}
	var times []float64
	for i := range b.Runs {
		b.Progress(fmt.Sprintf("failover: kill %d of %d", i+1, b.Runs))
		d, err := p.once(ctx, i)
		if err != nil {
			return nil, err
		}
		times = append(times, d.Seconds())
	}
	longest := Result{Name: "failover/longest", Value: slices.Max(times), Unit: "s", Runs: len(times), Min: slices.Min(times), Max: slices.Max(times)}
	return []Result{longest, figure("failover/median", "s", times, nil)}, nil
}

// processes are three masters and the connections to them.
type processes struct {
	*run
	addresses []string
	masters   []*exec.Cmd
	conns     *rpc.Client
	fs        *client.FS
}

func (p *processes) start(ctx context.Context) error {
	for range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		p.addresses = append(p.addresses, l.Addr().String())
		l.Close()
	}
	p.masters = make([]*exec.Cmd, len(p.addresses))
	for i := range p.addresses {
		if err := p.spawn(i); err != nil {
			return err
		}
	}
	p.conns = rpc.NewClient(rpc.ClientConfig{
		Network: rpc.TCP, Clock: clock.System(), Logger: p.Log,
		Identity: func() rpc.Identity { return rpc.Identity{Role: rpc.RoleClient, Release: cluster.Release} },
	})
	if _, err := cluster.Init(ctx, p.conns, p.clock, p.addresses, 1); err != nil {
		return err
	}
	var err error
	p.fs, err = client.Open(ctx, p.addresses, client.Options{Log: p.Log})
	return err
}

// spawn starts the i-th master's process.
func (p *processes) spawn(i int) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	dir := filepath.Join(p.Dir, fmt.Sprintf("master-%d", i+1))
	cmd := exec.Command(program, "master", "--dir", dir, "--listen", p.addresses[i])
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p.masters[i] = cmd
	return cmd.Start()
}

// once kills the leader and returns how long nothing was accepted.
func (p *processes) once(ctx context.Context, i int) (time.Duration, error) {
	leader, err := p.whole(ctx)
	if err != nil {
		return 0, err
	}
	victim := p.masters[leader]
	began := p.clock.Now()
	if err := victim.Process.Kill(); err != nil {
		return 0, err
	}
	_, err = p.fs.Put(ctx, fmt.Sprintf("/failover-%d", i), strings.NewReader("x"), client.PutOptions{})
	took := p.clock.Now().Sub(began)
	_ = victim.Wait() // it was killed
	if err != nil {
		return 0, err
	}
	return took, p.spawn(leader)
}

// whole waits until all masters live and follow one leader, and returns which one it is.
func (p *processes) whole(ctx context.Context) (int, error) {
	ctx, cancel := p.clock.WithTimeout(ctx, settleTime)
	defer cancel()
	for {
		leader, err := p.leader(ctx)
		if err == nil {
			return leader, nil
		}
		if p.clock.Sleep(ctx, lookEvery) != nil {
			return 0, fmt.Errorf("bench: the masters are not whole again after %v: %w", settleTime, err)
		}
	}
}

// leader returns the index of the leader of the first shard, if every master names the same
// one and has applied what it has.
func (p *processes) leader(ctx context.Context) (int, error) {
	var leaders []quarry.NodeID
	var applied []uint64
	for _, a := range p.addresses {
		st, err := p.conns.Master(a).Status(ctx)
		if err != nil {
			return 0, err
		}
		for _, s := range st.Shards {
			if s.Shard == 1 {
				leaders, applied = append(leaders, s.Leader), append(applied, s.Applied)
			}
		}
	}
	if len(leaders) != len(p.addresses) || leaders[0] == 0 || slices.Min(leaders) != slices.Max(leaders) || slices.Min(applied)+2 < slices.Max(applied) {
		return 0, errors.New("the masters do not agree yet")
	}
	return int(leaders[0]) - 1, nil
}

func (p *processes) close() {
	if p.fs != nil {
		p.fs.Close()
	}
	if p.conns != nil {
		p.conns.Close()
	}
	for _, m := range p.masters {
		if m != nil && m.Process != nil {
			_ = m.Process.Kill() // it may have ended
			_ = m.Wait()
		}
	}
}
